"""What is one embedding model: the same hash for the same vectors, and another for whatever makes other ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import digests
from engine.config import ModelSpec, Source
from engine.errors import Cancelled, ModelNotFound
from engine.identity import of_embedder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    folder = tmp_path / "모델" / "e5"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"):
        (folder / name).write_text(f"{name} as it was", encoding="utf-8")
    return folder


def spec(folder: Path, **others: Any) -> ModelSpec:
    return ModelSpec(name="e5", kind="embedding", source=Source(path=str(folder)), **others)


def identity(folder: Path, **others: Any) -> str:
    return of_embedder(spec(folder, **others), lambda: None)


def test_it_is_a_hash_that_stays_while_nothing_changes(folder: Path) -> None:
    first = identity(folder)
    assert len(first) == 64 and int(first, 16)
    (folder / "README.md").write_text("other", encoding="utf-8")
    assert identity(folder, note="a note", license="MIT", context=99) == first
    assert identity(folder.rename(folder.with_name("moved"))) == first


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"]
)
def test_every_file_that_makes_the_vectors_counts(folder: Path, name: str) -> None:
    first = identity(folder)
    (folder / name).write_text("other bytes", encoding="utf-8")
    assert identity(folder) != first


@pytest.mark.parametrize(
    "other",
    [{"pooling": "cls"}, {"heads": ["dense"]}, {"max_tokens": 64}, {"query_prefix": "q: "}, {"passage_prefix": "p: "}],
)
def test_every_setting_that_makes_the_vectors_counts(folder: Path, other: dict[str, Any]) -> None:
    assert identity(folder, **other) != identity(folder)
    assert identity(folder, query_prefix="a", passage_prefix="b") != identity(
        folder, query_prefix="b", passage_prefix="a"
    )


def test_who_runs_it_does_not_count(folder: Path) -> None:
    assert identity(folder, backend="torch") == identity(folder, backend="openvino") == identity(folder)


def test_large_files_are_hashed_once_and_may_be_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        of_embedder(spec(folder), stop)
    first = identity(folder)
    compute: Callable[..., str] = digests.compute
    monkeypatch.setattr(digests, "compute", lambda path, tell: pytest.fail("it was read again"))
    assert identity(folder) == first
    monkeypatch.setattr(digests, "compute", compute)


def test_a_model_that_is_not_here_is_told(folder: Path) -> None:
    with pytest.raises(ModelNotFound):
        identity(folder / "nowhere")
