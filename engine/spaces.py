"""The vectors of memories in SQLite, by the embedding model that made them, and which of these is searched.

A vector is kept in half precision, the sparse weights of a text beside it; both are what search scores with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.connections import rows
from engine.errors import StoreError
from engine.faculties import Embedded, Space
from engine.migrations import SHIFT

if TYPE_CHECKING:
    import numpy as np
    from apsw import Connection
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_KEPT = 2  # spaces: the one that is searched, and the one before it for the way back


@dataclass(frozen=True, slots=True)
class Place:
    """A space as the database knows it; `complete`: every memory has a vector there."""

    number: int
    space: Space
    dim: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Coded:
    """A vector, and sparse weights where there are any, as they are stored."""

    vector: bytes
    weights: bytes | None


def coded(embedded: Embedded) -> list[Coded]:
    """Return what is stored of each text. Raises `StoreError` for vectors that are not finite."""
    import numpy as np

    if not np.isfinite(embedded.dense).all():
        raise StoreError("the embedding model gave vectors that are not numbers; check it: gieok models verify")
    sparse: Sequence[dict[int, float] | None] = embedded.sparse or [None] * len(embedded.dense)
    return [
        Coded(row.tobytes(), None if weights is None else _packed(weights))
        for row, weights in zip(embedded.dense.astype("<f2"), sparse, strict=True)
    ]


def decoded(blobs: Sequence[bytes], dim: int) -> Floats:
    """Return stored vectors as float32 (n, dim) of unit length. Raises `StoreError` where they have another length."""
    import numpy as np

    if any(len(blob) != 2 * dim for blob in blobs):
        raise other_length(dim)
    return unit(np.frombuffer(b"".join(blobs), dtype="<f2").reshape(-1, dim).astype(np.float32))


def other_length(dim: int) -> StoreError:
    """Return what to raise where a model's vectors do not have the `dim` numbers that its stored ones have."""
    return StoreError(
        f"stored vectors do not have the {dim} numbers of this embedding model, though it is the same one; "
        "check it: gieok models verify"
    )


def unit(vectors: Floats) -> Floats:
    """Return (n, d) vectors at length 1; zeros stay."""
    import numpy as np

    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.maximum(length, np.finfo(np.float32).tiny)
    return scaled


def product(weights: dict[int, float], blob: bytes | None) -> float:
    """Return the inner product of sparse weights with stored ones, 0 where there are none."""
    import numpy as np

    if not blob:
        return 0.0
    count = len(blob) // 6
    tokens, values = np.frombuffer(blob, "<u4", count), np.frombuffer(blob, "<f2", count, offset=4 * count)
    return sum(weights.get(token, 0.0) * float(value) for token, value in zip(tokens.tolist(), values, strict=True))


def _packed(weights: dict[int, float]) -> bytes:
    import numpy as np

    tokens = np.fromiter(weights.keys(), "<u4", len(weights))
    return tokens.tobytes() + np.fromiter(weights.values(), "<f2", len(weights)).tobytes()


def key(number: int, memory: int) -> int:
    """Return the key of a memory's vector in the space `number`."""
    return number << SHIFT | memory


# ---- which spaces there are


def place(db: Connection, space: Space) -> Place | None:
    """Return where the vectors of a model are, None where it has made none."""
    return _place(db, "model = ?", space.model)


def serving(db: Connection) -> Place | None:
    """Return the space that is searched."""
    return _place(db, "number = (SELECT value FROM meta WHERE name = 'serving')")


def _place(db: Connection, where: str, *values: str) -> Place | None:
    found = rows(db, f"SELECT number, model, name, dim, complete FROM spaces WHERE {where}", values)
    return next((Place(row[0], Space(row[1], row[2]), row[3], bool(row[4])) for row in found), None)


def made(db: Connection, space: Space, dim: int) -> Place:
    """Return the space of a model, making it where there is none; the first one is searched at once."""
    first = not rows(db, "SELECT 1 FROM memories LIMIT 1")
    db.execute(
        "INSERT INTO spaces (model, name, dim, complete) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (space.model, space.name, dim, first),
    )
    found = place(db, space)
    assert found is not None
    if found.dim != dim:  # a file that was imported lied about whose vectors it has; they can be made again
        _empty(db, found.number, dim)
        found = replace(found, dim=dim, complete=False)
    if first or serving(db) is None:
        serve(db, found)
    return found


def distrust_indexes(db: Connection) -> None:
    """Let no index be followed by the journal from before: it notes changes of the space alone that was searched."""
    db.execute("INSERT INTO journal (memory) VALUES (0)")
    db.execute("INSERT OR REPLACE INTO meta SELECT 'pruned', max(generation) FROM journal")
    db.execute("DELETE FROM meta WHERE name = 'index'")


def _empty(db: Connection, number: int, dim: int) -> None:
    db.execute("DELETE FROM vectors WHERE key >= ? AND key < ?", (key(number, 0), key(number + 1, 0)))
    db.execute("UPDATE spaces SET dim = ?, complete = 0, cohort = NULL WHERE number = ?", (dim, number))
    distrust_indexes(db)


def serve(db: Connection, found: Place) -> None:
    """Search this space from now on; of the others only the last one stays."""
    before = serving(db)
    if before is None or before.number != found.number:
        distrust_indexes(db)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('serving', ?)", (found.number,))
    keep = {found.number, before.number if before else found.number}
    for (number,) in rows(db, "SELECT number FROM spaces"):
        if len(keep) >= _KEPT and number not in keep:
            db.execute("DELETE FROM vectors WHERE key >= ? AND key < ?", (key(number, 0), key(number + 1, 0)))
            db.execute("DELETE FROM spaces WHERE number = ?", (number,))


# ---- vectors


def put(db: Connection, found: Place, memory: int, vector: Coded) -> None:
    """Store a memory's vector; in other spaces it has none until they are filled."""
    sql = (
        "INSERT INTO vectors VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET vector = excluded.vector, "
        "weights = excluded.weights"
    )
    db.execute(sql, (key(found.number, memory), vector.vector, vector.weights))
    db.execute("UPDATE spaces SET complete = 0 WHERE complete AND number <> ?", (found.number,))


def drop(db: Connection, memory: int) -> None:
    """Remove a memory's vectors from every space: its text is another one now, and the next `put` is to follow."""
    db.execute(f"DELETE FROM vectors WHERE key IN (SELECT number << {SHIFT} | ? FROM spaces)", (memory,))


def missing(db: Connection, number: int, after: int, most: int) -> list[tuple[int, str]]:
    """Return number and text of the next memories that have no vector in a space, in order."""
    sql = (
        "SELECT seq, text FROM memories WHERE seq > ? AND NOT EXISTS "
        f"(SELECT 1 FROM vectors WHERE key = ? << {SHIFT} | seq) ORDER BY seq LIMIT ?"
    )
    return [(seq, text) for seq, text in rows(db, sql, (after, number, most))]


def stored(db: Connection, number: int, memories: Iterable[int]) -> dict[int, bytes]:
    """Return the vectors that memories have in a space."""
    import json

    sql = (
        f"SELECT key & {(1 << SHIFT) - 1}, vector FROM vectors "
        f"WHERE key IN (SELECT ? << {SHIFT} | value FROM json_each(?))"
    )
    return dict(rows(db, sql, (number, json.dumps(list(memories)))))


# ---- the cohort of a space


def cohort(db: Connection, found: Place) -> Floats | None:
    """Return the (m, dim) vectors of the cohort's sentences, None before they were put there."""
    kept = rows(db, "SELECT cohort FROM spaces WHERE number = ? AND cohort IS NOT NULL", (found.number,))
    if not kept:
        return None
    ((blob,),) = kept
    step = 2 * found.dim
    return decoded([blob[at : at + step] for at in range(0, len(blob), step)], found.dim)


def put_cohort(db: Connection, space: Space, vectors: Floats) -> None:
    """Keep the vectors of the cohort's sentences."""
    db.execute("UPDATE spaces SET cohort = ? WHERE model = ?", (vectors.astype("<f2").tobytes(), space.model))
