"""What is remembered, and how it is found again. SQLite is the truth; the index is a cache of its vectors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import InvalidInput, MemoryNotFound, StoreError
from engine.footprint import index_bytes
from engine.index import VectorIndex
from engine.inputs import Moment, TextKind, check_moment, check_text
from engine.metrics import Progress, ProgressCallback, report
from engine.records import COLUMNS, Draft, Filter, Hit, Memory, add, find, memory
from engine.store import Row, Store, rows

if TYPE_CHECKING:
    import numpy as np
    from apsw import Connection
    from numpy.typing import NDArray

    _Scored = tuple[float, int, Row]  # cosine, number, row
    Vectors = NDArray[np.float32]

Embed = Callable[[list[str], TextKind], "Vectors"]
_FILL_BATCH = 64  # memories embedded between two commits when the embedding model has changed
_LOAD_BATCH = 4096  # vectors read at once when the index is filled
_SHORTLIST = 64  # at least so many candidates are taken from the index, to be filtered and scored exactly
_NO_VECTOR = "NOT EXISTS (SELECT 1 FROM vectors WHERE memory = seq AND model = ?)"


@dataclass(slots=True)
class _Change:
    """A transaction, and what the index must follow once it is committed."""

    db: Connection
    added: dict[int, bytes] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)


class MemoryStore:
    """The memories of one home folder, shared by any number of threads; the first use opens it.

    `embed(texts, kind)` returns (n, d) float32 and is called without the store's lock held. `model()` names
    the embedding model whose vectors may be compared with each other (its sha256, say); it is asked once. `room` is
    told how many bytes the index will have in all before it has them, and may refuse.
    Every method may raise `StoreError`, `StoreLocked` or `EngineClosed`.
    """

    def __init__(
        self,
        home: Path,
        embed: Embed,
        model: Callable[[], str],
        *,
        room: Callable[[int], object] = lambda size: None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._store = Store(home)
        self._embed = embed
        self._model = model
        self._room = room
        self._progress = progress
        self._key: str | None = None
        self._index: VectorIndex | None = None  # None: to be read from SQLite by the next search
        self._filling = threading.Lock()
        self._filled = False

    def remember(
        self,
        texts: Sequence[str],
        *,
        user: str,
        category: str | None = None,
        when: Moment | None = None,
        source: str | None = None,
        kind: str | None = None,
    ) -> list[Memory]:
        """Store each text as it is and return its memory, in order; all of them are on disk, or none.

        A text that this user has stored before gives the memory there is, unchanged. Raises `InvalidInput`.
        """
        texts = [check_text(text, f"text {i}") for i, text in enumerate(texts)]
        draft = Draft(user, category, kind, source, check_moment(when, "when"))
        vectors: dict[str, bytes] = {}
        while True:
            with self._changing() as change:
                unseen = [text for text in dict.fromkeys(texts) if text not in vectors]
                missing = [text for text in unseen if find(change.db, user, text) is None]
                if not missing:
                    return [self._find_or_add(change, draft, text, vectors) for text in texts]
            # Without a lock; what another thread forgets meanwhile is missing in the next round.
            vectors.update(zip(missing, self._encoded(missing), strict=True))
            if (index := self._index) is not None:
                self._room(index_bytes(len(index) + len(vectors), index.dim))

    def search(
        self,
        query: str,
        *,
        user: str,
        k: int,
        category: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        source: str | None = None,
        min_score: float | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """Return the at most `k` memories nearest in meaning, best first, of equal ones the newer first.

        `score` is the cosine, cut to 0..1. `since` and `until` are inclusive and hold for `when`, else
        `created`; an `until` without a time of day is that whole day. The first search embeds what has no
        vector of the current model, which `progress` is told of and may cancel. Raises `InvalidInput`.
        """
        check_text(query, "query")
        wanted = Filter(user, category, source, since, until)
        most = _positive(k, "k")
        if not self._any(wanted):
            return []
        self._fill()
        vector = _unit(self._vectors([query], "query"))[0]
        if self._index is None:
            count = self._number("SELECT count(*) FROM vectors WHERE model = ?", self._model_key())
            self._room(index_bytes(count, len(vector)))
        with self._store.read() as db:
            hits = self._ranked(db, vector, wanted, most)
        return [
            hit if explain else Hit(hit.memory, hit.score)
            for hit in hits
            if min_score is None or hit.score >= min_score
        ]

    def memories(
        self,
        *,
        user: str,
        category: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int | None = None,
    ) -> list[Memory]:
        """Return memories, the last stored first, whatever the clock said then. Raises `InvalidInput`."""
        where, values = Filter(user, category, None, since, until).sql()
        most = -1 if limit is None else _positive(limit, "limit")
        sql = f"SELECT {COLUMNS} FROM memories WHERE {where} ORDER BY seq DESC LIMIT ?"
        with self._store.read() as db:
            return [memory(row) for row in rows(db, sql, (*values, most))]

    def memory(self, id: str) -> Memory:
        """Return the memory called `id`. Raises `MemoryNotFound`."""
        check_text(id, "id")
        with self._store.read() as db:
            found = rows(db, f"SELECT {COLUMNS} FROM memories WHERE id = ?", (id,))
        if not found:
            raise MemoryNotFound(id)
        return memory(found[0])

    def count(self) -> int:
        """Return how many memories there are, of every user."""
        return self._number("SELECT count(*) FROM memories")

    def forget(self, id: str) -> None:
        """Remove a memory: its text and vector are in no file of the home then. Raises `MemoryNotFound`."""
        if not self._delete("id = ?", check_text(id, "id")):
            raise MemoryNotFound(id)

    def forget_all(self, user: str) -> int:
        """Remove every memory of `user` in the same way; return how many there were."""
        return self._delete("user = ?", check_text(user, "user"))

    def problems(self) -> list[str]:
        """Return what is wrong with the database file, nothing if it is sound."""
        return self._store.problems()

    def close(self) -> None:
        """Free the file, its lock and the index; every later call raises `EngineClosed`."""
        self._store.close()
        self._index = None

    @contextmanager
    def _changing(self) -> Iterator[_Change]:
        """Change SQLite, then the index; where that is cut short, the next search reads the index anew."""
        with self._store.read():
            index, self._index = self._index, None
            with self._store.write() as db:
                change = _Change(db)
                yield change
            if index is not None:
                _follow(index, change)
            self._index = index

    def _find_or_add(self, change: _Change, draft: Draft, text: str, vectors: dict[str, bytes]) -> Memory:
        known = find(change.db, draft.user, text)
        if known is not None:
            return known
        seq, new = add(change.db, draft, text)
        change.db.execute("INSERT INTO vectors VALUES (?, ?, ?)", (seq, self._model_key(), vectors[text]))
        change.added[seq] = vectors[text]
        return new

    def _delete(self, where: str, value: str) -> int:
        with self._store.read():
            with self._changing() as change:
                sql = f"DELETE FROM memories WHERE {where} RETURNING seq"
                change.removed = [seq for (seq,) in rows(change.db, sql, (value,))]
                if change.removed:
                    self._store.owe_wipe(change.db)
            if change.removed:
                self._store.wipe()
        return len(change.removed)

    def _any(self, wanted: Filter) -> bool:
        where, values = wanted.sql()
        with self._store.read() as db:
            return bool(rows(db, f"SELECT 1 FROM memories WHERE {where} LIMIT 1", values))

    def _model_key(self) -> str:
        if self._key is None:
            self._key = self._model()
        return self._key

    def _vectors(self, texts: list[str], kind: TextKind) -> Vectors:
        import numpy as np

        vectors = self._embed(texts, kind)
        if not np.isfinite(vectors).all():
            raise StoreError("the embedding model gave vectors that are not numbers; check it: gieok models verify")
        return vectors

    def _encoded(self, texts: list[str]) -> list[bytes]:
        self._model_key()  # before any lock is held: it may look at files
        return [row.tobytes() for row in self._vectors(texts, "passage").astype("<f2")]

    def _fill(self) -> None:
        """Give every memory a vector of the current model; those of other models stay, for the way back."""
        with self._filling:
            if self._filled:
                return
            after, done, total = 0, 0, self._unfilled()
            while rows := self._next_unfilled(after):
                report(self._progress, Progress("embed memories", done, total, "memories"))
                vectors = self._encoded([text for _, text in rows])
                self._add_vectors([seq for seq, _ in rows], vectors)
                after, done = rows[-1][0], done + len(rows)
            self._filled = True

    def _unfilled(self) -> int:
        return self._number(f"SELECT count(*) FROM memories WHERE {_NO_VECTOR}", self._model_key())

    def _number(self, sql: str, *values: str) -> int:
        with self._store.read() as db:
            ((number,),) = rows(db, sql, values)
            return int(number)

    def _next_unfilled(self, after: int) -> list[tuple[int, str]]:
        sql = f"SELECT seq, text FROM memories WHERE {_NO_VECTOR} AND seq > ? ORDER BY seq LIMIT ?"
        with self._store.read() as db:
            return [(seq, text) for seq, text in rows(db, sql, (self._model_key(), after, _FILL_BATCH))]

    def _add_vectors(self, seqs: list[int], vectors: list[bytes]) -> None:
        # From a SELECT: a memory that was forgotten meanwhile must not get its vector back.
        sql = "INSERT OR IGNORE INTO vectors SELECT seq, ?, ? FROM memories WHERE seq = ?"
        key = self._model_key()
        with self._store.write() as db:
            db.executemany(sql, [(key, vector, seq) for seq, vector in zip(seqs, vectors, strict=True)])

    def _loaded(self, db: Connection, dim: int) -> VectorIndex:
        if self._index is None:
            index = VectorIndex(dim)
            cursor = db.execute("SELECT memory, vector FROM vectors WHERE model = ?", (self._model_key(),))
            while batch := dict(islice(cursor, _LOAD_BATCH)):
                _follow(index, _Change(db, added=batch))
            self._index = index
        return self._index

    def _ranked(self, db: Connection, vector: Vectors, wanted: Filter, k: int) -> list[Hit]:
        """Return the `k` best live rows that match; the index only says where to look."""
        index = self._loaded(db, len(vector))
        size = max(4 * k, _SHORTLIST)
        seen: set[int] = set()
        found: list[_Scored] = []
        while len(found) < k and len(seen) < len(index):
            ids = index.search(vector, size)[0].tolist()
            found += self._scored(db, [seq for seq in ids if seq not in seen], vector, wanted)
            seen.update(ids)
            size *= 4
        best = sorted(found, key=lambda row: row[:2], reverse=True)[:k]
        return [Hit(memory(row), max(0.0, min(cosine, 1.0)), {"dense": cosine}) for cosine, _, row in best]

    def _scored(self, db: Connection, seqs: list[int], vector: Vectors, wanted: Filter) -> list[_Scored]:
        where, values = wanted.sql()
        sql = (
            f"SELECT seq, vector, {COLUMNS} FROM memories JOIN vectors ON memory = seq AND model = ? "
            f"WHERE seq IN (SELECT value FROM json_each(?)) AND {where}"
        )
        found = rows(db, sql, (self._model_key(), json.dumps(seqs), *values))
        # Rounded: the products of equal vectors may differ in the last bits.
        cosines = (_decoded([row[1] for row in found], len(vector)) @ vector).round(6).tolist()
        return [(cosine, row[0], row[2:]) for cosine, row in zip(cosines, found, strict=True)]


def _follow(index: VectorIndex, change: _Change) -> None:
    import numpy as np

    index.remove(np.array(change.removed, dtype=np.int64))
    index.add(np.array(list(change.added), dtype=np.int64), _decoded(list(change.added.values()), index.dim))


def _decoded(blobs: list[bytes], dim: int) -> Vectors:
    """Return fp16 rows as float32 (n, dim) of unit length."""
    import numpy as np

    if any(len(blob) != 2 * dim for blob in blobs):
        raise StoreError(
            f"stored vectors do not have the {dim} numbers of this embedding model, though it is called the "
            "same; give the model another name in models.toml."
        )
    return _unit(np.frombuffer(b"".join(blobs), dtype="<f2").reshape(-1, dim).astype(np.float32))


def _unit(vectors: Vectors) -> Vectors:
    import numpy as np

    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(length, np.finfo(np.float32).tiny)
    return unit


def _positive(value: int, what: str) -> int:
    """Return `value`, cut to what SQLite can count."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if value < 1:
        raise InvalidInput(f"{what} must be at least 1")
    return min(value, 2**31)
