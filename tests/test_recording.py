"""Recordings: what a generation says reaches its reader, and its end not before it was kept."""

from __future__ import annotations

import gc
import threading
import weakref
from queue import SimpleQueue
from typing import Any

import pytest

from engine import recording
from engine.errors import EngineClosed, StoreError
from engine.generation import Finished
from engine.metrics import Usage
from engine.recording import Recording

END = Finished("안녕", "stop", Usage(1, 0, 1, 0, 0.0, 0.0))


class Source:
    """What a test writes."""

    def __init__(self, *events: Any) -> None:
        self.out: SimpleQueue[Any] = SimpleQueue()
        self.cancelled, self.closed = threading.Event(), False
        for event in events:
            self.out.put(event)

    def cancel(self) -> None:
        self.cancelled.set()

    def check(self) -> None:
        if self.closed:
            raise EngineClosed("closed")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LOOK_UP", 0.01)


def heard(recorded: Recording, count: int) -> list[Any]:
    return [recorded.out.get(timeout=10) for _ in range(count)]


def test_pieces_come_at_once_and_the_end_when_it_is_kept() -> None:
    source, kept, keeping = Source("안", "녕"), list[Any](), threading.Event()

    def keep(event: Any) -> None:
        assert keeping.wait(10)
        kept.append(event)

    recorded = Recording(source, keep)
    assert heard(recorded, 2) == ["안", "녕"]
    source.out.put(END)
    keeping.wait(0.05)
    assert recorded.out.empty() and not kept
    keeping.set()
    assert heard(recorded, 1) == [END] == kept


def test_an_answer_that_nobody_reads_is_kept_all_the_same() -> None:
    source, kept = Source("안"), threading.Event()
    recorded = Recording(source, lambda event: kept.set())
    gone = weakref.ref(recorded)
    del recorded
    source.out.put(END)
    assert kept.wait(10)
    for thread in threading.enumerate():
        if thread.name == "gieok-session":
            thread.join(10)
    gc.collect()
    assert gone() is None, "nothing of it stays"


def test_an_error_is_told_to_both() -> None:
    error, kept = StoreError("full"), list[Any]()
    recorded = Recording(Source("안", error), kept.append)
    assert heard(recorded, 2) == ["안", error]
    assert kept == [error]


def test_what_could_not_be_kept_is_an_error() -> None:
    error = StoreError("full")

    def fails(event: Any) -> None:
        raise error

    assert heard(Recording(Source("안", END), fails), 2) == ["안", error]


def test_an_engine_that_was_closed_is_the_end() -> None:
    source, kept = Source("안"), list[Any]()
    recorded = Recording(source, kept.append)
    assert heard(recorded, 1) == ["안"]
    source.closed = True
    (error,) = heard(recorded, 1)
    assert isinstance(error, EngineClosed) and kept == [error]
    with pytest.raises(EngineClosed):
        recorded.check()


def test_it_is_cancelled_where_it_is_written() -> None:
    source = Source()
    recorded = Recording(source, lambda event: None)
    recorded.cancel()
    assert source.cancelled.is_set()
    source.out.put(END)
    assert heard(recorded, 1) == [END]
