"""The index of one store's vectors through its life: read or built, kept up by the journal, saved, thrown away.

Contract: the index is a cache. Writers never touch it: triggers in the database note in a journal which memories
changed, and before each search, and in the background, what was noted since is looked up again. What a search returns
is always scored and checked in SQLite, so an index that is behind, or not there, costs time but never a wrong hit.
"""

from __future__ import annotations

import json
import logging
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from engine import index_file, spaces
from engine.connections import Row, rows
from engine.errors import OutOfBudget, StoreError
from engine.faculties import Faculties
from engine.index import SAMPLE, Entries, VectorIndex, Wanted, bytes_of
from engine.migrations import SHIFT
from engine.records import category_code, hashed
from engine.spaces import Place
from engine.store import Store

if TYPE_CHECKING:
    import numpy as np
    from apsw import Connection
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_log = logging.getLogger("engine.shortlist")
FEW = 1000  # memories that are scored without an index
_BATCH = 4096  # vectors read, or journal entries applied, between two looks at who waits
_WORTH_SAVING = 0.1  # of its entries must have changed
_ENTRIES = f"""
    SELECT seq, user, source, category, moment, vector FROM memories JOIN vectors ON key = (? << {SHIFT} | seq)
    WHERE superseded_by IS NULL
"""


class Shortlist:
    """Says which memories may be the nearest to a vector; any thread may ask."""

    def __init__(self, store: Store, faculties: Faculties) -> None:
        self._store, self._room = store, faculties.room
        self.path = store.path.with_name("index") / index_file.NAME
        self._lock = threading.Lock()  # of the next three
        self._index: VectorIndex | None = None
        self._number = 0  # of the space that is in it
        self._generation = 0  # of the journal, up to which it was applied
        self._saving = threading.Lock()  # of the file
        self._saved: int | None = None  # the generation of the file, None where it is not this index
        self._missed = False  # a search had to do without
        self._stopped = False

    def near(self, db: Connection, found: Place, vector: Floats, k: int, wanted: Wanted) -> list[int] | None:
        """Return the numbers of the `k` memories that may be nearest, or of all that match where these are few.

        None where there is no index: of few memories, of a space being filled, before it is built, without room.
        """
        serving = spaces.serving(db)
        if serving is None or serving.number != found.number or not _many(db):
            return None
        with self._lock:
            if not self._is_ready(db, found):
                self._missed = True
                return None
            assert self._index is not None
            ids: list[int] = self._index.candidates(vector, k, wanted).tolist()
            return ids

    @property
    def missed(self) -> bool:
        """Whether a search had to do without the index, and nobody has looked after it since."""
        return self._missed

    def tend(self) -> bool:
        """Build the index if a search missed it, bring it up to date, and save it if much of it has changed."""
        if not self._store.exists():
            return False
        with self._store.read() as db:
            found = spaces.serving(db)
        if found is None:
            return False
        if (self._missed and self._index is None) or (self._index is not None and self._index.outgrown):
            self._build(found)
        self._missed = False
        while not self._stopped and self._behind():
            pass
        if self._changes() > _WORTH_SAVING * len(self._index or ()):
            self.save()
        return False

    def save(self) -> None:
        """Write the index to its file if anything changed; a failure is only logged, and costs a rebuild later."""
        with self._saving:
            if not self._store.is_writer:
                return
            try:
                self._write()
            except (OSError, StoreError) as error:
                _log.warning("the index was not saved and may have to be built anew: %s", type(error).__name__)

    def discard(self) -> None:
        """Remove the file: something was forgotten that may be in it."""
        with self._saving:
            if self.path.parent.exists():
                try:
                    index_file.discard(self.path.parent)
                except OSError as error:  # somebody else has it open: the traces stay owed
                    raise StoreError(f"{error.filename} cannot be removed: {error.strerror}. Try again.") from error
            self._saved = None

    def stop(self) -> None:
        """Let `tend` end soon."""
        self._stopped = True

    # ---- with the lock

    def _is_ready(self, db: Connection, found: Place) -> bool:
        if self._number != found.number:
            self._index, self._number = None, found.number
        if self._index is None:
            self._load(db, found)
        if self._index is None or _pruned(db) > self._generation:
            self._index = None
            return False
        if _top(db) - self._generation > _BATCH:
            return False
        return self._follow(db)

    def _load(self, db: Connection, found: Place) -> None:
        checksum = _meta(db, "index")
        if checksum is None or not self._has_room(_count(db), found.dim):
            return
        try:
            self._index, self._generation = index_file.load(
                self.path, model=found.space.model, store=str(_meta(db, "store")), dim=found.dim, checksum=str(checksum)
            )
            self._saved = self._generation
        except index_file.Unusable as error:
            _log.warning("the index file is built anew: %s", error)
            if self._store.is_writer:
                index_file.quarantine(self.path)

    def _follow(self, db: Connection) -> bool:
        """Look again at what the journal says has changed, a batch of it; return False where there is no room."""
        index = self._index
        assert index is not None
        last = min(_top(db), self._generation + _BATCH)
        if last <= self._generation:
            return True
        sql = "SELECT DISTINCT memory FROM journal WHERE generation > ? AND generation <= ?"
        changed = [memory for (memory,) in rows(db, sql, (self._generation, last))]
        found = rows(db, f"{_ENTRIES} AND seq IN (SELECT value FROM json_each(?))", (self._number, json.dumps(changed)))
        if not self._has_room(len(index) + len(found), index.dim):
            self._index = None
            return False
        self._index = None  # until it is whole again: what cuts this short must not leave half of it
        index.remove(_ids(set(changed).difference(row[0] for row in found)))
        _put(index, found)
        self._index, self._generation = index, last
        return True

    # ---- without it

    def _write(self) -> None:
        written = self._written()
        if written is None:
            return
        checksum, generation = written
        # Not with the lock: who wipes has the writer, and waits for searches, which may wait for the lock.
        with self._store.write() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('index', ?)", (checksum,))
            db.execute("INSERT OR REPLACE INTO meta VALUES ('pruned', ?)", (generation,))
            db.execute("DELETE FROM journal WHERE generation <= ?", (generation,))
        self._saved = generation

    def _written(self) -> tuple[str, int] | None:
        """Write the file; return its checksum and generation, None where nothing has changed or is worth it."""
        with self._lock:
            with self._store.read() as db:
                while self._index is not None and self._generation < _top(db) and self._follow(db):
                    pass
                found, store = spaces.serving(db), str(_meta(db, "store"))
            index, generation = self._index, self._generation
            if index is None or found is None or found.number != self._number:
                return None
            if generation == self._saved or len(index) <= FEW:
                return None
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            model = found.space.model
            return index_file.save(self.path, index, model=model, store=store, generation=generation), generation

    def _behind(self) -> bool:
        """Apply a batch of the journal; return whether there is more."""
        with self._lock, self._store.read() as db:
            if self._index is None or _pruned(db) > self._generation or not _serves(db, self._number):
                return False
            if not self._follow(db):
                return False
            return self._generation < _top(db)

    def _changes(self) -> int:
        if self._index is None:
            return 0
        return len(self._index) if self._saved is None else self._generation - self._saved

    def _build(self, found: Place) -> None:
        """Make the index from SQLite, a batch a time, so that nobody waits; then the journal brings it up to date."""
        with self._store.read() as db:
            generation, total = _top(db), _count(db)
            first = _sample(db, found)
        if not first or not self._has_room(total, found.dim):
            return
        index, after = VectorIndex(found.dim), 0
        _put(index, first)
        while not self._stopped:
            with self._store.read() as db:
                batch = rows(db, f"{_ENTRIES} AND seq > ? ORDER BY seq LIMIT ?", (found.number, after, _BATCH))
            if not batch:
                break
            _put(index, batch)
            after = batch[-1][0]
        if self._stopped:  # it is not whole
            return
        with self._lock:
            self._index, self._number, self._generation = index, found.number, generation
            self._saved = None

    def _has_room(self, vectors: int, dim: int) -> bool:
        try:
            self._room(bytes_of(vectors, dim))
        except OutOfBudget as error:
            _log.warning("memories are searched without an index: %s", error.code)
            return False
        return True


def _put(index: VectorIndex, found: list[Row]) -> None:
    import numpy as np

    if not found:
        return
    seqs, users, sources, categories, moments, blobs = zip(*found, strict=True)
    entries = Entries(
        memory=_ids(seqs),
        user=np.array([_hashed(user) for user in users], np.uint64),
        source=np.array([0 if source is None else _hashed(source) for source in sources], np.uint64),
        category=np.array([category_code(category) for category in categories], np.uint8),
        moment=np.array(moments, np.int64),
    )
    index.add(entries, spaces.decoded(blobs, index.dim))


_hashed = lru_cache(maxsize=1024)(hashed)


def _ids(numbers: object) -> NDArray[np.int64]:
    import numpy as np

    return np.array(list(numbers), np.int64)  # type: ignore[call-overload]


def _many(db: Connection) -> bool:
    return bool(rows(db, "SELECT 1 FROM memories LIMIT 1 OFFSET ?", (FEW,)))


def _count(db: Connection) -> int:
    ((number,),) = rows(db, "SELECT count(*) FROM memories")
    return int(number)


def _sample(db: Connection, found: Place) -> list[Row]:
    """Return entries from all over the space, to take the centre from: what came first may be a topic of its own."""

    sql = f"{_ENTRIES} AND seq IN (SELECT seq FROM memories WHERE superseded_by IS NULL ORDER BY random() LIMIT ?)"
    return rows(db, sql, (found.number, SAMPLE))


def _serves(db: Connection, number: int) -> bool:
    """Return whether the journal is about this space."""
    found = spaces.serving(db)
    return found is not None and found.number == number


def _top(db: Connection) -> int:
    found = rows(db, "SELECT seq FROM sqlite_sequence WHERE name = 'journal'")
    return int(found[0][0]) if found else 0


def _pruned(db: Connection) -> int:
    return int(str(_meta(db, "pruned") or 0))


def _meta(db: Connection, name: str) -> object:
    found = rows(db, "SELECT value FROM meta WHERE name = ?", (name,))
    return found[0][0] if found else None
