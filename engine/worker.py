"""The one compute thread: it owns every native handle. Jobs go in, results and pieces come out.

Callers wait on futures and queues, so they can be interrupted, cancelled and timed out; the thread itself never
waits for a caller, nor for a load: those run beside it, on the loader thread. Between two jobs it gives every busy
model one step, and the other way round.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from engine.errors import Cancelled, EngineClosed, EngineError
from engine.loader import Loader

_log = logging.getLogger("engine.worker")
_CLOSED = "the engine is closed; make a new Engine"
LOOK_UP = 1.0  # seconds after which a waiting caller looks up: Windows shows a Ctrl-C only between two waits
_JOBS = 0.02  # seconds of jobs between two steps, or one job if that takes longer
T = TypeVar("T")


class Steppable(Protocol):
    """A loaded model with requests to run."""

    @property
    def busy(self) -> bool: ...
    def step(self) -> None: ...
    def fail_all(self, error: BaseException) -> None: ...


class Owner(Protocol):
    """What the thread works for: models that it steps and frees.

    `tend` is called between two steps; it returns after how many seconds it wants to be called again at the latest.
    `interrupt`, from any thread, lets what runs end soon, for good.
    """

    def steppable(self) -> Iterable[Steppable]: ...
    def tend(self) -> float | None: ...
    def interrupt(self) -> None: ...
    def close(self, error: BaseException) -> None: ...


class Stoppable(Protocol):
    """What a job has begun, and its caller may stop from any thread."""

    def cancel(self) -> None: ...


S = TypeVar("S", bound=Stoppable)


class Scope:
    """What one caller has under way, so that all of it can be cancelled from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._undo: list[Callable[[], object]] = []
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel everything that is under way, and what would start later."""
        with self._lock:
            self.cancelled = True
            undo = list(self._undo)
        for stop in undo:
            stop()

    @contextlib.contextmanager
    def covering(self, stop: Callable[[], object]) -> Iterator[None]:
        """Call `stop` if the scope is cancelled inside the block, or was before: what it stops may have begun."""
        with self._lock:
            late = self.cancelled
            self._undo.append(stop)
        try:
            if late:
                stop()
                raise Cancelled("the call was cancelled")
            yield
        finally:
            with self._lock:
                self._undo.remove(stop)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let what begins inside the block belong to this scope."""
        token = SCOPE.set(self)
        try:
            yield
        finally:
            SCOPE.reset(token)


SCOPE: ContextVar[Scope | None] = ContextVar("gieok_scope", default=None)


@contextlib.contextmanager
def cancels(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` if the caller is interrupted (Ctrl-C) or its scope is cancelled inside the block."""
    scope = SCOPE.get()
    try:
        with scope.covering(stop) if scope else contextlib.nullcontext():
            yield
    except (KeyboardInterrupt, SystemExit):
        stop()
        raise


class Worker:
    """The compute thread, started with the first job; it dies only by `close`, or by a bug."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._jobs: SimpleQueue[tuple[Future[object], Callable[[], object]] | None] = SimpleQueue()
        self._lock = threading.RLock()  # not a plain one: the garbage collector may close an engine inside
        self._thread: threading.Thread | None = None
        self.loader = Loader(self.post)
        self._ended: str | None = None
        self._pid = os.getpid()

    def check(self) -> None:
        """Raise `EngineClosed` unless jobs are taken."""
        if os.getpid() != self._pid:
            raise EngineClosed("this engine belongs to the parent process; make a new Engine after fork")
        if self._ended:
            raise EngineClosed(self._ended)

    def heed(self) -> None:
        """Raise `EngineClosed` after `close`, and `Cancelled` where the caller's task was: for what runs elsewhere."""
        self.check()
        scope = SCOPE.get()
        if scope and scope.cancelled:
            raise Cancelled("the call was cancelled")

    def call(self, job: Callable[[], T]) -> T:
        """Run `job` on the compute thread and return its result, or raise what it raised.

        A caller who is cancelled gets `Cancelled` at once: a job that waits does not run, one that runs does so for
        nothing.
        """
        self.check_caller()
        future = self.post(job)
        return _await(future, partial(_give_up, future))

    def obtain(self, future: Future[T], stop: Callable[[], object], look: Callable[[], object] = lambda: None) -> T:
        """Return the result of `future`; who is interrupted or cancelled meanwhile calls `stop`, and `Cancelled` is
        raised. Raises what it holds, too."""
        return _await(future, stop, look)

    def start(self, begin: Callable[[], S]) -> S:
        """Run `begin` like a job of `call`; what it began is cancelled if the caller does not live to see it."""
        begun: list[S] = []
        given_up = threading.Event()

        def job() -> S:
            begun.append(begin())
            if given_up.is_set():
                begun[0].cancel()
            return begun[0]

        def give_up() -> None:
            given_up.set()
            for one in begun:
                one.cancel()

        with cancels(give_up):
            return self.call(job)

    def post(self, job: Callable[[], T]) -> Future[T]:
        """Queue `job` and do not wait for it."""
        self.check()  # before the lock, which in a forked child may be held by a thread that is not there
        future: Future[T] = Future()
        self._put(future, job)
        return future

    def nudge(self) -> None:
        """Let the thread look what its owner has to do, and do not wait for it. Raises `EngineClosed`."""
        self.check()
        with self._lock:
            self._begin()
            self._jobs.put(None)

    def close(self) -> None:
        """End both threads and free all models; running and waiting calls and loads raise `EngineClosed`."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            thread, self._ended = self._thread, self._ended or _CLOSED
            self._jobs.put(None)  # only wakes the thread; that it must end, `_ended` says
        self.loader.stop(self._ended)
        self._owner.interrupt()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self.loader.join()

    def check_caller(self) -> None:
        """Raise `EngineClosed` unless jobs are taken, and `EngineError` on a thread that would wait for itself."""
        self.check()
        if threading.current_thread() in (self._thread, self.loader.thread):
            raise EngineError("the engine cannot wait for itself: a progress callback called one of its methods")

    def _put(self, future: Future[T], job: Callable[[], T]) -> None:
        with self._lock:
            self.check()
            self._begin()
            self._jobs.put((future, job))  # type: ignore[arg-type]

    def _begin(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="gieok-compute", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        reason: BaseException = EngineClosed(_CLOSED)
        try:
            while self._turn():
                pass
        except BaseException as error:  # noqa: BLE001 - whatever it was, nobody may wait for ever
            _report("the compute thread died", error)
            reason = EngineClosed(f"the engine's worker died of {type(error).__name__}; make a new Engine")
        self._end(reason)

    def _turn(self) -> bool:
        """Run the jobs that wait, and one step of each busy model; False when told to end."""
        if self._ended:
            return False
        pause = self._owner.tend()
        self._run_jobs(0.0 if any(model.busy for model in self._owner.steppable()) else pause)
        for model in list(self._owner.steppable()):
            if model.busy and not self._ended:
                _step(model)
        return True

    def _run_jobs(self, pause: float | None) -> None:
        """Run what is queued, so that requests that come together begin together, but not for long beside streams.

        If nothing is, wait for `pause` seconds, or without an end.
        """
        until = time.perf_counter() + _JOBS
        while not self._ended:
            try:
                job = self._jobs.get(pause != 0, pause)
            except Empty:
                return
            if job is not None:
                _run_job(*job)
            if time.perf_counter() > until:
                return
            pause = 0.0

    def _end(self, reason: BaseException) -> None:
        with self._lock:
            self._ended = str(reason)
        self.loader.stop(self._ended)
        try:
            self._owner.close(reason)
        except Exception as error:  # noqa: BLE001 - nor for this
            _report("the models could not be freed", error)
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None and job[0].set_running_or_notify_cancel():
                job[0].set_exception(reason)


def wait(future: Future[T], look: Callable[[], object] = lambda: None) -> T:
    """Return the result of `future`, or raise what it raised; a Ctrl-C ends the wait on every system.

    `look` is called every second; what it raises ends the wait, too.
    """
    while True:
        try:
            return future.result(LOOK_UP)
        except TimeoutError:
            if future.done():  # then it is the job's own
                return future.result()
            look()


def _await(future: Future[T], stop: Callable[[], object], look: Callable[[], object] = lambda: None) -> T:
    try:
        with cancels(stop):
            return wait(future, look)
    except CancelledError:
        raise Cancelled("the call was cancelled") from None


def _give_up(future: Future[T]) -> None:
    """Let the caller go on at once, though the job may be running."""
    if not future.cancel():
        with contextlib.suppress(InvalidStateError):  # it ended just now
            future.set_exception(Cancelled("the call was cancelled"))


def _run_job(future: Future[object], job: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    gone = contextlib.suppress(InvalidStateError)  # the caller may have given up
    try:
        result = job()
    except BaseException as error:
        with gone:
            future.set_exception(error)
        if not isinstance(error, Exception):
            raise
    else:
        with gone:
            future.set_result(result)


def _step(model: Steppable) -> None:
    try:
        model.step()
    except Exception as error:  # noqa: BLE001 - the callers of this model are told
        _log.error("a step failed: %s", type(error).__name__)
        model.fail_all(error)


def _report(what: str, error: BaseException) -> None:
    """Log where `error` came from, without its message: that may hold what a user wrote."""
    _log.error("%s of %s\n%s", what, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
