"""How good labels are, and how far their confidence can be believed. Pure: figures from 0 to 1, no model.

`accuracy` and `macro_f1` need no confidence, so that whatever answers with a label can be measured with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BINS = 10  # of equal width, as in Guo et al. 2017


@dataclass(frozen=True, slots=True)
class Judged:
    """One text: the label that is right, the one that was found, and how sure that was, from 0 to 1."""

    gold: str
    label: str | None
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Coverage:
    """What remains at a threshold: the part of all texts that keeps its label, and the accuracy there.

    `accuracy` is None where nothing remains.
    """

    abstain: float
    coverage: float
    accuracy: float | None


def accuracy(judged: Sequence[Judged]) -> float:
    """Return the part whose label is right; a text without a label is wrong. Raises `ValueError` for no texts."""
    _check(judged)
    return sum(one.label == one.gold for one in judged) / len(judged)


def macro_f1(judged: Sequence[Judged]) -> float:
    """Return the mean F1 over the labels that are right somewhere or were found. Raises `ValueError` for no texts."""
    _check(judged)
    labels = {one.gold for one in judged} | {one.label for one in judged if one.label is not None}
    return sum(_f1(judged, label) for label in labels) / len(labels)


def ece(judged: Sequence[Judged], bins: int = BINS) -> float:
    """Return the expected calibration error: by bins of confidence, how far accuracy is from mean confidence.

    Formula: Naeini, Cooper and Hauskrecht 2015; a confidence on an edge belongs to the bin below it. Raises
    `ValueError` for no texts.
    """
    _check(judged)
    gaps: dict[int, float] = {}
    for one in judged:
        place = next((number for number in range(bins) if one.confidence <= (number + 1) / bins), bins - 1)
        gaps[place] = gaps.get(place, 0.0) + (one.label == one.gold) - one.confidence
    return sum(map(abs, gaps.values())) / len(judged)


def coverage(judged: Sequence[Judged], thresholds: Iterable[float]) -> list[Coverage]:
    """Return what remains at each threshold, below which a text gets no label. Raises `ValueError` for no texts."""
    _check(judged)
    found = []
    for threshold in thresholds:
        kept = [one for one in judged if one.label is not None and one.confidence >= threshold]
        found.append(Coverage(threshold, len(kept) / len(judged), accuracy(kept) if kept else None))
    return found


def _check(judged: Sequence[Judged]) -> None:
    if not judged:
        raise ValueError("nothing was judged")


def _f1(judged: Iterable[Judged], label: str) -> float:
    right = wrong = 0
    for one in judged:
        right += one.gold == label == one.label
        wrong += (one.gold == label) != (one.label == label)
    return 2 * right / (2 * right + wrong)
