"""Texts → unit vectors, by a sentence-transformers folder; loads from disk, opens no socket."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine import layout, pickles, repository
from engine.config import ModelSpec
from engine.errors import EngineClosed, ModelCorrupt
from engine.inputs import TextKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    Floats = NDArray[np.float32]

_log = logging.getLogger("engine.embedder")
# what torch and the system say where there is no memory: on the CPU a plain RuntimeError or OSError
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|can(?:'|no)t allocate memory|out of memory|not enough memory", re.IGNORECASE
)
BATCH_TEXTS = 32
BATCH_TOKENS = 8_192  # padded tokens in one pass: a pass over 32 texts of 8,192 tokens would need gigabytes


class Embedder:
    """One embedding model in memory. Not thread-safe: one thread owns it.

    `dim` is the length of a vector and `max_tokens` what the model reads at once, its own markers included. `device` is
    where it runs, "cpu" or "cuda".
    """

    def __init__(self, folder: Path, spec: ModelSpec, *, threads: int | None = None, device: str = "cpu") -> None:
        """Load `folder` onto `device`; `threads` sets torch's thread count for the whole process.

        What fails on a GPU, here or later, is done again on the CPU, which the log says.

        A folder of sentence-transformers says itself how the vectors of a text's tokens become one; for a bare
        folder of transformers `spec.pooling` says it. Raises `ModelCorrupt` if neither does, or they differ, if the
        folder has no safetensors weights, needs code of its own, or is not a model of this kind; `MemoryError` where
        there is no memory for it.
        """
        self._folder, self._spec, self.device = folder.absolute(), spec, device
        _refuse_pickles(self._folder, self._advice())
        self._model: SentenceTransformer | None = self._load(threads)
        self.max_tokens = self._limit(self._model)
        self.dim = self._dimension(self._model)

    def embed(self, texts: Sequence[str], kind: TextKind) -> Floats:
        """Return `(len(texts), dim)` float32 vectors of unit length.

        The model's prefix for `kind` is put before each text. A text longer than the model reads at once is
        cut at white space into windows, whose vectors are averaged by their number of tokens. Raises
        `EngineClosed`, `MemoryError`, or `ModelCorrupt` if the model answers with something that is not a direction.
        """
        import numpy as np

        if not texts:
            return np.empty((0, self.dim), np.float32)
        prefix = self._spec.query_prefix if kind == "query" else self._spec.passage_prefix
        owners, windows, sizes = [], [], []
        for owner, pieces in enumerate(self._windows(list(texts), prefix)):
            for piece, size in pieces:
                owners.append(owner)
                windows.append(prefix + piece)
                sizes.append(size)
        vectors = self._encode(windows, sizes)
        overhead = self._count([prefix])[0]
        weights = np.maximum(np.array(sizes) - overhead, 1).astype(np.float32)
        sums = np.zeros((len(texts), self.dim), np.float32)
        np.add.at(sums, owners, vectors * weights[:, None])
        return self._unit(sums)

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self._model = None

    def _load(self, threads: int | None) -> SentenceTransformer:
        try:
            return _load(self._folder, self._spec, self._advice(), threads, self.device)
        except (MemoryError, ModelCorrupt) as error:
            if self.device == "cpu":
                raise
            return self._leave_gpu(error)

    def _leave_gpu(self, error: Exception) -> SentenceTransformer:
        """Load the model anew: after some errors nothing can be fetched from a GPU any more."""
        _log.warning("%s runs on the CPU, since it failed on the GPU: %s", self._spec.name, error)
        self._model, self.device = None, "cpu"
        _empty_gpu()
        return _load(self._folder, self._spec, self._advice(), None, self.device)

    def _open(self) -> SentenceTransformer:
        if self._model is None:
            raise EngineClosed(f"the embedding model {self._spec.name} was closed")
        return self._model

    def _advice(self) -> str:
        if self._spec.source.path:
            return "Point source.path at a sentence-transformers folder with safetensors weights."
        return f"Delete {self._folder} and run `gieok models pull {self._spec.name}`."

    def _corrupt(self, why: str) -> ModelCorrupt:
        return ModelCorrupt(f"{self._spec.name}: {why}. {self._advice()}", path=str(self._folder))

    def _limit(self, model: SentenceTransformer) -> int:
        """The smallest of what models.toml, the folder and the table of positions allow."""
        limits = [self._spec.max_tokens, model.max_seq_length, _positions(model)]
        known = [int(limit) for limit in limits if limit]
        if not known or min(known) < 8:
            raise self._corrupt("it does not say how many tokens it reads; set max_tokens in models.toml")
        return min(known)

    def _dimension(self, model: SentenceTransformer) -> int:
        dim = int(self._encode(["a"], [1]).shape[1])
        if self._spec.dim not in (None, dim):
            raise self._corrupt(f"its vectors have {dim} numbers where {self._spec.dim} are expected")
        return dim

    def _count(self, texts: list[str]) -> list[int]:
        encoded = self._open().tokenizer(texts, truncation=False, padding=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def _windows(self, texts: list[str], prefix: str) -> Iterator[list[tuple[str, int]]]:
        """Yield for each text its windows and their sizes in tokens, prefix included."""
        for text, size in zip(texts, self._count([prefix + text for text in texts]), strict=True):
            yield self._split(text, size, prefix)

    def _split(self, text: str, size: int, prefix: str) -> list[tuple[str, int]]:
        # Halving needs no token offsets, which not every tokenizer has, and leaves windows of like size.
        if size <= self.max_tokens or len(text) < 2:
            return [(text, size)]
        cut = _middle(text)
        halves = [text[:cut], text[cut:]]
        sizes = self._count([prefix + half for half in halves])
        return [window for half, n in zip(halves, sizes, strict=True) for window in self._split(half, n, prefix)]

    def _encode(self, texts: list[str], sizes: list[int]) -> Floats:
        try:
            return self._pass(texts, sizes)
        except RuntimeError as error:
            if self.device == "cpu":
                raise _no_memory(f"{len(texts)} texts in {self._spec.name}", error) or error from None
            self._model = self._leave_gpu(error)
        return self._pass(texts, sizes)

    def _pass(self, texts: list[str], sizes: list[int]) -> Floats:
        import numpy as np

        model = self._open()
        rows: list[Floats] = [np.empty(0, np.float32)] * len(texts)
        for batch in _batches(sizes):
            vectors = model.encode([texts[i] for i in batch], batch_size=len(batch), prompt="", show_progress_bar=False)
            for i, vector in zip(batch, np.asarray(vectors, np.float32), strict=True):
                rows[i] = vector
        return self._unit(np.stack(rows))

    def _unit(self, vectors: Floats) -> Floats:
        import numpy as np

        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise self._corrupt("it answers with vectors that have no direction")
        unit: Floats = np.divide(vectors, lengths, dtype=np.float32)
        return unit


def pick_device(needed: int) -> str:
    """Return "cuda" where torch can use a GPU that has so many bytes free, else "cpu"; imports torch."""
    import torch

    try:
        return "cuda" if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] >= needed else "cpu"
    except RuntimeError as error:  # a GPU that is there and does not answer
        _log.warning("the GPU cannot be used: %s", error)
        return "cpu"


def _empty_gpu() -> None:
    """Give back what torch keeps of a GPU for later; what cannot be given back goes with the process."""
    import torch

    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()


def _no_memory(wanted: str, error: Exception) -> MemoryError | None:
    """Return the error for what was `wanted`, where this is how a library says that there is no memory for it."""
    if _NO_MEMORY.search(str(error)) is None:
        return None
    return MemoryError(f"there was no memory for {wanted} ({str(error).splitlines()[0][:200]})")


def _batches(sizes: list[int]) -> Iterator[list[int]]:
    """Yield the indices of texts of like size together, as many as a pass may hold."""
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        if batch and (len(batch) == BATCH_TEXTS or (len(batch) + 1) * sizes[i] > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _middle(text: str) -> int:
    """Return a cut near the middle: at a line's end, else a sentence's, else at white space, else there."""
    low, high, half = len(text) // 4, len(text) * 3 // 4, len(text) // 2
    for border in (r"\n", r"(?<=[.!?。…])\s", r"\s"):
        cuts = [found.start() for found in re.compile(border).finditer(text, max(low, 1), high)]
        if cuts:
            return min(cuts, key=lambda cut: abs(cut - half))
    return half


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


def _load(folder: Path, spec: ModelSpec, advice: str, threads: int | None, device: str) -> SentenceTransformer:
    missing: list[str] = []
    try:
        with _offline_and_quiet(missing):
            import torch

            if threads is not None:
                torch.set_num_threads(threads)
            model = _build(folder, spec, device)
    except (MemoryError, ModelCorrupt):
        raise
    except Exception as error:  # whatever a library makes of a damaged folder
        if (full := _no_memory(f"{spec.name} ({device})", error)) is not None:
            raise full from None
        if "trust_remote_code" in str(error):
            why = "needs code that came with it, which is never run. Take a model of a kind that transformers knows."
            raise ModelCorrupt(f"{folder} {why}", path=str(folder)) from error
        why = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ModelCorrupt(f"{folder} cannot be loaded: {why} {advice}", path=str(folder)) from error
    if missing:
        raise ModelCorrupt(f"{folder} lacks the weights {', '.join(missing[:3])}. {advice}", path=str(folder))
    return model.eval()


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
    if spec.pooling is None:  # the library would take the mean, which is wrong for every other model, and say nothing
        why = "does not say how the vectors of a text's tokens become one: it has no modules.json"
        step = f'Set pooling = "cls" or "mean" of {spec.name} in models.toml, as its authors say.'
        raise ModelCorrupt(f"{folder} {why}. {step}", path=str(folder))
    reader = Transformer.load(str(folder), local_files_only=True, trust_remote_code=False, model_kwargs=options)
    modules = [reader, Pooling(reader.get_embedding_dimension(), spec.pooling), Normalize()]
    return SentenceTransformer(modules=modules, device=device)


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
