"""Dialogue → what a model is asked for memories, what it may answer, and what the answer means. Pure.

Rules have found the sentences that can be memories (`korean.candidates`); a model decides on those that rules cannot
tell. A window is what it is asked at once: it answers each sentence with its words, or with null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from unicodedata import normalize

from engine import instructions
from engine.inputs import KINDS, Kind, Turn
from engine.instructions import language_of
from engine.korean.candidates import Candidate
from engine.korean.dates import happens_on
from engine.korean.kinds import kind_of
from engine.tasks import ExtractedItem, ExtractedMemory

_MOST_ASKED = 12  # sentences at once: a small model loses count of more
_ENOUGH = 4  # sentences in a window that are worth going without the worked example
_BEFORE = 2  # turns that are shown before one that is asked about
_LONG = 400  # letters of a turn of which only what is asked about is shown
_SHORT = 160  # letters of a turn that is only shown
_QUOTED = 60  # letters of a quote
_NAME = 16  # letters of a name
_PAIR = re.compile(r'"(\d+)": (?:null|"([^"\\]*)")')


@dataclass(frozen=True, slots=True)
class Window:
    """What a model is asked at once: `asked`, numbered from 1, each behind `before` turns of `turns`.

    Of a sentence at most `letters` are shown, and can be quoted.
    """

    turns: tuple[Turn, ...]
    asked: tuple[Candidate, ...]
    before: int = _BEFORE
    example: bool = True
    letters: int | None = None

    def sentence(self, candidate: Candidate) -> str:
        """Return what is shown of a candidate."""
        said = self.turns[candidate.turn].content[candidate.begin : candidate.stop]
        return said[: self.letters]

    def quote(self, candidate: Candidate) -> str:
        """Return the first words of what a candidate states that stand in JSON as they are; empty if none do."""
        begin, stop = candidate.quote[0] - candidate.begin, candidate.quote[1] - candidate.begin
        shown = self.sentence(candidate)[begin:stop]
        plain = "".join("\n" if char in '"\\' or not char.isprintable() else char for char in shown)
        parts = (part for line in plain.split("\n") if any(map(str.isalnum, part := line.strip())))
        return _first_words(next(parts, ""))


@dataclass(frozen=True, slots=True)
class Kept:
    """A candidate that is a memory, and the words of it that say so."""

    candidate: Candidate
    quote: str


def next_window(turns: Sequence[Turn], asked: Sequence[Candidate], fits: Callable[[Window], bool]) -> Window:
    """Return a window on the first of `asked`, and on as many more as fit.

    It goes without the worked example, then without context, where that is what it takes; last, a sentence is cut. If
    nothing fits, the smallest window is returned all the same.
    """
    best = 0, Window(tuple(turns), tuple(asked[:1]))
    for example in (True, False):
        full = replace(best[1], asked=tuple(asked[:_MOST_ASKED]), example=example)
        best = max(best, _widest(full, fits), key=lambda pair: pair[0])
        if best[0] >= min(_ENOUGH, len(asked)):
            return best[1]
    if best[0]:
        return best[1]
    smallest = replace(best[1], asked=tuple(asked[:1]), example=False)
    for before in range(_BEFORE - 1, -1, -1):
        smallest = replace(smallest, before=before)
        if fits(smallest):
            return smallest
    letters = len(smallest.sentence(asked[0]))
    while letters > 1:
        letters //= 2
        smallest = replace(smallest, letters=letters)
        if fits(smallest):
            break
    return smallest


def extraction_turns(window: Window) -> tuple[Turn, ...]:
    """Return the messages that ask for a window's sentences."""
    language = language_of("".join(turn.content for turn in window.turns if turn.role == "user"))
    shown, answer = instructions.EXTRACT_EXAMPLE[language]
    example = (Turn("user", shown), Turn("assistant", answer)) if window.example else ()
    return (Turn("system", instructions.EXTRACT[language]), *example, Turn("user", _listing(window)))


def extraction_grammar(window: Window) -> str:
    """Return the Lark grammar of the answer: a JSON object of each number, with null or the words of that sentence.

    The only choice of a model is where a value begins; all else is forced, and costs no decode of its own.
    """
    values = []
    for number, candidate in enumerate(window.asked, 1):
        quote = window.quote(candidate)
        value = f'("null" | {_literal(_json(quote))})' if quote else '"null"'
        values.append(f"{_literal(f'{_json(str(number))}: ')} {value}")
    return 'start: "{" ' + ' ", " '.join(values) + ' "}"'


def longest_answer(window: Window) -> str:
    """Return the answer that keeps every sentence, to measure how long one can be."""
    return _json({str(number): window.quote(candidate) for number, candidate in enumerate(window.asked, 1)})


def kept_of(text: str, window: Window) -> list[Kept]:
    """Return what an answer, whole or cut short, keeps of a window."""
    kept = []
    for match in _PAIR.finditer(text):
        number, quote = int(match[1]), match[2]
        if not quote or not 1 <= number <= len(window.asked):
            continue
        candidate = window.asked[number - 1]
        if quote == window.quote(candidate):
            kept.append(Kept(candidate, quote))
    return kept


def sure_of(turns: Sequence[Turn], candidate: Candidate) -> Kept:
    """Return a candidate that rules are sure of, with the words that state it."""
    return Kept(candidate, _stated(turns, candidate))


def text_of(turns: Sequence[Turn], kept: Kept) -> str:
    """Return the sentence that is remembered, verbatim."""
    return turns[kept.candidate.turn].content[kept.candidate.begin : kept.candidate.stop]


def collect(turns: Sequence[Turn], kept: Sequence[Kept], categories: Sequence[str], at: datetime) -> ExtractedMemory:
    """Return what was kept, in the order of the dialogue; `at` dates turns that have no time of their own."""
    found: dict[Kind, list[ExtractedItem]] = {kind: [] for kind in KINDS}
    seen: set[tuple[str, date | None]] = set()
    for one, category in zip(kept, categories, strict=True):
        turn, text = turns[one.candidate.turn], text_of(turns, one)
        span = happens_on(normalize("NFC", _stated(turns, one.candidate)), turn.at or at)
        when, days = (span[0], (span[1] - span[0]).days + 1) if span else (None, None)
        if (text, when) not in seen:
            seen.add((text, when))
            item = ExtractedItem(text, one.quote, category, one.candidate.turn, when)
            found[kind_of(_stated(turns, one.candidate), days)].append(item)
    return ExtractedMemory(*(tuple(found[kind]) for kind in KINDS))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _literal(text: str) -> str:
    return _json(text)  # Lark escapes as JSON does


def _stated(turns: Sequence[Turn], candidate: Candidate) -> str:
    begin, stop = candidate.quote
    return turns[candidate.turn].content[begin:stop]


def _first_words(text: str) -> str:
    if len(text) <= _QUOTED:
        return text
    return text[:_QUOTED].rpartition(" ")[0].rstrip() or text[:_QUOTED]


def _widest(full: Window, fits: Callable[[Window], bool]) -> tuple[int, Window]:
    """Return how many of a window's sentences fit, the first ones, and the window on these."""
    low, high = 0, len(full.asked)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(replace(full, asked=full.asked[:middle])) else (low, middle - 1)
    return low, replace(full, asked=full.asked[: max(low, 1)])


def _listing(window: Window) -> str:
    """Return the turns that are asked about and those before them, a line a turn: nothing said can begin a line."""
    asked = {candidate.turn for candidate in window.asked}
    shown = sorted({turn for last in asked for turn in range(max(0, last - window.before), last + 1)})
    lines = []
    for number, turn in zip(shown, (window.turns[number] for number in shown), strict=True):
        said = _numbered(window, number) if number in asked else _cut(_flat(turn.content), _SHORT)
        lines.append(f"{_speaker(turn)}: {said}")
    return "\n".join(lines)


def _numbered(window: Window, turn: int) -> str:
    content = window.turns[turn].content
    whole = len(content) <= _LONG and window.letters is None
    parts, at = [], 0
    for number, candidate in enumerate(window.asked, 1):
        if candidate.turn == turn:
            between = _flat(content[at : candidate.begin]) if whole else "…" * (candidate.begin > at)
            parts += [between, f"({number}) {_flat(window.sentence(candidate))}"]
            at = candidate.stop
    parts.append(_flat(content[at:]) if whole else "…" * (at < len(content)))
    return " ".join(filter(None, parts))


def _speaker(turn: Turn) -> str:
    name = " ".join(re.findall(r"\w+", turn.name or "")[:2])[:_NAME]
    return f"{turn.role} {name}" if name else turn.role


def _flat(text: str) -> str:
    """Return a text without line ends and control characters, and without numbers like the program's own."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r"\((\d+)\)", r"\1)", " ".join(plain.split()))


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[:letters]}…"
