"""Models come and go inside a budget: answers, loads and memory, watched from outside. `soak.py lifecycle` runs it.

What is driven runs in a child process (`lifecycle_child`), in a group that the kernel holds to the limit where one can
be had; this process looks four times a second at what the child and its children have in RAM.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import lifecycle_cast
from lifecycle_cast import Cast
from lifecycle_child import Part, written
from memory_group import Account, MemoryGroup, Resident, family, forget_pages, limited, resident

CHILD = Path(__file__).with_name("lifecycle_child.py")
PARTS = ("shapes", "everything", "rounds")
LOOK = 0.25  # seconds between two looks at the child's memory
EVERYTHING_MOST = 12 * 10**9  # bytes that the default profile may hold with everything resident
NEAR = 0.1  # by how much an estimate may be off
_END = 20.0  # seconds until a child whose input was closed must have ended


@dataclass(frozen=True, slots=True)
class Options:
    """What is run: which parts, for how many rounds or (if not 0) hours, and inside how many bytes."""

    cast: Cast
    parts: tuple[str, ...]
    rounds: int
    hours: float
    memories: int
    limit: int


@dataclass(slots=True)
class Record:
    """What a child said, and what it held meanwhile: the most bytes, in all and by step."""

    events: list[dict[str, Any]] = field(default_factory=list)
    peak: Resident = field(default_factory=lambda: Resident(0, 0))
    anonymous: int = 0
    by_step: dict[str, int] = field(default_factory=dict)
    looks: int = 0
    account: Account | None = None
    status: int = 0

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the events of a kind."""
        return [one for one in self.events if one["event"] == event]

    def found(self) -> dict[str, Any] | None:
        """Return what was measured, if the child got so far."""
        return next(iter(self.of("found")), None)

    def look(self, held: Resident) -> None:
        """Take a look into account."""
        self.looks += 1
        self.peak = max(self.peak, held, key=lambda one: one.total)
        self.anonymous = max(self.anonymous, held.anonymous)
        steps = [one["step"] for one in self.events if "step" in one]
        step = steps[-1] if steps else "start"
        self.by_step[step] = max(self.by_step.get(step, 0), held.total)


# ---- a child


def watch(part: Part, folder: Path, group: MemoryGroup | None) -> Record:
    """Run a part in a child, inside `group` if there is one, and return what it said and held."""
    order = written(part, folder / f"{part.what}.json")
    command = [sys.executable, str(CHILD), str(order)]
    command = group.command(command) if group else command
    record = Record()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        reader = threading.Thread(target=_read, args=(child.stdout, record))
        reader.start()
        try:
            while child.poll() is None:
                record.look(resident(group.processes() if group else family(child.pid)))
                time.sleep(LOOK)
        finally:
            try:
                record.status = _end(child)
            finally:
                reader.join()
    record.account = group.account() if group else None
    return record


def _read(lines: IO[bytes], record: Record) -> None:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library wrote to stdout
        if isinstance(event, dict) and "event" in event:
            record.events.append(event)
            _tell(event)


def _tell(event: dict[str, Any]) -> None:
    if event["event"] == "done":
        text = f"{event['seconds']:6.1f} s, {event['held'] / 1e9:5.2f} GB held, {', '.join(event['loaded'])}"
        print(f"{event['round'] + 1:>4} {event['step']:<22}{text}", file=sys.stderr, flush=True)
    elif event["event"] in {"failed", "warning"}:
        print(f"     {event['event']}: {event['text']}", file=sys.stderr, flush=True)


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close the child's input, on which it ends if it has not yet; return its status."""
    assert child.stdin is not None
    child.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        try:
            child.wait(_END)
        finally:  # after another Ctrl-C, too
            child.kill()
            child.wait()
    return child.returncode


# ---- parts


def run(options: Options) -> dict[str, Any]:
    """Run the parts and return the report. Raises `OSError`, `shapes.CannotWrite`."""
    began = time.time()
    report: dict[str, Any] = {"machine": machine(), "limit": options.limit, "memories": options.memories}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        laid = str(lifecycle_cast.lay(options.cast, options.limit, folder))
        if "shapes" in options.parts:
            report["shapes"] = [shape_row(options, laid, folder, one) for one in options.cast.names]
        home = folder / "home"
        if {"everything", "rounds"} & set(options.parts):
            dim = lifecycle_cast.dimension(options.cast, Path(laid))
            print(f"writing {options.memories:,} memories", file=sys.stderr, flush=True)
            space = lifecycle_cast.space_of(options.cast, Path(laid))
            lifecycle_cast.write_memories(home, options.memories, space, dim)
        if "everything" in options.parts:
            record = watch(Part("everything", laid, str(home), options.cast), folder, None)
            report["everything"] = {**summary(record), "found": record.found()}
        if "rounds" in options.parts:
            report["rounds"] = rounds(options, laid, home, folder)
    report["seconds"] = time.time() - began
    return {**report, "checks": checks(report, options)}


def rounds(options: Options, laid: str, home: Path, folder: Path) -> dict[str, Any]:
    """Drive the rounds inside the limit. The first reading of each model's files is charged to the group."""
    part = Part("rounds", laid, str(home), options.cast, options.rounds, options.hours * 3600)
    with limited(options.limit) as group:
        if group is None:
            print("no memory group can be had here: resident memory is only looked at", file=sys.stderr, flush=True)
        else:
            forget_pages([file for name in options.cast.files.values() for file in lifecycle_cast.parts_of(Path(name))])
        record = watch(part, folder, group)
    return {**summary(record), "found": record.found()}


def shape_row(options: Options, laid: str, folder: Path, name: str) -> dict[str, Any]:
    """Compare the estimate of one model with what a process grew by, as on a machine that has measured nothing yet."""
    with ExitStack() as stack:
        notes = stack.enter_context(tempfile.TemporaryDirectory())
        for variable in ("GIEOK_MODELS", "XDG_CACHE_HOME"):
            stack.callback(_restore, variable, os.environ.get(variable))
            os.environ[variable] = notes
        part = Part("shape", laid, str(folder / f"home {name}"), options.cast, model=name)
        record = watch(part, folder, None)
    found = record.found() or {}
    print(f"     {name}: {_estimates(found)}", file=sys.stderr, flush=True)
    return {"model": name, **summary(record), "found": found or None}


def _restore(variable: str, value: str | None) -> None:
    if value is None:
        del os.environ[variable]
    else:
        os.environ[variable] = value


# ---- the report


def summary(record: Record) -> dict[str, Any]:
    """Return what a child did and held, JSON-ready."""
    done = record.of("done")
    seconds: dict[str, list[float]] = {}
    for one in done:
        seconds.setdefault(one["step"], []).append(one["seconds"])
    return {
        "answers": len(done),
        "failures": _failures(record),
        "loads": dict(Counter(one["model"] for one in record.of("loaded"))),
        "warnings": dict(Counter(f"{one['logger']}: {one['text']}" for one in record.of("warning"))),
        "seconds": {step: _spread(values) for step, values in seconds.items()},
        "peak": {**asdict(record.peak), "total": record.peak.total, "most_anonymous": record.anonymous},
        "peak_by_step": record.by_step,
        "looks": record.looks,
        "group": record.account.to_dict() if record.account else None,
    }


def _failures(record: Record) -> list[str]:
    failed = [
        f"{one['step']} of round {one['round'] + 1}: {one['error']}: {one['text']}" for one in record.of("failed")
    ]
    ended = "was killed by signal" if record.status < 0 else "ended with status"
    return failed + ([f"the process {ended} {abs(record.status)}"] if record.status else [])


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"first": values[0], "median": statistics.median(values), "highest": max(values), "count": len(values)}


def machine() -> dict[str, Any]:
    """Return what this runs on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }


def checks(report: dict[str, Any], options: Options) -> dict[str, bool]:
    """Return what was wanted, and whether it was reached; only what was measured."""
    found: dict[str, bool] = {}
    if rows := report.get("shapes"):
        found["every estimate within 10% of the growth"] = all(near(row["found"] or {}) for row in rows)
    if part := report.get("everything"):
        status = (part["found"] or {}).get("models")
        limit = min(EVERYTHING_MOST, options.limit)
        found["everything resident stays under 12 GB"] = status is not None and status["resident"] < limit
    if part := report.get("rounds"):
        found["every answer arrived"] = not part["failures"] and part["answers"] > 0
        found["every model was loaded"] = set(part["loads"]) == set(options.cast.names)
        found["the peak is within the limit"] = part["peak"]["total"] <= options.limit
        if part["group"] and part["group"]["kills"] is not None:
            found["nothing was killed"] = part["group"]["kills"] == 0
    return found


def near(found: dict[str, Any]) -> bool:
    """Return whether an estimate that was not corrected yet was as good as it has to be, after work."""
    if not found or found["plan"]["measured"] or not found["plan"]["ram"]["total"]:
        return False
    return bool(abs(found["plan"]["ram"]["total"] - found["worked"]) <= NEAR * found["worked"])


def _estimates(found: dict[str, Any]) -> str:
    if not found:
        return "nothing was measured"
    sizes = (found["plan"]["ram"]["total"] or 0, found["loaded"], found["worked"])
    words = "estimated {:.2f} GB, grown by {:.2f} GB when loaded, by {:.2f} GB after work"
    return words.format(*(size / 1e9 for size in sizes)) + f" ({sizes[0] / sizes[2]:.2f})"


def table(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report for a reader."""
    for row in report.get("shapes", ()):
        yield f"{row['model']}: {_estimates(row['found'] or {})}"
    if everything := (report.get("everything") or {}).get("found"):
        without, with_index = (everything[name]["resident"] / 1e9 for name in ("models", "with_index"))
        index = f"with the index of {report['memories']:,} memories {with_index:.2f} GB"
        yield f"everything resident: {without:.2f} GB, {index}"
    if part := report.get("rounds"):
        yield from _rounds_table(part)
    for name in ("everything", "rounds"):
        yield from (f"FAILED {failure}" for failure in (report.get(name) or {}).get("failures", ()))
    for row in report.get("shapes", ()):
        yield from (f"FAILED {row['model']}: {failure}" for failure in row["failures"])
    yield from (f"{'met   ' if met else 'MISSED'} {what}" for what, met in report["checks"].items())


def _rounds_table(part: dict[str, Any]) -> Iterator[str]:
    yield f"{'step':<24}{'first':>9}{'median':>9}{'highest':>9}{'peak':>12}"
    for step, one in part["seconds"].items():
        times = "".join(f"{one[name]:>7.1f} s" for name in ("first", "median", "highest"))
        peak = part["peak_by_step"].get(step)  # a short step may end between two looks
        yield f"{step:<24}{times}" + (f"{peak / 1e9:>9.2f} GB" if peak else f"{'–':>12}")
    yield f"answers: {part['answers']}, loads: " + ", ".join(f"{name} {n}" for name, n in part["loads"].items())
    most = part["peak"]
    parts = f"{most['anonymous'] / 1e9:.2f} GB anonymous, {most['file_backed'] / 1e9:.2f} GB of files"
    yield f"peak: {most['total'] / 1e9:.2f} GB ({parts}), of {part['looks']:,} looks"
    if group := part["group"]:
        yield f"the kernel's account: {group}"
