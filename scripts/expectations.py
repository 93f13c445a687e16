"""What the guide to choosing a local model expects, measured: how long a user waits, and what it takes of RAM.

    python scripts/benchmark.py expectations [--chat NAME,NAME] [--shapes DIR] [--memories N] [--tuned]
                                             [--output FILE] [--quick]

Models of true shape with random weights: a 7B chat model, a 3B one for classification, BGE-M3, and 100,000 memories.
The files, 10 GB, are written once and kept in DIR, and so are the memories. Then the same with the 3B as the chat
model. One engine is used as a desktop application uses it, in a process of its own, whose memory and that of its
children is looked at from outside four times a second. Answers are babble and are cut short; only how soon they begin
counts. What is said are Korean sentences, so that the background finds something in them to remember meanwhile.

`--chat` names the chat models, by their shapes, and keeps what FILE says of others. How models run best is measured
anew first, unless `--tuned`. `--quick` shows with the starter models and 200 memories that all this works, and measures
nothing. On two cores about 20 minutes with the 7B and 15 with the 3B, and 5 once for files and memories.

Exit status 0, also where an expectation was missed; 1 where it could not be measured, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import benchmark_record
import resident
import runtime_benchmark
import shapes
from expectations_day import QUICK, Counts, Plan, Texts
from expectations_table import rows, table
from lifecycle_cast import parts_of, size_of
from memory_group import Resident, family, forget_pages
from memory_group import resident as held_by

from engine import config, layout, ready
from engine.errors import ModelNotFound

CHILD = Path(__file__).with_name("expectations_day.py")
CHATS = ("qwen2.5-7b", "qwen2.5-3b")
LABELS = "qwen2.5-3b"
MEMORIES, FEW_MEMORIES = 100_000, 200
_LOOK = 0.25  # seconds between two looks at memory
_END = 20.0  # seconds until a child whose input was closed must have ended


class Failed(Exception):
    """Nothing could be measured; what happened was printed by the process that should have."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays: a profile, the models that are laid over its roles, and the files of models by name."""

    profile: str
    models: dict[str, str]
    files: dict[str, Path]


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured: chat models by their shapes, or with none the starter profile, beside so many memories.

    `folder` is where files are kept, None for nowhere; `tune`: whether the models' tuning is measured anew.
    """

    chats: tuple[str, ...] = CHATS
    folder: Path | None = None
    memories: int = MEMORIES
    counts: Counts = field(default_factory=Counts)
    tune: bool = True


STARTERS = Options((), None, FEW_MEMORIES, QUICK, tune=False)


# ---- who plays


def true_shapes(chat: str, folder: Path) -> Cast:
    """Return the default profile with `chat` as its chat model; what `folder` lacks is written there.

    Raises `shapes.CannotWrite`, `ModelNotFound` without the starter models, `OSError`.
    """
    known = config.load()
    files = {
        known.model(shape).name: runtime_benchmark.model_of(shape, (folder / f"{shape}.gguf").absolute())
        for shape in dict.fromkeys((chat, LABELS))
    }
    embedding = (folder / resident.EMBEDDING).absolute()
    if not embedding.is_dir():
        print(f"writing {embedding}; it is kept for the next run", file=sys.stderr, flush=True)
        part = embedding.with_name(f"{embedding.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        resident.write_embedding(part).replace(embedding)
    name = known.model(chat).name
    models = {"chat": name, "summary": name, "extraction": name, "classification": known.model(LABELS).name}
    return Cast("default", {**models, "embedding": resident.EMBEDDING}, {**files, resident.EMBEDDING: embedding})


def starters() -> Cast:
    """Return the starter profile. Raises `ModelNotFound`."""
    known = config.load()
    models = known.profile("starter")
    names = sorted({models[role] for role in ("chat", "classification", "embedding")})
    return Cast("starter", dict(models), {name: layout.locate(known.model(name)) for name in names})


def lay(cast: Cast, path: Path) -> Path:
    """Write a models.toml over the packaged one: these files, and nothing else."""
    lines: list[str] = []
    for name, file in cast.files.items():
        lines += [f"[models.{json.dumps(name)}]", f"source = {{ path = {json.dumps(str(file))} }}"]
        lines += [f"size = {size_of(file)}"]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


# ---- a process that is watched


@dataclass(slots=True)
class Record:
    """What a child said, and the most that it and its children held: in all and by step."""

    found: dict[str, Any] | None = None
    step: str = "start"
    peak: Resident = field(default_factory=lambda: Resident(0, 0))
    by_step: dict[str, int] = field(default_factory=dict)
    looks: int = 0

    def hear(self, line: bytes) -> None:
        """Take a line into account; a library's own are none of ours."""
        with suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            if event["event"] == "began":
                self.step = event["step"]
            elif event["event"] == "done":
                print(f"{event['step']:<28}{event['seconds']:8.2f} s", file=sys.stderr, flush=True)
            elif event["event"] == "found":
                self.found = {name: value for name, value in event.items() if name not in {"event", "at"}}

    def look(self, held: Resident) -> None:
        """Take a look into account."""
        self.looks += 1
        self.peak = max(self.peak, held, key=lambda one: one.total)
        self.by_step[self.step] = max(self.by_step.get(self.step, 0), held.total)

    def memory(self) -> dict[str, Any]:
        """Return the bytes, JSON-ready."""
        return {**asdict(self.peak), "total": self.peak.total, "by_step": self.by_step, "looks": self.looks}


def watched(plan: Plan, folder: Path) -> Record:
    """Do a plan in a child process and look at its memory. Raises `Failed`."""
    order, record = plan.write(folder / "plan.json"), Record()
    with subprocess.Popen(
        [sys.executable, str(CHILD), str(order)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        reader = threading.Thread(target=_hear, args=(child.stdout, record))
        reader.start()
        try:
            while child.poll() is None:
                record.look(held_by(family(child.pid)))
                time.sleep(_LOOK)
        finally:
            _end(child)
            reader.join()
    if record.found is None:
        raise Failed(f"the process that was to {plan.what} ended with status {child.returncode} at: {record.step}")
    return record


def _hear(lines: IO[bytes], record: Record) -> None:
    for line in lines:
        record.hear(line)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Close the child's input, on which it ends if it has not yet."""
    assert child.stdin is not None
    child.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        try:
            child.wait(_END)
        finally:  # after another Ctrl-C, too
            child.kill()
            child.wait()


# ---- one chat model


def measured(cast: Cast, options: Options, kept: Path) -> dict[str, Any]:
    """Prepare what is done once on a machine, then measure a day; return what was found. Raises `Failed`, `OSError`.

    Memories that were made stay in the folder `kept`.
    """
    with tempfile.TemporaryDirectory(dir=kept) as name:
        folder = Path(name)
        laid = lay(cast, folder / "models.toml")
        plan = Plan(
            "prepare", str(laid), cast.profile, str(folder / "home"), cast.models, options.memories, options.counts,
            str(folder), tune=options.tune,
        )  # fmt: skip
        prepared = prepare(cast, plan, kept / f"memories-{cast.models['embedding']}-{options.memories}")
        texts = Texts(**{name: tuple(said) for name, said in prepared.pop("texts").items()})
        forget_pages([file for one in cast.files.values() for file in parts_of(one)])
        day = watched(replace(plan, what="day", texts=texts), folder)
    assert day.found is not None
    return {
        "models": cast.models, "memories": options.memories, "counts": asdict(options.counts), "prepared": prepared,
        "memory": day.memory(), **day.found,
    }  # fmt: skip


def prepare(cast: Cast, plan: Plan, store: Path) -> dict[str, Any]:
    """Do what a first start does, and put a copy of `store` at the plan's home; it is made if it is not there."""
    part, new = store.with_name(f"{store.name}.part"), not store.is_dir()
    embedding = config.load(Path(plan.laid)).model(cast.models["embedding"])
    converted = ready.is_ready(embedding, layout.locate(embedding))
    try:
        shutil.rmtree(part, ignore_errors=True)
        first = replace(plan, home=str(part), fill=new)
        record = watched(first, Path(plan.folder))
        if new:
            part.replace(store)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(store, plan.home)
    done = {
        "models tuned": plan.tune,
        f"{embedding.name} converted": not converted and ready.is_ready(embedding, layout.locate(embedding)),
        f"{plan.memories:,} memories imported": new,
    }
    return {**(record.found or {}), "done": [what for what, true in done.items() if true], "memory": record.memory()}


# ---- all of it


def run(options: Options, former: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the report after each chat model; of a `former` one it keeps the others.

    Raises `Failed`, `OSError`, `ModelNotFound`, `shapes.CannotWrite`.
    """
    chats = dict(former.get("chats", {}))
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for shape in options.chats or (None,):
            cast = true_shapes(shape, folder) if shape else starters()
            chat = cast.models["chat"]
            print(f"-- {chat}", file=sys.stderr, flush=True)
            chats[chat] = {**benchmark_record.about(), **measured(cast, options, folder)}
            report = {"chats": chats}
            yield {"rows": [row.to_dict() for row in rows(report)], **report}


def show(options: Options, output: Path | None) -> dict[str, Any]:
    """Measure, keep what was found in `output` after each chat model, print the table and return the report.

    Raises `SystemExit` with what happened where it cannot be measured.
    """
    try:
        former = json.loads(output.read_text(encoding="utf-8")) if output and output.exists() else {}
        for report in run(options, former):
            if output:
                benchmark_record.save(report, output)
    except (Failed, OSError, ValueError, ModelNotFound, shapes.CannotWrite) as error:
        raise SystemExit(str(error)) from None
    print("\n".join(table(report)))
    return report


def chats_of(text: str) -> tuple[str, ...]:
    """Return the shapes that an argument names."""
    names = tuple(text.split(","))
    if unknown := set(names) - set(shapes.SHAPES):
        raise argparse.ArgumentTypeError(f"there is no {min(unknown)!r}; there are {', '.join(shapes.SHAPES)}")
    return names


def shapes_folder() -> Path:
    """Return where models of true shape are kept, unless another folder is named."""
    from platformdirs import user_cache_path

    return user_cache_path("gieok", appauthor=False) / "shapes"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chat", type=chats_of, default=",".join(CHATS), metavar="NAME,NAME", help="%(default)s")
    parser.add_argument("--shapes", type=Path, default=shapes_folder(), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--memories", type=int, default=MEMORIES, metavar="N", help="default: %(default)s")
    parser.add_argument("--tuned", action="store_true", help="run models as they were run best before")
    parser.add_argument("--output", "--json", type=Path, metavar="FILE", help="the report as JSON")
    parser.add_argument("--quick", action="store_true", help="starter models: shows that it works")
    asked = parser.parse_args(arguments)
    options = Options(asked.chat, asked.shapes, asked.memories, tune=not asked.tuned)
    try:
        show(STARTERS if asked.quick else options, asked.output)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
