"""Forgetting: rows, words, vectors, turns, the index's file and the home's backups, until no file holds the bytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from engine.connections import rows
from engine.store import Store

if TYPE_CHECKING:
    from engine.shortlist import Shortlist

_MERGED = """
    WITH RECURSIVE gone (id) AS (
        SELECT ?1
        UNION SELECT memories.id FROM memories JOIN gone ON superseded_by = gone.id
            WHERE fate = 'merged' AND user = ?2
    )
    SELECT id FROM gone JOIN memories USING (id)
"""


def forget(store: Store, index: Shortlist, id: str) -> int:
    """Remove a memory and what was merged into it, which said the same; return how many."""
    with store.read() as db:
        of = rows(db, "SELECT id, user FROM memories WHERE id = ?", (id,))
    sql, gone = "DELETE FROM memories WHERE id IN (SELECT value FROM json_each(?))", 0
    while of and (ids := _ids(store, *of[0])):  # again for what the judge has merged into it meanwhile
        gone += _remove(store, index, sql, json.dumps(ids))
    return gone


def forget_all(store: Store, index: Shortlist, user: str) -> int:
    """Remove every memory of a user, and whatever that user said; return how many memories."""
    _remove(store, index, "DELETE FROM conversations WHERE user = ?", user)  # first: no memory need look through them
    return _remove(store, index, "DELETE FROM memories WHERE user = ?", user)


def forget_conversation(store: Store, index: Shortlist, user: str, name: str) -> bool:
    """Remove what was said in a conversation, and its summary; return whether there was any."""
    sql = "DELETE FROM conversations WHERE user || char(0) || name = ?"  # neither holds that character
    return _remove(store, index, sql, f"{user}\0{name}") > 0


def _ids(store: Store, id: str, user: str) -> list[str]:
    with store.read() as db:
        return [one for (one,) in rows(db, _MERGED, (id, user))]


def _remove(store: Store, index: Shortlist, sql: str, value: str) -> int:
    """Delete, note in the same transaction that traces are left, and remove them; who is killed does so next time."""
    with store.write():  # the backups, too, are only changed by who may write
        pass
    with store.copying:  # a backup that began before would bring it back
        store.forget_in_backups(sql, (value,))  # first: a forgotten memory must not come back from there
        with store.write() as db:
            gone = len(rows(db, f"{sql} RETURNING 1", (value,)))
            if gone:
                store.owe_wipe(db)
        if gone:
            store.forget_in_backups(sql, (value,))  # and after: another process may have made one meanwhile
            index.discard()
            store.wipe()
    return gone
