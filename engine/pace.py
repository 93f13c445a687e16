"""How long a batch of so many tokens takes on this machine, and how much of it running streams can bear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WAIT = 2  # decode steps that a running stream may wait for someone else's prefill


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured pairs (tokens a batch, seconds), by tokens; at least two, and between them a straight line."""

    points: tuple[tuple[int, float], ...]

    def seconds(self, tokens: int) -> float:
        """Return how long a batch of `tokens` takes."""
        right = next((i for i, (size, _) in enumerate(self.points) if size >= tokens), len(self.points) - 1)
        (a, low), (b, high) = self.points[max(right, 1) - 1], self.points[max(right, 1)]
        return low + (high - low) * (tokens - a) / (b - a)

    def beside(self, streams: int, most: int) -> int:
        """Return how many tokens, from 1 to `most`, a batch may hold beside one of each of so many streams.

        With them it takes as long as without them, and at most two decode steps of these streams more.
        """
        bearable = (1 + _WAIT) * self.seconds(streams)
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.seconds(streams + middle) <= bearable else (low, middle - 1)
        return low


def scaled(points: Sequence[tuple[int, float]]) -> Pace:
    """Return a pace whose seconds never fall with the tokens: measurements are noisy."""
    rising: list[tuple[int, float]] = []
    for tokens, seconds in sorted(points):
        rising.append((tokens, max([seconds, *(before for _, before in rising)])))
    return Pace(tuple(rising))


# Qwen2.5-3B's shape on two cores: relative times hold roughly elsewhere, until this machine is measured
USUAL = Pace(((1, 0.078), (2, 0.126), (4, 0.189), (8, 0.247), (16, 0.260), (32, 0.394), (64, 0.617), (512, 4.2)))
