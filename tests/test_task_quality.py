"""`evaluate.py tasks`, its table and its picture, on a few lines and an engine that answers what it is told."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Self

import fake_embedder
import pytest
import task_files
from script_module import load

from engine import config
from engine.errors import ContextOverflow, EngineClosed
from engine.metrics import Usage
from engine.tasks import Classification, ExtractedItem, ExtractedMemory, Reply, Summary, Understanding

evaluate = load("evaluate")
quality = load("task_quality")
table = load("task_table")
plot = load("task_plot")

LOCATE = quality.layout.locate
USAGE = Usage(10, 0, 5, 0, 0.5, 1.5)
MOVED = ExtractedItem("어제 대전으로 이사했어요.", "대전으로 이사했어요", "personal", 0, date(2026, 3, 4))


class Question:
    grammar = "a grammar"


class Stream:
    reply = Reply('{"1": null}', "tiny", "stop", USAGE)


class Answers:
    def stream(self, question: Question) -> Stream:
        return Stream()


class FakeEngine:
    """Answers always the same, and keeps what it was made with and asked."""

    made: ClassVar[list[tuple[Any, dict[str, str]]]] = []
    asked: ClassVar[list[tuple[Any, ...]]] = []
    fails: ClassVar[dict[str, BaseException]] = {}
    replaced: ClassVar[list[Any]] = []

    def __init__(self, file: Any, *, profile: str, home: str, models: dict[str, str]) -> None:
        assert Path(home).is_dir()
        self.made.append((profile, models))
        self._answers = Answers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def _note(self, *asked: Any) -> None:
        self.asked.append(asked)
        if asked[0] in self.fails:
            raise self.fails[asked[0]]

    def load(self, role: str) -> None:
        self.asked.append(("load", role))

    def status(self) -> Any:
        return type("Status", (), {"replaced": self.replaced})()

    def embed(self, texts: Any, heads: tuple[str, ...]) -> Any:
        return type("Embeddings", (), {"dense": fake_embedder.embed(list(texts), "passage")})()

    def classify(self, text: str) -> Classification:
        self._note("classify", text)
        return Classification("personal", {"personal": 0.8, "work": 0.2}, 0.8)

    def extract_memory(self, dialogue: Any, *, at: Any) -> ExtractedMemory:
        self._note("extract", dialogue, at)
        self._answers.stream(Question())
        return ExtractedMemory(events=(MOVED,)) if "이사" in dialogue[0]["content"] else ExtractedMemory()

    def understand(self, text: str, *, at: Any = None) -> Understanding:
        self._note("understand", text, at)
        return Understanding("question", True, (), None, False)

    def summarize(self, dialogue: Any, *, max_words: int) -> Summary:
        self._note("summarize", max_words)
        return Summary("부산으로 22일에 갑니다", USAGE)

    def chat(self, text: str, **sampling: Any) -> Reply:
        self._note("chat", text, sampling)
        return Reply("안녕하세요", "tiny", "stop", USAGE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all sets; models are taken to be there, and engines are fakes."""
    for name, empty in (("made", []), ("asked", []), ("fails", {}), ("replaced", [])):
        monkeypatch.setattr(FakeEngine, name, empty)
    monkeypatch.setattr(quality, "Engine", FakeEngine)
    monkeypatch.setattr(quality.layout, "locate", lambda spec: Path(spec.name))
    monkeypatch.delenv("GIEOK_CONFIG", raising=False)
    return task_files.write(tmp_path)


def run(folder: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    """Run the script and return its JSON."""
    file = folder / "out.json"
    asked = ["tasks", "--data", str(folder), "--json", str(file), *arguments]
    assert evaluate.main(asked) == status
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


# ---- the whole command


def test_every_task_is_asked_and_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(folder, "--intents", str(folder / "intents.tsv"), "--split", "all")
    names = ["classification by meaning", "extraction", "extraction by rules alone"]
    names += ["times", "understanding", "questions of 3i4K", "summary"]
    assert list(found["sections"]) == [*names, "conversation", "classification by logits"]
    assert found["unfinished"] is None and found["profile"] == "starter"
    assert found["models"]["chat"] == "smollm2-135m-instruct" and found["settings"]["seed"] == quality.SEED
    assert found["machine"]["cores"] and found["versions"]["llama-cpp-python"]
    out = capsys.readouterr().out
    assert out.startswith("| task | figure | starter |\n|---|---|---|\n")
    assert "| extraction (3) | valid results | 100.0 % |" in out
    assert "| extraction | F1, matched by meaning | 66.7 % |" in out
    assert "| extraction by rules alone (3) | precision | 100.0 % |" in out
    assert "| summary | length, p50 | 3 words |" in out
    assert "| conversation | time to first token, p50 | 500 ms |" in out
    assert "| question | 50.0 % | 2 | 1 |" in out
    assert str(folder) not in json.dumps(found)


def test_the_figures_of_the_fake_by_hand(folder: Path) -> None:
    found = run(folder)["sections"]
    assert found["classification by meaning"]["accuracy"] == 0.5
    assert found["extraction"]["any_category"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert found["extraction"]["by_meaning"]["any_category"] == found["extraction"]["any_category"]
    assert found["extraction by rules alone"]["any_category"]["recall"] == 1.0  # it asks no engine
    assert found["extraction"]["json"] == 1.0
    assert found["times"]["halves"] == {"test": {"right": 0, "of": 1, "share": 0.0}}
    assert found["summary"]["coverage"] == 0.5
    assert all(one["done"] == one["of"] and one["peak"] > 1e6 and one["seconds"]["p95"] >= 0 for one in found.values())


def test_each_is_asked_as_it_was_said(folder: Path) -> None:
    run(folder, "--tasks", "extraction,summary,conversation", "--max-words", "40")
    asked = {name: more for name, *more in FakeEngine.asked}
    assert asked["summarize"] == [40]
    sampling = {"temperature": 0, "seed": quality.SEED, "max_tokens": quality.MAX_TOKENS}
    assert asked["chat"] == ["오늘 뭐 먹지?", sampling]
    at = [more[1].isoformat() for name, *more in FakeEngine.asked if name == "extract"]
    assert at == ["2026-03-05T14:00:00"] * 2
    roles = [more[0] for name, *more in FakeEngine.asked if name == "load"]
    assert roles == ["extraction", "embedding", "summary", "chat"]


def test_only_a_half_or_a_few(folder: Path) -> None:
    found = run(folder, "--tasks", "classification,extraction", "--split", "dev")["sections"]
    assert {one["of"] for one in found.values()} == {1}
    found = run(folder, "--tasks", "classification,extraction", "--split", "all", "--limit", "2")["sections"]
    assert {one["of"] for one in found.values()} == {2}


def test_the_wrong_times_are_listed_where_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "--tasks", "times", "--split", "all")
    assert "내일 만나" not in capsys.readouterr().out
    run(folder, "--tasks", "times", "--split", "all", "--verbose")
    line = "times.tsv:2: 내일 만나 (2026-03-05): wanted 2026-03-06 to 2026-03-06 – found no time\n"
    assert capsys.readouterr().out.endswith(line)


def test_an_input_that_fails_counts_and_the_rest_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FakeEngine.fails["summarize"] = ContextOverflow(9, 8)
    found = run(folder, "--tasks", "summary,conversation")["sections"]
    assert found["summary"]["errors"] == {"context_overflow": 1} and found["summary"]["coverage"] == 0.0
    assert found["conversation"]["done"] == 2
    assert "| summary (1, 1 context_overflow) | facts kept | 0.0 % |" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (EngineClosed("it died"), 1)])
def test_what_was_done_is_kept_where_it_ends_early(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    plain = FakeEngine.extract_memory

    def ends(self: FakeEngine, dialogue: Any, *, at: Any) -> ExtractedMemory:
        if "화성" in dialogue[0]["content"]:
            raise error
        return plain(self, dialogue, at=at)

    monkeypatch.setattr(FakeEngine, "extract_memory", ends)
    found = run(folder, "--tasks", "classification,extraction,conversation", status=status)
    assert found["unfinished"] == "extraction"
    assert (found["sections"]["extraction"]["done"], found["sections"]["extraction"]["of"]) == (1, 2)
    assert "conversation" not in found["sections"]
    said = capsys.readouterr()
    assert "| extraction (1 of 2) | valid results | 100.0 % |" in said.out
    assert ("Stopped in extraction" in said.err) == (status == 130)


def test_a_fallback_that_answered_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"role": "chat", "wanted": "large", "by": "small", "why": "too large"}
    FakeEngine.replaced.append(type("Replaced", (), row)())
    assert run(folder, "--tasks", "conversation")["replaced"] == {"chat": "small answered instead of large: too large"}
    assert "small answered instead of large" in capsys.readouterr().err


# ---- models


def test_a_missing_model_is_named_with_the_command_that_gets_it_and_no_fallback_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality.layout, "locate", LOCATE)
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "none"))
    assert evaluate.main(["tasks", "--data", str(folder), "--tasks", "conversation"]) == 1
    assert "gieok models pull smollm2-135m-instruct" in capsys.readouterr().err
    assert FakeEngine.made == []


def test_the_other_way_to_classify_has_an_engine_of_its_own(folder: Path) -> None:
    run(folder, "--tasks", "classification,extraction")
    assert FakeEngine.made == [("starter", {}), ("starter", {"classification": "smollm2-135m-instruct"})]


def test_models_are_laid_over_the_profile(folder: Path) -> None:
    given = ["--models", "classification=qwen2.5-3b-instruct", "chat=qwen2.5-0.5b-instruct"]
    found = run(folder, "--tasks", "classification", *given)
    over = {"classification": "qwen2.5-3b-instruct", "chat": "qwen2.5-0.5b-instruct"}
    assert [models for _, models in FakeEngine.made] == [over, {**over, "classification": "multilingual-e5-small"}]
    assert list(found["sections"]) == ["classification by logits", "classification by meaning"]
    assert found["models"]["chat"] == "qwen2.5-0.5b-instruct"


def test_without_a_model_for_the_other_way_there_is_one() -> None:
    llm = config.load().model("smollm2-135m-instruct")
    assert quality.ways(dict.fromkeys(("classification", "chat", "embedding"), llm), {}) == {"logits": None}


@pytest.mark.parametrize(("given", "says"), [("poet=x", "poet"), ("chat=no-such-model", "no-such-model")])
def test_an_unknown_role_or_model_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], given: str, says: str
) -> None:
    assert evaluate.main(["tasks", "--data", str(folder), "--models", given]) == 1
    assert says in capsys.readouterr().err


# ---- the command line


@pytest.mark.parametrize(
    "given",
    [("--models", "chat"), ("--abstain", "2"), ("--limit", "0"), ("--plot", "x.pdf"), ("--split", "train")],
)
def test_what_cannot_be_is_refused(folder: Path, given: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        evaluate.main(["tasks", "--data", str(folder), *given])
    assert caught.value.code == 2


def test_an_unknown_task_and_a_missing_set_have_the_status_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["tasks", "--data", str(folder), "--tasks", "poetry"]) == 2
    assert "classification, extraction" in capsys.readouterr().err
    (folder / "prompts.jsonl").unlink()
    assert evaluate.main(["tasks", "--data", str(folder)]) == 2
    assert "prompts.jsonl" in capsys.readouterr().err
    assert FakeEngine.made == []  # all sets are read before a model is


# ---- the picture


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_drawn_without_a_warning(folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "korean_font", lambda: None)
    pictures = [folder / f"{number}{suffix}" for number in (1, 2)]
    found = run(folder, "--tasks", "times", "--plot", str(pictures[0]))
    assert pictures[0].read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    for picture in pictures:
        assert plot.draw(found["sections"], "starter", picture) == plot.NO_FONT
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_without_a_korean_font_the_labels_are_english_and_the_user_hears_how_to_get_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plot, "korean_font", lambda: None)
    found = run(folder, "--tasks", "times", "--plot", str(folder / "a.svg"))["sections"]
    assert "fonts-nanum" in capsys.readouterr().err
    assert [bar.label for bar in plot.shares(found, korean=False)] == ["times: right (test)"]
    assert [bar.label for bar in plot.shares(found, korean=True)] == ["시간 표현: 정답(test)"]
    assert next(bar.label for bar in plot.times(found, korean=True)) == "시간 표현: 지연 시간 p50"


def test_a_font_counts_only_with_every_letter_and_known_ones_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager, ft2font

    letters = {ord(letter) for letter in plot._letters()}
    fonts = {
        "Aaa": letters,
        "Boxes": letters | {plot.NO_LETTER},  # a font of last resort draws a box for everything
        "NanumGothic": letters,
        "Noto Sans CJK KR": letters - {ord("억")},
    }
    entries = [type("Entry", (), {"name": name, "fname": name})() for name in fonts]

    class Font:
        def __init__(self, file: str) -> None:
            if file not in fonts:
                raise RuntimeError("broken")
            self.has = fonts[file]

        def get_charmap(self) -> dict[int, int]:
            return dict.fromkeys(self.has, 1)

    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    monkeypatch.setattr(ft2font, "FT2Font", Font)
    assert plot.korean_font() == "NanumGothic"
    fonts["NanumGothic"] = set()
    assert plot.korean_font() == "Aaa"
    del fonts["Aaa"]
    assert plot.korean_font() is None


def test_without_matplotlib_the_user_hears_it_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plot, "available", lambda: False)
    assert evaluate.main(["tasks", "--data", str(folder), "--plot", "a.png"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err and FakeEngine.asked == []


# ---- profiles side by side


def test_profiles_stand_side_by_side_and_one_not_measured_has_an_empty_column_with_its_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, "--tasks", "times,summary", "--limit", "1")
    (folder / "out.json").rename(folder / "starter.json")
    found = run(folder, "--profile", "commercial", "--tasks", "summary,conversation")
    assert found["profile"] == "commercial"
    capsys.readouterr()
    assert table.main([str(folder / "starter.json"), str(folder / "out.json"), "default"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["| task | figure | starter | commercial | default |", "|---|---|---|---|---|"]
    assert "| times (1) | right (test) | 0.0 % |  |  |" in lines
    assert "| summary (1) | facts kept | 50.0 % | 50.0 % |  |" in lines
    assert "| conversation (2) | in Korean |  | 100.0 % |  |" in lines
    command = "python scripts/evaluate.py tasks --profile default --json default.json"
    assert lines[-1] == f"The column default is filled by `{command}`."


def test_where_profiles_were_asked_unequally_both_counts_are_told() -> None:
    one = {"task": "times", "errors": {}, "done": 3, "of": 3, "seconds": {"p50": 1.0}}
    rows = list(table.table({"a": {"times": one}, "b": {"times": {**one, "done": 2}}}))
    assert rows[2] == "| times (3 / 2 of 3) | latency, p50 | 1.0 s | 1.0 s |"


@pytest.mark.parametrize("text", ["{", "[]", '{"profile": "a"}'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert table.main([str(tmp_path / "a.json")]) == 2
    assert table.main([str(tmp_path / "none.json")]) == 2
    assert table.main(["default", "default"]) == 2
    assert "a.json is not what" in capsys.readouterr().err


def test_values_are_told_with_their_units() -> None:
    said = [
        table.said(*one) for one in [(None, "%"), (0.123, "%"), (0.0321, "seconds"), (3.21, "seconds"), (2, "count")]
    ]
    assert said == ["–", "12.3 %", "32 ms", "3.2 s", "2"]
    assert table.said(0.00042, "seconds") == "0.4 ms"
    assert table.said(1_290_000_000, "GB") == "1.29 GB"
