"""Texts → vectors for callers: short jobs for the compute thread, so that running streams go on between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from engine.inputs import TextKind
from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.embedder import Embedder
    from engine.pool import Pool

Head = Literal["dense", "sparse", "multi"]
HEADS: tuple[Head, ...] = ("dense", "sparse", "multi")
_AT_ONCE = 16  # texts a job


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of n texts: `dense` is (n, d) float32, unit length.

    A head that was not asked for, or that the model does not have, is None.
    """

    dense: NDArray[np.float32] | None
    sparse: list[dict[int, float]] | None = None
    multi: list[NDArray[np.float32]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        dense = None if self.dense is None else self.dense.tolist()
        multi = None if self.multi is None else [rows.tolist() for rows in self.multi]
        return {"dense": dense, "sparse": self.sparse, "multi": multi}


class Vectors:
    """Embeds for one engine."""

    def __init__(self, pool: Pool, progress: ProgressCallback | None) -> None:
        self._pool, self._progress = pool, progress

    def embed(self, texts: list[str], kind: TextKind, role: str = "embedding") -> NDArray[np.float32]:
        """Return (n, d) float32, unit length. Raises `ModelNotFound`, `EngineClosed`, `Cancelled`."""
        import numpy as np

        with self._pool.leased(role, "embedding") as key:  # between two jobs it must not leave
            if not texts:
                return np.zeros((0, self._pool.run(key, lambda model: model.dim)), np.float32)
            parts = []
            for at in range(0, len(texts), _AT_ONCE):
                parts.append(self._pool.run(key, partial(_embed, texts[at : at + _AT_ONCE], kind)))
                if len(texts) > _AT_ONCE:
                    report(self._progress, Progress("embed", min(at + _AT_ONCE, len(texts)), len(texts), "texts"))
        return np.concatenate(parts)


def _embed(texts: list[str], kind: TextKind, model: Embedder) -> NDArray[np.float32]:
    return model.embed(texts, kind)
