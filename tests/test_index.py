from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.index import VectorIndex

DIM = 8


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def vectors(seed: int, n: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_finds_the_nearest_best_first() -> None:
    index, rows = VectorIndex(DIM), vectors(0, 20)
    index.add(np.arange(100, 120), rows)
    found, scores = index.search(rows[7], 3)
    exact = rows @ rows[7]
    assert found.tolist() == (100 + np.argsort(-exact)[:3]).tolist()
    np.testing.assert_allclose(scores, np.sort(exact)[::-1][:3], rtol=1e-5)


def test_an_empty_index_finds_nothing() -> None:
    index = VectorIndex(DIM)
    index.add(ids(), np.empty((0, DIM), dtype=np.float32))
    index.remove(ids())
    found, scores = index.search(vectors(0, 1)[0], 5)
    assert (len(index), len(found), len(scores)) == (0, 0, 0)


def test_adding_an_id_again_replaces_its_vector() -> None:
    index, rows = VectorIndex(DIM), vectors(1, 3)
    index.add(ids(1, 2), rows[:2])
    index.add(ids(2, 3), np.stack([rows[2], rows[1]]))
    assert len(index) == 3
    assert index.search(rows[1], 1)[0].tolist() == [3]
    assert index.search(rows[2], 1)[0].tolist() == [2]
    assert index.search(rows[0], 10)[0][0] == 1


def test_wrong_shapes_and_repeated_ids_are_refused_and_change_nothing() -> None:
    index = VectorIndex(DIM)
    for wrong_ids, wrong in ((ids(1, 1), vectors(0, 2)), (ids(1), vectors(0, 2)), (ids(1), np.ones((1, 3)))):
        with pytest.raises(ValueError, match="different ids"):
            index.add(wrong_ids, wrong)
    assert len(index) == 0


def test_searches_on_one_thread_wherever_it_is_called_from() -> None:
    import faiss

    index, seen = VectorIndex(DIM), []
    index.add(ids(1), vectors(0, 1))

    def search() -> None:
        faiss.omp_set_num_threads(2)
        index.search(vectors(0, 1)[0], 1)
        seen.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert seen == [1]


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 12), max_size=6), st.integers(0, 99)), max_size=12))
def test_behaves_like_a_dict_that_is_searched_by_hand(
    steps: list[tuple[bool, set[int], int]],
) -> None:
    index, model, query = VectorIndex(DIM), dict[int, np.ndarray](), vectors(5, 1)[0]
    for adding, chosen, seed in steps:
        rows = vectors(seed, len(chosen))
        if adding:
            index.add(ids(*chosen), rows)
            model.update(zip(chosen, rows, strict=True))
        else:
            index.remove(ids(*chosen))
            model = {key: row for key, row in model.items() if key not in chosen}
        found, scores = index.search(query, 4)
        exact = {key: float(row @ query) for key, row in model.items()}
        assert len(index) == len(model)
        np.testing.assert_allclose(scores, sorted(exact.values(), reverse=True)[:4], atol=1e-6)
        np.testing.assert_allclose(scores, [exact[key] for key in found.tolist()], atol=1e-6)
