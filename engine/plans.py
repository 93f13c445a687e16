"""How each model could be loaded here, and what that would take, told before anything is allocated."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine import adapters, footprint, layout, measured, ready, tuning
from engine.errors import ModelCorrupt, ModelNotFound
from engine.footprint import Footprint
from engine.residency import Option

if TYPE_CHECKING:
    from engine.config import EngineTable, ModelSpec
    from engine.machine import Resident
    from engine.measured import Measured
    from engine.offload import Offload


@dataclass(frozen=True, slots=True)
class How:
    """One way to load a model: KV cells and layers on a GPU (of an embedding model none, but whether OpenVINO runs it
    from what was prepared), and what that takes.

    `ram` is what was `measured` at an earlier load, else `estimated` from the files. `libraries` of it stay when the
    model leaves. Bytes.
    """

    estimated: Footprint
    known: Measured | None = None
    cells: int | None = None
    n_gpu_layers: int = 0
    vram: int = 0
    libraries: int = 0
    fast: bool = False

    @property
    def measured(self) -> bool:
        """Whether an earlier load told what this one takes."""
        return self.known is not None

    @property
    def ram(self) -> Footprint:
        """What it takes, as well as that is known."""
        return self.estimated if self.known is None else measured.applied(self.estimated, self.known)

    @property
    def libraries_apart(self) -> Option:
        """What of it stays when the model leaves."""
        return Option(self.libraries, max(0, self.ram.mapped - (self.ram.weights or 0)) if self.libraries else 0)

    def without_libraries(self) -> How:
        """Return the same where these are there already."""
        apart, ram = self.libraries_apart, self.ram
        ram = replace(ram, other=max(0, ram.other - apart.bytes), mapped=ram.mapped - apart.mapped)
        known = self.known and measured.Measured(ram.total or 0, ram.mapped)
        return replace(self, estimated=ram, known=known, libraries=0) if apart.bytes else self

    @property
    def option(self) -> Option:
        """The same for who keeps the budget; what nobody could estimate counts by its weights."""
        size = self.ram.total or self.ram.other + (self.ram.weights or 0)
        return Option(size, self.ram.mapped, self, gpu=self.n_gpu_layers != 0)


def ways(spec: ModelSpec, table: EngineTable, *, libraries: bool = True) -> list[How]:
    """Return how the model of `spec` could be loaded, the most wanted first; its files may be elsewhere still.

    `libraries`: whether those of embedding models are yet to come. Raises `ModelCorrupt` where what is here cannot be
    read, and `ModelNotFound` for a path of the user's own.
    """
    adapters.located(spec)
    try:
        path = layout.locate(spec)
    except ModelNotFound:
        if spec.source.path:
            raise
        return [How(footprint.estimate(spec, table), cells=_first_cells(spec, table))]
    try:
        return [_embedding(spec, table, path, libraries)] if spec.kind == "embedding" else _llm(spec, table, path)
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error.strerror}", path=str(path)) from None


def loaded(spec: ModelSpec, table: EngineTable, how: How, growth: Resident) -> How:
    """Return what a load took, by how much the process grew meanwhile, and remember it where that can be believed."""
    ram, believed = measured.corrected(how.estimated, growth)
    found = measured.Measured(ram.total or 0, ram.mapped)
    with contextlib.suppress(ModelNotFound):  # the files went meanwhile
        path = layout.locate(spec)
        if believed:
            measured.remember(path, _settings(spec, table, path, how), found)
    return replace(how, known=found)


def _first_cells(spec: ModelSpec, table: EngineTable) -> int | None:
    return footprint.cells(spec, table) if spec.kind == "llm" else None


def _embedding(spec: ModelSpec, table: EngineTable, path: Path, libraries: bool) -> How:
    if not footprint.files(path):
        raise ModelCorrupt(f"{path} holds no weights. Point source.path at a folder that does.", path=str(path))
    fast = ready.is_ready(spec, path)
    ram = footprint.of_cache(path, spec) if fast else footprint.of_file(path, spec, table, cells=0, repack=False)
    size = footprint.LIBRARIES + footprint.OPENVINO if fast else footprint.LIBRARIES
    if not libraries:  # loaded once, whatever comes and goes
        ram = replace(ram, other=ram.other - size)
    return _recalled(How(ram, libraries=size if libraries else 0, fast=fast), spec, table, path)


def _llm(spec: ModelSpec, table: EngineTable, path: Path) -> list[How]:
    trained = footprint.shape_of_file(path).trained
    sizes = {cells: _offload(spec, table, path, cells) for cells in footprint.contexts(spec, table, trained)}
    wanted = [_with_cells(spec, table, path, cells, gpu) for cells, gpu in sizes.items()]
    # a GPU may refuse what seemed to fit, and the CPU needs other memory: that, too, is to be found first
    return wanted + [_with_cells(spec, table, path, cells, None) for cells, gpu in sizes.items() if gpu and gpu.layers]


def _with_cells(spec: ModelSpec, table: EngineTable, path: Path, cells: int, gpu: Offload | None) -> How:
    layers, share, vram = (gpu.layers, gpu.share, gpu.vram) if gpu else (0, 0.0, 0)
    ram = footprint.of_file(path, spec, table, cells=cells, repack=not layers and _repacks(path), offload=share)
    return _recalled(How(ram, cells=cells, n_gpu_layers=layers, vram=vram), spec, table, path)


def _offload(spec: ModelSpec, table: EngineTable, path: Path, cells: int) -> Offload | None:
    """Return what goes to the GPUs; None where nothing is to, or there are none."""
    wanted = table.n_gpu_layers if spec.n_gpu_layers is None else spec.n_gpu_layers
    if wanted == 0:
        return None
    from engine.llama import devices

    if not (there := devices()):
        return None
    from engine import offload

    shape = offload.shape_of(path, cells, table.n_batch, spec.flash_attention)
    beside = -(-adapters.size(spec) // shape.layers)  # an adapter's matrices lie where the layer's lie
    return offload.plan(replace(shape, layer_bytes=shape.layer_bytes + beside), there, wanted)


def _settings(spec: ModelSpec, table: EngineTable, path: Path, how: How) -> dict[str, object]:
    if spec.kind == "embedding":
        return {"libraries": bool(how.libraries), "fast": how.fast}
    return {
        "n_ctx": how.cells,
        "n_seq": footprint.sequences(spec, table),
        "n_batch": table.n_batch,
        "repack": _repacks(path),
        "adapters": adapters.size(spec),
        "n_gpu_layers": how.n_gpu_layers,
    }


def _repacks(path: Path) -> bool:
    return (tuning.recall(path) or tuning.usual()).repack


def _recalled(how: How, spec: ModelSpec, table: EngineTable, path: Path) -> How:
    return replace(how, known=measured.recall(path, _settings(spec, table, path, how)))
