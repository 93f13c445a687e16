"""The two heads that BGE-M3 has beside its dense one: hidden states → token weights, and a vector for each token.

Formulas: Chen et al. 2024, "M3-Embedding" (arXiv 2402.03216), section 3.2; which tokens count is that of its
authors' code, FlagEmbedding.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine import convert, layout
from engine.views import Head

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Linear = Callable[[Floats], Floats]  # (tokens, width) → (tokens, out)
    MakeLinear = Callable[[Floats, Floats], Linear]


class HeadDamaged(Exception):
    """A head's file is not what it should be, or what it makes is not a number; the text says why."""


class Heads:
    """What of the two heads a folder has, for hidden states of `width` numbers."""

    def __init__(self, folder: Path, width: int, linear: MakeLinear) -> None:
        """`linear` makes a layer of weight and bias, in whatever runs the model. Raises `HeadDamaged`, `OSError`."""
        sparse, multi = (folder / name for name in layout.HEADS)
        self._sparse = self._multi = None
        self.multi_dim = 0  # numbers of a token's vector
        if sparse.is_file():
            self._sparse = linear(*_read(sparse, width, rows=1))
        if multi.is_file():
            weight, bias = _read(multi, width)
            self._multi, self.multi_dim = linear(weight, bias), len(weight)

    @property
    def names(self) -> tuple[Head, ...]:
        """The heads that are there."""
        found: list[Head] = []
        if self._sparse:
            found.append("sparse")
        if self._multi:
            found.append("multi")
        return tuple(found)

    def sparse(self, hidden: Floats, ids: Sequence[int], special: Container[int]) -> dict[int, float]:
        """Return token id → weight of a text from its hidden states (tokens, width).

        w = relu(Wᵀh + b); of a token that occurs again, the largest; without weights of 0 and `special` tokens. (Of
        these FlagEmbedding keeps <mask>.)
        Raises `HeadDamaged` for a weight that is not a finite number.
        """
        weights = _finite(_present(self._sparse)(hidden)[:, 0], "sparse")
        found: dict[int, float] = {}
        for token, weight in zip(ids, weights.tolist(), strict=True):
            if weight > found.get(token, 0.0) and token not in special:
                found[token] = weight
        return found

    def multi(self, hidden: Floats) -> Floats:
        """Return (tokens - 1, d) vectors of unit length, for every token but the first, from (tokens, width).

        v = norm(Wᵀh + b). Raises `HeadDamaged` for a vector that has no direction.
        """
        import numpy as np

        rows = _finite(_present(self._multi)(hidden[1:]), "multi")
        with np.errstate(over="ignore"):
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise HeadDamaged("its multi head answers with vectors that have no direction")
        unit: Floats = np.divide(rows, lengths, dtype=np.float32)
        return unit


def _present(linear: Linear | None) -> Linear:
    if linear is None:
        raise ValueError("the model does not have this head")
    return linear


def _finite(values: Floats, head: str) -> Floats:
    import numpy as np

    if not np.isfinite(values).all():
        raise HeadDamaged(f"its {head} head answers with what is not a number")
    return values


def _read(path: Path, width: int, rows: int | None = None) -> tuple[Floats, Floats]:
    """Return weight (out, width) and bias (out,) of a file; `rows` is how many numbers it makes, if that is known."""
    try:
        tensors = convert.floats(path)
    except ValueError as error:
        raise HeadDamaged(f"{path.name} cannot be read ({error})") from None
    if not {"weight", "bias"} <= tensors.keys():
        raise HeadDamaged(f"{path.name} does not hold a weight and a bias")
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1] or not len(weight):
        raise HeadDamaged(f"{path.name} has tensors of {weight.shape} and {bias.shape} for a width of {width}")
    if rows not in (None, len(weight)):
        raise HeadDamaged(f"{path.name} makes {len(weight)} numbers of a token, not {rows}")
    return weight, bias
