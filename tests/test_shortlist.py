"""The index through its life, with a store above it: built, followed, saved, read again, refused, thrown away.

It is used from 30 memories on here, and chooses where more than ten match.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_embedder
import numpy as np
import pytest

from engine import index, index_file, retriever, shortlist, spaces
from engine import memory as memory_module
from engine.connections import rows
from engine.errors import ModelNotFound, OutOfBudget
from engine.faculties import Space
from engine.index import VectorIndex
from engine.memory import MemoryStore
from engine.records import Memory

ME, OTHER = "나", "남"
TEXTS = [
    f"{number}번 적어 둔 {'가나다라마바사아자차카타파하'[number % 14] * (number % 5 + 1)}" for number in range(120)
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "FEW", 30)
    monkeypatch.setattr(index, "EXHAUSTIVE", 10)


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


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often every vector was looked at."""
    counted: list[int] = []
    scored = retriever._all_scored

    def counting(*asked: Any) -> list[int]:
        counted.append(1)
        return scored(*asked)

    monkeypatch.setattr(retriever, "_all_scored", counting)
    return counted


def remember(store: MemoryStore, *texts: str, user: str = ME) -> list[Memory]:
    return store.remember(list(texts), user=user)


def found(store: MemoryStore, query: str, k: int = 5, user: str = ME, **asked: Any) -> list[str]:
    return [hit.memory.text for hit in store.search(query, user=user, k=k, **asked)]


def built(store: MemoryStore) -> VectorIndex:
    """Miss the index, and wait until it is there."""
    found(store, "무엇이든")
    assert store.wait()
    made = store._index._index
    assert made is not None
    return made


def held(store: MemoryStore) -> set[int]:
    made = store._index._index
    assert made is not None
    return set(made._rows()["memory"].tolist())


def live(store: MemoryStore) -> set[int]:
    with store._store.read() as db:
        return {seq for (seq,) in rows(db, "SELECT seq FROM memories WHERE superseded_by IS NULL")}


def same(store: MemoryStore, exact: list[int], *queries: str, **asked: Any) -> None:
    """Check that the index answers, and as looking at every vector does."""
    for query in queries:
        before = len(exact)
        by_index = [(hit.memory, hit.score) for hit in store.search(query, user=ME, k=5, **asked)]
        assert len(exact) == before, "the index was not used"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shortlist, "FEW", 10**9)
            by_all = [(hit.memory, hit.score) for hit in store.search(query, user=ME, k=5, **asked)]
        assert len(exact) == before + 1
        assert by_index == by_all


# ---- built, and followed


def test_few_memories_need_no_index(opened: Callable[..., MemoryStore], exact: list[int], home: Path) -> None:
    store = opened()
    remember(store, *TEXTS[:30])
    assert found(store, TEXTS[3], k=1) == [TEXTS[3]]
    assert store.wait()
    assert (store._index._index, exact) == (None, [1])
    store.close()
    assert not (home / "index").exists()


def test_it_is_built_in_the_background_while_every_vector_is_looked_at(
    opened: Callable[..., MemoryStore], exact: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    remember(store, *TEXTS)
    go, add = threading.Event(), VectorIndex.add

    def slow(*asked: Any) -> None:
        go.wait(timeout=30)
        add(*asked)

    monkeypatch.setattr(VectorIndex, "add", slow)
    for number in range(3):
        assert found(store, TEXTS[number], k=1) == [TEXTS[number]]
    assert len(exact) == 3 and not store.wait(0.01)
    go.set()
    assert store.wait()
    same(store, exact, *TEXTS[::20], "번 적어", "모르는 말")


def test_it_follows_every_change(opened: Callable[..., MemoryStore], exact: list[int]) -> None:
    store = opened()
    memories = remember(store, *TEXTS)
    first = built(store)
    store.forget(memories[5].id)
    store.update(memories[6].id, {"text": "새로 적은 말"})
    store.update(memories[7].id, {"category": "goal", "source": "엄마", "when": "2020-01-01"})
    remember(store, "나중에 온 말")
    with store._store.write() as db:
        db.execute("UPDATE memories SET superseded_by = 'x' WHERE id = ?", (memories[8].id,))
    before = len(exact)
    assert TEXTS[5] not in found(store, TEXTS[5], k=200) and TEXTS[8] not in found(store, TEXTS[8], k=200)
    assert TEXTS[6] not in found(store, TEXTS[6], k=200)
    assert found(store, "새로 적은 말", k=1) == ["새로 적은 말"]
    assert found(store, "나중에 온 말", k=1) == ["나중에 온 말"]
    for wanted in ({"category": "goal"}, {"source": "엄마"}, {"until": "2020-01-01"}):
        assert found(store, "말", k=5, **wanted) == [TEXTS[7]]
    assert len(exact) == before, "all by the index"
    assert store._index._index is first
    assert held(store) == live(store)
    same(store, exact, *TEXTS[::20], "새로 적은 말", "나중에 온 말")


def test_filters_hold_before_the_candidates_are_chosen(
    opened: Callable[..., MemoryStore], exact: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever, "NEAR", 5)
    store = opened()
    remember(store, *(f"{TEXTS[0]} {number}" for number in range(100)), user=OTHER)
    remember(store, *TEXTS[100:118])
    store.remember(TEXTS[118:], user=ME, category="goal", source="엄마", when="2020-01-01")
    built(store)
    before = len(exact)
    assert set(found(store, TEXTS[0], k=3)) <= set(TEXTS) and len(found(store, TEXTS[0], k=3)) == 3
    assert set(found(store, TEXTS[0], k=500)) == set(TEXTS[100:])
    for wanted in ({"category": "goal"}, {"source": "엄마"}, {"until": "2020-01-01"}):
        assert set(found(store, TEXTS[0], k=2, **wanted)) == set(TEXTS[118:])
    assert found(store, TEXTS[0], k=3, user="없음") == found(store, TEXTS[0], k=3, category="health") == []
    assert len(exact) == before


def test_what_is_remembered_while_it_is_built_is_in_it(
    opened: Callable[..., MemoryStore], exact: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    memories = remember(store, *TEXTS)
    assert store.wait()
    todo = [lambda: remember(store, "그사이에 온 말"), lambda: store.forget(memories[9].id)]
    put = shortlist._put

    def between(*asked: Any) -> None:
        put(*asked)
        if todo and threading.current_thread() is not threading.main_thread():
            todo.pop()()

    monkeypatch.setattr(shortlist, "_put", between)
    built(store)
    assert todo == []
    assert found(store, "그사이에 온 말", k=1) == ["그사이에 온 말"]
    assert held(store) == live(store)
    same(store, exact, *TEXTS[::20])


def test_many_changes_are_followed_in_the_background(
    opened: Callable[..., MemoryStore], exact: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    remember(store, *TEXTS[:50])
    built(store)
    monkeypatch.setattr(shortlist, "_BATCH", 8)
    remember(store, *TEXTS[50:])
    for text in TEXTS[::9]:
        assert found(store, text, k=1) == [text]
    assert store.wait()
    assert held(store) == live(store)
    same(store, exact, *TEXTS[::20])


def test_an_index_that_has_outgrown_its_centre_is_made_anew(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    remember(store, *TEXTS[:31])
    first = built(store)
    for start in range(31, 120, 10):
        remember(store, *TEXTS[start : start + 10])
    for number in range(200):
        remember(store, f"또 {number}")
        if number % 50 == 49:
            assert store.wait()
    found(store, "또")
    assert store.wait()
    made = store._index._index
    assert made is not None and made is not first
    assert made.trained > first.trained and not made.outgrown
    assert held(store) == live(store)


@pytest.mark.parametrize("reopened", [False, True])
def test_it_is_of_the_space_that_is_searched(
    opened: Callable[..., MemoryStore], exact: list[int], reopened: bool
) -> None:
    present = [fake_embedder.SPACE]
    turned = Space("turned", "turned")

    def embed(texts: list[str], kind: Any, space: Space) -> Any:
        dense = fake_embedder.embed(texts, kind)
        return fake_embedder.Embedded(dense if space != turned else dense[:, ::-1].copy())

    store = opened(space=lambda: present[0], embed=embed)
    remember(store, *TEXTS)
    built(store)
    if reopened:
        store.close()
        store = opened(space=lambda: present[0], embed=embed)
    present[0] = turned
    assert found(store, TEXTS[3], k=1) == [TEXTS[3]]
    built(store)
    with store._store.read() as db:
        serving = spaces.serving(db)
    assert serving is not None and serving.space == turned and store._index._number == serving.number
    vectors = fake_embedder.embed(TEXTS, "passage")[:, ::-1]
    made = store._index._index
    assert made is not None
    np.testing.assert_allclose(made._centre, vectors.mean(axis=0), atol=2e-3)
    same(store, exact, *TEXTS[::20])


def test_there_is_none_of_a_space_that_is_still_filled(
    opened: Callable[..., MemoryStore], home: Path, exact: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old model is gone, so the new space is searched as far as it is filled."""
    first = opened()
    remember(first, *TEXTS)
    built(first)
    first.close()
    before = saved(home).read_bytes()
    monkeypatch.setattr(memory_module, "_WAIT_FOR", 10)
    turned, go = Space("turned", "turned"), threading.Event()

    def embed(texts: list[str], kind: Any, space: Space) -> Any:
        if space != turned:
            raise ModelNotFound("gone", model=space.name)
        if TEXTS[64] in texts and kind == "passage":
            go.wait(timeout=30)
        return fake_embedder.Embedded(fake_embedder.embed(texts, kind)[:, ::-1].copy())

    second = opened(space=lambda: turned, embed=embed)
    found(second, "무엇이든")
    while not embedded(second, turned):
        time.sleep(0.001)
    assert found(second, TEXTS[3], k=1) == [TEXTS[3]]
    assert not second._index.missed
    assert saved(home).read_bytes() == before and len(list((home / "index").iterdir())) == 1
    go.set()
    assert second.wait()
    built(second)
    same(second, exact, *TEXTS[::20])


def embedded(store: MemoryStore, space: Space) -> bool:
    with store._store.read() as db:
        return spaces.place(db, space) is not None


# ---- its file


def saved(home: Path) -> Path:
    (path,) = [path for path in (home / "index").iterdir() if path.name == index_file.NAME]
    return path


def test_it_is_saved_at_closing_and_read_again(
    opened: Callable[..., MemoryStore], home: Path, exact: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    remember(first, *TEXTS)
    built(first)
    remember(first, "나중에 온 말")
    queries = [*TEXTS[::20], "번 적어", "모르는 말"]
    before = [first.search(query, user=ME, k=5) for query in queries]
    first.close()
    assert saved(home).stat().st_size > 0
    monkeypatch.setattr(VectorIndex, "add", lambda *_: pytest.fail("it was made anew"))
    second = opened()
    exact.clear()
    after = [second.search(query, user=ME, k=5) for query in queries]
    assert [[hit.memory for hit in hits] for hits in after] == [[hit.memory for hit in hits] for hits in before]
    assert (exact, held(second)) == ([], live(second))
    assert found(second, "나중에 온 말", k=1) == ["나중에 온 말"]


def test_a_file_that_is_behind_is_brought_up_to_date(
    opened: Callable[..., MemoryStore], home: Path, exact: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened()
    memories = remember(first, *TEXTS)
    built(first)
    assert saved(home).stat().st_size > 0, "one that is new is saved at once"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_file, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
        first.update(memories[3].id, {"source": "엄마"})
        with first._store.write() as db:
            db.execute("UPDATE memories SET superseded_by = 'x' WHERE id = ?", (memories[4].id,))
        remember(first, "나중에 온 말")
        first.close()
    second = opened()
    exact.clear()
    assert found(second, "말", source="엄마") == [TEXTS[3]]
    assert TEXTS[4] not in found(second, TEXTS[4], k=200)
    assert found(second, "나중에 온 말", k=1) == ["나중에 온 말"]
    assert (exact, held(second)) == ([], live(second))


def test_an_older_file_that_somebody_put_back_is_not_believed(
    opened: Callable[..., MemoryStore], home: Path, exact: list[int]
) -> None:
    first = opened()
    remember(first, *TEXTS[:60])
    built(first)
    first.close()
    older = saved(home).read_bytes()
    second = opened()
    found(second, "무엇이든")
    remember(second, *TEXTS[60:])
    built(second)
    second.close()
    assert saved(home).read_bytes() != older
    saved(home).write_bytes(older)
    third = opened()
    exact.clear()
    assert found(third, TEXTS[99], k=1) == [TEXTS[99]]
    assert exact == [1], "looked at exactly, meanwhile"
    assert third.wait()
    assert held(third) == live(third)
    same(third, exact, *TEXTS[::20])


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "foreign", "a folder"])
def test_a_file_that_cannot_be_used_is_made_anew_while_every_vector_is_looked_at(
    opened: Callable[..., MemoryStore], home: Path, exact: list[int], tmp_path: Path, damage: str
) -> None:
    first = opened()
    remember(first, *TEXTS)
    built(first)
    first.close()
    path = saved(home)
    whole = path.read_bytes()
    if damage == "foreign":
        other = MemoryStore(tmp_path / "other", fake_embedder.faculties())
        remember(other, *TEXTS)
        built(other)
        other.close()
        path.write_bytes(saved(tmp_path / "other").read_bytes())
    elif damage in {"missing", "a folder"}:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    else:
        half = len(whole) // 2
        flipped = whole[:half] + bytes([whole[half] ^ 4]) + whole[half + 1 :]
        path.write_bytes({"empty": b"", "cut": whole[:-7], "flipped": flipped}[damage])
    second = opened()
    remember(second, "새 글")  # this process writes
    exact.clear()
    assert found(second, TEXTS[50], k=1) == [TEXTS[50]]
    assert exact == [1]
    assert second.wait()
    assert held(second) == live(second)
    same(second, exact, *TEXTS[::20])
    second.close()
    third = opened()
    exact.clear()
    found(third, "무엇이든")
    assert exact == [] or damage == "a folder", "the new file serves"


def test_a_process_that_cannot_save_works_on(
    opened: Callable[..., MemoryStore], home: Path, exact: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    first = opened()
    remember(first, *TEXTS)
    (home / "index").write_text("in the way", encoding="utf-8")
    built(first)
    same(first, exact, *TEXTS[::20])
    first.close()
    assert "not saved" in caplog.text and not any(text in caplog.text for text in TEXTS)


def test_an_index_of_nothing_new_is_not_saved_again(opened: Callable[..., MemoryStore], home: Path) -> None:
    first = opened()
    remember(first, *TEXTS)
    built(first)
    first.close()
    before = saved(home).stat().st_mtime_ns
    second = opened()
    found(second, "무엇이든")
    second._store.claim()
    second.close()
    assert saved(home).stat().st_mtime_ns == before


def test_memories_that_came_before_there_was_a_journal_are_saved_too(
    opened: Callable[..., MemoryStore], home: Path, exact: list[int]
) -> None:
    """As a migration or a new embedding model leaves them: there is an index, and nothing was ever noted."""
    first = opened()
    remember(first, *TEXTS)
    with first._store.write() as db:
        db.execute("DELETE FROM journal")
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'journal'")
    built(first)
    first.close()
    second = opened()
    exact.clear()
    found(second, "무엇이든")
    assert (exact, held(second)) == ([], live(second))


def test_what_was_applied_is_not_kept_in_the_journal(opened: Callable[..., MemoryStore]) -> None:
    first = opened()
    remember(first, *TEXTS)
    built(first)
    first._index.save()
    with first._store.read() as db:
        assert rows(db, "SELECT count(*) FROM journal") == [(0,)]


def test_it_is_saved_again_when_a_tenth_of_it_has_changed(opened: Callable[..., MemoryStore], home: Path) -> None:
    store = opened()
    remember(store, *TEXTS[:100])
    built(store)
    before = saved(home).stat().st_mtime_ns
    remember(store, *TEXTS[100:105])
    assert store.wait() and saved(home).stat().st_mtime_ns == before
    remember(store, *TEXTS[105:])
    assert store.wait() and saved(home).stat().st_mtime_ns > before


# ---- other processes


def test_who_reads_beside_follows_who_writes(opened: Callable[..., MemoryStore], exact: list[int]) -> None:
    writer, reader = opened(), opened()
    memories = remember(writer, *TEXTS)
    built(reader)
    remember(writer, "나중에 온 말")
    writer.forget(memories[5].id)
    writer.update(memories[6].id, {"text": "새로 적은 말"})
    exact.clear()
    assert found(reader, "나중에 온 말", k=1) == ["나중에 온 말"]
    assert found(reader, "새로 적은 말", k=1) == ["새로 적은 말"]
    assert TEXTS[5] not in found(reader, TEXTS[5], k=200)
    assert (exact, held(reader)) == ([], live(writer))
    assert not reader._store.is_writer


def test_who_reads_beside_takes_the_file_where_the_journal_was_cut(
    opened: Callable[..., MemoryStore], exact: list[int]
) -> None:
    writer, reader = opened(), opened()
    remember(writer, *TEXTS[:60])
    built(reader)
    remember(writer, *TEXTS[60:])
    built(writer)
    writer._index.save()
    assert found(reader, TEXTS[99], k=1) == [TEXTS[99]], "whatever it takes"
    assert reader.wait()
    same(reader, exact, *TEXTS[::20])
    assert held(reader) == live(writer)


WRITE = """
import sys
from pathlib import Path
import fake_embedder
from engine.memory import MemoryStore
store = MemoryStore(Path(sys.argv[1]), fake_embedder.faculties())
for line in sys.stdin:
    print(store.remember([line.strip()], user="나")[0].id, flush=True)
store.close()
"""


def test_what_another_process_writes_is_found(opened: Callable[..., MemoryStore], home: Path, exact: list[int]) -> None:
    first = opened()
    remember(first, *TEXTS)
    built(first)
    first.close()
    reader = opened()
    found(reader, "무엇이든")
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", WRITE, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={"PYTHONPATH": f"{here.parent}:{here}", "PYTHONUTF8": "1"},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for text in ("다른 곳에서 온 말", "또 다른 곳에서 온 말"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert len(process.stdout.readline().strip()) == 32
            exact.clear()
            assert found(reader, text, k=1) == [text]
            assert exact == []
        process.stdin.close()
    assert held(reader) == live(reader)


# ---- room


class Room:
    """Bytes that an index may have, and what it asked for."""

    def __init__(self, most: float) -> None:
        self.most, self.asked = most, []  # type: ignore[var-annotated]

    def __call__(self, size: int) -> None:
        self.asked.append(size)
        if size > self.most:
            raise OutOfBudget("full", needed=size, available=0)


def test_an_index_asks_before_it_is_made_and_before_it_grows(opened: Callable[..., MemoryStore]) -> None:
    room = Room(float("inf"))
    store = opened(room=room)
    remember(store, *TEXTS)
    assert store.wait() and room.asked == [], "nothing is in memory before a search misses it"
    built(store)
    assert set(room.asked) == {index.bytes_of(120, fake_embedder.DIM)}
    remember(store, "나중에 온 말")
    found(store, "무엇이든")
    assert room.asked[-1] >= index.bytes_of(121, fake_embedder.DIM)


def test_without_room_every_vector_is_looked_at(
    opened: Callable[..., MemoryStore], exact: list[int], home: Path
) -> None:
    room = Room(0)
    store = opened(room=room)
    remember(store, *TEXTS)
    for text in TEXTS[::20]:
        assert found(store, text, k=1) == [text]
        assert store.wait()
    assert store._index._index is None and len(exact) == len(TEXTS[::20])
    room.most = index.bytes_of(120, fake_embedder.DIM)
    built(store)
    same(store, exact, *TEXTS[::20])
    remember(store, "나중에 온 말")  # which the index has no room for
    exact.clear()
    assert found(store, "나중에 온 말", k=1) == ["나중에 온 말"]
    assert exact == [1]


def test_a_saved_index_that_has_no_room_is_not_read(
    opened: Callable[..., MemoryStore], home: Path, exact: list[int]
) -> None:
    first = opened()
    remember(first, *TEXTS)
    built(first)
    first.close()
    before = saved(home).read_bytes()
    second = opened(room=Room(0))
    exact.clear()
    assert found(second, TEXTS[3], k=1) == [TEXTS[3]]
    assert exact == [1]
    second.close()
    assert saved(home).read_bytes() == before, "it is not at fault"


# ---- many at once


def test_threads_search_and_change_what_they_search(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    remember(store, *TEXTS)
    built(store)
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait(timeout=30)
        for step in range(6):
            text = f"{number}의 {step}번째 말"
            (memory,) = remember(store, text)
            assert found(store, text, k=1) == [text]
            if step % 3 == 2:
                store.forget(memory.id)
                assert text not in found(store, text, k=200)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    found(store, "무엇이든")
    assert held(store) == live(store)
    assert store.problems() == []


def test_a_memory_that_came_while_another_model_served_is_not_missing_when_the_first_is_back(
    opened: Callable[..., MemoryStore],
) -> None:
    """The journal notes changes of the space alone that is searched, so no index may be followed across a change."""
    turned, present = Space("turned", "turned"), [fake_embedder.SPACE]

    def embed(texts: list[str], kind: Any, space: Space) -> Any:
        dense = fake_embedder.embed(texts, kind)
        return fake_embedder.Embedded(dense if space != turned else dense[:, ::-1].copy())

    store = opened(space=lambda: present[0], embed=embed)
    remember(store, *TEXTS)
    built(store)
    store.close()
    present[0] = turned
    store = opened(space=lambda: present[0], embed=embed)
    late = "다른 모델을 쓸 때 적어 둔 말"
    remember(store, late)
    assert store.wait()
    store.close()
    present[0] = fake_embedder.SPACE
    store = opened(space=lambda: present[0], embed=embed)
    found(store, late)
    assert store.wait()
    built(store)
    assert held(store) == live(store)
    assert found(store, late, k=1) == [late]


def test_a_store_with_many_deletions_is_not_indexed_anew_each_time(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    remember(store, *TEXTS)
    with store._store.write() as db:
        db.execute("UPDATE sqlite_sequence SET seq = 400000 WHERE name = 'memories'")
    remember(store, *(f"나중 {number}" for number in range(40)))
    first = built(store)
    for number in range(5):
        remember(store, f"또 {number}")
        assert store.wait()
    assert store._index._index is first and first.trained > 100
