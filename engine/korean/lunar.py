"""The Korean lunar calendar: its days as days of the solar one.

The tables are those of the Korea Astronomy and Space Science Institute, in `korean_lunar_calendar`; they differ
from the Chinese ones in some years. Known are the lunar years 1583 (the first that the Gregorian calendar holds
whole) to 2050.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache

from engine.korean.periods import Span

_FIRST_YEAR = 1583
LAST_OF_MONTH = -1  # 그믐: the 29th or the 30th, whichever the month ends with


def solar_day(year: int, month: int, day: int, leap: bool = False) -> date:
    """Return the solar day of a lunar one, of the leap month where `leap`; `LAST_OF_MONTH` is the month's last day.

    Raises ValueError where the calendar has no such day or the tables do not reach it.
    """
    found = month_span(year, month, leap)[1] if day == LAST_OF_MONTH else _converted(year, month, day, leap)
    if found is None:
        raise ValueError("the lunar tables have no such day")
    return found


def month_span(year: int, month: int, leap: bool = False) -> Span:
    """Return the first and last day of a lunar month, 29 or 30 days; ValueError as in `solar_day`."""
    last = _converted(year, month, 30, leap) or solar_day(year, month, 29, leap)
    return solar_day(year, month, 1, leap), last


@lru_cache(maxsize=1024)
def _converted(year: int, month: int, day: int, leap: bool) -> date | None:
    from korean_lunar_calendar import KoreanLunarCalendar

    calendar = KoreanLunarCalendar()
    known = year >= _FIRST_YEAR and calendar.setLunarDate(year, month, day, leap)
    return date.fromisoformat(calendar.SolarIsoFormat()) if known else None
