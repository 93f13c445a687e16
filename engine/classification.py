"""Text and labels → what a model is asked, and what its scores mean. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine import instructions
from engine.errors import InvalidInput
from engine.inputs import Turn, check_text
from engine.instructions import language_of
from engine.tasks import Classification

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_CONTENT = "N/A"  # what a label's prior is asked with
_EMBEDDING_TEMPERATURE = 0.02  # e5 cosines lie close together; a guess until calibration is measured


def check_categories(categories: Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """Return name → description; the eight default names bring their own. Raises `InvalidInput`, `TypeError`."""
    if isinstance(categories, str):
        raise TypeError("categories must be a list of names or a dict, not a single str")
    names = [check_text(name, "a category") for name in categories]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InvalidInput("classify needs at least two different categories")
    if isinstance(categories, Mapping):
        return {name: check_text(categories[name], f"the description of {name!r}") for name in names}
    return {name: instructions.CATEGORIES.get(name, (name, ()))[0] for name in names}


def classification_turns(text: str, categories: Mapping[str, str]) -> tuple[Turn, ...]:
    """Return the messages that ask an LLM for a label; all but the text is the same for every text."""
    language = language_of(text)
    lines = [name if name == what else f"{name}: {what}" for name, what in categories.items()]
    told = "\n".join([instructions.CLASSIFY[language], *(f"- {line}" for line in lines)])
    return Turn("system", told), Turn("user", text)


def label_examples(categories: Mapping[str, str]) -> dict[str, list[str]]:
    """Return name → the texts whose mean vector stands for it: its description and, if known, examples."""
    known = instructions.CATEGORIES
    return {
        name: [what, *known[name][1]] if name in known and known[name][0] == what else [what]
        for name, what in categories.items()
    }


def from_log_probabilities(
    scores: Mapping[str, float], prior: Mapping[str, float], abstain: float | None
) -> Classification:
    """Weigh labels against what the model says of a text without content.

    Contextual calibration after Zhao et al. 2021, "Calibrate Before Use": p(label | text) / p(label | no text),
    normalised.
    """
    return _decide({label: score - prior[label] for label, score in scores.items()}, abstain)


def from_similarities(scores: Mapping[str, float], abstain: float | None) -> Classification:
    """Turn cosine similarities to labels into probabilities."""
    return _decide({label: score / _EMBEDDING_TEMPERATURE for label, score in scores.items()}, abstain)


def label_vectors(vectors: NDArray[np.float32], counts: Sequence[int]) -> NDArray[np.float32]:
    """Return the unit mean of each run of `counts` rows: (sum of counts, d) → (len(counts), d)."""
    import numpy as np

    ends = np.cumsum(counts)
    means = np.stack([vectors[end - n : end].mean(axis=0) for end, n in zip(ends, counts, strict=True)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)  # type: ignore[no-any-return]


def _decide(logits: Mapping[str, float], abstain: float | None) -> Classification:
    top = max(logits.values())
    weights = {label: math.exp(value - top) for label, value in logits.items()}
    total = sum(weights.values())
    scores = {label: weight / total for label, weight in weights.items()}
    best = max(scores, key=scores.__getitem__)
    sure = abstain is None or scores[best] >= abstain
    return Classification(best if sure else None, scores, scores[best])
