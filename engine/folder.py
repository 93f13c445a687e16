"""Model files in a folder of the user's, such as a USB stick: found there, and read like those of a hub."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from engine import pins
from engine.config import ModelSpec
from engine.errors import DownloadError
from engine.fetch import Body, Remote
from engine.layout import target

_PIECE = 1 << 20  # bytes read at a time


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a model in a folder, by name, and the commit they are of, where its models.lock tells."""

    revision: str | None
    files: Mapping[str, tuple[Remote, Path]]


def listing(spec: ModelSpec, folder: Path) -> Found:
    """Return the files of a model that `folder` has: in a folder of its name, or loose.

    A models.lock there tells which files belong to it, and their hashes. `folder` may also be the one file of a
    model. Raises `DownloadError`.
    """
    if folder.is_file() and len(spec.source.files) == 1:
        name = target(spec, spec.source.files[0])
        return Found(None, {name: (Remote(name, folder.stat().st_size), folder)})
    if not folder.is_dir():
        raise DownloadError(f"there is no folder {folder}.", file=spec.name)
    pin = pins.read(folder).get(spec.name)
    known = {name: file.sha256 for name, file in pin.files.items()} if pin else {}
    wanted = list(known) or [target(spec, file) for file in spec.source.files] or names(folder / spec.name)
    found = {name: _find(spec, folder, name) for name in wanted}
    _check_all(spec, folder, found)
    files = {name: (Remote(name, path.stat().st_size, known.get(name)), path) for name, path in found.items() if path}
    return Found(pin.revision if pin else None, files)


def _check_all(spec: ModelSpec, folder: Path, found: Mapping[str, Path | None]) -> None:
    missing = next((name for name, path in found.items() if path is None), None)
    if missing or not found:
        what = f"{missing} of {spec.name}. Put it" if missing else f"{spec.name}. Put its files"
        raise DownloadError(
            f"{folder} has no {what} there, or into a folder {spec.name} in it.", file=missing or spec.name
        )


@contextlib.contextmanager
def read(path: Path, start: int) -> Iterator[Body]:
    """Open the bytes of a file from `start` on. Raises `DownloadError`, as reading them does."""
    with _explained(path):
        file = path.open("rb")
    with file:
        file.seek(start)
        yield Body(start, os.fstat(file.fileno()).st_size, _pieces(path, file))


def _pieces(path: Path, file: BinaryIO) -> Iterator[bytes]:
    while True:
        with _explained(path):
            piece = file.read(_PIECE)
        if not piece:
            return
        yield piece


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise DownloadError(f"{path} cannot be read: {why}. Copy it again.", file=path.name) from error


def names(home: Path) -> list[str]:
    """Return the files of a model's folder, without those that are hidden or were found damaged."""
    files = (path.relative_to(home) for path in sorted(home.rglob("*")) if path.is_file())
    return [file.as_posix() for file in files if not _ignored(file)]


def _ignored(file: Path) -> bool:
    return file.suffix in (".corrupt", ".part") or any(part.startswith(".") for part in file.parts)


def _find(spec: ModelSpec, folder: Path, name: str) -> Path | None:
    loose = PurePosixPath(name).name
    for path in (folder / spec.name / name, folder / name, folder / spec.name / loose, folder / loose):
        if path.is_file():
            return path
    return None
