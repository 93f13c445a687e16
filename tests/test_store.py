from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import connections
from engine import store as store_module
from engine.connections import rows
from engine.errors import EngineClosed, InvalidInput, StoreError, StoreLocked
from engine.migrations import MIGRATIONS
from engine.store import BACKUPS, FILE_NAME, Health, Store

PAGE = 8192
MEMORY = """
INSERT INTO memories (id, text, digest, user, created, moment, importance) VALUES (?, ?, ?, 'u', 0, 0, 0.5)
"""
HOLD = """
import sys
from pathlib import Path
from engine.store import Store
store = Store(Path(sys.argv[1]))
with store.write():
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
    with store.write():
        pass


def insert(store: Store, name: str) -> None:
    with store.write() as db:
        db.execute("INSERT INTO chores VALUES (?)", (name,))


def chores(store: Store) -> list[str]:
    with store.read() as db:
        return [name for (name,) in rows(db, "SELECT name FROM chores ORDER BY name")]


def every_byte(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_nothing_is_made_before_the_first_change(home: Path, store: Store) -> None:
    assert not store.exists()
    with pytest.raises(StoreError), store.read():
        pass
    assert (store.problems(), store.health(), store.backups()) == ([], None, [])
    assert not home.exists()
    start(store)
    assert store.exists() and (home / FILE_NAME).exists()


def test_is_durable_and_private(home: Path, store: Store) -> None:
    insert(store, "a")
    with store.write() as db:
        settings = {name: db.pragma(name) for name in ("journal_mode", "synchronous", "secure_delete")}
        assert settings == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1}
        assert db.pragma("foreign_keys") == 1
    store.backup(None, lambda done, total: None)
    if os.name == "posix":
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*") if path.is_file()}
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in (home, home / BACKUPS)} == {0o700}
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


def test_a_second_writer_is_refused_within_a_second_until_the_first_is_closed(home: Path, store: Store) -> None:
    insert(store, "a")
    second = Store(home)
    assert store_module.LOCK_TIMEOUT < 1
    with pytest.raises(StoreLocked, match="another engine"):
        start(second)
    assert (chores(second), second.is_writer, second.claim()) == (["a"], False, False)
    store.close()
    assert second.claim() and second.is_writer
    second.close()


# ---- who reads


def test_who_reads_cannot_write(store: Store) -> None:
    insert(store, "a")
    with pytest.raises(StoreError), store.read() as db:
        db.execute("DELETE FROM chores")
    assert chores(store) == ["a"], "and the next one has a sound connection"


def test_a_reader_sees_one_moment(store: Store) -> None:
    insert(store, "a")
    with store.read() as db:
        assert rows(db, "SELECT name FROM chores") == [("a",)]
        insert(store, "b")
        assert rows(db, "SELECT name FROM chores") == [("a",)]
    assert chores(store) == ["a", "b"]


def test_readers_do_not_wait_for_who_writes_nor_for_each_other(store: Store) -> None:
    insert(store, "a")
    many = threading.Barrier(12)
    found: list[list[str]] = []

    def look() -> None:
        with store.read() as db:
            many.wait(timeout=30)
            found.append([name for (name,) in rows(db, "SELECT name FROM chores")])

    with store.write() as db:
        db.execute("INSERT INTO chores VALUES ('not yet')")
        threads = [threading.Thread(target=look) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [["a"]] * 12
    assert len(store._readers) == store_module._READERS, "some stay open for the next ones"


def test_closing_waits_for_who_reads(store: Store) -> None:
    insert(store, "a")
    reading, go = threading.Event(), threading.Event()
    found: list[tuple[str, ...]] = []

    def look() -> None:
        with store.read() as db:
            reading.set()
            go.wait(timeout=30)
            found.extend(rows(db, "SELECT name FROM chores"))

    thread = threading.Thread(target=look)
    thread.start()
    reading.wait(timeout=30)
    closer = threading.Thread(target=store.close)
    closer.start()
    while not store._closed:
        time.sleep(0.001)
    closer.join(timeout=0.1)
    assert closer.is_alive()
    with pytest.raises(EngineClosed):
        chores(store)
    go.set()
    thread.join()
    closer.join()
    assert found == [("a",)]


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
        db.executemany("INSERT INTO chores VALUES (?)", [(f"{n:0600}",) for n in range(2000)])
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


def test_a_full_disk_is_a_store_error_and_loses_nothing(store: Store) -> None:
    insert(store, "a")
    with store._alone() as db:
        pages = db.pragma("page_count")
        db.pragma("max_page_count", pages)
    with pytest.raises(StoreError, match="full"), store.write() as db:
        db.executemany("INSERT INTO chores VALUES (?)", [(f"{n:06000}",) for n in range(20)])
    assert chores(store) == ["a"]
    with store._alone() as db:
        db.pragma("max_page_count", 1_000_000)
    insert(store, "b")
    assert chores(store) == ["a", "b"]


def test_who_begins_to_read_lets_who_wipes_go_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many read in turn there is else no moment without any."""
    monkeypatch.setattr(store_module, "_GIVE_WAY", 30.0)
    insert(store, "a")
    reading, go = threading.Event(), threading.Event()
    wiping: list[bool] = []

    def long() -> None:
        with store.read() as db:
            rows(db, "SELECT name FROM chores")
            reading.set()
            go.wait(timeout=30)

    def late() -> None:
        with store.read():
            wiping.append(store._wiping)

    threads = [threading.Thread(target=long), threading.Thread(target=store.wipe), threading.Thread(target=late)]
    threads[0].start()
    reading.wait(timeout=30)
    threads[1].start()
    while not store._wiping:
        time.sleep(0.001)
    threads[2].start()
    threads[2].join(timeout=0.1)
    go.set()
    for thread in threads:
        thread.join()
    assert wiping == [False]


def test_who_reads_is_not_kept_from_reading_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_GIVE_WAY", 0.05)
    insert(store, "a")
    with store.read() as db:
        rows(db, "SELECT name FROM chores")
        wiping = threading.Thread(target=store.wipe)
        wiping.start()
        while not store._wiping:
            time.sleep(0.001)
        assert chores(store) == ["a"], "else the two would wait for each other"
    wiping.join()


# ---- backups


def backup(store: Store, path: Path | None = None) -> Path:
    return store.backup(path, lambda done, total: None)


def test_a_backup_is_one_whole_file_and_a_home_of_its_own(home: Path, store: Store, tmp_path: Path) -> None:
    with store.write() as db:
        db.executemany("INSERT INTO chores VALUES (?)", [(f"{n:0600}",) for n in range(900)])
    told: list[tuple[int, int]] = []
    with store.write() as db:
        db.execute("INSERT INTO chores VALUES ('not yet')")
        path = store.backup(None, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 50
    assert store.backups() == [path] and path.parent == home / BACKUPS
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    put = tmp_path / "put back"
    put.mkdir()
    path.replace(put / FILE_NAME)
    with closing(Store(put)) as again:
        assert chores(again) == [f"{n:0600}" for n in range(900)]
        assert again.problems() == []


def test_a_backup_replaces_the_file_that_is_named_and_only_when_it_is_whole(store: Store, tmp_path: Path) -> None:
    insert(store, "a")
    path = tmp_path / "사본.sqlite3"
    path.write_bytes(b"an older copy")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.backup(path, stop)
    assert path.read_bytes() == b"an older copy"
    assert backup(store, path) == path
    assert path.read_bytes().startswith(b"SQLite format 3")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["사본.sqlite3", "홍길동"]
    with pytest.raises(StoreError, match="cannot be used"):
        backup(store, tmp_path / "nowhere" / "x")


@pytest.mark.parametrize("place", [FILE_NAME, "copy.sqlite3", f"{BACKUPS}/mine.db", f"../내 문서/{FILE_NAME}"])
def test_a_backup_is_not_put_where_the_home_has_its_own_files(home: Path, store: Store, place: str) -> None:
    insert(store, "a")
    with pytest.raises(InvalidInput, match="outside"):
        backup(store, home / place)
    assert chores(store) == ["a"]
    assert not (home / BACKUPS).exists()


def test_there_is_nothing_to_back_up_before_the_first_change(home: Path, store: Store) -> None:
    with pytest.raises(InvalidInput):
        backup(store)
    assert not home.exists()


def test_a_damaged_file_is_told_with_the_newest_backup(home: Path, store: Store) -> None:
    insert(store, "a")
    backup(store)
    newest = backup(store)
    os.utime(newest, (2**31, 2**31))
    store.close()
    (home / FILE_NAME).write_bytes(b"rubbish " * 2000)
    with closing(Store(home)) as again, pytest.raises(StoreError, match="damaged") as caught:
        chores(again)
    assert str(newest) in str(caught.value)


def test_what_is_forgotten_is_forgotten_in_backups_too(home: Path, store: Store) -> None:
    with store.write() as db:
        for mark in ("stays", "goes"):
            db.execute(MEMORY, (mark, mark * 40, mark.encode()))
    older, newer = backup(store), backup(store)
    broken = home / BACKUPS / "broken.sqlite3"
    broken.write_bytes(b"goes" * 40)
    with closing(apsw.Connection(str(home / BACKUPS / "somebody's.sqlite3"))) as db:
        db.execute("CREATE TABLE things (name)")
    killed = home / BACKUPS / "memory-1.sqlite3.part"
    killed.write_bytes(b"goes" * 40)
    store.forget_in_backups(lambda db: db.execute("DELETE FROM memories WHERE id = ?", ("goes",)))
    assert sorted(path.name for path in (home / BACKUPS).iterdir()) == sorted(
        [older.name, newer.name, "somebody's.sqlite3"]
    )
    for path in (older, newer):
        assert b"goes" not in path.read_bytes() and b"stays" * 40 in path.read_bytes()


def test_a_backup_whose_rewriting_was_cut_short_is_rewritten_the_next_time(home: Path, store: Store) -> None:
    with store.write() as db:
        for number in range(200):
            db.execute(MEMORY, (f"{number}", f"{number:08}" * 40, f"{number}".encode()))
    path = backup(store)

    class Killed(BaseException):
        pass

    def trace(cursor: object, statement: str, bindings: object) -> bool:
        if statement.startswith("VACUUM"):
            raise Killed
        return True

    def hook(db: apsw.Connection) -> None:
        db.exec_trace = trace

    apsw.connection_hooks.append(hook)
    try:
        with pytest.raises(Killed):
            store.forget_in_backups(lambda db: db.execute("DELETE FROM memories"))
    finally:
        apsw.connection_hooks.remove(hook)
    store.forget_in_backups(lambda db: db.execute("DELETE FROM memories"))
    assert not any(f"{number:08}".encode() * 2 in path.read_bytes() for number in range(200))


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
                db.execute("INSERT INTO vectors VALUES (?, ?, NULL)", (1 << 40 | db.last_insert_rowid(), vector))
        if step % 2:
            with store.write() as db:
                for _ in range(min(len(kept), choose.choice([1, 3, 60]))):
                    gone.append(kept.pop(choose.randrange(len(kept))))
                    db.execute("DELETE FROM memories WHERE id = ?", (gone[-1],))
    return kept, gone


def test_a_wipe_removes_what_secure_delete_leaves_behind(home: Path, store: Store) -> None:
    with store.write() as db:
        db.execute("INSERT INTO spaces (number, model, name, dim) VALUES (1, 'k', 'k', 384)")
    kept, gone = churn(store, random.Random(30))
    assert any(mark.encode() in every_byte(home) for mark in gone), "there was nothing to wipe"
    store.wipe()
    left = b"".join(path.read_bytes() for path in home.iterdir())
    assert [mark for mark in gone if mark.encode() in left] == []
    assert all(mark.encode() in left for mark in kept)
    assert (len(gone) > 100, len(kept) > 30, store.problems()) == (True, True, [])


def test_a_wipe_that_a_reader_stops_is_made_up_for_at_the_next_opening(
    home: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_READERS_GO", 0.1)
    insert(store, "a" * 40)
    with closing(apsw.Connection(str(home / FILE_NAME))) as reader, reader:
        reader.execute("SELECT count(*) FROM chores").fetchall()
        with store.write() as db:
            db.execute("DELETE FROM chores")
            store.owe_wipe(db)
        with pytest.raises(StoreError, match="traces"):
            store.wipe()
    assert b"a" * 40 in every_byte(home)
    store.close()
    also: list[str] = []
    with closing(Store(home, lambda: also.append("what else may hold it"))) as again:
        assert (chores(again), also) == (["wipe"], []), "who only reads removes nothing"
        start(again)
        assert (chores(again), also) == ([], ["what else may hold it"])
        assert b"a" * 40 not in every_byte(home)
    with closing(Store(home, lambda: also.append("nothing is owed"))) as again:
        start(again)
    assert also == ["what else may hold it"]


def test_a_wipe_waits_for_who_reads(store: Store, home: Path) -> None:
    insert(store, "a" * 40)
    reading, go = threading.Event(), threading.Event()

    def look() -> None:
        with store.read() as db:
            rows(db, "SELECT name FROM chores")
            reading.set()
            go.wait(timeout=30)

    thread = threading.Thread(target=look)
    thread.start()
    reading.wait(timeout=30)
    with store.write() as db:
        db.execute("DELETE FROM chores")
    wiping = threading.Thread(target=store.wipe)
    wiping.start()
    go.set()
    wiping.join()
    thread.join()
    assert b"a" * 40 not in every_byte(home)


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
        db.execute("INSERT OR IGNORE INTO spaces (number, model, name, dim) VALUES (1, 'k', 'k', 1), (2, 'l', 'l', 1)")
        db.execute("INSERT OR IGNORE INTO meta VALUES ('serving', 1)")
        for user in users:
            db.execute(
                "INSERT INTO memories (id, text, digest, user, created, moment, importance) "
                "VALUES (hex(randomblob(8)), 'a', randomblob(8), ?, 0, 0, 0.5)",
                (user,),
            )
            db.execute("INSERT INTO vectors VALUES (1 << 40 | last_insert_rowid(), x'00', NULL)")


def test_there_is_nothing_to_look_at_before_the_first_memory(store: Store, home: Path) -> None:
    assert store.health() is None
    assert not home.exists()


def test_looking_counts_and_changes_nothing(store: Store, home: Path) -> None:
    remember(store, "a", "b", "b")
    with store.write() as db:
        db.execute("INSERT INTO vectors VALUES (2 << 40 | 1, x'00', NULL)")
        db.execute("DELETE FROM vectors WHERE key = 1 << 40 | 3")
    store.close()
    before = contents(home)
    found = Store(home).health()
    assert found == Health((home / FILE_NAME).stat().st_size, (), {"b": 2, "a": 1}, 2, "k"), (
        "vectors of the space that is searched"
    )
    assert list(found.memories) == ["b", "a"]  # who has most first
    assert contents(home) == before


def test_what_another_has_open_can_be_looked_at(store: Store, home: Path) -> None:
    remember(store, "a")
    before = contents(home)
    with store.write() as db:
        db.execute("DELETE FROM memories")  # not committed, so nobody sees it
        found = Store(home).health()
    assert found is not None
    assert (found.problems, found.memories, found.vectors) == ((), {"a": 1}, 1)
    assert before.keys() == contents(home).keys()
    remember(store, "c")  # and who has it open goes on
    again = Store(home).health()
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
        found = Store(home).health()
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
    found = Store(home).health()
    assert found is not None
    assert found.problems
    assert found.memories == {}


@pytest.mark.parametrize("content", [b"not a database, but long enough to look like one" * 300, b"SQLite format 3\0"])
def test_what_is_no_database_is_refused(store: Store, home: Path, content: bytes) -> None:
    home.mkdir(parents=True)
    (home / FILE_NAME).write_bytes(content)
    with pytest.raises(StoreError, match=r"memory\.sqlite3 is damaged"):
        store.health()
    assert (home / FILE_NAME).read_bytes() == content


def test_a_newer_schema_is_looked_at_by_a_newer_gieok(store: Store, home: Path) -> None:
    with store.write() as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    store.close()
    with pytest.raises(StoreError, match="newer Gieok"):
        Store(home).health()


def test_an_empty_file_holds_nothing(store: Store, home: Path) -> None:
    home.mkdir(parents=True)
    (home / FILE_NAME).touch()
    assert store.health() == Health(0, (), {}, 0)


def test_the_sqlite_in_use_is_the_one_that_apsw_brings() -> None:
    assert connections.sqlite_version() == apsw.sqlite_lib_version()


# ---- locks of the system


LOOK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("SELECT count(*) FROM chores").fetchall()
db.close()
"""


def test_what_another_program_does_to_the_file_loses_nothing(home: Path, store: Store) -> None:
    """POSIX drops a process's locks on a file with any descriptor of it that is closed, and who closes last takes the log."""
    insert(store, "a")
    store.close()
    again = Store(home)
    assert chores(again) == ["a"], "a reader comes first, and the writer after it"
    insert(again, "b")
    subprocess.run([sys.executable, "-c", LOOK, str(home / FILE_NAME)], check=True)
    insert(again, "c")
    copy = home.parent / "as it is on the disk"
    shutil.copytree(home, copy)
    again.close()
    with closing(Store(copy)) as killed:
        assert chores(killed) == ["a", "b", "c"]


def test_a_backup_ends_beside_a_steady_writer_and_holds_one_moment(home: Path, store: Store) -> None:
    with store.write() as db:
        db.executemany("INSERT INTO chores VALUES (?)", [(f"{n:05} " + "x" * 7_000,) for n in range(5_000)])
    before = len(chores(store))
    steps: list[int] = []

    def meanwhile(done: int, total: int) -> None:
        steps.append(done)
        if len(steps) < 20:
            insert(store, f"meanwhile {len(steps)}")

    copy = store.backup(None, meanwhile)
    assert 1 < len(steps) < 20
    with closing(apsw.Connection(str(copy))) as db:
        assert rows(db, "SELECT count(*) FROM chores") == [(before,)]


def test_what_is_deleted_does_not_pass_through_the_systems_temporary_files(store: Store) -> None:
    with store.write() as db:
        assert rows(db, "PRAGMA temp_store") == [(2,)]
