"""The models that can be had: which there are, what each needs, and how they come and go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import folder, footprint, hub, layout, pins, upkeep
from engine.config import Config, ModelSpec
from engine.errors import ConfigError, DownloadError, ModelNotFound
from engine.footprint import Footprint
from engine.hub import Room
from engine.metrics import Progress, ProgressCallback
from engine.ready import Ready
from engine.upkeep import Checked

if TYPE_CHECKING:
    from engine.pins import Pin


@dataclass(frozen=True, slots=True)
class FilePlan:
    """A file of a model; `size` in bytes, None where nobody told it yet."""

    name: str
    size: int | None
    installed: bool


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What a model is and needs, before it comes: bytes to download, of disk in the end, and of RAM when loaded.

    A number is None where the catalogue does not know it; `files` is empty where only its repository can tell them.
    `adapters` are the user's own files beside these, with their scale where it is not 1.
    """

    model: str
    kind: str
    source: str
    license: str | None
    commercial: bool | None
    gated: bool
    note: str | None
    installed: bool
    files: tuple[FilePlan, ...]
    download: int | None
    disk: int | None
    ram: Footprint
    adapters: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "ram": self.ram.to_dict()}


class Library:
    """The catalogue of one configuration.

    `wanted` gives the entries of a profile, role or name, and of all roles for None. `heed` is called all along what
    takes long; what it raises ends that. `room` is entered for as long as something takes so much RAM.
    """

    def __init__(
        self,
        config: Config,
        wanted: Callable[[str | None], list[ModelSpec]],
        heed: Callable[[], object],
        room: Room,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._config, self._wanted, self._heed, self._room, self._progress = config, wanted, heed, room, progress
        self._ready = Ready(room)

    def entries(self) -> list[dict[str, Any]]:
        """Return every known model as JSON-ready values, `ram` and `size` in bytes."""
        shown = {
            "name", "kind", "aliases", "size", "context", "dim", "korean", "license", "commercial", "gated", "note",
        }  # fmt: skip
        return [
            {
                **spec.model_dump(include=shown),
                "ram": self._ram(spec).total,
                "installed": layout.installed(spec),
                "adapters": list(spec.adapted),
            }
            for spec in self._config.models.values()
        ]

    def disk(self) -> dict[str, Any]:
        """Return the models folder, and how many bytes are free on its disk; the folder need not exist yet."""
        folder = layout.models_dir()
        existing = next(each for each in (folder, *folder.parents) if each.exists())
        return {"folder": str(folder), "free": shutil.disk_usage(existing).free}

    def plan(self, name: str | None = None) -> list[ModelPlan]:
        """Return what the models of a profile, role or name need; no file has to be here, and nothing is asked.

        Without a name, those of the engine's own profile.

        Raises `ModelNotFound`, `ConfigError`.
        """
        locked = pins.read()
        return [self._plan(spec, locked.get(spec.name)) for spec in self._wanted(name)]

    def optional(self, name: str | None = None) -> str | None:
        """Return the fallback of a profile, of the engine's own without a name, where it has one and it is not here."""
        named = self._config.profiles.get(name, {}).get("fallback") if name else "fallback"
        try:
            (spec,) = self._wanted(named) if named else [None]
        except ConfigError:  # the engine's own profile has none
            spec = None
        return None if spec is None or layout.installed(spec) else spec.name

    def pull(
        self, name: str | None = None, *, source: Path | None = None, progress: ProgressCallback | None = None
    ) -> list[Path]:
        """Fetch the models of a profile, role or name, from the folder `source` if it is named; return where they are.

        Without a name, those of the engine's own profile.

        Raises `DownloadError`, `ModelNotFound`, `ModelCorrupt`, `Cancelled`.
        """
        told = self._telling(progress)
        return [self._pulled(spec, source, told) for spec in self._wanted(name)]

    def _pulled(self, spec: ModelSpec, source: Path | None, progress: ProgressCallback) -> Path:
        """Fetch a model, and make it ready: who waits for a download does not wait again at the first use."""
        path = hub.pull(spec, source=source, progress=progress, room=self._room)
        self._ready(spec, progress)
        return path

    def verify(self, name: str | None = None, *, progress: ProgressCallback | None = None) -> list[Checked]:
        """Hash the files of the models of `name` anew, or of all that are here. Raises as `upkeep.verify` does."""
        specs = self._wanted(name) if name else [spec for spec in self._config.models.values() if self._is_here(spec)]
        return [found for spec in specs for found in upkeep.verify(spec, progress=self._telling(progress))]

    def remove(self, name: str) -> int:
        """Delete the files of one model, by name or alias; return how many bytes that frees.

        Raises `ModelNotFound`, `DownloadError`.
        """
        return upkeep.remove(self._config.model(name))

    def take(self, path: Path, name: str | None = None, *, progress: ProgressCallback | None = None) -> list[Path]:
        """Copy models from a file or folder of the user's, verified like a download; return where they are now.

        Without `name`, all models of the catalogue that are found there. Raises `DownloadError`, `ModelNotFound`.
        """
        told = self._telling(progress)
        specs = [self._config.model(each) for each in ([name] if name else self.found(path))]
        return [self._pulled(spec, _source(spec, path), told) for spec in specs]

    def found(self, path: Path) -> list[str]:
        """Return the models of the catalogue whose files are in a folder, or of which `path` is one.

        Raises `ModelNotFound` where there is none.
        """
        where = path.parent if path.is_file() else path
        found = [spec.name for spec in self._config.models.values() if _has(where, spec, path)]
        if not found:
            raise ModelNotFound(
                f"nothing in {path} is called like the files of a model of the catalogue. Name the model after the "
                f'path; or use your own file as it lies: Engine(models={{"chat": "FILE.gguf"}}).',
                model=str(path),
            )
        return found

    def _telling(self, progress: ProgressCallback | None) -> ProgressCallback:
        shown = progress or self._progress

        def tell(event: Progress) -> object:
            self._heed()
            return shown(event) if shown else None

        return tell

    def _is_here(self, spec: ModelSpec) -> bool:
        return not spec.source.path and (layout.installed(spec) or spec.name in pins.read())

    def _ram(self, spec: ModelSpec) -> Footprint:
        return footprint.estimate(spec, self._config.engine)

    def _plan(self, spec: ModelSpec, pin: Pin | None) -> ModelPlan:
        files = tuple(_files(spec, pin))
        missing = [file for file in files if not file.installed]
        there = layout.installed(spec) and not missing
        sizes = [file.size for file in missing]
        known = None if None in sizes else sum(size or 0 for size in sizes)
        return ModelPlan(
            model=spec.name,
            kind=spec.kind,
            source=spec.source.repo or spec.source.package or str(spec.source.path),
            license=spec.license,
            commercial=spec.commercial,
            gated=spec.gated,
            note=spec.note,
            installed=there,
            files=files,
            download=0 if there else known if files and known is not None else spec.size,
            disk=sum(file.size for file in pin.files.values()) if pin else spec.weights if spec.convert else spec.size,
            ram=self._ram(spec),
            adapters=spec.adapted,
        )


def _files(spec: ModelSpec, pin: Pin | None) -> Iterable[FilePlan]:
    if pin:
        for name, pinned in pin.files.items():
            yield FilePlan(name, pinned.size, (layout.home(spec) / name).is_file())
        return
    for name in spec.source.files:
        place = layout.home(spec) / hub.final_name(spec, layout.target(spec, name))
        there = layout.installed(spec) if spec.convert else place.is_file()
        yield FilePlan(name, spec.sizes.get(name, spec.size if len(spec.source.files) == 1 else None), there)


def _source(spec: ModelSpec, path: Path) -> Path:
    """Return where to look for a model that a user has at `path`: beside one of several parts are the others."""
    return path.parent if path.is_file() and len(spec.source.files) != 1 else path


def _has(where: Path, spec: ModelSpec, path: Path) -> bool:
    try:
        found = folder.listing(spec, where)
    except DownloadError:
        return False
    return path == where or any(place.samefile(path) for _, place in found.files.values())
