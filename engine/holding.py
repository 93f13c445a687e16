"""The lock by which one process holds a home, so that only one writes to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import StoreLocked

if TYPE_CHECKING:
    from filelock import FileLock


class Holding:
    """A lock of the operating system, which is free again when its process is gone, whatever it died of."""

    def __init__(self, home: Path, timeout: float) -> None:
        self._home, self._timeout = home, timeout
        self._lock: FileLock | None = None

    def take(self) -> None:
        """Hold the home, which is made where it is missing. Raises `StoreLocked` after `timeout` seconds, `OSError`."""
        from filelock import FileLock, Timeout

        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # thread_local=False: the thread that closes need not be the one that opened.
        lock = FileLock(self._home / "lock", timeout=self._timeout, mode=0o600, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLocked(
                f"another engine is using the memories in {self._home}, and only one can change them at a time. "
                "Close it, or give this one another home (--home DIR)."
            ) from None
        self._lock = lock

    def release(self) -> None:
        """Give the home back; may be called twice."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
