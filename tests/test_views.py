"""How the views of a text's parts become those of the text."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.views import HEADS, Views, joined

NUMBERS = st.floats(-1, 1, width=32)
WEIGHTS = st.dictionaries(st.integers(5, 12), st.floats(0.015625, 4, width=32), max_size=6)


def unit(*numbers: float) -> Any:
    return (np.array(numbers) / np.linalg.norm(numbers)).astype(np.float32)


@st.composite
def views(draw: st.DrawFn) -> Views:
    numbers = draw(st.tuples(NUMBERS, NUMBERS, NUMBERS))
    assume(math.hypot(*numbers) > 0.1)
    rows = draw(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4))
    return Views(unit(*numbers), draw(WEIGHTS), np.array(rows, np.float32))


PARTS = st.lists(st.tuples(views(), st.integers(1, 100)), min_size=2, max_size=6)


def test_one_part_is_the_text() -> None:
    part = Views(unit(1, 2), {7: 0.5}, np.ones((2, 3), np.float32))
    assert joined([part], [12]) is part
    assert joined([Views()], [1]) == Views(None, None, None)


def test_what_was_asked_for_decides_what_is_joined() -> None:
    whole = Views(unit(1, 2), {7: 0.5}, np.ones((2, 3), np.float32))
    for kept in HEADS:
        alone = Views(**{kept: getattr(whole, kept)})
        found = joined([alone, alone], [3, 4])
        assert [getattr(found, head) is not None for head in HEADS] == [head == kept for head in HEADS]


def test_views_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Views().dense = None


@given(parts=PARTS)
def test_dense_is_the_mean_by_tokens_of_unit_length(parts: list[tuple[Views, int]]) -> None:
    total = [0.0, 0.0, 0.0]
    for part, weight in parts:
        assert part.dense is not None
        total = [sum_ + weight * float(number) for sum_, number in zip(total, part.dense, strict=True)]
    length = math.hypot(*total)
    assume(length > 1e-3 * sum(weight for _, weight in parts))
    found = joined([part for part, _ in parts], [weight for _, weight in parts]).dense
    assert found is not None
    assert found.dtype == np.float32
    assert found.shape == (3,)
    np.testing.assert_allclose(found, [sum_ / length for sum_ in total], rtol=0, atol=1e-5)
    assert math.hypot(*map(float, found)) == pytest.approx(1, abs=1e-6)


def test_a_small_part_moves_little_and_a_large_one_much() -> None:
    much, little = Views(unit(1, 0)), Views(unit(0, 1))
    found = joined([much, little], [99, 1]).dense
    assert found is not None
    np.testing.assert_allclose(found, unit(99, 1), atol=1e-6)
    np.testing.assert_allclose(joined([little, much], [1, 99]).dense, found, atol=1e-6)


@given(parts=PARTS)
def test_sparse_is_the_largest_weight_of_each_token(parts: list[tuple[Views, int]]) -> None:
    parts = [(Views(None, part.sparse), weight) for part, weight in parts]
    found = joined([part for part, _ in parts], [weight for _, weight in parts]).sparse
    every = [pair for part, _ in parts for pair in (part.sparse or {}).items()]
    assert found == {token: max(weight for other, weight in every if other == token) for token, _ in every}


def test_a_part_that_weighs_nothing_is_a_part() -> None:
    assert joined([Views(sparse={}), Views(sparse={7: 0.5})], [1, 1]).sparse == {7: 0.5}
    assert joined([Views(sparse={}), Views(sparse={})], [1, 1]).sparse == {}


@given(parts=PARTS)
def test_multi_is_one_after_the_other(parts: list[tuple[Views, int]]) -> None:
    parts = [(Views(None, None, part.multi), weight) for part, weight in parts]
    found = joined([part for part, _ in parts], [weight for _, weight in parts]).multi
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == [row for part, _ in parts if part.multi is not None for row in part.multi.tolist()]


@given(parts=PARTS)
def test_the_parts_are_left_as_they_are(parts: list[tuple[Any, int]]) -> None:
    before = [(part.dense.copy(), dict(part.sparse), part.multi.copy()) for part, _ in parts]
    assume(np.linalg.norm(sum(part.dense * weight for part, weight in parts)) > 0.01)
    joined([part for part, _ in parts], [weight for _, weight in parts])
    for (part, _), (dense, sparse, multi) in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part.dense, dense)
        np.testing.assert_array_equal(part.multi, multi)
        assert part.sparse == sparse


@pytest.mark.parametrize(
    ("parts", "weights"),
    [
        ([(1, 0), (-1, 0)], [5, 5]),
        ([(3, 4), (-3, -4)], [64, 64]),  # these are rounded, and leave a little
        ([(1, 0), (-1, 0), (0, 1), (0, -1)], [2, 2, 7, 7]),
        ([(1, 0), (-0.5, 0.8660254), (-0.5, -0.8660254)], [9, 9, 9]),
    ],
)
def test_parts_that_cancel_out_have_no_direction(parts: list[tuple[float, float]], weights: list[int]) -> None:
    """What is left is rounding error; of unit length, it would pass for a vector."""
    with pytest.raises(ValueError, match="cancel"):
        joined([Views(unit(*part)) for part in parts], weights)


def test_parts_that_nearly_cancel_out_have_one() -> None:
    found = joined([Views(unit(1, 0)), Views(unit(-1, 0))], [501, 500]).dense
    np.testing.assert_allclose(found, [1, 0], atol=1e-6)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_never_becomes_a_vector(number: float) -> None:
    with pytest.raises(ValueError, match=r"cancel|number|direction"):
        joined([Views(np.array([number, 1], np.float32)), Views(unit(1, 0))], [1, 1])
