"""What the long runs found, each in as few steps as show it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import memory_life
import pytest
from memory_kills import written

from engine.errors import StoreError
from engine.faculties import Verdict
from engine.memory import MemoryStore
from engine.metrics import Progress
from engine.records import Memory
from engine.shortlist import Shortlist
from engine.store import BACKUPS, FILE_NAME, Store

USER = memory_life.STAYS
HANG = 60.0
LONG = " ".join(["적어 둔 말 71f33636bb4af778"] * 400)


class Told:
    """A lock, and whether one of some threads has found it taken."""

    def __init__(self, lock: Any, of: list[threading.Thread]) -> None:
        self.lock, self.of, self.awaited = lock, of, False

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            self.awaited = self.awaited or threading.current_thread() in self.of
            self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "홍길동" / "내 문서"


@pytest.fixture
def store(home: Path) -> Iterator[MemoryStore]:
    with closing(MemoryStore(home, memory_life.faculties())) as opened:
        yield opened


def test_problems_are_those_of_now(store: MemoryStore) -> None:
    """FTS5 checks what its connection read before, unless it looks again: 3.54.1 called a sound table damaged."""
    for number in range(3):
        store.remember([f"적어 둔 말 {number} {n}" for n in range(20)], user=USER, judge=False)
        assert store.problems() == []


def test_a_long_text_that_took_the_place_of_another_can_be_forgotten(store: MemoryStore) -> None:
    """FTS5's `secure-delete` damages the index where a row was replaced in one transaction and is deleted later."""
    (first,) = store.remember([LONG], user=USER, judge=False)
    store.update(first.id, {"text": f"{LONG} 하나"})
    store.wait(HANG)
    store.update(first.id, {"text": f"{LONG} 둘"})
    store.remember(["다른 말"], user=USER, judge=False)
    store.forget(first.id)
    assert store.problems() == []
    assert [hit.memory.text for hit in store.search("다른 말", user=USER, k=5)] == ["다른 말"]


def test_what_a_killed_process_left_to_judge_is_judged_by_the_next(store: MemoryStore, home: Path) -> None:
    store.remember([memory_life.fact("집", "부산", "a" * 16)], user=USER)
    store.wait(HANG)
    store._keeper.close()  # as if it was killed before the background came to it
    new = memory_life.fact("집", "대전", "b" * 16)
    store.remember([new], user=USER)
    killed = home.with_name("killed")
    shutil.copytree(home, killed)
    with closing(MemoryStore(killed, memory_life.faculties())) as after:
        assert len(after.memories(user=USER)) == 2
        memory_life.begin(after)  # it is the one that writes now
        assert after.wait(HANG)
        assert [memory.text for memory in after.memories(user=USER)] == [new]


def test_a_backup_that_was_cut_short_leaves_nothing_that_is_forgotten(store: MemoryStore, home: Path) -> None:
    secret = "아무도 모르는 말 a7c01d"
    (kept,) = store.remember([secret], user=USER, judge=False)
    whole = store.backup()
    shutil.copy(whole, whole.with_name("memory-20200101-000000-000000.sqlite3.part"))  # as a killed process leaves it
    store.forget(kept.id)
    assert not any(secret.encode() in data for data in written(home).values())


def test_what_is_forgotten_while_a_backup_is_made_is_not_in_it(home: Path) -> None:
    secret = "아무도 모르는 말 a7c01d"
    asked: list[threading.Thread] = []

    def forget(progress: Progress) -> bool:
        if not asked:
            asked.append(threading.Thread(target=store.forget, args=(kept.id,)))
            store._store.copying = lock = Told(store._store.copying, asked)  # type: ignore[assignment]
            asked[0].start()
            while asked[0].is_alive() and not lock.awaited:  # it has come to its end, or to where it waits for this
                time.sleep(0.001)
        return True

    with closing(MemoryStore(home, memory_life.faculties(), progress=forget)) as store:
        (kept,) = store.remember([secret], user=USER, judge=False)
        store.backup()
        asked[0].join(HANG)
        assert store.memories(user=USER) == []
        assert not any(secret.encode() in data for data in written(home).values())
        assert list((home / BACKUPS).glob("*.sqlite3"))


def test_pages_that_do_not_fit_each_other_are_noticed_after_a_kill(store: MemoryStore, home: Path) -> None:
    """A damaged log that was copied in half gave back less than the file had: a tree of two times."""
    store.remember([f"적어 둔 말 {n}" for n in range(300)], user=USER, judge=False)
    assert store.wait(60)
    backup = store.backup()
    store._store.wipe()  # all of it is in the file
    store.remember(["다른 말"], user=USER, judge=False)
    killed = home.with_name("killed")
    shutil.copytree(home, killed)
    data, page = (killed / FILE_NAME).read_bytes(), 4096
    at = data.index("적어 둔 말 150".encode()) // page * page  # not in the log, which has the end of the table
    (killed / FILE_NAME).write_bytes(data[:at] + bytes(page) + data[at + page :])
    with closing(MemoryStore(killed, memory_life.faculties())) as after:
        with pytest.raises(StoreError, match="is damaged") as caught:
            memory_life.begin(after)
        assert backup.name in str(caught.value)


def test_forgetting_searching_and_saving_the_index_do_not_wait_for_each_other(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who saves must not have what a search waits for while it waits for who forgets, who waits for the search."""
    monkeypatch.setattr("engine.shortlist.FEW", memory_life.FEW)
    first, *_ = store.remember([f"적어 둔 말 {n}" for n in range(40)], user=USER, judge=False)
    store.search("적어 둔 말", user=USER, k=3)
    assert store.wait(HANG)
    saved, searching = threading.Event(), threading.Event()
    real_write, real_wipe, real_near = Store.write, Store._wipe, Shortlist.near
    threads = [
        threading.Thread(target=store._index.save),
        threading.Thread(target=store.search, args=("적어 둔 말",), kwargs={"user": USER, "k": 3}),
    ]

    def write(self: Store) -> Any:
        if threading.current_thread() is threads[0]:
            saved.set()  # the file is written, and next it waits for who wipes
        return real_write(self)

    def near(self: Shortlist, *arguments: Any) -> Any:
        searching.set()  # it reads, which who wipes waits for
        return real_near(self, *arguments)

    def wipe(self: Store, *arguments: Any) -> None:
        for thread, there in zip(threads, (saved, searching), strict=True):  # while nobody else may write
            thread.start()
            assert there.wait(HANG)
        real_wipe(self, *arguments)

    monkeypatch.setattr(Store, "write", write)
    monkeypatch.setattr(Shortlist, "near", near)
    monkeypatch.setattr(Store, "_wipe", wipe)
    store.forget(first.id)
    for thread in threads:
        thread.join(HANG)
    assert not any(thread.is_alive() for thread in threads)
    assert len(store.search("적어 둔 말", user=USER, k=50)) == 39


def test_a_fact_that_is_reworded_while_it_is_judged_is_judged_by_its_new_words(home: Path) -> None:
    judging, go_on = threading.Event(), threading.Event()

    def judge(old: Memory, new: Memory, likeness: float) -> Verdict:
        judging.set()
        assert go_on.wait(HANG)
        return memory_life.judge(old, new, likeness)

    with closing(MemoryStore(home, replace(memory_life.faculties(), judge=judge))) as store:
        (old,) = store.remember([memory_life.fact("집", "부산", "a" * 16)], user=USER, judge=False)
        (new,) = store.remember([memory_life.fact("집", "대전", "b" * 16)], user=USER)
        assert judging.wait(HANG)
        store.update(old.id, {"text": memory_life.fact("집", "부산", "c" * 16)})
        go_on.set()
        assert store.wait(HANG)
        assert [memory.id for memory in store.memories(user=USER)] == [new.id]
