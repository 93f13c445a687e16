"""The demo as a newcomer runs it: a process of its own, on a machine without network interfaces where that can be had."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from engine import demo


def without_network() -> list[str]:
    """Return the prefix that runs a command in a namespace without interfaces, or nothing where that is refused."""
    prefix = ["unshare", "--user", "--map-root-user", "--net"]
    usable = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if usable and usable.returncode == 0 else []


@pytest.mark.model
@pytest.mark.slow
def test_the_demo_runs_without_a_network_and_every_check_is_right() -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    command = [*without_network(), sys.executable, "-m", "engine", "demo"]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "✗" not in run.stdout
    assert run.stdout.count("✓") >= 20
    steps = [int(number) for number in re.findall(r"^(\d+) ", run.stdout, re.MULTILINE)]
    assert steps == list(range(len(demo.STEPS)))
    assert run.stderr == ""


def test_one_wrong_check_fails_the_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "shut_network", lambda: None)  # it cannot be opened again in this process
    monkeypatch.setattr(demo, "STEPS", (lambda number, told, engine: print(told.check(True), told.check(False)),))
    assert demo.run("ko") == 1
    assert "✓ ✗" in capsys.readouterr().out


def test_the_network_is_really_shut() -> None:
    code = (
        "import socket; from engine.demo import shut_network; shut_network()\n"
        "for family in (socket.AF_INET, socket.AF_INET6):\n"
        "    try: socket.socket(family)\n"
        "    except PermissionError: print('refused')\n"
        "try: socket.getaddrinfo('localhost', 80)\n"
        "except PermissionError: print('refused')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert run.stdout.split() == ["refused"] * 3


def test_plain_words_find_only_what_shares_them() -> None:
    assert demo.word_match("우리 반려견을 뭐라고 부르더라?") == 1
    assert demo.word_match("내 직업이 뭐였지?") is None
