"""What the verbs of the command line share: an engine for their arguments, values on stdout, the rest on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from engine import Engine, Progress
from engine.instructions import Language
from engine.metrics import ProgressCallback

if TYPE_CHECKING:
    from rich.progress import Progress as Display


# What moves a cursor, colours or hides text on a terminal, and what turns the order of letters around.
_REORDER = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_HIDDEN = {code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)}  # pictures of them
_HIDDEN |= {0x7F: 0x2421, **dict.fromkeys((*range(0x80, 0xA0), *_REORDER), 0xFFFD)}
_ESCAPED = {code: f"\\u{code:04x}" for code in _HIDDEN if code > 0x20}  # in JSON, the others are so already


def printable(text: str) -> str:
    """Return a text that only writes to a terminal: control characters but tab and newline become visible signs."""
    return text.translate(_HIDDEN)


def for_stdout(text: str) -> str:
    """Return a text as it is, or `printable` where stdout is a terminal."""
    return printable(text) if sys.stdout.isatty() else text


def aside(text: str) -> None:
    """Print on stderr, dim where that is a terminal, what is not an answer."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stderr.isatty()
    if os.name == "nt" and "WT_SESSION" not in os.environ:  # an older console writes the codes out
        plain = True
    text = printable(text)
    sys.stdout.flush()
    print(text if plain else f"\x1b[2m{text}\x1b[0m", file=sys.stderr, flush=True)


@contextmanager
def opened(
    arguments: argparse.Namespace, progress: ProgressCallback | None = None, meter: Meter | None = None
) -> Iterator[Engine]:
    """Open the engine that the arguments name; `progress` is used in place of a line on stderr, that of `meter`.

    While it is open its warnings go to stderr, such as who answers instead of a model that is not here.
    """
    meter = meter or Meter()
    shown = None if arguments.quiet else progress or meter
    with ExitStack() as stack:
        stack.callback(meter.release)
        if not arguments.quiet:
            stack.enter_context(_heard(meter))
        yield stack.enter_context(Engine(profile=arguments.profile, home=arguments.home, progress=shown))


@contextmanager
def _heard(meter: Meter) -> Iterator[None]:
    heard, log = _Heard(meter), logging.getLogger("engine")
    log.addHandler(heard)
    try:
        yield
    finally:
        log.removeHandler(heard)


class _Heard(logging.Handler):
    """Tells warnings on stderr, each on a line of its own."""

    def __init__(self, meter: Meter) -> None:
        super().__init__(logging.WARNING)
        self._meter = meter

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._meter.warn(record.getMessage())
        except Exception:  # noqa: BLE001 - what logs must not fail since nobody listens
            self.handleError(record)


def show(arguments: argparse.Namespace, value: Any, lines: Sequence[str]) -> None:
    """Print a value as JSON where that is asked for, else the lines."""
    if arguments.json:
        print(json.dumps(value, ensure_ascii=False).translate(_ESCAPED))
    else:
        print(for_stdout("\n".join(lines)), end="\n" if lines else "")


def complain(reason: str) -> None:
    """Print why something failed, as one line on stderr."""
    print("gieok:", printable(" ".join(reason.splitlines())), file=sys.stderr, flush=True)


_FILE, _ALL = 0, 1  # the rows of bars
_BAR, _AMOUNT, _REST = 20, 16, 24  # columns of a bar, of an amount, and of speed, time left and the gaps
_KOREAN = ((r"check$", "확인"), (r"retry in (\d+) s", r"\1초 뒤 다시 시도"), (r"total$", "전체"))


class Bars:
    """Progress of fetches as two bars on stderr, of the file in work and of all; none where stderr is no terminal.

    `planned` is model → bytes. What is found here already, such as a file's beginning, moves the bars but is no speed.
    """

    def __init__(self, planned: Mapping[str, int], language: Language = "en") -> None:
        self._totals, self._done, self._language = dict(planned), dict.fromkeys(planned, 0), language
        self._work = ""
        self._display: Display | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._display:
            self._display.stop()

    def __call__(self, event: Progress) -> None:
        """Draw an event."""
        if not sys.stderr.isatty():
            return
        shown = event.part or event
        name, _, state = shown.task.partition(": ")
        work = f"{event.task}: {name}: {'' if state.startswith('retry') else state}"
        fresh, self._work = work != self._work, work
        display = self._display = self._display or _display()
        self._draw(_FILE, self._title(name, state), shown, counts=not fresh)
        doing, _, model = event.task.partition(" ")
        if doing in ("download", "verify") and event.total:
            self._totals[model], self._done[model] = event.total, event.done
            everything = Progress("", sum(self._done.values()), sum(self._totals.values()), event.unit)
            found = fresh or (state == "check" and doing != "verify")
            self._draw(_ALL, self._title("", "total"), everything, counts=not found)
        display.start()

    def _draw(self, row: int, title: str, event: Progress, *, counts: bool) -> None:
        display = self._display
        assert display
        task = display.tasks[row]
        task.total, task.description, task.visible = event.total or None, title, True
        if counts:
            display.update(task.id, completed=event.done, amount=_share(event))
            return
        if row == _FILE:  # another file's speed
            display.reset(task.id, completed=event.done, amount=_share(event))
        task.finished_time = task.finished_speed = None
        task.completed, task.fields["amount"] = event.done, _share(event)

    def _title(self, name: str, state: str) -> str:
        """Return what a row is called, all equally wide: of a long name the end, where parts have their number."""
        for english, korean in _KOREAN if self._language == "ko" else ():
            state = re.sub(f"^{english}", korean, state)
        width = max(20, (self._display.console.width if self._display else 80) - _BAR - _AMOUNT - _REST)
        room = max(12, width - len(state) - 2) if state and name else width
        name = name if len(name) <= room else f"…{name[1 - room :]}"
        title = ": ".join(filter(None, (name, state)))
        return title.ljust(width) if len(title) <= width else f"{title[: width - 1]}…"


def _display() -> Display:
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    display = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(_BAR),
        progress.TextColumn(f"{{task.fields[amount]:>{_AMOUNT}}}", markup=False),
        progress.TransferSpeedColumn(Column(min_width=12, justify="right")),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # which is for data
    )
    for _row in (_FILE, _ALL):
        display.add_task("", visible=False, total=None, amount="")
    return display


def _share(event: Progress) -> str:
    if event.unit != "bytes":
        return _amount(event)
    unit, size, digits = ("GB", 1e9, 2) if max(event.done, event.total) >= 1e9 else ("MB", 1e6, 1)
    done = f"{event.done / size:.{digits}f}"
    return f"{done} / {event.total / size:.{digits}f} {unit}" if event.total else f"{done} {unit}"


_TERMINAL_SECONDS, _FILE_SECONDS = 0.1, 10.0  # between two lines of progress


class Meter:
    """Progress on stderr: one line that is overwritten on a terminal, a line every ten seconds elsewhere.

    None while it is held, as where somebody types; warnings wait until then.
    """

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._said = float("-inf")
        self._width = 0
        self._held = False
        self._waiting: list[str] = []

    def __call__(self, event: Progress) -> None:
        if self._held:
            return
        now = time.monotonic()
        began = self._began.setdefault(event.task, now)
        ended = bool(event.total) and event.done >= event.total
        terminal = sys.stderr.isatty()
        quiet = now - self._said < _TERMINAL_SECONDS if terminal else now - max(self._said, began) < _FILE_SECONDS
        if quiet and not (terminal and ended):
            return
        self._said = now
        line = f"{event.task}: {_amount(event)} · {now - began:.0f} s"
        end = "\n" if ended or not terminal else ""
        print(("\r" if terminal else "") + line.ljust(self._width), end=end, file=sys.stderr, flush=True)
        self._width = 0 if end else len(line)

    def end(self) -> None:
        """End a line that waits to be overwritten, so that what follows has its own."""
        if self._width:
            print(file=sys.stderr)
            self._width = 0

    def warn(self, reason: str) -> None:
        """Tell a warning on a line of its own, or once it may be told."""
        if self._held:
            self._waiting.append(reason)
        else:
            self.end()
            complain(reason)

    def hold(self) -> None:
        """Show nothing until `release`."""
        self.end()
        self._held = True

    def release(self) -> None:
        """Show again what is to be shown, and what had to wait."""
        self._held = False
        self.end()
        while self._waiting:
            complain(self._waiting.pop(0))


def _amount(event: Progress) -> str:
    if event.unit == "bytes":
        return f"{event.done / 1e6:.0f} / {event.total / 1e6:.0f} MB" if event.total else f"{event.done / 1e6:.0f} MB"
    return f"{event.done} / {event.total} {event.unit}" if event.total else f"{event.done} {event.unit}"
