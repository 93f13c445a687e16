"""Many dialogues: in order, several at once, each with its result or its error, and stopped when nobody reads on."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import Engine
from engine.bulk import Extractions, Steps
from engine.errors import Cancelled, ContextOverflow, EngineClosed, EngineError, InvalidInput, StoreError
from engine.inputs import Turn
from engine.tasks import ExtractedItem, ExtractedMemory
from engine.twins import Threads
from engine.worker import SCOPE

PATIENCE = 60
SLOTS = 2


def memory(text: str) -> ExtractedMemory:
    return ExtractedMemory(facts=(ExtractedItem(text, text, "work", 0, None),))


def echo(turns: Sequence[Turn]) -> ExtractedMemory:
    return memory(turns[0].content)


def over(dialogues: Any, extract: Callable[[Sequence[Turn]], ExtractedMemory] = echo, keep: Any = None) -> Extractions:
    return Extractions(dialogues, Steps(extract, keep), SLOTS, Threads(lambda: None))


def text_of(found: ExtractedMemory | EngineError) -> str:
    return found.facts[0].text if isinstance(found, ExtractedMemory) else type(found).__name__


def test_results_come_in_order_whoever_ends_first() -> None:
    last = threading.Event()

    def extract(turns: Sequence[Turn]) -> ExtractedMemory:
        if turns[0].content == "0":
            assert last.wait(PATIENCE)
        elif turns[0].content == "3":
            last.set()
        return echo(turns)

    assert [text_of(found) for found in over(map(str, range(30)), extract)] == [str(n) for n in range(30)]


def test_dialogues_are_read_only_as_they_are_needed() -> None:
    read: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            read.append(len(read))
            yield "x"

    results = over(endless())
    for n in range(1, 6):
        next(results)
        assert len(read) <= n + 2 * SLOTS
    results.close()
    assert list(results) == []


def test_as_many_as_there_are_slots_are_under_way_at_once() -> None:
    together = threading.Barrier(2 * SLOTS)

    def extract(turns: Sequence[Turn]) -> ExtractedMemory:
        together.wait(PATIENCE)
        return echo(turns)

    assert len(list(over(["x"] * 8 * SLOTS, extract))) == 8 * SLOTS


def test_a_bad_dialogue_is_an_error_among_the_results() -> None:
    def extract(turns: Sequence[Turn]) -> ExtractedMemory:
        if turns[0].content == "long":
            raise ContextOverflow(9, 1)
        return echo(turns)

    bad: list[Any] = ["a", "", "long", 7, [{"role": "nobody", "content": "x"}], [3], "b"]
    names = [text_of(found) for found in over(bad, extract)]
    assert names == ["a", "InvalidInput", "ContextOverflow", "InvalidInput", "InvalidInput", "InvalidInput", "b"]


@pytest.mark.parametrize("error", [EngineClosed("closed"), Cancelled("cancelled"), ZeroDivisionError()])
def test_what_ends_it_is_raised_after_what_came_before(error: Exception) -> None:
    def extract(turns: Sequence[Turn]) -> ExtractedMemory:
        if turns[0].content == "2":
            raise error
        return echo(turns)

    seen: list[str] = []
    results = over(map(str, range(9)), extract)
    with pytest.raises(type(error)):
        seen.extend(map(text_of, results))
    assert seen == ["0", "1"] and list(results) == []


def test_what_the_dialogues_raise_is_raised() -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise FileNotFoundError

    results = over(broken())
    with pytest.raises(FileNotFoundError):
        list(results)


@pytest.mark.parametrize("before", [0, 1, 3, 4 * SLOTS])
def test_what_was_read_before_the_dialogues_failed_is_handed_out_first(before: int) -> None:
    reads: list[str] = []

    class Broken:
        def __iter__(self) -> Iterator[str]:
            return self

        def __next__(self) -> str:
            reads.append("read")
            if len(reads) > before:
                raise FileNotFoundError
            return str(len(reads))

    seen: list[str] = []
    results = over(Broken())
    with pytest.raises(FileNotFoundError):
        seen.extend(map(text_of, results))
    assert seen == [str(n + 1) for n in range(before)]
    assert list(results) == [] and len(reads) == before + 1


def test_who_leaves_before_a_failure_is_told_leaves_nothing_that_only_the_collector_frees() -> None:
    def broken() -> Iterator[str]:
        yield "a"
        yield "b"
        raise FileNotFoundError

    gc.disable()
    try:
        results = over(broken())
        next(results)
        gone = weakref.ref(results)
        del results
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("fails", [False, True])
def test_it_may_be_closed_while_a_dialogue_is_read(fails: bool) -> None:
    def closing() -> Iterator[str]:
        yield "a"
        results.close()
        if fails:
            raise FileNotFoundError
        yield "b"

    results = over(closing())
    assert list(results) == []


def test_it_may_be_closed_between_the_reading_of_a_dialogue_and_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    results = over(["a", "b"])
    submit = results._pool.submit

    def late(*job: Any) -> Any:
        results.close()
        return submit(*job)

    monkeypatch.setattr(results._pool, "submit", late)
    assert list(results) == []


def test_the_dialogues_cannot_ask_for_the_results_they_are_read_for() -> None:
    def asking() -> Iterator[str]:
        yield "a"
        with pytest.raises(ValueError, match="already"):
            next(results)
        yield "b"

    results = over(asking())
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(map(text_of, results)), daemon=True)
    reader.start()
    reader.join(PATIENCE)
    assert seen == ["a", "b"]


@pytest.mark.parametrize("wrong", ["one dialogue", {"role": "user"}, 7])
def test_one_dialogue_is_not_many(wrong: Any) -> None:
    with pytest.raises(TypeError):
        over(wrong)


def test_each_is_kept_before_it_is_handed_out_and_a_failure_to_keep_it_is_told() -> None:
    kept: list[str] = []

    def keep(found: ExtractedMemory, turns: Sequence[Turn]) -> None:
        if turns[0].content == "1":
            raise StoreError("full")
        kept.append(text_of(found))

    results = over(["0", "1", "2"], echo, keep)
    assert text_of(next(results)) == "0" and kept == ["0"]
    assert [text_of(found) for found in results] == ["StoreError", "2"] and kept == ["0", "2"]


class Hanging:
    """An extraction that goes on until its scope is cancelled, as the real ones do."""

    def __init__(self) -> None:
        self.begun, self.stopped = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, turns: Sequence[Turn]) -> ExtractedMemory:
        scope, cancelled = SCOPE.get(), threading.Event()
        assert scope is not None
        with scope.covering(cancelled.set):
            self.begun.release()
            assert cancelled.wait(PATIENCE)
        self.stopped.release()
        raise Cancelled("the call was cancelled")


@pytest.mark.parametrize("stop", ["close", "with", "forget"])
def test_who_stops_reading_stops_what_runs(stop: str) -> None:
    hanging = Hanging()

    def extract(turns: Sequence[Turn]) -> ExtractedMemory:
        return echo(turns) if turns[0].content == "0" else hanging(turns)

    results = over(map(str, range(9)), extract)
    next(results)
    assert hanging.begun.acquire(timeout=PATIENCE)
    if stop == "close":
        results.close()
    elif stop == "with":
        with results:
            pass
    else:
        del results
    assert hanging.stopped.acquire(timeout=PATIENCE)


def test_another_thread_may_close_it_while_a_result_is_awaited() -> None:
    hanging, seen = Hanging(), []
    results = over(["x"] * 5, hanging)
    reader = threading.Thread(target=lambda: seen.append(list(results)))
    reader.start()
    assert hanging.begun.acquire(timeout=PATIENCE)
    results.close()
    reader.join(PATIENCE)
    assert seen == [[]]


def test_a_keyboard_interrupt_stops_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Hanging()

    def interrupted(future: object) -> None:
        assert hanging.begun.acquire(timeout=PATIENCE)
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.bulk.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(over(["x"] * 5, hanging))
    assert hanging.stopped.acquire(timeout=PATIENCE)


def test_it_is_read_with_async_for_and_cancelling_the_task_stops_what_runs() -> None:
    hanging = Hanging()

    async def main() -> list[str]:
        seen = [text_of(found) async for found in over(["a", "", "b"])]
        results = over(["x"] * 5, hanging)
        task = asyncio.create_task(anext(results))
        assert await asyncio.to_thread(hanging.begun.acquire, timeout=PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert asyncio.run(main()) == ["a", "InvalidInput", "b"]
    assert hanging.stopped.acquire(timeout=PATIENCE)


# ---- with an engine


@pytest.mark.model
def test_an_engine_extracts_from_many_and_stores_what_it_yields(tmp_path: Path) -> None:
    dialogues: list[Any] = [
        "나는 오이를 싫어해.",
        "",
        "안녕!",
        [{"role": "user", "content": "저는 어제 이사했어요."}],
        5,
    ]
    with Engine(profile="starter", home=tmp_path) as engine:
        results = list(engine.extract_memories(dialogues, at="2026-03-11", store=True, user="bulk"))
        names = [
            [item.text for _, item in found.items()] if isinstance(found, ExtractedMemory) else found.code
            for found in results
        ]
        assert names == [["나는 오이를 싫어해."], "invalid_input", [], ["저는 어제 이사했어요."], "invalid_input"]
        assert {one.text for one in engine.memories(user="bulk")} == {"나는 오이를 싫어해.", "저는 어제 이사했어요."}

        async def main() -> list[Any]:
            return [found async for found in engine.aextract_memories(dialogues, at="2026-03-11")]

        again = asyncio.run(main())
        assert [getattr(found, "facts", None) for found in again] == [
            getattr(found, "facts", None) for found in results
        ]
        with pytest.raises(InvalidInput):
            engine.extract_memories([], at="yesterday")
        left = engine.extract_memories(dialogues)
    with pytest.raises(EngineClosed):
        engine.extract_memories(dialogues)
    with pytest.raises(EngineClosed):
        list(left)
