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
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import Cancelled, EngineClosed, EngineError
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
    """Owns models; remembers who closed it and why."""

    def __init__(self, *models: Model) -> None:
        self.models = list(models)
        self.reasons: list[BaseException] = []
        self.closed_by: threading.Thread | None = None

    def steppable(self) -> list[Model]:
        return self.models

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


def test_jobs_and_steps_take_turns(worker: Worker, house: House, callers: ThreadPoolExecutor) -> None:
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
    assert order == ["job", "a", "b", "job", "a", "b", "job", "a", "a"]


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


# ---- scopes


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
    with worker._lock:
        assert in_child(lambda: 7 if closed(lambda: worker.call(lambda: None)) else 8) == 7


_INTERRUPTED = """
import os, signal, sys, threading
from engine.worker import Worker

class House:
    def steppable(self): return []
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
