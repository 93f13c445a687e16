"""Continuations weighed from scripted rows of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from engine.errors import Cancelled, ContextOverflow, EngineError
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
    """Run a scoring; `rows` are the logits that follow each run of tokens."""
    scoring = Scoring(prompt, continuations)
    done = scoring.advance(Rows([rows[tuple(prompt)]]), range(1))  # type: ignore[arg-type]
    for number, branch in enumerate(scoring.job.branches):
        assert not done
        given = [rows[(*prompt, *branch[: end + 1])] for end in range(len(branch))]
        done = scoring.advance(Rows(given), range(len(branch)), number)  # type: ignore[arg-type]
    assert done
    scoring.deliver()
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


def test_branches_may_come_in_any_order() -> None:
    scoring = Scoring([2], [[0, 1, 1], [0, 0]])
    row = [0.0, 1.0]
    assert [list(branch) for branch in scoring.job.branches] == [[0, 1], [0]]
    assert not scoring.advance(Rows([row]), range(1), 1)  # type: ignore[arg-type]
    assert not scoring.advance(Rows([row]), range(1))  # type: ignore[arg-type]
    assert not scoring.result.done()
    assert scoring.advance(Rows([row, row]), range(2), 0)  # type: ignore[arg-type]
    scoring.deliver()
    low, high = log_softmax(row)
    np.testing.assert_allclose(scoring.result.result(timeout=0), [low + 2 * high, 2 * low])


def test_a_stopped_scoring_is_cancelled() -> None:
    scoring = Scoring([2], [[0, 1], [0, 0]])
    scoring.advance(Rows([[0.0, 1.0]]), range(1))  # type: ignore[arg-type]
    scoring.stop()
    with pytest.raises(Cancelled):
        scoring.result.result(timeout=0)


def test_the_first_error_stays() -> None:
    scoring = Scoring([2], [[0, 1], [0, 0]])
    scoring.fail(ContextOverflow(9, 8))
    scoring.fail(EngineError("later"))
    with pytest.raises(ContextOverflow):
        scoring.result.result(timeout=0)
