"""What everyone keeps to who writes into the models folder: one at a time, never outside it, with room to spare."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from engine.config import ModelSpec
from engine.errors import DownloadError
from engine.fetch import POLL, Remote
from engine.layout import models_dir
from engine.metrics import Progress, ProgressCallback, report
from engine.names import safe_name
from engine.quantities import bytes_text

_SPARE = 64 << 20  # bytes of disk that a fetch leaves free


class Told:
    """Tells a caller's callback how far a model is, of `total` bytes, and the file in work."""

    def __init__(self, spec: ModelSpec, progress: ProgressCallback | None, doing: str) -> None:
        self._task, self._progress = f"{doing} {spec.name}", progress
        self.file: Remote | None = None
        self.before = self.total = 0

    def __call__(self, doing: str, done: int) -> None:
        """Tell that `done` bytes of the file are there; raises `Cancelled`."""
        of = self.file or Remote("list of files", 0)
        shown = of.name if doing == "download" else f"{of.name}: {doing}"
        part = Progress(shown, done, of.size or 0, "bytes")
        report(self._progress, Progress(self._task, self.before + done, self.total, "bytes", part))


def workplace(spec: ModelSpec) -> Path:
    """Return the folder of a fetch that has not ended."""
    return models_dir() / f".pull-{spec.name}"


@contextlib.contextmanager
def only_one(spec: ModelSpec, progress: ProgressCallback | None) -> Iterator[None]:
    """Keep other processes from writing the files of a model; wait while one does."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{workplace(spec)}.lock")
    while True:
        try:
            lock.acquire(timeout=POLL)
            break
        except Timeout:
            report(progress, Progress(f"wait for another download of {spec.name}", 0, 0, "bytes"))
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def explained(spec: ModelSpec) -> Iterator[None]:
    """Turn what the system says about the models folder into a `DownloadError` with the next step."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        message = f"{spec.name} cannot be written to {models_dir()}: {why}. Check the folder and its disk, or set "
        raise DownloadError(message + "GIEOK_MODELS to another folder.", file=spec.name) from error


@contextlib.contextmanager
def explained_room(remote: Remote, part: Path) -> Iterator[None]:
    """Turn a disk that is full, or a quota, into a `DownloadError` that says how much room `part` needs yet."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        there = part.stat().st_size if part.exists() else 0
        needed, free = max(0, (remote.size or 0) - there), shutil.disk_usage(models_dir()).free
        raise DownloadError(
            f"{remote.name} needs {bytes_text(needed)} more, and the disk of {models_dir()} is full "
            f"({bytes_text(free)} free). Free some space and run the command again: it goes on from there.",
            file=remote.name,
        ) from error


def check_name(spec: ModelSpec, name: str) -> None:
    """Refuse a file name that could leave the model's folder. Raises `DownloadError`."""
    try:
        safe_name(name)
    except ValueError as error:
        raise DownloadError(f"{spec.name} has a file called {name!r}: it {error}.", file=name) from None


def check_inside(path: Path, name: str) -> None:
    """Refuse a place that a link has moved out of the models folder. Raises `DownloadError`."""
    if not path.resolve().is_relative_to(models_dir().resolve()):
        raise DownloadError(
            f"{path} is a link that leaves {models_dir()}; {name} is not written there. Delete the link, or "
            "name the place with source.path in models.toml.",
            file=name,
        )


def check_room(spec: ModelSpec, needed: int) -> None:
    """Refuse to begin what the disk has no room for; `needed` in bytes. Raises `DownloadError`."""
    needed, free = needed + _SPARE, shutil.disk_usage(models_dir()).free
    if free < needed:
        raise DownloadError(
            f"{spec.name} needs {bytes_text(needed)} more on the disk of {models_dir()}, which has {bytes_text(free)} "
            f"free. Free {bytes_text(needed - free)}, or set GIEOK_MODELS to a folder on another disk.",
            file=spec.name,
        )


def sync(path: Path) -> None:
    """Put a file on the disk, or the names in a folder where the system can. Raises `OSError`."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes only what may be written
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
