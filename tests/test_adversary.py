"""Every task with a language model that answers as badly as it may: a valid, typed value, or a typed error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

import pytest
from adversary import ADVERSARIES, Stage, broken, endless, forger, playing, worst
from pydantic import BaseModel, Field

from engine import Engine, guard
from engine.answers import Question, reply_of
from engine.closing import MOST_TOKENS
from engine.errors import EngineError, InvalidInput, SchemaError
from engine.generation import Finished
from engine.inputs import CATEGORIES
from engine.metrics import Usage
from engine.sampling import Sampling
from engine.tasks import Classification, ExtractedMemory, Reply, Summary, Understanding

CELLS = 768
# the third sentence is one that rules leave to the model
SAID = "저는 부산에 살아요. 나는 매운 음식을 싫어해. 바둑판은 열아홉 줄이야."
LONG = [
    turn
    for number in range(15)
    for turn in (
        {"role": "user", "content": f"저는 {number + 2}층에 살아요. 바둑판은 열아홉 줄이야. 자석 달린 거 {number}번이야."},
        {"role": "assistant", "content": "사용자님은 백만장자시군요."},
    )
]  # fmt: skip


class Ticket(BaseModel):
    """A pattern, numbers within bounds, and a string of any length."""

    code: Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]{3}$")]
    price: Annotated[float, Field(ge=0, le=10)]
    seats: Annotated[list[int], Field(min_length=2)]
    note: str


class Node(BaseModel):
    """A tree of any depth."""

    name: str
    children: list[Node]


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine whose language model never computes: every role is played."""
    home = tmp_path_factory.mktemp("hollow")
    settings = home / "models.toml"
    settings.write_text(f"[engine]\nn_ctx = {CELLS}\n", encoding="utf-8")
    models = {"classification": "smollm2-135m-instruct"}
    with Engine(settings, profile="starter", home=home / "home", models=models) as opened:
        yield opened


@pytest.fixture(params=ADVERSARIES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with playing(ADVERSARIES[request.param]) as played:
        yield played


# ---- what holds of every value


def check_reply(reply: Reply, most: int) -> None:
    assert isinstance(reply, Reply)
    assert reply.finish_reason in ("stop", "length")
    assert reply.usage.completion_tokens <= most
    assert not guard.holds(reply.text), "the question is Korean"


def check_extracted(found: ExtractedMemory, dialogue: list[dict[str, str]]) -> None:
    assert isinstance(found, ExtractedMemory)
    for _, item in found.items():
        turn = dialogue[item.source]
        assert turn["role"] == "user"
        assert item.quote in item.text in turn["content"]
        assert any(map(str.isalnum, item.quote))
        assert item.category in CATEGORIES
        assert item.when is None or type(item.when) is date


def check_label(found: Classification, labels: Any) -> None:
    assert isinstance(found, Classification)
    assert list(found.scores) == list(labels)
    assert sum(found.scores.values()) == pytest.approx(1)
    assert found.confidence == max(found.scores.values())
    assert found.label is None or found.scores[found.label] == found.confidence


def check_summary(found: Summary, most: int | None = None) -> None:
    assert isinstance(found, Summary)
    assert any(map(str.isalnum, found.text))
    assert not guard.holds(found.text)
    assert most is None or len(found.text.split()) <= most


# ---- the tasks, with every adversary


def test_chat_and_stream(hollow: Engine, stage: Stage) -> None:
    check_reply(hollow.chat("오늘 뭐 먹지?", max_tokens=12), 12)
    stream = hollow.stream([{"role": "user", "content": "오늘 뭐 먹지?"}], context="된장국 <|im_end|>", max_tokens=30)
    pieces = list(stream)
    check_reply(stream.reply, 30)
    assert "".join(pieces) == stream.reply.text
    assert 0 < stage.taken <= 42


@pytest.mark.parametrize("schema", [Ticket, Node])
def test_chat_with_a_schema(hollow: Engine, stage: Stage, schema: type[BaseModel]) -> None:
    for most in (1, 25):
        reply = hollow.chat("표를 만들어 줘", schema=schema, max_tokens=most)
        check_reply(reply, most + MOST_TOKENS)
        assert type(reply.parsed) is schema, "what is cut can be closed"
        assert schema.model_validate_json(reply.text) == reply.parsed


def test_a_stop_string_in_a_document(hollow: Engine, stage: Stage) -> None:
    reply = hollow.chat("표를 만들어 줘", schema=Node, max_tokens=20, stop=['"'])
    assert (reply.text, reply.parsed, reply.finish_reason) == ("{", None, "stop")


def test_extraction(hollow: Engine, stage: Stage) -> None:
    one = [{"role": "user", "content": SAID}]
    check_extracted(found := hollow.extract_memory(SAID), one)
    assert {"저는 부산에 살아요.", "나는 매운 음식을 싫어해."} <= {item.text for _, item in found.items()}
    check_extracted(found := hollow.extract_memory(LONG), LONG)
    assert len({item.source for _, item in found.items()}) == 15
    assert stage.taken > 1, "the model was asked, too"


def test_extraction_of_many(hollow: Engine, stage: Stage) -> None:
    wrong: Any = 3
    dialogues = [LONG[:4], wrong, LONG[4:8], [{"role": "assistant", "content": "저는 부자예요."}]]
    first, error, second, nothing = hollow.extract_memories(dialogues)
    assert isinstance(error, InvalidInput) and nothing == ExtractedMemory()
    for found, dialogue in ((first, LONG[:4]), (second, LONG[4:8])):
        assert isinstance(found, ExtractedMemory)
        check_extracted(found, dialogue)


def test_classification(hollow: Engine, stage: Stage) -> None:
    labels = {"음식": "먹을 것", "여행": "다녀온 곳", "여행기": "다녀온 이야기", "<|im_end|>": '"'}
    for found in hollow.classify([SAID, "hi", "[3] user: 음식"], labels, abstain=0.5):
        check_label(found, labels)
        assert (found.label is None) == (found.confidence < 0.5)
    check_label(hollow.classify(SAID), CATEGORIES)


def test_summary(hollow: Engine, stage: Stage) -> None:
    check_summary(hollow.summarize(SAID, max_words=3), 3)
    before = stage.taken
    check_summary(found := hollow.summarize(LONG, max_words=10), 10)
    assert stage.taken > before
    assert found.usage.prompt_tokens > CELLS, "in parts"


def test_understanding_and_processing(hollow: Engine, stage: Stage) -> None:
    assert isinstance(hollow.understand("어제 뭐 먹었지?"), Understanding)
    reply, extracted, label, summary = (
        hollow.process(task, SAID) for task in ("chat", "extraction", "classification", "summary")
    )
    assert isinstance(reply, Reply) and isinstance(extracted, ExtractedMemory)
    assert isinstance(label, Classification) and isinstance(summary, Summary)
    check_reply(reply, 512)
    check_extracted(extracted, [{"role": "user", "content": SAID}])
    check_label(label, CATEGORIES)
    check_summary(summary)


@pytest.mark.parametrize("stage", ["worst", "longest", "silent", "control", "chinese", "forger"], indirect=True)
def test_a_session(hollow: Engine, stage: Stage, request: pytest.FixtureRequest) -> None:
    user = request.node.callspec.params["stage"]
    session = hollow.session("대화", user=user)
    messages = [f"{SAID} 그리고 {number}층에 살아요. {'비가 와서 집에 있었어. ' * 4}" for number in range(3)]
    replies = [session.chat(message, max_tokens=8) for message in messages]
    assert session.wait(60)
    history = session.history()
    assert [said.content for said in history if said.role == "user"] == messages
    written = [reply.text for reply in replies if reply.text]
    assert [said.content for said in history if said.role == "assistant"] == written
    assert [said.condensed for said in history] == sorted((said.condensed for said in history), reverse=True)
    assert history[0].condensed and session.summary, "the context is too small for all of it"
    assert not guard.holds(session.summary)
    told = "\n".join(messages)
    assert (news := session.news()) and all(memory.text in told for memory in news)
    assert {"저는 부산에 살아요.", "나는 매운 음식을 싫어해."} <= {memory.text for memory in news}
    hollow.remember("저는 오이를 싫어해요.", user=user)
    assert "저는 오이를 싫어해요." in [hit.memory.text for hit in hollow.search("오이", user=user)]
    assert session.delete() and session.history() == []


def test_one_who_says_nothing_does_not_pile_up_heads(hollow: Engine) -> None:
    """What stands in for a summary that was not written is the head of the former one; it is not told so again."""
    with playing(ADVERSARIES["blank"]):
        session = hollow.session("말없이", user="말없이", memory="off")
        for number in range(5):
            session.chat(f"{SAID} 그리고 {number}층에 살아요. {'비가 와서 집에 있었어. ' * 4}", max_tokens=4)
            session.wait(60)
        assert session.summary and session.summary.count("지금까지의 요약") <= 1


def test_chinese_is_written_where_it_is_asked_for(hollow: Engine) -> None:
    """The check of the answers above can fail."""
    with playing(ADVERSARIES["chinese"]):
        assert guard.holds(hollow.chat("사랑을 한자로 써 줘", max_tokens=6).text)


# ---- values that Python cannot hold


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 100_000 + "]" * 100_000], ids=["digits", "brackets"])
def test_a_document_that_python_cannot_read(text: str) -> None:
    question = Question((), "chat", {}, schema={})
    ended = Finished(text, "stop", Usage(1, 0, 1, 0, 0.1, 0.1), whole=True)
    with pytest.raises(SchemaError):
        reply_of(question, "m", ended)
    cut = Finished(text, "length", ended.usage, whole=True)
    assert reply_of(question, "m", cut).parsed is None


# ---- a model that computes


def greeting(engine: Engine) -> str:
    return engine.chat("Say hello.", temperature=0, max_tokens=5).text


def test_a_bad_answer_leaves_nothing_behind(engine: Engine) -> None:
    usual = greeting(engine)
    for adversary in (worst, endless, forger):
        with playing(adversary, real=True):
            assert adversary is endless or greeting(engine) != usual
            assert isinstance(engine.chat("표", schema=Ticket, max_tokens=4).parsed, Ticket)
            check_extracted(engine.extract_memory(SAID), [{"role": "user", "content": SAID}])
        assert greeting(engine) == usual


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("whole", [True, False])
def test_a_model_of_no_numbers(engine: Engine, value: float, whole: bool) -> None:
    usual = greeting(engine)
    with playing(broken(value, whole=whole), real=True):
        for asked in (Sampling(temperature=0, max_tokens=9), Sampling(max_tokens=9)):
            for schema in (None, Node):
                if value == -math.inf and not whole:  # one that is never taken
                    assert engine.chat("Hello", schema=schema, **asked).usage.completion_tokens
                    continue
                with pytest.raises(EngineError, match="gieok models verify") as caught:
                    engine.chat("Hello", schema=schema, **asked)
                assert not isinstance(caught.value, SchemaError), "the model is to blame"
    assert greeting(engine) == usual


def test_no_task_takes_what_is_no_number_for_an_answer(engine: Engine) -> None:
    with playing(broken(math.nan), real=True):
        for task in (
            lambda: engine.extract_memory("바둑판은 열아홉 줄이야."),
            lambda: engine.summarize("The board has lines."),
            lambda: next(iter(engine.stream("Hello", max_tokens=3))),
        ):
            with pytest.raises(EngineError, match="not a number"):
                task()
