"""Async twins: the same signature, cancellation, context, errors. Waits are guards against hangs."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from engine import Engine
from engine.errors import Cancelled, EngineClosed
from engine.twins import Threads, twin
from engine.worker import SCOPE, Worker, cancels

HANG = 60.0
T = TypeVar("T")
WORD: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="unset")
posix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")


class House:
    """An owner without models."""

    def steppable(self) -> list[Any]:
        return []

    def tend(self) -> None:
        pass

    def interrupt(self) -> None:
        pass

    def close(self, error: BaseException) -> None:
        pass


class Facade:
    """What an engine is to its twins: methods that wait for the compute thread."""

    def __init__(self) -> None:
        self.worker = Worker(House())
        self.threads = Threads(self.worker.check)
        self.entered, self.stopped, self.release = threading.Event(), threading.Event(), threading.Event()

    def add(self, one: int, /, other: int = 1, *, scale: float = 1.0) -> float:
        """Add."""
        return self.worker.call(lambda: (one + other) * scale)

    def fail(self) -> None:
        self.worker.call(lambda: 1 // 0)

    def word(self) -> str:
        before = WORD.get()
        WORD.set("changed inside")
        return before

    def wait(self) -> None:
        """Wait as a caller does, until stopped."""
        with cancels(self.stopped.set):
            self.entered.set()
            assert self.stopped.wait(HANG)

    def compute(self) -> None:
        """Hold the compute thread until released."""
        self.worker.call(lambda: (self.entered.set(), self.release.wait(HANG)))

    def twice(self) -> None:
        """Do something after a wait that was cancelled."""
        self.wait()
        self.add(1)

    aadd, afail, aword, await_, acompute, atwice = map(twin, (add, fail, word, wait, compute, twice))

    def close(self) -> None:
        self.release.set()
        self.worker.close()
        self.threads.close()


@pytest.fixture
def facade() -> Iterator[Facade]:
    facade = Facade()
    yield facade
    facade.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(coroutine, HANG)

    return asyncio.run(limited())


def queued(facade: Facade, count: int) -> None:
    """Wait until `count` jobs wait for the compute thread."""
    pause = threading.Event()
    for _ in range(int(HANG / 0.001)):
        if facade.worker._jobs.qsize() >= count:
            return
        pause.wait(0.001)
    raise AssertionError("waited too long")


async def happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, HANG)


def test_a_twin_gives_what_its_method_gives(facade: Facade) -> None:
    assert run(facade.aadd(2, other=3, scale=2.0)) == 10.0
    assert run(facade.aadd(2)) == 3.0


def test_a_twin_has_the_signature_and_a_name_of_its_own() -> None:
    assert inspect.signature(Facade.aadd) == inspect.signature(Facade.add)
    assert Facade.aadd.__name__ == "aadd" and "`add`" in (Facade.aadd.__doc__ or "")
    assert inspect.iscoroutinefunction(Facade.aadd)


def test_wrong_arguments_are_a_type_error(facade: Facade) -> None:
    with pytest.raises(TypeError):
        run(facade.aadd(1, 2, 3))  # type: ignore[call-arg]


def test_exceptions_pass(facade: Facade) -> None:
    with pytest.raises(ZeroDivisionError):
        run(facade.afail())


def test_context_variables_are_seen_and_changes_stay_inside(facade: Facade) -> None:
    async def scenario() -> tuple[str, str]:
        WORD.set("outside")
        return await facade.aword(), WORD.get()

    assert run(scenario()) == ("outside", "outside")
    assert SCOPE.get() is None


def test_cancelling_the_task_stops_what_is_under_way(facade: Facade) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(facade.await_())
        await happened(facade.entered)
        assert not facade.stopped.is_set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert facade.stopped.is_set()

    run(scenario())


def test_a_timeout_is_a_cancel(facade: Facade) -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(facade.await_(), 0.01)
        await happened(facade.stopped)

    run(scenario())


def test_what_would_start_after_a_cancel_does_not(facade: Facade) -> None:
    outcome: list[BaseException] = []

    class Watched(Facade):
        def twice(self) -> None:
            try:
                super().twice()
            except Cancelled as error:
                outcome.append(error)

        atwice = twin(twice)

    async def scenario(watched: Watched) -> None:
        task = asyncio.create_task(watched.atwice())
        await happened(watched.entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    watched = Watched()
    run(scenario(watched))
    assert watched.threads._pool is not None
    watched.threads._pool.shutdown(wait=True)
    assert [type(error) for error in outcome] == [Cancelled]
    watched.close()


def test_a_cancelled_call_that_waits_for_the_compute_thread_is_taken_back(facade: Facade) -> None:
    async def scenario() -> None:
        busy = asyncio.create_task(facade.acompute())
        await happened(facade.entered)
        waiting = asyncio.create_task(facade.aadd(1))
        await asyncio.to_thread(queued, facade, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not busy.done()
        facade.release.set()
        await busy
        assert await facade.aadd(1) == 2

    run(scenario())


def test_more_tasks_than_threads(facade: Facade) -> None:
    async def scenario() -> list[float]:
        busy = asyncio.create_task(facade.acompute())
        await happened(facade.entered)
        tasks = [asyncio.create_task(facade.aadd(i)) for i in range(300)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        facade.release.set()
        await busy
        return [r for r in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(r, float)]

    assert run(scenario()) == [i + 1.0 for i in range(300) if i % 3]


def test_two_event_loops_share_one_object(facade: Facade) -> None:
    async def many() -> list[float]:
        return await asyncio.gather(*(facade.aadd(i) for i in range(50)))

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(run, many()) for _ in range(4)]
        assert all(result.result(HANG) == [i + 1.0 for i in range(50)] for result in results)


def test_closed_raises(facade: Facade) -> None:
    assert run(facade.aadd(1)) == 2
    facade.close()
    for call in (lambda: facade.aadd(1), facade.aword):
        with pytest.raises(EngineClosed):
            run(call())


def test_closed_between_the_check_and_the_call_raises_the_same(facade: Facade) -> None:
    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) > 1:
            facade.worker.check()

    facade.threads = Threads(check)
    facade.threads._pool = ThreadPoolExecutor(1)
    facade.threads.close()
    facade.worker.close()
    with pytest.raises(EngineClosed):
        run(facade.aword())


def test_closing_while_calls_wait_ends_them(facade: Facade) -> None:
    async def scenario() -> list[object]:
        tasks = [asyncio.create_task(facade.acompute())]
        await happened(facade.entered)
        tasks += [asyncio.create_task(facade.aadd(1)) for _ in range(5)]
        await asyncio.to_thread(queued, facade, 5)
        closing = asyncio.create_task(asyncio.to_thread(facade.close))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
        return [type(result) for result in results[1:]]

    assert run(scenario()) == [EngineClosed] * 5


def test_no_thread_is_left(facade: Facade) -> None:
    run(facade.aadd(1))
    pool = facade.threads._pool
    assert pool is not None
    facade.close()
    pool.shutdown(wait=True)
    assert not [thread for thread in threading.enumerate() if thread in pool._threads]


@posix_only
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_forked_child_a_twin_raises_and_close_returns(facade: Facade) -> None:
    assert run(facade.aadd(1)) == 2
    assert facade.threads._pool is not None
    with facade.threads._pool._shutdown_lock:  # as if another thread was just handing over a call
        child = os.fork()
        if child == 0:
            signal.alarm(int(HANG))
            os._exit(_child(facade))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert run(facade.aadd(1)) == 2


def _child(facade: Facade) -> int:
    """Return 7 if a fresh event loop gets `EngineClosed` and closing does not wait."""
    try:
        asyncio.new_event_loop().run_until_complete(facade.aadd(1))
    except EngineClosed:
        facade.worker.close()
        facade.threads.close()
        return 7
    return 8


# ---- the engine's own


def public(kind: Callable[[object], bool] = inspect.isfunction) -> dict[str, Any]:
    return {name: value for name, value in vars(Engine).items() if not name.startswith("_") and kind(value)}


def test_every_method_of_the_engine_has_a_twin_with_its_signature() -> None:
    methods = public()
    methods["await"] = methods.pop("await_")  # a name that Python keeps for itself
    names = {name for name in methods if f"a{name}" in methods}
    assert {f"a{name}" for name in names} | names == set(methods), "a method without a twin, or a twin without one"
    for name in names:
        assert inspect.signature(methods[f"a{name}"]) == inspect.signature(methods[name]), name
        assert methods[f"a{name}"].__name__ == f"a{name}"


def test_a_closed_engine_raises_in_every_twin(tmp_path: Path) -> None:
    engine = Engine(profile="starter", home=tmp_path)
    run(engine.aclose())
    for call in (lambda: engine.achat("hi"), lambda: engine.aremember("hi"), engine.astatus):
        with pytest.raises(EngineClosed):
            run(call())


@pytest.mark.model
def test_many_tasks_at_once_on_the_real_engine(engine: Engine) -> None:
    async def scenario() -> list[Any]:
        tasks = [asyncio.create_task(engine.achat("Hi", temperature=0.0, max_tokens=2)) for _ in range(80)]
        await asyncio.sleep(0)
        for task in tasks[::4]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(scenario())
    for index, result in enumerate(results):
        if index % 4:
            assert result.text and result.usage.completion_tokens <= 2
        else:
            assert isinstance(result, asyncio.CancelledError)
