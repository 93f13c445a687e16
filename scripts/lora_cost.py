"""What a LoRA adapter costs a model on this machine: loading, reading and writing, with one and without.

    python scripts/lora_cost.py [MODEL|FILE.gguf] [--rank N] [--rounds N]

An adapter of that rank is written for every matrix of every layer, as QLoRA trains it, in float32. Its B is zero, so
that both ways read and write the same; what a matrix holds does not change what it costs. One thread computes, and its
processor time counts, which other programs disturb little. Rounds alternate; the best of each figure is shown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from engine import config, footprint, layout, tuning
from engine.gguf_header import read_header
from engine.llama import Context, ContextParams, Model
from engine.models import find_spec
from engine.scheduler import Chunk, Job

PROMPT, ANSWER = 256, 64  # tokens
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def write_adapter(model: Path, rank: int, path: Path) -> int:
    """Write an adapter of a model's layers to `path`; return its size in bytes."""
    writer = gguf.GGUFWriter(path, read_header(model).architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    random = np.random.default_rng(0)
    for name, (inputs, outputs) in _matrices(model):
        writer.add_tensor(f"{name}.lora_a", random.normal(0, 0.02, (rank, inputs)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", np.zeros((outputs, rank), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


def _matrices(model: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    for file in footprint.files(model):
        for tensor in gguf.GGUFReader(file).tensors:
            kind = tensor.name.removesuffix(".weight").rpartition(".")[2]
            if tensor.name.startswith("blk.") and kind in MATRICES and len(tensor.shape) == 2:
                yield tensor.name, (int(tensor.shape[0]), int(tensor.shape[1]))


def measure(model: Path, adapter: Path | None) -> tuple[float, float, float]:
    """Return the seconds of a load, and the processor's seconds for a token of a prompt and of an answer."""
    began = time.perf_counter()
    opened = Model(model, repack=(tuning.recall(model) or tuning.usual()).repack)
    try:
        if adapter:
            opened.adapt(adapter, 1.0)
        context = Context(opened, ContextParams(2 * PROMPT, PROMPT, 1, n_threads=1, n_threads_batch=1))
        _decode(context, 0, 1)  # makes the graph
        context.clear()
        loaded, ready = time.perf_counter(), time.process_time()
        _decode(context, 0, PROMPT)
        read = time.process_time()
        for at in range(PROMPT, PROMPT + ANSWER):
            _decode(context, at, 1)
        end = time.process_time()
    finally:
        opened.close()
    return loaded - began, (read - ready) / PROMPT, (end - read) / ANSWER


def _decode(context: Context, at: int, count: int) -> None:
    tokens = [(at + n) % 250 + 5 for n in range(count)]
    if not context.decode([Chunk(Job([1], 1), 0, at, tokens, 1)]):
        raise SystemExit("a batch was aborted")
    context.logits(count - 1)


def main(argv: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct", help="a name of the catalogue, or a file")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args(argv)
    model = layout.locate(find_spec(config.load(), asked.model))
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter.gguf"
        size = write_adapter(model, asked.rank, adapter)
        rounds = [(measure(model, None), measure(model, adapter)) for _ in range(asked.rounds)]
    print(f"{model.name}: rank {asked.rank}, {size / 1e6:.1f} MB beside {model.stat().st_size / 1e6:.0f} MB\n")
    print("| | load | a token of a prompt | of an answer |\n|---|---|---|---|")
    for name, which in (("without", 0), ("with", 1)):
        load, prompt, answer = (min(each[which][what] for each in rounds) for what in range(3))
        print(f"| {name} | {load:.2f} s | {1000 * prompt:.2f} ms | {1000 * answer:.2f} ms |")


if __name__ == "__main__":
    main()
