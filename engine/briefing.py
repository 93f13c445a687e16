"""What a chat model reads of a session: who it is, what it knows, what was said. Pure; lengths are measured elsewhere.

What changes least stands first, so that a context that was computed is used again: system prompt and profile, the
summary, the turns that are not in it, and last, with the new message, what was recalled for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from engine import instructions
from engine.inputs import Turn
from engine.instructions import Language

Length = Callable[[Sequence[Turn]], int]  # in tokens
_LEAST = 6  # tokens of a turn, at least, with what a template puts around it
_STEP = 8
_FULL, _LEFT = 0.7, 0.35  # of the room for turns: when the oldest are condensed, and how much is left of them


@dataclass(frozen=True, slots=True)
class Brief:
    """All that could be told; `turns` end with the new message, `recalled` begins with what fits it best.

    `now` is when the message was said; without it, neither the day nor what was recalled is told.
    """

    system: str
    turns: tuple[Turn, ...]
    language: Language
    profile: tuple[str, ...] = ()
    summary: str | None = None
    recalled: tuple[str, ...] = ()
    now: datetime | None = None

    def messages(self) -> tuple[Turn, ...]:
        """Return what the model is to read, in alternating turns."""
        *before, last = _alternating(self.turns)
        return (Turn("system", self._system()), *before, replace(last, content=self._last(last.content)))

    def _system(self) -> str:
        words, parts = instructions.SESSION[self.language], [self.system]
        if self.profile:
            parts.append("\n".join([words.profile, *(f"- {one_line(line)}" for line in self.profile)]))
        if self.summary:
            parts.append(f"{words.summary}\n{one_line(self.summary)}")
        return "\n\n".join(parts)

    def _last(self, content: str) -> str:
        if self.now is None:
            return content
        words, (begin, end) = instructions.SESSION[self.language], instructions.CONTEXT[self.language]
        lines = [words.now.format(now=self.now, weekday=words.weekdays[self.now.weekday()]), *self.recalled]
        return "\n".join([begin, *(f"- {one_line(line)}" for line in lines), end, "", content])


def fit(brief: Brief, length: Length, limit: int) -> Brief:
    """Return what of a brief is at most `limit` tokens long.

    It goes without the least fitting memories first, then without the last lines of the profile, then without its
    oldest turns, and last without the summary; the system prompt and the new message stay. An answer never comes first.
    """

    def fits(less: Brief) -> bool:
        return length(less.messages()) <= limit

    brief = _told_from_a_question(replace(brief, turns=brief.turns[-max(1, limit // _LEAST) :]))
    if fits(brief):
        return brief
    for shorter in (_with_memories, _with_profile, _with_turns):
        brief = shorter(brief, fits)
        if fits(brief):
            return brief
    less = replace(brief, summary=None)
    return less if fits(less) else brief


def _with_memories(brief: Brief, fits: Callable[[Brief], bool]) -> Brief:
    lines = brief.recalled
    return replace(brief, recalled=lines[: _most(len(lines), lambda n: fits(replace(brief, recalled=lines[:n])))])


def _with_profile(brief: Brief, fits: Callable[[Brief], bool]) -> Brief:
    lines = brief.profile
    return replace(brief, profile=lines[: _most(len(lines), lambda n: fits(replace(brief, profile=lines[:n])))])


def _with_turns(brief: Brief, fits: Callable[[Brief], bool]) -> Brief:
    turns = brief.turns
    kept = _most(len(turns) - 1, lambda n: fits(replace(brief, turns=turns[-1 - n :])))
    return _told_from_a_question(replace(brief, turns=turns[-1 - kept :]))


def _told_from_a_question(brief: Brief) -> Brief:
    """A template wants the user first; an answer whose question is not told says little."""
    first = next(number for number, turn in enumerate(brief.turns) if turn.role == "user")
    return replace(brief, turns=brief.turns[first:])


def to_condense(turns: Sequence[Turn], lengths: Sequence[int], room: int, least: int = 0) -> int:
    """Return how many of the oldest turns are to go into the summary: none, as long as they fit well.

    `lengths` are tokens of the turns, or of the first of them if that is more than there is `room` for. At most so much
    goes at once, and no answer without its question.
    """
    whole, number, gone = sum(lengths), 0, 0
    keep = room * (_LEFT if whole > room * _FULL else 1)
    for length in lengths:
        if (whole - gone <= keep and number >= least) or gone > max(room, 1):
            break
        number, gone = number + 1, gone + length
    while 0 < number < len(turns) and turns[number].role == "assistant":
        number += 1
    return number


def one_line(text: str) -> str:
    """Return a text in which no line can begin that looks like the program's own."""
    return " ".join(text.split())


def _most(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `most` that fits, where all below one that fits do; 0 if none does."""
    low, high = 0, min(most, _STEP)
    while low < high and fits(high):  # not from the middle: what is much too long takes long to measure
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _alternating(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns in which no role follows itself, as after an answer that never came; templates want it so."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            joined[-1] = replace(joined[-1], content=f"{joined[-1].content}\n{turn.content}")
        elif joined or turn.role == "user":
            joined.append(turn)
    return joined
