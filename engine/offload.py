"""How many layers of a model go to the GPUs, told before anything is allocated. Sizes are bytes.

llama.cpp places n layers like this (`llama_model_base::load_tensors` of src/llama-model.cpp, of the build in
llama-cpp-python 0.3.36): the output counts as the last layer and goes first, then the layers before it; they are dealt
out in their order to the devices by the share of free memory that each has; the cache of a layer lies beside it, the
table of tokens stays on the CPU.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from engine import gguf_shape
from engine.gguf_header import read_header
from engine.llama import Device
from engine.probe import parts

# Left free on each device for the driver's context, work space of matrix libraries, and other programs. A context takes
# 107 MiB (RTX 4060 Ti) to 555 MiB (RTX PRO 6000, 96 GB), by https://github.com/ggml-org/llama.cpp/pull/23604; what CUDA
# reports as free does not hold it any more, what Vulkan does may. Ollama leaves 457 MiB, found by trying
# (https://github.com/ollama/ollama/issues/10765). Where ggml's pool cannot grow, it ends the process: rather less here.
RESERVE = 512 << 20
_FLOAT = 4


class GpuRefused(MemoryError):
    """A GPU could not take what was planned for it; the CPU is next."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how much of a model fits: of one of `layers` its weights on average, and of the output its matrix.

    `kv_bytes` is the cache of all layers at the cells wanted, `compute_bytes` the buffer of a device for a batch.
    """

    layers: int
    layer_bytes: int
    output_bytes: int
    kv_bytes: int
    compute_bytes: int


@dataclass(frozen=True, slots=True)
class Offload:
    """What goes to the GPUs: `layers`, the output counted as one, which take `vram` bytes, reserves not counted.

    `share` is the part of the weights and the cache that lies there, from 0 to 1; the table of tokens is not counted.
    """

    layers: int
    vram: int
    share: float


def shape_of(path: Path, cells: int, n_batch: int, flash_attention: bool | None = None) -> Shape:
    """Return the shape of a model by the headers of its file and the parts beside it.

    The compute buffer holds the logits of a batch or, without flash attention, the scores of all heads, whichever is
    larger, beside its mask and activations. None: llama.cpp uses flash attention where the device can, and is believed.
    Raises `ModelCorrupt`.
    """
    headers = [read_header(file) for file in parts(path)]
    model = gguf_shape.shape_of(headers[0])
    group = {name: sum(one.groups.get(name, 0) for one in headers) for name in ("blk", "output", "token_embd")}
    heads = headers[0].metadata.get(f"{headers[0].architecture}.attention.head_count", 0)
    scores = cells * heads if flash_attention is False and isinstance(heads, int) else 0
    return Shape(
        layers=model.layers,
        layer_bytes=-(-group["blk"] // model.layers),
        output_bytes=group["output"] or group["token_embd"],  # tied: a copy of the table is the output
        kv_bytes=model.kv_bytes * cells,
        compute_bytes=n_batch * _FLOAT * (max(model.vocabulary, scores) + cells + 2 * model.width),
    )


def plan(shape: Shape, devices: Sequence[Device], wanted: int | Literal["auto"]) -> Offload:
    """Return what goes to `devices`: with "auto" as many layers as fit beside a reserve, all with -1, else `wanted`.

    Without a device none do. What is wanted in so many words is not made smaller, whether or not it fits.
    """
    whole = shape.layers + 1
    if not devices:
        return Offload(0, 0, 0.0)
    if wanted == "auto":
        layers = next((n for n in range(whole, 0, -1) if _fits(shape, devices, n)), 0)
    else:
        layers = whole if wanted < 0 else min(wanted, whole)
    return _offload(shape, devices, layers)


def _offload(shape: Shape, devices: Sequence[Device], layers: int) -> Offload:
    taken = sum(_taken(shape, devices, layers))
    placed = sum(_weights(shape, _dealt(devices, layers)))
    all_of_it = shape.layers * shape.layer_bytes + shape.output_bytes + shape.kv_bytes
    return Offload(layers, taken, min(1.0, placed / all_of_it) if all_of_it else 0.0)


def _fits(shape: Shape, devices: Sequence[Device], layers: int) -> bool:
    """Return whether each device has room for what would be put there: what they have together says little."""
    taken = _taken(shape, devices, layers)
    return all(not size or size + RESERVE <= device.free for size, device in zip(taken, devices, strict=True))


def _taken(shape: Shape, devices: Sequence[Device], layers: int) -> list[int]:
    """Return the bytes on each device. While layers stay on the CPU, a GPU computes their large batches, too: a matrix
    of a layer at a time is copied for that, which is counted as a whole layer.
    """
    visiting = shape.layer_bytes if layers <= shape.layers else 0
    weights = _weights(shape, _dealt(devices, layers))
    return [size + shape.compute_bytes + visiting if size else 0 for size in weights]


def _weights(shape: Shape, dealt: Sequence[tuple[int, bool]]) -> list[int]:
    """Return the bytes of weights and cache on each device."""
    layer = shape.layer_bytes + -(-shape.kv_bytes // shape.layers)
    return [count * layer + (shape.output_bytes if output else 0) for count, output in dealt]


def _dealt(devices: Sequence[Device], layers: int) -> list[tuple[int, bool]]:
    """Return for each device how many layers it gets, without the output, and whether it gets that."""
    together = sum(device.free for device in devices)
    ends = [free / together if together else 1.0 for free in accumulate(device.free for device in devices)]
    places = [min(bisect_right(ends, number / layers), len(devices) - 1) for number in range(layers)]
    return [(places[:-1].count(index), places[-1:] == [index]) for index in range(len(devices))]
