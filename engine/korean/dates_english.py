"""What simple English time expressions look like, and which days each of them names."""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import cache

from engine.korean import holidays, periods
from engine.korean.frame import Frame, Rule
from engine.korean.periods import Span

_DAY_WORDS = {
    "the day before yesterday": -2, "yesterday": -1, "last night": -1, "today": 0, "tonight": 0,
    "this morning": 0, "this afternoon": 0, "this evening": 0, "tomorrow": 1, "the day after tomorrow": 2,
}  # fmt: skip
_NEAR = {"last": -1, "this": 0, "next": 1}
_CHOICES = {"last": "지난", "this": "이번", "next": "다음"}
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
_UNITS = {"day": "일", "week": "주", "month": "달", "year": "년"}
_MONTHS = "january february march april may june july august september october november december".split()
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_SEASONS = {"spring": "봄", "summer": "여름", "fall": "가을", "autumn": "가을", "winter": "겨울"}

_HOLIDAYS = {
    "christmas eve": "크리스마스이브", "christmas day": "크리스마스", "christmas": "크리스마스", "xmas": "크리스마스",
    "new year's day": "신정", "new year's eve": "제야", "valentine's day": "발렌타인데이", "halloween": "핼러윈",
    "children's day": "어린이날", "chuseok": "추석", "seollal": "설날", "lunar new year": "설날",
    "korean new year": "설날", "buddha's birthday": "초파일", "white day": "화이트데이", "liberation day": "광복절",
    "hangul day": "한글날",
}  # fmt: skip
_ORDINALS = {"first": "첫", "second": "둘째", "third": "셋째", "fourth": "넷째", "last": "마지막"}
_PARTS = {
    "early": "초",
    "mid": "중순",
    "late": "말",
    "the beginning of": "초",
    "the middle of": "중순",
    "the end of": "말",
}

_AMOUNT = rf"(?P<count>\d{{1,3}}|an?|a couple of|half a|{'|'.join(_NUMBERS)}) (?P<unit>{'|'.join(_UNITS)})s?"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)}|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?(?![\d:])"
_YEAR = r"(?P<year>[12]\d{3})"
_PART = "|".join(_PARTS)
_HOLIDAY_WORDS = "|".join(sorted(_HOLIDAYS, key=len, reverse=True)).replace("'", "['’]")
_WEEKDAY = f"(?P<weekday>{'|'.join(_WEEKDAYS)})"


def _one(day: date) -> Span:
    return day, day


def _day_word(match: re.Match[str], frame: Frame) -> Span:
    word = " ".join(match[0].lower().split())
    return _one(frame.day + timedelta(days=_DAY_WORDS[word if word in _DAY_WORDS else f"the {word}"]))


def _offset(match: re.Match[str], frame: Frame) -> Span | None:
    word = match["count"].lower()
    count = int(word) if word.isdecimal() else _NUMBERS.index(word) + 1 if word in _NUMBERS else 1
    count, unit = (2 if word == "a couple of" else count), _UNITS[match["unit"].lower()]
    if word == "half a":
        if unit != "년":
            return None
        count, unit = 6, "달"
    sign = -1 if match[0].lower().endswith("ago") else 1
    return _one(periods.shift(frame.day, sign * count, unit))


def _near(match: re.Match[str], frame: Frame) -> Span:
    offset, unit = _NEAR[match["near"].lower()], match["unit"].lower()
    if unit in _SEASONS:
        return periods.season_near(frame.day, _SEASONS[unit], offset)
    if unit == "year":
        return periods.year(frame.day.year + offset)
    if unit == "month":
        span = periods.month(frame.day.year, frame.day.month, offset)
        return periods.month_part(span, _PARTS[_part_of(match)]) if _part_of(match) else span
    span = periods.week(frame.day, offset)
    return periods.week_part(span, "주말") if unit == "weekend" else span


def _part_of(match: re.Match[str]) -> str:
    return re.sub(r"[\s-]+", " ", match.groupdict().get("part") or "").strip().lower()


def _beyond(match: re.Match[str], frame: Frame) -> Span:
    """Read "the week after next" and "the year before last"."""
    offset, unit = (2 if match["side"].lower() == "after next" else -2), match["unit"].lower()
    if unit == "week":
        return periods.week(frame.day, offset)
    if unit == "month":
        return periods.month(frame.day.year, frame.day.month, offset)
    return periods.year(frame.day.year + offset)


def _weekend(match: re.Match[str], frame: Frame) -> Span | None:
    return frame.pick([periods.week_part(periods.week(frame.day, n), "주말") for n in (-1, 0, 1, 2)])


def _nth(match: re.Match[str], frame: Frame) -> Span | None:
    """Read "the first Monday of May" and "the last Friday of this month"."""
    if match["near"]:
        months = [periods.month(frame.day.year, frame.day.month, _NEAR[match["near"].lower()])]
    else:
        number = _month_number(match["month"])
        months = [periods.month(year, number) for year in range(frame.day.year - 1, frame.day.year + 3)]
    weekday, ordinal = _WEEKDAYS.index(match["weekday"].lower()), _ORDINALS[match["nth"].lower()]
    spans = [span for span in (periods.nth_weekday(month, ordinal, weekday) for month in months) if span]
    return frame.pick(spans, nearest=True) if len(months) > 1 else next(iter(spans), None)


def _day_of_month(match: re.Match[str], frame: Frame) -> Span | None:
    months = [periods.month(frame.day.year, frame.day.month, offset) for offset in (-2, -1, 0, 1, 2)]
    days = [_one(span[0].replace(day=int(match["day"]))) for span in months if span[1].day >= int(match["day"])]
    return frame.pick(days)


def _holiday(match: re.Match[str], frame: Frame) -> Span | None:
    name = re.sub(r"\s+", " ", match["holiday"].lower().replace("’", "'"))
    return holidays.closest(_HOLIDAYS[name], _CHOICES.get((match["near"] or "").lower(), ""), frame)


def _month_number(name: str) -> int:
    return [month[:3] for month in _MONTHS].index(name.lower()[:3]) + 1


def _season_of_year(match: re.Match[str], frame: Frame) -> Span:
    return periods.year_part(int(match["year"]), _SEASONS[match["season"].lower()])


def _weekday(match: re.Match[str], frame: Frame) -> Span:
    """Read as in Korean: "this" and "next" count weeks, "last" and a bare one days."""
    number = _WEEKDAYS.index(match["weekday"].lower())
    near = (match.groupdict().get("near") or "").lower()
    if near in ("this", "next"):
        return _one(periods.week(frame.day, _NEAR[near])[0] + timedelta(days=number))
    base = frame.day if near or frame.anchor is None else frame.anchor
    ahead = base + timedelta(days=(number - base.weekday()) % 7)
    past = near == "last" or (frame.tense < 0 and frame.anchor is None)
    return _one(ahead - timedelta(weeks=1) if past else ahead)


def _month(match: re.Match[str], frame: Frame) -> Span | None:
    found = match.groupdict()
    number, part = _month_number(found["month"]), _part_of(match)
    if found.get("year"):
        return _day_in(periods.month(int(found["year"]), number), found.get("day"), part)
    near, today = (found.get("near") or "").lower(), frame.day
    spans = []
    for year in range(today.year - 1, today.year + 3):
        try:
            spans.append(_day_in(periods.month(year, number), found.get("day"), part))
        except ValueError:
            continue  # 29 February in a common year
    return frame.choose(spans, _CHOICES.get(near, ""))


def _day_in(span: Span, day: str | None, part: str = "") -> Span:
    if part:
        return periods.month_part(span, _PARTS[part])
    return _one(span[0].replace(day=int(day))) if day else span


def _whole_year(match: re.Match[str], frame: Frame) -> Span:
    return periods.year(int(match["year"]))


_PATTERNS = (
    (
        r"(?:the )?day (?:after tomorrow|before yesterday)|yesterday|today|tonight|tomorrow|last night",
        _day_word,
    ),
    ("this (?:morning|afternoon|evening)", _day_word),
    (f"{_AMOUNT} (?:ago|later|from now)", _offset),
    (f"in {_AMOUNT}(?!')", _offset),
    (f"(?P<near>last|this|next) (?P<unit>week|weekend|month|year|{'|'.join(_SEASONS)})", _near),
    (f"(?P<part>{_PART})[ -](?P<near>last|this|next) (?P<unit>month)", _near),
    (r"the (?P<unit>week|month|year) (?P<side>after next|before last)", _beyond),
    (r"(?:on|over|at) the weekend", _weekend),
    (f"(?P<near>last|this|next) {_WEEKDAY}", _weekday),
    (
        rf"(?:the )?(?P<nth>{'|'.join(_ORDINALS)}) {_WEEKDAY} (?:of|in) (?:(?P<near>last|this|next) month|{_MONTH})",
        _nth,
    ),
    (r"(?:on|by|until|since) the (?P<day>[12]?\d|3[01])(?:st|nd|rd|th)(?! (?:of|floor|birthday))", _day_of_month),
    (
        f"(?:(?P<near>last|this|next) )?(?P<holiday>{_HOLIDAY_WORDS})(?! (?:tree|card|carol|gift|present|song))",
        _holiday,
    ),
    (f"(?:in )?(?:the )?(?P<season>{'|'.join(_SEASONS)}) (?:of |in )?{_YEAR}", _season_of_year),
    (f"(?P<part>{_PART})[ -]{_MONTH}(?: {_YEAR})?", _month),
    (_WEEKDAY, _weekday),
    (f"{_MONTH} {_DAY}(?:,? {_YEAR})?", _month),
    (f"{_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?", _month),
    (f"{_MONTH} {_YEAR}", _month),
    (f"(?:in|since|until|during|by) {_MONTH}", _month),
    (f"(?P<near>last|next) {_MONTH}", _month),
    (f"(?:in|since) {_YEAR}", _whole_year),
)


@cache
def rules() -> tuple[Rule, ...]:
    """Return the English rules, compiled on first use."""
    return tuple(
        Rule(re.compile(rf"(?<![A-Za-z0-9.])(?:{pattern})(?![A-Za-z0-9])", re.IGNORECASE), read)
        for pattern, read in _PATTERNS
    )
