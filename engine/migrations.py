"""The schema of the memory database, as the steps that lead to it; each runs in one transaction with its record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apsw import Connection

Migration = Callable[["Connection"], None]
MIGRATIONS: list[Migration] = []
SHIFT = 40  # a vector's key is the number of its model's space, then so many bits of the memory's number


def migration(step: Migration) -> Migration:
    """Register `step` as the next one of the schema; steps are never changed once released, only followed."""
    MIGRATIONS.append(step)
    return step


@migration
def memories_and_vectors(db: Connection) -> None:
    """Times are microseconds of UTC; `happened` keeps the caller's offset; `moment` is it, else `created`."""
    # AUTOINCREMENT: a seq is never given twice, so an index entry cannot come to mean another memory.
    # The digest is unique among the current ones only: what was superseded may become true again.
    db.execute("""
        CREATE TABLE memories (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            text TEXT NOT NULL,
            digest BLOB NOT NULL,
            category TEXT,
            kind TEXT,
            source TEXT,
            user TEXT NOT NULL,
            created INTEGER NOT NULL,
            happened TEXT,
            moment INTEGER NOT NULL,
            valid_from INTEGER,
            valid_to INTEGER,
            superseded_by TEXT,
            importance REAL NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX memories_current ON memories (user, digest) WHERE superseded_by IS NULL;
        CREATE TABLE vectors (
            memory INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
            model TEXT NOT NULL,
            vector BLOB NOT NULL,
            UNIQUE (memory, model)
        ) STRICT;
        CREATE TABLE chores (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    """)


@migration
def vectors_by_key(db: Connection) -> None:
    """A space is what one embedding model makes; vectors of one space lie together, in the order of memories.

    `complete`: every memory has a vector there. The meta `serving` is the number of the space that is searched.
    """
    # A rowid table with the number of space and memory in its key: one step down the tree finds a vector, three of
    # 1,024 halves lie on a page, and no other index is needed.
    db.execute(f"""
        CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
        INSERT INTO meta VALUES ('store', lower(hex(randomblob(16))));
        CREATE TABLE spaces (
            number INTEGER PRIMARY KEY,
            model TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            dim INTEGER NOT NULL,
            complete INTEGER NOT NULL DEFAULT 0,
            cohort BLOB
        ) STRICT;
        ALTER TABLE vectors RENAME TO vectors_of_memories;
        CREATE TABLE vectors (key INTEGER PRIMARY KEY, vector BLOB NOT NULL, weights BLOB) STRICT;
        INSERT INTO spaces (model, name, dim)
            SELECT model, model, max(length(vector)) / 2 FROM vectors_of_memories GROUP BY model;
        INSERT INTO vectors
            SELECT number << {SHIFT} | memory, vector, NULL FROM vectors_of_memories JOIN spaces USING (model)
            ORDER BY 1;
        DROP TABLE vectors_of_memories;
        CREATE INDEX memories_of_user ON memories (user);
    """)


@migration
def words_of_memories(db: Connection) -> None:
    """What the search by words reads: morphemes, and pairs of letters for what morphemes miss.

    `analysed` is 0 for a memory whose morphemes are missing, or come from another analyser than the meta `analyser`.
    """
    # Without FTS5's own `secure-delete`, which damaged its index (DECISIONS): a deleted entry stays there until a
    # merge, and who forgets merges all.
    db.execute("""
        CREATE VIRTUAL TABLE words USING fts5(morphemes, grams, tokenize = 'unicode61 remove_diacritics 0');
        ALTER TABLE memories ADD COLUMN analysed INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX memories_not_analysed ON memories (seq) WHERE analysed = 0;
    """)


@migration
def judgement(db: Connection) -> None:
    """`fate` says why a memory was superseded; `unjudged` are those that were not compared with older ones yet."""
    db.execute("""
        ALTER TABLE memories ADD COLUMN fate TEXT CHECK (fate IN ('merged', 'replaced'));
        CREATE INDEX memories_superseded ON memories (superseded_by) WHERE superseded_by IS NOT NULL;
        CREATE TABLE unjudged (memory INTEGER PRIMARY KEY) STRICT;
    """)


@migration
def conversations_and_turns(db: Connection) -> None:
    """What was said, where it is kept; `carried` says which turns a memory comes from."""
    db.execute("""
        CREATE TABLE conversations (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            user TEXT NOT NULL,
            name TEXT NOT NULL,
            created INTEGER NOT NULL,
            UNIQUE (user, name)
        ) STRICT;
        CREATE TABLE turns (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation INTEGER NOT NULL REFERENCES conversations (seq) ON DELETE CASCADE,
            place INTEGER NOT NULL,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            name TEXT,
            at TEXT,
            created INTEGER NOT NULL,
            UNIQUE (conversation, place)
        ) STRICT;
        CREATE TABLE carried (
            turn INTEGER NOT NULL REFERENCES turns (seq) ON DELETE CASCADE,
            memory INTEGER NOT NULL REFERENCES memories (seq),
            PRIMARY KEY (turn, memory)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX carried_memory ON carried (memory);
    """)


@migration
def journal(db: Connection) -> None:
    """Triggers note which memories the index must look at again, and take everything of a memory with it.

    As triggers, so that no statement can change a memory and leave its words, vectors or turns behind.
    """
    memory = f"& {(1 << SHIFT) - 1}"
    serving = f"new.key >> {SHIFT} = (SELECT value FROM meta WHERE name = 'serving')"
    db.execute(f"""
        CREATE TABLE journal (generation INTEGER PRIMARY KEY AUTOINCREMENT, memory INTEGER NOT NULL) STRICT;
        CREATE TRIGGER vector_added AFTER INSERT ON vectors WHEN {serving} BEGIN
            INSERT INTO journal (memory) VALUES (new.key {memory});
        END;
        CREATE TRIGGER vector_changed AFTER UPDATE ON vectors WHEN {serving} BEGIN
            INSERT INTO journal (memory) VALUES (new.key {memory});
        END;
        CREATE TRIGGER memory_changed
        AFTER UPDATE OF user, category, source, moment, superseded_by ON memories BEGIN
            INSERT INTO journal (memory) VALUES (new.seq);
        END;
        CREATE TRIGGER memory_deleted AFTER DELETE ON memories BEGIN
            DELETE FROM vectors WHERE key IN (SELECT number << {SHIFT} | old.seq FROM spaces);
            DELETE FROM words WHERE rowid = old.seq;
            DELETE FROM unjudged WHERE memory = old.seq;
            DELETE FROM turns WHERE seq IN (SELECT turn FROM carried WHERE memory = old.seq)
                AND NOT EXISTS (SELECT 1 FROM carried WHERE turn = turns.seq AND memory <> old.seq);
            UPDATE turns SET content = replace(content, old.text, '…')
                WHERE seq IN (SELECT turn FROM carried WHERE memory = old.seq);
            DELETE FROM carried WHERE memory = old.seq;
            INSERT INTO journal (memory) VALUES (old.seq);
        END;
        CREATE TRIGGER turn_deleted AFTER DELETE ON turns
        WHEN NOT EXISTS (SELECT 1 FROM turns WHERE conversation = old.conversation) BEGIN
            DELETE FROM conversations WHERE seq = old.conversation;
        END;
    """)


@migration
def sessions(db: Connection) -> None:
    """A conversation may be a session that goes on: `waiting` turns (1) were not searched for memories yet.

    Those that are being answered (2) are not, until then: a turn without an answer may be taken back. `given` says
    which memories an answer was written with. The turns of a conversation below place `upto` are in its summary, which
    is made anew where one of them is gone.
    """
    # Without the links `memory_deleted` finds nothing to blank: `conversations.blank` does, where a text is a word.
    db.execute("""
        ALTER TABLE turns ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX turns_waiting ON turns (conversation) WHERE waiting > 0;
        CREATE TABLE given (
            turn INTEGER NOT NULL REFERENCES turns (seq) ON DELETE CASCADE,
            memory INTEGER NOT NULL REFERENCES memories (seq),
            PRIMARY KEY (turn, memory)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX given_memory ON given (memory);
        CREATE TABLE summaries (
            conversation INTEGER PRIMARY KEY REFERENCES conversations (seq) ON DELETE CASCADE,
            upto INTEGER NOT NULL,
            content TEXT NOT NULL,
            instructions TEXT NOT NULL,
            created INTEGER NOT NULL
        ) STRICT;
        CREATE TRIGGER memory_unsaid BEFORE DELETE ON memories BEGIN
            DELETE FROM summaries WHERE conversation IN (
                SELECT conversation FROM turns JOIN carried ON turn = seq WHERE memory = old.seq
                UNION SELECT conversation FROM turns JOIN given ON turn = seq WHERE memory = old.seq
            );
            DELETE FROM turns WHERE role = 'assistant' AND (conversation, place - 1) IN (
                SELECT conversation, place FROM turns JOIN carried ON turn = seq WHERE memory = old.seq
                    AND NOT EXISTS (SELECT 1 FROM carried WHERE turn = turns.seq AND memory <> old.seq)
            );
            DELETE FROM turns WHERE seq IN (SELECT turn FROM carried WHERE memory = old.seq)
                AND NOT EXISTS (SELECT 1 FROM carried WHERE turn = turns.seq AND memory <> old.seq);
            DELETE FROM carried WHERE memory = old.seq;
            DELETE FROM given WHERE memory = old.seq;
        END;
    """)
