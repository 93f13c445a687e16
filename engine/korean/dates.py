"""Time expressions in Korean and simple English text, resolved to days by rules.

What an expression names is decided in `periods` (weeks, parts of months and years), `readings` (Korean),
`holidays` (days with a name, lunar dates) and `dates_english`; what is chosen where the words leave it open is in
`frame`: 3월 and 추석 are the closest, 금요일 the next Friday counting today, unless the clause's tense rules that
out; a day that is said to be of an occasion (면접은 9월 10일이에요) is to come.
N년 전 and 한 달 뒤 name a single day, 두세 달 전 the days between; times of day are passed over. What recurs (매주
금요일, 월요일마다), lasts (3일 동안), counts from another event (시험 3일 전) or is denied (금요일 말고) is no date.
Not known: the solar terms (동지, 초복), 명절, 학기, a season without a year (겨울에).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime

from engine.korean import dates_english, dates_korean
from engine.korean.frame import Frame, Rule, is_to_come, tense

_RECURRING = re.compile(r"(?:매주|매달|매월|매년|매해|마다|격주|every)\s?$", re.IGNORECASE)
_HOUR = r"(?:\s?(?:아침|점심|저녁|새벽|오전|오후|낮|밤))?(?:\s?\d{1,2}시(?:\s?(?:\d{1,2}분|반))?)?"
_RANGE = re.compile(_HOUR + r"\s?(?:에?\s?부터|에서|~|∼|-|–|\bto\b|\buntil\b|\bthrough\b)\s?", re.IGNORECASE)
_NOT = re.compile(r"(?:이|가)?\s?(?:말고|아니라|아니고)")  # 금요일 말고 토요일
_LIST = re.compile(r"\s?(?:와|과|이랑|랑|하고|이나|나|,|·|및|\band\b|\bor\b)\s?", re.IGNORECASE)

_CLAUSE = 80  # letters beside an expression in which its clause is looked for
_A_WEEKDAY = re.compile("[월화수목금토일]{1,7}(?:요일날?|욜)|[월화수목금토일]{2,7}|주말")  # of no week in particular
_GOES = re.compile(r"다(?:녀|닌다|닙니다|니는데|니고\s?(?:있어|있습니다|있다)|니는\s?(?:중|편)\S{0,4})요?$")
_DOES = re.compile(
    r"(?<!려고 )(?<!야 )(?:해|한다|합니다|하는데|하고\s?(?:있어|있습니다|있다)|들어|배워|배운다|배웁니다|쳐)요?$"
)
_ROUTINE = re.compile(
    "재택|운동|요가|필라테스|수영|헬스|러닝|달리기|조깅|등산|축구|농구|야구|테니스|배드민턴|탁구|골프|클라이밍|발레|댄스|피아노"
    "|기타|드럼|청소|빨래|분리수거|장보기|봉사|알바|아르바이트|과외|수업|레슨|강의|학원|스터디|동호회|공부|산책|방송|당직"
)
_SINGLE = re.compile("대회|시합|경기|발표|공연|시험|면접|이사|결혼|예정|이번|다음|처음|첫|시작해|부터")
_A_DAY_OF_THE_YEAR = re.compile(
    r"(?:음력(?:으로)?\s?)?(?:[\d가-힣]{1,3}월(?:달)?(?:\s?[\d가-힣]{1,4}일(?:날|자|생)?)?|\d{1,2}[/.]\s?\d{1,2})"
    r"|(?i:(?:in )?[a-z]{3,9}\.?(?: \d{1,2}(?:st|nd|rd|th)?)?|\d{1,2}(?:st|nd|rd|th)? (?:of )?[a-z]{3,9})"
)
_BORN = re.compile(r"태어났|[월일]\s?생|\b[Ii](?:'m| am| was)? born\b")
_ANOTHER = re.compile(r"[가-힣](?<![내제])[이가]\s")  # 조카가 태어났어 is news


@dataclass(frozen=True)
class TimeSpan:
    """A time expression: its first and last day, its words, and where they stand (`text[begin:stop]`)."""

    start: date
    end: date
    text: str
    begin: int
    stop: int


def find_dates(text: str, at: datetime) -> list[TimeSpan]:
    """Return the time expressions of `text` in order, seen from `at`: the longest at each place, none
    overlapping.

    Two that are joined as a range (월요일부터 수요일까지) are one span. An impossible date is passed over
    whole.
    """
    found: list[TimeSpan] = []
    stop, recurring = 0, -1
    for match, rule in _matches(text):
        if match.start() < stop:
            continue
        between = text[stop : match.start()]
        joins = bool(_RANGE.fullmatch(between) or _LIST.fullmatch(between))
        beside = found[-1] if found and found[-1].stop == stop and joins else None
        if rule.joined and beside is None:
            continue
        if _RECURRING.search(text[max(0, match.start() - 7) : match.start()]) or (joins and recurring == stop):
            stop = recurring = match.end()
            continue
        stop = match.end()
        span = None if _NOT.match(text, stop) else _read(match, rule, at.date(), beside)
        if span and beside and _RANGE.fullmatch(between) and span.end >= beside.start:
            found[-1] = replace(beside, end=span.end, text=text[beside.begin : stop], stop=stop)
        elif span:
            found.append(span)
    return found


def resolve(text: str, at: datetime) -> tuple[date, date] | None:
    """Return the first and last day of the first time expression of `text`, or None if it holds none."""
    found = find_dates(text, at)
    return (found[0].start, found[0].end) if found else None


def happens_on(text: str, at: datetime) -> tuple[date, date] | None:
    """Return what `resolve` does, but None where nothing happens then: the day of a routine, or a birthday.

    화요일에 요가 다녀 and 나는 5월에 태어났어 name days, none of which is that of the sentence.
    """
    found = find_dates(text, at)
    if not found or _recurs(text, found[0].text):
        return None
    return found[0].start, found[0].end


def _recurs(text: str, named: str) -> bool:
    end = text[-_CLAUSE:].rstrip(" .?!~…ㅋㅎㅠㅜ^;,")
    if _A_WEEKDAY.fullmatch(named):
        does = bool(_DOES.search(end) and _ROUTINE.search(end)) and not _SINGLE.search(end)
        return does or bool(_GOES.search(end))
    return bool(_A_DAY_OF_THE_YEAR.fullmatch(named) and _BORN.search(text)) and not _ANOTHER.search(text)


def _matches(text: str) -> Iterator[tuple[re.Match[str], Rule]]:
    rules = dates_korean.rules() + dates_english.rules()
    every = [(match, rule) for rule in rules for match in rule.pattern.finditer(text)]
    return iter(sorted(every, key=lambda pair: (pair[0].start(), -pair[0].end())))


def _tense_around(match: re.Match[str]) -> int:
    before = match.string[max(0, match.start() - _CLAUSE) : match.start()]
    after = match.string[match.end() : match.end() + _CLAUSE]
    found = tense(after)
    if not found and match[0].isascii():
        found = tense(re.split(r"[.?!\n]", before)[-1])  # in English the verb comes first
    return found or int(is_to_come(before, after))


def _read(match: re.Match[str], rule: Rule, day: date, beside: TimeSpan | None) -> TimeSpan | None:
    frame = Frame(day, _tense_around(match), beside.start if beside else None)
    try:
        span = rule.read(match, frame)
    except (ValueError, OverflowError):
        return None  # 2월 30일, 13월, 9000년 뒤
    return TimeSpan(*span, match[0], match.start(), match.end()) if span else None
