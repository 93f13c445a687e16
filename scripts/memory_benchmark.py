"""The store of memories at scale: how fast, how exact, how large; on made-up memories of realistic clustering.

`MemoryStore` itself is measured, with vectors that are looked up (`clusters`) and Korean sentences (`memory_texts`):
durable ingest, search with filters against the exact nearest, start, rebuild, change, forgetting. The peer is what one
would write in an afternoon: a flat FAISS index, a list of texts in JSON, and a filter over what was found, A B A B in
one run. Each side runs in a process of its own (`memory_side`). What a process holds counts from the moment in which
all is imported and a small store has been filled, searched and closed. `benchmark.py memory` is the command line.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import embedding_sides
import memory_side
import psutil
from clusters import Clusters
from embedding_benchmark import Side, SideFailed, in_folder, process_of
from embedding_sides import laid
from memory_group import forget_pages
from memory_lent import ENTRY, MODEL, TEXTS, VECTORS, K, Order, Words
from memory_texts import CASES, question
from runtime_table import OURS, Row, Wanted, cell, p95, short, verdict

from engine import index_file

PEER = "FAISS flat + JSON"
PACKAGES = ("gieok", "apsw", "faiss-cpu", "kiwipiepy", "numpy", "openvino")
BYTES_OF_A_NUMBER = 6.5  # of a vector on disk, all together: the store, its copy, and two thirds of one for the rest
MILLION = 1_000_000
QUICK_SIZE = 2_000
_END = 60.0  # seconds until a side whose input was closed must have ended


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of each kind of work is done: `questions` of each case, `whole` ones that a model embeds."""

    questions: int = 500
    whole: int = 200
    singles: int = 200
    forgets: int = 5
    dim: int = 1024


_PEERED = (0, 3)  # cases that the peer is asked, too: it scores everything for each, and takes minutes
QUICK = Counts(questions=20, whole=5, singles=5, forgets=1)  # shows that all of it works, and measures nothing


@dataclass(frozen=True, slots=True)
class Library:
    """So many memories, remembered in calls of `each`; Kiwi finds the `words` of the smaller ones, as in true use.

    `model` is the folder of an embedding model, or "": its tokenizer gives memories sparse weights, and with the whole
    of it the whole of a search is measured. `peer`: whether that is measured, too.
    """

    size: int
    each: int = 100
    words: Words = "kiwi"
    model: str = ""
    peer: bool = True


# The words of a million sentences would take Kiwi five minutes, and say nothing of the store.
THE_MILLION = Library(MILLION, each=1_000, words="spaces", peer=False)

Make = Callable[[Order], AbstractContextManager[Side]]


def apart(order: Order) -> AbstractContextManager[Side]:
    """Make a side in a new process, which ends with the block. Raises `SideFailed`."""
    return process_of(memory_side.__file__, asdict(order))


class Run:
    """One library in a folder of its own: its store, its questions, and what is known of it by and by."""

    def __init__(self, library: Library, counts: Counts, rounds: int, folder: Path, make: Make = apart) -> None:
        self.library, self.counts, self.rounds, self.folder = library, counts, rounds, folder
        self.first_time: dict[str, list[float]] = {}  # by case: milliseconds of questions that were not asked before
        self.home = folder / "home"
        self._make = make
        self.nearest: dict[str, list[set[str]]] = {}
        self.matching: dict[str, int] = {}
        self.space, self.analyser = Order("", "", "", 0, 0, 0).space, "measured"

    @property
    def of(self) -> str:
        """How many memories, in words."""
        size = self.library.size
        return f"{size // 10**6}M" if size % 10**6 == 0 else f"{size // 1000}k" if size % 1000 == 0 else f"{size:,}"

    @property
    def large(self) -> bool:
        """Whether the figures of a million are to be reached."""
        return self.library.size >= MILLION

    def side(self, name: str, **changes: Any) -> AbstractContextManager[Side]:
        """Make a side."""
        library = self.library
        order = Order(
            name, str(self.home), str(self.folder), library.size, self.counts.dim, library.each,
            space=self.space, analyser=self.analyser,
        )  # fmt: skip
        return self._make(replace(order, **changes))

    def lay_out(self) -> None:
        """Write the questions, and the entry of the embedding model if there is one. Raises as `identity` does."""
        self.ask_questions()
        if not self.library.model:
            return
        from engine import config, identity
        from engine.korean import morphemes
        from engine.lexical import ROWS

        spec = in_folder(Path(self.library.model)).model_copy(update={"backend": "openvino"})
        laid(embedding_sides.Order("whole", self.library.model, spec.model_dump_json(), str(self.folder)))
        found = config.load(self.folder / ENTRY).model(MODEL)
        self.space = identity.of_embedder(found, lambda: None)
        self.analyser = f"{morphemes.version()}, rows {ROWS}"

    def ask_questions(self) -> None:
        """Write the questions: half of them about a memory, half on the topics of memories."""
        counts, library = self.counts, self.library
        clusters = Clusters(library.size, counts.dim, library.each)
        parts = [clusters.questions(n * clusters.batches // 10, -(-counts.questions // 10)) for n in range(10)]
        vectors = [row for rows in parts for row in rows][: counts.questions]
        (self.folder / VECTORS).write_bytes(b"".join(row.astype("<f4").tobytes() for row in vectors))
        texts = [question(n * library.size // counts.questions) for n in range(counts.questions)]
        (self.folder / TEXTS).write_text(json.dumps(texts), encoding="utf-8")

    def recall(self, case: str, found: dict[int, list[str]]) -> list[float]:
        """Return of each question that has an answer which part of the exact nearest was found."""
        exact = self.nearest[case]
        return [len(exact[n].intersection(texts)) / min(K, len(exact[n])) for n, texts in found.items() if exact[n]]


Section = Callable[[Run], list[Row]]


# ---- filling


def ingest(run: Run) -> list[Row]:
    """Remember all memories, a call after the other."""
    library, seconds = run.library, list[float]()
    calls = -(-library.size // library.each)
    step = max(1, calls // 10)
    with run.side("filling", words=library.words, model=library.model) as side:
        for first in range(0, calls, step):
            seconds += side.ask("fill", first, min(first + step, calls))
            tell(f"{run.of}: {min(first + step, calls) * library.each:,} remembered")
        run.nearest = {name: [set(texts) for texts in rows] for name, rows in side.ask("nearest").items()}
        run.matching = side.ask("matching")
        settled = side.ask("settle")
    return ingest_rows(run, seconds, settled)


def ingest_rows(run: Run, seconds: Sequence[float], settled: dict[str, float]) -> list[Row]:
    """Return the rows of filling, from the seconds of each call."""
    library = run.library
    rates = [library.each / part for part in seconds]
    words = "morphemes by Kiwi" if library.words == "kiwi" else "words between spaces"
    sparse = ", sparse weights" if library.model else ""
    notes = (
        f"all in {sum(seconds):.0f} s, {library.size / sum(seconds):,.0f} memories/s over all",
        f"the slowest call took {1000 * max(seconds):.0f} ms, the last tenth {_rate(seconds, library.each):,.0f}/s",
        f"the first search, without an index: {settled['first']:.0f} ms",
        f"the index is made and saved in the background: {settled['settled']:.2f} s",
    )
    wanted = Wanted("ours", True, 1_500) if library.words == "kiwi" else None
    work = f"durable ingest of {run.of}, vectors given, {words}{sparse}, calls of {library.each}"
    return [Row(f"ingest {run.of}", work, "memories/s", {OURS: rates}, wanted=wanted, notes=notes, repeats=1)]


def _rate(seconds: Sequence[float], each: int) -> float:
    last = seconds[-max(1, len(seconds) // 10) :]
    return each * len(last) / sum(last)


# ---- searching


def search(run: Run) -> list[Row]:
    """Search by vectors alone, with each kind of filter; beside the peer if it is there."""
    with contextlib.ExitStack() as open_sides:
        ours = open_sides.enter_context(run.side("searching"))
        first = ours.ask("open")
        ours.ask("wait")
        theirs = None
        if run.library.peer:
            with run.side("piling", home=str(run.folder / "peer")) as piling:
                piling.ask("pile")
            theirs = open_sides.enter_context(run.side("peer", home=str(run.folder / "peer")))
        found = [alternating(run, case, ours, theirs if case in _PEERED else None) for case in range(len(CASES))]
        held = ours.ask("held")
        peer = theirs.ask("held") if theirs else None
    shutil.rmtree(run.folder / "peer", ignore_errors=True)
    return [*search_rows(run, found), *held_rows(run, held, peer, first)]


Found = dict[str, tuple[list[float], list[float]]]  # by side: milliseconds, recall of each question


def alternating(run: Run, case: int, ours: Side, theirs: Side | None) -> Found:
    """Ask both sides the same questions, a part after the other, and return what each took and found.

    Ours is asked each of them once before: then the pages that it needs are in memory, as all of the peer's are.
    """
    asked: dict[str, dict[int, list[Any]]] = {OURS: {}, **({PEER: {}} if theirs else {})}
    run.first_time[CASES[case].name] = [milliseconds for milliseconds, _ in ours.ask("times", case, 0, 1)]
    for n in range(run.rounds):
        numbers = range(n, run.counts.questions, run.rounds)
        asked[OURS].update(zip(numbers, ours.ask("times", case, n, run.rounds), strict=True))
        if theirs:
            asked[PEER].update(zip(numbers, theirs.ask("times", case, n, run.rounds), strict=True))
    name = CASES[case].name
    return {
        side: (
            [milliseconds for milliseconds, _ in rows.values()],
            run.recall(name, {n: texts for n, (_, texts) in rows.items()}),
        )
        for side, rows in asked.items()
    }


def search_rows(run: Run, found: Sequence[Found]) -> list[Row]:
    """Return a row of each case, and one of what share of the nearest was found in all of them."""
    limit, rows = Wanted("ours", False, 40 if run.large else 10), list[Row]()
    for case, sides in zip(CASES, found, strict=True):
        work = f"dense search of {run.of}, {case.work} ({run.matching[case.name]:,} match)"
        values = {side: milliseconds for side, (milliseconds, _) in sides.items()}
        halves = ", ".join(f"{side} {usual(row)}" for side, row in values.items())
        exact = ", ".join(f"{side} {share(recall)}" for side, (_, recall) in sides.items())
        first = run.first_time.get(case.name)
        cold = f"asked for the first time, some pages read from the disk: p95 {p95(first):.1f} ms" if first else ""
        notes = (halves, f"recall@{K}: {exact}", *filter(None, [cold]))
        name = f"{case.name} {run.of}"
        rows.append(Row(name, work, "ms", values, PEER, limit, "p95", notes, repeats=run.rounds))
    every = [value for sides in found for value in sides[OURS][1]]
    work = f"the same: recall@{K} against the exact nearest, all filters"
    least, worst = Wanted("ours", True, 0.99), f"the worst question: {min(every, default=0):.2f}"
    return [*rows, Row(f"recall {run.of}", work, "", {OURS: every}, PEER, least, "mean", (worst,), repeats=1)]


def share(recall: Sequence[float]) -> str:
    """Return the mean of what was found, in words."""
    return f"{statistics.fmean(recall):.4f}" if recall else "nothing to find"


def held_rows(run: Run, held: dict[str, int], peer: dict[str, int] | None, first: float) -> list[Row]:
    """Return the row of memory."""
    values = {OURS: [held["now"] / 1e6], **({PEER: [peer["now"] / 1e6]} if peer else {})}
    wanted = Wanted("ours", False, 300) if run.large else None
    notes = (
        f"{held['anonymous'] / 1e6:.0f} MB are its own, the rest pages of files",
        f"at the most since its start: {held['peak'] / 1e6:.0f} MB",
        f"opened and searched for the first time in {first:.0f} ms",
    )
    work = f"growth of the process by store and index of {run.of}, after all these searches"
    return [Row(f"growth {run.of}", work, "MB", values, PEER, wanted, notes=notes)]


def words(run: Run) -> list[Row]:
    """Search by vectors and by words."""
    with run.side("searching", words=run.library.words) as side:
        side.ask("open")
        side.ask("wait")
        found = {
            case.name: [row[0] for row in side.ask("times", n, 0, 1)] for n, case in enumerate(CASES) if case in _WORDY
        }
    works = {case.name: f"dense and by words, {run.of}, {case.work}" for case in _WORDY}
    return [
        Row(f"words {name} {run.of}", works[name], "ms", {OURS: values}, pick="p95", notes=(usual(values),), repeats=1)
        for name, values in found.items()
    ]


_WORDY = (CASES[0], CASES[1], CASES[5])


def usual(values: Sequence[float]) -> str:
    """Return the median, in words."""
    return f"p50 {short(statistics.median(values))} ms"


def whole(run: Run) -> list[Row]:
    """Search as a user does: an engine embeds the question, Kiwi reads it, every leg is asked."""
    if not run.library.model:
        return []
    with run.side("whole") as side:
        flaw = "" if side.said["hits"] else "nothing was found"
        times = side.ask("times", run.counts.whole)
        parts = ", ".join(side.said["parts"])
    searched, embedded = ([row[column] for row in times] for column in (0, 1))
    notes = (
        usual(searched), f"the same question embedded alone: p95 {short(p95(embedded))} ms, {usual(embedded)}",
        f"parts of a hit: {parts}; model: {', '.join(side.said['backends'])}",
    )  # fmt: skip
    work = f"`Engine.search` in {run.of}, question embedded, all legs"
    limit = Wanted("ours", False, 200)
    return [Row(f"whole {run.of}", work, "ms", {OURS: searched}, PEER, limit, "p95", notes, flaw, repeats=1)]


# ---- start


def reopen(run: Run) -> list[Row]:
    """Start processes that open the store and search once, with its files in the system's memory and without."""
    found: dict[str, list[float]] = {"ready": [], "reopening": [], "cold": []}
    for _ in range(run.rounds):
        for name, values in found.items():
            if name == "cold":
                forget_pages([file for file in run.home.rglob("*") if file.is_file()])
            with run.side("ready" if name == "cold" else name) as side:
                values.append(side.said["seconds"])
                flaw = "" if side.said["found"] else "nothing was found"
    work, soon = f"reopen {run.of}, to the first hits", Wanted("ours", False, 1)
    return [
        Row(f"reopen {run.of}", f"{work}, beyond imports", "s", {OURS: found["ready"]}, wanted=soon, flaw=flaw),
        Row(f"reopen imports {run.of}", f"{work}, with imports", "s", {OURS: found["reopening"]}),
        Row(f"reopen cold {run.of}", f"{work}, beyond imports, files read from disk", "s", {OURS: found["cold"]}),
    ]


def rebuild(run: Run) -> list[Row]:
    """Lose the file of the index, and open the store."""
    first, seconds, meanwhile, after = list[float](), list[float](), list[float](), list[float]()
    lost = list(run.home.rglob(index_file.NAME))
    for _ in range(min(run.rounds, 3)):
        for file in lost:
            file.unlink(missing_ok=True)
        with run.side("ready") as side:
            found = side.ask("settled")
            first.append(1000 * side.said["seconds"])
        seconds.append(found["seconds"])
        meanwhile += found["meanwhile"]
        after += found["after"]
    notes = (
        f"the first search, without it: {short(statistics.median(first))} ms; after: {usual(after)}",
        *([f"searches meanwhile: {usual(meanwhile)}, at the most {short(max(meanwhile))} ms"] if meanwhile else []),
    )
    work, soon = f"rebuild of the index of {run.of} from SQLite, in the background", Wanted("ours", False, 3)
    limit, flaw = None if run.large else soon, "" if lost else "there was no index to lose"
    return [Row(f"rebuild {run.of}", work, "s", {OURS: seconds}, wanted=limit, notes=notes, flaw=flaw)]


# ---- change


def change(run: Run) -> list[Row]:
    """Copy the store, remember one by one, and forget."""
    counts, copy = run.counts, run.folder / "copy.sqlite3"
    with run.side("changing", words=run.library.words, model=run.library.model) as side:
        found = {"copied": side.ask("backup", str(copy))}
        copy.unlink()
        found["singles"] = side.ask("one_by_one", counts.singles)
        found["forgotten"] = side.ask("forget", counts.forgets)
        found["after one"] = [side.ask("search"), side.ask("wait")]
        found["users"] = [side.ask("forget_all", user) for user in ("할머니", "서연")]
        found["after all"] = [side.ask("search"), side.ask("wait")]
    return change_rows(run, found)


def change_rows(run: Run, found: dict[str, Any]) -> list[Row]:
    """Return the rows of changes."""
    of, (seconds, size) = run.of, found["copied"]
    after = {name: f"a search afterwards: {short(found[name][0])} ms" for name in ("after one", "after all")}
    waited = f"the background worked {short(found['after one'][1])} s more"
    users = [f"{count:,.0f} in {short(seconds)} s" for seconds, count in found["users"]]
    all_of = [seconds for seconds, _ in found["users"]]
    quick = Wanted("ours", False, 10)
    singles, work = found["singles"], f"one `remember` of one text into {of}, vector given"
    return [
        Row(f"backup {of}", f"backup of {of}", "s", {OURS: [seconds]}),
        Row(f"bytes {of}", f"bytes of the copy, of each of {of} memories", "bytes", {OURS: [size / run.library.size]}),
        Row(f"single {of}", work, "ms", {OURS: singles}, PEER, quick, "p95", (usual(singles),), repeats=1),
        Row(f"forget {of}", f"forget one of {of}", "s", {OURS: found["forgotten"]}, notes=(after["after one"], waited)),
        Row(f"users {of}", f"forget a user in {of}", "s", {OURS: all_of}, notes=(*users, after["after all"])),
    ]


SECTIONS: dict[str, Section] = {
    "ingest": ingest, "search": search, "words": words, "whole": whole, "reopen": reopen, "rebuild": rebuild,
    "change": change,
}  # fmt: skip


# ---- one run


def one(run: Run, name: str) -> list[Row]:
    """Measure one section; a failure is the flaw of a row, so that the others are measured all the same."""
    tell(f"{run.of}: {name} …")
    load, began = (psutil.cpu_percent(0.1), psutil.getloadavg()[0]), time.perf_counter()
    try:
        rows = SECTIONS[name](run)
    except Exception as error:  # noqa: BLE001
        if not isinstance(error, SideFailed):  # whose process has said more
            traceback.print_exc()
        rows = [Row(f"{name} {run.of}", f"{name} {run.of}", "", flaw=f"failed, {type(error).__name__}: {error}")]
    tell(f"{run.of}: {name} took {time.perf_counter() - began:.0f} s")
    return [replace(row, load=load if n == 0 else None) for n, row in enumerate(rows)]


def tell(line: str) -> None:
    """Say how far it is."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, how often, and where the stores lie meanwhile (None: the system's folder for such things)."""

    libraries: Sequence[Library]
    counts: Counts
    rounds: int
    folder: Path | None = None
    names: Sequence[str] = tuple(SECTIONS)


def measure(plan: Plan, make: Make = apart) -> dict[str, Any]:
    """Measure, print what was found, also where Ctrl-C ended it, and return it. Raises `OSError` without room."""
    check_room(plan)
    rows, stopped = list[Row](), False
    try:
        for library in plan.libraries:
            with tempfile.TemporaryDirectory(dir=plan.folder, prefix="gieok-", ignore_cleanup_errors=True) as folder:
                run = Run(library, plan.counts, plan.rounds, Path(folder), make)
                run.lay_out()
                for name in SECTIONS:
                    rows += one(run, name) if name in {"ingest", *plan.names} else []
    except KeyboardInterrupt:
        stopped = True
    print("Interrupted; what was measured until then:\n" if stopped else "", end="")
    print("\n".join(table(rows)))
    about = {**facts(), "rounds": plan.rounds, "counts": asdict(plan.counts)}
    told = [{**asdict(library), "model": Path(library.model).name} for library in plan.libraries]
    return {**about, "libraries": told, "interrupted": stopped, "rows": [row.to_dict() for row in rows]}


def check_room(plan: Plan) -> None:
    """Raise `OSError` where the disk has no room for the largest store and what is made beside it."""
    size = max(library.size for library in plan.libraries)
    need = int(size * plan.counts.dim * BYTES_OF_A_NUMBER)
    where = plan.folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(where).free
    if free < need:
        raise OSError(f"{where} has {free / 1e9:.1f} GB free and {need / 1e9:.1f} GB are needed; name a --folder")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown, and below it what is to be said of its rows."""
    yield f"| work | ours | {PEER} | ratio | wanted | reached |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield f"| {' | '.join([row.work, cell(row, OURS), cell(row, PEER).removesuffix(f', {PEER}'), *verdict(row)])} |"
    yield ""
    for row in rows:
        yield from (f"- {row.name}: {note}" for note in (*([row.flaw] if row.flaw else []), *row.notes))
        if row.load:
            yield f"- {row.name}: before it {row.load[0]:.0f}% of the processor in use, load {row.load[1]:.1f}"


def facts() -> dict[str, Any]:
    """Return what a figure means nothing without: the machine, the versions."""
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **dict(versions(PACKAGES))},
    }


def versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the version of each package that is installed."""
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)
