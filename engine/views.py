"""What an embedding model tells of one text: up to three views from one pass, and how those of its parts become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Head = Literal["dense", "sparse", "multi"]
HEADS: tuple[Head, ...] = ("dense", "sparse", "multi")


@dataclass(frozen=True, slots=True)
class Views:
    """One text: `dense` is (d,) of unit length, `sparse` token id → weight > 0, `multi` (tokens, d) of unit rows.

    What was not asked for, or the model does not have, is None.
    """

    dense: Floats | None = None
    sparse: dict[int, float] | None = None
    multi: Floats | None = None


def joined(parts: Sequence[Views], weights: Sequence[int]) -> Views:
    """Return the views of a text from those of its parts, in order; `weights` are their numbers of tokens.

    Dense: the mean by weight, made unit length; without a part of n of all N tokens, the mean of the others counts
    alone: no vector of a part weighs more than n/N in it. Sparse: a token's largest weight. Multi: one after the other.
    Raises `ValueError` where the parts cancel each other out, or are no numbers.
    """
    if len(parts) == 1:
        return parts[0]
    return Views(_mean(parts, weights), _largest(parts), _in_order(parts))


def _mean(parts: Sequence[Views], weights: Sequence[int]) -> Floats | None:
    import numpy as np

    vectors = [part.dense for part in parts if part.dense is not None]
    if not vectors:
        return None
    mean = np.average(np.stack(vectors), axis=0, weights=np.asarray(weights, np.float64))
    length = float(np.linalg.norm(mean))
    if not 1e-6 < length < math.inf:  # float32 vectors of unit length tell no less
        raise ValueError("the vectors of the parts of a text cancel each other out, or are no numbers")
    unit: Floats = (mean / length).astype(np.float32)
    return unit


def _largest(parts: Sequence[Views]) -> dict[int, float] | None:
    found: dict[int, float] = {}
    for part in parts:
        if part.sparse is None:
            return None
        for token, weight in part.sparse.items():
            found[token] = max(weight, found.get(token, 0.0))
    return found


def _in_order(parts: Sequence[Views]) -> Floats | None:
    import numpy as np

    rows = [part.multi for part in parts if part.multi is not None]
    return np.concatenate(rows) if rows else None
