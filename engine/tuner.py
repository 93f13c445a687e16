"""Threads, repacking and micro-batch of a model, chosen by running it for a few seconds on this machine.

Contract: used by the loader thread, for a model that nobody else has yet. Its batches run on another thread, one after
the other, so that this one can meanwhile hear that nobody waits for the model any more.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from engine import tuning
from engine.errors import EngineClosed, EngineError, ModelCorrupt
from engine.scheduler import Chunk, Job
from engine.tuning import MICRO_BATCHES, Timing, Tuning

if TYPE_CHECKING:
    from engine.llama import Context, Model

_log = logging.getLogger("engine.tuner")
Tell = Callable[[float], object]  # takes which part of a load is done; raises where the load is to end
Load = Callable[[bool, Tell], "Model"]  # loads the weights, repacked or not
_STREAMS, _SMALL, _LARGE = 4, 16, 64  # tokens of the batches that are run, beside a single one
# A turn as Gieok has them: instructions, context and history to read, a short answer, some of it beside other streams.
_PROMPT, _ALONE, _BESIDE = 512, 16, 8
_TIE = 0.05  # a smaller gain is noise, and worth neither memory nor threads
_NODE = 0.1  # seconds: a cancel waits for the matrix that is being multiplied, and may take 0.15 in all
_IDLE, _BUSY = 2, 1  # weights: while a host waits for an answer it is idle more often than not
_ROUNDS, _ENOUGH = 3, 0.2  # a batch runs so often, or more if that is too short to tell, and less after these seconds
_OWN, _TRIES = 0.85, 3  # of the cores that it asked for, a batch must have had so many, in one of so many tries
_LOOK = 0.05  # seconds between two looks whether anybody still waits


def settle(file: Path, load: Load, on_gpu: bool, tell: Tell) -> tuple[Model, Tuning]:
    """Load the weights of `file` in the way that is best here: as remembered, else measured now and remembered.

    What cannot be measured is loaded in the usual way, unless there is no memory for it. With layers `on_gpu` it is
    measured apart. Raises what `load` and `tell` raise, and `MemoryError`.
    """
    known = tuning.recall(file, on_gpu)
    if known is not None:
        return load(known.repack, tell), known
    listener = _Listener(tell)
    try:
        model, chosen = tune(load, on_gpu, listener)
    except Exception as error:
        if listener.error is not None or isinstance(error, ModelCorrupt | MemoryError):  # repacked it takes more
            raise
        level = logging.INFO if isinstance(error, _Disturbed) else logging.WARNING  # it will be measured another time
        _log.log(level, "%s could not be measured and runs in the usual way: %s", file.name, error)
        chosen = tuning.usual()
        return load(chosen.repack, tell), chosen
    tuning.remember(file, chosen, on_gpu)
    return model, chosen


def tune(load: Load, on_gpu: bool, tell: Tell) -> tuple[Model, Tuning]:
    """Run a model as it lies in the file, and repacked where its processor is the CPU; return it loaded as is best.

    Raises what `load` and `tell` raise, and `EngineError` where other programs take too much of the machine.
    """
    study = _Study(load, on_gpu, tell)
    try:
        study.open(False, until=0.1)
        best = _choose_threads(study)
        if not on_gpu:
            study.open(True, until=0.65)
            best = _choose_repacking(study, best)
        if best.repack != study.repack:
            study.open(best.repack, until=1.0)
        best = replace(best, timings=tuple(study.timings))
        largest = best.seconds(_LARGE, busy=True) or best.pace.seconds(_LARGE)
        best = replace(best, n_ubatch=micro_batch(largest / _LARGE, study.layers))
        return study.keep(), best
    except BaseException:
        study.close()
        raise


def thread_counts(cores: int) -> list[int]:
    """Return which numbers of threads are worth measuring; memory is often busy before all cores are."""
    return sorted({max(1, count) for count in (cores // 4, cores // 2, cores - 1, cores)})


def best_threads(timings: Sequence[Timing], tokens: int) -> int:
    """Return the fewest threads whose weighted time, beside an idle host and a busy one, is as good as the best."""
    times: dict[int, float] = {}
    for timing in timings:
        if timing.tokens == tokens:
            weight = _BUSY if timing.busy else _IDLE
            times[timing.threads] = times.get(timing.threads, 0.0) + weight * timing.seconds
    return min(threads for threads, time in times.items() if time * (1 - _TIE) <= min(times.values()))


def turn_seconds(chosen: Tuning) -> float:
    """Return how long a turn takes that is mostly prompt, as Gieok's are, beside an idle host."""
    seconds = chosen.pace.seconds
    return _PROMPT / _LARGE * seconds(_LARGE) + _ALONE * seconds(1) + _BESIDE * seconds(_STREAMS)


def micro_batch(token_seconds: float, layers: int) -> int:
    """Return how many tokens may be computed together, so that no graph node takes too long for a cancel.

    The largest node multiplies by the largest matrix of a layer: about a third of the layer, whether the feed-forward
    part is gated (three matrices of one size, and attention) or not (two, and attention of half their size).
    """
    node = token_seconds / (3 * layers)
    return max((size for size in MICRO_BATCHES if size * node <= _NODE), default=MICRO_BATCHES[0])


def _choose_threads(study: _Study) -> Tuning:
    counts = thread_counts(tuning.usable_cores())
    study.run((1, _LARGE), counts, (False, True), until=0.4)
    one, many = best_threads(study.timings, 1), best_threads(study.timings, _LARGE)
    study.strict = False  # threads that wait for each other suffer most; all else is better known roughly than not
    study.run((_STREAMS, _SMALL), [many], (False,), until=0.5)
    return Tuning(one, many, study.repack, MICRO_BATCHES[0], tuple(study.timings))


def _choose_repacking(study: _Study, plain: Tuning) -> Tuning:
    """Run with the threads that were best without repacking: who shares the cores is the same."""
    one, many = plain.n_threads, plain.n_threads_batch
    study.run((_LARGE,), [many], (False,), until=0.75)
    if _PROMPT / _LARGE * study.timings[-1].seconds >= turn_seconds(plain):  # the prompt alone takes longer
        return plain
    study.run((1,), [one], (False,), until=0.8)
    study.run((_STREAMS, _SMALL), [many], (False,), until=0.85)
    packed = replace(plain, repack=True, timings=tuple(study.timings))
    if turn_seconds(packed) >= (1 - _TIE) * turn_seconds(plain):
        return plain
    study.run((1,), [one], (True,), until=0.9)
    study.run((_LARGE,), [many], (True,), until=1.0)
    return packed


class _Listener:
    """Hands on what is told, and keeps what the caller raised: that ends the load, however it was wrapped."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.error: BaseException | None = None

    def __call__(self, done: float) -> None:
        try:
            self._tell(done)
        except BaseException as error:
            self.error = error
            raise


class _Disturbed(EngineError):
    """Other programs take so much of the machine that what is measured means nothing."""


@dataclass(frozen=True, slots=True)
class _Rounds:
    """The median time of a batch, and how many cores this process had meanwhile: threads that wait spin."""

    seconds: float
    cores: float


class _Study:
    """One model, loaded in one way after the other, in whose small context batches are timed.

    Whatever it does it tells how far the whole of it is, from 0 to 1.
    """

    def __init__(self, load: Load, on_gpu: bool, tell: Tell) -> None:
        self._load, self._tell, self._done = load, tell, 0.0
        self._on_gpu = on_gpu
        self._opened: tuple[Model, Context] | None = None
        self.repack = False
        self.strict = True  # whether what other programs disturb is worth nothing
        self.timings: list[Timing] = []

    def open(self, repack: bool, until: float) -> None:
        """Load the weights, instead of those that are loaded, and read all of them once: they may only be mapped."""
        from engine.llama import Context, ContextParams

        self.close()
        begin = self._done
        model = self._load(repack, lambda part: self._tell(begin + part * (until - begin)))
        try:
            self._opened = model, Context(model, ContextParams(2 * _LARGE, _LARGE, 1, 1, 1))
        except BaseException:
            model.close()
            raise
        self.repack, self._done = repack, until
        self._rounds(_SMALL)

    def run(self, tokens: Sequence[int], threads: Sequence[int], hosts: Sequence[bool], until: float) -> None:
        """Time every batch with every number of threads, beside hosts that are busy or not."""
        work = list(product(tokens, threads, hosts))
        step = (until - self._done) / len(work)
        for size, count, busy in work:
            self._context.set_threads(count, count)
            seconds = self._busy(size) if busy else self._idle(size, count)
            self.timings.append(Timing(self.repack, size, count, busy, seconds))
            self._done += step

    def keep(self) -> Model:
        """Hand over the weights as they were loaded last."""
        model, context = self._live
        self._opened = None
        context.close()
        return model

    def close(self) -> None:
        """Free the weights, unless they were handed over."""
        if self._opened is not None:
            self.keep().close()

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return self._live[0].layers

    @property
    def _context(self) -> Context:
        return self._live[1]

    @property
    def _live(self) -> tuple[Model, Context]:
        if self._opened is None:
            raise EngineClosed("no weights are loaded")
        return self._opened

    def _busy(self, tokens: int) -> float:
        with _busy_host():
            return self._rounds(tokens).seconds

    def _idle(self, tokens: int, threads: int) -> float:
        tries: list[float] = []
        while len(tries) < _TRIES:
            rounds = self._rounds(tokens)
            tries.append(rounds.seconds)
            if self._on_gpu or rounds.cores > _OWN * threads:
                return rounds.seconds
        if self.strict:
            raise _Disturbed("other programs keep this machine busy")
        return min(tries)

    def _rounds(self, tokens: int) -> _Rounds:
        """Run a batch a few times; it is aborted, and the reason raised, if the caller says so meanwhile."""
        taken: Future[_Rounds] = Future()
        context = self._context
        thread = threading.Thread(target=_fulfil, args=(taken, context, tokens), name="gieok-tuner", daemon=True)
        self._tell(self._done)
        thread.start()
        try:
            while not wait([taken], _LOOK).done:
                self._tell(self._done)
        except BaseException:
            context.abort.set()
            raise
        finally:
            thread.join()
        return taken.result()


def _fulfil(taken: Future[_Rounds], context: Context, tokens: int) -> None:
    """On the thread of the batches."""
    try:
        taken.set_result(_rounds(context, tokens))
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
        taken.set_exception(error)


def _rounds(context: Context, tokens: int) -> _Rounds:
    rows = tokens if tokens <= _STREAMS else 1  # streams want a row each, a prompt one in all
    chunk = Chunk(Job([], 0), 0, 0, [at % context.n_vocab for at in range(tokens)], rows)
    taken: list[float] = []
    processor = time.process_time()
    while sum(taken) < _ENOUGH and (len(taken) < _ROUNDS or sum(taken) < _ENOUGH / 3):
        context.clear()
        began = time.perf_counter()
        if not context.decode([chunk]):
            raise EngineError("a batch was aborted")
        context.logits(tokens - 1)  # a GPU may still be at it
        taken.append(time.perf_counter() - began)
    return _Rounds(median(taken), (time.process_time() - processor) / sum(taken))


@contextlib.contextmanager
def _busy_host() -> Iterator[None]:
    """Keep one thread of this process busy, as a host's own work does; it holds the interpreter's lock."""
    rest = threading.Event()

    def work() -> None:
        while not rest.is_set():
            pass

    thread = threading.Thread(target=work, name="gieok-busy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        rest.set()
        thread.join()
