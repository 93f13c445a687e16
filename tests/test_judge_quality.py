"""scripts/judge_quality.py: what it reads, counts and shows."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from script_module import load

judge_quality = load("judge_quality")
Pair = judge_quality.Pair

PAIRS = [
    Pair("서울에 살아요", "저는 서울에 살아요", "same", "politeness"),
    Pair("커피를 마셔요", "커피 마셔", "same", "politeness"),
    Pair("서울에 살아요", "부산으로 이사했어요", "replaces", "home"),
    Pair("A형이에요", "B형이에요", "different", "latin"),
    Pair("2시예요", "3시예요", "different", "number"),
]


class FakeEngine:
    """Embeds every text as a unit vector of its own pairs of letters."""

    def embed(self, texts):
        vectors = np.zeros((len(texts), 64), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for one, other in pairwise(text):
                row[(ord(one) * 31 + ord(other)) % 64] += 1
            row[0] += 0.1
        return type("Embeddings", (), {"dense": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)})()


@pytest.fixture
def file(tmp_path):
    rows = [
        {"old": pair.old, "new": pair.new, "verdict": pair.verdict, "kind": pair.kind, "split": split}
        for pair, split in zip(PAIRS, ["dev", "test", "test", "dev", "test"], strict=True)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def test_a_split_is_read_alone(file):
    assert judge_quality.read_pairs(file, "dev") == [PAIRS[0], PAIRS[3]]


@pytest.mark.parametrize(
    "text", ["", "{", '{"old": "a"}', '{"old":"a","new":"b","verdict":"no","kind":"k","split":"dev"}']
)
def test_what_holds_no_pairs_is_refused(tmp_path, text):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(judge_quality.NoData):
        judge_quality.read_pairs(path, "dev")


def test_precision_recall_and_violations_are_counted():
    figures = judge_quality.score(PAIRS, ["same", "different", "replaces", "same", "replaces"])
    assert [figures["same"][name] for name in ("precision", "recall")] == [0.5, 0.5]
    assert [figures["replaces"][name] for name in ("precision", "recall")] == [0.5, 1.0]
    assert figures["same"]["precision_95"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    assert figures["replaces"]["recall_95"] == pytest.approx([0.2065, 1.0], abs=1e-4)
    assert figures["confusion"]["different"] == {"same": 1, "replaces": 1, "different": 0}
    assert figures["kinds"]["same: politeness"] == {"pairs": 2, "right": 1}
    assert figures["violations"] == 1
    json.dumps(figures)


def test_what_was_never_judged_has_no_precision():
    figures = judge_quality.score(PAIRS[:1], ["different"])
    assert (figures["same"]["precision"], figures["same"]["recall"]) == (None, 0.0)
    assert set(figures["replaces"].values()) == {None}
    assert "–" in judge_quality.table(figures)


def test_numbers_in_words_are_no_violation():
    pairs = [Pair("삼십 분 걸려요", "30분 걸려요", "same", "spelling")]
    assert judge_quality.score(pairs, ["same"])["violations"] == 0


@pytest.mark.parametrize(("old", "new"), [("1.5킬로", "15킬로"), ("abcd예요", "Abcd예요"), ("C++ 개발자", "C 개발자")])
def test_signs_and_capitals_are_violations(old, new):
    assert judge_quality.score([Pair(old, new, "same", "sign")], ["same"])["violations"] == 1


def test_likeness_is_symmetric_and_highest_for_the_same_text():
    found = judge_quality.likenesses(
        FakeEngine(),
        [("서울에 살아요", "커피를 마셔요"), ("커피를 마셔요", "서울에 살아요"), ("서울에 살아요", "서울에 살아요")],
    )
    assert found[0] == pytest.approx(found[1])
    assert found[2] > found[0]


def test_the_table_names_every_verdict_and_kind():
    table = judge_quality.table(judge_quality.score(PAIRS, [pair.verdict for pair in PAIRS]))
    for name in ("same", "replaces", "different", "replaces: home", "100.0"):
        assert name in table


def test_the_judge_is_measured_end_to_end(file):
    figures = judge_quality.measure(FakeEngine(), file, "test")
    assert figures["pairs"] == 3
    assert figures["violations"] == 0
    assert figures["confusion"]["different"]["same"] == 0


def test_no_pairs_end_with_status_2(tmp_path, capsys):
    assert judge_quality.main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
