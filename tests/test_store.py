from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from engine import store as store_module
from engine.errors import EngineClosed, StoreError, StoreLocked
from engine.store import FILE_NAME, MIGRATIONS, Health, Store, rows

PAGE = 8192
MEMORY = """
INSERT INTO memories (id, text, digest, user, created, moment, importance) VALUES (?, ?, ?, 'u', 0, 0, 0.5)
"""
HOLD = """
import sys
from pathlib import Path
from engine.store import Store
store = Store(Path(sys.argv[1]))
with store.read():
    print("held", flush=True)
    sys.stdin.read()
store.close()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "홍길동" / "내 문서"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    store = Store(home)
    yield store
    store.close()


def start(store: Store) -> None:
    with store.read():
        pass


def insert(store: Store, name: str) -> None:
    with store.write() as db:
        db.execute("INSERT INTO chores VALUES (?)", (name,))


def chores(store: Store) -> list[str]:
    with store.read() as db:
        return [name for (name,) in rows(db, "SELECT name FROM chores ORDER BY name")]


def test_nothing_is_made_before_the_first_use(home: Path, store: Store) -> None:
    assert not home.exists()
    start(store)
    assert (home / FILE_NAME).exists()


def test_is_durable_and_private(home: Path, store: Store) -> None:
    insert(store, "a")
    with store.read() as db:
        settings = {name: db.pragma(name) for name in ("journal_mode", "synchronous", "secure_delete")}
        assert settings == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1}
        assert db.pragma("foreign_keys") == 1
    if os.name == "posix":
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert set(modes.values()) == {0o600}
        assert {FILE_NAME, f"{FILE_NAME}-wal"} <= set(modes)


def test_a_write_is_whole_or_not_at_all(home: Path, store: Store) -> None:
    insert(store, "kept")

    def interrupted() -> None:
        with store.write() as db:
            db.execute("INSERT INTO chores VALUES ('undone')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert chores(store) == ["kept"]
    store.close()
    again = Store(home)
    assert chores(again) == ["kept"]
    assert again.problems() == []
    again.close()


def test_a_second_store_is_refused_until_the_first_is_closed(home: Path, store: Store) -> None:
    start(store)
    second = Store(home)
    with pytest.raises(StoreLocked, match="another engine"):
        start(second)
    store.close()
    start(second)
    second.close()


def test_a_second_process_is_refused_until_the_first_is_gone(home: Path, store: Store) -> None:
    command = [sys.executable, "-c", HOLD, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        with pytest.raises(StoreLocked, match="--home"):
            start(store)
        holder.kill()
        holder.wait()
    start(store)


def test_a_file_that_is_no_database_is_named_and_left_alone(home: Path, store: Store) -> None:
    home.mkdir(parents=True)
    (home / FILE_NAME).write_bytes(b"not a database, but somebody's file " * 100)
    before = (home / FILE_NAME).read_bytes()
    with pytest.raises(StoreError, match="damaged") as caught:
        start(store)
    assert str(home / FILE_NAME) in str(caught.value)
    assert "move" in str(caught.value)
    assert (home / FILE_NAME).read_bytes() == before
    (home / FILE_NAME).unlink()
    start(store)  # what the message advises is enough


def test_a_damaged_page_is_a_store_error(home: Path, store: Store) -> None:
    with store.write() as db:
        db.executemany("INSERT INTO chores VALUES (?)", [(f"{n:060}",) for n in range(2000)])
    assert store.problems() == []
    store.close()
    size = (home / FILE_NAME).stat().st_size
    with (home / FILE_NAME).open("r+b") as file:
        file.seek(size // 2 // PAGE * PAGE)
        file.write(b"\xff" * PAGE)
    again = Store(home)
    start(again)
    with pytest.raises(StoreError, match="damaged"):
        chores(again)
    assert any("page" in problem.lower() for problem in again.problems())
    again.close()


def test_a_newer_schema_is_refused_and_untouched(home: Path, store: Store) -> None:
    insert(store, "a")
    store.close()
    db = apsw.Connection(str(home / FILE_NAME))
    db.pragma("user_version", len(MIGRATIONS) + 1)
    db.close()
    before = (home / FILE_NAME).read_bytes()
    newer = Store(home)
    with pytest.raises(StoreError, match="newer Gieok"):
        start(newer)
    assert (home / FILE_NAME).read_bytes() == before
    start_again = Store(home)  # the refusal holds no lock
    with pytest.raises(StoreError, match="newer Gieok"):
        start(start_again)


def test_a_migration_that_fails_leaves_the_schema_before_it(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(store, "a")
    store.close()

    def half(db: apsw.Connection) -> None:
        db.execute("CREATE TABLE later (x)")
        db.execute("INSERT INTO nowhere VALUES (1)")

    monkeypatch.setattr(store_module, "MIGRATIONS", [*MIGRATIONS, half])
    with pytest.raises(StoreError, match="nowhere"):
        start(Store(home))
    monkeypatch.undo()
    again = Store(home)
    with again.read() as db:
        assert db.pragma("user_version") == len(MIGRATIONS)
        assert rows(db, "SELECT name FROM sqlite_schema WHERE name = 'later'") == []
    assert chores(again) == ["a"]
    again.close()


def test_an_older_schema_is_brought_up_once(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(store, "a")
    store.close()
    monkeypatch.setattr(store_module, "MIGRATIONS", [*MIGRATIONS, lambda db: db.execute("CREATE TABLE later (x)")])
    for _ in range(2):
        newer = Store(home)
        with newer.read() as db:
            assert db.pragma("user_version") == len(MIGRATIONS) + 1
            assert rows(db, "SELECT * FROM later") == []
        newer.close()


def test_a_full_disk_is_a_store_error_and_loses_nothing(store: Store) -> None:
    insert(store, "a")
    with store.read() as db:
        pages = db.pragma("page_count")
        db.pragma("max_page_count", pages)
    with pytest.raises(StoreError, match="full"), store.write() as db:
        db.executemany("INSERT INTO chores VALUES (?)", [(f"{n:06000}",) for n in range(20)])
    assert chores(store) == ["a"]
    with store.read() as db:
        db.pragma("max_page_count", 1_000_000)
    insert(store, "b")
    assert chores(store) == ["a", "b"]


def test_a_home_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    store = Store(tmp_path / "file" / "home")
    with pytest.raises(StoreError, match="cannot be used"):
        start(store)
    store.close()


def test_a_closed_store_refuses(store: Store) -> None:
    start(store)
    store.close()
    store.close()
    with pytest.raises(EngineClosed):
        start(store)


def churn(store: Store, choose: random.Random) -> tuple[list[str], list[str]]:
    """Insert and delete rows of many sizes in turn; return the marks of those that stay and of the others."""
    kept: list[str] = []
    gone: list[str] = []
    for step in range(12):
        with store.write() as db:
            for _ in range(choose.choice([1, 5, 100])):
                mark = f"{choose.getrandbits(64):016x}"
                text = mark * choose.choice([1, 2, 3, 10, 50, 300, 1000])
                kept.append(mark)
                db.execute(MEMORY, (mark, text, choose.randbytes(32)))
                vector = choose.randbytes(choose.choice([768, 2048]))
                db.execute("INSERT INTO vectors VALUES (?, ?, ?)", (db.last_insert_rowid(), "k" * 64, vector))
        if step % 2:
            with store.write() as db:
                for _ in range(min(len(kept), choose.choice([1, 3, 60]))):
                    gone.append(kept.pop(choose.randrange(len(kept))))
                    db.execute("DELETE FROM memories WHERE id = ?", (gone[-1],))
    return kept, gone


def test_a_wipe_removes_what_secure_delete_leaves_behind(home: Path, store: Store) -> None:
    # With this seed three of the deleted rows can still be read in the file before the wipe (SQLite 3.54.1).
    kept, gone = churn(store, random.Random(30))
    store.wipe()
    left = b"".join(path.read_bytes() for path in home.iterdir())
    assert [mark for mark in gone if mark.encode() in left] == []
    assert all(mark.encode() in left for mark in kept)
    assert (len(gone) > 100, len(kept) > 30, store.problems()) == (True, True, [])


def test_a_wipe_that_a_reader_stops_is_made_up_for_by_the_next_start(home: Path, store: Store) -> None:
    insert(store, "a" * 40)
    reader = apsw.Connection(str(home / FILE_NAME))
    with reader:
        reader.execute("SELECT count(*) FROM chores").fetchall()
        with store.write() as db:
            db.execute("DELETE FROM chores")
            store.owe_wipe(db)
        with pytest.raises(StoreError, match="traces"):
            store.wipe()
    assert b"a" * 40 in b"".join(path.read_bytes() for path in home.iterdir())
    reader.close()
    store.close()
    again = Store(home)
    assert chores(again) == []
    assert b"a" * 40 not in b"".join(path.read_bytes() for path in home.iterdir())
    again.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_refused_and_harms_nothing(home: Path, store: Store) -> None:
    insert(store, "a")
    pid = os.fork()
    if pid == 0:  # pragma: no cover (another process)
        status = 1
        try:
            start(store)
        except EngineClosed:
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    insert(store, "b")
    with pytest.raises(StoreLocked):
        start(Store(home))
    assert chores(store) == ["a", "b"]
    assert store.problems() == []


# ---- looking, without touching


def contents(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir() if path.name != f"{FILE_NAME}-shm"}


def remember(store: Store, *users: str) -> None:
    with store.write() as db:
        for user in users:
            db.execute(
                "INSERT INTO memories (id, text, digest, user, created, moment, importance) "
                "VALUES (hex(randomblob(8)), 'a', randomblob(8), ?, 0, 0, 0.5)",
                (user,),
            )
            db.execute("INSERT INTO vectors VALUES (last_insert_rowid(), 'bge-m3', x'00')")


def test_there_is_nothing_to_look_at_before_the_first_memory(store: Store, home: Path) -> None:
    assert store.health("bge-m3") is None
    assert not home.exists()


def test_looking_counts_and_changes_nothing(store: Store, home: Path) -> None:
    remember(store, "a", "b", "b")
    store.close()
    before = contents(home)
    found = Store(home).health("bge-m3")
    assert found == Health((home / FILE_NAME).stat().st_size, (), {"b": 2, "a": 1}, 3)
    assert list(found.memories) == ["b", "a"]  # who has most first
    other = Store(home).health("another model")
    assert other is not None
    assert other.vectors == 0
    assert contents(home) == before


def test_what_another_has_open_can_be_looked_at(store: Store, home: Path) -> None:
    remember(store, "a")
    before = contents(home)
    with store.write() as db:
        db.execute("DELETE FROM memories")  # not committed, so nobody sees it
        found = Store(home).health("bge-m3")
    assert found is not None
    assert (found.problems, found.memories, found.vectors) == ((), {"a": 1}, 1)
    assert before.keys() == contents(home).keys()
    remember(store, "c")  # and who has it open goes on
    again = Store(home).health("bge-m3")
    assert again is not None
    assert again.memories == {"c": 1}


def test_what_another_process_has_can_be_looked_at(store: Store, home: Path) -> None:
    remember(store, "a")
    store.close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "held\n"
        found = Store(home).health("bge-m3")
        child.stdin.close()
    assert found is not None
    assert found.memories == {"a": 1}


def test_damage_is_told_without_an_error(store: Store, home: Path) -> None:
    remember(store, *(["a"] * 500))
    store.close()
    path = home / FILE_NAME
    data = bytearray(path.read_bytes())
    for page in range(3, len(data) // PAGE):
        data[page * PAGE : page * PAGE + 200] = b"\xff" * 200
    path.write_bytes(data)
    found = Store(home).health("bge-m3")
    assert found is not None
    assert found.problems
    assert found.memories == {}


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one" * 300, b"SQLite format 3\0"])
def test_what_is_no_database_is_refused(store: Store, home: Path, content: bytes) -> None:
    home.mkdir(parents=True)
    (home / FILE_NAME).write_bytes(content)
    with pytest.raises(StoreError, match=r"memory\.sqlite3 is damaged"):
        store.health("bge-m3")
    assert (home / FILE_NAME).read_bytes() == content


def test_a_newer_schema_is_looked_at_by_a_newer_gieok(store: Store, home: Path) -> None:
    with store.write() as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    store.close()
    with pytest.raises(StoreError, match="newer Gieok"):
        Store(home).health("bge-m3")


def test_an_empty_file_holds_nothing(store: Store, home: Path) -> None:
    home.mkdir(parents=True)
    (home / FILE_NAME).touch()
    assert store.health("bge-m3") == Health(0, (), {}, 0)


def test_the_sqlite_in_use_is_the_one_that_apsw_brings() -> None:
    assert store_module.sqlite_version() == apsw.sqlite_lib_version()
