"""Days with a name: holidays and feasts of the solar and the lunar year, and lunar dates.

연휴 of 설 and 추석 is the day before to the day after. A lunar date of a year is of the lunar year of that
number: 음력 2025년 12월 10일 lies in 2026.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta

from engine.korean import lunar
from engine.korean.frame import Frame
from engine.korean.numerals import COUNTED_DAYS, read_sino
from engine.korean.periods import ONE_DAY, Span
from engine.korean.readings import moved, sign, year_number

# "_" is a space that may be left out.
_SOLAR = {
    (1, 1): "신정 새해_첫날", (2, 14): "발렌타인_데이 밸런타인_데이", (3, 1): "삼일절 3.1절 3·1절",
    (3, 3): "삼겹살_데이", (3, 8): "여성의_날", (3, 14): "화이트_데이", (4, 1): "만우절", (4, 5): "식목일",
    (4, 14): "블랙_데이", (4, 20): "장애인의_날", (4, 21): "과학의_날", (4, 22): "지구의_날",
    (5, 1): "근로자의_날 노동절",
    (5, 5): "어린이_날", (5, 8): "어버이_날", (5, 14): "로즈_데이", (5, 15): "스승의_날", (5, 21): "부부의_날",
    (6, 6): "현충일", (7, 17): "제헌절", (8, 15): "광복절", (10, 1): "국군의_날", (10, 3): "개천절", (10, 9): "한글_날",
    (10, 31): "핼러윈 할로윈 핼러윈_데이 할로윈_데이", (11, 11): "빼빼로_데이 농업인의_날",
    (12, 24): "크리스마스_이브 성탄_이브 성탄절_이브 성탄_전야 성탄절_전야",
    (12, 25): "크리스마스 성탄절", (12, 31): "제야",
}  # fmt: skip
_LUNAR = {
    (1, 1): "설날 설 구정 음력_설 음력_설날", (1, 15): "대보름 정월_대보름", (3, 3): "삼짇날 삼월_삼짇날",
    (4, 8): "석가_탄신일 석탄일 부처님_오신_날 초파일 사월_초파일", (5, 5): "단오 단옷날 오월_단오", (6, 15): "유두절",
    (7, 7): "칠석 칠월_칠석", (7, 15): "백중날 칠월_백중", (8, 15): "추석 한가위 팔월_한가위 중추절", (9, 9): "중양절",
    (12, lunar.LAST_OF_MONTH): "섣달_그믐 섣달_그믐날",
}  # fmt: skip
_LONG = {(1, 1), (8, 15)}  # 연휴 runs from the day before to the day after
SEOL = "설"  # of itself many other things
_COMING_OF_AGE = "성년의_날"  # the third Monday of May


def _by_word(table: dict[tuple[int, int], str]) -> dict[str, tuple[int, int]]:
    return {word.replace("_", ""): day for day, words in table.items() for word in words.split()}


_SOLAR_DAYS, _LUNAR_DAYS = _by_word(_SOLAR), _by_word(_LUNAR)
NAMES = [*" ".join([*_SOLAR.values(), *_LUNAR.values()]).split(), _COMING_OF_AGE]
NAMES.remove(SEOL)

BESIDE = {"전전날": -2, "전날": -1, "다음날": 1, "담날": 1, "이튿날": 1}
LUNAR_MONTHS = {"정월": 1, "동짓달": 11, "섣달": 12}
_ONES = {word: ends[0] for word, ends in COUNTED_DAYS.items() if ends[0] == ends[1] < 10}
LUNAR_DAYS = {
    **{f"초{word}": one for word, one in _ONES.items()}, "초열흘": 10,
    "초하룻날": 1, "초이튿날": 2, "초사흗날": 3, "초나흗날": 4,
    **{f"{tens}{word}": ten + one for tens, ten in (("열", 10), ("스무", 20)) for word, one in _ONES.items()},
    "열흘": 10, "스무날": 20, "보름": 15, "보름날": 15, "그믐": lunar.LAST_OF_MONTH, "그믐날": lunar.LAST_OF_MONTH,
}  # fmt: skip


def holiday(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 추석, 작년 설 연휴, 크리스마스 다음 날 or 설날 사흘 전; the closest one that the tense allows."""
    name = re.sub(r"\s", "", match["holiday"])
    span = _of_year(match, frame, lambda year: _day(name, year))
    if span is None:
        return None
    if match["days"]:
        if _LUNAR_DAYS.get(name) not in _LONG:
            return span
        span = _holidays(span, match["which"] or "")
    return _beside(span, match)


def closest(name: str, near: str, frame: Frame) -> Span | None:
    """Return the holiday `name` that `near` (지난, 이번, 다음 or "") or the tense chooses."""
    return _chosen(lambda year: _day(name, year), near, frame)


def _day(name: str, year: int) -> Span:
    if name in _SOLAR_DAYS:
        day = date(year, *_SOLAR_DAYS[name])
    elif name in _LUNAR_DAYS:
        day = lunar.solar_day(year, *_LUNAR_DAYS[name])
    else:
        day = date(year, 5, 21 - date(year, 5, 21).weekday())
    return day, day


def _holidays(span: Span, which: str) -> Span:
    days = [span[0] - ONE_DAY, span[0], span[0] + ONE_DAY]
    if which.startswith("첫"):
        return days[0], days[0]
    return (days[2], days[2]) if which else (days[0], days[2])


def _beside(span: Span, match: re.Match[str]) -> Span:
    """Move to the day before or after, or to where 사흘 전 counts from the holiday."""
    if match["beside"]:
        count = BESIDE[re.sub(r"\s", "", match["beside"])]
        day = (span[0] if count < 0 else span[1]) + timedelta(days=count)
        return day, day
    if match["amount"]:
        before = sign(match["from"]) < 0
        return moved(span[0] if before else span[1], match["amount"], -1 if before else 1)
    return span


def lunar_date(match: re.Match[str], frame: Frame) -> Span | None:
    """Read 음력 8월 15일, 내년 음력 윤4월, 정월 초하루 or 팔월 보름; the closest one that the tense allows."""
    month = LUNAR_MONTHS.get(match["month"]) or read_sino(match["month"].removesuffix("월"))
    word, leap = match["day"], bool(match.groupdict().get("leap"))
    if not word:
        return _of_year(match, frame, lambda year: lunar.month_span(year, month, leap))
    day = LUNAR_DAYS.get(word) or read_sino(word.removeprefix("초"))

    def of(year: int) -> Span:
        found = lunar.solar_day(year, month, day, leap)
        return found, found

    return _of_year(match, frame, of)


def _of_year(match: re.Match[str], frame: Frame, day: Callable[[int], Span]) -> Span | None:
    """Return the day of the year that is named, else of the one that `near` or the tense chooses."""
    named = match.groupdict()
    if named.get("year") or named.get("ago"):
        return day(year_number(match, frame))
    return _chosen(day, named.get("near") or "", frame)


def _chosen(day: Callable[[int], Span], near: str, frame: Frame) -> Span | None:
    spans = []
    for year in range(frame.day.year - 2, frame.day.year + 2):  # a lunar year ends in the next solar one
        try:
            spans.append(day(year))
        except (ValueError, OverflowError):
            continue  # a leap month that the year lacks, or beyond the tables
    return frame.choose(spans, near)
