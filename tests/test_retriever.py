"""Candidates of every leg, scored in one snapshot: what is found, by which part, and what never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fake_embedder
import numpy as np
import pytest

from engine import records, retriever, spaces
from engine.faculties import Embedded, Space
from engine.memory import MemoryStore
from engine.ranking import Signals
from engine.records import Filter, Hit, Memory
from engine.retriever import Sense

ME = "default"
FOOD, WORK, DOG = "저는 매운 음식을 못 먹어요", "회사에서 팀장이 되었어요", "강아지 이름은 보리예요"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., MemoryStore]]:
    with ExitStack() as stack:

        def open_(**others: Any) -> MemoryStore:
            store = MemoryStore(tmp_path / "home", fake_embedder.faculties(**others))
            stack.callback(store.close)
            return store

        yield open_


def remember(store: MemoryStore, *texts: str, **asked: Any) -> list[Memory]:
    return store.remember(list(texts), **{"user": ME, **asked})


def explained(store: MemoryStore, query: str, k: int = 9) -> dict[str, dict[str, float]]:
    """Return text → parts, in the order of the hits."""
    return {hit.memory.text: hit.parts or {} for hit in store.search(query, user=ME, k=k, explain=True)}


def flat(texts: list[str], kind: Any, space: Space) -> Embedded:
    """Embed every text alike."""
    return Embedded(np.ones((len(texts), 4), np.float32) / 2)


def test_parts_say_why_a_memory_was_found(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    remember(store, FOOD, WORK, DOG)
    hits = explained(store, FOOD)
    assert next(iter(hits)) == FOOD and set(hits) == {FOOD, WORK, DOG}
    for parts in hits.values():
        assert list(parts) == [one.name for one in fields(Signals)]
        assert all(isinstance(value, float) and np.isfinite(value) for value in parts.values())
    exact = dict(
        zip(
            (FOOD, WORK, DOG),
            fake_embedder.embed([FOOD, WORK, DOG], "passage") @ fake_embedder.embed([FOOD], "query")[0],
            strict=True,
        )
    )
    for text, parts in hits.items():
        assert parts["dense"] == pytest.approx(float(exact[text]), abs=1e-3)
        assert text == FOOD or (parts["words"] < hits[FOOD]["words"] and parts["coverage"] == 0)
        assert (parts["sparse"], parts["importance"]) == (0, 0.5)
        assert 0 <= parts["age"] < 1 / 24
    assert hits[FOOD]["prominence"] > max(hits[WORK]["prominence"], hits[DOG]["prominence"])
    assert hits[FOOD]["coverage"] == pytest.approx(1)


def test_scores_lie_between_0_and_1_and_are_those_of_relevance(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    remember(store, *(f"{text} {number}" for text in (FOOD, WORK, DOG) for number in range(20)))
    for query in (FOOD, "강아지", "전혀 다른 말", "?", "a"):
        scores = [hit.score for hit in store.search(query, user=ME, k=100)]
        assert all(0 <= score <= 1 for score in scores)
    best = store.search(f"{FOOD} 7", user=ME, k=1)[0]
    assert best.memory.text == f"{FOOD} 7"
    assert best.score > store.search("전혀 다른 말", user=ME, k=1)[0].score


def test_words_find_what_vectors_do_not(opened: Callable[..., MemoryStore]) -> None:
    store = opened(embed=flat)
    remember(store, DOG, *(f"적어 둔 말 {number}" for number in range(300)))
    assert next(iter(explained(store, "강아지 이름"))) == DOG
    assert next(iter(explained(store, "보리"))) == DOG, "by letters"


def test_vectors_find_what_words_do_not(opened: Callable[..., MemoryStore]) -> None:
    def pet(texts: list[str], kind: Any, space: Space) -> Embedded:
        dense = np.full((len(texts), 8), 0.01, np.float32)
        for row, text in zip(dense, texts, strict=True):
            row[0 if "강아지" in text or "puppy" in text else 1 + len(text) % 7] = 1
        return Embedded(spaces.unit(dense))

    store = opened(embed=pet)
    remember(store, DOG, *(f"적어 둔 말 {number}" for number in range(300)))
    hits = explained(store, "puppy")
    assert next(iter(hits)) == DOG
    assert hits[DOG]["words"] == hits[DOG]["coverage"] == 0 < hits[DOG]["prominence"]


def test_sparse_weights_are_scored_where_the_model_has_them(opened: Callable[..., MemoryStore]) -> None:
    def tokens(texts: list[str], kind: Any, space: Space) -> Embedded:
        return Embedded(flat(texts, kind, space).dense, [{1: 0.5, 2 + len(text): 2.0} for text in texts])

    store = opened(embed=tokens)
    remember(store, FOOD, DOG)
    same = len(DOG)
    assert len(FOOD) != same
    hits = explained(store, DOG)
    assert hits[DOG]["sparse"] == pytest.approx(0.25 + 4)
    assert hits[FOOD]["sparse"] == pytest.approx(0.25)


def test_a_memory_without_a_vector_is_like_any_other_text(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    remember(store, FOOD, DOG)
    with store._store.write() as db:
        db.execute("DELETE FROM vectors WHERE key & 255 = 2")
    hits = explained(store, DOG)
    assert hits[DOG]["prominence"] == pytest.approx(0, abs=1e-4) and hits[DOG]["words"] > 0
    assert explained(store, "완전히 다른 것").keys() == {FOOD}, "nothing else could find it"


def test_of_equal_ones_the_newer_comes_first(
    opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(embed=flat, words=lambda texts: [()] * len(texts))
    monkeypatch.setattr(records, "now", lambda: 10**15)
    monkeypatch.setattr(retriever, "now", lambda: 10**15)
    texts = [chr(ord("가") + 700 * number) for number in range(12)]
    for text in texts:
        remember(store, text)
    assert [hit.memory.text for hit in store.search("?", user=ME, k=20)] == texts[::-1]


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_jumps_changes_no_more_than_recency(
    opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    store = opened()
    remember(store, FOOD, WORK, DOG)
    elsewhen = records.stamp(datetime.now(UTC) + timedelta(days=365 * years))
    monkeypatch.setattr(retriever, "now", lambda: elsewhen)
    hits = store.search(FOOD, user=ME, k=3)
    assert hits[0].memory.text == FOOD
    assert all(0 <= hit.score <= 1 for hit in hits)


def test_importance_and_recency_order_what_is_otherwise_alike(opened: Callable[..., MemoryStore]) -> None:
    store = opened(embed=flat, words=lambda texts: [()] * len(texts))
    older, newer = remember(store, "ㄱ", "ㄴ")

    def order() -> list[str]:
        return [hit.memory.id for hit in store.search("?", user=ME, k=9)]

    assert order() == [newer.id, older.id]
    store.update(older.id, {"importance": 1.0})
    assert order() == [older.id, newer.id]
    store.update(newer.id, {"importance": 1.0})
    with store._store.write() as db:
        db.execute("UPDATE memories SET created = created - 400 * 86400000000 WHERE id = ?", (newer.id,))
    assert order() == [older.id, newer.id]


def test_what_was_superseded_is_never_found(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    old, new = remember(store, FOOD, f"{FOOD}.")
    with store._store.write() as db:
        db.execute("UPDATE memories SET superseded_by = ?, fate = 'merged' WHERE id = ?", (new.id, old.id))
    for query in (FOOD, f"{FOOD}.", "매운", "음식을"):
        assert [hit.memory.id for hit in store.search(query, user=ME, k=9)] == [new.id]


def test_filters_hold_for_every_leg(opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever, "NEAR", 3)
    monkeypatch.setattr(retriever, "_BY_WORDS", 3)
    store = opened()
    remember(store, *(f"{FOOD} {number}" for number in range(60)), user="남")
    remember(store, *(f"{FOOD} {number}" for number in range(60)), source="책")
    remember(store, f"{FOOD} 끝", WORK, category="health", source="엄마", when="2020-01-01")
    for wanted in ({"category": "health"}, {"source": "엄마"}, {"until": "2020-01-01"}):
        hits = store.search(FOOD, user=ME, k=5, **wanted)  # type: ignore[arg-type]
        assert [hit.memory.text for hit in hits] == [f"{FOOD} 끝", WORK]
    assert len(store.search(FOOD, user=ME, k=5, source="책")) == 5
    assert all(hit.memory.user == "남" for hit in store.search(FOOD, user="남", k=50))
    assert store.search(FOOD, user=ME, k=5, source="엄마", until="2019-12-31") == []


def test_an_index_that_is_wrong_costs_hits_and_gives_no_false_ones(
    opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(words=lambda texts: [()] * len(texts))
    remember(store, FOOD, user="남")
    old, new = remember(store, FOOD, WORK)
    remember(store, DOG, category="relationship", when="2020-01-01")
    with store._store.write() as db:
        db.execute("UPDATE memories SET superseded_by = 'x' WHERE id = ?", (old.id,))
    for candidates, expected in (([1, 2, 3, 4, 99], {WORK, DOG}), ([1, 2, 99], set()), ([], set())):
        monkeypatch.setattr(store._index, "near", lambda *_, found=candidates: found)
        assert {hit.memory.text for hit in store.search("?", user=ME, k=9)} == expected
    monkeypatch.setattr(store._index, "near", lambda *_: [1, 2, 3, 4])
    assert [hit.memory.text for hit in store.search("?", user=ME, k=9, category="relationship")] == [DOG]
    assert [hit.memory.text for hit in store.search("?", user=ME, k=9, until="2020-01-01")] == [DOG]
    assert [hit.memory.id for hit in store.search("?", user=ME, k=9, since="2021-01-01")] == [new.id]


def test_as_many_as_there_are_are_found_and_no_more_than_asked_for(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    texts = {f"{FOOD} {number}" for number in range(250)}
    remember(store, *sorted(texts))
    assert {hit.memory.text for hit in store.search(FOOD, user=ME, k=10**9)} == texts
    for k in (1, 7, 249):
        assert len(store.search(FOOD, user=ME, k=k)) == k


def test_looking_at_every_vector_goes_in_batches(
    opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(words=lambda texts: [()] * len(texts))
    texts = [f"{number}번 말 {'가나다라'[number % 4] * (number % 7)}" for number in range(100)]
    remember(store, *texts)

    def found() -> list[Hit]:
        return [hit for query in ("3번 말", "가가가", "라라") for hit in store.search(query, user=ME, k=9)]

    whole = [hit.memory for hit in found()]
    monkeypatch.setattr(retriever, "_BATCH", 7)
    assert [hit.memory for hit in found()] == whole


# ---- the nearest to a text


def test_the_nearest_are_the_likest_first(opened: Callable[..., MemoryStore]) -> None:
    store = opened()
    texts = (FOOD, f"{FOOD}.", WORK, DOG)
    remember(store, *texts)
    remember(store, FOOD, user="남")
    store.search(FOOD, user=ME, k=1)  # the cohort is there
    with store._store.write() as db:
        db.execute("UPDATE memories SET superseded_by = 'x' WHERE text = ?", (DOG,))
    with store._store.read() as db:
        place = spaces.serving(db)
        assert place is not None
        cohort = spaces.cohort(db, place)
        assert cohort is not None
        sense = Sense(place, fake_embedder.embed([FOOD], "passage")[0], None, cohort)
        found = retriever.nearest(db, store._index, sense, Filter(ME), 2)
        assert [(one.seq, one.memory.text) for one in found] == [(1, FOOD), (2, f"{FOOD}.")]
        assert found[0].likeness > found[1].likeness
        assert [one.seq for one in retriever.nearest(db, store._index, sense, Filter(ME), 9)] == [1, 2, 3]
        assert retriever.nearest(db, store._index, sense, Filter("없음"), 9) == []
