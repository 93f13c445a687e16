#!/usr/bin/env python3
"""Record a command in a terminal of its own, as an SVG that plays by itself.

usage: python scripts/record.py [--out FILE] [--columns N] [--rows N] [--speed X] [--idle S] [--last S] [COMMAND …]

  COMMAND       what to run (default: gieok demo); shown as it is written here
  --out FILE    the SVG (default: docs/recording.svg)
  --columns N   width of the terminal in letters (default: 106); a Korean letter takes two
  --rows N      lines of the terminal (default: 24)
  --speed X     how fast it plays: 1 is as fast as it was (default: 0.5, to be read); the SVG says so
  --idle S      longest wait that is shown, in seconds (default: 1); longer ones are shortened, and the SVG says so
  --last S      seconds for which the last picture stays (default: 8)

What is shown is what the command wrote, in its order and at its times, but for the waits. It speaks Korean where LC_ALL
is Korean.
Needs a POSIX system. 0: written; 1: the command failed, and nothing was written.
"""

from __future__ import annotations

import argparse
import codecs
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    import pyte

ROOT = Path(__file__).resolve().parent.parent
_GAP = 0.1  # seconds; what is written within them is one picture
_TYPED = 0.06  # seconds a letter of the command, which nobody typed
_READ = 1 << 16  # bytes at once
_WIDTH, _HEIGHT, _SIZE = 8.4, 19.0, 14  # of a letter's cell and of the letters, in pixels
_WIDE = 16  # of letters that take two cells
_EDGE, _BAR = 14.0, 30.0
_PAPER, _FRAME, _INK, _FAINT = "#14171c", "#3b424d", "#e4e7eb", "#98a2b0"
_COLOURS = {
    "black": "#5c6673", "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341", "yellow": "#e3b341",
    "blue": "#79c0ff", "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": _INK, "default": _INK,
}  # fmt: skip
_FONTS = (
    "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', D2Coding, 'NanumGothicCoding', "
    "'Noto Sans Mono CJK KR', 'Apple SD Gothic Neo', 'Malgun Gothic', monospace"
)


@dataclass(frozen=True)
class Recording:
    """What a command wrote, each piece with the second at which it came; `command` is what was asked for."""

    command: str
    columns: int
    rows: int
    events: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Pace:
    """How a recording is played: `speed` times as fast, no wait longer than `idle`, the end for `last` seconds."""

    speed: float = 0.5
    idle: float = 1.0
    last: float = 8.0

    @property
    def told(self) -> str:
        """What a viewer has to know of it."""
        speed = "" if self.speed == 1 else f" played at {_number(self.speed)} of its speed;"
        return f"recorded;{speed} waits of more than {_number(self.idle)} s are shortened"


@dataclass(frozen=True)
class Run:
    """Letters beside each other that look alike and are equally wide; `cells` is 1, or 2 for a Korean letter."""

    column: int
    text: str
    cells: int
    colour: str
    bold: bool


Line = tuple[Run, ...]


@dataclass(frozen=True)
class Picture:
    """The lines of the terminal from second `at` on."""

    at: float
    lines: tuple[Line, ...]


def record(command: Sequence[str], columns: int, rows: int) -> Recording:
    """Run a command in a terminal of this size until it ends. Raises `subprocess.CalledProcessError`, `OSError`."""
    import pty

    master, slave = pty.openpty()
    _resize(slave, columns, rows)
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
    began = time.perf_counter()
    with subprocess.Popen(_found(command), stdin=slave, stdout=slave, stderr=slave, env=env) as process:
        os.close(slave)
        events = [(at - began, text) for at, text in _read(master)]
    os.close(master)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return Recording(" ".join(command), columns, rows, events)


def _found(command: Sequence[str]) -> list[str]:
    """Return a command with the program that belongs to this Python, where there is one."""
    own = shutil.which(command[0], path=str(Path(sys.executable).parent))
    return [own or command[0], *command[1:]]


def _resize(terminal: int, columns: int, rows: int) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _read(terminal: int) -> Iterator[tuple[float, str]]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        try:
            data = os.read(terminal, _READ)
        except OSError:  # Linux says so that nobody has the other end any more
            data = b""
        if text := decoder.decode(data, final=not data):
            yield time.perf_counter(), text
        if not data:
            return


def typed(command: str) -> list[tuple[float, str]]:
    """Return the events of a prompt at which a command is typed."""
    letters = [(0.6 + _TYPED * number, letter) for number, letter in enumerate(command)]
    return [(0.0, "$ "), *letters, (letters[-1][0] + 0.4, "\r\n")]


def pictures(recording: Recording, pace: Pace) -> list[Picture]:
    """Return what the terminal shows, from the prompt on, at the pace that is wanted."""
    import pyte

    screen = pyte.Screen(recording.columns, recording.rows)
    stream = pyte.Stream(screen)
    found: list[Picture] = []
    prompt = typed(recording.command)
    start = prompt[-1][0]
    for at, texts in _together(_paced([*prompt, *((start + at, text) for at, text in recording.events)], pace)):
        for text in texts:
            stream.feed(text)
        lines = tuple(_line(screen, row) for row in range(recording.rows))
        if not found or lines != found[-1].lines:
            found.append(Picture(round(at, 2), lines))
    return found


def _paced(events: Iterable[tuple[float, str]], pace: Pace) -> Iterator[tuple[float, str]]:
    before = shown = 0.0
    for at, text in events:
        shown += min(at - before, pace.idle) / pace.speed
        before = at
        yield shown, text


def _together(events: Iterable[tuple[float, str]]) -> Iterator[tuple[float, list[str]]]:
    """Yield what came within a moment as one."""
    group: list[str] = []
    since = 0.0
    for at, text in events:
        if group and at - since >= _GAP / 2:
            yield since, group
            group = []
        if not group:
            since = at
        group.append(text)
    if group:
        yield since, group


def _line(screen: pyte.Screen, row: int) -> Line:
    """Return the runs of a line; the cell behind a wide letter holds nothing."""
    cells = [screen.buffer[row][column] for column in range(screen.columns)]
    looks = [
        (1 + (column + 1 < len(cells) and cells[column + 1].data == ""), _colour(cell), cell.bold)
        for column, cell in enumerate(cells)
    ]
    letters = [(column, cell.data) for column, cell in enumerate(cells) if cell.data]
    runs = []
    for (wide, colour, bold), group in groupby(letters, lambda each: looks[each[0]]):
        part = list(group)
        text = "".join(letter for _, letter in part)
        begin = len(text) - len(text.lstrip(" "))
        if text := text.strip(" "):
            runs.append(Run(part[begin][0], text, wide, colour, bold))
    return tuple(runs)


def _colour(cell: pyte.screens.Char) -> str:
    named = cell.fg.removeprefix("bright")
    return _COLOURS.get(named) or (f"#{named}" if len(named) == 6 else _INK)


# ---- drawing


def svg(recording: Recording, shown: Sequence[Picture], pace: Pace) -> str:
    """Return the SVG: all pictures side by side on a film, of which a window shows one at a time."""
    width, height = recording.columns * _WIDTH, recording.rows * _HEIGHT
    whole = (width + 2 * _EDGE, height + 2 * _EDGE + _BAR)
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_number(whole[0])} {_number(whole[1])}",
            "width": _number(whole[0]),
            "height": _number(whole[1]),
            "role": "img",
        },
    )
    note = f"{recording.command} - {pace.told}"
    ET.SubElement(root, "title").text = note
    step = width + _EDGE
    ET.SubElement(root, "style").text = _style(shown, step, pace.last)
    _window(root, whole, note)
    defs = ET.SubElement(root, "defs")
    film_window = ET.SubElement(
        root,
        "svg",
        {"x": _number(_EDGE), "y": _number(_EDGE + _BAR), "width": _number(width), "height": _number(height)},
    )
    film = ET.SubElement(film_window, "g", {"class": "film"})
    _draw(defs, film, shown, step)
    return ET.tostring(root, encoding="unicode") + "\n"


def _style(shown: Sequence[Picture], step: float, last: float) -> str:
    """Return the style; where nothing moves, the last picture is seen."""
    whole = shown[-1].at + last
    stops = " ".join(
        f"{_number(100 * picture.at / whole, 3)}%{{transform:translateX({_number(-number * step)}px)}}"
        for number, picture in enumerate(shown)
    )
    end = f"translateX({_number(-(len(shown) - 1) * step)}px)"
    return (
        f"text{{font:{_SIZE}px {_FONTS};fill:{_INK};white-space:pre}}"
        f".w{{font-size:{_WIDE}px}}"
        f".film{{transform:{end};animation:film {_number(whole)}s step-end infinite}}"
        f"@keyframes film{{{stops} 100%{{transform:{end}}}}}"
        "@media (prefers-reduced-motion:reduce){.film{animation:none}}"
    )


def _window(root: ET.Element, whole: tuple[float, float], note: str) -> None:
    """Draw the window, which brings its own paper: it is read on a white page and on a black one."""
    box = {"x": "0.5", "y": "0.5", "width": _number(whole[0] - 1), "height": _number(whole[1] - 1)}
    ET.SubElement(root, "rect", {**box, "rx": "8", "fill": _PAPER, "stroke": _FRAME})
    bar = {"x": _number(_EDGE), "y": "21", "style": f"fill:{_FAINT};font-size:12px"}
    ET.SubElement(root, "text", bar).text = note


def _draw(defs: ET.Element, film: ET.Element, shown: Sequence[Picture], step: float) -> None:
    """Put each line into `defs` once, and the pictures onto the film."""
    names: dict[Line, str] = {}
    for number, picture in enumerate(shown):
        frame = ET.SubElement(film, "g")
        if number:
            frame.set("transform", f"translate({_number(number * step)})")
        for row, line in enumerate(picture.lines):
            if not line:
                continue
            if line not in names:
                names[line] = f"l{len(names)}"
                _draw_line(ET.SubElement(defs, "g", {"id": names[line]}), line)
            ET.SubElement(frame, "use", {"href": f"#{names[line]}", "y": _number(row * _HEIGHT)})


def _draw_line(group: ET.Element, line: Line) -> None:
    """Place each letter that a font might draw too wide or too narrow; letters of one cell are spread together."""
    for run in line:
        start = run.column * _WIDTH
        attributes = {"x": _number(start), "y": _number(_SIZE)}
        if run.cells == 2:
            attributes["class"] = "w"
            attributes["x"] = " ".join(_number(start + 2 * _WIDTH * place) for place in range(len(run.text)))
        elif len(run.text) > 1:
            attributes["textLength"] = _number(_WIDTH * len(run.text))
        if run.colour != _INK:
            attributes["style"] = f"fill:{run.colour}"
        if run.bold:
            attributes["font-weight"] = "bold"
        ET.SubElement(group, "text", attributes).text = run.text


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError("a number above 0 and below 1000 is wanted")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, draw, write."""
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/recording.svg")
    parser.add_argument("--columns", type=int, default=106)
    parser.add_argument("--rows", type=int, default=24)
    for name in ("speed", "idle", "last"):
        parser.add_argument(f"--{name}", type=_above_zero, default=getattr(Pace, name))
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args(arguments)
    if asked.help:
        print(__doc__)
        return 0
    if os.name != "posix":
        print("record.py needs a POSIX system: it runs the command in a pseudo terminal", file=sys.stderr)
        return 1
    try:
        recording = record(asked.command or ["gieok", "demo"], asked.columns, asked.rows)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"nothing was recorded: {error}", file=sys.stderr)
        return 1
    pace = Pace(asked.speed, asked.idle, asked.last)
    shown = pictures(recording, pace)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(svg(recording, shown, pace), encoding="utf-8")
    size, took = asked.out.stat().st_size, recording.events[-1][0] if recording.events else 0.0
    print(f"{asked.out}: {len(shown)} pictures, {size / 1000:.0f} kB; {took:.0f} s in {shown[-1].at:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
