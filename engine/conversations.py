"""What was said, kept where a memory comes from it: a turn goes when the last memory that it carried is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.connections import rows
from engine.inputs import Turn
from engine.records import now

if TYPE_CHECKING:
    from apsw import Connection


@dataclass(frozen=True, slots=True)
class Saying:
    """One turn of a conversation that has a name of its own; `place` counts its turns from 0."""

    conversation: str
    place: int
    turn: Turn


def keep(db: Connection, said: Saying, user: str, memory: str) -> None:
    """Store a turn, unless it is there, and note that the memory with this id comes from it."""
    turn, present = said.turn, now()
    at = turn.at.isoformat() if turn.at else None
    sql = "INSERT OR IGNORE INTO conversations (user, name, created) VALUES (?, ?, ?)"
    db.execute(sql, (user, said.conversation, present))
    sql = "SELECT seq FROM conversations WHERE user = ? AND name = ?"
    ((conversation,),) = rows(db, sql, (user, said.conversation))
    sql = (
        "INSERT OR IGNORE INTO turns (conversation, place, role, content, name, at, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)"
    )
    db.execute(sql, (conversation, said.place, turn.role, turn.content, turn.name, at, present))
    db.execute(
        "INSERT OR IGNORE INTO carried SELECT turns.seq, memories.seq FROM turns, memories "
        "WHERE conversation = ? AND place = ? AND memories.id = ?",
        (conversation, said.place, memory),
    )


def unsay(db: Connection, memory: int, text: str) -> None:
    """Take a former text of a memory out of the turns that it came from; those that carried nothing else go."""
    db.execute(
        "DELETE FROM turns WHERE seq IN (SELECT turn FROM carried WHERE memory = ?1) "
        "AND NOT EXISTS (SELECT 1 FROM carried WHERE turn = turns.seq AND memory <> ?1)",
        (memory,),
    )
    sql = "UPDATE turns SET content = replace(content, ?, '…') WHERE seq IN (SELECT turn FROM carried WHERE memory = ?)"
    db.execute(sql, (text, memory))


def turns_of(db: Connection, memory: str) -> list[Turn]:
    """Return the turns that the memory with this id comes from, in the order in which they were stored."""
    from datetime import datetime

    sql = (
        "SELECT role, content, turns.name, at FROM turns JOIN carried ON turn = turns.seq "
        "JOIN memories ON memories.seq = carried.memory WHERE memories.id = ? ORDER BY turns.seq"
    )
    return [
        Turn(role, content, name, datetime.fromisoformat(at) if at else None)
        for role, content, name, at in rows(db, sql, (memory,))
    ]
