"""Tiny GGUF models with random weights, for what only the architecture decides: how a cache can be cut and forked.

Every file holds two layers of float32 and a vocabulary of single bytes: a few hundred kilobytes. Random weights answer
nonsense, but differently after every history, so that a state that was lost or mixed up shows in the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import gguf
import numpy as np

WIDTH, FF, HEADS, KV_HEADS = 64, 128, 4, 2
HEAD = WIDTH // HEADS
INNER, STATE, RANK, CONV = 2 * WIDTH, 16, 4, 4  # llama.cpp wants an inner width of twice the width
CONTEXT = 4096
WINDOW = 16
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SIZE = len(SPECIAL) + 256
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


def attention(path: Path) -> Path:
    """Write a model of attention layers only (llama), whose cache can be cut and forked anywhere."""
    with _File(path, "llama") as file:
        file.writer.add_head_count_kv(KV_HEADS)
        for layer in range(2):
            file.attention(layer)
            file.feed_forward(layer)
    return path


def mamba(path: Path) -> Path:
    """Write a purely recurrent model (mamba): one state a sequence, and no cells."""
    with _File(path, "mamba") as file:
        _recurrent_sizes(file.writer)
        for layer in range(2):
            file.ones(f"blk.{layer}.attn_norm.weight", WIDTH)
            file.recurrent(layer)
    return path


def hybrid(path: Path) -> Path:
    """Write a model of one recurrent layer and one of attention (jamba)."""
    with _File(path, "jamba") as file:
        _recurrent_sizes(file.writer)
        file.writer.add_head_count_kv([0, KV_HEADS])  # a layer without heads is a recurrent one
        file.ones("blk.0.attn_norm.weight", WIDTH)
        file.recurrent(0)
        for name, size in (("dt", RANK), ("b", STATE), ("c", STATE)):
            file.ones(f"blk.0.ssm_{name}_norm.weight", size)
        file.attention(1)
        for layer in range(2):
            file.feed_forward(layer)
    return path


def sliding(path: Path) -> Path:
    """Write a model whose first layer sees the last `WINDOW` tokens only, the second all of them (gemma3)."""
    with _File(path, "gemma3") as file:
        file.writer.add_head_count_kv(KV_HEADS)
        file.writer.add_key_length(HEAD)
        file.writer.add_value_length(HEAD)
        file.writer.add_sliding_window(WINDOW)
        file.writer.add_sliding_window_pattern([True, False])
        for layer in range(2):
            file.attention(layer)
            file.feed_forward(layer)
            for name, size in (("attn_q", HEAD), ("attn_k", HEAD), ("post_attention", WIDTH), ("post_ffw", WIDTH)):
                file.ones(f"blk.{layer}.{name}_norm.weight", size)
    return path


def _recurrent_sizes(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(CONV)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)


@dataclass
class _File:
    """A GGUF file in the making: what all architectures share, and their layers."""

    path: Path
    architecture: str

    def __enter__(self) -> Self:
        self.writer = gguf.GGUFWriter(self.path, self.architecture)
        self.random = np.random.default_rng(0)
        self.writer.add_context_length(CONTEXT)
        self.writer.add_embedding_length(WIDTH)
        self.writer.add_block_count(2)
        self.writer.add_feed_forward_length(FF)
        self.writer.add_head_count(HEADS)
        self.writer.add_layer_norm_rms_eps(1e-5)
        self._vocabulary()
        self.matrix("token_embd.weight", SIZE, WIDTH)
        self.ones("output_norm.weight", WIDTH)
        self.matrix("output.weight", SIZE, WIDTH)
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            self.writer.write_header_to_file()
            self.writer.write_kv_data_to_file()
            self.writer.write_tensors_to_file()
        self.writer.close()

    def _vocabulary(self) -> None:
        """Single bytes and a few control words, as SentencePiece spells them."""
        kinds = gguf.TokenType
        control = [kinds.UNKNOWN, *[kinds.CONTROL] * (len(SPECIAL) - 1)]
        self.writer.add_tokenizer_model("llama")
        self.writer.add_token_list([*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))])
        self.writer.add_token_scores([0.0] * SIZE)
        self.writer.add_token_types([*control, *[kinds.BYTE] * 256])
        self.writer.add_bos_token_id(SPECIAL.index("<s>"))
        self.writer.add_eos_token_id(SPECIAL.index("<|im_end|>"))
        self.writer.add_unk_token_id(SPECIAL.index("<unk>"))
        self.writer.add_add_bos_token(False)
        self.writer.add_add_space_prefix(False)
        self.writer.add_chat_template(TEMPLATE)

    def matrix(self, name: str, rows: int, columns: int) -> None:
        """Add `rows` outputs of `columns` inputs, scaled so that a layer neither dies nor explodes."""
        values = self.random.normal(0, columns**-0.5, (rows, columns))
        self.writer.add_tensor(name, values.astype(np.float32))

    def ones(self, name: str, size: int) -> None:
        self.writer.add_tensor(name, np.ones(size, np.float32))

    def attention(self, layer: int) -> None:
        self.ones(f"blk.{layer}.attn_norm.weight", WIDTH)
        for name, rows in (("q", WIDTH), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD), ("output", WIDTH)):
            self.matrix(f"blk.{layer}.attn_{name}.weight", rows, WIDTH)

    def feed_forward(self, layer: int) -> None:
        self.ones(f"blk.{layer}.ffn_norm.weight", WIDTH)
        self.matrix(f"blk.{layer}.ffn_gate.weight", FF, WIDTH)
        self.matrix(f"blk.{layer}.ffn_up.weight", FF, WIDTH)
        self.matrix(f"blk.{layer}.ffn_down.weight", WIDTH, FF)

    def recurrent(self, layer: int) -> None:
        """A selective state space layer; A is negative and slow, so that the state remembers."""
        at = f"blk.{layer}.ssm_"
        self.matrix(f"{at}in.weight", 2 * INNER, WIDTH)
        self.matrix(f"{at}conv1d.weight", INNER, CONV)
        self.matrix(f"{at}x.weight", RANK + 2 * STATE, INNER)
        self.matrix(f"{at}dt.weight", INNER, RANK)
        self.matrix(f"{at}out.weight", WIDTH, INNER)
        for name in ("conv1d.bias", "dt.bias"):
            self.writer.add_tensor(at + name, np.zeros(INNER, np.float32))
        decay = -0.05 * np.arange(1, STATE + 1, dtype=np.float32)
        self.writer.add_tensor(f"{at}a", np.tile(decay, (INNER, 1)))
        self.ones(f"{at}d", INNER)
