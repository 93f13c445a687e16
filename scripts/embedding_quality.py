"""How good an embedding model is, with torch and with the fast path, and how near the two are to each other."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import retrieval
from korean_sets import BLOCK, Sets
from retrieval import Floats, Quality, Tell
from scipy.stats import spearmanr

from engine.config import ModelSpec
from engine.embedder import Embedder
from engine.inputs import TextKind
from engine.metrics import Progress, ProgressCallback
from engine.views import Head, Views

Backend = Literal["torch", "openvino"]
Test = Literal["korsts", "parakqc", "agreement"]
SENTENCES = 1_000  # that the two backends are compared on
AT_ONCE = 200  # texts embedded between two reports


@dataclass(slots=True)
class Measured:
    """What one backend reached: figures by the name of the score, from 0 to 1, and seconds by part."""

    backend: Backend
    heads: tuple[Head, ...] = ()
    korsts: dict[str, float] = field(default_factory=dict)
    parakqc: dict[str, Quality] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Count the seconds of a block as those of `part`."""
        began = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - began, 2)


@dataclass(frozen=True, slots=True)
class Cosines:
    """How near vectors are to each other; `count` pairs were compared."""

    count: int
    mean: float
    least: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model, where it lies, and what it is tried on; `progress` hears how far that is."""

    spec: ModelSpec
    folder: Path
    sets: Sets
    tests: frozenset[Test]
    progress: ProgressCallback

    def measure(self, backend: Backend) -> tuple[Measured, list[Views]]:
        """Return the figures of a backend, and the views that it is compared by.

        The fast path must have been prepared. Raises `EngineError`, `MemoryError`.
        """
        found = Measured(backend)
        with found.clock("load"):
            embedder = Embedder(self.folder, self.spec, fast=backend == "openvino")
        with contextlib.closing(embedder):
            found.heads = embedder.heads
            sentences = self._sentences(embedder, found)
            asking, pool = self._utterances(embedder, found)
        if "korsts" in self.tests:
            with found.clock("score KorSTS"):
                found.korsts = korsts(self.sets.pairs, sentences)
        if "parakqc" in self.tests:
            with found.clock("score ParaKQC"):
                found.parakqc = parakqc(asking, pool, partial(self._tell, f"{backend}: score ParaKQC", "questions"))
        return found, list(sentences.values())[:SENTENCES]

    def _sentences(self, embedder: Embedder, found: Measured) -> dict[str, Views]:
        """Return sentence → views, of the sentences of KorSTS that the tests need."""
        if not self.tests & {"korsts", "agreement"}:
            return {}
        chosen = self.sets.sentences[: None if "korsts" in self.tests else SENTENCES]
        with found.clock("embed KorSTS"):
            return dict(zip(chosen, self._embed(embedder, chosen, "query"), strict=True))

    def _utterances(self, embedder: Embedder, found: Measured) -> tuple[list[Views], list[Views]]:
        """Return the views of each utterance of ParaKQC as one that asks, and as one to be found."""
        if "parakqc" not in self.tests:
            return [], []
        with found.clock("embed ParaKQC"):
            asking = self._embed(embedder, self.sets.utterances, "query")
            if self.spec.query_prefix == self.spec.passage_prefix:
                return asking, asking
            return asking, self._embed(embedder, self.sets.utterances, "passage")

    def _embed(self, embedder: Embedder, texts: Sequence[str], kind: TextKind) -> list[Views]:
        """Return the views of each text, in order; those of like length are embedded together."""
        task = f"{'openvino' if embedder.fast else 'torch'}: embed each as a {kind}"
        found = [Views()] * len(texts)
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        for at in range(0, len(order), AT_ONCE):
            some = order[at : at + AT_ONCE]
            for place, views in zip(some, embedder.embed([texts[i] for i in some], kind, embedder.heads), strict=True):
                found[place] = views
            self._tell(task, "texts", at + len(some), len(order))
        return found

    def _tell(self, task: str, unit: str, done: int, total: int) -> None:
        self.progress(Progress(task, done, total, unit))


def korsts(pairs: Sequence[tuple[float, str, str]], views: Mapping[str, Views]) -> dict[str, float]:
    """Return by name of the score Spearman's rank correlation with what people said; the first sentence asks."""
    people, first, second = zip(*pairs, strict=True)
    alone = retrieval.pairs([views[one] for one in first], [views[one] for one in second])
    return {name: float(spearmanr(found, people).statistic) for name, found in retrieval.combined(alone).items()}


def parakqc(asking: Sequence[Views], pool: Sequence[Views], tell: Tell) -> dict[str, Quality]:
    """Return by name of the score how well each utterance finds the others of its block."""
    blocks = np.arange(len(asking)) // BLOCK
    return retrieval.retrieve(retrieval.scores(asking, pool, tell), blocks, tell)


def agreement(ones: Sequence[Views], others: Sequence[Views]) -> dict[Head, Cosines]:
    """Return how near the views of the same texts are: a text's dense vectors, its weights, its tokens' vectors.

    Raises `ValueError` if a text has not the same number of tokens on both sides.
    """
    found: dict[Head, Cosines] = {}
    both = list(zip(ones, others, strict=True))
    for head in retrieval.heads(ones[0]):
        if head == "sparse":
            cosines = np.array([_cosine_of_weights(one.sparse or {}, other.sparse or {}) for one, other in both])
        else:
            cosines = np.concatenate([_cosines(getattr(one, head), getattr(other, head)) for one, other in both])
        found[head] = Cosines(len(cosines), float(cosines.mean()), float(cosines.min()))
    return found


def _cosines(ones: Floats, others: Floats) -> Floats:
    """Return (rows,) cosines; a single vector is one row."""
    left, right = (np.atleast_2d(side).astype(np.float64) for side in (ones, others))
    if left.shape != right.shape:
        raise ValueError(f"the vectors of a text are {left.shape} and {right.shape}")
    cosines: Floats = np.vecdot(left, right) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return cosines


def _cosine_of_weights(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Return the cosine of two texts' weights; of two without any it is one, of one without any 0."""
    if not one or not other:
        return float(one == other)
    product = sum(weight * other.get(token, 0.0) for token, weight in one.items())
    return product / math.hypot(*one.values()) / math.hypot(*other.values())
