"""Texts → vectors for callers: short jobs for the compute thread, so that running streams go on between them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.errors import OutOfBudget
from engine.inputs import TextKind
from engine.metrics import Progress, ProgressCallback, report
from engine.quantities import bytes_text
from engine.views import Head, Views
from engine.windows import batches
from engine.worker import cancels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.budget import Budget, Hold
    from engine.embedder import Embedder
    from engine.pool import Pool
    from engine.windows import Piece

    Floats = NDArray[np.float32]
    Pass = Callable[[list[Piece]], list[Views]]

_TEXTS = 2_048  # that are sorted by length together: what is in work at a time is theirs
_LETTERS = 1 << 20  # of them, at most, but for one text
_LARGE = 64 << 20  # bytes of results that the budget is asked about
_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of n texts: `dense` is (n, d) float32, unit length; of each text, `sparse` is token id → weight, and
    `multi` (tokens, d) float32, rows of unit length.

    A head that was not asked for, or that the model does not have, is None.
    """

    dense: Floats | None
    sparse: list[dict[int, float]] | None = None
    multi: list[Floats] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        dense = None if self.dense is None else self.dense.tolist()
        multi = None if self.multi is None else [rows.tolist() for rows in self.multi]
        return {"dense": dense, "sparse": self.sparse, "multi": multi}


class Vectors:
    """Embeds for one engine."""

    def __init__(self, pool: Pool, progress: ProgressCallback | None) -> None:
        self._pool, self._progress = pool, progress

    def embed(self, texts: list[str], kind: TextKind, role: str = "embedding") -> Floats:
        """Return (n, d) float32, unit length. Raises as `views` does."""
        dense = self.views(texts, kind, ("dense",), role).dense
        assert dense is not None  # every model has it
        return dense

    def views(self, texts: list[str], kind: TextKind, heads: Sequence[Head], role: str = "embedding") -> Embeddings:
        """Return those `heads` of n texts that the model has.

        Raises `ModelNotFound`, `ModelCorrupt`, `OutOfBudget`, `EngineClosed`, `Cancelled`.
        """
        with self._pool.leased(role, "embedding") as key:  # between two jobs it must not leave
            model: Embedder = self._pool.run(key, lambda model: model)
            wanted = [head for head in heads if head in model.heads]
            if not wanted:
                return Embeddings(None)

            def run(pieces: list[Piece]) -> list[Views]:
                stopped = threading.Event()
                with cancels(stopped.set):  # a pass over a long text takes seconds, and its caller may go
                    return self._pool.run(key, lambda model: model.encode(pieces, wanted, stopped))

            with contextlib.closing(_Answer(self._pool.budget, wanted, len(texts), model)) as answer:
                for group in _groups(texts):
                    pieces = list(model.reader.pieces(group, kind))
                    answer.expect(pieces)
                    tell = partial(self._tell, answer.count, len(group), len(texts))
                    answer.add(model.join(pieces, _encoded(pieces, model.batch_tokens, run, tell)))
                return answer.embeddings

    def _tell(self, before: int, here: int, total: int, done: int, pieces: int) -> None:
        if total > 1:
            report(self._progress, Progress("embed", before + here * done // pieces, total, "texts"))
        elif pieces > 1:
            report(self._progress, Progress("embed", done, pieces, "windows"))


class _Answer:
    """What a call is to return, as it comes. What is large of it is held in the budget until the caller has it."""

    def __init__(self, budget: Budget, heads: Sequence[Head], count: int, model: Embedder) -> None:
        import numpy as np

        dim = model.dim
        self._budget, self._wide, self.count = budget, model.multi_dim, 0
        self._holds: list[Hold] = []
        self._small = 0  # bytes that nothing is held for yet
        self.embeddings = Embeddings(
            dense=np.empty((count, dim), np.float32) if "dense" in heads else None,
            sparse=[] if "sparse" in heads else None,
            multi=[] if "multi" in heads else None,
        )
        self._hold(count * dim * _FLOAT if "dense" in heads else 0)  # of the array, nothing was touched yet

    def expect(self, pieces: Sequence[Piece]) -> None:
        """Have room for the multi-vectors of pieces, which take far more than all else. Raises `OutOfBudget`."""
        if self.embeddings.multi is not None:
            self._hold(sum(len(piece.ids) for piece in pieces) * self._wide * _FLOAT)

    def add(self, texts: Sequence[Views]) -> None:
        """Take the views of the next texts."""
        for at, views in enumerate(texts, self.count):
            if self.embeddings.dense is not None:
                self.embeddings.dense[at] = views.dense
            if self.embeddings.sparse is not None:
                self.embeddings.sparse.append(views.sparse or {})
            if self.embeddings.multi is not None and views.multi is not None:
                self.embeddings.multi.append(views.multi)
        self.count += len(texts)
        for hold in self._holds:
            self._budget.settle(hold, hold.bytes)

    def close(self) -> None:
        """Leave what was held to the caller, whose memory it is now."""
        for hold in self._holds:
            self._budget.release(hold)

    def _hold(self, size: int) -> None:
        self._small += size
        if self._small < _LARGE:
            return
        size, self._small = self._small, 0
        hold = self._budget.reserve("embeddings", size)
        if hold is None:
            free = max(0, self._budget.total() - self._budget.held)
            raise OutOfBudget(
                f"the next embeddings take {bytes_text(size)}, and {bytes_text(free)} of the budget are free. Ask for "
                'fewer texts at a time, or without the head "multi", or raise ram_budget.',
                needed=size,
                available=free,
            )
        self._holds.append(hold)


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """Yield the texts in order, as many at a time as are in work together."""
    group: list[str] = []
    letters = 0
    for text in texts:
        if group and (len(group) == _TEXTS or letters + len(text) > _LETTERS):
            yield group
            group, letters = [], 0
        group.append(text)
        letters += len(text)
    if group:
        yield group


def _encoded(pieces: list[Piece], most: int, run: Pass, tell: Callable[[int, int], object]) -> list[Views]:
    """Return the views of each piece, from passes over `most` tokens."""
    found, done = [Views()] * len(pieces), 0
    for batch in batches([len(piece.ids) for piece in pieces], most):
        for at, views in zip(batch, run([pieces[at] for at in batch]), strict=True):
            found[at] = views
        done += len(batch)
        tell(done, len(pieces))
    return found
