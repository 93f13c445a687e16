"""The pictures of `benchmark.py all`: lines over turns, requests, memories and turns again, as SVG.

They have no background, and letters and axes in a grey that stands out from white and from black. The letters are
drawn as outlines, so that a picture looks the same everywhere; the same figures give the same bytes.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import benchmark_record
from runtime_table import OURS, THEIRS, Row, p95

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_MATPLOTLIB = (
    "The pictures need matplotlib, which is not installed: .venv/bin/python -m pip install matplotlib\n"
    "그림에는 matplotlib이 필요합니다: .venv/bin/python -m pip install matplotlib"
)
GREY = "#767e89"  # contrast above 4 to white, and to GitHub's black
_COLOURS = ("#4488bb", "#ee6677", "#b8860b", "#8866cc")  # ours first
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "gieok", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10,
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "axes.grid": True, "grid.color": GREY, "grid.alpha": 0.25, "legend.frameon": False, "path.simplify": False,
}  # fmt: skip
_SIZES = {"k": 1_000, "M": 1_000_000}


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its name, its points, and how far each goes down and up."""

    name: str
    across: Sequence[float]
    up: Sequence[float]
    spread: tuple[Sequence[float], Sequence[float]] | None = None
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: the part that it is of, what it shows, its axes, and what its lines are made from."""

    part: str
    shown: str
    across: str
    up: str
    lines: Callable[[Sequence[Row]], Iterator[Line]]
    tens: bool = False  # both axes by tens


def named(rows: Sequence[Row], pattern: str) -> dict[str, Row]:
    """Return the rows whose name is like this, by its part in brackets."""
    matches = ((re.fullmatch(pattern, row.name), row) for row in rows)
    return {match[1]: row for match, row in matches if match and row.values}


def over_turns(rows: Sequence[Row]) -> Iterator[Line]:
    """Yield the seconds to the first token of each turn, of each side once."""
    seen = set[str]()
    for row in named(rows, "(turns|turns-cached)").values():
        for side, values in row.values.items():
            if side not in seen:
                yield Line(side_of(side), range(1, len(values) + 1), values)
            seen.add(side)


def over_requests(rows: Sequence[Row]) -> Iterator[Line]:
    """Yield the tokens a second of each side, medians and spread."""
    found = {int(streams): row for streams, row in named(rows, r"parallel-(\d+)").items()}
    for side in dict.fromkeys(side for row in found.values() for side in row.values):
        figures = {streams: figure for streams, row in found.items() if (figure := row.figure(side))}
        below = [one.value - one.low for one in figures.values()]
        above = [one.high - one.value for one in figures.values()]
        name = f"{side}, one after the other" if side == THEIRS else side
        yield Line(name, list(figures), [one.value for one in figures.values()], (below, above))


def over_memories(rows: Sequence[Row]) -> Iterator[Line]:
    """Yield median and 95th percentile of a search, of each side."""
    found = {size(told): row for told, row in named(rows, r"all (\S+)").items()}
    for side in dict.fromkeys(side for row in found.values() for side in row.values):
        values = {count: row.values[side] for count, row in sorted(found.items()) if row.values.get(side)}
        yield Line(f"{side}, median", list(values), [statistics.median(one) for one in values.values()])
        yield Line(f"{side}, p95", list(values), [p95(one) for one in values.values()], dashed=True)


def over_session(rows: Sequence[Row]) -> Iterator[Line]:
    """Yield the megabytes after each turn."""
    names = {"session": "in RAM", "session own": "without pages of files"}
    for name, row in named(rows, "(session|session own)").items():
        values = row.values[OURS]
        yield Line(names[name], range(1, len(values) + 1), values)


def side_of(side: str) -> str:
    """Return what a side is called in a picture."""
    return f"llama_cpp.Llama {side}" if side.startswith("with ") else side


def size(told: str) -> int:
    """Return the number that `100k` or `1,500` says."""
    return int(told[:-1]) * _SIZES[told[-1]] if told[-1] in _SIZES else int(told.replace(",", ""))


PICTURES = {
    "first_token.svg": Picture(
        "turns", "Seconds to the first token over the turns of a chat", "turn", "seconds to the first token", over_turns
    ),
    "parallel.svg": Picture(
        "parallel", "Tokens a second over requests at once", "requests at once", "tokens a second, in all",
        over_requests,
    ),
    "search.svg": Picture(
        "memory", "Search time over the size of the store", "memories", "milliseconds a search", over_memories, True
    ),
    "session.svg": Picture(
        "session", "Resident memory over a session", "turn", "MB in RAM", over_session
    ),
}  # fmt: skip


def available() -> bool:
    """Return whether pictures can be drawn here."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def draw(record: Mapping[str, Any], folder: Path) -> list[str]:
    """Write the pictures of what was measured, and return their names. Raises `OSError`."""
    drawn = []
    for name, picture in PICTURES.items():
        lines = list(picture.lines(benchmark_record.rows(record, picture.part)))
        if lines:
            _draw(picture, lines, subtitle(record["parts"][picture.part]["about"]), folder / name)
            drawn.append(name)
    return drawn


def subtitle(about: Mapping[str, Any]) -> str:
    """Return the model and the machine in a few words."""
    machine = about["machine"]
    return ", ".join(filter(None, [about.get("model"), machine["processor"], f"{machine['cores']} cores"]))


def _draw(picture: Picture, lines: Sequence[Line], below: str, path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        figure.suptitle(picture.shown, fontsize=12)
        axes = figure.subplots()
        axes.set_title(below, fontsize=8)
        axes.set_xlabel(picture.across)
        axes.set_ylabel(picture.up)
        axes.spines[["top", "right"]].set_visible(False)
        _fill(axes, lines)
        _scale(axes, lines, tens=picture.tens)
        axes.legend(loc="best")
        figure.savefig(path, transparent=True, metadata={"Date": None})


def _fill(axes: Axes, lines: Sequence[Line]) -> None:
    colours = dict.fromkeys(line.name.partition(", ")[0] for line in lines)
    names = list(colours)
    for line in lines:
        colour = _COLOURS[names.index(line.name.partition(", ")[0]) % len(_COLOURS)]
        style = "--" if line.dashed else "-"
        marker = "o" if len(line.up) <= 20 else ""  # more would hide the line
        axes.errorbar(
            line.across, line.up, yerr=line.spread, label=line.name, color=colour, linestyle=style, marker=marker,
            markersize=4, capsize=3,
        )  # fmt: skip


def _scale(axes: Axes, lines: Sequence[Line], *, tens: bool) -> None:
    across = sorted({at for line in lines for at in line.across})
    if tens:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    if len(across) <= 20:
        axes.set_xticks(across, labels=[f"{at:,}" for at in across], minor=False)
        axes.set_xticks([], minor=True)
