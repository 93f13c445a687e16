"""Forgetting: rows, words, vectors, turns, the index's file and the home's backups, until no file holds the bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.connections import rows
from engine.conversations import blank
from engine.store import Store

if TYPE_CHECKING:
    from apsw import Connection

    from engine.shortlist import Shortlist

_MERGED = """
    WITH RECURSIVE gone (id) AS (
        SELECT ?1
        UNION SELECT memories.id FROM memories JOIN gone ON superseded_by = gone.id
            WHERE fate = 'merged' AND user = ?2
    )
    SELECT id, text FROM gone JOIN memories USING (id)
"""


@dataclass(frozen=True, slots=True)
class _Gone:
    """Memories of one user, id → text: a backup may have turns that they were found in later, and no memory yet."""

    user: str
    texts: dict[str, str]

    def __call__(self, db: Connection) -> int:
        ids = json.dumps(list(self.texts))
        those = "memories WHERE id IN (SELECT value FROM json_each(?))"
        present = [text for (text,) in rows(db, f"SELECT text FROM {those}", (ids,))]
        for text in dict.fromkeys((*self.texts.values(), *present)):  # it may have been corrected since
            blank(db, self.user, text)
        return len(rows(db, f"DELETE FROM {those} RETURNING 1", (ids,)))


def forget(store: Store, index: Shortlist, id: str) -> int:
    """Remove a memory and what was merged into it, which said the same; return how many."""
    with store.read() as db:
        of = rows(db, "SELECT id, user FROM memories WHERE id = ?", (id,))
    gone = 0
    while of and (texts := _texts(store, *of[0])):  # again for what the judge has merged into it meanwhile
        gone += _remove(store, index, _Gone(of[0][1], texts))
    return gone


def forget_all(store: Store, index: Shortlist, user: str) -> int:
    """Remove every memory of a user, and whatever that user said; return how many memories."""

    def delete(db: Connection) -> int:
        _delete_conversations(db, "user = ?", user)  # first: no memory need look through them
        return len(rows(db, "DELETE FROM memories WHERE user = ? RETURNING 1", (user,)))

    return _remove(store, index, delete)


def forget_conversation(store: Store, index: Shortlist, user: str, name: str) -> bool:
    """Remove what was said in a conversation, and its summary; return whether there was any."""
    return _remove(store, index, lambda db: _delete_conversations(db, "user = ? AND name = ?", user, name)) > 0


def _delete_conversations(db: Connection, which: str, *values: str) -> int:
    if not rows(db, "SELECT 1 FROM sqlite_schema WHERE name = 'conversations'"):
        return 0  # a backup of before them
    return len(rows(db, f"DELETE FROM conversations WHERE {which} RETURNING 1", values))


def _texts(store: Store, id: str, user: str) -> dict[str, str]:
    with store.read() as db:
        return dict(rows(db, _MERGED, (id, user)))


def _remove(store: Store, index: Shortlist, delete: Callable[[Connection], int]) -> int:
    """Delete, note in the same transaction that traces are left, and remove them; who is killed does so next time."""
    with store.write():  # the backups, too, are only changed by who may write
        pass
    with store.copying:  # a backup that began before would bring it back
        store.forget_in_backups(delete)  # first: a forgotten memory must not come back from there
        with store.write() as db:
            before = db.total_changes()
            gone = delete(db)
            if changed := db.total_changes() > before:
                store.owe_wipe(db)
        if changed:
            store.forget_in_backups(delete)  # and after: another process may have made one meanwhile
            index.discard()
            store.wipe()
    return gone
