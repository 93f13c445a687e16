"""Forgetting: afterwards the bytes are in no file of the home, whatever had them and whatever went wrong meanwhile."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import apsw
import fake_embedder
import pytest

from engine import connections, forgetting, index, index_file, proof, shortlist
from engine import store as store_module
from engine.connections import rows
from engine.conversations import Saying
from engine.errors import MemoryNotFound, StoreError, StoreLocked
from engine.inputs import Turn
from engine.memory import MemoryStore
from engine.records import Memory
from engine.store import BACKUPS, FILE_NAME, Store

ME = "default"
SECRET = "제 비밀번호는 감자구이사백십칠이에요"
SAID = Turn("user", "있잖아, 내 비밀번호는 감자구이사백십칠이야", "민지")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "홍길동" / "내 문서"


@pytest.fixture
def opened(home: Path) -> Iterator[Callable[..., MemoryStore]]:
    with ExitStack() as stack:

        def open_(**others: Any) -> MemoryStore:
            store = MemoryStore(home, fake_embedder.faculties(**others))
            stack.callback(store.close)
            return store

        yield open_


def remember(store: MemoryStore, *texts: str, **asked: Any) -> list[Memory]:
    return store.remember(list(texts), **{"user": ME, **asked})


def every_byte(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def vector(text: str) -> bytes:
    return fake_embedder.embed([text], "passage")[0].astype("<f2").tobytes()


def traces(home: Path, memory: Memory, *others: str) -> list[str]:
    """Return what of a memory stands in the files: pieces of its text, its words, its vector, its id."""
    needles = {
        f"piece {one}": one.encode() for text in (memory.text, *others) for one in proof.pieces(text) if len(one) > 3
    }
    needles |= {f"word {one}": one.encode() for one in ("비밀번호는", "감자구이사백십칠이에요", "감자구이")}
    needles |= {"vector": vector(memory.text), "id": memory.id.encode()}
    left = every_byte(home)
    return [name for name, needle in needles.items() if needle in left]


def supersede(store: MemoryStore, old: Memory, new: Memory, fate: str) -> None:
    with store._store.write() as db:
        db.execute("UPDATE memories SET superseded_by = ?, fate = ? WHERE id = ?", (new.id, fate, old.id))


# ---- no trace


def test_rows_of_many_lengths_leave_no_trace(home: Path, opened: Callable[..., MemoryStore]) -> None:
    """In rounds, because SQLite leaves copies where it moves rows between pages."""
    store, choose = opened(), random.Random(1)
    kept: list[Memory] = []
    gone: list[bytes] = []
    for step in range(10):
        marks = [f"<{choose.getrandbits(64):016x}>" for _ in range(choose.choice([1, 5, 40]))]
        kept += remember(store, *(mark * choose.choice([1, 3, 50, 900]) for mark in marks))
        for _ in range(choose.choice([1, 3]) if step % 2 else 0):
            memory = kept.pop(choose.randrange(len(kept)))
            store.forget(memory.id)
            gone += [memory.text[:18].encode(), memory.text[1:17].encode(), memory.id.encode(), vector(memory.text)]
        left = every_byte(home)
        assert [trace for trace in gone if trace in left] == []
    assert len(gone) > 20
    assert all(m.text[:18].encode() in left and vector(m.text) in left for m in kept)  # they would be seen
    assert store.forget_all(ME) == len(kept)
    left = every_byte(home)
    assert not any(m.text[1:17].encode() in left or vector(m.text) in left for m in kept)
    assert ME.encode() not in left
    assert store.problems() == []


def test_words_turns_and_backups_leave_no_trace(home: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    (memory,) = remember(store, SECRET, said=Saying("밤에", 0, SAID))
    (other,) = remember(store, "다른 말", said=Saying("밤에", 1, Turn("user", "다른 말도 했어")))
    store.search(SECRET, user=ME, k=3)
    assert store.wait()
    backup = store.backup()
    store.update(memory.id, {"text": f"{SECRET}!", "category": "personal"})
    store.update(memory.id, {"text": SECRET})
    before = traces(home, memory, SAID.content)
    assert {"vector", "id", "word 감자구이사백십칠이에요", f"piece {SAID.content}"} <= set(before)
    store.forget(memory.id)
    assert traces(home, memory, SAID.content) == []
    assert store.memories(user=ME) == [other]
    with closing(Store(home.parent / "put back")) as again:
        again.path.parent.mkdir()
        again.path.write_bytes(backup.read_bytes())
        with again.read() as db:
            assert rows(db, "SELECT text FROM memories") == [("다른 말",)]
            assert rows(db, "SELECT content FROM turns") == [("다른 말도 했어",)]


def test_a_turn_that_carried_another_memory_too_stays_until_that_is_gone(
    home: Path, opened: Callable[..., MemoryStore]
) -> None:
    store = opened()
    one, two = (remember(store, text, said=Saying("밤에", 0, SAID))[0] for text in (SECRET, "비밀번호가 있다"))
    store.forget(one.id)
    assert SAID.content.encode() in every_byte(home)
    store.forget(two.id)
    assert SAID.content.encode() not in every_byte(home)


@pytest.mark.parametrize("quarantined", [False, True])
def test_the_index_and_what_was_put_aside_of_it_go(
    home: Path, opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch, quarantined: bool
) -> None:
    monkeypatch.setattr(shortlist, "FEW", 20)
    monkeypatch.setattr(index, "EXHAUSTIVE", 5)
    store = opened()
    memories = remember(store, *(f"{number}번째 말" for number in range(40)))
    store.search("말", user=ME, k=3)
    assert store.wait()
    store.close()
    path = home / "index" / index_file.NAME
    assert path.exists()
    (home / "index" / f"{index_file.NAME}.zzz.part").write_bytes(b"of a save that was killed")
    if quarantined:
        path.write_bytes(path.read_bytes()[:-1])
    again = opened()
    remember(again, "이제 쓴다")
    again.search("말", user=ME, k=3)
    assert again.wait()
    assert path.with_name(f"{path.name}.damaged").exists() == quarantined
    again.forget(memories[3].id)
    assert list((home / "index").iterdir()) == []
    assert memories[3].text not in {hit.memory.text for hit in again.search("말", user=ME, k=99)}
    again.close()
    number = 4
    made, _ = index_file.load(path, **header(home))
    assert number not in made._rows()["memory"], "the next file does not know it"


def header(home: Path) -> dict[str, Any]:
    with closing(Store(home)) as store, store.read() as db:
        meta = dict(rows(db, "SELECT name, value FROM meta"))
    return {
        "model": fake_embedder.SPACE.model,
        "store": meta["store"],
        "dim": fake_embedder.DIM,
        "checksum": meta["index"],
    }


def test_a_text_that_was_corrected_leaves_no_trace(home: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    (memory,) = remember(store, SECRET)
    assert store.wait()
    store.update(memory.id, {"category": "personal"})
    assert {"vector", "word 감자구이사백십칠이에요"} <= set(traces(home, memory)), "they would be seen"
    store.update(memory.id, {"text": "다른 말"})
    assert traces(home, memory) == ["id"]


# ---- what goes along, and what stays


def test_what_was_merged_into_it_goes_and_what_it_replaced_stays(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    replaced, first, second, last, other = remember(
        store, "서울에 산다", "부산에 산다", "부산 산다", "부산에 살아요", "다른 말"
    )
    supersede(store, replaced, first, "replaced")
    supersede(store, first, second, "merged")
    supersede(store, second, last, "merged")
    store.forget(last.id)
    left = store.memories(user=ME, superseded=True)
    assert [memory.id for memory in left] == [other.id, replaced.id]
    assert left[1].superseded_by == first.id, "it does not become true again"
    assert store.memories(user=ME) == [other]
    assert [memory.id for memory in store.history(replaced.id)] == [replaced.id]
    assert not [hit for hit in store.search("서울에 산다", user=ME, k=9) if hit.memory.id == replaced.id]


def test_another_users_memory_never_goes_along(opened: Callable[..., MemoryStore]) -> None:
    """No judge merges across users; a file that was imported may claim it."""
    store = opened()
    (mine,), (theirs,) = remember(store, "부산에 산다"), remember(store, "부산에 산다", user="남")
    supersede(store, theirs, mine, "merged")
    store.forget(mine.id)
    assert [memory.id for memory in store.memories(user="남", superseded=True)] == [theirs.id]


def test_forgetting_an_older_one_leaves_the_newer(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    old, new = remember(store, "부산에 산다", "부산에 살아요")
    supersede(store, old, new, "merged")
    store.forget(old.id)
    assert [memory.id for memory in store.memories(user=ME, superseded=True)] == [new.id]


def test_what_is_merged_into_it_meanwhile_goes_too(
    opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    old, new = remember(store, "부산에 산다", "부산에 살아요")
    remove = forgetting._remove

    def late(*asked: Any) -> int:
        if old.id:
            monkeypatch.undo()
            supersede(store, old, new, "merged")
        return remove(*asked)

    monkeypatch.setattr(forgetting, "_remove", late)
    store.forget(new.id)
    assert store.memories(user=ME, superseded=True) == []


def test_forgetting_all_is_one_users_former_ones_too(home: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    old, new = remember(store, SECRET, "다른 말")
    supersede(store, old, new, "replaced")
    (others,) = remember(store, SECRET, user="남")
    store.backup()
    assert store.forget_all(ME) == 2
    assert store.forget_all(ME) == store.forget_all("없음") == 0
    assert store.memories(user="남", superseded=True) == [others]
    assert [hit.memory for hit in store.search(SECRET, user="남", k=5)] == [others]
    assert old.id.encode() not in every_byte(home) and others.id.encode() in every_byte(home)


def test_a_text_that_is_remembered_again_is_another_memory(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    (memory,) = remember(store, SECRET)
    store.forget(memory.id)
    (again,) = remember(store, SECRET)
    assert again.id != memory.id and again.importance == memory.importance
    assert [hit.memory.id for hit in store.search(SECRET, user=ME, k=5)] == [again.id]


@pytest.mark.parametrize("unknown", ["nothing", "' OR 1=1 --", " "])
def test_an_unknown_id_is_told_and_removes_nothing(
    opened: Callable[..., MemoryStore], unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    remember(store, SECRET)
    monkeypatch.setattr(Store, "wipe", lambda store: pytest.fail("there is nothing to wipe"))
    with pytest.raises(MemoryNotFound) as caught:
        store.forget(unknown)
    assert caught.value.id == unknown
    assert store.count() == 1


def test_whoever_else_may_hold_it_is_told(opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    store = opened(forgotten=lambda: told.append("now"))
    (memory,) = remember(store, SECRET)
    remember(store, "다른 말")
    with pytest.raises(MemoryNotFound):
        store.forget("nothing")
    assert told == []

    def fails(store: Store) -> None:
        raise StoreError("traces")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "wipe", fails)
        with pytest.raises(StoreError):
            store.forget(memory.id)
    assert told == ["now"], "it is gone, though traces are left"
    store.forget_all(ME)
    assert told == ["now"] * 2


# ---- what may go wrong


def test_a_wipe_that_another_reader_stops_is_made_up_for_with_the_index_file(
    home: Path, opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_READERS_GO", 0.1)
    store = opened()
    (memory,) = remember(store, SECRET)
    with closing(apsw.Connection(str(home / FILE_NAME))) as reader, reader:
        reader.execute("SELECT count(*) FROM memories").fetchall()
        with pytest.raises(StoreError, match="traces"):
            store.forget(memory.id)
        assert store.memories(user=ME) == [], "gone it is"
        assert traces(home, memory)
    store.close()
    (home / "index").mkdir()
    (home / "index" / index_file.NAME).write_bytes(vector(SECRET))  # as who was killed just then leaves it
    again = opened()
    remember(again, "다른 말")
    assert traces(home, memory) == []


def test_a_wipe_that_was_stopped_is_made_up_for_by_the_next_one(
    home: Path, opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_READERS_GO", 0.1)
    store = opened()
    memory, other = remember(store, SECRET, "다른 말")
    with closing(apsw.Connection(str(home / FILE_NAME))) as reader, reader:
        reader.execute("SELECT count(*) FROM memories").fetchall()
        with pytest.raises(StoreError, match="traces"):
            store.forget(memory.id)
    store.forget(other.id)
    assert traces(home, memory) == []


def test_who_only_reads_cannot_forget_nor_touch_the_backups(home: Path, opened: Callable[..., MemoryStore]) -> None:
    writer, reader = opened(), opened()
    (memory,) = remember(writer, SECRET)
    backup = writer.backup()
    before = backup.read_bytes()
    for call in (lambda: reader.forget(memory.id), lambda: reader.forget_all(ME)):
        with pytest.raises(StoreLocked):
            call()
    assert backup.read_bytes() == before
    assert reader.memories(user=ME) == [memory]


def test_a_backup_that_is_being_made_does_not_keep_it(
    home: Path, opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before, so it has the memory, and ends after `forget` has looked for backups."""
    store = opened()
    (memory,) = remember(store, SECRET)
    copy, begun, go = connections.copied, threading.Event(), threading.Event()

    def slow(*asked: Any) -> None:
        copy(*asked)
        begun.set()
        go.wait(timeout=30)

    monkeypatch.setattr(connections, "copied", slow)
    backing = threading.Thread(target=store.backup)
    backing.start()
    begun.wait(timeout=30)
    forgetting_ = threading.Thread(target=store.forget, args=(memory.id,))
    forgetting_.start()
    forgetting_.join(timeout=0.2)
    go.set()
    forgetting_.join()
    backing.join()
    assert traces(home, memory) == []
    assert len(list((home / BACKUPS).iterdir())) == 1


def test_what_cannot_be_forgotten_in_a_backup_stays_everywhere(home: Path, opened: Callable[..., MemoryStore]) -> None:
    """Else it would seem forgotten, and come back."""
    store = opened()
    (memory,) = remember(store, SECRET)
    backup = store.backup()
    with closing(apsw.Connection(str(backup))) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError):
            store.forget(memory.id)
        other.execute("ROLLBACK")
    assert store.memories(user=ME) == [memory]
    store.forget(memory.id)
    assert traces(home, memory) == []


def test_logs_and_errors_hold_no_text(
    home: Path, opened: Callable[..., MemoryStore], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.NOTSET)
    store = opened()
    (memory,) = remember(store, SECRET, category="personal")
    store.search(SECRET, user=ME, k=3)
    with store._store.write() as db:
        db.execute("DROP TABLE vectors")
    messages = []
    for call in (
        lambda: remember(store, f"{SECRET}!"),
        lambda: store.search(SECRET, user=ME, k=3),
        lambda: store.update(memory.id, {"text": f"{SECRET}!"}),
        lambda: store.forget(memory.id),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        messages.append(str(caught.value))
    assert store.wait()
    assert all("vectors" in message for message in messages)
    assert not any(word in message for word in SECRET.split() for message in [*messages, caplog.text])


def test_what_a_text_said_before_it_was_corrected_is_in_no_file(home: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    (memory,) = remember(store, SECRET)
    remember(store, *(f"기억 {n}" for n in range(50)))
    store.update(memory.id, {"text": "비밀번호는 말하지 않을래요"})
    left = every_byte(home)
    assert SECRET.encode() not in left and vector(SECRET) not in left
    assert "감자구이사백십칠".encode() not in left
    assert store.problems() == []


def test_a_backup_that_another_process_makes_meanwhile_does_not_keep_it(
    home: Path, opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only reads, so nothing holds it up: it may come after the backups were looked through."""
    store = opened()
    (memory,) = remember(store, SECRET)
    forget = Store.forget_in_backups

    def then_another(self: Store, delete: Any) -> None:
        forget(self, delete)
        if memory.id in {one.id for one in store.memories(user=ME)}:
            with closing(MemoryStore(home, fake_embedder.faculties())) as other:
                other.backup()

    monkeypatch.setattr(Store, "forget_in_backups", then_another)
    store.forget(memory.id)
    assert traces(home, memory) == []
    assert len(list((home / BACKUPS).iterdir())) == 1
