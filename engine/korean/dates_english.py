"""What simple English time expressions look like, and which days each of them names."""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import cache

from engine.korean import periods
from engine.korean.frame import Frame, Rule
from engine.korean.periods import Span

_DAY_WORDS = {
    "the day before yesterday": -2, "yesterday": -1, "last night": -1, "today": 0, "tonight": 0,
    "tomorrow": 1, "the day after tomorrow": 2,
}  # fmt: skip
_NEAR = {"last": -1, "this": 0, "next": 1}
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
_UNITS = {"day": "일", "week": "주", "month": "달", "year": "년"}
_MONTHS = "january february march april may june july august september october november december".split()
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_SEASONS = {"spring": "봄", "summer": "여름", "fall": "가을", "autumn": "가을", "winter": "겨울"}

_AMOUNT = rf"(?P<count>\d{{1,3}}|an?|{'|'.join(_NUMBERS)}) (?P<unit>{'|'.join(_UNITS)})s?"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)}|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?(?![\d:])"
_YEAR = r"(?P<year>[12]\d{3})"
_WEEKDAY = f"(?P<weekday>{'|'.join(_WEEKDAYS)})"


def _one(day: date) -> Span:
    return day, day


def _day_word(match: re.Match[str], frame: Frame) -> Span:
    word = " ".join(match[0].lower().split())
    return _one(frame.day + timedelta(days=_DAY_WORDS[word if word in _DAY_WORDS else f"the {word}"]))


def _offset(match: re.Match[str], frame: Frame) -> Span:
    word = match["count"].lower()
    count = int(word) if word.isdecimal() else _NUMBERS.index(word) + 1 if word in _NUMBERS else 1
    sign = -1 if match[0].lower().endswith("ago") else 1
    return _one(periods.shift(frame.day, sign * count, _UNITS[match["unit"].lower()]))


def _near(match: re.Match[str], frame: Frame) -> Span:
    offset, unit = _NEAR[match["near"].lower()], match["unit"].lower()
    if unit in _SEASONS:
        return periods.season_near(frame.day, _SEASONS[unit], offset)
    if unit == "year":
        return periods.year(frame.day.year + offset)
    if unit == "month":
        return periods.month(frame.day.year, frame.day.month, offset)
    span = periods.week(frame.day, offset)
    return periods.week_part(span, "주말") if unit == "weekend" else span


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
    number = [name[:3] for name in _MONTHS].index(found["month"].lower()[:3]) + 1
    if found.get("year"):
        return _day_in(periods.month(int(found["year"]), number), found.get("day"))
    near, today = (found.get("near") or "").lower(), frame.day
    spans = []
    for year in range(today.year - 1, today.year + 3):
        try:
            spans.append(_day_in(periods.month(year, number), found.get("day")))
        except ValueError:
            continue  # 29 February in a common year
    if near == "last":
        return [span for span in spans if span[1] < today][-1]
    if near == "next":
        return next(span for span in spans if span[0] > today)
    return frame.pick(spans, nearest=True)


def _day_in(span: Span, day: str | None) -> Span:
    return _one(span[0].replace(day=int(day))) if day else span


def _whole_year(match: re.Match[str], frame: Frame) -> Span:
    return periods.year(int(match["year"]))


_PATTERNS = (
    (
        r"(?:the )?day (?:after tomorrow|before yesterday)|yesterday|today|tonight|tomorrow|last night",
        _day_word,
    ),
    (f"{_AMOUNT} (?:ago|later|from now)", _offset),
    (f"in {_AMOUNT}(?!')", _offset),
    (f"(?P<near>last|this|next) (?P<unit>week|weekend|month|year|{'|'.join(_SEASONS)})", _near),
    (f"(?P<near>last|this|next) {_WEEKDAY}", _weekday),
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
