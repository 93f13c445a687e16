"""A memory as a value, as a row and as a filter: all that knows the columns of the table `memories`."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import InvalidInput
from engine.inputs import CATEGORIES, KINDS, Moment, check_moment, check_text
from engine.store import Row, rows

if TYPE_CHECKING:
    from apsw import Connection

_A = TypeVar("_A")
_B = TypeVar("_B")
IMPORTANCE = 0.5  # of a memory that nothing has judged yet
COLUMNS = "id, text, category, kind, source, user, created, happened, valid_from, valid_to, superseded_by, importance"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Memory:
    """One text that was remembered, verbatim; every time is an aware datetime.

    `when` is what the caller said it is about (a date is its local midnight); `valid_from` is when it was
    learnt, `valid_to` is None while it holds. `importance` lies between 0 and 1.
    """

    id: str
    text: str
    category: str | None
    kind: str | None
    source: str | None
    user: str
    created: datetime
    when: datetime | None
    valid_from: datetime | None
    valid_to: datetime | None
    superseded_by: str | None
    importance: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, times as ISO 8601 strings."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that was found: `score` from 0 to 1, and its `parts` where they were asked for."""

    memory: Memory
    score: float
    parts: dict[str, float] | None = field(default=None, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, the memory as a dict too."""
        return {"memory": self.memory.to_dict(), "score": self.score, "parts": self.parts}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which memories are meant; `since` and `until` are inclusive and hold for `when`, else `created`.

    An `until` without a time of day is that whole day. Raises `InvalidInput` or `TypeError` when made.
    """

    user: str
    category: str | None = None
    source: str | None = None
    since: Moment | None = None
    until: Moment | None = None

    def __post_init__(self) -> None:
        check_text(self.user, "user")
        one_of(self.category, CATEGORIES, "category")
        optional(self.source, "source")
        self.sql()

    def sql(self) -> tuple[str, list[str | int]]:
        """Return a condition on `memories` and its values."""
        every = {
            "user = ?": self.user,
            "category = ?": self.category,
            "source = ?": self.source,
            "moment >= ?": _optional(_stamp, check_moment(self.since, "since")),
            "moment <= ?": _optional(_stamp, check_moment(_end(self.until), "until")),
        }
        used = {clause: value for clause, value in every.items() if value is not None}
        return " AND ".join(used), list(used.values())


@dataclass(frozen=True, slots=True)
class Draft:
    """What the texts of one `remember` share. Raises `InvalidInput` or `TypeError` when made."""

    user: str
    category: str | None
    kind: str | None
    source: str | None
    when: datetime | None

    def __post_init__(self) -> None:
        check_text(self.user, "user")
        one_of(self.category, CATEGORIES, "category")
        one_of(self.kind, KINDS, "kind")
        optional(self.source, "source")


def one_of(value: str | None, known: tuple[str, ...], what: str) -> None:
    """Raise `InvalidInput` unless `value` is None or one of `known`."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{what} must be a str or None, not {type(value).__name__}")
    if value is not None and value not in known:
        raise InvalidInput(f"{what} must be one of {', '.join(known)}")


def optional(value: str | None, what: str) -> None:
    """Raise what `check_text` raises unless `value` is None."""
    if value is not None:
        check_text(value, what)


def find(db: Connection, user: str, text: str) -> Memory | None:
    """Return the current memory of `user` with exactly this text."""
    sql = f"SELECT {COLUMNS} FROM memories WHERE user = ? AND digest = ? AND superseded_by IS NULL"
    return next((memory(row) for row in rows(db, sql, (user, _digest(text)))), None)


def add(db: Connection, draft: Draft, text: str) -> tuple[int, Memory]:
    """Insert a memory; return its number, which grows and is never given twice, and the memory."""
    now = _stamp(datetime.now(UTC))
    row = {
        "id": uuid.uuid4().hex,
        "text": text,
        "digest": _digest(text),
        "category": draft.category,
        "kind": draft.kind,
        "source": draft.source,
        "user": draft.user,
        "created": now,
        "happened": _optional(datetime.isoformat, draft.when),
        "moment": now if draft.when is None else _stamp(draft.when),
        "valid_from": now,
        "importance": IMPORTANCE,
    }
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    sql = f"INSERT INTO memories ({names}) VALUES ({marks}) RETURNING seq, {COLUMNS}"
    ((seq, *columns),) = rows(db, sql, tuple(row.values()))
    return int(seq), memory(tuple(columns))


def memory(row: Row) -> Memory:
    """Return the memory of a row of `COLUMNS`, which are in the order of its fields."""
    created, happened, valid_from, valid_to = row[6:10]
    times: Row = (
        _local(created),
        _optional(datetime.fromisoformat, happened),
        _optional(_local, valid_from),
        _optional(_local, valid_to),
    )
    return Memory(*row[:6], *times, *row[10:])


def _optional(function: Callable[[_A], _B], value: _A | None) -> _B | None:
    return None if value is None else function(value)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()


def _stamp(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _local(stamp: int) -> datetime:
    # Not fromtimestamp(): it goes through a float, and refuses times before 1970 on Windows.
    return (_EPOCH + stamp * _MICROSECOND).astimezone()


def _end(value: Moment | None) -> Moment | None:
    """Return the last moment of a day that is named without a time."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time.max)
    return value
