"""Whether what was measured once is measured again: each figure of a new file against the spread of an old one.

A figure is found again when it lies between the lowest and the highest run of the old file, with a margin on both
sides: a part of that value, and at least `LEAST` where the unit has one. Figures of another model, or of other
counts, are no repetition and are not compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmark_record
from runtime_table import OURS, Row, short

MARGIN = 0.2  # a shared or throttled processor moves by as much from one run to the next
LEAST = {"MB": 20.0}  # what allocators keep, one way or the other
SAME = ("model", "bytes", "counts", "libraries", "turns", "n_ctx", "lives")  # what makes two runs one measurement


@dataclass(frozen=True, slots=True)
class Line:
    """A figure of both files; `within` is None where there is nothing to compare."""

    part: str
    row: str
    side: str
    old: str
    new: str
    within: bool | None


def compare(old: dict[str, Any], new: dict[str, Any], margin: float = MARGIN) -> Iterator[Line]:
    """Yield a line for each figure of the old file's parts that the new one has, too."""
    for part in old["parts"]:
        if part not in new["parts"]:
            continue
        unlike = differences(old["parts"][part]["about"], new["parts"][part]["about"])
        later = {row.name: row for row in benchmark_record.rows(new, part)}
        for row in benchmark_record.rows(old, part):
            for side in dict.fromkeys((OURS, row.against)):
                if row.figure(side):
                    yield line(part, (row, later.get(row.name)), side, None if unlike else margin)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return in what two measurements are not the same one."""
    return [name for name in SAME if old.get(name) != new.get(name)]


def line(part: str, rows: tuple[Row, Row | None], side: str, margin: float | None) -> Line:
    """Return what became of a figure; without a margin it is not compared, and one that failed is not found again."""
    old, new = rows
    before, now = old.figure(side), new.figure(side) if new else None
    assert before
    spread = f"{short(before.value)} ({short(before.low)}–{short(before.high)}) {old.unit}"
    if now is None or margin is None:
        failed = margin is not None and new is not None and bool(new.flaw)
        return Line(part, old.name, side, spread, short(now.value) if now else "–", False if failed else None)
    below, above = (max(margin * abs(bound), LEAST.get(old.unit, 0.0)) for bound in (before.low, before.high))
    within = before.low - below <= now.value <= before.high + above
    return Line(part, old.name, side, spread, f"{short(now.value)} {old.unit}", within)


def table(lines: Sequence[Line], margin: float) -> Iterator[str]:
    """Yield a table in Markdown and the sum of it."""
    yield f"| part | row | side | then | now | within the spread ± {margin:.0%} |"
    yield "|---|---|---|---|---|---|"
    for one in lines:
        said = {True: "yes", False: "**no**", None: "not compared"}[one.within]
        yield f"| {one.part} | {one.row} | {one.side} | {one.old} | {one.new} | {said} |"
    compared = [one for one in lines if one.within is not None]
    yield ""
    yield f"{sum(bool(one.within) for one in compared)} of {len(compared)} figures were found again."


def main(words: Sequence[str]) -> int:
    """Compare two files and print the table; return 0 where every figure that can be compared was found again."""
    parser = argparse.ArgumentParser("benchmark.py again", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD.json", help="what is claimed: docs/benchmarks/benchmark.json")
    parser.add_argument(
        "new", type=Path, metavar="NEW.json", help="what `benchmark.py all --folder DIR` has found here"
    )
    parser.add_argument("--margin", type=float, default=MARGIN, metavar="PART", help="default: %(default)s")
    asked = parser.parse_args(words)
    try:
        old, new = (benchmark_record.load(file) for file in (existing(asked.old), existing(asked.new)))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    lines = list(compare(old, new, asked.margin))
    print("\n".join(table(lines, asked.margin)))
    compared = [one.within for one in lines if one.within is not None]
    return 0 if compared and all(compared) else 1


def existing(file: Path) -> Path:
    """Return a file that is there. Raises `OSError`."""
    file.stat()
    return file
