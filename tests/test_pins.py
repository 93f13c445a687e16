"""models.lock: what it keeps, and what it survives."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from engine import pins
from engine.errors import DownloadError
from engine.pins import Pin, PinnedFile

PIN = Pin("org/repo", "c" * 40, {"1_Pooling/config.json": PinnedFile(2, "a" * 64), "m": PinnedFile(5, "b" * 64, "d")})


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    return tmp_path


def test_what_is_written_is_read_again(models: Path) -> None:
    assert pins.read() == {}
    pins.write("한글", PIN)
    pins.write("other", Pin("x==1", None))
    assert pins.read() == {"한글": PIN, "other": Pin("x==1", None)}
    pins.write("한글", None)
    assert list(pins.read()) == ["other"]
    assert pins.read(models / "elsewhere") == {}
    assert sorted(path.name for path in models.iterdir()) == [".models.lock.lock", "models.lock"]


def test_many_writers_lose_nothing() -> None:
    names = [f"model-{n}" for n in range(20)]
    threads = [threading.Thread(target=pins.write, args=(name, PIN)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pins.read()) == sorted(names)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"version": 1}', '{"version": 1, "models": {"a": 3}}', "[" * 100_000, "\x00"]
)
def test_a_damaged_lock_pins_nothing_and_says_so(models: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    (models / "models.lock").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING, "engine.pins"):
        assert pins.read() == {}
    assert "models.lock cannot be read" in caplog.text
    pins.write("a", PIN)
    assert pins.read() == {"a": PIN}
    assert (models / "models.lock.corrupt").read_text(encoding="utf-8") == text


def test_a_lock_that_cannot_be_read_now_is_not_written_over(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins.write("a", PIN)

    def busy(self: Path, **_how: str) -> str:
        raise PermissionError(13, "used by another process")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", busy)
        assert pins.read() == {}
        with pytest.raises(PermissionError):
            pins.write("b", PIN)
    assert pins.read() == {"a": PIN}


def test_a_reader_in_the_way_is_waited_for(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals, real = [PermissionError(13, "in use")] * 3, Path.replace
    monkeypatch.setattr(pins, "_PAUSE", 0.0)

    def replace(self: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    pins.write("a", PIN)
    assert pins.read() == {"a": PIN}
    assert not refusals


def test_a_newer_lock_is_left_alone(models: Path) -> None:
    text = json.dumps({"version": 2, "models": {}})
    (models / "models.lock").write_text(text, encoding="utf-8")
    with pytest.raises(DownloadError, match="newer Gieok"):
        pins.read()
    with pytest.raises(DownloadError, match="newer Gieok"):
        pins.write("a", PIN)
    assert (models / "models.lock").read_text(encoding="utf-8") == text
