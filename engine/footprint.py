"""What a model will take of this machine's RAM, told before it is loaded.

From its entry in models.toml alone (`estimate`), before any file is there; from what its files say of themselves
(`of_file`), once they are. Sizes are bytes. Each part was fitted to what processes of true-shape models hold;
`scripts/benchmark.py resident` measures them again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine import adapters, fastpath, layout
from engine.gguf_header import PART, read_header
from engine.gguf_shape import GgufShape, shape_of

if TYPE_CHECKING:
    from engine.config import EngineTable, ModelSpec

SPARE_SEQUENCES = 24  # finished sequences kept for their prefixes beside the running ones
_FLOAT = 4
_LLAMA_CPP = 24_000_000  # libraries, and what loading leaves in the allocator
_ENTRY = 420  # of a vocabulary: llama.cpp's tables both ways, merges, and our bytes of each token
_MASK, _ACTIVATIONS = 4, 44  # of a batch, for each token: of a cell, of a column
LIBRARIES = 440_000_000  # torch, transformers and sentence-transformers: they stay until the process ends
_TOKENISER = 250_000_000  # of 250,000 tokens, and what a first pass leaves in the allocator
_EMBEDDED, _BY_OPENVINO = 20, 110  # of a pass, for each token and column
_WIDEST = 4_096  # numbers of a hidden state, where nothing says it
_LONGEST = 8_192  # tokens of a pass, where nothing says how many the model reads
OPENVINO = 100_000_000  # its libraries, which stay too
ANALYSER = 500_000_000  # Kiwi took 330 MB here once it had loaded and worked; other versions of it may take more
_AUTO = (8192, 4096, 2048)  # cells of an `auto` context
_PADDED = 256  # llama.cpp makes so many cells more, or none
_MOST = 1 << 50  # of one part, whatever a header says
_MOST_PARTS = 1_000
_CONFIG = 1 << 20  # bytes of an embedding model's config.json, at most
_HALVES = {"float16", "bfloat16"}  # weights that are made into floats of 4 bytes, in memory of their own


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of RAM: of the weights, the KV cache, what a batch needs while it is computed, and all else.

    What the entry does not say enough for is None, and then so is `total`. `mapped` of them are pages of the model's
    files, which the system can drop and read again. `later` of `compute` are touched by the first full batch only.
    `bound` says that some part may be too large, since the file does not say enough.
    """

    weights: int | None
    kv: int | None
    compute: int | None
    other: int
    mapped: int = 0
    later: int = 0
    bound: bool = False

    @property
    def total(self) -> int | None:
        """All parts together."""
        if self.weights is None or self.kv is None or self.compute is None:
            return None
        return self.weights + self.kv + self.compute + self.other

    def to_dict(self) -> dict[str, int | None]:
        """Return JSON-ready values: the parts, how much of them is mapped, and `total`."""
        values = asdict(self)
        return {name: values[name] for name in ("weights", "kv", "compute", "other", "mapped")} | {"total": self.total}


def estimate(spec: ModelSpec, table: EngineTable) -> Footprint:
    """Return what a model holds once it has answered, whatever else the process has loaded.

    Whether an llm's weights will be mapped or laid out anew is not known without its file; none count as mapped.
    """
    size = spec.size if spec.weights is None else spec.weights
    if spec.kind == "embedding":
        return _embedding(size, spec.vocab, spec.dim, reads=spec.max_tokens)
    kv = compute = None
    tokens, rows = cells(spec, table), sequences(spec, table)
    if spec.kv_bytes is not None:
        kv = spec.kv_bytes * tokens + spec.state_bytes * rows
    later = 0
    if spec.width is not None and spec.vocab is not None:
        later = _batch(spec, table, tokens, spec.width)
        compute = rows * spec.vocab * _FLOAT + later
    weights = None if size is None else size + adapters.size(spec)
    return Footprint(weights, kv, compute, _LLAMA_CPP + _ENTRY * (spec.vocab or 0), later=later)


def of_file(
    path: Path, spec: ModelSpec, table: EngineTable, *, cells: int, repack: bool, offload: float = 0.0
) -> Footprint:
    """Return what the model at `path`, a GGUF file (the first of its parts) or a folder, holds once it has answered.

    `cells` are those of the KV cache, `repack` is whether the weights are laid out anew, and `offload` the share of
    the weights and the cache that lies on a GPU. There is always a total: what a file does not say is taken for the
    most that it may be. Raises `ModelCorrupt` where it is no GGUF file, `OSError` where it cannot be read.
    """
    if spec.kind == "embedding":
        return _of_folder(path, spec)
    shape, size = shape_of_file(path), sum(file.stat().st_size for file in files(path))
    stays = 1 - min(max(offload, 0.0), 1.0)
    rows, cells = sequences(spec, table), -(-cells // _PADDED) * _PADDED
    weights, beside = int(size * stays), int(adapters.size(spec) * stays)
    later = _batch(spec, table, cells, shape.width)
    return Footprint(
        weights=weights + beside,
        kv=min(_MOST, int((shape.kv_bytes * cells + shape.state_bytes * rows) * stays)),
        compute=min(_MOST, rows * shape.vocabulary * _FLOAT + later),
        other=_LLAMA_CPP + _ENTRY * shape.vocabulary,
        mapped=0 if repack else weights,
        later=min(_MOST, later),
        bound=shape.bound,
    )


def of_cache(folder: Path, spec: ModelSpec) -> Footprint:
    """Return what an embedding model that was prepared for OpenVINO holds once it has answered.

    The pages of its file that are read stay mapped beside the layout that OpenVINO makes of them; of the table of
    tokens only rows that occur are read. Raises `OSError`.
    """
    said = _config(folder)
    dim = spec.dim or _whole(said.get("hidden_size")) or 0
    vocabulary = spec.vocab or _whole(said.get("vocab_size")) or 0
    read = max(0, min(_MOST, fastpath.weights_of(folder).stat().st_size) - vocabulary * dim)
    positions = _whole(said.get("max_position_embeddings"))
    compute = (spec.max_tokens or positions or _LONGEST) * (dim or _WIDEST) * _BY_OPENVINO
    other = LIBRARIES + OPENVINO + _TOKENISER
    return Footprint(2 * read, 0, compute, other, mapped=read, later=compute, bound=not (dim and vocabulary))


def float_weights(folder: Path, spec: ModelSpec) -> int:
    """Return the bytes of an embedding model's weights in float32, but for the table of tokens where it is known."""
    return _of_folder(folder, spec).weights or 0


def shape_of_file(path: Path) -> GgufShape:
    """Return the shape of the model in a GGUF file. Raises `ModelCorrupt`, `OSError`."""
    file = path.stat()
    return _shape(path.absolute(), file.st_size, file.st_mtime_ns)


def files(path: Path) -> list[Path]:
    """Return the files that the weights of the model at `path` lie in and that are there, by their names alone."""
    if path.is_dir():
        return sorted(layout.weights(path))
    named = PART.fullmatch(path.name)
    if named is None or not 1 <= int(named[3]) <= _MOST_PARTS:
        return [path]
    parts = (path.with_name(f"{named[1]}-{n:05}-of-{named[3]}{named[4]}") for n in range(1, int(named[3]) + 1))
    return [part for part in parts if part.is_file()] or [path]


def contexts(spec: ModelSpec, table: EngineTable, trained: int | None) -> tuple[int, ...]:
    """Return how many cells the KV cache of an llm may get, most wanted first; `trained` is what its file says."""
    wanted = table.n_ctx if spec.n_ctx is None else spec.n_ctx
    sizes = _AUTO if wanted == "auto" else (wanted,)
    most = max(1, max(sizes) if trained is None else trained)
    return tuple(dict.fromkeys(min(size, most) for size in sizes))


def cells(spec: ModelSpec, table: EngineTable) -> int:
    """Return how many tokens the KV cache of an llm holds, where there is room."""
    return contexts(spec, table, spec.context)[0]


def sequences(spec: ModelSpec, table: EngineTable) -> int:
    """Return how many sequences the context of an llm may hold."""
    return (spec.parallel or table.parallel) + SPARE_SEQUENCES


def _batch(spec: ModelSpec, table: EngineTable, tokens: int, width: int) -> int:
    """Return what the first full batch touches.

    All else of an llm is resident at once: weights are read, mapped or laid out anew; the cache, each sequence's state
    and a row of logits for each sequence are filled with zeros by llama.cpp.
    """
    return max(table.n_batch, sequences(spec, table)) * (_MASK * tokens + _ACTIVATIONS * width)


def _embedding(
    size: int | None, vocabulary: int | None, dim: int | None, *, halves: bool = False, reads: int | None = None
) -> Footprint:
    """The weights are mapped, and of the table of tokens only the rows of tokens that occur are ever read.

    Where they are `halves`, the pages of the file come and go, and what is made of them, twice as large, stays.
    """
    if dim is None:
        return Footprint(None, 0, None, LIBRARIES + _TOKENISER)
    compute = (reads or _LONGEST) * dim * _EMBEDDED
    if size is None or halves:
        return Footprint(None if size is None else 2 * size, 0, compute, LIBRARIES + _TOKENISER, later=compute)
    weights = max(0, size - (vocabulary or 0) * dim * _FLOAT)
    return Footprint(weights, 0, compute, LIBRARIES + _TOKENISER, mapped=weights, later=compute)


def _of_folder(folder: Path, spec: ModelSpec) -> Footprint:
    """Where models.toml and the folder's config.json do not say how wide the model is, all of it may be read."""
    said = _config(folder)
    size = min(_MOST, sum(file.stat().st_size for file in files(folder)))
    dim = spec.dim or _whole(said.get("hidden_size"))
    vocabulary = spec.vocab or _whole(said.get("vocab_size"))
    halves = said.get("dtype", said.get("torch_dtype")) in _HALVES
    reads = spec.max_tokens or _whole(said.get("max_position_embeddings"))
    found = _embedding(size, vocabulary, dim or _WIDEST, halves=halves, reads=reads)
    return found if dim else replace(found, weights=size, mapped=size, bound=True)


def _config(folder: Path) -> dict[str, object]:
    try:
        with (folder / "config.json").open("rb") as file:
            said = json.loads(file.read(_CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _whole(value: object) -> int | None:
    return min(value, 1 << 22) if isinstance(value, int) and value > 0 else None


@lru_cache(maxsize=64)
def _shape(path: Path, _size: int, _modified: int) -> GgufShape:
    """Read a header, of a vocabulary of 150,000 tokens, once for as long as the file stays the same."""
    return shape_of(read_header(path))
