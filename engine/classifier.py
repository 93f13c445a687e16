"""Texts → labels without generating: by meaning where the role is an embedding model, else by one row of logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from engine import classification, tasks
from engine.worker import cancels, wait

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.inputs import Turn
    from engine.pool import Pool
    from engine.runner import Runner
    from engine.scoring import Scoring
    from engine.vectors import Vectors

Labels = dict[str, str]
_Items = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Begun:
    """What is being weighed, and what it takes to stop it."""

    runner: Runner
    key: tuple[str, _Items]  # of the prior that belongs to it
    scorings: list[Scoring]

    def cancel(self) -> None:
        for scoring in self.scorings:
            scoring.cancelled = True
        self.runner.interrupt()


class Classifier:
    """Classifies for one engine; what belongs to a set of labels is computed once and kept."""

    def __init__(self, pool: Pool, vectors: Vectors) -> None:
        self._pool, self._vectors = pool, vectors
        self._meanings: dict[object, NDArray[np.float32]] = {}
        self._priors: dict[object, dict[str, float]] = {}  # of a model and a set of labels

    def classify(
        self, texts: list[str], labels: Labels, abstain: float | None, model: str = "classification"
    ) -> list[tasks.Classification]:
        """Return one classification a text; `labels` are name → description, `model` is a role or a name."""
        by_meaning = self._pool.models.spec(model).kind == "embedding"
        return (self._by_meaning if by_meaning else self._by_logits)(texts, labels, abstain, model)

    def _by_meaning(
        self, texts: list[str], labels: Labels, abstain: float | None, model: str
    ) -> list[tasks.Classification]:
        key = self._pool.models.name(model), tuple(labels.items())
        if key not in self._meanings:
            examples = classification.label_examples(labels)
            vectors = self._embed([text for texts in examples.values() for text in texts], model)
            self._meanings[key] = classification.label_vectors(vectors, [len(texts) for texts in examples.values()])
        scores = self._embed(texts, model) @ self._meanings[key].T
        named = [dict(zip(labels, map(float, row), strict=True)) for row in scores]
        return [classification.from_similarities(row, abstain) for row in named]

    def _embed(self, texts: list[str], model: str) -> NDArray[np.float32]:
        return self._vectors.embed(texts, "query", model)

    def _by_logits(
        self, texts: list[str], labels: Labels, abstain: float | None, model: str
    ) -> list[tasks.Classification]:
        asked = [classification.classification_turns(text, labels) for text in texts]
        nothing = classification.classification_turns(classification.NO_CONTENT, labels)
        begun = self._pool.start(model, partial(self._begin, asked, nothing, tuple(labels.items())))
        with cancels(begun.cancel):
            scores = [wait(scoring.result) for scoring in begun.scorings]
        found = [dict(zip(labels, row, strict=True)) for row in scores]
        if len(found) > len(texts):
            self._priors[begun.key] = found.pop()
        return [classification.from_log_probabilities(row, self._priors[begun.key], abstain) for row in found]

    def _begin(
        self,
        asked: list[tuple[Turn, ...]],
        nothing: tuple[Turn, ...],
        labels: tuple[tuple[str, str], ...],
        runner: Runner,
    ) -> _Begun:
        """On the compute thread, with the model that it is: encode all before any is queued, queue."""
        key = runner.spec.name, labels
        wanted = asked if key in self._priors else [*asked, nothing]
        prompts = [(runner.encode(turns), turns) for turns in wanted]
        names = [name for name, _ in labels]
        scored = [runner.score(tokens, names, pin=runner.instruction(turns, tokens)) for tokens, turns in prompts]
        return _Begun(runner, key, scored)
