"""The one loader thread: what takes long to make is made there, once for all who wait for it, and handed over.

Contract: who wants something asks for its `Load` and waits on a future of their own; cancelling that gives it up, and
when nobody waits any more, the load is told so. What was made belongs to the compute thread from its adoption on; the
loader thread never waits for that thread, so each may wait for this one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from engine.errors import Cancelled, EngineClosed

_log = logging.getLogger("engine.loader")
Heed = Callable[[], None]  # raises `Cancelled` once nobody waits for what is being made


@dataclass(frozen=True, eq=False, slots=True)
class Load:
    """How the thing called `key` comes to be, on which thread.

    `make` runs on the loader thread and calls what it is handed as often as it can be aborted; `adopt` takes what was
    made, on the compute thread. `free` ends what was made and never adopted, on either. `gone` is called once where
    nothing was adopted, when nothing of it is in memory any more.
    """

    key: Hashable
    name: str
    make: Callable[[Heed], Any]
    adopt: Callable[[Any], object]
    free: Callable[[Any], object]
    gone: Callable[[], object]


@dataclass(eq=False, slots=True)
class _Ticket:
    """A load that is queued, runs, or waits for its adoption."""

    load: Load
    waiting: list[Future[None]] = field(default_factory=list)


class Loader:
    """The loader thread, started with the first load; `post` queues a job for the compute thread."""

    def __init__(self, post: Callable[[Callable[[], object]], Future[object]]) -> None:
        self._post = post
        self._asked: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._tickets: dict[Hashable, _Ticket] = {}
        self._lock = threading.RLock()  # not a plain one: the garbage collector may close an engine inside
        self._ended: str | None = None
        self.thread: threading.Thread | None = None

    def ask(self, load: Load) -> Future[None]:
        """Return a future that is done once `load` is adopted, or holds what went wrong; cancel it to give up.

        Raises `EngineClosed` after `stop`.
        """
        waiter: Future[None] = Future()
        with self._lock:
            if self._ended:
                raise EngineClosed(self._ended)
            (self._tickets.get(load.key) or self._begin(load)).waiting.append(waiter)
        return waiter

    def stop(self, reason: str) -> None:
        """Give up every load, from any thread and without waiting; who waits gets `EngineClosed`."""
        with self._lock:
            self._ended = self._ended or reason
            tickets = list(self._tickets.values())
        for ticket in tickets:
            self._conclude(ticket, EngineClosed(reason))

    def join(self) -> None:
        """Let the thread end, after `stop`, and wait for that; an import that runs there cannot be aborted.

        It ends behind the compute thread: what OpenVINO keeps for a thread should not go while its models are freed.
        """
        self._asked.put(None)
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()

    def _begin(self, load: Load) -> _Ticket:
        if self.thread is None:
            thread = threading.Thread(target=self._run, name="gieok-loader", daemon=True)
            thread.start()
            self.thread = thread
        ticket = self._tickets[load.key] = _Ticket(load)
        self._asked.put(ticket)
        return ticket

    def _run(self) -> None:
        while (ticket := self._asked.get()) is not None:
            self._fulfil(ticket)
            del ticket  # not kept while waiting for the next

    def _fulfil(self, ticket: _Ticket) -> None:
        try:
            self._heed(ticket)
            made = ticket.load.make(partial(self._heed, ticket))
        except BaseException as error:  # noqa: BLE001 - whatever it was, who waits is told
            self._leave(ticket, error)
        else:
            self._hand_over(ticket, made)

    def _heed(self, ticket: _Ticket) -> None:
        with self._lock:
            if self._current(ticket):
                if not all(waiter.done() for waiter in ticket.waiting):
                    return
                del self._tickets[ticket.load.key]  # who asks from now on needs a new load
        raise Cancelled(f"nobody waits any more for {ticket.load.name} to load")

    def _hand_over(self, ticket: _Ticket, made: Any) -> None:
        def adopt() -> None:
            if not self._current(ticket):
                raise EngineClosed(f"{ticket.load.name} was unloaded while it loaded")
            ticket.load.adopt(made)

        try:
            adopted = self._post(adopt)
        except BaseException as error:  # noqa: BLE001 - the compute thread has ended, or cannot start
            self._settle(ticket, made, error)
        else:
            adopted.add_done_callback(lambda future: self._settle(ticket, made, future.exception()))

    def _settle(self, ticket: _Ticket, made: Any, error: BaseException | None) -> None:
        """Tell who waits; without an adoption what was made is freed by the only one that has it."""
        try:
            if error is not None:
                ticket.load.free(made)
        except Exception as failure:  # noqa: BLE001 - nobody waits for this
            _log.error("%s could not be freed: %s", ticket.load.name, type(failure).__name__)
        if error is None:
            self._conclude(ticket, None)
        else:
            self._leave(ticket, error)

    def _leave(self, ticket: _Ticket, error: BaseException) -> None:
        """Nothing is left of it: first of all its memory is free again, then who waits is told."""
        ticket.load.gone()
        self._conclude(ticket, error)

    def _conclude(self, ticket: _Ticket, error: BaseException | None) -> None:
        with self._lock:
            if self._current(ticket):
                del self._tickets[ticket.load.key]
            waiting, ticket.waiting = ticket.waiting, []
        for waiter in waiting:
            if not waiter.set_running_or_notify_cancel():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def _current(self, ticket: _Ticket) -> bool:
        with self._lock:
            return self._tickets.get(ticket.load.key) is ticket
