"""A session on disk: what was said in it, what of that was not searched for memories yet, and its summary.

A turn is written when it is said and stays until it is forgotten; the summary can be made from the turns again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.connections import rows
from engine.forgetting import forget_conversation
from engine.inputs import Turn
from engine.records import now, of_stamp
from engine.store import Store

if TYPE_CHECKING:
    from apsw import Connection

    from engine.records import Memory
    from engine.shortlist import Shortlist

ANSWERING = 2  # a turn waits to be searched for memories, and is not before its answer has ended
_WAITS = "waiting > 0 AND waiting = 1"  # the first half, so that SQLite takes the index of those
_TURNS = "turns JOIN conversations ON conversation = conversations.seq"
_MINE = f"SELECT turns.seq FROM {_TURNS} WHERE user = ? AND conversations.name = ?"


@dataclass(frozen=True, slots=True)
class Said:
    """One turn of a session; `place` counts them from 0, and those that were forgotten leave gaps.

    `memories` are the ids of what an answer was written with. `condensed`: the model reads it in the summary only.
    """

    place: int
    role: str
    content: str
    at: datetime
    memories: tuple[str, ...] = ()
    condensed: bool = False

    @property
    def turn(self) -> Turn:
        """The turn as a message."""
        return Turn(self.role, self.content, at=self.at)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "place": self.place, "role": self.role, "content": self.content, "at": self.at.isoformat(),
            "memories": list(self.memories), "condensed": self.condensed,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condensed:
    """A summary of all turns below place `upto`; without a text, of none."""

    text: str | None = None
    upto: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What of a session was read: its summary and the turns after it.

    What is made of that is kept only if all of it still stands.
    """

    summary: Condensed
    turns: tuple[Said, ...]


class Transcript:
    """The session called `name` of one user. Every method may raise `StoreError`, `StoreLocked`, `EngineClosed`."""

    def __init__(self, store: Store, user: str, name: str) -> None:
        self._store, self.user, self.name = store, user, name

    def say(self, role: str, content: str, at: datetime, *, waiting: int = 0) -> Said:
        """Store a turn and return it; `waiting`: 0 if it is not to be searched for memories, 1, or `ANSWERING`."""
        with self._store.write() as db:
            return self._add(db, role, content, at, waiting)

    def answer(self, content: str, at: datetime, seen: Seen, given: Sequence[Memory]) -> bool:
        """Store an answer to the last turn that was `seen`, written with the memories `given`; return whether it was.

        It is not where any of that was forgotten or corrected meanwhile: it may quote it. The turn is answered then.
        """
        texts = {memory.id: memory.text for memory in given}
        ids = json.dumps(list(texts))
        with self._store.write() as db:
            self._answered(db, seen.turns[-1].place)
            present = rows(db, "SELECT id, text FROM memories WHERE id IN (SELECT value FROM json_each(?))", (ids,))
            if dict(present) != texts or not self._stands(db, seen):
                return False
            self._add(db, "assistant", content, at, 0)
            sql = "INSERT INTO given SELECT ?, seq FROM memories WHERE id IN (SELECT value FROM json_each(?))"
            db.execute(sql, (db.last_insert_rowid(), ids))
        return True

    def answered(self, place: int) -> None:
        """Note that nobody answers a turn any more, so that it is searched for memories if it waits to be."""
        with self._store.write() as db:
            self._answered(db, place)

    def unsay(self, place: int) -> None:
        """Take back a turn that nothing came of; one that others follow was answered."""
        later = (
            "SELECT 1 FROM turns AS later WHERE later.conversation = turns.conversation AND later.place > turns.place"
        )
        sql = f"DELETE FROM turns WHERE seq IN ({_MINE} AND place = ?) AND NOT EXISTS ({later})"
        with self._store.write() as db:
            db.execute(sql, (self.user, self.name, place))
            self._answered(db, place)

    def seen(self) -> Seen:
        """Return the summary and the turns that are not in it."""
        summary = self.condensed()
        return Seen(summary, tuple(self.said(summary.upto)))

    def said(self, after: int = 0, before: int = sys.maxsize) -> list[Said]:
        """Return the turns from place `after` on and below place `before`, in order."""
        if not self._store.exists():
            return []
        with self._store.read() as db:
            upto = self._condensed(db).upto
            sql = (
                "SELECT place, role, content, at, turns.created, (SELECT json_group_array(id) FROM given "
                "JOIN memories ON memories.seq = memory WHERE turn = turns.seq) "
                f"FROM {_TURNS} WHERE user = ? AND conversations.name = ? AND place >= ? "
                "AND place < ? ORDER BY place"
            )
            return [_said(row, upto) for row in rows(db, sql, (self.user, self.name, after, before))]

    def carried(self, after: int) -> set[str]:
        """Return the ids of the memories that come from turns from place `after` on."""
        if not self._store.exists():
            return set()
        with self._store.read() as db:
            sql = (
                f"SELECT id FROM {_TURNS} JOIN carried ON turn = turns.seq JOIN memories ON memories.seq = memory "
                "WHERE conversations.user = ? AND conversations.name = ? AND place >= ?"
            )
            return {memory for (memory,) in rows(db, sql, (self.user, self.name, after))}

    def waiting(self, most: int) -> list[int]:
        """Return the places of the first turns that were not searched for memories."""
        if not self._store.exists():
            return []
        with self._store.read() as db:
            sql = (
                f"SELECT place FROM {_TURNS} WHERE {_WAITS} AND user = ? AND conversations.name = ? "
                "ORDER BY place LIMIT ?"
            )
            return [place for (place,) in rows(db, sql, (self.user, self.name, most))]

    def searched(self, said: Collection[Said]) -> None:
        """Note that turns were searched for memories; one that says something else meanwhile was not."""
        with self._store.write() as db:
            for one in said:
                sql = f"UPDATE turns SET waiting = 0 WHERE seq IN ({_MINE} AND place = ? AND content = ?)"
                db.execute(sql, (self.user, self.name, one.place, one.content))

    def condensed(self) -> Condensed:
        """Return the summary, and up to which place it goes."""
        if not self._store.exists():
            return Condensed()
        with self._store.read() as db:
            return self._condensed(db)

    def condense(self, seen: Seen, new: Condensed, instructions: str) -> bool:
        """Put a summary of what was `seen` into the place of the former one, unless any of that is no longer so.

        Return whether it was.
        """
        with self._store.write() as db:
            if not new.text or self._condensed(db) != seen.summary or not self._stands(db, seen):
                return False
            db.execute(
                "INSERT OR REPLACE INTO summaries VALUES (?, ?, ?, ?, ?)",
                (self._made(db), new.upto, new.text, instructions, now()),
            )
        return True

    def _add(self, db: Connection, role: str, content: str, at: datetime, waiting: int) -> Said:
        conversation = self._made(db)
        sql = "SELECT coalesce(max(place), -1) + 1 FROM turns WHERE conversation = ?"
        upto = self._condensed(db).upto  # the last turns may be gone, and the summary is not of what comes now
        place = max(int(rows(db, sql, (conversation,))[0][0]), upto)
        db.execute(
            "INSERT INTO turns (conversation, place, role, content, at, created, waiting) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (conversation, place, role, content, at.isoformat(), now(), int(waiting)),
        )
        return Said(place, role, content, at)

    def _answered(self, db: Connection, place: int) -> None:
        sql = f"UPDATE turns SET waiting = 1 WHERE waiting = {ANSWERING} AND seq IN ({_MINE} AND place = ?)"
        db.execute(sql, (self.user, self.name, place))

    def _stands(self, db: Connection, seen: Seen) -> bool:
        """Return whether nothing of what was seen is gone or changed; the summary may have got longer."""
        sql = f"SELECT place, content FROM {_TURNS} WHERE user = ? AND conversations.name = ? AND place >= ?"
        present = set(rows(db, sql, (self.user, self.name, seen.summary.upto)))
        same = {(one.place, one.content) for one in seen.turns} <= present
        return same and self._condensed(db).upto >= seen.summary.upto

    def _made(self, db: Connection) -> int:
        sql = "INSERT OR IGNORE INTO conversations (user, name, created) VALUES (?, ?, ?)"
        db.execute(sql, (self.user, self.name, now()))
        return int(rows(db, "SELECT seq FROM conversations WHERE user = ? AND name = ?", (self.user, self.name))[0][0])

    def _condensed(self, db: Connection) -> Condensed:
        sql = "SELECT content, upto FROM summaries JOIN conversations ON conversation = seq WHERE user = ? AND name = ?"
        found = rows(db, sql, (self.user, self.name))
        return Condensed(*found[0]) if found else Condensed()


class Transcripts:
    """The sessions of one home."""

    def __init__(self, store: Store, index: Shortlist, forgotten: Callable[[], object]) -> None:
        self._store, self._index, self._forgotten = store, index, forgotten

    def of(self, user: str, name: str) -> Transcript:
        """Return the session called `name`; it need not be there."""
        return Transcript(self._store, user, name)

    def unfinished(self) -> list[Transcript]:
        """Return the sessions with turns that were not searched for memories, if this process may search them."""
        if not (self._store.exists() and self._store.claim()):
            return []
        with self._store.read() as db:
            sql = f"SELECT DISTINCT user, conversations.name FROM {_TURNS} WHERE {_WAITS}"
            return [self.of(user, name) for user, name in rows(db, sql)]

    def forget(self, user: str, name: str) -> bool:
        """Remove what was said in a session for good, but no memory; return whether there was any."""
        if not self._store.exists():
            return False
        try:
            return forget_conversation(self._store, self._index, user, name)
        finally:
            self._forgotten()


def _said(row: tuple[Any, ...], upto: int) -> Said:
    place, role, content, at, created, given = row[:6]
    when = datetime.fromisoformat(at) if at else of_stamp(created)
    return Said(place, role, content, when, tuple(json.loads(given)), place < upto)
