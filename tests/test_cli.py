"""The `gieok` command: a stand-in engine in this process, and a few real runs in a child process."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import engine
from engine import cli, console, manual
from engine.config import packaged_file
from engine.errors import ConfigError, EngineError, InvalidInput, MemoryNotFound, ModelNotFound
from engine.footprint import Footprint
from engine.inputs import CATEGORIES, check_dialogue
from engine.instructions import Language
from engine.metrics import Progress, Usage
from engine.records import Hit, Memory
from engine.status import LoadPlan, Status
from engine.tasks import Classification, ExtractedItem, ExtractedMemory, Reply, Summary
from engine.transfer import Imported
from engine.vectors import Embeddings

WHEN = datetime(2026, 3, 11, 9, 0).astimezone()
MEMORY = Memory("m1", "저는 땅콩을 못 먹어요", "health", None, None, "default", WHEN, None, WHEN, None, None, 0.5)
ITEM = ExtractedItem("부산에 살아요", "부산에 살아요", "personal", 0, date(2026, 3, 9))
LABELS = {name: (0.65 if name == "preference" else 0.05) for name in CATEGORIES}
USAGE = Usage(10, 4, 3, 0, 0.1, 0.2)


class FakeStream:
    """Three pieces, and the reply they make."""

    reply = Reply("안녕하세요!", "fake", "stop", USAGE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[str]:
        return iter(("안녕", "하세요", "!"))


class FakeEngine:
    """Answers at once, and notes how it was made and called. `fails` is raised by whatever is called."""

    def __init__(self, **made: Any) -> None:
        self.made, self.closed = made, False
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.fails: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    @property
    def library(self) -> Self:
        return self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **keywords: Any) -> Any:
            if name != "disk":  # which every plan looks at
                self.calls.append((name, given, keywords))
            if self.made["progress"]:
                self.made["progress"](Progress("load fake", 1, 1, "model"))
            if self.fails is not None:
                raise self.fails
            answer = ANSWERS[name]
            return answer(*given) if callable(answer) else answer

        return call


ROLES = ("chat", "summary", "extraction", "classification", "embedding", "fallback")


def planned(role: str) -> LoadPlan:
    """Return the plan of a role in a profile without a fallback."""
    if role == "fallback":
        raise ConfigError("this profile names no fallback model")
    ram = Footprint(weights=300_000_000, kv=100_000_000, compute=0, other=50_000_000)
    return LoadPlan(
        model="fake", kind="llm", installed=True, verdict="fits", ram=ram, measured=False, n_ctx=8192, n_gpu_layers=0,
        vram=0, budget=16_000_000_000, held=0, evicts=(), fallback=None,
    )  # fmt: skip


ANSWERS: dict[str, Any] = {
    "stream": FakeStream(),
    "extract_memory": lambda dialogue: check_dialogue(dialogue) and ExtractedMemory(facts=(ITEM,)),
    "classify": lambda texts: [Classification("preference", LABELS, 0.65) for _ in texts],
    "summarize": lambda dialogue: check_dialogue(dialogue) and Summary("짧은 요약", USAGE),
    "embed": lambda texts: Embeddings(np.ones((len(texts), 2), np.float32)),
    "remember": [MEMORY],
    "search": [Hit(MEMORY, 0.91234)],
    "memories": [MEMORY],
    "memory": MEMORY,
    "forget": None,
    "update": MEMORY,
    "history": [MEMORY],
    "export": 3,
    "import_": Imported(2, 1),
    "backup": Path("backups/here"),
    "entries": [],
    "plan": lambda name=None: planned(name) if name in ROLES else [],
    "optional": None,
    "disk": {"folder": "models", "free": 10**10},
    "verify": [],
    "remove": 2_000_000,
    "found": ["tiny"],
    "take": [Path("models/here")],
    "doctor": {
        "python": "3.11.9",
        "platform": "Linux",
        "processor": "AMD EPYC",
        "cores": 2,
        "ram": 16_000_000_000,
        "ram_free": 12_000_000_000,
        "gpu": False,
        "versions": {"torch": "2.13.0", "apsw": None},
        "profile": "starter",
        "models": [],
        "checks": [],
        "profiles": [],
        "recommended": None,
    },
    "status": Status(
        profile="starter",
        home="/h",
        models="/m",
        budget=16_000_000_000,
        held=400_000_000,
        resident=500_000_000,
        anonymous=300_000_000,
        file_backed=200_000_000,
        parts=(),
        loaded=(),
        waiting=0,
        replaced=(),
    ),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine that every command of this test gets."""
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    made = FakeEngine()

    def make(**keywords: Any) -> FakeEngine:
        made.made = keywords
        return made

    monkeypatch.setattr(console, "Engine", make)
    return made


Output = pytest.CaptureFixture[str]
COMMANDS: list[tuple[list[str], str]] = [
    (["ask", "안녕"], "stream"),
    (["extract", "-"], "extract_memory"),
    (["classify", "나는 차를 좋아해", "b"], "classify"),
    (["summarize", "-"], "summarize"),
    (["embed", "a", "b"], "embed"),
    (["remember", "저는 땅콩을 못 먹어요"], "remember"),
    (["search", "못 먹는 음식"], "search"),
    (["memory", "list"], "memories"),
    (["memory", "show", "m1"], "memory"),
    (["memory", "list", "--superseded"], "memories"),
    (["memory", "show", "m1", "--history"], "memory history"),
    (["memory", "history", "m1"], "history"),
    (["memory", "edit", "m1", "저는 땅콩을 먹어요"], "update"),
    (["memory", "forget", "m1"], "forget"),
    (["memory", "forget", "m1", "--prove"], "status history forget memories"),
    (["memory", "export", "out.jsonl"], "export"),
    (["memory", "import", "out.jsonl"], "import_"),
    (["memory", "backup"], "backup"),
    (["models", "list"], "entries"),
    (["models", "plan"], "entries plan"),
    (["models", "pull", "starter"], "entries plan optional"),
    (["models", "verify"], "entries verify"),
    (["models", "remove", "x"], "remove"),
    (["models", "import", "."], "found take"),
    (["status"], "status" + 6 * " plan"),
    (["doctor"], "doctor"),
    (["doctor", "--speed"], "doctor"),
    (["doctor", "--retune"], "doctor"),
]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("저는 부산에 살아요"))


# ---- what goes where


@pytest.mark.parametrize(("command", "method"), COMMANDS)
@pytest.mark.usefixtures("typed")
def test_with_json_stdout_is_one_json_value(fake: FakeEngine, capsys: Output, command: list[str], method: str) -> None:
    assert cli.main(["--json", *command]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    json.loads(out)
    assert [name for name, _, _ in fake.calls] == method.split()
    assert fake.closed
    # progress elsewhere than on a terminal begins after ten seconds
    assert err == ("there is no model in models\n" if "verify" in command else "")


@pytest.mark.parametrize(("command", "method"), COMMANDS)
@pytest.mark.usefixtures("typed")
def test_quiet_leaves_stderr_empty(fake: FakeEngine, capsys: Output, command: list[str], method: str) -> None:
    assert cli.main(["--quiet", *command]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("command", "method"), COMMANDS)
@pytest.mark.usefixtures("typed")
def test_an_engine_error_is_one_line_on_stderr(
    fake: FakeEngine, capsys: Output, command: list[str], method: str
) -> None:
    fake.fails = ModelNotFound("it is not here.\nGet it.", model="x")
    assert cli.main(["--quiet", *command]) == 1
    assert capsys.readouterr() == ("", "gieok: it is not here. Get it.\n")
    assert fake.closed


@pytest.mark.parametrize(("command", "method"), COMMANDS)
@pytest.mark.usefixtures("typed")
def test_an_interrupt_is_told_and_is_130(
    fake: FakeEngine, capsys: Output, monkeypatch: pytest.MonkeyPatch, command: list[str], method: str
) -> None:
    fake.fails = KeyboardInterrupt()
    assert cli.main(["--quiet", *command]) == 130
    english, korean = "gieok: interrupted", "gieok: 멈췄습니다"
    if command[:2] == ["models", "import"]:  # what copies files says how to go on
        english += "; the same command goes on from there (a file of the package index begins anew)"
        korean += "; 같은 명령을 다시 실행하면 이어서 받습니다 (파이썬 패키지 파일은 처음부터)"
    assert capsys.readouterr() == ("", f"{english}\n")
    assert fake.closed
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    assert cli.main(["--quiet", *command]) == 130
    assert capsys.readouterr() == ("", f"{korean}\n")


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (["ask", "안녕"], ["안녕하세요!"]),
        (["extract", "-"], ["facts\t2026-03-09\t부산에 살아요"]),
        (["classify", "차", "b"], ["preference\t0.65\t차", "preference\t0.65\tb"]),
        (["summarize", "-"], ["짧은 요약"]),
        (["embed", "a", "b"], ["1.000000 1.000000"] * 2),
        (["remember", "a"], ["m1"]),
        (["search", "a"], ["0.912\tm1\t저는 땅콩을 못 먹어요"]),
        (["memory", "list"], ["m1\t2026-03-11\t저는 땅콩을 못 먹어요"]),
        (["memory", "forget", "m1"], []),
        (["memory", "history", "m1"], ["m1\t2026-03-11\t저는 땅콩을 못 먹어요"]),
        (["memory", "edit", "m1", "a"], ["m1"]),
        (["memory", "export", "out.jsonl"], ["3\tout.jsonl"]),
        (["memory", "import", "out.jsonl"], ["added\t2", "skipped\t1"]),
        (["memory", "backup"], [str(Path("backups/here"))]),
        (["models", "import", "."], [str(Path("models/here"))]),
    ],
)
@pytest.mark.usefixtures("typed")
def test_without_json_stdout_is_data_a_line_each(
    fake: FakeEngine, capsys: Output, command: list[str], lines: list[str]
) -> None:
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert out == "".join(f"{line}\n" for line in lines) or "extract" in command
    assert [line.split("\t")[1:] for line in out.splitlines()] == [line.split("\t")[1:] for line in lines]


def test_a_memory_is_shown_field_by_field(fake: FakeEngine, capsys: Output) -> None:
    assert cli.main(["memory", "show", "m1"]) == 0
    shown = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert shown == {name: "" if value is None else str(value) for name, value in MEMORY.to_dict().items()}


@pytest.mark.parametrize(
    ("given", "retune", "speed"),
    [
        ([], False, False),
        (["--retune"], True, False),
        (["--retune", "chat"], "chat", False),
        (["--speed"], False, True),
        (["--speed", "--retune", "chat"], "chat", True),
    ],
)
def test_what_the_doctor_is_to_measure_reaches_the_engine(
    fake: FakeEngine, given: list[str], retune: bool | str, speed: bool
) -> None:
    assert cli.main(["doctor", *given]) == 0
    assert fake.calls == [("doctor", (), {"retune": retune, "speed": speed})]


def test_status_tells_what_every_role_would_take(fake: FakeEngine, capsys: Output) -> None:
    assert cli.main(["--json", "status"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["budget"], told["held"]) == (16_000_000_000, 400_000_000)
    [plan] = told["plans"]  # of the one model that all roles of this profile have
    assert plan["roles"] == ["chat", "summary", "extraction", "classification", "embedding"]
    assert plan["ram"]["total"] == 450_000_000
    assert cli.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "budget\t16.0 GB, of which 400 MB is held" in lines
    assert "  fake (chat, summary, extraction, classification, embedding)\t450 MB (estimated)\tfits" in lines


def test_options_reach_the_engine(fake: FakeEngine) -> None:
    assert cli.main(["--profile", "starter", "--home", "집", "status"]) == 0
    assert (fake.made["profile"], fake.made["home"]) == ("starter", "집")
    assert isinstance(fake.made["progress"], console.Meter)
    assert cli.main(["--quiet", "status"]) == 0
    assert fake.made == {"profile": None, "home": None, "progress": None}
    assert cli.main(["search", "a", "-k", "9"]) == 0
    assert fake.calls[-1] == ("search", ("a",), {"k": 9})
    assert cli.main(["search", "a"]) == 0
    assert fake.calls[-1] == ("search", ("a",), {})


@pytest.mark.parametrize("command", [["--json", "--quiet", "status"], ["status", "--quiet", "--json"]])
def test_an_option_for_all_verbs_stands_before_or_behind_them(
    fake: FakeEngine, capsys: Output, command: list[str]
) -> None:
    assert cli.main(["--home", "a", *command, "--home", "b"]) == 0
    assert (fake.made["home"], fake.made["progress"]) == ("b", None)
    assert json.loads(capsys.readouterr().out)["profile"] == "starter"


def test_names_may_stand_on_both_sides_of_an_option(fake: FakeEngine) -> None:
    assert cli.main(["models", "plan", "a", "--dest", "x", "b", "c"]) == 0
    assert [given for name, given, _ in fake.calls if name == "plan"] == [("a",), ("b",), ("c",)]


# ---- dialogues


MESSAGES = [{"role": "user", "content": "저는 부산에 살아요", "at": "2026-03-05"}]


@pytest.mark.parametrize("verb", ["extract", "summarize"])
@pytest.mark.parametrize(
    ("text", "dialogue"),
    [
        ("저는 부산에 살아요", "저는 부산에 살아요"),
        (json.dumps(MESSAGES), MESSAGES),
        ("\ufeff" + json.dumps(MESSAGES, ensure_ascii=False), MESSAGES),
        ("\ufeff글\r\n둘", "글\n둘"),
        ('{"a": 1}', '{"a": 1}'),
        ("5", "5"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_file_is_a_text_or_a_json_list_of_messages(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, text: str, dialogue: object
) -> None:
    file = tmp_path / "대화.json"
    file.write_bytes(text.encode("utf-8"))
    assert cli.main([verb, str(file)]) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-8")), encoding="cp949"))
    assert cli.main([verb, "-"]) == 0
    assert [given for _, given, _ in fake.calls] == [(dialogue,)] * 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe\x00", "is not UTF-8"),
        ("한글".encode("cp949"), "is not UTF-8"),
        (b"", "empty"),
        (b"[]", "no messages"),
        (b"[1, 2]", "message 0 must be a dict"),
        (b'[{"role": "user", "content": 5}]', "content of message 0 must be a str"),
        (b'[{"role": "user"}]', "has no 'content'"),
    ],
)
def test_a_file_that_holds_no_dialogue_is_refused(
    fake: FakeEngine, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, content: bytes, why: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    for name in (str(tmp_path / "file"), "-"):
        assert cli.main(["--quiet", "extract", name]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert why in err
        assert err.count("\n") == 1


def test_a_file_that_cannot_be_opened_is_named(fake: FakeEngine, tmp_path: Path, capsys: Output) -> None:
    for path in (tmp_path / "missing", tmp_path):
        assert cli.main(["extract", str(path)]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert str(path) in err


def test_an_argument_that_is_not_utf8_can_be_told(fake: FakeEngine, capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "--\udcff"])  # how Python hands on a byte that it cannot read
    assert ended.value.code == 2
    assert "unrecognized arguments: --?" in capsys.readouterr().err


# ---- errors


@pytest.mark.parametrize(
    "kind", [k for k in vars(engine).values() if isinstance(k, type) and issubclass(k, EngineError)]
)
def test_every_error_of_the_engine_is_status_1(
    fake: FakeEngine, capsys: Output, monkeypatch: pytest.MonkeyPatch, kind: type[EngineError]
) -> None:
    fake.fails = kind.__new__(kind)
    monkeypatch.setattr(kind, "__str__", lambda _: "what happened", raising=False)
    assert cli.main(["--quiet", "status"]) == 1
    assert capsys.readouterr() == ("", "gieok: what happened\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidInput("text is empty"), "text is empty"),
        (MemoryNotFound("x"), "no memory has the id 'x'; Engine.memories() lists those there are."),
        (OSError(28, "No space left on device", "store.db"), "[Errno 28] No space left on device: 'store.db'"),
        (OSError("odd"), "odd"),
    ],
)
def test_the_reason_is_told(fake: FakeEngine, capsys: Output, error: Exception, line: str) -> None:
    fake.fails = error
    assert cli.main(["--quiet", "status"]) == 1
    assert capsys.readouterr().err == f"gieok: {line}\n"


def test_a_bug_is_not_dressed_up_as_a_reason(fake: FakeEngine) -> None:
    fake.fails = KeyError("a bug")
    with pytest.raises(KeyError):
        cli.main(["status"])


@pytest.mark.parametrize(
    "command",
    [
        [], ["nonsense"], ["ask"], ["ask", "a", "b"], ["classify"], ["extract"], ["memory"], ["memory", "eat"],
        ["memory", "show"], ["models"], ["models", "remove"], ["models", "pull", "--fast"], ["search", "a", "-k", "many"], ["--colour", "status"],
        ["--profile"], ["status", "now"], ["ask", "a", "--json", "b"],
    ],
)  # fmt: skip
def test_wrong_usage_is_2_and_leaves_stdout_empty(fake: FakeEngine, capsys: Output, command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: gieok" in err
    assert fake.calls == []


# ---- language and help


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LC_ALL": "ko_KR.UTF-8"}, "ko"),
        ({"LC_MESSAGES": "ko_KR"}, "ko"),
        ({"LANG": "ko"}, "ko"),
        ({"LANG": "Korean_Korea.949"}, "ko"),
        ({"LC_ALL": "en_US.UTF-8", "LANG": "ko_KR.UTF-8"}, "en"),
        ({"LC_ALL": "", "LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LC_ALL": "C"}, "en"),
        ({"LANG": "kok_IN"}, "en"),
        ({"LANG": "fr_FR.UTF-8"}, "en"),
    ],
)
def test_the_language_is_the_locales(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], language: str) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cli.locale_language() == language


@cache
def pages(language: Language) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every verb and group by its path; "" is the command itself."""
    found = {"": cli._parser(language)}
    for path in manual.VERBS:
        if path:
            group, _, name = path.rpartition(" ")
            verbs = [a for a in found[group]._actions if isinstance(a, argparse._SubParsersAction)]
            found[path] = verbs[0].choices[name]
    return found


def test_every_verb_argument_and_option_is_told_in_both_languages() -> None:
    english, korean = pages("en"), pages("ko")
    assert english.keys() - {"", "memory", "models"} == cli._VERBS.keys()
    told = set()
    for path in manual.VERBS:
        assert (english[path].description, korean[path].description) == manual.VERBS[path]
        words = [[a for a in page[path]._actions if a.help != argparse.SUPPRESS] for page in (english, korean)]
        for one, other in zip(*words, strict=True):
            if not isinstance(one, argparse._SubParsersAction):
                plural = f"{one.dest}{one.nargs or ''}"
                name = one.option_strings[-1] if one.option_strings else plural
                name = f"{path} {name}" if f"{path} {name}" in manual.WORDS else name
                assert (one.help, other.help) == manual.WORDS[name]
                told.add(name)
    assert told == manual.WORDS.keys()  # nothing is told of what is not there


LOCALES = {"en": "en_US.UTF-8", "ko": "ko_KR.UTF-8"}


def page(capsys: Output, monkeypatch: pytest.MonkeyPatch, language: str, path: str) -> str:
    """Return what `gieok PATH --help` prints."""
    monkeypatch.setenv("LC_ALL", LOCALES[language])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        cli.main([*path.split(), "--help"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    return out


@pytest.mark.parametrize("language", LOCALES)
@pytest.mark.parametrize("path", manual.VERBS)
def test_a_page_fits_80_columns_and_is_in_one_language(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, language: str, path: str
) -> None:
    told = page(capsys, monkeypatch, language, path)
    assert max(manual.width(line) for line in told.splitlines()) <= 80
    prose, _, examples = told.partition("보기:" if language == "ko" else "examples:")
    assert bool(examples) is (path == "")
    told = re.sub(r"(?m)^(사용법|usage): .*\n( {8,}.*\n)*", "", prose)
    words = set(re.findall(r"(?a)[A-Za-z](?:[\w./:-]*\w)?", told))
    if language == "en":
        assert prose.isascii()
    else:
        assert words <= names_of(path), words - names_of(path)


def names_of(path: str) -> set[str]:
    """Return the words that are the same in every language: what a user types or finds so called."""
    parser = pages("ko")[path]
    typed = {word for action in parser._actions for word in (*action.option_strings, action.metavar, action.dest)}
    typed |= {word.lstrip("-") for word in typed if isinstance(word, str)}
    verbs = {word for name in manual.VERBS for word in name.split()}
    variables = {word for name in manual._VARIABLES for word in name.split(", ")}
    names = {"gieok", "Gieok", "VERB", "--help", "default", "models.toml", "JSON", "Lines", "UTF-8", "USB", "Ctrl-C"}
    names |= {"Python", "PyInstaller", "id", "ko", "read", "off", "auto", "role", "content", "at", "h", "k", "N", "X"}
    names |= {"chat", "commercial", "qwen2.5:7b", *CATEGORIES}
    return {word for word in typed | verbs | variables | names if isinstance(word, str)}


@pytest.mark.parametrize("language", LOCALES)
def test_the_page_of_the_command_has_all_that_verbs_share(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    told = page(capsys, monkeypatch, language, "")
    korean = language == "ko"
    for path in cli._VERBS:
        [line] = [line for line in told.splitlines() if line.startswith(f"  {path:<17}")]
        assert line[19:].split()[0] == manual.VERBS[path][korean].split()[0]
    for word in (*cli._EVERYWHERE, "0  ", "1  ", "2  ", "130  "):
        assert f" {word}" in told
    read = {name for file in PACKAGE.rglob("*.py") for name in VARIABLE.findall(file.read_text(encoding="utf-8"))}
    assert {"GIEOK_HOME", "HF_TOKEN"} <= read | {"HF_TOKEN"}
    for name in read:
        assert f"\n  {name} " in told, name


PACKAGE = Path(engine.__file__).parent
VARIABLE = re.compile(r"""(?:environ\.get\(|environ\[)["'](GIEOK_\w+|HF_ENDPOINT|HF_HUB_OFFLINE|NO_COLOR)""")


def test_an_example_of_the_page_is_understood() -> None:
    for line in manual._EXAMPLES:
        gieok, *words = shlex.split(line.partition(" > ")[0])
        assert gieok == "gieok"
        assert callable(cli._parsed("en", words).run)


@pytest.mark.parametrize(
    ("command", "english", "korean"),
    [
        ([], "the following arguments are required: VERB", "빠진 인자: VERB"),
        (["remember"], "the following arguments are required: text", "빠진 인자: text"),
        (["status", "--foo"], "unrecognized arguments: --foo", "모르는 인자: --foo"),
        (["search", "a", "-k"], "argument -k: expected one argument", "-k: 값이 있어야 합니다"),
        (["search", "a", "-k", "x"], "argument -k: invalid int value: 'x'", "-k: 'x'는(은) 알맞은 값이 아닙니다"),
        (["status", "--json=3"], "argument --json: ignored explicit argument '3'", "--json: 값을 받지 않습니다: '3'"),
        (["chat", "--s", "a"], "ambiguous option: --s could match --", "--s는(은) 여럿일 수 있습니다: --"),
        (["pul"], "argument VERB: invalid choice: 'pul' (choose from", "VERB: 'pul'는(은) 없습니다. 고를 수 있는 것: "),
        (["chat", "--memory", "x"], "argument --memory: invalid choice: 'x' (choose", "--memory: 'x'는(은) 없습니다"),
    ],
)
def test_a_wrong_command_is_told_in_the_locales_language_and_is_2(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, command: list[str], english: str, korean: str
) -> None:
    for language, wrong, usage in (("en", f"error: {english}", "usage: "), ("ko", f"오류: {korean}", "사용법: ")):
        monkeypatch.setenv("LC_ALL", LOCALES[language])
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        assert err.startswith(usage) and wrong in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("ab cd efg", ["ab cd efg"]),
        ("ab cd efgh", ["ab cd", "efgh"]),
        ("가나 다라", ["가나 다라"]),
        ("가나 다라마", ["가나", "다라마"]),
        ("가나다라마바 사", ["가나다라마바", "사"]),
    ],
)
def test_lines_break_where_a_terminal_is_full(text: str, lines: list[str]) -> None:
    assert manual.wrapped(text, 9) == lines


# ---- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_error_does_not_stand_on_the_line_of_progress(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())

    def status() -> None:
        fake.made["progress"](Progress("load x", 0, 1, "model"))
        raise InvalidInput("no")

    monkeypatch.setattr(fake, "status", status, raising=False)
    assert cli.main(["status"]) == 1
    assert screen.getvalue() == "\rload x: 0 / 1 model · 0 s\ngieok: no\n"


# ---- real runs


# Python 3.11 reads the paths of its environment by the locale: below a Korean folder it does not start in C
PLAIN = "C" if sys.prefix.isascii() else "C.UTF-8"


def run(*command: str, home: Path, stdin: bytes = b"", **variables: Any) -> subprocess.CompletedProcess[bytes]:
    folder = Path(engine.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(folder), "GIEOK_CONFIG": str(packaged_file()), **variables}
    gieok = [sys.executable, "-m", "engine", "--profile", "starter", "--home", str(home)]
    return subprocess.run([*gieok, *command], input=stdin, capture_output=True, timeout=250, env=env, check=False)


def told(done: subprocess.CompletedProcess[bytes]) -> Any:
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout.decode("utf-8"))


@pytest.mark.model
def test_a_memory_is_stored_found_listed_and_forgotten(tmp_path: Path) -> None:
    home = tmp_path / "홍길동/내 문서"
    [stored] = told(run("--json", "--quiet", "remember", "저는 땅콩을 못 먹어요", home=home, LC_ALL=PLAIN))
    assert stored["text"] == "저는 땅콩을 못 먹어요"
    [hit] = told(run("--json", "--quiet", "search", "못 먹는 음식이 뭐지?", home=home))
    assert hit["memory"]["id"] == stored["id"]
    assert 0 <= hit["score"] <= 1
    listed = run("memory", "list", home=home, LC_ALL=PLAIN, PYTHONIOENCODING="ascii")
    assert listed.stdout.decode("utf-8").split("\t")[::2] == [stored["id"], "저는 땅콩을 못 먹어요\n"]
    assert told(run("--json", "--quiet", "memory", "forget", stored["id"], home=home))
    again = run("--json", "--quiet", "memory", "forget", stored["id"], home=home)
    assert (again.returncode, again.stdout, again.stderr.count(b"\n")) == (1, b"", 1)
    assert told(run("--json", "--quiet", "memory", "list", home=home)) == []


@pytest.mark.model
def test_the_starter_models_answer_and_extract(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text("[engine.sampling]\nmax_tokens = 8\n", encoding="utf-8")
    short: dict[str, Any] = {"GIEOK_CONFIG": str(tmp_path / "short.toml"), "LC_ALL": "C.UTF-8"}
    reply = told(run("--json", "--quiet", "ask", "Say hello.", home=tmp_path, **short))
    assert reply["text"]
    assert reply["usage"]["completion_tokens"] <= 8
    talk = json.dumps([{"role": "user", "content": "저는 부산에 살아요. 그저께 제주도에 갔어요."}]).encode()
    found = told(run("--json", "--quiet", "extract", "-", home=tmp_path, stdin=talk))
    assert set(found) == {"facts", "preferences", "events", "relationships"}
    for item in (item for items in found.values() for item in items):
        assert item["quote"] in "저는 부산에 살아요. 그저께 제주도에 갔어요."


@pytest.mark.model
def test_texts_are_classified(tmp_path: Path) -> None:
    first, second = told(
        run("--json", "--quiet", "classify", "나는 매운 음식을 좋아해", "물은 100도에서 끓는다", home=tmp_path)
    )
    assert (first["label"], second["label"]) == ("preference", "knowledge")
    assert sum(first["scores"].values()) == pytest.approx(1)


@pytest.mark.model
def test_who_answers_instead_of_a_missing_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "lacks.toml").write_text(
        "[engine.sampling]\nmax_tokens = 4\n[profiles.starter]\nchat = 'missing'\n"
        "fallback = 'smollm2-135m-instruct'\n[models.missing]\nkind = 'llm'\n"
        "source = { repo = 'nobody/nothing', files = ['missing.gguf'] }\n",
        encoding="utf-8",
    )
    lacks: dict[str, Any] = {"GIEOK_CONFIG": str(tmp_path / "lacks.toml"), "LC_ALL": PLAIN}
    asked = run("ask", "hi", home=tmp_path, **lacks)
    assert (asked.returncode, asked.stdout != b"") == (0, True)
    lines = [line for line in asked.stderr.decode("utf-8").splitlines() if line.startswith("gieok: ")]
    assert len(lines) == 1
    assert lines[0].startswith("gieok: smollm2-135m-instruct answers as chat instead of missing: ")
    asked = run("--quiet", "ask", "hi", home=tmp_path, **lacks)
    assert (asked.returncode, asked.stderr) == (0, b"")
    status = run("status", home=tmp_path, **lacks).stdout.decode("utf-8").splitlines()
    assert "    NOT INSTALLED: gieok models pull missing; smollm2-135m-instruct answers instead" in status


def test_what_needs_no_model_needs_no_home_either(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert told(run("--json", "status", home=home))["profile"] == "starter"
    assert {"bge-m3", "smollm2-135m-instruct"} <= {
        one["name"] for one in told(run("--json", "models", "list", home=home))
    }
    assert not home.exists()


def test_a_wrong_models_toml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[engine]\nn_ctxx = 5\n", encoding="utf-8")
    done = run("status", home=tmp_path, GIEOK_CONFIG=str(tmp_path / "my.toml"))
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert b"my.toml:2: unknown key 'engine.n_ctxx'. Did you mean 'n_ctx'?" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["models", "list"], ["--json", "models", "list"], ["--help"]])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, command: list[str], unbuffered: str) -> None:
    """As `gieok models list | head -0`: the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    folder = Path(engine.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "engine", "--home", str(tmp_path), *command],
            stdout=closed, stderr=subprocess.PIPE, timeout=250, env=env, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
