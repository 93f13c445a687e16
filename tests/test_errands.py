"""Which model does which task, and what a task holds beside its model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import CATEGORIES, Engine, config
from engine.config import Config, RoutingTable
from engine.errands import TASKS, Errands
from engine.errors import EngineClosed, InvalidInput, ModelNotFound, OutOfBudget
from engine.footprint import ANALYSER
from engine.metrics import Usage
from engine.models import Models, resolve_roles
from engine.routing import complexity
from engine.status import Part
from engine.tasks import Classification, ExtractedMemory, Reply, Summary

SIMPLE = "오늘 점심 뭐 먹지?"
COMPLEX = " ".join(f"낱말{n}!?" for n in range(250))
UNSURE = "접이식이야. "  # a sentence about which extraction asks a model
USAGE = Usage(1, 0, 1, 0, 0.1, 0.2)


@dataclass(frozen=True)
class SummaryStream:
    """The answer to a summary, without pieces."""

    model: str

    def __iter__(self) -> Iterator[str]:
        return iter(())

    @property
    def reply(self) -> Reply:
        return Reply("요약", self.model, "stop", USAGE)


@dataclass
class Fakes:
    """The pool, the answers and the classifier of an engine: they note which model was asked for what."""

    models: Models
    loaded: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def in_memory(self, name: str) -> bool:
        return self.models.name(name) in self.loaded

    def question(self, turns: Any, model: str, sampling: Any, schema: Any) -> SimpleNamespace:
        assert (sampling, schema) == ({}, None), "the file's own sampling"
        return SimpleNamespace(turns=turns, model=model)

    def stream(self, question: Any) -> Any:
        self.asked.append(("chat", question.model))
        reply = Reply(question.turns[-1].content, self.models.name(question.model), "stop", USAGE)
        return SimpleNamespace(open=lambda: SimpleNamespace(reply=reply))

    def ask(self, model: str, turns: Any, sampling: Any, grammar: Any = None, look: Any = None) -> Any:
        self.asked.append(("extraction" if grammar else "summary", model))
        reply = Reply('{"1": null}', self.models.name(model), "stop", USAGE)
        return contextlib.nullcontext(SimpleNamespace(reply=reply)) if grammar else SummaryStream(reply.model)

    def call(self, model: str, job: Callable[[Any], Any], kind: str) -> Any:
        """Do what reads a model's tokens, which are bytes."""
        vocabulary = SimpleNamespace(tokenize=lambda text: list(text.encode()))
        limits = SimpleNamespace(parallel=1)
        return job(
            SimpleNamespace(
                kv_cells=2**15,
                scheduler=SimpleNamespace(limits=limits),
                model=SimpleNamespace(vocabulary=vocabulary),
                encode=lambda turns: list("".join(turn.content for turn in turns).encode()),
            )
        )

    def classify(self, texts: list[str], labels: dict[str, str], abstain: float | None, model: str) -> list[Any]:
        assert list(labels) == list(CATEGORIES) and abstain is None
        self.asked.append(("classification", model))
        return [Classification("work", {"work": 1.0}, 1.0) for _ in texts]


@pytest.fixture(scope="module")
def catalogue() -> Config:
    return config.load(config.packaged_file())


def errands(catalogue: Config, profile: str = "default", **routing: Any) -> tuple[Errands, Fakes]:
    """Return the errands of a profile with `routing` laid over the packaged table, and what they ask."""
    table = RoutingTable.model_validate({**catalogue.routing.model_dump(), **routing})
    fakes = Fakes(Models(catalogue, resolve_roles(catalogue, profile, {})))
    return Errands(table, fakes, fakes, fakes), fakes  # type: ignore[arg-type]


# ---- which


def test_the_two_texts_lie_on_both_sides() -> None:
    assert complexity(SIMPLE, (1, 1, 1)) < 0.3 and complexity(COMPLEX, (1, 1, 1)) == 1.0


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"classification"}))
@pytest.mark.parametrize(("text", "model"), [(SIMPLE, "classification"), (COMPLEX, "chat")])
def test_a_text_goes_to_the_light_or_the_heavy_model(catalogue: Config, task: str, text: str, model: str) -> None:
    runs, fakes = errands(catalogue)
    runs.process(task, UNSURE + text)
    assert fakes.asked == [(task, model)]


@pytest.mark.parametrize("profile", ["default", "starter"])  # by logits, and by meaning
@pytest.mark.parametrize("text", [SIMPLE, COMPLEX])
@pytest.mark.parametrize("loaded", [set(), {"qwen2.5-7b-instruct"}])
def test_classification_is_always_light(catalogue: Config, profile: str, text: str, loaded: set[str]) -> None:
    runs, fakes = errands(catalogue, profile, margin=1.0)
    fakes.loaded = loaded
    assert isinstance(runs.process("classification", text), Classification)
    assert fakes.asked == [("classification", "classification")]


@pytest.mark.parametrize("text", [SIMPLE, COMPLEX])
@pytest.mark.parametrize("loaded", [set(), {"multilingual-e5-small"}])
def test_where_the_light_model_only_embeds_the_heavy_one_reads(catalogue: Config, text: str, loaded: set[str]) -> None:
    runs, fakes = errands(catalogue, "starter", margin=1.0)
    fakes.loaded = loaded
    runs.process("chat", text)
    assert fakes.asked == [("chat", "chat")]


@pytest.mark.parametrize(("text", "model"), [(SIMPLE, "llama3.2:3b"), (COMPLEX, "QWEN2.5-7B-Instruct")])
def test_routing_may_name_models(catalogue: Config, text: str, model: str) -> None:
    runs, fakes = errands(catalogue, light="llama3.2:3b", heavy="QWEN2.5-7B-Instruct")
    runs.process("summary", text)
    runs.process("classification", text)
    assert fakes.asked == [("summary", model), ("classification", "llama3.2:3b")]


@pytest.mark.parametrize(
    ("loaded", "model"),
    [
        (set(), "classification"),
        ({"qwen2.5-3b-instruct"}, "classification"),
        ({"qwen2.5-7b-instruct"}, "chat"),
        ({"qwen2.5-3b-instruct", "qwen2.5-7b-instruct"}, "classification"),
        ({"bge-m3"}, "classification"),
    ],
)
def test_near_the_threshold_the_loaded_model_is_taken(catalogue: Config, loaded: set[str], model: str) -> None:
    just_above = complexity(SIMPLE, (1, 1, 1)) + 0.01
    runs, fakes = errands(catalogue, threshold=just_above, margin=0.05)
    fakes.loaded = loaded
    runs.process("chat", SIMPLE)
    assert fakes.asked == [("chat", model)]


@pytest.mark.parametrize("loaded", ["qwen2.5-3b-instruct", "qwen2.5-7b-instruct"])
def test_far_from_the_threshold_what_is_loaded_does_not_count(catalogue: Config, loaded: str) -> None:
    runs, fakes = errands(catalogue)
    fakes.loaded = {loaded}
    runs.process("chat", SIMPLE)
    runs.process("chat", COMPLEX)
    assert [model for _, model in fakes.asked] == ["classification", "chat"]


def test_weights_and_threshold_come_from_the_file(catalogue: Config) -> None:
    for changed in ({"threshold": 0.0, "margin": 0.0}, {"weights": (0, 0, 1), "threshold": 0.2, "margin": 0.0}):
        runs, fakes = errands(catalogue, **changed)
        runs.process("chat", SIMPLE)
        assert fakes.asked == [("chat", "chat")], changed


@pytest.mark.parametrize("task", ["", "chats", "Chat", "classify", "search"])
def test_an_unknown_task_is_told_those_there_are(catalogue: Config, task: str) -> None:
    runs, fakes = errands(catalogue)
    with pytest.raises(InvalidInput, match="is not a task; there are chat, extraction, classification, summary"):
        runs.process(task, SIMPLE)
    assert fakes.asked == []


def test_each_task_gives_its_own_result(catalogue: Config) -> None:
    runs, fakes = errands(catalogue)
    kinds = {"chat": Reply, "extraction": ExtractedMemory, "classification": Classification, "summary": Summary}
    assert {task: type(runs.process(task, UNSURE + SIMPLE)) for task in TASKS} == kinds
    assert [task for task, _ in fakes.asked] == list(TASKS)


# ---- on the starter models


@pytest.fixture
def two(tmp_path: Path, starter_gguf: Path) -> Path:
    """A file in which one starter model is the light, and the same file under another name the heavy one."""
    text = (
        f"[engine]\nsampling.max_tokens = 4\nsampling.temperature = 0\n"
        f"[routing]\nlight = 'smollm2-135m-instruct'\nheavy = 'other'\nthreshold = 0.1\nmargin = 0.05\n"
        f"[models.other]\nkind = 'llm'\nsource = {{ path = '{starter_gguf.as_posix()}' }}\n"
    )
    (tmp_path / "models.toml").write_text(text, encoding="utf-8")
    return tmp_path / "models.toml"


@pytest.mark.model
def test_the_two_models_of_a_file_answer(two: Path, tmp_path: Path) -> None:
    def by(engine: Engine, text: str) -> str:
        reply = engine.process("chat", text)
        assert isinstance(reply, Reply) and reply.text
        return reply.model

    near = "What is two plus two?"
    assert 0.1 < complexity(near, (1, 1, 1)) < 0.15
    with Engine(two, profile="starter", home=tmp_path / "home") as engine:
        assert by(engine, "Hello") == "smollm2-135m-instruct"
        assert by(engine, near) == "smollm2-135m-instruct", "it is there, and the other one is not"
        assert by(engine, "?! " * 40) == "other"
        assert by(engine, near) == "other", "both are there"
        engine.unload("smollm2-135m-instruct")
        assert by(engine, "Hello") == "smollm2-135m-instruct", "as simple as that it is worth a load"


@pytest.mark.model
def test_each_task_on_the_starter_profile(engine: Engine) -> None:
    text = "저는 대전에 살아요. 나는 오이를 싫어해."
    label = engine.process("classification", "저는 땅콩 알레르기가 있어요")
    assert isinstance(label, Classification) and label.label == "health"
    assert label == engine.classify("저는 땅콩 알레르기가 있어요")
    found = engine.process("extraction", text)
    assert isinstance(found, ExtractedMemory)
    assert all(item.quote in text for _, item in found.items())
    summary = engine.process("summary", text)
    assert isinstance(summary, Summary) and summary.text and summary.usage.completion_tokens > 0


@pytest.mark.model
def test_wrong_tasks_and_texts_are_refused_before_anything_loads(tmp_path: Path) -> None:
    with Engine(profile="starter", home=tmp_path) as engine:
        for task in TASKS:
            with pytest.raises(InvalidInput, match="empty"):
                engine.process(task, "")
        with pytest.raises(InvalidInput, match="is not a task"):
            engine.process("translation", SIMPLE)
        with pytest.raises(TypeError):
            engine.process("chat", 7)  # type: ignore[arg-type]
        assert engine.status().parts == ()
    with pytest.raises(EngineClosed):
        engine.process("chat", SIMPLE)


def test_a_model_that_is_not_there_is_told(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "none"))
    home = tmp_path / "home"
    with Engine(two, profile="starter", home=home) as engine, pytest.raises(ModelNotFound, match="smollm2-135m"):
        engine.process("chat", "Hello")


# ---- the analyser


def test_the_analyser_is_counted_once(tmp_path: Path) -> None:
    with Engine(profile="starter", home=tmp_path) as engine:
        assert engine.understand("어제 부산에서 회를 먹었어").keywords
        assert engine.understand("내일 회의가 있어").keywords
        assert engine.status().parts == (Part("Korean analyser", ANALYSER, 0),)
        assert engine.status().held == ANALYSER


def test_the_analyser_is_refused_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr("engine.korean.morphemes.Analyser", lambda: made.append(1))
    with Engine(profile="starter", home=tmp_path, ram_budget="100MB") as engine:
        for _ in range(2):
            with pytest.raises(OutOfBudget, match=r"Korean analyser needs 500 MB.*Raise ram_budget") as caught:
                engine.understand(SIMPLE)
            assert (caught.value.needed, caught.value.available) == (ANALYSER, 100_000_000)
        assert made == [] and engine.status().parts == ()


def test_what_cannot_be_made_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise MemoryError

    with Engine(profile="starter", home=tmp_path) as engine:
        with monkeypatch.context() as patch:
            patch.setattr("engine.korean.morphemes.Analyser", fail)
            with pytest.raises(MemoryError):
                engine.understand(SIMPLE)
            assert engine.status().held == 0
        assert engine.understand(SIMPLE).intent == "question"


@pytest.mark.model
def test_a_model_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object, **named: object) -> Any:
        raise AssertionError("it was loaded")

    monkeypatch.setattr("engine.runner.load", never)
    monkeypatch.setattr("engine.embedder.Embedder", never)
    uses: list[Callable[[Engine], object]] = [
        lambda engine: engine.chat("Hi."),
        lambda engine: engine.embed("글"),
        lambda engine: engine.process("summary", SIMPLE),
        lambda engine: engine.load("chat"),
    ]
    with Engine(profile="starter", home=tmp_path, ram_budget="100MB") as engine:
        assert engine.plan("chat").verdict == engine.plan("embedding").verdict == "too large"
        for use in uses:
            with pytest.raises(OutOfBudget, match="Raise ram_budget"):
                use(engine)
        assert engine.status().parts == () and engine._worker.loader.thread is None
