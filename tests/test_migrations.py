"""The schema: from its first version to this one whole or not at all, and what its triggers take along."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import fake_embedder
import pytest

from engine import store as store_module
from engine.connections import rows
from engine.errors import StoreError
from engine.memory import MemoryStore
from engine.migrations import MIGRATIONS, SHIFT
from engine.store import FILE_NAME, Store

# What the first released schema made; it is never changed.
FIRST = """
    CREATE TABLE memories (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, digest BLOB NOT NULL,
        category TEXT, kind TEXT, source TEXT, user TEXT NOT NULL, created INTEGER NOT NULL, happened TEXT,
        moment INTEGER NOT NULL, valid_from INTEGER, valid_to INTEGER, superseded_by TEXT, importance REAL NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX memories_current ON memories (user, digest) WHERE superseded_by IS NULL;
    CREATE TABLE vectors (
        memory INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE, model TEXT NOT NULL, vector BLOB NOT NULL,
        UNIQUE (memory, model)
    ) STRICT;
    CREATE TABLE chores (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1;
"""
TEXTS = ("저는 매운 음식을 못 먹어요", "회사에서 팀장이 되었어요", "강아지 이름은 보리예요")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "홍길동" / "내 문서"
    made.mkdir(parents=True)
    return made


def first_version(home: Path, model: str | None) -> None:
    """Write what the first version left: memories 1, 3 and 4, the last one superseded, vectors of one model."""
    vectors = fake_embedder.embed(list(TEXTS), "passage").astype("<f2")
    with closing(apsw.Connection(str(home / FILE_NAME))) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(FIRST)
        for number, (text, vector) in enumerate(zip(TEXTS, vectors, strict=True), 1):
            db.execute(
                "INSERT INTO memories VALUES (?, ?, ?, ?, 'goal', 'fact', '엄마', 'u', 5, '2026-03-05T00:00:00+09:00', "
                "7, 5, NULL, ?, 0.75)",
                (number + (number > 1), f"id{number}", text, hashlib.sha256(text.encode()).digest(),
                 "id1" if number == 3 else None),
            )  # fmt: skip
            if model:
                db.execute("INSERT INTO vectors VALUES (?, ?, ?)", (number + (number > 1), model, vector.tobytes()))


def schema(home: Path) -> tuple[int, set[str]]:
    with closing(apsw.Connection(str(home / FILE_NAME))) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        return int(str(db.pragma("user_version"))), names


# ---- from the first version


def test_a_store_of_the_first_version_keeps_all_it_had(home: Path) -> None:
    first_version(home, "some model")
    with closing(Store(home)) as store:
        with store.read() as db:  # who only reads brings it up to date, too
            columns = (
                "seq, id, text, category, kind, source, user, created, happened, moment, importance, superseded_by"
            )
            found = rows(db, f"SELECT {columns}, analysed, fate FROM memories ORDER BY seq")
            rest = ("goal", "fact", "엄마", "u", 5, "2026-03-05T00:00:00+09:00", 7, 0.75)
            assert found == [
                (1, "id1", TEXTS[0], *rest, None, 0, None),
                (3, "id2", TEXTS[1], *rest, None, 0, None),
                (4, "id3", TEXTS[2], *rest, "id1", 0, None),
            ]
            assert rows(db, "SELECT number, model, name, dim, complete FROM spaces") == [
                (1, "some model", "some model", fake_embedder.DIM, 0)
            ]
            vectors = [row.astype("<f2").tobytes() for row in fake_embedder.embed(list(TEXTS), "passage")]
            kept = rows(db, "SELECT key, vector, weights FROM vectors ORDER BY key")
            assert kept == [(1 << SHIFT | seq, vectors[at], None) for at, seq in enumerate((1, 3, 4))]
        with store.write() as db:
            db.execute(
                "INSERT INTO memories (id, text, digest, user, created, moment, importance) "
                "VALUES ('new', 'a', x'00', 'u', 0, 0, 0.5)"
            )
            assert db.last_insert_rowid() == 5, "numbers go on where they were"


@pytest.mark.parametrize("model", [fake_embedder.SPACE.model, "a model that is gone", None])
def test_memories_of_the_first_version_are_found(home: Path, model: str | None) -> None:
    first_version(home, model)
    embedded: list[str] = []

    def embed(texts: list[str], kind: Any, space: Any) -> Any:
        embedded.extend(text for text in texts if text in TEXTS and kind == "passage")
        return fake_embedder.embedded(texts, kind, space)

    with closing(MemoryStore(home, fake_embedder.faculties(embed=embed))) as store:
        store.search(TEXTS[0], user="u", k=5)  # has made what is missing
        assert store.wait()
        for text, other in ((TEXTS[0], TEXTS[1]), (TEXTS[1], TEXTS[0])):
            hits = store.search(text, user="u", k=5, explain=True)
            assert [hit.memory.text for hit in hits] == [text, other], "the last one was superseded"
            assert hits[0].parts is not None and hits[0].parts["dense"] == pytest.approx(1, abs=0.001)
            assert hits[0].parts["words"] > 0
        assert embedded == ([] if model == fake_embedder.SPACE.model else list(TEXTS))
        assert store.problems() == []


@pytest.mark.parametrize("number", range(1, len(MIGRATIONS)))
def test_a_step_that_fails_leaves_the_schema_before_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    first_version(home, "some model")
    failing = MIGRATIONS[number]

    def half(db: apsw.Connection) -> None:
        failing(db)
        db.execute("INSERT INTO nowhere VALUES (1)")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", [*MIGRATIONS[:number], half, *MIGRATIONS[number + 1 :]])
        for opened in (Store.read, Store.write):
            with closing(Store(home)) as store, pytest.raises(StoreError, match="nowhere"), opened(store):
                pass
    version, names = schema(home)
    assert version == number
    assert ("spaces" in names, "words" in names, "unjudged" in names, "turns" in names, "journal" in names) == (
        number > 1, number > 2, number > 3, number > 4, number > 5,
    )  # fmt: skip
    with closing(Store(home)) as store, store.read() as db:
        assert rows(db, "SELECT count(*) FROM memories") == [(3,)]
        assert db.pragma("user_version") == len(MIGRATIONS)


def test_each_step_runs_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Store(home)) as store, store.write():
        pass
    later = [*MIGRATIONS, lambda db: db.execute("CREATE TABLE later (x)")]
    monkeypatch.setattr(store_module, "MIGRATIONS", later)
    for _ in range(2):
        with closing(Store(home)) as newer, newer.write() as db:
            assert db.pragma("user_version") == len(later)
            assert rows(db, "SELECT * FROM later") == []


def test_a_newer_schema_is_refused_and_untouched_by_who_reads_and_who_writes(home: Path) -> None:
    with closing(Store(home)) as store, store.write() as db:
        db.execute("INSERT INTO chores VALUES ('a')")
    with closing(apsw.Connection(str(home / FILE_NAME))) as db:
        db.pragma("user_version", len(MIGRATIONS) + 1)
    before = (home / FILE_NAME).read_bytes()
    for opened in (Store.read, Store.write, Store.read, Store.write):  # the refusal holds no lock
        with closing(Store(home)) as newer, pytest.raises(StoreError, match="newer Gieok"), opened(newer):
            pass
    with closing(MemoryStore(home, fake_embedder.faculties())) as memories:
        for call in (
            memories.count,
            lambda: memories.search("a", user="u", k=1),
            lambda: memories.remember(["a"], user="u"),
            memories.backup,
        ):
            with pytest.raises(StoreError, match="newer Gieok"):
                call()
    assert (home / FILE_NAME).read_bytes() == before


# ---- what triggers do


@pytest.fixture
def db() -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(":memory:")) as db:
        db.execute("PRAGMA foreign_keys = ON")
        for step in MIGRATIONS:
            step(db)
        db.execute("INSERT INTO spaces (number, model, name, dim) VALUES (1, 'a', 'a', 1), (2, 'b', 'b', 1)")
        db.execute("INSERT INTO meta VALUES ('serving', 2)")
        yield db


def insert(db: apsw.Connection, *names: str) -> None:
    for name in names:
        db.execute(
            "INSERT INTO memories (id, text, digest, user, created, moment, importance) "
            "VALUES (?, ?, ?, 'u', 0, 0, 0.5)",
            (name, name, name.encode()),
        )
        seq = db.last_insert_rowid()
        for space in (1, 2):
            db.execute("INSERT INTO vectors VALUES (?, x'00', NULL)", (space << SHIFT | seq,))
        db.execute("INSERT INTO words (rowid, morphemes, grams) VALUES (?, ?, ?)", (seq, name, name))
        db.execute("INSERT INTO unjudged VALUES (?)", (seq,))


def journal(db: apsw.Connection) -> list[int]:
    """Return what was noted since the last call."""
    found = [memory for (memory,) in db.execute("SELECT memory FROM journal ORDER BY generation")]
    db.execute("DELETE FROM journal")
    return found


def test_a_memory_takes_everything_of_it_along(db: apsw.Connection) -> None:
    insert(db, "one", "two")
    db.execute("INSERT INTO conversations (user, name, created) VALUES ('u', 'c', 0), ('u', 'd', 0)")
    db.execute("INSERT INTO turns (conversation, place, role, content, created) VALUES (1, 0, 'user', 'both', 0)")
    db.execute("INSERT INTO turns (conversation, place, role, content, created) VALUES (2, 0, 'user', 'one', 0)")
    db.execute("INSERT INTO carried VALUES (1, 1), (1, 2), (2, 1)")
    db.execute("DELETE FROM memories WHERE id = 'one'")

    def left(sql: str) -> list[Any]:
        return [value for (value,) in db.execute(sql)]

    assert left("SELECT key FROM vectors ORDER BY key") == [1 << SHIFT | 2, 2 << SHIFT | 2]
    assert left("SELECT rowid FROM words") == left("SELECT memory FROM unjudged") == [2]
    assert left("SELECT rowid FROM words WHERE words MATCH 'one'") == []
    assert left("SELECT content FROM turns") == ["both"]
    assert left("SELECT name FROM conversations") == ["c"], "with its last turn a conversation goes"
    assert list(db.execute("SELECT turn, memory FROM carried")) == [(1, 2)]
    db.execute("DELETE FROM memories")
    for table in ("vectors", "words", "unjudged", "turns", "conversations", "carried"):
        assert left(f"SELECT count(*) FROM {table}") == [0]


def test_the_journal_names_what_the_index_must_look_at_again(db: apsw.Connection) -> None:
    insert(db, "one", "two")
    assert journal(db) == [1, 2], "once: the vector of the other space is not in the index"
    for column, value in (
        ("category", "goal"),
        ("source", "s"),
        ("moment", 1),
        ("user", "v"),
        ("superseded_by", "two"),
    ):
        db.execute(f"UPDATE memories SET {column} = ? WHERE id = 'one'", (value,))
        assert journal(db) == [1], column
    db.execute("UPDATE memories SET importance = 1, analysed = 1, valid_to = 3, fate = 'merged', kind = 'fact'")
    db.execute("UPDATE vectors SET vector = x'01' WHERE key = 1 << 40 | 1")
    assert journal(db) == []
    db.execute("INSERT INTO vectors VALUES (2 << 40 | 1, x'02', NULL) ON CONFLICT DO UPDATE SET vector = x'02'")
    assert journal(db) == [1]
    db.execute("DELETE FROM memories WHERE id = 'two'")
    assert journal(db) == [2]
    insert(db, "three")
    ((generation,),) = db.execute("SELECT max(generation) FROM journal")
    assert (generation, journal(db)) == (10, [3]), "no generation is given twice"


def test_of_current_memories_only_one_of_a_user_has_a_text(db: apsw.Connection) -> None:
    insert(db, "one")
    with pytest.raises(apsw.ConstraintError):
        db.execute(
            "INSERT INTO memories (id, text, digest, user, created, moment, importance) "
            "VALUES ('x', 'one', ?, 'u', 0, 0, 0.5)",
            (b"one",),
        )
    db.execute("UPDATE memories SET superseded_by = 'x' WHERE id = 'one'")
    db.execute(
        "INSERT INTO memories (id, text, digest, user, created, moment, importance) "
        "VALUES ('x', 'one', ?, 'u', 0, 0, 0.5)",
        (b"one",),
    )
    with pytest.raises(apsw.ConstraintError):
        db.execute("UPDATE memories SET fate = 'eaten' WHERE id = 'one'")
