"""One answer being written: what a running request does with its rows of logits.

A request is made by a caller, runs on the compute thread, and reports through a queue.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal, Protocol

from engine.closing import MOST_TOKENS
from engine.detokenize import TextStream
from engine.errors import InvalidInput
from engine.metrics import Usage
from engine.scheduler import Job

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.constrain import Matcher
    from engine.guard import Guard
    from engine.llama import Context, Sampler, Vocabulary
    from engine.sampling import SamplingParams

FinishReason = Literal["stop", "length", "cancelled"]


class Request(Protocol):
    """What the runner asks of anything that it runs."""

    job: Job

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given it up."""

    def advance(self, context: Context, rows: Sequence[int], branch: int | None = None) -> bool:
        """Use the logits at batch entries `rows`, of a branch if one is named; return whether the request is done."""

    def deliver(self) -> None:
        """Hand out what `advance` made: every reader that wakes wants the interpreter lock."""

    def stop(self) -> None:
        """End as the caller asked."""

    def fail(self, error: BaseException) -> None:
        """End with an error."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last thing a generation says; `whole` is whether the text is all that a schema asks for."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    whole: bool = False


class Generation:
    """One answer being written; `out` yields its pieces, then a `Finished` or an exception.

    Where `max_tokens` ends it inside a value that `matcher` follows and `closes` is set, the value is closed: at most
    `closing.MOST_TOKENS` tokens more, which the model neither chooses nor reads. If no such end is found, the text
    stays as it was cut. `usage` is what it cost, once it has ended otherwise than by an error.
    """

    def __init__(
        self,
        prompt: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        matcher: Matcher | None = None,
        closes: bool = True,
        began: float | None = None,
    ) -> None:
        self.job = Job(prompt, params.max_tokens, priority=priority)
        self.out: SimpleQueue[str | Finished | BaseException] = SimpleQueue()
        self.cancelled = False
        self._params, self._matcher, self._closes = params, matcher, closes
        self._banned = [token for token, bias in params.logit_bias if bias == -math.inf]
        self._text = TextStream(params.stop)
        self._pieces: list[str] = []
        self._held: list[str] = []
        self._forced = self._completed = 0
        self._unwritten: Sequence[int] = ()  # forced tokens for which there was no room: the matcher is behind them
        self._whole = False
        self._guard: Guard | None = None
        self._pending = b""
        self._began = time.perf_counter() if began is None else began  # the caller's clock counts loading too
        self._first: float | None = None
        self._sampler: Sampler | None = None
        self._vocabulary: Vocabulary | None = None
        self.over = False
        self.usage: Usage | None = None

    def begin(self, vocabulary: Vocabulary, sampler: Sampler, guard: Guard | None = None) -> None:
        """Take what belongs to the model; what a schema forces at once joins the prompt's batch.

        Raises `InvalidInput` where a token of the logit bias is none of the model's.
        """
        self._vocabulary, self._sampler, self._guard = vocabulary, sampler, guard
        if beyond := [token for token, _ in self._params.logit_bias if token >= len(vocabulary.pieces)]:
            raise InvalidInput(f"logit_bias names token {beyond[0]}; the model has {len(vocabulary.pieces)}")
        if self._matcher:
            self._follow(self._matcher.forced())
            self._end_if_full()

    def advance(self, context: Context, rows: Sequence[int], branch: int | None = None) -> bool:
        """Choose the next token and what it forces; true at the end of the answer."""
        assert self._sampler and self._vocabulary
        row = rows[-1]
        self._weigh(context.logits(row))  # read before a mask could hide that they are no numbers
        token = self._sampler.sample(context, row)
        if token in self._vocabulary.eog:
            self._whole = True  # the matcher lets it come nowhere else
            return self._finish("stop")
        self._take([token], forced=False)
        if self._matcher and not self._text.stopped:
            self._follow(self._matcher.accept(token))
        return self._end_if_full()

    def stop(self) -> None:
        """End with what was written so far."""
        self._finish("cancelled")

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        if not self.over:
            self._close()
            self.deliver()
            self.out.put(error)

    def deliver(self) -> None:
        """Hand out the pieces written since the last time."""
        for piece in self._held:
            self.out.put(piece)
        self._held.clear()

    def _weigh(self, logits: NDArray[np.float32]) -> None:
        """Change the logits (n_vocab,) to what the schema, the bias and the guard leave of them, in place."""
        if self._matcher:
            self._matcher.mask(logits)
        for token, bias in self._params.logit_bias:
            if bias != -math.inf:
                logits[token] += bias
        if self._banned:
            _keep_out(logits, self._banned)
        if self._guard:
            _keep_out(logits, self._guard.forbidden(self._pending))

    def _end_if_full(self) -> bool:
        self._whole = self._matcher is not None and self._matcher.done and not self._unwritten
        if self._text.stopped or self._whole:
            return self._finish("stop")
        return self._run_out() if not self.job.room else False

    def _run_out(self) -> bool:
        """End with `length`; a document is closed first."""
        end = self._closing(self._matcher) if self._matcher and self._closes else None
        if end is not None:
            self._write(end, forced=True)
            self._whole = True
        return self._finish("stop" if self._text.stopped else "length")

    def _closing(self, matcher: Matcher) -> list[int] | None:
        """Return what is left of a forced run and the tokens that close the document; None if they are too many."""
        assert self._vocabulary
        behind = [*self.job.tokens[self.job.prompt :], *self._unwritten]  # where the matcher is
        end = matcher.closing(b"".join(self._vocabulary.pieces[token] for token in behind))
        fits = end is not None and len(self._unwritten) + len(end) <= MOST_TOKENS
        return [*self._unwritten, *end] if end is not None and fits else None

    def _follow(self, forced: Sequence[int]) -> None:
        self._unwritten = forced[self.job.room :]
        self._take(forced[: self.job.room], forced=True)

    def _take(self, tokens: Sequence[int], *, forced: bool) -> None:
        self.job.append(tokens)
        self._write(tokens, forced=forced)

    def _write(self, tokens: Sequence[int], *, forced: bool) -> None:
        assert self._vocabulary and self._sampler
        self._completed += len(tokens)
        self._forced += len(tokens) if forced else 0
        for token in tokens:
            if forced:
                self._sampler.accept(token)
            piece = self._vocabulary.pieces[token]
            if self._guard:
                self._pending = self._guard.pending(self._pending, piece)
            self._say(self._text.push(piece))

    def _say(self, piece: str) -> None:
        if self._first is None:
            self._first = time.perf_counter()
        if piece:
            self._pieces.append(piece)
            self._held.append(piece)

    def _finish(self, reason: FinishReason) -> bool:
        if not self.over:
            self._say(self._text.end() if reason != "cancelled" else "")
            self._close()
            whole = self._whole and not self._text.stopped
            self.usage = self._usage()
            self.deliver()
            self.out.put(Finished("".join(self._pieces), reason, self.usage, whole))
        return True

    def _usage(self) -> Usage:
        now = time.perf_counter()
        first = now if self._first is None else self._first
        return Usage(
            prompt_tokens=self.job.prompt,
            cached_tokens=min(self.job.cached, self.job.prompt),  # forced tokens may have been cached too
            completion_tokens=self._completed,
            forced_tokens=self._forced,
            ttft=first - self._began,
            seconds=now - self._began,
        )

    def _close(self) -> None:
        self.over = True
        if self._sampler:
            self._sampler.close()


def _keep_out(logits: NDArray[np.float32], tokens: Sequence[int] | NDArray[np.int32]) -> None:
    """Put `tokens` to minus infinity, unless nothing else is left: then the schema wants one of them."""
    import numpy as np

    kept = logits[tokens]
    logits[tokens] = -np.inf
    if logits.max() == -np.inf:
        logits[tokens] = kept


def draw_seed(params: SamplingParams) -> int:
    """Return the seed to use: the caller's, or a random one."""
    return secrets.randbits(32) if params.seed is None else params.seed
