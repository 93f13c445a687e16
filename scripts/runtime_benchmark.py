"""The runtime table: our engine against `llama_cpp.Llama`, row by row, A B A B in one run.

Each row makes its sides anew, in processes of their own (`runtime_sides`), so that rows can be measured one at a time
and nothing that one leaves in a cache helps another. `benchmark.py runtime` is its command line.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import psutil
import shapes
from runtime_server import Server
from runtime_sides import N_CTX, Ours, Setup, Side, Theirs, apart, library
from runtime_table import OURS, PEER, THEIRS, Row, table
from runtime_texts import TURNS

T = TypeVar("T")
CACHED = "with LlamaRAMCache"
THREADS = ("n_threads", "n_threads_batch")
PACKAGES = ("gieok", "llama-cpp-python", "llguidance", "numpy")


@dataclass(frozen=True, slots=True)
class Counts:
    """How much work a row does, in tokens, turns, texts or times."""

    decode: int = 64
    prefill: int = 512
    turns: int = len(TURNS)
    background: bool = True  # an extraction and a classification after each turn
    reply: int = 32
    prefix: int = 300
    own: int = 30
    written: int = 24
    document: int = 256  # more than any takes
    text: int = 25
    texts: int = 20
    between: int = 10
    cancels: int = 50
    probes: int = 5
    steps: int = 48


QUICK = Counts(  # shows that the rows work, and measures nothing
    decode=8, prefill=64, turns=2, reply=4, prefix=48, own=12, written=4, texts=2, between=2, cancels=4, probes=2,
    steps=8,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and with what; `peer` is the address of a server on this machine, or empty."""

    model: Path
    rounds: int
    rows: tuple[str, ...]
    peer: str
    counts: Counts


class Run:
    """One run of the benchmark: options, a folder, and what is common to its measurements."""

    def __init__(self, options: Options, folder: str) -> None:
        self.rounds, self.counts = options.rounds, options.counts
        self.setup = Setup(str(options.model), folder)
        self.peer = Server(options.peer) if options.peer else None
        self.context: dict[str, Any] = {}
        self.stopped = False
        self._row = ""
        self._loads: list[tuple[float, float]] = []
        self._spoke = -math.inf

    def start(self, row: str) -> None:
        """Begin a row."""
        self._row, self._spoke = row, -math.inf
        self._loads.clear()

    @property
    def load(self) -> tuple[float, float] | None:
        """The busiest moment of this row so far, before a measurement."""
        return max(self._loads, default=None)

    @contextlib.contextmanager
    def ours(self) -> Iterator[Ours]:
        """Open our engine in a process of its own."""
        with apart(Ours, self.setup) as side:
            self.context = side.context()
            yield side

    @contextlib.contextmanager
    def sides(self, *, cache: bool = False) -> Iterator[tuple[Ours, Theirs, dict[str, Side]]]:
        """Open ours, and theirs on the same threads; return both, and by name, with the server if there is one."""
        with self.ours() as ours, apart(Theirs, self.setup, self.context, cache) as theirs:
            named: dict[str, Side] = {OURS: ours, CACHED if cache else THEIRS: theirs}
            yield ours, theirs, {**named, PEER: self.peer} if self.peer else named

    def alternate(self, work: Mapping[str, Callable[[int], T]], rounds: int) -> dict[str, list[T]]:
        """Let each side do its work in turn, again and again.

        A Ctrl-C ends it with what there is, if each side was measured once; else it goes on to the caller.
        """
        found: dict[str, list[T]] = {side: [] for side in work}
        try:
            for n in range(rounds):
                for side, do in work.items():
                    self._watch(f"{n + 1} of {rounds}, {side}")
                    found[side].append(do(n))
        except KeyboardInterrupt:
            if not all(found.values()):
                raise
            self.stopped = True
        return found

    def _watch(self, what: str) -> None:
        if time.monotonic() - self._spoke > 2:
            print(f"{self._row}: {what}", file=sys.stderr, flush=True)
            self._spoke = time.monotonic()
        self._loads.append((psutil.cpu_percent(0.1), psutil.getloadavg()[0]))


RowOf = Callable[[Run], Row]


def measure(options: Options, rows: Mapping[str, RowOf]) -> dict[str, Any]:
    """Measure rows, print what was found, also where Ctrl-C ended it, and return it."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options, folder)
        try:
            for name in options.rows:
                found.append(one(run, name, rows[name]))
                if run.stopped:
                    break
        except KeyboardInterrupt:
            run.stopped = True
    about = {**facts(options.model), "context": run.context, "rounds": options.rounds, "counts": asdict(options.counts)}
    show(about, run.stopped, found)
    return {**about, "interrupted": run.stopped, "rows": [row.to_dict() for row in found]}


def one(run: Run, name: str, row_of: RowOf) -> Row:
    """Measure one row; a failure is its flaw, so that the others are measured all the same."""
    run.start(name)
    try:
        row = row_of(run)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        # an error from a side's process ends with a rule below its own traceback
        lines = [line for line in str(error).splitlines() if line.strip("- ")]
        row = Row(name, name, "", flaw=f"failed, {type(error).__name__}: {lines[-1] if lines else ''}")
    return replace(row, load=run.load)


def show(about: dict[str, Any], stopped: bool, rows: Sequence[Row]) -> None:
    """Print the table, and what it was measured with."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    threads = "".join(f", {name} {about['context'][name]}" for name in THREADS if name in about["context"])
    print(f"{about['model']}, {about['bytes'] / 1e9:.2f} GB; n_ctx {N_CTX}{threads}; {versions}\n")
    if stopped:
        print("Interrupted; what was measured until then:\n")
    print("\n".join(table(rows)))


def facts(model: Path) -> dict[str, Any]:
    """Return what a figure means nothing without: the file, the machine, the versions."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "model": model.name,
        "bytes": model.stat().st_size,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "system": platform.platform(),
            "llama.cpp": library().llama_print_system_info().decode("utf-8", "replace"),
        },
        "versions": {"python": platform.python_version(), **versions},
    }


def model_of(shape: str, keep: Path | None) -> Path:
    """Return a file of a true shape, written once. Raises `shapes.CannotWrite`, `OSError`."""
    path = keep or platformdirs.user_cache_path("gieok", appauthor=False) / "shapes" / f"{shape}.gguf"
    if not path.is_file():
        vocabularies = Path(sys.prefix, "share", "vocab")
        kind = shapes.SHAPES[shape]
        size = shapes.file_size(kind, shapes.vocabulary_file(kind, vocabularies))
        print(f"writing {path}, {size / 1e9:.1f} GB; it is kept for the next run", file=sys.stderr, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        shapes.write(shape, path, vocabularies)
    return path
