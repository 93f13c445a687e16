"""Vectors that lie as those of an embedding model do, made by a seed, to measure a store with; and the exact nearest.

Drawn evenly, vectors of 1,024 numbers would all be equally far from each other, which no texts are. Here, as in what
embedding models make of texts:

- all share a direction: two unrelated texts have a cosine of about 0.5 (`COMMON`), not 0;
- themes hold topics and topics hold texts, both of sizes that fall as Zipf says: the largest of a thousand has 13%;
- few directions are strong: the variance along the n-th is n^-0.8, in axes that are turned at random;
- one text of 20 says nearly the same as another one (cosine about 0.98).

The share of the common direction is between that of BGE-M3's kind and that of multilingual-e5; the spectrum and the
cosines of the tenth and the fiftieth neighbour are about those that multilingual-e5-small gives for five thousand
Korean sentences, with the common direction taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

COMMON = 0.5  # of a vector's squared length: what all texts share; the shares below are of the rest
THEME, TOPIC, OWN = 0.15, 0.3, 0.55
DECAY = 0.8  # of the variance, from one direction to the next
THEMES = 50
TEXTS_OF_A_TOPIC = 25  # in the mean
DUPLICATES = 0.05
NEARLY = 0.04  # of a duplicate's squared length: what it does not share with the text that it repeats
ROUNDING = 2e-6  # by so much differ two ways to add up and round the same cosine
ASKED = 0.6  # of a question's squared length: what it shares with the text that answers it
_BASIS, _TOPICS, _TEXTS, _QUESTIONS = range(4)  # streams of one seed


@dataclass(frozen=True)
class Clusters:
    """`size` vectors of `dim` numbers, in batches of `each`, any of which can be made at any time, always the same."""

    size: int
    dim: int = 1024
    each: int = 100
    seed: int = 7

    @property
    def batches(self) -> int:
        """How many batches there are; the last one may be shorter."""
        return -(-self.size // self.each)

    def batch(self, n: int) -> Floats:
        """Return the vectors of batch n, (at most `each`, dim) float32 of unit length."""
        return self._turned(self._texts(n))

    def questions(self, n: int, count: int) -> Floats:
        """Return (count, dim) of unit length: by turns one that a text of batch n answers, one on a topic of a text."""
        drawn = self._stream(_QUESTIONS, n)
        texts = self._texts(n)
        asked = texts[drawn.integers(len(texts), size=count)]
        topics = self._topics[_zipf(drawn, len(self._topics), count)]
        own = _unit(self._drawn(drawn, count))
        near = sqrt(ASKED) * _unit(asked) + sqrt(1 - ASKED) * own
        loose = sqrt(1 - OWN) * topics + sqrt(OWN) * own
        return self._turned(np.where(np.arange(count)[:, None] % 2 == 0, near, loose))

    def _texts(self, n: int) -> Floats:
        count = min(self.each, self.size - n * self.each)
        drawn = self._stream(_TEXTS, n)
        topics = self._topics[_zipf(drawn, len(self._topics), count)]
        texts = sqrt(1 - OWN) * topics + sqrt(OWN) * _unit(self._drawn(drawn, count))
        again = np.flatnonzero(drawn.random(count) < DUPLICATES)
        origin = texts[drawn.integers(count, size=len(again))]
        texts[again] = sqrt(1 - NEARLY) * origin + sqrt(NEARLY) * _unit(self._drawn(drawn, len(again)))
        return texts.astype(np.float32)

    @cached_property
    def _topics(self) -> Floats:
        drawn = self._stream(_TOPICS)
        themes = _unit(self._drawn(drawn, THEMES))
        count = max(2, self.size // TEXTS_OF_A_TOPIC)
        part = THEME / (THEME + TOPIC)
        own = _unit(self._drawn(drawn, count))
        return _unit(sqrt(part) * themes[_zipf(drawn, THEMES, count)] + sqrt(1 - part) * own)

    @cached_property
    def _axes(self) -> Floats:
        """Directions at right angles to each other; the first is the common one."""
        return np.linalg.qr(self._stream(_BASIS).standard_normal((self.dim, self.dim)))[0].astype(np.float32)

    def _drawn(self, drawn: np.random.Generator, count: int) -> Floats:
        strength = np.arange(1, self.dim, dtype=np.float32) ** (-DECAY / 2)
        return drawn.standard_normal((count, self.dim - 1), dtype=np.float32) * strength

    def _turned(self, texts: Floats) -> Floats:
        return _unit(sqrt(COMMON) * self._axes[0] + sqrt(1 - COMMON) * (_unit(texts) @ self._axes[1:]))

    def _stream(self, *path: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.dim, *path))


def _zipf(drawn: np.random.Generator, kinds: int, count: int) -> NDArray[np.intp]:
    """Return `count` numbers below `kinds`, of which n comes as often as 1 / (n + 1)."""
    bounds = np.cumsum(1 / np.arange(1, kinds + 1))
    found: NDArray[np.intp] = np.searchsorted(bounds, drawn.random(count) * bounds[-1])
    return found


def _unit(rows: Floats) -> Floats:
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


class Nearest:
    """The exact `k` nearest of questions (q, dim), among vectors that go by in parts and need not be kept."""

    def __init__(self, questions: Floats, k: int) -> None:
        self._questions, self._k, self._kept = questions, k, 2 * k
        self._scores = np.full((len(questions), self._kept), -np.inf, np.float32)
        self._numbers = np.full((len(questions), self._kept), -1)

    def see(self, vectors: Floats, numbers: NDArray[np.intp]) -> None:
        """Take vectors (n, dim) and their numbers into account."""
        scores = np.hstack([self._scores, self._questions @ vectors.T])
        numbers = np.hstack([self._numbers, np.broadcast_to(numbers, (len(scores), len(numbers)))])
        best = np.argpartition(-scores, self._kept - 1, axis=1)[:, : self._kept]
        self._scores, self._numbers = (np.take_along_axis(rows, best, axis=1) for rows in (scores, numbers))

    def accepted(self) -> list[list[int]]:
        """Return of each question the numbers of its k nearest, and those that are as near as the last of these."""
        least = -np.sort(-self._scores, axis=1)[:, self._k - 1 : self._k] - ROUNDING
        near = (self._scores >= least) & (self._numbers >= 0)
        return [row[keep].tolist() for row, keep in zip(self._numbers, near, strict=True)]
