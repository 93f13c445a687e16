"""Tiny embedding models with random weights, each a folder as its authors would publish it.

`bge` is one of BGE-M3's form: an XLM-RoBERTa that takes its first token's vector, with its two other heads beside it,
already as safetensors. Random weights mean nothing, but tell every token, its place and its neighbours apart: what is
lost, mixed up or padded with shows in the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from engine.config import ModelSpec

WIDTH, LAYERS, FF = 32, 2, 64
WINDOW = 64  # tokens read at once
MULTI = 24  # numbers in a token's vector: not WIDTH, so that a weight that lies the wrong way round shows
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # and <mask>, the last
MASK = "<mask>"
WORDS = ("나는", "오늘", "하세요", "안녕", "서울", "습니다", "김치", "hello", "ing", "the")
SYLLABLES = tuple(map(chr, range(0xAC00, 0xD7A4)))
LETTERS = tuple(map(chr, range(0x21, 0x7F)))


def tokenizer() -> Tokenizer:
    """Return a Unigram tokenizer of XLM-RoBERTa's form, with a piece for every Hangul syllable and printable ASCII."""
    scores = [(piece, 0.0) for piece in SPECIALS] + [("▁", -4.0)]
    scores += [("▁" + word, -2.0) for word in WORDS] + [(word, -3.0) for word in WORDS]
    scores += [(piece, -6.0 - n / 1e4) for n, piece in enumerate((*LETTERS, *SYLLABLES))]
    made = Tokenizer(models.Unigram([*scores, (MASK, 0.0)], SPECIALS.index("<unk>"), byte_fallback=False))
    words = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")
    made.pre_tokenizer = pre_tokenizers.Sequence(list(words))
    marks = [("<s>", SPECIALS.index("<s>")), ("</s>", SPECIALS.index("</s>"))]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    made.add_special_tokens(
        [AddedToken(t, normalized=False, special=True, lstrip=t == MASK) for t in (*SPECIALS, MASK)]
    )
    return made


def heads() -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Return the tensors of BGE-M3's two other heads, by file; about half of all tokens weigh nothing in the first."""
    random = np.random.default_rng(8)
    widths = {"sparse_linear": 1, "colbert_linear": MULTI}
    return {
        f"{name}.safetensors": {
            "weight": random.normal(0, 0.3, (width, WIDTH)).astype(np.float32),
            "bias": random.normal(0, 0.1, width).astype(np.float32),
        }
        for name, width in widths.items()
    }


def bge(folder: Path) -> Path:
    """Write a model of BGE-M3's form."""
    plain(folder)
    for name, tensors in heads().items():
        save_file(tensors, folder / name)
    return folder


def plain(folder: Path, pooling: str = "cls") -> Path:
    """Write the same model without the two heads; with "mean" it is one of E5's form."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": FF}
    made = tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(6)
        XLMRobertaModel(
            XLMRobertaConfig(
                vocab_size=made.get_vocab_size(),
                max_position_embeddings=WINDOW + 2,
                pad_token_id=1,
                type_vocab_size=1,
                initializer_range=0.3,  # else a token hardly sees its neighbours, and what leaks from them is not seen
                **sizes,
            ),
        ).save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIALS, strict=True))
    names |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": MASK, "tokenizer_class": "XLMRobertaTokenizer"}
    _write(folder / "tokenizer_config.json", {**names, "model_max_length": WINDOW})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": WINDOW, "do_lower_case": False})
    modes = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in ("cls_token", "mean_tokens")}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, **modes})
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    _modules(folder, {f"sentence_transformers.models.{kind}": path for kind, path in paths.items()})
    return folder


def static(folder: Path, place: str = "") -> Path:
    """Write a model that has a vector for each token and takes their mean: no transformer, no window, no markers.

    `place` is the folder within that its files lie in: older releases of sentence-transformers gave them their own.
    """
    made = tokenizer()
    rows = np.random.default_rng(4).normal(size=(made.get_vocab_size(), WIDTH)).astype(np.float32)
    (folder / place).mkdir(parents=True, exist_ok=True)
    save_file({"embedding.weight": rows}, folder / place / "model.safetensors")
    made.save(str(folder / place / "tokenizer.json"))
    _modules(folder, {"sentence_transformers.models.StaticEmbedding": place})
    return folder


def once(temporary: pytest.TempPathFactory, make: Callable[[Path], Path]) -> Path:
    """Return the folder that `make` writes, made once a session; a test that changes a model makes its own."""
    if make not in _made:
        folder = temporary.mktemp("모델") / make.__name__
        folder.mkdir()
        _made[make] = make(folder)
    return _made[make]


def spec(**fields: Any) -> ModelSpec:
    """Return the entry of such a model in models.toml."""
    return ModelSpec.model_validate({"name": "tiny", "kind": "embedding", "source": {"path": "tiny"}, **fields})


_made: dict[Callable[[Path], Path], Path] = {}


def _modules(folder: Path, paths: dict[str, str]) -> None:
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(paths.items())]
    _write(folder / "modules.json", modules)


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", newline="\n")
