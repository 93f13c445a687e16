"""Which Python runs a child."""

from __future__ import annotations

import sys

import pytest

from engine.interpreter import interpreter


@pytest.mark.parametrize(
    ("name", "is_python"),
    [
        ("python", True),
        ("python3.11", True),
        ("Python", True),
        ("pythonw.exe", True),
        ("pypy3", True),
        ("uwsgi", False),
        ("blender", False),
        ("maya.bin", False),
        ("", False),
    ],
)
def test_an_application_is_no_interpreter(monkeypatch: pytest.MonkeyPatch, name: str, is_python: bool) -> None:
    monkeypatch.delenv("GIEOK_PYTHON", raising=False)
    path = f"/opt/python/{name}" if name else ""
    monkeypatch.setattr(sys, "executable", path)
    assert interpreter() == (path if is_python else None)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert interpreter() is None
    monkeypatch.setenv("GIEOK_PYTHON", "/usr/bin/python3")
    assert interpreter() == "/usr/bin/python3"
