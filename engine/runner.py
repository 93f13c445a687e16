"""One loaded chat model: schedule, decode, choose, again. Used by the compute thread only, except `interrupt`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from engine import adapters, digests, instructions
from engine.cache import Clear, Cut, Fork, Operation, common_prefix
from engine.errors import ConfigError, EngineError
from engine.generation import Generation, Request, draw_seed
from engine.pace import USUAL, Pace
from engine.prefixes import Prefix, Prefixes
from engine.scheduler import Chunk, Limits, Scheduler
from engine.scoring import Scoring

if TYPE_CHECKING:
    from pathlib import Path

    from engine.config import EngineTable, ModelSpec
    from engine.constrain import Constraints, Grammar, Matcher
    from engine.guard import Guard
    from engine.inputs import Turn
    from engine.llama import Context, ContextParams, Model
    from engine.prompt import ChatTemplate
    from engine.sampling import SamplingParams
    from engine.tuning import Tuning

_log = logging.getLogger("engine.runner")
_INSTRUCTIONS = 64  # sets of instructing turns whose tokens are remembered


class Runner:
    """A model, its context and its scheduler.

    `n_gpu_layers` are on GPUs, the output counted as one, and took `vram` bytes there, as their drivers tell it.
    """

    def __init__(self, model: Model, context: Context, spec: ModelSpec, parallel: int, pace: Pace = USUAL) -> None:
        self.model, self.spec = model, spec
        self._context = context
        self._requests: dict[int, Request] = {}
        self._undelivered: list[Request] = []
        context.ready = self._deliver
        self._instructions: dict[tuple[Turn, ...], list[int]] = {}
        self._prefixes: Prefixes | None = None
        self.n_gpu_layers, self.vram = model.n_gpu_layers, 0
        self._written, self._writing = 0, 0.0  # tokens after the first of each answer, and the seconds they took
        self.scheduler = Scheduler(
            Limits(
                cells=context.n_ctx,
                sequences=context.params.n_seq,
                batch=context.params.n_batch,
                parallel=parallel,
                beside=partial(pace.beside, most=context.params.n_batch),
                whole=model.whole,
            )
        )

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return self.scheduler.busy

    @property
    def requests(self) -> int:
        """How many requests run or wait."""
        return len(self._requests)

    @property
    def kv_cells(self) -> int:
        """How many tokens the KV cache holds."""
        return self.scheduler.limits.cells

    @property
    def kv_used(self) -> int:
        """How many of its cells are taken, by running requests and by what ended ones left for the next."""
        return self.scheduler.cache.used

    @property
    def tokens_per_second(self) -> float | None:
        """How fast one answer came, over all that ended so far, not how much all made together; None before the first.

        All tokens but the first of each answer, over the seconds from there to its end, forced tokens included.
        """
        return self._written / self._writing if self._writing > 0 else None

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """Return the prompt of a conversation. Raises `ContextOverflow`, `InvalidInput`."""
        return self._template.encode(turns, limit=self.scheduler.limits.cells)

    def length(self, turns: Sequence[Turn]) -> int:
        """Return how many tokens a conversation is, also where it does not fit. Raises `InvalidInput`."""
        return len(self._template.encode(turns))

    def instruction(self, turns: Sequence[Turn], prompt: Sequence[int]) -> int:
        """Return how many leading tokens of `prompt`, made of `turns`, do not depend on what the last turn says."""
        head = tuple(turns[:-1])
        if head not in self._instructions:
            if len(self._instructions) >= _INSTRUCTIONS:
                self._instructions.clear()
            one, other = (self.encode([*head, replace(turns[-1], content=word)]) for word in ("a", "가"))
            self._instructions[head] = one[: common_prefix(one, other, len(one))]
        known = self._instructions[head]
        return len(known) if prompt[: len(known)] == known else 0

    def restore_from(self, path: Path, folder: Path, tell: Callable[[float], object]) -> None:
        """Take the pinned prefixes of the model file `path` from `folder`, and keep new ones there from now on.

        `tell` is called while the file is read, to know it by its sha256; what it raises is raised here.
        """
        try:
            sha256 = digests.sha256_of(path, lambda: tell(1.0))
            adapted = adapters.identity(self.spec, lambda: tell(1.0))
        except OSError as error:
            _log.warning("prefixes are not kept for the next start: %s", error.strerror)
            return
        identity = {"model": sha256, "adapters": adapted, "instructions": instructions.version()}
        self._prefixes = Prefixes(folder, {**identity, **self._context.identity})
        for prefix in self._prefixes.read():
            sequence = self.scheduler.cache.adopt(prefix.tokens)
            if sequence is not None and not self._context.restore(sequence, prefix.state):
                self.scheduler.cache.release(sequence)
                self._prefixes.remove(prefix.tokens)

    def generate(self, generation: Generation, params: SamplingParams) -> None:
        """Queue an answer. Raises `ContextOverflow`."""
        from engine.llama import Sampler

        vocabulary = self.model.vocabulary
        self.submit(generation)
        try:
            guard = self._guard if params.han is False else None
            generation.begin(vocabulary, Sampler(params, draw_seed(params), vocabulary.size), guard)
            generation.deliver()
        except BaseException as error:
            generation.fail(error)
            raise
        finally:
            if generation.over:
                self._end(generation)
                self._count(generation)

    def score(self, prompt: list[int], labels: Sequence[str], *, pin: int = 0) -> Scoring:
        """Queue the weighing of `labels` as continuations of `prompt`, of which `pin` tokens are an instruction."""
        scoring = Scoring(prompt, [self.model.vocabulary.tokenize(label) for label in labels], pin=pin)
        self.submit(scoring)
        return scoring

    def matcher(self, grammar: Grammar) -> Matcher:
        """Start a constrained output in this model's tokens. Raises `SchemaError`."""
        return self._constraints.matcher(grammar)

    def submit(self, request: Request) -> None:
        """Queue a request. Raises `ContextOverflow`."""
        self.scheduler.submit(request.job)
        self._requests[id(request.job)] = request

    def forget(self) -> None:
        """Drop what is kept of conversations that are over."""
        self.scheduler.cache.forget()

    def interrupt(self) -> None:
        """Make a running decode return early, from any thread; what is still wanted is computed again."""
        self._context.abort.set()

    def step(self) -> None:
        """Compute one batch and let every request in it use its logits."""
        self._context.abort.clear()  # before looking for cancelled requests, so that no cancel is missed
        self._drop_cancelled()
        plan = self.scheduler.plan()
        self._carry_out(plan.operations)
        if not plan.chunks:
            self._deliver()
            return
        if not self._context.decode(plan.chunks):
            self.scheduler.abandon(plan)
            return
        pinned = self.scheduler.commit(plan)
        self._advance(plan.chunks)
        if not self.busy:
            self._deliver()
        self._store(pinned)

    def fail_all(self, error: BaseException) -> None:
        """End every request with `error`; the cache is dropped, since nobody knows what it holds."""
        self._deliver()
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
            self._count(request)

    def _store(self, pinned: Sequence[int]) -> None:
        """Keep new pins for the next process; their forks must be carried out first."""
        if pinned and self._prefixes:
            self._carry_out(self.scheduler.cache.take_operations())
            for sequence in pinned:
                if self.scheduler.cache.is_pinned(sequence):
                    tokens = self.scheduler.cache.sequences[sequence].tokens
                    self._prefixes.write(Prefix(tokens, self._context.state(sequence)))

    def _carry_out(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            match operation:
                case Fork(source, target, length):
                    self._context.fork(source, target, length)
                case Cut(sequence, start):
                    self._context.cut(sequence, start)
                case Clear():
                    self._context.clear()

    def _advance(self, chunks: Sequence[Chunk]) -> None:
        first = 0
        for chunk in chunks:
            end = first + len(chunk.tokens)
            request = self._requests.get(id(chunk.job))  # gone if another of its chunks failed
            if request and chunk.rows:
                self._undelivered.append(request)
                if self._advance_one(request, range(end - chunk.rows, end), chunk.branch):
                    self._end(request)
                    self._count(request)
            first = end

    def _deliver(self) -> None:
        """Wake who waits for the last step when llama.cpp begins the next: until then they would only be in the way."""
        for request in self._undelivered:
            request.deliver()
        self._undelivered.clear()

    def _advance_one(self, request: Request, rows: Sequence[int], branch: int | None) -> bool:
        try:
            return request.advance(self._context, rows, branch)
        except Exception as error:  # noqa: BLE001 - one request's failure must not end the others
            if not isinstance(error, EngineError):
                _log.error("a request failed inside the engine: %s", type(error).__name__)
            request.fail(error)
            return True

    def _end(self, request: Request) -> None:
        self._requests.pop(id(request.job), None)
        self.scheduler.finish(request.job)

    def _count(self, request: Request) -> None:
        """Add what an answer that has ended took."""
        usage = request.usage if isinstance(request, Generation) else None
        if usage is not None and usage.completion_tokens > 1:
            self._written += usage.completion_tokens - 1
            self._writing += usage.seconds - usage.ttft

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
    def _guard(self) -> Guard:
        from engine.guard import Guard

        return Guard(self.model.vocabulary.pieces)

    @cached_property
    def _constraints(self) -> Constraints:
        from engine.constrain import Constraints

        vocabulary = self.model.vocabulary
        return Constraints(*vocabulary.raw, vocabulary.eog)


class _Heard:
    """What a load tells, handed on: it only rises, however often a load begins anew, and what is raised is kept."""

    def __init__(self, tell: Callable[[float], object]) -> None:
        self._tell, self._most = tell, 0.0
        self.error: BaseException | None = None

    def __call__(self, part: float) -> None:
        self._most = max(self._most, part)
        try:
            self._tell(self._most)
        except BaseException as error:
            self.error = error
            raise


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A model to load: its entry and the engine's table, and how many KV cells its context may have."""

    file: Path
    spec: ModelSpec
    defaults: EngineTable
    cells: int


def load(
    path: str, spec: ModelSpec, defaults: EngineTable, tell: Callable[[float], object], *, cells: int, n_gpu_layers: int
) -> Runner:
    """Load a chat model and make its context, on any thread; the first time on a machine it is measured, too.

    The context gets `cells`, never more than the model was trained for; `n_gpu_layers` go to the GPUs, all where it is
    -1, none where there is no GPU. `tell` hears which part of that is done, from 0 to 1; what it raises ends the load
    and is raised here. Raises `GpuRefused` where the load onto the GPUs fails: on the CPU it takes other memory, which
    is the caller's to find; else `ModelCorrupt`, `EngineError`, and `MemoryError` where there is no memory for the
    weights or the context.
    """
    from pathlib import Path

    from engine.llama import devices
    from engine.offload import GpuRefused

    wanted, heard = _Wanted(Path(path), spec, defaults, cells), _Heard(tell)
    if n_gpu_layers and devices():
        free = _free_vram()
        try:
            runner = _open(wanted, n_gpu_layers, heard)
        except (EngineError, MemoryError) as error:
            if heard.error is not None:
                raise
            _log.warning("%s runs on the CPU, since it could not be loaded onto the GPU: %s", spec.name, error)
            raise GpuRefused(str(error)) from error
        runner.vram = max(0, free - _free_vram())
        return runner
    return _open(wanted, 0, heard)


def _free_vram() -> int:
    from engine.llama import devices

    return sum(device.free for device in devices())


def _open(wanted: _Wanted, n_gpu_layers: int, tell: Callable[[float], object]) -> Runner:
    from engine.llama import Model
    from engine.tuner import settle

    def weights(repack: bool, listen: Callable[[float], object]) -> Model:
        return Model(wanted.file, n_gpu_layers=n_gpu_layers, repack=repack, listen=listen)

    model, tuning = settle(wanted.file, weights, bool(n_gpu_layers), tell)
    try:
        for adapter in adapters.located(wanted.spec):  # before the context, whose graph has to hold them
            model.adapt(adapter.path, adapter.scale)
        params = _sizes(wanted, model, tuning)
        making: Future[Context] = Future()
        thread = threading.Thread(target=_make, args=(making, model, params), name="gieok-context", daemon=True)
        thread.start()  # both only read the model, and take equally long
        try:
            model.vocabulary.read()
        finally:
            thread.join()
        parallel = wanted.spec.parallel or wanted.defaults.parallel
        return Runner(model, making.result(), wanted.spec, parallel, tuning.pace)
    except BaseException:
        model.close()
        raise


def _make(making: Future[Context], model: Model, params: ContextParams) -> None:
    from engine.llama import Context

    try:
        making.set_result(Context(model, params))
    except BaseException as error:  # noqa: BLE001 - it is raised where the context is waited for
        making.set_exception(error)


def _sizes(wanted: _Wanted, model: Model, tuning: Tuning) -> ContextParams:
    from engine.footprint import sequences
    from engine.llama import ContextParams

    spec, defaults = wanted.spec, wanted.defaults
    n_seq = sequences(spec, defaults)
    return ContextParams(
        n_ctx=min(wanted.cells, model.context_length),
        n_batch=max(defaults.n_batch, n_seq),  # llama.cpp aborts the process where it is less
        n_seq=n_seq,
        n_threads=spec.n_threads or tuning.n_threads,
        n_threads_batch=spec.n_threads or tuning.n_threads_batch,
        flash_attention=spec.flash_attention,
        n_ubatch=tuning.n_ubatch,
    )
