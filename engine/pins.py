"""models.lock: which files of each model were fetched, from where, with which hashes.

Contract: a model is pinned when its files are there and were verified. The lock is JSON, written aside and renamed,
by one process at a time; a reader needs no lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import DownloadError
from engine.layout import models_dir

_log = logging.getLogger("engine.pins")
NAME = "models.lock"
_VERSION = 1


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

    A damaged lock pins nothing; it is told in the log.
    """
    path = (folder or models_dir()) / NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["version"]
        if version == _VERSION:
            return {name: _pin(entry) for name, entry in data["models"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.warning("%s cannot be read (%s): nothing counts as pinned", path, type(error).__name__)
        return {}
    raise DownloadError(f"{path} was written by a newer Gieok (version {version}). Use that one.", file=NAME)


def write(name: str, pin: Pin | None) -> None:
    """Pin a model, or with None take its pin away. Raises `OSError`, `DownloadError`."""
    from filelock import FileLock

    folder = models_dir()
    with FileLock(folder / f".{NAME}.lock"):
        pins = read()
        pins.pop(name, None)
        if pin is not None:
            pins[name] = pin
        models = {each: asdict(pins[each]) for each in sorted(pins)}
        _replace(folder / NAME, json.dumps({"version": _VERSION, "models": models}, indent=1, ensure_ascii=False))


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
        aside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
