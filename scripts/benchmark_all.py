"""Everything that is claimed of speed and size, measured in one run: `benchmark.py all`.

    python scripts/benchmark.py all [--parts NAME,NAME] [--folder DIR] [--rounds N] [--quick]
                                    [--shape NAME | --model FILE.gguf] [--keep FILE] [--embedding FOLDER]
                                    [--million] [--peer-url http://127.0.0.1:PORT]

It takes about three quarters of an hour on two cores, and writes into `docs/benchmarks`, or the folder that is named:
all values as JSON, a table in Markdown, pictures. Each part is written as soon as it was measured. Parts that are not
asked for stay as they are in that folder, so that it can be measured in pieces; Ctrl-C keeps what was measured so far.

Models are of true shape, with random weights, and are written once into the cache: 1.9 GB for the chat model, 2.3 GB
for the embedding model. The starter models must be there (`gieok models pull starter`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import benchmark_plots
import benchmark_record
import benchmark_session
import benchmark_table
import embedding_benchmark
import lifecycle_benchmark
import memory_benchmark
import platformdirs
import resident
import runtime_benchmark
import runtime_parallel
import runtime_rows
import shapes
from runtime_server import RefusedServer, checked
from runtime_table import Row

from engine.errors import ModelNotFound

PLOTS = "plots"
FOLDER = Path("docs", "benchmarks")
TURNS_ROWS = ("turns", "turns-cached")
RUNTIME_ROWS = tuple(name for name in runtime_rows.ROWS if name not in {*TURNS_ROWS, "shared"})  # shared: parallel-8
ROWS = {**runtime_rows.ROWS, **runtime_parallel.ROWS}
Report = dict[str, Any]
Failed = (shapes.CannotWrite, ModelNotFound, OSError, subprocess.CalledProcessError, embedding_benchmark.SideFailed)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything is measured."""

    runtime: runtime_benchmark.Counts
    runtime_rows: tuple[str, ...]
    turns_rows: tuple[str, ...]
    streams: tuple[int, ...]
    embedding: embedding_benchmark.Counts
    embedding_rows: tuple[str, ...]
    memories: tuple[int, ...]
    memory: memory_benchmark.Counts
    memory_rows: tuple[str, ...]
    lives: int  # of a model
    every_life: bool  # of all three models, or of the starter profile's chat model alone
    turns: int  # of a session
    n_ctx: int


FULL = Sizes(  # three quarters of an hour on two cores
    runtime_benchmark.Counts(cancels=20, texts=10), RUNTIME_ROWS, TURNS_ROWS, runtime_parallel.STREAMS,
    embedding_benchmark.Counts(sentences=400, shorts=2_000, jobs=200), tuple(embedding_benchmark.SECTIONS),
    (1_000, 10_000, 100_000), memory_benchmark.Counts(questions=201, whole=100, singles=100),
    tuple(memory_benchmark.SECTIONS), 20, True, 60, 2_048,
)  # fmt: skip
QUICK = Sizes(  # shows that all of it works, and measures nothing
    replace(runtime_benchmark.QUICK, background=False), ("decode",), ("turns",), (2,),
    embedding_benchmark.QUICK, ("load",), (300, 600), replace(memory_benchmark.QUICK, questions=6, dim=64), ("search",),
    2, False, 2, 2_048,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Order:
    """What is measured of which models; `model` and `embedding` are paths of true models, or of shapes."""

    model: Path
    embedding: Path
    rounds: int
    sizes: Sizes
    peer: str = ""
    million: bool = False


# ---- parts


def runtime(order: Order, names: Sequence[str]) -> Report:
    """Measure rows of the engine against `llama_cpp.Llama`."""
    options = runtime_benchmark.Options(order.model, order.rounds, tuple(names), order.peer, order.sizes.runtime)
    return runtime_benchmark.measure(options, ROWS)


def speeds(order: Order) -> Report:
    """Measure what the engine does with one request."""
    return runtime(order, order.sizes.runtime_rows)


def turns(order: Order) -> Report:
    """Measure the turns of a chat with background work between them."""
    return runtime(order, order.sizes.turns_rows)


def parallel(order: Order) -> Report:
    """Measure requests at once."""
    return runtime(order, [f"parallel-{streams}" for streams in order.sizes.streams])


def embedding(order: Order) -> Report:
    """Measure the embedding model against `SentenceTransformer.encode`."""
    sizes, starter = order.sizes, lifecycle_benchmark.starters()[1]
    # beside the starter models, which every run of the engine reads, nothing is written
    folder = Path(tempfile.gettempdir()) if order.embedding == starter.absolute() else None
    with embedding_benchmark.opened(str(order.embedding), None, folder) as model:
        return embedding_benchmark.measure(model, order.rounds, sizes.embedding, sizes.embedding_rows)


def memory(order: Order) -> Report:
    """Measure stores of several sizes against a flat FAISS index with a JSON file."""
    sizes, largest = order.sizes, max(order.sizes.memories)
    libraries = [
        memory_benchmark.Library(size, model=str(order.embedding) if size == largest else "") for size in sizes.memories
    ]
    libraries += [memory_benchmark.THE_MILLION] if order.million else []
    return memory_benchmark.measure(
        memory_benchmark.Plan(libraries, sizes.memory, order.rounds, names=sizes.memory_rows)
    )


def lifecycle(order: Order) -> Report:
    """Measure a model's first use against bare calls of llama.cpp, and what many lives leave behind."""
    chat, embedder = lifecycle_benchmark.starters()
    lived = [chat, embedder, order.model] if order.sizes.every_life else [chat]

    def rows() -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as folder:
            tell("lifecycle: first use")
            yield from lifecycle_benchmark.first_rows(
                lifecycle_benchmark.first_use(order.model, order.rounds, Path(folder))
            )
            for model in lived:
                tell(f"lifecycle: {order.sizes.lives} lives of {model.name}")
                found = lifecycle_benchmark.leftovers(model, order.sizes.lives, Path(folder))
                yield from lifecycle_benchmark.lives_rows(found)

    return gathered(rows(), {"model": order.model.name, "lives": order.sizes.lives})


def session(order: Order) -> Report:
    """Measure what a session of the starter profile holds from turn to turn."""
    sizes = order.sizes
    told = {"model": lifecycle_benchmark.starters()[0].name, "turns": sizes.turns, "n_ctx": sizes.n_ctx}
    return gathered(benchmark_session.rows(sizes.turns, sizes.n_ctx), told)


PARTS: dict[str, Callable[[Order], Report]] = {
    "runtime": speeds, "turns": turns, "parallel": parallel, "embedding": embedding, "memory": memory,
    "lifecycle": lifecycle, "session": session,
}  # fmt: skip


def gathered(rows: Iterator[Row], told: dict[str, Any]) -> Report:
    """Return the rows that come until there are no more, or until a Ctrl-C."""
    found, stopped = list[Row](), False
    try:
        for row in rows:
            found.append(row)
    except KeyboardInterrupt:
        stopped = True
    return {**told, "interrupted": stopped, "rows": [row.to_dict() for row in found]}


# ---- a run


def run(order: Order, parts: Sequence[str], folder: Path) -> int:
    """Measure parts, write what was found after each, and return 0 where all went well.

    Raises `OSError` where nothing can be written, `ValueError` where what is there is of something else.
    """
    path, status = folder / benchmark_record.NAME, 0
    record = benchmark_record.load(path)
    for name in parts:
        began = time.monotonic()
        tell(f"== {name}")
        report = measured(name, order)
        if report and report["rows"]:
            told = {"command": command(), "seconds": round(time.monotonic() - began)}
            record["parts"] = merged(record["parts"], name, benchmark_record.part(report, told))
            benchmark_record.save(record, path)
        status = status or int(report is None or flawed(report))
        tell(f"== {name} took {time.monotonic() - began:.0f} s")
        if report and report["interrupted"]:
            tell("interrupted; parts that were measured are written")
            return 130
    return status


def measured(name: str, order: Order) -> Report | None:
    """Return what a part has found; None, with a line about it, where it could not be measured."""
    try:
        return PARTS[name](order)
    except KeyboardInterrupt:
        return {"interrupted": True, "rows": []}
    except Failed as error:
        tell(f"{name} could not be measured: {error}")
        return None


def merged(parts: Mapping[str, Any], name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """Return parts with one of them replaced, in the order in which they are measured."""
    found = {**parts, name: part}
    return {key: found[key] for key in (*PARTS, *found) if key in found}


def flawed(report: Report) -> bool:
    """Return whether a row could not be measured."""
    return any(row["flaw"].startswith("failed, ") for row in report["rows"])


def command() -> str:
    """Return the command line, where a path may stand only its name."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join(["python scripts/benchmark.py", *words])


def finish(folder: Path, *, plots: bool) -> None:
    """Write the page, and the pictures if they are wanted; say where they are. Raises `OSError`."""
    record = benchmark_record.load(folder / benchmark_record.NAME)
    if not record["parts"]:
        return
    if plots and benchmark_plots.available():
        benchmark_plots.draw(record, folder)
    elif plots:
        tell(benchmark_plots.NO_MATPLOTLIB)
    shown = {name: one.shown for name, one in benchmark_plots.PICTURES.items() if (folder / name).is_file()}
    page = folder / benchmark_table.NAME
    page.write_text(benchmark_table.write(record, shown), encoding="utf-8")
    for name in [benchmark_record.NAME, benchmark_table.NAME, *shown]:
        print(folder / name)


def tell(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


# ---- what is measured


def ordered(asked: argparse.Namespace, parts: Sequence[str]) -> Order:
    """Return what is asked for, with the models written that are not there. Raises as they do."""
    sizes = QUICK if asked.quick else FULL
    chat, embedder = lifecycle_benchmark.starters()
    if not asked.quick:
        needs_chat, needs_embedder = ({*needs} & {*parts} for needs in (CHAT_PARTS, EMBEDDING_PARTS))
        chat = runtime_benchmark.model_of(asked.shape, asked.keep) if needs_chat and not asked.model else chat
        embedder = embedding_shape() if needs_embedder and not asked.embedding else embedder
    model, folder = asked.model or chat, asked.embedding or embedder
    model.stat()
    (folder / "tokenizer.json").stat()
    rounds = 1 if asked.quick else asked.rounds
    return Order(model.absolute(), folder.absolute(), rounds, sizes, asked.peer_url, asked.million)


CHAT_PARTS, EMBEDDING_PARTS = ("runtime", "turns", "parallel", "lifecycle"), ("embedding", "memory")


def embedding_shape() -> Path:
    """Return a folder of BGE-M3's shape, written once. Raises `ModelNotFound`, `OSError`."""
    folder = platformdirs.user_cache_path("gieok", appauthor=False) / "shapes" / resident.EMBEDDING
    if not folder.is_dir():
        tell(f"writing {folder}, 2.3 GB; it is kept for the next run")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as new:
            resident.write_embedding(Path(new, resident.EMBEDDING)).rename(folder)
    return folder


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser("benchmark.py all", description=(__doc__ or "").splitlines()[0])
    every = ",".join([*PARTS, PLOTS])
    made.add_argument("--parts", default=every, metavar="NAME,NAME", help="default: %(default)s")
    made.add_argument("--folder", type=Path, default=FOLDER, metavar="DIR", help="default: %(default)s")
    made.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    made.add_argument("--quick", action="store_true", help="starter models, tiny counts: shows that it works")
    models = made.add_mutually_exclusive_group()
    models.add_argument("--model", type=Path, metavar="GGUF", help="a chat model of yours")
    models.add_argument("--shape", default="qwen2.5-3b", choices=shapes.SHAPES, help="default: %(default)s")
    made.add_argument("--keep", type=Path, metavar="FILE", help="where the shape is, or is written to")
    made.add_argument("--embedding", type=Path, metavar="FOLDER", help="an embedding model of yours")
    made.add_argument("--million", action="store_true", help="memory: also a million, 15 minutes and 7 GB more")
    made.add_argument("--peer-url", default="", metavar="URL", help="an OpenAI-compatible server on this machine")
    return made


def main(words: Sequence[str]) -> int:
    """Measure what is asked for, write it, and return the status to end with."""
    made = parser()
    asked = made.parse_args(words)
    parts = asked.parts.split(",")
    if unknown := {*parts} - {*PARTS, PLOTS}:
        made.error(f"there is no part {min(unknown)!r}; there are {', '.join([*PARTS, PLOTS])}")
    wanted = [name for name in PARTS if name in parts]
    status = 0
    try:
        if asked.peer_url:
            checked(asked.peer_url)
        if wanted:
            status = run(ordered(asked, wanted), wanted, asked.folder)
        finish(asked.folder, plots=PLOTS in parts)
    except (*Failed, RefusedServer, ValueError) as error:
        raise SystemExit(str(error)) from None
    return status
