"""Write a model of true shapes without true weights, to measure speed and memory with.

    python scripts/shapes.py SHAPE FILE.gguf [--vocab DIR]

Speed and memory of a quantised model depend on its shapes, not on its values. The file has the layers, the mix of
quantisations (Q4_K_M), the tokeniser and the size of the real one, and random blocks for weights: it answers nonsense.
The same shape always gives the same bytes. Exit status 0, or 1 where it cannot be written.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
SOLAR = (
    "{% for message in messages %}{{ '### ' + message['role'] | capitalize + ':\n' + message['content'] + '\n\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
TEMPLATES = {"llama-bpe": LLAMA3, "llama-spm": SOLAR}  # of vocabulary files that bring none
TEMPLATE_KEY, TOKENS_KEY = "tokenizer.chat_template", "tokenizer.ggml.tokens"
Q4_K_M = 15  # llama.cpp's number of this mix
SPARE = 10_000_000  # bytes of disk beyond the file itself


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the speed of a model. `tokens` counts the vocabulary, padding included."""

    architecture: str
    vocabulary: str
    tokens: int
    layers: int
    width: int
    ff: int
    heads: int
    kv_heads: int
    tied: bool
    rope_base: float
    rms_eps: float
    context: int


SHAPES = {
    "qwen2.5-0.5b": Shape("qwen2", "qwen2", 151936, 24, 896, 4864, 14, 2, True, 1e6, 1e-6, 32768),
    "qwen2.5-3b": Shape("qwen2", "qwen2", 151936, 36, 2048, 11008, 16, 2, True, 1e6, 1e-6, 32768),
    "qwen2.5-7b": Shape("qwen2", "qwen2", 152064, 28, 3584, 18944, 28, 4, False, 1e6, 1e-6, 32768),
    "qwen2.5-14b": Shape("qwen2", "qwen2", 152064, 48, 5120, 13824, 40, 8, False, 1e6, 1e-6, 32768),
    "llama-3.2-3b": Shape("llama", "llama-bpe", 128256, 28, 3072, 8192, 24, 8, True, 5e5, 1e-5, 131072),
    "llama-3.1-8b": Shape("llama", "llama-bpe", 128256, 32, 4096, 14336, 32, 8, False, 5e5, 1e-5, 131072),
    "mistral-7b": Shape("llama", "llama-spm", 32768, 32, 4096, 14336, 32, 8, False, 1e6, 1e-5, 32768),
    "eeve-10.8b": Shape("llama", "llama-spm", 40960, 48, 4096, 14336, 32, 8, False, 1e4, 1e-5, 4096),
    "solar-10.7b": Shape("llama", "llama-spm", 32000, 48, 4096, 14336, 32, 8, False, 1e4, 1e-5, 4096),
}


class CannotWrite(Exception):
    """A file of this shape cannot be written; the message says why and what to do next."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file; `columns` is its inner dimension, a vector has one row."""

    name: str
    rows: int
    columns: int
    type: Type

    @property
    def size(self) -> int:
        """Bytes of its data."""
        items, size = gguf.GGML_QUANT_SIZES[self.type]
        return self.rows * self.columns // items * size

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Its dimensions, the outer one first."""
        return (self.columns,) if self.type == Type.F32 else (self.rows, self.columns)


def more_bits(layer: int, layers: int) -> bool:
    """Return whether a layer's attn_v and ffn_down are Q6_K, as llama-quant.cpp's `use_more_bits` decides it."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def matrix(name: str, rows: int, columns: int, *, fine: bool = False) -> Tensor:
    """Return a tensor as Q4_K_M has it; blocks of 256 fall back to blocks of 32 where a row is no multiple of 256."""
    whole = columns % 256 == 0
    kind = (Type.Q6_K if whole else Type.Q8_0) if fine else (Type.Q4_K if whole else Type.Q5_0)
    return Tensor(f"{name}.weight", rows, columns, kind)


def vector(name: str, size: int) -> Tensor:
    """Return a norm or a bias."""
    return Tensor(name, 1, size, Type.F32)


def tensors(shape: Shape) -> Iterator[Tensor]:
    """Yield every tensor of a model."""
    yield matrix("token_embd", shape.tokens, shape.width, fine=shape.tied)
    yield vector("output_norm.weight", shape.width)
    if not shape.tied:
        yield matrix("output", shape.tokens, shape.width, fine=True)
    for layer in range(shape.layers):
        yield from layer_tensors(shape, layer)


def layer_tensors(shape: Shape, layer: int) -> Iterator[Tensor]:
    """Yield the tensors of one layer."""
    at, width, fine = f"blk.{layer}.", shape.width, more_bits(layer, shape.layers)
    kv = width // shape.heads * shape.kv_heads
    yield vector(f"{at}attn_norm.weight", width)
    for name, rows in (("q", width), ("k", kv), ("v", kv)):
        yield matrix(f"{at}attn_{name}", rows, width, fine=fine and name == "v")
        if shape.architecture == "qwen2":
            yield vector(f"{at}attn_{name}.bias", rows)
    yield matrix(f"{at}attn_output", width, width)
    yield vector(f"{at}ffn_norm.weight", width)
    yield matrix(f"{at}ffn_gate", shape.ff, width)
    yield matrix(f"{at}ffn_up", shape.ff, width)
    yield matrix(f"{at}ffn_down", width, shape.ff, fine=fine)


def file_size(shape: Shape, vocabulary: Path) -> int:
    """Return the bytes of the file, to within a few kilobytes. Raises `CannotWrite` without the vocabulary."""
    check_vocabulary(vocabulary)
    align = gguf.GGUF_DEFAULT_ALIGNMENT
    data = sum(-(-tensor.size // align) * align for tensor in tensors(shape))
    # of each tensor the header holds its name, the name's length, dimensions and how many, type and offset
    infos = sum(len(tensor.name) + 24 + 8 * len(tensor.dimensions) for tensor in tensors(shape))
    return data + infos + vocabulary.stat().st_size


def vocabulary_file(shape: Shape, folder: Path) -> Path:
    """Return where llama.cpp's vocabulary of this shape lies in `folder`."""
    return folder / f"ggml-vocab-{shape.vocabulary}.gguf"


def check_vocabulary(path: Path) -> None:
    """Raise `CannotWrite` where there is no such file."""
    if not path.is_file():
        raise CannotWrite(
            f"there is no {path}. `python3 scripts/dev.py test` puts llama.cpp's vocabulary files into .venv; run it "
            "once, or name their folder with --vocab."
        )


# The data: small finite scales, for random bytes in their place would make NaN


def blocks(tensor: Tensor, random: np.random.Generator) -> NDArray[Any]:
    """Return a tensor's data: ones for norms, zeros for biases, else random blocks of its type."""
    if tensor.type == Type.F32:
        fill = np.zeros if tensor.name.endswith(".bias") else np.ones
        return fill(tensor.columns, np.float32)
    _, size = gguf.GGML_QUANT_SIZES[tensor.type]
    words = random.integers(0, 2**64, -(-tensor.size // 8), np.uint64)
    data = words.view(np.uint8)[: tensor.size].reshape(-1, size)
    if tensor.type == Type.Q6_K:
        data[:, 192:208] %= 20  # the scales of its 16 parts
        data[:, 208:210] = half(3e-4)
    else:
        data[:, 0:2] = half({Type.Q4_K: 6e-4, Type.Q5_0: 8e-3, Type.Q8_0: 3e-4}[tensor.type])
    if tensor.type == Type.Q4_K:
        data[:, 2:4] = half(4.5e-3)  # what is subtracted: half the range, so that weights lie around zero
    return data


def half(value: float) -> NDArray[np.uint8]:
    """Return the two bytes of a half-precision number."""
    return np.array([value], "<f2").view(np.uint8)


# The file


def write(name: str, path: Path, vocabularies: Path) -> None:
    """Write the shape called `name` to `path`, which appears only when it is complete. Raises `CannotWrite`."""
    write_shape(name, SHAPES[name], path, vocabulary_file(SHAPES[name], vocabularies))


def write_shape(name: str, shape: Shape, path: Path, vocabulary: Path) -> None:
    """Write any shape to `path`, tensor by tensor: no more than the largest is ever in memory."""
    needed = file_size(shape, vocabulary) + SPARE
    if (free := shutil.disk_usage(path.parent).free) < needed:
        raise CannotWrite(f"{path.parent} has {free / 1e9:.1f} GB free and {name} needs {needed / 1e9:.1f} GB.")
    part = path.with_name(f"{path.name}.part")
    try:
        with contextlib.closing(gguf.GGUFWriter(part, shape.architecture)) as writer:
            describe(writer, name, shape, vocabulary)
            write_tensors(writer, name, list(tensors(shape)))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def describe(writer: gguf.GGUFWriter, name: str, shape: Shape, vocabulary: Path) -> None:
    """Add what stands before the tensors."""
    writer.add_name(f"{name}, random weights")
    writer.add_file_type(Q4_K_M)
    writer.add_context_length(shape.context)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    for key, (value, kind, items) in tokenizer(shape, vocabulary).items():
        writer.add_key_value(key, value, kind, items)


def tokenizer(shape: Shape, vocabulary: Path) -> dict[str, tuple[Any, gguf.GGUFValueType, gguf.GGUFValueType | None]]:
    """Return key → (value, type, type of its items) of a vocabulary file, padded, and with a chat template."""
    found = {}
    for key, field in gguf.GGUFReader(vocabulary).fields.items():
        if key.startswith("tokenizer."):
            kind, *items = field.types
            found[key] = (field.contents(), kind, items[-1] if items else None)
    missing = range(len(found[TOKENS_KEY][0]), shape.tokens)
    padding = {
        "tokens": [f"[PAD{token}]" for token in missing],
        "token_type": [int(gguf.TokenType.UNUSED)] * len(missing),
        "scores": [0.0] * len(missing),  # SentencePiece only
    }
    for name, values in padding.items():
        if (key := f"tokenizer.ggml.{name}") in found:
            found[key][0].extend(values)
    if TEMPLATE_KEY not in found:
        found[TEMPLATE_KEY] = (TEMPLATES[shape.vocabulary], gguf.GGUFValueType.STRING, None)
    return found


def write_tensors(writer: gguf.GGUFWriter, name: str, plan: list[Tensor]) -> None:
    """Write the header, then each tensor, saying how far it is."""
    for tensor in plan:
        writer.add_tensor_info(tensor.name, tensor.dimensions, np.dtype(np.float32), tensor.size, tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    total, done = sum(tensor.size for tensor in plan), 0
    for tensor in plan:
        writer.write_tensor_data(blocks(tensor, random))
        done += tensor.size
        if sys.stderr.isatty():
            print(f"\r{name}: {done / total:4.0%} of {total / 1e9:.1f} GB", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)


def main() -> int:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    folder = Path(sys.prefix, "share", "vocab")
    parser.add_argument("--vocab", type=Path, default=folder, metavar="DIR", help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        write(arguments.shape, arguments.file, arguments.vocab)
    except (CannotWrite, OSError) as error:
        print(f"{arguments.file} was not written: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.file}: {arguments.file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
