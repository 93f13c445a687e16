"""The guide's expectations: what is asked and how it is told, memories made in bulk, and a short day of the engine."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from script_module import load

from engine import Engine, config
from engine.metrics import Progress
from engine.testing import FakeEngine

day = load("expectations_day")
expectations = load("expectations")
memories = load("expectations_memories")
tables = load("expectations_table")
texts = load("expectations_texts")

TINY = day.Counts(plain=1, openings=1, told=1, short=1, labels=2, embeddings=2, searches=2, written=2, pause=0.0)


def plan(folder: Path, **more: Any) -> Any:
    return day.Plan("day", "x.toml", "starter", str(folder / "home"), {}, 40, TINY, str(folder), **more)


# ---- what it means


@pytest.mark.parametrize(
    ("values", "reached"),
    [
        ((3.0,) * 20, "yes"),
        ((3.0,) * 19 + (9.0,), "yes"),  # one of twenty
        ((3.0,) * 18 + (9.0,) * 2, "median only"),
        ((3.1,) * 20, "no"),
    ],
)
def test_reached_means_nearly_always(values: tuple[float, ...], reached: str) -> None:
    row = tables.Row("chat", "a", "b", values)
    assert row.reached == reached
    assert row.to_dict()["reached"] == reached
    assert row.to_dict()["values"] == values


def turn(first: float, **more: Any) -> dict[str, Any]:
    return {"first": first, "told": 5, "prompt_tokens": 40, "busy": True, "load": 1.5, **more}


def found(chat: str) -> dict[str, Any]:
    return {
        "models": {"chat": chat, "classification": "labels", "embedding": "bge"}, "counts": {"told": 1},
        "memories": 1000, "loads": {"chat": 2.0}, "learnt": 2, **load("benchmark_record").about(),
        "turns": [turn(50.0), turn(2.0), turn(4.0)], "openings": [turn(1.0)], "plain": [turn(0.5)],
        "classification": [0.6], "embedding": [0.09], "search": [0.1, 0.1], "memory": {"total": 12_300_000_000},
        "prepared": {"memory": {"total": 16_100_000_000}, "done": ["models tuned", "bge converted"]},
    }  # fmt: skip


def test_the_table() -> None:
    lines = list(tables.table({"chats": {"large": found("large"), "small": found("small")}}))
    answers = [line for line in lines if line.startswith("| a chat answer begins within 3 s | large")]
    assert "a short turn after 1 others, 5 memories told: median 3.0 s, 95 of 100 within 4.0 s (2 times)" in answers[0]
    assert answers[0].endswith("| median only |")  # the turn that tells something is none of them
    assert sum(line.startswith("| a chat answer") for line in lines) == 6
    (labels,) = (line for line in lines if line.startswith("| classification"))
    assert labels.endswith("median 600 ms, 95 of 100 within 600 ms (1 times) | no |")
    assert sum(line.startswith("| a search") for line in lines) == 1
    assert "| at most 16 GB of RAM | large, the highest, all models and memories used: 12.3 GB | yes |" in lines
    assert "a first start, models tuned, bge converted: 16.1 GB | no |" in "\n".join(lines)
    assert "- large: loads, not counted above, from the disk: chat 2.00 s, chat again 1.50 s" in lines
    assert any("when 3 of 3 turns came, and found 2 memories" in line for line in lines)


# ---- what is asked


def test_texts_of_a_length_are_those_that_are_nearest() -> None:
    chosen = texts.of_about(30, 7, lambda given: [len(text) for text in given], " 끝.")
    assert len(set(chosen)) == 7
    assert all(text.endswith(" 끝.") and abs(len(text) - 30) <= 3 for text in chosen)


def test_questions_are_spread_over_all_memories() -> None:
    asked = texts.queries(4, 1000)
    assert asked == [memories_question(n) for n in (0, 250, 500, 750)]


def memories_question(number: int) -> str:
    return str(load("memory_texts").question(number))


def test_embedding_the_whole_store_is_refused() -> None:
    progress = Progress("embed memories", 0, 100_000, "memories")
    assert not day.few_embedded(progress)
    assert day.few_embedded(replace(progress, total=3))
    assert day.few_embedded(replace(progress, task="load x"))


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = plan(tmp_path, texts=day.Texts(("가", "나"), (), ("다",)))
    assert day.Plan.read(written.write(tmp_path / "plan.json")) == written


# ---- many memories


def test_made_up_vectors_lie_as_those_of_the_sample() -> None:
    random = np.random.default_rng(1)
    shape = np.diag([0.05, 0.2, 0.01]).astype(np.float32)
    rows = np.array([3.0, 1.0, 2.0], np.float32) + random.standard_normal((200, 3), np.float32) @ shape
    made = np.stack(list(memories.drawn(list(rows / np.linalg.norm(rows, axis=1, keepdims=True)), 2_500)))
    assert made.shape == (2_500, 3)
    assert np.linalg.norm(made, axis=1) == pytest.approx(1.0, abs=1e-5)
    like = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert made.mean(axis=0) == pytest.approx(like.mean(axis=0), abs=0.01)
    assert made.std(axis=0) == pytest.approx(like.std(axis=0), rel=0.1)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with FakeEngine(replies="네, 그렇게 하세요.", home=tmp_path_factory.mktemp("home")) as engine:
        memories.fill(engine, 40, tmp_path_factory.mktemp("memories"))
        yield engine


def test_memories_come_with_their_vectors(filled: Engine, tmp_path: Path) -> None:
    filled.export(tmp_path / "all.jsonl", vectors=True)
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()[1:]]
    made = list(memories.drawn([vector(line) for line in lines[:10]], 30))
    assert [line["text"] for line in lines] == [load("memory_texts").sentence(n) for n in range(40)]
    for line, wanted in zip(lines[10:], made, strict=True):  # not embedded again
        assert vector(line) == pytest.approx(wanted, abs=1e-3)
    assert {line["user"] for line in lines} == {"default"}
    assert len({line["category"] for line in lines[10:]}) == 8


def vector(line: dict[str, Any]) -> Any:
    return np.frombuffer(base64.b64decode(line["vector"]), "<f2").astype(np.float32)


# ---- a day


def test_a_day_says_what_each_thing_took(filled: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day.Plan, "engine", lambda _: contextlib.nullcontext(filled))  # it is loaded once
    tuned: list[str] = []
    monkeypatch.setattr(filled, "doctor", lambda *, retune: tuned.append(retune))  # a fake has no file to tune
    prepared = day.prepare(plan(tmp_path))
    assert tuned == ["qwen2.5-7b-instruct", "qwen2.5-3b-instruct"]
    assert list(prepared["seconds"])[2:] == ["load chat", "load classification", "load embedding"]
    said = day.Texts(**prepared["texts"])
    assert [len(part) for part in (said.plain, said.labelled, said.embedded)] == [1, 2, 2]
    report = day.day(plan(tmp_path, texts=said))
    assert [len(report[name]) for name in ("classification", "embedding", "search", "plain")] == [2, 2, 2, 1]
    (opened,) = report["openings"]
    assert opened["told"] >= 3  # what is asked of a user is answered with memories
    assert report["learnt"] >= 1
    for one in (*report["plain"], opened, *report["turns"]):
        assert one["ttft"] <= one["first"] <= one["seconds"] + 1
        assert 0 < one["completion_tokens"] <= TINY.written
    assert [one.role for one in filled.session("opening 0").history()] == ["user", "assistant"]
    shown = {**json.loads(json.dumps(report)), "counts": {"told": 1}}
    assert len(list(tables.rows({"chats": {"x": {**found("x"), **shown}}}))) == 8


class Talk:
    """A session whose background is never done; it answers with what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.reply = SimpleNamespace(memories=[1, 2], usage=SimpleNamespace(to_dict=lambda: {"ttft": 0.1}))

    def wait(self, _: float) -> bool:
        return False

    @contextlib.contextmanager
    def stream(self, text: str, *, max_tokens: int) -> Iterator[Any]:
        self.said.append(text)
        yield Pieces(self.reply, ["a"] * max_tokens)


class Pieces(list[str]):
    def __init__(self, reply: Any, pieces: list[str]) -> None:
        super().__init__(pieces)
        self.reply = reply


def test_a_conversation_begins_with_what_is_told() -> None:
    talk = Talk()
    turns = day.conversation(talk, replace(TINY, told=2, short=3))
    assert talk.said == [*texts.TOLD[:2], *texts.SHORT[:3]]
    assert len(turns) == 5
    assert all(one["busy"] and one["told"] == 2 and one["ttft"] == 0.1 for one in turns)


# ---- who is watched


def test_what_a_process_says_and_holds() -> None:
    record = expectations.Record()
    record.look(expectations.Resident(5, 1))
    for line in (b"[Kiwi] noise", b'{"no": "event"}', b"3", b'{"event": "began", "at": 0, "step": "turn"}'):
        record.hear(line)
    record.look(expectations.Resident(2, 9))
    record.look(expectations.Resident(7, 0))
    record.hear(b'{"event": "found", "at": 0, "loads": {}}')
    assert record.found == {"loads": {}}
    memory = record.memory()
    assert (memory["total"], memory["anonymous"], memory["looks"]) == (11, 2, 3)
    assert memory["by_step"] == {"start": 6, "turn": 11}


CHILD = """
import json, sys
print("noise", flush=True)
print(json.dumps({"event": "began", "at": 0, "step": "load"}), flush=True)
sys.exit(3) if json.load(open(sys.argv[1], encoding="utf-8"))["memories"] == 13 else None
print(json.dumps({"event": "found", "at": 0, "it": 1}), flush=True)
"""


def test_a_process_that_fails_is_told_with_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD, encoding="utf-8")
    monkeypatch.setattr(expectations, "CHILD", child)
    assert expectations.watched(plan(tmp_path), tmp_path).found == {"it": 1}
    with pytest.raises(expectations.Failed, match="to day ended with status 3 at: load"):
        expectations.watched(replace(plan(tmp_path), memories=13), tmp_path)


@pytest.fixture
def cast(tmp_path: Path) -> Any:
    file, folder = tmp_path / "x.gguf", tmp_path / "bge"
    file.write_bytes(b"12345")
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(b"{}")
    models = {"chat": "qwen2.5-7b-instruct", "classification": "qwen2.5-7b-instruct", "embedding": "bge-m3"}
    return expectations.Cast("default", models, {"qwen2.5-7b-instruct": file, "bge-m3": folder})


def test_a_models_toml_points_at_the_files_and_changes_nothing_else(cast: Any, tmp_path: Path) -> None:
    laid, packaged = config.load(expectations.lay(cast, tmp_path / "models.toml")), config.load()
    assert laid.model("qwen2.5-7b-instruct").source.path == str(tmp_path / "x.gguf")
    assert (laid.model("qwen2.5-7b-instruct").size, laid.model("bge-m3").size) == (5, 2)
    assert laid.engine == packaged.engine


class Watch:
    """Stands for the processes that are watched: one prepares, and one takes a day."""

    def __init__(self) -> None:
        self.plans: list[Any] = []
        self.fails = False

    def __call__(self, given: Any, _: Path) -> Any:
        self.plans.append(given)
        home = Path(given.home)
        if given.what == "prepare":
            home.mkdir(parents=True)
            (home / "memories").write_text(str(given.fill), encoding="utf-8")
            if self.fails:
                raise expectations.Failed("no")
            return expectations.Record({"seconds": {}, "texts": {"plain": ["가"]}})
        assert (home / "memories").read_text(encoding="utf-8") == "True"
        (home / "memories").unlink()  # what a day changes is not kept
        return expectations.Record({"loads": {}})


def test_memories_are_written_once(cast: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, kept = Watch(), tmp_path / "kept"
    monkeypatch.setattr(expectations, "watched", watch)
    kept.mkdir()
    options = expectations.Options(("x",), kept, 40, TINY)
    first, second = (expectations.measured(cast, options, kept) for _ in range(2))
    assert first["memories"] == 40 and first["loads"] == {}
    assert first["prepared"]["done"] == ["models tuned", "40 memories imported"]
    assert second["prepared"]["done"] == ["models tuned"]
    assert [one.fill for one in watch.plans] == [True, False, False, False]
    assert watch.plans[1].texts.plain == ("가",)
    assert [path.name for path in kept.iterdir()] == ["memories-bge-m3-40"]
    watch.fails = True
    with pytest.raises(expectations.Failed):
        expectations.measured(cast, replace(options, memories=41), kept)
    assert [path.name for path in kept.iterdir()] == ["memories-bge-m3-40"]


# ---- all of it


def test_what_was_measured_of_other_models_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expectations, "measured", lambda cast, *_: found(cast.models["chat"]))
    file = tmp_path / "report.json"
    file.write_text(json.dumps({"rows": [], "chats": {"other": found("other")}}), encoding="utf-8")
    assert expectations.main(["--quick", "--output", str(file)]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert list(report["chats"]) == ["other", "smollm2-135m-instruct"]
    assert report["chats"]["smollm2-135m-instruct"]["versions"]["openvino"]
    assert len(report["rows"]) == 13
    assert str(Path.home()) not in json.dumps(report)


def test_a_report_that_is_none_and_a_shape_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    file.write_text("no", encoding="utf-8")
    with pytest.raises(SystemExit, match="Expecting value"):
        expectations.main(["--quick", "--output", str(file)])
    with pytest.raises(SystemExit):
        expectations.main(["--chat", "gpt-5"])
    assert "there is no 'gpt-5'" in capsys.readouterr().err
