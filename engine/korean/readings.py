"""Which days a matched Korean time expression names: one function a kind, from the groups of its pattern.

Each takes the match and the frame it is read in and returns (first day, last day), or None where the words
name no day that can be told; an impossible date (2월 30일) raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise

from engine.korean import periods
from engine.korean.frame import Frame
from engine.korean.numerals import COUNT, DAYS, one_of, read_count, read_sino
from engine.korean.periods import WEEKDAYS, Span

DAY_WORDS = {
    "그끄저께": -3, "그그저께": -3, "그끄제": -3, "그그제": -3,
    "그저께": -2, "그제": -2, "엊그저께": -2, "엊그제": -2, "어제": -1,
    "어저께": -1, "어젯밤": -1, "엊저녁": -1, "간밤": -1, "지난밤": -1, "오늘": 0, "금일": 0, "작일": -1, "내일": 1,
    "명일": 1, "익일": 1, "낼": 1, "모레": 2, "내일모레": 2, "내일 모레": 2, "낼모레": 2, "글피": 3, "그글피": 4,
}  # fmt: skip
_OFFSETS = {
    "지지난": -2, "저저번": -2, "전전": -2, "지난": -1, "저번": -1, "전": -1, "이번": 0, "요번": 0, "이": 0, "금": 0,
    "당": 0, "올": 0, "다음": 1, "담": 1, "내": 1, "차": 1, "익": 1, "다다음": 2, "다음다음": 2,
}  # fmt: skip
YEAR_WORDS = {
    "재작년": -2, "지지난해": -2, "지지난 해": -2, "재재작년": -3,
    "작년": -1, "지난해": -1, "지난 해": -1, "올해": 0, "올": 0,
    "금년": 0, "이번 해": 0,
    "이번해": 0, "전년도": -1, "명년": 1, "익년": 1, "내년": 1, "다음 해": 1, "다음해": 1, "후년": 2, "내후년": 2,
}  # fmt: skip
UNITS = {"일": "일", "주일": "주", "주": "주", "개월": "달", "달": "달", "년": "년", "해": "년"}

_EVENT = re.compile(
    "(?:(?<![감야얘])기|로부터|부터|시험|수능|고사|출발|마감|결혼|수술|여행|회의|면접|공연|발표|방문|도착|퇴원|입원|졸업|출산|개봉"
    "|출시|이사|개강|종강|개학|방학|종료|출국|입국|귀국|입학|입대|제대|입사|퇴사|휴가|대회|촬영|오픈|출장|검진|행사|축제|파티"
    "|콘서트|납품|배포|만기|만료|접종|개업|시합|선거|(?:[생기]|마감|예정|기념|출시)일"
    "|(?:결혼|졸업|입학|개막|시상|수료)식|날)[ ]?$"
)
_TODAY = ("이맘때", "오늘", "이때", "이 시간", "이시간")
_STEP = re.compile(f"({COUNT})[ \t]*({one_of(UNITS)})")
_PLAIN_FEBRUARY = re.compile("(?:에|엔|까지|부터)")


def _one(day: date) -> Span:
    return day, day


def _group(match: re.Match[str], name: str) -> str | None:
    return match.groupdict().get(name)


def sign(side: str) -> int:
    """Return -1 for what counts back (전, 지난, 최근), else 1."""
    return -1 if side in ("전", "지난", "최근") else 1


def day_word(match: re.Match[str], frame: Frame) -> Span:
    """Read 어제, 모레 and the other words that name a day by its distance from today."""
    return _one(frame.day + timedelta(days=DAY_WORDS[match["word"]]))


def offset(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 사흘 전 or 1년 6개월 뒤; None for "시험 3일 전", which counts from another day."""
    before = match.string[max(0, match.start() - 6) : match.start()]
    return None if _EVENT.search(before) else moved(frame.day, match["amount"], sign(match["side"]))


def stretch(match: re.Match[str], frame: Frame) -> Span:
    """Read 지난 3개월 or 앞으로 2주: all days between then and today."""
    ends = moved(frame.day, match["amount"], sign(match["side"]))
    return min(ends[0], frame.day), max(ends[1], frame.day)


def moved(day: date, amount: str, toward: int) -> Span:
    """Return the days from the low to the high reading of an amount (1년 6개월, 두세 달) from `day`, back where -1."""
    ends = [day, day]
    for counts, unit in _steps(amount.strip()):
        ends = [periods.shift(end, toward * count, unit) for end, count in zip(ends, counts, strict=True)]
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
        weeks = [periods.week(frame.day, sign(match["side"]) * number) for number in read_count(count)]
        span = min(weeks)[0], max(weeks)[1]
    else:
        span = periods.week(frame.day, _OFFSETS[match["near"] or "이번"])
    weekday, part, run = _group(match, "weekday"), _group(match, "part"), _group(match, "run")
    if weekday:
        return _one(span[0] + timedelta(days=WEEKDAYS.index(weekday)))
    if run:
        return _run_from(span[0], run)
    if part and part not in periods.WEEK_PARTS:  # 이맘때, 오늘
        return _one(span[0] + timedelta(days=frame.day.weekday()))
    return periods.week_part(span, part) if part else span


def weekdays(match: re.Match[str], frame: Frame) -> Span:
    """Read 월화 or 금토일 without a week, as `weekday` reads its first day."""
    return _run_from(_weekday_near(WEEKDAYS.index(match["run"][0]), "", frame), match["run"])


def _run_from(day: date, run: str) -> Span:
    """Return the days of 월화수 or 월~수, the first on or after `day`; of days apart (월수) the first alone."""
    numbers = [WEEKDAYS.index(letter) for letter in run if letter in WEEKDAYS]
    first = day + timedelta(days=(numbers[0] - day.weekday()) % 7)
    steps = {(after - before) % 7 for before, after in pairwise(numbers)}
    if steps != {1} and not re.search("[~∼-]", run):
        return _one(first)
    return first, first + timedelta(days=(numbers[-1] - numbers[0]) % 7)


def weekday(match: re.Match[str], frame: Frame) -> Span:
    """Read a day of the week without a week.

    이번 and 다음 name the day of this and of the next week, 지난 the last such day before today; a bare one
    is the next such day counting today, the last before today in a past clause, and follows the date it is
    joined to.
    """
    return _one(_weekday_near(WEEKDAYS.index(match["weekday"]), _group(match, "near") or "", frame))


def _weekday_near(number: int, near: str, frame: Frame) -> date:
    if near in ("이번", "요번", "다음", "담"):
        return periods.week(frame.day, _OFFSETS[near])[0] + timedelta(days=number)
    past = near in ("지난", "저번") or (not near and frame.tense < 0 and frame.anchor is None)
    base = frame.day if near or frame.anchor is None else frame.anchor
    ahead = base + timedelta(days=(number - base.weekday()) % 7)
    return ahead - timedelta(weeks=1) if past else ahead


def weekend(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 주말 without a week: the coming one, counting today; the last one in a past clause."""
    return frame.pick([periods.week_part(periods.week(frame.day, n), "주말") for n in (-1, 0, 1, 2)])


def near_month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 지난달, 다음 달 3일 or 이번 달 말; 다음 달 오늘 is a month from today."""
    months = _OFFSETS[match["near"]]
    if _group(match, "part") in _TODAY:
        return _one(periods.shift(frame.day, months, "달"))
    return _within(periods.month(frame.day.year, frame.day.month, months), match)


def part_of_this_month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 월말, 중순 or 마지막 금요일 without a month: this one, or the closest that the tense allows."""
    months = [periods.month(frame.day.year, frame.day.month, offset) for offset in (-2, -1, 0, 1, 2)]
    return frame.pick(_within_each(months, match))


def _within(span: Span, match: re.Match[str]) -> Span | None:
    """Narrow a month to the day, days, n-th weekday or part that the match names, if it names one."""
    day, nth, part = _group(match, "day"), _group(match, "nth"), _group(match, "part")
    if day:
        first = span[0].replace(day=read_sino(day))
        last = span[0].replace(day=read_sino(_group(match, "until") or day))
        return (first, last) if first <= last else None
    if nth:
        return periods.nth_weekday(span, nth, WEEKDAYS.index(match["weekday"]))
    if _group(match, "nthweek"):
        return periods.nth_week(span, match["nthweek"], match["weekpart"])
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
    return _within(periods.month(year_number(match, frame), read_sino(match["month"])), match)


def month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 3월, 4월 초 or 12월 25일 of the closest year that the clause's tense allows."""
    number = read_sino(match["month"])
    if match["month"] == "이" and match[0] == "이월" and not _PLAIN_FEBRUARY.match(match.string, match.end()):
        return None  # 이월 is also "carried over"
    return frame.choose(_within_each(_years_of(number, frame), match), _group(match, "near") or "")


def _years_of(number: int, frame: Frame) -> list[Span]:
    return [periods.month(year, number) for year in range(frame.day.year - 1, frame.day.year + 3)]


def months(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 3~5월, of the year that is named or of the closest that the tense allows."""
    first, last = int(match["since"]), int(match["month"])
    count = (last - first) % 12
    if match["year"] or match["ago"]:
        begin = periods.month(year_number(match, frame), first)[0]
        return begin, periods.month(begin.year, first, count)[1]
    spans = [(span[0], periods.month(span[0].year, first, count)[1]) for span in _years_of(first, frame)]
    return frame.pick(spans, nearest=True)


def year_number(match: re.Match[str], frame: Frame) -> int:
    """Return the year that 작년, 2024년 or 3년 전 names, from the groups `year`, `ago` and `side`."""
    if match["ago"]:
        return frame.day.year + sign(match["side"]) * read_count(match["ago"])[0]
    if match["year"] in YEAR_WORDS:
        return frame.day.year + YEAR_WORDS[match["year"]]
    return _full_year(read_sino(match["year"]), frame)


def _full_year(number: int, frame: Frame) -> int:
    # 98년 is 1998 and 26년 is 2026: two digits name a year at most twenty years ahead
    return number if number > 99 else number + (2000 if number <= (frame.day.year + 20) % 100 else 1900)


def year(match: re.Match[str], frame: Frame) -> Span:
    """Read 작년, 2019년 가을, 올해 하반기 or 3년 전 여름; 작년 이맘때 is the same day a year ago."""
    number, part = year_number(match, frame), _group(match, "part")
    if part in _TODAY:
        return _one(periods.shift(frame.day, number - frame.day.year, "년"))
    return periods.year_part(number, part) if part else periods.year(number)


def season(match: re.Match[str], frame: Frame) -> Span:
    """Read 지난여름, 이번 겨울 or 올봄; a past clause cannot mean a season that has not begun."""
    seasons = _OFFSETS[match["near"]]
    span = periods.season_near(frame.day, match["part"], seasons)
    if not seasons and frame.tense < 0 and span[0] > frame.day:
        return periods.season_near(frame.day, match["part"], -1)
    return span


def part_of_a_year(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 연말, 지난 상반기 or 3분기: of this year, where neither the tense nor 지난 or 다음 says another."""
    near, today = _group(match, "near") or "", frame.day
    spans = [periods.year_part(today.year + n, match["part"]) for n in (-1, 0, 1)]
    return frame.choose(spans, near) if near or frame.tense else spans[1]


def quarter(match: re.Match[str], frame: Frame) -> Span:
    """Read 지난 분기."""
    return periods.quarter(frame.day, _OFFSETS[match["near"]])


def lasting(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 사흘 동안 after 내일부터: its last day, counted from the day it is joined to."""
    if frame.anchor is None or not match.string[: match.start()].rstrip().endswith("부터"):
        return None
    end = moved(frame.anchor, match["amount"], 1)[1]
    return frame.anchor, max(end - periods.ONE_DAY, frame.anchor)


def now(match: re.Match[str], frame: Frame) -> Span:
    """Read 지금 at the end of a range."""
    return _one(frame.day)


def written(match: re.Match[str], frame: Frame) -> Span:
    """Read 2026-03-05, '26. 3. 5. and their like."""
    return _one(date(_full_year(int(match["year"]), frame), int(match["month"]), int(match["day"])))


def slashed(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 3/5, month first, of the closest year that the clause's tense allows."""
    return frame.pick(_within_each(_years_of(int(match["month"]), frame), match), nearest=True)


def last_day_of_month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 지난 15일: the last one, today or before."""
    return day_of_month(match, replace(frame, tense=-1, anchor=None))


def day_of_month(match: re.Match[str], frame: Frame) -> Span | None:
    """Read a bare 15일: the next one counting today, the last in a past clause; it follows an anchor."""
    base, near = frame.anchor or frame.day, _group(match, "near")
    months = [periods.month(base.year, base.month, offset) for offset in (-2, -1, 0, 1, 2)]
    return frame.choose(_within_each(months, match), near) if near else frame.pick(_within_each(months, match))
