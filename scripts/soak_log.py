"""The log of a soak: a line of JSON for each round, on the disk before the next one begins.

What was killed while it wrote leaves half a line, which is cut off; the round that it was about is run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path


class Unreadable(Exception):
    """A file is no log of a soak."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One round: what was asked, what came of it, and what the process that ran it held afterwards.

    `nth` counts the rounds of that process; `resident` are bytes. Where a process ended in a round, it held nothing.
    """

    part: str
    round: int
    seed: int
    sizes: dict[str, int]
    tried: int
    unit: str
    counts: dict[str, dict[str, int]]
    most: dict[str, float]
    failures: list[str]
    seconds: float
    resident: int = 0
    descriptors: int = 0
    threads: int = 0
    nth: int = 0
    at: str = ""


_NAMES = {one.name for one in fields(Entry)}


@dataclass(slots=True)
class Log:
    """Entries in a file, or of this process only where there is no file."""

    path: Path | None = None
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def opened(cls, path: Path | None) -> Log:
        """Return the log at `path`, with what it holds. Raises `Unreadable`, `OSError`."""
        if path is None:
            return cls()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        _cut(path)
        return cls(path, list(read(path)))

    def add(self, entry: Entry) -> None:
        """Append an entry; it is on the disk when this returns. Raises `OSError`."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self.entries.append(entry)

    def of(self, part: str) -> list[Entry]:
        """Return the rounds of a part."""
        return [entry for entry in self.entries if entry.part == part]

    def following(self, part: str) -> int:
        """Return the number of the next round of a part; the first is 1."""
        return max((entry.round for entry in self.of(part)), default=0) + 1

    def seconds(self, parts: Iterable[str]) -> float:
        """Return how long the rounds of some parts took together."""
        return sum(entry.seconds for part in parts for entry in self.of(part))


def read(path: Path) -> Iterator[Entry]:
    """Yield the entries of a file, without a last line that was cut short. Raises `Unreadable`, `OSError`."""
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return
        try:
            said = json.loads(line)
            yield Entry(**{name: value for name, value in said.items() if name in _NAMES})
        except (ValueError, TypeError, AttributeError) as error:
            raise Unreadable(f"{path}, line {number}: this is no line of a soak's log. Name another file.") from error


def _cut(path: Path) -> None:
    """Remove a last line that has no end."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
