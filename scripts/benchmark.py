"""Speed of the starter profile on this machine: medians, and ratios measured A B A B in one run.

`python scripts/benchmark.py [--json FILE] [--rounds N]`. The figures say what the machinery costs; those of the
true models need the true models.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from engine import Engine
from engine.demo import MEMORIES, QUESTIONS, SENTENCES

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


def main() -> None:
    """Measure, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, Engine(profile="starter", home=home) as engine:
        figures = measure(engine, arguments.rounds)
        figures["8 answers at once against one after the other, times faster"] = together(engine, arguments.rounds)
        resident = engine.status().resident
    rows = {name: [min(v), statistics.median(v), max(v)] for name, v in figures.items()}
    processor = platform.processor() or platform.machine()
    machine = f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}\n\n| work | lowest | median | highest |\n|---|---|---|---|")
    for name, (low, middle, high) in rows.items():
        print(f"| {name} | {low:.1f} | {middle:.1f} | {high:.1f} |")
    print(f"\nresident memory at the end: {resident / 1e9:.2f} GB")
    if arguments.json:
        text = json.dumps({"machine": machine, "resident": resident, "figures": figures}, indent=1)
        arguments.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
