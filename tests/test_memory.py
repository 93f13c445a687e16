from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from fake_embedder import embed, model
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine import records
from engine.errors import (
    Cancelled,
    EngineClosed,
    InvalidInput,
    MemoryNotFound,
    OutOfBudget,
    StoreError,
    StoreLocked,
)
from engine.footprint import index_bytes
from engine.index import VectorIndex
from engine.memory import MemoryStore
from engine.metrics import Progress
from engine.records import Memory

ME = "default"
FOOD = "저는 매운 음식을 못 먹어요"
WORK = "회사에서 팀장이 되었어요"
DOG = "강아지 이름은 보리예요"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "홍길동" / "내 문서"


@pytest.fixture
def store(home: Path) -> Iterator[MemoryStore]:
    store = MemoryStore(home, embed, model)
    yield store
    store.close()


def remember(store: MemoryStore, *texts: str, user: str = ME) -> list[Memory]:
    return store.remember(list(texts), user=user)


def found(store: MemoryStore, query: str, k: int = 5, user: str = ME) -> list[str]:
    return [hit.memory.text for hit in store.search(query, user=user, k=k)]


def every_byte(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


# remember


class Room:
    """Bytes that an index may have, and what it asked for."""

    def __init__(self, most: float = float("inf")) -> None:
        self.most, self.asked = most, []  # type: ignore[var-annotated]

    def __call__(self, size: int) -> None:
        self.asked.append(size)
        if size > self.most:
            raise OutOfBudget("full", needed=size, available=0)


def test_an_index_has_its_bytes_before_it_is_read_and_before_it_grows(home: Path) -> None:
    room = Room()
    store = MemoryStore(home, embed, model, room=room)
    remember(store, FOOD, WORK)
    assert room.asked == [], "nothing is in memory before the first search"
    found(store, FOOD)
    assert room.asked == [index_bytes(2, 64)]
    found(store, FOOD)
    remember(store, FOOD)
    assert room.asked[1:] == [], "what is there already takes no more"
    remember(store, DOG)
    assert room.asked[1:] == [index_bytes(3, 64)]
    store.close()


def test_an_index_that_may_not_be_read_is_not(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(0)
    store = MemoryStore(home, embed, model, room=room)
    stored = remember(store, FOOD, WORK)
    with monkeypatch.context() as patch:
        patch.setattr("engine.memory.VectorIndex", lambda *_: pytest.fail("it was made"))
        for _ in range(2):
            with pytest.raises(OutOfBudget):
                found(store, FOOD)
    assert store.memories(user=ME) == stored[::-1], "what needs no index still works"
    room.most = index_bytes(2, 64)
    assert found(store, FOOD, k=1) == [FOOD]
    with pytest.raises(OutOfBudget):
        remember(store, DOG)
    assert store.count() == 2 and found(store, DOG) and DOG.encode() not in every_byte(home)
    store.close()


def test_remembers_in_order_and_verbatim(store: MemoryStore) -> None:
    texts = [
        FOOD,
        "  띄어쓰기와\n줄바꿈\t그대로  ",
        "이모지 👩‍👩‍👧‍👦",
        " ",
        "e\u0301",
        "é",
        "'; DROP TABLE memories; --",
    ]
    memories = remember(store, *texts)
    assert [m.text for m in memories] == texts
    assert [store.memory(m.id) for m in memories] == memories
    assert [m.text for m in store.memories(user=ME)] == texts[::-1]
    assert store.count() == len({m.id for m in memories}) == len(texts)


def test_keeps_what_was_said_about_a_memory(store: MemoryStore) -> None:
    kst = timezone(timedelta(hours=9))
    before = datetime.now(UTC)
    (memory,) = store.remember(
        [FOOD], user="민지", category="preference", when="2026-03-05T10:30+09:00", source="엄마", kind="fact"
    )
    assert (memory.category, memory.kind, memory.source, memory.user) == (
        "preference",
        "fact",
        "엄마",
        "민지",
    )
    assert memory.when == datetime(2026, 3, 5, 10, 30, tzinfo=kst)
    assert before - timedelta(microseconds=1) <= memory.created <= datetime.now(UTC)
    assert (memory.valid_from, memory.valid_to, memory.superseded_by) == (memory.created, None, None)
    assert memory.importance == 0.5
    assert store.memory(memory.id) == memory


def test_a_date_is_its_local_midnight(store: MemoryStore) -> None:
    (memory,) = store.remember([FOOD], user=ME, when=date(2026, 3, 5))
    assert memory.when == datetime(2026, 3, 5).astimezone()


def test_an_exact_duplicate_is_the_memory_there_is(store: MemoryStore) -> None:
    first, second, third = remember(store, FOOD, WORK, FOOD)
    assert first == third != second
    (again,) = store.remember([FOOD], user=ME, category="health")
    assert again == first
    (other,) = remember(store, FOOD, user="다른 사람")
    assert other.id != first.id
    assert store.count() == 3


def test_duplicates_are_not_embedded_again(home: Path) -> None:
    seen: list[str] = []

    def counting(texts: list[str], kind: str) -> np.ndarray:
        seen.extend(texts)
        return embed(texts, kind)

    store = MemoryStore(home, counting, model)
    remember(store, FOOD, FOOD)
    remember(store, FOOD, WORK)
    assert seen == [FOOD, WORK]
    store.close()


def test_nothing_is_remembered_when_one_text_is_wrong(store: MemoryStore) -> None:
    for wrong in ("", "a\0b", "\ud83d", "가" * 100_000):
        with pytest.raises(InvalidInput, match="text 1"):
            remember(store, FOOD, wrong)
    with pytest.raises(TypeError):
        store.remember([FOOD, 3], user=ME)  # type: ignore[list-item]
    assert store.remember([], user=ME) == []
    assert store.count() == 0


@pytest.mark.parametrize(
    "wrong", [{"category": "sports"}, {"kind": "opinion"}, {"when": "어제"}, {"source": ""}, {"user": ""}]
)
def test_wrong_attributes_are_refused(store: MemoryStore, wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        store.remember([FOOD], **{"user": ME, **wrong})  # type: ignore[arg-type]
    assert store.count() == 0


def test_a_model_that_fails_leaves_nothing_and_the_store_usable(home: Path) -> None:
    results: list[Callable[[], np.ndarray]] = [
        lambda: (_ for _ in ()).throw(RuntimeError("model")),
        lambda: np.full((1, 64), np.nan, dtype=np.float32),
    ]

    def failing(texts: list[str], kind: str) -> np.ndarray:
        return results.pop(0)() if results else embed(texts, kind)

    store = MemoryStore(home, failing, model)
    for error in (RuntimeError, StoreError):
        with pytest.raises(error):
            remember(store, FOOD)
        assert store.count() == 0
    assert remember(store, FOOD)[0].text == FOOD
    store.close()


def test_survives_reopening(home: Path, store: MemoryStore) -> None:
    memories = remember(store, FOOD, WORK, DOG)
    store.close()
    again = MemoryStore(home, embed, model)
    assert again.memories(user=ME) == memories[::-1]
    assert found(again, FOOD, k=1) == [FOOD]
    assert remember(again, WORK) == [memories[1]]
    again.close()


# search


def test_finds_the_nearest_first_with_scores_and_parts(store: MemoryStore) -> None:
    remember(store, FOOD, WORK, DOG)
    hits = store.search(FOOD, user=ME, k=2, explain=True)
    assert hits[0].memory.text == FOOD
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert 1 >= hits[0].score > hits[1].score >= 0
    assert hits[1].parts == {"dense": hits[1].score}
    assert store.search(FOOD, user=ME, k=1)[0].parts is None


def test_scores_are_the_cosines_of_the_stored_vectors(store: MemoryStore) -> None:
    texts = [f"{FOOD} {i} {'가나다라마바사'[i % 7] * i}" for i in range(90)]
    remember(store, *texts)
    query = "매운 음식 가가가"
    exact = embed(texts, "passage") @ embed([query], "query")[0]
    hits = store.search(query, user=ME, k=90)
    np.testing.assert_allclose([h.score for h in hits], np.sort(exact)[::-1], atol=2e-3)
    by_text = dict(zip(texts, exact.tolist(), strict=True))
    np.testing.assert_allclose([h.score for h in hits], [by_text[h.memory.text] for h in hits], atol=2e-3)


def test_opposite_vectors_score_zero(home: Path) -> None:
    store = MemoryStore(home, lambda texts, kind: embed(texts, kind) * (1 if kind == "query" else -1), model)
    remember(store, FOOD)
    (hit,) = store.search(FOOD, user=ME, k=1, explain=True)
    assert hit.score == 0
    assert hit.parts is not None
    assert hit.parts["dense"] == pytest.approx(-1, abs=1e-3)
    store.close()


def test_of_equal_scores_the_newer_comes_first(home: Path) -> None:
    store = MemoryStore(home, lambda texts, kind: np.ones((len(texts), 64), dtype=np.float32), model)
    texts = [f"{i}" for i in range(10)]
    for text in texts:
        remember(store, text)
    assert found(store, "무엇이든", k=10) == texts[::-1]
    store.close()


def test_an_empty_store_finds_nothing_and_needs_no_model(home: Path) -> None:
    def no_model(texts: list[str], kind: str) -> np.ndarray:
        raise AssertionError("not needed")

    store = MemoryStore(home, no_model, lambda: no_model([], "query").shape[0])
    assert store.search("무엇", user=ME, k=3) == []
    assert (store.count(), store.memories(user=ME), store.forget_all(ME)) == (0, [], 0)
    store.close()


def test_filters_hold_before_the_k_are_cut(store: MemoryStore) -> None:
    noise = [f"{FOOD} {i}" for i in range(300)]
    remember(store, *noise, user="남")
    remember(store, WORK)
    store.remember([DOG], user=ME, category="relationship", source="엄마", when="2020-01-01")
    assert found(store, FOOD, k=5) == found(store, FOOD, k=500) != []
    assert set(found(store, FOOD, k=500)) == {WORK, DOG}
    assert len(found(store, FOOD, k=300, user="남")) == 300
    assert found(store, FOOD, user="없음") == []
    for wanted in ({"category": "relationship"}, {"source": "엄마"}, {"until": "2020-01-01"}):
        assert [h.memory.text for h in store.search(FOOD, user=ME, k=1, **wanted)] == [DOG]  # type: ignore[arg-type]
    assert store.search(FOOD, user=ME, k=1, category="health") == []


def test_times_are_inclusive_and_fall_back_to_created(store: MemoryStore) -> None:
    store.remember(["오일"], user=ME, when="2026-03-05T23:59:59.999999")
    store.remember(["육일"], user=ME, when=date(2026, 3, 6))
    (now,) = remember(store, "지금")

    def between(since: str | datetime | None, until: str | datetime | None) -> set[str]:
        hits = store.search("일", user=ME, k=9, since=since, until=until)
        listed = store.memories(user=ME, since=since, until=until)
        assert {hit.memory.text for hit in hits} == {memory.text for memory in listed}
        return {memory.text for memory in listed}

    assert between("2026-03-05", "2026-03-05") == {"오일"}
    assert between("2026-03-06", "2026-03-06T00:00") == {"육일"}
    assert between(now.created, now.created) == {"지금"}
    assert between(now.created + timedelta(microseconds=1), None) == set()
    assert between(None, "2026-03-06") - {"지금"} == {"오일", "육일"}


def test_min_score_leaves_out_what_is_below(store: MemoryStore) -> None:
    remember(store, FOOD, WORK, DOG)
    everything = store.search(FOOD, user=ME, k=3)
    bar = everything[1].score
    assert store.search(FOOD, user=ME, k=3, min_score=bar) == everything[:2]
    assert store.search(FOOD, user=ME, k=3, min_score=1.1) == []


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"k": 0}, InvalidInput),
        ({"k": True}, TypeError),
        ({"k": 2.5}, TypeError),
        ({"query": ""}, InvalidInput),
    ],
)
def test_wrong_searches_are_refused(store: MemoryStore, wrong: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        store.search(**{"query": FOOD, "user": ME, "k": 3, **wrong})  # type: ignore[arg-type]
    assert store.search(FOOD, user=ME, k=10**30) == []


# memories


def test_memories_are_the_newest_first_whatever_the_clock_says(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        years: ClassVar[list[int]] = [2026, 2036, 2016, 2026]

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(cls.years.pop(0), 1, 1, tzinfo=UTC)

    monkeypatch.setattr(records, "datetime", Clock)
    for text in "가나다라":
        remember(store, text)
    monkeypatch.undo()
    listed = store.memories(user=ME)
    assert [m.text for m in listed] == list("라다나가")
    assert [m.created.astimezone(UTC).year for m in listed] == [2026, 2016, 2036, 2026]
    assert [m.text for m in store.memories(user=ME, limit=2)] == ["라", "다"]


def test_memories_are_filtered_and_limited(store: MemoryStore) -> None:
    store.remember([FOOD], user=ME, category="preference")
    remember(store, WORK, DOG)
    remember(store, "남의 것", user="남")
    assert [m.text for m in store.memories(user=ME, category="preference")] == [FOOD]
    assert len(store.memories(user=ME, limit=10**30)) == 3
    with pytest.raises(InvalidInput):
        store.memories(user=ME, limit=0)


@pytest.mark.parametrize("unknown", ["nothing", "' OR 1=1 --", " "])
def test_an_unknown_id_is_told(store: MemoryStore, unknown: str) -> None:
    remember(store, FOOD)
    for method in (store.memory, store.forget):
        with pytest.raises(MemoryNotFound) as caught:
            method(unknown)
        assert caught.value.id == unknown
    for method in (store.memory, store.forget):
        with pytest.raises(TypeError):
            method(1)  # type: ignore[arg-type]
    assert store.count() == 1


# forget


def test_a_forgotten_memory_is_found_no_more(store: MemoryStore) -> None:
    food, work = remember(store, FOOD, WORK)
    assert found(store, FOOD, k=1) == [FOOD]  # the index is in memory now
    store.forget(food.id)
    assert store._index is not None
    assert len(store._index) == 1
    assert found(store, FOOD) == [WORK]
    assert store.memories(user=ME) == [work]
    with pytest.raises(MemoryNotFound):
        store.forget(food.id)
    (again,) = remember(store, FOOD)
    assert again.id != food.id
    assert found(store, FOOD, k=1) == [FOOD]


def test_forgetting_all_is_one_users(store: MemoryStore) -> None:
    remember(store, FOOD, WORK)
    remember(store, FOOD, user="남")
    assert store.forget_all(ME) == 2
    assert store.forget_all(ME) == 0
    assert store.count() == 1
    assert found(store, FOOD, user="남") == [FOOD]


def test_what_is_forgotten_is_in_no_file(home: Path, store: MemoryStore) -> None:
    """Rows of many lengths, in rounds, because SQLite leaves copies where it moves rows between pages."""
    choose = random.Random(1)
    kept: list[Memory] = []
    traces: list[bytes] = []
    for step in range(12):
        size = choose.choice([1, 5, 60])
        marks = [f"<{choose.getrandbits(64):016x}>" for _ in range(size)]
        kept += remember(store, *(mark * choose.choice([1, 3, 50, 900]) for mark in marks))
        for _ in range(choose.choice([1, 3]) if step % 2 else 0):
            gone = kept.pop(choose.randrange(len(kept)))
            store.forget(gone.id)
            traces += [gone.text[:18].encode(), gone.id.encode(), vector_bytes(gone.text)]
        left = every_byte(home)
        assert [trace for trace in traces if trace in left] == []
    assert len(traces) > 20
    assert all(m.text[:18].encode() in left and vector_bytes(m.text) in left for m in kept)  # they would be seen
    store.forget_all(ME)
    left = every_byte(home)
    assert not any(m.text[:18].encode() in left or vector_bytes(m.text) in left for m in kept)
    assert ME.encode() not in left


def vector_bytes(text: str) -> bytes:
    return embed([text], "passage")[0].astype("<f2").tobytes()


def test_logs_and_errors_hold_no_text(
    home: Path, store: MemoryStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(0)
    remember(store, FOOD)
    found(store, FOOD)
    with store._store.read() as db:
        db.execute("DROP TABLE vectors")
    messages = []
    for call in (lambda: remember(store, DOG), lambda: found(store, FOOD)):
        with pytest.raises(StoreError) as caught:
            call()
        messages.append(str(caught.value))
    assert all("vectors" in message for message in messages)
    assert not any(text in message for text in (FOOD, DOG) for message in [*messages, caplog.text])


# the index and the model behind it


def test_another_model_embeds_again_and_the_first_comes_back_for_free(home: Path) -> None:
    calls: list[list[str]] = []

    def wider(texts: list[str], kind: str) -> np.ndarray:
        calls.append(texts)
        return np.concatenate([embed(texts, kind), embed([t[::-1] for t in texts], kind)], axis=1)

    texts = [f"{WORK} {i}" for i in range(150)]
    first = MemoryStore(home, embed, model)
    remember(first, *texts)
    first.close()

    told: list[Progress] = []
    second = MemoryStore(home, wider, lambda: "wider", progress=told.append)
    assert second.count() == 150
    assert calls == []  # only a search needs them
    assert found(second, texts[77], k=1) == [texts[77]]
    assert [text for call in calls[:-1] for text in call] == texts
    assert [(event.done, event.total) for event in told] == [(0, 150), (64, 150), (128, 150)]
    second.close()

    back = MemoryStore(home, embed, model, progress=lambda event: pytest.fail("nothing is to be embedded"))
    assert found(back, texts[3], k=1) == [texts[3]]
    back.close()


def test_embedding_again_can_be_cancelled_and_goes_on_where_it_was(home: Path) -> None:
    first = MemoryStore(home, embed, model)
    remember(first, *(f"{i}" for i in range(100)))
    first.close()
    told: list[Progress] = []
    second = MemoryStore(home, embed, lambda: "other", progress=lambda event: told.append(event) or event.done == 0)
    with pytest.raises(Cancelled):
        found(second, "1")
    assert found(second, "77", k=1) == ["77"]
    assert [(event.done, event.total) for event in told] == [(0, 100), (64, 100), (0, 36)]
    second.close()


def test_vectors_of_another_size_under_the_same_name_are_told(home: Path) -> None:
    first = MemoryStore(home, embed, model)
    remember(first, FOOD)
    first.close()
    second = MemoryStore(home, lambda texts, kind: embed(texts, kind)[:, :32], model)
    with pytest.raises(StoreError, match="another name"):
        found(second, FOOD)
    second.close()


def test_a_change_that_the_index_missed_is_read_again(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(store, WORK)
    found(store, WORK)

    def broken(index: VectorIndex, ids: np.ndarray, vectors: np.ndarray) -> None:
        if len(ids):
            raise MemoryError

    monkeypatch.setattr(VectorIndex, "add", broken)
    with pytest.raises(MemoryError):
        remember(store, FOOD)
    monkeypatch.undo()
    assert found(store, FOOD, k=1) == [FOOD]


# processes and threads


def test_a_closed_store_refuses_everything(home: Path, store: MemoryStore) -> None:
    (memory,) = remember(store, FOOD)
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: remember(store, WORK), lambda: found(store, FOOD), lambda: store.memories(user=ME),
        lambda: store.memory(memory.id), lambda: store.forget(memory.id), lambda: store.forget_all(ME),
        store.count, store.problems,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(EngineClosed):
            call()
    again = MemoryStore(home, embed, model)
    assert again.count() == 1
    again.close()


def test_closing_while_a_text_is_embedded_is_told_and_stores_nothing(home: Path) -> None:
    def closing(texts: list[str], kind: str) -> np.ndarray:
        store.close()
        return embed(texts, kind)

    store = MemoryStore(home, closing, model)
    with pytest.raises(EngineClosed):
        remember(store, FOOD)
    again = MemoryStore(home, embed, model)
    assert again.count() == 0
    again.close()


def test_one_home_has_one_writer(home: Path, store: MemoryStore) -> None:
    remember(store, FOOD)
    second = MemoryStore(home, embed, model)
    with pytest.raises(StoreLocked):
        second.memories(user=ME)
    store.close()
    assert second.count() == 1
    second.close()


FORK = """
import os, sys
from pathlib import Path
from fake_embedder import embed, model
from engine.errors import EngineClosed
from engine.memory import MemoryStore
store = MemoryStore(Path(sys.argv[1]), embed, model)
store.remember(["one"], user="u")
store.search("one", user="u", k=1)
store._filling.acquire()  # as another thread may at the moment of the fork
if os.fork() == 0:
    remember, search = lambda: store.remember(["two"], user="u"), lambda: store.search("one", user="u", k=1)
    for call in (remember, search, store.count):
        try:
            call()
        except EngineClosed:
            continue
        sys.exit(1)
    store.close()
    sys.exit(0)  # through the interpreter's end, where everything inherited is freed
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
store._filling.release()
store.remember(["three"], user="u")
assert [hit.memory.text for hit in store.search("three", user="u", k=1)] == ["three"]
assert store.problems() == []
try:
    MemoryStore(Path(sys.argv[1]), embed, model).count()
except Exception as error:
    print(error.code)
store.close()
"""

WRITE = """
import random, sys
from pathlib import Path
from fake_embedder import embed, model
from engine.memory import MemoryStore
store, choose, mine = MemoryStore(Path(sys.argv[1]), embed, model), random.Random(sys.argv[2]), []
for n in range(100_000):
    size, count = choose.choice([5, 500, 20_000]), choose.choice([1, 4])
    texts = [f"{sys.argv[2]} {n} {i} " + "x" * size for i in range(count)]
    mine += [memory.id for memory in store.remember(texts, user="u")]
    print("+", *mine[-len(texts):], flush=True)
    if choose.random() < 0.3:
        gone = mine.pop(choose.randrange(len(mine)))
        print("?", gone, flush=True)
        store.forget(gone)
        print("-", gone, flush=True)
"""


def start(code: str, *args: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_refused_and_the_parent_goes_on(home: Path) -> None:
    with start(FORK, str(home)) as process:
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.strip()) == (0, "store_locked")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_what_was_acknowledged_outlives_sigkill(home: Path) -> None:
    choose = random.Random(7)
    present: set[str] = set()
    gone: set[str] = set()
    for cycle in range(5):
        with start(WRITE, str(home), str(cycle)) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(choose.randrange(5, 60))]
            time.sleep(choose.random() / 50)  # to fall into another part of the work, decides nothing
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.read().splitlines()
        asked: set[str] = set()
        for mark, *ids in (line.split() for line in lines if line.strip()):
            {"+": present, "?": asked, "-": gone}[mark].update(key for key in ids if len(key) == 32)
        store = MemoryStore(home, embed, model)
        stored = {memory.id for memory in store.memories(user="u")}
        assert store.problems() == []
        assert present - asked - gone <= stored
        assert not gone & stored
        left = every_byte(home)
        assert not any(key.encode() in left for key in (asked | gone) - stored)
        present = set(stored)
        hits = store.search("0 0 0", user="u", k=10_000)
        assert {hit.memory.id for hit in hits} == stored  # each has its vector
        store.close()
    assert gone


def test_threads_lose_nothing_and_find_nothing_forgotten(store: MemoryStore) -> None:
    errors: list[str] = []
    ready = threading.Barrier(8)

    def work(number: int) -> dict[str, str]:
        choose, mine = random.Random(number), {}
        ready.wait()
        for step in range(12):
            text = f"{number}번 기억 {step}"
            shared, own = remember(store, "모두의 기억", text)
            mine[own.id] = text
            if choose.random() < 0.4:
                gone = choose.choice(list(mine))
                lost = mine.pop(gone)
                store.forget(gone)
                if gone in {hit.memory.id for hit in store.search(lost, user=ME, k=200)}:
                    errors.append("a forgotten memory was found")
            there = {hit.memory.id for hit in store.search(text, user=ME, k=200)}
            if not {*mine, shared.id} <= there:
                errors.append("a memory was not found")
        return mine

    with ThreadPoolExecutor(8) as pool:
        kept = {key: text for mine in pool.map(work, range(8)) for key, text in mine.items()}
    assert errors == []
    listed = {memory.id: memory.text for memory in store.memories(user=ME)}
    assert {key: text for key, text in listed.items() if text != "모두의 기억"} == kept
    assert len(listed) == len(kept) + 1
    assert store.problems() == []


def test_threads_embed_at_the_same_time(home: Path) -> None:
    meeting = threading.Barrier(2)

    def together(texts: list[str], kind: str) -> np.ndarray:
        meeting.wait(timeout=30)
        return embed(texts, kind)

    store = MemoryStore(home, together, model)
    with ThreadPoolExecutor(2) as pool:
        (one,), (other,) = pool.map(lambda _: remember(store, FOOD), range(2))
    assert one == other
    assert store.count() == 1
    store.close()


class AgainstADict(RuleBasedStateMachine):
    """Any order of calls leaves the store equal to a dict, reopened or not."""

    texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
    users = st.sampled_from(["a", "b"])

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.home = Path(self.folder.name) / "home"
        self.store = MemoryStore(self.home, embed, model)
        self.model: dict[str, Memory] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def of(self, user: str) -> list[Memory]:
        return [memory for memory in self.model.values() if memory.user == user]

    @rule(texts=st.lists(texts, max_size=4), user=users, category=st.sampled_from([None, "goal", "work"]))
    def remember(self, texts: list[str], user: str, category: str | None) -> None:
        known = {memory.text: memory for memory in self.of(user)}
        for text, memory in zip(texts, self.store.remember(texts, user=user, category=category), strict=True):
            assert memory == known.get(text, memory)
            assert (memory.text, memory.user) == (text, user)
            known[text] = self.model[memory.id] = memory

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.model)))
        self.store.forget(gone)
        del self.model[gone]

    @rule(user=users)
    def forget_all(self, user: str) -> None:
        gone = [memory.id for memory in self.of(user)]
        assert self.store.forget_all(user) == len(gone)
        for key in gone:
            del self.model[key]

    @rule(query=texts, user=users, k=st.integers(1, 5), category=st.sampled_from([None, "goal"]))
    def search(self, query: str, user: str, k: int, category: str | None) -> None:
        hits = self.store.search(query, user=user, k=k, category=category)
        live = [m for m in self.of(user) if category in {None, m.category}]
        assert all(self.model[hit.memory.id] == hit.memory and hit.memory in live for hit in hits)
        exact = embed([m.text for m in live], "passage") @ embed([query], "query")[0] if live else np.zeros(0)
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(exact)[::-1][:k], atol=2e-3)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = MemoryStore(self.home, embed, model)

    @invariant()
    def equal(self) -> None:
        assert self.store.count() == len(self.model)
        for user in ("a", "b"):
            assert self.store.memories(user=user) == self.of(user)[::-1]


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
