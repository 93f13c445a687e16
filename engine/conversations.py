"""What was said, kept where a memory comes from it: a turn goes when the last memory that it carried is forgotten."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.connections import rows
from engine.errors import InvalidInput
from engine.inputs import Turn
from engine.records import now

if TYPE_CHECKING:
    from apsw import Connection

_OF_USER = "conversation IN (SELECT seq FROM conversations WHERE user = ?)"
_WORD = 4  # letters; a shorter text is part of many words that have nothing to do with it


@dataclass(frozen=True, slots=True)
class Saying:
    """One turn of a conversation that has a name of its own; `place` counts its turns from 0.

    Without a `turn`, one that is there already, and says what is remembered of it.
    """

    conversation: str
    place: int
    turn: Turn | None = None


def keep(db: Connection, said: Saying, user: str, memory: str) -> bool:
    """Store a turn, unless it is there, and note that the memory with this id comes from it.

    Return whether that was not known. Raises `InvalidInput` where a turn that is to be there is not: a memory must not
    outlive what it came from.
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
    sql = "INSERT OR IGNORE INTO carried SELECT ?, seq FROM memories WHERE id = ? RETURNING 1"
    return bool(rows(db, sql, (turn[0][0], memory)))


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
    """Take a former text of a memory out of what its user said and was told; turns that carried nothing else go."""
    ((user,),) = rows(db, "SELECT user FROM memories WHERE seq = ?", (memory,))
    blank(db, user, text)
    conversations = "SELECT conversation FROM turns JOIN {} ON turn = seq WHERE memory = ?1"
    both = " UNION ".join(conversations.format(table) for table in ("carried", "given"))
    db.execute(f"DELETE FROM summaries WHERE conversation IN ({both})", (memory,))
    places = "SELECT conversation, place + 1 FROM turns JOIN carried ON turn = seq WHERE memory = ?1"
    alone = "AND NOT EXISTS (SELECT 1 FROM carried WHERE turn = turns.seq AND memory <> ?1)"
    db.execute(f"DELETE FROM turns WHERE role = 'assistant' AND (conversation, place) IN ({places} {alone})", (memory,))
    db.execute(f"DELETE FROM turns WHERE seq IN (SELECT turn FROM carried WHERE memory = ?1) {alone}", (memory,))


def blank(db: Connection, user: str, text: str) -> None:
    """Put "…" for a text, however its words are spaced, in all turns of a user; summaries that may tell it go.

    A text of less than 4 letters is found only where it is no part of a word. The database may have a former schema.
    """
    tables = {name for (name,) in rows(db, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "turns" not in tables or not (words := text.split()):
        return
    told, longest = _told(words), max(words, key=len)
    told_in = set[int]()
    sql = f"SELECT seq, conversation, content FROM turns WHERE {_OF_USER} AND instr(content, ?)"
    for seq, conversation, content in rows(db, sql, (user, longest)):
        if (left := _without(told, content)) != content:
            db.execute("UPDATE turns SET content = ? WHERE seq = ?", (left, seq))
            told_in.add(conversation)
    if "summaries" in tables:
        sql = f"SELECT conversation, content FROM summaries WHERE {_OF_USER} AND instr(content, ?)"
        told_in |= {of for of, content in rows(db, sql, (user, longest)) if told.search(content)}
        sql = "DELETE FROM summaries WHERE conversation IN (SELECT value FROM json_each(?))"
        db.execute(sql, (json.dumps(list(told_in)),))


def _told(words: list[str]) -> re.Pattern[str]:
    text = r"\s+".join(re.escape(word) for word in words)
    if sum(letter.isalnum() for word in words for letter in word) < _WORD:
        text = rf"(?<!\w){text}(?!\w)"
    return re.compile(text)


def _without(told: re.Pattern[str], content: str) -> str:
    while (left := told.sub("…", content)) != content:  # again, where what is left joins to the same
        content = left
    return content


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
