"""Role → loaded model. Models load when first used and stay until unloaded; the compute thread calls everything."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from engine.errors import ConfigError, EngineClosed, InvalidInput, ModelNotFound
from engine.inputs import check_text
from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    from engine.config import Config, ModelSpec
    from engine.embedder import Embedder
    from engine.runner import Runner

_log = logging.getLogger("engine.models")
T = TypeVar("T", "Runner", "Embedder")
Name = str | os.PathLike[str]
Key = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory; `load_seconds` is how long its load took."""

    name: str
    kind: str
    roles: tuple[str, ...]
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """What an engine holds: `resident` is the bytes of RAM of the whole process."""

    profile: str
    home: str
    models: str
    loaded: tuple[LoadedModel, ...]
    resident: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def resolve_roles(config: Config, profile: str, over: Mapping[str, Name]) -> dict[str, ModelSpec]:
    """Return role → entry for a profile with `over` (names or paths) laid over it.

    Raises `ConfigError` for an unknown profile or role and `ModelNotFound` for an unknown model.
    """
    from engine.config import ROLES

    for role in over:
        if role not in ROLES:
            raise ConfigError(f"{role!r} is not a role; there are {', '.join(ROLES)}")
    names: dict[str, Name] = {**config.profile(profile), **over}
    return {role: find_spec(config, name) for role, name in names.items()}


def find_spec(config: Config, name: Name) -> ModelSpec:
    """Return the catalogue entry of `name`, or one for the path that `name` is.

    Raises `ModelNotFound` for an unknown name, `InvalidInput` for what no file can be called, `TypeError`.
    """
    from engine.config import ModelSpec, Source

    name = check_text(os.fspath(name), "the name of a model")
    if not name.lower().endswith(".gguf") and not any(mark in name for mark in "/\\"):
        return config.model(name)
    try:
        path = Path(name).expanduser().absolute()
    except RuntimeError:
        raise ModelNotFound(f"{name}: there is no such home folder. Write the path out.", model=name) from None
    kind: Literal["llm", "embedding"] = "llm" if path.suffix.lower() == ".gguf" else "embedding"
    called = path.stem if kind == "llm" else path.name
    return ModelSpec(name=called, kind=kind, source=Source(path=str(path)))


def _key(spec: ModelSpec) -> Key:
    return spec.name, spec.source.path  # files in two folders may have one name


class Models:
    """The models of one engine. Only `specs`, `loaded` and `steppable` may be used from other threads."""

    def __init__(
        self, config: Config, specs: Mapping[str, ModelSpec], progress: ProgressCallback | None = None
    ) -> None:
        self.specs = dict(specs)
        self._config, self._progress = config, progress
        self._runners: dict[Key, Runner] = {}
        self._embedders: dict[Key, Embedder] = {}
        self._took: dict[Key, tuple[ModelSpec, float]] = {}
        self._seen: tuple[Runner, ...] = ()
        self.loaded: tuple[LoadedModel, ...] = ()

    def spec(self, name: str) -> ModelSpec:
        """Return the entry of a role or of a catalogue name. Raises `ModelNotFound`, `ConfigError`."""
        from engine.config import ROLES

        if name in ROLES and name not in self.specs:
            raise ConfigError(f"this profile names no {name} model; name one in models.toml or in Engine(models=…).")
        return self.specs.get(name) or find_spec(self._config, name)

    def runner(self, name: str) -> Runner:
        """Return the chat model of a role or name, loading it if need be."""
        spec = self.spec(name)
        if spec.kind != "llm":
            raise InvalidInput(f"{spec.name} is an embedding model and cannot chat")
        return self._get(self._runners, spec, self._load_runner)

    def embedder(self, name: str = "embedding") -> Embedder:
        """Return the embedding model of a role or name, loading it if need be."""
        spec = self.spec(name)
        if spec.kind != "embedding":
            raise InvalidInput(f"{spec.name} is a chat model and cannot embed")
        return self._get(self._embedders, spec, self._load_embedder)

    def load(self, name: str) -> None:
        """Load the model of a role or name now."""
        if self.spec(name).kind == "llm":
            self.runner(name)
        else:
            self.embedder(name)

    def unload(self, name: str) -> bool:
        """Free the model of a role or name; its running requests end with `EngineClosed`."""
        spec = self.spec(name)
        self._took.pop(_key(spec), None)
        if runner := self._runners.pop(_key(spec), None):
            runner.close(EngineClosed(f"{spec.name} was unloaded"))
        if embedder := self._embedders.pop(_key(spec), None):
            embedder.close()
        self._publish()
        return bool(runner or embedder)

    def steppable(self) -> Iterable[Runner]:
        """Return the loaded chat models."""
        return self._seen

    def close(self, error: BaseException) -> None:
        """Free everything."""
        for runner in self._runners.values():
            runner.close(error)
        for embedder in self._embedders.values():
            embedder.close()
        self._runners.clear()
        self._embedders.clear()
        self._took.clear()
        self._publish()

    def _get(self, models: dict[Key, T], spec: ModelSpec, load: Callable[[ModelSpec], T]) -> T:
        key = _key(spec)
        if key not in models:
            began = time.perf_counter()
            report(self._progress, Progress(f"load {spec.name}", 0, 1, "model"))
            models[key] = load(spec)
            seconds = time.perf_counter() - began
            self._took[key] = spec, seconds
            self._publish()
            report(self._progress, Progress(f"load {spec.name}", 1, 1, "model"))
            _log.info("loaded %s in %.1f s", spec.name, seconds)
        return models[key]

    def _load_runner(self, spec: ModelSpec) -> Runner:
        from engine import hub, runner

        return runner.load(str(hub.locate(spec)), spec, self._config.engine)

    def _load_embedder(self, spec: ModelSpec) -> Embedder:
        from engine import hub
        from engine.embedder import Embedder

        return Embedder(hub.locate(spec), spec)

    def _publish(self) -> None:
        """Show other threads what is loaded: tuples, replaced whole, need no lock."""
        self._seen = tuple(self._runners.values())
        self.loaded = tuple(
            LoadedModel(spec.name, spec.kind, self._roles(_key(spec)), seconds) for spec, seconds in self._took.values()
        )

    def _roles(self, model: Key) -> tuple[str, ...]:
        return tuple(role for role, spec in self.specs.items() if _key(spec) == model)
