"""Which days a matched Korean time expression names: one function a kind, from the groups of its pattern.

Each takes the match and the frame it is read in and returns (first day, last day), or None where the words
name no day that can be told; an impossible date (2월 30일) raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta

from engine.korean import periods
from engine.korean.frame import Frame
from engine.korean.numerals import COUNT, DAYS, one_of, read_count, read_sino
from engine.korean.periods import WEEKDAYS, Span

DAY_WORDS = {
    "그끄저께": -3, "그그저께": -3, "그저께": -2, "그제": -2, "엊그저께": -2, "엊그제": -2, "어제": -1,
    "어저께": -1, "어젯밤": -1, "엊저녁": -1, "간밤": -1, "지난밤": -1, "오늘": 0, "금일": 0, "내일": 1,
    "명일": 1, "낼": 1, "모레": 2, "내일모레": 2, "내일 모레": 2, "낼모레": 2, "글피": 3, "그글피": 4,
}  # fmt: skip
_OFFSETS = {
    "지지난": -2, "저저번": -2, "지난": -1, "저번": -1, "이번": 0, "요번": 0, "이": 0, "금": 0, "올": 0,
    "다음": 1, "담": 1, "내": 1, "차": 1, "다다음": 2,
}  # fmt: skip
YEAR_WORDS = {
    "재작년": -2, "작년": -1, "지난해": -1, "지난 해": -1, "올해": 0, "올": 0, "금년": 0, "이번 해": 0,
    "이번해": 0, "내년": 1, "다음 해": 1, "다음해": 1, "후년": 2, "내후년": 2,
}  # fmt: skip
UNITS = {"일": "일", "주일": "주", "주": "주", "개월": "달", "달": "달", "년": "년", "해": "년"}

_EVENT = re.compile(
    "(?:기|로부터|부터|시험|수능|출발|마감|결혼|결혼식|수술|여행|회의|면접|공연|발표|방문|도착|퇴원|입원"
    "|졸업|출산|개봉|출시)[ ]?$"
)
_STEP = re.compile(f"({COUNT})[ \t]*({one_of(UNITS)})")
_PLAIN_FEBRUARY = re.compile("(?:에|엔|까지|부터)")


def _one(day: date) -> Span:
    return day, day


def _group(match: re.Match[str], name: str) -> str | None:
    return match.groupdict().get(name)


def _sign(side: str) -> int:
    return -1 if side in ("전", "지난", "최근") else 1


def day_word(match: re.Match[str], frame: Frame) -> Span:
    """Read 어제, 모레 and the other words that name a day by its distance from today."""
    return _one(frame.day + timedelta(days=DAY_WORDS[match["word"]]))


def offset(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 사흘 전 or 1년 6개월 뒤; None for "시험 3일 전", which counts from another day."""
    before = match.string[max(0, match.start() - 6) : match.start()]
    return None if _EVENT.search(before) else _moved(frame.day, match["amount"], _sign(match["side"]))


def stretch(match: re.Match[str], frame: Frame) -> Span:
    """Read 지난 3개월 or 앞으로 2주: all days between then and today."""
    moved = _moved(frame.day, match["amount"], _sign(match["side"]))
    return min(moved[0], frame.day), max(moved[1], frame.day)


def _moved(day: date, amount: str, sign: int) -> Span:
    """Return the days from the low to the high reading of an amount such as 1년 6개월 or 두세 달."""
    ends = [day, day]
    for counts, unit in _steps(amount.strip()):
        ends = [periods.shift(end, sign * count, unit) for end, count in zip(ends, counts, strict=True)]
    return min(ends), max(ends)


def _steps(amount: str) -> list[tuple[tuple[int, int], str]]:
    if re.fullmatch(DAYS, amount):
        return [(read_count(amount), "일")]
    if amount.startswith("반"):
        return [((6, 6), "달")]
    steps = [(read_count(count), UNITS[unit]) for count, unit in _STEP.findall(amount)]
    if amount.endswith("반"):
        steps.append(((6, 6), "달") if steps[-1][1] == "년" else ((15, 15), "일"))
    return steps


def week(match: re.Match[str], frame: Frame) -> Span:
    """Read 다음 주, 지난주 수요일, 2주 전 금요일 or 이번 주말."""
    count = _group(match, "count")
    if count:
        weeks = [periods.week(frame.day, _sign(match["side"]) * number) for number in read_count(count)]
        span = min(weeks)[0], max(weeks)[1]
    else:
        span = periods.week(frame.day, _OFFSETS[match["near"]])
    weekday, part = _group(match, "weekday"), _group(match, "part")
    if weekday:
        return _one(span[0] + timedelta(days=WEEKDAYS.index(weekday)))
    return periods.week_part(span, part) if part else span


def weekday(match: re.Match[str], frame: Frame) -> Span:
    """Read a day of the week without a week.

    이번 and 다음 name the day of this and of the next week, 지난 the last such day before today; a bare one
    is the next such day counting today, the last before today in a past clause, and follows the date it is
    joined to.
    """
    number, near = WEEKDAYS.index(match["weekday"]), _group(match, "near") or ""
    if near in ("이번", "요번", "다음", "담"):
        return _one(periods.week(frame.day, _OFFSETS[near])[0] + timedelta(days=number))
    past = near in ("지난", "저번") or (not near and frame.tense < 0 and frame.anchor is None)
    base = frame.day if near or frame.anchor is None else frame.anchor
    ahead = base + timedelta(days=(number - base.weekday()) % 7)
    return _one(ahead - timedelta(weeks=1) if past else ahead)


def weekend(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 주말 without a week: the coming one, counting today; the last one in a past clause."""
    return frame.pick([periods.week_part(periods.week(frame.day, n), "주말") for n in (-1, 0, 1, 2)])


def near_month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 지난달, 다음 달 3일 or 이번 달 말; 월말 and 월초 are of this month."""
    months = _OFFSETS[_group(match, "near") or "이번"]
    return _within(periods.month(frame.day.year, frame.day.month, months), match)


def _within(span: Span, match: re.Match[str]) -> Span | None:
    """Narrow a month to the day, days, n-th weekday or part that the match names, if it names one."""
    day, nth, part = _group(match, "day"), _group(match, "nth"), _group(match, "part")
    if day:
        first = span[0].replace(day=read_sino(day))
        last = span[0].replace(day=read_sino(_group(match, "until") or day))
        return (first, last) if first <= last else None
    if nth:
        return periods.nth_weekday(span, nth, WEEKDAYS.index(match["weekday"]))
    return periods.month_part(span, part) if part else span


def _within_each(months: Iterable[Span], match: re.Match[str]) -> list[Span]:
    """Narrow each month, leaving out those that lack the day (29 February, the 31st)."""
    spans = []
    for span in months:
        try:
            narrowed = _within(span, match)
        except ValueError:
            continue
        spans += [narrowed] if narrowed else []
    return spans


def month_of_year(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 작년 5월 3일, 2024년 3월 or 내년 1월 초."""
    return _within(periods.month(_year_number(match, frame), read_sino(match["month"])), match)


def month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 3월, 4월 초 or 12월 25일 of the closest year that the clause's tense allows."""
    number = read_sino(match["month"])
    if match["month"] == "이" and match[0] == "이월" and not _PLAIN_FEBRUARY.match(match.string, match.end()):
        return None  # 이월 is also "carried over"
    months = [periods.month(year, number) for year in range(frame.day.year - 1, frame.day.year + 3)]
    return frame.pick(_within_each(months, match), nearest=True)


def _year_number(match: re.Match[str], frame: Frame) -> int:
    if match["ago"]:
        return frame.day.year + _sign(match["side"]) * read_count(match["ago"])[0]
    if match["year"] in YEAR_WORDS:
        return frame.day.year + YEAR_WORDS[match["year"]]
    number = read_sino(match["year"])
    # 98년 is 1998 and 26년 is 2026: two digits name a year at most twenty years ahead
    return number if number > 99 else number + (2000 if number <= (frame.day.year + 20) % 100 else 1900)


def year(match: re.Match[str], frame: Frame) -> Span:
    """Read 작년, 2019년 가을, 올해 하반기 or 3년 전 여름; 작년 이맘때 is the same day a year ago."""
    number, part = _year_number(match, frame), _group(match, "part")
    if part in ("이맘때", "오늘"):
        return _one(periods.shift(frame.day, number - frame.day.year, "년"))
    return periods.year_part(number, part) if part else periods.year(number)


def season(match: re.Match[str], frame: Frame) -> Span:
    """Read 지난여름, 이번 겨울 or 올봄; a past clause cannot mean a season that has not begun."""
    seasons = _OFFSETS[match["near"]]
    span = periods.season_near(frame.day, match["part"], seasons)
    if not seasons and frame.tense < 0 and span[0] > frame.day:
        return periods.season_near(frame.day, match["part"], -1)
    return span


def part_of_this_year(match: re.Match[str], frame: Frame) -> Span:
    """Read 연말, 연초, 상반기 or 3분기 without a year."""
    return periods.year_part(frame.day.year, match["part"])


def written(match: re.Match[str], frame: Frame) -> Span:
    """Read 2026-03-05 and its like."""
    return _one(date(int(match["year"]), int(match["month"]), int(match["day"])))


def slashed(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 3/5, month first, of the closest year that the clause's tense allows."""
    months = [periods.month(year, int(match["month"])) for year in range(frame.day.year - 1, frame.day.year + 3)]
    return frame.pick(_within_each(months, match), nearest=True)


def last_day_of_month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 지난 15일: the last one, today or before."""
    return day_of_month(match, replace(frame, tense=-1, anchor=None))


def day_of_month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read a bare 15일: the next one counting today, the last in a past clause; it follows an anchor."""
    base = frame.anchor or frame.day
    months = [periods.month(base.year, base.month, offset) for offset in (-2, -1, 0, 1, 2)]
    return frame.pick(_within_each(months, match))
