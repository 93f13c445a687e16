"""Notes on models: what was put is found again, and nothing that happens to the file does harm."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import notes
from engine.notes import Notes


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder, and a cache beside it."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    return folder


def test_what_was_put_is_found_by_another_process(models: Path) -> None:
    Notes(".x.json").put("가", {"n": 1})
    Notes(".x.json").put("b", 2)
    assert (Notes(".x.json").get("가"), Notes(".x.json").get("b"), Notes(".x.json").get("c")) == ({"n": 1}, 2, None)
    assert Notes(".y.json").get("b") is None
    assert sorted(path.name for path in models.iterdir()) == [".x.json"]


@pytest.mark.parametrize("text", ["", "[", "[]", "1", '{"a"', "[" * 100_000, '"a"'])
def test_a_damaged_file_is_as_good_as_none(models: Path, text: str) -> None:
    (models / ".x.json").write_text(text, encoding="utf-8")
    assert Notes(".x.json").get("a") is None
    Notes(".x.json").put("a", 1)
    assert Notes(".x.json").get("a") == 1


def test_bytes_that_are_no_text_are_as_good_as_none(models: Path) -> None:
    (models / ".x.json").write_bytes(b"\xff\xfe\0")
    assert Notes(".x.json").get("a") is None


def test_the_oldest_entries_go(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_MOST", 3)
    for key in ("a", "b", "c", "a", "d"):
        Notes(".x.json").put(key, key)
    assert [Notes(".x.json").get(key) for key in "abcd"] == ["a", None, "c", "d"]


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let no file be put into a folder; its mode would not keep root out."""
    real: Callable[[Path, Path], Path] = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.parent == folder:
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def test_where_the_models_cannot_be_written_the_cache_has_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, models)
    Notes(".x.json").put("a", 1)
    assert Notes(".x.json").get("a") == 1
    assert list(models.iterdir()) == [] and (tmp_path / "cache" / "x.json").is_file()


def test_where_nothing_can_be_written_nothing_is_remembered(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder", encoding="utf-8")
    refuse(monkeypatch, models)
    Notes(".x.json").put("a", 1)
    assert Notes(".x.json").get("a") is None and list(models.iterdir()) == []


def test_no_models_folder_is_made_for_a_note(models: Path) -> None:
    models.rmdir()
    Notes(".x.json").put("a", 1)
    assert Notes(".x.json").get("a") == 1 and not models.exists()


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_nobody_else_may_read_it(models: Path) -> None:
    Notes(".x.json").put("a", 1)
    assert oct((models / ".x.json").stat().st_mode & 0o777) == "0o600"


def test_many_who_write_at_once_leave_a_whole_file(models: Path) -> None:
    def write(who: int) -> None:
        for number in range(20):
            Notes(".x.json").put(f"{who}-{number}", number)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(Notes(".x.json").get(f"{who}-19") == 19 for who in range(4)), "the last to write found what it read"
    assert [path.name for path in models.iterdir()] == [".x.json"]
