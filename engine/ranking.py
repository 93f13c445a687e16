"""What is known of candidates → how relevant each is, and in which order they come. Pure arithmetic over columns.

Weights, not ranks: how far a cosine stands out and the share of the question's words that a memory has, added, find
more than either alone. Reciprocal ranks (Cormack et al. 2009) of cosines and BM25 were worse, and BM25 itself adds
nothing to that sum (DECISIONS). Cosines count in standard deviations of the model's own cohort, so that the weights do
not depend on the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

# Log-odds, fitted by logistic regression to the first five hits of the development questions, those without an answer
# among them; of the weights only their ratio matters for the order, and from 1 to 4 it hardly does.
_BIAS, _PROMINENCE, _COVERAGE = -4.75, 1.0, 2.0
# Not measured, no model that has sparse weights being small enough. BGE-M3's authors weight them 0.3 beside the cosine;
# what they tell is in the coverage already, so a product of 0.3, a high one, counts as 0.3 standard deviations.
_SPARSE = 1.0
# At most, in log-odds: they order what is otherwise alike. With random ages and importances 0.1 cost nothing on
# either set (DECISIONS).
_RECENCY, _IMPORTANCE = 0.1, 0.1
_HALF_LIFE = 180.0  # days in which recency halves
_SURE = 30.0  # log-odds beyond which a probability in double precision says no more


@dataclass(frozen=True, slots=True)
class Signals:
    """What search knows of n candidates, each an array (n,).

    `dense` is the cosine and `prominence` by how many standard deviations it stands out (`engine.cohort`); `words` is
    BM25 and `coverage` the share of what the query's words say that the memory has, 0 to 1; `sparse` the product of
    sparse weights, zeros where the model has none; `age` in days; `importance` from 0 to 1.
    """

    dense: Floats
    prominence: Floats
    words: Floats
    coverage: Floats
    sparse: Floats
    age: Floats
    importance: Floats


def evidence(signals: Signals) -> Floats:
    """Return (n,): the log-odds that a candidate answers what was asked; more of any signal is never less evidence."""
    import numpy as np

    sparse = _SPARSE * np.clip(signals.sparse, 0, 1)
    odds: Floats = _BIAS + _PROMINENCE * signals.prominence + _COVERAGE * np.clip(signals.coverage, 0, 1) + sparse
    return odds


def relevance(evidence: Floats) -> Floats:
    """Return (n,) from 0 to 1: the probability that a candidate answers what was asked."""
    import numpy as np

    certain: Floats = 1 / (1 + np.exp(-np.clip(evidence, -_SURE, _SURE)))
    return certain


def order(signals: Signals, evidence: Floats) -> Floats:
    """Return (n,) by which hits are sorted, the best highest: the evidence, and a little of recency and importance."""
    import numpy as np

    recent = np.exp2(-np.maximum(signals.age, 0) / _HALF_LIFE)
    ranked: Floats = evidence + _RECENCY * recent + _IMPORTANCE * np.clip(signals.importance, 0, 1)
    return ranked
