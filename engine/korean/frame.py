"""Where a time expression is read from: today, the clause's tense, the date named just before."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from engine.korean.periods import Span

_SENTENCE_END = re.compile(r"[.?!。…\n]")
_FUTURE = re.compile(r"겠|려고|기로|예정|계획|자$|(?:게|래|까)요?$|\bwill\b|'ll$|\bgoing$")
_HANGING = re.compile(r"(?:는데|은데|인데|니까|지만|으면|려면|어서|아서|해서)$")
_ENGLISH_PAST = re.compile(
    r"(?:(?!need|indeed|feed|speed)[a-z]{2,}ed|was|were|went|did|had|saw|met|got|came|took|made|bought|ate)$",
    re.IGNORECASE,
)
_ARRANGED = re.compile(
    "잡았|잡혔|잡아|예약|예매|신청|약속|미뤘|미뤄|정했|정해|바꿨|바뀌"
)  # done already, but for a day to come
_HALF_A_YEAR = 184  # days
_FINAL_L, _FINAL_SS = 8, 20  # 받침 ㄹ and ㅆ, as places in the syllable block


@dataclass(frozen=True)
class Frame:
    """Where a reading stands: `tense` is -1, 0 or 1; `anchor` starts the date this one is joined to."""

    day: date
    tense: int = 0
    anchor: date | None = None

    def pick(self, spans: Sequence[Span], *, nearest: bool = False) -> Span | None:
        """Choose among the years, months or weeks that an incomplete date could mean; `spans` are in order.

        A joined date follows its anchor; a past clause cannot name a coming day, nor a future clause one that
        is over; else it is the next one, counting today, or, where `nearest`, the closest (of two equally
        close ones the later).
        """
        if self.anchor is not None:
            anchor = self.anchor
            return next((span for span in spans if span[0] >= anchor), None)
        if self.tense < 0:
            return next((span for span in reversed(spans) if span[0] <= self.day), None)
        if nearest and not self.tense:
            return min(
                (span for span in reversed(spans) if self._distance(span) <= _HALF_A_YEAR),
                key=self._distance,
                default=None,
            )
        return next((span for span in spans if span[1] >= self.day), None)

    def _distance(self, span: Span) -> int:
        return max((span[0] - self.day).days, (self.day - span[1]).days, 0)


@dataclass(frozen=True)
class Rule:
    """A pattern and its reading; a `joined` rule counts only beside another date (3월 5일과 7일)."""

    pattern: re.Pattern[str]
    read: Callable[[re.Match[str], Frame], Span | None]
    joined: bool = False


def tense(clause: str) -> int:
    """Return -1 or 1 for the first predicate of `clause` that shows the past or the future, else 0."""
    words = _SENTENCE_END.split(clause, maxsplit=1)[0].split()
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if _is_future(word, following):
            return 1
        if _is_past(word):
            return -1
        if _HANGING.search(word):
            return 0
    return 0


def _final(char: str) -> int:
    return (ord(char) - 0xAC00) % 28 if "가" <= char <= "힣" else 0


def _is_past(word: str) -> bool:
    if _ENGLISH_PAST.match(word):
        return True
    if _ARRANGED.search(word):
        return False
    for place, char in enumerate(word):
        if _final(char) == _FINAL_SS and char not in "있겠" and not word.startswith("으면", place + 1):
            return True
    return False


def _is_future(word: str, following: str) -> bool:
    ahead = following if _final(word[-1]) == _FINAL_L else ""
    if ahead.startswith(("거", "것", "건데", "텐데", "예정", "계획", "생각")):
        return True
    inside = (word[n + 1] for n in range(len(word) - 1) if _final(word[n]) == _FINAL_L)
    return any(char == "거" for char in inside) or bool(_FUTURE.search(word))
