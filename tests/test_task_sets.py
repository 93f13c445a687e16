"""scripts/task_sets.py: what it reads, and how it says where a set is wrong."""

from __future__ import annotations

import copy
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import task_files
from script_module import SCRIPTS, load

task_sets = load("task_sets")
NoData = load("korean_sets").NoData

OURS = SCRIPTS.parent / "tests" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return task_files.write(tmp_path)


def test_every_set_is_read_with_its_types(folder: Path) -> None:
    (first, second) = task_sets.dialogues(folder, "test")
    assert (first.at, first.memories[0].when) == (datetime(2026, 3, 5, 14), date(2026, 3, 4))
    assert (second.type, second.memories) == ("hostile", [])
    assert [one.category for one in task_sets.sentences(folder, "test")] == ["personal", "preference"]
    (asked,) = task_sets.utterances(folder, "test")
    assert asked.when == (date(2026, 3, 6), date(2026, 3, 6)) and asked.is_question
    assert task_sets.long_dialogues(folder)[0].facts[0].keys == [["부산"], ["5월 22일", "22일"]]
    assert [one.text for one in task_sets.prompts(folder)] == ["안녕하세요", "오늘 뭐 먹지?"]
    (dated, none) = task_sets.times(folder, "all")
    assert (dated.when, dated.line) == ((date(2026, 3, 6), date(2026, 3, 6)), 2)
    assert (none.when, none.split) == (None, "dev")


@pytest.mark.parametrize("read", ["sentences", "utterances", "dialogues", "times"])
def test_a_half_is_read_alone_and_both_are_all(folder: Path, read: str) -> None:
    reads = getattr(task_sets, read)
    dev, test = (reads(folder, half) for half in ("dev", "test"))
    assert {one.split for one in dev} == {"dev"} and {one.split for one in test} == {"test"}
    assert len(reads(folder, "all")) == len(dev) + len(test)


def test_of_3i4k_the_classes_that_may_be_either_are_left_out(folder: Path) -> None:
    found = [(one.text, one.is_question) for one in task_sets.intents(folder / "intents.tsv")]
    assert found == [("배가 고프다", False), ("지금 몇 시니", True), ("그만 좀 해라", False)]


def changed(rows: task_files.Rows, *keys: Any, to: object) -> task_files.Rows:
    """Return a copy of rows with what stands at `keys` changed."""
    found: Any = copy.deepcopy(rows)
    place = found
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return list(found)


@pytest.mark.parametrize(
    ("read", "file", "rows", "says"),
    [
        ("sentences", "sentences", changed(task_files.SENTENCES, 1, "category", to="food"), r":2: category|:2: .*personal"),
        ("sentences", "sentences", changed(task_files.SENTENCES, 2, "text", to=3), ":3: text"),
        ("sentences", "sentences", changed(task_files.SENTENCES, 0, "split", to="train"), ":1: split"),
        ("sentences", "sentences", [{"text": "비밀"}], ":1: category"),
        ("dialogues", "extraction", changed(task_files.DIALOGUES, 0, "memories", 1, "source", to=1), ":1: .*user turn 1"),
        ("dialogues", "extraction", changed(task_files.DIALOGUES, 0, "memories", 1, "source", to=9), ":1: .*user turn 9"),
        ("dialogues", "extraction", changed(task_files.DIALOGUES, 0, "memories", 0, "text", to="비밀"), ":1: .*user turn 0"),
        ("dialogues", "extraction", changed(task_files.DIALOGUES, 0, "memories", 0, "kind", to="x"), ":1: memories.0.kind"),
        ("utterances", "utterances", changed(task_files.UTTERANCES, 1, "when", to=["2026-03-06"]), ":2: when"),
        ("utterances", "utterances", changed(task_files.UTTERANCES, 1, "is_question", to="no"), ":2: is_question"),
        ("long_dialogues", "long_dialogues", changed(task_files.LONG, 0, "facts", 0, "keys", to=[[]]), ":1: .*keys"),
        ("long_dialogues", "long_dialogues", changed(task_files.LONG, 0, "facts", to=[]), ":1: .*facts"),
    ],
)  # fmt: skip
def test_an_error_names_file_and_line_and_quotes_nothing(
    folder: Path, read: str, file: str, rows: task_files.Rows, says: str
) -> None:
    task_files.write_rows(folder / f"{file}.jsonl", rows)
    halves = () if read == "long_dialogues" else ("all",)
    with pytest.raises(NoData, match=rf"{file}\.jsonl({says})") as caught:
        getattr(task_sets, read)(folder, *halves)
    assert "비밀" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "nothing"),
        ("a\tb\n", ":1: the header"),
        ("\t".join(task_files.TIMES.split("\t")[:4]) + "\n", ":1: the header"),
        (task_files.TIMES + "비밀\t2026-03-05\t-\t2026-03-06\tdev\n", ":4: "),
        (task_files.TIMES + "비밀\t2026-03-05\t2026-13-06\t2026-03-06\tdev\n", ":4: "),
        (task_files.TIMES + "비밀\tdev\n", ":4: "),
        (task_files.TIMES + "\n", ":4: "),
    ],
)
def test_a_bad_line_of_the_times(folder: Path, text: str, says: str) -> None:
    (folder / "times.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(NoData, match=rf"times\.tsv.*{says}") as caught:
        task_sets.times(folder, "all")
    assert "비밀" not in str(caught.value)


@pytest.mark.parametrize("text", ["7\t비밀\n", "질문\t비밀\n", "2 비밀\n", "2\t\n"])
def test_a_bad_line_of_3i4k(folder: Path, text: str) -> None:
    (folder / "intents.tsv").write_text(task_files.INTENTS + text, encoding="utf-8")
    with pytest.raises(NoData, match=r"intents\.tsv:5: ") as caught:
        task_sets.intents(folder / "intents.tsv")
    assert "비밀" not in str(caught.value)


def test_a_set_that_is_missing_empty_or_in_another_encoding_is_named(folder: Path) -> None:
    (folder / "prompts.jsonl").unlink()
    (folder / "sentences.jsonl").write_bytes(b"\xff\xfe")
    task_files.write_rows(folder / "utterances.jsonl", task_files.UTTERANCES[:1])
    with pytest.raises(NoData, match=r"prompts\.jsonl"):
        task_sets.prompts(folder)
    with pytest.raises(NoData, match=r"sentences\.jsonl.*UTF-8"):
        task_sets.sentences(folder, "all")
    with pytest.raises(NoData, match=r"utterances\.jsonl"):
        task_sets.utterances(folder, "dev")


def test_windows_line_ends_change_nothing(folder: Path) -> None:
    plain = task_sets.times(folder, "all")
    (folder / "times.tsv").write_bytes(task_files.TIMES.replace("\n", "\r\n").encode())
    assert task_sets.times(folder, "all") == plain


def test_a_limit_takes_items_at_even_distances() -> None:
    assert task_sets.spread(range(10), 3) == [0, 3, 6]
    assert task_sets.spread(range(10), 10) == task_sets.spread(range(10), None) == task_sets.spread(range(10), 99)


# ---- the project's own sets


def test_our_sets_are_as_large_as_they_are_said_to_be() -> None:
    assert len(task_sets.sentences(OURS, "all")) >= 240
    dialogues = task_sets.dialogues(OURS, "all")
    kinds = [one.type for one in dialogues]
    assert len(kinds) >= 60 and kinds.count("nothing") >= 15 and kinds.count("hostile") >= 10
    assert len(task_sets.utterances(OURS, "all")) >= 120
    assert len(task_sets.long_dialogues(OURS)) >= 20
    assert len(task_sets.times(OURS, "all")) >= 200
    prompts = [one.text for one in task_sets.prompts(OURS)]
    assert len(set(prompts)) == len(prompts) == 30


def test_no_gold_memory_of_ours_holds_what_no_memory_may_hold() -> None:
    wrong = [
        one.id
        for one in task_sets.dialogues(OURS, "all")
        for gold in one.memories
        for text in one.never
        if text in gold.text
    ]
    assert wrong == []


def test_what_no_memory_may_hold_stands_in_its_dialogue() -> None:
    for one in task_sets.dialogues(OURS, "all"):
        said = [turn["content"] + turn.get("name", "") for turn in one.dialogue]
        assert all(any(text in content for content in said) for text in one.never), one.id
