"""What a file of exported memories says, read without believing it: every line is checked, and none is quoted."""

from __future__ import annotations

import base64
import codecs
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from engine.errors import InvalidInput
from engine.inputs import CATEGORIES, KINDS, check_moment, check_text
from engine.records import FATES, IMPORTANCE, Memory, one_of

WHAT, VERSION = "memories", 1  # of the first line
_ID = "[0-9A-Za-z._-]{1,64}"
_LINE = 1 << 24  # bytes of the longest line: its texts at their limits with every letter escaped, and a vector
_DIM = 1 << 16
_LENGTH = 0.02  # how far rounding to halves may take a vector's length from 1


@dataclass(frozen=True, slots=True)
class Line:
    """A memory as a file has it: in its line `number`, which ends at the byte `end`.

    `vector` is of unit length, as little-endian halves; `weights` are what the store keeps beside it; both were made by
    the embedding model `model`.
    """

    number: int
    end: int
    memory: Memory
    fate: str | None
    model: str | None
    vector: bytes | None
    weights: bytes | None


def read(path: Path) -> Iterator[Line]:
    """Yield the memories of a file, each checked. Raises `InvalidInput` with file and line, never quoting either.

    What a newer version of this format adds to a memory is left out; another version of the format is refused.
    """
    try:
        with path.open("rb") as file:
            yield from _read(file, path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def _read(file: BinaryIO, path: Path) -> Iterator[Line]:
    with _placed(path, 1):
        wanted = _announced(file.readline(_LINE + 1).removeprefix(codecs.BOM_UTF8))
    number, found = 1, 0
    while raw := file.readline(_LINE + 1):
        number += 1
        if raw.isspace():
            continue
        with _placed(path, number):
            line = _line(_object(raw), number, file.tell())
        yield line
        found += 1
    if wanted is not None and found < wanted:
        raise InvalidInput(
            f"{path} was cut short: it has {found:,} memories of {wanted:,}. Those are imported; "
            "import the whole file for the rest."
        )


@contextmanager
def _placed(path: Path, number: int) -> Iterator[None]:
    """Say in which line of which file something is wrong, and nothing of what stands there."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise refused(path, number, f"this is no JSON (column {error.colno})") from None
    except UnicodeDecodeError:
        raise refused(path, number, "this is not UTF-8") from None
    except (InvalidInput, TypeError) as error:
        raise refused(path, number, str(error)) from None
    except RecursionError:
        raise refused(path, number, "this is nested too deeply") from None
    except ValueError:
        raise refused(path, number, "a number is too long") from None


def refused(path: Path, number: int, why: str) -> InvalidInput:
    """Return the error that says what is wrong with a line."""
    return InvalidInput(f"{path}, line {number}: {why}")


def _object(raw: bytes) -> dict[str, Any]:
    """Return the object of a line. Raises `ValueError` of several kinds, `RecursionError`."""
    if len(raw) > _LINE:
        raise InvalidInput(f"the line is longer than {_LINE >> 20} MiB; no memory is")
    try:
        said = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except json.JSONDecodeError:
        if raw.endswith(b"\n"):
            raise
        raise InvalidInput("the file ends within this line; it was cut short") from None
    if not isinstance(said, dict):
        raise InvalidInput("this is no JSON object")
    return said


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        raise InvalidInput("a key stands there twice")
    return said


def _no_number(_name: str) -> None:
    raise InvalidInput("NaN and Infinity are no JSON")


def _announced(raw: bytes) -> int | None:
    """Return how many memories the first line promises, if it does."""
    try:
        said = _object(raw)
    except json.JSONDecodeError:
        said = {}
    if said.get("gieok") != WHAT:
        raise InvalidInput("this is no export of memories; make one with: gieok memory export PATH")
    version, count = said.get("version"), said.get("count")
    if type(version) is not int or version < 1 or not (count is None or type(count) is int):
        raise InvalidInput("version and count must be whole numbers")
    if version > VERSION:
        raise InvalidInput(
            f"a newer Gieok wrote this (version {version}; this one reads up to {VERSION}). "
            "Update Gieok: pip install -U gieok"
        )
    return count


def _line(said: dict[str, Any], number: int, end: int) -> Line:
    found, fate = _memory(said), said.get("fate")
    one_of(fate, FATES, "fate")
    if fate is not None and found.superseded_by is None:
        raise InvalidInput("fate is said of a memory that nothing supersedes")
    if found.superseded_by is not None:
        fate = fate or "replaced"  # which loses less: what was merged is forgotten with what it was merged into
    vector, weights = (_blob(said, what) for what in ("vector", "weights"))
    model = None if vector is None else check_text(said.get("model"), "model")
    _check_vector(vector)
    _check_weights(weights)
    return Line(number, end, found, fate, model, vector, weights)


def _memory(said: dict[str, Any]) -> Memory:
    for what, known in (("category", CATEGORIES), ("kind", KINDS)):
        one_of(said.get(what), known, what)
    name, newer, created = _id(said, "id"), _id(said, "superseded_by"), _moment(said, "created")
    if name is None or created is None:
        raise InvalidInput("id or created is missing")
    if newer == name:
        raise InvalidInput("a memory cannot supersede itself")
    return Memory(
        id=name,
        text=check_text(said.get("text"), "text"),
        category=said.get("category"),
        kind=said.get("kind"),
        source=None if said.get("source") is None else check_text(said["source"], "source"),
        user=check_text(said.get("user"), "user"),
        created=created,
        when=_moment(said, "when"),
        valid_from=_moment(said, "valid_from"),
        valid_to=_moment(said, "valid_to"),
        superseded_by=newer,
        importance=_importance(said.get("importance")),
    )


def _id(said: dict[str, Any], what: str) -> str | None:
    value = said.get(what)
    if value is not None and not (isinstance(value, str) and re.fullmatch(_ID, value)):
        raise InvalidInput(f"{what} has not the form {_ID}")
    return value


def _moment(said: dict[str, Any], what: str) -> datetime | None:
    value = said.get(what)
    if not isinstance(value, str | None):
        raise InvalidInput(f"{what} must be an ISO time, such as 2026-03-05T09:00:00+09:00")
    return check_moment(value, what)


def _importance(value: object) -> float:
    if value is None:
        return IMPORTANCE
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidInput("importance must be a number from 0 to 1")
    return float(value)


def _blob(said: dict[str, Any], what: str) -> bytes | None:
    value = said.get(what)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{what} must be a text in base64")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise InvalidInput(f"{what} is not base64, or was cut") from None


def _check_vector(vector: bytes | None) -> None:
    import numpy as np

    if vector is None:
        return
    if len(vector) % 2 or not 2 <= len(vector) <= 2 * _DIM:
        raise InvalidInput(f"vector must be 1 to {_DIM:,} halves of two bytes")
    halves = np.frombuffer(vector, dtype="<f2")
    # Looked at first: to reckon with a NaN of the signalling kind is a warning to whoever listens.
    if not np.isfinite(halves).all() or abs(float(np.linalg.norm(halves.astype(np.float64))) - 1) > _LENGTH:
        raise InvalidInput("vector is not of unit length")


def _check_weights(weights: bytes | None) -> None:
    import numpy as np

    if weights is None:
        return
    count, rest = divmod(len(weights), 6)  # a token in four bytes, its weight in two
    if rest or not np.isfinite(np.frombuffer(weights, dtype="<f2", offset=4 * count)).all():
        raise InvalidInput("weights must be tokens of four bytes and as many halves")
