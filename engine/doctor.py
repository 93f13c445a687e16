"""What this machine is and whether it is fit, what each profile would take of it, and how the models run here."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import checks, fastpath, fitting, layout, machine, quantities, ready, tuning
from engine.checks import Check, Ram
from engine.connections import sqlite_version
from engine.errors import ConfigError, EngineError, InvalidInput, StoreError
from engine.fitting import Fit, Room
from engine.store import Health, Store

if TYPE_CHECKING:
    from engine.config import Config, ModelSpec
    from engine.library import Library
    from engine.metrics import ProgressCallback
    from engine.models import Models
    from engine.speed import Facade, Search

_LIBRARIES = (
    "gieok", "llama-cpp-python", "llguidance", "torch", "sentence-transformers", "transformers", "faiss-cpu",
    "kiwipiepy", "apsw", "numpy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined: a configuration, the profile in use with its models, and a home; `ram_budget` in bytes."""

    config: Config
    profile: str
    models: Models
    library: Library
    home: Path
    ram_budget: int


def report(patient: Patient) -> dict[str, Any]:
    """Return JSON-ready facts; sizes are bytes. Nothing is loaded, and nothing is written."""
    memory = machine.memory()
    ours = machine.resident().anonymous  # what this process holds already is Gieok's to use
    ram = Ram(patient.ram_budget, memory.total, min(memory.total, memory.available + ours))
    fits = list(_fits(patient, Room(ram.usable, patient.library.disk()["free"])))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": tuning.processor(),
        "cores": tuning.usable_cores(),
        "ram": memory.total,
        "ram_free": memory.available,
        "ram_budget": patient.ram_budget,
        "gpu": _gpu(),
        "versions": {library: _version(library) for library in _LIBRARIES},
        "folder": str(layout.models_dir()),
        "home": str(patient.home),
        "profile": patient.profile,
        "models": _models(patient.models),
        "checks": [check.to_dict() for check in _checks(patient, ram, fits)],
        "profiles": [one.to_dict() for one in fits],
        "recommended": fitting.recommended(fits),
    }


def speeds(
    patient: Patient,
    engine: Callable[..., AbstractContextManager[Facade]],
    search: Callable[..., object],
    progress: ProgressCallback | None,
    spare: int,
) -> list[dict[str, Any]]:
    """Return the guide's expectations and what was measured, JSON-ready; raises as `speed.measure` does.

    `engine` makes a second one, so that nothing stays in this one's home, in the `spare` bytes of the budget that this
    one leaves; `search` looks into that home.
    """
    from engine.speed import Measured, measure

    def beside(home: Path) -> AbstractContextManager[Facade]:
        config, profile = patient.config.file, patient.profile
        over, budget = laid_over(patient), max(spare, quantities.LEAST_BUDGET)
        return engine(config, profile=profile, home=home, models=over, ram_budget=budget, progress=progress)

    own = own_search(patient, search)
    return [line.to_dict() for line in measure(Measured(beside, patient.models.specs, own, progress))]


def own_search(patient: Patient, search: Callable[..., object]) -> Search | None:
    """Return how to search the memories of the home, or None where there are none that a search would leave as they
    are: it would embed what has no vector of this model.
    """
    from engine.speed import Search

    health = _health(patient)
    if not isinstance(health, Health) or not health.memories or health.problems:
        return None
    count = sum(health.memories.values())
    if health.vectors < count or health.model != _embedder(patient.models):
        return None
    return Search(partial(search, user=next(iter(health.memories))), f"{count} memories")


def called(patient: Patient, spec: ModelSpec) -> str:
    """Return by what another engine on this configuration finds a model: its name, or the path of the user's own."""
    known = patient.config.models.get(spec.name) == spec
    return spec.name if known else str(spec.source.path)


def laid_over(patient: Patient) -> dict[str, str]:
    """Return role → model where the models in use are not the profile's own."""
    own = patient.config.profile(patient.profile)
    names = {role: called(patient, spec) for role, spec in patient.models.specs.items()}
    return {role: name for role, name in names.items() if role not in own or not _same(patient, own[role], name)}


def _same(patient: Patient, one: str, other: str) -> bool:
    return patient.config.model(one).name == other


def _checks(patient: Patient, ram: Ram, fits: list[Fit]) -> Iterator[Check]:
    [own] = [one for one in fits if one.profile == patient.profile]
    health = _health(patient)
    sound = health if isinstance(health, Health) and not health.problems else None
    folder = layout.models_dir()
    yield checks.compiler_flags(_system_info(), checks.processor_flags())
    yield _gpu_check()
    yield checks.threads(_distinct(patient.models.specs).values(), tuning.usable_cores())
    yield checks.ram(ram, own)
    yield checks.disk(folder, own.disk, own.profile)
    yield checks.disk_of_home(patient.home, sound.size if sound else 0)
    yield from checks.writable({"models": folder, "home": patient.home, "temporary": Path(tempfile.gettempdir())})
    yield _embedding_check(patient.models)
    yield checks.database(Store(patient.home).path, health)
    yield checks.index(sound, _embedder(patient.models))
    yield checks.versions(sqlite_version())


def _fits(patient: Patient, room: Room) -> Iterator[Fit]:
    """Yield how each profile of the configuration fits; that in use with what was laid over it."""
    for name in patient.config.profiles:
        plans = patient.library.plan(None if name == patient.profile else name)
        yield fitting.fit(name, plans, room)


def _health(patient: Patient) -> Health | StoreError | None:
    try:
        return Store(patient.home).health()
    except StoreError as error:
        return error


def _embedding_check(models: Models) -> Check:
    name = _embedder(models)
    if name is None:
        return Check("embedding", True, "this profile names no embedding model")
    spec = models.spec("embedding")
    if not layout.installed(spec):
        return Check("embedding", None, f"{name} is not here", f"`gieok models pull {name}`")
    folder = layout.locate(spec)
    return checks.embedding(name, spec.backend, fastpath.state(folder), ready.obstacle(folder))


def _embedder(models: Models) -> str | None:
    try:
        return models.name("embedding")
    except ConfigError:
        return None


def measurable(models: Models, which: bool | str) -> list[str]:
    """Return the roles or names of the models to measure: all chat models that are installed, the one named, or none.

    Raises `InvalidInput` for an embedding model, `ModelNotFound`.
    """
    if isinstance(which, bool):
        there = {
            spec.name: role for role, spec in models.specs.items() if spec.kind == "llm" and layout.installed(spec)
        }
        return list(there.values()) if which else []
    spec = models.spec(which)
    if spec.kind != "llm":
        raise InvalidInput(f"{spec.name} is an embedding model; only chat models are measured")
    layout.locate(spec)
    return [which]


def _distinct(specs: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
    return {spec.name: spec for spec in specs.values()}


def _models(models: Models) -> list[dict[str, Any]]:
    """Return each model of the profile, with its roles."""
    roles: dict[str, list[str]] = {}
    for role, spec in models.specs.items():
        roles.setdefault(spec.name, []).append(role)
    return [_model(spec, roles[name]) for name, spec in _distinct(models.specs).items()]


def _model(spec: ModelSpec, roles: list[str]) -> dict[str, Any]:
    installed = layout.installed(spec)
    known = tuning.recall(layout.locate(spec)) if installed and spec.kind == "llm" else None
    chosen = {
        "n_threads": known.n_threads,
        "n_threads_batch": known.n_threads_batch,
        "repack": known.repack,
        "n_ubatch": known.n_ubatch,
        "tokens_per_second": known.speeds,
    } if known else None  # fmt: skip
    return {"name": spec.name, "kind": spec.kind, "roles": roles, "installed": installed, "tuning": chosen}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _system_info() -> str | None:
    """Return what llama.cpp tells of its build; None where it cannot even be imported."""
    try:
        from engine.llama.devices import system_info

        return system_info()
    except (ImportError, OSError, RuntimeError, EngineError):
        return None


def _gpu() -> bool | None:
    """Return whether llama.cpp can use a GPU; None where it cannot even be imported."""
    try:
        from engine.llama.devices import devices

        return bool(devices())
    except (ImportError, OSError, RuntimeError, EngineError):
        return None


def _gpu_check() -> Check:
    try:
        from engine.llama.devices import devices, idle_backend

        return checks.gpu(devices(), idle_backend(), nvidia=checks.has_nvidia())
    except (ImportError, OSError, RuntimeError, EngineError) as error:
        return Check("gpu", None, f"llama.cpp cannot be asked: {error}", "see the compiler flags above")
