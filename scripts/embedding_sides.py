"""One side of the embedding comparison, in a process of its own: it does what it is asked, line by line of JSON.

A line that comes is [method, [arguments]]; the one that goes is {"answer": …} or {"error": …}, the first of them what
the side says of itself. Nothing but Python's own library is imported before the clock runs: what libraries take of
time and of memory is a part of the figures. The process ends when its input closes.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from engine.embedder import Embedder
    from engine.metrics import Progress
    from engine.views import Head, Views

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
QUESTION = "Write a long story about a small town by the sea."
WARM_UP = 3  # texts before a time counts


@dataclass(frozen=True, slots=True)
class Order:
    """What a side is made of: a model's folder, its `ModelSpec` in JSON, and a folder for what an engine writes."""

    side: str
    folder: str
    spec: str
    home: str


class ImportClock:
    """Counts the seconds that import statements take inside its block, the ones that find everything there too."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._import = builtins.__import__
        self._inside = False

    def __enter__(self) -> Self:
        builtins.__import__ = self._timed
        return self

    def __exit__(self, *_: object) -> None:
        builtins.__import__ = self._import

    def _timed(self, *arguments: Any, **named: Any) -> Any:
        if self._inside:
            return self._import(*arguments, **named)
        self._inside, began = True, time.perf_counter()
        try:
            return self._import(*arguments, **named)
        finally:
            self._inside = False
            self.seconds += time.perf_counter() - began


def resident() -> int:
    """Return the bytes that this process has in RAM, pages of files too."""
    from engine import machine

    return machine.resident().total


def peak() -> int:
    """Return the most bytes that this process had in RAM since `forget_peak`, or since it began."""
    with contextlib.suppress(OSError):
        lines = (line.split() for line in STATUS.read_text(encoding="utf-8").splitlines())
        return next(1024 * int(words[1]) for words in lines if words[:1] == ["VmHWM:"])
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def forget_peak() -> None:
    """Let `peak` begin anew, where the system can do that (Linux)."""
    with contextlib.suppress(OSError):
        FORGET.write_text("5", encoding="ascii")


def times(work: Callable[[str], object], texts: Sequence[str]) -> list[float]:
    """Return the milliseconds that each text takes, after a few that do not count."""
    for text in texts[:WARM_UP]:
        work(text)
    found = []
    for text in texts:
        began = time.perf_counter()
        work(text)
        found.append((time.perf_counter() - began) * 1000)
    return found


class Bare:
    """`SentenceTransformer.encode` in float32, as those call it who have nothing else."""

    def __init__(self, order: Order) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        options = {"use_safetensors": True, "dtype": torch.float32}
        self._model = SentenceTransformer(
            order.folder, device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=options
        )
        self._threads = torch.get_num_threads()

    def about(self) -> dict[str, Any]:
        """Return the number of torch's threads."""
        return {"threads": self._threads}

    def times(self, texts: list[str]) -> list[float]:
        """Return the milliseconds of each text, alone."""
        return times(lambda text: self._encode([text], 1), texts)

    def vector(self, text: str) -> list[float]:
        """Return a text's vector."""
        row: list[float] = self._encode([text], 1)[0].tolist()
        return row

    def all_of(self, texts: list[str], batch: int) -> float:
        """Return the seconds of texts in batches; it sorts them by length itself."""
        began = time.perf_counter()
        self._encode(texts, batch)
        return time.perf_counter() - began

    def close(self) -> None:
        """Do nothing: what it holds goes with it."""

    def _encode(self, texts: list[str], batch: int) -> Any:
        return self._model.encode(texts, batch_size=batch, prompt="", show_progress_bar=False)


class Fast:
    """Our embedder, served from its prepared cache unless its entry says that torch is to run it."""

    def __init__(self, order: Order) -> None:
        with ImportClock() as imports:
            began = time.perf_counter()
            self._model = _embedder(order)
            whole = time.perf_counter() - began
        self._seconds = {"load": whole - imports.seconds, "imports": imports.seconds}
        self._resident = resident()

    def about(self) -> dict[str, Any]:
        """Return what serves it, the seconds that its load and its imports took, and the bytes in RAM after these."""
        model = self._model
        facts = {"fast": model.fast, "heads": list(model.heads), "max_tokens": model.max_tokens}
        return {**facts, **self._seconds, "resident": self._resident}

    def times(self, texts: list[str], heads: list[Head]) -> list[float]:
        """Return the milliseconds of each text, alone."""
        return times(lambda text: self._embed([text], heads), texts)

    def vector(self, text: str) -> list[float]:
        """Return a text's dense vector."""
        dense = self._embed([text], ["dense"])[0].dense
        if dense is None:
            raise ValueError("no dense vector came")
        row: list[float] = dense.tolist()
        return row

    def all_of(self, texts: list[str], batch: int) -> float:
        """Return the seconds of texts in batches of like length."""
        began = time.perf_counter()
        pieces = sorted(self._model.reader.pieces(texts, "passage"), key=lambda piece: len(piece.ids))
        for at in range(0, len(pieces), batch):
            self._model.encode(pieces[at : at + batch], ["dense"])
        return time.perf_counter() - began

    def held(self, texts: list[str], heads: list[Head]) -> dict[str, float]:
        """Embed all texts in one call; return its seconds, and bytes in RAM: before, the most meanwhile, after."""
        before = resident()
        forget_peak()
        began = time.perf_counter()
        self._embed(texts, heads)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "before": before, "peak": peak(), "after": resident()}

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _embed(self, texts: Sequence[str], heads: Sequence[Head]) -> list[Views]:
        return self._model.embed(texts, "passage", heads)


def _embedder(order: Order) -> Embedder:
    from engine.config import ModelSpec
    from engine.embedder import Embedder

    spec = ModelSpec.model_validate_json(order.spec)
    return Embedder(Path(order.folder), spec, fast=spec.backend != "torch")


class Whole:
    """An engine, whose compute thread has other work too."""

    def __init__(self, order: Order) -> None:
        from engine import Engine

        self._told: Callable[[Progress], object] = lambda _: None
        self._engine = Engine(
            laid(order),
            profile="starter",
            home=Path(order.home, "home"),
            models={"embedding": "measured"},
            progress=lambda event: self._told(event),  # noqa: PLW0108 - it changes
        )
        self._engine.load("embedding")

    def about(self) -> dict[str, Any]:
        """Return whether OpenVINO serves the model, and the bytes in RAM."""
        status = self._engine.status()
        return {"fast": all(model.backend == "openvino" for model in status.loaded), "resident": status.resident}

    def all_of(self, texts: list[str]) -> float:
        """Return the seconds of texts, dense only."""
        began = time.perf_counter()
        self._engine.embed(texts, heads=["dense"])
        return time.perf_counter() - began

    def many(self, texts: list[str], each: int) -> dict[str, Any]:
        """Embed all in one call; return what was in RAM: at the most, and at each so many texts."""
        marks: list[tuple[int, int]] = []

        def mark(event: Progress) -> None:
            if event.task == "embed" and event.done // each > (marks[-1][0] // each if marks else 0):
                marks.append((event.done, resident()))

        before = resident()
        forget_peak()
        self._told, began = mark, time.perf_counter()
        dense = self._engine.embed(texts, heads=["dense"]).dense
        seconds = time.perf_counter() - began
        size = 0 if dense is None else dense.nbytes
        return {"seconds": seconds, "before": before, "peak": peak(), "marks": marks, "vectors": size}

    def beside_a_chat(self, texts: list[str]) -> dict[str, list[float]]:
        """Embed while an answer is written; return milliseconds: of each job, and between two of the answer's pieces.

        Each answer's first piece is left out of the second: before it, its question is read.
        """
        self._engine.load("chat")
        done, gaps = threading.Event(), list[float]()
        jobs: list[float] = []

        def chat() -> None:
            while not done.is_set():
                last = 0.0
                for _ in self._engine.stream(QUESTION, temperature=0, max_tokens=256):
                    now = time.perf_counter()
                    gaps.extend([(now - last) * 1000] if last and jobs else [])
                    last = now
                    if done.is_set():
                        break

        writing = threading.Thread(target=chat)
        writing.start()
        try:
            with timed_jobs(jobs):
                self._engine.embed(texts, heads=["dense"])
        finally:
            done.set()
            writing.join()
        return {"jobs": jobs, "gaps": gaps}

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


@contextlib.contextmanager
def timed_jobs(found: list[float]) -> Iterator[None]:
    """Note the milliseconds of every job that a compute thread is given inside the block."""
    from engine.worker import Worker

    post = Worker.post

    def timed(worker: Worker, job: Callable[[], Any]) -> Any:
        def clocked() -> Any:
            began = time.perf_counter()
            try:
                return job()
            finally:
                found.append((time.perf_counter() - began) * 1000)

        return post(worker, clocked)

    Worker.post = timed  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Worker.post = post  # type: ignore[method-assign]


def laid(order: Order) -> Path:
    """Write a models.toml with an entry for the model, which is prepared already."""
    spec = json.loads(order.spec)
    names = ("backend", "heads", "pooling", "query_prefix", "passage_prefix")
    keys = "".join(f"{name} = {json.dumps(spec[name])}\n" for name in names if spec[name])
    source = f"{{ path = {json.dumps(order.folder)} }}"
    path = Path(order.home, "models.toml")
    path.write_text(f'[models.measured]\nkind = "embedding"\nsource = {source}\n{keys}', encoding="utf-8")
    return path


class Preparing:
    """The preparation of the cache, which runs in a child of this process."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def about(self) -> dict[str, Any]:
        """Return nothing: nothing was done yet."""
        return {}

    def prepare(self) -> float:
        """Return the seconds that it took."""
        from engine import prepare
        from engine.config import ModelSpec

        spec = ModelSpec.model_validate_json(self._order.spec)
        began = time.perf_counter()
        prepare.prepare(Path(self._order.folder), spec)
        return time.perf_counter() - began

    def close(self) -> None:
        """Do nothing: what was prepared stays."""


SIDES: dict[str, Callable[[Order], Any]] = {"bare": Bare, "fast": Fast, "whole": Whole, "preparing": Preparing}


def answer(work: Callable[[], object]) -> str:
    """Return what to say of a piece of work, in one line."""
    try:
        return json.dumps({"answer": work()})
    except Exception as error:  # noqa: BLE001 - who asked is told
        traceback.print_exc()
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


def main(order: str) -> None:
    """Make the side and do what it is asked, until the input closes."""
    told = Order(**json.loads(order))
    serve(lambda: SIDES[told.side](told))


def serve(make: Callable[[], Any]) -> None:
    """Make a side, tell about it, and do what it is asked, a line each, until the input closes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it without a word
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    made: list[Any] = []

    def begin() -> object:
        made.append(make())
        return made[0].about()

    print(answer(begin), file=out, flush=True)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        print(answer(lambda: getattr(made[0], method)(*arguments)), file=out, flush=True)  # noqa: B023 - called here
    for side in made:
        side.close()


if __name__ == "__main__":
    main(sys.argv[1])
