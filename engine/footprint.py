"""What a model will take of this machine's RAM, told from its entry in models.toml alone, before any file is there.

Bytes, on the CPU. Each part was fitted to what processes of true-shape models hold; `scripts/benchmark.py resident`
measures them again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from engine.embedder import BATCH_TOKENS

if TYPE_CHECKING:
    from engine.config import EngineTable, ModelSpec

SPARE_SEQUENCES = 24  # finished sequences kept for their prefixes beside the running ones
_FLOAT = 4
_LLAMA_CPP = 24_000_000  # libraries, and what loading leaves in the allocator
_ENTRY = 420  # of a vocabulary: llama.cpp's tables both ways, merges, and our bytes of each token
_MASK, _ACTIVATIONS = 4, 44  # of a batch, for each token: of a cell, of a column
_TORCH = 690_000_000  # torch, transformers, sentence-transformers and a tokeniser
_EMBEDDED = 20  # of a pass, for each token and column


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of RAM: of the weights, the KV cache, what a batch needs while it is computed, and all else.

    What the entry does not say enough for is None, and then so is `total`.
    """

    weights: int | None
    kv: int | None
    compute: int | None
    other: int

    @property
    def total(self) -> int | None:
        """All parts together."""
        if self.weights is None or self.kv is None or self.compute is None:
            return None
        return self.weights + self.kv + self.compute + self.other

    def to_dict(self) -> dict[str, int | None]:
        """Return JSON-ready values, `total` included."""
        return {**asdict(self), "total": self.total}


def estimate(spec: ModelSpec, table: EngineTable) -> Footprint:
    """Return what a model holds once it has answered, whatever else the process has loaded."""
    return _embedding(spec) if spec.kind == "embedding" else _llm(spec, table)


def cells(spec: ModelSpec, table: EngineTable) -> int:
    """Return how many tokens the KV cache of an llm holds."""
    wanted = spec.n_ctx or table.n_ctx
    return min(wanted, spec.context or wanted)


def sequences(spec: ModelSpec, table: EngineTable) -> int:
    """Return how many sequences the context of an llm may hold."""
    return (spec.parallel or table.parallel) + SPARE_SEQUENCES


def _llm(spec: ModelSpec, table: EngineTable) -> Footprint:
    """All weights are read, mapped or laid out anew. llama.cpp fills the cache, each sequence's state and a row of
    logits for each sequence with zeros, so that these are resident at once. What a batch needs is touched by the first
    full one.
    """
    size = spec.size if spec.weights is None else spec.weights
    tokens, rows = cells(spec, table), sequences(spec, table)
    kv = compute = None
    if spec.kv_bytes is not None:
        kv = spec.kv_bytes * tokens + spec.state_bytes * rows
    if spec.width is not None and spec.vocab is not None:
        batch = max(table.n_batch, rows)
        compute = rows * spec.vocab * _FLOAT + batch * (_MASK * tokens + _ACTIVATIONS * spec.width)
    return Footprint(size, kv, compute, _LLAMA_CPP + _ENTRY * (spec.vocab or 0))


def _embedding(spec: ModelSpec) -> Footprint:
    """The weights are mapped, and of the table of tokens only the rows of tokens that occur are ever read."""
    size = spec.size if spec.weights is None else spec.weights
    weights = compute = None
    if spec.dim is not None:
        compute = BATCH_TOKENS * spec.dim * _EMBEDDED
        weights = None if size is None else max(0, size - (spec.vocab or 0) * spec.dim * _FLOAT)
    return Footprint(weights, 0, compute, _TORCH)
