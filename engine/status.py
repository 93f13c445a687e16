"""What an engine tells of itself: plans of loads, and what is held. Sizes are bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from engine.footprint import Footprint

Outlook = Literal["fits", "evicts", "waits", "too large"]
Verdict = Outlook | Literal["loaded", "unknown"]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a load would take and do, told before anything is allocated.

    Sizes are bytes. `ram` is part by part, `measured` whether its total was measured here at an earlier load. Of
    `budget`, which is never more than the machine has, `held` is taken. `evicts` names the idle models that would go;
    with the verdict "waits" running requests must end first; "unknown" is what nobody can say before its files are
    here. `fallback` is who answers where the model is too large or cannot load. `adapters` are file names, with their
    scale where it is not 1; `ram` has them, too.
    """

    model: str
    kind: str
    installed: bool
    verdict: Verdict
    ram: Footprint
    measured: bool
    n_ctx: int | None
    n_gpu_layers: int
    vram: int
    budget: int
    held: int
    evicts: tuple[str, ...]
    fallback: str | None
    adapters: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "ram": self.ram.to_dict()}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory: `ram` bytes are held for it, of which `mapped` are pages of its file.

    `requests` run or wait; `idle` is seconds since the last one. `kv_used` of `kv_cells` tokens are in the KV cache,
    finished requests' included. `tokens_per_second` is of all answers so far, None before the first. `backend` is what
    runs it: "llama.cpp", "openvino" or "torch". `adapters` are file names, with their scale where it is not 1.
    """

    name: str
    kind: str
    roles: tuple[str, ...]
    load_seconds: float
    ram: int
    mapped: int
    vram: int
    n_gpu_layers: int
    idle: float
    requests: int
    kv_used: int
    kv_cells: int
    tokens_per_second: float | None
    backend: str
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Something that memory is held for: a model, the Korean analyser, the vector index, a preparation.

    In bytes, of which `mapped` are pages of files.
    """

    name: str
    bytes: int
    mapped: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """A model that could not be had, and the fallback that answered instead of it."""

    role: str
    wanted: str
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class Status:
    """What an engine holds: `held` bytes of `budget`, in `parts`.

    `resident` is what the whole process has in RAM: `anonymous` and `file_backed` (the system can drop the latter and
    read it again). `waiting` callers wait for a model.
    """

    profile: str
    home: str
    models: str
    budget: int
    held: int
    resident: int
    anonymous: int
    file_backed: int
    parts: tuple[Part, ...]
    loaded: tuple[LoadedModel, ...]
    waiting: int
    replaced: tuple[Replaced, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)
