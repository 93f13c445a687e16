"""Models of true shape: their size, their mix of quantisations, and that llama.cpp runs them."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from script_module import load

from engine.llama import Context, ContextParams, Model
from engine.scheduler import Chunk, Job

shapes = load("shapes")
# two layers over a small vocabulary; 256 divides into blocks of 256, 128 only into blocks of 32
SMALL = shapes.Shape("llama", "llama-spm", 32000, 2, 256, 512, 4, 2, False, 1e4, 1e-5, 512)
NARROW = replace(SMALL, architecture="qwen2", tokens=32064, width=128, ff=256, tied=True)
# published files of these quantisations: bytes, all parts together
REAL = {
    "qwen2.5-3b": 1_929_903_264,
    "qwen2.5-7b": 4_683_073_632,
    "qwen2.5-14b": 8_988_110_496,
    "llama-3.2-3b": 2_019_377_696,
    "llama-3.1-8b": 4_920_739_232,
    "mistral-7b": 4_372_812_000,
}


def small_file(shape: object, folder: Path, vocab_folder: Path) -> Path:
    path = folder / "small.gguf"
    shapes.write_shape("small", shape, path, vocab_folder / "ggml-vocab-llama-spm.gguf")
    return path


@pytest.mark.parametrize("shape", [SMALL, NARROW], ids=["blocks of 256", "blocks of 32"])
def test_llama_cpp_loads_and_runs_a_shape(shape: object, tmp_path: Path, vocab_folder: Path) -> None:
    path = small_file(shape, tmp_path, vocab_folder)
    assert path.stat().st_size == pytest.approx(
        shapes.file_size(shape, vocab_folder / "ggml-vocab-llama-spm.gguf"), abs=4096
    )
    model = Model(path)
    try:
        assert model.vocabulary.size == shape.tokens
        assert model.chat_template == shapes.TEMPLATES["llama-spm"]
        context = Context(model, ContextParams(64, 64, 1, 1, 1))
        tokens = model.vocabulary.tokenize("안녕하세요")
        assert context.decode([Chunk(Job(tokens, 1), 0, 0, tokens, len(tokens))])
        logits = np.stack([context.logits(row) for row in range(len(tokens))])
        assert np.isfinite(logits).all()
        assert (logits.std(axis=1) > 0).all()
    finally:
        model.close()


def test_the_same_shape_gives_the_same_bytes(tmp_path: Path, vocab_folder: Path) -> None:
    first = small_file(NARROW, tmp_path, vocab_folder).read_bytes()
    assert small_file(NARROW, tmp_path, vocab_folder).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["small.gguf"]


def test_which_layers_get_more_bits() -> None:
    fine = [layer for layer in range(36) if shapes.more_bits(layer, 36)]
    assert fine == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35]


def test_the_mix_of_a_model() -> None:
    kinds = {tensor.name: tensor.type for tensor in shapes.tensors(shapes.SHAPES["qwen2.5-3b"])}
    fine = {name for name, kind in kinds.items() if kind == gguf.GGMLQuantizationType.Q6_K}
    layers = [layer for layer in range(36) if shapes.more_bits(layer, 36)]
    assert fine == {
        "token_embd.weight",
        *(f"blk.{layer}.{name}.weight" for layer in layers for name in ("attn_v", "ffn_down")),
    }
    assert kinds["blk.4.ffn_down.weight"] == gguf.GGMLQuantizationType.Q4_K
    assert kinds["blk.0.attn_q.bias"] == gguf.GGMLQuantizationType.F32
    untied = {tensor.name: tensor.type for tensor in shapes.tensors(shapes.SHAPES["qwen2.5-7b"])}
    assert untied["token_embd.weight"] == gguf.GGMLQuantizationType.Q4_K
    assert untied["output.weight"] == gguf.GGMLQuantizationType.Q6_K


@pytest.mark.parametrize("name", REAL)
def test_the_size_is_that_of_the_real_file(name: str, vocab_folder: Path) -> None:
    shape = shapes.SHAPES[name]
    assert shapes.file_size(shape, shapes.vocabulary_file(shape, vocab_folder)) == pytest.approx(REAL[name], rel=1e-4)


def test_a_disk_that_is_too_full(tmp_path: Path, vocab_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10**6))
    with pytest.raises(shapes.CannotWrite, match=r"0\.0 GB free"):
        small_file(SMALL, tmp_path, vocab_folder)
    assert list(tmp_path.iterdir()) == []


def test_what_was_broken_off_leaves_nothing(
    tmp_path: Path, vocab_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_file(SMALL, tmp_path, vocab_folder)
    assert list(tmp_path.iterdir()) == []


def test_without_the_vocabulary_it_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["shapes.py", "qwen2.5-3b", str(tmp_path / "x.gguf"), "--vocab", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    assert shapes.main() == 1
    assert "python3 scripts/dev.py test" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
