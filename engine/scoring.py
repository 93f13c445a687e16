"""Given continuations of one prompt, weighed without generating: what classification asks of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from engine.errors import Cancelled
from engine.scheduler import Job

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.generation import Request
    from engine.llama import Context


class Scoring:
    """Log-probabilities of given continuations of one prompt; nothing is generated.

    One row of logits decides where the continuations differ in their first token. Those that share it get a short
    sequence of their own, which reuses the prompt's cells. `result` holds one number a continuation: the summed
    log-probability of its tokens, or of its first token where that is its own.
    """

    def __init__(
        self, prompt: list[int], continuations: Sequence[Sequence[int]], submit: Callable[[Request], None]
    ) -> None:
        self.job = Job(prompt, 0)
        self.result: Future[list[float]] = Future()
        self.cancelled = False
        self._continuations = continuations
        self._submit = submit
        self._scores: list[float] = []
        self._tails: list[_Tail] = []

    def advance(self, context: Context, rows: Sequence[int]) -> bool:
        """Read the prompt's last row; ask for tails where first tokens are shared."""
        row = _log_softmax(context.logits(rows[-1]))
        self._scores = [float(row[tokens[0]]) for tokens in self._continuations]
        shared = Counter(tokens[0] for tokens in self._continuations)
        self._tails = [
            _Tail(self, index, self.job.tokens, tokens)
            for index, tokens in enumerate(self._continuations)
            if shared[tokens[0]] > 1 and len(tokens) > 1
        ]
        waiting = list(self._tails)
        for tail in waiting:
            self._submit(tail)
        self._settle()
        return True

    def add(self, tail: _Tail, index: int, score: float) -> None:
        """Take the score of one tail."""
        self._scores[index] += score
        self._tails.remove(tail)
        self._settle()

    def stop(self) -> None:
        """End as cancelled."""
        self.fail(Cancelled("the classification was cancelled"))

    def fail(self, error: BaseException) -> None:
        """End with an error; running tails are given up."""
        self.cancelled = True
        if not self.result.done():
            self.result.set_exception(error)

    def _settle(self) -> None:
        if not self._tails and not self.result.done():
            self.result.set_result(self._scores)


class _Tail:
    """The tokens after the first of one continuation."""

    def __init__(self, parent: Scoring, index: int, prompt: list[int], tokens: Sequence[int]) -> None:
        self.job = Job([*prompt, *tokens[:-1]], 0, rows=len(tokens) - 1)
        self._parent, self._index, self._rest = parent, index, tokens[1:]
        self._found: list[float] = []

    @property
    def cancelled(self) -> bool:
        return self._parent.cancelled

    def advance(self, context: Context, rows: Sequence[int]) -> bool:
        for row in rows:
            token = self._rest[len(self._found)]
            self._found.append(float(_log_softmax(context.logits(row))[token]))
        if len(self._found) < len(self._rest):
            return False
        self._parent.add(self, self._index, sum(self._found))
        return True

    def stop(self) -> None:
        self._parent.stop()

    def fail(self, error: BaseException) -> None:
        self._parent.fail(error)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    import numpy as np

    shifted = logits.astype(np.float64) - float(logits.max())
    return shifted - float(np.log(np.exp(shifted).sum()))
