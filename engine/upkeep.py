"""The files of models that are here: hashed anew, put aside where they are damaged, removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from engine import digests, folder, pins
from engine.config import ModelSpec
from engine.errors import DownloadError
from engine.fetch import Remote
from engine.hub import catalogued, final_name
from engine.layout import home, locate, models_dir
from engine.metrics import ProgressCallback
from engine.pins import Pin
from engine.workplace import Told, check_inside, explained, only_one, workplace

State = Literal["ok", "missing", "corrupt", "unknown"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What `verify` found of a file: "unknown" where no hash of it is known; "corrupt" ones are put aside."""

    model: str
    file: str
    state: State

    def to_dict(self) -> dict[str, str]:
        """Return the fields."""
        return asdict(self)


def verify(spec: ModelSpec, *, progress: ProgressCallback | None = None) -> list[Checked]:
    """Hash a model's files anew; what is not what was fetched gets a name that ends in `.corrupt`.

    Raises `DownloadError`, `Cancelled`, `ModelNotFound` where nothing of it is there.
    """
    if spec.source.path:
        return [Checked(spec.name, str(locate(spec)), "unknown")]
    alone = only_one(spec, progress) if os.access(models_dir(), os.W_OK) else contextlib.nullcontext()
    with explained(spec), alone:
        pin = pins.read().get(spec.name)
        if pin is None:
            locate(spec)
        return _verify(spec, _known(spec, pin), Told(spec, progress, "verify"))


def remove(spec: ModelSpec) -> int:
    """Delete a model's files, also those of a fetch that was cut off; return how many bytes that frees.

    Raises `ModelNotFound` where there are none, `DownloadError` where they are the user's own or cannot be deleted.
    """
    if spec.source.path:
        raise DownloadError(f"{spec.name} is your own file, {locate(spec)}; delete it yourself.", file=spec.name)
    work, place = workplace(spec), home(spec)
    if not (work.exists() or place.exists()):
        locate(spec)
    with explained(spec), only_one(spec, None):
        for each in (work, place):
            check_inside(each, spec.name)
        size = sum(path.stat().st_size for each in (work, place) for path in each.rglob("*") if path.is_file())
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(exist_ok=True)
        if place.exists():
            place.replace(work / "removed")  # all of it, or, where a file is in use and the system minds, nothing
        pins.write(spec.name, None)
        shutil.rmtree(work)
    return size


def _known(spec: ModelSpec, pin: Pin | None) -> dict[str, str]:
    """Return name → sha256 of the files whose hash is known; what was converted is pinned, or not known."""
    if pin:
        return {name: file.sha256 for name, file in pin.files.items()}
    known = {} if spec.convert else catalogued(spec)
    return {name: sha256 for name, sha256 in known.items() if final_name(spec, name) == name}


def _verify(spec: ModelSpec, known: Mapping[str, str], told: Told) -> list[Checked]:
    places = {name: home(spec) / name for name in known}
    told.total = sum(place.stat().st_size for place in places.values() if place.is_file())
    found = [Checked(spec.name, name, _state(place, known[name], told)) for name, place in places.items()]
    return found or [Checked(spec.name, name, "unknown") for name in folder.names(home(spec))]


def _state(place: Path, sha256: str, told: Told) -> State:
    if not place.is_file():
        return "missing"
    size = place.stat().st_size
    told.file = Remote(place.name, size)
    actual = digests.compute(place, lambda done: told("check", done))
    told.before += size
    if actual == sha256:
        digests.remember(place, sha256)
        return "ok"
    place.replace(place.with_name(place.name + ".corrupt"))
    return "corrupt"
