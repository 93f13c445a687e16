"""What the log of a soak says in the end: a line for each part, and each failure with the command to repeat it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soak_log import Entry
from soak_rounds import failed

FROM = 3  # the round of a process from which on it is compared: libraries have by then what they keep
_HEAD = ("part", "rounds", "tried", "failures", "time", "MB grown", "files", "threads")


@dataclass(frozen=True, slots=True)
class Growth:
    """By how much a process grew from its third round to its last; bytes, files, threads."""

    resident: int
    descriptors: int
    threads: int


def growth(entries: Sequence[Entry]) -> Growth | None:
    """Return how the process of a part that ran most rounds grew; None where none ran more than three."""
    lives: list[list[Entry]] = []
    for entry in entries:
        if entry.nth <= 1:
            lives.append([])
        if entry.nth >= FROM and lives:
            lives[-1].append(entry)
    longest = max(lives, key=len, default=[])
    if len(longest) < 2:
        return None
    first, last = longest[0], longest[-1]
    return Growth(
        last.resident - first.resident, last.descriptors - first.descriptors, last.threads - first.threads
    )  # fmt: skip


def summary(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield a table for a terminal, then what was counted, then the failures."""
    rows = [_HEAD, *map(_row, _by_part(entries))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells)
    yield from failed(entries)


def markdown(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the table as a README has it."""
    for number, row in enumerate([_HEAD, *map(_row, _by_part(entries))]):
        yield "| " + " | ".join(row) + " |"
        if not number:
            yield "|---|" + "---:|" * (len(_HEAD) - 1)


def details(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield what was counted of each part, added up, and the highest of its figures."""
    for part in _by_part(entries):
        yield f"{part[0].part}, {len(part)} rounds"
        for title in dict.fromkeys(title for entry in part for title in entry.counts):
            counts: Counter[str] = Counter()
            for entry in part:
                counts.update(entry.counts.get(title, {}))
            yield f"  {title} ({counts.total():,})"
            yield from (f"    {kind:<60}{number:>9,}" for kind, number in counts.most_common())
        for title in dict.fromkeys(title for entry in part for title in entry.most):
            yield f"  {title}: at most {max(entry.most.get(title, 0) for entry in part):g}"


def _by_part(entries: Sequence[Entry]) -> list[list[Entry]]:
    names = dict.fromkeys(entry.part for entry in entries)
    return [[entry for entry in entries if entry.part == name] for name in names]


def _row(entries: Sequence[Entry]) -> tuple[str, ...]:
    grown = growth(entries)
    tried, seconds = sum(entry.tried for entry in entries), sum(entry.seconds for entry in entries)
    held = (f"{grown.resident / 1e6:+.1f}", f"{grown.descriptors:+}", f"{grown.threads:+}") if grown else ("–",) * 3
    failures = sum(len(entry.failures) for entry in entries)
    return (
        entries[0].part, str(len(entries)), f"{tried:,} {entries[0].unit}", str(failures), _time(seconds), *held
    )  # fmt: skip


def _time(seconds: float) -> str:
    minutes, hours = int(seconds / 60) % 60, int(seconds / 3600)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds % 60:02.0f} s"
