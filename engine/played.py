"""Models that are played: what `engine.testing` has in the place of chat and embedding models. Nothing native.

Contract: a token is a stretch of up to four letters; the vector of a text is made of its letters, so that texts that
share words are near each other. All is the same in every process. An answer goes on as it is read, a token at a time,
so that who cancels after a piece has just that piece.
"""

from __future__ import annotations

import re
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from queue import SimpleQueue
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from engine import footprint, layout
from engine.errors import ContextOverflow
from engine.footprint import Footprint
from engine.inputs import TextKind
from engine.library import Library
from engine.models import Kind, Loaded, Models
from engine.plans import How
from engine.views import Head, Views, joined
from engine.windows import Piece, Reader

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from engine.config import Config, ModelSpec
    from engine.generation import Finished, Generation
    from engine.inputs import Turn
    from engine.loader import Heed
    from engine.metrics import ProgressCallback

    Floats = NDArray[np.float32]

_TOKEN = re.compile(r"\s?\S{1,4}|\s")
_IDS = 1 << 31  # ids of tokens are below it
_END = 0  # of an answer's own tokens
_DIM = 384
_READS = 512  # tokens that an embedding model reads at once
_PASS = 100_000  # tokens
_GRAMS = (2, 3)  # letters
_NOWHERE = 0.01  # of each vector, so that none is without direction


def tokens_of(text: str) -> list[str]:
    """Return the tokens of a text; joined they are the text."""
    return _TOKEN.findall(text)


def ids_of(text: str) -> list[int]:
    """Return the ids of a text's tokens."""
    return [zlib.crc32(token.encode("utf-8", "surrogatepass")) % _IDS for token in tokens_of(text)]


def vector_of(text: str, dim: int) -> Floats:
    """Return (dim,) float32 of unit length: the pairs and triples of letters of each word, hashed with a sign.

    After Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
    """
    import numpy as np

    row = np.zeros(dim, np.float32)
    row[0] = _NOWHERE
    for gram in _grams(unicodedata.normalize("NFC", text).casefold()):
        place = zlib.crc32(gram.encode("utf-8", "surrogatepass"))
        row[place % dim] += 1 if place & (1 << 31) else -1
    unit: Floats = row / np.linalg.norm(row)
    return unit


def _grams(text: str) -> Iterator[str]:
    for word in text.split():
        bordered = f" {word} "
        for size in _GRAMS:
            yield from (bordered[at : at + size] for at in range(len(bordered) - size + 1))


class _Read(SimpleQueue["str | Finished | BaseException"]):
    """A queue that says when somebody reads it, after `pause` seconds from the second time on."""

    def __init__(self, wake: Callable[[], object], pause: float) -> None:
        self._wake, self._pause, self._began = wake, pause, False
        self.wanted = False

    def get(self, block: bool = True, timeout: float | None = None) -> str | Finished | BaseException:
        if self._began and self._pause:
            time.sleep(self._pause)
        self._began = self.wanted = True
        self._wake()
        return super().get(block, timeout)


class PlayedRunner:
    """A chat model that says what it is given to say. For the compute thread, as `engine.runner.Runner` is."""

    def __init__(self, spec: ModelSpec, cells: int, parallel: int, wake: Callable[[], object]) -> None:
        self.spec, self.kv_cells, self._wake = spec, cells, wake
        self.n_gpu_layers = self.vram = self.kv_used = 0
        self.tokens_per_second: float | None = None
        self.model = SimpleNamespace(vocabulary=SimpleNamespace(tokenize=ids_of))
        self.scheduler = SimpleNamespace(limits=SimpleNamespace(parallel=parallel))
        self._running: list[tuple[Generation, _Read]] = []

    @property
    def requests(self) -> int:
        """How many answers are not at their end."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether an answer is not at its end, so that the model has to stay."""
        return bool(self._running)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a piece, or has cancelled."""
        return any(out.wanted or generation.cancelled for generation, out in self._running)

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """Return the prompt of a conversation. Raises `ContextOverflow`."""
        ids = self._ids(turns)
        if len(ids) > self.kv_cells:
            raise ContextOverflow(len(ids), self.kv_cells)
        return ids

    def length(self, turns: Sequence[Turn]) -> int:
        """Return how many tokens a conversation is."""
        return len(self._ids(turns))

    def play(self, generation: Generation, text: str, pause: float) -> None:
        """Let `generation` say `text`. Raises `ContextOverflow` where there is no room for a token."""
        job = generation.job
        if job.prompt >= self.kv_cells:
            raise ContextOverflow(job.prompt, self.kv_cells)
        job.room = min(job.room, self.kv_cells - job.prompt)
        pieces = tokens_of(text)
        said = iter([*range(1, len(pieces) + 1), _END])
        vocabulary = SimpleNamespace(pieces=[b"", *(piece.encode("utf-8") for piece in pieces)], eog={_END})
        sampler = SimpleNamespace(sample=lambda _context, _row: next(said), close=lambda: None)
        out = _Read(self._wake, pause)
        generation.out = out
        generation.begin(cast("Any", vocabulary), cast("Any", sampler))
        self._running.append((generation, out))

    def step(self) -> None:
        """Let every answer that is waited for go on by a piece."""
        for generation, out in list(self._running):
            if generation.cancelled:
                generation.stop()
            elif out.wanted:
                out.wanted = False
                generation.advance(_NO_CONTEXT, [0])
                generation.deliver()
                out.wanted = out.wanted or (out.empty() and not generation.over)  # a stop string may begin here
        self._running = [one for one in self._running if not one[0].over]

    def interrupt(self) -> None:
        """Look who has cancelled, from any thread."""
        self._wake()

    def forget(self) -> None:
        """Nothing is kept of conversations."""

    def fail_all(self, error: BaseException) -> None:
        """End every answer with `error`."""
        running, self._running = self._running, []
        for generation, _ in running:
            generation.fail(error)

    def close(self, error: BaseException) -> None:
        """End every answer with `error`."""
        self.fail_all(error)

    def _ids(self, turns: Sequence[Turn]) -> list[int]:
        marked = [[*ids_of(f"<{turn.role}>"), *ids_of(turn.content)] for turn in turns]
        return [*(each for ids in marked for each in ids), *ids_of("<assistant>")]


class _Turns:
    """What the compute thread does with a played model: nothing, until somebody reads."""

    def __init__(self, runner: PlayedRunner) -> None:
        self.step, self.fail_all, self._runner = runner.step, runner.fail_all, runner

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return self._runner.wanted


_NO_CONTEXT = cast("Any", SimpleNamespace(logits=lambda _row: None))  # nobody looks at them


class PlayedEmbedder:
    """An embedding model that knows nothing but letters; it has the heads that the entry names, else the dense one."""

    device, fast, batch_tokens = "cpu", False, _PASS

    def __init__(self, spec: ModelSpec) -> None:
        self.heads: tuple[Head, ...] = tuple(spec.heads or ("dense",))
        self.dim = spec.dim or _DIM
        self.multi_dim = self.dim if "multi" in self.heads else 0
        self.reader = Reader(lambda texts: [ids_of(text) for text in texts], spec.max_tokens or _READS, _NO_PREFIX)

    def encode(self, pieces: Sequence[Piece], heads: Sequence[Head], stopped: Event | None = None) -> list[Views]:
        """Return the views of each piece; only those `heads` are computed."""
        return [self._views(piece, heads) for piece in pieces]

    def join(self, pieces: Sequence[Piece], views: Sequence[Views]) -> list[Views]:
        """Return the views of the texts whose `pieces`, in order, have these `views`."""
        texts = [list(text) for _, text in groupby(zip(pieces, views, strict=True), lambda each: each[0].owner)]
        return [joined([each for _, each in text], [piece.weight for piece, _ in text]) for text in texts]

    def interrupt(self) -> None:
        """Nothing takes long."""

    def close(self) -> None:
        """Nothing is held."""

    def _views(self, piece: Piece, heads: Sequence[Head]) -> Views:
        import numpy as np

        return Views(
            dense=vector_of(piece.text, self.dim) if "dense" in heads else None,
            sparse=dict.fromkeys(piece.ids, 1.0) if "sparse" in heads else None,
            multi=np.stack([vector_of(token, self.dim) for token in tokens_of(piece.text)])
            if "multi" in heads
            else None,
        )


_NO_PREFIX: dict[TextKind, str] = {"query": "", "passage": ""}  # it would make all texts alike


class PlayedLoaded(Loaded):
    """A played model in memory."""

    __slots__ = ()

    @property
    def runner(self) -> Any:
        """The model, if it is a chat model."""
        return self.model if self.spec.kind == "llm" else None

    @property
    def backend(self) -> str:
        """What runs it."""
        return "played"

    @property
    def is_here(self) -> bool:
        """All of it."""
        return True


class PlayedModels(Models):
    """The models of an engine, of which none needs a file: whatever the catalogue knows is there."""

    def __init__(
        self,
        config: Config,
        specs: Mapping[str, ModelSpec],
        *,
        named: Iterable[str],
        progress: ProgressCallback | None,
        wake: Callable[[], object],
    ) -> None:
        super().__init__(config, specs, named=named, progress=progress)
        self._table, self._wake = config.engine, wake

    def spec(self, name: str, kind: Kind | None = None) -> ModelSpec:
        """Return an entry as `Models.spec` does; nothing is prepared of it, whatever lies in the models folder."""
        return super().spec(name, kind).model_copy(update={"backend": "torch"})

    def ways(self, spec: ModelSpec, *, here: bool = False) -> list[How]:
        """Return the one way: it takes nothing."""
        cells = footprint.cells(spec, self._table) if spec.kind == "llm" else None
        return [How(Footprint(0, 0, 0, 0), cells=cells)]

    def make(self, spec: ModelSpec, how: How, heed: Heed) -> Loaded:
        """Load a model. Raises `Cancelled`."""
        heed()
        slots = spec.parallel or self._table.parallel
        model = PlayedEmbedder(spec) if how.cells is None else PlayedRunner(spec, how.cells, slots, self._wake)
        return PlayedLoaded(spec, cast("Any", model), how, 0.0)

    def steppable(self) -> Any:
        """Return what the compute thread does with the chat models."""
        return tuple(map(_Turns, cast("Iterable[PlayedRunner]", super().steppable())))

    def close(self, error: BaseException) -> None:
        """Free everything; nothing was taken that the system could be given back."""
        while self._loaded:
            self._loaded.popitem()[1].close(error)
        self._publish()


class PlayedLibrary(Library):
    """The models that can be had, of which none is fetched."""

    def _pulled(self, spec: ModelSpec, source: Path | None, progress: ProgressCallback) -> Path:
        return layout.home(spec)
