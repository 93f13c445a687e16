"""Which memories may be meant: one-bit codes of vectors, and what filters ask of them, in RAM.

A cache: all of it can be made again from the memory store, which also holds the exact vectors. Each vector is one code
of an `IndexRaBitQ` (Gao and Long, 2024: doi.org/10.1145/3654970) and one row of a few columns, at the same place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]
    Hashes = NDArray[np.uint64]
    Bytes = NDArray[np.uint8]
    Vectors = NDArray[np.float32]
    Places = NDArray[np.intp]
    Rows = dict[str, NDArray[Any]]

EXHAUSTIVE = 1_000  # so many candidates are no more work to score exactly than to choose from
SAMPLE = 4_096  # a centre of so many vectors gets no better with more
_OUTGROWN = 4  # times as many vectors as the centre was taken from
_QUERY_BITS = 4  # of each number of a query; with 8 a search takes 1.4 times as long and finds the same
_FACTORS = 8  # bytes beside the bits of a code: two floats
_DTYPES = {"memory": "int64", "user": "uint64", "source": "uint64", "category": "uint8", "moment": "int64"}
_ROW = 8 + 8 + 8 + 1 + 8


@dataclass(frozen=True, slots=True)
class Entries:
    """Columns of n entries: ids that differ from each other, hashes, category numbers, and microseconds."""

    memory: Ids
    user: Hashes
    source: Hashes
    category: Bytes
    moment: Ids


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an entry must be; None: anything. `since` and `until` are inclusive."""

    user: int | None = None
    source: int | None = None
    category: int | None = None
    since: int | None = None
    until: int | None = None


def bytes_of(vectors: int, dim: int) -> int:
    """Return what an index of so many vectors of `dim` numbers holds, in RAM as in a file."""
    return vectors * (_code_size(dim) + _ROW) + 4 * dim


def layout() -> str:
    """Return what must be the same for `VectorIndex.loads` to understand what `dumps` gave."""
    import faiss

    return f"IndexRaBitQ of faiss {faiss.__version__}, {sys.byteorder} endian"


class VectorIndex:
    """An index of vectors of `dim` numbers.

    Any number of threads may read it at the same time; `add` and `remove` want it for themselves.
    """

    def __init__(self, dim: int) -> None:
        import faiss
        import numpy as np

        if dim < 1:
            raise ValueError(f"vectors of {dim} numbers")
        self.dim = dim
        self.trained = 0  # how many vectors the centre was taken from
        self._faiss: Any = faiss
        self._index: Any = faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT)
        self._centre = np.zeros(dim, np.float32)
        self._columns: Rows = {name: np.empty(0, dtype) for name, dtype in _DTYPES.items()}  # with room for more
        self._last = -1 << 63  # no id is larger

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def outgrown(self) -> bool:
        """Whether making it again, with `SAMPLE` vectors or all in the first `add`, would make it find more."""
        return len(self) > EXHAUSTIVE and self.trained < min(len(self) // _OUTGROWN, SAMPLE)

    def add(self, entries: Entries, vectors: Vectors) -> None:
        """Add entries with their unit `vectors` (n, dim); an id that is there already gets the new entry.

        The first vectors to be in it give the centre. Raises `ValueError`, and then nothing has changed.
        """
        import numpy as np

        rows = {field.name: np.asarray(getattr(entries, field.name)) for field in fields(entries)}
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._check(rows, vectors)
        if not len(vectors):
            return
        if not len(self):
            self._centre[:] = vectors.mean(axis=0)
            self._settle(len(vectors))
        # OpenMP keeps the number for each calling thread, so it is set wherever faiss computes.
        self._faiss.omp_set_num_threads(1)
        rows["code"] = self._index.sa_encode(vectors)
        # Whole rows are written, so it does not matter which of them takes which of the places of the old ones.
        places = self._known(rows["memory"])
        size = len(self) + len(vectors) - len(places)
        places = np.append(places, np.arange(len(self), size))
        self._last = max(self._last, int(rows["memory"].max()))
        self._resize(size)
        for name, column in self._rows().items():
            column[places] = rows[name]

    def remove(self, ids: Ids) -> None:
        """Remove `ids`; those that are not there are passed over."""
        import numpy as np

        gone = self._known(np.asarray(ids, np.int64))
        left = len(self) - len(gone)
        moved = np.setdiff1d(np.arange(left, len(self)), gone)
        for column in self._rows().values():
            column[gone[gone < left]] = column[moved]
        self._resize(left)

    def matching(self, wanted: Wanted) -> int:
        """Return how many entries are what is `wanted`."""
        mask = self._mask(wanted)
        return len(self) if mask is None else int(mask.sum())

    def candidates(self, vector: Vectors, k: int, wanted: Wanted) -> Ids:
        """Return the ids of the `k` entries nearest to `vector` (dim,) by their codes, of those that are `wanted`.

        Of at most `EXHAUSTIVE` such entries all are returned, in any order. Raises `ValueError`.
        """
        import numpy as np

        vector = np.ascontiguousarray(vector, np.float32)
        if vector.shape != (self.dim,) or not np.isfinite(vector).all() or k < 1:
            raise ValueError(f"{k} nearest to a vector of shape {vector.shape}, dim {self.dim}, or not of numbers")
        mask, ids = self._mask(wanted), self._rows()["memory"]
        count = len(self) if mask is None else int(mask.sum())
        if count <= EXHAUSTIVE:
            return ids.copy() if mask is None else ids[mask]
        chosen = {} if mask is None else {"sel": self._faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))}
        self._faiss.omp_set_num_threads(1)  # faiss searches for one query on one thread; a second only waits
        params = self._faiss.RaBitQSearchParameters(qb=_QUERY_BITS, **chosen)
        places: Places = self._index.search(vector[None], min(k, count), params=params)[1][0]
        found: Ids = ids[places[places >= 0]]
        return found

    def dumps(self) -> list[Bytes]:
        """Return all there is to keep, uncopied: each buffer is valid until the next `add` or `remove`."""
        import numpy as np

        return [self._centre.view(np.uint8), *(rows.reshape(-1).view(np.uint8) for rows in self._rows().values())]

    @classmethod
    def loads(cls, dim: int, count: int, trained: int, read: Callable[[Bytes], object]) -> VectorIndex:
        """Return the index of `count` vectors whose `dumps` gave the bytes with which `read` fills each buffer."""
        index = cls(dim)
        index._resize(count)
        for buffer in index.dumps():
            read(buffer)
        if count:
            index._settle(trained)
            index._last = int(index._rows()["memory"].max())
        return index

    def _check(self, rows: Rows, vectors: Vectors) -> None:
        import numpy as np

        n = len(rows["memory"])
        shapes = {name: (str(column.dtype), *column.shape) for name, column in rows.items()}
        if shapes != {name: (dtype, n) for name, dtype in _DTYPES.items()} or vectors.shape != (n, self.dim):
            raise ValueError(f"entries of {shapes} for vectors of shape {vectors.shape}, dim {self.dim}")
        if len(np.unique(rows["memory"])) != n or not np.isfinite(vectors).all():
            raise ValueError(f"{n} entries whose ids are not different, or whose vectors are not of numbers")

    def _settle(self, trained: int) -> None:
        """Tell faiss the centre: it is the mean of what an index is trained on."""
        self._index.train(self._centre[None])
        self.trained = trained

    def _resize(self, n: int) -> None:
        """Make the codes and columns `n` long, with room to spare where they grow, as C++ does for the codes."""
        import numpy as np

        if n > (room := len(self._columns["memory"])):
            # The first is as long as asked for, so that an index that is loaded has no more than it needs.
            grown = {name: np.empty(max(n, room * 3 // 2), dtype) for name, dtype in _DTYPES.items()}
            for name, column in self._columns.items():
                grown[name][: len(self)] = column[: len(self)]
            self._columns = grown
        # At no time are there fewer codes than faiss believes.
        self._index.ntotal = min(n, len(self))
        self._index.codes.resize(n * _code_size(self.dim))
        self._index.ntotal = n

    def _rows(self) -> Rows:
        """Return the columns and the codes as they lie in memory, not copied."""
        codes = self._index.codes
        table = self._faiss.rev_swig_ptr(codes.data(), codes.size()).reshape(-1, _code_size(self.dim))
        return {name: column[: len(self)] for name, column in self._columns.items()} | {"code": table}

    def _known(self, ids: Ids) -> Places:
        """Return where those of `ids` lie that are there, in ascending order.

        They are looked for in the column itself: new ids are mostly larger than all before, a million are looked
        through in milliseconds, and a map from id to place would hold three times what the column does.
        """
        import numpy as np

        if not (ids <= self._last).any():
            return np.empty(0, np.intp)
        return np.flatnonzero(np.isin(self._rows()["memory"], ids))

    def _mask(self, wanted: Wanted) -> NDArray[np.bool_] | None:
        """Return which entries are `wanted`; None: all."""
        rows = self._rows()
        mask: NDArray[np.bool_] | None = None
        for name in ("user", "source", "category"):
            if (value := getattr(wanted, name)) is not None:
                mask = _both(mask, rows[name] == value)
        if wanted.since is not None:
            mask = _both(mask, rows["moment"] >= wanted.since)
        if wanted.until is not None:
            mask = _both(mask, rows["moment"] <= wanted.until)
        return mask


def _both(mask: NDArray[np.bool_] | None, other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return other if mask is None else mask & other


def _code_size(dim: int) -> int:
    return -(-dim // 8) + _FACTORS
