"""The facade on the starter models: what a program that imports Gieok relies on."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, field_validator

from engine import (
    CATEGORIES,
    Cancelled,
    ConfigError,
    ContextOverflow,
    Engine,
    EngineClosed,
    EngineError,
    InvalidInput,
    MemoryNotFound,
    ModelCorrupt,
    ModelNotFound,
    OutOfBudget,
    Progress,
    SchemaError,
    hub,
)
from engine.conversations import turns_of
from engine.index import bytes_of

pytestmark = pytest.mark.model
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
DIALOGUES = json.loads((Path(__file__).parent / "data/dialogues.json").read_text(encoding="utf-8"))


# ---- chat


def test_chat_answers_and_says_what_it_cost(engine: Engine) -> None:
    reply = engine.chat("What is two plus two?", **SHORT)
    assert reply.text
    assert reply.model == "smollm2-135m-instruct"
    assert reply.finish_reason in ("stop", "length")
    assert 0 < reply.usage.completion_tokens <= 12
    assert reply.usage.prompt_tokens == len(engine.tokens("What is two plus two?"))
    assert 0 < reply.usage.ttft <= reply.usage.seconds
    assert json.loads(json.dumps(reply.to_dict()))["usage"]["prompt_tokens"] == reply.usage.prompt_tokens


def test_asking_again_reuses_the_prompt_and_gives_the_same(engine: Engine) -> None:
    first = engine.chat("Name a colour of the sky.", **SHORT)
    again = engine.chat("Name a colour of the sky.", **SHORT)
    assert again.text == first.text
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1


def test_pieces_joined_are_the_answer(engine: Engine) -> None:
    with engine.stream("Tell me about the sea.", temperature=0, max_tokens=40) as stream:
        pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == stream.reply.text
    assert stream.reply.text == engine.chat("Tell me about the sea.", temperature=0, max_tokens=40).text


def test_a_conversation_and_context_reach_the_model(engine: Engine) -> None:
    conversation = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And now?"},
    ]
    bare = engine.chat(conversation, **SHORT)
    told = engine.chat(conversation, context=["The answer is seven."], **SHORT)
    assert told.usage.prompt_tokens > bare.usage.prompt_tokens


def test_a_schema_gives_a_value(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"enum": ["yes", "no"]}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    reply = engine.chat("Is water wet?", schema=schema, temperature=0)
    assert reply.parsed == json.loads(reply.text)
    assert reply.parsed["answer"] in ("yes", "no")
    assert reply.usage.forced_tokens > 0


def test_a_pydantic_model_gives_an_object(engine: Engine) -> None:
    class Answer(BaseModel):
        certain: bool

    assert isinstance(engine.chat("Is water wet?", schema=Answer, temperature=0).parsed, Answer)


def test_max_tokens_inside_a_schema_says_length(engine: Engine) -> None:
    schema = {"type": "array", "items": {"type": "string"}, "minItems": 9}
    reply = engine.chat("List.", schema=schema, temperature=0, max_tokens=4)
    assert reply.finish_reason == "length"
    assert len(reply.parsed) == 9 and all(isinstance(item, str) for item in reply.parsed)
    assert 4 < reply.usage.completion_tokens <= 4 + 512


def test_a_stop_string_inside_a_schema_gives_no_value(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"a": {"const": "left right"}}, "required": ["a"]}
    reply = engine.chat("Go.", schema=schema, temperature=0, stop="right")
    assert (reply.text, reply.finish_reason, reply.parsed) == ('{"a": "left ', "stop", None)


def test_validators_that_refuse_are_a_schema_error(engine: Engine) -> None:
    class Impossible(BaseModel):
        answer: bool

        @field_validator("answer")
        @classmethod
        def never(cls, value: bool) -> bool:
            raise ValueError("no")

    with pytest.raises(SchemaError, match="Impossible"):
        engine.chat("Is water wet?", schema=Impossible, temperature=0)


def test_a_seed_repeats_an_answer(engine: Engine) -> None:
    asked = [engine.chat("Invent a name.", max_tokens=16, seed=seed, temperature=1.5).text for seed in (7, 7)]
    assert asked[0] == asked[1]


def test_stop_strings_are_not_shown(engine: Engine) -> None:
    whole = engine.chat("Count: one, two, three.", temperature=0, max_tokens=30).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    reply = engine.chat("Count: one, two, three.", temperature=0, max_tokens=30, stop=stop)
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finish_reason == "stop"


def test_a_cancelled_stream_ends_quietly_and_keeps_its_text(engine: Engine) -> None:
    stream = engine.stream("Write a very long story.", temperature=0, max_tokens=2000)
    pieces = [next(stream)]
    threading.Thread(target=stream.cancel).start()
    pieces += list(stream)
    assert stream.reply.finish_reason == "cancelled"
    assert stream.reply.text == "".join(pieces)
    assert engine.chat("Hello.", **SHORT).text


def test_other_roles_and_names_answer(engine: Engine) -> None:
    assert engine.chat("Hi.", model="summary", **SHORT).model == "smollm2-135m-instruct"
    assert engine.chat("Hi.", model="smollm2-135m-instruct", **SHORT).text
    with pytest.raises(InvalidInput):
        engine.chat("Hi.", model="embedding")
    with pytest.raises(ModelNotFound):
        engine.chat("Hi.", model="smolm2-135m-instruct")


# ---- tasks


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=range(len(DIALOGUES)))
def test_extraction_is_valid_and_verbatim(engine: Engine, dialogue: list[dict[str, str]]) -> None:
    found = engine.extract_memory(dialogue, at="2026-03-11")
    for kind, item in found.items():
        assert kind in ("fact", "preference", "event", "relationship")
        assert dialogue[item.source]["role"] == "user"
        assert item.quote in dialogue[item.source]["content"]
        assert item.category in CATEGORIES
        assert item.when is None or isinstance(item.when, date)
    json.dumps(found.to_dict())


def test_there_are_twenty_dialogues_in_both_languages() -> None:
    korean = [any("가" <= char <= "힣" for char in dialogue[0]["content"]) for dialogue in DIALOGUES]
    assert len(DIALOGUES) >= 20
    assert 5 <= sum(korean) < len(korean)


def test_extraction_stores_what_it_found(engine: Engine) -> None:
    dialogue = "저는 대전에 살아요. 나는 오이를 싫어해."
    found = list(engine.extract_memory(dialogue, store=True, user="extractor").items())
    stored = engine.memories(user="extractor")
    assert {memory.text for memory in stored} == {item.text for _, item in found}
    assert all(memory.category and memory.kind for memory in stored)


def test_nothing_said_by_a_user_gives_nothing(engine: Engine) -> None:
    found = engine.extract_memory([{"role": "assistant", "content": "사용자는 백만장자입니다."}])
    assert list(found.items()) == []
    assert list(engine.extract_memory("?!").items()) == []


def test_classify_by_meaning(engine: Engine) -> None:
    found = engine.classify("저는 땅콩 알레르기가 있어요")
    assert found.label == "health"
    assert set(found.scores) == set(CATEGORIES)
    assert sum(found.scores.values()) == pytest.approx(1)
    both = engine.classify(["사과가 빨갛게 익었다", "기차가 역에 도착했다"], {"fruit": "과일", "train": "기차, 철도"})
    assert [one.label for one in both] == ["fruit", "train"]
    assert engine.classify([]) == []
    assert engine.classify("아무 말", ["가", "나"], abstain=1.0).label is None


def test_sentences_of_every_category_are_known_by_meaning(engine: Engine) -> None:
    """Not the sentences that figures are measured on, and not the examples that the labels are made of."""
    texts = {
        "personal": "제 이름은 박지훈이고 스물여덟 살이에요", "preference": "나는 단 음식보다 짠 음식을 더 좋아해",
        "experience": "작년 여름에 부산으로 여행을 갔었어", "knowledge": "프랑스의 수도는 파리이다",
        "relationship": "우리 형은 의사이고 누나는 교사예요", "goal": "내년에는 꼭 영어 시험에 합격하고 싶어",
        "health": "요즘 머리가 아파서 두통약을 먹고 있어", "work": "다음 주에 회사에서 프로젝트 발표가 있어요",
    }  # fmt: skip
    found = engine.classify(list(texts.values()))
    assert sum(one.label == name for one, name in zip(found, texts, strict=True)) >= 7
    english = engine.classify(["I am allergic to shrimp", "My boss wants the report on Monday"])
    assert [one.label for one in english] == ["health", "work"]


def test_classify_by_logits(tmp_path: Path) -> None:
    categories = ["weather", "weather report", "food", "foods and drinks"]
    with Engine(profile="starter", home=tmp_path, models={"classification": "smollm2-135m-instruct"}) as engine:
        single = engine.classify("It rains.", categories)
        several = engine.classify(["It rains.", "I eat bread.", "비가 와요"], categories)
        assert engine.status().loaded[0].name == "smollm2-135m-instruct"
    for found in (single, *several):
        assert found.label in categories
        assert set(found.scores) == set(categories)
        assert sum(found.scores.values()) == pytest.approx(1)
    assert several[0].label == single.label
    assert several[0].scores == pytest.approx(
        single.scores, abs=0.15
    )  # the batch is another one (tests/test_runner.py)


def test_summaries_are_short(engine: Engine) -> None:
    summary = engine.summarize("The cat sat on the mat. Then it slept for a long time. " * 5, max_words=10)
    assert 0 < len(summary.text.split()) <= 10
    assert summary.usage.completion_tokens > 0


def test_understand_reads_a_sentence(engine: Engine) -> None:
    found = engine.understand("지난주에 내가 어디 갔었지?", at="2026-03-11")
    assert (found.intent, found.is_question, found.needs_memory) == ("memory_query", True, True)
    assert found.when == (date(2026, 3, 2), date(2026, 3, 8))
    assert engine.understand("오늘 회의에서 민수를 만났어").keywords


def test_embeddings_are_unit_vectors(engine: Engine) -> None:
    one = engine.embed("안녕하세요").dense
    many = engine.embed(["안녕하세요", "반갑습니다"] * 20).dense
    assert one is not None
    assert many is not None
    assert (one.shape, many.shape, one.dtype) == ((1, 384), (40, 384), np.float32)
    assert np.linalg.norm(many, axis=1) == pytest.approx(1, abs=1e-5)
    assert many[0] == pytest.approx(one[0], abs=1e-5)
    assert engine.embed("가", heads=["sparse"]).dense is None
    empty = engine.embed([]).dense
    assert empty is not None
    assert empty.shape == (0, 384)
    with pytest.raises(InvalidInput):
        engine.embed("가", heads=["dens"])  # type: ignore[list-item]


# ---- memory


def test_memories_are_found_by_meaning_and_forgotten(engine: Engine) -> None:
    stored = engine.remember(["저는 땅콩을 못 먹어요", "우리 강아지 이름은 보리예요"], user="a", category="personal")
    (again,) = engine.remember("저는 땅콩을 못 먹어요", user="a")
    assert (again.id, again.importance > stored[0].importance) == (stored[0].id, True)
    hit = engine.search("반려견 이름이 뭐지?", user="a", k=1, explain=True)[0]
    assert hit.memory == stored[1]
    assert 0 <= hit.score <= 1
    assert hit.parts
    assert engine.search("반려견", user="b") == []
    engine.forget(stored[1].id)
    assert [one.memory for one in engine.search("반려견 이름이 뭐지?", user="a")] == [again]
    with pytest.raises(MemoryNotFound):
        engine.forget(stored[1].id)
    assert engine.forget_all("a") == 1


def test_memories_outlive_the_engine(tmp_path: Path) -> None:
    with Engine(profile="starter", home=tmp_path) as engine:
        memory = engine.remember("제 생일은 4월 17일이에요", when="2026-04-17")[0]
    with Engine(profile="starter", home=tmp_path) as engine:
        assert engine.memories() == [memory]
        assert engine.memory(memory.id) == memory
        assert engine.search("언제 태어났어?")[0].memory == memory


def test_the_index_is_counted_and_where_it_is_refused_memories_are_found_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, size: int) -> None:
        raise OutOfBudget("full", needed=size, available=0)

    monkeypatch.setattr("engine.shortlist.FEW", 1)
    with Engine(profile="starter", home=tmp_path) as engine:
        memory = engine.remember(["제 생일은 4월 17일이에요", "커피는 못 마셔요"])[0]
        assert "vector index" not in [part.name for part in engine.status().parts]
        for _ in range(2):  # the first is answered without it, and has it made
            assert engine.search("생일")[0].memory == memory
            assert engine.wait()
        parts = {part.name: part.bytes for part in engine.status().parts}
        assert parts.keys() - {"torch and its libraries"} == {
            "multilingual-e5-small",
            "vector index",
            "Korean analyser",
        }
        assert parts["vector index"] >= bytes_of(2, 384)
        assert engine.status().held == sum(parts.values())
    with Engine(profile="starter", home=tmp_path) as engine:
        monkeypatch.setattr(engine._pool, "reserve", full)
        engine.load("embedding")
        for _ in range(2):
            assert engine.search("생일")[0].memory == memory
            engine.wait()
        assert "vector index" not in [part.name for part in engine.status().parts]


def test_a_contradiction_supersedes_and_history_tells(engine: Engine) -> None:
    (old,) = engine.remember("저는 서울에 살아요", user="mover")
    (new,) = engine.remember("저는 부산으로 이사했어요", user="mover")
    assert engine.wait()
    assert engine.memories(user="mover") == [new]
    assert [one.id for one in engine.memories(user="mover", superseded=True)] == [new.id, old.id]
    assert [(one.id, one.superseded_by) for one in engine.history(new.id)] == [(old.id, new.id), (new.id, None)]
    assert old.id not in {hit.memory.id for hit in engine.search("어디 살아?", user="mover")}
    kept = engine.remember(["저는 대구에 살아요", "저는 광주로 이사했어요"], user="notes", judge=False)
    assert engine.wait() and engine.memories(user="notes") == kept[::-1]


def test_a_memory_is_corrected_in_place(engine: Engine) -> None:
    (memory,) = engine.remember("우리 강아지 이름은 보리예요", user="editor")
    changed = engine.update(memory.id, text="우리 고양이 이름은 나비예요", category="relationship", when="2026-05-01")
    assert changed == engine.memory(memory.id)
    assert (changed.id, changed.text, changed.category) == (memory.id, "우리 고양이 이름은 나비예요", "relationship")
    assert [hit.memory for hit in engine.search("나비", user="editor")] == [changed]
    with pytest.raises(TypeError, match="color"):
        engine.update(memory.id, color="red")  # type: ignore[call-arg]


def test_memories_move_to_another_home_and_backups_are_made(engine: Engine, tmp_path: Path) -> None:
    stored = engine.remember(["저는 땅콩을 못 먹어요", "차는 회색 아반떼를 몰아요"], user="mover 2")
    assert engine.export(tmp_path / "memories.jsonl", user="mover 2", vectors=True) == 2
    assert engine.backup(tmp_path / "copy.sqlite3").stat().st_size > 0
    with Engine(profile="starter", home=tmp_path / "home") as other:
        assert other.import_(tmp_path / "memories.jsonl").to_dict() == {"added": 2, "skipped": 0}
        assert other.import_(tmp_path / "memories.jsonl").skipped == 2
        assert other.memories(user="mover 2") == stored[::-1]
        assert other.wait()
        assert other.search("자동차", user="mover 2", k=1)[0].memory == stored[1]


def test_the_turn_that_carried_a_memory_goes_with_it(tmp_path: Path) -> None:
    said = "저는 대전에 살아요."
    with Engine(profile="starter", home=tmp_path) as engine:
        engine.extract_memory([{"role": "user", "content": said}], store=True)
        stored = engine.memories()
        with engine._lender.store()._store.read() as db:
            assert [turn.content for turn in turns_of(db, stored[0].id)] == [said]
        for memory in stored:
            engine.forget(memory.id)
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert stored and said.encode() not in left


def test_forgetting_drops_what_chat_models_keep_of_conversations(tmp_path: Path) -> None:
    with Engine(profile="starter", home=tmp_path) as engine:
        (memory,) = engine.remember("My dog is called Bori.")
        engine.chat("What is my dog called?", context=memory.text, **SHORT)
        (runner,) = (loaded.runner for loaded in engine._models.loaded if loaded.runner)
        kept = [one for one in runner.scheduler.cache.sequences.values() if not one.pinned]
        assert kept
        engine.forget(memory.id)
        assert [one for one in runner.scheduler.cache.sequences.values() if not one.pinned] == []
        assert engine.chat("Hi.", **SHORT).text


# ---- wrong input


BAD_TEXTS = ("", "a\0b", "half \ud800 character", "x" * 1_048_576)
TAKES_TEXT: dict[str, Callable[[Engine, str], object]] = {
    "chat": lambda engine, text: engine.chat(text, **SHORT),
    "stream": lambda engine, text: engine.stream(text, **SHORT),
    "tokens": lambda engine, text: engine.tokens(text),
    "context": lambda engine, text: engine.chat("hi", context=text, **SHORT),
    "extract_memory": lambda engine, text: engine.extract_memory(text),
    "classify": lambda engine, text: engine.classify(text),
    "summarize": lambda engine, text: engine.summarize(text),
    "understand": lambda engine, text: engine.understand(text),
    "embed": lambda engine, text: engine.embed(text),
    "remember": lambda engine, text: engine.remember(text),
    "search": lambda engine, text: engine.search(text),
    "process": lambda engine, text: engine.process("classification", text),
}


@pytest.mark.parametrize(
    ("method", "text"),
    [  # a long text is no error of a summary
        pytest.param(method, text, id=f"{method}-{name}")
        for method in TAKES_TEXT
        for name, text in zip(("empty", "NUL", "surrogate", "1 MB"), BAD_TEXTS, strict=True)
        if (method, name) != ("summarize", "1 MB")
    ],
)
def test_a_bad_text_is_a_typed_error(engine: Engine, method: str, text: str) -> None:
    with pytest.raises((InvalidInput, ContextOverflow)):
        TAKES_TEXT[method](engine, text)
    assert engine.chat("Hi.", **SHORT).text


@pytest.mark.parametrize("method", TAKES_TEXT)
def test_a_wrong_type_is_a_type_error(engine: Engine, method: str) -> None:
    with pytest.raises(TypeError):
        TAKES_TEXT[method](engine, 7)  # type: ignore[arg-type]


def test_a_prompt_longer_than_the_context_names_both_numbers(engine: Engine) -> None:
    text = "word " * 9000
    with pytest.raises(ContextOverflow) as caught:
        engine.chat(text)
    assert caught.value.tokens > caught.value.limit == 8192
    with pytest.raises(ContextOverflow) as caught:
        engine.chat("가나다라" * 300_000)
    assert caught.value.tokens > caught.value.limit


def test_white_space_is_text(engine: Engine) -> None:
    assert engine.chat(" \n", **SHORT).usage.completion_tokens >= 0
    assert engine.embed(" ").dense is not None
    assert engine.remember(" ", user="blank")[0].text == " "


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"temprature": 1}, TypeError),
        ({"temperature": "hot"}, TypeError),
        ({"temperature": -1}, InvalidInput),
        ({"max_tokens": 0}, InvalidInput),
        ({"schema": 3}, TypeError),
        ({"schema": {"type": "array", "uniqueItems": True, "items": {"type": "string"}}}, SchemaError),
    ],
)
def test_wrong_keywords_are_refused_before_anything_runs(
    engine: Engine, wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.chat("Hi.", **wrong)
    with pytest.raises(error):
        engine.stream("Hi.", **wrong)
    with pytest.raises(error):
        engine.astream("Hi.", **wrong)


def test_missing_and_broken_files_are_explained(tmp_path: Path, starter_gguf: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(starter_gguf.read_bytes()[:5_000_000])
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"not a model")
    with Engine(
        profile="starter", home=tmp_path / "home", models={"chat": str(broken), "summary": str(junk)}
    ) as engine:
        with pytest.raises(ModelCorrupt):
            engine.chat("Hi.")
        with pytest.raises(ModelCorrupt):
            engine.summarize("Hi.")
        with pytest.raises(ModelNotFound):
            engine.chat("Hi.", model=str(tmp_path / "none.gguf"))
        with pytest.raises(ModelNotFound, match="gieok models pull"):
            engine.chat("Hi.", model="qwen2.5:7b")
        assert engine.chat("Hi.", model="extraction", **SHORT).text


def test_a_missing_default_model_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    with Engine(home=tmp_path / "home") as engine, pytest.raises(ModelNotFound, match="starter"):
        engine.chat("안녕하세요")


def test_a_malformed_configuration_names_file_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[engine]\nn_ctx = 4096\nparalel = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Engine(file)
    assert (caught.value.file, caught.value.line, caught.value.nearest) == (str(file), 3, "parallel")
    with pytest.raises(ConfigError):
        Engine(profile="nonesuch")
    with pytest.raises(ConfigError):
        Engine(models={"chatt": "x"})


# ---- life and death


def test_nothing_works_after_close(tmp_path: Path) -> None:
    engine = Engine(profile="starter", home=tmp_path)
    engine.chat("Hi.", **SHORT)
    stream = engine.stream("Write a long story.", max_tokens=2000)
    engine.close()
    engine.close()
    with pytest.raises(EngineClosed):
        list(stream)
    for method in TAKES_TEXT.values():
        with pytest.raises(EngineClosed):
            method(engine, "text")
    for call in (engine.status, engine.memories, engine.catalogue, lambda: engine.plan("chat")):
        with pytest.raises(EngineClosed):
            call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_refused(engine: Engine) -> None:
    engine.chat("Hi.", **SHORT)
    engine.remember("부모의 기억", user="fork")
    child = os.fork()
    if child == 0:
        refused = 0
        for method in TAKES_TEXT.values():
            try:
                method(engine, "text")
            except EngineClosed:
                refused += 1
        engine.close()
        os._exit(0 if refused == len(TAKES_TEXT) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert engine.chat("Hi.", **SHORT).text


def test_time_to_the_first_token_counts_the_load(tmp_path: Path) -> None:
    with Engine(profile="starter", home=tmp_path) as engine:
        usage = engine.chat("Hi.", **SHORT).usage
        assert usage.ttft > engine.status().loaded[0].load_seconds


def test_a_profile_is_pulled_without_what_nothing_uses(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled: list[str] = []
    monkeypatch.setattr(hub, "pull", lambda spec, source, progress, room: pulled.append(spec.name) or tmp_path)
    engine.pull("default")
    assert sorted(pulled) == ["bge-m3", "qwen2.5-3b-instruct", "qwen2.5-7b-instruct"]
    engine.pull("llama3.2:3b")
    assert pulled[-1] == "llama-3.2-3b-instruct"


def test_unloading_frees_and_the_next_use_loads_again(tmp_path: Path) -> None:
    with Engine(profile="starter", home=tmp_path) as engine:
        assert engine.status().loaded == ()
        engine.load("chat")
        assert [model.roles for model in engine.status().loaded] == [("chat", "summary", "extraction")]
        engine.unload("chat")
        assert engine.status().loaded == ()
        assert engine.chat("Hi.", **SHORT).text


def test_progress_is_told_and_can_stop_a_load(tmp_path: Path) -> None:
    seen: list[Progress] = []

    def stop(event: Progress) -> bool:
        seen.append(event)
        return False

    with Engine(profile="starter", home=tmp_path, progress=stop) as engine:
        with pytest.raises(Cancelled):
            engine.chat("Hi.")
        assert seen[0].task == "load smollm2-135m-instruct"
        assert engine.status().loaded == ()


def test_threads_share_an_engine(engine: Engine) -> None:
    questions = [f"What is {n} plus {n}?" for n in range(8)]
    alone = [engine.chat(question, **SHORT).text for question in questions]
    together: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda q=question: together.update({q: engine.chat(q, **SHORT).text}))
        for question in questions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(together) == set(questions)
    assert all(together.values()) and all(alone)  # tests/test_mixed.py says how far these may differ


# ---- async


def test_the_async_interface(tmp_path: Path) -> None:
    async def use() -> None:
        async with Engine(profile="starter", home=tmp_path) as engine:
            pieces = [piece async for piece in engine.astream("Hi.", **SHORT)]
            reply, found, stored = await asyncio.gather(
                engine.achat("Hi.", **SHORT), engine.aclassify("저는 서울에 살아요"), engine.aremember("기억")
            )
            assert "".join(pieces) == reply.text
            assert found.label in CATEGORIES
            assert await engine.amemories() == stored
            async with engine.astream("Tell a story.", max_tokens=500) as stream:
                await anext(stream)
                stream.cancel()
            with pytest.raises(InvalidInput):
                await engine.achat("")
        with pytest.raises(EngineClosed):
            await engine.achat("Hi.")

    asyncio.run(use())


def test_cancelling_a_task_stops_the_model(engine: Engine) -> None:
    async def use() -> None:
        task = asyncio.create_task(engine.achat("Write a very long story.", max_tokens=4000, seed=1))
        while not any(runner.busy for runner in engine._models.steppable()):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while any(runner.busy for runner in engine._models.steppable()):
            await asyncio.sleep(0.01)

    asyncio.run(use())


def test_every_error_is_one_family() -> None:
    assert issubclass(InvalidInput, EngineError)
    assert issubclass(InvalidInput, ValueError)
