#!/usr/bin/env python3
"""Change a module in small wrong ways, one at a time, and count how many of them its tests notice.

    python scripts/mutation.py [prompt|memory|FILE ...] [--limit N] [--seed S] [--json FILE] [--survivors]
                               [--workers N] [--least PERCENT] [--list]

Without a name: prompt and memory. A FILE such as engine/ranking.py is held against tests/test_ranking.py.

The changes: comparisons (other bound, other way), `and`/`or` (swapped, one side left out), `not` and minus (left out),
arithmetic, constants (a number one more and one less, text and lists emptied, truth values), conditions (always,
never), slices (an end left out), arguments (keywords and the last of several left out), text methods (left out),
results (empty, None, the contrary), statements and `with` (left out), `except` (wider, narrower, raised again).

Left out, and counted: docstrings, annotations, imports, TYPE_CHECKING and Protocols, decorators, `assert`, calls of a
logger, __repr__; and what any run would tell: the only value of a local name, a tuple that is unpacked. The few mutants
that no test can tell from the module are named, with the reason, in scripts/mutation_equivalents.toml, and not counted.

Each mutant runs in a child process in a copy of the tree in the system's temporary folder, against those of the
module's tests that run the changed statement, or start processes, the fastest first, until one fails; then, if none
did, against all the others. One that keeps a test for more than five times its time, and 20 seconds, is hung, and
counts as killed. Examples of hypothesis are the same in every run.

--json FILE keeps every verdict; what stands there about the same module, tests and changes is not run again, so that an
interrupted run goes on where it was. With --survivors only what survived there is run again, though the tests are
others now: quick while tests are written, but a figure to report takes a whole run.

Exit status 0, 1 where fewer were killed than --least, 2 where the tests fail on the module as it is, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import queue
import random
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mutation_changes import Mutant, mutants
from mutation_runs import ROOT, CannotTry, Copy, Running, Target, Trial, Verdict

TESTS = {
    "prompt": ("prompt",),
    "memory": (
        "memory",
        "backfill",
        "settling",
        "retriever",
        "conversations",
        "forgetting",
        "transcript",
        "memory_clock",
    ),
}
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.toml")
LEAST = 80.0
WORKERS = 2


def target(name: str, root: Path = ROOT) -> Target:
    """Return what `name` stands for: one of TESTS, or a module's file. Raises `CannotTry`."""
    module = f"engine/{name}.py" if name in TESTS else Path(name).as_posix().removeprefix("./")
    tests = tuple(f"tests/test_{test}.py" for test in TESTS.get(Path(module).stem, (Path(module).stem,)))
    for file in (module, *tests):
        if not (root / file).is_file():
            raise CannotTry(f"there is no {file}; name prompt, memory, or a module with tests of its own.")
    return Target(root, module, tests)


def equivalents(module: str, file: Path = EQUIVALENTS) -> dict[str, str]:
    """Return the reasons for which mutants of a module are not counted, by their names."""
    listed = tomllib.loads(file.read_text(encoding="utf-8")).get("mutant", [])
    names = {f"{one['where']} {one.get('number', 1)}\n{one['change'].strip()}": one for one in listed}
    return {name: one["reason"] for name, one in names.items() if one["module"] == module}


@dataclass
class Report:
    """What is known of a module's mutants: verdicts by name."""

    target: Target
    mutants: list[Mutant]
    equivalent: dict[str, str]
    skipped: Counter[str]
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    trial: Trial | None = None

    @property
    def counted(self) -> list[Mutant]:
        return [mutant for mutant in self.mutants if mutant.name in self.verdicts]

    @property
    def survivors(self) -> list[Mutant]:
        return [mutant for mutant in self.counted if self.verdicts[mutant.name].end == "survived"]

    @property
    def score(self) -> float:
        """Per cent killed of those that were tried."""
        return 100 * (1 - len(self.survivors) / len(self.counted)) if self.counted else 0.0

    @cached_property
    def digest(self) -> str:
        """What its verdicts depend on: the module, its tests and what changes it, as they were at first."""
        names = (self.target.module, *self.target.tests)
        files = [*(self.target.root / name for name in names), Path(__file__).with_name("mutation_changes.py")]
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()

    def recall(self, kept: dict[str, Any], survivors: bool) -> None:
        """Take over the verdicts of an earlier run; with `survivors`, all but theirs whatever the tests are."""
        same = kept.get("digest") == self.digest
        known = {mutant.name for mutant in self.mutants}
        self.trial = Trial(**kept["trial"]) if same and kept.get("trial") else None
        for name, verdict in kept.get("verdicts", {}).items():
            if name in known and (verdict["end"] != "survived" if survivors else same):
                self.verdicts[name] = Verdict(**verdict)

    def to_dict(self) -> dict[str, Any]:
        """Return what a JSON file keeps."""
        verdicts = {name: asdict(verdict) for name, verdict in self.verdicts.items()}
        figures = {"mutants": len(self.mutants), "tried": len(self.counted), "killed_percent": round(self.score, 1)}
        trial = self.trial and asdict(self.trial)
        return {
            "digest": self.digest,
            **figures,
            "equivalent": len(self.equivalent),
            "verdicts": verdicts,
            "trial": trial,
        }

    def lines(self) -> Iterator[str]:
        """Yield the survivors with their diffs, a table by operator, and the sum."""
        for mutant in sorted(self.survivors, key=lambda mutant: (mutant.line, mutant.number)):
            place = f"{self.target.module}:{mutant.line}"
            yield f"{place}: {mutant.operator} in {mutant.where or 'the module'} survived"
            yield from (f"    {line}" for line in mutant.diff)
        ends = Counter((mutant.operator, self.verdicts[mutant.name].end) for mutant in self.counted)
        yield f"{'changed':<14}{'killed':>8}{'hung':>8}{'survived':>10}"
        for operator in sorted({operator for operator, _ in ends}):
            killed, hung, survived = (ends[operator, end] for end in ("killed", "hung", "survived"))
            yield f"{operator:<14}{killed:>8}{hung:>8}{survived:>10}"
        for reason, number in self.skipped.most_common():
            yield f"left out: {number} of {reason}"
        noticed, tried = len(self.counted) - len(self.survivors), len(self.counted)
        yield f"{self.target.module}: {noticed} of {tried} mutants noticed, {self.score:.1f} %" + (
            f"; {len(self.equivalent)} listed as equivalent" if self.equivalent else ""
        )


def planned(chosen: Target, seed: int, limit: int | None, file: Path = EQUIVALENTS) -> Report:
    """Return the report to fill: mutants in the order of `seed`, the first `limit`, without equivalent ones."""
    skipped = Counter[str]()
    made = mutants(chosen.text, skipped)
    reasons = equivalents(chosen.module, file)
    if stale := reasons.keys() - {mutant.name for mutant in made}:
        raise CannotTry(f"{file.name} names what is no mutant of {chosen.module}:\n" + "\n".join(sorted(stale)))
    counted = [mutant for mutant in made if mutant.name not in reasons]
    random.Random(seed).shuffle(counted)
    return Report(chosen, counted[:limit], reasons, skipped)


class Tries:
    """Fills reports with verdicts, some mutants at a time."""

    def __init__(self, workers: int, keep: Path | None, survivors: bool = False) -> None:
        self._workers, self._keep, self._survivors = workers, keep, survivors
        self._running = Running()

    def run(self, report: Report) -> None:
        """Try every mutant that has no verdict yet. Raises `CannotTry`."""
        report.recall(self._kept().get(report.target.module, {}), self._survivors)
        todo = [mutant for mutant in report.mutants if mutant.name not in report.verdicts]
        if not todo:
            return
        with tempfile.TemporaryDirectory(prefix="gieok-mutation-", ignore_cleanup_errors=True) as folder:
            copies = [Copy(report.target, Path(folder, str(n)), self._running) for n in range(self._workers)]
            if report.trial is None:
                tell(f"{report.target.module}: its tests, unchanged")
                report.trial = Trial.of(copies[0])
            took = sum(report.trial.seconds.values())
            tell(f"{report.target.module}: {len(todo)} mutants; unchanged the tests take {took:.0f} s")
            with ThreadPoolExecutor(self._workers) as pool:
                self._try(report, todo, pool, copies)

    def _try(self, report: Report, todo: list[Mutant], pool: ThreadPoolExecutor, copies: list[Copy]) -> None:
        free, trial = queue.SimpleQueue[Copy](), report.trial
        for copy in copies:
            free.put(copy)

        def judge(mutant: Mutant) -> Verdict:
            assert trial is not None
            copy = free.get()
            try:
                return trial.judge(copy, mutant)
            finally:
                free.put(copy)

        under_way = {pool.submit(judge, mutant): mutant for mutant in todo}
        try:
            self._gather(report, under_way)
        finally:
            for future in under_way:
                future.cancel()
            self._running.end()
            if sys.stderr.isatty():
                tell("")  # what follows begins a line

    def _gather(self, report: Report, under_way: dict[Future[Verdict], Mutant]) -> None:
        waiting = set(under_way)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                report.verdicts[under_way[future].name] = future.result()
            self._save(report)
            tell(f"{len(report.verdicts)} of {len(report.mutants)} tried, {len(report.survivors)} survived", again=True)

    def _kept(self) -> dict[str, Any]:
        if self._keep is None or not self._keep.exists():
            return {}
        kept: dict[str, Any] = json.loads(self._keep.read_text(encoding="utf-8"))
        return kept

    def _save(self, report: Report) -> None:
        if self._keep is None:
            return
        aside = self._keep.with_name(f"{self._keep.name}.tmp")
        kept = {**self._kept(), report.target.module: report.to_dict()}
        aside.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        aside.replace(self._keep)


def tell(message: str, again: bool = False) -> None:
    """Say how far it is; `again` where the next message may take its line."""
    terminal = sys.stderr.isatty()
    print(f"\r{message}" if again and terminal else message, end="" if again and terminal else "\n", file=sys.stderr)
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS), metavar="prompt|memory|FILE")
    parser.add_argument("--limit", type=int, metavar="N", help="so many mutants of each, by chance; default: all")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of their order; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the verdicts")
    parser.add_argument("--survivors", action="store_true", help="run only what survived in --json FILE")
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N", help="default: %(default)s")
    parser.add_argument("--least", type=float, default=LEAST, metavar="PERCENT", help="default: %(default)s")
    parser.add_argument("--list", action="store_true", help="show the mutants, run none")
    given = parser.parse_args(arguments)
    reports: list[Report] = []
    status = 0
    try:
        for name in given.modules:
            reports.append(planned(target(name), given.seed, given.limit))
            if not given.list:
                Tries(given.workers, given.json, given.survivors).run(reports[-1])
    except KeyboardInterrupt:
        status = 130
    except CannotTry as error:
        print(error, file=sys.stderr)
        return 2
    for report in reports:
        print("\n".join(listed(report) if given.list else report.lines()))
    return status or int(not given.list and any(report.score < given.least for report in reports))


def listed(report: Report) -> Iterator[str]:
    """Yield every mutant, in the order of the run."""
    for mutant in report.mutants:
        yield f"{report.target.module}:{mutant.line}: {mutant.operator} in {mutant.where or 'the module'}"
        yield from (f"    {line}" for line in mutant.diff)


if __name__ == "__main__":
    sys.exit(main())
