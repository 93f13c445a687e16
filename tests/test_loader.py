"""The loader thread with fake loads: shared, given up, handed over, ended. Waits are guards against hangs."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Progress, tuning
from engine.errors import Cancelled, EngineClosed, EngineError, OutOfBudget
from engine.llama import Model, Vocabulary
from engine.loader import Heed, Load, Loader
from engine.models import Models

HANG = 60.0
SECRET = "words of a user"


class Thing:
    """What a load makes."""

    def __init__(self) -> None:
        self.freed_by: threading.Thread | None = None

    def free(self) -> None:
        assert self.freed_by is None, "freed twice"
        self.freed_by = threading.current_thread()


class Compute:
    """Stands in for the compute thread: jobs wait until the test has them run, or run at once."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[object], Callable[[], object]]] = []
        self.posted = threading.Semaphore(0)
        self.at_once, self.ended = True, False

    def post(self, job: Callable[[], object]) -> Future[object]:
        if self.ended:
            raise EngineClosed("the worker is gone")
        future: Future[object] = Future()
        self.jobs.append((future, job))
        if self.at_once:
            self.work()
        self.posted.release()
        return future

    def work(self) -> None:
        while self.jobs:
            future, job = self.jobs.pop(0)
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - as the worker does
                future.set_exception(error)


class Shelf:
    """What is there; its loads wait for `go_on` and note who made what on which thread."""

    def __init__(self) -> None:
        self.there: dict[str, Thing] = {}
        self.made: list[Thing] = []
        self.threads: list[threading.Thread] = []
        self.making, self.go_on = threading.Semaphore(0), threading.Event()
        self.gone: list[str] = []

    def load(self, name: str = "x", make: Callable[[Heed], Thing] | None = None) -> Load:
        def adopt(thing: Thing) -> None:
            assert name not in self.there, "loaded twice"
            self.there[name] = thing

        return Load(name, name, make or self.make, adopt, Thing.free, lambda: self.gone.append(name))

    def make(self, heed: Heed) -> Thing:
        self.threads.append(threading.current_thread())
        self.making.release()
        assert self.go_on.wait(HANG)
        heed()
        self.made.append(Thing())
        return self.made[-1]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def compute() -> Compute:
    return Compute()


@pytest.fixture
def loader(compute: Compute, shelf: Shelf) -> Iterator[Loader]:
    loader = Loader(compute.post)
    yield loader
    shelf.go_on.set()
    loader.stop("closed")
    loader.join()


def settle(loader: Loader) -> None:
    """Wait until the loads that were asked for before are concluded."""
    loader.ask(Load("settle", "settle", lambda _: Thing(), lambda _: None, Thing.free, nothing_left)).result(HANG)


def nothing_left() -> None:
    """Nothing of a load is in memory any more, and nobody counts it here."""


def loader_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "gieok-loader"}


# ---- loading


def test_no_thread_before_the_first_load(compute: Compute) -> None:
    before = loader_threads()
    loader = Loader(compute.post)
    loader.stop("closed")
    loader.join()
    assert loader.thread is None and loader_threads() == before


def test_all_loads_run_on_one_thread_in_order(loader: Loader, shelf: Shelf) -> None:
    waiting = [loader.ask(shelf.load(name)) for name in ("a", "b", "c")]
    assert shelf.making.acquire(timeout=HANG) and not any(waiter.done() for waiter in waiting)
    shelf.go_on.set()
    assert [waiter.result(HANG) for waiter in waiting] == [None] * 3
    assert list(shelf.there) == ["a", "b", "c"]
    assert set(shelf.threads) == {loader.thread} and shelf.gone == []


def test_who_wants_the_same_at_once_waits_for_one_load(loader: Loader, shelf: Shelf) -> None:
    start = threading.Barrier(8)

    def want() -> Future[None]:
        start.wait(HANG)
        return loader.ask(shelf.load())

    with ThreadPoolExecutor(8) as pool:
        waiting = [one.result(HANG) for one in [pool.submit(want) for _ in range(8)]]
    shelf.go_on.set()
    assert [waiter.result(HANG) for waiter in waiting] == [None] * 8
    assert len(shelf.made) == 1 and shelf.there == {"x": shelf.made[0]}


def test_who_asks_between_the_making_and_the_adoption_waits_for_that_load(
    loader: Loader, shelf: Shelf, compute: Compute
) -> None:
    compute.at_once = False
    shelf.go_on.set()
    first = loader.ask(shelf.load())
    assert compute.posted.acquire(timeout=HANG)
    second = loader.ask(shelf.load())
    assert not first.done() and not second.done()
    compute.work()
    assert first.result(HANG) is second.result(HANG) is None
    assert len(shelf.made) == 1


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_a_failed_load_is_told_to_all_who_wait_and_tried_again_by_the_next(
    loader: Loader, shelf: Shelf, error: BaseException
) -> None:
    def fail(heed: Heed) -> Any:
        shelf.make(heed)
        raise error

    waiting = [loader.ask(shelf.load(make=fail)) for _ in range(3)]
    shelf.go_on.set()
    assert [waiter.exception(HANG) for waiter in waiting] == [error] * 3
    assert shelf.gone == ["x"], "once, and before anybody was told"
    loader.ask(shelf.load()).result(HANG)
    assert shelf.there == {"x": shelf.made[-1]} and shelf.gone == ["x"]


def test_a_thread_that_cannot_start_is_tried_again(
    loader: Loader, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    shelf.go_on.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            loader.ask(shelf.load())
    loader.ask(shelf.load()).result(HANG)


def test_what_failed_to_load_is_not_kept(loader: Loader) -> None:
    class Big:
        pass

    big = Big()
    gone = weakref.ref(big)
    load = Load("x", "x", lambda _, big=big: 1 // 0, lambda _: None, Thing.free, nothing_left)
    with pytest.raises(ZeroDivisionError):
        loader.ask(load).result(HANG)
    del big, load
    settle(loader)
    gc.collect()
    assert gone() is None


# ---- giving up


def test_one_who_gives_up_does_not_end_a_load_that_others_wait_for(loader: Loader, shelf: Shelf) -> None:
    waiting = [loader.ask(shelf.load()) for _ in range(3)]
    assert shelf.making.acquire(timeout=HANG)
    assert waiting[0].cancel() and waiting[2].cancel()
    shelf.go_on.set()
    assert waiting[1].result(HANG) is None and len(shelf.made) == 1
    with pytest.raises(CancelledError):
        waiting[0].result()


def test_a_load_ends_when_the_last_who_waited_has_given_up(loader: Loader, shelf: Shelf) -> None:
    waiting = [loader.ask(shelf.load()) for _ in range(3)]
    assert shelf.making.acquire(timeout=HANG)
    assert all(waiter.cancel() for waiter in waiting)
    shelf.go_on.set()
    settle(loader)
    assert (shelf.made, shelf.there, shelf.gone) == ([], {}, ["x"])
    loader.ask(shelf.load()).result(HANG)
    assert len(shelf.made) == 1


def test_a_load_that_was_given_up_in_the_queue_does_not_begin(loader: Loader, shelf: Shelf) -> None:
    first = loader.ask(shelf.load("a"))
    assert shelf.making.acquire(timeout=HANG)
    loader.ask(shelf.load("b")).cancel()
    shelf.go_on.set()
    first.result(HANG)
    settle(loader)
    assert len(shelf.threads) == 1 and list(shelf.there) == ["a"] and shelf.gone == ["b"]


def test_who_comes_before_the_load_has_noticed_takes_it_over(loader: Loader, shelf: Shelf) -> None:
    assert loader.ask(shelf.load()).cancel()
    again = loader.ask(shelf.load())
    shelf.go_on.set()
    assert again.result(HANG) is None and len(shelf.threads) == 1


def test_who_comes_after_the_load_has_noticed_gets_a_new_one(loader: Loader, shelf: Shelf) -> None:
    noticed, end = threading.Event(), threading.Event()

    def slow_to_end(heed: Heed) -> Thing:
        try:
            return shelf.make(heed)
        except Cancelled:
            noticed.set()
            assert end.wait(HANG)
            raise

    first = loader.ask(shelf.load(make=slow_to_end))
    assert shelf.making.acquire(timeout=HANG)
    assert first.cancel()
    shelf.go_on.set()
    assert noticed.wait(HANG)
    again = loader.ask(shelf.load())
    end.set()
    assert again.result(HANG) is None and len(shelf.made) == 1


def test_what_cannot_be_ended_is_kept(loader: Loader, shelf: Shelf) -> None:
    """Such as the import of a library: it heeds nobody."""
    entered, end = threading.Event(), threading.Event()

    def deaf(heed: Heed) -> Thing:
        entered.set()
        assert end.wait(HANG)
        shelf.made.append(Thing())
        return shelf.made[-1]

    waiter = loader.ask(shelf.load(make=deaf))
    assert entered.wait(HANG)
    assert waiter.cancel()
    end.set()
    settle(loader)
    assert shelf.there == {"x": shelf.made[0]} and shelf.made[0].freed_by is None


# ---- the end


def test_stop_during_a_load_tells_everyone_and_frees_what_was_made(
    loader: Loader, shelf: Shelf, compute: Compute
) -> None:
    entered, end, made = threading.Event(), threading.Event(), Thing()

    def deaf(heed: Heed) -> Thing:
        entered.set()
        assert end.wait(HANG)
        return made

    waiting = [loader.ask(shelf.load(make=deaf)), loader.ask(shelf.load("queued"))]
    assert entered.wait(HANG)
    compute.ended = True
    loader.stop("the end")
    for waiter in waiting:
        with pytest.raises(EngineClosed, match="the end"):
            waiter.result(HANG)
    with pytest.raises(EngineClosed, match="the end"):
        loader.ask(shelf.load())
    end.set()
    loader.join()
    assert made.freed_by is loader.thread and shelf.threads == [] and shelf.there == {}
    assert sorted(shelf.gone) == ["queued", "x"], "the bytes of both come back, once each"


def test_what_waits_for_its_adoption_at_the_end_is_freed(loader: Loader, shelf: Shelf, compute: Compute) -> None:
    compute.at_once = False
    shelf.go_on.set()
    waiter = loader.ask(shelf.load())
    assert compute.posted.acquire(timeout=HANG)
    loader.stop("the end")
    loader.join()
    ((future, _),) = compute.jobs
    future.set_exception(EngineClosed("the end"))  # as a worker does with jobs that it never ran
    assert isinstance(waiter.exception(HANG), EngineClosed) and shelf.made[0].freed_by is not None
    assert shelf.gone == ["x"]


def test_an_adoption_that_fails_frees_what_was_made(loader: Loader, shelf: Shelf) -> None:
    def refuse(thing: Thing) -> None:
        raise ValueError("no")

    def gone() -> None:
        assert shelf.made[0].freed_by is loader.thread, "first it is freed"
        assert not waiter.done(), "then its bytes are free again, then who waits is told"
        shelf.gone.append("x")

    load = Load("x", "x", shelf.make, refuse, Thing.free, gone)
    waiter = loader.ask(load)
    shelf.go_on.set()
    with pytest.raises(ValueError, match="no"):
        waiter.result(HANG)
    assert shelf.gone == ["x"]


def test_what_cannot_be_freed_keeps_nobody_waiting(
    loader: Loader, shelf: Shelf, compute: Compute, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thing: Thing) -> None:
        raise OSError(SECRET)

    compute.ended = True
    shelf.go_on.set()
    load = Load("x", "x", shelf.make, lambda _: None, refuse, lambda: shelf.gone.append("x"))
    with pytest.raises(EngineClosed, match="the worker is gone"):
        loader.ask(load).result(HANG)
    assert shelf.gone == ["x"]
    assert "OSError" in caplog.text and SECRET not in caplog.text


def test_the_loader_may_be_ended_from_a_load(loader: Loader, shelf: Shelf) -> None:
    """A progress callback may close the engine."""

    def close(heed: Heed) -> Thing:
        loader.stop("closed by itself")
        loader.join()
        return shelf.make(heed)

    shelf.go_on.set()
    with pytest.raises(EngineClosed, match="closed by itself"):
        loader.ask(shelf.load(make=close)).result(HANG)
    assert loader.thread is not None
    loader.thread.join(HANG)
    assert not loader.thread.is_alive() and shelf.made == []


def test_asking_giving_up_and_ending_from_many_threads_at_once(compute: Compute) -> None:
    """Whatever the order: everyone who waits is told, and everything made is freed or there."""
    with ThreadPoolExecutor(8) as pool:
        for turn in range(50):
            loader, shelf, start = Loader(compute.post), Shelf(), threading.Barrier(8)
            shelf.go_on.set()

            def ask(loader: Loader, shelf: Shelf, start: threading.Barrier, number: int) -> str:
                start.wait(HANG)
                try:
                    waiter = loader.ask(shelf.load(f"of {number // 2}"))
                    if number % 2 and waiter.cancel():
                        return "given up"
                    waiter.result(HANG)
                    return "there"
                except EngineClosed:
                    return "closed"
                except AssertionError:  # who asks for what is there already is refused by the shelf
                    return "twice"

            def end(loader: Loader, start: threading.Barrier, turn: int) -> str:
                start.wait(HANG)
                if turn % 2:
                    loader.stop("closed")
                return "ended"

            asking = [pool.submit(ask, loader, shelf, start, number) for number in range(7)]
            ending = pool.submit(end, loader, start, turn)
            found = {one.result(HANG) for one in [*asking, ending]}
            assert found <= {"there", "given up", "closed", "ended", "twice"}
            loader.stop("closed")
            loader.join()
            assert [thing for thing in shelf.made if thing.freed_by is None] == list(shelf.there.values())
            assert not loader._tickets


# ---- real weights


@pytest.mark.model
def test_the_listener_hears_of_a_real_load_from_begin_to_end(starter_gguf: Path) -> None:
    heard: list[float] = []
    Model(starter_gguf, listen=heard.append).close()
    assert heard == sorted(heard) and (heard[0], heard[-1]) == (0.0, 1.0) and len(heard) > 100


@pytest.mark.model
@pytest.mark.parametrize("at", [0, 1, 100, -1])
def test_what_the_listener_raises_ends_a_real_load(
    starter_gguf: Path, at: int, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[float] = []
    Model(starter_gguf, listen=heard.append).close()
    end, error = heard[at], Cancelled("enough")
    after: list[float] = []

    def listen(done: float) -> None:
        if done >= end:
            after.append(done)
            raise error

    with pytest.raises(Cancelled) as caught:
        Model(starter_gguf, listen=listen)
    assert caught.value is error and len(after) == 1
    assert capfd.readouterr().err == ""  # ctypes would have printed what its callback raises
    Model(starter_gguf).close()


@pytest.mark.model
def test_weights_are_freed_where_the_vocabulary_cannot_be_read(
    starter_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half: list[Model] = []

    def fail(self: Vocabulary, model: Model) -> None:
        assert model.handle
        half.append(model)
        raise MemoryError

    monkeypatch.setattr(Vocabulary, "__init__", fail)
    with pytest.raises(MemoryError):
        Model(starter_gguf)
    with pytest.raises(EngineClosed):
        _ = half[0].handle


# ---- the whole engine

SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 2}


class Held:
    """A progress callback that holds a load once `at` percent are told, until it is let go."""

    def __init__(self, at: int = 50) -> None:
        self._at = at
        self.seen: list[Progress] = []
        self.loading, self.go_on = threading.Event(), threading.Event()

    def __call__(self, event: Progress) -> None:
        self.seen.append(event)
        if event.done >= self._at and not self.loading.is_set():
            self.loading.set()
            assert self.go_on.wait(HANG)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def slow(tmp_path: Path, held: Held) -> Iterator[Engine]:
    """An engine whose first load is held in the midst of the weights."""
    with Engine(profile="starter", home=tmp_path, progress=held) as engine:
        yield engine
        held.go_on.set()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def is_waited_for(engine: Engine) -> bool:
    return engine.status().waiting > 0


def goes_on(engine: Engine, held: Held) -> None:
    """Let the held load end, which nobody wants any more, and see that nothing is left of it."""
    held.go_on.set()
    loader = engine._worker.loader
    settle(loader)
    assert engine.status().loaded == () and engine.status().parts == () and not loader._tickets
    assert engine.chat("Hi.", **SHORT).text
    assert len(engine.status().loaded) == 1


@pytest.mark.model
def test_a_stream_goes_on_while_another_model_loads(
    engine: Engine, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, go_on, load = threading.Event(), threading.Event(), Models._load_embedder

    def gated(self: Models, spec: Any, how: Any) -> Any:
        loading.set()
        assert go_on.wait(HANG)
        return load(self, spec, how)

    monkeypatch.setattr(Models, "_load_embedder", gated)
    with engine.stream("Tell a very long story.", temperature=0, max_tokens=2000) as stream:
        next(stream)
        embedding = callers.submit(engine.embed, "문장")
        assert loading.wait(HANG)
        pieces = [next(stream) for _ in range(20)]
        assert not go_on.is_set() and not embedding.done() and all(pieces)
        assert engine.chat("Hi.", **SHORT).text
        go_on.set()
        dense = embedding.result(HANG).dense
        assert dense is not None and dense.shape == (1, 384)
        next(stream)


@pytest.mark.model
def test_eight_threads_load_a_model_once(slow: Engine, held: Held, callers: ThreadPoolExecutor) -> None:
    answers = [callers.submit(slow.chat, "Hi.", **SHORT) for _ in range(8)]
    assert held.loading.wait(HANG)
    held.go_on.set()
    assert len({answer.result(HANG).model for answer in answers}) == 1
    told = [event.done for event in held.seen]
    assert told == sorted(set(told)) and (told[0], told[-1]) == (0, 100)
    assert {(event.task, event.total) for event in held.seen} == {("load smollm2-135m-instruct", 100)}
    assert slow.status().loaded[0].load_seconds > 0


@pytest.mark.model
def test_cancelling_a_stream_ends_a_real_load(slow: Engine, held: Held, callers: ThreadPoolExecutor) -> None:
    stream = slow.astream("Hi.", **SHORT)
    reading = callers.submit(list, stream)
    assert held.loading.wait(HANG)
    stream.cancel()
    assert reading.result(HANG) == [], "it ends quietly, and at once: the load is still held"
    assert (stream.reply.text, stream.reply.finish_reason) == ("", "cancelled")
    assert stream.reply.usage.completion_tokens == 0 < stream.reply.usage.seconds
    goes_on(slow, held)


@pytest.mark.model
def test_a_stream_that_was_cancelled_before_it_began_loads_nothing(tmp_path: Path) -> None:
    with Engine(profile="starter", home=tmp_path) as engine:
        stream = engine.astream("Hi.", **SHORT)
        stream.cancel()
        assert list(stream) == [] and stream.reply.finish_reason == "cancelled"
        assert engine._worker.loader.thread is None


@pytest.mark.model
def test_a_cancelled_task_ends_a_real_load(slow: Engine, held: Held) -> None:
    async def use() -> None:
        for begin in (slow.achat("Hi.", **SHORT), slow.aload("chat"), anext(slow.astream("Hi.", **SHORT))):
            task = asyncio.ensure_future(begin)
            while not (held.loading.is_set() and is_waited_for(slow)):
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(use())
    goes_on(slow, held)


@pytest.mark.model
def test_who_asks_again_for_what_was_just_given_up_is_answered(
    slow: Engine, held: Held, callers: ThreadPoolExecutor
) -> None:
    """The load that was given up has not noticed, and what belongs to it must not be taken for the new one's."""
    stream = slow.astream("Hi.", **SHORT)
    reading = callers.submit(list, stream)
    assert held.loading.wait(HANG)
    stream.cancel()
    assert reading.result(HANG) == []
    again = [callers.submit(slow.chat, "Hi.", **SHORT) for _ in range(2)]
    while slow.status().waiting < 2:
        assert not any(one.done() for one in again)
    held.go_on.set()
    assert all(one.result(HANG).text for one in again)
    settle(slow._worker.loader)
    assert [part.name for part in slow.status().parts] == ["smollm2-135m-instruct"]
    (loaded,) = slow.status().loaded
    assert slow.status().held == loaded.ram


@pytest.mark.model
def test_a_callback_ends_a_real_load_in_its_midst(tmp_path: Path, callers: ThreadPoolExecutor) -> None:
    refuse = threading.Event()
    refuse.set()

    def progress(event: Progress) -> bool:
        return event.done < 30 or not refuse.is_set()

    with Engine(profile="starter", home=tmp_path, progress=progress) as engine:
        for use in (lambda: engine.chat("Hi."), lambda: engine.load("chat"), lambda: engine.stream("Hi.")):
            with pytest.raises(Cancelled, match="progress callback"):
                use()
        assert engine.status().loaded == ()
        refuse.clear()
        assert engine.chat("Hi.", **SHORT).text


@pytest.mark.model
def test_a_callback_that_asks_the_engine_is_told_so(tmp_path: Path) -> None:
    asked: list[Engine] = []
    with Engine(profile="starter", home=tmp_path, progress=lambda _: asked[0].chat("Hi.")) as engine:
        asked.append(engine)
        with pytest.raises(EngineError, match="itself"):
            engine.chat("Hi.")


@pytest.mark.model
def test_closing_during_a_real_load(slow: Engine, held: Held, callers: ThreadPoolExecutor) -> None:
    waiting = [callers.submit(slow.chat, "Hi.", **SHORT) for _ in range(3)]
    waiting.append(callers.submit(slow.load, "chat"))  # type: ignore[arg-type]
    assert held.loading.wait(HANG)
    closing = callers.submit(slow.close)
    for one in waiting:
        with pytest.raises(EngineClosed):
            one.result(HANG)
    assert not closing.done()
    held.go_on.set()
    closing.result(HANG)
    thread = slow._worker.loader.thread
    assert thread is not None and not thread.is_alive()
    assert held.seen[-1].done < 100, "the load was aborted"


@pytest.mark.model
def test_unloading_during_a_real_load(slow: Engine, held: Held, callers: ThreadPoolExecutor) -> None:
    waiting = callers.submit(slow.chat, "Hi.", **SHORT)
    assert held.loading.wait(HANG)
    slow.unload("summary")  # the same model in another role
    with pytest.raises(EngineClosed, match="smollm2-135m-instruct was unloaded"):
        waiting.result(HANG)
    goes_on(slow, held)


@pytest.mark.model
def test_an_unloaded_model_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its tables of tokens would stay until Python collects by itself, which takes many loads."""
    with Engine(profile="starter", home=tmp_path) as engine:
        engine.chat("Hi.", **SHORT)
        (loaded,) = engine._models.loaded
        gone = weakref.ref(loaded.model)
        del loaded
        engine.unload("chat")
        assert gone() is None


@pytest.mark.model
def test_a_load_that_fails_after_the_weights_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.llama import Context

    class Broken(Context):
        made: list[Context] = []  # noqa: RUF012 - of this test

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            Broken.made.append(self)
            raise MemoryError("no more")

    with Engine(profile="starter", home=tmp_path) as engine:
        with monkeypatch.context() as patch:
            patch.setattr("engine.llama.Context", Broken)
            patch.setattr("engine.tuning.recall", lambda *_: tuning.usual())  # else contexts are made to measure, too
            with pytest.raises(OutOfBudget, match=r"the system refused.*no more") as caught:
                engine.chat("Hi.")
        assert isinstance(caught.value.__cause__, MemoryError)
        tried = [made.params.n_ctx for made in Broken.made]
        assert tried == [8192, 8192, 4096, 2048], "once more, then smaller ones, since n_ctx is auto"
        for made in Broken.made:
            for use in (lambda: made.handle, lambda: made.model.handle):  # noqa: B023 - used at once
                with pytest.raises(EngineClosed):
                    use()
        assert engine.status().loaded == () and engine.status().parts == ()
        assert engine.chat("Hi.", **SHORT).text
        assert engine.status().loaded[0].kv_cells == 8192


# ---- other processes

_BEGIN = """
import os, signal, sys, threading
from engine import Engine

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children with it ignored
signal.alarm(60)
loading, go_on, noticing, told = threading.Event(), threading.Event(), threading.Event(), []

def progress(event):
    told.append(event.done)
    if event.done >= 50 and not loading.is_set():
        loading.set()
        held()

"""

_INTERRUPTED = (
    _BEGIN
    + """
def held():
    os.kill(os.getpid(), signal.SIGINT)
    assert go_on.wait(60)

with Engine(profile="starter", home=sys.argv[1], progress=progress) as engine:
    try:
        engine.chat("Hi.")
    except KeyboardInterrupt:
        print("interrupted", max(told) < 60, flush=True)
    go_on.set()
    while engine._worker.loader._tickets:  # until the load has noticed, one who comes takes it over
        noticing.wait(0.001)
    print(engine.chat("Hi.", temperature=0, max_tokens=2).finish_reason, told.count(0), flush=True)
"""
)

_EXITED = (
    _BEGIN
    + """
def held():
    while not engine._worker._ended:  # the interpreter is at its exit
        noticing.wait(0.001)

def ask():
    try:
        engine.chat("Hi.")
    except BaseException as error:
        print(type(error).__name__, max(told) < 100, flush=True)

engine = Engine(profile="starter", home=sys.argv[1], progress=progress)
threading.Thread(target=ask, daemon=True).start()
assert loading.wait(60)
"""
)


def run_child(program: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, str(home)], capture_output=True, encoding="utf-8", timeout=HANG, check=False
    )


@pytest.mark.model
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot send itself a Ctrl-C")
def test_control_c_during_a_real_load(tmp_path: Path) -> None:
    done = run_child(_INTERRUPTED, tmp_path)
    assert (done.stdout.split("\n"), done.returncode) == (["interrupted True", "length 2", ""], 0), done.stderr


@pytest.mark.model
@pytest.mark.skipif(not hasattr(os, "fork"), reason="signal.alarm guards the child")
def test_the_interpreter_may_exit_during_a_real_load(tmp_path: Path) -> None:
    done = run_child(_EXITED, tmp_path)
    assert (done.stdout.split("\n")[0], done.returncode) in [("EngineClosed True", 0), ("", 0)], done.stderr
    assert "Fatal" not in done.stderr and "Traceback" not in done.stderr
