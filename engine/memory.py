"""What is remembered, and how it is found again. SQLite is the truth; all else can be made again from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine import cohort, forgetting, retriever, spaces, transfer
from engine.backfill import Backfill, put_words
from engine.connections import rows
from engine.conversations import Saying, keep, unsay
from engine.errors import EngineClosed, InvalidInput, MemoryNotFound, ModelNotFound, OutOfBudget, StoreError
from engine.faculties import Embedded, Faculties, Space
from engine.inputs import Moment, TextKind, check_moment, check_text
from engine.keeper import Keeper
from engine.metrics import Progress, ProgressCallback, report
from engine.records import COLUMNS, Draft, Edit, Filter, Hit, Memory, add, edit, find, memory, reinforce, share
from engine.retriever import Asked, Sense
from engine.settling import Settling
from engine.shortlist import Shortlist
from engine.spaces import Coded, Place
from engine.store import LOCK_TIMEOUT, Store
from engine.transcript import Transcripts
from engine.transfer import Imported

if TYPE_CHECKING:
    import numpy as np
    from apsw import Connection
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_BESIDE = 4  # callers whose words are found at once: a question need not wait for a thousand texts
_WAIT_FOR = 256  # memories without a vector that a search waits for, where nothing else could be searched


class _Prepared(NamedTuple):
    """What is stored with a text; `words` is None where no analyser was to be had."""

    space: Space
    vector: Coded
    words: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class _New:
    """What the memories of one `remember` share beside their draft."""

    draft: Draft
    judge: bool
    said: Saying | None


class MemoryStore:
    """The memories of one home folder, shared by any number of threads; the first use opens it.

    What was changed is on disk when a method returns; comparing it with older memories, and whatever is missing after
    an import or a change of the embedding model, is done by one background thread (`wait`). Only one process at a time
    can change a home; others may read it. Every method may raise `StoreError`, `StoreLocked` or `EngineClosed`.
    """

    def __init__(self, home: Path, faculties: Faculties, *, progress: ProgressCallback | None = None) -> None:
        self._store = Store(home, lambda: self._index.discard())  # noqa: PLW0108 - it is made below
        self._faculties, self._progress = faculties, progress
        self._index = Shortlist(self._store, faculties)
        self._backfill = Backfill(self._store, faculties, progress)
        settling = Settling(self._store, faculties, self._index, self._cohort)
        self._keeper = Keeper([self._index.tend, self._backfill.embed, self._backfill.analyse, settling.settle])
        self._cohorts: dict[str, Floats] = {}
        self._beside = ThreadPoolExecutor(_BESIDE, thread_name_prefix="gieok-words")
        self._pid = os.getpid()

    # ---- remember

    def remember(
        self,
        texts: Sequence[str],
        *,
        user: str,
        category: str | None = None,
        when: Moment | None = None,
        source: str | None = None,
        kind: str | None = None,
        judge: bool = True,
        said: Saying | None = None,
    ) -> list[Memory]:
        """Store each text as it is and return its memory, in order; all of them are on disk, or none.

        A text that this user has stored before gives the memory there is, reinforced. With `judge`, new ones are
        compared with older ones in the background. `said` is the turn they come from. Raises `InvalidInput`.
        """
        texts = [check_text(text, f"text {i}") for i, text in enumerate(texts)]
        new = _New(Draft(user, category, kind, source, check_moment(when, "when")), judge, said)
        if not texts:
            return []
        prepared: dict[str, _Prepared] = {}
        while True:
            if missing := self._unknown(new, texts, prepared):
                prepared.update(zip(missing, self._prepare(missing), strict=True))
            with self._store.write() as db:
                if all(text in prepared or find(db, user, text, new.draft.when) for text in texts):
                    stored = [self._find_or_add(db, new, text, prepared.get(text)) for text in texts]
                    break  # else another thread has forgotten one meanwhile
        self._keeper.nudge()
        return stored

    def _unknown(self, new: _New, texts: Sequence[str], prepared: dict[str, _Prepared]) -> list[str]:
        unseen = [text for text in dict.fromkeys(texts) if text not in prepared]
        if not self._store.exists():
            return unseen
        with self._store.read() as db:
            return [text for text in unseen if find(db, new.draft.user, text, new.draft.when) is None]

    def _prepare(self, texts: list[str]) -> list[_Prepared]:
        """Embed texts, and find their words meanwhile: both may load what they need."""
        if self._store.exists():
            self._store.hold()  # who may not write is told before anything loads
        space = self._faculties.space()
        words = self._begin_words(texts)
        vectors = spaces.coded(self._faculties.embed(texts, "passage", space))
        return [_Prepared(space, vector, one) for vector, one in zip(vectors, _ended(words), strict=True)]

    def _begin_words(self, texts: list[str]) -> Future[Sequence[tuple[str, ...] | None]]:
        try:
            return self._beside.submit(self._words, texts)
        except RuntimeError:  # it was shut down just now
            raise EngineClosed("the engine is closed; make a new Engine.") from None

    def _words(self, texts: list[str]) -> Sequence[tuple[str, ...] | None]:
        try:
            return self._faculties.words(texts)
        except OutOfBudget:  # letters can be searched without it
            return [None] * len(texts)

    def _find_or_add(self, db: Connection, new: _New, text: str, prepared: _Prepared | None) -> Memory:
        known = find(db, new.draft.user, text, new.draft.when)
        if known is not None:
            found_again = new.said and not keep(db, new.said, new.draft.user, known.id)
            return known if found_again else reinforce(db, known)
        assert prepared is not None
        place = spaces.made(db, prepared.space, len(prepared.vector.vector) // 2)
        seq, stored = add(db, new.draft, text)
        spaces.put(db, place, seq, prepared.vector)
        put_words(db, seq, text, prepared.words)
        if new.judge and self._faculties.judge is not None:
            db.execute("INSERT INTO unjudged VALUES (?)", (seq,))
        if new.said:
            keep(db, new.said, new.draft.user, stored.id)
        return stored

    # ---- search

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
        """Return the at most `k` memories that answer `query` best, best first, of equal ones the newer first.

        `score` is from 0 to 1. `since` and `until` are inclusive and hold for `when`, else `created`; an `until`
        without a time of day is that whole day. Raises `InvalidInput`.
        """
        check_text(query, "query")
        wanted = Filter(user, category, source, since, until)
        most = _positive(k, "k")
        least = 0.0 if min_score is None else share(min_score, "min_score")
        if not self._any(user):
            return []
        words = self._begin_words([query])
        sense = self._sense(query)
        asked = Asked(query, _ended(words)[0] or (), sense, wanted)
        with self._store.read() as db:
            hits = retriever.search(db, self._index, asked, most)
        if self._index.missed:
            self._keeper.nudge()
        return [hit if explain else Hit(hit.memory, hit.score) for hit in hits if hit.score >= least]

    def _any(self, user: str) -> bool:
        if not self._store.exists():
            return False
        with self._store.read() as db:
            return bool(rows(db, "SELECT 1 FROM memories WHERE superseded_by IS NULL AND user = ? LIMIT 1", (user,)))

    def _sense(self, query: str) -> Sense | None:
        """Embed a query for the space that is searched; while a new model's is filled that is the old one's."""
        space = self._faculties.space()
        served, own = self._places(space)
        if not (own and own.complete):
            self._fill(own)
            served, own = self._places(space)
        for place in (served, own):
            if place is not None:
                try:
                    return self._embedded(query, place)
                except (ModelNotFound, OutOfBudget):
                    if place == own:
                        raise
        return None

    def _places(self, space: Space) -> tuple[Place | None, Place | None]:
        """Return the space that is searched, and that of the present model."""
        with self._store.read() as db:
            return spaces.serving(db), spaces.place(db, space)

    def _fill(self, own: Place | None) -> None:
        """Have the vectors of the present model made in the background, and wait for them if they are few."""
        if not self._store.claim():
            return
        with self._store.read() as db:
            few = len(spaces.missing(db, own.number if own else 0, 0, _WAIT_FOR)) < _WAIT_FOR
        with contextlib.suppress(OutOfBudget):  # another time; until then the former ones serve, or words
            while few and self._backfill.embed():
                pass
        self._keeper.nudge()

    def _embedded(self, query: str, place: Place) -> Sense:
        vectors = self._embed([query], "query", place.space)
        dense = spaces.unit(vectors.dense)[0]
        if len(dense) != place.dim:
            raise spaces.other_length(place.dim)
        return Sense(place, dense, vectors.sparse[0] if vectors.sparse else None, self._cohort(place))

    def _embed(self, texts: list[str], kind: TextKind, space: Space) -> Embedded:
        """Embed in a stored space; the model may have got another name since."""
        present = self._faculties.space()
        return self._faculties.embed(texts, kind, present if present.model == space.model else space)

    def _cohort(self, place: Place) -> Floats:
        """Return the vectors of the cohort's sentences, made once for each model."""
        if place.space.model not in self._cohorts:
            with self._store.read() as db:
                vectors = spaces.cohort(db, place)
            if vectors is None:
                made = self._embed(list(cohort.SENTENCES), "passage", place.space).dense
                vectors = spaces.unit(made)
                if self._store.is_writer:
                    with self._store.write() as db:
                        spaces.put_cohort(db, place.space, vectors)
            self._cohorts[place.space.model] = vectors
        return self._cohorts[place.space.model]

    # ---- look

    def memories(
        self,
        *,
        user: str,
        category: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        superseded: bool = False,
        limit: int | None = None,
    ) -> list[Memory]:
        """Return memories, the last stored first, whatever the clock said then; with `superseded`, former ones too.

        Raises `InvalidInput`.
        """
        where, values = Filter(user, category, None, since, until).sql()
        most = -1 if limit is None else _positive(limit, "limit")
        current = "" if superseded else "superseded_by IS NULL AND "
        sql = f"SELECT {COLUMNS} FROM memories WHERE {current}{where} ORDER BY seq DESC LIMIT ?"
        if not self._store.exists():
            return []
        with self._store.read() as db:
            return [memory(row) for row in rows(db, sql, (*values, most))]

    def memory(self, id: str) -> Memory:
        """Return the memory called `id`, also a former one. Raises `MemoryNotFound`."""
        check_text(id, "id")
        if self._store.exists():
            with self._store.read() as db:
                if found := rows(db, f"SELECT {COLUMNS} FROM memories WHERE id = ?", (id,)):
                    return memory(found[0])
        raise MemoryNotFound(id)

    def history(self, id: str) -> list[Memory]:
        """Return what was so before a memory, it, and what took its place, in the order in which they were stored.

        Raises `MemoryNotFound`.
        """
        user = self.memory(id).user
        sql = f"""
            WITH RECURSIVE
                later (id) AS (SELECT ? UNION SELECT superseded_by FROM memories JOIN later USING (id)
                    WHERE superseded_by IS NOT NULL),
                all_of_it (id) AS (SELECT id FROM later UNION
                    SELECT memories.id FROM memories JOIN all_of_it ON superseded_by = all_of_it.id)
            SELECT {COLUMNS} FROM memories WHERE id IN all_of_it AND user = ? ORDER BY seq
        """
        with self._store.read() as db:
            return [memory(row) for row in rows(db, sql, (id, user))]

    def count(self) -> int:
        """Return how many memories there are, of every user, former ones too."""
        if not self._store.exists():
            return 0
        with self._store.read() as db:
            ((number,),) = rows(db, "SELECT count(*) FROM memories")
            return int(number)

    # ---- change

    def update(self, id: str, changes: Edit) -> Memory:
        """Correct a memory in place and return it; only the fields that are named change.

        A former text is then in no file of the home but its backups, or as soon as nobody reads there any more. Raises
        `MemoryNotFound`, and `InvalidInput`, also for the text of another memory of this user.
        """
        former = self.memory(id)
        prepared = self._prepare([check_text(changes["text"])])[0] if "text" in changes else None
        with self._store.copying if prepared else contextlib.nullcontext():  # a backup would read while this wipes
            return self._updated(former, changes, prepared)

    def _updated(self, former: Memory, changes: Edit, prepared: _Prepared | None) -> Memory:
        with self._store.write() as db:
            seq, changed = edit(db, former.id, changes)
            if prepared is not None:
                if changed.text != former.text:
                    unsay(db, seq, former.text)
                spaces.drop(db, seq)
                place = spaces.made(db, prepared.space, len(prepared.vector.vector) // 2)
                spaces.put(db, place, seq, prepared.vector)
                put_words(db, seq, changed.text, prepared.words)
                self._store.owe_wipe(db)
        if prepared is not None:
            with contextlib.suppress(StoreError):  # somebody reads: it is owed, and the next forget or start does it
                self._index.discard()
                self._store.wipe(LOCK_TIMEOUT)
            self._faculties.forgotten()
        self._keeper.nudge()
        return changed

    def forget(self, id: str) -> None:
        """Remove a memory and those that were merged into it: they are in no file of the home then.

        Raises `MemoryNotFound`.
        """
        self.memory(id)
        try:
            if not forgetting.forget(self._store, self._index, id):
                raise MemoryNotFound(id)
        finally:  # also where it is gone and its traces could not be removed
            self._faculties.forgotten()

    def forget_all(self, user: str) -> int:
        """Remove every memory of `user` in the same way, former ones too; return how many there were."""
        check_text(user, "user")
        if not self._store.exists():
            return 0
        try:
            return forgetting.forget_all(self._store, self._index, user)
        finally:
            self._faculties.forgotten()

    # ---- beside

    @property
    def transcripts(self) -> Transcripts:
        """What was said in sessions."""
        return Transcripts(self._store, self._index, self._faculties.forgotten)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the background has nothing left to do, at most `timeout` seconds; return whether that is so."""
        if self._store.exists():
            self._store.claim()  # to do what a process that was killed has left
            self._keeper.nudge()
        return self._keeper.wait(timeout)

    def export(self, path: Path, *, user: str | None = None, vectors: bool = False) -> int:
        """Write the memories of `user`, or of all, to a file of JSON Lines; return how many. Raises `InvalidInput`."""
        if not self._store.exists():
            return transfer.export(None, path, user=user, vectors=vectors, progress=self._progress)
        with self._store.copying, self._store.read() as db:  # who forgets has to wait for whoever reads that long
            return transfer.export(db, path, user=user, vectors=vectors, progress=self._progress)

    def import_(self, path: Path) -> Imported:
        """Add the memories of a file that `export` wrote; those that are here already stay. Raises `InvalidInput`."""
        try:
            space = self._faculties.space()
        except ModelNotFound:  # what the file has of vectors is then left, and made when the model is here
            space = None
        try:
            return transfer.import_(self._store.write, path, space=space, progress=self._progress)
        finally:
            self._keeper.nudge()

    def backup(self, path: Path | None = None) -> Path:
        """Copy the database, also while it is used; return where the copy is: in the home unless a file is named.

        What is forgotten is removed from the copies in the home, too.
        """
        return self._store.backup(
            path, lambda done, total: report(self._progress, Progress("back memories up", done, total, "pages"))
        )

    def problems(self) -> list[str]:
        """Return what is wrong with the database file, nothing if it is sound."""
        return self._store.problems()

    def close(self) -> None:
        """Stop the background, save the index, free the file and its lock; every later call raises `EngineClosed`."""
        if os.getpid() != self._pid:
            return
        self._index.stop()
        self._keeper.close()
        self._beside.shutdown(cancel_futures=True)
        self._index.save()
        self._store.close()


def _ended(words: Future[Sequence[tuple[str, ...] | None]]) -> Sequence[tuple[str, ...] | None]:
    try:
        return words.result()
    except CancelledError:
        raise EngineClosed("the engine is closed; make a new Engine.") from None


def _positive(value: int, what: str) -> int:
    """Return `value`, cut to what SQLite can count."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if value < 1:
        raise InvalidInput(f"{what} must be at least 1")
    return min(value, 2**31)
