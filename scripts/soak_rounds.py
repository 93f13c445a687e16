"""Rounds of the parts of a soak, until the time is over: each in the process of its part, with a seed of its own.

The part whose rounds took least so far is next. What the log has counts: started again, a soak goes on where it was,
for what is left of its time.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from soak_log import Entry, Log
from soak_outcome import Order, Part, drawn
from soak_worker import Ended, Worker

LIMIT = 1800.0  # seconds that a round of the usual size may take; it hangs, then
_HOPELESS = 3  # processes of a part that end in a row, until it is left out


@dataclass(frozen=True, slots=True)
class Soak:
    """What is run: parts, for so many seconds together; `sizes` are those of a round that are not the usual ones."""

    parts: Sequence[Part]
    seed: int
    seconds: float
    sizes: Mapping[str, int]
    vocab: Path

    def order(self, part: Part, number: int) -> Order:
        """Return what a round is asked."""
        sizes = {one.option: self.sizes.get(one.option, one.a_round) for one in part.sizes}
        return Order(drawn(self.seed, part.name, number), sizes, self.vocab)

    def limit(self, part: Part) -> float:
        """Return how many seconds a round may take."""
        return LIMIT * max(1.0, *(self.sizes.get(one.option, 0) / one.a_round for one in part.sizes))


def run(soak: Soak, log: Log) -> None:
    """Run rounds until the time is over. Raises `soak_worker.Refused`, `KeyboardInterrupt`, `OSError`."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        while (part := following(soak, log)) is not None:
            if part.name not in workers:
                workers[part.name] = stack.enter_context(Worker(part.name))
            entry = one_round(soak, part, log.following(part.name), workers[part.name])
            log.add(entry)
            tell(entry)
            if not entry.nth:
                workers.pop(part.name).close()


def following(soak: Soak, log: Log) -> Part | None:
    """Return the part whose turn it is, None when the time is over."""
    parts = [part for part in soak.parts if not hopeless(log.of(part.name))]
    if not parts or log.seconds(part.name for part in soak.parts) >= soak.seconds:
        return None
    return min(parts, key=lambda part: log.seconds([part.name]))


def hopeless(entries: Sequence[Entry]) -> bool:
    """Return whether the last processes of a part all ended in their round."""
    return len(entries) >= _HOPELESS and not any(entry.nth for entry in entries[-_HOPELESS:])


def one_round(soak: Soak, part: Part, number: int, worker: Worker) -> Entry:
    """Run a round and return its line; where its process ended in it, that is its failure."""
    order, began = soak.order(part, number), time.perf_counter()
    try:
        found = worker.ask(order, soak.limit(part))
    except Ended as error:
        found = {"tried": 0, "counts": {}, "most": {}, "failures": [str(error)]}
        found["seconds"] = time.perf_counter() - began
    found.pop("report", None)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Entry(
        part=part.name, round=number, seed=soak.seed, sizes=dict(order.sizes), unit=part.unit, at=at, **found
    )  # fmt: skip


def tell(entry: Entry) -> None:
    """Tell on standard error what a round came to."""
    held = f"{entry.resident / 1e6:.0f} MB, {entry.descriptors} files, {entry.threads} threads"
    what = f"{entry.part} {entry.round}: {entry.tried} {entry.unit}, {entry.seconds:.0f} s, {held}"
    print(what, file=sys.stderr, flush=True)
    for line in failed([entry]):
        print(line, file=sys.stderr, flush=True)


def failed(entries: Iterable[Entry]) -> list[str]:
    """Return a line for each failure, and how to run its round alone."""
    return [
        f"FAILED {entry.part} {entry.round}: {failure}\n  again: {again(entry)}"
        for entry in entries
        for failure in entry.failures
    ]


def again(entry: Entry) -> str:
    """Return the command that runs a round alone."""
    sizes = [word for option, size in entry.sizes.items() for word in (f"--{option}", str(size))]
    words = ["scripts/soak.py", entry.part, "--round", str(entry.round), "--seed", str(entry.seed), *sizes]
    return f"python {shlex.join(words)}"
