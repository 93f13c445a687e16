"""Labels: what is asked, what scores mean, and what a model that makes no sense can do. No model."""

from __future__ import annotations

import math
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import classification, instructions
from engine.classifier import Classifier
from engine.cohort import SENTENCES
from engine.errors import EngineError, InvalidInput
from engine.inputs import CATEGORIES
from engine.scoring import log_softmax

LABELS = st.lists(st.text(min_size=1), min_size=2, max_size=9, unique=True)
NUMBER = st.floats(-1e4, 0) | st.just(-math.inf)


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# ---- scores


def check(found: classification.Classification, labels: list[str], abstain: float | None) -> None:
    assert sum(found.scores.values()) == pytest.approx(1)
    assert list(found.scores) == labels
    assert found.confidence == max(found.scores.values())
    if found.label is None:
        assert abstain is not None and found.confidence < abstain
    else:
        assert found.scores[found.label] == found.confidence
        assert abstain is None or found.confidence >= abstain


@given(LABELS, st.none() | st.floats(0, 1), st.data())
def test_scores_sum_to_one_and_only_asked_labels_win(labels: list[str], abstain: float | None, data: Any) -> None:
    rows = st.lists(NUMBER, min_size=len(labels), max_size=len(labels))
    leaning = classification.prior([data.draw(rows), data.draw(rows)])
    scores = dict(zip(labels, data.draw(rows), strict=True))
    check(classification.by_logits(scores, leaning, abstain), labels, abstain)


@given(LABELS, st.none() | st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_so_do_scores_by_meaning(labels: list[str], abstain: float | None, seed: int) -> None:
    random = np.random.default_rng(seed)
    named = {label: label for label in labels}
    count = sum(map(len, classification.label_texts(named).values()))
    among = classification.meanings(named, unit(random.normal(size=(count, 4))), unit(random.normal(size=(5, 4))))
    for found in classification.by_meaning(unit(random.normal(size=(3, 4))), among, abstain):
        check(found, labels, abstain)


def test_a_label_that_wins_whatever_is_read_does_not_win() -> None:
    leaning = classification.prior([[-1.0, -5.0], [-2.0, -7.0]])
    assert leaning == [-1.5, -6.0]
    assert classification.by_logits({"a": -1.0, "b": -3.0}, leaning, None).label == "b"
    even = classification.by_logits({"a": -0.5, "b": -5.0}, leaning, None)
    assert even.scores == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_an_error_and_not_a_label(wrong: float) -> None:
    with pytest.raises(EngineError, match="verify"):
        classification.by_logits({"a": -1.0, "b": wrong}, [-1.0, -1.0], None)
    with pytest.raises(EngineError, match="verify"):
        classification.prior([[-1.0, wrong]])


def test_a_text_that_stands_out_as_one_label_has_it() -> None:
    axes, cohort = np.eye(4, dtype=np.float32), unit(np.ones((3, 4)) + np.eye(4)[:3] * 0.1)
    among = classification.meanings({"가": "하나", "나": "둘"}, axes[:2], cohort)
    first, second, neither = classification.by_meaning(unit(axes[[0, 1, 3]] + 0.05), among, 0.9)
    assert (first.label, second.label, neither.label) == ("가", "나", None)
    assert neither.scores["가"] == pytest.approx(0.5)


def test_the_less_is_known_of_labels_the_less_sure_they_are() -> None:
    def confidence(labels: dict[str, str]) -> float:
        counts = [len(texts) for texts in classification.label_texts(labels).values()]
        vectors = np.repeat(np.eye(2, 4, dtype=np.float32), counts, axis=0)
        among = classification.meanings(labels, vectors, unit(np.ones((3, 4)) + np.eye(4)[:3]))
        return classification.by_meaning(unit(np.array([[1.0, 0.9, 0, 0]])), among, None)[0].confidence

    named = confidence({"가": "가", "나": "나"})
    told = confidence({"가": "하나", "나": "둘"})
    shown = confidence({"work": "work", "goal": "goal"})
    assert 0.5 < named < told < shown
    assert named < confidence({"가": "하나", "나": "나"}) < told


# ---- labels


def test_categories_are_checked() -> None:
    assert classification.check_categories(CATEGORIES) == {name: name for name in CATEGORIES}
    assert classification.check_categories({"a": "first", "b": "second"}) == {"a": "first", "b": "second"}
    for wrong in ([], ["one"], ["a", "a"], ["a", ""], {"a": "first", "b": ""}):
        with pytest.raises(InvalidInput):
            classification.check_categories(wrong)
    for wrong_type in ("abc", [1, 2], {"a": 1, "b": 2}):
        with pytest.raises(TypeError):
            classification.check_categories(wrong_type)  # type: ignore[arg-type]


def test_own_categories_stand_for_themselves() -> None:
    own = {"과일": "과일", "health": "my own words"}
    assert classification.label_texts(own) == {"과일": ["과일"], "health": ["my own words"]}
    assert classification.described(own, "ko") == own


def test_the_eight_have_descriptions_and_examples_in_both_languages() -> None:
    labels = classification.check_categories(CATEGORIES)
    for texts in classification.label_texts(labels).values():
        assert len(texts) >= 10 and len(set(texts)) == len(texts)
        assert {instructions.language_of(text) for text in texts} == {"ko", "en"}


def test_a_text_is_asked_about_in_its_own_language() -> None:
    labels = classification.check_categories(CATEGORIES)
    for text, language in (("I live in Leeds", "en"), ("저는 리즈에 살아요", "ko")):
        system, *shown, user = classification.classification_turns(text, labels)
        assert user.content == text
        pairs = list(zip(shown[::2], shown[1::2], strict=True))
        assert [answer.content for _, answer in pairs] == list(labels) * classification.SHOTS
        for example, answer in pairs:
            assert (example.role, answer.role) == ("user", "assistant")
            assert example.content in instructions.CATEGORIES[language][answer.content].examples  # type: ignore[index]
        assert classification.classification_turns(text, labels, shots=0) == (system, user)
        assert system.content.startswith(instructions.CLASSIFY[language])
        for name, category in instructions.CATEGORIES[language].items():
            assert f"- {name}: {category.description}" in system.content.split("\n")
        # what a label is worth anyway is asked in the same words, so that only the last message differs
        assert {turns[:-1] for turns in classification.prior_turns(labels, language)} == {(system, *shown)}  # type: ignore[arg-type]


# ---- the classifier on models of its own


class Asking:
    """A pool and the vectors of one model: what it is asked is noted, and its answers are made up."""

    def __init__(self, kind: str, answer: Any = None) -> None:
        self.models = SimpleNamespace(spec=lambda model: SimpleNamespace(kind=kind), name=lambda model: f"the {model}")
        self.spec, self.kv_cells = SimpleNamespace(name="the model"), 1_000
        self._answer = answer
        self.embedded: list[list[str]] = []
        self.asked: list[str] = []

    def embed(self, texts: list[str], kind: str, model: str) -> Any:
        self.embedded.append(texts)
        letters = np.array([[ord(text[0]) % 7, len(text), ord(text[-1]) % 5] for text in texts], np.float32)
        return unit(letters + 1)

    def start(self, model: str, begin: Any) -> Any:
        return begin(self)

    def encode(self, turns: Any) -> list[str]:
        return [turn.content for turn in turns]

    def instruction(self, turns: Any, tokens: list[str]) -> int:
        return len(tokens) - 1

    def score(self, prompt: list[str], labels: list[str], *, pin: int) -> Any:
        self.asked.append(prompt[-1])
        result: Future[list[float]] = Future()
        result.set_result(self._answer(prompt, labels))
        return SimpleNamespace(result=result)

    def interrupt(self) -> None: ...


def classifier(asking: Any) -> Classifier:
    return Classifier(asking, asking)


def test_by_meaning_one_text_is_one_call_once_the_labels_are_known() -> None:
    asking = Asking("embedding")
    ours, labels = classifier(asking), {"가": "하나", "나": "둘"}
    ours.classify(["x"], labels, None)
    assert sorted(map(len, asking.embedded)) == [1, 2, len(SENTENCES)]
    asking.embedded.clear()
    ours.classify(["차"], labels, None)
    ours.classify(["차", "y"], labels, None)
    assert asking.embedded == [["차"], ["차", "y"]]
    ours.classify(["차"], {"가": "하나", "다": "셋"}, None)  # other labels, the same cohort
    assert asking.embedded[2:] == [["하나", "셋"], ["차"]]


def test_what_labels_are_worth_anyway_is_asked_once_a_language(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking("llm", lambda prompt, labels: [-float(len(label)) for label in labels])
    ours, labels = classifier(asking), {"가": "가", "나나": "나나"}
    korean, english = instructions.EVERYDAY["ko"], instructions.EVERYDAY["en"]
    found = ours.classify(["안녕"], labels, None)
    assert asking.asked == ["안녕", *korean]
    assert found[0].scores == {"가": pytest.approx(0.5), "나나": pytest.approx(0.5)}
    ours.classify(["잘 가", "bye"], labels, None)
    assert asking.asked[1 + len(korean) :] == ["잘 가", "bye", *english]
    asking.asked.clear()
    ours.classify(["안녕", "hi"], labels, None)
    assert asking.asked == ["안녕", "hi"]
    monkeypatch.setattr(instructions, "version", lambda: "other words")
    ours.classify(["안녕"], labels, None)
    assert asking.asked[2:] == ["안녕", *korean]
    assert ours.classify([], labels, None) == []


def test_examples_are_shown_where_there_is_room() -> None:
    asking = Asking("llm", lambda prompt, labels: [-1.0] * len(labels))
    ours, labels = classifier(asking), classification.check_categories(CATEGORIES)
    lengths: list[int] = []
    score = asking.score
    asking.score = lambda prompt, labels, pin: (lengths.append(len(prompt)), score(prompt, labels, pin=pin))[1]  # type: ignore[method-assign]
    for cells, messages in ((1_000, 2 + 2 * 16), (100, 2)):
        asking.kv_cells = cells
        ours.classify(["안녕"], labels, None)
        assert set(lengths) == {messages}
        assert len(lengths) == 1 + len(instructions.EVERYDAY["ko"])
        lengths.clear()
    ours.classify(["안녕"], {**labels, "another": "another"}, None)
    assert set(lengths) == {2}


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_a_model_that_makes_no_sense_gives_a_label_or_a_typed_error(worst: float) -> None:
    def answer(prompt: list[str], labels: list[str]) -> list[float]:
        logits = np.array([worst, *[0.0] * len(labels)], np.float32)
        return [float(one) for one in log_softmax(logits)[: len(labels)]]

    ours = classifier(Asking("llm", answer))
    try:
        found = ours.classify(["안녕", "hi"], {"a": "a", "b": "b"}, 0.2)
    except EngineError:
        assert worst != -math.inf
    else:
        for one in found:
            check(one, ["a", "b"], 0.2)
