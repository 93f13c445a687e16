"""Stretches of the calendar: weeks, months, years, seasons and their parts, as (first day, last day).

Choices, all made here: a week runs Monday to Sunday. Of a week, 초 is Monday and Tuesday, 중반 Wednesday and
Thursday, 후반 Friday to Sunday, 말 the weekend, 평일 and 주중 Monday to Friday. Of a month, 초 is 1-10, 중순
11-20, 말 21 to the end; its weeks are those whose Thursday lies in it. Of a year, 초 is January and February,
중반 May to August, 말 November and December, while 연초 is January and 연말 December. Spring is March to May, and
so on; winter begins in December of its year.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import date, timedelta

Span = tuple[date, date]
ONE_DAY = timedelta(days=1)

WEEK_PARTS = {
    "초": (0, 1), "초반": (0, 1), "중반": (2, 3), "후반": (4, 6),
    "말": (5, 6), "주말": (5, 6), "평일": (0, 4), "주중": (0, 4), "중": (0, 6),
}  # fmt: skip
_MONTH_PARTS = {
    "초": (1, 10), "초순": (1, 10), "상순": (1, 10), "초반": (1, 10), "중순": (11, 20), "중반": (11, 20),
    "말": (21, 31), "하순": (21, 31), "후반": (21, 31), "말경": (21, 31), "중": (1, 31), "첫날": (1, 1),
}  # fmt: skip
_YEAR_PARTS = {
    "초": (1, 2), "초반": (1, 2), "중반": (5, 8), "후반": (9, 12), "말": (11, 12), "연초": (1, 1),
    "연말": (12, 12), "상반기": (1, 6), "하반기": (7, 12), "중": (1, 12), "연내": (1, 12),
}  # fmt: skip
_SEASONS = {"봄": 3, "여름": 6, "가을": 9, "겨울": 12}
WEEKDAYS = "월화수목금토일"
ORDINALS = {
    "첫": 1,
    "첫째": 1,
    "첫번째": 1,
    "둘째": 2,
    "두번째": 2,
    "셋째": 3,
    "세번째": 3,
    "넷째": 4,
    "네번째": 4,
    "다섯째": 5,
    "다섯번째": 5,
}


def week(day: date, offset: int) -> Span:
    """Return the week that lies `offset` weeks from the one `day` is in."""
    monday = day - timedelta(days=day.weekday()) + timedelta(weeks=offset)
    return monday, monday + 6 * ONE_DAY


def week_part(span: Span, part: str) -> Span:
    """Return a named part of a week."""
    first, last = WEEK_PARTS[part]
    return span[0] + first * ONE_DAY, span[0] + last * ONE_DAY


def month(year: int, number: int, offset: int = 0) -> Span:
    """Return the month that lies `offset` months from month `number` of `year`; ValueError if not 1-12."""
    if not 1 <= number <= 12:
        raise ValueError(f"there is no month {number}")
    years, index = divmod(number - 1 + offset, 12)
    first = date(year + years, index + 1, 1)
    return first, first.replace(day=monthrange(first.year, first.month)[1])


def month_part(span: Span, part: str) -> Span:
    """Return a named part of a month: 초, 중순, 말, 첫날, 말일 and their like."""
    if part.replace(" ", "") in ("말일", "마지막날"):
        return span[1], span[1]
    first, last = _MONTH_PARTS[part]
    return span[0].replace(day=first), min(span[0] + (last - 1) * ONE_DAY, span[1])


def nth_weekday(span: Span, ordinal: str, weekday: int) -> Span | None:
    """Return the n-th (or, for 마지막, last) such weekday of a month; None where there is no n-th."""
    found = [span[0] + n * ONE_DAY for n in range((span[1] - span[0]).days + 1)]
    found = [day for day in found if day.weekday() == weekday]
    if ordinal == "마지막":
        return found[-1], found[-1]
    place = ORDINALS[ordinal.replace(" ", "")] - 1
    return (found[place], found[place]) if place < len(found) else None


def nth_week(span: Span, ordinal: str, part: str | None = None) -> Span | None:
    """Return the n-th (or, for 마지막, last) week of a month, the one around its n-th Thursday, or a part of it.

    Its n-th weekend begins on its n-th Saturday.
    """
    found = nth_weekday(span, ordinal, 5 if part == "주말" else 3)
    if found is None:
        return None
    return week_part(week(found[0], 0), part) if part else week(found[0], 0)


def quarter(day: date, offset: int) -> Span:
    """Return the quarter of a year that lies `offset` quarters from the one `day` is in."""
    first = 3 * ((day.month - 1) // 3) + 1
    return month(day.year, first, 3 * offset)[0], month(day.year, first, 3 * offset + 2)[1]


def year(number: int) -> Span:
    """Return a whole year."""
    return date(number, 1, 1), date(number, 12, 31)


def year_part(number: int, part: str) -> Span:
    """Return a named part of a year: a season, a half, a quarter (`3분기`), 초, 말, 연말."""
    if part in _SEASONS:
        return month(number, _SEASONS[part])[0], month(number, _SEASONS[part], 2)[1]
    if part in ("첫날", "마지막 날"):
        day = date(number, 1, 1) if part == "첫날" else date(number, 12, 31)
        return day, day
    if part.endswith("분기"):
        last = 3 * int(part[0])
        return month(number, last, -2)[0], month(number, last)[1]
    first, last = _YEAR_PARTS[part]
    return month(number, first)[0], month(number, last)[1]


def season_near(day: date, name: str, offset: int) -> Span:
    """Return the last (-1), this (0) or next (1) season of that name, seen from `day`."""
    around = [year_part(day.year + n, name) for n in (-2, -1, 0, 1)]
    if offset < 0:
        return [span for span in around if span[1] < day][-1]
    if offset > 0:
        return next(span for span in around if span[0] > day)
    return next((span for span in around if span[0] <= day <= span[1]), around[2])


def shift(day: date, count: int, unit: str) -> date:
    """Return `day` moved by `count` of `unit` (일, 주, 달, 년); a day the month lacks becomes its last."""
    if unit == "일":
        return day + timedelta(days=count)
    if unit == "주":
        return day + timedelta(weeks=count)
    first, last = month(day.year, day.month, count * (12 if unit == "년" else 1))
    return first.replace(day=min(day.day, last.day))
