"""What the life of a model costs: its first use against bare calls of llama.cpp, and what many lives leave behind.

Each measurement runs in a fresh process of its own, `lifecycle_loads`. `benchmark.py lifecycle` is its command line.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lifecycle_loads
from lifecycle_loads import Work, opened
from runtime_table import OURS, Row, Wanted

from engine import config, layout, tuning
from engine.footprint import sequences

RATIO = 1.15  # of a bare load, that a first use may take
LEFT = 20_000_000  # bytes that may be left after all lives
TRIES = 3  # to tune, which is put off where something else keeps the processor busy
BARE = "bare llama.cpp"
SETTLED = 5  # lives until allocators have what they keep


def child(work: Work, **environment: str) -> dict[str, Any]:
    """Do `work` in a fresh process and return what it found. Raises `subprocess.CalledProcessError`."""
    command = [sys.executable, lifecycle_loads.__file__, json.dumps(asdict(work))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **environment})
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def first_use(model: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """Return seconds of the very first use, and of later first uses beside bare loads, A B A B."""
    warm(model)
    very_first = anew(model, folder)
    work = Work("first", str(model), "llm", str(folder))
    tuned = settled(work)
    native = bare_parameters(model)
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(rounds):
        found["ours"].append(child(work)["seconds"])
        found["bare"].append(child(replace(work, what="bare", native=native))["seconds"])
    ratio = statistics.median(found["ours"]) / statistics.median(found["bare"])
    return {
        "model": model.name, "native": native, "seconds": found, "ratio": ratio, "very_first": very_first,
        "tuned": tuned,
    }  # fmt: skip


def settled(work: Work) -> bool:
    """Use a model until all that is to be remembered of it is; a busy machine is not tuned, and false is returned."""
    for _ in range(TRIES):
        child(work)
        if tuning.recall(Path(work.path)) is not None:
            return True
    return False


def anew(model: Path, folder: Path) -> float:
    """Return seconds of the first use of a file that nothing is remembered of: its sha256, the probe, the tuning."""
    with tempfile.TemporaryDirectory(dir=model.parent) as own, tempfile.TemporaryDirectory() as notes:
        copy = Path(own, model.name)
        try:
            copy.hardlink_to(model)
        except OSError:
            shutil.copyfile(model, copy)
        warm(copy)
        work = Work("first", str(copy), "llm", str(folder))
        return float(child(work, GIEOK_MODELS=notes, XDG_CACHE_HOME=notes)["seconds"])


def warm(model: Path) -> None:
    """Read a file once, so that no side reads it from a disk."""
    with model.open("rb") as file:
        while file.read(1 << 24):
            pass


def bare_parameters(model: Path) -> dict[str, Any]:
    """Return llama.cpp's parameters as an engine chooses them for this file here."""
    spec = config.ModelSpec(name="measured", kind="llm", source=config.Source(path=str(model)))
    table = config.load().engine
    how, n_seq = tuning.recall(model) or tuning.usual(), sequences(spec, table)
    with tempfile.TemporaryDirectory() as folder, opened(Work("", str(model), "llm", folder)) as engine:
        plan = engine.plan("chat")
    context = {
        "n_ctx": plan.n_ctx,
        "n_seq_max": n_seq,
        "n_batch": max(table.n_batch, n_seq),
        "n_ubatch": how.n_ubatch,
        "n_threads": how.n_threads,
        "n_threads_batch": how.n_threads_batch,
        "kv_unified": True,
        "no_perf": True,
    }
    return {"repack": how.repack, "n_gpu_layers": plan.n_gpu_layers, "context": context}


def leftovers(model: Path, count: int, folder: Path) -> dict[str, Any]:
    """Return what `count` lives of a model leave: bytes after the first few, and what is open, after the first one.

    The first life starts what libraries keep for good: torch's threads, the engine's own two.
    """
    kind = "llm" if model.is_file() else "embedding"
    found = child(Work("lives", str(model), kind, str(folder), lives=count))
    after = found["after"]
    settled = after[min(SETTLED, max(1, count - 1)) - 1]
    return {
        "model": model.name,
        "lives": count,
        "resident": [one["resident"] for one in after],
        "growth": after[-1]["resident"] - settled["resident"],
        "descriptors": after[-1]["descriptors"] - after[0]["descriptors"],
        "threads": after[-1]["threads"] - after[0]["threads"],
        "before": found["before"],
        "last": after[-1],
        "closed": found["closed"],
    }


def starters() -> list[Path]:
    """Return where the starter profile's models are. Raises `ModelNotFound`."""
    known = config.load()
    roles = known.profile("starter")
    return [layout.locate(known.model(roles[name])) for name in ("chat", "embedding")]


def run(model: Path, rounds: int, count: int, more: Sequence[Path]) -> dict[str, Any]:
    """Measure and return the report. Raises `ModelNotFound`, `OSError`, `subprocess.CalledProcessError`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report: dict[str, Any] = {"first_use": first_use(model, rounds, folder)}
        report["lives"] = [leftovers(one, count, folder) for one in (*starters(), *more)]
    return {**report, "checks": checks(report)}


def first_rows(found: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of a first use."""
    seconds = {OURS: found["seconds"]["ours"], BARE: found["seconds"]["bare"]}
    flaw = "" if found["tuned"] else "the machine was too busy for tuning, which each first use has tried again"
    limit = Wanted("ours/theirs", False, RATIO)
    yield Row("first use", f"first use of {found['model']}", "s", seconds, BARE, limit, flaw=flaw)
    work = "the very first use of a file: its sha256, a trial, the tuning"
    yield Row("very first use", work, "s", {OURS: [found["very_first"]]}, repeats=1)


def lives_rows(found: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of many lives of a model."""
    name, lives = found["model"], found["lives"]
    work, none = f"load, use, unload {name} {lives} times", Wanted("ours", False, 0)
    after = found["resident"][min(SETTLED, lives) - 1 :]
    yield Row(f"lives {name}", f"{work}: in RAM after each", "MB", {OURS: [size / 1e6 for size in after]})
    grown = {OURS: [found["growth"] / 1e6]}
    most = Wanted("ours", False, LEFT / 1e6)
    yield Row(
        f"growth {name}", f"the same: growth from life {SETTLED} to the last", "MB", grown, wanted=most, repeats=1
    )
    left = {OURS: [float(max(found["descriptors"], found["threads"]))]}
    yield Row(f"left {name}", "the same: descriptors or threads left", "", left, wanted=none, repeats=1)


def checks(report: dict[str, Any]) -> dict[str, bool]:
    """Return what was wanted, and whether it was reached."""
    rows, one = report["lives"], report["first_use"]
    return {
        f"first use at most {RATIO} times a bare load": one["ratio"] <= RATIO and one["tuned"],
        f"at most {LEFT / 1e6:.0f} MB left": all(row["growth"] <= LEFT for row in rows),
        "nothing left open": all(row["descriptors"] <= 0 and row["threads"] <= 0 for row in rows),
    }


def table(report: dict[str, Any]) -> Iterator[str]:
    """Yield tables in Markdown."""
    use, one = report["first_use"], statistics.median
    yield "| first use | ours | bare llama.cpp | ratio | the very first time |"
    yield "|---|---|---|---|---|"
    sides = " | ".join(f"{one(use['seconds'][side]):.2f} s" for side in ("ours", "bare"))
    yield f"| {use['model']} | {sides} | {use['ratio']:.2f}× | {use['very_first']:.1f} s |"
    if not use["tuned"]:
        yield ""
        yield "The machine was too busy for tuning, which each first use has tried again: no fair comparison."
    yield ""
    yield "| load, use, unload | times | RAM before | after the last | growth | descriptors left | threads left |"
    yield "|---|---|---|---|---|---|---|"
    for row in report["lives"]:
        sizes = " | ".join(f"{row[name]['resident'] / 1e6:.0f} MB" for name in ("before", "last"))
        left = f"{row['growth'] / 1e6:+.1f} MB | {row['descriptors']} | {row['threads']}"
        yield f"| {row['model']} | {row['lives']} | {sizes} | {left} |"
    yield ""
    yield from (f"{'met   ' if met else 'MISSED'} {what}" for what, met in report["checks"].items())
