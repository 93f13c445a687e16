"""What `benchmark.py all` found as one page in Markdown: the table, what is to be said of it, the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import benchmark_record
from runtime_table import OURS, PEER, Row, cell, verdict

NAME = "benchmark.md"
_HEAD = """\
# Benchmark

Made by `python scripts/benchmark.py all`; all values are in [benchmark.json](benchmark.json). The sides of a row take
turns in one run (A B A B), each in a process of its own. A figure is a median unless it says otherwise; in brackets are
the lowest and the highest run. A ratio is the way round in which it is wanted; where nothing is, ours is the better
one above 1. `python scripts/benchmark.py again docs/benchmarks/benchmark.json NEW/benchmark.json`
compares what was measured elsewhere, or on another day.
"""


def page(record: Mapping[str, Any], pictures: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the page; `pictures` are names of files, and what each shows."""
    yield from _HEAD.splitlines()
    yield ""
    yield from table(record)
    yield ""
    for name in record["parts"]:
        yield from remarks(name, record)
    yield ""
    yield "## Where and when"
    yield ""
    for line, names in places(record).items():
        yield f"- {', '.join(names)}: {line}"
    for name, shown in pictures.items():
        yield from ("", f"![{shown}]({name})")


def table(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table."""
    parts = {name: benchmark_record.rows(record, name) for name in record["parts"]}
    peer = any(PEER in row.values for rows in parts.values() for row in rows)
    titles = ["part", "work", OURS, "against", "ratio", "wanted", "reached", *([PEER] if peer else [])]
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for name, rows in parts.items():
        for row in rows:
            yield f"| {' | '.join([name, *cells(row), *([cell(row, PEER)] if peer else [])])} |"


def cells(row: Row) -> list[str]:
    """Return the cells of a row; the other side is named, whichever it is."""
    other = cell(row, row.against)
    named = other if other == "–" or other.endswith(f", {row.against}") else f"{other}, {row.against}"
    return [row.work, cell(row, OURS), named, *verdict(row)]


def remarks(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be said of a part's rows, and what the processor did before them."""
    if record["parts"][name]["interrupted"]:
        yield f"- {name}: **interrupted**; what was measured until then"
    rows = benchmark_record.rows(record, name)
    for row in rows:
        yield from (f"- {name}, {row.name}: {note}" for note in (*([row.flaw] if row.flaw else []), *row.notes))
    if loads := [row.load for row in rows if row.load]:
        used, load = (max(column) for column in zip(*loads, strict=True))
        yield f"- {name}: before its measurements at most {used:.0f}% of the processor in use, load {load:.1f}"


def places(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return where and when parts were measured, and by line which parts it is true of."""
    found: dict[str, list[str]] = {}
    for name, part in record["parts"].items():
        found.setdefault(place(part["about"]), []).append(name)
    return found


def place(about: Mapping[str, Any]) -> str:
    """Return the machine, the versions, the model and the day in words."""
    machine, versions = about["machine"], ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    model = f"; {about['model']}" if about.get("model") else ""
    code = f", commit {about['code']}" if about["code"] else ""
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / 1e9:.0f} GB, {machine['system']}"
    return f"{about['day']}{code}; {where}{model}; {versions}"


def write(record: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Return the page."""
    return "\n".join(page(record, pictures)) + "\n"


def missing(record: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """Return which of these parts were not measured, or not to their end."""
    return [name for name in parts if name not in record["parts"] or record["parts"][name]["interrupted"]]
