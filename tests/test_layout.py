"""Where models lie: looking, without touching anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import config, hub, layout
from engine.config import ModelSpec
from engine.errors import ModelNotFound


def spec(source: dict[str, Any], **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "tiny", "kind": "llm", "source": source, **fields})


def packaged() -> ModelSpec:
    return spec({"package": "tiny-model==1.0", "files": ["tiny_model/weights.gguf"]})


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "홍길동" / "내 모델"
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    return folder


def test_models_dir_is_computed_and_not_made(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout.models_dir() == models
    assert not models.exists()
    monkeypatch.delenv("GIEOK_MODELS")
    assert layout.models_dir().parts[-2:] == ("gieok", "models")


def test_a_missing_model_names_the_commands(models: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"gieok models pull qwen2\.5-7b-instruct") as caught:
        layout.locate(config.load().model("qwen2.5:7b"))
    assert 'Engine(profile="starter")' in str(caught.value)
    assert caught.value.model == "qwen2.5-7b-instruct"
    with pytest.raises(ModelNotFound, match="gieok models pull tiny") as caught:
        layout.locate(packaged())
    assert "starter" not in str(caught.value)  # it may be one itself
    assert not models.exists()


def test_every_part_must_be_there(models: Path) -> None:
    parts = spec({"repo": "a/b", "files": ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]})
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "x-00001-of-00002.gguf").write_bytes(b"GGUF")
    assert not layout.installed(parts)
    (models / "tiny" / "x-00002-of-00002.gguf").write_bytes(b"GGUF")
    assert layout.locate(parts) == models / "tiny" / "x-00001-of-00002.gguf"


def test_a_folder_without_weights_is_not_installed(models: Path) -> None:
    bert = spec({"repo": "a/b"}, kind="embedding")
    (models / "tiny").mkdir(parents=True)
    assert not layout.installed(bert)
    (models / "tiny" / "model.safetensors").touch()
    assert layout.locate(bert) == models / "tiny"


def test_own_path_is_relative_to_the_models_folder(models: Path, tmp_path: Path) -> None:
    own = spec({"path": "mine/x.gguf"})
    with pytest.raises(ModelNotFound, match=r"mine.x\.gguf.*source\.path"):
        hub.pull(own)
    (models / "mine").mkdir(parents=True)
    (models / "mine" / "x.gguf").touch()
    assert hub.pull(own) == models / "mine" / "x.gguf"
    elsewhere = tmp_path / "y.gguf"
    elsewhere.touch()
    assert layout.locate(spec({"path": str(elsewhere)})) == elsewhere
