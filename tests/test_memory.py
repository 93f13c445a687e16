"""Remember, search, change and forget through the one class that does it: what callers were promised."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar

import apsw
import fake_embedder
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine import cohort, records
from engine import store as store_module
from engine.connections import rows
from engine.errors import (
    Cancelled,
    EngineClosed,
    InvalidInput,
    MemoryNotFound,
    ModelNotFound,
    OutOfBudget,
    StoreError,
    StoreLocked,
)
from engine.faculties import Embedded, Space
from engine.memory import MemoryStore
from engine.metrics import Progress
from engine.records import Edit, Memory
from engine.store import FILE_NAME

ME = "default"
FOOD = "저는 매운 음식을 못 먹어요"
WORK = "회사에서 팀장이 되었어요"
DOG = "강아지 이름은 보리예요"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "홍길동" / "내 문서"


def made(home: Path, **others: Any) -> MemoryStore:
    return MemoryStore(home, fake_embedder.faculties(**others))


@pytest.fixture
def store(home: Path) -> Iterator[MemoryStore]:
    with closing(made(home)) as store:
        yield store


def remember(store: MemoryStore, *texts: str, user: str = ME) -> list[Memory]:
    return store.remember(list(texts), user=user)


def found(store: MemoryStore, query: str, k: int = 5, user: str = ME) -> list[str]:
    return [hit.memory.text for hit in store.search(query, user=user, k=k)]


def embedding(function: Callable[[list[str]], np.ndarray]) -> Callable[[list[str], Any, Space], Embedded]:
    return lambda texts, kind, space: Embedded(function(texts))


def words_of(store: MemoryStore) -> list[str]:
    with store._store.read() as db:
        return [words for (words,) in rows(db, "SELECT morphemes FROM words ORDER BY rowid")]


# ---- remember


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


def test_an_exact_duplicate_is_the_memory_there_is_reinforced(store: MemoryStore) -> None:
    first, second, third = remember(store, FOOD, WORK, FOOD)
    assert first.id == third.id != second.id
    assert first.importance == records.IMPORTANCE < third.importance < 1
    (again,) = store.remember([FOOD], user=ME, category="health", source="다른 곳")
    assert again.importance > third.importance
    assert store.memory(first.id) == again
    assert (again.category, again.source, again.created) == (None, None, first.created), "as it was said first"
    (other,) = remember(store, FOOD, user="다른 사람")
    assert other.id != first.id and other.importance == first.importance
    assert store.count() == 3


def test_one_that_is_said_ever_again_stays_below_1(store: MemoryStore) -> None:
    importances = [remember(store, FOOD)[0].importance for _ in range(60)]
    assert importances == sorted(importances) and importances[-1] <= 1
    assert store.count() == 1


def test_duplicates_are_not_embedded_again(home: Path) -> None:
    seen: list[str] = []

    def counting(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return fake_embedder.embed(texts, "passage")

    with closing(made(home, embed=embedding(counting))) as store:
        remember(store, FOOD, FOOD)
        remember(store, FOOD, WORK)
        assert seen == [FOOD, WORK]


def test_one_that_is_forgotten_while_others_are_embedded_is_remembered(home: Path) -> None:
    """It was there when `remember` looked, so it was not embedded."""
    todo: list[str] = []

    def forgetting(texts: list[str]) -> np.ndarray:
        while todo:
            store.forget(todo.pop())
        return fake_embedder.embed(texts, "passage")

    with closing(made(home, embed=embedding(forgetting))) as store:
        (first,) = remember(store, FOOD)
        todo.append(first.id)
        again, other = remember(store, FOOD, WORK)
        assert again.id != first.id and found(store, FOOD, k=1) == [FOOD]
        assert {memory.id for memory in store.memories(user=ME)} == {again.id, other.id}


def test_nothing_is_remembered_when_one_text_is_wrong(store: MemoryStore) -> None:
    for wrong in ("", "a\0b", "\ud83d", "가" * 100_000):
        with pytest.raises(InvalidInput, match="text 1"):
            remember(store, FOOD, wrong)
    with pytest.raises(TypeError):
        store.remember([FOOD, 3], user=ME)  # type: ignore[list-item]
    assert store.remember([], user=ME) == []
    assert store.count() == 0
    assert not store._store.path.parent.exists()


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

    def failing(texts: list[str]) -> np.ndarray:
        return results.pop(0)() if results else fake_embedder.embed(texts, "passage")

    with closing(made(home, embed=embedding(failing))) as store:
        for error in (RuntimeError, StoreError):
            with pytest.raises(error):
                remember(store, FOOD)
            assert store.count() == 0
        assert remember(store, FOOD)[0].text == FOOD


def test_survives_reopening(home: Path, store: MemoryStore) -> None:
    memories = remember(store, FOOD, WORK, DOG)
    store.close()
    with closing(made(home)) as again:
        assert again.memories(user=ME) == memories[::-1]
        assert found(again, FOOD, k=1) == [FOOD]
        assert [memory.id for memory in remember(again, WORK)] == [memories[1].id]


# ---- search


def test_finds_the_nearest_first_with_scores_and_parts(store: MemoryStore) -> None:
    remember(store, FOOD, WORK, DOG)
    hits = store.search(FOOD, user=ME, k=2, explain=True)
    assert len(hits) == 2 and hits[0].memory.text == FOOD
    assert 1 >= hits[0].score > hits[1].score >= 0
    assert hits[0].parts is not None
    assert hits[0].parts["dense"] == pytest.approx(1, abs=1e-3)
    assert store.search(FOOD, user=ME, k=1)[0].parts is None


def test_an_empty_store_finds_nothing_needs_no_model_and_makes_no_home(home: Path) -> None:
    def no_model(*_: object) -> Any:
        raise AssertionError("not needed")

    with closing(made(home, embed=no_model, space=no_model, words=no_model)) as store:
        assert store.search("무엇", user=ME, k=3) == []
        assert (store.count(), store.memories(user=ME), store.forget_all(ME), store.problems()) == (0, [], 0, [])
        for call in (store.memory, store.history, store.forget, lambda unknown: store.update(unknown, {})):
            with pytest.raises(MemoryNotFound):
                call("nothing")
        assert store.export(home.parent.parent / "out.jsonl") == 0
        assert store.wait()
    assert not home.exists()


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
    assert store.search(FOOD, user=ME, k=3, min_score=1.0) == []


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
    remember(store, FOOD)
    assert found(store, FOOD, k=10**30) == [FOOD]


def test_a_model_that_makes_other_vectors_under_the_same_hash_is_told_and_makes_all_anew(
    home: Path, store: MemoryStore
) -> None:
    remember(store, FOOD)
    store.close()
    with closing(made(home, embed=embedding(lambda texts: fake_embedder.embed(texts, "query")[:, :32]))) as second:
        with pytest.raises(StoreError, match="verify"):
            found(second, FOOD)
        remember(second, WORK)
        assert second.wait() and set(found(second, FOOD)) == {FOOD, WORK}


def test_without_an_analyser_letters_are_searched(home: Path) -> None:
    def full(texts: list[str]) -> list[tuple[str, ...]]:
        raise OutOfBudget("full", needed=1, available=0)

    with closing(made(home, words=full)) as store:
        remember(store, FOOD, WORK, DOG)
        assert found(store, "강아지", k=1) == [DOG]


# ---- look


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
    calls: list[Callable[[Any], object]] = [
        store.memory, store.history, store.forget, lambda unknown: store.update(unknown, {"importance": 0.1}),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(MemoryNotFound) as caught:
            call(unknown)
        assert caught.value.id == unknown
        with pytest.raises(TypeError):
            call(1)
        with pytest.raises(InvalidInput):
            call("")
    assert store.count() == 1


def test_former_memories_are_listed_where_they_are_asked_for(store: MemoryStore) -> None:
    old, new, other = remember(store, "서울에 살아요", "부산에 살아요", DOG)
    with store._store.write() as db:
        db.execute("UPDATE memories SET superseded_by = ?, fate = 'replaced' WHERE id = ?", (new.id, old.id))
    assert store.memories(user=ME) == [other, new]
    listed = store.memories(user=ME, superseded=True)
    assert [memory.id for memory in listed] == [other.id, new.id, old.id]
    assert listed[2].superseded_by == new.id == store.memory(old.id).superseded_by
    assert store.memories(user=ME, superseded=True, limit=1) == [other]
    assert store.count() == 3


# ---- update


def test_each_field_can_be_corrected(store: MemoryStore) -> None:
    before, other = store.remember(
        [FOOD, WORK], user=ME, category="goal", kind="fact", source="엄마", when="2026-03-05"
    )
    given: list[tuple[Edit, dict[str, Any]]] = [
        ({"category": "health"}, {"category": "health"}),
        ({"category": None, "kind": "event"}, {"category": None, "kind": "event"}),
        ({"kind": None, "source": None}, {"kind": None, "source": None}),
        ({"source": "병원"}, {"source": "병원"}),
        ({"importance": 1}, {"importance": 1.0}),
        ({"when": date(2020, 1, 1)}, {"when": datetime(2020, 1, 1).astimezone()}),
        ({"when": None}, {"when": None}),
        ({"text": DOG}, {"text": DOG}),
        ({"text": DOG}, {"text": DOG}),
        ({}, {}),
    ]
    expected = before.to_dict()
    for changes, fields in given:
        changed = store.update(before.id, changes)
        expected |= {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()
        }
        assert changed.to_dict() == expected
        assert store.memory(before.id) == changed
    assert store.memory(other.id) == other
    assert [memory.id for memory in store.memories(user=ME)] == [other.id, before.id], "it keeps its place"


def test_a_corrected_time_is_what_filters_see(store: MemoryStore) -> None:
    (memory,) = store.remember([FOOD], user=ME, when="2020-01-01")
    store.update(memory.id, {"when": "2024-05-05"})
    assert (
        store.memories(user=ME, until="2023-01-01")
        == []
        != store.memories(user=ME, since="2024-05-05", until="2024-05-05")
    )
    changed = store.update(memory.id, {"when": None})
    assert store.memories(user=ME, since=changed.created, until=changed.created) == [changed]


def test_a_corrected_text_is_found_by_its_words_and_its_vector(store: MemoryStore) -> None:
    food, _ = remember(store, FOOD, WORK)
    assert store.wait()  # the background, too, would find what is missing
    store.update(food.id, {"text": DOG})
    hit = store.search(DOG, user=ME, k=1, explain=True)[0]
    assert hit.memory.id == food.id and hit.parts is not None
    assert hit.parts["dense"] == pytest.approx(1, abs=1e-3)
    assert hit.parts["coverage"] == pytest.approx(1)
    assert FOOD not in found(store, FOOD)
    assert words_of(store) == [DOG, WORK]
    assert [memory.text for memory in remember(store, FOOD)] == [FOOD], "its old text is another memory now"
    assert remember(store, DOG)[0].id == food.id
    assert store.count() == 3


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"text": ""}, InvalidInput), ({"text": None}, TypeError), ({"text": WORK}, InvalidInput),
        ({"category": "sports"}, InvalidInput), ({"kind": "opinion"}, InvalidInput), ({"source": ""}, InvalidInput),
        ({"when": "어제"}, InvalidInput), ({"importance": 1.5}, InvalidInput), ({"importance": float("nan")}, InvalidInput),
        ({"importance": None}, TypeError), ({"importance": True}, TypeError), ({"user": "남"}, TypeError),
        ({"id": "x"}, TypeError), ({"text": DOG, "kind": "opinion"}, InvalidInput),
    ],
)  # fmt: skip
def test_wrong_corrections_are_refused_and_change_nothing(
    store: MemoryStore, wrong: dict[str, Any], error: type[Exception]
) -> None:
    food, work = remember(store, FOOD, WORK)
    with pytest.raises(error) as caught:
        store.update(food.id, wrong)  # type: ignore[arg-type]
    assert not any(text in str(caught.value) for text in (FOOD, WORK, DOG, "어제"))
    assert store.memories(user=ME) == [work, food]
    assert found(store, FOOD, k=1) == [FOOD] and words_of(store) == [FOOD, WORK]


def test_a_text_may_be_that_of_a_former_memory_or_of_another_user(store: MemoryStore) -> None:
    food, work = remember(store, FOOD, WORK)
    remember(store, DOG, user="남")
    with store._store.write() as db:
        db.execute("UPDATE memories SET superseded_by = 'x' WHERE id = ?", (work.id,))
    assert store.update(food.id, {"text": DOG}).text == DOG
    assert store.update(food.id, {"text": WORK}).text == WORK


# ---- processes and threads


def test_a_closed_store_refuses_everything(home: Path, store: MemoryStore, tmp_path: Path) -> None:
    (memory,) = remember(store, FOOD)
    store.export(tmp_path / "x")
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: remember(store, WORK), lambda: found(store, FOOD), lambda: store.memories(user=ME),
        lambda: store.memory(memory.id), lambda: store.history(memory.id), lambda: store.forget(memory.id),
        lambda: store.forget_all(ME), lambda: store.update(memory.id, {}), store.count, store.problems, store.backup,
        store.wait, lambda: store.export(tmp_path / "x"), lambda: store.import_(tmp_path / "x"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(EngineClosed):
            call()
    with closing(made(home)) as again:
        assert again.count() == 1


@pytest.mark.parametrize("doing", ["remember", "search", "update"])
def test_closing_while_a_text_is_embedded_is_told_and_stores_nothing(home: Path, doing: str) -> None:
    with closing(made(home)) as first:
        (memory,) = remember(first, FOOD)

    def close(texts: list[str]) -> np.ndarray:
        store.close()
        return fake_embedder.embed(texts, "passage")

    store = made(home, embed=embedding(close))
    call: dict[str, Callable[[], object]] = {
        "remember": lambda: remember(store, WORK),
        "search": lambda: found(store, WORK),
        "update": lambda: store.update(memory.id, {"text": WORK}),
    }
    with pytest.raises(EngineClosed):
        call[doing]()
    with closing(made(home)) as again:
        assert again.memories(user=ME) == [memory]


def test_closing_while_words_are_waited_for_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.memory._BESIDE", 1)
    finding, go = threading.Event(), threading.Event()

    analysed: list[str] = []

    def slow(texts: list[str]) -> list[tuple[str, ...]]:
        analysed.extend(texts)
        finding.set()
        go.wait(timeout=30)
        return fake_embedder.words(texts)

    store = made(home, words=slow)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(remember, store, FOOD)
        assert finding.wait(timeout=30)
        second = pool.submit(remember, store, WORK)  # waits behind it
        while store._beside._work_queue.qsize() == 0:
            time.sleep(0.001)
        closer = pool.submit(store.close)
        while not store._beside._shutdown:
            time.sleep(0.001)
        go.set()
        closer.result()
        with pytest.raises(EngineClosed, match="the engine is closed; make a new Engine"):
            second.result()
        assert analysed == [FOOD], "what was not begun is not done"
        assert first.exception() is None or isinstance(first.exception(), EngineClosed)
    with closing(made(home)) as again:
        assert again.count() == (first.exception() is None), "told as it was"


def test_one_home_has_one_writer_and_others_read(
    home: Path, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_module.LOCK_TIMEOUT < 1, "within a second"
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT", 0.05)
    food, work = remember(store, FOOD, WORK)
    assert store.wait()
    with closing(made(home)) as second:
        refused: list[Callable[[], object]] = [
            lambda: remember(second, DOG), lambda: remember(second, FOOD), lambda: second.forget(food.id),
            lambda: second.forget_all(ME), lambda: second.update(food.id, {"category": "goal"}),
            lambda: second.import_(tmp_path / "out.jsonl"),
        ]  # fmt: skip
        assert found(second, FOOD, k=1) == [FOOD]
        assert second.memories(user=ME) == [work, food]
        assert (second.memory(food.id), second.history(food.id), second.count()) == (food, [food], 2)
        assert second.export(tmp_path / "out.jsonl") == 2
        assert second.problems() == [] and second.wait()
        assert second.backup(tmp_path / "copy.sqlite3").stat().st_size > 0
        for call in refused:
            with pytest.raises(StoreLocked):
                call()
        store.update(food.id, {"text": DOG})
        assert found(second, DOG, k=1) == [DOG], "what the other one writes is seen"
        store.forget(work.id)
        assert second.count() == 1
        store.close()
        assert len(remember(second, WORK)) == 1, "and when it is gone this one may write"


def test_who_may_not_write_is_told_before_a_model_loads(home: Path, store: MemoryStore) -> None:
    food = remember(store, FOOD)[0]

    def embed(texts: list[str], kind: str, space: Space) -> Embedded:
        raise AssertionError("the model was asked")

    with closing(made(home, embed=embed)) as second:
        for call in (lambda: remember(second, DOG), lambda: second.update(food.id, {"text": DOG})):
            with pytest.raises(StoreLocked):
                call()


FORK = """
import os, sys
from pathlib import Path
from fake_embedder import faculties
from engine.errors import EngineClosed
from engine.memory import MemoryStore
store = MemoryStore(Path(sys.argv[1]), faculties())
(one,) = store.remember(["one"], user="u")
store.search("one", user="u", k=1)
store._store._guard.acquire()  # as other threads may at the moment of the fork
store._index._lock.acquire()
store._keeper._changed.acquire()
if os.fork() == 0:
    calls = [
        lambda: store.remember(["two"], user="u"), lambda: store.search("one", user="u", k=1), store.count,
        lambda: store.forget(one.id), lambda: store.update(one.id, {}), lambda: store.memories(user="u"),
        store.backup, store.wait,
    ]
    for number, call in enumerate(calls):
        try:
            call()
        except EngineClosed:
            continue
        os._exit(10 + number)
    store.close()
    sys.exit(0)  # through the interpreter's end, where everything inherited is freed
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
store._keeper._changed.release()
store._index._lock.release()
store._store._guard.release()
store.remember(["three"], user="u")
assert [hit.memory.text for hit in store.search("three", user="u", k=1)] == ["three"]
assert store.problems() == []
try:
    MemoryStore(Path(sys.argv[1]), faculties()).remember(["four"], user="u")
except Exception as error:
    print(error.code)
store.close()
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


def test_threads_lose_nothing_and_find_nothing_forgotten(store: MemoryStore) -> None:
    ready = threading.Barrier(4)

    def work(number: int) -> dict[str, str]:
        choose, mine = random.Random(number), {}
        ready.wait(timeout=30)
        for step in range(7):
            text = f"{number}번 기억 {step}"
            shared, own = remember(store, "모두의 기억", text)
            mine[own.id] = text
            if choose.random() < 0.3:
                gone = choose.choice(list(mine))
                lost = mine.pop(gone)
                store.forget(gone)
                assert gone not in {hit.memory.id for hit in store.search(lost, user=ME, k=200)}
            elif choose.random() < 0.5:
                changed = choose.choice(list(mine))
                mine[changed] = store.update(changed, {"text": f"{mine[changed]}!"}).text
            there = {hit.memory.id: hit.memory.text for hit in store.search(text, user=ME, k=200)}
            assert there.items() >= mine.items() and shared.id in there
        return mine

    with ThreadPoolExecutor(4) as pool:
        kept = {key: text for mine in pool.map(work, range(4)) for key, text in mine.items()}
    listed = {memory.id: memory.text for memory in store.memories(user=ME)}
    assert {key: text for key, text in listed.items() if text != "모두의 기억"} == kept
    assert len(listed) == len(kept) + 1
    (shared,) = remember(store, "모두의 기억")
    expected = records.IMPORTANCE
    for _ in range(4 * 7):
        expected = records.reinforced(expected)
    assert shared.importance == pytest.approx(expected), "each time counts"
    assert store.problems() == []


def test_threads_embed_at_the_same_time(home: Path) -> None:
    meeting = threading.Barrier(2)

    def together(texts: list[str]) -> np.ndarray:
        meeting.wait(timeout=30)
        return fake_embedder.embed(texts, "passage")

    with closing(made(home, embed=embedding(together))) as store:
        with ThreadPoolExecutor(2) as pool:
            (one,), (other,) = pool.map(lambda _: remember(store, FOOD), range(2))
        assert one.id == other.id and one.importance != other.importance
        assert store.count() == 1


def test_waiting_ends_when_its_time_is_up(home: Path) -> None:
    judging, go = threading.Event(), threading.Event()

    def slow(old: Memory, new: Memory, likeness: float) -> Any:
        judging.set()
        go.wait(timeout=30)
        return "different"

    with closing(made(home, judge=slow)) as store:
        assert store.wait(0), "there is nothing to do"
        remember(store, FOOD, WORK)
        assert judging.wait(timeout=30)
        assert not store.wait(0) and not store.wait(0.01)
        assert found(store, FOOD, k=1) == [FOOD], "nobody else waits for the judge"
        assert remember(store, DOG)[0].text == DOG
        go.set()
        assert store.wait()


def test_a_backup_is_a_home_of_its_own(home: Path, store: MemoryStore, tmp_path: Path) -> None:
    memories = remember(store, FOOD, WORK)
    path = store.backup(tmp_path / "사본.sqlite3")
    remember(store, DOG)
    other = tmp_path / "put back"
    other.mkdir()
    path.replace(other / FILE_NAME)
    with closing(made(other)) as again:
        assert again.memories(user=ME) == memories[::-1]
        assert found(again, FOOD, k=1) == [FOOD]


class AgainstADict(RuleBasedStateMachine):
    """Any order of calls leaves the store equal to a dict, reopened or not."""

    texts = st.sampled_from(["가", "나 다", "나 다.", "?", "42"]) | st.text(
        st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20
    )
    users = st.sampled_from(["a", "b"])
    categories = st.sampled_from([None, "goal", "work"])

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.home = Path(self.folder.name) / "home"
        self.store = made(self.home)
        self.model: dict[str, Memory] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def of(self, user: str) -> list[Memory]:
        return [memory for memory in self.model.values() if memory.user == user]

    @rule(texts=st.lists(texts, max_size=4), user=users, category=categories)
    def remember(self, texts: list[str], user: str, category: str | None) -> None:
        known = {memory.text: memory.id for memory in self.of(user)}
        for text, memory in zip(texts, self.store.remember(texts, user=user, category=category), strict=True):
            assert memory.id == known.get(text, memory.id)
            assert (memory.text, memory.user) == (text, user)
            known[text] = memory.id
            self.model[memory.id] = memory

    @precondition(lambda self: self.model)
    @rule(data=st.data(), text=texts, category=categories)
    def update(self, data: st.DataObject, text: str, category: str | None) -> None:
        id = data.draw(st.sampled_from(list(self.model)))  # noqa: A001
        others = {memory.text for memory in self.of(self.model[id].user) if memory.id != id}
        if text in others:
            with pytest.raises(InvalidInput):
                self.store.update(id, {"text": text, "category": category})
        else:
            self.model[id] = self.store.update(id, {"text": text, "category": category})
            assert (self.model[id].text, self.model[id].category) == (text, category)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(list(self.model)))
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
        assert len(hits) == len({hit.memory.id for hit in hits}) == min(k, len(live))
        assert all(self.model[hit.memory.id] == hit.memory and hit.memory in live for hit in hits)
        assert all(0 <= hit.score <= 1 for hit in hits)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def search_verbatim(self, data: st.DataObject) -> None:
        memory = self.model[data.draw(st.sampled_from(list(self.model)))]
        hits = self.store.search(memory.text, user=memory.user, k=100, explain=True)
        (own,) = [hit for hit in hits if hit.memory.id == memory.id]
        assert own.parts is not None
        assert own.parts["dense"] == pytest.approx(1, abs=2e-3)
        assert own.parts["dense"] >= max(hit.parts["dense"] for hit in hits if hit.parts) - 2e-3

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = made(self.home)

    @invariant()
    def equal(self) -> None:
        assert self.store.count() == len(self.model)
        for user in ("a", "b"):
            listed = self.store.memories(user=user)
            assert {memory.id: memory for memory in listed} == {memory.id: memory for memory in self.of(user)}
            assert [memory.id for memory in listed] == [memory.id for memory in self.of(user)][::-1]


TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_the_same_words_about_another_day_are_another_memory(store: MemoryStore) -> None:
    first = store.remember(["오늘 병원에 다녀왔어요"], user=ME, when="2026-03-01")[0]
    second = store.remember(["오늘 병원에 다녀왔어요"], user=ME, when="2026-03-08")[0]
    again = store.remember(["오늘 병원에 다녀왔어요"], user=ME, when="2026-03-08")[0]
    assert first.id != second.id == again.id
    assert [hit.memory.id for hit in store.search("병원", user=ME, k=5, since="2026-03-05")] == [second.id]
    with pytest.raises(InvalidInput, match="another memory"):
        store.update(second.id, {"when": "2026-03-01"})
    assert store.update(second.id, {"when": "2026-03-09"}).text == first.text
    assert len(store.remember(["오늘 병원에 다녀왔어요"], user=ME, when="2026-03-08")) == 1 and store.count() == 3


@pytest.mark.parametrize("wrong", [1.1, -0.1, float("nan")])
def test_a_least_score_lies_between_0_and_1(store: MemoryStore, wrong: float) -> None:
    remember(store, FOOD)
    with pytest.raises(InvalidInput, match="min_score"):
        store.search(FOOD, user=ME, k=3, min_score=wrong)
    with pytest.raises(TypeError):
        store.search(FOOD, user=ME, k=3, min_score="0.5")  # type: ignore[arg-type]


def test_who_only_searches_does_not_become_the_one_who_writes(home: Path, store: MemoryStore) -> None:
    (memory,) = remember(store, FOOD)
    store.update(memory.id, {"text": DOG})
    store.close()
    with closing(MemoryStore(home, fake_embedder.faculties())) as reader:
        assert found(reader, DOG) == [DOG]
        with closing(MemoryStore(home, fake_embedder.faculties())) as writer:
            assert remember(writer, WORK)[0].text == WORK
        assert set(found(reader, DOG)) == {DOG, WORK}


# ---- what is told, and what is done beside


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda store: store.remember([FOOD, ""], user=ME), InvalidInput, "^text 1 is empty"),
        (lambda store: store.remember([FOOD], user=ME, when="어제"), InvalidInput, "^when is not"),
        (lambda store: store.search("", user=ME, k=1), InvalidInput, "^query is empty"),
        (lambda store: store.search(FOOD, user=ME, k=0), InvalidInput, "^k must be at least 1"),
        (lambda store: store.search(FOOD, user=ME, k=True), TypeError, "^k must be an int, not bool"),
        (lambda store: store.search(FOOD, user=ME, k="1"), TypeError, "^k must be an int, not str"),
        (lambda store: store.search(FOOD, user=ME, k=1, min_score=2), InvalidInput, "^min_score must"),
        (lambda store: store.memories(user=ME, limit=0), InvalidInput, "^limit must be at least 1"),
        (lambda store: store.memory(""), InvalidInput, "^id is empty"),
        (lambda store: store.forget_all(""), InvalidInput, "^user is empty"),
    ],
)
def test_what_is_wrong_is_named(
    store: MemoryStore, call: Callable[[MemoryStore], object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        call(store)
    remember(store, FOOD)
    with pytest.raises(error, match=says):
        call(store)
    assert len(store.search(FOOD, user=ME, k=1)) == len(store.memories(user=ME, limit=1)) == 1


def test_whom_nothing_is_known_of_needs_no_model(home: Path) -> None:
    asked: list[str] = []

    def counting(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return fake_embedder.embed(texts, "passage")

    with closing(made(home, embed=embedding(counting))) as store:
        old, new = remember(store, FOOD, DOG)
        with store._store.write() as db:
            db.execute("UPDATE memories SET superseded_by = ? WHERE id = ?", (new.id, old.id))
        remember(store, WORK, user="남")
        store.forget(new.id)
        asked.clear()
        assert found(store, FOOD) == found(store, FOOD, user="없음") == [] == asked
        assert found(store, FOOD, user="남") == [WORK] and FOOD in asked


def test_nothing_is_embedded_twice_for_one_that_is_forgotten_meanwhile(home: Path) -> None:
    seen: list[str] = []

    def forgetting(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        if WORK in texts:
            store.forget(first.id)
        return fake_embedder.embed(texts, "passage")

    with closing(made(home, embed=embedding(forgetting))) as store:
        (first,) = remember(store, FOOD)
        remember(store, FOOD, WORK)
        assert seen == [FOOD, WORK, FOOD]


def test_one_that_is_gone_when_it_is_forgotten_is_told(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may be faster, between the look and the deed."""
    (memory,) = remember(store, FOOD)
    look = MemoryStore.memory

    def then_gone(self: MemoryStore, id: str) -> Memory:
        seen = look(self, id)
        monkeypatch.undo()
        self.forget(id)
        return seen

    monkeypatch.setattr(MemoryStore, "memory", then_gone)
    with pytest.raises(MemoryNotFound):
        store.forget(memory.id)


def test_whoever_may_hold_a_text_hears_that_it_was_corrected_while_no_backup_is_made(home: Path) -> None:
    told: list[bool] = []
    with closing(made(home, forgotten=lambda: told.append(store._store.copying.locked()))) as store:
        (memory,) = remember(store, FOOD)
        store.update(memory.id, {"text": DOG})
        assert told == [True]
        with store._store.copying, ThreadPoolExecutor(1) as pool:  # as while a backup is made
            assert pool.submit(store.update, memory.id, {"category": "goal"}).result(timeout=30).category == "goal"
            assert pool.submit(found, store, DOG).result(timeout=30) == [DOG]
        assert told == [True], "nothing was forgotten then"


def test_a_correction_leaves_no_vector_of_what_was_said_before(home: Path) -> None:
    """Neither in the space that is searched, nor in the one before."""
    with closing(made(home)) as first:
        (memory,) = remember(first, FOOD)
    newer = Space("newer", "newer")
    embed = embedding(lambda texts: np.roll(fake_embedder.embed(texts, "passage"), 1, axis=1))
    with closing(made(home, embed=embed, space=lambda: newer)) as store:
        assert found(store, FOOD) == [FOOD] and store.wait()
        sql = "SELECT name FROM vectors JOIN spaces ON number = key >> 40 ORDER BY number"
        with store._store.read() as db:
            assert rows(db, sql) == [(fake_embedder.SPACE.name,), (newer.name,)]
        store.update(memory.id, {"text": DOG})
        with store._store.read() as db:
            assert rows(db, sql) == [(newer.name,)]
        assert store.search(DOG, user=ME, k=1, explain=True)[0].parts["dense"] == pytest.approx(1, abs=1e-3)  # type: ignore[index]


def test_a_correction_that_another_program_keeps_from_being_wiped_is_wiped_at_the_next_start(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.memory.LOCK_TIMEOUT", 0.05)

    def left(folder: Path) -> bool:
        return FOOD.encode("utf-8") in b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())

    with closing(made(home)) as store:
        (memory,) = remember(store, FOOD)
        with closing(apsw.Connection(str(home / FILE_NAME))) as reader, reader:
            reader.execute("SELECT count(*) FROM memories").fetchall()
            assert store.update(memory.id, {"text": DOG}).text == DOG, "it is done; the traces are owed"
            assert left(home)
            shutil.copytree(home, tmp_path / "killed")  # as who is killed now leaves it
    with closing(made(tmp_path / "killed")) as again:
        remember(again, WORK)
        assert not left(tmp_path / "killed")


def test_what_fails_for_another_reason_is_told_as_it_is(home: Path) -> None:
    """A full memory is put up with, no fault is hidden."""

    def broken(*_: object) -> Any:
        raise ValueError("broken")

    with closing(made(home)) as store:
        remember(store, FOOD)
        store.export(home.parent / "out.jsonl")
    for part in ("words", "embed", "space"):
        with closing(made(home, **{part: broken})) as store:
            calls: list[Callable[[], object]] = [lambda: remember(store, WORK), lambda: found(store, FOOD)]
            if part == "space":
                calls.append(lambda: store.import_(home.parent / "out.jsonl"))
            for call in calls:
                with pytest.raises(ValueError, match="broken"):
                    call()
            assert store.count() == 1


def test_a_model_that_does_not_fit_is_told_where_there_is_no_other(home: Path) -> None:
    with closing(made(home)) as first:
        remember(first, FOOD)
        assert first.wait()

    def full(*_: object) -> Any:
        raise OutOfBudget("full", needed=1, available=0)

    with closing(made(home, embed=full)) as store, pytest.raises(OutOfBudget):
        found(store, FOOD)


@pytest.mark.parametrize("error", [OutOfBudget("full", needed=1, available=0), ModelNotFound("gone", model="x")])
def test_the_new_model_answers_where_the_old_one_cannot(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As soon as it has embedded what there is; one fewer than it would be waited for."""
    monkeypatch.setattr("engine.memory._WAIT_FOR", 4)
    newer = Space("newer", "newer")
    passages: list[str] = []

    def embed(texts: list[str], kind: Any, space: Space) -> Embedded:
        if space != newer:
            raise error
        passages.extend(text for text in texts if kind == "passage")
        return Embedded(np.roll(fake_embedder.embed(texts, kind), 1, axis=1))

    with closing(made(home)) as first:
        remember(first, FOOD, WORK, DOG)
    with closing(made(home, embed=embed, space=lambda: newer)) as store:
        hits = store.search(FOOD, user=ME, k=3, explain=True)
        assert hits[0].parts is not None and hits[0].parts["dense"] == pytest.approx(1, abs=1e-3)
        assert passages[:3] == [FOOD, WORK, DOG]


@pytest.mark.parametrize("error", [OutOfBudget("full", needed=1, available=0), ModelNotFound("gone", model="x")])
def test_words_answer_where_the_old_model_cannot_and_the_new_one_has_not_begun(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("engine.memory._WAIT_FOR", 2)
    newer, go = Space("newer", "newer"), threading.Event()

    def embed(texts: list[str], kind: Any, space: Space) -> Embedded:
        if space != newer:
            raise error
        assert go.wait(timeout=30)
        return fake_embedder.embedded(texts, kind, fake_embedder.SPACE)

    with closing(made(home)) as first:
        remember(first, FOOD, WORK, DOG)
    with closing(made(home, embed=embed, space=lambda: newer)) as store:
        hits = store.search("강아지 이름은", user=ME, k=1)
        go.set()
        assert [hit.memory.text for hit in hits] == [DOG]


def test_as_many_as_are_not_waited_for_are_embedded_behind_the_search(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.memory._WAIT_FOR", 3)
    newer, go, searched = Space("newer", "newer"), threading.Event(), threading.Event()

    def embed(texts: list[str], kind: Any, space: Space) -> Embedded:
        if space == newer and kind == "passage" and FOOD in texts:
            assert go.wait(timeout=30) and searched.is_set()
        return fake_embedder.embedded(texts, kind, fake_embedder.SPACE)

    with closing(made(home)) as first:
        remember(first, FOOD, WORK, DOG)
    with closing(made(home, embed=embed, space=lambda: newer)) as store:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(found, store, FOOD, 1).result(timeout=20) == [FOOD], "by the old vectors"
        searched.set()
        go.set()
        assert store._keeper.wait(30), "nobody had to ask for it"
        sql = "SELECT name, complete, (SELECT count(*) FROM vectors WHERE key >> 40 = number) FROM spaces"
        with store._store.read() as db:
            assert (newer.name, 1, 3) in rows(db, sql)


def test_the_cohort_is_embedded_once_for_each_model(home: Path) -> None:
    asked: list[int] = []

    def counting(texts: list[str]) -> np.ndarray:
        asked.append(len(texts))
        return fake_embedder.embed(texts, "passage")

    often = len(cohort.SENTENCES)
    with closing(made(home, embed=embedding(counting))) as store:
        remember(store, FOOD)
        assert found(store, FOOD) == found(store, DOG) == [FOOD]
        assert asked.count(often) == 1
        with closing(made(home, embed=embedding(counting))) as reader:
            assert found(reader, FOOD) == found(reader, DOG) == [FOOD]
    with closing(made(home, embed=embedding(counting))) as again:
        assert found(again, FOOD) == [FOOD]
    assert asked.count(often) == 1, "it is kept"


def test_who_only_reads_embeds_the_cohort_once_and_keeps_it_to_itself(home: Path, store: MemoryStore) -> None:
    asked: list[int] = []

    def counting(texts: list[str]) -> np.ndarray:
        asked.append(len(texts))
        return fake_embedder.embed(texts, "passage")

    remember(store, FOOD)
    assert store.wait()
    with closing(made(home, embed=embedding(counting))) as reader:
        assert found(reader, FOOD) == found(reader, DOG) == [FOOD]
        assert asked.count(len(cohort.SENTENCES)) == 1


def test_what_is_missing_is_made_up_for_after_each_change(home: Path, tmp_path: Path) -> None:
    """No other call has to follow."""
    full = True

    def some(texts: list[str]) -> list[tuple[str, ...]]:
        if full:
            raise OutOfBudget("full", needed=1, available=0)
        return fake_embedder.words(texts)

    with closing(made(home, words=some)) as store:
        (memory,) = remember(store, FOOD)
        assert not store._keeper.wait(30) and words_of(store) == [""]
        full = False
        store.update(memory.id, {"category": "health"})
        assert store._keeper.wait(30) and words_of(store) == [FOOD]
        store.export(tmp_path / "out.jsonl")
        full = True
        store.forget_all(ME)
        remember(store, WORK)
        assert not store._keeper.wait(30)
        full = False
        store.import_(tmp_path / "out.jsonl")
        assert store._keeper.wait(30) and words_of(store) == [WORK, FOOD]


def test_what_a_closed_store_has_left_undone_is_done_while_somebody_waits(home: Path) -> None:
    def full(texts: list[str]) -> list[tuple[str, ...]]:
        raise OutOfBudget("full", needed=1, available=0)

    with closing(made(home, words=full)) as first:
        remember(first, FOOD)
        assert not first.wait()
    with closing(made(home)) as store:
        assert store.wait() and words_of(store) == [FOOD]


def test_new_memories_are_judged_without_waiting_for_it(home: Path) -> None:
    judged: list[tuple[str, str]] = []

    def judge(old: Memory, new: Memory, likeness: float) -> Any:
        judged.append((old.text, new.text))
        return "different"

    with closing(made(home, judge=judge)) as store:
        remember(store, FOOD, WORK)
        assert store._keeper.wait(30) and judged == [(FOOD, WORK)]
        store.remember([DOG], user=ME, judge=False)
        assert store.wait() and len(judged) == 1


def test_words_of_several_callers_are_found_at_once_in_named_threads(home: Path) -> None:
    meeting, names = threading.Barrier(4), []

    def together(texts: list[str]) -> list[tuple[str, ...]]:
        if threading.current_thread().name != "gieok-memory":  # which finds them for its own chores
            names.append(threading.current_thread().name)
            meeting.wait(timeout=30)
        return fake_embedder.words(texts)

    with closing(made(home, words=together)) as store, ThreadPoolExecutor(4) as pool:
        texts = [memory.text for (memory,) in pool.map(lambda n: remember(store, f"기억 {n}"), range(4))]
        assert texts == [f"기억 {n}" for n in range(4)]
    assert all(name.startswith("gieok-words") for name in names)


def test_closing_waits_for_what_is_under_way_and_drops_what_is_not(home: Path) -> None:
    course: list[str] = []
    judging = threading.Event()

    def slow(old: Memory, new: Memory, likeness: float) -> Any:
        judging.set()
        time.sleep(0.2)
        course.append("judged")
        return "different"

    store = made(home, judge=slow)
    remember(store, FOOD, WORK)
    assert judging.wait(timeout=30)
    store.close()
    course.append("closed")
    assert course == ["judged", "closed"]
    assert not [one.name for one in threading.enumerate() if one.name.startswith("gieok") and "words" not in one.name]


def test_a_closed_store_says_what_to_do(store: MemoryStore) -> None:
    remember(store, FOOD)
    store._beside.shutdown()
    with pytest.raises(EngineClosed, match="the engine is closed; make a new Engine"):
        found(store, FOOD)


# ---- files


def test_memories_move_to_another_home(home: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    file, embedded = tmp_path / "내 기억.jsonl", []

    def counting(texts: list[str]) -> np.ndarray:
        embedded.extend(texts)
        return fake_embedder.embed(texts, "passage")

    def hears(event: Progress) -> None:
        told.append(event)
        copying.append(store._store.copying.locked())

    copying: list[bool] = []
    with closing(MemoryStore(home, fake_embedder.faculties(), progress=hears)) as store:
        remember(store, FOOD, WORK)
        remember(store, DOG, user="남")
        assert store.wait()
        told.clear(), copying.clear()
        assert store.export(file, user="남") == 1
        assert DOG in file.read_text(encoding="utf-8") and FOOD not in file.read_text(encoding="utf-8")
        assert store.export(file) == 3
        assert "vector" not in file.read_text(encoding="utf-8")
        assert store.export(file, vectors=True) == 3
        assert [(event.task, event.done, event.total) for event in told[-2:]] == [("export memories", 0, 3)] * 2
        assert all(copying), "who forgets waits until it is written"
    told.clear()
    with closing(
        MemoryStore(tmp_path / "other", fake_embedder.faculties(embed=embedding(counting)), progress=told.append)
    ) as other:
        assert other.import_(file).to_dict() == {"added": 3, "skipped": 0}
        assert {event.task for event in told} == {"import memories"}
        assert other.import_(file).to_dict() == {"added": 0, "skipped": 3}
        assert found(other, FOOD, k=1) == [FOOD] and found(other, DOG, user="남") == [DOG]
        assert not {FOOD, WORK, DOG}.intersection(embedded) or embedded.count(FOOD) == 1, "their vectors came along"


def test_memories_come_in_without_a_model_and_are_embedded_when_it_is_there(
    home: Path, store: MemoryStore, tmp_path: Path
) -> None:
    remember(store, FOOD)
    assert store.wait() and store.export(tmp_path / "out.jsonl", vectors=True) == 1
    gone = True

    def space() -> Space:
        if gone:
            raise ModelNotFound("it is not on this machine", model="pairs")
        return fake_embedder.SPACE

    with closing(made(tmp_path / "other", space=space)) as other:
        assert other.import_(tmp_path / "out.jsonl").added == 1
        with pytest.raises(ModelNotFound):
            found(other, FOOD)
        gone = False
        assert found(other, FOOD) == [FOOD]


def test_a_home_without_memories_makes_a_file_that_says_so(home: Path, tmp_path: Path) -> None:
    def hears(event: Progress) -> None:
        raise AssertionError("there is nothing to tell")

    with closing(MemoryStore(home, fake_embedder.faculties(), progress=hears)) as store:
        assert store.export(tmp_path / "out.jsonl", user="누구", vectors=True) == 0
        (line,) = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["count"] == 0
        with pytest.raises(InvalidInput, match=r"^user is empty"):
            store.export(tmp_path / "out.jsonl", user="")


def test_a_backup_tells_how_far_it_is_and_can_be_stopped(home: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    with closing(MemoryStore(home, fake_embedder.faculties(), progress=told.append)) as store:
        remember(store, *(f"{FOOD} {number}" for number in range(50)))
        assert store.wait()
        told.clear()
        assert store.backup().parent.parent == home
        assert {(event.task, event.unit) for event in told} == {("back memories up", "pages")}
        assert [event.done for event in told] == sorted(event.done for event in told)
        assert told[-1].done == told[-1].total > 1
    with closing(MemoryStore(home, fake_embedder.faculties(), progress=lambda event: False)) as store:
        with pytest.raises(Cancelled):
            store.backup(tmp_path / "copy.sqlite3")
        assert not (tmp_path / "copy.sqlite3").exists()


def test_what_is_wrong_with_the_file_is_told(home: Path, store: MemoryStore) -> None:
    remember(store, FOOD, WORK)
    store.close()
    with closing(apsw.Connection(str(home / FILE_NAME))) as db:
        ((page,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_memories_1'")
        ((size,),) = db.execute("PRAGMA page_size")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    data = bytearray((home / FILE_NAME).read_bytes())
    data[(page - 1) * size + size - 8 : page * size] = b"x" * 8  # an id, in the index of ids only
    (home / FILE_NAME).write_bytes(data)
    with closing(made(home)) as again:
        assert again.problems() != []
