"""Which memory that was found is which that was to be found, one to one: by where they stand, and by what they mean.

By place, which the headline figures go by: both are of one turn, and their words overlap by at least `HALF` of the
letters and digits of the shorter one. Every memory is a sentence of its turn word for word, so no model is asked, and
opposites in like words are two things. A found text that holds its sentence and the next is still a match; two found
halves of one sentence are one match and one too many. A text that does not stand in its turn matches nothing.

By meaning, whatever the turn: the likeness of both is at least `LIKE`, the cosine of their embeddings in standard
deviations above their cosines with a cohort of unrelated sentences, from both sides (`engine.cohort`). The embeddings
are those of the profile's own model. `LIKE` was set with multilingual-e5-small on the `dev` half, once, by a throw-away
script: of the gold sentences of a dialogue, 96 % of the different pairs stay below it; halves of a sentence reach it
beside their whole in 85 % of cases. With another model the same bar may be stricter or laxer. It is lax with opposites:
작년에 결혼했어 and 작년에 이혼했어 are a match.

Of all ways to pair them one to one it is the one with the most pairs, of these with the most pairs from one turn, of
these with the highest sum of what was compared (Kuhn 1955, by SciPy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from task_sets import Dialogue, Gold

from engine import cohort
from engine.inputs import Kind
from engine.tasks import ExtractedItem

Floats = NDArray[np.floating[Any]]
Embed = Callable[[Sequence[str]], Floats]  # texts → unit vectors (n, d)

HALF = 0.5
LIKE = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """A memory as it was extracted."""

    kind: Kind
    item: ExtractedItem


Pair = tuple[Found, Gold]


@dataclass(frozen=True, slots=True)
class Matcher:
    """Pairs what was found in a dialogue with what was to be found there.

    `near` returns (found, gold), how near they are; those that are `least` near can be a pair.
    """

    near: Callable[[Dialogue, Sequence[Found]], Floats]
    least: float

    def pairs(self, dialogue: Dialogue, found: Sequence[Found], *, same_category: bool = False) -> list[Pair]:
        """Return the pairs, in the order of `found`; with `same_category`, only such as have one category."""
        from scipy.optimize import linear_sum_assignment

        gold = dialogue.memories
        if not found or not gold:
            return []
        near = self.near(dialogue, found)
        turns = np.equal.outer([one.item.source for one in found], [one.source for one in gold])
        allowed = near >= self.least
        if same_category:
            allowed &= np.array([[one.item.category == other.category for other in gold] for one in found])
        rows, columns = linear_sum_assignment(worth(near, turns, allowed), maximize=True)
        return [(found[row], gold[column]) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]


def by_place() -> Matcher:
    """Return what pairs memories of one place."""
    return Matcher(shared, HALF)


def by_meaning(embed: Embed) -> Matcher:
    """Return what pairs memories of like meaning; `embed` is asked for the cohort once, now."""
    others = embed(cohort.SENTENCES)

    def near(dialogue: Dialogue, found: Sequence[Found]) -> Floats:
        return likeness(embed([one.item.text for one in found]), embed([one.text for one in dialogue.memories]), others)

    return Matcher(near, LIKE)


# ---- how near


def shared(dialogue: Dialogue, found: Sequence[Found]) -> Floats:
    """Return (found, gold): the part of the shorter text that both have in one place of one turn, 0 of two turns."""
    return np.array([[_shared(dialogue, one.item, gold) for gold in dialogue.memories] for one in found])


def _shared(dialogue: Dialogue, item: ExtractedItem, gold: Gold) -> float:
    if item.source != gold.source:
        return 0.0
    turn = dialogue.dialogue[gold.source]["content"]
    most = max(
        (_letters(turn[max(one, other) : min(one + len(item.text), other + len(gold.text))])
         for one in _places(item.text, turn) for other in _places(gold.text, turn)),
        default=0,
    )  # fmt: skip
    return most / max(1, min(_letters(item.text), _letters(gold.text)))


def _places(text: str, turn: str) -> Iterator[int]:
    at = turn.find(text) if text else -1
    while at >= 0:
        yield at
        at = turn.find(text, at + 1)


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def likeness(found: Floats, gold: Floats, others: Floats) -> Floats:
    """Return (found, gold): how alike the texts of vectors are, in standard deviations above those of a cohort."""
    ones, golds = cohort.standing(found, others), cohort.standing(gold, others)
    return np.array([cohort.likeness(gold @ one, stands, golds) for one, stands in zip(found, ones, strict=True)])


def worth(near: Floats, turns: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> Floats:
    """Return what each pair adds to an assignment: a pair above any number of turns, a turn above any nearness."""
    most = 1 + min(near.shape) * np.abs(near).max()
    step = most * (1 + min(near.shape))
    return np.where(allowed, step + most * turns + near, 0.0)
