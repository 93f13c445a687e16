"""One answer being written: what a running request does with its rows of logits.

A request is made by a caller, runs on the compute thread, and reports through a queue.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal, Protocol

from engine.detokenize import TextStream
from engine.metrics import Usage
from engine.scheduler import Job

if TYPE_CHECKING:
    from engine.constrain import Matcher
    from engine.llama import Context, Sampler, Vocabulary
    from engine.sampling import SamplingParams

FinishReason = Literal["stop", "length", "cancelled"]


class Request(Protocol):
    """What the runner asks of anything that it runs."""

    job: Job

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given it up."""

    def advance(self, context: Context, rows: Sequence[int]) -> bool:
        """Use the logits at batch entries `rows`; return whether the request is done."""

    def stop(self) -> None:
        """End as the caller asked."""

    def fail(self, error: BaseException) -> None:
        """End with an error."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last thing a generation says."""

    text: str
    finish_reason: FinishReason
    usage: Usage


class Generation:
    """One answer being written; `out` yields its pieces, then a `Finished` or an exception."""

    def __init__(
        self,
        prompt: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        matcher: Matcher | None = None,
        began: float | None = None,
    ) -> None:
        self.job = Job(prompt, params.max_tokens, priority=priority)
        self.out: SimpleQueue[str | Finished | BaseException] = SimpleQueue()
        self.cancelled = False
        self._params, self._matcher = params, matcher
        self._text = TextStream(params.stop)
        self._pieces: list[str] = []
        self._forced = self._completed = 0
        self._cut_short = False
        self._began = time.perf_counter() if began is None else began  # the caller's clock counts loading too
        self._first: float | None = None
        self._sampler: Sampler | None = None
        self._vocabulary: Vocabulary | None = None
        self.over = False

    def begin(self, vocabulary: Vocabulary, sampler: Sampler) -> None:
        """Take what belongs to the model; what a schema forces at once joins the prompt's batch."""
        self._vocabulary, self._sampler = vocabulary, sampler
        if self._matcher:
            self._follow(self._matcher.forced())
            self._end_if_full()

    def advance(self, context: Context, rows: Sequence[int]) -> bool:
        """Choose the next token and what it forces; true at the end of the answer."""
        assert self._sampler and self._vocabulary
        row = rows[-1]
        if self._matcher:
            self._matcher.mask(context.logits(row))
        token = self._sampler.sample(context, row)
        if token in self._vocabulary.eog:
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
            self.out.put(error)

    def _end_if_full(self) -> bool:
        complete = self._matcher is not None and self._matcher.done and not self._cut_short
        if self._text.stopped or complete:
            return self._finish("stop")
        return self._finish("length") if not self.job.room else False

    def _follow(self, forced: Sequence[int]) -> None:
        self._cut_short = len(forced) > self.job.room  # the matcher is past the end of what is written
        self._take(forced[: self.job.room], forced=True)

    def _take(self, tokens: Sequence[int], *, forced: bool) -> None:
        assert self._vocabulary and self._sampler
        self.job.append(tokens)
        self._completed += len(tokens)
        self._forced += len(tokens) if forced else 0
        for token in tokens:
            if forced:
                self._sampler.accept(token)
            self._say(self._text.push(self._vocabulary.pieces[token]))

    def _say(self, piece: str) -> None:
        if self._first is None:
            self._first = time.perf_counter()
        if piece:
            self._pieces.append(piece)
            self.out.put(piece)

    def _finish(self, reason: FinishReason) -> bool:
        if not self.over:
            self._say(self._text.end() if reason != "cancelled" else "")
            self._close()
            self.out.put(Finished("".join(self._pieces), reason, self._usage()))
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


def draw_seed(params: SamplingParams) -> int:
    """Return the seed to use: the caller's, or a random one."""
    return secrets.randbits(32) if params.seed is None else params.seed
