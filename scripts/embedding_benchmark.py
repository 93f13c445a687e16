"""Embedding on this processor: our fast path against `SentenceTransformer.encode` in float32, A B A B in one run.

What is measured: one text, many, memory whatever comes in, how long jobs hold the thread that a chat needs too, the
load from the prepared cache, and its preparation. The figures to reach are those of BGE-M3's shape on two cores. Each
side runs in a process of its own (`embedding_sides`). `benchmark.py embedding` is the command line.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import embedding_sides
import psutil
import resident
from embedding_sides import Order
from memory_group import family
from runtime_table import OURS, Row, Wanted, cell, p95, short, verdict

from engine import config, layout
from engine.config import ModelSpec

BARE, DENSE, BATCHED = "SentenceTransformer, fp32", "dense alone", "the embedder alone"
PACKAGES = ("gieok", "openvino", "nncf", "torch", "sentence-transformers", "transformers", "tokenizers", "numpy")
SYLLABLES = "가나다라마바사아자차카하고노도로모보소오조호구누두루무부수우주기니디리미비시이지치그는을에서한인의대해"
ENDINGS = ("", "", "은", "는", "이", "가", "을", "를", "에", "도", "로")
TRIES = 500  # words, until a text is exactly so long
SAME = 0.99  # the least cosine to float32 that the fast path may have
_END = 30.0  # seconds until a side whose input was closed must have ended
_LOOK = 0.02  # seconds between two looks at a child's memory


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tokens, and texts, each kind of work has; `singles` a round, the others in all."""

    single: int = 32
    singles: int = 20
    sentence: int = 25
    sentences: int = 1_000
    batch: int = 32
    long: int = 8_192
    short: int = 12
    shorts: int = 10_000
    each: int = 1_000
    job: int = 90
    jobs: int = 300


QUICK = Counts(  # shows that all of it works, and measures nothing
    singles=2, sentences=12, batch=4, long=200, shorts=40, each=10, jobs=8
)


@dataclass(frozen=True, slots=True)
class Model:
    """What is measured: a model's folder, what its entry says, and a folder for what sides write."""

    folder: Path
    spec: ModelSpec
    home: str


class SideFailed(Exception):
    """A side could not do what it was asked, or its process ended; the text says why."""


# ---- sides


class Side:
    """A side in a process of its own; `said` is what it says of itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said: dict[str, Any] = self._answer()

    def ask(self, method: str, *arguments: object) -> Any:
        """Return what a method of the side returns. Raises `SideFailed`."""
        assert self._process.stdin
        with contextlib.suppress(OSError):  # it has ended, which no answer says as well
            print(json.dumps([method, arguments]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SideFailed(f"its process ended with status {self._process.wait()}")
        found = json.loads(line)
        if "error" in found:
            raise SideFailed(found["error"])
        return found["answer"]


def apart(order: Order) -> AbstractContextManager[Side]:
    """Make a side in a new process, which ends with the block. Raises `SideFailed`."""
    return process_of(embedding_sides.__file__, asdict(order))


@contextlib.contextmanager
def process_of(script: str, order: dict[str, Any]) -> Iterator[Side]:
    """Have a script of sides follow an order in a process of its own. Raises `SideFailed`."""
    command = [sys.executable, script, json.dumps(order)]
    root = str(Path(__file__).parents[1])  # a checkout that is not installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8", env=environment) as process:
        try:
            yield Side(process)
        finally:
            assert process.stdin
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def children_watched() -> Iterator[dict[int, int]]:
    """Note, inside the block, the most bytes that each child of this process's children has in RAM, by its number."""
    most: dict[int, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK):
            for child in psutil.Process().children():
                for pid in family(child.pid)[1:]:
                    most[pid] = max(most.get(pid, 0), _most(pid))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        done.set()
        watching.join()


def _most(pid: int) -> int:
    """Return the most bytes that a process had in RAM so far, or has now where the system does not say that."""
    with contextlib.suppress(OSError, StopIteration):
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
        return next(1024 * int(words[1]) for words in lines if words[:1] == ["VmHWM:"])
    with contextlib.suppress(psutil.Error):
        memory = psutil.Process(pid).memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    return 0


# ---- texts


class Texts:
    """Texts of made-up Korean words that are exactly so many tokens as the model reads them, markers and prefix too.

    No two are alike.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        """Read the tokenizer of a model's folder. Raises `OSError` where it has none."""
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._prefix = prefix

    def count(self, text: str) -> int:
        """Return how many tokens the model reads."""
        return len(self._tokenizer.encode(self._prefix + text).ids)

    def of(self, seed: str, tokens: int, number: int) -> list[str]:
        """Return so many texts. Raises `ValueError` where no words fit."""
        return [exact(f"{seed} {n}", tokens, self.count) for n in range(number)]

    def about(self, seed: str, tokens: int, number: int) -> list[str]:
        """Return so many texts of about that many tokens, in no order. Raises `ValueError`."""
        texts = [exact(f"{seed} {n}", tokens - 2 + n % 5, self.count) for n in range(number)]
        random.Random(seed).shuffle(texts)
        return texts


def exact(seed: str, tokens: int, count: Callable[[str], int]) -> str:
    """Return made-up words that `count` finds to be so many tokens. Raises `ValueError` where it finds none."""
    drawn = random.Random(seed)
    text, size = "", count("")
    for _ in range(TRIES):
        if size == tokens:
            return text
        more = [word(drawn) for _ in range(max(1, (tokens - size) // 6))]  # a word is up to about six tokens
        longer = " ".join([text, *more]).strip()
        if size < (found := count(longer)) <= tokens:
            text, size = longer, found
    raise ValueError(f"no words were found that are exactly {tokens} tokens")


def word(drawn: random.Random) -> str:
    """Return a made-up word."""
    stem = "".join(drawn.choice(SYLLABLES) for _ in range(drawn.randint(1, 3)))
    return stem + (drawn.choice(ENDINGS) if len(stem) > 1 else "")


# ---- one run

Make = Callable[[Order], AbstractContextManager[Side]]


class Run:
    """One run: a model, how often and how much is measured of it, its texts, and how a side is made."""

    def __init__(self, model: Model, rounds: int, counts: Counts, make: Make = apart) -> None:
        self.model, self.rounds, self.counts = model, rounds, counts
        self.prefix = model.spec.passage_prefix
        self.texts = Texts(model.folder, self.prefix)
        self._make = make
        self.context: dict[str, Any] = {}

    def side(self, name: str) -> AbstractContextManager[Side]:
        """Make a side."""
        model = self.model
        return self._make(Order(name, str(model.folder.absolute()), model.spec.model_dump_json(), model.home))

    def note(self, name: str, side: Side) -> str:
        """Keep what a side says of itself, and return what is wrong with it."""
        self.context[name] = side.said
        return "" if side.said.get("fast", True) else "torch served it, not what was prepared"

    def prefixed(self, texts: Sequence[str]) -> list[str]:
        """Return what others must be given, that put no prefix before a text themselves."""
        return [self.prefix + text for text in texts]

    def part(self, texts: list[str], n: int) -> list[str]:
        """Return the texts of round n: in all rounds together each one once."""
        return texts[n :: self.rounds]


Section = Callable[[Run], list[Row]]


def preparation(run: Run) -> list[Row]:
    """Prepare the cache; what comes after loads from it."""
    with run.side("preparing") as side, children_watched() as most:
        seconds = side.ask("prepare")
    size = sum(file.stat().st_size for file in run.model.folder.glob(".openvino*/*") if file.is_file())
    rows = [Row("prepare", "preparation of the cache, once", "s", {OURS: [seconds]}, notes=(f"{size / 1e9:.2f} GB",))]
    peaks = [max(most.values()) / 1e9] if most else []
    return [*rows, Row("prepare memory", "the same: most memory of its child process", "GB", {OURS: peaks})]


def load(run: Run) -> list[Row]:
    """Start a process that loads from the cache and embeds, again and again."""
    found: dict[str, list[float]] = {name: [] for name in ("load", "imports", "first", "loaded", "worked")}
    text, flaw = run.texts.of("first", run.counts.single, 1), ""
    for _ in range(run.rounds):
        began = time.perf_counter()
        with run.side("fast") as side:
            flaw = run.note("fast", side)
            heads = side.said["heads"]
            held = side.ask("held", text, heads)
            found["first"].append(time.perf_counter() - began)
        for name in ("load", "imports"):
            found[name].append(side.said[name])
        found["loaded"].append(side.said["resident"] / 1e9)
        found["worked"].append(held["after"] / 1e9)
    ours = {name: {OURS: values} for name, values in found.items()}
    most, soon = Wanted("ours", False, 1.6), Wanted("ours", False, 3)
    return [
        Row("load", "load from the cache, beyond imports", "s", ours["load"], wanted=soon, flaw=flaw),
        Row("imports", "what it imports", "s", ours["imports"]),
        Row("start", "process start to first vector, imports included", "s", ours["first"]),
        Row("resident", "in RAM after loading, imports included", "GB", ours["loaded"], wanted=most, flaw=flaw),
        Row("resident later", "in RAM after a text, all heads", "GB", ours["worked"]),
    ]  # fmt: skip


def single(run: Run) -> list[Row]:
    """One text after the other."""
    bare, dense, every = list[float](), list[float](), list[float]()
    with run.side("fast") as fast, run.side("bare") as theirs:
        flaw = run.note("fast", fast) or unlike(run, fast, theirs)
        run.note("bare", theirs)
        heads = fast.said["heads"]
        for n in range(run.rounds):
            texts = run.texts.of(f"single {n}", run.counts.single, run.counts.singles)
            dense += fast.ask("times", texts, ["dense"])
            bare += theirs.ask("times", run.prefixed(texts))
            every += fast.ask("times", texts, heads)
    rows = single_rows({OURS: dense, BARE: bare}, {OURS: every, DENSE: dense}, run.counts.single, flaw)
    return [replace(row, repeats=run.rounds) for row in rows]


def single_rows(
    against: dict[str, list[float]], all_heads: dict[str, list[float]], tokens: int, flaw: str
) -> list[Row]:
    """Return the rows of one text, from milliseconds."""
    text, limit = f"one text of {tokens} tokens", Wanted("ours", False, 100)
    ratio, little = Wanted("ours/theirs", False, 0.4), Wanted("ours/theirs", False, 1.1)
    dense, every = {OURS: against[OURS]}, {OURS: all_heads[OURS]}
    notes = tuple(f"{name}: p95 {short(p95(values))} ms" for name, values in against.items())
    return [
        Row("text", f"{text}, dense", "ms", against, BARE, ratio, notes=notes, flaw=flaw),
        Row("dense", f"{text}, dense: p50", "ms", dense, BARE, limit, flaw=flaw),
        Row("all heads", f"{text}, all heads: p50", "ms", every, DENSE, limit, flaw=flaw),
        Row("heads", f"{text}, all heads against dense", "ms", all_heads, DENSE, little, flaw=flaw),
    ]


def unlike(run: Run, fast: Side, theirs: Side) -> str:
    """Return what is wrong if the two sides do not make the same of a text."""
    (text,) = run.texts.of("the same", run.counts.single, 1)
    one, other = fast.ask("vector", text), theirs.ask("vector", run.prefix + text)
    lengths = [sum(x * x for x in vector) ** 0.5 for vector in (one, other)]
    cosine: float = sum(x * y for x, y in zip(one, other, strict=True)) / (lengths[0] * lengths[1])
    run.context["cosine"] = cosine
    return "" if cosine >= SAME else f"the sides' vectors differ, cosine {cosine:.4f}"


def throughput(run: Run) -> list[Row]:
    """Many sentences, of about one length, in rounds."""
    counts, rates = run.counts, dict[str, list[float]]()
    texts = run.texts.about("many", counts.sentence, counts.sentences)
    with run.side("fast") as fast, run.side("bare") as theirs, run.side("whole") as whole:
        flaw = run.note("fast", fast)
        flaws = flaw, run.note("whole", whole)
        work: dict[str, Callable[[list[str]], float]] = {
            BATCHED: lambda part: fast.ask("all_of", part, counts.batch),
            BARE: lambda part: theirs.ask("all_of", run.prefixed(part), counts.batch),
            OURS: lambda part: whole.ask("all_of", part),
        }
        for warm in work.values():
            warm(texts[: counts.batch])
        for n in range(run.rounds):
            for side, seconds in work.items():
                part = run.part(texts, n)
                rates.setdefault(side, []).append(len(part) / seconds(part))
    many, twice = f"{len(texts):,} sentences of about {counts.sentence} tokens", Wanted("ours/theirs", True, 2)
    embedder, engine = ({OURS: rates[side], BARE: rates[BARE]} for side in (BATCHED, OURS))
    return [
        Row(
            "batches",
            f"{many}, the embedder, batches of {counts.batch}",
            "texts/s",
            embedder,
            BARE,
            twice,
            flaw=flaws[0],
        ),
        Row("engine", f"{many}, `Engine.embed` in its short jobs", "texts/s", engine, BARE, twice, flaw=flaws[1]),
    ]


def long(run: Run) -> list[Row]:
    """One text as long as the model reads at once."""
    with run.side("fast") as side:
        flaw, heads = run.note("fast", side), side.said["heads"]
        tokens = min(run.counts.long, side.said["max_tokens"])
        found = side.ask("held", run.texts.of("long", tokens, 1), heads)
    work, grown = f"one text of {tokens:,} tokens, all heads", found["peak"] - found["before"]
    notes = (f"{grown / 1e9:+.2f} GB at the most, {found['after'] / 1e9:.2f} GB afterwards",)
    return [
        Row("long", f"{work}: most memory", "GB", {OURS: [found["peak"] / 1e9]}, notes=notes, flaw=flaw),
        Row("long time", work, "s", {OURS: [found["seconds"]]}),
    ]


def shorts(run: Run) -> list[Row]:
    """Very many short texts in one call."""
    counts = run.counts
    with run.side("whole") as side:
        flaw = run.note("whole", side)
        found = side.ask("many", run.texts.of("short", counts.short, counts.shorts), counts.each)
    work = f"{counts.shorts:,} texts of {counts.short} tokens in one call"
    notes = (*growth(found["marks"], found["vectors"], counts.each),)
    return [
        Row("short", f"{work}: most memory", "GB", {OURS: [found["peak"] / 1e9]}, notes=notes, flaw=flaw),
        Row("short time", work, "s", {OURS: [found["seconds"]]}, flaw=flaw),
    ]


def growth(marks: Sequence[tuple[int, int]], vectors: int, each: int) -> Iterator[str]:
    """Yield what was in RAM as more and more texts were done, and what the vectors take that the caller is given."""
    yield f"the vectors that it returns take {vectors / 1e6:.1f} MB"
    if len(marks) > 1:
        (first, before), (last, after) = marks[0], marks[-1]
        rate = (after - before) / (last - first) * each
        yield f"from {first:,} to {last:,} texts {(after - before) / 1e6:+.1f} MB, {rate / 1e6:+.2f} MB each {each:,}"


def beside(run: Run) -> list[Row]:
    """Many texts beside a running chat with the starter model."""
    counts = run.counts
    half = counts.jobs // 2
    texts = [*run.texts.of("job", counts.job, half), *run.texts.of("job", counts.sentence, counts.jobs - half)]
    random.Random(0).shuffle(texts)
    with run.side("whole") as side:
        flaw = run.note("whole", side)
        found = side.ask("beside_a_chat", texts)
    work, limit = "beside a running chat, texts of up to 90 tokens", Wanted("ours", False, 150)
    usual = (f"median {statistics.median(found['jobs']):.0f} ms of {len(found['jobs'])}",)
    work = work.replace("90", str(counts.job))
    return [
        Row("jobs", f"{work}: longest job", "ms", {OURS: [max(found["jobs"])]}, wanted=limit, notes=usual, flaw=flaw),
        Row("pieces", f"{work}: between two pieces of the answer", "ms", {OURS: found["gaps"]}, pick="p95", repeats=1),
    ]


SECTIONS: dict[str, Section] = {
    "preparation": preparation, "load": load, "single": single, "throughput": throughput, "long": long,
    "shorts": shorts, "beside": beside,
}  # fmt: skip


def one(run: Run, name: str) -> list[Row]:
    """Measure one section; a failure is the flaw of a row, so that the others are measured all the same."""
    print(f"{name} …", file=sys.stderr, flush=True)
    load = (psutil.cpu_percent(0.1), psutil.getloadavg()[0])
    try:
        rows = SECTIONS[name](run)
    except Exception as error:  # noqa: BLE001
        if not isinstance(error, SideFailed):  # whose process has said more
            traceback.print_exc()
        rows = [Row(name, name, "", flaw=f"failed, {type(error).__name__}: {error}")]
    return [replace(row, load=load if n == 0 else None) for n, row in enumerate(rows)]


def measure(
    model: Model, rounds: int, counts: Counts, names: Sequence[str] = tuple(SECTIONS), make: Make = apart
) -> dict[str, Any]:
    """Measure sections, print what was found, also where Ctrl-C ended it, and return it.

    The cache is prepared in any case. Raises `OSError` where the model has no tokenizer.json.
    """
    run, rows, stopped = Run(model, rounds, counts, make), list[Row](), False
    try:
        for name in SECTIONS:
            rows += one(run, name) if name in {"preparation", *names} else []
    except KeyboardInterrupt:
        stopped = True
    about = {**facts(run), "rounds": run.rounds, "counts": asdict(run.counts), "sides": run.context}
    print("Interrupted; what was measured until then:\n" if stopped else "", end="")
    print("\n".join(table(rows)))
    return {**about, "interrupted": stopped, "rows": [row.to_dict() for row in rows]}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown, and below it what is to be said of its rows."""
    yield "| work | ours | against | ratio | wanted | reached |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield f"| {' | '.join([row.work, cell(row, OURS), cell(row, row.against), *verdict(row)])} |"
    yield ""
    for row in rows:
        yield from (f"- {row.name}: {note}" for note in (*([row.flaw] if row.flaw else []), *row.notes))
        if row.load:
            yield f"- {row.name}: before it {row.load[0]:.0f}% of the processor in use, load {row.load[1]:.1f}"


def facts(run: Run) -> dict[str, Any]:
    """Return what a figure means nothing without: the model, the machine, the versions."""
    versions = dict[str, str]()
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "model": run.model.spec.name,
        "bytes": sum(file.stat().st_size for file in layout.weights(run.model.folder)),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), **versions},
    }


# ---- models


@contextlib.contextmanager
def opened(model: str, keep: Path | None, folder: Path | None) -> Iterator[Model]:
    """Lay out a model of the catalogue, one in a folder, or, for "", BGE-M3's shape, kept in `keep` if that is given.

    What is written lies in a temporary folder in `folder`, else beside the model, where files can have two names.
    Raises `ModelNotFound`, `OSError`.
    """
    known, source = model_of(model, keep)
    spec = known.model_copy(update={"backend": "openvino"})  # nothing else may take its place unseen
    where = folder or (source.parent if source else None)
    with tempfile.TemporaryDirectory(dir=where, prefix="gieok-") as home:
        source = source or resident.write_embedding(keep or Path(home, "shape"))
        yield Model(linked(source, Path(home, "model")), spec, home)


def model_of(model: str, keep: Path | None) -> tuple[ModelSpec, Path | None]:
    """Return what is known of a model, and where it is; None: it has yet to be written. Raises `ModelNotFound`."""
    if Path(model).is_dir() and model:
        return in_folder(Path(model)), Path(model).absolute()
    spec = config.load().model(model or resident.EMBEDDING)
    if model:
        return spec, layout.locate(spec)
    return spec, keep.absolute() if keep and keep.is_dir() else None


def in_folder(folder: Path) -> ModelSpec:
    """Return the entry of a model that only its files tell about."""
    return ModelSpec.model_validate({"name": folder.name, "kind": "embedding", "source": {"path": str(folder)}})


def linked(source: Path, target: Path) -> Path:
    """Return a copy of a model's folder that takes no room where files can have two names, and has no cache yet."""

    def link(old: str, new: str) -> None:
        try:
            Path(new).hardlink_to(Path(old).resolve())
        except OSError:
            shutil.copyfile(old, new)

    shutil.copytree(source, target, copy_function=link, ignore=shutil.ignore_patterns(".*"))
    return target
