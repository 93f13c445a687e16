"""Dialogue → what a model is asked for memories, what it may answer, and what the answer means. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from engine import instructions
from engine.inputs import CATEGORIES, KINDS, Kind, Turn
from engine.instructions import language_of
from engine.korean.dates import resolve
from engine.korean.sentences import sentences
from engine.tasks import ExtractedItem, ExtractedMemory

_ITEMS_A_TURN = 3
_TOKENS_A_TURN = 160  # an answer may quote all of a turn; this bounds what an odd model can spend on one


def extraction_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return the messages that ask for an extraction."""
    listing = "\n".join(f"[{i}] {turn.role}: {turn.content}" for i, turn in enumerate(turns))
    language = language_of("".join(turn.content for turn in turns if turn.role == "user"))
    shown, answer = instructions.EXTRACT_EXAMPLE[language]
    return (
        Turn("system", instructions.EXTRACT[language]),
        Turn("user", shown),
        Turn("assistant", answer),
        Turn("user", listing),
    )


def extraction_grammar(turns: Sequence[Turn]) -> str | None:
    """Return the Lark grammar of the answer, or None if no user turn holds a word.

    The answer is a JSON object with one list for each user turn, in order; a quote can only be words of its turn.
    """
    rules, keys = [], []
    for number, turn in enumerate(turns):
        parts = _quotable(turn.content) if turn.role == "user" else []
        if not parts:
            continue
        keys.append(f'"\\"{number}\\": [" (item_{number} (", " item_{number}){{0,{_ITEMS_A_TURN - 1}}})? "]"')
        words = " | ".join(f"Q_{number}_{i}" for i in range(len(parts)))
        rules.append(f'item_{number}: "{{\\"quote\\": \\"" quote_{number} "\\", " rest "}}"')
        rules.append(f"quote_{number}: {words}")
        for i, part in enumerate(parts):
            literal = json.dumps({"substring_words": part}, ensure_ascii=False)
            rules.append(f"Q_{number}_{i}: %regex {literal}")
    if not keys:
        return None
    start = 'start: "{" ' + ' ", " '.join(keys) + ' "}"'
    rest = f'rest: "\\"kind\\": \\"" ({_choice(KINDS)}) "\\", \\"category\\": \\"" ({_choice(CATEGORIES)}) "\\""'
    return "\n".join([start, rest, *rules])


def extraction_budget(turns: Sequence[Turn]) -> int:
    """Return how many tokens an extraction may take."""
    return _TOKENS_A_TURN * max(1, sum(turn.role == "user" for turn in turns))


def parse_extraction(text: str, turns: Sequence[Turn], at: datetime) -> ExtractedMemory:
    """Return the items of an answer, whole or cut short; `at` dates turns that have no time of their own."""
    found: dict[Kind, list[ExtractedItem]] = {kind: [] for kind in KINDS}
    seen: set[tuple[int, str]] = set()
    for number, raw in _answered(text):
        item = _item(raw, number, turns[number], at)
        if item is None or (number, item.text) in seen:
            continue
        seen.add((number, item.text))
        found[raw["kind"]].append(item)
    return ExtractedMemory(*(tuple(found[kind]) for kind in KINDS))


def _choice(words: Iterable[str]) -> str:
    return " | ".join(f'"{word}"' for word in words)


def _quotable(content: str) -> list[str]:
    """Return the stretches of a turn that stand in JSON as they are, so that a quote needs no escapes."""
    plain = "".join("\n" if char in '"\\' or not char.isprintable() else char for char in content)
    return [part for line in plain.split("\n") if any(map(str.isalnum, part := line.strip()))]


def _answered(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(turn, item)` of every item that is complete in `text`."""
    decoder, at, number = json.JSONDecoder(), 0, -1
    while (at := _next_of(text, at)) >= 0:
        if text[at] == "{":
            try:
                raw, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError:
                return
            yield number, raw
        else:
            end = text.index('"', at + 1)
            number, at = int(text[at + 1 : end]), text.index("[", end)


def _next_of(text: str, at: int) -> int:
    """Return where the next item or turn number begins, past the outer brace; -1 at the end."""
    places = [place for mark in '{"' if (place := text.find(mark, max(at, 1))) >= 0]
    nearest = min(places, default=-1)
    complete = nearest >= 0 and (text[nearest] == "{" or text.find("[", nearest) >= 0)
    return nearest if complete else -1


def _item(raw: Mapping[str, str], number: int, turn: Turn, at: datetime) -> ExtractedItem | None:
    quote = raw["quote"].strip()
    begin = turn.content.find(quote)
    if not any(map(str.isalnum, quote)) or begin < 0:
        return None
    sentence = _around(turn.content, begin, begin + len(quote))
    span = resolve(sentence, turn.at or at)
    return ExtractedItem(sentence, quote, raw["category"], number, span[0] if span else None)


def _around(text: str, begin: int, end: int) -> str:
    """Return the sentences of `text` that `begin:end` touches."""
    touched = [(a, b) for a, b in sentences(text) if a < end and begin < b]
    return text[touched[0][0] : touched[-1][1]] if touched else text[begin:end]
