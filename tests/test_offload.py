"""How many layers go to a GPU, by what real devices reported as free and what real models take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import script_module
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from engine import config
from engine.errors import ModelCorrupt
from engine.llama import Device, Model
from engine.offload import RESERVE, Shape, plan, shape_of

MIB = 1 << 20
shapes: Any = script_module.load("shapes")


def gpu(name: str, free: int, total: int, backend: str = "CUDA") -> Device:
    return Device(f"{backend}0", name, backend, free * MIB, total * MIB)


# What drivers reported, in MiB, in public logs; the threads are named beside them.
GTX_1650 = gpu("NVIDIA GeForce GTX 1650", 3849, 4096)  # github.com/ollama/ollama/issues/1204
RTX_3060_LAPTOP = gpu("NVIDIA GeForce RTX 3060 Laptop GPU", 5226, 5994, "Vulkan")  # HilbertraumAI/HilbertRaum#318
RTX_5060_TI = gpu("NVIDIA GeForce RTX 5060 Ti", 15055, 16310)  # lmstudio-ai/lmstudio-bug-tracker#1360
# Totals as nvidia-smi shows them; free is what is left by a desktop of some hundred MiB, which is an assumption.
GTX_1060 = gpu("NVIDIA GeForce GTX 1060 6GB", 5560, 6144)
RTX_3060 = gpu("NVIDIA GeForce RTX 3060", 11400, 12288)
RTX_4090 = gpu("NVIDIA GeForce RTX 4090", 23600, 24564)


def true_shape(name: str, cells: int = 8192, n_batch: int = 512) -> Shape:
    """Return what `shape_of` finds in the file of a true shape, without writing its gigabytes."""
    shape = shapes.SHAPES[name]
    size = {tensor.name: tensor.size for tensor in shapes.tensors(shape)}
    layers = sum(size for name, size in size.items() if name.startswith("blk."))
    return Shape(
        layers=shape.layers,
        layer_bytes=-(-layers // shape.layers),
        output_bytes=size.get("output.weight", size["token_embd.weight"]),
        kv_bytes=2 * 2 * shape.width // shape.heads * shape.kv_heads * shape.layers * cells,
        compute_bytes=n_batch * 4 * (shape.tokens + cells + 2 * shape.width),
    )


QWEN_3B, QWEN_7B, QWEN_14B = (true_shape(f"qwen2.5-{size}b") for size in (3, 7, 14))


def all_bytes(shape: Shape) -> int:
    return shape.layers * shape.layer_bytes + shape.output_bytes + shape.kv_bytes


# ---- recorded devices


@pytest.mark.parametrize(
    ("device", "shape", "layers"),
    [
        (GTX_1650, QWEN_3B, 37),
        (GTX_1650, QWEN_7B, 17),
        (GTX_1650, QWEN_14B, 12),
        (RTX_3060_LAPTOP, QWEN_7B, 26),
        (GTX_1060, QWEN_3B, 37),
        (GTX_1060, QWEN_7B, 29),
        (GTX_1060, QWEN_14B, 21),
        (RTX_3060, QWEN_7B, 29),
        (RTX_3060, QWEN_14B, 49),
        (RTX_5060_TI, QWEN_14B, 49),
    ],
    ids=lambda value: value.description if isinstance(value, Device) else "",
)
def test_as_many_layers_as_fit(device: Device, shape: Shape, layers: int) -> None:
    """By hand, of 7B on 3849 MiB: less 512, 426 of output, 327 to compute and a visiting layer of 134 leave 2450, which
    are 16 layers of 134 with 16 of cache; with the output that makes 17.
    """
    found = plan(shape, [device], "auto")
    assert found.layers == layers
    assert found.vram + RESERVE <= device.free
    assert found.share == pytest.approx(1.0) if layers > shape.layers else 0.2 < found.share < 1
    if layers <= shape.layers:
        assert plan(shape, [device], layers + 1).vram + RESERVE > device.free, "one more would not have fitted"


def test_what_a_7b_takes_is_what_llama_cpp_reported_for_it() -> None:
    """Of Qwen2.5 7B Q4_K_M, all layers: 4168.09 MiB of weights; 56 KiB of cache a token; 304 MiB to compute with."""
    whole = plan(QWEN_7B, [RTX_4090], "auto")
    weights = whole.vram - QWEN_7B.kv_bytes - QWEN_7B.compute_bytes
    assert weights / MIB == pytest.approx(4168, rel=0.01)
    assert QWEN_7B.kv_bytes == 8192 * 56 * 1024
    assert QWEN_7B.compute_bytes / MIB == pytest.approx(304, rel=0.1)


# ---- what decides


def test_without_a_gpu_nothing_goes_anywhere() -> None:
    for wanted in ("auto", -1, 0, 20):
        assert plan(QWEN_7B, [], wanted) == plan(QWEN_7B, [], 0)  # type: ignore[arg-type]
    assert (plan(QWEN_7B, [], "auto").layers, plan(QWEN_7B, [], "auto").vram) == (0, 0)


def test_what_is_wanted_by_number_is_not_made_smaller() -> None:
    assert [plan(QWEN_14B, [GTX_1650], wanted).layers for wanted in (-1, 0, 7, 49, 500)] == [49, 0, 7, 49, 49]
    assert plan(QWEN_14B, [GTX_1650], -1).share == pytest.approx(1.0)
    assert plan(QWEN_14B, [GTX_1650], 0) == plan(QWEN_14B, [], 0)


def test_a_full_gpu_gets_nothing() -> None:
    assert plan(QWEN_3B, [replace(GTX_1650, free=900 * MIB)], "auto").layers == 0
    assert plan(QWEN_3B, [replace(GTX_1650, free=0)], "auto").layers == 0


def test_a_longer_context_leaves_room_for_fewer_layers() -> None:
    found = [plan(true_shape("qwen2.5-7b", cells), [GTX_1060], "auto").layers for cells in (4096, 16384, 32768)]
    assert found == sorted(found, reverse=True) and found[-1] < found[0]


def test_a_layer_larger_than_each_device_fits_into_none() -> None:
    """Together they have room for it, three times."""
    whole = Shape(layers=2, layer_bytes=6000 * MIB, output_bytes=10 * MIB, kv_bytes=0, compute_bytes=0)
    both = [gpu("a", 5500, 6144), gpu("b", 5500, 6144), gpu("c", 5500, 6144)]
    assert plan(whole, both, "auto").layers == 0
    assert plan(whole, [replace(one, free=7000 * MIB) for one in both], "auto").layers == 3


def test_two_devices_get_layers_by_what_they_have_free() -> None:
    """As llama.cpp deals them out: of 49, two thirds to the first, the output with the last."""
    devices = [gpu("large", 8000, 8192), gpu("small", 4000, 4096)]
    found = plan(QWEN_14B, devices, "auto")
    alone = plan(QWEN_14B, devices[:1], "auto")
    assert alone.layers < found.layers
    assert found.vram + 2 * RESERVE <= 12000 * MIB
    layer = QWEN_14B.layer_bytes + QWEN_14B.kv_bytes // 48
    twice = plan(QWEN_14B, devices, 30)
    assert twice.vram == pytest.approx(
        29 * layer + QWEN_14B.output_bytes + 2 * (QWEN_14B.compute_bytes + QWEN_14B.layer_bytes), rel=1e-6
    )


sizes = st.integers(0, 2_000 * MIB)


@given(
    st.builds(Shape, st.integers(1, 100), sizes, sizes, sizes, sizes),
    st.lists(st.integers(0, 30_000).map(lambda free: gpu("any", free, 30_000)), max_size=4),
)
def test_what_fits_never_takes_more_than_is_free(shape: Shape, devices: list[Device]) -> None:
    found = plan(shape, devices, "auto")
    assert 0 <= found.layers <= shape.layers + 1
    assert 0 <= found.share <= 1
    assert found.vram <= max(0, sum(device.free for device in devices))
    assert plan(shape, devices, found.layers) == found


# ---- from a file


def test_the_shape_of_a_file_is_what_it_holds(tmp_path: Path) -> None:
    """And its cache what llama.cpp makes of it: keys and values of two heads of 16, in f16, for two layers."""
    path = tiny_models.attention(tmp_path / "tiny.gguf")
    found = shape_of(path, cells=512, n_batch=64)
    assert found.layers == 2
    assert found.kv_bytes == 512 * 2 * 2 * tiny_models.KV_HEADS * tiny_models.HEAD * 2
    model = Model(path)
    table = tiny_models.SIZE * tiny_models.WIDTH * 4
    rest = table + tiny_models.WIDTH * 4  # the table of tokens and the last norm
    assert 2 * found.layer_bytes + found.output_bytes + rest == pytest.approx(model.size, abs=2)
    model.close()


def test_a_table_that_is_the_output_too_is_copied(starter_gguf: Path) -> None:
    spec = config.load().model("smollm2-135m-instruct")
    found = shape_of(starter_gguf, 1024, 512)
    assert spec.kv_bytes is not None
    assert (found.layers, found.kv_bytes) == (30, 1024 * spec.kv_bytes)
    assert found.output_bytes == 30_081_024  # token_embd.weight, Q8_0


def test_scores_without_flash_attention_take_more(starter_gguf: Path) -> None:
    plain = shape_of(starter_gguf, 8192, 512, flash_attention=False)
    assert plain.compute_bytes > shape_of(starter_gguf, 8192, 512).compute_bytes
    assert plain.compute_bytes == 512 * 4 * (9 * 8192 + 8192 + 2 * 576)


def test_a_broken_file_has_no_shape(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelCorrupt):
        shape_of(tmp_path / "x.gguf", 512, 64)
