"""Continuations weighed from scripted rows of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from engine.errors import Cancelled, ContextOverflow, EngineError
from engine.generation import Request
from engine.scoring import Scoring


class Rows:
    """A context whose batch entries have these logits."""

    def __init__(self, rows: Sequence[Sequence[float]] = ((0.0,),)) -> None:
        self._rows = np.array(rows, np.float32)

    def logits(self, row: int) -> np.ndarray[Any, Any]:
        return self._rows[row]


def log_softmax(row: Sequence[float]) -> np.ndarray[Any, Any]:
    exact = np.array(row, np.float32).astype(np.float64)
    return exact - np.log(np.exp(exact).sum())


def score(prompt: list[int], continuations: list[list[int]], rows: dict[tuple[int, ...], list[float]]) -> list[float]:
    """Run a scoring and its tails; `rows` are the logits that follow each run of tokens."""
    waiting: list[Request] = []
    scoring = Scoring(prompt, continuations, waiting.append)
    waiting.append(scoring)
    while waiting:
        request = waiting.pop()
        tokens, wanted = request.job.tokens, request.job.rows
        given = [rows[tuple(tokens[:end])] for end in range(len(tokens) - wanted + 1, len(tokens) + 1)]
        assert request.advance(Rows(given), range(wanted))  # type: ignore[arg-type]
    return scoring.result.result(timeout=0)


def test_one_row_decides_where_first_tokens_differ() -> None:
    row = [0.5, 2.0, -1.0, 0.25]
    found = score([3], [[0, 9], [1], [2, 9, 9]], {(3,): row})
    np.testing.assert_allclose(found, log_softmax(row)[:3], rtol=1e-12)


def test_continuations_that_share_a_first_token_are_weighed_whole() -> None:
    first, then, last, end = [0.1, 0.2, 3.0], [1.0, -2.0, 0.5], [4.0, 0.0, 1.0], [0.0, 1.0, 0.0]
    rows = {(2, 2): first, (2, 2, 0): then, (2, 2, 0, 1): last, (2, 2, 0, 2): end}
    found = score([2, 2], [[0, 1, 2], [1], [0, 2, 1], [0]], rows)
    a, b, c, d = (log_softmax(row) for row in (first, then, last, end))
    np.testing.assert_allclose(found, [a[0] + b[1] + c[2], a[1], a[0] + b[2] + d[1], a[0]], rtol=1e-12)


def test_a_tail_may_get_its_rows_in_parts() -> None:
    waiting: list[Request] = []
    scoring = Scoring([2], [[0, 1, 1], [0, 0]], waiting.append)
    row = [0.0, 1.0]
    assert scoring.advance(Rows([row]), range(1))  # type: ignore[arg-type]
    tails = waiting
    assert [tail.job.rows for tail in tails] == [2, 1]
    assert not tails[0].advance(Rows([row]), range(1))  # type: ignore[arg-type]
    assert tails[0].advance(Rows([row]), range(1))  # type: ignore[arg-type]
    assert not scoring.result.done()
    assert tails[1].advance(Rows([row]), range(1))  # type: ignore[arg-type]
    low, high = log_softmax(row)
    np.testing.assert_allclose(scoring.result.result(timeout=0), [low + 2 * high, 2 * low])


def test_a_cancelled_scoring_gives_up_its_tails() -> None:
    waiting: list[Request] = []
    scoring = Scoring([2], [[0, 1], [0, 0]], waiting.append)
    scoring.advance(Rows([[0.0, 1.0]]), range(1))  # type: ignore[arg-type]
    scoring.cancelled = True
    assert [tail.cancelled for tail in waiting] == [True, True]
    waiting[0].stop()
    waiting[1].stop()
    with pytest.raises(Cancelled):
        scoring.result.result(timeout=0)


def test_a_tail_that_fails_fails_the_scoring() -> None:
    waiting: list[Request] = []
    scoring = Scoring([2], [[0, 1], [0, 0]], waiting.append)
    scoring.advance(Rows([[0.0, 1.0]]), range(1))  # type: ignore[arg-type]
    waiting[1].fail(ContextOverflow(9, 8))
    assert waiting[0].cancelled
    waiting[0].fail(EngineError("later"))
    with pytest.raises(ContextOverflow):
        scoring.result.result(timeout=0)
