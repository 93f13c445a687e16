"""How each model could be loaded here, and what that would take, told before anything is allocated."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine import footprint, layout, measured, tuning
from engine.errors import ModelNotFound
from engine.footprint import Footprint
from engine.residency import Option

_LIBRARY = "sentence_transformers"

if TYPE_CHECKING:
    from engine.config import EngineTable, ModelSpec
    from engine.measured import Measured
    from engine.offload import Offload


@dataclass(frozen=True, slots=True)
class How:
    """One way to load a model: KV cells and layers on a GPU (of an embedding model none), and what that takes.

    `measured`: whether the total was measured at an earlier load. `libraries` of it stay when the model leaves. Bytes.
    """

    ram: Footprint
    measured: bool
    cells: int | None = None
    n_gpu_layers: int = 0
    vram: int = 0
    libraries: int = 0

    @property
    def option(self) -> Option:
        """The same for who keeps the budget; what nobody could estimate counts by its weights."""
        return Option(self.ram.total or self.ram.other + (self.ram.weights or 0), self.ram.mapped, self)


def ways(spec: ModelSpec, table: EngineTable) -> list[How]:
    """Return how the model of `spec` could be loaded, the most wanted first; its files may be elsewhere still.

    Raises `ModelCorrupt` where what is here cannot be read.
    """
    try:
        path = layout.locate(spec)
    except ModelNotFound:
        return [How(footprint.estimate(spec, table), False, _first_cells(spec, table))]
    return [_embedding(spec, table, path)] if spec.kind == "embedding" else _llm(spec, table, path)


def remember(spec: ModelSpec, table: EngineTable, how: How) -> None:
    """Keep what a load was measured to take, for the plans to come."""
    path = layout.locate(spec)
    total = how.ram.total
    if total is not None:
        settings = _settings(spec, table, path, how)
        measured.remember(path, settings, measured.Measured(total, how.ram.mapped))


def _first_cells(spec: ModelSpec, table: EngineTable) -> int | None:
    return footprint.cells(spec, table) if spec.kind == "llm" else None


def _embedding(spec: ModelSpec, table: EngineTable, path: Path) -> How:
    ram, libraries = footprint.of_file(path, spec, table, cells=0, repack=False), footprint.LIBRARIES
    if _LIBRARY in sys.modules:  # loaded once, whatever comes and goes
        ram, libraries = replace(ram, other=ram.other - libraries), 0
    how = How(ram, False, libraries=libraries)
    return _corrected(how, measured.recall(path, _settings(spec, table, path, how)))


def _llm(spec: ModelSpec, table: EngineTable, path: Path) -> list[How]:
    trained = footprint.shape_of_file(path).trained
    return [_with_cells(spec, table, path, cells) for cells in footprint.contexts(spec, table, trained)]


def _with_cells(spec: ModelSpec, table: EngineTable, path: Path, cells: int) -> How:
    gpu = _offload(spec, table, path, cells)
    layers, share, vram = (gpu.layers, gpu.share, gpu.vram) if gpu else (0, 0.0, 0)
    ram = footprint.of_file(path, spec, table, cells=cells, repack=not layers and _repacks(path), offload=share)
    how = How(ram, False, cells, layers, vram)
    return _corrected(how, measured.recall(path, _settings(spec, table, path, how)))


def _offload(spec: ModelSpec, table: EngineTable, path: Path, cells: int) -> Offload | None:
    """Return what goes to the GPUs; None where nothing is to, or there are none."""
    wanted = table.n_gpu_layers if spec.n_gpu_layers is None else spec.n_gpu_layers
    if wanted == 0:
        return None
    from engine.llama import devices

    if not (there := devices()):
        return None
    from engine import offload

    return offload.plan(offload.shape_of(path, cells, table.n_batch, spec.flash_attention), there, wanted)


def _settings(spec: ModelSpec, table: EngineTable, path: Path, how: How) -> dict[str, object]:
    if spec.kind == "embedding":
        return {"libraries": bool(how.libraries)}
    return {
        "n_ctx": how.cells,
        "n_seq": footprint.sequences(spec, table),
        "n_batch": table.n_batch,
        "repack": _repacks(path),
        "n_gpu_layers": how.n_gpu_layers,
    }


def _repacks(path: Path) -> bool:
    return (tuning.recall(path) or tuning.usual()).repack


def _corrected(how: How, known: Measured | None) -> How:
    return how if known is None else replace(how, ram=measured.applied(how.ram, known), measured=True)
