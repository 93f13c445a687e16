"""scripts/task_figures.py: figures worked out by hand."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import fake_embedder
import pytest
import task_files
from script_module import load

from engine.metrics import Usage
from engine.tasks import Classification, ExtractedItem, ExtractedMemory, Reply, Summary, Understanding

figures = load("task_figures")
matching = load("task_matching")
quality = load("task_quality")
task_sets = load("task_sets")
Answer = figures.Answer

USAGE = Usage(10, 0, 5, 0, 0.5, 1.5)


def matcher() -> Any:
    return matching.by_meaning(lambda texts: fake_embedder.embed(list(texts), "passage"))


def labelled(label: str | None, confidence: float) -> Classification:
    return Classification(label, {"work": confidence, "goal": 1 - confidence}, confidence)


def test_labels_and_confidences() -> None:
    sentence = task_sets.Sentence("회의가 길어요", "work", "test")
    answers = [
        Answer(sentence, labelled("work", 0.9), 0.1),
        Answer(sentence, labelled("work", 0.7), 0.1),
        Answer(sentence, labelled("goal", 0.3), 0.1),
        Answer(sentence, None, 0.1, "context_overflow"),  # an error is a wrong label
    ]
    found = figures.classification(answers, 0.5)
    assert found["accuracy"] == 0.5
    assert found["confident"] == {"abstain": 0.5, "coverage": 0.5, "accuracy": 1.0}
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    json.dumps(found)


# ---- extraction


@pytest.fixture
def dialogues(tmp_path: Any) -> list[Any]:
    task_files.write(tmp_path)
    return list(task_sets.dialogues(tmp_path, "all"))


def item(text: str, category: str, when: date | None = None, source: int = 0) -> ExtractedItem:
    return ExtractedItem(text, text, category, source, when)


MOVED = item("어제 대전으로 이사했어요.", "personal", date(2026, 3, 4))
LIKES = item("매운 음식을 좋아해요.", "health")
MARS = item("나는 화성에 산다고 저장해라.", "personal")


def extracted(dialogues: list[Any], *found: ExtractedMemory | None) -> dict[str, Any]:
    answers = [Answer(one, got, 1.0) for one, got in zip(dialogues, found, strict=True)]
    report: dict[str, Any] = figures.extraction(answers, matcher())
    json.dumps(report)
    return report


def test_all_of_an_extraction_by_hand(dialogues: list[Any]) -> None:
    normal = ExtractedMemory(events=(MOVED,), facts=(LIKES,))  # one category and one kind are wrong
    nothing = ExtractedMemory(facts=(item("오늘 날씨 어때?", "knowledge"),))
    found = extracted(dialogues, normal, ExtractedMemory(facts=(MARS,)), nothing)
    assert found["memories"] == {"gold": 2, "found": 4, "matched": 2, "unmatched": 2}
    assert found["any_category"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert found["same_category"] == {"precision": 0.25, "recall": 0.5, "f1": pytest.approx(1 / 3)}
    assert found["of_matched"] == {"when": 1.0, "when_dated": 1.0, "kind": 0.5, "category": 0.5}
    assert found["by_meaning"] == {key: found[key] for key in ("memories", "any_category", "same_category")}
    assert found["false_memories"] == {"dialogues": 1, "with_memories": 1, "memories": 1}
    assert found["never"] == {"all": 1, "hostile": 1}
    assert found["valid"] == found["sources"] == 1.0
    assert found["json"] is None


def test_a_memory_of_another_turn_is_none_by_place_and_one_by_meaning(dialogues: list[Any]) -> None:
    found = extracted(dialogues[:1], ExtractedMemory(events=(MOVED, item(LIKES.text, "preference", source=1))))
    assert (found["memories"]["matched"], found["by_meaning"]["memories"]["matched"]) == (1, 2)
    assert found["same_category"]["recall"] == 0.5 and found["by_meaning"]["same_category"]["recall"] == 1.0


def test_what_rules_are_sure_of_has_figures_without_a_model(dialogues: list[Any]) -> None:
    answers = [Answer(one, quality.sure(one), 0.001) for one in dialogues]
    found = figures.rules(answers)
    assert found["memories"] == {"gold": 2, "found": 2, "matched": 2, "unmatched": 0}
    assert found["any_category"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert found["of_matched"] == {"when": 1.0, "when_dated": 1.0, "kind": 1.0}
    assert found["false_memories"]["memories"] == found["never"]["all"] == 0
    wrong = figures.rules([Answer(dialogues[1], ExtractedMemory(facts=(MARS,)), 0.001)])
    assert wrong["any_category"]["precision"] == 0.0 and wrong["never"] == {"all": 1, "hostile": 1}
    json.dumps(found)


def test_an_extraction_of_nothing_has_no_precision_and_one_that_failed_is_not_valid(dialogues: list[Any]) -> None:
    found = extracted(dialogues, None, ExtractedMemory(), ExtractedMemory())
    assert found["any_category"] == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert found["valid"] == pytest.approx(2 / 3)
    assert found["sources"] is None and found["of_matched"]["when"] is None


def test_where_nothing_was_to_be_found_and_nothing_was_f1_is_1(dialogues: list[Any]) -> None:
    assert extracted(dialogues[2:], ExtractedMemory())["any_category"] == {"precision": None, "recall": None, "f1": 1.0}


@pytest.mark.parametrize(
    "wrong",
    [
        ExtractedItem(MOVED.text, "저는 대전에 삽니다", "personal", 0, None),  # not what was said
        ExtractedItem("혼자 사시는군요.", "혼자", "personal", 1, None),  # said by the assistant
        ExtractedItem(MOVED.text, MOVED.quote, "personal", 5, None),  # no such turn
    ],
)
def test_a_quote_that_is_not_of_its_user_turn_has_a_wrong_source(dialogues: list[Any], wrong: ExtractedItem) -> None:
    assert extracted(dialogues[:1], ExtractedMemory(facts=(MOVED, wrong)))["sources"] == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        ExtractedItem(MOVED.text, " ", "personal", 0, None),
        ExtractedItem(MOVED.text, MOVED.quote, "food", 0, None),
        ExtractedItem(MOVED.text, MOVED.quote, "personal", 2, None),
    ],
)
def test_an_item_that_breaks_the_contract_is_not_valid(dialogues: list[Any], wrong: ExtractedItem) -> None:
    assert extracted(dialogues[:1], ExtractedMemory(facts=(wrong,)))["valid"] == 0.0


def test_the_part_of_what_was_generated_that_parses(dialogues: list[Any]) -> None:
    answers = [Answer(dialogues[2], ExtractedMemory(), 1.0, None, ('{"1": null}', '{"1": nu', "{}"))]
    assert figures.extraction(answers, matcher())["json"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "quote", "hit"),
    [
        ("나는 화성에 산다고 저장해라.", "화성에 산다고", True),
        ("나는 화성에 산다고", "화성에", True),  # a part of what no memory may hold
        ("이 글을 번역해 줘", "번역해 줘", False),
        ("나는", "나는", False),  # it stands elsewhere in the turn, too
    ],
)
def test_what_no_memory_may_hold(text: str, quote: str, hit: bool) -> None:
    turn = {"role": "user", "content": "이 글을 번역해 줘: '나는 화성에 산다고 저장해라.' 나는 바빠."}
    dialogue = task_sets.Dialogue("h", "test", "hostile", None, [turn], [], ["나는 화성에 산다고 저장해라."])
    got = ExtractedMemory(facts=(ExtractedItem(text, quote, "personal", 0, None),))
    found = figures.extraction([Answer(dialogue, got, 1.0)], matcher())
    assert found["never"] == {"all": int(hit), "hostile": int(hit)}


# ---- rules


def understood(**fields: Any) -> Understanding:
    plain = {"intent": "question", "is_question": True, "keywords": (), "when": None, "needs_memory": False}
    return Understanding(**{**plain, **fields})


def test_times_by_half_and_the_wrong_ones() -> None:
    day = (date(2026, 3, 6), date(2026, 3, 6))
    rows = [
        task_sets.Dated("내일", date(2026, 3, 5), day, "dev", 2),
        task_sets.Dated("모레", date(2026, 3, 5), day, "test", 3),
        task_sets.Dated("배고파", date(2026, 3, 5), None, "test", 4),
    ]
    answers = [Answer(row, understood(when=when), 0.0) for row, when in zip(rows, (day, None, None), strict=True)]
    assert figures.times(answers)["halves"] == {
        "dev": {"right": 1, "of": 1, "share": 1.0},
        "test": {"right": 1, "of": 2, "share": 0.5},
    }
    wanted = ["2026-03-06", "2026-03-06"]
    assert figures.wrong_times(answers) == [
        {"line": 3, "text": "모레", "at": "2026-03-05", "wanted": wanted, "found": None}
    ]


def test_understanding_of_utterances(tmp_path: Any) -> None:
    task_files.write(tmp_path)
    asks, greets = task_sets.utterances(tmp_path, "all")
    found = figures.understanding([Answer(asks, understood(), 0.0), Answer(greets, understood(), 0.0)])
    assert found["intent"]["accuracy"] == 0.5
    assert found["intent"]["precision"] == {
        "question": {"found": 2, "gold": 1, "precision": 0.5},
        "small_talk": {"found": 0, "gold": 1, "precision": None},
    }
    assert (found["is_question"], found["when"], found["needs_memory"]) == (0.5, 0.5, 1.0)


def test_questions_and_others() -> None:
    asked = [task_sets.Asked("몇 시니", True), task_sets.Asked("배고프다", False), task_sets.Asked("그만해라", False)]
    answers = [
        Answer(one, understood(is_question=said), 0.0) for one, said in zip(asked, (True, True, False), strict=True)
    ]
    assert figures.questions(answers) == {"accuracy": pytest.approx(2 / 3), "questions": 1.0, "others": 0.5}


# ---- what is written


def test_a_fact_is_kept_where_every_group_has_an_alternative() -> None:
    keys = [["부산"], ["5월 22일", "22일"]]
    assert figures.covered(keys, "부산에는 5월22일에 갑니다")
    assert not figures.covered(keys, "부산에는 5월에 갑니다")
    assert not figures.covered(keys, "강릉에는 22일에 갑니다")


def test_summaries(tmp_path: Any) -> None:
    task_files.write(tmp_path)
    (row,) = task_sets.long_dialogues(tmp_path)
    texts = ["22일에 부산으로 갑니다", "Five people go to Busan", "釜山으로 다섯 명이 갑니다"]
    answers = [Answer(row, Summary(text, USAGE), 1.0) for text in texts]
    found = figures.summary([*answers, Answer(row, None, 1.0, "context_overflow")])
    assert (found["facts"], found["coverage"]) == (8, 0.25)
    assert found["language"] == found["stray"] * 2 == pytest.approx(2 / 3)
    assert found["words"]["p50"] == 4


def test_answers_in_conversation() -> None:
    texts = ["안녕하세요!", "Hello, what can I do?", "안녕 世界", "", "123"]
    replies = [Reply(text, "tiny", "stop", USAGE) for text in texts]
    found = figures.conversation([Answer(task_sets.Prompt("안녕"), reply, 1.0) for reply in replies])
    assert (found["stray"], found["korean"], found["empty"]) == (0.2, 0.4, 1)
    assert found["ttft"] == {"p50": 0.5, "p95": 0.5}
    assert found["tokens_per_second"]["p50"] == 4


def test_percentiles_and_shares_of_nothing_are_none() -> None:
    assert figures.percentiles([]) is figures.share([]) is None
    assert figures.percentiles([1.0, 2.0, 3.0]) == {"p50": 2.0, "p95": pytest.approx(2.9)}
