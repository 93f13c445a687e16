"""Scores of questions against passages by the three views of BGE-M3, what they rank, and how good that is.

The formulas are those of Chen et al. 2024 (arXiv 2402.03216): dense, the inner product of the unit vectors; sparse, the
sum over the tokens in both texts of the products of their weights; multi-vector, the mean over the question's vectors
of the best inner product with a vector of the passage (late interaction). They are combined as weighted sums, with the
paper's weights for MIRACL, 1 : 0.3 : 1, and by reciprocal rank (Cormack et al. 2009, k = 60), which needs no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from engine.views import HEADS, Head, Views

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]
Ints = NDArray[np.integer]
Scores = dict[Head, Floats]
Tell = Callable[[int, int], object]  # told how many of how many questions are done

WEIGHTS: dict[Head, float] = {"dense": 1.0, "sparse": 0.3, "multi": 1.0}
SETS: tuple[tuple[Head, ...], ...] = (
    ("dense",), ("sparse",), ("multi",),
    ("dense", "sparse"), ("dense", "multi"), ("sparse", "multi"), ("dense", "sparse", "multi"),
)  # fmt: skip
BY_RANK = "by rank"  # what stands behind the views' names where their ranks are fused
RANK_CONSTANT = 60
QUESTIONS, PASSAGES = 64, 256  # texts in one product of multi-vectors: 13 MB of it at fourteen tokens a text
RANKED = 250  # questions ranked at once: 10 MB of ranks of 5,000 passages, a few times over
CUT_RECALL, CUT = 9, 10


@dataclass(frozen=True, slots=True)
class Quality:
    """How good rankings are: means over the questions, from 0 to 1, of Recall@9, MRR@10 and nDCG@10."""

    recall: float
    mrr: float
    ndcg: float


# ---- scores


def heads(views: Views) -> tuple[Head, ...]:
    """Return which views there are."""
    there = {"dense": views.dense, "sparse": views.sparse, "multi": views.multi}
    return tuple(head for head in HEADS if there[head] is not None)


def pairs(questions: Sequence[Views], passages: Sequence[Views]) -> Scores:
    """Return (n,) scores of each question with the passage at its place, for each view they have."""
    both = list(zip(questions, passages, strict=True))
    found: Scores = {}
    for head in heads(questions[0]):
        score = {"dense": _dense_pair, "sparse": _sparse_pair, "multi": _multi_pair}[head]
        found[head] = np.array([score(one, other) for one, other in both])
    return found


def scores(questions: Sequence[Views], passages: Sequence[Views], tell: Tell) -> Scores:
    """Return (questions, passages) float32 scores for each view they have; `tell` hears of the slow one."""
    found: Scores = {}
    for head in heads(questions[0]):
        if head == "dense":
            found[head] = np.stack([_dense(one) for one in questions]) @ np.stack([_dense(one) for one in passages]).T
        elif head == "sparse":
            found[head] = _sparse_scores(questions, passages)
        else:
            found[head] = _multi_scores(questions, passages, tell)
    return found


def combined(alone: Scores) -> dict[str, Floats]:
    """Return name → weighted sum, for each set of views of which all are there; alone, a view is not weighted."""
    sums: dict[str, Floats] = {}
    for chosen in SETS:
        if len(chosen) == 1 and chosen[0] in alone:
            sums[chosen[0]] = alone[chosen[0]]
        elif alone.keys() >= set(chosen):
            weighted = [WEIGHTS[head] * alone[head] for head in chosen]
            sums[" + ".join(chosen)] = np.sum(weighted, axis=0)
    return sums


def fused(alone: Scores) -> dict[str, Floats]:
    """Return name → (questions, passages) sums over the views of 1 / (60 + rank); nothing for a single view."""
    if len(alone) < 2:
        return {}
    total = sum((1 / (RANK_CONSTANT + 1 + _places(matrix)) for matrix in alone.values()), np.zeros(1))
    return {f"{' + '.join(alone)}, {BY_RANK}": total}


def _dense(views: Views) -> Floats:
    if views.dense is None:
        raise ValueError("a text has no dense vector")
    return views.dense


def _sparse(views: Views) -> dict[int, float]:
    if views.sparse is None:
        raise ValueError("a text has no weights")
    return views.sparse


def _multi(views: Views) -> Floats:
    if views.multi is None or not len(views.multi):
        raise ValueError("a text has no vectors of tokens")
    return views.multi


def _dense_pair(question: Views, passage: Views) -> float:
    return float(_dense(question) @ _dense(passage))


def _sparse_pair(question: Views, passage: Views) -> float:
    other = _sparse(passage)
    return sum(weight * other.get(token, 0.0) for token, weight in _sparse(question).items())


def _multi_pair(question: Views, passage: Views) -> float:
    return float((_multi(question) @ _multi(passage).T).max(axis=1).mean())


def _sparse_scores(questions: Sequence[Views], passages: Sequence[Views]) -> Floats:
    sides = [[_sparse(one) for one in side] for side in (questions, passages)]
    width = 1 + max((token for side in sides for weights in side for token in weights), default=0)
    left, right = (_table(side, width) for side in sides)
    product: Floats = (left @ right.T.tocsr()).toarray()
    return product


def _table(weights: Sequence[Mapping[int, float]], width: int) -> csr_array:
    """Return (texts, width) weights by token id."""
    ends = np.cumsum([0, *map(len, weights)])
    tokens = np.fromiter((token for one in weights for token in one), np.int64, ends[-1])
    values = np.fromiter((value for one in weights for value in one.values()), np.float32, ends[-1])
    return csr_array((values, tokens, ends), shape=(len(weights), width))


def _multi_scores(questions: Sequence[Views], passages: Sequence[Views], tell: Tell) -> Floats:
    packed = [_packed(passages[at : at + PASSAGES]) for at in range(0, len(passages), PASSAGES)]
    found = np.empty((len(questions), len(passages)), np.float32)
    for at in range(0, len(questions), QUESTIONS):
        rows = found[at : at + QUESTIONS]
        tokens, starts = _packed(questions[at : at + QUESTIONS])
        counts = np.diff(starts, append=len(tokens))
        for number, (others, begins) in enumerate(packed):
            best = np.maximum.reduceat(others @ tokens.T, begins, axis=0)
            columns = slice(number * PASSAGES, (number + 1) * PASSAGES)
            rows[:, columns] = (np.add.reduceat(best, starts, axis=1) / counts).T
        tell(min(at + QUESTIONS, len(questions)), len(questions))
    return found


def _packed(views: Sequence[Views]) -> tuple[Floats, Ints]:
    """Return the vectors of all tokens, one text after the other, and where each text begins."""
    tokens = [_multi(one) for one in views]
    return np.concatenate(tokens), np.cumsum([0, *(len(one) for one in tokens[:-1])])


# ---- rankings


def ranking(matrix: Floats) -> Ints:
    """Return (n, columns): the columns of each row, the best first and equal ones in their order."""
    order: Ints = np.argsort(-matrix, axis=1, kind="stable")
    return order


def _places(matrix: Floats) -> Ints:
    """Return (n, columns): the rank of each column in its row, from 0."""
    places = np.empty(matrix.shape, np.intp)
    np.put_along_axis(places, ranking(matrix), np.arange(matrix.shape[1])[None], axis=1)
    return places


def retrieve(alone: Scores, blocks: Ints, tell: Tell) -> dict[str, Quality]:
    """Return name of the score → quality, where each of n texts asks for the others of its block.

    `alone` holds (n, n) scores, a row for the text that asks; `blocks` is (n,), the block of each text. Nothing finds
    itself. All blocks are of one size, at least two.
    """
    wanted = int(np.count_nonzero(blocks == blocks[0])) - 1
    hits: dict[str, list[Flags]] = {}
    for at in range(0, len(blocks), RANKED):
        asking = np.arange(at, min(at + RANKED, len(blocks)))
        for name, matrix in _ways(_without_self(alone, asking)):
            top = ranking(matrix)[:, :CUT]
            found = (blocks[top] == blocks[asking, None]) & (top != asking[:, None])
            hits.setdefault(name, []).append(found)
        tell(int(asking[-1]) + 1, len(blocks))
    return {name: quality(np.concatenate(parts), wanted) for name, parts in hits.items()}


def _without_self(alone: Scores, asking: Ints) -> Scores:
    """Return the rows of those who ask, with themselves in the last place."""
    rows = {head: matrix[asking] for head, matrix in alone.items()}
    for matrix in rows.values():
        matrix[np.arange(len(asking)), asking] = -np.inf
    return rows


def _ways(alone: Scores) -> Iterator[tuple[str, Floats]]:
    yield from combined(alone).items()
    yield from fused(alone).items()


# ---- how good they are; `hits` is (questions, places), true where what was found is wanted


def quality(hits: Flags, wanted: int) -> Quality:
    """Return all three figures; `wanted` is how many passages each question asks for."""
    return Quality(recall(hits, wanted), reciprocal_rank(hits), gain(hits, wanted))


def recall(hits: Flags, wanted: int) -> float:
    """Return Recall@9: the share of what is wanted that is among the first nine."""
    return float(hits[:, :CUT_RECALL].sum(axis=1).mean() / wanted)


def reciprocal_rank(hits: Flags) -> float:
    """Return MRR@10: one by the place of the first hit, 0 without one among the first ten."""
    top = hits[:, :CUT]
    return float(np.where(top.any(axis=1), 1 / (1 + top.argmax(axis=1)), 0).mean())


def gain(hits: Flags, wanted: int) -> float:
    """Return nDCG@10 with gains of 0 and 1 (Järvelin and Kekäläinen 2002): hits by 1 / log2(1 + place)."""
    top = hits[:, :CUT]
    discounts = 1 / np.log2(2 + np.arange(CUT))
    return float((top @ discounts[: top.shape[1]]).mean() / discounts[:wanted].sum())
