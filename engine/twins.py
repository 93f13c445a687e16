"""Async twins of sync methods, derived once: the method runs in a thread, and cancelling the task cancels it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from engine.worker import SCOPE, Scope

P = ParamSpec("P")
R = TypeVar("R")
_THREADS = 64  # calls of one engine that may wait at once; they compute nothing themselves


class Threads:
    """The threads in which sync methods wait on behalf of tasks; made with the first call."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()

    async def run(self, function: Callable[[], R]) -> R:
        """Run `function` in a thread; if the awaiting task is cancelled, what it has under way is stopped."""
        self._check()  # in a forked child the pool's threads are gone, and this would wait for ever
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="gieok-async")
        scope, context = Scope(), contextvars.copy_context()
        context.run(SCOPE.set, scope)
        try:
            waiting = asyncio.get_running_loop().run_in_executor(self._pool, context.run, function)
        except RuntimeError:  # the pool was shut down just now
            self._check()
            raise
        try:
            return await waiting
        except asyncio.CancelledError:
            scope.cancel()
            raise

    def close(self) -> None:
        """Let the threads end when their calls are done."""
        if self._pool is not None and os.getpid() == self._pid:  # a fork may have copied the pool's lock shut
            self._pool.shutdown(wait=False)


class HasThreads(Protocol):
    """An object whose methods can have twins."""

    @property
    def threads(self) -> Threads: ...


S = TypeVar("S", bound=HasThreads)


def twin(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return the async twin of `method`: the same signature, awaited."""

    @functools.wraps(method)
    async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.threads.run(functools.partial(method, self, *args, **kwargs))

    call.__name__ = f"a{method.__name__}"
    call.__qualname__ = f"{method.__qualname__.rpartition('.')[0]}.{call.__name__}"
    call.__doc__ = f"Async twin of `{method.__name__}`."
    return call
