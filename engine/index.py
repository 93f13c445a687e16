"""Vectors by id, nearest first. A cache: whatever is in it can be read again from the memory store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]
    Vectors = NDArray[np.float32]


class VectorIndex:
    """An exact inner-product index of vectors of `dim` numbers; one thread at a time may use it."""

    def __init__(self, dim: int) -> None:
        import faiss

        self.dim = dim
        self._faiss = faiss
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
        self._ids: set[int] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add `vectors` (n, dim) under n different `ids`; an id that is there already gets the new vector."""
        new = set(ids.tolist())
        if len(new) != len(ids) or vectors.shape != (len(ids), self.dim):
            raise ValueError(f"{len(new)} different ids for vectors of shape {vectors.shape}, dim {self.dim}")
        if not new.isdisjoint(self._ids):
            self.remove(ids)
        if new:
            self._index.add_with_ids(vectors, ids)
        self._ids |= new

    def remove(self, ids: Ids) -> None:
        """Remove `ids`; those that are not there are passed over."""
        gone = self._ids.intersection(ids.tolist())
        if gone:
            self._index.remove_ids(self._faiss.IDSelectorBatch(ids))
        self._ids -= gone

    def search(self, vector: Vectors, k: int) -> tuple[Ids, Vectors]:
        """Return the ids and inner products of the at most `k` nearest to `vector` (dim,), best first."""
        # A second thread costs more to start than it saves (DECISIONS). OpenMP keeps the number for each calling
        # thread, so it is set here and not once.
        self._faiss.omp_set_num_threads(1)
        scores, ids = self._index.search(vector.reshape(1, self.dim), max(1, min(k, len(self))))
        found = ids[0] >= 0
        return ids[0][found], scores[0][found]
