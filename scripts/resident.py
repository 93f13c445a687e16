"""What models of true shape take of RAM, beside what `engine.footprint` said before there was a file.

Each shape is written, loaded through the engine in a process of its own with the default settings, as a user would,
and deleted before the next. `benchmark.py resident` is its command line.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import shapes

from engine import Engine, config, layout, ready, tuning
from engine.config import ModelSpec
from engine.footprint import Footprint, estimate, of_cache

EMBEDDING = "bge-m3"  # a folder of random weights; its tokeniser, of the same family, is lent by the starter model
DONOR = "multilingual-e5-small"
NAMES = (*shapes.SHAPES, EMBEDDING)  # each is a name in the catalogue, too
DEFAULT = ("qwen2.5-0.5b", "llama-3.2-3b")
TEXT = "오늘 점심은 회사 앞에서 비빔밥을 먹었고 저녁에는 친구와 영화를 보기로 했어요. "


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes by which a process grew: when a model was loaded, and after it had worked through a full batch."""

    loaded: int
    worked: int


@dataclass(frozen=True, slots=True)
class Row:
    """One shape: bytes of its files, what was estimated, what was held; `tuning` is how llama.cpp ran it."""

    name: str
    size: int
    estimated: Footprint
    held: Held
    tuning: tuning.Tuning | None

    @property
    def ratios(self) -> tuple[float, float]:
        """The estimate by what was held after the load, and after work."""
        total = self.estimated.total
        if total is None:
            raise ValueError(f"the entry of {self.name} does not say enough for an estimate")
        return total / self.held.loaded, total / self.held.worked

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        ratios = dict(zip(("loaded", "worked"), self.ratios, strict=True))
        return {**asdict(self), "estimated": self.estimated.to_dict(), "ratios": ratios}


def measure(names: Sequence[str], folder: Path) -> Iterator[Row]:
    """Yield a row for each shape, of which `folder` holds one at a time. Raises `shapes.CannotWrite`, `OSError`."""
    for name in names:
        own = folder / name
        own.mkdir()
        try:
            yield row(name, write(name, own), own)
        finally:
            shutil.rmtree(own)


def row(name: str, path: Path, folder: Path) -> Row:
    """Load what lies at `path` in a child process and compare."""
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    laid = folder / "models.toml"
    key = config.load().model(name).name
    entry = f"[models.{json.dumps(key)}]\nsource = {{ path = {json.dumps(str(path))} }}\nsize = {size}\n"
    laid.write_text(entry, encoding="utf-8")
    command = [sys.executable, __file__, str(laid), key, str(folder / "home")]
    held = Held(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    settings = config.load(laid)
    spec = settings.model(key)
    how = (tuning.recall(path) or tuning.usual()) if spec.kind == "llm" else None
    estimated = estimate(spec, settings.engine)
    if spec.kind == "embedding" and ready.is_ready(spec, path):  # made by the first load
        estimated = of_cache(path, spec)
    return Row(name, size, estimated, held, how)


def write(name: str, folder: Path) -> Path:
    """Write a shape into `folder` and return where the model is."""
    if name == EMBEDDING:
        return write_embedding(folder / name)
    path = folder / f"{name}.gguf"
    shapes.write(name, path, Path(sys.prefix, "share", "vocab"))
    return path


def write_embedding(folder: Path, layers: int = 24, width: int = 1024) -> Path:
    """Write a sentence-transformers folder of BGE-M3's shape, or of a smaller one: random weights, two heads.

    Raises `ModelNotFound` without the starter models.
    """
    from transformers import XLMRobertaConfig, XLMRobertaModel
    from transformers.utils import logging

    donor = layout.locate(config.load().model(DONOR))
    shutil.copytree(donor, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", ".*"))
    shape = XLMRobertaConfig(
        vocab_size=250002, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
        intermediate_size=4 * width, max_position_embeddings=8194, type_vocab_size=1, pad_token_id=1,
    )  # fmt: skip
    logging.disable_progress_bar()
    XLMRobertaModel(shape, add_pooling_layer=False).save_pretrained(folder)
    pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    reads = {"max_seq_length": 8192, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(reads), encoding="utf-8")
    write_heads(folder, width)
    return folder


def write_heads(folder: Path, width: int) -> None:
    """Write the files of the sparse and the multi-vector head, as the download of BGE-M3 leaves them."""
    import numpy as np
    from safetensors.numpy import save_file

    drawn = np.random.default_rng(0)
    for name, rows in zip(layout.HEADS, (1, width), strict=True):
        weight = drawn.normal(0, width**-0.5, (rows, width)).astype(np.float32)
        save_file({"weight": weight, "bias": np.zeros(rows, np.float32)}, folder / name, metadata={"format": "pt"})


def hold(laid: str, name: str, home: str) -> Held:
    """Load a model as a user would, let it work, and return by how much this process grew."""
    spec = config.load(laid).model(name)
    role = "chat" if spec.kind == "llm" else "embedding"
    with Engine(laid, profile="starter", home=home, models={role: name}) as engine:
        before = engine.status().resident
        engine.load(role)
        loaded = engine.status().resident
        work(engine, spec)
        return Held(loaded - before, engine.status().resident - before)


def work(engine: Engine, spec: ModelSpec) -> None:
    """Do something that fills a batch."""
    if spec.kind == "embedding":
        engine.embed(TEXT * 320)  # as much as BGE-M3 reads at once
    else:
        engine.chat(TEXT * 20, max_tokens=4)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table in Markdown."""
    yield "| model | files | estimate | held after loading | after work | estimate by these | repacked | micro-batch |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in rows:
        total, how = one.estimated.total or 0, one.tuning
        sizes = " | ".join(f"{n / 1e9:.2f} GB" for n in (one.size, total, one.held.loaded, one.held.worked))
        ratios = " / ".join(f"{ratio:.2f}" for ratio in one.ratios)
        ran = f"{'yes' if how.repack else 'no'} | {how.n_ubatch}" if how else "– | –"
        yield f"| {one.name} | {sizes} | {ratios} | {ran} |"


def run(names: Sequence[str], folder: Path | None) -> list[dict[str, Any]]:
    """Measure shapes in a temporary folder (in `folder`, if given), print each as it is found, and return all."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=folder) as own:
        for one in measure(names, Path(own)):
            rows.append(one)
            print("\n".join(list(table([one]))[0 if len(rows) == 1 else 2 :]), flush=True)
    return [one.to_dict() for one in rows]


if __name__ == "__main__":
    print(json.dumps(asdict(hold(*sys.argv[1:]))))
