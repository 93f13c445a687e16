"""Texts → labels without generating: by meaning where the role is an embedding model, else by one row of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from engine import classification, instructions, tasks
from engine.errors import ContextOverflow
from engine.instructions import Language, language_of
from engine.worker import cancels, wait

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.pool import Pool
    from engine.runner import Runner
    from engine.scoring import Scoring
    from engine.vectors import Vectors

Labels = dict[str, str]
_Key = tuple[str, tuple[tuple[str, str], ...], str]  # a model, its labels, and the words they are asked with
_SHARE = 4  # examples are shown where an instruction with them takes at most one part in so many of the context


@dataclass(frozen=True, slots=True)
class _Way:
    """In which language a text is asked about, and after how many examples of each label."""

    language: Language
    shots: int


@dataclass(frozen=True, slots=True)
class _Begun:
    """What is being weighed, and what it takes to stop it: each text, then for each of `priors` its everyday texts."""

    runner: Runner
    key: _Key
    scorings: list[Scoring]
    ways: list[_Way]  # of the texts
    priors: list[_Way]

    def cancel(self) -> None:
        for scoring in self.scorings:
            scoring.cancelled = True
        self.runner.interrupt()


class Classifier:
    """Classifies for one engine; what belongs to a set of labels is computed once and kept."""

    def __init__(self, pool: Pool, vectors: Vectors) -> None:
        self._pool, self._vectors = pool, vectors
        self._cohorts: dict[str, NDArray[np.float32]] = {}  # by the name of the model
        self._meanings: dict[_Key, classification.Meanings] = {}
        self._priors: dict[tuple[_Key, _Way], list[float]] = {}

    def classify(
        self, texts: list[str], labels: Labels, abstain: float | None, model: str = "classification"
    ) -> list[tasks.Classification]:
        """Return one classification a text; `labels` are name → description, `model` is a role or a name.

        Raises as the model does, and `EngineError` where what it answers is no number.
        """
        if not texts:
            return []
        by_meaning = self._pool.models.spec(model).kind == "embedding"
        return (self._by_meaning if by_meaning else self._by_logits)(texts, labels, abstain, model)

    def _by_meaning(
        self, texts: list[str], labels: Labels, abstain: float | None, model: str
    ) -> list[tasks.Classification]:
        key = _key(self._pool.models.name(model), labels)
        if key not in self._meanings:
            parts = [part for texts in classification.label_texts(labels).values() for part in texts]
            self._meanings[key] = classification.meanings(labels, self._embed(parts, model), self._cohort(model))
        return classification.by_meaning(self._embed(texts, model), self._meanings[key], abstain)

    def _cohort(self, model: str) -> NDArray[np.float32]:
        from engine.cohort import SENTENCES

        name = self._pool.models.name(model)
        if name not in self._cohorts:
            self._cohorts[name] = self._embed(list(SENTENCES), model)
        return self._cohorts[name]

    def _embed(self, texts: list[str], model: str) -> NDArray[np.float32]:
        return self._vectors.embed(texts, "query", model)

    def _by_logits(
        self, texts: list[str], labels: Labels, abstain: float | None, model: str
    ) -> list[tasks.Classification]:
        begun = self._pool.start(model, partial(self._begin, texts, labels))
        with cancels(begun.cancel):
            rows = [wait(scoring.result) for scoring in begun.scorings]
        rest = iter(rows[len(texts) :])
        for way in begun.priors:
            everyday = list(islice(rest, len(instructions.EVERYDAY[way.language])))
            self._priors[begun.key, way] = classification.prior(everyday)
        return [
            classification.by_logits(dict(zip(labels, row, strict=True)), self._priors[begun.key, way], abstain)
            for way, row in zip(begun.ways, rows, strict=False)
        ]

    def _begin(self, texts: Sequence[str], labels: Labels, runner: Runner) -> _Begun:
        """On the compute thread, with the model that it is: encode all before any is queued, queue."""
        key = _key(runner.spec.name, labels)
        by_language = {language: _way(language, labels, runner) for language in map(language_of, texts)}
        ways = [by_language[language_of(text)] for text in texts]
        priors = [way for way in by_language.values() if (key, way) not in self._priors]
        asked = [
            classification.classification_turns(text, labels, way.language, way.shots)
            for text, way in zip(texts, ways, strict=True)
        ]
        asked += [turns for way in priors for turns in classification.prior_turns(labels, way.language, way.shots)]
        prompts = [(runner.encode(turns), turns) for turns in asked]
        pins = [runner.instruction(turns, tokens) for tokens, turns in prompts]
        scored = [runner.score(tokens, list(labels), pin=pin) for (tokens, _), pin in zip(prompts, pins, strict=True)]
        return _Begun(runner, key, scored, ways, priors)


def _way(language: Language, labels: Labels, runner: Runner) -> _Way:
    """Return how to ask: without examples where these would take much of a small context."""
    shown = classification.prior_turns(labels, language)[0]
    try:
        fits = len(runner.encode(shown)) <= runner.kv_cells // _SHARE
    except ContextOverflow:
        fits = False
    return _Way(language, classification.SHOTS if fits else 0)


def _key(model: str, labels: Labels) -> _Key:
    return model, tuple(labels.items()), instructions.version()
