"""LoRA adapters of chat models: where their files lie, and what these say of themselves.

Contract: an adapter changes every answer, so whatever is kept of a model that has some is kept by `identity`, too.
The keys are those that llama.cpp's convert_lora_to_gguf.py writes, and src/llama-adapter.cpp reads.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine import digests, layout
from engine.errors import ConfigError, ModelCorrupt, ModelNotFound
from engine.gguf_header import Header, read_header

if TYPE_CHECKING:
    from engine.config import ModelSpec

_KIND, _ALPHA, _INVOKED = "adapter.type", "adapter.lora.alpha", "adapter.alora.invocation_tokens"


@dataclass(frozen=True, slots=True)
class Located:
    """An adapter's file on this machine, and its scale."""

    path: Path
    scale: float


def located(spec: ModelSpec) -> list[Located]:
    """Return the adapters of a model, in the order of its entry; looks, but does not read. Raises `ModelNotFound`."""
    found = [Located(layout.own(adapter.path), adapter.scale) for adapter in spec.adapters]
    for adapter in found:
        if not adapter.path.is_file():
            raise ModelNotFound(
                f"{spec.name}: there is no adapter {adapter.path}. Correct adapters of its entry in models.toml, or "
                "bring the file there.",
                model=spec.name,
            )
    return found


def size(spec: ModelSpec) -> int:
    """Return the bytes of a model's adapters that are here."""
    total = 0
    for adapter in spec.adapters:
        with contextlib.suppress(OSError, ValueError):  # of a name that no file can have
            total += layout.own(adapter.path).stat().st_size
    return total


def identity(spec: ModelSpec, tell: Callable[[], object]) -> list[list[object]]:
    """Return the sha256 and the scale of each adapter, JSON-ready; `tell` is called for every block that is read.

    Raises `ModelNotFound`, `OSError`.
    """
    return [[digests.sha256_of(adapter.path, tell), adapter.scale] for adapter in located(spec)]


def check(adapter: Path, model: Path) -> None:
    """Return if the header of the file `adapter` says that it is a LoRA adapter of the model at `model`.

    Whether its matrices fit is for llama.cpp to see. Raises `ModelCorrupt` where the header cannot be true, and
    `ConfigError` where it is that of something else.
    """
    said, of = read_header(adapter), read_header(model).architecture
    if why := _mistaken(said, of):
        raise ConfigError(
            f"{adapter.name} cannot be an adapter of {model.name}: {why}. Correct adapters of its entry in models.toml."
        )
    if why := _damaged(said):
        raise ModelCorrupt(f"{adapter.name} is damaged: {why}. Convert the adapter again.", path=str(adapter))


def _damaged(said: Header) -> str | None:
    """Return what an adapter lacks, None where it lacks nothing."""
    alpha = said.metadata.get(_ALPHA)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        return f"it has no {_ALPHA}"
    return None if said.tensor_bytes else "it holds no matrices"


def _mistaken(said: Header, architecture: str) -> str | None:
    """Return why a file cannot be an adapter of such a model, None where nothing is known against it."""
    if said.metadata.get("general.type") != "adapter":
        return "it is a model, not an adapter"
    if said.metadata.get(_KIND) != "lora":
        return "it is an adapter of another kind than LoRA"
    if _INVOKED in said.arrays:
        return "it is one that works behind certain words only (aLoRA), which Gieok cannot do"
    if said.split_count != 1:
        return "it is one of several parts"
    if said.architecture != architecture:
        return f"it was made for the architecture {said.architecture[:40]!r}, and this model is {architecture[:40]!r}"
    return None
