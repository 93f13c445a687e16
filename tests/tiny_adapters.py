"""LoRA adapters with seeded random matrices, as llama.cpp's convert_lora_to_gguf.py writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import tiny_models
from numpy.typing import NDArray

Matrices = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]  # tensor → A (rank, inputs), B (outputs, rank)
ALPHA = 8.0
TINY = {  # tensors of tiny_models.attention → outputs, inputs
    f"blk.{layer}.{name}.weight": shape
    for layer in range(2)
    for name, shape in {
        "attn_q": (tiny_models.WIDTH, tiny_models.WIDTH),
        "attn_v": (tiny_models.KV_HEADS * tiny_models.HEAD, tiny_models.WIDTH),
        "ffn_down": (tiny_models.WIDTH, tiny_models.FF),
    }.items()
}
STARTER = {  # of smollm2-135m-instruct
    f"blk.{layer}.{name}.weight": (outputs, 576) for layer in range(30) for name, outputs in (("attn_q", 576), ("attn_v", 192))
}  # fmt: skip


def matrices(shapes: dict[str, tuple[int, int]], seed: int = 0, rank: int = 4, spread: float = 0.1) -> Matrices:
    """Return random pairs for tensors of these shapes."""
    random = np.random.default_rng(seed)

    def pair(outputs: int, inputs: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        a, b = random.normal(0, spread, (rank, inputs)), random.normal(0, spread, (outputs, rank))
        return a.astype(np.float32), b.astype(np.float32)

    return {name: pair(*shape) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Said:
    """What a header says; None: nothing."""

    architecture: str = "llama"
    general: str | None = "adapter"
    kind: str | None = "lora"
    alpha: float | None = ALPHA
    more: dict[str, list[int]] = field(default_factory=dict)
    double: bool = False  # alpha is a float of 8 bytes, which llama.cpp does not expect


def write(path: Path, pairs: Matrices, said: Said = Said()) -> Path:
    """Write an adapter to `path`."""
    writer = gguf.GGUFWriter(path, said.architecture)
    if said.general is not None:
        writer.add_type(said.general)
    if said.kind is not None:
        writer.add_string("adapter.type", said.kind)
    if said.alpha is not None:
        (writer.add_float64 if said.double else writer.add_float32)("adapter.lora.alpha", said.alpha)
    for name, values in said.more.items():
        writer.add_array(name, values)
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merge(model: Path, pairs: Matrices, scale: float = 1.0) -> Path:
    """Add what an adapter would do to the float32 weights of a model's file, in place: W + scale · alpha / r · B · A."""
    reader = gguf.GGUFReader(model, "r+")
    for tensor in reader.tensors:
        if tensor.name in pairs:
            a, b = pairs[tensor.name]
            tensor.data[:] = tensor.data + scale * ALPHA / len(a) * (b @ a)
    reader.data.flush()
    return model
