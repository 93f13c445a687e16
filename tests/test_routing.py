"""How complex a text is, and which model reads it."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import config
from engine.config import RoutingTable
from engine.routing import choose, complexity

EQUAL = (1.0, 1.0, 1.0)
LENGTH, WORDS, SPECIAL = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
# every code point, halves of letters too; str.split and isalnum must know what to do with each
texts = st.text(st.characters(), max_size=300)
weighings = st.tuples(*[st.floats(0, sys.float_info.max)] * 3).filter(any)
shares = st.floats(0, 1)
both = st.tuples(st.booleans(), st.booleans())


def table(threshold: float = 0.7, margin: float = 0.1) -> RoutingTable:
    return RoutingTable(threshold=threshold, margin=margin, weights=EQUAL, light="classification", heavy="chat")


# ---- complexity


@pytest.mark.parametrize(
    ("text", "weights", "expected"),
    [
        ("", EQUAL, 0),
        ("가", EQUAL, (0.001 + 0.01 + 0) / 3),
        ("안녕 안녕 세상!", EQUAL, (0.009 + 0.03 * 2 / 3 + 3 / 9) / 3),
        ("가" * 250, LENGTH, 0.25),
        ("가 나 가 나", WORDS, 0.02),
        ("a b!", SPECIAL, 0.5),
        ("   ", SPECIAL, 1),  # white space is text, without a letter or a digit
        ("가" * 1000, (3.0, 0.0, 1.0), 0.75),
        ("가" * 100_000, EQUAL, 1),
        ("😀", SPECIAL, 1),
        ("3½", SPECIAL, 0),  # digits of any kind
    ],
)
def test_the_guides_formula(text: str, weights: tuple[float, float, float], expected: float) -> None:
    assert complexity(text, weights) == pytest.approx(expected)


def test_the_cap_is_on_the_mean_not_on_its_parts() -> None:
    """A text of 2,100 letters and one word: 2.1, 0.01 and 0 make 0.7 and a little; capped parts would make 0.34."""
    assert complexity("a" * 2100, EQUAL) == pytest.approx(2.11 / 3)


@given(texts, weighings)
def test_it_is_a_share_whatever_the_text(text: str, weights: tuple[float, float, float]) -> None:
    assert 0 <= complexity(text, weights) <= 1


@pytest.mark.parametrize("text", ["\0", "\ud800", "a\udfffb", "각", "é", "👩‍👩‍👧", "\u200b", "\u2028", "ㄱ" * 5000])
def test_odd_characters_are_counted_like_others(text: str) -> None:
    assert 0 < complexity(text, EQUAL) <= 1


@given(st.sampled_from("가a9"), st.integers(1, 4000), st.integers(1, 4000))
def test_a_longer_word_is_not_less_complex(letter: str, one: int, other: int) -> None:
    short, long = sorted((one, other))
    assert complexity(letter * short, EQUAL) <= complexity(letter * long, EQUAL)


@given(texts, st.integers(1, 5))
def test_saying_it_again_is_not_less_complex(text: str, times: int) -> None:
    """Its words and its share of special characters stay, its length grows."""
    line = f"{text}\n"
    assert complexity(line, EQUAL) <= complexity(line * times, EQUAL) + 1e-12


@given(texts, weighings, st.floats(1e-3, 1e3))
def test_only_the_ratio_of_weights_counts(text: str, weights: tuple[float, float, float], by: float) -> None:
    small = tuple(weight / max(weights) for weight in weights)
    scaled = tuple(weight * by for weight in small)
    assert complexity(text, scaled) == pytest.approx(complexity(text, small))  # type: ignore[arg-type]


def test_the_packaged_weights_are_equal() -> None:
    assert len(set(config.load().routing.weights)) == 1


# ---- which model


@pytest.mark.parametrize("loaded", [(False, False), (True, True)])
@pytest.mark.parametrize(("text", "model"), [(0.0, "light"), (0.7, "light"), (0.7000001, "heavy"), (1.0, "heavy")])
def test_above_the_threshold_is_heavy(text: float, model: str, loaded: tuple[bool, bool]) -> None:
    assert choose(text, table(), loaded) == model


@pytest.mark.parametrize(
    ("text", "light_only", "heavy_only"),
    [
        (0.0, "light", "light"),
        (0.6, "light", "light"),  # as far as the margin is outside it, whatever floats make of that
        (0.61, "light", "heavy"),
        (0.7, "light", "heavy"),
        (0.79, "light", "heavy"),
        (0.8, "heavy", "heavy"),
        (1.0, "heavy", "heavy"),
    ],
)
def test_near_the_threshold_the_loaded_one_is_taken(text: float, light_only: str, heavy_only: str) -> None:
    assert choose(text, table(), (True, False)) == light_only
    assert choose(text, table(), (False, True)) == heavy_only


@given(shares, shares, both)
def test_without_a_margin_nothing_but_the_text_counts(text: float, threshold: float, loaded: tuple[bool, bool]) -> None:
    assert choose(text, table(threshold, 0), loaded) == ("heavy" if text > threshold else "light")


@given(shares, shares, shares, both)
def test_a_more_complex_text_is_never_lighter(
    one: float, other: float, margin: float, loaded: tuple[bool, bool]
) -> None:
    less, more = sorted((one, other))
    order = [choose(text, table(0.5, margin), loaded) for text in (less, more)]
    assert order != ["heavy", "light"]


@given(shares, shares, shares)
def test_the_loaded_one_is_only_taken_near_the_threshold(text: float, threshold: float, margin: float) -> None:
    taken = choose(text, table(threshold, margin), (True, False))
    if taken == "light" and text > threshold:
        assert text - threshold < margin + 1e-8
