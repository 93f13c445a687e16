"""A memory as a value, as a row and as a filter: all that knows the columns of the table `memories`."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from engine.connections import Row, rows
from engine.errors import InvalidInput, MemoryNotFound
from engine.index import Wanted
from engine.inputs import CATEGORIES, KINDS, Moment, check_moment, check_text

if TYPE_CHECKING:
    from apsw import Connection

_A = TypeVar("_A")
_B = TypeVar("_B")
FATES = ("merged", "replaced")  # why a memory was superseded
IMPORTANCE = 0.5  # of a memory that was said once
_REINFORCED = 0.2  # of what importance lacks to 1, each time that the same is said again
COLUMNS = "id, text, category, kind, source, user, created, happened, valid_from, valid_to, superseded_by, importance"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Memory:
    """One text that was remembered, verbatim; every time is an aware datetime.

    `when` is what the caller said it is about (a date is its local midnight); `valid_from` is when it was learnt,
    `valid_to` and `superseded_by`, the id of another memory, are None while it holds. `importance` lies between 0 and
    1, and grows each time the same is said again.
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

    def wanted(self) -> Wanted:
        """Return the same for the index, which knows texts by hashes."""
        stamps = self._stamps()
        return Wanted(
            user=hashed(self.user),
            source=_optional(hashed, self.source),
            category=_optional(category_code, self.category),
            since=stamps[0],
            until=stamps[1],
        )

    def sql(self) -> tuple[str, list[str | int]]:
        """Return a condition on `memories` and its values."""
        since, until = self._stamps()
        every = {
            "user = ?": self.user,
            "category = ?": self.category,
            "source = ?": self.source,
            "moment >= ?": since,
            "moment <= ?": until,
        }
        used = {clause: value for clause, value in every.items() if value is not None}
        return " AND ".join(used), list(used.values())

    def _stamps(self) -> tuple[int | None, int | None]:
        since, until = check_moment(self.since, "since"), check_moment(_end(self.until), "until")
        return _optional(stamp, since), _optional(stamp, until)


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


def find(db: Connection, user: str, text: str, when: datetime | None) -> Memory | None:
    """Return the current memory of `user` with exactly this text about the same time."""
    sql = f"SELECT {COLUMNS} FROM memories WHERE user = ? AND digest = ? AND superseded_by IS NULL"
    return next((memory(row) for row in rows(db, sql, (user, digest(text, when)))), None)


def add(db: Connection, draft: Draft, text: str) -> tuple[int, Memory]:
    """Insert a memory; return its number, which grows and is never given twice, and the memory."""
    present = now()
    row = {
        "id": uuid.uuid4().hex,
        "text": text,
        "digest": digest(text, draft.when),
        "category": draft.category,
        "kind": draft.kind,
        "source": draft.source,
        "user": draft.user,
        "created": present,
        "happened": _optional(datetime.isoformat, draft.when),
        "moment": present if draft.when is None else stamp(draft.when),
        "valid_from": present,
        "importance": IMPORTANCE,
    }
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    sql = f"INSERT INTO memories ({names}) VALUES ({marks}) RETURNING seq, {COLUMNS}"
    ((seq, *columns),) = rows(db, sql, tuple(row.values()))
    return int(seq), memory(tuple(columns))


class Edit(TypedDict, total=False):
    """The fields of a memory that can be corrected; `when` None means that it is about no other time than `created`."""

    text: str
    category: str | None
    kind: str | None
    source: str | None
    when: Moment | None
    importance: float


def edit(db: Connection, id: str, changes: Edit) -> tuple[int, Memory]:
    """Change the named fields of a memory; return its number, and the memory.

    Raises `MemoryNotFound`, `InvalidInput` also where the user has the new text already, `TypeError` for another field.
    """
    assigned = _assigned(changes)
    former = rows(db, "SELECT text, happened FROM memories WHERE id = ?", (id,))
    if former and changes.keys() & {"text", "when"}:
        text, happened = assigned.get("text = ?", former[0][0]), assigned.get("happened = ?", former[0][1])
        assigned["digest = ?"] = digest(str(text), _optional(datetime.fromisoformat, happened))
        if _is_taken(db, id, assigned["digest = ?"]):
            raise InvalidInput("another memory of this user says exactly this; forget one of the two")
    sql = f"UPDATE memories SET {', '.join(['id = id', *assigned])} WHERE id = ? RETURNING seq, {COLUMNS}"
    found = rows(db, sql, (*assigned.values(), id))
    if not found:
        raise MemoryNotFound(id)
    return int(found[0][0]), memory(found[0][1:])


def _is_taken(db: Connection, id: str, text: Any) -> bool:
    sql = """
        SELECT 1 FROM memories AS own JOIN memories AS other USING (user)
        WHERE own.id = ? AND own.superseded_by IS NULL
        AND other.id <> own.id AND other.digest = ? AND other.superseded_by IS NULL
    """
    return bool(rows(db, sql, (id, text)))


def _assigned(changes: Edit) -> dict[str, Any]:
    """Return assignments and their values."""
    if unknown := changes.keys() - Edit.__annotations__.keys():
        raise TypeError(f"a memory has no field {min(unknown)!r} that can be changed")
    found: dict[str, Any] = {}
    if "text" in changes:
        found["text = ?"] = check_text(changes["text"])
    for name, known in (("category", CATEGORIES), ("kind", KINDS)):
        if name in changes:
            one_of(changes[name], known, name)  # type: ignore[literal-required]
            found[f"{name} = ?"] = changes[name]  # type: ignore[literal-required]
    if "source" in changes:
        optional(changes["source"], "source")
        found["source = ?"] = changes["source"]
    if "when" in changes:
        when = check_moment(changes["when"], "when")
        found |= {
            "happened = ?": _optional(datetime.isoformat, when),
            "moment = ifnull(?, created)": _optional(stamp, when),
        }
    if "importance" in changes:
        found["importance = ?"] = share(changes["importance"], "importance")
    return found


def share(value: float, what: str) -> float:
    """Return a number from 0 to 1. Raises `TypeError`, `InvalidInput`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be a number, not {type(value).__name__}")
    if not 0 <= value <= 1:
        raise InvalidInput(f"{what} must lie between 0 and 1")
    return float(value)


def reinforce(db: Connection, known: Memory) -> Memory:
    """Note that a memory was said again; return it as it is then."""
    importance = reinforced(known.importance)
    db.execute("UPDATE memories SET importance = ? WHERE id = ?", (importance, known.id))
    return replace(known, importance=importance)


def reinforced(importance: float) -> float:
    """Return the importance of what was said once more."""
    return importance + _REINFORCED * (1 - importance)


def memory(row: Row) -> Memory:
    """Return the memory of a row of `COLUMNS`, which are in the order of its fields."""
    created, happened, valid_from, valid_to = row[6:10]
    times: Row = (
        of_stamp(created),
        _optional(datetime.fromisoformat, happened),
        _optional(of_stamp, valid_from),
        _optional(of_stamp, valid_to),
    )
    return Memory(*row[:6], *times, *row[10:])


def _optional(function: Callable[[_A], _B], value: _A | None) -> _B | None:
    return None if value is None else function(value)


def digest(text: str, when: datetime | None) -> bytes:
    """Return what exact duplicates share: the text, and when it happened where that is told: twice is not once."""
    dated = "" if when is None else f"\0{stamp(when)}"
    return hashlib.sha256(f"{text}{dated}".encode()).digest()


def hashed(text: str) -> int:
    """Return 63 bits of a text, never 0: an index entry knows users and sources by it."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little") >> 1 or 1


def category_code(category: str | None) -> int:
    """Return 0 for no category, else its number among `CATEGORIES`, from 1."""
    return 0 if category is None else CATEGORIES.index(category) + 1


def now() -> int:
    """Return the present as a stamp."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> int:
    """Return the microseconds of UTC that stand for a moment in the database."""
    return (moment - _EPOCH) // _MICROSECOND


def of_stamp(stamp: int) -> datetime:
    """Return the local time of microseconds since 1970."""
    # Not fromtimestamp(): it goes through a float, and refuses times before 1970 on Windows.
    moment = _EPOCH + stamp * _MICROSECOND
    try:
        return moment.astimezone()
    except (OverflowError, OSError, ValueError):  # the last day of the year 9999, further east
        return moment


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
