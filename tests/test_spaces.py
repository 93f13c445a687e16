"""Vectors in SQLite: coded and read back, the spaces of models, which one is searched, and which of them stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import spaces
from engine.errors import StoreError
from engine.faculties import Embedded, Space
from engine.migrations import MIGRATIONS
from engine.spaces import Coded

A, B, C = (Space(name * 64, f"model {name}") for name in "abc")
ONE = Coded(np.array([1, 0], "<f2").tobytes(), None)


@pytest.fixture
def db() -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(":memory:")) as db:
        for step in MIGRATIONS:
            step(db)
        yield db


def add(db: apsw.Connection, *texts: str) -> list[int]:
    sql = (
        "INSERT INTO memories (id, text, digest, user, created, moment, importance) "
        "VALUES (?1, ?1, CAST(?1 AS BLOB), 'u', 0, 0, 0.5) RETURNING seq"
    )
    return [seq for text in texts for (seq,) in db.execute(sql, (text,))]


def keys(db: apsw.Connection) -> list[tuple[int, int]]:
    return [(key >> 40, key & (1 << 40) - 1) for (key,) in db.execute("SELECT key FROM vectors ORDER BY key")]


# ---- coded


def test_vectors_are_kept_in_half_precision_and_read_back_at_length_one() -> None:
    dense = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    stored = spaces.coded(Embedded(dense))
    assert all(len(one.vector) == 32 and one.weights is None for one in stored)
    back = spaces.decoded([one.vector for one in stored], 16)
    np.testing.assert_allclose(back, dense, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    assert back.dtype == np.float32
    assert not spaces.unit(np.zeros((1, 3), np.float32)).any(), "zeros stay"


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_vectors_that_are_not_numbers_are_told(wrong: float) -> None:
    dense = np.array([[1, 0], [wrong, 0]], np.float32)
    with pytest.raises(StoreError, match="not numbers"):
        spaces.coded(Embedded(dense))


def test_vectors_of_another_length_are_told() -> None:
    with pytest.raises(StoreError, match="3 numbers"):
        spaces.decoded([ONE.vector], 3)
    assert spaces.decoded([], 3).shape == (0, 3)


@given(st.dictionaries(st.integers(0, 2**32 - 1), st.floats(0, 100, width=16), max_size=20), st.data())
def test_sparse_weights_give_the_product_of_what_both_have(weights: dict[int, float], data: st.DataObject) -> None:
    mine = data.draw(st.dictionaries(st.sampled_from(sorted(weights) or [7]), st.floats(0, 10), max_size=9))
    (stored,) = spaces.coded(Embedded(np.ones((1, 2), np.float32), [weights]))
    assert stored.weights is not None
    expected = sum(value * weights.get(token, 0) for token, value in mine.items())
    assert spaces.product(mine, stored.weights) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert spaces.product(mine, None) == 0


# ---- which spaces there are


def test_the_first_space_is_searched_at_once(db: apsw.Connection) -> None:
    assert spaces.serving(db) is None and spaces.place(db, A) is None
    made = spaces.made(db, A, 2)
    assert made == spaces.serving(db) == spaces.place(db, A) == spaces.made(db, A, 2)
    assert (made.space, made.dim, made.complete) == (A, 2, True)
    other = spaces.made(db, A, 3)  # somebody's file has lied about them
    assert (other.dim, other.complete) == (3, False) and other == spaces.place(db, A)


def test_a_later_space_waits_until_it_serves(db: apsw.Connection) -> None:
    first = spaces.made(db, A, 2)
    (seq,) = add(db, "글")
    spaces.put(db, first, seq, ONE)
    second = spaces.made(db, B, 3)
    assert (second.complete, spaces.serving(db)) == (False, first)
    assert second.number != first.number
    spaces.serve(db, second)
    assert spaces.serving(db) == second


def test_memories_without_any_space_are_served_as_soon_as_there_is_one(db: apsw.Connection) -> None:
    add(db, "가져온 글")  # an import without vectors
    made = spaces.made(db, A, 2)
    assert (made.complete, spaces.serving(db)) == (False, made)


def test_a_vector_in_one_space_is_missing_in_the_others(db: apsw.Connection) -> None:
    first = spaces.made(db, A, 2)
    one, two = add(db, "하나", "둘")
    for seq in (one, two):
        spaces.put(db, first, seq, ONE)
    assert spaces.place(db, A) == first and first.complete, "one's own vector leaves a space complete"
    second = spaces.made(db, B, 2)
    spaces.put(db, second, two, ONE)
    left = spaces.place(db, A)
    assert left is not None and not left.complete
    assert spaces.missing(db, second.number, 0, 9) == [(one, "하나")]
    assert spaces.missing(db, first.number, 0, 9) == []
    assert spaces.missing(db, 99, 0, 9) == [(one, "하나"), (two, "둘")]
    assert spaces.missing(db, 99, one, 9) == [(two, "둘")] and len(spaces.missing(db, 99, 0, 1)) == 1


def test_a_changed_text_has_no_vector_anywhere(db: apsw.Connection) -> None:
    first = spaces.made(db, A, 2)
    one, two = add(db, "하나", "둘")
    second = spaces.made(db, B, 2)
    for place in (first, second):
        for seq in (one, two):
            spaces.put(db, place, seq, ONE)
    spaces.drop(db, one)
    assert keys(db) == [(first.number, two), (second.number, two)]
    assert not any(complete for (complete,) in db.execute("SELECT complete FROM spaces"))


def test_a_vector_is_replaced(db: apsw.Connection) -> None:
    place = spaces.made(db, A, 2)
    one, two = add(db, "하나", "둘")
    other = Coded(np.array([0, 1], "<f2").tobytes(), b"123456")
    for vector in (ONE, other):
        spaces.put(db, place, one, vector)
    spaces.put(db, place, two, ONE)
    assert spaces.stored(db, place.number, [one, two, 99]) == {one: other.vector, two: ONE.vector}
    assert spaces.stored(db, place.number + 1, [one]) == {}
    assert list(db.execute("SELECT weights FROM vectors ORDER BY key")) == [(b"123456",), (None,)]


def test_of_former_spaces_only_the_last_one_stays(db: apsw.Connection) -> None:
    places = {}
    for space in (A, B, C):
        (seq,) = add(db, space.name)
        places[space] = spaces.made(db, space, 2)
        for memory in range(1, seq + 1):
            spaces.put(db, places[space], memory, ONE)
        spaces.serve(db, places[space])
    assert [name for (name,) in db.execute("SELECT name FROM spaces ORDER BY number")] == [B.name, C.name]
    assert {space for space, _ in keys(db)} == {places[B].number, places[C].number}
    assert len(keys(db)) == 2 + 3
    spaces.serve(db, places[B])  # the way back
    spaces.serve(db, places[B])
    assert spaces.place(db, C) is not None, "serving the same once more drops nothing"


# ---- the cohort


def test_the_cohort_of_a_space_is_kept(db: apsw.Connection) -> None:
    place = spaces.made(db, A, 2)
    assert spaces.cohort(db, place) is None
    vectors = spaces.unit(np.array([[1, 2], [0, 1], [3, -1]], np.float32))
    spaces.put_cohort(db, A, vectors)
    found = spaces.cohort(db, place)
    assert found is not None
    np.testing.assert_allclose(found, vectors, atol=1e-3)
