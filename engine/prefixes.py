"""Pinned prefixes on disk: what a model computed of its instructions, for the next process.

Contract: a file is only ever read whole. It names the model's sha256, the version of the instructions, the context's
parameters, llama.cpp's version and the checksum of its state; what does not match is deleted, and computed again by who
needs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger("engine.prefixes")
_MAGIC = b"gieok prefix 1\n"
_MOST = 16  # files of one model; the oldest goes


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens, and the state of the sequence that holds them."""

    tokens: list[int]
    state: bytes


class Prefixes:
    """The prefixes of one model in one folder; `key` is all that a state depends on."""

    def __init__(self, folder: Path, key: Mapping[str, object]) -> None:
        self._folder, self._key = folder, dict(key)

    def read(self) -> Iterator[Prefix]:
        """Yield what is stored and fits, the newest first; delete what does not."""
        for path in self._files():
            prefix = self._read(path)
            if prefix is None:
                _log.info("a stored prefix does not fit any more and is deleted: %s", path.name)
                _delete(path)
            else:
                yield prefix

    def write(self, prefix: Prefix) -> None:
        """Store a prefix; a folder that cannot be written costs a warning, and nothing else."""
        header = {**self._key, "tokens": prefix.tokens, "sha256": self._checksum(prefix)}
        path = self._path(prefix.tokens)
        try:
            _make_folder(self._folder)
            aside = path.with_suffix(".part")
            with open(aside, "wb", opener=_private) as file:
                file.write(_MAGIC + json.dumps(header).encode() + b"\n")
                file.write(prefix.state)
            aside.replace(path)
            for old in self._files()[_MOST:]:
                _delete(old)
        except OSError as error:
            _log.warning("a prefix could not be stored for the next start: %s", error.strerror)

    def remove(self, tokens: Sequence[int]) -> None:
        """Delete the file of `tokens`, if there is one."""
        _delete(self._path(tokens))

    def _read(self, path: Path) -> Prefix | None:
        try:
            with path.open("rb") as file:
                if file.read(len(_MAGIC)) != _MAGIC:
                    return None
                header = json.loads(file.readline())
                state = file.read()
            prefix, checksum = Prefix(header.pop("tokens"), state), header.pop("sha256")
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None
        return prefix if header == self._key and checksum == self._checksum(prefix) else None

    def _checksum(self, prefix: Prefix) -> str:
        return hashlib.sha256(json.dumps(prefix.tokens).encode() + prefix.state).hexdigest()

    def _files(self) -> list[Path]:
        try:
            found = [(path.stat().st_mtime_ns, path) for path in self._folder.glob("*.prefix")]
        except OSError:
            return []
        return [path for _, path in sorted(found, reverse=True)]

    def _path(self, tokens: Sequence[int]) -> Path:
        name = hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()[:32]
        return self._folder / f"{name}.prefix"


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is only a copy: a file that stays must not keep a model from loading
        path.unlink()


def _make_folder(folder: Path) -> None:
    for each in [*reversed(folder.parents), folder]:  # parents=True would give these others' modes
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
