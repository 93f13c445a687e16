"""Models that are here: hashed anew, damaged files put aside, removed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import digests, layout, pins, upkeep
from engine.config import ModelSpec
from engine.errors import Cancelled, DownloadError, ModelNotFound
from engine.metrics import Progress
from engine.pins import Pin, PinnedFile
from engine.upkeep import Checked

WEIGHTS = b"GGUF" + b"w" * 5000
SHA = hashlib.sha256(WEIGHTS).hexdigest()


def spec(source: dict[str, Any], **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "tiny", "kind": "llm", "source": source, **fields})


HOSTED = spec({"repo": "org/repo", "files": ["x.gguf"]})


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    return folder


@pytest.fixture
def file(models: Path) -> Path:
    """An installed and pinned model."""
    path = models / "tiny" / "x.gguf"
    path.parent.mkdir()
    path.write_bytes(WEIGHTS)
    pins.write("tiny", Pin("org/repo", "c", {"x.gguf": PinnedFile(len(WEIGHTS), SHA)}))
    return path


def test_what_is_right_stays(file: Path) -> None:
    seen: list[Progress] = []
    assert upkeep.verify(HOSTED, progress=seen.append) == [Checked("tiny", "x.gguf", "ok")]
    assert file.exists()
    assert {(event.task, event.total) for event in seen} == {("verify tiny", len(WEIGHTS))}


def test_one_flipped_bit_is_put_aside_though_size_and_time_are_the_same(file: Path) -> None:
    import os

    digests.remember(file, SHA)
    before = file.stat()
    file.write_bytes(WEIGHTS[:-1] + b"v")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert upkeep.verify(HOSTED) == [Checked("tiny", "x.gguf", "corrupt")]
    assert not layout.installed(HOSTED)
    assert (file.parent / "x.gguf.corrupt").read_bytes() == WEIGHTS[:-1] + b"v"
    assert upkeep.verify(HOSTED) == [Checked("tiny", "x.gguf", "missing")]


def test_without_a_pin_the_catalogue_tells_the_hash(file: Path) -> None:
    pins.write("tiny", None)
    assert upkeep.verify(HOSTED) == [Checked("tiny", "x.gguf", "unknown")]
    known = spec({"repo": "org/repo", "files": ["x.gguf"]}, sha256={"x.gguf": "0" * 64})
    assert upkeep.verify(known) == [Checked("tiny", "x.gguf", "corrupt")]


def test_what_was_converted_is_unknown_without_a_pin(models: Path) -> None:
    bge = spec(
        {"repo": "a/b", "files": ["pytorch_model.bin", "config.json"]},
        kind="embedding",
        sha256={"pytorch_model.bin": "0" * 64, "config.json": hashlib.sha256(b"{}").hexdigest()},
    )
    (models / "tiny").mkdir()
    (models / "tiny" / "model.safetensors").write_bytes(WEIGHTS)
    (models / "tiny" / "config.json").write_bytes(b"{}")
    assert upkeep.verify(bge) == [Checked("tiny", "config.json", "ok")]


def test_what_another_process_does_meanwhile_counts(file: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def late(_spec: ModelSpec, _progress: object) -> Iterator[None]:
        file.write_bytes(b"GGUF of a newer commit")
        sha256 = hashlib.sha256(b"GGUF of a newer commit").hexdigest()
        pins.write("tiny", Pin("org/repo", "d", {"x.gguf": PinnedFile(22, sha256)}))
        yield

    monkeypatch.setattr(upkeep, "only_one", late)
    assert upkeep.verify(HOSTED) == [Checked("tiny", "x.gguf", "ok")]


def test_what_cannot_be_removed_as_a_whole_stays_as_a_whole(
    file: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_use(self: Path, _target: Path) -> Path:
        raise PermissionError(13, "used by another process")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", in_use)
        with pytest.raises(DownloadError, match="used by another process"):
            upkeep.remove(HOSTED)
    assert upkeep.verify(HOSTED) == [Checked("tiny", "x.gguf", "ok")]


def test_a_users_own_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(WEIGHTS)
    own = spec({"path": str(path)}, sha256={"mine.gguf": "0" * 64})
    assert upkeep.verify(own) == [Checked("tiny", str(path), "unknown")]
    with pytest.raises(DownloadError, match="your own"):
        upkeep.remove(own)
    assert path.exists()


def test_what_is_not_there_is_said(models: Path) -> None:
    for do in (upkeep.verify, upkeep.remove):
        with pytest.raises(ModelNotFound, match="gieok models pull tiny"):
            do(HOSTED)


def test_verifying_can_be_cancelled(file: Path) -> None:
    with pytest.raises(Cancelled):
        upkeep.verify(HOSTED, progress=lambda _event: False)
    assert file.exists()


def test_removing_takes_everything_of_one_model(file: Path, models: Path) -> None:
    (models / ".pull-tiny").mkdir()
    (models / ".pull-tiny" / "abc.part").write_bytes(b"x" * 100)
    (models / "tiny-2").mkdir()
    assert upkeep.remove(HOSTED) == len(WEIGHTS) + 100
    assert pins.read() == {}
    assert sorted(path.name for path in models.iterdir() if path.is_dir()) == ["tiny-2"]


def test_removing_follows_no_link(models: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.gguf").write_bytes(WEIGHTS)
    (models / "tiny").symlink_to(outside)
    with pytest.raises(DownloadError, match="link that leaves"):
        upkeep.remove(HOSTED)
    assert (outside / "x.gguf").exists()
