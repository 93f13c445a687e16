"""A background thread, of a memory store or of sessions: it does its chores until nothing is left to do, and then ends.

Contract: one thread at a time. A chore does a bit and returns whether there is more; who has just changed something
calls `nudge`. A chore that fails is left until the next nudge: it must not cost the host anything but a line of log.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from engine.errors import EngineClosed, EngineError

_log = logging.getLogger("engine.keeper")
Chore = Callable[[], bool]


class Keeper:
    """Runs `chores`, in their order, whenever there is something to do; the first one with more to do goes first."""

    def __init__(self, chores: Sequence[Chore], name: str = "gieok-memory") -> None:
        self._chores, self._name = tuple(chores), name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._nudged = False
        self._put_off = False  # a chore failed since the last nudge
        self._closed = False
        self._pid = os.getpid()

    @property
    def _is_forked(self) -> bool:
        """Whether this is another process; then a thread that is not in it may hold the lock."""
        return os.getpid() != self._pid

    def nudge(self) -> None:
        """Let the chores look what there is to do, and do not wait for it."""
        if self._is_forked:
            return
        with self._changed:
            self._nudged = True
            self._put_off = False
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: what was asked for is done all the same, and this the next time
                    _log.warning("the chores of %s have to wait: no thread could be started", self._name)
                else:
                    self._thread = thread

    def wait(self, timeout: float | None) -> bool:
        """Wait until the chores are done, at most `timeout` seconds; return whether all are: one that failed is not."""
        if self._is_forked:
            return True
        if threading.current_thread() is self._thread:  # as a progress callback may be
            return False
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._thread is not None:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(1.0 if left is None else min(left, 1.0))  # Windows shows a Ctrl-C between two waits
        return not self._put_off

    def close(self) -> None:
        """Let the thread end after the bit that it is doing; a forked child has none."""
        if self._is_forked:
            return
        with self._changed:
            self._closed = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        try:
            while self._goes_on():
                left, more = list(self._chores), True
                while more and not self._closed:  # a bit of each in turn: none waits for hours behind another
                    done = [(chore, self._does(chore)) for chore in left]
                    left = [chore for chore, more in done if more is not None]
                    more = any(more for _, more in done)  # what one has done may be what another waited for
        except BaseException:  # such as a SystemExit in a callback: nobody may wait for a thread that is gone
            with self._changed:
                self._put_off, self._thread = True, None
                self._changed.notify_all()
            raise

    def _goes_on(self) -> bool:
        with self._changed:
            if self._nudged and not self._closed:
                self._nudged = False
                return True
            self._thread = None
            self._changed.notify_all()
            return False

    def _does(self, chore: Chore) -> bool | None:
        """Let a chore do a bit; return whether there is more, or None where it failed."""
        try:
            return not self._closed and chore()
        except EngineClosed:
            self._put_off = True
        except EngineError as error:
            self._put_off = True
            _log.warning("a chore of %s was put off: %s", self._name, error.code)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other chores are done
            self._put_off = True
            _log.error("a chore of %s failed: %s", self._name, type(error).__name__)
        return None
