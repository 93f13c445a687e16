"""Speed on this machine: medians, and ratios measured A B A B in one run.

    python scripts/benchmark.py all [--parts NAME,NAME] [--folder DIR] [--quick] …  (`all --help` tells the rest)
    python scripts/benchmark.py again OLD.json NEW.json [--margin PART]
    python scripts/benchmark.py expectations [--shapes DIR] [--quick] …  (`expectations --help` tells the rest)
    python scripts/benchmark.py [starter] [--rounds N] [--json FILE]
    python scripts/benchmark.py threads [--model FILE.gguf] [--rounds N] [--json FILE]
    python scripts/benchmark.py runtime [--shape NAME | --model FILE.gguf] [--rows NAME,NAME] [--rounds N]
                                        [--peer-url http://127.0.0.1:PORT] [--json FILE]
    python scripts/benchmark.py resident [--shape NAME,NAME|all] [--folder DIR] [--json FILE]
    python scripts/benchmark.py lifecycle [--shape NAME | --model FILE.gguf] [--keep FILE] [--rounds N] [--lives N]
                                          [--quick] [--json FILE]
    python scripts/benchmark.py embedding [--model NAME|FOLDER | --shape [--keep FOLDER]] [--rounds N] [--texts N]
                                          [--rows NAME,NAME] [--quick] [--json FILE]
    python scripts/benchmark.py memory [--memories N] [--million] [--model FOLDER] [--folder DIR] [--rounds N]
                                       [--rows NAME,NAME] [--quick] [--json FILE]

`all`: runtime, embedding, memory, lifecycle and a session, with a table and pictures, into docs/benchmarks; about
three quarters of an hour on two cores. `again`: whether the figures of one such file lie within the spread of another.
`starter`: what the machinery costs; the speed of true models needs the true models. `threads`: prefill and decode by
number of threads, on an idle machine and beside one busy core. `runtime`: the engine against `llama_cpp.Llama`, row by
row; takes about half an hour on two cores with a 3B model, and Ctrl-C shows what was measured so far. `resident`: the
RAM that models of true shape take, against the estimate; writes each into a temporary folder, up to 9 GB. `lifecycle`:
the first use of a model of true shape against bare calls of llama.cpp; what many loads and unloads of the starter
models, and of a file that `--model` names, leave in RAM, open and running. `embedding`: BGE-M3's shape, or
another embedding model, prepared for this processor, against `SentenceTransformer.encode` in float32; writes 3 GB into
a temporary folder. `memory`: the store of memories at 100,000, and with `--million` also at that many, for which it
writes 7 GB into a temporary folder; with the folder of an embedding model also the whole of a search.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import benchmark_again
import benchmark_all
import benchmark_record
import embedding_benchmark
import expectations
import lifecycle_benchmark
import memory_benchmark
import resident
import runtime_benchmark
import shapes
from runtime_rows import ROWS
from runtime_server import RefusedServer

from engine import Engine, config, layout
from engine.demo import MEMORIES, QUESTIONS, SENTENCES
from engine.errors import ModelNotFound

QUESTION = "Write three sentences about a small town by the sea."
IMPORT = "import time; t = time.perf_counter(); import engine; print(time.perf_counter() - t)"
CONSTRUCT = (
    "import time, tempfile; from engine import Engine; h = tempfile.mkdtemp(); t = time.perf_counter(); "
    "Engine(profile='starter', home=h).close(); print(time.perf_counter() - t)"
)


def milliseconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def in_child(code: str, rounds: int) -> list[float]:
    """Return milliseconds that fresh processes print."""
    command = [sys.executable, "-c", code]
    return [float(subprocess.run(command, capture_output=True, check=True).stdout) * 1000 for _ in range(rounds)]


def measure(engine: Engine, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds (or tokens a second) of each kind of work, `rounds` times."""
    engine.remember(MEMORIES)
    engine.classify("안녕하세요")
    engine.chat("Hi.", max_tokens=1)
    figures: dict[str, list[float]] = {
        "import engine, ms": in_child(IMPORT, rounds),
        "construct and close an unused engine, ms": in_child(CONSTRUCT, rounds),
    }
    names = ("embed a query, ms", "search 12 memories, ms", "classify by meaning, ms")
    rows: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for (question, _), (sentence, _) in zip(QUESTIONS, SENTENCES, strict=True):
            rows[names[0]].append(milliseconds(partial(engine.embed, question, kind="query")))
            rows[names[1]].append(milliseconds(partial(engine.search, question)))
            rows[names[2]].append(milliseconds(partial(engine.classify, sentence)))
    usages = [engine.chat(f"{n}. {QUESTION}", temperature=0, max_tokens=64).usage for n in range(rounds)]
    rows["first token of a new question, ms"] = [usage.ttft * 1000 for usage in usages]
    rows["tokens a second, one stream"] = [usage.tokens_per_second for usage in usages]
    return {**figures, **rows}


def together(engine: Engine, rounds: int) -> list[float]:
    """Return how many times faster eight answers are written at once than one after the other, A B A B."""

    def answer(tag: str) -> None:
        engine.chat(f"{tag} {QUESTION}", temperature=0, max_tokens=32)

    ratios = []
    with ThreadPoolExecutor(8) as pool:
        for n in range(rounds):
            serial = milliseconds(partial(list, map(answer, [f"{n} a {i}" for i in range(8)])))
            parallel = milliseconds(partial(list, pool.map(answer, [f"{n} b {i}" for i in range(8)])))
            ratios.append(serial / parallel)
    return ratios


def threads(model: str, rounds: int) -> list[tuple[str, int, float, float]]:
    """Return (neighbour, threads, prefill tokens a second, decode tokens a second), medians of A B A B."""
    rows = []
    for neighbour in ("idle", "one busy core"):
        with busy_core() if neighbour != "idle" else contextlib.nullcontext():
            found: dict[int, list[tuple[float, float]]] = {}
            counts = sorted({1, max(1, (os.cpu_count() or 1) // 2), os.cpu_count() or 1})
            for n in [count for _ in range(rounds) for count in counts]:
                found.setdefault(n, []).append(speeds(model, n))
        for n, pairs in found.items():
            prefill, decode = (statistics.median(column) for column in zip(*pairs, strict=True))
            rows.append((neighbour, n, prefill, decode))
    return rows


def speeds(model: str, n_threads: int) -> tuple[float, float]:
    """Return prefill and decode tokens a second of a GGUF file, or of the starter model, with so many threads."""
    spec = config.load().model("smollm2-135m-instruct")
    path = model or str(layout.locate(spec))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "models.toml")
        source = json.dumps(str(Path(path).absolute()))
        entry = f'[models.bench]\nkind = "llm"\nsource = {{ path = {source} }}\nn_threads = {n_threads}\n'
        file.write_text(entry, encoding="utf-8")
        with Engine(file, profile="starter", home=folder, models={"chat": "bench"}) as engine:
            engine.load("chat")
            usage = engine.chat(" ".join(map(str, range(90))), temperature=0, max_tokens=48).usage
    return usage.prompt_tokens / usage.ttft, usage.tokens_per_second


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy inside the block."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()


def main() -> None:
    """Measure, print a table, write JSON if asked."""
    if own := OWN.get("".join(sys.argv[1:2])):
        sys.exit(own(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="?", choices=RUNS, default="starter")
    parser.add_argument(
        "--model", default="", metavar="GGUF", help="another file; embedding: a name or a folder; memory: a folder"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", "--output", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where shapes and stores lie for a moment")
    parser.add_argument("--lives", type=int, default=50, metavar="N", help="lifecycle: loads of each model")
    parser.add_argument("--texts", type=int, metavar="N", help="embedding: short texts in one call")
    parser.add_argument("--memories", type=int, default=100_000, metavar="N", help="memory: how many there are")
    parser.add_argument("--million", action="store_true", help="memory: a million after these")
    for_runtime(parser.add_argument_group("runtime"))
    arguments = parser.parse_args()
    processor = platform.processor() or platform.machine()
    print(f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    figures = RUNS[arguments.what](arguments)
    if arguments.json:
        arguments.json.write_text(benchmark_record.text(figures), encoding="utf-8")


def for_runtime(parser: argparse._ArgumentGroup) -> None:
    """Add what only `runtime` takes."""
    parser.add_argument(
        "--shape", nargs="?", const="", default="", metavar="NAME", help="default: qwen2.5-3b, for resident small ones"
    )
    parser.add_argument("--keep", type=Path, metavar="FILE", help="where the shape is, or is written to")
    parser.add_argument("--rows", default="", metavar="NAME,NAME", help=f"default: {','.join(ROWS)}")
    parser.add_argument("--peer-url", default="", metavar="URL", help="an OpenAI-compatible server on this machine")
    parser.add_argument("--quick", action="store_true", help="tiny counts: shows that the rows work, measures nothing")


def show_runtime(arguments: argparse.Namespace) -> object:
    """Print the engine against `llama_cpp.Llama`."""
    rows = tuple(arguments.rows.split(",")) if arguments.rows else tuple(ROWS)
    check_names(rows, benchmark_all.ROWS)
    shape = arguments.shape or "qwen2.5-3b"
    check_names([shape], shapes.SHAPES)
    counts = runtime_benchmark.QUICK if arguments.quick else runtime_benchmark.Counts()
    try:
        path = Path(arguments.model or runtime_benchmark.model_of(shape, arguments.keep))
        path.stat()
        options = runtime_benchmark.Options(path, arguments.rounds, rows, arguments.peer_url, counts)
        return runtime_benchmark.measure(options, benchmark_all.ROWS)
    except (shapes.CannotWrite, RefusedServer, OSError) as error:
        raise SystemExit(str(error)) from None


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Leave where a name is not among those that are known."""
    if unknown := set(names) - set(known):
        raise SystemExit(f"there is no {min(unknown)!r}; there are {', '.join(known)}")


def show_resident(arguments: argparse.Namespace) -> object:
    """Print what models of true shape take of RAM."""
    names = {"": resident.DEFAULT, "all": resident.NAMES}.get(arguments.shape) or arguments.shape.split(",")
    check_names(names, resident.NAMES)
    try:
        return resident.run(names, arguments.folder)
    except (shapes.CannotWrite, ModelNotFound, OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(str(error)) from None


def show_lifecycle(arguments: argparse.Namespace) -> object:
    """Print what the first use of a model costs, and what many loads leave behind."""
    shape = arguments.shape or "qwen2.5-3b"
    check_names([shape], shapes.SHAPES)
    rounds, lives = (1, 3) if arguments.quick else (arguments.rounds, arguments.lives)
    more = [Path(arguments.model)] if arguments.model else []
    try:
        default = lifecycle_benchmark.starters()[0] if arguments.quick else None
        path = next(iter(more), default) or runtime_benchmark.model_of(shape, arguments.keep)
        report = lifecycle_benchmark.run(path, rounds, lives, more)
    except (shapes.CannotWrite, ModelNotFound, OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(str(error)) from None
    print("\n".join(lifecycle_benchmark.table(report)))
    return report


def show_embedding(arguments: argparse.Namespace) -> object:
    """Print what an embedding model costs here, against float32."""
    check_names([arguments.shape or resident.EMBEDDING], [resident.EMBEDDING])
    known = embedding_benchmark.SECTIONS
    wanted = arguments.rows.split(",") if arguments.rows else list(known)
    check_names(wanted, known)
    counts = embedding_benchmark.QUICK if arguments.quick else embedding_benchmark.Counts()
    counts = replace(counts, shorts=arguments.texts or counts.shorts)
    try:
        with embedding_benchmark.opened(arguments.model, arguments.keep, arguments.folder) as model:
            return embedding_benchmark.measure(model, arguments.rounds, counts, wanted)
    except (ModelNotFound, OSError) as error:
        raise SystemExit(str(error)) from None


def show_memory(arguments: argparse.Namespace) -> object:
    """Print how fast, how exact and how large the store of memories is."""
    known = memory_benchmark.SECTIONS
    names = arguments.rows.split(",") if arguments.rows else list(known)
    check_names(names, known)
    if arguments.model and not Path(arguments.model, "tokenizer.json").is_file():
        raise SystemExit(f"{arguments.model} is no folder of an embedding model")
    size = memory_benchmark.QUICK_SIZE if arguments.quick else arguments.memories
    counts = memory_benchmark.QUICK if arguments.quick else memory_benchmark.Counts()
    libraries = [memory_benchmark.Library(size, model=arguments.model and str(Path(arguments.model).absolute()))]
    if arguments.million:
        libraries.append(memory_benchmark.THE_MILLION)
    try:
        plan = memory_benchmark.Plan(libraries, counts, arguments.rounds, arguments.folder, names)
        return memory_benchmark.measure(plan)
    except (ModelNotFound, OSError) as error:
        raise SystemExit(str(error)) from None


def show_threads(arguments: argparse.Namespace) -> object:
    """Print speeds by number of threads."""
    rows = threads(arguments.model, arguments.rounds)
    print("| beside | threads | prefill, tokens/s | decode, tokens/s |\n|---|---|---|---|")
    for neighbour, n, prefill, decode in rows:
        print(f"| {neighbour} | {n} | {prefill:.0f} | {decode:.1f} |")
    return rows


def show_starter(arguments: argparse.Namespace) -> object:
    """Print what the starter profile's work costs."""
    with tempfile.TemporaryDirectory() as home, Engine(profile="starter", home=home) as engine:
        figures = measure(engine, arguments.rounds)
        figures["8 answers at once against one after the other, times faster"] = together(engine, arguments.rounds)
        resident = engine.status().resident
    print("| work | lowest | median | highest |\n|---|---|---|---|")
    for name, values in figures.items():
        print(f"| {name} | {min(values):.1f} | {statistics.median(values):.1f} | {max(values):.1f} |")
    print(f"\nresident memory at the end: {resident / 1e9:.2f} GB")
    return {"resident": resident, "figures": figures}


OWN: dict[str, Callable[[Sequence[str]], int]] = {  # with arguments of their own
    "all": benchmark_all.main, "again": benchmark_again.main, "expectations": expectations.main,
}  # fmt: skip
RUNS = {
    "starter": show_starter, "threads": show_threads, "runtime": show_runtime, "resident": show_resident,
    "lifecycle": show_lifecycle, "embedding": show_embedding,
    "memory": show_memory,
}  # fmt: skip

if __name__ == "__main__":
    main()
