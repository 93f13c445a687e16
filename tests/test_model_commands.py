"""`gieok models …` on the real library, with models that lie in folders and on a hub on the loopback."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, drop, flip, status

from engine import cli, config, console, fetch, layout, library, model_commands
from engine.fetch import Patience

Output = pytest.CaptureFixture[str]
CATALOGUE = """
[models.tiny]
kind = "llm"
source = { repo = "org/tiny", files = ["tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf"] }
aliases = ["small", "작은"]
license = "MIT"
size = 500

[models.other]
kind = "llm"
source = { repo = "org/other", files = ["other.gguf"] }
license = "CC BY-NC 4.0"
commercial = false
note = "sings only"

[models.locked]
kind = "llm"
source = { repo = "org/locked", files = ["locked.gguf"] }
gated = true

[profiles.mine]
chat = "tiny"
summary = "other"
"""
TINY = {"tiny-00001-of-00002.gguf": b"a" * 300, "tiny-00002-of-00002.gguf": b"b" * 200}
OTHER = {"other.gguf": b"c" * 700}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder of a test, whose catalogue holds three models more."""
    (tmp_path / "mine.toml").write_text(CATALOGUE, encoding="utf-8")
    for name, value in {"GIEOK_CONFIG": "mine.toml", "GIEOK_MODELS": "models", "HF_HOME": "hf"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setattr(fetch, "PATIENCE", Patience(tries=2, first_wait=0.01, longest_wait=0.05, stall=20))
    return tmp_path / "models"


@pytest.fixture
def remote(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as made:
        made.commit("org/tiny", TINY)
        made.commit("org/other", OTHER)
        made.commit("org/locked", {"locked.gguf": b"x" * 10}, gated=True)
        monkeypatch.setenv("HF_ENDPOINT", made.endpoint)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield made
    from huggingface_hub.utils import close_session

    close_session()


@pytest.fixture
def stick(tmp_path: Path, models: Path) -> Path:
    """A folder with the files of two models."""
    (tmp_path / "usb/other").mkdir(parents=True)
    for name, content in TINY.items():
        (tmp_path / "usb" / name).write_bytes(content)
    (tmp_path / "usb/other/other.gguf").write_bytes(OTHER["other.gguf"])
    return tmp_path / "usb"


def run(*command: str) -> int:
    return cli.main(["models", *command])


def paths(models: Path, *names: str) -> str:
    first = {"tiny": "tiny-00001-of-00002.gguf", "other": "other.gguf"}
    return "".join(f"{models / name / first[name]}\n" for name in names)


# ---- list


def test_the_list_is_a_table_that_fits_a_hundred_columns(
    models: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIEOK_CONFIG")
    catalogue = config.load().models
    for locale in ("C", "ko_KR.UTF-8"):
        monkeypatch.setenv("LC_ALL", locale)
        assert run("list") == 0
        header, *lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == list(catalogue)
        assert max(map(model_commands._width, (header, *lines))) <= 100
        ends = {model_commands._width(line[: re.search("[GM]B", line).end()]) for line in lines}  # type: ignore[union-attr]
        assert len(ends) == 1  # the columns stand one below the other


def test_the_list_says_what_people_choose_by(models: Path, stick: Path, capsys: Output) -> None:
    assert run("pull", "tiny", "--from", str(stick), "--quiet") == 0
    assert run("list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["✓"].split() == ["✓", "tiny", "chat", "0", "kB", "?", "?", "MIT"]
    assert lines["other"].endswith("CC BY-NC 4.0, non-commercial")
    assert lines["llama-3.2-3b-instruct"].split()[-6:] == ["GB", "128k", "2/5", "Llama", "3.2", "Community"]
    assert "4/5" in lines["qwen2.5-7b-instruct"]
    assert lines["multilingual-e5-large"].split()[1] == "embed"


def test_the_list_as_json_has_aliases_and_bytes(models: Path, capsys: Output) -> None:
    assert run("list", "--json") == 0
    entries = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert entries["tiny"]["aliases"] == ["small", "작은"]
    assert (entries["tiny"]["size"], entries["tiny"]["installed"]) == (500, False)
    assert entries["qwen2.5-7b-instruct"]["ram"] > entries["qwen2.5-7b-instruct"]["size"]


# ---- plan


@pytest.mark.parametrize("command", [["plan"], ["pull", "--dry-run"]])
def test_a_plan_has_files_sizes_licences_disk_and_memory(models: Path, capsys: Output, command: list[str]) -> None:
    assert run(*command, "작은", "qwen2.5:0.5b", "tiny") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0] == "tiny · org/tiny · MIT"
    assert lines[1:4] == ["    also called: small, 작은", *(f"    {name}" for name in TINY)]
    assert lines[4] == "    download 0 kB · disk 0 kB · memory ?"
    assert "qwen2.5-0.5b-instruct · Qwen/Qwen2.5-0.5B-Instruct-GGUF · Apache-2.0" in lines
    assert "    qwen2.5-0.5b-instruct-q4_k_m.gguf  491 MB" in lines
    assert lines[-1].startswith("in all: download 491 MB · disk 491 MB (")
    assert f"free in {models})" in lines[-1] and lines[-1].endswith("memory ? with all loaded")
    assert not models.exists()


def test_a_plan_is_in_korean_where_the_locale_is(models: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    assert run("plan", "other", "locked") == 0
    out = capsys.readouterr().out
    for said in ("상업적 이용 불가", "페이지에서 동의 필요", "내려받기", "모두 올렸을 때 메모리", "남음"):
        assert said in out
    assert "download" not in out


def test_a_plan_says_what_a_licence_forbids_and_a_page_asks(models: Path, capsys: Output) -> None:
    assert run("plan", "other", "locked") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["other · org/other · CC BY-NC 4.0 · not for commercial use", "    sings only"]
    assert "locked · org/locked · ? · asks for consent on its page" in lines


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["mine"], {"tiny", "other"}),
        (["chat", "embedding", "chat"], {"qwen2.5-7b-instruct", "bge-m3"}),
        ([], {"qwen2.5-7b-instruct", "qwen2.5-3b-instruct", "bge-m3"}),
        (["--profile", "mine"], {"tiny", "other"}),
        (["--profile", "mine", "summary", "llama3.2:8b"], {"other", "llama-3.1-8b-instruct"}),
    ],
)
def test_models_are_named_by_profile_role_or_name(
    models: Path, capsys: Output, names: list[str], wanted: set[str]
) -> None:
    assert run("plan", "--json", *names) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {model["model"] for model in plan["models"]} == wanted
    assert len(plan["models"]) == len(wanted)
    sizes = [model["download"] for model in plan["models"]]
    assert plan["download"] == (None if None in sizes else sum(sizes))
    assert plan["free"] > 0 and plan["folder"] == str(models)


def test_what_the_disk_has_no_room_for_is_said(models: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.Library, "disk", lambda _: {"folder": "m", "free": 4_000_000_000})
    assert run("plan", "qwen2.5:7b") == 0
    assert capsys.readouterr().out.endswith("the disk has too little room for that: 683 MB more is needed\n")
    assert run("plan", "qwen2.5:3b") == 0
    assert "too little room" not in capsys.readouterr().out


def test_an_unknown_name_stops_before_anything_is_fetched(models: Path, stick: Path, capsys: Output) -> None:
    assert run("pull", "other", "qwen2.5-7b-instrukt", "--from", str(stick)) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Did you mean 'qwen2.5-7b-instruct'?" in err
    assert not models.exists()


# ---- pull


def test_models_come_from_the_hub(models: Path, remote: FakeHub, capsys: Output) -> None:
    assert run("pull", "tiny", "other") == 0
    out, err = capsys.readouterr()
    assert out == paths(models, "tiny", "other")
    assert err.splitlines()[0] == "tiny · org/tiny · MIT"  # licences before a download
    assert err.splitlines()[-1].startswith("in all: download ? · ")
    assert "\x1b" not in err
    for name, content in TINY.items():
        assert (models / "tiny" / name).read_bytes() == content
    assert run("pull", "small", "tiny", "chat", "--profile", "mine") == 0
    assert capsys.readouterr() == (paths(models, "tiny"), "")  # nothing to come, nothing to announce
    assert remote.again(*TINY, *OTHER) == 0


def test_json_is_all_that_is_on_stdout(models: Path, remote: FakeHub, capsys: Output) -> None:
    assert run("pull", "tiny", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == paths(models, "tiny").splitlines()
    assert "MIT" in err
    assert run("remove", "tiny", "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out) == {"tiny": 500}
    assert run("pull", "tiny", "--quiet") == 0
    assert capsys.readouterr() == (paths(models, "tiny"), "")


def test_what_fails_keeps_no_other_from_coming(models: Path, remote: FakeHub, capsys: Output) -> None:
    remote.plan("tiny-00002-of-00002.gguf", then=flip(3))
    assert run("pull", "locked", "tiny", "other", "--quiet") == 1
    out, err = capsys.readouterr()
    locked, tiny, rest = err.splitlines()
    assert out == paths(models, "other")
    assert locked.startswith("gieok: locked.gguf of org/locked") and "HF_TOKEN" in locked
    assert tiny.startswith("gieok: tiny-00002-of-00002.gguf")
    assert rest == "gieok: done all the same: other"


@pytest.mark.parametrize("names", [["locked"], ["locked", "tiny"]])
def test_where_nothing_comes_stdout_is_empty(models: Path, capsys: Output, names: list[str]) -> None:
    assert run("pull", *names, "--json", "--quiet") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:7] for line in err.splitlines()] == ["gieok: "] * len(names)


def test_an_interrupt_keeps_what_came_and_says_how_to_go_on(
    models: Path, remote: FakeHub, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = os.urandom(400_000)
    remote.commit("org/other", {"other.gguf": big})
    remote.plan("other.gguf", drop(150_000))

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch.time, "sleep", interrupted)  # Ctrl-C while it waits to try again
        assert run("pull", "other", "--quiet") == 130
    said = "gieok: interrupted; the same command goes on from there (a file of the package index begins anew)\n"
    assert capsys.readouterr() == ("", said)
    assert run("pull", "other", "--quiet") == 0
    assert (models / "other/other.gguf").read_bytes() == big
    assert remote.again("other.gguf") <= 32_768  # what was on its way


def test_a_busy_hub_is_asked_again(models: Path, remote: FakeHub, capsys: Output) -> None:
    remote.plan("org/other", status(503))
    assert run("pull", "other", "--quiet") == 0
    assert capsys.readouterr() == (paths(models, "other"), "")


# ---- folders


def test_a_stick_is_filled_and_read_again(
    models: Path, remote: FakeHub, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    usb = tmp_path / "내 usb"
    assert run("pull", "tiny", "--dest", str(usb)) == 0
    out, err = capsys.readouterr()
    assert out == paths(usb, "tiny")
    assert err.splitlines()[-1] == (
        f"to use these, set GIEOK_MODELS={usb}; to copy them elsewhere: gieok models pull --from {usb}"
    )
    assert not models.exists()
    assert os.environ["GIEOK_MODELS"] == str(models)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run("list", "--json", "--dest", str(usb)) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out) if one["installed"]] == ["tiny"]
    assert run("pull", "tiny", "--from", str(usb), "--quiet") == 0
    assert capsys.readouterr().out == paths(models, "tiny")
    (usb / "tiny/tiny-00002-of-00002.gguf").write_bytes(b"B" * 200)
    assert run("remove", "tiny", "--quiet") == 0
    capsys.readouterr()
    assert run("pull", "tiny", "--from", str(usb), "--quiet") == 1
    assert "tiny-00002-of-00002.gguf" in capsys.readouterr().err
    assert not (models / "tiny").exists()


@pytest.mark.parametrize("command", [["pull", "tiny", "--from"], ["import"]])
def test_a_folder_that_is_not_there_is_named(models: Path, tmp_path: Path, capsys: Output, command: list[str]) -> None:
    assert run(*command, str(tmp_path / "gone")) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"No such file or directory: '{tmp_path / 'gone'}'" in err


def test_what_lies_in_a_folder_is_imported(models: Path, stick: Path, capsys: Output) -> None:
    assert run("import", str(stick)) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(paths(models, "tiny", "other").splitlines())
    assert run("remove", "other", "tiny") == 0
    assert capsys.readouterr().out.splitlines() == ["other: 1 kB freed", "tiny: 0 kB freed"]
    assert run("import", str(stick / "other/other.gguf"), "other", "--json") == 0
    assert json.loads(capsys.readouterr().out) == paths(models, "other").splitlines()
    assert run("import", str(stick), "locked") == 1
    assert capsys.readouterr().err.startswith(f"gieok: {stick} has no locked.gguf")


# ---- verify and remove


@pytest.fixture
def here(models: Path, stick: Path, capsys: Output) -> Path:
    assert run("import", str(stick)) == 0
    capsys.readouterr()
    return models


def test_right_files_are_verified(here: Path, capsys: Output) -> None:
    assert run("verify") == 0
    assert capsys.readouterr() == (
        "tiny\ttiny-00001-of-00002.gguf\tok\ntiny\ttiny-00002-of-00002.gguf\tok\nother\tother.gguf\tok\n", ""
    )  # fmt: skip
    assert run("verify", "other", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"model": "other", "file": "other.gguf", "state": "ok"}]


def test_what_is_damaged_or_missing_is_said_with_the_way_out(here: Path, capsys: Output) -> None:
    (here / "other/other.gguf").write_bytes(b"c" * 699 + b"d")
    (here / "tiny/tiny-00002-of-00002.gguf").unlink()
    assert run("verify") == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "tiny\ttiny-00001-of-00002.gguf\tok",
        "tiny\ttiny-00002-of-00002.gguf\tMISSING",
        "other\tother.gguf\tDAMAGED, put aside as .corrupt",
    ]
    assert err == "gieok: damaged or missing; to get it again: gieok models pull tiny other\n"
    assert [path.name for path in (here / "other").iterdir()] == ["other.gguf.corrupt"]


def test_verifying_a_profile_names_what_was_never_here(here: Path, capsys: Output) -> None:
    assert run("remove", "tiny", "--quiet") == 0
    capsys.readouterr()
    assert run("verify", "mine", "--json", "--dest", str(here)) == 1
    out, err = capsys.readouterr()
    assert sorted(json.loads(out), key=lambda one: str(one["model"])) == [
        {"model": "other", "file": "other.gguf", "state": "ok"},
        {"model": "tiny", "file": None, "state": "missing"},
    ]
    assert err.endswith(f"gieok models pull tiny --dest {here}\n")


def test_an_empty_folder_has_nothing_to_verify(models: Path, capsys: Output) -> None:
    assert run("verify") == 0
    assert capsys.readouterr() == ("", f"there is no model in {models}\n")
    assert run("verify", "--json", "--quiet") == 0
    assert capsys.readouterr() == ("[]\n", "")


def test_what_cannot_be_removed_keeps_nothing_else(here: Path, capsys: Output) -> None:
    assert run("remove", "tiny", "locked", "nonsense", "작은", "other", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"tiny": 500, "other": 700}
    assert len(err.splitlines()) == 4  # locked, nonsense, 작은 (which is gone already), and what was done
    assert err.splitlines()[-1] == "gieok: done all the same: tiny, other"
    assert not layout.installed(config.load().model("other"))


# ---- what a terminal sees


def test_bars_are_told_of_every_file(
    models: Path, remote: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(console.Bars, "__call__", lambda _, event: seen.append(event))
    assert run("pull", "tiny", "other") == 0
    files = {event.part.task for event in seen if event.part}
    assert files >= {*TINY, *OTHER}
    assert {event.task for event in seen} == {"download tiny", "download other"}
    last = {event.task: (event.done, event.total) for event in seen}
    assert last == {"download tiny": (500, 500), "download other": (700, 700)}
    seen.clear()
    assert run("verify") == 0
    assert {event.task for event in seen} == {"verify tiny", "verify other"}
    seen.clear()
    assert run("remove", "other") == 0
    assert run("pull", "other", "--quiet") == 0
    assert seen == []
