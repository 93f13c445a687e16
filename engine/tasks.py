"""What the tasks return, and what every chat is asked with. Pure; runs no model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from engine import instructions
from engine.errors import InvalidInput, SchemaError
from engine.inputs import KINDS, Kind, Turn, check_text
from engine.instructions import language_of
from engine.metrics import Usage

if TYPE_CHECKING:
    from engine.generation import FinishReason
    from engine.records import Hit, Memory


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

    Raises `SchemaError` where a pydantic model's own validators refuse what its JSON Schema allows, and where Python
    reads no number of so many digits or no value so deep.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:  # a stop string ended it
        return None
    except (ValueError, RecursionError):
        raise SchemaError(
            "the answer follows the schema, but has a number too long or lists too deep for Python to read; "
            "bound them in the schema (maximum, maxItems)."
        ) from None
    try:
        return schema.model_validate(value) if hasattr(schema, "model_validate") else value
    except ValueError as error:
        raise SchemaError(
            f"the answer follows the JSON Schema of {schema.__name__}, but its validators refuse it "
            f"({type(error).__name__}); say in the schema what they want."
        ) from None
