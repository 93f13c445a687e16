"""A disk that fails: the n-th write, sync, truncation or renaming under a folder, and perhaps all that follow.

SQLite's files are reached through a VFS of apsw, other files through the functions that Python programs write with.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import apsw
import pytest

_NAME = "faulty"
_CODES = {"write": apsw.SQLITE_IOERR_WRITE, "sync": apsw.SQLITE_IOERR_FSYNC, "truncate": apsw.SQLITE_IOERR_TRUNCATE}


@dataclass
class Disk:
    """What is done under `folder` is a step; from `arm` on they are counted, and the n-th fails.

    `lasting`: every later one fails too, as on a full disk, until `mend`. `full` tells that there is no space, else the
    device failed.
    """

    folder: Path
    full: bool = False
    lasting: bool = False
    steps: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _at: int | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, at: int) -> None:
        """Let the `at`-th step from now on fail, the first being 1."""
        with self._guard:
            self.steps.clear()
            self.failed.clear()
            self._at = at

    def mend(self) -> None:
        """Let nothing fail any more."""
        with self._guard:
            self._at = None

    def fails(self, kind: str, path: str | os.PathLike[str]) -> bool:
        """Count a step and return whether it is to fail."""
        with self._guard:
            if self._at is None:
                return False
            name = f"{kind} {Path(path).name}"
            self.steps.append(name)
            number = len(self.steps)
            failing = number >= self._at if self.lasting else number == self._at
            if failing:
                self.failed.append(name)
            return failing

    def holds(self, path: object) -> bool:
        """Return whether a file lies under the folder."""
        return isinstance(path, (str, os.PathLike)) and Path(os.fspath(path)).is_relative_to(self.folder)

    def sqlite_error(self, kind: str) -> apsw.Error:
        """Return what SQLite's own VFS would report."""
        error: apsw.Error = apsw.FullError("database or disk is full") if self.full else apsw.IOError("disk I/O error")
        error.result = apsw.SQLITE_FULL if self.full else apsw.SQLITE_IOERR
        error.extendedresult = apsw.SQLITE_FULL if self.full else _CODES[kind]
        return error

    def error(self, path: str | os.PathLike[str]) -> OSError:
        """Return what the operating system would report."""
        number = errno.ENOSPC if self.full else errno.EIO
        return OSError(number, os.strerror(number), os.fspath(path))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, base: str, name: Any, flags: list[int]) -> None:
        super().__init__(base, name, flags)
        self._disk = disk
        self._path = str(name.filename() if isinstance(name, apsw.URIFilename) else name)

    def _step(self, kind: str) -> None:
        if self._disk.holds(self._path) and self._disk.fails(kind, self._path):
            raise self._disk.sqlite_error(kind)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._step("write")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._step("sync")
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._step("truncate")
        super().xTruncate(newsize)


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk, base: str) -> None:
        super().__init__(_NAME, base, makedefault=True)
        self._disk = disk
        self._base = base

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self._disk, self._base, name, flags)

    def excepthook(self, *error: object) -> None:
        """Say nothing where SQLite has no way to hand an error on, as its own VFS says nothing."""


class _Counted(io.FileIO):
    """A file of Python's whose writes are steps."""

    disk: ClassVar[Disk]
    path = ""

    def write(self, data: Any) -> int:
        if self.disk.fails("write", self.path):
            raise self.disk.error(self.path)
        return super().write(data)


def _opening(disk: Disk) -> Any:
    real = io.open

    class File(_Counted):
        pass

    File.disk = disk

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        path = _path_of(file) if isinstance(file, int) else file
        if not disk.holds(path) or not set(mode) & set("wax+"):
            return real(file, mode, buffering, *rest, **named)
        if path is file and disk.fails("open", path):
            raise disk.error(path)
        raw = File(file, mode.replace("b", "").replace("t", ""))
        raw.path = os.fspath(path)
        if "b" not in mode:
            return io.TextIOWrapper(io.BufferedWriter(raw), *rest, **named)
        if buffering == 0:
            return raw
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    return opened


def _paths(disk: Disk, patch: pytest.MonkeyPatch) -> None:
    def guarded(kind: str) -> None:
        real = getattr(os, kind)

        def step(path: Any, *rest: Any, **named: Any) -> Any:
            if disk.holds(path) and disk.fails(kind, path):
                raise disk.error(path)
            return real(path, *rest, **named)

        patch.setattr(os, kind, step)

    for kind in ("replace", "rename", "truncate"):
        guarded(kind)


def _handles(disk: Disk, patch: pytest.MonkeyPatch) -> None:
    """Watch what makes numbers of files and takes them: where one leads is asked of the system."""
    real_sync = os.fsync

    def sync(handle: Any) -> None:
        path = _path_of(handle)
        if disk.holds(path) and disk.fails("sync", path):
            raise disk.error(path)
        real_sync(handle)

    patch.setattr(os, "fsync", sync)
    real_open = os.open

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and disk.holds(path) and disk.fails("open", path):
            raise disk.error(path)
        return real_open(path, flags, *rest, **named)

    patch.setattr(os, "open", opened)


def _path_of(handle: Any) -> str:
    number = handle if isinstance(handle, int) else handle.fileno()
    link = f"/proc/self/fd/{number}"
    return os.readlink(link) if os.path.exists(link) else ""  # noqa: PTH110, PTH115


@contextmanager
def faulty(folder: Path, *, full: bool = False, lasting: bool = False) -> Iterator[Disk]:
    """Lend a disk under `folder`; connections opened meanwhile go through it and must be closed before the end."""
    disk = Disk(folder, full, lasting)
    base = apsw.vfs_names()[0]
    vfs = _Vfs(disk, base)
    try:
        with pytest.MonkeyPatch.context() as patch:
            opening = _opening(disk)
            patch.setattr(builtins, "open", opening)
            patch.setattr(io, "open", opening)
            _paths(disk, patch)
            _handles(disk, patch)
            yield disk
    finally:
        vfs.unregister()
        assert apsw.vfs_names()[0] == base
