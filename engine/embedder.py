"""Texts → what an embedding model tells of them, up to three views from one pass; opens no socket."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import ModelSpec
from engine.errors import ConfigError, EngineClosed, InvalidInput, ModelCorrupt
from engine.heads import HeadDamaged, Heads
from engine.inputs import TextKind
from engine.transformer import Transformer, advise, empty_gpu, no_memory, open_fast, open_folder
from engine.views import HEADS, Head, Views, joined
from engine.windows import Piece, Reader, batches

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from engine.transformer import Passed

    Floats = NDArray[np.float32]

_log = logging.getLogger("engine.embedder")
JOB_TOKENS = 100  # padded tokens in one pass on a CPU, which a running chat waits for; a longer piece has its own
_GPU_TOKENS = 8_192  # the same on a GPU
_LETTER = 5  # tokens that one letter may take: what marks a word, and four bytes


class Embedder:
    """One embedding model in memory. Not thread-safe: one thread owns it; any may use `reader`, `join`, `interrupt`.

    `dim` is the length of a dense vector, `multi_dim` of a token's; `heads` are what it tells of a text;
    `max_tokens` is what it reads at once, markers included. `device` is where it runs, "cpu" or "cuda".
    """

    def __init__(
        self, folder: Path, spec: ModelSpec, *, threads: int | None = None, device: str = "cpu", fast: bool = False
    ) -> None:
        """Load `folder` onto `device` by torch, but on the CPU, if `fast`, what `engine.prepare` made of it.

        `threads` is how many a pass may use; torch sets it for the whole process. What fails on a GPU, here or later,
        is done again on the CPU, which the log says.

        A folder of sentence-transformers says itself how the vectors of a text's tokens become one; for a bare
        folder of transformers `spec.pooling` says it. Raises `ModelCorrupt` if neither does, or they differ, if the
        folder has no safetensors weights, needs code of its own, or is not a model of this kind; `CacheDamaged`, which
        is one, where only what was prepared is at fault; `MemoryError` where there is no memory for it.
        """
        self._folder, self._spec, self.device, self._prepared = folder.absolute(), spec, device, fast
        self._model: Transformer | None = self._load(threads)
        try:
            self._describe(self._model)
        except BaseException:
            self.close()
            raise

    @property
    def fast(self) -> bool:
        """Whether OpenVINO runs it."""
        return self._prepared and self.device == "cpu"

    @property
    def batch_tokens(self) -> int:
        """How many tokens, padding counted, one pass should hold."""
        return JOB_TOKENS if self.device == "cpu" else _GPU_TOKENS

    def embed(self, texts: Sequence[str], kind: TextKind, heads: Sequence[Head] = ("dense",)) -> list[Views]:
        """Return the views of each text, in order; of those `heads` that the model has.

        The model's prefix for `kind` is put before each text. A text longer than the model reads at once is read in
        windows (`engine.windows`), whose views are joined (`engine.views`). Raises as `encode` does.
        """
        pieces = list(self.reader.pieces(texts, kind))
        found = [Views()] * len(pieces)
        for batch in batches([len(piece.ids) for piece in pieces], self.batch_tokens):
            for at, views in zip(batch, self.encode([pieces[at] for at in batch], heads), strict=True):
                found[at] = views
        return self.join(pieces, found)

    def encode(
        self, pieces: Sequence[Piece], heads: Sequence[Head] = ("dense",), stopped: Event | None = None
    ) -> list[Views]:
        """Return the views of each piece, from one pass; only those `heads` are computed that the model has.

        Once `stopped` is set, a pass of OpenVINO ends with `Cancelled`. Raises `EngineClosed`, `MemoryError`, or
        `ModelCorrupt` if the model answers with something that is not a number, or not a direction, and `InvalidInput`
        for a text that has no tokens.
        """
        wanted = [head for head in heads if head in self.heads]
        if not (pieces and wanted):
            return [Views()] * len(pieces)
        if not all(piece.ids for piece in pieces):  # of a model that only looks tokens up
            raise InvalidInput(
                f"a text without a token for {self._spec.name}, such as white space alone, has no vector"
            )
        passed = self._pass(
            pieces, dense="dense" in wanted, states=bool({"sparse", "multi"} & set(wanted)), stopped=stopped
        )
        sentences = None if passed.sentences is None else self._unit(passed.sentences)
        try:
            return [self._views(at, pieces[at], wanted, sentences, passed) for at in range(len(pieces))]
        except HeadDamaged as error:
            raise self._corrupt(str(error)) from None

    def join(self, pieces: Sequence[Piece], views: Sequence[Views]) -> list[Views]:
        """Return the views of the texts whose `pieces`, in order, have these `views`. Raises `ModelCorrupt`."""
        groups = groupby(zip(pieces, views, strict=True), key=lambda each: each[0].owner)
        texts = [list(group) for _, group in groups]
        try:
            return [joined([each for _, each in text], [piece.weight for piece, _ in text]) for text in texts]
        except ValueError as error:
            raise self._corrupt(str(error)) from None

    def interrupt(self) -> None:
        """Let a pass of OpenVINO that runs end soon with `EngineClosed`. Any thread may call it."""
        if (model := self._model) is not None:
            model.interrupt()

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        if self._model is not None:
            self._model.close()
        self._model = None

    # ---- loading

    def _load(self, threads: int | None) -> Transformer:
        if self.fast:
            return Transformer(open_fast(self._folder, self._spec, threads=threads))
        try:
            return Transformer(open_folder(self._folder, self._spec, threads=threads, device=self.device))
        except (MemoryError, ModelCorrupt) as error:
            if self.device == "cpu":
                raise
            return self._leave_gpu(error)

    def _leave_gpu(self, error: Exception) -> Transformer:
        """Load the model anew: after some errors nothing can be fetched from a GPU any more."""
        _log.warning("%s runs on the CPU, since it failed on the GPU: %s", self._spec.name, error)
        self._model, self.device = None, "cpu"
        empty_gpu()
        return self._load(None)

    def _describe(self, model: Transformer) -> None:
        """Find out what the model reads and tells."""
        self.max_tokens = self._limit(model)
        spec = self._spec
        self.reader = Reader(
            model.tokenize, self.max_tokens, {"query": spec.query_prefix, "passage": spec.passage_prefix}
        )
        self._check_prefixes()
        self.heads: tuple[Head, ...] = ("dense",)
        (first,) = self.reader.pieces(["a"], "passage")
        passed = self._pass([first], dense=True, states=model.has_states)
        self.dim, self.multi_dim = self._dimension(passed), 0
        if passed.hidden:
            self._heads = self._find_heads(model, passed.hidden[0].shape[1])
            self.multi_dim = self._heads.multi_dim
            self.heads += tuple(head for head in self._heads.names if head in (spec.heads or HEADS))
        if missing := set(spec.heads or ()) - set(self.heads):
            _log.warning("%s has no %s head, though its entry names one", spec.name, " and no ".join(sorted(missing)))

    def _check_prefixes(self) -> None:
        for kind, overhead in self.reader.overheads.items():
            if overhead + _LETTER > self.max_tokens:
                raise ConfigError(
                    f"{kind}_prefix of {self._spec.name} leaves no room for a text: it takes {overhead} tokens "
                    f"of the {self.max_tokens} that the model reads at once. Shorten it in models.toml."
                )

    def _find_heads(self, model: Transformer, width: int) -> Heads:
        try:
            return Heads(self._folder, width, model.linear)
        except HeadDamaged as error:
            raise self._corrupt(str(error)) from None

    def _limit(self, model: Transformer) -> int:
        """The smaller of what models.toml and the folder allow."""
        known = [limit for limit in (self._spec.max_tokens, model.max_tokens) if limit]
        if not known or min(known) < 8:
            raise self._corrupt("it does not say how many tokens it reads; set max_tokens in models.toml")
        return min(known)

    def _dimension(self, passed: Passed) -> int:
        dim = 0 if passed.sentences is None else int(self._unit(passed.sentences).shape[1])
        if self._spec.dim not in (None, dim):
            raise self._corrupt(f"its vectors have {dim} numbers where {self._spec.dim} are expected")
        return dim

    # ---- a pass

    def _pass(self, pieces: Sequence[Piece], *, dense: bool, states: bool, stopped: Event | None = None) -> Passed:
        texts, ids = [piece.text for piece in pieces], [piece.ids for piece in pieces]
        try:
            return self._open().run(texts, ids, dense=dense, states=states, stopped=stopped)
        except RuntimeError as error:
            if self.device == "cpu":
                raise no_memory(f"{len(pieces)} texts in {self._spec.name}", error) or error from None
            self._model = self._leave_gpu(error)
        return self._open().run(texts, ids, dense=dense, states=states)

    def _views(self, at: int, piece: Piece, wanted: Sequence[Head], sentences: Floats | None, passed: Passed) -> Views:
        hidden = passed.hidden[at] if passed.hidden else None
        return Views(
            dense=None if sentences is None else sentences[at],
            sparse=self._heads.sparse(hidden, piece.ids, self._open().special)
            if hidden is not None and "sparse" in wanted
            else None,
            multi=self._heads.multi(hidden) if hidden is not None and "multi" in wanted else None,
        )

    def _unit(self, vectors: Floats) -> Floats:
        import numpy as np

        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise self._corrupt("it answers with vectors that have no direction")
        unit: Floats = np.divide(vectors, lengths, dtype=np.float32)
        return unit

    def _open(self) -> Transformer:
        if self._model is None:
            raise EngineClosed(f"the embedding model {self._spec.name} was closed")
        return self._model

    def _corrupt(self, why: str) -> ModelCorrupt:
        return ModelCorrupt(f"{self._spec.name}: {why}. {advise(self._folder, self._spec)}", path=str(self._folder))
