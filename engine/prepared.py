"""The record of a cache of the fast path: what was prepared, from what, and by what; read without believing it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.workplace import sync

XML, BIN, TOKENIZER, RECORD = "model.xml", "model.bin", "tokenizer.json", "prepared.json"
FILES = (XML, BIN, TOKENIZER)
FORMAT = 1  # raised where what is prepared, or how, is another
_MOST = 1 << 22  # bytes of a record


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells one file from any other: bytes and hex digest."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Token ids of a few texts, and what torch in float32 makes of each: its first state, and the mean of all."""

    ids: tuple[tuple[int, ...], ...]
    first: tuple[tuple[float, ...], ...]
    mean: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a record says.

    `made_from` and `files` name files of the model and of the cache; `max_tokens` is what the model's files say that it
    reads at once, `width` how many numbers a hidden state has. `refused` is why only torch can run this model, for as
    long as `versions` and `machine` stay; then all else is empty.
    """

    made_from: dict[str, Mark]
    versions: dict[str, str]
    machine: str
    files: dict[str, Mark]
    max_tokens: int | None
    width: int
    probe: Probe | None
    refused: str | None


def read(cache: Path) -> Prepared:
    """Return the record of a cache. Raises `OSError`, and `ValueError` where it is damaged or of another format."""
    with (cache / RECORD).open("rb") as file:
        text = file.read(_MOST + 1)
    try:
        return _prepared(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{RECORD} is damaged ({type(error).__name__})") from None


def write(cache: Path, prepared: Prepared) -> None:
    """Put a record into the folder of a cache, and onto the disk. Raises `OSError`."""
    text = json.dumps({"format": FORMAT, **asdict(prepared)}, ensure_ascii=False)
    (cache / RECORD).write_text(text, encoding="utf-8", newline="\n")
    sync(cache / RECORD)


def _prepared(said: Any) -> Prepared:
    if said["format"] != FORMAT:
        raise ValueError("another format")
    refused, most = said["refused"], said["max_tokens"]
    found = Prepared(
        made_from=_marks(said["made_from"]),
        versions={name: _text(value) for name, value in said["versions"].items()},
        machine=_text(said["machine"]),
        files=_marks(said["files"]),
        max_tokens=None if most is None else _whole(most),
        width=_whole(said["width"]),
        probe=None if said["probe"] is None else _probe(said["probe"]),
        refused=None if refused is None else _text(refused),
    )
    if found.refused is None and (found.files.keys() != set(FILES) or found.probe is None or not found.width):
        raise ValueError("incomplete")
    return found


def _probe(said: Any) -> Probe:
    ids = tuple(tuple(map(_whole, row)) for row in said["ids"])
    first, mean = (tuple(tuple(map(_number, row)) for row in said[name]) for name in ("first", "mean"))
    if not ids or not all(ids) or not len(ids) == len(first) == len(mean):
        raise ValueError("an incomplete probe")
    return Probe(ids, first, mean)


def _marks(said: Any) -> dict[str, Mark]:
    return {name: Mark(_whole(mark["size"]), _text(mark["sha256"])) for name, mark in said.items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ValueError("not a size")
    return value


def _number(value: object) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError("not a number")
    return value
