"""A folder of sentence-transformers → a model in memory, and one pass through it; opens no socket.

The one place that loads a model by torch. What runs the transformer itself is torch, or OpenVINO (`engine.fastpath`);
the modules behind it are sentence-transformers' own either way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import fastpath, layout, machine, pickles, repository
from engine.config import ModelSpec
from engine.errors import ModelCorrupt
from engine.windows import Tokenize, padded

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from engine.heads import Linear

    Floats = NDArray[np.float32]

_log = logging.getLogger("engine.transformer")
_KNOWN = ("Pooling", "Normalize", "Dense", "LayerNorm")  # modules behind a transformer that need nothing but its states
_UNLIMITED = 1 << 20  # tokens; what only looks them up has no limit


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass over n pieces made: (n, d) vectors of the texts, and (tokens, width) hidden states of each."""

    sentences: Floats | None
    hidden: list[Floats] | None


class Transformer:
    """One folder in memory; `max_tokens` is what its files say it reads at once, `special` its markers' ids.

    `tokenize` may be called from any thread, the rest from one.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        self.tokenize, self.special = _tokenizer(model)
        self._can_stop = hasattr(model[0], "interrupt")
        self.max_tokens = _limit(model)

    @property
    def has_states(self) -> bool:
        """Whether there are hidden states: a model that only looks tokens up has none."""
        return _reads_ids(self._model)

    def run(
        self,
        texts: Sequence[str],
        ids: Sequence[Sequence[int]],
        *,
        dense: bool,
        states: bool,
        stopped: Event | None = None,
    ) -> Passed:
        """Return what one pass makes of `texts`, whose tokens are `ids`; only what is asked for is computed.

        `stopped` may end a pass of OpenVINO. Raises `RuntimeError` where the device fails, or has no memory;
        `Cancelled`, `EngineClosed`.
        """
        import torch

        first, *rest = self._model
        options = {"stopped": stopped} if self._can_stop else {}
        with torch.inference_mode():
            features = _padded(ids) if self.has_states else first.preprocess(list(texts))
            features = {name: tensor.to(self._model.device) for name, tensor in features.items()}
            features = first(features, **options)
            hidden = _unpadded(features["token_embeddings"], ids) if states else None
            for module in rest if dense else ():
                features = module(features)
            sentences = _array(features["sentence_embedding"]) if dense else None
        return Passed(sentences, hidden)

    def linear(self, weight: Floats, bias: Floats) -> Linear:
        """Return x (n, d) → x @ weight.T + bias, in the threads that the model itself runs in."""
        # Those of another library would wait for more work in a loop, and slow every pass after it down.
        return self._model[0].linear(weight, bias) if self._can_stop else _linear(weight, bias)

    def interrupt(self) -> None:
        """Let a pass that runs end soon with `EngineClosed`, where that can be. Any thread may call it."""
        if self._can_stop:
            self._model[0].interrupt()

    def close(self) -> None:
        """Free what is not Python's to free."""
        if self._can_stop:
            self._model[0].close()


def _linear(weight: Floats, bias: Floats) -> Linear:
    import torch

    own = torch.from_numpy(weight), torch.from_numpy(bias)
    return lambda rows: _array(torch.nn.functional.linear(torch.from_numpy(rows), *own))


def _limit(model: SentenceTransformer) -> int | None:
    """Return the smaller of what the folder and the table of positions allow; None where neither says."""
    known = [limit for limit in (model.max_seq_length, _positions(model)) if limit]
    return int(min(*known, _UNLIMITED)) if known else None


def _padded(ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    import torch

    names = ("input_ids", "attention_mask")
    return {name: torch.from_numpy(values) for name, values in zip(names, padded(ids), strict=True)}


def _unpadded(states: Any, ids: Sequence[Sequence[int]]) -> list[Floats]:
    return [row[: len(each)] for row, each in zip(_array(states), ids, strict=True)]


def _array(tensor: Any) -> Floats:
    found: Floats = tensor.float().cpu().numpy()
    return found


def _reads_ids(model: SentenceTransformer) -> bool:
    return hasattr(model[0], "auto_model") or hasattr(model[0], "interrupt")


def _tokenizer(model: SentenceTransformer) -> tuple[Tokenize, frozenset[int]]:
    """Return what makes ids of texts, neither padded nor cut, and which ids stand for no text."""
    whole = _reads_ids(model)
    raw = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if not hasattr(raw, "encode_batch"):  # a tokenizer in Python
        slow = model.tokenizer
        return lambda texts: slow(texts, verbose=False)["input_ids"], frozenset(slow.all_special_ids)
    raw.no_padding()
    raw.no_truncation()
    special = frozenset(i for i, token in raw.get_added_tokens_decoder().items() if token.special)
    return lambda texts: [each.ids for each in raw.encode_batch(texts, add_special_tokens=whole)], special


def pick_device(needed: int) -> str:
    """Return "cuda" where torch can use a GPU that has so many bytes free, else "cpu"; imports torch."""
    import torch

    try:
        return "cuda" if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] >= needed else "cpu"
    except RuntimeError as error:  # a GPU that is there and does not answer
        _log.warning("the GPU cannot be used: %s", error)
        return "cpu"


def empty_gpu() -> None:
    """Give back what torch keeps of a GPU for later; what cannot be given back goes with the process."""
    import torch

    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()


def no_memory(wanted: str, error: Exception) -> MemoryError | None:
    """Return the error for what was `wanted`, where this is how a library says that there is no memory for it."""
    if not machine.no_memory(str(error)):
        return None
    return MemoryError(f"there was no memory for {wanted} ({str(error).splitlines()[0][:200]})")


def _positions(model: SentenceTransformer) -> int | None:
    """Return how many positions the model has; RoBERTa and its kin cannot use those up to the padding id."""
    embeddings = getattr(getattr(model[0], "auto_model", None), "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    rows = getattr(table, "num_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return None if rows is None else rows - (0 if padding is None else padding + 1)


def _refuse_pickles(folder: Path, advice: str) -> None:
    """Raise `ModelCorrupt` unless every module that has weights has them as safetensors."""
    if not layout.weights(folder):
        raise ModelCorrupt(f"{folder} holds no *.safetensors weights. {advice}", path=str(folder))
    for module in {path.parent for path in folder.rglob("config.json")} - {folder}:
        found = [path for path in module.iterdir() if pickles.is_pickle(path.name)]
        if found and not (module / "model.safetensors").is_file():  # the library looks for this name, then unpickles
            raise ModelCorrupt(
                f"{found[0]} is a pickle, which can run any program; it is not read. {advice}",
                path=str(folder),
            )


def open_folder(folder: Path, spec: ModelSpec, *, threads: int | None, device: str) -> SentenceTransformer:
    """Return the model of a folder in float32 by torch, which may set the threads of the whole process.

    Raises `ModelCorrupt` where the folder is damaged, holds pickles, needs code of its own, or does not say how it
    pools; `MemoryError`.
    """
    advice = advise(folder, spec)
    _refuse_pickles(folder, advice)
    missing: list[str] = []
    with _explained(folder, spec, device), _offline_and_quiet(missing):
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        model = _build(folder, spec, device)
    if missing:
        raise ModelCorrupt(f"{folder} lacks the weights {', '.join(missing[:3])}. {advice}", path=str(folder))
    return model.eval()


def open_fast(folder: Path, spec: ModelSpec, *, threads: int | None) -> SentenceTransformer:
    """Return the model of a folder with what was prepared of its transformer in place of torch's.

    Raises as `open_folder`, and `CacheDamaged`, after which the cache is gone.
    """
    with _explained(folder, spec, "cpu"), _offline_and_quiet([]):
        from sentence_transformers import SentenceTransformer

        first = fastpath.load(folder, threads=threads)
        try:
            return SentenceTransformer(modules=[first, *tail(folder, spec, first.width)], device="cpu").eval()
        except BaseException:
            first.close()
            raise


def tail(folder: Path, spec: ModelSpec, width: int) -> list[Any]:
    """Return the modules behind the transformer of a folder, whose states have `width` numbers.

    Raises `ModelCorrupt` for modules of another kind than those that need nothing but these states.
    """
    from sentence_transformers.sentence_transformer import modules

    if not (folder / "modules.json").is_file():
        return [modules.Pooling(width, _said(folder, spec)), modules.Normalize()]
    listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    found = []
    for entry in sorted(listed, key=lambda entry: int(entry["idx"]))[1:]:
        kind = str(entry["type"]).rpartition(".")[2]
        if kind not in _KNOWN:
            raise ModelCorrupt(f"{folder} has a module {kind}, which only torch can run here", path=str(folder))
        found.append(getattr(modules, kind).load(str(folder / entry["path"]), local_files_only=True))
    if spec.pooling:
        _agree(folder, spec.pooling, [module.pooling_mode for module in found if isinstance(module, modules.Pooling)])
    return found


def advise(folder: Path, spec: ModelSpec) -> str:
    """Return what to do about a folder that cannot be used."""
    if spec.source.path:
        return "Point source.path at a sentence-transformers folder with safetensors weights."
    return f"Delete {folder} and run `gieok models pull {spec.name}`."


@contextlib.contextmanager
def _explained(folder: Path, spec: ModelSpec, device: str) -> Iterator[None]:
    """Turn whatever a library makes of a damaged folder into an error with the next step."""
    try:
        yield
    except (MemoryError, ModelCorrupt):
        raise
    except Exception as error:
        if (full := no_memory(f"{spec.name} ({device})", error)) is not None:
            raise full from None
        if "trust_remote_code" in str(error):
            why = "needs code that came with it, which is never run. Take a model of a kind that transformers knows."
            raise ModelCorrupt(f"{folder} {why}", path=str(folder)) from error
        why = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ModelCorrupt(f"{folder} cannot be loaded: {why} {advise(folder, spec)}", path=str(folder)) from error


def _build(folder: Path, spec: ModelSpec, device: str) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    options = {"use_safetensors": True, "dtype": torch.float32}
    if (folder / "modules.json").is_file():
        model = SentenceTransformer(
            str(folder), device=device, local_files_only=True, trust_remote_code=False, model_kwargs=options
        )
        if spec.pooling:
            _agree(folder, spec.pooling, [module.pooling_mode for module in model if isinstance(module, Pooling)])
        return model
    pooling = _said(folder, spec)
    reader = Transformer.load(str(folder), local_files_only=True, trust_remote_code=False, model_kwargs=options)
    modules = [reader, Pooling(reader.get_embedding_dimension(), pooling), Normalize()]
    return SentenceTransformer(modules=modules, device=device)


def _said(folder: Path, spec: ModelSpec) -> str:
    """Return how a bare folder pools. The library would take the mean, wrong for every other model, and say nothing."""
    if spec.pooling is None:
        why = "does not say how the vectors of a text's tokens become one: it has no modules.json"
        step = f'Set pooling = "cls" or "mean" of {spec.name} in models.toml, as its authors say.'
        raise ModelCorrupt(f"{folder} {why}. {step}", path=str(folder))
    return spec.pooling


def _agree(folder: Path, wanted: str, found: list[str]) -> None:
    # Neither side wins in silence: the vectors would differ from those that are stored, or from those meant.
    if found != [wanted]:
        says = f"makes its vectors by {found[0]!r}" if found else "has no pooling that could be set"
        step = "Correct the entry, or leave pooling out of it"
        raise ModelCorrupt(f"{folder} {says}; models.toml says pooling = {wanted!r}. {step}.", path=str(folder))


@contextlib.contextmanager
def _offline_and_quiet(missing: list[str]) -> Iterator[None]:
    """Keep the libraries off the network and the terminal while they load, then put all settings back.

    `missing` receives the names of weights that the files lack: transformers makes them up and only logs it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else a later fork of the host prints a warning
    with _environment({"HF_HUB_DISABLE_TELEMETRY": "1"}), repository.offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sentence_transformers  # noqa: F401  # sets up its own logging, so before that is turned down
        from transformers.utils import logging as bars

        listener = _Listener(missing)
        reports = logging.getLogger("transformers.modeling_utils")
        reports.addFilter(listener)
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            with (
                _level("transformers", logging.ERROR),
                _level("sentence_transformers", logging.ERROR),
                _level(reports.name, logging.WARNING),
            ):
                yield
        finally:
            reports.removeFilter(listener)
            if shown:
                bars.enable_progress_bar()


class _Listener(logging.Filter):
    """Takes the loading report off the log. A pooler may be missing: sentence-transformers reads past it."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__()
        self.missing = missing

    def filter(self, record: logging.LogRecord) -> bool:
        rows = re.findall(r"^\s*([\w.{},\- ]+?)\s*\|[^|]*(?:MISSING|MISMATCH)", record.getMessage(), re.MULTILINE)
        self.missing += [name for name in rows if "pooler." not in name]
        return record.levelno >= logging.ERROR


@contextlib.contextmanager
def _level(name: str, level: int) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
