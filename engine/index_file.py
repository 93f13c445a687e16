"""The vector index on disk, so that a store opens without reading its vectors again.

One file: a mark, the length of a header, the header in JSON, and the index's own bytes. A checksum of all of it is the
receipt for a saved file. It is kept elsewhere, by who saves, and a file is what it should be only where its checksum
is: neither an older file nor one that was made to look right can be taken for it. Whatever is wrong with a file, the
index can be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from engine.index import VectorIndex, bytes_of, layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "memory.index"
_MARK = b"GIEOKIDX"
_FORMAT = 1
_PREFIX = struct.Struct("<8sI")  # the mark, and bytes of the header
_LONGEST = 4_096  # bytes of a header
_COUNTS = ("count", "trained", "generation")


class Unusable(Exception):
    """The file is missing, of another store, model or version, or not as it was saved: make the index again."""


def save(path: Path, index: VectorIndex, *, model: str, store: str, generation: int) -> str:
    """Write `index` to `path` in one step and return the checksum (sha256, hex) by which `load` will know it.

    Nothing may change the index meanwhile. Whatever fails, the file that was there stays as it was; files that saves
    of killed processes left behind are removed, so one save at a time. Raises `OSError`.
    """
    counts = {"count": len(index), "trained": index.trained, "generation": generation}
    header = json.dumps(_names(model, store, index.dim) | counts).encode()
    if len(header) > _LONGEST:
        raise ValueError(f"a header of {len(header)} bytes")
    prefix = _PREFIX.pack(_MARK, len(header)) + header
    parts: list[bytes | memoryview] = [prefix, *(buffer.data for buffer in index.dumps())]
    _remove(*_leftovers(path))
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)  # with mode 0600
    aside, digest = Path(name), hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        _remove(aside)
    _sync(path.parent)
    return digest.hexdigest()


def load(path: Path, *, model: str, store: str, dim: int, checksum: str) -> tuple[VectorIndex, int]:
    """Return the index and the generation that were saved to `path` with `checksum`. Raises `Unusable`."""
    try:
        with path.open("rb") as file:
            return _read(file, _names(model, store, dim), dim, checksum)
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from error


def quarantine(path: Path) -> None:
    """Put a file that is there aside, in place of the one put aside before."""
    with suppress(OSError):  # where it cannot be, it is found unusable again
        path.replace(_damaged(path))


def discard(folder: Path) -> None:
    """Remove every file that has come of saving an index as `NAME` in `folder`. Raises `OSError`."""
    path = folder / NAME
    for file in (path, _damaged(path), *_leftovers(path)):
        file.unlink(missing_ok=True)


def _names(model: str, store: str, dim: int) -> dict[str, object]:
    """Return what a header must say word for word."""
    return {"format": _FORMAT, "layout": layout(), "model": model, "store": store, "dim": dim}


def _read(file: BinaryIO, names: dict[str, object], dim: int, checksum: str) -> tuple[VectorIndex, int]:
    digest = hashlib.sha256()

    def fill(buffer: NDArray[np.uint8]) -> None:
        if file.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise Unusable("ends too early")
        digest.update(buffer.data)

    prefix = file.read(_PREFIX.size)
    said, header = _header(file, prefix)
    digest.update(prefix + header)
    if other := [name for name in names if said.get(name) != names[name]]:
        raise Unusable(f"of another {other[0]}")
    count, trained, generation = (_count(said, name) for name in _COUNTS)
    # Asked before anything is made for them: a header may claim any number of vectors.
    if os.fstat(file.fileno()).st_size != len(prefix) + len(header) + bytes_of(count, dim):
        raise Unusable("not as long as it says")
    # What is read until the checksum is known are numbers only: nothing in them is followed.
    index = VectorIndex.loads(dim, count, trained, fill)
    if digest.hexdigest() != checksum:
        raise Unusable("not the file that was saved last, or damaged")
    return index, generation


def _header(file: BinaryIO, prefix: bytes) -> tuple[dict[str, object], bytes]:
    mark, length = _PREFIX.unpack(prefix) if len(prefix) == _PREFIX.size else (b"", 0)
    if mark != _MARK or length > _LONGEST:
        raise Unusable("no index file")
    header = file.read(length)
    try:
        said = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise Unusable("has a damaged header") from error
    if not isinstance(said, dict):
        raise Unusable("has a damaged header")
    return said, header


def _count(said: dict[str, object], name: str) -> int:
    value = said.get(name)
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise Unusable("has a damaged header")
    return value


def _damaged(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")


def _leftovers(path: Path) -> Iterator[Path]:
    return (file for file in path.parent.iterdir() if file.name.startswith(f"{path.name}.") and file.suffix == ".part")


def _remove(*files: Path) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()


def _sync(folder: Path) -> None:
    """Make the new name last, where a system can: without it an older file is found, and known as such."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
