"""One loaded chat model: schedule, decode, choose, again. Used by the compute thread only, except `interrupt`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from engine.errors import ConfigError, EngineError
from engine.generation import Generation, Request, draw_seed
from engine.scheduler import Chunk, Fork, Limits, Scheduler
from engine.scoring import Scoring

if TYPE_CHECKING:
    from engine.config import EngineTable, ModelSpec
    from engine.constrain import Constraints, Grammar, Matcher
    from engine.inputs import Turn
    from engine.llama import Context, Model
    from engine.prompt import ChatTemplate
    from engine.sampling import SamplingParams

_log = logging.getLogger("engine.runner")
_SPARE_SEQUENCES = 24  # finished sequences kept for their prefixes beside the running ones


class Runner:
    """A model, its context and its scheduler."""

    def __init__(self, model: Model, context: Context, spec: ModelSpec, parallel: int) -> None:
        self.model, self.spec = model, spec
        self._context = context
        self._requests: dict[int, Request] = {}
        self.scheduler = Scheduler(
            Limits(
                cells=context.n_ctx,
                sequences=context.params.n_seq,
                batch=context.params.n_batch,
                parallel=parallel,
                prefill_beside=max(32, context.params.n_batch // 8),
            )
        )

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return self.scheduler.busy

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """Return the prompt of a conversation. Raises `ContextOverflow`, `InvalidInput`."""
        return self._template.encode(turns, limit=self.scheduler.limits.cells)

    def generate(self, generation: Generation, params: SamplingParams) -> None:
        """Queue an answer. Raises `ContextOverflow`."""
        from engine.llama import Sampler

        vocabulary = self.model.vocabulary
        self.submit(generation)
        try:
            generation.begin(vocabulary, Sampler(params, draw_seed(params), vocabulary.size))
        except BaseException as error:
            generation.fail(error)
            raise
        finally:
            if generation.over:
                self._end(generation)

    def score(self, prompt: list[int], labels: Sequence[str]) -> Scoring:
        """Queue the weighing of `labels` as continuations of `prompt`."""
        scoring = Scoring(prompt, [self.model.vocabulary.tokenize(label) for label in labels], self.submit)
        self.submit(scoring)
        return scoring

    def matcher(self, grammar: Grammar) -> Matcher:
        """Start a constrained output in this model's tokens. Raises `SchemaError`."""
        return self._constraints.matcher(grammar)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises `ContextOverflow`."""
        self.scheduler.submit(request.job)
        self._requests[id(request.job)] = request

    def interrupt(self) -> None:
        """Make a running decode return early, from any thread; what is still wanted is computed again."""
        self._context.abort.set()

    def step(self) -> None:
        """Compute one batch and let every request in it use its logits."""
        self._context.abort.clear()  # before looking for cancelled requests, so that no cancel is missed
        self._drop_cancelled()
        plan = self.scheduler.plan()
        for operation in plan.operations:
            if isinstance(operation, Fork):
                self._context.fork(operation.source, operation.target, operation.length)
            else:
                self._context.cut(operation.sequence, operation.start)
        if not plan.chunks:
            return
        if not self._context.decode(plan.chunks):
            self._roll_back(plan.chunks)
            return
        self.scheduler.commit(plan)
        self._advance(plan.chunks)

    def fail_all(self, error: BaseException) -> None:
        """End every request with `error`; the cache is dropped, since nobody knows what it holds."""
        for request in list(self._requests.values()):
            self._end(request)
            request.fail(error)
        self.scheduler.clear()

    def close(self, error: BaseException) -> None:
        """End every request with `error` and free the model."""
        self.fail_all(error)
        self._context.close()
        self.model.close()

    def _drop_cancelled(self) -> None:
        for request in [request for request in self._requests.values() if request.cancelled]:
            self._end(request)
            request.stop()

    def _roll_back(self, chunks: Sequence[Chunk]) -> None:
        """Finished micro-batches of an aborted decode stay in the cache: cut each sequence to what is recorded."""
        for chunk in chunks:
            self._context.cut(chunk.sequence, chunk.start)

    def _advance(self, chunks: Sequence[Chunk]) -> None:
        first = 0
        for chunk in chunks:
            end = first + len(chunk.tokens)
            request = self._requests[id(chunk.job)]
            if chunk.rows and self._advance_one(request, range(end - chunk.rows, end)):
                self._end(request)
            first = end

    def _advance_one(self, request: Request, rows: Sequence[int]) -> bool:
        try:
            return request.advance(self._context, rows)
        except Exception as error:  # noqa: BLE001 - one request's failure must not end the others
            if not isinstance(error, EngineError):
                _log.error("a request failed inside the engine: %s", type(error).__name__)
            request.fail(error)
            return True

    def _end(self, request: Request) -> None:
        self._requests.pop(id(request.job), None)
        self.scheduler.finish(request.job)

    @cached_property
    def _template(self) -> ChatTemplate:
        from engine.prompt import ChatTemplate

        source = self.spec.chat_template or self.model.chat_template
        if not source:
            raise ConfigError(
                f"{self.spec.name} brings no chat template; set chat_template of its entry in models.toml"
            )
        return ChatTemplate(self.model.vocabulary, source, self.spec.template_args)

    @cached_property
    def _constraints(self) -> Constraints:
        from engine.constrain import Constraints

        vocabulary = self.model.vocabulary
        return Constraints(*vocabulary.raw, vocabulary.eog)


def load(path: str, spec: ModelSpec, defaults: EngineTable) -> Runner:
    """Load a chat model and make its context. Raises `ModelCorrupt`, `EngineError`."""
    from pathlib import Path

    from engine.llama import Context, ContextParams, Model

    model = Model(Path(path), n_gpu_layers=spec.n_gpu_layers)
    parallel, cores = spec.parallel or defaults.parallel, _cores()
    n_seq = parallel + _SPARE_SEQUENCES
    try:
        params = ContextParams(
            n_ctx=min(spec.n_ctx or defaults.n_ctx, model.context_length),
            n_batch=max(defaults.n_batch, n_seq),  # llama.cpp aborts the process where it is less
            n_seq=n_seq,
            # threads spin while they wait for each other: beside a busy host all cores decode two to three times
            # slower than half of them, while prefill never loses (DECISIONS, 2026-11-22)
            n_threads=spec.n_threads or max(1, cores // 2),
            n_threads_batch=spec.n_threads or cores,
            flash_attention=spec.flash_attention,
        )
        return Runner(model, Context(model, params), spec, parallel)
    except BaseException:
        model.close()
        raise


def _cores() -> int:
    """Return how many cores this process may use."""
    import os

    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
