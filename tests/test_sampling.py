"""Sampling keywords: what may be asked for, and what each mistake is told."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import config
from engine.errors import InvalidInput
from engine.sampling import Sampling, SamplingParams, resolve

DEFAULTS = config.load().engine.sampling.model_dump()
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 10),
    "top_p": (0, 1),
    "top_k": (0, 2**31 - 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.01, 10),
    "max_tokens": (1, 2**31 - 1),
    "seed": (0, 2**32 - 1),
}
WHOLE = {"top_k", "max_tokens", "seed"}


def test_the_packaged_defaults_are_the_contracts() -> None:
    assert resolve(DEFAULTS, {}) == SamplingParams(
        temperature=0.7, top_p=0.9, top_k=40, min_p=0, repeat_penalty=1.1, max_tokens=512, stop=(), seed=None,
        logit_bias=(), han=None,
    )  # fmt: skip


def test_the_keywords_are_those_of_the_checked_result() -> None:
    assert set(get_type_hints(Sampling)) == {field.name for field in fields(SamplingParams)}
    of_a_request = {"stop", "seed", "logit_bias", "han"}
    assert set(DEFAULTS) == set(RANGES) - {"seed"} == set(get_type_hints(Sampling)) - of_a_request


@given(st.fixed_dictionaries({}, optional={n: st.integers(1, 10) for n in RANGES if n not in {"top_p", "min_p"}}))
def test_what_is_asked_for_goes_over_the_defaults(asked: dict[str, int]) -> None:
    params = resolve(DEFAULTS, asked)
    for name in DEFAULTS:
        assert getattr(params, name) == asked.get(name, DEFAULTS[name])
    assert params.seed == asked.get("seed")


@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_a_range_are_in_it(name: str) -> None:
    for value in RANGES[name]:
        assert getattr(resolve(DEFAULTS, {name: value}), name) == value


@pytest.mark.parametrize("name", RANGES)
def test_what_lies_outside_is_refused(name: str) -> None:
    low, high = RANGES[name]
    step = 1 if name in WHOLE else 0.001
    for value in (low - step, high + step, -(10**5000), 10**5000):
        with pytest.raises(InvalidInput, match=f"{name} must be between {low} and {high}"):
            resolve(DEFAULTS, {name: value})


@pytest.mark.parametrize("name", sorted(set(RANGES) - WHOLE))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f"{name} must be between"):
        resolve(DEFAULTS, {name: value})


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [True, False, "0.5", b"1", [1], 1j, object()])
def test_another_type_is_a_type_error(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be {'an int' if name in WHOLE else 'a number'}, not"):
        resolve(DEFAULTS, {name: value})


@pytest.mark.parametrize("name", sorted(set(RANGES) - {"seed"}))
def test_only_the_seed_may_be_none(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be"):
        resolve(DEFAULTS, {name: None})
    assert resolve(DEFAULTS, {"seed": None}).seed is None


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_whole_number_is_not_a_float(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an int, not float"):
        resolve(DEFAULTS, {name: 5.0})


@pytest.mark.parametrize("name", ["temprature", "max_new_tokens", "", "__class__", "stop_words"])
def test_an_unknown_keyword_is_a_type_error_that_names_the_known(name: str) -> None:
    with pytest.raises(TypeError, match="is not a sampling keyword; there are temperature, top_p") as caught:
        resolve(DEFAULTS, {name: 1})
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("stop", "kept"),
    [
        ((), ()),
        ([], ()),
        ("끝", ("끝",)),
        (["a", "b"], ("a", "b")),
        (("\n\n",), ("\n\n",)),
        (["a", "a"], ("a", "a")),
    ],
)
def test_stop_is_a_text_or_several(stop: Any, kept: tuple[str, ...]) -> None:
    assert resolve(DEFAULTS, {"stop": stop}).stop == kept


@pytest.mark.parametrize("stop", [None, 5, b"end", ["a", 5], [None], {"a"}, iter(["a"])])
def test_another_type_of_stop_is_a_type_error(stop: object) -> None:
    with pytest.raises(TypeError, match="stop must be a str or a list of str"):
        resolve(DEFAULTS, {"stop": stop})


@pytest.mark.parametrize("stop", ["", [""], ["a", ""]])
def test_an_empty_stop_is_refused(stop: Any) -> None:
    with pytest.raises(InvalidInput, match="empty string"):
        resolve(DEFAULTS, {"stop": stop})


@pytest.mark.parametrize(
    ("bias", "kept"),
    [
        ({}, ()),
        ({5: 1.5}, ((5, 1.5),)),
        ({0: -100, 7: 100}, ((0, -100), (7, 100))),
        ({3: -math.inf}, ((3, -math.inf),)),
    ],
)
def test_a_logit_bias_is_numbers_of_tokens(bias: dict[int, float], kept: tuple[tuple[int, float], ...]) -> None:
    assert resolve(DEFAULTS, {"logit_bias": bias}).logit_bias == kept


@pytest.mark.parametrize("bias", [{3: 100.1}, {3: -101}, {3: math.inf}, {3: math.nan}, {-1: 1.0}])
def test_a_logit_bias_out_of_range_is_refused(bias: dict[int, float]) -> None:
    with pytest.raises(InvalidInput, match="logit_bias"):
        resolve(DEFAULTS, {"logit_bias": bias})


@pytest.mark.parametrize(
    "bias", [None, 3, "x", [(3, 1.0)], {"3": 1.0}, {3: "1"}, {3: None}, {3: True}, {True: 1.0}, {3.0: 1}]
)
def test_another_type_of_logit_bias_is_a_type_error(bias: object) -> None:
    with pytest.raises(TypeError, match="logit_bias"):
        resolve(DEFAULTS, {"logit_bias": bias})


@pytest.mark.parametrize("han", [None, True, False])
def test_han_is_asked_for_or_not(han: bool | None) -> None:
    assert resolve(DEFAULTS, {"han": han}).han is han


@pytest.mark.parametrize("han", [0, 1, "yes", []])
def test_another_type_of_han_is_a_type_error(han: object) -> None:
    with pytest.raises(TypeError, match="han must be a bool or None"):
        resolve(DEFAULTS, {"han": han})


def test_checked_sampling_cannot_be_changed() -> None:
    params = resolve(DEFAULTS, {"logit_bias": {3: 1.0}, "stop": ["a"]})
    assert hash(params) == hash(resolve(DEFAULTS, {"logit_bias": {3: 1.0}, "stop": "a"}))
    with pytest.raises(AttributeError):
        params.seed = 1  # type: ignore[misc]


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from([*RANGES, "stop"]), VALUES))
def test_whatever_is_asked_for_is_accepted_or_explained(asked: dict[str, Any]) -> None:
    try:
        params = resolve(DEFAULTS, asked)
    except (InvalidInput, TypeError):
        return
    for name, (low, high) in RANGES.items():
        value = getattr(params, name)
        assert low <= value <= high if value is not None else name == "seed"
