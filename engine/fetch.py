"""One file, from wherever it comes, to a verified file here: it goes on where it was cut off, and is tried again.

Contract: what is in the part is what came, in order and without a gap, also after the process was killed. A part
becomes a file only when its size and every hash that is known of it are right.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TypeVar

from engine.errors import DownloadError

T = TypeVar("T")
POLL = 0.2  # seconds between two reports
_BLOCK = 1 << 22  # bytes hashed at a time


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a source is waited for: `tries` without a new byte, seconds between them, which double, and in a read.

    `longest_wait` also bounds what a source asks for.
    """

    tries: int
    first_wait: float
    longest_wait: float
    stall: float


PATIENCE = Patience(tries=6, first_wait=1.0, longest_wait=60.0, stall=20.0)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at its source; `size` in bytes, `sha256` and `blob` (git's id of its bytes) where they are known."""

    name: str
    size: int | None = None
    sha256: str | None = None
    blob: str | None = None

    @property
    def key(self) -> str | None:
        """What names these bytes and no others, if anything does."""
        return self.sha256 or self.blob


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a file from `start` on; `total` is the size of the whole, where the source tells it."""

    start: int
    total: int | None
    pieces: Iterator[bytes]


class Interrupted(Exception):
    """A source failed in a way that may pass; `wait` is how many seconds it asks for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Unreachable(Interrupted):
    """There was nobody to ask; where nothing has come yet, patience is shorter."""


class Wrong(Exception):
    """What came is not what is wanted; the source is asked once more. The part is thrown away unless it is `kept`."""

    def __init__(self, why: str, *, kept: bool = False) -> None:
        super().__init__(why)
        self.kept = kept


Open = Callable[[int], AbstractContextManager[Body]]  # the bytes from an offset on; raises `Interrupted`
Tell = Callable[[str, int], object]  # takes what is being done and how many bytes are there; may raise


def fetch(remote: Remote, part: Path, source: Open, tell: Tell) -> str:
    """Bring a file to `part`, on the disk and verified, and return its sha256; what is in `part` already is kept.

    What is not right in the end is fetched once more from the start. Raises `DownloadError`, `OSError`, and what
    `source` and `tell` raise; `part` then stays, unless its bytes were wrong.
    """
    try:
        return _fetch(remote, part, source, tell)
    except Wrong as wrong:
        _drop(part, wrong)
    try:
        return _fetch(remote, part, source, tell)
    except Wrong as wrong:
        _drop(part, wrong)
        kept = "what came before is kept" if wrong.kept else "nothing of it was kept"
        raise DownloadError(
            f"{remote.name} {wrong}, twice; {kept}. Something changed it on its way or at its source: try again later, "
            "and if that brings the same, do not use this source.",
            file=remote.name,
        ) from None


def _drop(part: Path, wrong: Wrong) -> None:
    if not wrong.kept:
        part.unlink(missing_ok=True)


def retried(what: str, file: str, once: Callable[[], T], tell: Tell) -> T:
    """Return what `once` returns, trying again after `Interrupted`. Raises `DownloadError` when patience ends."""
    turns = _Turns(what, file, tell)
    while True:
        try:
            return once()
        except Interrupted as error:
            turns.wait(error, 0)


class _Turns:
    """How often a source failed in a row."""

    def __init__(self, what: str, file: str, tell: Tell) -> None:
        self._what, self._file, self._tell = what, file, tell
        self.failed = 0

    def wait(self, error: Interrupted, done: int) -> None:
        """Wait before the next try. Raises `DownloadError` where there is none."""
        self.failed += 1
        if self.failed >= PATIENCE.tries // (2 if isinstance(error, Unreachable) and not done else 1):
            raise DownloadError(
                f"{self._what} could not be fetched: {str(error).rstrip('.')} ({self.failed} times in a row). What "
                "came is kept: check the connection and run the command again, and it goes on from there. For a "
                "machine without a network, bring the files and use `gieok models pull --from FOLDER`.",
                file=self._file,
            ) from error
        seconds = min(error.wait or PATIENCE.first_wait * 2 ** (self.failed - 1), PATIENCE.longest_wait)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._tell(f"retry in {left:.0f} s ({error})", done)
            time.sleep(min(left, POLL))


class _Part:
    """The beginning of a file on the disk, and the hashes of it."""

    def __init__(self, out: FileIO, remote: Remote, tell: Tell) -> None:
        self.remote = remote
        self._out, self._tell, self._told = out, tell, 0.0
        self._begin()
        self._out.seek(0)
        while block := self._out.read(_BLOCK):
            self._hash(block)
            self.tell("check")

    def restart(self) -> None:
        """Forget what is there."""
        self._out.truncate(0)
        self._begin()

    def _begin(self) -> None:
        self.size, self._sha256 = 0, hashlib.sha256()
        # git's id, which is all that is known of small files, begins with their size
        git = self.remote.blob and not self.remote.sha256 and self.remote.size is not None
        self._blob = hashlib.sha1(b"blob %d\0" % (self.remote.size or 0), usedforsecurity=False) if git else None

    def add(self, piece: bytes) -> None:
        """Append what came. Raises `OSError`."""
        left = memoryview(piece)
        while left:
            left = left[self._out.write(left) or 0 :]
        self._hash(piece)
        if self.remote.size is not None and self.size > self.remote.size:
            raise Wrong(f"is longer than its {self.remote.size} bytes")
        self.tell("download")

    def tell(self, doing: str, *, always: bool = False) -> None:
        """Report, unless that was done just now."""
        if always or time.monotonic() - self._told > POLL:
            self._told = time.monotonic()
            self._tell(doing, self.size)

    def finish(self) -> str:
        """Put the bytes on the disk and return their sha256, if they are right."""
        self.tell("download", always=True)
        sha256, blob = self._sha256.hexdigest(), self._blob.hexdigest() if self._blob else None
        if self.remote.size is not None and self.size != self.remote.size:
            raise Wrong(f"has {self.size} bytes where {self.remote.size} are expected")
        if self.remote.sha256 not in (None, sha256):
            raise Wrong(f"came with sha256 {sha256} where {self.remote.sha256} is expected")
        if blob and blob != self.remote.blob:
            raise Wrong(f"came with git's id {blob} where {self.remote.blob} is expected")
        os.fsync(self._out.fileno())
        return sha256

    def _hash(self, block: bytes) -> None:
        self._sha256.update(block)
        if self._blob:
            self._blob.update(block)
        self.size += len(block)


def _fetch(remote: Remote, path: Path, source: Open, tell: Tell) -> str:
    if path.is_symlink():  # what it leads to is not ours
        path.unlink()
    # without a buffer, a killed process loses nothing that was written
    with _not_empty(path), path.open("a+b", buffering=0) as out:
        part = _Part(out, remote, tell)
        turns = _Turns(remote.name, remote.name, tell)
        while remote.size is None or part.size < remote.size or not part.size:
            before = part.size
            try:
                _read(part, source)
            except Interrupted as error:
                if part.size > before:
                    turns.failed = 0
                turns.wait(error, part.size)
            else:
                break
        return part.finish()


@contextlib.contextmanager
def _not_empty(path: Path) -> Iterator[None]:
    """Leave no part behind of which nothing came."""
    try:
        yield
    except BaseException:
        if not path.stat().st_size:
            path.unlink()
        raise


def _read(part: _Part, source: Open) -> None:
    """Append all that the source has from here on."""
    size = part.remote.size
    with source(part.size) as body:
        if size is not None and body.total not in (None, size):  # the page of a network that wants a login, say
            raise Wrong(f"has {body.total} bytes at its source where {size} are expected", kept=True)
        if body.start not in (0, part.size):
            raise Wrong(f"came from byte {body.start} on, where {part.size} was asked for")
        if body.start != part.size:
            part.restart()
        for piece in body.pieces:
            part.add(piece)
    if size is not None and part.size < size:
        raise Interrupted(f"it ended after {part.size} of {size} bytes")
