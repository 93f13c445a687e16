"""The Korean evaluation set of the memory search: 400 memories of one user, and questions over them.

It is written by hand and knows nothing of the search it measures. What a test can check is checked here: that every
answer exists, that the counts hold, and that both splits see every kind of question.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.inputs import CATEGORIES

DATA = Path(__file__).parent / "data"
LEAST = {
    "paraphrase": 40,
    "keyword": 15,
    "name": 15,
    "number": 15,
    "date": 15,
    "negation": 15,
    "near_duplicate": 20,
    "typo": 10,
    "english": 10,
    "multi": 15,
    "unanswerable": 20,
    "unanswerable_near": 30,
}
UNANSWERABLE = {"unanswerable", "unanswerable_near"}


def lines(name: str) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file of the data folder."""
    with (DATA / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def memories() -> list[dict[str, Any]]:
    return lines("memories.jsonl")


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    return lines("memory_questions.jsonl")


def test_there_are_400_memories_with_the_three_fields(memories: list[dict[str, Any]]) -> None:
    assert [memory["id"] for memory in memories] == [f"m{number:03d}" for number in range(1, 401)]
    assert all(set(memory) == {"id", "text", "category"} for memory in memories)
    assert all(memory["text"] == memory["text"].strip() != "" for memory in memories)


def test_every_category_is_used_and_no_other(memories: list[dict[str, Any]]) -> None:
    assert {memory["category"] for memory in memories} == set(CATEGORIES)
    assert min(Counter(memory["category"] for memory in memories).values()) >= 30


def test_no_two_memories_say_the_same_in_the_same_words(memories: list[dict[str, Any]]) -> None:
    assert len({"".join(memory["text"].split()) for memory in memories}) == len(memories)


def test_questions_have_their_own_ids_and_texts(questions: list[dict[str, Any]]) -> None:
    assert [question["id"] for question in questions] == [f"q{number:03d}" for number in range(1, len(questions) + 1)]
    assert all(set(question) == {"id", "question", "answers", "kind", "split"} for question in questions)
    assert all(question["question"] == question["question"].strip() != "" for question in questions)
    assert len({"".join(question["question"].split()) for question in questions}) == len(questions)


def test_every_answer_exists_and_is_listed_once(
    memories: list[dict[str, Any]], questions: list[dict[str, Any]]
) -> None:
    known = {memory["id"] for memory in memories}
    for question in questions:
        assert set(question["answers"]) <= known, question["id"]
        assert len(set(question["answers"])) == len(question["answers"]) <= 4, question["id"]


def test_only_the_unanswerable_have_no_answer_and_multi_has_several(questions: list[dict[str, Any]]) -> None:
    for question in questions:
        assert bool(question["answers"]) != (question["kind"] in UNANSWERABLE), question["id"]
        assert question["kind"] != "multi" or len(question["answers"]) >= 2, question["id"]


def test_there_are_enough_questions_of_every_kind(questions: list[dict[str, Any]]) -> None:
    found = Counter(question["kind"] for question in questions)
    assert set(found) == set(LEAST)
    assert all(found[kind] >= least for kind, least in LEAST.items()), found
    unanswerable = sum(found[kind] for kind in UNANSWERABLE)
    assert unanswerable >= 60
    assert found.total() - unanswerable >= 170


def test_the_splits_are_halves_of_every_kind(questions: list[dict[str, Any]]) -> None:
    assert {question["split"] for question in questions} == {"dev", "test"}
    for kind in LEAST:
        splits = Counter(question["split"] for question in questions if question["kind"] == kind)
        assert abs(splits["dev"] - splits["test"]) <= 2, kind


def test_no_answer_is_asked_for_in_both_splits(questions: list[dict[str, Any]]) -> None:
    asked = {"dev": set[str](), "test": set[str]()}
    for question in questions:
        asked[question["split"]].update(question["answers"])
    assert not asked["dev"] & asked["test"]


def test_the_files_are_plain_korean_text() -> None:
    for name in ("memories.jsonl", "memory_questions.jsonl"):
        raw = (DATA / name).read_bytes()
        assert b"\\u" not in raw and b"\r" not in raw, name
        assert raw.endswith(b"}\n"), name
