"""The sha256 of model files, computed once for as long as a file's size and times stay the same."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from os import stat_result
from pathlib import Path

from engine.notes import Notes

_BLOCK = 1 << 24
_NOTES = Notes(".digests.json")


def sha256_of(path: Path, tell: Callable[[], object]) -> str:
    """Return the sha256 of a file, in hex.

    `tell` is called for every block that is read; what it raises ends the reading. Raises `OSError`.
    """
    before = path.stat()
    if known := _NOTES.get(str(path.absolute()), lambda entry: _is_of(entry, before)):
        return str(known["sha256"])
    sha256 = compute(path, lambda _done: tell())
    _keep(path, before, sha256)
    return sha256


def compute(path: Path, tell: Callable[[int], object]) -> str:
    """Return the sha256 of a file as it is now; `tell` takes the bytes that are read. Raises as `sha256_of` does."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            tell(done)
            digest.update(block)
            done += len(block)
    return digest.hexdigest()


def remember(path: Path, sha256: str) -> None:
    """Keep the sha256 of a file for who has just computed it. Raises `OSError`."""
    _keep(path, path.stat(), sha256)


def _keep(path: Path, before: stat_result, sha256: str) -> None:
    if _about(path.stat()) == _about(before):  # else it was written meanwhile, and this is the sha256 of no file
        _NOTES.put(str(path.absolute()), {**_about(before), "sha256": sha256})


def _about(file: stat_result) -> dict[str, int]:
    """Return what changes with a file. Copies may keep `mtime`; nobody can keep what is beside it.

    Where ctime is the time of creation, the file's number stands in for it; elsewhere it would not do: Linux draws the
    numbers of a FAT file system anew.
    """
    beside = {"ctime_ns": file.st_ctime_ns} if os.name == "posix" else {"number": file.st_ino}
    return {"size": file.st_size, "mtime_ns": file.st_mtime_ns, **beside}


def _is_of(entry: object, file: stat_result) -> bool:
    return isinstance(entry, dict) and entry | _about(file) == entry and _is_digest(entry.get("sha256"))


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None
