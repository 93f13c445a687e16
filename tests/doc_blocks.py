"""The fenced blocks, links and headings of the pages that people read, and a shell that runs what they show."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from engine import embedder
from engine.korean import morphemes

if TYPE_CHECKING:
    from engine.config import ModelSpec

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "DECISIONS.md"  # a diary: what it shows was so on its day
)
LANGUAGES = {"python", "sh", "toml", "text"}  # text: what a program printed, or a drawing; nobody runs it
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ \t]*$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fenced block: in which page and line it begins, below which heading, and what it holds."""

    page: str
    line: int
    heading: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page in order."""
    text, found = read(page), []
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()]
        above = [line for line in _FENCE.sub("", before).splitlines() if line.startswith("#")]
        heading = above[-1].lstrip("# ") if above else ""
        place = before.count("\n") + 1
        found.append(Block(page, place, heading, fence["language"].strip(), dedent(fence["text"])))
    return found


def all_blocks(language: str) -> list[Block]:
    """Return the blocks of all pages in a language, but README.ko.md's: tests/test_docs.py sees that they are README.md's."""
    pages = [page for page in PAGES if page != "README.ko.md"]
    return [block for page in pages for block in blocks(page) if block.language == language]


def prose(page: str) -> str:
    """Return a page without its blocks."""
    return _FENCE.sub("", read(page))


def anchors(page: str) -> set[str]:
    """Return what the headings of a page are called in links, by GitHub's rule."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@contextlib.contextmanager
def libraries_kept() -> Iterator[None]:
    """Let all engines inside share one embedding model and one Korean analyser: each block would load both anew.

    An engine frees its own; tests/test_models.py and test_engine.py have that.
    """
    with pytest.MonkeyPatch.context() as patch:

        class Kept(embedder.Embedder):
            def interrupt(self) -> None:
                pass

            def close(self) -> None:
                pass

        made: dict[tuple[Path, bool], Kept] = {}

        def embedder_of(folder: Path, spec: ModelSpec, *, device: str, fast: bool) -> Kept:
            if (folder, fast) not in made:
                made[folder, fast] = Kept(folder, spec, device=device, fast=fast)
            return made[folder, fast]

        patch.setattr(embedder, "Embedder", embedder_of)
        patch.setattr(morphemes, "Analyser", cache(morphemes.Analyser))
        try:
            yield
        finally:
            for each in made.values():
                super(Kept, each).close()


# ---- a shell in which `gieok` answers at once

_CLIENT = """import json, os, socket, sys
asked = {{"argv": sys.argv[1:], "cwd": os.getcwd(), "environ": dict(os.environ), "stdin": sys.stdin.read()}}
with socket.create_connection(("127.0.0.1", {port})) as line, line.makefile("rwb") as file:
    file.write(json.dumps(asked).encode() + b"\\n")
    file.flush()
    said = json.loads(file.readline())
sys.stdout.buffer.write(said["out"].encode())
sys.stderr.buffer.write(said["err"].encode())
sys.exit(said["status"])
"""


class Shell:
    """Runs scripts in bash; what they call `gieok` is `main` in this process, which has its libraries loaded already.

    Each call has the arguments, folder, variables and input that the script gave it, and its own output and status.
    """

    def __init__(self, folder: Path, main: Callable[[list[str]], int]) -> None:
        self._main = main
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.02)
        port = self._listening.getsockname()[1]
        (folder / "bin").mkdir()
        asking = folder / "bin/ask.py"
        asking.write_text(_CLIENT.format(port=port), encoding="utf-8")
        client = f'#!/bin/sh\nexec "{sys.executable}" -IS "{asking}" "$@"\n'  # a folder's name may have blanks
        python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
        self.bin = folder / "bin"
        (folder / ".venv/bin").mkdir(parents=True)
        for place in (self.bin, folder / ".venv/bin"):
            for name, text in {"gieok": client, "python": python, "python3": python}.items():
                (place / name).write_text(text, encoding="utf-8")
                (place / name).chmod(0o755)

    def close(self) -> None:
        self._listening.close()

    def run(self, script: str, folder: Path, environ: Mapping[str, str], seconds: float) -> tuple[int, str]:
        """Run a script to its end; return its status, and what it said on both streams. Raises `TimeoutError`."""
        output = folder / ".output"
        with output.open("wb") as file:
            child = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script], cwd=folder, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, env={**environ, "PATH": f"{self.bin}{os.pathsep}{environ['PATH']}"},
                start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + seconds
        try:
            while child.poll() is None:
                self._serve()
                if time.monotonic() > end:
                    raise TimeoutError(f"after {seconds} s still at: {script}")
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # and whatever it has started
            child.wait()
        return child.returncode, output.read_text(encoding="utf-8")

    def _serve(self) -> None:
        try:
            line, _ = self._listening.accept()
        except TimeoutError:
            return
        with line, line.makefile("rwb") as file:
            asked = json.loads(file.readline())
            file.write(json.dumps(self._answer(asked)).encode() + b"\n")

    def _answer(self, asked: dict[str, object]) -> dict[str, object]:
        out, err = io.StringIO(), io.StringIO()
        with _standing_in(asked), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = self._main(list(asked["argv"]))  # type: ignore[call-overload]
            except SystemExit as left:  # argparse
                status = left.code
        return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


@contextlib.contextmanager
def _standing_in(asked: Mapping[str, object]) -> Iterator[None]:
    """Have the folder, variables and input of the process that asks."""
    before, folder, typed = dict(os.environ), Path.cwd(), sys.stdin
    try:
        os.environ.clear()
        os.environ.update(asked["environ"])  # type: ignore[call-overload]
        os.chdir(str(asked["cwd"]))
        sys.stdin = io.StringIO(str(asked["stdin"]))
        yield
    finally:
        sys.stdin = typed
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)
