"""What memories still lack, made in the background: vectors of the present embedding model, and morphemes.

A batch at a time, each in a transaction of its own, so that what is cut short goes on where it was.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from engine import lexical, spaces
from engine.connections import rows
from engine.faculties import Faculties, Space
from engine.metrics import Progress, ProgressCallback, report
from engine.store import Store

if TYPE_CHECKING:
    from apsw import Connection

_TEXTS = 64  # embedded or analysed between two commits


class Backfill:
    """The two chores of one store; they do nothing in a process that only reads."""

    def __init__(self, store: Store, faculties: Faculties, progress: ProgressCallback | None) -> None:
        self._store, self._faculties, self._progress = store, faculties, progress
        self._embedding = threading.Lock()  # of who searches, and the background
        self._after = 0
        self._done, self._total = 0, 0

    def embed(self) -> bool:
        """Give the next memories a vector of the present model, and search by it once all have one."""
        with self._embedding:
            return self._embed()

    def _embed(self) -> bool:
        if not (self._store.is_writer and self._store.exists()):
            return False
        space = self._faculties.space()
        with self._store.read() as db:
            found = spaces.place(db, space)
            if found is not None and found.complete:
                return self._served(found)
            lacking = spaces.missing(db, found.number if found else 0, self._after, _TEXTS)
            if not self._done:
                self._total = _memories(db)
        if not lacking:
            return self._finished(space)
        vectors = spaces.coded(self._faculties.embed([text for _, text in lacking], "passage", space))
        with self._store.write() as db:
            found = spaces.made(db, space, len(vectors[0].vector) // 2)
            for (seq, text), vector in zip(lacking, vectors, strict=True):
                if rows(db, "SELECT 1 FROM memories WHERE seq = ? AND text = ?", (seq, text)):  # as it is now
                    spaces.put(db, found, seq, vector)
        self._after, self._done = lacking[-1][0], self._done + len(lacking)
        report(self._progress, Progress("embed memories", self._done, self._total, "memories"))
        return True

    def _finished(self, space: Space) -> bool:
        """Look once more from the first memory on: some may have come, or changed, behind us."""
        self._after, self._done = 0, 0
        with self._store.write() as db:
            found = spaces.place(db, space)
            if found is None or spaces.missing(db, found.number, 0, 1):
                return found is not None
            db.execute("UPDATE spaces SET complete = 1 WHERE number = ?", (found.number,))
        return True

    def _served(self, found: spaces.Place) -> bool:
        with self._store.read() as db:
            before = spaces.serving(db)
        if before is None or before.number != found.number:
            with self._store.write() as db:
                spaces.serve(db, found)
        return False

    def analyse(self) -> bool:
        """Find the morphemes of the next memories that have none, or those of another analyser."""
        if not (self._store.is_writer and self._store.exists()):
            return False
        self._renew()
        with self._store.read() as db:
            lacking = rows(db, "SELECT seq, text FROM memories WHERE analysed = 0 ORDER BY seq LIMIT ?", (_TEXTS,))
        if not lacking:
            return False
        words = self._faculties.words([text for _, text in lacking])
        with self._store.write() as db:
            for (seq, text), found in zip(lacking, words, strict=True):
                if rows(db, "SELECT 1 FROM memories WHERE seq = ? AND text = ?", (seq, text)):
                    put_words(db, seq, text, found)
        return True

    def _renew(self) -> None:
        """Where another analyser found the morphemes, all have to be found again."""
        sql = "SELECT value FROM meta WHERE name = 'analyser'"
        with self._store.read() as db:
            if rows(db, sql) == [(self._faculties.analyser,)]:
                return
        with self._store.write() as db:
            db.execute("UPDATE memories SET analysed = 0 WHERE analysed")
            db.execute("INSERT OR REPLACE INTO meta VALUES ('analyser', ?)", (self._faculties.analyser,))


def put_words(db: Connection, seq: int, text: str, words: tuple[str, ...] | None) -> None:
    """Store what the search by words reads of a memory; None where no analyser was to be had."""
    lexical.put(db, seq, words, text)
    db.execute("UPDATE memories SET analysed = ? WHERE seq = ?", (words is not None, seq))


def _memories(db: Connection) -> int:
    ((number,),) = rows(db, "SELECT count(*) FROM memories")
    return int(number)
