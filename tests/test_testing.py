"""FakeEngine: what holds of an engine holds of it, and what a test gives it is what comes out."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

import engine as package
from engine import (
    Classification,
    ContextOverflow,
    Embeddings,
    Engine,
    EngineClosed,
    EngineError,
    InvalidInput,
    Memory,
    MemoryNotFound,
    ModelNotFound,
    Reply,
    SchemaError,
    Status,
    Stream,
    Summary,
    errors,
    layout,
)
from engine.answers import Answers
from engine.classifier import Classifier
from engine.errands import Errands
from engine.lending import Lender
from engine.models import Models
from engine.played import ids_of, tokens_of, vector_of
from engine.sessions import Sessions
from engine.testing import Asked, FakeEngine

ROOT = Path(__file__).parents[1]
SCHEMA = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
LONG = "The sea is wide and old, and it speaks to nobody. "


# ---- the contract: every check is made on both


@pytest.fixture(scope="module", params=["fake", pytest.param("starter", marks=pytest.mark.model)])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A fake, then an engine on the starter models."""
    kind: Callable[..., Engine] = FakeEngine if request.param == "fake" else Engine
    with kind(profile="starter", home=tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _usual(request: pytest.FixtureRequest) -> None:
    """Let a fake that several tests share begin each of them anew."""
    if "either" in request.fixturenames:
        shared = request.getfixturevalue("either")
        if isinstance(shared, FakeEngine):
            shared.replies = LONG * 4
            shared.asked.clear()


def shape(value: Any) -> Any:
    """Return the types in a result, of dataclasses with their fields."""
    if hasattr(value, "__dataclass_fields__"):
        return type(value), {each.name: shape(getattr(value, each.name)) for each in fields(value)}
    return type(value)


def test_chat(either: Engine) -> None:
    reply = either.chat("Tell me about the sea.", **SHORT)
    usage = reply.usage
    assert shape(reply) == shape(Reply("", "", "stop", usage))
    assert (reply.model, reply.finish_reason, usage.completion_tokens) == ("smollm2-135m-instruct", "length", 8)
    assert usage.prompt_tokens == len(either.tokens("Tell me about the sea."))
    assert 0 < usage.ttft <= usage.seconds
    json.dumps(reply.to_dict())


def test_a_conversation_and_context_reach_the_model(either: Engine) -> None:
    conversation = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "And now?"}]
    bare, told = (either.chat(conversation, context=context, **SHORT) for context in (None, ["It is seven."]))
    assert told.usage.prompt_tokens > bare.usage.prompt_tokens
    assert either.tokens(conversation) == either.tokens(conversation)


def test_a_stream(either: Engine) -> None:
    with either.stream("Tell me about the sea.", **SHORT) as stream:
        pieces = list(stream)
    assert isinstance(stream, Stream)
    assert "".join(pieces) == stream.reply.text == either.chat("Tell me about the sea.", **SHORT).text


def test_a_cancelled_stream_ends_quietly_and_keeps_its_text(either: Engine) -> None:
    stream = either.stream("Tell me about the sea.", temperature=0, max_tokens=400)
    first = next(stream)
    stream.cancel()
    rest = list(stream)
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.text == first + "".join(rest)


def test_what_is_closed_ends_and_the_next_goes_on(either: Engine) -> None:
    with either.stream("Tell me about the sea.", **SHORT):
        pass
    assert either.chat("Hi.", **SHORT).finish_reason == "length"


def test_a_stop_text_ends_an_answer(either: Engine) -> None:
    whole = either.chat("Tell me about the sea.", **SHORT).text
    stop = whole[3:6]
    reply = either.chat("Tell me about the sea.", stop=stop, **SHORT)
    assert (reply.text, reply.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_a_schema_gives_a_value(either: Engine) -> None:
    class Answer(BaseModel):
        certain: bool

    if isinstance(either, FakeEngine):
        either.replies = ['{"answer": "yes"}', '{"certain": true}']
    assert either.chat("Is water wet?", schema=SCHEMA, temperature=0).parsed["answer"] in ("yes", "no")
    assert isinstance(either.chat("Is water wet?", schema=Answer, temperature=0).parsed, Answer)


WRONG: tuple[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception]], ...] = (
    ("chat", ("",), {}, InvalidInput),
    ("chat", (3,), {}, TypeError),
    ("chat", ("x",), {"colour": "red"}, TypeError),
    ("chat", ("x",), {"max_tokens": 0}, InvalidInput),
    ("chat", ("x",), {"temperature": "hot"}, TypeError),
    ("chat", ("x",), {"model": "nobody"}, ModelNotFound),
    ("chat", ("x",), {"model": "embedding"}, InvalidInput),
    ("chat", ("x",), {"schema": {"not": {"type": "string"}}}, SchemaError),
    ("chat", ("x",), {"schema": 3}, TypeError),
    ("chat", ("rain " * 9000,), {}, ContextOverflow),
    ("stream", ([{"role": "nobody", "content": "x"}],), {}, InvalidInput),
    ("stream", ("x",), {"context": ""}, InvalidInput),
    ("session", ("x",), {"memory": "always"}, InvalidInput),
    ("extract_memory", ([],), {}, InvalidInput),
    ("extract_memory", ("x",), {"at": "yesterday"}, InvalidInput),
    ("classify", ("x", ["one"]), {}, InvalidInput),
    ("classify", ("x", "one"), {}, TypeError),
    ("classify", ("x",), {"abstain": 2}, InvalidInput),
    ("summarize", ("x",), {"max_words": 0}, InvalidInput),
    ("understand", ("",), {}, InvalidInput),
    ("process", ("poetry", "x"), {}, InvalidInput),
    ("embed", ("",), {}, InvalidInput),
    ("embed", ("x",), {"kind": "title"}, InvalidInput),
    ("embed", ("x",), {"heads": ["third"]}, InvalidInput),
    ("remember", ("\0",), {}, InvalidInput),
    ("search", ("x",), {"k": 0}, InvalidInput),
    ("memory", ("nothing",), {}, MemoryNotFound),
    ("history", ("nothing",), {}, MemoryNotFound),
    ("update", ("nothing",), {"text": "x"}, MemoryNotFound),
    ("forget", ("nothing",), {}, MemoryNotFound),
    ("tokens", ("x",), {"model": "nobody"}, ModelNotFound),
    ("load", ("nobody",), {}, ModelNotFound),
    ("plan", ("nobody",), {}, ModelNotFound),
    ("pull", ("nobody",), {}, ModelNotFound),
)


@pytest.mark.parametrize(("method", "args", "keywords", "error"), WRONG)
def test_what_is_wrong_is_refused_alike(
    either: Engine, method: str, args: tuple[Any, ...], keywords: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        getattr(either, method)(*args, **keywords)
    if isinstance(either, FakeEngine):
        assert either.asked == []  # what is refused takes no reply


def test_classify(either: Engine) -> None:
    found = either.classify(["나는 매운 음식을 좋아해", "회의가 세 시에 있어"])
    assert [shape(one) for one in found] == [shape(Classification("", {}, 0.5))] * 2
    assert all(abs(sum(one.scores.values()) - 1) < 1e-6 and one.label in one.scores for one in found)
    one = either.classify("안녕", ["red", "blue"])
    assert set(one.scores) == {"red", "blue"} and one.confidence == max(one.scores.values())
    assert either.classify("안녕", ["red", "blue"], abstain=one.confidence).label == one.label
    assert either.classify([], ["red", "blue"]) == []


def test_embed(either: Engine) -> None:
    found = either.embed(["바다", "산"], kind="query")
    assert isinstance(found, Embeddings) and found.dense is not None
    assert (found.dense.shape, found.dense.dtype, found.sparse, found.multi) == ((2, 384), np.float32, None, None)
    assert np.allclose(np.linalg.norm(found.dense, axis=1), 1, atol=1e-5)
    assert np.allclose(found.dense, either.embed(["바다", "산"], kind="query").dense)


def test_memories_come_and_go(either: Engine, tmp_path: Path) -> None:
    spicy, home = either.remember(["저는 매운 음식을 못 먹어요", "우리 집은 부산이에요"], user="민지")
    assert isinstance(spicy, Memory) and either.memory(spicy.id) == spicy
    assert either.remember(spicy.text, user="민지")[0].id == spicy.id
    hits = either.search("매운 음식", user="민지", explain=True)
    assert hits[0].memory.id == spicy.id and 0 <= hits[0].score <= 1 and hits[0].parts
    assert either.update(home.id, category="personal").category == "personal"
    assert [one.id for one in either.history(home.id)] == [home.id]
    assert either.export(tmp_path / "all.jsonl", user="민지") == 2
    assert either.import_(tmp_path / "all.jsonl").to_dict()["skipped"] == 2
    assert either.backup(tmp_path / "copy.db").is_file()
    either.forget(spicy.id)
    assert [one.id for one in either.memories(user="민지")] == [home.id]
    assert either.forget_all("민지") == 1


def test_async_twins(either: Engine) -> None:
    async def talk() -> tuple[str, list[str], Any]:
        pieces = [piece async for piece in either.astream("Tell me about the sea.", **SHORT)]
        reply, found = await asyncio.gather(
            either.achat("Tell me about the sea.", **SHORT), either.asearch("바다", user="nobody")
        )
        return reply.text, pieces, found

    text, pieces, found = asyncio.run(talk())
    assert "".join(pieces) == text and found == []


def test_models_come_and_go(either: Engine) -> None:
    either.load("chat")
    status = either.status()
    (loaded,) = (one for one in status.loaded if one.name == "smollm2-135m-instruct")
    assert isinstance(status, Status) and "chat" in loaded.roles and loaded.kv_cells == loaded.kv_cells
    assert either.plan("chat").verdict == "loaded"
    either.unload("chat")
    assert "smollm2-135m-instruct" not in {one.name for one in either.status().loaded}
    assert {one["name"] for one in either.catalogue()} >= {"smollm2-135m-instruct", "bge-m3"}


# ---- the contract: the same names, and the same when closed


PUBLIC = sorted(name for name, value in vars(Engine).items() if name[0] != "_" and callable(value))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_method_takes_what_the_engines_takes(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (FakeEngine, Engine))
    plain = [list(each.parameters) for each in (ours, theirs)]
    defaults = [[one.default for one in each.parameters.values()] for each in (ours, theirs)]
    assert plain[0] == plain[1] and defaults[0] == defaults[1]
    assert inspect.iscoroutinefunction(getattr(FakeEngine, name)) is inspect.iscoroutinefunction(getattr(Engine, name))


def test_it_is_made_as_an_engine_is_and_has_all_its_parts(tmp_path: Path) -> None:
    ours, theirs = (inspect.signature(kind).parameters for kind in (FakeEngine, Engine))
    assert [name for name in ours if name in theirs] == list(theirs)
    assert all((ours[name].kind, ours[name].default) == (one.kind, one.default) for name, one in theirs.items())
    with FakeEngine(home=tmp_path) as fake, Engine(home=tmp_path) as real:
        parts = vars(real)
        assert {name: type(value).__mro__ for name, value in parts.items()}.keys() <= vars(fake).keys()
        assert all(isinstance(vars(fake)[name], type(value)) for name, value in parts.items())
        assert all(vars(fake)[name] is not None for name in parts if parts[name] is not None)


def test_no_part_of_the_real_wiring_is_left_in_it() -> None:
    with FakeEngine() as fake:
        wired = [getattr(fake, f"_{name}") for name in "answers classifier errands lender models sessions".split()]
        for part in [*wired, fake._pool]:
            for name, value in vars(part).items():
                for own in wired:
                    if isinstance(value, (Answers, Classifier, Errands, Lender, Models, Sessions)):
                        assert type(value) is not type(own) or value is own, f"{type(part).__name__}.{name}"
                        assert type(value) is Sessions or type(value).__module__ != type(value).__mro__[1].__module__


def test_every_method_of_a_closed_one_raises() -> None:
    fake = FakeEngine()
    fake.close()
    fake.close()
    for name in PUBLIC:
        method = getattr(fake, name)
        if name in ("close", "aclose") or inspect.iscoroutinefunction(method) or name.startswith("astream"):
            continue
        required = [
            one
            for one in inspect.signature(method).parameters.values()
            if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
        ]
        with pytest.raises(EngineClosed):
            method(*["chat"] * len(required))


# ---- the same code as an engine's, whose own tests take it to the starter models


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    with FakeEngine(home=tmp_path / "home") as opened:
        yield opened


def test_a_session_goes_on_and_finds_memories(fake: FakeEngine) -> None:
    fake.replies = LONG
    session = fake.session("수다", user="민수")
    reply = session.chat("제 이름은 김민수예요.", **SHORT)
    assert "".join(session.stream("안녕?", **SHORT)) == session.history()[-1].content
    assert [said.role for said in session.history()] == ["user", "assistant", "user", "assistant"]
    assert isinstance(reply, Reply) and reply.memories == ()
    assert fake.session("수다", user="민수").history() == session.history()
    assert session.wait(60) and [one.text for one in session.news()] == ["제 이름은 김민수예요."]
    assert session.delete() and session.history() == []
    assert [one.text for one in fake.memories(user="민수")] == ["제 이름은 김민수예요."]


def test_tasks(fake: FakeEngine) -> None:
    at = datetime(2026, 3, 11, 9)
    found = fake.extract_memory("어제 병원에 갔어요. 저는 서울에 살아요.", at=at)
    assert {item.quote for _, item in found.items()} >= {"어제 병원에 갔어요", "저는 서울에 살아요"}
    assert list(fake.extract_memories(["어제 병원에 갔어요. 저는 서울에 살아요."], at=at)) == [found]
    assert fake.understand("제가 언제 병원에 갔죠?").intent == "memory_query"
    summary = fake.summarize("오늘은 비가 왔다. 그래서 집에 있었다. " * 4, max_words=12)
    assert isinstance(summary, Summary) and 0 < len(summary.text.split()) <= 12
    kinds = [type(fake.process(task, "저는 서울에 살아요.")) for task in ("extraction", "classification", "summary")]
    assert kinds == [type(found), Classification, Summary]


# ---- replies


def test_a_text_is_every_answer(fake: FakeEngine) -> None:
    fake.replies = "그래요."
    assert [fake.chat("하나").text, fake.chat("둘").text] == ["그래요."] * 2


def test_texts_are_taken_in_turn_and_run_out(fake: FakeEngine) -> None:
    fake.replies = ["하나", "둘"]
    assert [fake.chat("?").text for _ in range(2)] == ["하나", "둘"]
    with pytest.raises(AssertionError, match="holds 2"):
        fake.chat("?")
    fake.replies = ["셋"]
    assert fake.chat("?").text == "셋"


def test_a_dict_answers_the_last_message_whatever_is_told_before_it(fake: FakeEngine) -> None:
    fake.replies = {"안녕?": "안녕!", "또\n안녕?": "또!"}
    assert fake.chat([{"role": "user", "content": "뭐"}, {"role": "user", "content": "안녕?"}]).text == "안녕!"
    assert fake.chat("안녕?", context="참고").text == "안녕!"
    assert fake.chat("또\n안녕?").text == "또!"
    assert fake.session(memory="off").chat("안녕?").text == "안녕!"
    with pytest.raises(AssertionError, match="no answer") as raised:
        fake.chat("철수야 안녕?")
    assert "철수" not in str(raised.value)


def test_a_function_answers_what_it_is_told(fake: FakeEngine) -> None:
    fake.replies = lambda messages: f"{messages[-1]['role']}: {messages[-1]['content']}"
    assert fake.chat("안녕?").text == "user: 안녕?"

    def fails(messages: list[dict[str, str]]) -> str:
        raise errors.OutOfBudget("too large", needed=2, available=1)

    fake.replies = fails
    with pytest.raises(errors.OutOfBudget):
        fake.chat("안녕?")
    assert fake.status().loaded[0].requests == 0


def test_a_function_may_use_the_engine_itself(fake: FakeEngine) -> None:
    fake.remember("저는 부산에 살아요", judge=False)
    fake.replies = lambda messages: fake.search(messages[-1]["content"])[0].memory.text
    assert fake.chat("부산").text == "저는 부산에 살아요"


def test_a_reply_that_is_no_text_is_refused(fake: FakeEngine) -> None:
    fake.replies = lambda messages: 3  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="int"):
        fake.chat("안녕?")


@pytest.mark.parametrize(
    ("schema", "reply", "follows"),
    [
        (SCHEMA, '{"answer":"no"}', True),
        (SCHEMA, '{"answer": "maybe"}', False),
        (SCHEMA, "no", False),
        ({**SCHEMA, "allOf": [{"required": ["why"]}]}, '{"answer": "no"}', False),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "minimum": 2}}}, "2", True),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "minimum": 2}}}, "1", False),
        (
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array"}}, "required": ["a"]},
            '{"b": [1], "a": "가"}',
            True,
        ),
    ],
)
def test_under_a_schema_only_what_follows_it_is_an_answer(
    fake: FakeEngine, schema: dict[str, Any], reply: str, follows: bool
) -> None:
    fake.replies = reply
    if follows:
        assert fake.chat("?", schema=schema).parsed == json.loads(reply)
    else:
        with pytest.raises(SchemaError, match="replies="):
            fake.chat("?", schema=schema)


def test_an_answer_that_is_cut_is_no_value(fake: FakeEngine) -> None:
    fake.replies = '{"answer": "no"}'
    reply = fake.chat("?", schema=SCHEMA, max_tokens=2)
    assert (reply.finish_reason, reply.parsed, reply.usage.completion_tokens) == ("length", None, 2)


def test_what_was_asked_is_there_to_look_at(fake: FakeEngine) -> None:
    fake.chat([{"role": "system", "content": "짧게."}, {"role": "user", "content": "뭐?"}], context=["일곱"], seed=3)
    fake.replies = '{"answer": "no"}'
    list(fake.stream("맞아?", schema=SCHEMA, model="summary"))
    first, second = fake.asked
    assert first.messages[0] == {"role": "system", "content": "짧게."}
    assert "일곱" in first.text and first.text.endswith("\n뭐?")
    assert (first.context, first.schema, first.model, first.sampling) == (["일곱"], None, "chat", {"seed": 3})
    assert second == Asked(({"role": "user", "content": "맞아?"},), None, SCHEMA, "summary", {})


def test_a_session_shows_which_memories_were_told(fake: FakeEngine) -> None:
    fake.remember("저는 땅콩 알레르기가 있어요", judge=False)
    reply = fake.session().chat("제가 무슨 알레르기가 있죠?")
    assert [one.text for one in reply.memories] == ["저는 땅콩 알레르기가 있어요"]
    assert "땅콩" in fake.asked[-1].text
    fake.wait(60)
    assert len(fake.asked) == 1  # the background asks for no answers


def test_tasks_take_no_replies(fake: FakeEngine) -> None:
    fake.replies = []
    fake.summarize("오늘은 비가 왔다. 그래서 집에 있었다.")
    fake.extract_memory("오늘은 비가 왔다. 아마 내일도 올 것 같다. 나는 서울에 산다.")
    assert fake.asked == []


def test_a_pause_lets_a_session_be_cancelled_between_two_pieces(tmp_path: Path) -> None:
    with FakeEngine(home=tmp_path, replies="하나 둘 셋 넷 다섯", pause=0.2) as slow:
        stream = slow.session(memory="off").stream("세어 봐")
        assert next(stream) == "하나"
        stream.cancel()
        assert (stream.reply.text, stream.reply.finish_reason) == ("하나", "cancelled")
        assert slow.session().history()[-1].content == "하나"


def test_answers_are_written_side_by_side(fake: FakeEngine) -> None:
    fake.replies = ["하나 둘", "one two"]
    first, second = fake.stream("?"), fake.stream("?")
    assert [next(first), next(second), next(first), next(second)] == ["하나", "one", " 둘", " two"]
    assert (first.reply.text, second.reply.text) == ("하나 둘", "one two")


def test_an_answer_goes_no_further_than_it_is_read(fake: FakeEngine) -> None:
    fake.replies = ["하나 둘 셋", "one two three"]
    first, second = fake.stream("?"), fake.stream("?")
    assert (next(first), next(second), first.reply.text) == ("하나", "one", "하나 둘 셋")
    second.cancel()
    assert (list(second), second.reply.text, second.reply.finish_reason) == ([], "one", "cancelled")


def test_a_stream_ends_when_its_model_or_engine_goes(fake: FakeEngine) -> None:
    first = fake.stream("?")
    next(first)
    fake.unload("chat")
    with pytest.raises(EngineClosed):
        list(first)
    second = fake.stream("?")
    fake.close()
    with pytest.raises(EngineClosed):
        list(second)


def test_a_stream_that_nobody_reads_keeps_its_model(tmp_path: Path) -> None:
    config = tmp_path / "models.toml"
    config.write_text('[engine]\nkeep_alive = "0s"\n', encoding="utf-8")
    with FakeEngine(config, replies="하나 둘") as fake:
        stream = fake.stream("?")
        assert next(stream) == "하나"
        fake.classify("글", ["red", "blue"])
        assert stream.reply.text == "하나 둘"
        for _ in range(100):  # who comes next finds it gone
            if not fake.status().loaded:
                break
            threading.Event().wait(0.05)
        assert fake.status().loaded == ()


# ---- labels


def test_labels_of_a_dict_and_of_a_function(fake: FakeEngine) -> None:
    fake.labels = {"세 시 회의": "work"}
    sure = fake.classify("세 시 회의")
    assert (sure.label, sure.confidence) == ("work", 1.0) and sum(sure.scores.values()) == 1
    assert fake.classify("전혀 다른 글").label is not None
    fake.labels = lambda text: "red" if "빨" in text else None
    red, unsure = fake.classify(["빨강", "파랑"], ["red", "blue"], abstain=0.6)
    assert (red.label, unsure.label, unsure.scores) == ("red", None, {"red": 0.5, "blue": 0.5})


def test_a_label_that_is_no_category_is_a_mistake_of_the_test(fake: FakeEngine) -> None:
    fake.labels = {"글": "purple"}
    with pytest.raises(AssertionError, match="red, blue"):
        fake.classify("글", ["red", "blue"])
    fake.labels = lambda text: {"a": "red"}[text]
    with pytest.raises(KeyError):  # its own mistake is not taken for a text that it does not name
        fake.classify("글", ["red", "blue"])


def test_without_labels_shared_letters_decide(fake: FakeEngine) -> None:
    labels = {"food": "음식, 요리, 맛", "travel": "여행, 비행기, 호텔"}
    assert [one.label for one in fake.classify(["음식이 맛있다", "비행기 표"], labels)] == ["food", "travel"]


# ---- what is played


def test_tokens_are_the_text_and_vectors_the_letters() -> None:
    text = "  저는\n매운 음식을 못 먹어요👩‍👩‍👧 supercalifragilistic "
    assert "".join(tokens_of(text)) == text and all(len(one.strip()) <= 4 for one in tokens_of(text))
    query, near, far = (vector_of(one, 384) for one in ("매운 음식", "매운 음식을 못 먹어요", "기차를 탔다"))
    assert query @ near > 0.4 > abs(query @ far) * 2
    for blank in (" ", "가", "é", "e\u0301"):
        assert abs(float(np.linalg.norm(vector_of(blank, 16))) - 1) < 1e-6
    assert np.array_equal(vector_of("é", 16), vector_of("e\u0301", 16))


def test_vectors_and_tokens_are_the_same_everywhere() -> None:
    assert ids_of("안녕 sea") == [40466538, 1979607047]
    assert np.flatnonzero(vector_of("바다", 32)).tolist() == [0, 1, 6, 11, 20, 21]


def test_all_heads_that_a_model_has(tmp_path: Path) -> None:
    config = tmp_path / "models.toml"
    config.write_text('[models."bge-m3"]\nheads = ["dense", "sparse", "multi"]\n', encoding="utf-8")
    with FakeEngine(config) as fake:
        found = fake.embed("바다와 산")
        assert found.dense is not None and found.sparse and found.multi
        assert (found.dense.shape, len(found.sparse[0]), found.multi[0].shape) == ((1, 1024), 2, (2, 1024))


# ---- where it is, and what it leaves


def test_it_meets_nobodys_memories_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIEOK_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    fake = FakeEngine()
    fake.remember("저는 부산에 살아요", judge=False)
    assert not (tmp_path / "mine").exists() and any((tmp_path / "tmp").iterdir())
    fake.close()
    assert not any((tmp_path / "tmp").iterdir())
    fake = FakeEngine()
    fake.remember("저는 부산에 살아요", judge=False)
    del fake
    assert not any((tmp_path / "tmp").iterdir())


def test_a_home_that_was_named_stays_and_goes_on(tmp_path: Path) -> None:
    with FakeEngine(home=tmp_path) as fake:
        fake.remember("저는 부산에 살아요", judge=False)
    with FakeEngine(home=tmp_path) as again:
        assert again.search("부산")[0].memory.text == "저는 부산에 살아요"


def test_nothing_is_fetched(fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "models"))
    assert fake.pull("chat") == [layout.models_dir() / "qwen2.5-7b-instruct"]
    assert not (tmp_path / "models").exists()


def python(code: str, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "GIEOK_MODELS": str(tmp_path / "none")}
    command = [sys.executable, *options, *(["-c", code] if code else [])]
    return subprocess.run(
        command, check=False, cwd=tmp_path, env=env, capture_output=True, text=True, encoding="utf-8", timeout=120
    )


def test_no_model_and_none_of_its_libraries_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom engine.testing import FakeEngine\n"
        "with FakeEngine(replies='{}') as engine:\n"
        "    session = engine.session()\n    session.chat('저는 서울에 살아요. 오늘은 비가 온다.')\n"
        "    engine.chat('x', schema={'type': 'object'})\n    engine.classify('글'); engine.summarize('글이다. 글이다.')\n"
        "    assert engine.wait(100) and engine.search('서울'), 'nothing was found'\n"
        "heavy = 'llama_cpp torch transformers sentence_transformers openvino faiss httpx2 huggingface_hub'\n"
        "print([name for name in heavy.split() if name in sys.modules])\n"
    )
    ran = python(code, tmp_path)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr


# ---- the fixture


def test_the_plugin_imports_nothing_of_ours_before_it_is_used(tmp_path: Path) -> None:
    ran = python("import sys, pytest_gieok\nprint([n for n in sys.modules if n.split('.')[0] == 'engine'])", tmp_path)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr


def test_the_fixture_in_somebodys_suite(tmp_path: Path) -> None:
    (tmp_path / "test_program.py").write_text(
        "def greet(engine):\n    return engine.chat('안녕하세요').text\n\n"
        "def test_greet(fake_engine, tmp_path):\n    fake_engine.replies = '반가워요.'\n"
        "    assert greet(fake_engine) == '반가워요.'\n    assert fake_engine.asked[0].text == '안녕하세요'\n"
        "    fake_engine.remember('기억', judge=False)\n    assert (tmp_path / 'gieok').is_dir()\n",
        encoding="utf-8",
    )
    # by its entry point; and an own package of that name does no harm to those who do not use it
    plugin = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    ran = python("", tmp_path, *plugin, "test_program.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/__init__.py").write_text("speed = 3\n", encoding="utf-8")
    (tmp_path / "test_car.py").write_text(
        "from engine import speed\n\ndef test_speed():\n    assert speed == 3\n", encoding="utf-8"
    )
    ran = python("", tmp_path, *plugin, "test_car.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_its_errors_are_the_engines() -> None:
    assert issubclass(FakeEngine, Engine) and issubclass(EngineError, Exception)
    assert "testing" not in package.__all__
