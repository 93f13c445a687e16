"""Models in use: a caller's name → a model in memory for as long as the caller needs it, or the fallback.

Contract: every use of a model goes through a lease. Loads are begun here, run on the loader thread, and end on the
compute thread, which alone frees models.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from engine import layout, machine, tuning
from engine.budget import Budget, Hold
from engine.errors import (
    Cancelled,
    ConfigError,
    EngineClosed,
    EngineError,
    InvalidInput,
    ModelCorrupt,
    ModelNotFound,
    OutOfBudget,
)
from engine.fastpath import CacheDamaged
from engine.loader import Heed, Load
from engine.metrics import Progress, report
from engine.models import Key, Kind, Loaded, give_back, key_of
from engine.ready import Ready
from engine.residency import Lease, Option, Residency, Want
from engine.status import LoadedModel, LoadPlan, Replaced, Status
from engine.worker import LOOK_UP, Worker

if TYPE_CHECKING:
    from engine.config import ModelSpec
    from engine.models import Models
    from engine.runner import Runner
    from engine.worker import Steppable, Stoppable

    S = TypeVar("S", bound=Stoppable)

_log = logging.getLogger("engine.pool")
T = TypeVar("T")
_ADVICE = {
    "llm": ", lower n_ctx or parallel in models.toml, or name a smaller model (`gieok models list`)",
    "embedding": ", or name a smaller embedding model (`gieok models list`)",
}
_STEP = 16_000_000  # bytes by which something grows at least
_REFUSED = 60.0  # seconds in which a model whose memory the system refused is not tried again for a role


class Pool:
    """The models of one engine, in at most `budget` bytes of RAM; an idle one leaves after `keep_alive` seconds."""

    def __init__(self, models: Models, budget: int, keep_alive: float) -> None:
        self.models = models
        self.budget = Budget(budget, machine.memory)
        self.residency = Residency(self.budget, self, keep_alive, time.monotonic)
        self.worker = Worker(self)
        self.replaced: dict[str, Replaced] = {}
        self._refused: dict[Key, tuple[float, EngineError]] = {}
        self._using = threading.local()
        self.ready = Ready(self._room)

    # ---- for callers, any thread

    @contextlib.contextmanager
    def leased(self, name: str, kind: Kind | None = None) -> Iterator[Key]:
        """Have the model of a role or name in memory for the block, or its fallback; yield what it is loaded as.

        Raises what its load raises, `OutOfBudget`, `ModelNotFound`, `Cancelled`.
        """
        spec = self.models.spec(name, kind)
        with self._occupied():
            lease = self._with_fallback(name, spec)
            try:
                yield cast("Key", lease.want.key)
            finally:
                self._release(lease)

    def run(self, key: Key, job: Callable[[Any], T]) -> T:
        """Run `job` on the compute thread with a model that is leased. Raises `EngineClosed` if it was unloaded."""
        return self.worker.call(lambda: job(self.models.at(key).model))

    def call(self, name: str, job: Callable[[Any], T], kind: Kind | None = None) -> T:
        """Run `job` on the compute thread with the model of a role or name. Raises as `leased` does."""
        with self.leased(name, kind) as key:
            return self.run(key, job)

    def start(self, name: str, begin: Callable[[Runner], S]) -> S:
        """Run `begin` like a job; what it began is cancelled if the caller does not live to see it."""
        with self.leased(name, "llm") as key:
            return self.worker.start(lambda: begin(cast("Runner", self.models.at(key).model)))

    def reserve(self, name: str, size: int) -> Hold:
        """Have `size` bytes of the budget for something that is no model. Raises `OutOfBudget`."""
        with self._occupied():
            return self._reserved(name, size)

    def _reserved(self, name: str, size: int, *, passes: bool = False) -> Hold:
        lease = self._granted(Want(object(), name, (Option(size),), passes=passes))
        self._release(lease)
        if lease.hold is None:
            raise EngineClosed("the engine was closed")
        return lease.hold

    @contextlib.contextmanager
    def room(self, name: str, size: int) -> Iterator[None]:
        """Have `size` bytes of the budget for the block. Raises `OutOfBudget`."""
        with self._occupied():
            hold = self._reserved(name, size, passes=True)
        try:
            yield
        finally:
            self.residency.give_back(hold)

    def keep(self, name: str, size: int, make: Callable[[], T]) -> T:
        """Have `size` bytes of the budget for good, for what `make` returns. Raises `OutOfBudget`, and what it does."""
        hold = self.reserve(name, size)
        try:
            made = make()
        except BaseException:
            self.residency.give_back(hold)
            raise
        self.budget.settle(hold, size)
        return made

    @contextlib.contextmanager
    def turn(self, lock: threading.Lock) -> Iterator[None]:
        """Hold `lock` for the block; who waits for it can be cancelled. Raises `Cancelled`, `EngineClosed`."""
        self._check_caller()
        while not lock.acquire(timeout=LOOK_UP):
            self.worker.heed()
        try:
            yield
        finally:
            lock.release()

    def unload(self, name: str) -> bool:
        """Free the model of a role or name, and who stands in for it; their requests end with `EngineClosed`."""
        specs = [self.models.spec(name)]
        if stands_in := self.replaced.pop(name, None):
            specs.append(self.models.spec(stands_in.by))
            if set(self.models.roles(specs[1])) - {"fallback"}:
                specs.pop()  # it is there for a role of its own, too
        dropped = [self.worker.call(partial(self.residency.drop, key_of(spec))) for spec in specs]
        return any(dropped)

    def in_memory(self, name: str) -> bool:
        """Return whether the model of a role or name is loaded."""
        return self._in_memory(key_of(self.models.spec(name))) is not None

    def plan(self, name: str) -> LoadPlan:
        """Return what a load would take and do. Raises `ModelNotFound` for an unknown name, `ModelCorrupt`."""
        spec = self.models.spec(name)
        fallback = self.models.fallback(name)
        loaded = self._in_memory(key_of(spec))
        ways = [loaded.how] if loaded else self.models.ways(spec)
        outlooks = [self.residency.outlook(how.option) for how in ways]
        best = next((at for at, (verdict, _) in enumerate(outlooks) if verdict != "too large"), len(ways) - 1)
        how, (verdict, evicts) = ways[best], outlooks[best]
        return LoadPlan(
            model=spec.name,
            kind=spec.kind,
            installed=layout.installed(spec),
            verdict="loaded" if loaded else verdict if how.ram.total is not None else "unknown",
            ram=how.ram,
            measured=how.measured,
            n_ctx=how.cells,
            n_gpu_layers=how.n_gpu_layers,
            vram=how.vram,
            budget=self.budget.total(),
            held=self.budget.held,
            evicts=() if loaded else evicts,
            fallback=fallback.name if fallback else None,
            adapters=spec.adapted,
        )

    def retune(self, name: str) -> None:
        """Measure anew how a chat model runs best, with nothing of it in memory before or after."""
        self.unload(name)
        spec = self.models.spec(name, "llm")
        with tuning.measured_anew(layout.locate(spec)), self._occupied():
            self._release(self._granted(self._want(spec)))
        self.unload(name)

    def status(self, profile: str, home: str) -> Status:
        """Return what is held and in memory, as it is now."""
        taken = machine.resident()
        return Status(
            profile=profile,
            home=home,
            models=str(layout.models_dir()),
            budget=self.budget.total(),
            held=self.budget.held,
            resident=taken.total,
            anonymous=taken.anonymous,
            file_backed=taken.file_backed,
            parts=self.budget.parts(),
            loaded=tuple(self._shown(loaded) for loaded in self.models.loaded),
            waiting=self.residency.waiting,
            replaced=tuple(self.replaced.values()),
        )

    # ---- for the worker, on the compute thread

    def steppable(self) -> Iterable[Steppable]:
        """Return the loaded chat models."""
        return self.models.steppable()

    def tend(self) -> float | None:
        """Load, unload and grant what it is time for; return after how many seconds to come back."""
        return self.residency.tend()

    def interrupt(self) -> None:
        """Let what runs end soon: from any thread, when the engine closes."""
        for loaded in self.models.loaded:
            loaded.model.interrupt()

    def close(self, error: BaseException) -> None:
        """Refuse who waits, and free everything."""
        self.residency.close(str(error))
        self.models.close(error)

    # ---- for the residency

    def evict(self, key: Hashable) -> None:
        """Free a model, on the compute thread."""
        try:
            self.models.free(cast("Key", key))
        except Exception as error:  # noqa: BLE001 - the thread must live
            _log.error("%s could not be freed: %s", cast("Key", key)[0], type(error).__name__)

    def wake(self) -> None:
        """Let the compute thread look what there is to do."""
        with contextlib.suppress(EngineClosed):
            self.worker.nudge()

    # ---- inside

    @contextlib.contextmanager
    def _occupied(self) -> Iterator[None]:
        """Let this thread ask for nothing else in the block: it waits for a model, or has one."""
        self._check_caller()
        self._using.engine = True
        try:
            yield
        finally:
            self._using.engine = False

    def _release(self, lease: Lease) -> None:
        try:
            self.residency.release(lease)
        except BaseException:  # a Ctrl-C may come before it has begun, and the model would stay for ever
            self.residency.release(lease)
            raise

    def _check_caller(self) -> None:
        """Who has a model and waits for another could wait for ever: the other may need the room of the first."""
        self.worker.check_caller()
        self.worker.heed()  # who was cancelled before begins nothing
        if getattr(self._using, "engine", False):
            raise EngineError("the engine cannot wait for itself: a progress callback called one of its methods")

    def _with_fallback(self, name: str, spec: ModelSpec) -> Lease:
        fallback = self.models.fallback(name)
        try:
            self._check_refused(spec, fallback)
            lease = self._leased(spec)
        except EngineError as error:
            if fallback is None or isinstance(error, Cancelled | ConfigError | EngineClosed | InvalidInput):
                raise
            return self._replace(name, spec, fallback, error)
        self.replaced.pop(name, None)
        return lease

    def _replace(self, name: str, spec: ModelSpec, fallback: ModelSpec, error: EngineError) -> Lease:
        if isinstance(error.__cause__, MemoryError):
            self._refused.setdefault(key_of(spec), (time.monotonic() + _REFUSED, error))
        try:
            lease = self._leased(fallback)
        except ModelNotFound as missing:
            raise _with_note(error, f" Its fallback is not here either: {missing}") from None
        except (ModelCorrupt, OutOfBudget) as other:
            raise _with_note(error, f" Nor could its fallback be loaded: {other}") from None
        if name not in self.replaced:
            _log.warning("%s answers as %s instead of %s: %s", fallback.name, name, spec.name, error)
        self.replaced[name] = Replaced(name, spec.name, fallback.name, str(error))
        return lease

    def _check_refused(self, spec: ModelSpec, fallback: ModelSpec | None) -> None:
        until, error = self._refused.get(key_of(spec), (0.0, None))
        if fallback and error and time.monotonic() < until:
            raise error.with_traceback(None)  # that of the last time would be kept, and whatever its frames hold
        self._refused.pop(key_of(spec), None)

    def _leased(self, spec: ModelSpec) -> Lease:
        for _ in range(2):
            self._make_ready(spec)
            try:
                return self._granted(self._want(spec))
            except CacheDamaged as error:  # it is gone, and can be made anew, once
                damaged = error
        self.ready.give_up(spec, damaged)
        return self._granted(self._want(spec))

    def _make_ready(self, spec: ModelSpec) -> None:
        if self._in_memory(key_of(spec)) is None:
            self.ready(spec, self._told)

    def _told(self, event: Progress) -> None:
        self.worker.heed()
        report(self.models.progress, event)

    @contextlib.contextmanager
    def _room(self, name: str, size: int) -> Iterator[None]:
        """Have room for a preparation, on a thread that waits for its model."""
        hold = self._reserved(name, size, passes=True)
        try:
            yield
        finally:
            self.residency.give_back(hold)

    def _want(self, spec: ModelSpec) -> Want:
        key = key_of(spec)
        loaded = self._in_memory(key)
        ways = [loaded.how] if loaded else self.models.ways(spec, here=True)
        options = tuple(how.option for how in ways)
        return Want(key, spec.name, options, partial(self._begin, spec), _ADVICE[spec.kind])

    def _granted(self, want: Want) -> Lease:
        lease = self.residency.lease(want)
        try:
            self.worker.obtain(lease.future, partial(self.residency.release, lease), partial(self._tell, want))
        except BaseException:
            self.residency.release(lease)
            if lease.hold is not None:  # the bytes were there already
                self.residency.give_back(lease.hold)
            raise
        return lease

    def _tell(self, want: Want) -> None:
        """Tell who waits that it is for room; of a load, that tells itself. Raises `Cancelled`."""
        if not self.residency.loads(want.key):
            report(self.models.progress, Progress(f"wait for room for {want.name}", 0, 1, "model"))

    def _begin(self, spec: ModelSpec, option: Option, hold: Hold) -> Callable[[], object]:
        def make(heed: Heed) -> Loaded:
            return self.models.make(spec, option.how, heed)

        load = Load(
            key=hold,  # not the model's: who asks anew where a load was given up must not join that one
            name=spec.name,
            make=make,
            adopt=partial(self._adopt, hold),
            free=_free,
            gone=partial(self.residency.give_back, hold),
        )
        waiter = self.worker.loader.ask(load)
        waiter.add_done_callback(partial(self._ended, key_of(spec), hold))
        return waiter.cancel

    def _ended(self, key: Key, hold: Hold, waiter: Future[None]) -> None:
        from engine.offload import GpuRefused

        if not waiter.cancelled() and (error := waiter.exception()) is not None:
            self.residency.failed(key, hold, error, elsewhere=isinstance(error, GpuRefused))

    def _adopt(self, hold: Hold, made: Loaded) -> None:
        """On the compute thread: from here on the model is in use."""
        key, runner = key_of(made.spec), made.runner
        if not self.residency.expects(key, hold):
            raise EngineClosed(f"{made.spec.name} was given up while it loaded")
        made = self._settle(hold, made)
        self.models.keep(made)
        if not self.residency.adopted(key, hold, lambda: runner is not None and runner.busy):
            self.models.forget(key)
            raise EngineClosed(f"{made.spec.name} was unloaded while it loaded")

    def _settle(self, hold: Hold, made: Loaded) -> Loaded:
        """Say what a load came to; what of it stays when the model leaves is held apart, once."""
        how, apart = made.how.without_libraries(), made.how.libraries_apart
        counted = Option(0) if self.models.has_libraries else apart
        self.budget.settle(hold, how.option.bytes + counted.bytes, how.option.mapped + counted.mapped)
        if counted.bytes:
            self.residency.keep(self.budget.split(hold, "torch and its libraries", counted.bytes, counted.mapped))
            self.models.has_libraries = True
        return replace(made, how=how)

    def _in_memory(self, key: Key) -> Loaded | None:
        return next((loaded for loaded in self.models.loaded if key_of(loaded.spec) == key), None)

    def _shown(self, loaded: Loaded) -> LoadedModel:
        hold, idle = self.residency.seen(key_of(loaded.spec)) or (None, 0.0)
        runner = loaded.runner
        return LoadedModel(
            name=loaded.spec.name,
            kind=loaded.spec.kind,
            roles=self.models.roles(loaded.spec),
            load_seconds=loaded.seconds,
            ram=hold.bytes if hold else 0,
            mapped=hold.mapped if hold else 0,
            vram=runner.vram if runner else 0,
            n_gpu_layers=runner.n_gpu_layers if runner else 0,
            idle=idle,
            requests=runner.requests if runner else 0,
            kv_used=runner.kv_used if runner else 0,
            kv_cells=runner.kv_cells if runner else 0,
            tokens_per_second=runner.tokens_per_second if runner else None,
            backend=loaded.backend,
            adapters=loaded.spec.adapted,
        )


def _free(made: Loaded) -> None:
    made.close()
    give_back()


class Growing:
    """The bytes of one thing that only grows, reserved in steps; any number of threads may ask."""

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool, self._name, self._size = pool, name, 0
        self._lock = threading.Lock()

    def __call__(self, size: int) -> None:
        """Have at least `size` bytes. Raises `OutOfBudget`."""
        with self._pool.turn(self._lock):
            if size > self._size:
                more = max(size - self._size, _STEP)
                self._pool.keep(self._name, more, lambda: None)
                self._size += more


def _with_note(error: EngineError, note: str) -> EngineError:
    if not str(error).endswith(note):  # others who waited, or were refused before, may have raised the same one
        error.args = (f"{error.args[0]}{note}", *error.args[1:])
    return error
