"""One budget of RAM for everything an engine holds: nothing is allocated before its bytes are reserved here.

Contract: thread-safe, and knows nothing of what the bytes are for. What is only reserved is not in RAM yet; what is
settled is. A settled byte that is a page of a file is one that the machine still counts as available.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.status import Part

if TYPE_CHECKING:
    from engine.machine import Memory

_log = logging.getLogger("engine.budget")


@dataclass(eq=False, slots=True)
class Hold:
    """Bytes that are reserved for one thing, `mapped` of them pages of a file; `settled` once they are in RAM."""

    name: str
    bytes: int
    mapped: int
    settled: bool = False


class Budget:
    """At most `limit` bytes, and never more than the machine has by what `memory` says at that moment."""

    def __init__(self, limit: int, memory: Callable[[], Memory]) -> None:
        self.limit, self._memory = limit, memory
        self._last = limit  # what the machine had when it was looked at last
        self._steady, self._fresh = False, False  # whether that look still counts
        self._lock = threading.RLock()  # not a plain one: the garbage collector may close an engine inside
        self._holds: list[Hold] = []

    def total(self) -> int:
        """Return how many bytes may be held in all: what is settled, and what the machine has left beside it."""
        available = self._look()
        with self._lock:
            anonymous = sum(hold.bytes - hold.mapped for hold in self._holds if hold.settled)
        return min(self.limit, anonymous + available)

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """Look at the machine's memory once in the block, and again after each release: looking takes half a ms."""
        self._steady, self._fresh = True, False
        try:
            yield
        finally:
            self._steady = False

    def _look(self) -> int:
        with self._lock:
            if not (self._steady and self._fresh):
                try:
                    self._last = self._memory().available
                except OSError as error:
                    _log.warning("what memory this machine has cannot be told now: %s", error)
                self._fresh = True
            return self._last

    @property
    def held(self) -> int:
        """Bytes that are reserved or settled."""
        with self._lock:
            return sum(hold.bytes for hold in self._holds)

    def reserve(self, name: str, size: int, mapped: int = 0) -> Hold | None:
        """Return a hold on `size` bytes, or None where so many are not free."""
        total = self.total()
        with self._lock:
            if self.held + size > total:
                return None
            hold = Hold(name, size, mapped)
            self._holds.append(hold)
            return hold

    def settle(self, hold: Hold, size: int, mapped: int = 0) -> None:
        """Say that what is held is in RAM now, and how much it came to."""
        with self._lock:
            hold.bytes, hold.mapped, hold.settled = size, mapped, True

    def split(self, hold: Hold, name: str, size: int, mapped: int = 0) -> Hold:
        """Take so much of what is settled apart, under a name of its own."""
        with self._lock:
            part = Hold(name, min(size, hold.bytes), min(mapped, hold.mapped), settled=True)
            hold.bytes, hold.mapped = hold.bytes - part.bytes, hold.mapped - part.mapped
            self._holds.append(part)
            return part

    def release(self, hold: Hold) -> None:
        """Give back what is held; doing it again does nothing."""
        with self._lock:
            self._fresh = False
            if hold in self._holds:
                self._holds.remove(hold)

    def parts(self) -> tuple[Part, ...]:
        """Return what is held, that of one name together."""
        with self._lock:
            parts: dict[str, Part] = {}
            for hold in self._holds:
                before = parts.get(hold.name, Part(hold.name, 0, 0))
                parts[hold.name] = Part(hold.name, before.bytes + hold.bytes, before.mapped + hold.mapped)
            return tuple(parts.values())
