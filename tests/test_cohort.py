"""The cohort: sentences that differ, and a likeness that reads the same for every model."""

from __future__ import annotations

import numpy as np
import pytest

from engine import cohort

Floats = np.ndarray


def unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_its_sentences_differ_and_are_enough() -> None:
    assert len(set(cohort.SENTENCES)) == len(cohort.SENTENCES) >= 64
    assert all(sentence == sentence.strip() for sentence in cohort.SENTENCES)


def test_standing_is_mean_and_deviation_of_the_cosines() -> None:
    others = unit(np.array([[1, 0], [0, 1], [-1, 0]], np.float32))
    found = cohort.standing(np.array([[1, 0], [0, 1]], np.float32), others)
    np.testing.assert_allclose(found[:, 0], [0, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], [np.std([1, 0, -1]), np.std([0, 1, 0])], atol=1e-6)


def test_what_is_the_same_to_all_stays_a_number() -> None:
    one = np.array([[1, 0]], np.float32)
    standing = cohort.standing(one, np.repeat(one, 5, axis=0))
    assert np.isfinite(cohort.likeness(np.ones(1, np.float32), standing[0], standing)).all()


@pytest.mark.parametrize("shared", [0.0, 3.0])
def test_likeness_does_not_depend_on_how_close_a_model_puts_all_texts(shared: float) -> None:
    """`shared` is what every vector of a model has: with 3.0 unrelated texts have a cosine of 0.9."""
    random = np.random.default_rng(1)
    common = shared * unit(random.standard_normal((1, 256)))

    def made(rows: Floats) -> Floats:
        return unit(unit(rows) + common)

    others, text = random.standard_normal((64, 256)), random.standard_normal((1, 256))
    near, far = unit(text) + 0.5 * unit(random.standard_normal((1, 256))), random.standard_normal((1, 256))
    vectors, one = made(np.concatenate([near, far])), made(text)[0]
    standings = cohort.standing(vectors, made(others))
    likeness = cohort.likeness(vectors @ one, cohort.standing(one[None], made(others))[0], standings)
    assert likeness[0] > 8
    assert abs(likeness[1]) < 3


def test_likeness_is_the_same_from_both_sides() -> None:
    random = np.random.default_rng(2)
    others, two = unit(random.standard_normal((64, 32))), unit(random.standard_normal((2, 32)))
    standing = cohort.standing(two, others)
    cosine = np.array([two[0] @ two[1]])
    assert cohort.likeness(cosine, standing[0], standing[1:]) == pytest.approx(
        cohort.likeness(cosine, standing[1], standing[:1])
    )
