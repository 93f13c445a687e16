"""Role → loaded model. Models load when first used and stay until unloaded; the compute thread calls everything."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from engine.errors import ConfigError, EngineClosed, InvalidInput
from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    from engine.config import Config, ModelSpec
    from engine.embedder import Embedder
    from engine.runner import Runner

_log = logging.getLogger("engine.models")
T = TypeVar("T", "Runner", "Embedder")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory; `load_seconds` is how long its load took."""

    name: str
    kind: str
    roles: tuple[str, ...]
    load_seconds: float


def resolve_roles(config: Config, profile: str, over: Mapping[str, str]) -> dict[str, ModelSpec]:
    """Return role → entry for a profile with `over` (names or paths) laid over it.

    Raises `ConfigError` for an unknown profile or role and `ModelNotFound` for an unknown model.
    """
    from engine.config import ROLES

    for role in over:
        if role not in ROLES:
            raise ConfigError(f"{role!r} is not a role; there are {', '.join(ROLES)}")
    names = {**config.profile(profile), **over}
    return {role: find_spec(config, name) for role, name in names.items()}


def find_spec(config: Config, name: str) -> ModelSpec:
    """Return the catalogue entry of `name`, or one for the path that `name` is."""
    from engine.config import ModelSpec, Source

    if not name.lower().endswith(".gguf") and not any(mark in name for mark in "/\\"):
        return config.model(name)
    path = Path(name).expanduser().absolute()
    kind = "llm" if path.suffix.lower() == ".gguf" else "embedding"
    return ModelSpec(name=path.stem, kind=kind, source=Source(path=str(path)))


class Models:
    """The models of one engine. Only `specs`, `loaded` and `steppable` may be used from other threads."""

    def __init__(
        self, config: Config, specs: Mapping[str, ModelSpec], progress: ProgressCallback | None = None
    ) -> None:
        self.specs = dict(specs)
        self._config, self._progress = config, progress
        self._runners: dict[str, Runner] = {}
        self._embedders: dict[str, Embedder] = {}
        self._took: dict[str, tuple[ModelSpec, float]] = {}
        self._seen: tuple[Runner, ...] = ()
        self.loaded: tuple[LoadedModel, ...] = ()

    def spec(self, name: str) -> ModelSpec:
        """Return the entry of a role or of a catalogue name. Raises `ModelNotFound`."""
        return self.specs.get(name) or find_spec(self._config, name)

    def runner(self, name: str) -> Runner:
        """Return the chat model of a role or name, loading it if need be."""
        spec = self.spec(name)
        if spec.kind != "llm":
            raise InvalidInput(f"{spec.name} is an embedding model and cannot chat")
        return self._get(self._runners, spec, self._load_runner)

    def embedder(self, name: str = "embedding") -> Embedder:
        """Return the embedding model of a role or name, loading it if need be."""
        if name == "embedding" and name not in self.specs:
            raise ConfigError("this profile names no embedding model")
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
        self._took.pop(spec.name, None)
        if runner := self._runners.pop(spec.name, None):
            runner.close(EngineClosed(f"{spec.name} was unloaded"))
        if embedder := self._embedders.pop(spec.name, None):
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

    def _get(self, models: dict[str, T], spec: ModelSpec, load: Callable[[ModelSpec], T]) -> T:
        if spec.name not in models:
            began = time.perf_counter()
            report(self._progress, Progress(f"load {spec.name}", 0, 1, "model"))
            models[spec.name] = load(spec)
            seconds = time.perf_counter() - began
            self._took[spec.name] = spec, seconds
            self._publish()
            report(self._progress, Progress(f"load {spec.name}", 1, 1, "model"))
            _log.info("loaded %s in %.1f s", spec.name, seconds)
        return models[spec.name]

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
            LoadedModel(spec.name, spec.kind, self._roles(spec.name), seconds)
            for spec, seconds in self._took.values()
        )

    def _roles(self, model: str) -> tuple[str, ...]:
        return tuple(role for role, spec in self.specs.items() if spec.name == model)
