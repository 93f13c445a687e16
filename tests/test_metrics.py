"""Usage, timings, progress."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Cancelled
from engine.metrics import Progress, Usage, report

EVENT = Progress("load x", 1, 2, "model")
TIMES = st.floats(0, 1e6)


def usage(tokens: int, ttft: float, seconds: float) -> Usage:
    return Usage(10, 4, tokens, 0, ttft, seconds)


@pytest.mark.parametrize(
    ("tokens", "ttft", "seconds", "rate"),
    [
        (11, 1.0, 2.0, 10.0),
        (2, 0.5, 1.0, 2.0),
        (1, 0.5, 1.0, 0.0),  # the first token says nothing of the rate
        (0, 0.0, 1.0, 0.0),
        (5, 1.0, 1.0, 0.0),  # a forced run comes all at once
        (5, 2.0, 1.0, 0.0),
    ],
)
def test_the_rate_counts_from_the_first_token(tokens: int, ttft: float, seconds: float, rate: float) -> None:
    assert usage(tokens, ttft, seconds).tokens_per_second == pytest.approx(rate)


@given(tokens=st.integers(0, 10**6), ttft=TIMES, seconds=TIMES)
def test_the_rate_is_a_number_whatever_was_measured(tokens: int, ttft: float, seconds: float) -> None:
    rate = usage(tokens, ttft, seconds).tokens_per_second
    assert rate >= 0 and not math.isnan(rate)


def test_usage_as_a_dict_holds_every_field_and_the_rate() -> None:
    fields = json.loads(json.dumps(usage(11, 1.0, 2.0).to_dict()))
    assert fields == {
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 11,
        "forced_tokens": 0,
        "ttft": 1.0,
        "seconds": 2.0,
        "tokens_per_second": 10.0,
    }


def test_what_was_measured_cannot_be_changed() -> None:
    for measured, field in ((usage(1, 1.0, 1.0), "seconds"), (EVENT, "done")):
        with pytest.raises(AttributeError):
            setattr(measured, field, 5)


@pytest.mark.parametrize("answer", [None, True, 0, "", []])
def test_only_false_cancels(answer: object) -> None:
    seen: list[Progress] = []

    def listen(event: Progress) -> object:
        seen.append(event)
        return answer

    report(listen, EVENT)
    assert seen == [EVENT]


def test_false_cancels_and_the_task_is_named() -> None:
    with pytest.raises(Cancelled, match="load x"):
        report(lambda _: False, EVENT)


def test_nobody_need_listen() -> None:
    report(None, EVENT)


def test_what_a_callback_raises_reaches_the_caller() -> None:
    def fail(event: Progress) -> None:
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        report(fail, EVENT)
