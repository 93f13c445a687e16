"""What a memory store is lent by who has models: embedding, words, judgement, room. It knows no model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.inputs import TextKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.records import Memory

Verdict = Literal["same", "replaces", "different"]


@dataclass(frozen=True, slots=True)
class Space:
    """What tells whether vectors may be compared: the sha256 of the model that made them; and what it is called."""

    model: str
    name: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of n texts: `dense` (n, d) float32 of unit length, `sparse` token id → weight of each where there are."""

    dense: NDArray[np.float32]
    sparse: Sequence[dict[int, float]] | None = None


@dataclass(frozen=True, slots=True)
class Faculties:
    """Functions that any thread may call, and that may take long.

    `space()` is that of the present embedding model, and `embed(texts, kind, space)` embeds in that or an earlier one,
    or raises `ModelNotFound`. `words(texts)` are those of each text that a search could use, and `analyser` says what
    finds them. `judge(old, new, likeness)` says what a memory does to an older one, None if nothing is to be compared;
    `likeness` is `engine.cohort`'s. `room(bytes)` is told what the index takes in all, and may refuse. `forgotten()` is
    called after something was forgotten: whatever else may hold it has to go.
    """

    space: Callable[[], Space]
    embed: Callable[[list[str], TextKind, Space], Embedded]
    words: Callable[[list[str]], list[tuple[str, ...]]]
    analyser: str
    judge: Callable[[Memory, Memory, float], Verdict] | None = None
    room: Callable[[int], object] = lambda size: None
    forgotten: Callable[[], object] = lambda: None
