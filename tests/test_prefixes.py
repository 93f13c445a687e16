"""Prefixes on disk: what fits comes back, what does not is deleted, and a restored one says what a fresh one says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Engine
from engine.prefixes import Prefix, Prefixes

KEY = {"model": "a" * 64, "llama_cpp": "1", "n_ctx": 512}
ONE = Prefix([1, 2, 3], b"state of one")
TWO = Prefix([4, 5], b"state of two \n with a line")


def stored(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    prefixes = Prefixes(tmp_path / "new" / "folder", KEY)
    assert list(prefixes.read()) == []
    prefixes.write(ONE)
    prefixes.write(TWO)
    prefixes.write(ONE)
    assert sorted(p.state for p in Prefixes(tmp_path / "new" / "folder", KEY).read()) == [ONE.state, TWO.state]
    prefixes.remove(ONE.tokens)
    assert list(prefixes.read()) == [TWO]


@pytest.mark.parametrize("change", [{"model": "b" * 64}, {"llama_cpp": "2"}, {"n_ctx": 1024}, {"more": 1}])
def test_what_another_model_or_context_wrote_is_deleted(tmp_path: Path, change: dict[str, object]) -> None:
    Prefixes(tmp_path, KEY).write(ONE)
    assert list(Prefixes(tmp_path, {**KEY, **change}).read()) == []
    assert stored(tmp_path) == []


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda data: data[:-1],
    lambda data: data + b"x",
    lambda data: data.replace(b"[1, 2, 3]", b"[1, 2, 4]"),
    lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    lambda data: b"",
    lambda data: b"gieok prefix 1\n[]\n",
    lambda data: b"gieok prefix 1\n{\n",
    lambda data: b"gieok prefix 1\n" + b"[" * 100_000 + b"\n",
    lambda data: b"other" + data,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_deleted(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    prefixes = Prefixes(tmp_path, KEY)
    prefixes.write(ONE)
    path = stored(tmp_path)[0]
    path.write_bytes(damage(path.read_bytes()))
    assert list(prefixes.read()) == [] and stored(tmp_path) == []


def test_a_file_that_cannot_be_deleted_keeps_no_model_from_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = Prefixes(tmp_path, KEY)
    prefixes.write(ONE)
    stored(tmp_path)[0].write_bytes(b"damaged")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert list(prefixes.read()) == []
    prefixes.remove(ONE.tokens)


@given(data=st.binary(max_size=200), at=st.integers(0, 400))
def test_no_file_is_believed_by_chance(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("prefixes")
    prefixes = Prefixes(folder, KEY)
    prefixes.write(TWO)
    path = stored(folder)[0]
    good = path.read_bytes()
    path.write_bytes(good[:at] + data)
    assert list(prefixes.read()) == ([TWO] if good[:at] + data == good else [])


def test_the_oldest_goes(tmp_path: Path) -> None:
    prefixes = Prefixes(tmp_path, KEY)
    for number in range(20):
        prefixes.write(Prefix([number], b"x"))
        newest = max(stored(tmp_path), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, ns=(number, number))
    assert sorted(prefix.tokens[0] for prefix in prefixes.read()) == list(range(4, 20))


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    Prefixes(tmp_path / "home" / "prefixes", KEY).write(ONE)
    assert [
        oct(path.stat().st_mode & 0o777) for path in (tmp_path / "home", *stored(tmp_path / "home" / "prefixes"))
    ] == [
        "0o700",
        "0o600",
    ]


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    Prefixes(tmp_path / "file" / "x", KEY).write(ONE)
    assert "could not be stored" in caplog.text


# ---- on the real model

LABELS = ["weather", "food", "sports", "music"]


def prefixes_of(home: Path) -> list[Path]:
    return sorted((home / "prefixes").rglob("*.prefix"))


@pytest.fixture
def first_home(tmp_path: Path) -> Path:
    """A home in which the instruction of one classification is stored."""
    with Engine(profile="starter", home=tmp_path, models={"classification": "smollm2-135m-instruct"}) as engine:
        engine.classify("It rains.", LABELS)
    assert len(prefixes_of(tmp_path)) == 1
    return tmp_path


@pytest.mark.model
def test_a_new_process_computes_no_instruction_again(first_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next token's logits after a restore lie within the bound that a fresh prefill's do."""
    from engine.scoring import Scoring

    rows: dict[str, list[np.ndarray]] = {"restored": [], "fresh": []}
    computed: dict[str, list[int]] = {"restored": [], "fresh": []}
    real = Scoring.advance
    with monkeypatch.context() as patch:
        for name in ("restored", "fresh"):

            def watch(self: Scoring, context: object, at: range, branch: int | None = None, name: str = name) -> bool:
                rows[name].append(context.logits(at[-1]).copy())  # type: ignore[attr-defined]
                computed[name].append(len(self.job.tokens) - self.job.cached)
                return real(self, context, at, branch)  # type: ignore[arg-type]

            patch.setattr(Scoring, "advance", watch)
            home = first_home if name == "restored" else first_home / "empty"
            models = {"classification": "smollm2-135m-instruct"}
            with Engine(profile="starter", home=home, models=models) as engine:
                engine.classify("I play football.", LABELS)
    assert max(computed["restored"]) < 25 < max(computed["fresh"])
    difference = max(float(np.abs(a - b).max()) for a, b in zip(rows["restored"], rows["fresh"], strict=True))
    assert difference <= 3.0, "see tests/test_runner.py: batches cut otherwise move these logits by up to 2.9"
    best = [int(row.argmax()) for row in rows["restored"]]
    assert best == [int(row.argmax()) for row in rows["fresh"]] or difference > 0


@pytest.mark.model
def test_a_damaged_prefix_changes_nothing_and_is_written_again(first_home: Path) -> None:
    path = prefixes_of(first_home)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with Engine(profile="starter", home=first_home, models={"classification": "smollm2-135m-instruct"}) as engine:
        engine.load("classification")
        assert prefixes_of(first_home) == []
        assert engine.classify("It rains.", LABELS).label in LABELS
    assert [path] == prefixes_of(first_home) and len(path.read_bytes()) == len(whole)
