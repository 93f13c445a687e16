"""scripts/download_models.py, as a process of its own, against a hub on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import script_module
from fake_hub import Asked, FakeHub

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "download_models.py"
HANG = 100.0
CATALOGUE = """
[models.tiny]
kind = "llm"
source = { repo = "org/tiny", files = ["a.gguf", "b.gguf"] }
license = "MIT"
size = 900000

[models.locked]
kind = "llm"
source = { repo = "org/locked", files = ["locked.gguf"] }
gated = true
"""
FILES = {"a.gguf": os.urandom(600_000), "b.gguf": os.urandom(300_000)}
GO_ON = "gieok: interrupted; the same command goes on from there (a file of the package index begins anew)\n"
posix = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


@pytest.fixture
def remote() -> Iterator[FakeHub]:
    with FakeHub() as made:
        made.commit("org/tiny", FILES)
        made.commit("org/locked", {"locked.gguf": b"x" * 10}, gated=True)
        yield made


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, remote: FakeHub) -> Iterator[Start]:
    """Start the script, or another command, in a folder that is not the repository."""
    (tmp_path / "mine.toml").write_text(CATALOGUE, encoding="utf-8")
    settings = {
        "GIEOK_CONFIG": str(tmp_path / "mine.toml"), "GIEOK_MODELS": str(tmp_path / "models"), "LC_ALL": "C.UTF-8",
        "HF_ENDPOINT": remote.endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    begun: list[subprocess.Popen[str]] = []

    def make(*arguments: str, command: tuple[str, ...] = (sys.executable, str(SCRIPT))) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [*command, *arguments], cwd=tmp_path, env={**os.environ, **settings}, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        begun.append(child)
        return child

    yield make
    for child in begun:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture
def run(start: Start) -> Callable[..., tuple[int, str, str]]:
    """Run the script to its end; return its status, stdout and stderr."""

    def make(*arguments: str, **how: Any) -> tuple[int, str, str]:
        child = start(*arguments, **how)
        out, err = child.communicate(timeout=HANG)
        return child.returncode, out, err

    return make


Run = Callable[..., tuple[int, str, str]]


def came(folder: Path) -> bool:
    return all((folder / "tiny" / name).read_bytes() == content for name, content in FILES.items())


def test_a_model_comes(run: Run, tmp_path: Path) -> None:
    status, out, err = run("tiny")
    assert (status, out) == (0, f"{tmp_path / 'models/tiny/a.gguf'}\n")
    assert err.startswith("tiny · org/tiny · MIT\n") and "\x1b" not in err and "\r" not in err
    assert came(tmp_path / "models")
    assert run("tiny", "--quiet", "--json") == (0, json.dumps([out.strip()], ensure_ascii=False) + "\n", "")


def test_the_command_of_the_package_is_the_same(run: Run, tmp_path: Path) -> None:
    assert run("tiny", "--quiet") == (0, f"{tmp_path / 'models/tiny/a.gguf'}\n", "")
    command = (
        sys.executable,
        "-c",
        f"import sys; sys.path.append({str(ROOT)!r}); from engine.cli import main; sys.exit(main())",
    )
    assert run("models", "pull", "tiny", "--quiet", command=command)[:2] == (0, f"{tmp_path / 'models/tiny/a.gguf'}\n")
    status, out, _ = run("models", "verify", "--json", command=command)
    assert (status, [one["state"] for one in json.loads(out)]) == (0, ["ok", "ok"])
    assert run("models", "remove", "tiny", command=command)[:2] == (
        0,
        "tiny: 900 kB freed\n",
    )
    assert not (tmp_path / "models/tiny").exists()


def test_a_dry_run_asks_nobody_and_writes_nothing(run: Run, remote: FakeHub, tmp_path: Path) -> None:
    status, out, err = run("tiny", "chat", "--dry-run", "--json")
    assert (status, err) == (0, "")
    plan = json.loads(out)
    assert [model["model"] for model in plan["models"]] == ["tiny", "qwen2.5-7b-instruct"]
    assert plan["models"][0]["license"] == "MIT"
    assert remote.asked == []
    assert not (tmp_path / "models").exists()


def test_a_stick_is_filled_and_read(run: Run, remote: FakeHub, tmp_path: Path) -> None:
    assert run("--dest", "usb", "tiny")[0] == 0
    assert came(tmp_path / "usb")
    asked = len(remote.asked)
    assert run("tiny", "--from", "usb", "--quiet") == (0, f"{tmp_path / 'models/tiny/a.gguf'}\n", "")
    assert came(tmp_path / "models")
    assert len(remote.asked) == asked


def test_what_cannot_be_had_is_said(run: Run) -> None:
    status, out, err = run("locked", "--quiet")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "HF_TOKEN" in err
    status, out, err = run("qwen2.5-7b-instrukt")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "Did you mean 'qwen2.5-7b-instruct'?" in err
    assert run("--colour")[0] == 2


def interrupt(remote: FakeHub, child: subprocess.Popen[str], after: int) -> tuple[int, str, str]:
    """Send one SIGINT when the hub has sent so many bytes."""
    reached = threading.Event()

    def watch(_asked: Asked) -> None:
        if remote.sent() >= after:
            reached.set()

    remote.watch = watch
    assert reached.wait(HANG)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=HANG)
    remote.watch = None
    return child.returncode, out, err


@posix
def test_an_interrupt_keeps_what_came(start: Start, run: Run, remote: FakeHub, tmp_path: Path) -> None:
    remote.pace = 500_000
    assert interrupt(remote, start("tiny", "--quiet"), 250_000) == (130, "", GO_ON)
    remote.pace = 0
    assert run("tiny", "--quiet")[0] == 0
    assert came(tmp_path / "models")
    assert remote.again(*FILES) < 200_000  # what was on its way


# ---- which Python


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The few files of the repository that a download needs."""
    made = tmp_path / "내 clone"
    (made / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, made / "scripts")
    for name in ("pyproject.toml", "models.toml"):
        shutil.copy(ROOT / name, made)
    shutil.copytree(ROOT / "engine", made / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    return made


def bare(clone: Path) -> tuple[str, ...]:
    """A Python without any packages."""
    return sys.executable, "-S", str(clone / "scripts/download_models.py")


def test_where_nothing_is_set_up_it_says_how(run: Run, clone: Path) -> None:
    status, out, err = run("tiny", command=bare(clone))
    assert (status, out) == (1, "")
    assert "    python3 scripts/dev.py demo\n" in err
    assert ' -m pip install "filelock>=' in err
    for name in ("huggingface_hub", "platformdirs", "pydantic", "rich"):
        assert f' "{name}>=' in err
    assert "torch" not in err and "'" not in err


@pytest.mark.parametrize(
    ("python", "said"),
    [("/usr/bin/python3", "/usr/bin/python3"), (r"C:\Program Files\py.exe", r'"C:\Program Files\py.exe"')],
)
def test_the_command_to_install_is_one_for_any_shell(monkeypatch: pytest.MonkeyPatch, python: str, said: str) -> None:
    script = script_module.load("download_models")
    monkeypatch.setattr(sys, "executable", python)
    assert script.install(["rich>=15.0", "filelock>=3"]) == f'{said} -m pip install "rich>=15.0" "filelock>=3"'


@posix
def test_the_environment_of_the_clone_is_used(
    start: Start, run: Run, clone: Path, remote: FakeHub, tmp_path: Path
) -> None:
    python = clone / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    status, out, err = run("locked", "--quiet", command=bare(clone))
    assert (status, out, err.count("\n")) == (1, "", 1)
    remote.pace = 500_000
    assert interrupt(remote, start("tiny", "--quiet", command=bare(clone)), 250_000) == (130, "", GO_ON)  # once
    remote.pace = 0
    assert run("tiny", "--quiet", command=bare(clone)) == (0, f"{tmp_path / 'models/tiny/a.gguf'}\n", "")


def test_the_heavy_libraries_stay_away(run: Run) -> None:
    code = (
        f"import runpy, sys\nsys.argv[0] = {str(SCRIPT)!r}\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "print(sorted({'torch', 'llama_cpp', 'transformers', 'numpy', 'faiss', 'rich'} & set(sys.modules)))"
    )
    status, out, err = run("tiny", "--quiet", command=(sys.executable, "-c", code))
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [(sys.executable, str(SCRIPT)), (sys.executable, "-S", str(SCRIPT))])
def test_help_needs_nothing(run: Run, command: tuple[str, ...]) -> None:
    status, out, err = run("--help", command=command)
    assert (status, err) == (0, "")
    for option in ("--dest", "--from", "--dry-run", "--json", "--quiet"):
        assert option in out


def test_a_package_that_is_too_old_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    script = script_module.load("download_models")
    assert script.lacking() == []
    bounds = dict(line.split(">=") for line in script.requirements())
    assert set(bounds) == set(script.NEEDED)
    there = {**bounds, "rich": "9.13.0", "huggingface_hub": bounds["huggingface_hub"] + ".post1"}
    monkeypatch.setattr(script.importlib.metadata, "version", there.__getitem__)
    assert script.lacking() == [f"rich>={bounds['rich']}"]
    assert script.is_met("rich", "9.13") and script.is_met("rich", "9.9.9") and not script.is_met("rich", "10")
