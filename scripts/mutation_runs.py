"""Copies of the tree in which mutants are tried: the repository itself is never changed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any, Literal

import psutil
from mutation_changes import Mutant, plain

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("engine", "tests", "scripts")
FILES = ("models.toml", "pyproject.toml")
PATIENCE = 5  # times what the tests take unchanged
LEAST_SECONDS = 20.0  # before a test is taken to hang: it may have to wait for the machine
BEGIN_SECONDS = 10.0  # for Python, pytest and the imports
PRELOAD = ("pytest", "hypothesis.stateful", "numpy", "pydantic", "apsw", "faiss", "jinja2.sandbox", "llama_cpp", "gguf")
_NO_TEST = 5  # pytest's exit status where there is nothing to run

End = Literal["killed", "hung", "survived"]


class CannotTry(Exception):
    """The tests do not pass on the unchanged module, or there are none; the message shows what pytest said."""


@dataclass(frozen=True)
class Target:
    """A module, and the files of the tests that answer for it, below `root`."""

    root: Path
    module: str
    tests: tuple[str, ...]

    @property
    def text(self) -> str:
        return (self.root / self.module).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Verdict:
    """How a mutant ended, by which test if one failed, after how many seconds; `tests` had been chosen for it."""

    end: End
    by: str
    seconds: float
    tests: int


class Running:
    """The children that run now, so that none outlives this process by more than its own tests."""

    def __init__(self) -> None:
        self._children: set[int] = set()
        self._over = False

    @contextlib.contextmanager
    def one(self, pid: int) -> Iterator[None]:
        self._children.add(pid)
        if self._over:  # since it was started
            kill(pid)
        try:
            yield
        finally:
            self._children.discard(pid)

    def end(self) -> None:
        """Kill them all, and who is started yet."""
        self._over = True
        for pid in list(self._children):
            kill(pid)


def kill(pid: int) -> None:
    """Kill a process and what it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (*parent.children(recursive=True), parent):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


class Copy:
    """One copy of the tree, for one child at a time."""

    def __init__(self, target: Target, folder: Path, running: Running) -> None:
        self.target, self.folder, self._running = target, folder, running
        for name in FOLDERS:
            if (target.root / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(target.root / name, folder / name, ignore=ignored, dirs_exist_ok=True)
        for name in FILES:
            if (target.root / name).exists():
                shutil.copy(target.root / name, folder / name)

    def run(self, source: str, plan: dict[str, Any], seconds: float | None) -> tuple[int | None, dict[str, Any], str]:
        """Run tests over `source` in the module's place: (exit status or None after `seconds`, outcome, output)."""
        module = self.folder / self.target.module
        module.write_text(source, encoding="utf-8")
        for stale in module.parent.glob(f"__pycache__/{module.stem}.*"):  # known by time and size: a mutant's may agree
            stale.unlink()
        outcome, output = self.folder / "outcome.json", self.folder / "output.txt"
        outcome.unlink(missing_ok=True)
        output.write_bytes(b"")
        (self.folder / "plan.json").write_text(json.dumps({**plan, "outcome": str(outcome)}), encoding="utf-8")
        status = self._wait(plan, output, seconds)
        found = json.loads(outcome.read_text(encoding="utf-8")) if outcome.exists() else {}
        return status, found, output.read_text(encoding="utf-8", errors="replace")

    def _wait(self, plan: dict[str, Any], output: Path, seconds: float | None) -> int | None:
        files = dict.fromkeys(test.split("::")[0] for test in plan["tests"]) if "tests" in plan else self.target.tests
        quiet = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options = [*quiet, "-p", "mutation_plugin", f"--basetemp={self.folder / 'temp'}", *files]
        child = _processes().Process(target=_run_pytest, args=(self.folder, output, self._environment(), options))
        child.start()
        with self._running.one(child.pid or 0):
            try:
                child.join(seconds)
                status: int | None = child.exitcode
            finally:
                kill(child.pid or 0)
                child.join()
        return status

    def _environment(self) -> dict[str, str]:
        return {
            "GIEOK_TEST_VOCAB": os.environ.get("GIEOK_TEST_VOCAB", str(self.target.root / ".venv" / "share" / "vocab")),
            "GIEOK_MUTATION": str(self.folder / "plan.json"),
            "PYTHONPATH": str(self.folder),  # for what the tests start
        }


@cache
def _processes() -> ForkServerContext | SpawnContext:
    """Return how children are made: where there is a fork, of a process that has imported what takes long."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOAD))
    return context


def _run_pytest(folder: Path, output: Path, environment: dict[str, str], options: list[str]) -> None:
    """Run pytest in a child, and end it at once, whatever threads a mutant has left."""
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [str(folder), str(Path(__file__).parent)]
    sys.dont_write_bytecode = False  # in the copy; else each child compiles everything
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    import pytest

    status = int(pytest.main(options))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@dataclass(frozen=True)
class Trial:
    """What the unchanged module's tests did, and with it the choice of tests for each mutant.

    `reach` holds the first lines of the statements that each test runs ("": the import), `seconds` how long each takes.
    """

    reach: dict[str, list[int]]
    starters: list[str]
    seconds: dict[str, float]

    @classmethod
    def of(cls, copy: Copy) -> Trial:
        """Run the tests. Raises `CannotTry` where they do not pass."""
        target = copy.target
        source, lines = plain(target.text)
        status, found, said = copy.run(source, {"record": str(copy.folder / target.module)}, None)
        if status or not found["seconds"]:
            raise CannotTry(f"the tests of {target.module} do not pass as it is:\n{said[-3000:]}")
        reach = {test: sorted({lines[line] for line in run if line in lines}) for test, run in found["lines"].items()}
        by_speed = sorted(found["seconds"].items(), key=lambda one: one[1])
        return cls(reach, found["starters"], dict(by_speed))

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the changed statement, the fastest first; all where none is known to, or an import.

        Those that start processes are among them: what runs there is not seen.
        """
        if mutant.line in self.reach.get("", ()):
            return list(self.seconds)
        reaching = {test for test, lines in self.reach.items() if mutant.line in lines}
        chosen = reaching.union(self.starters) if reaching else set(self.seconds)
        return [test for test in self.seconds if test in chosen]

    def judge(self, copy: Copy, mutant: Mutant) -> Verdict:
        """Run the tests of a mutant until one fails; one that they let pass also meets all the others.

        Some may reach it unseen: a trace ends where it fails itself, such as where the stack is full.
        """
        began, chosen = time.monotonic(), self.tests(mutant)
        end, by = self._met(copy, mutant, chosen)
        if end == "survived" and (others := [test for test in self.seconds if test not in set(chosen)]):
            end, by = self._met(copy, mutant, others)
        return Verdict(end, by, round(time.monotonic() - began, 2), len(chosen))

    def _met(self, copy: Copy, mutant: Mutant, names: list[str]) -> tuple[End, str]:
        tests = {test: max(LEAST_SECONDS, PATIENCE * self.seconds[test]) for test in names}
        status, found, said = copy.run(mutant.source, {"tests": tests}, PATIENCE * BEGIN_SECONDS + sum(tests.values()))
        if status is None or (not found and "+ Timeout +" in said):
            return "hung", ""
        if status == _NO_TEST or (not status and len(found["seconds"]) < len(tests)):
            raise CannotTry(f"the tests chosen for {mutant.name} did not run:\n{said[-3000:]}")
        return "killed" if status else "survived", found.get("failed", "")
