"""Tasks without a model: what may be answered, and what an answer means."""

from __future__ import annotations

import json
from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import classification, extraction, instructions, summary, tasks
from engine.constrain import Constraints, Grammar
from engine.errors import InvalidInput
from engine.inputs import CATEGORIES, Turn
from engine.llama import Model

AT = datetime(2026, 3, 11, 9, 0).astimezone()
TURNS = (
    Turn("user", '저는 "부산"에 살아요. 그저께 제주도에 다녀왔어요.'),
    Turn("assistant", "사용자는 백만장자입니다."),
    Turn("user", "나는 오이를 싫어해."),
)


@pytest.fixture(scope="module")
def constraints(starter: Model) -> Constraints:
    return Constraints(*starter.vocabulary.raw, starter.vocabulary.eog)


def written_at_random(constraints: Constraints, starter: Model, turns: tuple[Turn, ...], seed: int) -> str:
    """Follow the extraction grammar with random choices, as a model that knows nothing would."""
    grammar = extraction.extraction_grammar(turns)
    assert grammar is not None
    matcher = constraints.matcher(Grammar.lark(grammar))
    random = np.random.default_rng(seed)
    tokens = matcher.forced()
    while not matcher.done and len(tokens) < extraction.extraction_budget(turns):
        logits = random.random(starter.vocabulary.size).astype(np.float32)
        matcher.mask(logits)
        token = int(logits.argmax())
        if token in starter.vocabulary.eog:
            break
        tokens += [token, *matcher.accept(token)]
    return b"".join(starter.vocabulary.pieces[token] for token in tokens).decode("utf-8", "ignore")


TYPED = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0") | st.sampled_from('"\\{}[]\n,: 가나다.!?'),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(TYPED, min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_whatever_is_answered_quotes_the_turn_it_names(
    constraints: Constraints, starter: Model, texts: list[str], seed: int
) -> None:
    turns = tuple(Turn("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))
    if extraction.extraction_grammar(turns) is None:
        assert not any(any(map(str.isalnum, turn.content)) for turn in turns if turn.role == "user")
        return
    text = written_at_random(constraints, starter, turns, seed)
    for cut in (len(text), len(text) // 2, len(text) - 3):
        for _, item in extraction.parse_extraction(text[: max(cut, 0)], turns, AT).items():
            assert turns[item.source].role == "user"
            assert item.quote in turns[item.source].content
            assert any(map(str.isalnum, item.quote))
            assert item.quote in item.text
            assert item.category in CATEGORIES


def test_an_answer_becomes_items_with_sentence_and_date() -> None:
    answer = {
        "0": [{"quote": "제주도에 다녀왔어요", "kind": "event", "category": "experience"}],
        "2": [{"quote": "오이를 싫어해", "kind": "preference", "category": "preference"}],
    }
    found = extraction.parse_extraction(json.dumps(answer, ensure_ascii=False), TURNS, AT)
    (event,), (preference,) = found.events, found.preferences
    assert event.text == "그저께 제주도에 다녀왔어요."
    assert event.when == date(2026, 3, 9)
    assert preference == tasks.ExtractedItem("나는 오이를 싫어해.", "오이를 싫어해", "preference", 2, None)
    assert found.to_dict()["events"][0]["when"] == "2026-03-09"


def test_the_same_sentence_is_one_memory() -> None:
    item = {"quote": "오이를 싫어해", "kind": "preference", "category": "preference"}
    answer = json.dumps({"2": [item, {**item, "kind": "fact"}]}, ensure_ascii=False)
    assert len(list(extraction.parse_extraction(answer, TURNS, AT).items())) == 1


@pytest.mark.parametrize("text", ["", "{", '{"0": ', '{"0": [', '{"0": [{"quote": "부', '{"0": [], "2'])
def test_an_answer_cut_short_is_still_a_value(text: str) -> None:
    assert list(extraction.parse_extraction(text, TURNS, AT).items()) == []


def test_an_answer_cut_short_keeps_its_complete_items() -> None:
    text = '{"0": [{"quote": "부산", "kind": "fact", "category": "personal"}, {"quote": "제주도에", "ki'
    assert [item.quote for _, item in extraction.parse_extraction(text, TURNS, AT).items()] == ["부산"]


def test_the_turns_own_time_dates_it() -> None:
    turn = Turn("user", "어제 이사했어.", at=datetime(2020, 1, 2).astimezone())
    answer = '{"0": [{"quote": "이사했어", "kind": "event", "category": "experience"}]}'
    assert extraction.parse_extraction(answer, (turn,), AT).events[0].when == date(2020, 1, 1)


def test_context_is_quoted_before_the_last_user_message() -> None:
    turns = (Turn("user", "안녕"), Turn("assistant", "네"), Turn("user", "뭐 먹지?"))
    *before, last = tasks.with_context(turns, ["땅콩 알레르기", "매운 것 싫어함"])
    assert tuple(before) == turns[:2]
    assert last.content.endswith("뭐 먹지?")
    assert last.content.index("땅콩") < last.content.index("매운") < last.content.index("뭐 먹지?")
    assert tasks.with_context(turns, None) == turns
    with pytest.raises(InvalidInput):
        tasks.with_context((Turn("system", "x"),), "y")
    with pytest.raises(TypeError):
        tasks.with_context(turns, [3])  # type: ignore[list-item]


@given(st.dictionaries(st.text(min_size=1), st.floats(-50, 50), min_size=2, max_size=9), st.floats(0, 1))
def test_scores_sum_to_one_and_only_asked_labels_win(scores: dict[str, float], abstain: float) -> None:
    prior = dict.fromkeys(scores, -1.0)
    for found in (
        classification.from_similarities(scores, abstain),
        classification.from_log_probabilities(scores, prior, abstain),
        classification.from_similarities(scores, None),
    ):
        assert sum(found.scores.values()) == pytest.approx(1)
        assert set(found.scores) == set(scores)
        assert found.confidence == max(found.scores.values())
        if found.label is None:
            assert found.confidence < abstain
        else:
            assert found.scores[found.label] == found.confidence


def test_categories_are_checked() -> None:
    assert list(classification.check_categories(CATEGORIES)) == list(CATEGORIES)
    assert classification.check_categories({"a": "first", "b": "second"}) == {"a": "first", "b": "second"}
    for wrong in ([], ["one"], ["a", "a"], ["a", ""]):
        with pytest.raises(InvalidInput):
            classification.check_categories(wrong)
    for wrong_type in ("abc", [1, 2], {"a": 1, "b": 2}):
        with pytest.raises(TypeError):
            classification.check_categories(wrong_type)  # type: ignore[arg-type]


def test_own_categories_stand_for_themselves() -> None:
    assert classification.label_examples({"과일": "과일", "health": "my own words"}) == {
        "과일": ["과일"],
        "health": ["my own words"],
    }
    assert len(classification.label_examples(classification.check_categories(CATEGORIES))["health"]) > 1


@given(st.text(min_size=1), st.integers(1, 10))
def test_a_summary_never_has_more_words_than_asked(text: str, words: int) -> None:
    assert len(summary.cut_words(text, words).split()) <= words


def test_a_summary_ends_with_a_sentence() -> None:
    assert summary.cut_words("하나 둘 셋. 넷 다섯 여섯.", 4) == "하나 둘 셋."
    assert summary.cut_words("하나 둘 셋. 넷 다섯 여섯.", None) == "하나 둘 셋. 넷 다섯 여섯."


def test_worked_examples_are_answers_that_the_grammar_allows(constraints: Constraints, starter: Model) -> None:
    for shown, answer in instructions.EXTRACT_EXAMPLE.values():
        lines = [line.split(": ", 1) for line in shown.split("\n")]
        turns = tuple(Turn(head.split()[1], content) for head, content in lines)
        grammar = extraction.extraction_grammar(turns)
        assert grammar is not None
        assert accepts(constraints, starter, grammar, answer)
        assert not accepts(constraints, starter, grammar, answer.replace("fact", "fuct"))
        assert len(list(extraction.parse_extraction(answer, turns, AT).items())) == 3


def accepts(constraints: Constraints, starter: Model, grammar: str, answer: str) -> bool:
    """Whether the grammar allows exactly this answer, taken in the longest tokens that it allows."""
    matcher, pieces = constraints.matcher(Grammar.lark(grammar)), starter.vocabulary.pieces
    rest = answer.encode()
    forced = matcher.forced()
    while rest:
        said = b"".join(pieces[token] for token in forced)
        if not rest.startswith(said):
            return False
        if not (rest := rest[len(said) :]):
            break
        logits = np.zeros(starter.vocabulary.size, np.float32)
        matcher.mask(logits)
        fitting = [token for token in np.flatnonzero(logits == 0) if pieces[token] and rest.startswith(pieces[token])]
        if not fitting:
            return False
        token = int(max(fitting, key=lambda token: len(pieces[token])))
        rest, forced = rest[len(pieces[token]) :], matcher.accept(token)
    return matcher.done
