"""Scores, rankings and figures of retrieval, against values found by hand and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from script_module import load

from engine.views import Views

retrieval = load("retrieval")

TOLD: list[tuple[int, int]] = []


def tell(done: int, total: int) -> None:
    TOLD.append((done, total))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@st.composite
def texts(draw: st.DrawFn, least: int = 1, most: int = 6) -> list[Views]:
    """Texts with all three views, of few tokens, so that they share some."""
    made = []
    for _ in range(draw(st.integers(least, most))):
        rng = np.random.default_rng(draw(st.integers(0, 50)))
        sparse = draw(st.dictionaries(st.integers(0, 12), st.floats(0.01, 1), max_size=5))
        made.append(Views(unit(rng.normal(size=4)), sparse, unit(rng.normal(size=(draw(st.integers(1, 5)), 3)))))
    return made


# ---- scores


def test_the_papers_formulas_on_one_pair() -> None:
    question = Views(np.array([0.6, 0.8], np.float32), {5: 0.5, 9: 0.2}, np.array([[1, 0], [0, 1]], np.float32))
    passage = Views(np.array([1, 0], np.float32), {9: 0.5, 5: 0.1, 7: 9.0}, np.array([[0.6, 0.8]], np.float32))
    scores = retrieval.pairs([question], [passage])
    assert {head: pytest.approx(found[0]) for head, found in scores.items()} == {
        "dense": 0.6, "sparse": 0.5 * 0.1 + 0.2 * 0.5, "multi": (0.6 + 0.8) / 2,
    }  # fmt: skip
    assert retrieval.pairs([passage], [question])["multi"][0] == pytest.approx(0.8)  # whoever asks is averaged over


def plain(question: Views, passage: Views) -> dict[str, float]:
    """The same from the definitions, number by number."""
    dense = sum(float(a) * float(b) for a, b in zip(question.dense, passage.dense, strict=True))
    sparse = sum(question.sparse[t] * passage.sparse[t] for t in set(question.sparse) & set(passage.sparse))
    best = [
        max(sum(float(a) * float(b) for a, b in zip(q, p, strict=True)) for p in passage.multi) for q in question.multi
    ]
    return {"dense": dense, "sparse": sparse, "multi": sum(best) / len(best)}


@given(texts(), texts())
def test_all_scores_are_those_of_plain_loops(questions: list[Views], passages: list[Views]) -> None:
    whole = retrieval.scores(questions, passages, tell)
    assert list(whole) == ["dense", "sparse", "multi"]
    for i, question in enumerate(questions):
        for j, passage in enumerate(passages):
            expected = plain(question, passage)
            assert {head: matrix[i, j] for head, matrix in whole.items()} == pytest.approx(expected, abs=1e-5)
            assert {head: found[0] for head, found in retrieval.pairs([question], [passage]).items()} == pytest.approx(
                expected, abs=1e-5
            )


@given(texts(least=5, most=12), st.integers(1, 4), st.integers(1, 4))
def test_the_size_of_a_block_changes_no_score(views: list[Views], questions: int, passages: int) -> None:
    whole = retrieval.scores(views, views, tell)["multi"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "QUESTIONS", questions)
        patch.setattr(retrieval, "PASSAGES", passages)
        TOLD.clear()
        np.testing.assert_allclose(retrieval.scores(views, views, tell)["multi"], whole, atol=1e-6)
    assert TOLD[-1] == (len(views), len(views))
    assert len(TOLD) == math.ceil(len(views) / questions)


def test_texts_that_share_no_token_and_texts_without_any() -> None:
    views = [Views(sparse={3: 0.5}), Views(sparse={}), Views(sparse={4: 0.5})]
    np.testing.assert_array_equal(retrieval.scores(views, views, tell)["sparse"], np.diag([0.25, 0, 0.25]))
    assert retrieval.scores(views[1:2], views[1:2], tell)["sparse"].shape == (1, 1)


def test_a_text_without_what_the_others_have_is_not_scored() -> None:
    whole = Views(np.ones(1, np.float32), {1: 1.0}, np.ones((1, 1), np.float32))
    for less in (Views(None, {}, whole.multi), Views(whole.dense, None, whole.multi), Views(whole.dense, {}, None)):
        with pytest.raises(ValueError, match="a text has no"):
            retrieval.scores([whole], [less], tell)
    with pytest.raises(ValueError, match="a text has no vectors"):
        retrieval.scores([whole], [Views(whole.dense, {}, np.empty((0, 1), np.float32))], tell)


def test_a_model_of_dense_vectors_only_has_no_combinations() -> None:
    alone = retrieval.scores([Views(np.ones(1, np.float32))], [Views(np.ones(1, np.float32))], tell)
    assert list(retrieval.combined(alone)) == ["dense"]
    assert retrieval.fused(alone) == {}


def test_the_combinations_by_hand() -> None:
    alone = {"dense": np.array([[0.9, 0.5]]), "sparse": np.array([[0.1, 1.0]]), "multi": np.array([[0.8, 0.6]])}
    sums = {name: matrix.tolist()[0] for name, matrix in retrieval.combined(alone).items()}
    assert sums == {
        "dense": [0.9, 0.5], "sparse": [0.1, 1.0], "multi": [0.8, 0.6],
        "dense + sparse": pytest.approx([0.93, 0.8]), "dense + multi": pytest.approx([1.7, 1.1]),
        "sparse + multi": pytest.approx([0.83, 0.9]), "dense + sparse + multi": pytest.approx([1.73, 1.4]),
    }  # fmt: skip
    (name, by_rank), *rest = retrieval.fused(alone).items()
    assert (name, rest) == ("dense + sparse + multi, by rank", [])
    assert by_rank.tolist()[0] == pytest.approx([2 / 61 + 1 / 62, 2 / 62 + 1 / 61])


# ---- rankings


def test_equal_scores_keep_their_order() -> None:
    assert retrieval.ranking(np.array([[1, 3, 2, 3, 1, 3]], np.float32)).tolist() == [[1, 3, 5, 2, 0, 4]]


@given(st.lists(st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 1.0]), min_size=7, max_size=7), min_size=1, max_size=4))
def test_a_ranking_is_a_sort_by_score_and_place(rows: list[list[float]]) -> None:
    found = retrieval.ranking(np.array(rows, np.float32))
    assert found.tolist() == [sorted(range(7), key=lambda i, row=row: (-row[i], i)) for row in rows]


# ---- figures


def flags(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


@pytest.mark.parametrize(
    ("row", "wanted", "recall", "mrr", "ndcg"),
    [
        ("xxxxxxxxx.", 9, 1, 1, 1),
        (".xxxxxxxxx", 9, 8 / 9, 1 / 2, (4.543559 - 1) / 4.254494),  # the sums of 1 / log2(1 + place), to 10 and to 9
        (".........x", 9, 0, 1 / 10, 0.289065 / 4.254494),
        ("..........", 9, 0, 0, 0),
        ("..x.......", 1, 1, 1 / 3, 1 / 2),
        ("x..x......", 2, 1, 1, (1 + 0.430677) / (1 + 0.630930)),
        ("..........x", 1, 0, 0, 0),  # the eleventh is not looked at
    ],
)
def test_figures_by_hand(row: str, wanted: int, recall: float, mrr: float, ndcg: float) -> None:
    found = retrieval.quality(flags(row), wanted)
    assert (found.recall, found.mrr, found.ndcg) == pytest.approx((recall, mrr, ndcg), abs=1e-6)


def test_figures_are_means_over_the_questions() -> None:
    found = retrieval.quality(flags("xxxxxxxxx.", ".........."), 9)
    assert (found.recall, found.mrr, found.ndcg) == pytest.approx((0.5, 0.5, 0.5))


def naive(scores: list[list[float]], block_of: list[int]) -> tuple[float, float, float]:
    """The figures of rankings of n texts, from their definitions, in plain loops."""
    recalls, ranks, gains = [], [], []
    for asking, row in enumerate(scores):
        others = sorted((i for i in range(len(row)) if i != asking), key=lambda i: (-row[i], i))
        wanted = {i for i in others if block_of[i] == block_of[asking]}
        recalls.append(len(wanted & set(others[:9])) / len(wanted))
        places = [place for place, i in enumerate(others[:10], 1) if i in wanted]
        ranks.append(1 / places[0] if places else 0)
        ideal = sum(1 / math.log2(1 + place) for place in range(1, min(len(wanted), 10) + 1))
        gains.append(sum(1 / math.log2(1 + place) for place in places) / ideal)
    return tuple(sum(column) / len(scores) for column in (recalls, ranks, gains))


@given(st.data(), st.integers(2, 12), st.integers(1, 4), st.integers(1, 9))
def test_retrieval_is_that_of_plain_loops(data: st.DataObject, size: int, number: int, at_once: int) -> None:
    """Few different scores, so that many are equal."""
    n = size * number
    row = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=n, max_size=n)
    dense, sparse = (data.draw(st.lists(row, min_size=n, max_size=n)) for _ in range(2))
    block_of = data.draw(st.permutations([i // size for i in range(n)]))
    alone = {"dense": np.array(dense, np.float32), "sparse": np.array(sparse, np.float32)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "RANKED", at_once)
        found = retrieval.retrieve(alone, np.array(block_of), tell)
    assert list(found) == ["dense", "sparse", "dense + sparse", "dense + sparse, by rank"]
    sums = [[a + np.float32(0.3) * b for a, b in zip(*rows, strict=True)] for rows in zip(*alone.values(), strict=True)]
    for name, expected in (("dense", dense), ("sparse", sparse), ("dense + sparse", sums)):
        quality = found[name]
        assert (quality.recall, quality.mrr, quality.ndcg) == pytest.approx(naive(expected, block_of)), name
    assert alone["dense"].tolist() == dense  # what is measured is left as it was


def test_the_fusion_by_rank_leaves_the_one_who_asks_out() -> None:
    """0 is nearest to itself by both views; of the others 2 leads, first by one view and second by the other."""
    row = [9.0, 0.2, 0.5, 0.6], [9.0, 0.3, 0.9, 0.1]
    alone = {head: np.array([one] * 4) for head, one in zip(("dense", "sparse"), row, strict=True)}
    found = retrieval.retrieve(alone, np.array([0, 1, 0, 1]), tell)["dense + sparse, by rank"]
    # 0 finds 2 first; 1 finds 0, 2, 3; 2 finds 0 first; 3 finds 0, 2, 1
    assert found.mrr == pytest.approx((1 + 1 / 3 + 1 + 1 / 3) / 4)
