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
    oldest turns; the system prompt, the summary and the new message stay.
    """

    def fits(less: Brief) -> bool:
        return length(less.messages()) <= limit

    if fits(brief):
        return brief
    recalled, profile = brief.recalled, brief.profile
    brief = replace(
        brief, recalled=recalled[: _most(len(recalled), lambda n: fits(replace(brief, recalled=recalled[:n])))]
    )
    if brief.recalled or fits(brief):
        return brief
    bare = brief
    brief = replace(bare, profile=profile[: _most(len(profile), lambda n: fits(replace(bare, profile=profile[:n])))])
    if brief.profile or fits(brief):
        return brief
    last = replace(brief, turns=brief.turns[-1:])
    older = brief.turns[:-1][::-1]
    kept = _most(len(older), lambda n: fits(replace(last, turns=(*older[:n][::-1], *last.turns))))
    return replace(last, turns=(*older[:kept][::-1], *last.turns))


def to_condense(lengths: Sequence[int], keep: int) -> int:
    """Return how many of the oldest turns are to go into the summary, so that `keep` tokens are left of the others."""
    left = sum(lengths)
    for number, length in enumerate(lengths):
        if left <= keep:
            return number
        left -= length
    return len(lengths)


def one_line(text: str) -> str:
    """Return a text in which no line can begin that looks like the program's own."""
    return " ".join(text.split())


def _most(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `most` that fits, where all below one that fits do; 0 if none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
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
