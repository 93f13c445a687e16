"""Texts → labels without generating: by meaning where the role is an embedding model, else by one row of logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from engine import tasks
from engine.worker import cancels, wait

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.inputs import Turn
    from engine.models import Models
    from engine.runner import Runner
    from engine.scoring import Scoring
    from engine.vectors import Vectors
    from engine.worker import Worker

Labels = dict[str, str]
ROLE = "classification"


@dataclass(frozen=True, slots=True)
class _Begun:
    """What is being weighed, and what it takes to stop it."""

    runner: Runner
    scorings: list[Scoring]

    def cancel(self) -> None:
        for scoring in self.scorings:
            scoring.cancelled = True
        self.runner.interrupt()


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
        begin = partial(self._begin, asked, list(labels))
        begun = self._worker.start(partial(self._models.runner, ROLE), begin)
        with cancels(begun.cancel):
            found = [wait(scoring.result) for scoring in begun.scorings]
        return [dict(zip(labels, scores, strict=True)) for scores in found]

    def _begin(self, asked: list[tuple[Turn, ...]], labels: list[str], runner: Runner) -> _Begun:
        """On the compute thread: encode all before any is queued, queue."""
        prompts = [(runner.encode(turns), turns) for turns in asked]
        scored = [runner.score(tokens, labels, pin=runner.instruction(turns, tokens)) for tokens, turns in prompts]
        return _Begun(runner, scored)
