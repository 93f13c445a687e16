"""What the runtime comparison found: rows, the figures they were to reach, and the table of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

OURS, THEIRS, PEER = "ours", "llama_cpp.Llama", "server"
Pick = Literal["median", "mean", "p95"]


def p95(values: Sequence[float]) -> float:
    """Return the value that 95 of 100 do not exceed (the nearest rank)."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


PICKS: dict[Pick, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
    "p95": p95,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A figure to reach: `of` a ratio or of ours alone, at least or at most `limit`."""

    of: Literal["ours/theirs", "theirs/ours", "ours"]
    at_least: bool
    limit: float

    def reached(self, value: float) -> bool:
        """Return whether a value is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured on one side: the number that counts, its lowest and highest repeat, and how many values."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what each side was measured at, by name of the side.

    `flaw` says what keeps it from being reached whatever the numbers say. `load` is the busiest moment before one of
    its measurements: the processor's use in percent, and the load average of a minute. `repeats` says in how many equal
    runs, one after the other, the values were taken, if it is not one value a run; each run has a figure of its own.
    """

    name: str
    work: str
    unit: str
    values: dict[str, list[float]] = field(default_factory=dict)
    against: str = THEIRS
    wanted: Wanted | None = None
    pick: Pick = "median"
    notes: tuple[str, ...] = ()
    flaw: str = ""
    load: tuple[float, float] | None = None
    repeats: int = 0

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Row:
        """Return a row as `to_dict` told it."""
        known = {field.name: told[field.name] for field in fields(cls) if field.name in told}
        wanted = Wanted(**told["wanted"]) if told.get("wanted") else None
        return cls(**{**known, "wanted": wanted, "notes": tuple(told["notes"])})

    def repeated(self, side: str) -> list[float]:
        """Return the figure of each run on a side."""
        values = self.values.get(side, [])
        if not self.repeats:
            return list(values)
        each, longer = divmod(len(values), self.repeats)  # the first ones have one more
        ends = [n * each + min(n, longer) for n in range(self.repeats + 1)]
        return [PICKS[self.pick](values[a:b]) for a, b in pairwise(ends) if a < b]

    def figure(self, side: str) -> Figure | None:
        """Return the figure of a side; None where it was not measured."""
        values, each = self.values.get(side), self.repeated(side)
        return Figure(PICKS[self.pick](values), min(each), max(each), len(values)) if values else None

    @property
    def ratio(self) -> float | None:
        """Ours against theirs, the way round in which it is wanted; else so that above 1 ours is the better."""
        ours, theirs = self.figure(OURS), self.figure(self.against)
        if ours is None or theirs is None:
            return None
        more_is_better = self.unit.endswith("/s")
        ours_first = self.wanted.of == "ours/theirs" if self.wanted else more_is_better
        return ours.value / theirs.value if ours_first else theirs.value / ours.value

    @property
    def reached(self) -> bool | None:
        """Whether the figure was reached; None where none was set."""
        if self.wanted is None:
            return None
        ours = self.figure(OURS)
        own = ours.value if ours else None
        value = own if self.wanted.of == "ours" else self.ratio
        return value is not None and self.wanted.reached(value) and not self.flaw

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        figures = {side: asdict(figure) for side in self.values if (figure := self.figure(side))}
        repeated = {side: self.repeated(side) for side in self.values}
        more = {"repeated": repeated, "figures": figures, "ratio": self.ratio, "reached": self.reached}
        return {**asdict(self), **more}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, and below it what is to be said of its rows."""
    peer = any(PEER in row.values for row in rows)
    titles = ["work", OURS, THEIRS, "ratio", "wanted", "reached", *([PEER] if peer else [])]
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for row in rows:
        cells = [row.work, cell(row, OURS), cell(row, row.against), *verdict(row), *([cell(row, PEER)] if peer else [])]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for row in rows:
        for note in [*([row.flaw] if row.flaw else []), *row.notes]:
            yield f"- {row.name}: {note}"
    for row in rows:
        if row.load:
            used, load = row.load
            yield f"- {row.name}: before its measurements at most {used:.0f}% of the processor in use, load {load:.1f}"


def cell(row: Row, side: str) -> str:
    """Return a side's figure, and its spread if there were several runs."""
    figure = row.figure(side)
    if figure is None:
        return "–"
    pick = "" if row.pick == "median" else f"{row.pick} "
    name = "" if side in {OURS, THEIRS, PEER} else f", {side}"
    spread = f" ({short(figure.low)}–{short(figure.high)})" if len(row.repeated(side)) > 1 else ""
    return f"{pick}{short(figure.value)} {row.unit}".rstrip() + f"{spread}{name}"


def verdict(row: Row) -> tuple[str, str, str]:
    """Return ratio, wanted and reached."""
    ratio = "–" if row.ratio is None else f"{row.ratio:.2f}×"
    if row.wanted is None:
        return ratio, "–", "–"
    sign, unit = "≥" if row.wanted.at_least else "≤", f" {row.unit}" if row.wanted.of == "ours" else "×"
    return ratio, f"{sign} {row.wanted.limit:g}{unit}", "yes" if row.reached else "no"


def short(value: float) -> str:
    """Return a number with about three digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"
