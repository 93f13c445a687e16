"""Memories as JSON Lines: out of a store, and into one that may have some of them already.

The first line says what the file is. Every other line is a memory: its fields, what became of it (`fate`) and, where
that was asked for, its vector. They stand in the order in which they were stored, and that order is their history: what
the clocks of the machines said is kept, and decides nothing. A time without an offset is local where it is read.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from engine import spaces
from engine.connections import rows
from engine.errors import InvalidInput, StoreError
from engine.exported import VERSION, WHAT, Line, read, refused
from engine.faculties import Space
from engine.inputs import check_text
from engine.metrics import Progress, ProgressCallback, report
from engine.records import COLUMNS, digest, find, memory, stamp

if TYPE_CHECKING:
    from apsw import Connection

_BATCH = 1_000  # memories of one transaction
_BATCH_BYTES = 1 << 23  # of lines in RAM at once, beside one that is longer

Transaction = Callable[[], AbstractContextManager["Connection"]]


@dataclass(frozen=True, slots=True)
class Imported:
    """How many memories an import added, and how many it skipped since they were there already."""

    added: int
    skipped: int

    def to_dict(self) -> dict[str, int]:
        """Return the fields."""
        return asdict(self)


# ---- out


def export(
    db: Connection | None,
    path: Path,
    *,
    user: str | None = None,
    vectors: bool = False,
    progress: ProgressCallback | None = None,
) -> int:
    """Write the memories of `user`, or of all, superseded ones too; return how many. `db` is None where none are kept.

    With `vectors` those that are searched now go along. What stood at `path` is replaced once the new file is whole and
    on the disk; only this user of the system may read it. Raises `InvalidInput` for a path below the home, where
    forgetting would have to find it, `StoreError`, and `Cancelled`.
    """
    target = _target(db, path)
    where, values = ("WHERE user = ?", (check_text(user, "user"),)) if user is not None else ("", ())
    total = 0
    try:
        with _whole(target) as file:
            if db is not None:
                ((total,),) = rows(db, f"SELECT count(*) FROM memories {where}", values)
            file.write(_json({"gieok": WHAT, "version": VERSION, "count": total}))
            for done, line in enumerate(_lines(db, where, values, vectors) if db is not None else ()):
                if done % _BATCH == 0:
                    report(progress, Progress("export memories", done, total, "memories"))
                file.write(line)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}. Nothing of it was replaced.") from error
    return int(total)


def _target(db: Connection | None, path: Path) -> Path:
    """Return where a file is to stand; behind a link, what the link means."""
    target = path.expanduser().resolve()
    if target.exists() and not target.is_file():
        raise InvalidInput(f"{target} is not a file; name one that may be replaced, or a new one.")
    if db is not None and target.is_relative_to(Path(db.filename).resolve().parent):
        raise InvalidInput(
            f"{target} lies in the folder of the memories, where what is forgotten may stand in no file; "
            "name a place outside of it."
        )
    return target


@contextmanager
def _whole(target: Path) -> Iterator[BinaryIO]:
    """Write beside `target`, and put the file in its place when it is on the disk."""
    from engine.workplace import sync

    handle, name = tempfile.mkstemp(prefix=".gieok-", suffix=".part", dir=target.parent)  # mode 0600
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
        sync(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def _lines(db: Connection, where: str, values: tuple[str, ...], vectors: bool) -> Iterator[bytes]:
    place = spaces.serving(db) if vectors else None
    for seq, fate, *columns in db.execute(f"SELECT seq, fate, {COLUMNS} FROM memories {where} ORDER BY seq", values):
        said = {**memory(tuple(columns)).to_dict(), "fate": fate}
        yield _json({**said, **_vector_of(db, seq, place)} if place else said)


def _vector_of(db: Connection, seq: int, place: spaces.Place) -> dict[str, str]:
    found = rows(db, "SELECT vector, weights FROM vectors WHERE key = ?", (spaces.key(place.number, seq),))
    said = {name: _coded(blob) for row in found for name, blob in zip(("vector", "weights"), row, strict=True) if blob}
    return {"model": place.space.model, **said} if said else {}


def _coded(blob: bytes) -> str:
    return base64.b64encode(blob).decode("ascii")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n"


# ---- in


def import_(
    write: Transaction, path: Path, *, space: Space | None, progress: ProgressCallback | None = None
) -> Imported:
    """Add the memories of a file that are not here, as they stand there; nothing is compared with what is here.

    Skipped are those whose id is here, and those whose text the user has as a current memory; what they superseded
    counts as superseded by that one. `write` begins a transaction; there is one every 1,000 memories, so that what was
    cut short goes on when it is run again. Vectors of the embedding model of `space` are taken along,
    others left. Raises `InvalidInput` with file and line, `StoreError`, `Cancelled`.
    """
    path = path.expanduser()
    known: dict[str, str] = {}
    added = skipped = done = 0
    size = _size(path)
    for batch in _batches(read(path)):
        report(progress, Progress("import memories", done, size, "bytes"))
        with write() as db:
            new = sum(_add(db, line, known, space, path) for line in batch)
        added, skipped, done = added + new, skipped + len(batch) - new, batch[-1].end
    return Imported(added, skipped)


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    begun = 0
    for line in lines:
        batch.append(line)
        if len(batch) == _BATCH or line.end - begun >= _BATCH_BYTES:
            yield batch
            batch, begun = [], line.end
    if batch:
        yield batch


def _add(db: Connection, line: Line, known: dict[str, str], space: Space | None, path: Path) -> bool:
    """Add one memory unless it is here; `known` is what stands for the ids that were skipped for their text."""
    new = line.memory
    if rows(db, "SELECT 1 FROM memories WHERE id = ?", (new.id,)):
        return False
    if new.superseded_by is None and (same := find(db, new.user, new.text, new.when)):
        known[new.id] = same.id
        db.execute("UPDATE memories SET superseded_by = ? WHERE superseded_by = ?", (same.id, new.id))
        return False
    place = _place(db, line, space, path)  # before the memory is there: who is first has a space that is complete
    seq = _insert(db, line, known.get(new.superseded_by or "", new.superseded_by))
    if place is None or line.vector is None:
        db.execute("UPDATE spaces SET complete = 0 WHERE complete")
    else:
        spaces.put(db, place, seq, spaces.Coded(line.vector, line.weights))
    return True


def _insert(db: Connection, line: Line, superseded_by: str | None) -> int:
    new = line.memory
    row = {
        "id": new.id,
        "text": new.text,
        "digest": digest(new.text, new.when),
        "category": new.category,
        "kind": new.kind,
        "source": new.source,
        "user": new.user,
        "created": stamp(new.created),
        "happened": None if new.when is None else new.when.isoformat(),
        "moment": stamp(new.when or new.created),
        "valid_from": None if new.valid_from is None else stamp(new.valid_from),
        "valid_to": None if new.valid_to is None else stamp(new.valid_to),
        "superseded_by": superseded_by,
        "importance": new.importance,
        "fate": line.fate,
    }
    sql = f"INSERT INTO memories ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) RETURNING seq"
    ((seq,),) = rows(db, sql, tuple(row.values()))
    return int(seq)


def _place(db: Connection, line: Line, space: Space | None, path: Path) -> spaces.Place | None:
    """Return where the vector of a line belongs, None where it has none or that of another model."""
    if line.vector is None or space is None or line.model != space.model:
        return None
    dim, found = len(line.vector) // 2, spaces.place(db, space)
    if found is not None and found.dim != dim:
        why = f"its vector has {dim:,} numbers, where those of this model have {found.dim:,}"
        raise refused(path, line.number, why)
    return found or spaces.made(db, space, dim)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
