"""What was said, kept where a memory comes from it: a turn goes when the last memory that it carried is forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.connections import rows
from engine.errors import InvalidInput
from engine.inputs import Turn
from engine.records import now

if TYPE_CHECKING:
    from apsw import Connection


@dataclass(frozen=True, slots=True)
class Saying:
    """One turn of a conversation that has a name of its own; `place` counts its turns from 0.

    Without a `turn`, one that is there already, and says what is remembered of it.
    """

    conversation: str
    place: int
    turn: Turn | None = None


def keep(db: Connection, said: Saying, user: str, memory: str) -> None:
    """Store a turn, unless it is there, and note that the memory with this id comes from it.

    Raises `InvalidInput` where a turn that is to be there is not: a memory must not outlive what it came from.
    """
    if said.turn:
        _add(db, said, said.turn, user)
    sql = (
        "SELECT turns.seq FROM turns JOIN conversations ON conversation = conversations.seq "
        "WHERE user = ? AND conversations.name = ? AND place = ? "
        # else it was forgotten, and another turn may have its place
        "AND (? OR instr(content, (SELECT text FROM memories WHERE id = ?)))"
    )
    turn = rows(db, sql, (user, said.conversation, said.place, said.turn is not None, memory))
    if not turn:
        raise InvalidInput("the turn that this was said in has been forgotten meanwhile")
    db.execute("INSERT OR IGNORE INTO carried SELECT ?, seq FROM memories WHERE id = ?", (turn[0][0], memory))


def _add(db: Connection, said: Saying, turn: Turn, user: str) -> None:
    present = now()
    db.execute(
        "INSERT OR IGNORE INTO conversations (user, name, created) VALUES (?, ?, ?)", (user, said.conversation, present)
    )
    db.execute(
        "INSERT OR IGNORE INTO turns (conversation, place, role, content, name, at, created) "
        "SELECT seq, ?, ?, ?, ?, ?, ? FROM conversations WHERE user = ? AND name = ?",
        (
            said.place,
            turn.role,
            turn.content,
            turn.name,
            turn.at.isoformat() if turn.at else None,
            present,
            user,
            said.conversation,
        ),
    )


def unsay(db: Connection, memory: int, text: str) -> None:
    """Take a former text of a memory out of the turns that it came from; those that carried nothing else go."""
    conversations = "SELECT conversation FROM turns JOIN {} ON turn = seq WHERE memory = ?1"
    both = " UNION ".join(conversations.format(table) for table in ("carried", "given"))
    db.execute(f"DELETE FROM summaries WHERE conversation IN ({both})", (memory,))
    sql = f"UPDATE turns SET content = replace(content, ?2, '…') WHERE conversation IN ({both}) AND instr(content, ?2)"
    db.execute(sql, (memory, text))
    places = "SELECT conversation, place + 1 FROM turns JOIN carried ON turn = seq WHERE memory = ?1"
    alone = "AND NOT EXISTS (SELECT 1 FROM carried WHERE turn = turns.seq AND memory <> ?1)"
    db.execute(f"DELETE FROM turns WHERE role = 'assistant' AND (conversation, place) IN ({places} {alone})", (memory,))
    db.execute(
        "DELETE FROM turns WHERE seq IN (SELECT turn FROM carried WHERE memory = ?1) "
        "AND NOT EXISTS (SELECT 1 FROM carried WHERE turn = turns.seq AND memory <> ?1)",
        (memory,),
    )


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
