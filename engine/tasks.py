"""One entry a task: what the model is told, what it may answer, and what the answer means. Pure; runs no model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from engine import instructions
from engine.errors import InvalidInput, SchemaError
from engine.inputs import CATEGORIES, KINDS, Kind, Turn, check_text
from engine.instructions import language_of
from engine.korean.dates import resolve
from engine.korean.sentences import sentences
from engine.metrics import Usage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.generation import FinishReason
    from engine.records import Hit, Memory

NO_CONTENT = "N/A"  # what a label's prior is asked with
_ITEMS_A_TURN = 3
_TOKENS_A_TURN = 160  # an answer may quote all of a turn; this bounds what an odd model can spend on one
_EMBEDDING_TEMPERATURE = 0.02  # e5 cosines lie close together; a guess until calibration is measured


@dataclass(frozen=True, slots=True)
class Reply:
    """A chat answer.

    `parsed` is the value where a schema was given and the answer ended, or was cut by `max_tokens` and could be
    closed; else None.
    """

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage
    parsed: Any = None
    memories: tuple[Memory, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; `parsed` as it is."""
        memories = [memory.to_dict() for memory in self.memories]
        return {
            "text": self.text, "model": self.model, "finish_reason": self.finish_reason,
            "usage": self.usage.to_dict(), "parsed": self.parsed, "memories": memories,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExtractedItem:
    """One thing a user said: `quote` is verbatim in user turn `source`; `text` is the sentence around it."""

    text: str
    quote: str
    category: str
    source: int
    when: date | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "when": self.when.isoformat() if self.when else None}


@dataclass(frozen=True, slots=True)
class ExtractedMemory:
    """What a dialogue holds that is worth remembering, by kind, in order of appearance."""

    facts: tuple[ExtractedItem, ...] = ()
    preferences: tuple[ExtractedItem, ...] = ()
    events: tuple[ExtractedItem, ...] = ()
    relationships: tuple[ExtractedItem, ...] = ()

    def items(self) -> Iterator[tuple[Kind, ExtractedItem]]:
        """Yield `(kind, item)` in order of appearance within each kind."""
        for kind, found in zip(KINDS, self._lists(), strict=True):
            yield from ((kind, item) for item in found)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        names = ("facts", "preferences", "events", "relationships")
        return {name: [item.to_dict() for item in found] for name, found in zip(names, self._lists(), strict=True)}

    def _lists(self) -> tuple[tuple[ExtractedItem, ...], ...]:
        return self.facts, self.preferences, self.events, self.relationships


@dataclass(frozen=True, slots=True)
class Classification:
    """`scores` of all asked labels sum to 1; `confidence` is the highest; `label` is None only below `abstain`."""

    label: str | None
    scores: Mapping[str, float]
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"label": self.label, "scores": dict(self.scores), "confidence": self.confidence}


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary and what it cost."""

    text: str
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"text": self.text, "usage": self.usage.to_dict()}


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a user wants; `when` is the first and last day of the time named, both included."""

    intent: str
    is_question: bool
    keywords: tuple[str, ...]
    when: tuple[date, date] | None
    needs_memory: bool

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        when = [day.isoformat() for day in self.when] if self.when else None
        return {**asdict(self), "keywords": list(self.keywords), "when": when}


# ---- chat


def with_context(turns: Sequence[Turn], context: str | Sequence[str | Hit] | None) -> tuple[Turn, ...]:
    """Quote `context` as data at the head of the last user message. Raises `InvalidInput`, `TypeError`."""
    quoted = [] if context is None else _context_lines(context)
    if not quoted:
        return tuple(turns)
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is None:
        raise InvalidInput("context needs a user message to stand before")
    begin, end = instructions.CONTEXT[language_of(turns[last].content)]
    content = "\n".join([begin, *(f"- {line}" for line in quoted), end, "", turns[last].content])
    return (*turns[:last], Turn("user", content), *turns[last + 1 :])


def _context_lines(context: str | Sequence[str | Hit]) -> list[str]:
    parts = [context] if isinstance(context, str) else list(context)
    return [
        check_text(part if isinstance(part, str) else getattr(getattr(part, "memory", part), "text", part), "context")
        for part in parts
    ]


def schema_of(schema: Any) -> Mapping[str, Any]:
    """Return the JSON Schema of a dict or a pydantic model. Raises `TypeError`."""
    if isinstance(schema, Mapping):
        return schema
    if hasattr(schema, "model_json_schema"):
        return dict(schema.model_json_schema())
    raise TypeError(f"schema must be a dict or a pydantic model, not {type(schema).__name__}")


def parse_as(schema: Any, text: str) -> Any:
    """Return the value of a constrained answer: a pydantic object, or plain JSON values; None if it was cut short.

    Raises `SchemaError` where a pydantic model's own validators refuse what its JSON Schema allows.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:  # a stop string ended it
        return None
    try:
        return schema.model_validate(value) if hasattr(schema, "model_validate") else value
    except ValueError as error:
        raise SchemaError(
            f"the answer follows the JSON Schema of {schema.__name__}, but its validators refuse it "
            f"({type(error).__name__}); say in the schema what they want."
        ) from None


# ---- extraction


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


# ---- classification


def check_categories(categories: Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """Return name → description; the eight default names bring their own. Raises `InvalidInput`, `TypeError`."""
    if isinstance(categories, str):
        raise TypeError("categories must be a list of names or a dict, not a single str")
    names = [check_text(name, "a category") for name in categories]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InvalidInput("classify needs at least two different categories")
    if isinstance(categories, Mapping):
        return {name: check_text(categories[name], f"the description of {name!r}") for name in names}
    return {name: instructions.CATEGORIES.get(name, (name, ()))[0] for name in names}


def classification_turns(text: str, categories: Mapping[str, str]) -> tuple[Turn, ...]:
    """Return the messages that ask an LLM for a label; all but the text is the same for every text."""
    language = language_of(text)
    lines = [name if name == what else f"{name}: {what}" for name, what in categories.items()]
    told = "\n".join([instructions.CLASSIFY[language], *(f"- {line}" for line in lines)])
    return Turn("system", told), Turn("user", text)


def label_examples(categories: Mapping[str, str]) -> dict[str, list[str]]:
    """Return name → the texts whose mean vector stands for it: its description and, if known, examples."""
    known = instructions.CATEGORIES
    return {
        name: [what, *known[name][1]] if name in known and known[name][0] == what else [what]
        for name, what in categories.items()
    }


def from_log_probabilities(
    scores: Mapping[str, float], prior: Mapping[str, float], abstain: float | None
) -> Classification:
    """Weigh labels against what the model says of a text without content.

    Contextual calibration after Zhao et al. 2021, "Calibrate Before Use": p(label | text) / p(label | no text),
    normalised.
    """
    return _decide({label: score - prior[label] for label, score in scores.items()}, abstain)


def from_similarities(scores: Mapping[str, float], abstain: float | None) -> Classification:
    """Turn cosine similarities to labels into probabilities."""
    return _decide({label: score / _EMBEDDING_TEMPERATURE for label, score in scores.items()}, abstain)


def label_vectors(vectors: NDArray[np.float32], counts: Sequence[int]) -> NDArray[np.float32]:
    """Return the unit mean of each run of `counts` rows: (sum of counts, d) → (len(counts), d)."""
    import numpy as np

    ends = np.cumsum(counts)
    means = np.stack([vectors[end - n : end].mean(axis=0) for end, n in zip(ends, counts, strict=True)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)  # type: ignore[no-any-return]


def _decide(logits: Mapping[str, float], abstain: float | None) -> Classification:
    top = max(logits.values())
    weights = {label: math.exp(value - top) for label, value in logits.items()}
    total = sum(weights.values())
    scores = {label: weight / total for label, weight in weights.items()}
    best = max(scores, key=scores.__getitem__)
    sure = abstain is None or scores[best] >= abstain
    return Classification(best if sure else None, scores, scores[best])


# ---- summary


def summary_turns(turns: Sequence[Turn], max_words: int | None) -> tuple[Turn, ...]:
    """Return the messages that ask for a summary."""
    language = language_of("".join(turn.content for turn in turns))
    told = instructions.SUMMARIZE[language]
    if max_words is not None:
        told += " " + instructions.AT_MOST[language].format(words=max_words)
    listing = "\n".join(f"{turn.name or turn.role}: {turn.content}" for turn in turns)
    return Turn("system", told), Turn("user", listing)


def cut_words(text: str, max_words: int | None) -> str:
    """Return whole sentences of `text` up to `max_words` words, or that many words of its first sentence."""
    if max_words is None or len(text.split()) <= max_words:
        return text.strip()
    kept = ""
    for _, end in sentences(text):
        if len(text[:end].split()) > max_words:
            break
        kept = text[:end]
    return kept.strip() or " ".join(text.split()[:max_words])
