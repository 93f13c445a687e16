"""An answer while it is being written: iterate it, cancel it, take its reply. Works with `for` and `async for`."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from engine.errors import Cancelled
from engine.generation import Finished
from engine.metrics import Usage
from engine.worker import LOOK_UP, Scope, cancels

if TYPE_CHECKING:
    from engine.tasks import Reply

T = TypeVar("T")


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

    def __init__(self, start: Callable[[], Source], conclude: Callable[[Finished], Reply], in_thread: InThread) -> None:
        self._start, self._conclude, self._in_thread = start, conclude, in_thread
        self._source: Source | None = None
        self._reply: Reply | None = None
        self._error: BaseException | None = None
        self._cancelled = False
        self._beginning = Scope()
        self._lock = threading.RLock()

    def open(self) -> Self:
        """Start now; errors of input and loading are raised here."""
        with cancels(self.cancel), self._lock, self._beginning.entered():
            if self._source is None and not self._over:
                self._begin()
        if self._cancelled and self._source is not None:
            self._source.cancel()
        return self

    def cancel(self) -> None:
        """Stop the generation, from any thread, also while its model loads.

        Iteration ends quietly and the text so far stays.
        """
        self._cancelled = True
        self._beginning.cancel()
        if self._source is not None:
            self._source.cancel()

    @property
    def reply(self) -> Reply:
        """The whole answer; waits for it."""
        for _ in self:
            pass
        assert self._reply is not None
        return self._reply

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._source is None and not self._over:
            self.open()
        if self._source is not None and not self._over:
            event = self._next_event(self._source)
            if isinstance(event, str):
                return event
            self._source.out.put(event)  # another thread may wait for the end of this stream, too
            self._end(event)
        if self._error is not None:
            raise self._error
        raise StopIteration

    @property
    def _over(self) -> bool:
        return self._reply is not None or self._error is not None

    def _begin(self) -> None:
        began = time.perf_counter()
        try:
            self._source = self._start()
        except Cancelled:
            if not self._cancelled:
                raise
            seconds = time.perf_counter() - began
            self._end(Finished("", "cancelled", Usage(0, 0, 0, 0, seconds, seconds)))

    def _next_event(self, source: Source) -> str | Finished | BaseException:
        with cancels(self.cancel):
            while True:
                try:
                    return source.out.get(timeout=LOOK_UP)
                except queue.Empty:
                    source.check()

    def _end(self, event: Finished | BaseException) -> None:
        """Keep how the stream ended; an answer that cannot be parsed is an end as well."""
        with self._lock:
            if self._over:
                return
            if isinstance(event, BaseException):
                self._error = event
                return
            try:
                self._reply = self._conclude(event)
            except Exception as error:  # noqa: BLE001 - raised by every later read
                self._error = error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        try:
            piece = await self._in_thread(lambda: next(self, None))
        except asyncio.CancelledError:
            self.cancel()  # also where the piece was already there, or no thread had begun to wait for it
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self._in_thread(self.open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the generation if it still runs."""
        if not self._over:
            self.cancel()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
