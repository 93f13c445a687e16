"""The demo's two steps about memories, on the fake embedder: they are right, and say so where something is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from engine import demo_memory
from engine.demo import Demo
from engine.memory import MemoryStore
from engine.proof import Searched, occurrences

Output = pytest.CaptureFixture[str]
NOBODY: Any = None  # the step that kills has no use for an engine


def test_what_was_acknowledged_outlives_its_process(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_memory, "KILLS", 1)
    demo = Demo("ko")
    demo_memory.kill(8, demo, NOBODY)
    assert (demo.failed, capsys.readouterr().out.count("✓")) == (0, 2)


def test_a_memory_that_was_acknowledged_and_is_not_there_is_told(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_memory, "_remembered_until_killed", lambda *_: [f"{n}" for n in range(99)])
    demo = Demo("en")
    demo_memory.kill(8, demo, NOBODY)
    assert demo.failed == 1
    assert "297 memories acknowledged, 0 of them there" in capsys.readouterr().out


def test_without_a_python_there_is_nothing_to_kill(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_memory, "interpreter", lambda: None)
    demo = Demo("en")
    demo_memory.kill(8, demo, NOBODY)
    assert demo.failed == 0
    assert "Not shown" in capsys.readouterr().out


@pytest.mark.parametrize("leaky", [False, True])
def test_a_forgotten_memory_is_looked_for_in_every_file(
    capsys: Output, monkeypatch: pytest.MonkeyPatch, leaky: bool
) -> None:
    homes: list[Path] = []
    forget = MemoryStore.forget

    def forgotten(store: MemoryStore, id: str) -> None:
        forget(store, id)
        if leaky:
            (homes[0] / "leak").write_text(demo_memory.SECRET[3:], encoding="utf-8")

    def search(home: Path, needles: list[bytes]) -> Searched:
        homes.append(home)
        assert not [one for one in psutil.Process().open_files() if Path(one.path).is_relative_to(home)]
        return occurrences(home, needles)

    monkeypatch.setattr(MemoryStore, "forget", forgotten)
    monkeypatch.setattr(demo_memory, "occurrences", search)
    engine: Any = SimpleNamespace(memories=lambda: [SimpleNamespace(text="매주 화요일 저녁에는 수영을 배우러 다녀요")])
    demo = Demo("en")
    demo_memory.forgetting(9, demo, engine)
    said = capsys.readouterr().out
    assert demo.failed == leaky
    assert "memory.sqlite3" in said and "backups/memory-" in said
    assert ("in 0 of " in said) is not leaky
    assert len(homes) == 2 and not homes[0].exists()
