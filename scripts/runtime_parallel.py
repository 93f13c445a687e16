"""How much is written a second, by how many requests are there at once: ours together, llama_cpp.Llama in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from runtime_benchmark import Run
from runtime_rows import family
from runtime_sides import Side
from runtime_table import Row

STREAMS = (1, 2, 4, 8)


def parallel(streams: int, run: Run) -> Row:
    """Requests that begin alike, as those of one assistant do; the prefix of each round is new to every side."""
    counts = run.counts
    with run.sides() as (ours, _, sides):
        asked = [family(ours, 100 * streams + n, counts, streams) for n in range(run.rounds)]

        def rate(side: Side, n: int) -> float:
            spent, written = side.together(asked[n], counts.written)
            return written / spent

        found = run.alternate({name: partial(rate, side) for name, side in sides.items()}, run.rounds)
    asked_for = f"{counts.prefix} tokens in common, {counts.own} own, {counts.written} written"
    work = f"{streams} request{'s' if streams > 1 else ''} at once, {asked_for}: tokens written a second, in all"
    return Row(f"parallel-{streams}", work, "tokens/s", found, notes=NOTES if streams == max(STREAMS) else ())


NOTES = ("theirs are asked one after the other, which is all that it takes; its own prefix cache at work",)
ROWS: dict[str, Callable[[Run], Row]] = {f"parallel-{n}": partial(parallel, n) for n in STREAMS}
