"""What this machine is, which models of a profile are on it, and how each chat model was found to run best here."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from engine import layout, tuning
from engine.errors import InvalidInput

if TYPE_CHECKING:
    from engine.config import ModelSpec
    from engine.models import Models

_LIBRARIES = (
    "gieok", "llama-cpp-python", "llguidance", "torch", "sentence-transformers", "transformers", "faiss-cpu",
    "kiwipiepy", "apsw", "numpy",
)  # fmt: skip


def report(models: Models, ram: int) -> dict[str, Any]:
    """Return JSON-ready facts; `ram` is the machine's, in bytes."""
    roles: dict[str, list[str]] = {}
    specs: dict[str, ModelSpec] = {}
    for role, spec in models.specs.items():
        specs[spec.name] = spec
        roles.setdefault(spec.name, []).append(role)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": tuning.processor(),
        "cores": tuning.usable_cores(),
        "ram": ram,
        "gpu": _gpu(),
        "versions": {library: _version(library) for library in _LIBRARIES},
        "folder": str(layout.models_dir()),
        "models": [_model(spec, roles[name]) for name, spec in specs.items()],
    }


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


@contextlib.contextmanager
def measured_anew(spec: ModelSpec) -> Iterator[None]:
    """Let a load inside the block measure the model; what was remembered stays true unless it does."""
    file = layout.locate(spec)
    before = tuning.recall(file)
    tuning.forget(file)
    try:
        yield
    finally:
        if before is not None and tuning.recall(file) is None:
            tuning.remember(file, before)


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


def _gpu() -> bool | None:
    """Return whether llama.cpp can use a GPU; None where it cannot even be imported."""
    from engine.llama import has_gpu

    try:
        return has_gpu()
    except (ImportError, OSError, RuntimeError):
        return None
