from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine import index as module
from engine.index import EXHAUSTIVE, SAMPLE, Entries, VectorIndex, Wanted, bytes_of

DIM = 16
ALL = Wanted()


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def vectors(seed: int, n: int, dim: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clusters(seed: int, n: int, dim: int) -> np.ndarray:
    """A cone, as embedding models make, of narrower cones."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((n // 40, dim)) + 5 * draw.standard_normal(dim)
    rows = centres[draw.integers(0, len(centres), n)] + 0.6 * draw.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def entries(memory: np.ndarray, user: int = 1, source: int = 1, category: int = 0, moment: int = 0) -> Entries:
    n = len(memory)
    return Entries(
        memory,
        np.full(n, user, np.uint64),
        np.full(n, source, np.uint64),
        np.full(n, category, np.uint8),
        np.full(n, moment, np.int64),
    )


def found(index: VectorIndex, wanted: Wanted = ALL) -> list[int]:
    return sorted(index.candidates(vectors(0, 1, index.dim)[0], 1, wanted).tolist())


def nearest(rows: np.ndarray, query: np.ndarray, among: np.ndarray) -> set[int]:
    return set(among[np.argsort(-(rows[among] @ query))[:10]].tolist())


# ---- like a dict


class LikeADict(RuleBasedStateMachine):
    """Small columns, so that filters meet; ids from both ends of what there is."""

    keys = st.sets(
        st.one_of(st.integers(1, 30), st.integers(0, 1 << 50), st.sampled_from([-(1 << 63), (1 << 63) - 1])), max_size=8
    )

    @initialize(dim=st.sampled_from([1, 7, 16]))
    def begin(self, dim: int) -> None:
        self.index, self.model = VectorIndex(dim), dict[int, tuple[int, int, int, int]]()

    @rule(
        keys=keys,
        user=st.sampled_from([0, 1, (1 << 64) - 1]),
        category=st.integers(0, 3),
        moment=st.sampled_from([-(1 << 63), -5, 0, 5, (1 << 63) - 1]),
        seed=st.integers(0, 99),
    )
    def add(self, keys: set[int], user: int, category: int, moment: int, seed: int) -> None:
        new = entries(ids(*keys), user, 0, category, moment)
        new.source[:] = np.arange(seed, seed + len(keys))
        self.index.add(new, vectors(seed, len(keys), self.index.dim))
        self.model |= {key: (user, seed + i, category, moment) for i, key in enumerate(new.memory.tolist())}

    @rule(keys=keys)
    def remove(self, keys: set[int]) -> None:
        self.index.remove(ids(*keys, *keys))
        self.model = {key: row for key, row in self.model.items() if key not in keys}

    @precondition(lambda self: self.model)
    @rule()
    def remove_all(self) -> None:
        self.index.remove(ids(*self.model))
        self.model = {}

    @rule()
    def write_and_read(self) -> None:
        kept = iter([buffer.copy() for buffer in self.index.dumps()])
        self.index = VectorIndex.loads(
            self.index.dim, len(self.index), self.index.trained, lambda buffer: np.copyto(buffer, next(kept))
        )

    @rule(
        user=st.sampled_from([None, 0, 1, (1 << 64) - 1]),
        category=st.none() | st.integers(0, 3),
        since=st.sampled_from([None, -(1 << 70), -5, 0, 1, 1 << 70]),
        until=st.sampled_from([None, -(1 << 70), -5, 0, 4, 1 << 70]),
        few=st.sampled_from([0, EXHAUSTIVE]),
    )
    def search(self, user: int | None, category: int | None, since: int | None, until: int | None, few: int) -> None:
        """By codes too, of which 100 are more than there are: both ways give all that match."""
        expected = sorted(
            key
            for key, (its_user, _, its_category, moment) in self.model.items()
            if (user is None or its_user == user) and (category is None or its_category == category)
            if (since is None or moment >= since) and (until is None or moment <= until)
        )
        wanted = Wanted(user, None, category, since, until)
        assert self.index.matching(wanted) == len(expected)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "EXHAUSTIVE", few)
            assert sorted(self.index.candidates(vectors(3, 1, self.index.dim)[0], 1000, wanted).tolist()) == expected

    @rule(source=st.integers(0, 99))
    def search_by_source(self, source: int) -> None:
        expected = sorted(key for key, row in self.model.items() if row[1] == source)
        assert found(self.index, Wanted(source=source)) == expected

    @invariant()
    def as_long(self) -> None:
        assert len(self.index) == len(self.model)


LikeADict.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLikeADict = LikeADict.TestCase


# ---- what is near


def recall(index: VectorIndex, rows: np.ndarray, wanted: Wanted, among: np.ndarray) -> float:
    hits = 0
    for i in range(0, 400, 10):
        candidates = index.candidates(rows[i], 100, wanted)
        assert len(candidates) == 100 and set(candidates.tolist()) <= set(among.tolist())
        hits += len(nearest(rows, rows[i], candidates) & nearest(rows, rows[i], among))
    return hits / 400


def test_the_nearest_are_among_the_candidates_with_and_without_a_filter() -> None:
    rows = clusters(1, 4_000, 256)
    index, number = VectorIndex(256), np.arange(4_000)
    index.add(entries(number[::2], user=1, moment=5), rows[::2])
    index.add(entries(number[1::2], user=2, moment=6), rows[1::2])
    assert recall(index, rows, ALL, number) >= 0.99
    assert recall(index, rows, Wanted(user=2), number[1::2]) >= 0.99
    assert recall(index, rows, Wanted(until=5), number[::2]) >= 0.99


def test_the_nearest_are_found_after_replacing_and_removing() -> None:
    """With vectors of others at first, so that a code at the wrong place would be seen."""
    rows, number = clusters(1, 4_000, 256), np.arange(4_000)
    index = VectorIndex(256)
    index.add(entries(number), rows[::-1])
    for some in np.split(np.random.default_rng(3).permutation(number), 4):
        index.add(entries(some), rows[some])
    index.remove(number[3::4])
    left = np.setdiff1d(number, number[3::4])
    assert len(index) == len(left)
    assert recall(index, rows, ALL, left) >= 0.99


def test_an_index_that_grew_one_by_one_from_a_single_vector_finds_the_nearest() -> None:
    rows, number = clusters(2, 1_500, 256), np.arange(1_500)
    index = VectorIndex(256)
    for i in number:
        index.add(entries(number[i : i + 1]), rows[i : i + 1])
    assert index.trained == 1
    assert recall(index, rows, ALL, number) >= 0.98


def test_up_to_a_number_all_that_match_are_candidates_and_above_it_the_nearest() -> None:
    rows, number = vectors(4, EXHAUSTIVE + 1), np.arange(EXHAUSTIVE + 1)
    index = VectorIndex(DIM)
    index.add(entries(number), rows)
    assert len(index.candidates(rows[7], 3, ALL)) == 3
    assert index.candidates(rows[7], 3, ALL)[0] == 7
    index.remove(ids(7))
    assert sorted(index.candidates(rows[7], 3, ALL).tolist()) == sorted({*number.tolist()} - {7})


# ---- what cannot be


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (entries(ids(1, 1)), vectors(0, 2)),
        (entries(ids(1)), vectors(0, 2)),
        (entries(ids(1)), vectors(0, 1, DIM - 1)),
        (entries(ids(1)), vectors(0, 1)[0]),
        (entries(ids(1)), np.full((1, DIM), np.nan, np.float32)),
        (entries(ids(1)), np.full((1, DIM), np.inf, np.float32)),
        (entries(np.array([1.0])), vectors(0, 1)),
        (Entries(ids(1), ids(1), *[np.zeros(1, np.uint64)] * 3), vectors(0, 1)),
        (Entries(ids(1), *[np.zeros(2, np.uint64)] * 2, np.zeros(1, np.uint8), ids(1)), vectors(0, 1)),
    ],
)
def test_what_is_not_entries_and_their_vectors_is_refused_and_changes_nothing(given: Entries, rows: np.ndarray) -> None:
    index = VectorIndex(DIM)
    index.add(entries(ids(5)), vectors(9, 1))
    with pytest.raises(ValueError, match="entries"):
        index.add(given, rows)
    assert (len(index), index.trained, found(index)) == (1, 1, [5])


def test_queries_that_nothing_is_near_to_are_refused() -> None:
    index = VectorIndex(DIM)
    for query, k in ((np.full(DIM, np.nan), 1), (np.ones(DIM - 1), 1), (np.ones((1, DIM)), 1), (np.ones(DIM), 0)):
        with pytest.raises(ValueError, match="nearest"):
            index.candidates(query, k, ALL)
    with pytest.raises(ValueError, match="0 numbers"):
        VectorIndex(0)


def test_an_empty_index_finds_nothing() -> None:
    index = VectorIndex(DIM)
    index.add(entries(ids()), np.empty((0, DIM), np.float32))
    index.remove(ids())
    assert (len(index), index.trained, index.matching(ALL), index.matching(Wanted(user=1))) == (0, 0, 0, 0)
    assert found(index) == found(index, Wanted(user=1)) == []


# ---- the centre, room, threads


def test_the_centre_is_outgrown_by_four_times_as_many_vectors_until_it_is_good() -> None:
    index = VectorIndex(1)
    one = np.ones((SAMPLE * 4, 1), np.float32)

    def grow(start: int, end: int) -> bool:
        index.add(entries(np.arange(start, end)), one[: end - start])
        return index.outgrown

    assert not grow(0, 300)
    assert not grow(300, EXHAUSTIVE)
    assert not grow(EXHAUSTIVE, 1_203)
    assert grow(1_203, 1_204)
    assert index.trained == 300
    index.remove(np.arange(2_000))
    assert not grow(0, SAMPLE)
    assert index.trained == SAMPLE
    assert not grow(SAMPLE, SAMPLE * 4 + 4)


def test_it_holds_as_many_bytes_as_it_says() -> None:
    for dim, n in ((1, 3), (100, 0), (1024, 5)):
        index = VectorIndex(dim)
        index.add(entries(np.arange(n)), vectors(0, n, dim))
        assert sum(buffer.nbytes for buffer in index.dumps()) == bytes_of(n, dim)


def test_adding_one_by_one_does_not_copy_all_each_time() -> None:
    index, row, columns = VectorIndex(DIM), vectors(0, 1), set[int]()
    for i in range(2_000):
        index.add(entries(ids(i)), row)
        columns.add(len(index._columns["memory"]))
    assert len(columns) < 25


def test_computes_on_one_thread_wherever_it_is_called_from(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    monkeypatch.setattr(module, "EXHAUSTIVE", 0)
    index, seen = VectorIndex(DIM), []

    def work() -> None:
        for step in (lambda: index.add(entries(ids(1)), vectors(0, 1)), lambda: found(index)):
            faiss.omp_set_num_threads(2)
            step()
            seen.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1, 1]


def test_many_threads_may_search_at_once() -> None:
    rows = vectors(5, 3_000)
    index, wrong = VectorIndex(DIM), list[int]()
    index.add(entries(np.arange(3_000)), rows)
    expected = [index.candidates(row, 5, ALL).tolist() for row in rows[:200]]

    def search() -> None:
        wrong.extend(i for i in range(200) if index.candidates(rows[i], 5, ALL).tolist() != expected[i])

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
