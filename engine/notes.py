"""Small JSON files of what was found out about models, so that it need not be found out again; each is only a cache.

Contract: what is remembered may be gone at any time, since several processes write without waiting for each other. A
file lies in the models folder, or in the user's cache where that cannot be written; nobody else may read it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine import layout

_log = logging.getLogger("engine.notes")
_MOST = 1_000  # entries of one file; the oldest go


class Notes:
    """The entries of one file, called `name`: JSON values by a text."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get(self, key: str, holds: Callable[[Any], bool] = lambda value: True) -> Any:
        """Return what is remembered of `key` and still `holds`, or None.

        A folder that can no longer be written may have what was true once, and the cache what is true now.
        """
        found = (known[key] for known in map(_read, self._places()) if key in known)
        return next(filter(holds, found), None)

    def put(self, key: str, value: Any) -> None:
        """Remember `value`; where no folder can be written, it is not remembered."""
        for place in self._places():
            known = _read(place)
            known.pop(key, None)
            known[key] = value
            if len(known) > _MOST:  # of files that are gone first
                known = {name: about for name, about in known.items() if not _is_gone(name)}
            try:
                _write(place, dict(list(known.items())[-_MOST:]))
            except OSError as error:
                _log.info("%s cannot be written: %s", place.name, error.strerror)
            else:
                return

    def _places(self) -> Iterator[Path]:
        from platformdirs import user_cache_path

        models = layout.models_dir()
        if models.is_dir():  # who has models elsewhere only gets no folder for their notes
            yield models / self._name
        yield user_cache_path("gieok", appauthor=False) / self._name.removeprefix(".")


def _is_gone(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() and not path.exists()


def _read(place: Path) -> dict[str, Any]:
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(place: Path, known: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f"{place.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with open(aside, "w", encoding="utf-8", opener=_private) as file:
            json.dump(known, file)
        aside.replace(place)
    finally:
        aside.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
