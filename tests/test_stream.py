"""A stream over a scripted source, and its end on the real engine. Waits are guards against hangs."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from engine.errors import Cancelled, EngineClosed, EngineError
from engine.generation import Finished
from engine.metrics import Usage
from engine.stream import Source, Stream
from engine.tasks import Reply
from engine.twins import Threads
from engine.worker import SCOPE, Scope

if TYPE_CHECKING:
    from engine import Engine

HANG = 60.0
USAGE = Usage(3, 0, 2, 0, 0.1, 0.2)


class Scripted:
    """A source that the test feeds; a cancelled one ends as a generation does."""

    def __init__(self, *events: str | BaseException) -> None:
        self.out: queue.SimpleQueue[str | Finished | BaseException] = queue.SimpleQueue()
        self.said: list[str] = []
        self.cancelled = threading.Event()
        self.dead = threading.Event()
        for event in events:
            self.say(event)

    def say(self, event: str | BaseException) -> None:
        if isinstance(event, str):
            self.said.append(event)
        self.out.put(event)

    def end(self, reason: str = "stop") -> Scripted:
        self.out.put(Finished("".join(self.said), reason, USAGE))  # type: ignore[arg-type]
        return self

    def cancel(self) -> None:
        if not self.cancelled.is_set():
            self.cancelled.set()
            self.end("cancelled")

    def check(self) -> None:
        if self.dead.is_set():
            raise EngineClosed("the worker is gone")


def conclude(finished: Finished) -> Reply:
    return Reply(finished.text, "scripted", finished.finish_reason, finished.usage)


def stream_of(
    source: Source, threads: Threads | None = None, conclude: Callable[[Finished], Reply] = conclude
) -> Stream:
    return Stream(lambda: source, conclude, (threads or Threads(lambda: None)).run)


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(lambda: None)
    yield threads
    threads.close()


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


# ---- sync


def test_pieces_joined_are_the_reply() -> None:
    stream = stream_of(Scripted("안", "녕").end())
    assert list(stream) == ["안", "녕"]
    assert (stream.reply.text, stream.reply.finish_reason, stream.reply.usage) == ("안녕", "stop", USAGE)
    assert list(stream) == [] and stream.reply is stream.reply


def test_the_reply_can_be_asked_for_at_once_and_in_the_middle() -> None:
    assert stream_of(Scripted("a", "b").end()).reply.text == "ab"
    stream = stream_of(Scripted("a", "b").end())
    assert next(stream) == "a"
    assert stream.reply.text == "ab"


def test_nothing_starts_before_it_is_opened_and_then_only_once() -> None:
    started: list[Scripted] = []

    def start() -> Scripted:
        started.append(Scripted("a").end())
        return started[-1]

    stream = Stream(start, conclude, Threads(lambda: None).run)
    assert not started
    with stream as entered:
        assert entered is stream.open() is stream
    assert len(started) == 1 and list(stream) == ["a"]


def test_an_error_of_the_start_is_raised_by_open_and_by_iteration() -> None:
    def start() -> Scripted:
        raise EngineError("no model")

    stream = Stream(start, conclude, Threads(lambda: None).run)
    for use in (stream.open, lambda: next(stream), lambda: stream.reply):
        with pytest.raises(EngineError, match="no model"):
            use()


def test_an_error_comes_after_the_pieces_and_again_each_time() -> None:
    error = EngineError("broken")
    stream = stream_of(Scripted("a", error))
    assert next(stream) == "a"
    for _ in range(3):
        with pytest.raises(EngineError, match="broken") as caught:
            next(stream)
        assert caught.value is error
    with pytest.raises(EngineError, match="broken"):
        _ = stream.reply


def test_an_answer_that_cannot_be_parsed_is_an_error_each_time_and_no_hang() -> None:
    def refuse(finished: Finished) -> Reply:
        raise ValueError("not what the schema wants")

    stream = stream_of(Scripted("a").end(), conclude=refuse)
    assert next(stream) == "a"
    for _ in range(2):
        with pytest.raises(ValueError, match="not what"):
            next(stream)
        with pytest.raises(ValueError, match="not what"):
            _ = stream.reply


def test_cancel_from_another_thread_ends_quietly_and_the_text_stays(others: ThreadPoolExecutor) -> None:
    source = Scripted("a", "b")
    stream = stream_of(source)
    pieces = [next(stream), next(stream)]
    rest = others.submit(list, stream)
    others.submit(stream.cancel).result(HANG)
    assert rest.result(HANG) == [] and pieces == ["a", "b"]
    assert (stream.reply.text, stream.reply.finish_reason) == ("ab", "cancelled")


def test_cancel_after_the_end_changes_nothing() -> None:
    stream = stream_of(Scripted("a").end())
    reply = stream.reply
    stream.close()
    stream.cancel()
    assert stream.reply is reply and reply.finish_reason == "stop"


def test_cancelled_before_or_while_it_starts(others: ThreadPoolExecutor) -> None:
    early = stream_of(Scripted("a"))
    early.cancel()
    assert "".join(early) == early.reply.text and early.reply.finish_reason == "cancelled"

    source, starting, go_on = Scripted(), threading.Event(), threading.Event()

    def start() -> Scripted:
        starting.set()
        assert go_on.wait(HANG)
        return source

    stream = Stream(start, conclude, Threads(lambda: None).run)
    reply = others.submit(lambda: stream.reply)
    assert starting.wait(HANG)
    stream.cancel()
    go_on.set()
    assert reply.result(HANG).finish_reason == "cancelled" and source.cancelled.is_set()


@pytest.mark.parametrize("leave", [lambda stream: stream.close(), lambda stream: stream.__exit__(None, None, None)])
def test_closing_stops_the_generation(leave: Callable[[Stream], None]) -> None:
    source = Scripted("a")
    stream = stream_of(source).open()
    leave(stream)
    assert source.cancelled.is_set()
    assert stream.reply.finish_reason == "cancelled"


def test_leaving_the_block_by_an_error_stops_the_generation() -> None:
    source = Scripted("a", "b")
    with pytest.raises(ZeroDivisionError), stream_of(source) as stream:
        assert next(stream) == str(1 // 0)
    assert source.cancelled.is_set()


def test_a_stream_that_nobody_holds_stops_its_generation() -> None:
    source = Scripted("a", "b")
    for _ in stream_of(source):
        break
    gc.collect()
    assert source.cancelled.is_set()


def test_dropping_a_stream_that_ended_cancels_nothing() -> None:
    source = Scripted("a").end()
    stream = stream_of(source)
    gone = weakref.ref(stream)
    assert stream.reply.text == "a"
    del stream
    gc.collect()
    assert gone() is None and not source.cancelled.is_set()


def test_two_threads_may_read_one_stream(others: ThreadPoolExecutor) -> None:
    source = Scripted()
    stream = stream_of(source)
    readers = [others.submit(list, stream) for _ in range(3)]
    for i in range(100):
        source.say(str(i))
    source.end()
    found = [piece for reader in readers for piece in reader.result(HANG)]
    assert sorted(found, key=int) == [str(i) for i in range(100)]
    assert stream.reply.text == "".join(source.said)


def test_two_threads_meet_the_same_error(others: ThreadPoolExecutor) -> None:
    source, error = Scripted(), EngineError("broken")
    stream = stream_of(source)
    readers = [others.submit(list, stream) for _ in range(3)]
    source.say(error)
    assert [reader.exception(HANG) for reader in readers] == [error] * 3


def test_a_worker_that_died_without_a_word_is_noticed() -> None:
    source = Scripted("a")
    stream = stream_of(source)
    assert next(stream) == "a"
    source.dead.set()
    with pytest.raises(EngineClosed):
        next(stream)


def test_a_cancelled_scope_stops_the_stream(others: ThreadPoolExecutor) -> None:
    source, scope = Scripted("a"), Scope()
    stream = stream_of(source)

    def read() -> list[str]:
        SCOPE.set(scope)
        return list(stream)

    reading = others.submit(read)
    while not scope._undo:
        threading.Event().wait(0.001)
    scope.cancel()
    assert reading.result(HANG) == ["a"] and stream.reply.finish_reason == "cancelled"

    started: list[Scripted] = []
    late = Stream(lambda: started.append(Scripted()) or started[0], conclude, Threads(lambda: None).run)
    token = SCOPE.set(scope)
    try:
        with pytest.raises(Cancelled):
            next(late)
    finally:
        SCOPE.reset(token)
    assert not started


# ---- async


def run(coroutine: object) -> object:
    async def limited() -> object:
        return await asyncio.wait_for(coroutine, HANG)  # type: ignore[arg-type]

    return asyncio.run(limited())


def test_async_for(threads: Threads) -> None:
    async def read() -> list[str]:
        stream = stream_of(Scripted("a", "b").end(), threads)
        pieces = [piece async for piece in stream]
        assert stream.reply.text == "ab"
        return [*pieces, *[piece async for piece in stream]]

    assert run(read()) == ["a", "b"]


def test_async_errors(threads: Threads) -> None:
    async def read() -> None:
        stream = stream_of(Scripted("a", EngineError("broken")), threads)
        assert await anext(stream) == "a"
        for _ in range(2):
            with pytest.raises(EngineError, match="broken"):
                await anext(stream)

    run(read())


def test_async_with_closes(threads: Threads) -> None:
    source = Scripted("a", "b")

    async def read() -> None:
        async with stream_of(source, threads) as stream:
            assert await anext(stream) == "a"
        assert source.cancelled.is_set()
        assert [piece async for piece in stream] == ["b"]

    run(read())


def test_cancelling_the_task_stops_the_generation(threads: Threads) -> None:
    source = Scripted("a")

    async def scenario() -> None:
        stream, first = stream_of(source, threads), asyncio.Event()

        async def read() -> None:
            async for _ in stream:
                first.set()

        task = asyncio.create_task(read())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.cancelled.is_set()
        assert (await asyncio.to_thread(lambda: stream.reply)).finish_reason == "cancelled"

    run(scenario())


def test_cancelling_stops_it_even_where_no_thread_waits_yet(threads: Threads) -> None:
    source = Scripted("a")

    async def scenario() -> None:
        begun, never = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def no_thread_is_free(function: Callable[[], object], /) -> object:
            begun.set()
            return await never

        stream = Stream(lambda: source, conclude, no_thread_is_free).open()  # type: ignore[arg-type]
        task = asyncio.ensure_future(anext(stream))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.cancelled.is_set()

    run(scenario())


# ---- on the real engine


def idle(engine: Engine) -> bool:
    """Ask on the compute thread, after the step that follows this job."""
    return not engine._worker.call(lambda: any(runner.busy for runner in engine._models.steppable()))


def until_idle(engine: Engine) -> None:
    for _ in range(2000):
        if idle(engine):
            return
    raise AssertionError("the generation goes on")


COUNT = "Count from one to one thousand, in words."


@pytest.mark.model
def test_a_real_generation_stops_when_its_stream_is_closed_dropped_or_cancelled(
    engine: Engine, others: ThreadPoolExecutor
) -> None:
    with engine.stream(COUNT, temperature=0.0, max_tokens=4000) as stream:
        begun = [next(stream), next(stream)]
    until_idle(engine)
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.text.startswith("".join(begun))

    for _ in engine.stream(COUNT, temperature=0.0, max_tokens=4000):
        break
    until_idle(engine)

    held = engine.stream(COUNT, temperature=0.0, max_tokens=4000)
    text = next(held)
    others.submit(held.cancel).result(HANG)
    text += "".join(held)
    assert held.reply.text == text and held.reply.finish_reason == "cancelled"
    until_idle(engine)


@pytest.mark.model
def test_cancelling_a_task_stops_a_real_generation(engine: Engine) -> None:
    async def scenario() -> None:
        first = asyncio.Event()

        async def read() -> None:
            async for _ in engine.astream(COUNT, temperature=0.0, max_tokens=4000):
                first.set()

        reading, begun = asyncio.create_task(read()), asyncio.create_task(first.wait())
        await asyncio.wait([reading, begun], return_when=asyncio.FIRST_COMPLETED)
        assert begun.done(), reading.exception()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    run(scenario())
    until_idle(engine)
    assert engine.chat("Hi", temperature=0.0, max_tokens=2).text
