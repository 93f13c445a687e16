"""Which models there are, by role and name; how one is made on the loader thread; which the compute thread holds."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from engine import adapters, footprint, layout, plans
from engine.errors import ConfigError, EngineClosed, InvalidInput, ModelNotFound
from engine.inputs import check_text
from engine.loader import Heed
from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    from engine.config import Config, ModelSpec
    from engine.embedder import Embedder
    from engine.plans import How
    from engine.runner import Runner

_log = logging.getLogger("engine.models")
Name = str | os.PathLike[str]
Key = tuple[str, str | None, *tuple[tuple[str, float], ...]]
Kind = Literal["llm", "embedding"]
_LIBRARY = "sentence_transformers"
_AGAIN = 1.0  # seconds after which a callback hears the same percent again
_OF_KIND = {"llm": "a chat model and cannot embed", "embedding": "an embedding model and cannot chat"}


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
    kind: Kind = "llm" if path.suffix.lower() == ".gguf" else "embedding"
    called = path.stem if kind == "llm" else path.name
    return ModelSpec(name=called, kind=kind, source=Source(path=str(path)))


def key_of(spec: ModelSpec) -> Key:
    """Return what a model is loaded as: files in two folders may have one name, and one file several adapters."""
    return spec.name, spec.source.path, *((adapter.path, adapter.scale) for adapter in spec.adapters)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory and how it came there; `how` tells what it takes, as it was measured."""

    spec: ModelSpec
    model: Runner | Embedder
    how: How
    seconds: float

    @property
    def runner(self) -> Runner | None:
        """The model, if it is a chat model."""
        from engine.runner import Runner

        return self.model if isinstance(self.model, Runner) else None

    @property
    def backend(self) -> str:
        """What runs it."""
        if self.runner:
            return "llama.cpp"
        return "openvino" if cast("Embedder", self.model).fast else "torch"

    @property
    def is_here(self) -> bool:
        """Whether all of it that was planned for RAM is there: an embedding model on a GPU was planned for none."""
        return self.runner is not None or cast("Embedder", self.model).device == "cpu"

    def close(self, error: BaseException | None = None) -> None:
        """Free it; running requests end with `error`, by default `EngineClosed`."""
        if runner := self.runner:
            runner.close(error or EngineClosed(f"{self.spec.name} was unloaded"))
        else:
            cast("Embedder", self.model).close()


def give_back() -> None:
    """Give the system what a model had; torch's modules, and a runner with its tables, refer to each other."""
    from engine import machine

    gc.collect()
    machine.trim()


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
    """The models of one engine; `named` are the roles whose model the caller named, `prefixes` the folder in which
    what they computed of instructions is kept.

    Any thread may use `spec`, `fallback`, `wanted`, `ways` and look at `loaded`; `make` is for the loader thread, and
    the rest for the compute thread.
    """

    def __init__(
        self,
        config: Config,
        specs: Mapping[str, ModelSpec],
        *,
        named: Iterable[str] = (),
        progress: ProgressCallback | None = None,
        prefixes: Path | None = None,
    ) -> None:
        self.specs = dict(specs)
        self._config, self._named, self.progress, self._prefixes = config, frozenset(named), progress, prefixes
        self._loaded: dict[Key, Loaded] = {}
        self.has_libraries = False  # whether those of embedding models are counted
        self._moves = 0  # models that came or went
        self._seen: tuple[Runner, ...] = ()
        self.loaded: tuple[Loaded, ...] = ()

    def spec(self, name: str, kind: Kind | None = None) -> ModelSpec:
        """Return the entry of a role or of a catalogue name.

        Raises `ModelNotFound`, `ConfigError`, and `InvalidInput` for a model of another kind.
        """
        from engine.config import ROLES

        if name in ROLES and name not in self.specs:
            raise ConfigError(f"this profile names no {name} model; name one in models.toml or in Engine(models=…).")
        spec = self.specs.get(name) or find_spec(self._config, name)
        if kind is not None and spec.kind != kind:
            raise InvalidInput(f"{spec.name} is {_OF_KIND[spec.kind]}")
        return spec

    def name(self, name: str) -> str:
        """Return what the model of a role or name is called. Raises as `spec` does."""
        return self.spec(name).name

    def fallback(self, name: str) -> ModelSpec | None:
        """Return who answers where the model of `name` cannot: nobody for a model that the caller named."""
        from engine.config import LLM_ROLES

        spec, fallback = self.specs.get(name), self.specs.get("fallback")
        if spec is None or fallback is None or name not in LLM_ROLES or spec.kind != "llm":
            return None
        named = name in self._named and "fallback" not in self._named
        return None if named or key_of(spec) == key_of(fallback) else fallback

    def wanted(self, name: str | None) -> list[ModelSpec]:
        """Return the entries of a profile, a role or a name; without one, of all roles. Raises as `spec` does."""
        if name is not None and name not in self._config.profiles:
            return [self.spec(name)]
        roles = resolve_roles(self._config, name, {}) if name else self.specs
        # who has the models of all roles needs none to fall back to; it is there for who asks for it
        return list({spec.name: spec for role, spec in roles.items() if role != "fallback"}.values())

    def ways(self, spec: ModelSpec, *, here: bool = False) -> list[How]:
        """Return how a model could be loaded, the most wanted first.

        Raises `ModelCorrupt`, and `ModelNotFound` where it has to be `here` and is not.
        """
        if here:
            layout.locate(spec)
        return plans.ways(spec, self._config.engine, libraries=not self.has_libraries)

    def roles(self, spec: ModelSpec) -> tuple[str, ...]:
        """Return the roles that a model has."""
        return tuple(role for role, other in self.specs.items() if key_of(other) == key_of(spec))

    def make(self, spec: ModelSpec, how: How, heed: Heed) -> Loaded:
        """Load a model, and measure what that takes. Raises `MemoryError` where the system refuses the memory."""
        from engine import machine
        from engine.machine import Resident

        told = _Told(spec.name, self.progress, heed)
        told.part(0.0)
        if self.has_libraries:  # they came since this was planned
            how = how.without_libraries()
        had, moves = _LIBRARY in sys.modules, self._moves
        before, began = machine.resident(), time.perf_counter()
        loaded = Loaded(spec, self._load(spec, how, told), how, time.perf_counter() - began)
        try:
            after = machine.resident()
            there = how.libraries if had else 0  # of another engine in this process, or of the host's
            growth = Resident(after.anonymous - before.anonymous + there, after.file_backed - before.file_backed)
            if moves == self._moves and loaded.is_here:  # else it is not this load's alone, or was planned otherwise
                loaded = replace(loaded, how=plans.loaded(spec, self._config.engine, how, growth))
            told.end()
        except BaseException:
            loaded.close()
            raise
        return loaded

    def keep(self, loaded: Loaded) -> None:
        """Take over a model that was made."""
        self._loaded[key_of(loaded.spec)] = loaded
        self._moves += 1
        self._publish()
        _log.info("loaded %s in %.1f s", loaded.spec.name, loaded.seconds)

    def at(self, key: Key) -> Loaded:
        """Return a model in memory. Raises `EngineClosed` if it was unloaded."""
        if key not in self._loaded:
            raise EngineClosed(f"{key[0]} was unloaded")
        return self._loaded[key]

    def forget(self, key: Key) -> None:
        """Leave a model to who made it."""
        self._loaded.pop(key, None)
        self._publish()

    def free(self, key: Key) -> None:
        """Free a model and give its memory back to the system."""
        loaded = self._loaded.pop(key)
        self._moves += 1
        self._publish()
        loaded.close()
        del loaded  # what is referred to is not collected
        give_back()
        _log.info("unloaded %s", key[0])

    def steppable(self) -> Iterable[Runner]:
        """Return the loaded chat models."""
        return self._seen

    def close(self, error: BaseException) -> None:
        """Free everything."""
        had = bool(self._loaded)
        while self._loaded:
            self._loaded.popitem()[1].close(error)
        self._publish()
        if had:
            give_back()

    def _load(self, spec: ModelSpec, how: How, told: _Told) -> Runner | Embedder:
        try:
            return self._load_embedder(spec, how) if spec.kind == "embedding" else self._load_runner(spec, how, told)
        except BaseException:
            give_back()
            raise

    def _load_runner(self, spec: ModelSpec, how: How, told: _Told) -> Runner:
        from engine import probe, runner

        path = layout.locate(spec)
        probe.check(path, lambda: told.part(0.0))
        for adapter in adapters.located(spec):
            probe.check(path, lambda: told.part(0.0), adapter.path)
        cells = cast("int", how.cells)
        made = runner.load(str(path), spec, self._config.engine, told.part, cells=cells, n_gpu_layers=how.n_gpu_layers)
        try:
            if self._prefixes and not made.model.window:  # a state holds no more than the window, and could not be cut
                made.restore_from(path, self._prefixes / spec.name, told.part)
        except BaseException:
            made.close(EngineClosed(f"{spec.name} could not be loaded"))
            raise
        return made

    def _load_embedder(self, spec: ModelSpec, how: How) -> Embedder:
        from engine.embedder import Embedder
        from engine.transformer import pick_device

        folder = layout.locate(spec)
        device = "cpu"
        if not (how.fast and spec.backend == "openvino"):
            device = pick_device(2 * footprint.float_weights(folder, spec))  # a pass needs room, too
        # a library loads it, and says nothing
        return Embedder(folder, spec, device=device, fast=how.fast)

    def _publish(self) -> None:
        """Show other threads what is loaded: tuples, replaced whole, need no lock."""
        self.loaded = tuple(self._loaded.values())
        self._seen = tuple(loaded.runner for loaded in self.loaded if loaded.runner)
