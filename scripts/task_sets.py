"""The project's Korean test sets for the tasks, read from a folder and checked line by line.

Each is a file of JSON Lines, but for the times (tab separated, with a header). Of most sets one half, `dev`, may be
looked at; what is reported is found on the other, `test`. Beside them stands 3i4K (Cho et al. 2018), which is no part
of Gieok: a class and an utterance a line, tab separated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal, TypeVar, get_args

from korean_sets import NoData

from engine.inputs import CATEGORIES, Kind
from engine.korean.intent import Intent

Half = Literal["dev", "test"]
Split = Literal["dev", "test", "all"]
Span = tuple[date, date]

SENTENCES, DIALOGUES, UTTERANCES = "sentences.jsonl", "extraction.jsonl", "utterances.jsonl"
LONG, TIMES, PROMPTS = "long_dialogues.jsonl", "times.tsv", "prompts.jsonl"
HEADER = "sentence\tat\tstart\tend\tsplit"
_ASKS = {1: False, 2: True, 3: False, 4: True, 5: False}  # class of 3i4K → question or not; 0 and 6 may be either


@dataclass(frozen=True, slots=True)
class Sentence:
    """What a user says or a note holds, and which of the eight categories it belongs to."""

    text: str
    category: str
    split: Half

    def __post_init__(self) -> None:
        _check(self.category)


@dataclass(frozen=True, slots=True)
class Gold:
    """What is to be remembered: a sentence of user turn `source`, and the first day of the time that it names."""

    text: str
    kind: Kind
    category: str
    source: int
    when: date | None

    def __post_init__(self) -> None:
        _check(self.category)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue held at `at`, what is to be remembered of it, and what no memory may hold."""

    id: str
    split: Half
    type: Literal["normal", "nothing", "hostile"]
    at: datetime
    dialogue: list[dict[str, str]]
    memories: list[Gold]
    never: list[str]


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a user said at `at`, and what that means; `when` is the first and the last day of the time named."""

    text: str
    at: datetime
    intent: Intent
    is_question: bool
    when: Span | None
    needs_memory: bool
    split: Half


@dataclass(frozen=True, slots=True)
class Fact:
    """What a summary must keep: it does where of each group of `keys` one alternative stands in it."""

    fact: str
    keys: list[list[str]]


@dataclass(frozen=True, slots=True)
class Long:
    """A long dialogue and its facts; all are in both halves."""

    id: str
    at: datetime
    dialogue: list[dict[str, str]]
    facts: list[Fact]


@dataclass(frozen=True, slots=True)
class Dated:
    """A sentence said on day `at`, and the first and the last day that it names; `line` is where it stands."""

    text: str
    at: date
    when: Span | None
    split: Half
    line: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an assistant is told in passing, in Korean."""

    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """An utterance of 3i4K, and whether its class is that of questions."""

    text: str
    is_question: bool


Row = TypeVar("Row", Sentence, Dialogue, Utterance, Long, Prompt)
Halved = TypeVar("Halved", Sentence, Dialogue, Utterance, Dated)
Item = TypeVar("Item")


def sentences(folder: Path, split: Split) -> list[Sentence]:
    """Return the sentences of a half. Raises `NoData`."""
    return _of_half(_rows(folder / SENTENCES, Sentence), split, folder / SENTENCES)


def utterances(folder: Path, split: Split) -> list[Utterance]:
    """Return the utterances of a half. Raises `NoData`."""
    return _of_half(_rows(folder / UTTERANCES, Utterance), split, folder / UTTERANCES)


def dialogues(folder: Path, split: Split) -> list[Dialogue]:
    """Return the dialogues of a half, whose memories all stand in a user turn. Raises `NoData`."""
    path = folder / DIALOGUES
    rows = _rows(path, Dialogue)
    for number, row in enumerate(rows, 1):
        for gold in row.memories:
            turn = row.dialogue[gold.source] if 0 <= gold.source < len(row.dialogue) else {}
            if turn.get("role") != "user" or gold.text not in turn["content"]:
                raise NoData(f"{path}:{number}: the text of a memory does not stand in user turn {gold.source}.")
    return _of_half(rows, split, path)


def long_dialogues(folder: Path) -> list[Long]:
    """Return the long dialogues; each has facts, and each fact keys. Raises `NoData`."""
    path = folder / LONG
    rows = _rows(path, Long)
    for number, row in enumerate(rows, 1):
        if not row.facts or not all(fact.keys and all(fact.keys) for fact in row.facts):
            raise NoData(f"{path}:{number}: there must be facts, each with keys, each with an alternative.")
    return rows


def prompts(folder: Path) -> list[Prompt]:
    """Return the prompts. Raises `NoData`."""
    return _rows(folder / PROMPTS, Prompt)


def times(folder: Path, split: Split) -> list[Dated]:
    """Return the sentences with their times. Raises `NoData`."""
    path = folder / TIMES
    header, *lines = _lines(path)
    if header != HEADER:
        raise NoData(f"{path}:1: the header must be {HEADER!r}.")
    return _of_half(_each(path, enumerate(lines, 2), _dated), split, path)


def intents(path: Path) -> list[Asked]:
    """Return the utterances of 3i4K that are questions (classes 2 and 4) or are not (1, 3 and 5). Raises `NoData`."""
    rows = _each(path, enumerate(_lines(path), 1), _classed)
    return _some([Asked(text, _ASKS[number]) for number, text in rows if number in _ASKS], path)


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return at most `limit` of the items, at even distances, so that all parts of a file count."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[number * len(items) // limit] for number in range(limit)]


# ---- lines


def _check(category: str) -> None:
    if category not in CATEGORIES:
        raise ValueError(f"category must be one of {', '.join(CATEGORIES)}")


def _rows(path: Path, kind: type[Row]) -> list[Row]:
    """Return the lines of a file of JSON Lines, each as `kind`."""
    from pydantic import TypeAdapter

    reads = TypeAdapter(kind)
    return _each(path, enumerate(_lines(path), 1), lambda line, _: reads.validate_json(line, strict=True))


def _each(path: Path, lines: Iterable[tuple[int, str]], read: Callable[[str, int], Item]) -> list[Item]:
    """Return what `read` makes of each line and its number; an error names file and line, and quotes nothing."""
    from pydantic import ValidationError

    found = []
    for number, line in lines:
        try:
            found.append(read(line, number))
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise NoData(f"{path}:{number}: {key + ': ' if key else ''}{first['msg']}.") from None
        except ValueError as error:
            raise NoData(f"{path}:{number}: {error}.") from None
    return found


def _dated(line: str, number: int) -> Dated:
    wanted = ValueError("a sentence, a day, two days or - and -, and dev or test must stand there, between tabs")
    try:
        text, at, *span, half = line.split("\t")
        if not text or len(span) != 2 or half not in get_args(Half):
            raise wanted
        when = None if span == ["-", "-"] else (date.fromisoformat(span[0]), date.fromisoformat(span[1]))
        return Dated(text, date.fromisoformat(at), when, "dev" if half == "dev" else "test", number)
    except ValueError:  # of a day, too
        raise wanted from None


def _classed(line: str, _number: int) -> tuple[int, str]:
    number, _, text = line.partition("\t")
    if not text or number not in set("0123456"):
        raise ValueError("a class from 0 to 6, a tab and an utterance must stand there, as in 3i4K")
    return int(number), text


def _lines(path: Path) -> list[str]:
    """Return the lines of a file, at least one; its last line break begins none."""
    if not path.is_file():
        raise NoData(f"there is no {path}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NoData(f"{path} is not in UTF-8: {error.reason}.") from None
    return _some(text.removesuffix("\n").split("\n") if text else [], path)


def _of_half(rows: list[Halved], split: Split, path: Path) -> list[Halved]:
    return _some([row for row in rows if split in ("all", row.split)], path)


def _some(rows: list[Item], path: Path) -> list[Item]:
    if not rows:
        raise NoData(f"{path} holds nothing that was asked for.")
    return rows
