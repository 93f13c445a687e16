"""The Korean pairs that judge whether a new statement repeats, replaces or stands beside an old one."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

PAIRS = Path(__file__).parent / "data" / "judge_pairs.jsonl"
LEAST = {"same": 110, "replaces": 110, "different": 200}
# Two pairs that differ in one noun share well over a third of their character pairs.
NEAR = 0.3

Pair = dict[str, str]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]


def letters(text: str) -> str:
    return re.sub(r"\W", "", text).lower()


def grams(pair: Pair) -> set[tuple[str, str]]:
    """The character pairs of both statements, each with the side it stands on."""
    sides = ((side, letters(pair[side])) for side in ("old", "new"))
    return {(side, text[i : i + 2]) for side, text in sides for i in range(len(text) - 1)}


def alike(one: set[tuple[str, str]], other: set[tuple[str, str]]) -> float:
    return len(one & other) / len(one | other)


def test_the_file_is_plain_json_lines_in_hangul() -> None:
    raw = PAIRS.read_bytes()
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    assert b"\\u" not in raw
    for line in raw.decode("utf-8").splitlines():
        assert line == json.dumps(json.loads(line), ensure_ascii=False)


def test_every_pair_has_the_same_fields(pairs: list[Pair]) -> None:
    for pair in pairs:
        assert list(pair) == ["old", "new", "verdict", "kind", "split"]
        assert all(isinstance(value, str) and value and value == value.strip() for value in pair.values())
        assert pair["verdict"] in LEAST
        assert pair["split"] in {"dev", "test"}
        assert re.fullmatch("[a-z]+", pair["kind"])
        assert pair["old"] != pair["new"]
        assert re.search("[가-힣]", pair["old"])
        assert re.search("[가-힣]", pair["new"])


def test_there_are_enough_of_each_verdict(pairs: list[Pair]) -> None:
    counts = Counter(pair["verdict"] for pair in pairs)
    assert all(counts[verdict] >= least for verdict, least in LEAST.items())


def test_each_kind_of_each_verdict_is_split_in_half(pairs: list[Pair]) -> None:
    halves = {
        split: Counter((pair["verdict"], pair["kind"]) for pair in pairs if pair["split"] == split)
        for split in ("dev", "test")
    }
    assert halves["dev"] == halves["test"]
    assert min(halves["dev"].values()) >= 2


def test_no_pair_stands_twice_in_either_order(pairs: list[Pair]) -> None:
    counts = Counter(frozenset((letters(pair["old"]), letters(pair["new"]))) for pair in pairs)
    assert [pair for pair, count in counts.items() if count > 1] == []


def test_no_statement_is_in_both_splits(pairs: list[Pair]) -> None:
    said = {
        split: {letters(pair[side]) for pair in pairs if pair["split"] == split for side in ("old", "new")}
        for split in ("dev", "test")
    }
    assert said["dev"] & said["test"] == set()


def test_no_test_pair_is_a_dev_pair_with_another_noun(pairs: list[Pair]) -> None:
    dev = [(grams(pair), pair) for pair in pairs if pair["split"] == "dev"]
    test = [(grams(pair), pair) for pair in pairs if pair["split"] == "test"]
    near = [(a, b) for (one, a), (other, b) in product(dev, test) if alike(one, other) >= NEAR]
    assert near == []


def test_the_measure_of_likeness_sees_another_noun() -> None:
    one = {"old": "서울에 살아요", "new": "부산으로 이사했어요"}
    other = {"old": "대전에 살아요", "new": "광주로 이사했어요"}
    assert alike(grams(one), grams(other)) >= NEAR
