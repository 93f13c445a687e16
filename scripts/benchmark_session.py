"""What a conversation holds in RAM from turn to turn: a session with memories, in a process of its own.

Each turn says another thing, is answered, searched for memories, and condensed when the context is full, as in use;
what is in RAM is looked at when the background has come to rest.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from embedding_benchmark import Side, process_of
from embedding_sides import serve
from runtime_table import OURS, Row

SETTLED = 10  # turns until libraries, models and caches are there
ANSWER = 24  # tokens
USER = "민지"


@dataclass(frozen=True, slots=True)
class Order:
    """A session in `home`, in a context of so many tokens."""

    home: str
    n_ctx: int


class Talking:
    """An engine of the starter profile with one session."""

    def __init__(self, order: Order) -> None:
        from engine import Engine

        file = Path(order.home, "models.toml")
        file.write_text(f"[engine]\nn_ctx = {order.n_ctx}\n", encoding="utf-8")
        self._engine = Engine(file, profile="starter", home=Path(order.home, "home"))
        self._session = self._engine.session(user=USER)

    def about(self) -> dict[str, int]:
        """Return the bytes in RAM before the first turn."""
        return self._held()

    def turn(self, n: int) -> dict[str, int]:
        """Say something, wait for the answer and for the background, and return the bytes in RAM."""
        from memory_texts import sentence

        self._session.chat(sentence(n), temperature=0, max_tokens=ANSWER, seed=1)
        self._session.wait()
        return self._held()

    def facts(self) -> dict[str, int]:
        """Return how many turns were said, how many messages are in the summary, and how many memories there are."""
        said = self._session.history()
        condensed = sum(one.condensed for one in said)
        return {"turns": len(said) // 2, "condensed": condensed, "memories": len(self._engine.memories(user=USER))}

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _held(self) -> dict[str, int]:
        from engine import machine

        held = machine.resident()
        return {"total": held.total, "own": held.anonymous}


Make = Callable[[Order], AbstractContextManager[Side]]


def apart(order: Order) -> AbstractContextManager[Side]:
    """Make a side in a new process, which ends with the block. Raises `SideFailed`."""
    return process_of(__file__, asdict(order))


def rows(turns: int, n_ctx: int, make: Make = apart) -> Iterator[Row]:
    """Yield the rows of a session; a Ctrl-C yields what there is, and goes on to the caller."""
    held, facts = list[dict[str, int]](), dict[str, int]()
    folder = tempfile.TemporaryDirectory(prefix="gieok-", ignore_cleanup_errors=True)
    with folder as home, make(Order(home, n_ctx)) as side:
        try:
            for n in range(turns):
                held.append(side.ask("turn", n))
                if (n + 1) % SETTLED == 0:
                    print(f"session: {n + 1} of {turns} turns", file=sys.stderr, flush=True)
            facts = side.ask("facts")
        except KeyboardInterrupt:
            yield from found(side.said, held, facts, n_ctx)
            raise
        yield from found(side.said, held, facts, n_ctx)


def found(before: dict[str, int], held: list[dict[str, int]], facts: dict[str, int], n_ctx: int) -> Iterator[Row]:
    """Yield the rows of what was held after each turn."""
    if not held:
        return
    total, own = ([one[name] / 1e6 for one in held] for name in ("total", "own"))
    settled = min(SETTLED, len(held)) - 1
    work = f"a session of {len(held)} turns in a context of {n_ctx:,} tokens"
    told = ", ".join(f"{name} {value:,}" for name, value in facts.items())
    notes = (f"{before['total'] / 1e6:.0f} MB before the first turn", *([f"at the end: {told}"] if told else []))
    yield Row("session", f"{work}: in RAM after a turn", "MB", {OURS: total}, notes=notes)
    yield Row("session own", "the same, without pages of files", "MB", {OURS: own})
    grown = {OURS: [total[-1] - total[settled]]}
    yield Row("session growth", f"the same: growth from turn {settled + 1} to the last", "MB", grown, repeats=1)


if __name__ == "__main__":
    order = Order(**json.loads(sys.argv[1]))
    serve(lambda: Talking(order))
