"""Which memory that was found is which that was to be found: one to one, by what the texts mean.

Two texts are taken for one if their likeness is at least `LIKE`: the cosine of their embeddings in standard deviations
above their cosines with a cohort of unrelated sentences, from both sides (`engine.cohort`), so that the bar means the
same for every embedding model. Of all ways to pair them one to one it is the one with the most pairs, of these with
the most pairs from one turn, of these with the highest sum of likenesses (Kuhn 1955, by SciPy). A found text that
holds its sentence and the next is still a match; two found halves of one sentence are one match and one too many.

`LIKE` was set on the `dev` half with multilingual-e5-small: of the gold sentences of a dialogue, 96 % of the different
pairs stay below it; halves of a sentence reach it beside their whole in 85 % of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from task_sets import Gold

from engine import cohort
from engine.inputs import Kind
from engine.tasks import ExtractedItem

Floats = NDArray[np.floating[Any]]
Embed = Callable[[Sequence[str]], Floats]  # texts → unit vectors (n, d)

LIKE = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """A memory as it was extracted."""

    kind: Kind
    item: ExtractedItem


Pair = tuple[Found, Gold]


class Matcher:
    """Pairs what was found with what was to be found; `embed` is asked for the cohort once."""

    def __init__(self, embed: Embed) -> None:
        self._embed, self._cohort = embed, embed(cohort.SENTENCES)

    def pairs(self, found: Sequence[Found], gold: Sequence[Gold], *, same_category: bool = False) -> list[Pair]:
        """Return the pairs, in the order of `found`; with `same_category`, only such as have one category."""
        from scipy.optimize import linear_sum_assignment

        if not found or not gold:
            return []
        likeness = self.likeness([one.item.text for one in found], [one.text for one in gold])
        turns = np.equal.outer([one.item.source for one in found], [one.source for one in gold])
        allowed = likeness >= LIKE
        if same_category:
            allowed &= np.array([[one.item.category == other.category for other in gold] for one in found])
        rows, columns = linear_sum_assignment(worth(likeness, turns, allowed), maximize=True)
        return [(found[row], gold[column]) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]

    def likeness(self, found: Sequence[str], gold: Sequence[str]) -> Floats:
        """Return (found, gold): how alike the texts are, in standard deviations."""
        one, other = self._embed(found), self._embed(gold)
        ones, others = cohort.standing(one, self._cohort), cohort.standing(other, self._cohort)
        rows = [cohort.likeness(other @ vector, stands, others) for vector, stands in zip(one, ones, strict=True)]
        return np.array(rows)


def worth(likeness: Floats, turns: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> Floats:
    """Return what each pair adds to an assignment: a pair above any number of turns, a turn above any likeness."""
    most = 1 + min(likeness.shape) * np.abs(likeness).max()
    step = most * (1 + min(likeness.shape))
    return np.where(allowed, step + most * turns + likeness, 0.0)
