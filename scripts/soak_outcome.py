"""What one round of a soak is asked, and what it says it found."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Order:
    """What a part is to do: the seed of all that is drawn, how much of each, and where vocabularies lie."""

    seed: int
    sizes: Mapping[str, int]
    vocab: Path


@dataclass(slots=True)
class Outcome:
    """What a part did: how much it `tried`, what it counted, figures of which the highest counts, and failures.

    `report` is what `--output` writes, where a part has more to say.
    """

    tried: int
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    report: dict[str, Any] | None = None

    def lines(self) -> Iterator[str]:
        """Yield it for a reader."""
        for title, counts in self.counts.items():
            yield f"{title} ({sum(counts.values())})"
            for kind, number in Counter(counts).most_common():
                yield f"  {kind:<60}{number:>7}"
        for title, most in self.most.items():
            yield f"{title}: {most:g}"
        yield f"seconds: {self.seconds:.0f}"
        yield from (f"FAILED {failure}" for failure in self.failures)


@dataclass(frozen=True, slots=True)
class Size:
    """How much a part does: an option, what it is for one long run, and what it is for a round of many."""

    option: str
    alone: int
    a_round: int


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of soak; `unit` is what it tries, and `run` tries it."""

    name: str
    says: str
    unit: str
    sizes: Sequence[Size]
    run: Callable[[Order], Outcome]


def drawn(seed: int, part: str, number: int) -> int:
    """Return the seed of a round: it depends on the soak's seed, the part and the number of the round alone."""
    return random.Random(f"{seed} {part} {number}").getrandbits(32)
