"""models.lock: which files of each model were fetched, from where, with which hashes.

Contract: a model is pinned when its files were verified, just before they come to their place. The lock is JSON,
written aside and renamed, by one process at a time; a reader needs no lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import DownloadError
from engine.layout import models_dir

_log = logging.getLogger("engine.pins")
NAME = "models.lock"
_VERSION = 1
_TRIES, _PAUSE = 20, 0.05  # to replace a file that is being read, and seconds between them


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file as it was verified; `made_from` is the sha256 of the original, where it was converted."""

    size: int
    sha256: str
    made_from: str | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """What a model's folder holds: `source` is its repository or package, `revision` the commit."""

    source: str
    revision: str | None
    files: Mapping[str, PinnedFile] = field(default_factory=dict)


def read(folder: Path | None = None) -> dict[str, Pin]:
    """Return model → pin, of the models folder or of another one. Raises `DownloadError` if it is of a newer Gieok.

    What cannot be read pins nothing; that is told in the log.
    """
    path = (folder or models_dir()) / NAME
    try:
        return _entries(path)
    except (OSError, _Damaged) as error:
        _log.warning("%s cannot be read, and nothing counts as pinned: %s", path, error)
        return {}


def write(name: str, pin: Pin | None) -> None:
    """Pin a model, or with None take its pin away. Raises `OSError`, `DownloadError`.

    A damaged lock is put aside as `.corrupt` first.
    """
    from filelock import FileLock

    path = models_dir() / NAME
    with FileLock(path.with_name(f".{NAME}.lock")):
        try:
            pins = _entries(path)
        except _Damaged:
            path.replace(path.with_name(f"{NAME}.corrupt"))
            pins = {}
        pins.pop(name, None)
        if pin is not None:
            pins[name] = pin
        models = {each: asdict(pins[each]) for each in sorted(pins)}
        _replace(path, json.dumps({"version": _VERSION, "models": models}, indent=1, ensure_ascii=False))


class _Damaged(Exception):
    """The lock is not JSON of ours."""


def _entries(path: Path) -> dict[str, Pin]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version, models = data["version"], data["models"]
        if version == _VERSION:
            return {name: _pin(entry) for name, entry in models.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Damaged(type(error).__name__) from None
    raise DownloadError(f"{path} was written by a newer Gieok (version {version}). Use that one.", file=NAME)


def _pin(entry: Mapping[str, Any]) -> Pin:
    return Pin(
        str(entry["source"]),
        entry["revision"],
        {name: PinnedFile(int(f["size"]), str(f["sha256"]), f["made_from"]) for name, f in entry["files"].items()},
    )


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        _move(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _move(aside: Path, path: Path) -> None:
    for _ in range(_TRIES):
        try:
            aside.replace(path)
        except PermissionError:  # Windows, while somebody reads it
            time.sleep(_PAUSE)
        else:
            return
    aside.replace(path)
