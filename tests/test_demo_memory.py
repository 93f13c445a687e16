"""The demo's two steps about memories, on the fake embedder: they are right, and say so where something is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import demo_memory
from engine.demo import Demo
from engine.inputs import check_texts
from engine.memory import MemoryStore

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
def test_a_forgotten_memory_is_looked_for_in_every_file(tmp_path: Path, capsys: Output, leaky: bool) -> None:
    store = MemoryStore(tmp_path, demo_memory.faculties())

    def remember(text: str) -> Any:
        if leaky:
            (tmp_path / "leak").write_text(text[3:], encoding="utf-8")
        return store.remember(check_texts(text)[0], user="default")

    engine: Any = SimpleNamespace(
        remember=remember,
        search=lambda query, k: store.search(query, user="default", k=k),
        status=lambda: SimpleNamespace(home=str(tmp_path)),
        forget=store.forget, backup=store.backup, wait=store.wait,
    )  # fmt: skip
    demo = Demo("en")
    try:
        demo_memory.forgetting(9, demo, engine)
    finally:
        store.close()
    said = capsys.readouterr().out
    assert demo.failed == leaky
    assert "memory.sqlite3" in said and "backups/memory-" in said
    assert ("in 0 of " in said) is not leaky
