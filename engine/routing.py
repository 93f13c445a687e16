"""Light or heavy: how complex a text is, and which of two models reads it. Pure.

The formula is that of the guide that Gieok implements: length, distinct words and special characters, weighed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from engine.config import RoutingTable

_LONG, _WORDY = 1000, 100  # characters, and distinct words, that count as much as a text of special characters alone
_DIGITS = 9  # kept of a distance, since 0.8 - 0.7 is a little more than 0.1


def complexity(text: str, weights: tuple[float, float, float]) -> float:
    """Return how complex a text is, from 0 (empty) to 1: min(1, weighted mean of three measures).

    They are characters / 1000, distinct words / 100, and the share of characters that are neither letters nor digits
    (spaces, too). `weights` are theirs in this order: none below 0, not all 0.
    """
    if not text:
        return 0.0
    special = sum(not character.isalnum() for character in text)
    measures = (len(text) / _LONG, len(set(text.split())) / _WORDY, special / len(text))
    largest = max(weights)  # taken out first: weights may be so large that their sum is no number
    shares = [weight / largest for weight in weights]
    return min(1.0, sum(share * measure for share, measure in zip(shares, measures, strict=True)) / sum(shares))


def choose(complexity: float, table: RoutingTable, loaded: tuple[bool, bool]) -> Literal["light", "heavy"]:
    """Return which model reads a text of this complexity: the heavy one above the threshold.

    `loaded` is whether the light and the heavy one are in memory. Where only one is, it is taken nearer to the
    threshold than `table.margin`: a load costs more than a slightly better or faster answer brings.
    """
    light, heavy = loaded
    near = round(abs(complexity - table.threshold), _DIGITS) < table.margin
    if near and light != heavy:
        return "heavy" if heavy else "light"
    return "heavy" if complexity > table.threshold else "light"
