"""What a load was measured to take of this machine's RAM, remembered, so that the next plan need not estimate it.

Contract: what is remembered names the model's files, how it was loaded and with which libraries; what names others, or
is no size that a model can have, is as good as nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import footprint
from engine.notes import Notes

if TYPE_CHECKING:
    from engine.footprint import Footprint
    from engine.machine import Resident

_NOTES = Notes(".footprints.json")
_FORMAT = 1  # raised where something else is measured
_MOST = 1 << 50
# Of an estimate: what lies further off is not this load's doing alone. Less is believed only a little, since who
# plans with too little takes more than there is.
_LESS, _MORE = 0.1, 0.25


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of RAM that a model took once it worked; `mapped` of them are pages of files."""

    total: int
    mapped: int


def recall(path: Path, settings: Mapping[str, object]) -> Measured | None:
    """Return what the model at `path`, a GGUF file or a folder, took when it was loaded with `settings`."""
    try:
        about = _about(path)
    except OSError:
        return None
    found = _NOTES.get(_key(path, settings), lambda entry: _is_of(entry, about))
    return None if found is None else Measured(found["total"], found["mapped"])


def remember(path: Path, settings: Mapping[str, object], measured: Measured) -> None:
    """Keep what a model took with `settings`, which are JSON-ready; what cannot be kept is not."""
    try:
        entry = {"of": _about(path), **asdict(measured)}
    except OSError:
        return
    if _sane(entry):
        _NOTES.put(_key(path, settings), entry)


def corrected(estimate: Footprint, growth: Resident) -> tuple[Footprint, bool]:
    """Return what a model takes, now that it was loaded and the process grew by `growth`, and whether to remember it.

    The first full batch's share of `compute` is still to come and is added. Mapped weights count as a whole, since
    the system may have dropped pages of them meanwhile. Where the sum is near the estimate, or that knew too little,
    it is taken: `other` takes the difference and, where that is not enough, the parts before it. Where it is not near,
    other threads have taken or freed memory meanwhile, and the larger of the two holds for this process only.
    """
    tells_apart = growth.file_backed > 0  # not every system does
    mapped = max(growth.file_backed, estimate.mapped) if tells_apart else estimate.mapped
    anonymous = max(0, growth.anonymous)
    total = anonymous + (mapped if tells_apart else 0) + estimate.later
    mapped = min(mapped, total)
    if _believable(estimate, total):
        return _spread(estimate, total, mapped), True
    if estimate.total is not None and estimate.total >= total:
        return estimate, False
    return _spread(estimate, total, mapped), False


def applied(estimate: Footprint, measured: Measured) -> Footprint:
    """Return an estimate with what was measured in its place."""
    return _spread(estimate, measured.total, measured.mapped)


def _believable(estimate: Footprint, total: int) -> bool:
    expected = estimate.total
    if expected is None:
        return total > 0
    least = (estimate.weights or 0) if estimate.bound else expected * (1 - _LESS)
    return least <= total <= expected * (1 + _MORE)


def _spread(estimate: Footprint, total: int, mapped: int) -> Footprint:
    """Return parts that make up `total`."""
    parts = {name: getattr(estimate, name) or 0 for name in ("other", "compute", "kv", "weights")}
    missing = total - sum(parts.values())
    for name, size in parts.items():
        parts[name] = max(0, size + missing)
        missing += size - parts[name]
    return replace(estimate, **parts, mapped=mapped, later=min(estimate.later, parts["compute"]), bound=False)


def _key(path: Path, settings: Mapping[str, object]) -> str:
    libraries = [_version(name) for name in ("llama-cpp-python", "torch")]
    return json.dumps([_FORMAT, str(path.absolute()), dict(settings), libraries], sort_keys=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # an application that does not bring the metadata of its packages
        return ""


def _about(path: Path) -> list[list[Any]]:
    """Return name, size and time of each file that holds weights. Raises `OSError`."""
    found = [(file.name, file.stat()) for file in footprint.files(path)]
    return [[name, file.st_size, file.st_mtime_ns] for name, file in found]


def _is_of(entry: object, about: list[list[Any]]) -> bool:
    return isinstance(entry, dict) and entry.get("of") == about and _sane(entry)


def _sane(entry: Mapping[str, Any]) -> bool:
    """Return whether sizes may be planned with; a folder's files can be written by others."""
    total, mapped = entry.get("total"), entry.get("mapped")
    return type(total) is int and type(mapped) is int and 0 < total <= _MOST and 0 <= mapped <= total
