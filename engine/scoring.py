"""Given continuations of one prompt, weighed without generating: what classification asks of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from engine.errors import Cancelled
from engine.scheduler import Job

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.llama import Context


class Scoring:
    """Log-probabilities of given continuations of one prompt; nothing is generated.

    One row of logits decides where the continuations differ in their first token. Those that share it are branches
    of the prompt: short sequences that reuse its cells, in the same batch. `result` holds one number a continuation:
    the summed log-probability of its tokens, or of its first token where that is its own.
    """

    def __init__(self, prompt: list[int], continuations: Sequence[Sequence[int]], *, pin: int = 0) -> None:
        shared = Counter(tokens[0] for tokens in continuations)
        self._continuations = continuations
        self._branching = [i for i, t in enumerate(continuations) if shared[t[0]] > 1 and len(t) > 1]
        self.job = Job(prompt, 0, pin=pin, branches=[continuations[i][:-1] for i in self._branching])
        self.result: Future[list[float]] = Future()
        self.cancelled = False
        self._scores: list[float] = [0.0] * len(continuations)
        self._left = 1 + len(self._branching)

    def advance(self, context: Context, rows: Sequence[int], branch: int | None = None) -> bool:
        """Read the prompt's last row, or the rows of a branch; true when all have been read."""
        if branch is None:
            row = log_softmax(context.logits(rows[-1]))
            for i, tokens in enumerate(self._continuations):
                self._scores[i] += float(row[tokens[0]])
        else:
            i = self._branching[branch]
            rest = zip(rows, self._continuations[i][1:], strict=True)
            self._scores[i] += sum(float(log_softmax(context.logits(row))[token]) for row, token in rest)
        self._left -= 1
        return not self._left

    def deliver(self) -> None:
        """Hand out the scores once all have been read."""
        if not self._left and not self.result.done():
            self.result.set_result(self._scores)

    def stop(self) -> None:
        """End as cancelled."""
        self.fail(Cancelled("the classification was cancelled"))

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        if not self.result.done():
            self.result.set_exception(error)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the natural logarithm of the softmax of a row of logits, in double precision."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # what is no number stays none, and who asked is told
        shifted = logits.astype(np.float64) - float(logits.max())
        return shifted - float(np.log(np.exp(shifted).sum()))
