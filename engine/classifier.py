"""Texts → labels without generating: by meaning where the role is an embedding model, else by one row of logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import tasks
from engine.worker import cancels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.inputs import Turn
    from engine.models import Models
    from engine.scoring import Scoring
    from engine.vectors import Vectors
    from engine.worker import Worker

Labels = dict[str, str]
ROLE = "classification"


class Classifier:
    """Classifies for one engine; what belongs to a set of labels is computed once and kept."""

    def __init__(self, models: Models, worker: Worker, vectors: Vectors) -> None:
        self._models, self._worker, self._vectors = models, worker, vectors
        self._meanings: dict[object, NDArray[np.float32]] = {}
        self._priors: dict[object, dict[str, float]] = {}

    def classify(self, texts: list[str], labels: Labels, abstain: float | None) -> list[tasks.Classification]:
        """Return one classification a text; `labels` are name → description."""
        by_meaning = self._models.spec(ROLE).kind == "embedding"
        return (self._by_meaning if by_meaning else self._by_logits)(texts, labels, abstain)

    def _by_meaning(self, texts: list[str], labels: Labels, abstain: float | None) -> list[tasks.Classification]:
        key = tuple(labels.items())
        if key not in self._meanings:
            examples = tasks.label_examples(labels)
            vectors = self._embed([text for texts in examples.values() for text in texts])
            self._meanings[key] = tasks.label_vectors(vectors, [len(texts) for texts in examples.values()])
        scores = self._embed(texts) @ self._meanings[key].T
        named = [dict(zip(labels, map(float, row), strict=True)) for row in scores]
        return [tasks.from_similarities(row, abstain) for row in named]

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        return self._vectors.embed(texts, "query", ROLE)

    def _by_logits(self, texts: list[str], labels: Labels, abstain: float | None) -> list[tasks.Classification]:
        key = tuple(labels.items())
        new = key not in self._priors
        found = self._scores([*texts, tasks.NO_CONTENT] if new else texts, labels)
        if new:
            self._priors[key] = found.pop()
        return [tasks.from_log_probabilities(scores, self._priors[key], abstain) for scores in found]

    def _scores(self, texts: list[str], labels: Labels) -> list[dict[str, float]]:
        asked = [tasks.classification_turns(text, labels) for text in texts]
        scorings = self._worker.call(lambda: self._score(asked, list(labels)))

        def cancel() -> None:
            for scoring in scorings:
                scoring.cancelled = True

        with cancels(cancel):
            return [dict(zip(labels, scoring.result.result(), strict=True)) for scoring in scorings]

    def _score(self, asked: list[tuple[Turn, ...]], labels: list[str]) -> list[Scoring]:
        """On the compute thread: load, encode all before any is queued, queue."""
        runner = self._models.runner(ROLE)
        return [runner.score(prompt, labels) for prompt in [runner.encode(turns) for turns in asked]]
