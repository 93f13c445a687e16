"""An answer while it is being written: iterate it, cancel it, take its reply. Works with `for` and `async for`."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from engine.generation import Finished
from engine.worker import cancels

if TYPE_CHECKING:
    from engine.tasks import Reply

T = TypeVar("T")
_LOOK_UP = 1.0  # seconds between looks at whether the worker still lives, while waiting for a piece


class Source(Protocol):
    """What a stream reads from."""

    out: queue.SimpleQueue[str | Finished | BaseException]

    def cancel(self) -> None: ...
    def check(self) -> None: ...


class InThread(Protocol):
    """Run a function in another thread and await it."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


class Stream:
    """The pieces of one answer; joined they are `reply.text`, and none ends inside a character.

    A stream that is closed, or no longer referred to, stops its generation. `async for` needs no `await` before.
    """

    def __init__(
        self, start: Callable[[], Source], conclude: Callable[[Finished], Reply], in_thread: InThread
    ) -> None:
        self._start, self._conclude, self._in_thread = start, conclude, in_thread
        self._source: Source | None = None
        self._reply: Reply | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def open(self) -> Stream:
        """Start now; errors of input and loading are raised here."""
        with self._lock:
            if self._source is None:
                self._source = self._start()
        if self._cancelled:
            self._source.cancel()
        return self

    def cancel(self) -> None:
        """Stop the generation, from any thread; iteration ends quietly and the text so far stays."""
        self._cancelled = True
        if self._source is not None:
            self._source.cancel()

    @property
    def reply(self) -> Reply:
        """The whole answer; waits for it."""
        for _ in self:
            pass
        assert self._reply is not None
        return self._reply

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        if self._error is not None:
            raise self._error
        if self._reply is not None:
            raise StopIteration
        event = self._next_event()
        if isinstance(event, str):
            return event
        if isinstance(event, Finished):
            self._reply = self._conclude(event)
            raise StopIteration
        self._error = event
        raise event

    def _next_event(self) -> str | Finished | BaseException:
        source = self.open()._source
        assert source is not None
        with cancels(self.cancel):
            while True:
                try:
                    return source.out.get(timeout=_LOOK_UP)
                except queue.Empty:
                    source.check()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> str:
        piece = await self._in_thread(lambda: next(self, None))
        if piece is None:
            raise StopAsyncIteration
        return piece

    def __enter__(self) -> Stream:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Stream:
        await self._in_thread(self.open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the generation if it still runs."""
        if self._reply is None and self._error is None:
            self.cancel()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
