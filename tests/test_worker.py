"""The compute thread with fake models: order, errors, ends. Waits are guards against hangs; none decides a test."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from engine.errors import Cancelled, EngineClosed, EngineError
from engine.loader import Heed, Load
from engine.worker import SCOPE, Scope, Worker, cancels

HANG = 60.0  # seconds after which something is taken to hang
SECRET = "words of a user"
posix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")


class Model:
    """Something to step: `steps` are functions, one a step."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)
        self.interrupted = threading.Event()
        self.failed: BaseException | None = None
        self.closed = False

    @property
    def busy(self) -> bool:
        return bool(self.steps)

    def step(self) -> None:
        assert not self.closed, "stepped after it was closed"
        self.steps.pop(0)()

    def interrupt(self) -> None:
        self.interrupted.set()

    def fail_all(self, error: BaseException) -> None:
        self.failed, self.steps = error, []


class House:
    """Owns models; remembers who closed it and why, and on which thread and how often it was looked after."""

    def __init__(self, *models: Model) -> None:
        self.models = list(models)
        self.pause: float | None = None
        self.tended: list[threading.Thread] = []
        self.reasons: list[BaseException] = []
        self.closed_by: threading.Thread | None = None

    def steppable(self) -> list[Model]:
        return self.models

    def interrupt(self) -> None:
        for model in self.models:
            model.interrupt()

    def tend(self) -> float | None:
        self.tended.append(threading.current_thread())
        return self.pause

    def close(self, error: BaseException) -> None:
        self.reasons.append(error)
        self.closed_by = threading.current_thread()
        for model in self.models:
            model.fail_all(error)
            model.closed = True


class Gate:
    """Holds the compute thread inside a job until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(HANG)


class Shelf:
    """One thing that is loaded when first wanted; `make` says how."""

    def __init__(self, make: Callable[[Heed], object] = lambda heed: "the thing") -> None:
        self.make = make
        self.made: list[object] = []
        self.freed: list[object] = []
        self.gone = 0
        self.there: dict[str, object] = {}
        self.adopted_by: threading.Thread | None = None

    def wanted(self, worker: Worker, use: Callable[[object], object] = lambda thing: thing) -> object:
        """Have it loaded, and use it on the compute thread."""
        worker.check_caller()
        if "thing" not in self.there:
            waiter = worker.loader.ask(Load("thing", "thing", self._make, self._adopt, self.freed.append, self._gone))
            worker.obtain(waiter, waiter.cancel)
        return worker.call(lambda: use(self.there["thing"]))

    def _make(self, heed: Heed) -> object:
        self.made.append(self.make(heed))
        return self.made[-1]

    def _adopt(self, thing: object) -> None:
        self.adopted_by = threading.current_thread()
        self.there["thing"] = thing

    def _gone(self) -> None:
        assert self.freed == self.made, "first it is freed"
        self.gone += 1


class SlowToLoad(Shelf):
    """Loads behind a gate, and heeds who gave up when that opens."""

    def __init__(self) -> None:
        self.gate = Gate()
        super().__init__(self._wait)

    def _wait(self, heed: Heed) -> object:
        self.gate()
        heed()
        return "the thing"


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def worker(house: House) -> Iterator[Worker]:
    worker = Worker(house)
    yield worker
    worker.close()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def settled(worker: Worker) -> None:
    """Wait until what was asked before is done."""
    worker.call(lambda: None)


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(int(HANG / 0.005)):
        if condition():
            return
        waiting.wait(0.005)
    raise AssertionError("waited too long")


def compute_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "gieok-compute"}


# ---- jobs and steps


def test_nothing_starts_before_the_first_job(house: House) -> None:
    before = compute_threads()
    worker = Worker(house)
    worker.check()
    worker.close()
    assert compute_threads() == before and not house.reasons


def test_all_jobs_run_on_one_thread_in_order(worker: Worker, callers: ThreadPoolExecutor) -> None:
    found = [worker.call(threading.current_thread) for _ in range(3)]
    found += [future.result(HANG) for future in [callers.submit(worker.call, threading.current_thread)] * 3]
    assert len(set(found)) == 1 and found[0] is not threading.current_thread()
    assert worker.call(lambda: "한글") == "한글"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0, "a b job a b job a job a"), (HANG, "job job job a b a b a a")],
    ids=["jobs that take long", "jobs that come together"],
)
def test_jobs_and_steps_take_turns(
    worker: Worker,
    house: House,
    callers: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    expected: str,
) -> None:
    monkeypatch.setattr("engine.worker._JOBS", seconds)
    order: list[str] = []
    gate = Gate()
    first = callers.submit(worker.call, gate)
    assert gate.entered.wait(HANG)
    house.models.append(Model(*[lambda: order.append("a")] * 4))
    house.models.append(Model(*[lambda: order.append("b")] * 2))
    jobs = []
    for _ in range(3):
        jobs.append(callers.submit(worker.call, lambda: order.append("job")))
        until(lambda: worker._jobs.qsize() == len(jobs))
    gate.opened.set()
    for future in [first, *jobs]:
        future.result(HANG)
    until(lambda: not any(model.busy for model in house.models))
    assert order == expected.split()


def test_an_idle_thread_waits_and_is_woken(worker: Worker, house: House) -> None:
    done = threading.Event()
    settled(worker)
    worker.call(lambda: house.models.append(Model(lambda: None, done.set)))
    assert done.wait(HANG)


def test_a_model_that_a_job_just_closed_is_not_stepped(
    worker: Worker, house: House, callers: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread lists busy models before the job, and the job may unload one of them."""
    gate, model = Gate(), Model(lambda: None, lambda: None)

    def unload() -> None:
        model.fail_all(EngineClosed("unloaded"))
        model.closed = True

    model.steps[0] = gate
    worker.call(lambda: house.models.append(model))
    assert gate.entered.wait(HANG)
    unloading = callers.submit(worker.call, unload)
    until(lambda: worker._jobs.qsize() == 1)
    gate.opened.set()
    unloading.result(HANG)
    settled(worker)
    assert isinstance(model.failed, EngineClosed) and not caplog.records


# ---- errors


def test_what_a_job_raises_reaches_its_caller_only(worker: Worker, callers: ThreadPoolExecutor) -> None:
    gate = Gate()
    first = callers.submit(worker.call, gate)
    assert gate.entered.wait(HANG)
    bad = callers.submit(worker.call, lambda: 1 // 0)
    good = callers.submit(worker.call, lambda: 7)
    gate.opened.set()
    assert first.result(HANG) is None and good.result(HANG) == 7
    with pytest.raises(ZeroDivisionError):
        bad.result(HANG)
    assert worker.call(lambda: 8) == 8


def test_a_step_that_fails_ends_that_model_only(worker: Worker, house: House, caplog: pytest.LogCaptureFixture) -> None:
    done, error = threading.Event(), ValueError(SECRET)

    def fail() -> None:
        raise error

    bad, good = Model(fail, fail), Model(lambda: None, done.set)
    worker.call(lambda: house.models.extend([bad, good]))
    assert done.wait(HANG)
    settled(worker)
    assert bad.failed is error and good.failed is None
    assert "ValueError" in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize("death", [SystemExit(SECRET), KeyboardInterrupt()])
def test_the_thread_dies_of_what_is_no_exception_and_says_so(
    house: House, callers: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, death: BaseException
) -> None:
    def die() -> None:
        raise death

    worker, gate, failures = Worker(house), Gate(), []

    def ask(job: Callable[[], object]) -> None:
        try:
            worker.call(job)
        except (EngineClosed, SystemExit, KeyboardInterrupt) as error:
            failures.append(error)

    first = callers.submit(ask, gate)
    assert gate.entered.wait(HANG)
    dying = callers.submit(ask, die)
    until(lambda: worker._jobs.qsize() == 1)
    waiting = [callers.submit(ask, lambda: None) for _ in range(3)]
    until(lambda: worker._jobs.qsize() == 4)
    gate.opened.set()
    for future in [first, dying, *waiting]:
        future.result(HANG)
    assert len(failures) == 4 and death in failures
    others = [error for error in failures if error is not death]
    assert all(isinstance(error, EngineClosed) and type(death).__name__ in str(error) for error in others)
    with pytest.raises(EngineClosed, match=type(death).__name__):
        worker.call(lambda: None)
    with pytest.raises(EngineClosed, match=type(death).__name__):
        worker.check()
    assert len(house.reasons) == 1
    worker.close()
    assert "the compute thread died" in caplog.text and SECRET not in caplog.text


def test_a_timeout_of_the_job_is_not_one_of_the_wait(worker: Worker) -> None:
    def slow() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        worker.call(slow)


def test_a_call_from_the_compute_thread_raises_instead_of_waiting_for_itself(worker: Worker) -> None:
    """A progress callback runs there, and may think of asking the engine something."""
    with pytest.raises(EngineError, match="itself"):
        worker.call(lambda: worker.call(lambda: None))
    assert worker.call(lambda: 1) == 1


def test_a_thread_that_cannot_start_is_tried_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            worker.call(lambda: 1)
    assert worker.call(lambda: 2) == 2


# ---- close


def test_close_frees_everything_on_the_compute_thread_and_leaves_no_thread(house: House) -> None:
    before = compute_threads()
    worker = Worker(house)
    thread = worker.call(threading.current_thread)
    worker.close()
    worker.close()
    assert house.closed_by is thread and len(house.reasons) == 1
    assert isinstance(house.reasons[0], EngineClosed)
    assert compute_threads() == before


def test_use_after_close(house: House) -> None:
    worker = Worker(house)
    settled(worker)
    worker.close()
    for use in (worker.check, lambda: worker.call(lambda: None)):
        with pytest.raises(EngineClosed, match="closed"):
            use()


def test_close_before_the_first_job(house: House) -> None:
    worker = Worker(house)
    worker.close()
    with pytest.raises(EngineClosed):
        worker.call(lambda: None)
    assert worker._thread is None


def test_close_during_a_long_job_lets_it_end_and_turns_away_who_waits(
    house: House, callers: ThreadPoolExecutor
) -> None:
    worker, gate, model = Worker(house), Gate(), Model()
    house.models.append(model)
    running = callers.submit(worker.call, gate)
    assert gate.entered.wait(HANG)
    waiting = [callers.submit(worker.call, lambda: None) for _ in range(3)]
    until(lambda: worker._jobs.qsize() == 3)
    closing = [callers.submit(worker.close) for _ in range(3)]
    assert model.interrupted.wait(HANG), "a decode that runs is told to stop"
    with pytest.raises(EngineClosed):
        worker.call(lambda: None)
    assert not any(future.done() for future in closing) and not house.reasons
    gate.opened.set()
    for future in closing:
        future.result(HANG)
    assert running.result(HANG) is None
    for future in waiting:
        with pytest.raises(EngineClosed):
            future.result(HANG)
    assert len(house.reasons) == 1


def test_close_during_a_step(house: House, callers: ThreadPoolExecutor) -> None:
    worker, gate = Worker(house), Gate()
    model = Model(gate, lambda: None)
    worker.call(lambda: house.models.append(model))
    assert gate.entered.wait(HANG)
    closing = callers.submit(worker.close)
    assert model.interrupted.wait(HANG)
    gate.opened.set()
    closing.result(HANG)
    assert isinstance(model.failed, EngineClosed) and model.closed


def test_close_from_inside_a_job(house: House) -> None:
    worker = Worker(house)

    def job() -> str:
        worker.close()
        with pytest.raises(EngineClosed):
            worker.check()
        return "done"

    assert worker.call(job) == "done"
    thread = worker._thread
    assert thread is not None
    thread.join(HANG)
    assert not thread.is_alive() and len(house.reasons) == 1


def test_close_and_calls_from_many_threads_at_once(house: House, callers: ThreadPoolExecutor) -> None:
    for _ in range(50):
        worker, start = Worker(house), threading.Barrier(8)

        def call(worker: Worker = worker, start: threading.Barrier = start) -> str:
            start.wait(HANG)
            try:
                return worker.call(lambda: "answered")
            except EngineClosed:
                return "closed"

        def close(worker: Worker = worker, start: threading.Barrier = start) -> None:
            start.wait(HANG)
            worker.close()

        answers = [callers.submit(call) for _ in range(6)]
        closing = [callers.submit(close) for _ in range(2)]
        assert {future.result(HANG) for future in answers} <= {"answered", "closed"}
        for future in closing:
            future.result(HANG)
        assert worker._thread is None or not worker._thread.is_alive()


def test_an_owner_that_cannot_close_keeps_nobody_waiting(
    callers: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(House):
        def close(self, error: BaseException) -> None:
            raise OSError(SECRET)

    worker, gate = Worker(Broken()), Gate()
    callers.submit(worker.call, gate)
    assert gate.entered.wait(HANG)
    waiting = callers.submit(worker.call, lambda: None)
    until(lambda: worker._jobs.qsize() == 1)
    closing = callers.submit(worker.close)
    gate.opened.set()
    closing.result(HANG)
    with pytest.raises(EngineClosed):
        waiting.result(HANG)
    assert "OSError" in caplog.text and SECRET not in caplog.text


def test_dropping_what_a_worker_belongs_to_frees_it() -> None:
    class Facade:
        def __init__(self) -> None:
            self.house = House()
            self.worker = Worker(self.house)
            self.release = weakref.finalize(self, self.worker.close)

    facade = Facade()
    house, thread, gone = facade.house, facade.worker.call(threading.current_thread), weakref.ref(facade)
    with pytest.raises(ZeroDivisionError):
        facade.worker.call(lambda: 1 // 0)
    del facade
    gc.collect()
    assert gone() is None and len(house.reasons) == 1 and not thread.is_alive()


def test_a_job_is_not_kept_after_it_ran(worker: Worker) -> None:
    class Big:
        pass

    big = Big()
    gone = weakref.ref(big)
    worker.call(lambda big=big: None)  # type: ignore[misc]
    del big
    settled(worker)
    gc.collect()
    assert gone() is None


# ---- what its owner has to do


def test_the_owner_is_looked_after_on_the_compute_thread_alone(worker: Worker, house: House) -> None:
    assert house.tended == [], "nothing starts before there is something to do"
    thread = worker.call(threading.current_thread)
    settled(worker)
    assert set(house.tended) == {thread} and thread is not threading.current_thread()


def test_a_nudge_starts_the_thread_and_lets_it_look(worker: Worker, house: House) -> None:
    worker.nudge()
    until(lambda: bool(house.tended))
    settled(worker)
    for _ in range(3):
        before = len(house.tended)
        until(lambda: worker._jobs.qsize() == 0)
        worker.nudge()
        until(lambda: len(house.tended) > before)  # noqa: B023 - it is looked at in this turn
    assert threading.current_thread() not in house.tended


def test_the_thread_looks_again_after_the_seconds_it_was_told_and_else_sleeps(
    worker: Worker, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds are what the queue is asked to wait for; none of them passes here."""
    waits: list[tuple[bool, float | None]] = []
    real = worker._jobs.get
    house.pause = 1234.5

    class Queue:
        def __getattr__(self, name: str) -> object:
            return getattr(jobs, name)

        def get(self, block: bool = True, timeout: float | None = None) -> object:
            waits.append((block, timeout))
            return real(block, timeout)

    jobs = worker._jobs
    monkeypatch.setattr(worker, "_jobs", Queue())
    settled(worker)
    until(lambda: waits.count((True, 1234.5)) == 2)
    house.pause = None
    settled(worker)
    until(lambda: waits[-1] == (True, None))


def test_the_owner_is_looked_after_between_two_steps(worker: Worker, house: House) -> None:
    seen: list[int] = []
    worker.call(lambda: house.models.append(Model(*[lambda: seen.append(len(house.tended))] * 5)))
    until(lambda: len(seen) == 5)
    assert seen == list(range(seen[0], seen[0] + 5))


def test_a_nudge_after_close_is_refused(house: House) -> None:
    worker = Worker(house)
    worker.close()
    with pytest.raises(EngineClosed):
        worker.nudge()


def test_waiting_for_what_others_do_ends_with_it_or_with_the_caller(
    worker: Worker, callers: ThreadPoolExecutor
) -> None:
    done: Future[str] = Future()
    done.set_result("there")
    assert worker.obtain(done, lambda: None) == "there"
    failed: Future[str] = Future()
    failed.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        worker.obtain(failed, lambda: None)
    never: Future[str] = Future()
    scope, stopped = Scope(), threading.Event()

    def stop() -> None:
        stopped.set()
        never.cancel()

    def ask() -> None:
        with scope.entered():
            worker.obtain(never, stop)

    asking = callers.submit(ask)
    until(lambda: bool(scope._undo))
    scope.cancel()
    with pytest.raises(Cancelled):
        asking.result(HANG)
    assert stopped.is_set()


# ---- what a job needs


def test_what_a_job_needs_is_loaded_off_the_compute_thread_and_adopted_by_it(worker: Worker) -> None:
    shelf, thread = Shelf(lambda heed: threading.current_thread()), worker.call(threading.current_thread)
    loaded_by, used_by = [], []
    shelf.wanted(worker, lambda thing: (loaded_by.append(thing), used_by.append(threading.current_thread())))
    assert loaded_by[0] not in (thread, threading.current_thread()) and loaded_by[0] is worker.loader.thread
    assert used_by[0] is shelf.adopted_by is thread
    assert shelf.wanted(worker) is loaded_by[0] and len(shelf.made) == 1 and not shelf.gone


def test_jobs_and_steps_go_on_while_something_loads(worker: Worker, house: House, callers: ThreadPoolExecutor) -> None:
    shelf, stepped = SlowToLoad(), threading.Semaphore(0)
    waiting = callers.submit(shelf.wanted, worker)
    assert shelf.gate.entered.wait(HANG)
    worker.call(lambda: house.models.append(Model(*[stepped.release] * 5)))
    for _ in range(5):
        assert stepped.acquire(timeout=HANG)
    assert worker.call(lambda: "answered") == "answered" and not waiting.done()
    shelf.gate.opened.set()
    assert waiting.result(HANG) == "the thing"


def test_many_callers_load_once(worker: Worker, callers: ThreadPoolExecutor) -> None:
    shelf, start = SlowToLoad(), threading.Barrier(8)

    def want() -> object:
        start.wait(HANG)
        return shelf.wanted(worker)

    wanting = [callers.submit(want) for _ in range(8)]
    assert shelf.gate.entered.wait(HANG)
    until(lambda: sum(len(ticket.waiting) for ticket in list(worker.loader._tickets.values())) == 8)
    shelf.gate.opened.set()
    assert {one.result(HANG) for one in wanting} == {"the thing"} and len(shelf.made) == 1


def test_what_a_load_raises_reaches_its_callers_and_the_next_one_tries_again(worker: Worker) -> None:
    shelf = Shelf(lambda heed: 1 // 0)
    with pytest.raises(ZeroDivisionError) as caught:
        shelf.wanted(worker)
    assert caught.value.__context__ is None, "how it was waited for is of no interest to a user"
    assert shelf.gone == 1
    shelf.make = lambda heed: "mended"
    assert shelf.wanted(worker) == "mended"


def test_a_load_that_asks_the_engine_raises_instead_of_waiting_for_itself(worker: Worker) -> None:
    """A progress callback runs there, and may think of asking the engine something."""
    shelf, other = Shelf(), Shelf()
    shelf.make = lambda heed: other.wanted(worker)
    with pytest.raises(EngineError, match="itself"):
        shelf.wanted(worker)
    shelf.make = lambda heed: worker.call(lambda: None)
    with pytest.raises(EngineError, match="itself"):
        shelf.wanted(worker)
    with pytest.raises(EngineError, match="itself"):
        worker.call(lambda: other.wanted(worker))
    assert other.made == []


def test_a_cancelled_caller_goes_on_at_once_whatever_the_load_does(worker: Worker, callers: ThreadPoolExecutor) -> None:
    shelf, scope = SlowToLoad(), Scope()

    def want() -> object:
        with scope.entered():
            return shelf.wanted(worker)

    wanting = callers.submit(want)
    assert shelf.gate.entered.wait(HANG)
    until(lambda: bool(scope._undo))
    scope.cancel()
    with pytest.raises(Cancelled):
        wanting.result(HANG)
    assert not shelf.gate.opened.is_set(), "the load is still where it was"
    shelf.gate.opened.set()
    until(lambda: shelf.gone == 1)
    assert shelf.wanted(worker) == "the thing"
    assert shelf.made == ["the thing"], "the first was given up, and a new one made"


@pytest.mark.parametrize("jobs_before", [0, 1])
def test_close_during_a_load(house: House, callers: ThreadPoolExecutor, jobs_before: int) -> None:
    """With and without a compute thread that has begun."""
    worker, gate = Worker(house), Gate()

    def deaf(heed: Heed) -> object:
        gate()
        return "made in vain"

    shelf = Shelf(deaf)
    for _ in range(jobs_before):
        settled(worker)
    waiting = [callers.submit(shelf.wanted, worker) for _ in range(3)]
    assert gate.entered.wait(HANG)
    until(lambda: sum(len(ticket.waiting) for ticket in list(worker.loader._tickets.values())) == 3)
    closing = callers.submit(worker.close)
    for one in waiting:
        with pytest.raises(EngineClosed, match="closed"):
            one.result(HANG)
    assert not closing.done(), "what is being made still has to be freed"
    gate.opened.set()
    closing.result(HANG)
    assert shelf.freed == ["made in vain"] and shelf.there == {} and shelf.gone == 1
    assert worker.loader.thread is not None and not worker.loader.thread.is_alive()
    with pytest.raises(EngineClosed):
        shelf.wanted(worker)


def test_a_worker_that_dies_tells_who_waits_for_a_load(
    house: House, callers: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    def die() -> None:
        raise SystemExit

    worker, shelf = Worker(house), SlowToLoad()
    waiting = callers.submit(shelf.wanted, worker)
    assert shelf.gate.entered.wait(HANG)
    with pytest.raises(SystemExit):
        worker.call(die)
    with pytest.raises(EngineClosed, match="SystemExit"):
        waiting.result(HANG)
    shelf.gate.opened.set()
    worker.close()
    assert shelf.there == {} and "the compute thread died" in caplog.text


def test_an_engine_that_is_closed_by_a_load_ends(house: House, callers: ThreadPoolExecutor) -> None:
    """A progress callback may call close, from the loader thread."""
    worker = Worker(house)
    settled(worker)

    def close(heed: Heed) -> object:
        worker.close()
        return "made in vain"

    shelf = Shelf(close)
    with pytest.raises(EngineClosed):
        callers.submit(shelf.wanted, worker).result(HANG)
    worker.close()
    assert shelf.freed == ["made in vain"] and len(house.reasons) == 1


class Begun:
    """What a job has begun, and whether it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


def test_what_was_begun_for_one_who_has_gone_is_cancelled(worker: Worker, callers: ThreadPoolExecutor) -> None:
    gate, scope, begun = Gate(), Scope(), Begun()

    def begin() -> Begun:
        gate()
        return begun

    def ask() -> Begun:
        with scope.entered():
            return worker.start(begin)

    asking = callers.submit(ask)
    assert gate.entered.wait(HANG)
    scope.cancel()
    with pytest.raises(Cancelled):
        asking.result(HANG)
    assert not begun.cancelled.is_set(), "it has not begun yet"
    gate.opened.set()
    assert begun.cancelled.wait(HANG)


def test_what_was_begun_for_one_who_waits_goes_on(worker: Worker) -> None:
    begun = worker.start(Begun)
    assert not begun.cancelled.is_set()


# ---- scopes


@pytest.mark.parametrize("end", [lambda: "late", lambda: 1 // 0])
def test_a_cancelled_caller_does_not_wait_for_a_job_that_runs(
    worker: Worker, callers: ThreadPoolExecutor, end: Callable[[], object]
) -> None:
    gate, scope = Gate(), Scope()

    def job() -> object:
        gate()
        return end()

    def ask() -> None:
        with scope.entered():
            worker.call(job)

    asking = callers.submit(ask)
    assert gate.entered.wait(HANG)
    scope.cancel()
    with pytest.raises(Cancelled):
        asking.result(HANG)
    gate.opened.set()
    assert worker.call(lambda: "goes on") == "goes on"


def test_cancelling_a_scope_takes_a_waiting_job_back(worker: Worker, callers: ThreadPoolExecutor) -> None:
    gate, scope, ran = Gate(), Scope(), threading.Event()
    callers.submit(worker.call, gate)
    assert gate.entered.wait(HANG)

    def ask() -> None:
        SCOPE.set(scope)
        worker.call(ran.set)

    asking = callers.submit(ask)
    until(lambda: worker._jobs.qsize() == 1 and bool(scope._undo))
    scope.cancel()
    with pytest.raises(Cancelled):
        asking.result(HANG)
    gate.opened.set()
    settled(worker)
    assert not ran.is_set() and not scope._undo


def test_in_a_cancelled_scope_nothing_starts_and_what_had_begun_is_stopped() -> None:
    scope, stopped = Scope(), threading.Event()
    scope.cancel()
    token = SCOPE.set(scope)
    try:
        with pytest.raises(Cancelled), cancels(stopped.set):
            raise AssertionError("entered")
    finally:
        SCOPE.reset(token)
    assert stopped.is_set()


def test_a_scope_stops_only_what_is_under_way() -> None:
    scope, calls = Scope(), []
    with scope.covering(lambda: calls.append("outer")):
        with scope.covering(lambda: calls.append("inner")):
            pass
        scope.cancel()
    assert calls == ["outer"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_caller_stops_what_it_asked_for(interruption: type[BaseException]) -> None:
    stopped = threading.Event()
    with pytest.raises(interruption), cancels(stopped.set):
        raise interruption
    assert stopped.is_set()


def test_an_error_is_no_interruption() -> None:
    stopped = threading.Event()
    with pytest.raises(ValueError), cancels(stopped.set):  # noqa: PT011 - it is raised here
        raise ValueError
    assert not stopped.is_set()


# ---- other processes


def in_child(what: Callable[[], int]) -> int:
    """Fork, return what `what` returns in the child; a child that hangs is killed."""
    child = os.fork()
    if child == 0:
        signal.alarm(int(HANG))
        status = 99
        try:
            status = what()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def closed(use: Callable[[], object]) -> bool:
    try:
        use()
    except EngineClosed as error:
        return "fork" in str(error)
    return False


@posix_only
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_forked_child_every_use_raises(worker: Worker) -> None:
    settled(worker)

    def child() -> int:
        uses = [worker.check, lambda: worker.call(lambda: None)]
        assert all(closed(use) for use in uses)
        worker.close()
        return 7

    assert in_child(child) == 7
    assert worker.call(lambda: "here") == "here"


@posix_only
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_holds_the_lock(worker: Worker) -> None:
    settled(worker)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with worker._lock, worker.loader._lock:
            held.set()
            assert release.wait(HANG)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(HANG)

    def child() -> int:
        uses: list[Callable[[], object]] = [
            lambda: worker.call(lambda: None),
            lambda: Shelf().wanted(worker),
            worker.nudge,
        ]
        assert all(closed(use) for use in uses)
        worker.close()
        return 7

    try:
        assert in_child(child) == 7
    finally:
        release.set()
        holder.join()


@posix_only
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_during_a_load(worker: Worker, callers: ThreadPoolExecutor) -> None:
    shelf = SlowToLoad()
    waiting = callers.submit(shelf.wanted, worker)
    assert shelf.gate.entered.wait(HANG)

    def child() -> int:
        assert closed(lambda: shelf.wanted(worker))
        worker.close()
        return 7

    assert in_child(child) == 7
    shelf.gate.opened.set()
    assert waiting.result(HANG) == "the thing"


_INTERRUPTED = """
import os, signal, sys, threading
from engine.worker import Worker

class House:
    def steppable(self): return []
    def tend(self): return None
    def interrupt(self): return None
    def close(self, error): print("closed", flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children with it ignored
worker, entered, release = Worker(House()), threading.Event(), threading.Event()
def job():
    entered.set()
    release.wait(60)

def interrupt():
    entered.wait(60)
    os.kill(os.getpid(), signal.SIGINT)

signal.alarm(60)
threading.Thread(target=interrupt).start()
try:
    worker.call(job)
except KeyboardInterrupt:
    print("interrupted", flush=True)
release.set()
print(worker.call(lambda: "goes on"), flush=True)
worker.close()
"""


@posix_only
def test_control_c_reaches_the_waiting_caller_and_the_worker_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED], capture_output=True, encoding="utf-8", timeout=HANG, check=False
    )
    assert (done.stdout.split("\n"), done.returncode) == (["interrupted", "goes on", "closed", ""], 0), done.stderr
