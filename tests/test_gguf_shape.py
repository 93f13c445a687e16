"""What a header tells of a model's cache: as llama.cpp makes it, and bounded whatever the header says."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from engine import config
from engine.gguf_header import Header, Scalar, read_header
from engine.gguf_shape import GgufShape, shape_of
from engine.llama import Context, ContextParams, Model

CELLS, SEQUENCES = 1024, 5
CONFIG = config.load(config.packaged_file())


def header(architecture: str, **values: Scalar | list[int]) -> Header:
    """Return a header that says `values`, `__` in their names for a dot."""
    named = {f"{architecture}.{name.replace('__', '.')}": value for name, value in values.items()}
    lists = {name: tuple(value) for name, value in named.items() if isinstance(value, list)}
    metadata = {name: value for name, value in named.items() if not isinstance(value, list)}
    return made(architecture, metadata, lists)


def made(architecture: str, metadata: dict[str, Scalar], lists: dict[str, tuple[int, ...]]) -> Header:
    arrays = {name: len(value) for name, value in lists.items()}
    return Header(
        architecture=architecture, metadata=metadata, arrays=arrays, lists=lists, groups={}, tensors=10,
        tensor_bytes=1000, vocabulary=100, split_no=0, split_count=1,
    )  # fmt: skip


def shape(architecture: str = "llama", **values: Scalar | list[int]) -> GgufShape:
    return shape_of(header(architecture, **{"block_count": 4, "embedding_length": 64, **values}))


# ---- as llama.cpp has it


@pytest.mark.parametrize("make", [tiny_models.attention, tiny_models.mamba, tiny_models.hybrid, tiny_models.sliding])
def test_the_cache_is_as_large_as_llama_cpp_makes_it(
    make: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(tmp_path / "model.gguf")
    model = Model(path)
    try:
        with caplog.at_level(logging.DEBUG, logger="engine.llama"):
            Context(model, ContextParams(CELLS, 32, SEQUENCES, 1, 1))
    finally:
        model.close()
    found = shape_of(read_header(path))
    made = re.findall(r"(KV|RS) buffer size =\s+([\d.]+) MiB", caplog.text)
    assert made
    sizes = {kind: sum(float(size) for one, size in made if one == kind) * 2**20 for kind in ("KV", "RS")}
    assert found.kv_bytes * CELLS == pytest.approx(sizes["KV"], abs=0.011 * 2**20)
    assert found.state_bytes * SEQUENCES == pytest.approx(sizes["RS"], abs=0.011 * 2**20)
    assert not found.bound
    assert (found.layers, found.width, found.vocabulary) == (2, tiny_models.WIDTH, tiny_models.SIZE)
    assert found.trained == tiny_models.CONTEXT


def test_the_starter_model_is_as_the_catalogue_says(starter_gguf: Path) -> None:
    spec, found = CONFIG.model("smollm2-135m-instruct"), shape_of(read_header(starter_gguf))
    assert (found.kv_bytes, found.state_bytes) == (spec.kv_bytes, 0)
    assert (found.width, found.vocabulary, found.trained) == (spec.width, spec.vocab, spec.context)


# ---- kinds of attention


def test_heads_of_the_width_unless_told_otherwise() -> None:
    assert shape(attention__head_count=8, attention__head_count_kv=2).kv_bytes == 4 * 2 * (8 + 8) * 2
    assert shape(attention__head_count=8).kv_bytes == 4 * 8 * (8 + 8) * 2
    told = shape(attention__head_count=8, attention__head_count_kv=2, attention__key_length=32)
    assert told.kv_bytes == 4 * 2 * (32 + 8) * 2
    told = shape(attention__head_count=8, attention__head_count_kv=1, attention__value_length=4)
    assert told.kv_bytes == 4 * (8 + 4) * 2


def test_qwen_2_5_is_as_the_catalogue_says() -> None:
    for name, layers, width, heads, kv_heads in (
        ("qwen2.5-3b-instruct", 36, 2048, 16, 2),
        ("qwen2.5-7b-instruct", 28, 3584, 28, 4),
        ("qwen2.5-14b-instruct", 48, 5120, 40, 8),
    ):
        found = shape(
            "qwen2", block_count=layers, embedding_length=width, attention__head_count=heads,
            attention__head_count_kv=kv_heads,
        )  # fmt: skip
        assert found.kv_bytes == CONFIG.model(name).kv_bytes
        assert not found.bound


def test_every_layer_may_have_heads_of_its_own() -> None:
    found = shape(attention__head_count=8, attention__head_count_kv=[1, 0, 3, 4])
    assert found.kv_bytes == (1 + 3 + 4) * (8 + 8) * 2
    short = shape(attention__head_count=8, attention__head_count_kv=[1, 3])
    assert short.kv_bytes == (1 + 3 + 3 + 3) * (8 + 8) * 2


def test_latent_attention_keeps_no_values() -> None:
    values: Any = {"attention__head_count": 16, "attention__head_count_kv": 1, "attention__key_length": 576}
    mla: Any = {"attention__value_length": 512, "attention__key_length_mla": 192, "attention__value_length_mla": 128}
    assert shape("deepseek2", **values, **mla).kv_bytes == 4 * 576 * 2


def test_layers_that_share_cells_have_none_of_their_own() -> None:
    assert shape(attention__head_count=8, attention__shared_kv_layers=3).kv_bytes == 8 * 16 * 2
    assert shape(attention__head_count=8, attention__shared_kv_layers=99).kv_bytes > 0


def test_layers_with_a_window_may_have_shorter_heads() -> None:
    both: Any = {"attention__head_count": 1, "attention__key_length": 10, "attention__value_length": 10}
    narrow: Any = {"attention__key_length_swa": 4, "attention__value_length_swa": 4}
    pattern: Any = {"attention__sliding_window_pattern": [1, 1, 1, 0]}
    assert shape(**both, **narrow, **pattern).kv_bytes == (3 * 8 + 20) * 2
    assert shape(**both, **narrow).kv_bytes == 4 * 20 * 2  # who does not say which, may have the longer ones


# ---- recurrent layers


def test_qwen_3_5_is_as_the_catalogue_says() -> None:
    found = shape(
        "qwen35", block_count=32, embedding_length=4096, attention__head_count=16, attention__head_count_kv=4,
        attention__key_length=256, attention__value_length=256, full_attention_interval=4, ssm__conv_kernel=4,
        ssm__inner_size=4096, ssm__state_size=128, ssm__group_count=16,
    )  # fmt: skip
    spec = CONFIG.model("qwen3.5-9b")
    assert (found.kv_bytes, found.state_bytes, found.bound) == (spec.kv_bytes, spec.state_bytes, False)


def test_without_word_of_which_layers_are_recurrent_all_are_both() -> None:
    found = shape(attention__head_count=8, ssm__inner_size=10, ssm__state_size=3, ssm__conv_kernel=4)
    assert found.kv_bytes == 4 * 8 * 16 * 2
    assert found.state_bytes == 4 * 4 * (3 * 10 + 10 * 3)
    assert found.bound


def test_other_states() -> None:
    assert shape("rwkv7", wkv__head_size=16, token_shift_count=2).state_bytes == 4 * 4 * 64 * (2 + 16)
    lfm2 = shape("lfm2", attention__head_count=8, attention__head_count_kv=[0, 2, 0, 0], shortconv__l_cache=3)
    assert (lfm2.state_bytes, lfm2.kv_bytes) == (3 * 4 * 64 * 2, 2 * 16 * 2)
    kda = shape(
        "kimi-linear", attention__head_count=8, attention__head_count_kv=[0, 2, 0, 2], kda__head_dim=16, ssm__conv_kernel=4
    )  # fmt: skip
    assert kda.state_bytes == 2 * 4 * 8 * 16 * (9 + 16)
    nemotron = shape(
        "nemotron_h", attention__head_count=8, attention__head_count_kv=[0, 0, 2, 0], feed_forward_length=[0, 9, 9, 9],
        ssm__inner_size=10, ssm__state_size=3,
    )  # fmt: skip
    assert nemotron.state_bytes == 4 * 10 * 3


# ---- headers that say too little, or too much


def test_what_is_not_said_is_taken_for_much() -> None:
    bare = shape_of(header("x"))
    assert bare.bound
    full = shape(attention__head_count=8, attention__head_count_kv=8)
    assert bare.kv_bytes > full.kv_bytes
    assert bare.trained is None
    headless = shape("x")
    assert headless.bound
    assert headless.kv_bytes == 4 * 64 * 2 * 2


KEYS = [
    "block_count", "embedding_length", "context_length", "vocab_size", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "attention.key_length_mla", "attention.value_length_mla",
    "attention.key_length_swa", "attention.sliding_window_pattern", "attention.shared_kv_layers",
    "attention.indexer.key_length", "full_attention_interval", "feed_forward_length", "ssm.conv_kernel",
    "ssm.inner_size", "ssm.state_size", "ssm.group_count", "wkv.head_size", "token_shift_count", "shortconv.l_cache",
    "kda.head_dim",
]  # fmt: skip
WHOLE = st.integers(-(2**63), 2**64 - 1) | st.integers(0, 600)
VALUES = WHOLE | st.floats() | st.booleans() | st.text(max_size=4) | st.lists(WHOLE, max_size=9).map(tuple)


@given(
    architecture=st.sampled_from(["llama", "mamba", "rwkv7", "nemotron_h", "deepseek2", ""]),
    values=st.dictionaries(st.sampled_from(KEYS), VALUES),
)
def test_a_wild_header_gives_bounded_numbers(architecture: str, values: dict[str, Any]) -> None:
    named = {f"{architecture}.{name}": value for name, value in values.items()}
    lists = {name: value for name, value in named.items() if isinstance(value, tuple)}
    single = {name: value for name, value in named.items() if not isinstance(value, tuple)}
    found = shape_of(made(architecture, single, lists))
    assert 1 <= found.layers <= 512
    assert 1 <= found.width <= 1 << 20
    assert 0 <= found.vocabulary <= 1 << 22
    assert found.trained is None or 1 <= found.trained < 2**31
    assert 0 <= found.kv_bytes <= 1 << 40
    assert 0 <= found.state_bytes <= 1 << 40
    assert {type(n) for n in (found.layers, found.width, found.vocabulary, found.kv_bytes, found.state_bytes)} == {int}
