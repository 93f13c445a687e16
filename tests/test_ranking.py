"""Relevance and order of candidates, from made-up signals."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine import ranking
from engine.ranking import Signals

NAMES = [field.name for field in fields(Signals)]
FOR_IT = ("prominence", "coverage", "sparse")  # more of them is more evidence
WILD = st.floats(-1e300, 1e300)
CANDIDATE = st.fixed_dictionaries(dict.fromkeys(NAMES, WILD))
PLAIN = {"dense": 0.8, "prominence": 2.0, "words": 5.0, "coverage": 0.5, "sparse": 0.1, "age": 30.0, "importance": 0.5}


def made(*candidates: dict[str, float]) -> Signals:
    return Signals(**{name: np.array([one[name] for one in candidates], dtype=np.float64) for name in NAMES})


def relevance(*candidates: dict[str, float]) -> list[float]:
    found: list[float] = ranking.relevance(ranking.evidence(made(*candidates))).tolist()
    return found


def ordered(*candidates: dict[str, float]) -> list[int]:
    """The places of candidates, the best first."""
    signals = made(*candidates)
    places: list[int] = np.argsort(-ranking.order(signals, ranking.evidence(signals)), kind="stable").tolist()
    return places


@given(st.lists(CANDIDATE, max_size=5))
def test_every_relevance_is_a_probability_and_every_order_a_number(candidates: list[dict[str, float]]) -> None:
    signals = made(*candidates)
    evidence = ranking.evidence(signals)
    relevant: NDArray[np.floating[Any]] = ranking.relevance(evidence)
    assert relevant.shape == (len(candidates),)
    assert ((relevant >= 0) & (relevant <= 1)).all()
    assert np.isfinite(ranking.order(signals, evidence)).all()


@given(CANDIDATE, st.sampled_from(FOR_IT), WILD)
def test_more_evidence_is_never_less_relevant(candidate: dict[str, float], name: str, other: float) -> None:
    low, high = sorted([candidate[name], other])
    less, more = relevance({**candidate, name: low}, {**candidate, name: high})
    assert less <= more


@given(st.sampled_from(FOR_IT), st.floats(0, 0.5), st.floats(0.1, 0.5))
def test_more_evidence_is_more_relevant(name: str, start: float, step: float) -> None:
    less, more = relevance({**PLAIN, name: start}, {**PLAIN, name: start + step})
    assert less < more


@given(st.lists(CANDIDATE, min_size=2, max_size=5))
def test_of_one_age_and_importance_the_more_relevant_come_first(candidates: list[dict[str, float]]) -> None:
    same = [{**one, "age": 3.0, "importance": 0.5} for one in candidates]
    scores = relevance(*same)
    in_order = [scores[at] for at in ordered(*same)]
    assert in_order == sorted(scores, reverse=True)


@given(CANDIDATE, WILD, WILD, st.floats(0, 1), st.floats(0, 1))
def test_age_and_importance_never_change_the_relevance(
    candidate: dict[str, float], age: float, other_age: float, importance: float, other: float
) -> None:
    one, two = {"age": age, "importance": importance}, {"age": other_age, "importance": other}
    assert len(set(relevance({**candidate, **one}, {**candidate, **two}))) == 1


def test_of_equal_evidence_the_newer_and_the_more_important_come_first() -> None:
    assert ordered(PLAIN, {**PLAIN, "age": 1.0}) == [1, 0]
    assert ordered(PLAIN, {**PLAIN, "importance": 0.9}) == [1, 0]
    assert ordered(PLAIN, {**PLAIN, "age": 300.0}) == [0, 1]


def test_a_memory_from_the_future_is_as_new_as_one_of_now() -> None:
    signals = made({**PLAIN, "age": 0.0}, {**PLAIN, "age": -3650.0})
    assert len(set(ranking.order(signals, ranking.evidence(signals)).tolist())) == 1


def test_no_age_or_importance_outweighs_what_clearly_is_more_relevant() -> None:
    old = {**PLAIN, "prominence": 2.3, "age": 1e6, "importance": 0.0}
    assert ordered({**PLAIN, "age": 0.0, "importance": 1.0}, old) == [1, 0]
    sure, surer = {**PLAIN, "prominence": 80.0, "age": 0.0, "importance": 1.0}, {**old, "prominence": 81.0}
    assert ordered(sure, surer) == [1, 0]  # also where both are as good as certain


def test_a_model_without_sparse_weights_loses_nothing_by_it() -> None:
    signals = made(PLAIN, {**PLAIN, "prominence": 3.0})
    without = replace(signals, sparse=np.zeros(2))
    gone = ranking.evidence(signals) - ranking.evidence(without)
    np.testing.assert_allclose(gone, gone[0])
    assert (gone >= 0).all() and gone[0] < 0.2


def test_what_has_nothing_of_the_question_is_not_relevant_and_what_has_all_is() -> None:
    nothing = {**PLAIN, "prominence": 0.0, "coverage": 0.0, "sparse": 0.0}
    everything = {**PLAIN, "prominence": 6.0, "coverage": 1.0}
    assert relevance(nothing, everything) == [pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.05)]
