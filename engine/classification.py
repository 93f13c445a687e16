"""Text and labels → what a model is asked, and what its scores mean. Pure.

The constants were fitted on sentences that none of the figures in README come from (DECISIONS: Classification).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from engine import instructions
from engine.cohort import likeness, standing
from engine.errors import EngineError, InvalidInput
from engine.inputs import Turn, check_text
from engine.instructions import Language, language_of
from engine.tasks import Classification

if TYPE_CHECKING:
    from engine.cohort import Floats

Labels = Mapping[str, str]  # name → description; a label without one stands for itself
Known = Literal["name", "description", "examples"]

SHOTS = 2  # examples of each label that an LLM is shown
# By how many standard deviations a label has to stand out to be e times as probable: less where more is known of it.
_TEMPERATURES: dict[Known, float] = {"name": 0.58, "description": 0.36, "examples": 0.2}
_LEAST = -1e3  # a log-probability; below it nothing is told apart


@dataclass(frozen=True, slots=True)
class Meanings:
    """What n labels are to an embedding model of d numbers: `vectors` is (n, d), unit length.

    `standings` (n, 2) is how they stand to a `cohort` (m, d), as `engine.cohort` tells.
    """

    labels: tuple[str, ...]
    vectors: Floats
    standings: Floats
    cohort: Floats
    temperature: float


def check_categories(categories: Iterable[str] | Labels) -> dict[str, str]:
    """Return name → description, the name itself where none was given. Raises `InvalidInput`, `TypeError`."""
    if isinstance(categories, str):
        raise TypeError("categories must be a list of names or a dict, not a single str")
    names = [check_text(name, "a category") for name in categories]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InvalidInput("classify needs at least two different categories")
    if isinstance(categories, Mapping):
        return {name: check_text(categories[name], f"the description of {name!r}") for name in names}
    return {name: name for name in names}


def described(labels: Labels, language: Language) -> dict[str, str]:
    """Return `labels` with what the eight default names mean, where they have no description of their own."""
    known = instructions.CATEGORIES[language]
    return {name: known[name].description if name == what and name in known else what for name, what in labels.items()}


def classification_turns(
    text: str, labels: Labels, language: Language | None = None, shots: int = SHOTS
) -> tuple[Turn, ...]:
    """Return the messages that ask an LLM for a label, in `language` or the text's own; only the last depends on it.

    Where all labels have examples, `shots` of each are answered first.
    """
    language = language or language_of(text)
    lines = [name if name == what else f"{name}: {what}" for name, what in described(labels, language).items()]
    told = "\n".join([instructions.CLASSIFY[language], *(f"- {line}" for line in lines)])
    return Turn("system", told), *_answered(labels, language, shots), Turn("user", text)


def label_texts(labels: Labels) -> dict[str, list[str]]:
    """Return name → the texts whose mean vector stands for it: what is known of it, in every language."""
    return {name: _texts(name, what) for name, what in labels.items()}


def meanings(labels: Labels, vectors: Floats, cohort: Floats) -> Meanings:
    """Return what labels mean; `vectors` (k, d) are those of their texts one after the other, `cohort` (m, d)."""
    import numpy as np

    counts = [len(texts) for texts in label_texts(labels).values()]
    means = np.stack([vectors[end - n : end].mean(axis=0) for end, n in zip(accumulate(counts), counts, strict=True)])
    units: Floats = means / np.linalg.norm(means, axis=1, keepdims=True)
    temperature = sum(_TEMPERATURES[_known(name, what)] for name, what in labels.items()) / len(labels)
    return Meanings(tuple(labels), units, standing(units, cohort), cohort, temperature)


def by_meaning(vectors: Floats, among: Meanings, abstain: float | None) -> list[Classification]:
    """Return a classification for each of n texts; `vectors` is (n, d), unit length.

    A label scores by how far its cosine with the text stands out from those that either has with the cohort.
    """
    found = []
    for cosines, own in zip(vectors @ among.vectors.T, standing(vectors, among.cohort), strict=True):
        scores = likeness(cosines, own, among.standings) / among.temperature
        found.append(_decide(dict(zip(among.labels, map(float, scores), strict=True)), abstain))
    return found


def prior_turns(labels: Labels, language: Language, shots: int = SHOTS) -> list[tuple[Turn, ...]]:
    """Return what is asked to learn how much a model leans to each label, whatever it reads."""
    return [classification_turns(text, labels, language, shots) for text in instructions.EVERYDAY[language]]


def prior(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean log-probability of each label over the answers to `prior_turns`. Raises as `by_logits` does."""
    return _checked([sum(max(score, _LEAST) for score in scores) / len(rows) for scores in zip(*rows, strict=True)])


def by_logits(scores: Mapping[str, float], leaning: Sequence[float], abstain: float | None) -> Classification:
    """Weigh labels, of which log-probabilities are known, against the `prior` of each.

    Contextual calibration after Zhao et al. 2021, "Calibrate Before Use", p(label | text) / p(label), with everyday
    sentences in place of "N/A" (domain-context calibration, Fei et al. 2023). Raises `EngineError` where a score is no
    number.
    """
    pairs = zip(scores.items(), leaning, strict=True)
    return _decide({label: max(score, _LEAST) - usual for (label, score), usual in pairs}, abstain)


def _answered(labels: Labels, language: Language, shots: int) -> list[Turn]:
    if any(_known(name, what) != "examples" for name, what in labels.items()):
        return []
    known = instructions.CATEGORIES[language]
    pairs = [(known[name].examples[number], name) for number in range(shots) for name in labels]
    return [turn for text, name in pairs for turn in (Turn("user", text), Turn("assistant", name))]


def _texts(name: str, what: str) -> list[str]:
    if _known(name, what) != "examples":
        return [what]
    known = [categories[name] for categories in instructions.CATEGORIES.values()]
    return [text for category in known for text in (category.description, *category.examples)]


def _known(name: str, what: str) -> Known:
    if name != what:
        return "description"
    return "examples" if name in instructions.CATEGORIES["ko"] else "name"


def _checked(numbers: list[float]) -> list[float]:
    if not all(map(math.isfinite, numbers)):
        raise EngineError("the model answered with something that is not a number; check its file: gieok models verify")
    return numbers


def _decide(logits: Mapping[str, float], abstain: float | None) -> Classification:
    top = max(_checked(list(logits.values())))
    weights = {label: math.exp(value - top) for label, value in logits.items()}
    total = sum(weights.values())
    scores = {label: weight / total for label, weight in weights.items()}
    best = max(scores, key=scores.__getitem__)
    sure = abstain is None or scores[best] >= abstain
    return Classification(best if sure else None, scores, scores[best])
