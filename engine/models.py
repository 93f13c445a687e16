"""Role → loaded model: which there are, how one is made on the loader thread, and which the compute thread holds."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from engine.errors import ConfigError, EngineClosed, InvalidInput, ModelNotFound
from engine.inputs import check_text
from engine.loader import Heed, Load, NotLoaded
from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    from engine.config import Config, ModelSpec
    from engine.embedder import Embedder
    from engine.runner import Runner

_log = logging.getLogger("engine.models")
T = TypeVar("T", "Runner", "Embedder")
Tell = Callable[[float], None]  # takes which part of a load is done; raises where the load is to end
Name = str | os.PathLike[str]
Key = tuple[str, str | None]
_AGAIN = 1.0  # seconds after which a callback hears the same percent again


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
    if config.knows(name) or not (name.lower().endswith(".gguf") or any(mark in name for mark in "/\\")):
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


class _Told:
    """Tells a caller's callback how far a load is: each percent, and every second, so that it may cancel."""

    def __init__(self, name: str, progress: ProgressCallback | None, heed: Heed) -> None:
        self._task, self._progress, self._heed = f"load {name}", progress, heed
        self._percent, self._told = -1, 0.0

    def part(self, done: float) -> None:
        """Tell the part of the weights that is read. Raises `Cancelled`, and what the callback raises."""
        self._heed()
        self._tell(int(99 * done))

    def end(self) -> None:
        """Tell that all is done; who gave up before that is not asked again."""
        self._tell(100)

    def _tell(self, percent: int) -> None:
        now = time.monotonic()
        if percent > self._percent or now - self._told > _AGAIN:
            self._percent, self._told = max(percent, self._percent), now
            report(self._progress, Progress(self._task, self._percent, 100, "percent"))


class Models:
    """The models of one engine; `prefixes` is the folder in which what they computed of instructions is kept.

    Any thread may use `specs`, `spec`, `loaded` and `steppable`, and look with `get`, `runner` and `embedder`; what
    these return belongs to the compute thread, which alone calls the rest.
    """

    def __init__(
        self,
        config: Config,
        specs: Mapping[str, ModelSpec],
        progress: ProgressCallback | None = None,
        prefixes: Path | None = None,
    ) -> None:
        self.specs = dict(specs)
        self._config, self._progress, self._prefixes = config, progress, prefixes
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

    def name(self, name: str) -> str:
        """Return what the model of a role or name is called. Raises as `spec` does."""
        return self.spec(name).name

    def wanted(self, name: str | None) -> list[ModelSpec]:
        """Return the entries of a profile, a role or a name; without one, of all roles. Raises as `spec` does."""
        if name is not None and name not in self._config.profiles:
            return [self.spec(name)]
        roles = resolve_roles(self._config, name, {}) if name else self.specs
        # nothing falls back yet, so that model is left out
        return list({spec.name: spec for role, spec in roles.items() if role != "fallback"}.values())

    def key(self, name: str) -> Key:
        """Return what the model of a role or name is loaded as."""
        return _key(self.spec(name))

    def get(self, name: str) -> Runner | Embedder:
        """Return the model of a role or name, or raise `NotLoaded`."""
        return self.runner(name) if self.spec(name).kind == "llm" else self.embedder(name)

    def runner(self, name: str) -> Runner:
        """Return the chat model of a role or name, or raise `NotLoaded`."""
        spec = self.spec(name)
        if spec.kind != "llm":
            raise InvalidInput(f"{spec.name} is an embedding model and cannot chat")
        return self._get(self._runners, spec, self._load_runner, self._close_runner)

    def embedder(self, name: str = "embedding") -> Embedder:
        """Return the embedding model of a role or name, or raise `NotLoaded`."""
        spec = self.spec(name)
        if spec.kind != "embedding":
            raise InvalidInput(f"{spec.name} is a chat model and cannot embed")
        return self._get(self._embedders, spec, self._load_embedder, self._close_embedder)

    def unload(self, name: str) -> bool:
        """Free the model of a role or name; its running requests end with `EngineClosed`."""
        spec = self.spec(name)
        self._took.pop(_key(spec), None)
        if runner := self._runners.pop(_key(spec), None):
            self._close_runner(runner)
        if embedder := self._embedders.pop(_key(spec), None):
            self._close_embedder(embedder)
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

    def _get(
        self, models: dict[Key, T], spec: ModelSpec, load: Callable[[ModelSpec, Tell], T], free: Callable[[T], object]
    ) -> T:
        key = _key(spec)
        if found := models.get(key):
            return found
        present = partial(models.__contains__, key)
        make, adopt = partial(self._make, spec, load, free), partial(self._adopt, models, spec)
        raise NotLoaded(Load(key, spec.name, present, make, adopt, free))

    def _make(
        self, spec: ModelSpec, load: Callable[[ModelSpec, Tell], T], free: Callable[[T], object], heed: Heed
    ) -> T:
        """On the loader thread."""
        told = _Told(spec.name, self._progress, heed)
        told.part(0.0)
        model = load(spec, told.part)
        try:
            told.end()
        except BaseException:
            free(model)
            raise
        return model

    def _adopt(self, models: dict[Key, T], spec: ModelSpec, model: T, seconds: float) -> None:
        models[_key(spec)] = model
        self._took[_key(spec)] = spec, seconds
        self._publish()
        _log.info("loaded %s in %.1f s", spec.name, seconds)

    def _load_runner(self, spec: ModelSpec, tell: Tell) -> Runner:
        from engine import layout, probe, runner

        path = layout.locate(spec)
        probe.check(path, lambda: tell(0.0))
        made = runner.load(str(path), spec, self._config.engine, tell)
        try:
            if self._prefixes and not made.model.window:  # a state holds no more than the window, and could not be cut
                made.restore_from(path, self._prefixes / spec.name, tell)
        except BaseException:
            made.close(EngineClosed(f"{spec.name} could not be loaded"))
            raise
        return made

    def _load_embedder(self, spec: ModelSpec, tell: Tell) -> Embedder:
        from engine import layout
        from engine.embedder import Embedder

        return Embedder(layout.locate(spec), spec)  # a library loads it, and says nothing meanwhile

    def _close_runner(self, runner: Runner) -> None:
        runner.close(EngineClosed(f"{runner.spec.name} was unloaded"))

    def _close_embedder(self, embedder: Embedder) -> None:
        embedder.close()

    def _publish(self) -> None:
        """Show other threads what is loaded: tuples, replaced whole, need no lock."""
        self._seen = tuple(self._runners.values())
        self.loaded = tuple(
            LoadedModel(spec.name, spec.kind, self._roles(_key(spec)), seconds) for spec, seconds in self._took.values()
        )

    def _roles(self, model: Key) -> tuple[str, ...]:
        return tuple(role for role, spec in self.specs.items() if _key(spec) == model)
