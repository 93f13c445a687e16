"""What is measured of the search for memories: figures by hand, and the whole script with an embedder without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_embedder
import numpy as np
import pytest
from script_module import load

from engine import Engine
from engine.lending import Lender
from engine.vectors import Embeddings

quality = load("memory_quality")
evaluate = load("evaluate")

MEMORIES = {
    "m1": ("저는 땅콩 알레르기가 있어요", "health"),
    "m2": ("민수는 부산 바닷가에 살아요", "relationship"),
    "m3": ("회의는 매주 월요일 아침이에요", "work"),
}
QUESTIONS = [
    ("땅콩 알레르기가 있어요?", ["m1"], "keyword", "dev"),
    ("부산 바닷가에 누가 살아요", ["m2"], "name", "test"),
    ("월요일 아침이에요?", ["m3"], "keyword", "test"),
    ("xyz qqq", [], "unanswerable", "test"),
]
PAIR = {"old": "저는 서울에 살아요", "new": "저는 서울에 살아요", "verdict": "same", "kind": "order"}


class WhiteSpace:
    """An analyser that needs no Kiwi."""

    def terms(self, text: str) -> tuple[str, ...]:
        return tuple(text.split())

    def tagged(self, text: str) -> list[tuple[str, str]]:
        return [(word, "NNG") for word in text.split()]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a small set, every engine having the fake embedder."""

    def embed(
        self: Engine, texts: list[str], *, kind: str = "passage", heads: Sequence[str] = ("dense",)
    ) -> Embeddings:
        return Embeddings(fake_embedder.embed(texts, kind))

    monkeypatch.setattr(Lender, "faculties", lambda self: fake_embedder.faculties())
    monkeypatch.setattr(Engine, "embed", embed)
    monkeypatch.setattr(quality, "Analyser", WhiteSpace)
    monkeypatch.setattr(quality.judge_quality, "Analyser", WhiteSpace)
    write(tmp_path / "memories.jsonl", [{"id": k, "text": t, "category": c} for k, (t, c) in MEMORIES.items()])
    names = ("question", "answers", "kind", "split")
    write(tmp_path / "memory_questions.jsonl", [dict(zip(names, row, strict=True)) for row in QUESTIONS])
    write(tmp_path / "judge_pairs.jsonl", [{**PAIR, "split": split} for split in ("dev", "test")])
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_blocks(folder: Path, *subjects: str) -> list[str]:
    """Write blocks of ten utterances that begin with the same three words."""
    texts = [f"{subject} {block}{n}번" for block, subject in enumerate(subjects) for n in range(10)]
    rows = [f"{at // 10}\t0\t{text}\n" for at, text in enumerate(texts)]
    (folder / "parakqc-a.tsv").write_text("".join(rows), encoding="utf-8")
    return texts


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the command and return its JSON."""
    file = folder / "out.json"
    assert evaluate.main(["memory", "--data", str(folder), "--json", str(file), *arguments]) == 0
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def found(answers: set[str], hits: Sequence[str], scores: Sequence[float] | None = None, kind: str = "keyword") -> Any:
    """A question and what it found, by every way the same."""
    question = quality.Question("?", frozenset(answers), kind, "test")
    given = [1 / (1 + n) for n in range(len(hits))] if scores is None else scores
    return quality.Found(question, {way: list(hits) for way in quality.WAYS}, given, 0.01)


# ---- the whole script


def test_memories_are_stored_and_found_in_every_way(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(small, "--split", "all")
    halves = report["sets"]["project"]
    assert list(halves) == ["dev", "test", "all"]
    assert [halves[half]["questions"] for half in halves] == [1, 3, 4]
    for half in halves.values():
        for figures in half["ways"].values():
            assert figures == {"ndcg": 1, "recall": 1, "mrr": 1}
    assert halves["all"]["kinds"]["keyword"]["questions"] == 2
    assert "knowing" not in halves["dev"]  # where every question has an answer
    assert halves["test"]["knowing"]["told_apart"] == 1
    assert list(report["judge"]) == ["dev", "test"]
    assert report["model"] == "multilingual-e5-small"
    assert str(small) not in json.dumps(report)
    out = capsys.readouterr().out
    assert "| project, test | 2 | hybrid | 100.00 | 100.00 | 100.00 |" in out
    assert "The judge, dev: 1 pairs" in out


def test_only_a_half_is_asked(small: Path) -> None:
    report = run(small, "--split", "dev")
    assert {half: figures["questions"] for half, figures in report["sets"]["project"].items()} == {"dev": 1}
    assert list(report["judge"]) == ["dev"]


def test_paraphrases_ask_for_their_siblings_and_never_find_themselves(small: Path) -> None:
    write_blocks(small, "내일 비가 와요", "김치 담그는 법", "지하철 막차 시각")
    report = run(small, "--split", "all", "--paraphrases", str(small))
    halves = report["sets"]["parakqc"]
    assert [halves[half]["questions"] for half in ("dev", "test", "all")] == [10, 20, 30]
    for figures in halves["all"]["ways"].values():
        assert figures == pytest.approx({"ndcg": 1, "recall": 1, "mrr": 1})


def test_an_utterance_that_was_said_before_is_one_memory(tmp_path: Path) -> None:
    rows = [f"0\t0\t{text}\n" for text in [*"가나다라마바사아", "가", "가"]]
    (tmp_path / "parakqc-a.tsv").write_text("".join(rows), encoding="utf-8")
    wanted = quality.read_paraphrases(tmp_path)
    assert [text for text, _ in wanted.memories] == [*"가나다라마바사아"]
    assert wanted.questions[8].answers == set("나다라마바사아")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("memories.jsonl", None),
        ("memories.jsonl", "[]\n"),
        ("memory_questions.jsonl", "what\n"),
        ("memory_questions.jsonl", '{"question": "뭐", "answers": ["m9"], "kind": "name", "split": "dev"}\n'),
        ("judge_pairs.jsonl", ""),
    ],
)
def test_without_a_set_the_status_is_2(
    small: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None
) -> None:
    (small / name).unlink()
    if content is not None:
        (small / name).write_text(content, encoding="utf-8")
    assert evaluate.main(["memory", "--data", str(small)]) == 2
    assert name in capsys.readouterr().err


# ---- figures by hand


def test_quality_by_hand() -> None:
    both = [found({"a", "b"}, ["b", "x", "a"]), found({"a"}, ["x", "y"])]
    got = quality.quality(both, "dense")
    ideal = 1 + 1 / np.log2(3)
    assert got.ndcg == pytest.approx((1 + 1 / 2) / ideal / 2)
    assert (got.recall, got.mrr) == (0.5, 0.5)
    later = quality.quality([found({"a"}, ["x", "y", "a"])], "hybrid")
    assert (later.ndcg, later.recall, later.mrr) == pytest.approx((1 / 2, 1, 1 / 3))


def test_what_a_bar_lets_through_and_what_it_loses() -> None:
    some = [
        found({"a"}, ["x", "a"], [0.9, 0.3]),  # its answer is lost by a bar of 0.5, not by one of 0.3
        found({"a"}, ["x"], [0.4]),  # lost by any
        found(set(), ["x", "y"], [0.6, 0.1], "unanswerable"),
        found(set(), ["x"], [0.2], "unanswerable_near"),
        found(set(), [], [], "unanswerable"),
    ]
    bars = quality.knowing(some)["bars"]
    assert bars["0.5"] == {
        "false_recalls": pytest.approx(1 / 3), "false_recalls_near": 0, "lost": 1, "hits": pytest.approx(2 / 5),
    }  # fmt: skip
    assert bars["0.3"]["lost"] == 0.5
    assert bars["0.2"]["false_recalls_near"] == 1
    assert bars["0.05"]["hits"] == pytest.approx(6 / 5)
    errors = quality.knowing(some)["calibration_error"]
    assert errors == {"1": pytest.approx((0.9 + 0.4 + 0.6 + 0.2) / 4), "5": errors["10"], "10": pytest.approx(2.9 / 6)}


def test_calibration_is_the_distance_of_scores_from_what_is_right() -> None:
    assert quality.calibration_error(np.array([0.75, 0.75, 0.75, 0.75]), np.array([1, 1, 1, 0.0])) == 0
    assert quality.calibration_error(np.array([1.0, 0.0]), np.array([0.0, 0.0])) == pytest.approx(0.5)
    assert quality.calibration_error(np.array([0.25, 0.95]), np.array([1.0, 1.0])) == pytest.approx(0.4)
    assert quality.calibration_error(np.array([]), np.array([])) is None


def test_how_often_the_answerable_score_higher() -> None:
    assert quality.told_apart([0.9, 0.5], [0.5, 0.1]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert quality.told_apart([0.9], []) is None
