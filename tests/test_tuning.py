"""What is remembered of a model, where, and when it is of no use any more."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import tuning
from engine.pace import USUAL
from engine.tuning import Timing, Tuning

TIMINGS = (
    Timing(False, 1, 1, False, 0.078),
    Timing(False, 1, 1, True, 0.08),
    Timing(False, 1, 2, False, 0.05),
    Timing(False, 64, 2, False, 0.64),
    Timing(False, 64, 2, True, 1.28),
    Timing(True, 64, 2, False, 0.8),
)
TUNING = Tuning(1, 2, False, 256, TIMINGS)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file on a machine of four cores, whose user has a cache folder of their own."""
    monkeypatch.setattr(tuning, "usable_cores", lambda: 4)
    monkeypatch.setattr(tuning, "processor", lambda: "A Processor")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    file = tmp_path / "models" / "한글 모델.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF and more")
    return file


def place(model: Path) -> Path:
    return model.with_name(f"{model.name}.tuning.json")


# ---- values


def test_a_tuning_knows_the_times_of_what_was_chosen_only() -> None:
    assert (TUNING.seconds(1), TUNING.seconds(64)) == (0.078, 0.64)
    assert (TUNING.seconds(1, busy=True), TUNING.seconds(64, busy=True)) == (0.08, 1.28)
    assert TUNING.seconds(4) is None
    assert replace(TUNING, n_threads=2).seconds(1) == 0.05
    assert replace(TUNING, repack=True).seconds(64) == 0.8
    assert replace(TUNING, repack=True).seconds(1) is None


def test_the_pace_is_the_measured_one_or_the_usual() -> None:
    assert TUNING.pace.points == ((1, 0.078), (64, 0.64))
    assert replace(TUNING, repack=True).pace is USUAL
    assert tuning.usual().pace is USUAL


def test_speeds_are_tokens_a_second() -> None:
    assert TUNING.speeds == {"prefill": 100.0, "prefill_busy": 50.0, "decode": 12.8, "decode_busy": 12.5}
    assert set(tuning.usual().speeds.values()) == {None}


def test_the_usual_leaves_half_of_the_cores_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 1), (3, 1), (8, 4)):
        monkeypatch.setattr(tuning, "usable_cores", lambda cores=cores: cores)
        assert (tuning.usual().n_threads, tuning.usual().n_threads_batch) == (threads, cores)


def test_this_machine_has_cores_and_a_processor() -> None:
    assert tuning.usable_cores() >= 1
    assert tuning.processor()


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: sse2 avx512f avx2\n", "AMD EPYC (avx2 avx512f)"),
        ("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: sse2 avx2\n\nmodel name: another\n", "AMD EPYC (avx2)"),
        ("model name: an old one\nflags: sse2\n", "an old one"),
    ],
)
def test_processors_of_one_name_are_told_apart(told: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert tuning.processor.__wrapped__() == name


# ---- remembering


def test_what_is_remembered_is_recalled(model: Path) -> None:
    assert tuning.recall(model) is None
    assert tuning.remember(model, TUNING) == place(model)
    assert tuning.recall(model) == TUNING
    assert {file.name for file in model.parent.iterdir()} == {model.name, place(model).name}
    again = replace(TUNING, n_threads=3)
    tuning.remember(model, again)
    assert tuning.recall(model) is None  # nothing was measured with three threads
    tuning.forget(model)
    assert not place(model).exists()
    tuning.forget(model)


def test_links_share_what_was_measured(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    try:
        link.symlink_to(model)
    except OSError:
        pytest.skip("this system lets nobody make links")
    tuning.remember(link, TUNING)
    assert place(model).exists()
    assert tuning.recall(link) == tuning.recall(model) == TUNING


def rewritten(model: Path) -> None:
    model.write_bytes(b"GGUF of another size")


def touched(model: Path) -> None:
    os.utime(model, ns=(0, 0))


@pytest.mark.parametrize(
    "change",
    [rewritten, touched, *(("usable_cores", 8), ("processor", "Another"), ("version", "9.9"), ("_FORMAT", 0))],
    ids=lambda change: getattr(change, "__name__", str(change)),
)
def test_another_file_machine_or_library_has_to_be_measured_anew(
    model: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    tuning.remember(model, TUNING)
    if callable(change):
        change(model)
    else:
        name, value = change
        monkeypatch.setattr(tuning, name, value if name == "_FORMAT" else lambda *_: value)
    assert tuning.recall(model) is None
    tuning.remember(model, TUNING)
    assert tuning.recall(model) == TUNING


def test_a_folder_that_cannot_be_written_leaves_the_users_cache(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place(model).mkdir()  # even the superuser cannot replace a folder by a file
    there = tuning.remember(model, TUNING)
    assert there is not None
    assert there.is_relative_to(tmp_path / "cache")
    assert tuning.recall(model) == TUNING
    assert list(model.parent.glob(".*")) == []  # what was written aside is gone
    there.unlink()
    there.mkdir()
    with caplog.at_level(logging.WARNING, "engine"):
        assert tuning.remember(model, TUNING) is None
    assert "cannot be remembered" in caplog.text
    assert tuning.recall(model) is None


BROKEN: list[Callable[[dict[str, Any]], object]] = [
    lambda data: data.pop("format"),
    lambda data: data.pop("of"),
    lambda data: data.pop("tuning"),
    lambda data: data["tuning"].pop("n_threads"),
    lambda data: data["tuning"].update(new=1),
    lambda data: data["tuning"].update(n_threads=0),
    lambda data: data["tuning"].update(n_threads=1.0),
    lambda data: data["tuning"].update(n_threads_batch=5),
    lambda data: data["tuning"].update(n_threads_batch=10**9),
    lambda data: data["tuning"].update(repack=0),
    lambda data: data["tuning"].update(n_ubatch=100),
    lambda data: data["tuning"].update(n_ubatch=2**20),
    lambda data: data["tuning"].update(timings=[]),
    lambda data: data["tuning"].update(timings=5),
    lambda data: data["tuning"].update(timings=data["tuning"]["timings"][:1] * 2),
    lambda data: data["tuning"]["timings"].append([]),
    lambda data: data["tuning"]["timings"][0].pop("busy"),
    lambda data: data["tuning"]["timings"][0].update(seconds=0.0),
    lambda data: data["tuning"]["timings"][0].update(seconds=float("nan")),
    lambda data: data["tuning"]["timings"][0].update(seconds="1"),
    lambda data: data["tuning"]["timings"][0].update(tokens=-1),
]


@pytest.mark.parametrize("damage", BROKEN)
def test_what_is_not_as_it_was_written_is_of_no_use(model: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    tuning.remember(model, TUNING)
    data = json.loads(place(model).read_text(encoding="utf-8"))
    damage(data)
    place(model).write_text(json.dumps(data), encoding="utf-8")
    assert tuning.recall(model) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"5", b"null", b"{", b"[" * 100_000, b'{"format": 1}'])
def test_what_is_no_tuning_is_of_no_use(model: Path, content: bytes) -> None:
    place(model).write_bytes(content)
    assert tuning.recall(model) is None
