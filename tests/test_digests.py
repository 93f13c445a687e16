"""Hashes of model files: computed once, and again where the file may be another."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from engine import digests


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a models folder that has no notes yet."""
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def notes(file: Path) -> Path:
    return file.with_name(".digests.json")


def test_a_file_is_hashed_once(file: Path) -> None:
    read: list[int] = []
    for _ in range(3):
        assert digests.sha256_of(file, lambda: read.append(1)) == sha256(b"weights")
    assert read == [1]


def test_what_may_be_another_file_is_hashed_again(file: Path) -> None:
    digests.sha256_of(file, lambda: None)
    about = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert digests.sha256_of(file, lambda: None) == sha256(b"WEIGHTS")
    file.write_bytes(b"longer weights")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert digests.sha256_of(file, lambda: None) == sha256(b"longer weights")
    assert digests.sha256_of(file.rename(file.with_name("other.gguf")), lambda: None) == sha256(b"longer weights")


def test_other_bytes_under_the_old_size_and_time_are_hashed_again(file: Path) -> None:
    """As rsync leaves them, and `cp -p`."""
    about = file.stat()
    digests.sha256_of(file, lambda: None)
    other = file.with_name("other")
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(file)
    assert digests.sha256_of(file, lambda: None) == sha256(b"WEIGHTS")


def test_a_stale_entry_does_not_hide_a_true_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A models folder that became read-only has what was; the cache has what is."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: file.parent / "cache")
    stale = json.dumps({str(file): {"size": 3, "sha256": "a" * 64}})
    digests.sha256_of(file, lambda: None)
    (file.parent / "cache").mkdir()
    notes(file).replace(file.parent / "cache" / "digests.json")
    notes(file).write_text(stale, encoding="utf-8")
    read: list[int] = []
    assert digests.sha256_of(file, lambda: read.append(1)) == sha256(b"weights") and read == []


def test_who_knows_it_may_say_so(file: Path) -> None:
    digests.remember(file, "a" * 64)
    read: list[int] = []
    assert digests.sha256_of(file, lambda: read.append(1)) == "a" * 64 and read == []
    assert digests.compute(file, read.append) == sha256(b"weights") and read == [0]


@pytest.mark.parametrize("sha", [None, 1, "", "a" * 63, "A" * 64, "a" * 64 + "\n", ["a"]])
def test_what_is_no_hash_is_not_believed(file: Path, sha: object) -> None:
    digests.sha256_of(file, lambda: None)
    known = json.loads(notes(file).read_text(encoding="utf-8"))
    (entry,) = known.values()
    entry["sha256"] = sha
    notes(file).write_text(json.dumps(known), encoding="utf-8")
    assert digests.sha256_of(file, lambda: None) == sha256(b"weights")


@pytest.mark.parametrize("entry", [1, "x", [], None, {}, {"size": 7, "sha256": "a" * 64}])
def test_an_entry_of_another_form_is_not_believed(file: Path, entry: object) -> None:
    notes(file).write_text(json.dumps({str(file): entry}), encoding="utf-8")
    assert digests.sha256_of(file, lambda: None) == sha256(b"weights")


def test_who_gives_up_ends_the_reading(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_BLOCK", 2)
    told: list[int] = []

    def give_up() -> None:
        told.append(1)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digests.sha256_of(file, give_up)
    assert len(told) == 2 and not notes(file).exists()


def test_a_file_that_changes_meanwhile_is_not_remembered(file: Path) -> None:
    digests.sha256_of(file, lambda: file.write_bytes(b"other weights") and None)
    assert not notes(file).exists()
    assert digests.sha256_of(file, lambda: None) == sha256(b"other weights")


def test_a_file_that_is_not_there_is_an_error_of_the_system(file: Path) -> None:
    file.unlink()
    with pytest.raises(FileNotFoundError):
        digests.sha256_of(file, lambda: None)
    with pytest.raises(FileNotFoundError):
        digests.remember(file, "a" * 64)
