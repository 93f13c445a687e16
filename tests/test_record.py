"""The recording of a terminal: what a command wrote, in order, each letter in its cell; and nothing that acts or calls."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import script_module

pytest.importorskip("pty", reason="a pseudo terminal is POSIX's")
record = script_module.load("record")

SVG = "{http://www.w3.org/2000/svg}"
CANNED = record.Recording(
    "gieok demo",
    20,
    4,
    (
        (0.5, "1 나는 <b>&\r\n"),
        (0.52, "\x1b[32mfine\x1b[0m\r\n"),
        (9.0, "50%"),
        (9.3, "\r100% \x1b[1m끝\x1b[0m\r\n"),
        (9.6, "last"),
    ),
)

PACE = record.Pace(speed=1.0)


def drawn(recording: object = CANNED, **pace: float) -> tuple[str, ET.Element]:
    wanted = record.Pace(**{"speed": 1.0, **pace})
    text = record.svg(recording, record.pictures(recording, wanted), wanted)
    return text, ET.fromstring(text)


def lines(picture: object) -> list[str]:
    """Return the lines of a picture as they are read."""
    found = []
    for line in picture.lines:  # type: ignore[attr-defined]
        text = ""
        for run in line:
            text = text.ljust(run.column - sum(map(_is_wide, text))) + run.text
        found.append(text)
    return found


def _is_wide(letter: str) -> bool:
    return "가" <= letter <= "힣"


def test_what_was_written_is_shown_in_order() -> None:
    shown = record.pictures(CANNED, PACE)
    assert lines(shown[0])[0] == "$" and lines(shown[len("gieok demo")])[0] == "$ gieok demo"
    texts = ["\n".join(lines(picture)) for picture in shown]
    at = [next(i for i, text in enumerate(texts) if part in text) for part in ("나는 <b>&", "50%", "100% 끝", "last")]
    assert at == sorted(at)
    assert texts[-1].endswith("fine\n100% 끝\nlast")
    assert not any("50%" in text for text in texts[at[2] :])  # it was written over
    assert [picture.at for picture in shown] == sorted({picture.at for picture in shown})


def test_what_comes_within_a_moment_is_one_picture() -> None:
    texts = ["\n".join(lines(picture)) for picture in record.pictures(CANNED, PACE)]
    assert all(("나는" in text) == ("fine" in text) for text in texts if "last" not in text)


@pytest.mark.parametrize(
    ("pace", "seconds"), [({}, 1.0), ({"idle": 3.0}, 3.0), ({"idle": 100.0}, 8.48), ({"speed": 0.5}, 2.0)]
)
def test_a_wait_is_shortened_and_the_svg_says_so(pace: dict[str, float], seconds: float) -> None:
    shown = record.pictures(CANNED, record.Pace(**{"speed": 1.0, **pace}))
    first, second = (next(p.at for p in shown if mark in "".join(lines(p))) for mark in ("fine", "50%"))
    assert second - first == pytest.approx(seconds, abs=0.06)
    _, root = drawn(**pace)
    told = root.findtext(f"{SVG}title") or ""
    assert told in (root.findtext(f"{SVG}text") or "")
    assert f"more than {pace.get('idle', 1.0):g} s are shortened" in told
    assert ("0.5 of its speed" in told) is ("speed" in pace)


def test_the_film_shows_one_picture_after_the_other_and_the_last_for_longest() -> None:
    text, root = drawn()
    shown = record.pictures(CANNED, PACE)
    stops = [tuple(map(float, stop)) for stop in re.findall(r"([\d.]+)%\{transform:translateX\((-?[\d.]+)px\)\}", text)]
    assert len(stops) == len(shown) + 1
    assert stops == sorted(stops, key=lambda stop: stop[0]) and stops[0] == (0.0, 0.0) and stops[-1][0] == 100
    frames = root.findall(f"{SVG}svg/{SVG}g/{SVG}g")
    moved = [float((frame.get("transform") or "translate(0)")[10:-1]) for frame in frames]
    assert [-stop[1] for stop in stops[:-1]] == pytest.approx(moved) and stops[-1][1] == stops[-2][1]
    (whole,) = re.findall(r"animation:film ([\d.]+)s", text)
    assert float(whole) == pytest.approx(shown[-1].at + 8, abs=0.02)
    assert f".film{{transform:translateX({record._number(stops[-1][1])}px)" in text  # where nothing moves
    assert "prefers-reduced-motion" in text


def test_each_letter_is_in_its_cell() -> None:
    _, root = drawn()
    texts = {text.text: text for text in root.iter(f"{SVG}text")}
    wide = texts["나는"]
    assert [float(x) for x in (wide.get("x") or "").split()] == pytest.approx([2 * 8.4, 4 * 8.4])
    after = texts["<b>&"]
    assert float(after.get("x") or 0) == pytest.approx(7 * 8.4)
    assert float(after.get("textLength") or 0) == pytest.approx(4 * 8.4)
    assert "fill:#7ee787" in (texts["fine"].get("style") or "") and texts["끝"].get("font-weight") == "bold"


def test_it_acts_on_nothing_and_calls_nobody() -> None:
    text, root = drawn()
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        "svg", "title", "style", "rect", "text", "defs", "g", "use",
    }  # fmt: skip
    assert text.replace('"http://www.w3.org/2000/svg"', "").count("http") == 0
    assert "@import" not in text and "url(" not in text
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    assert {use.get("href") for use in root.iter(f"{SVG}use")} == {f"#{name}" for name in ids}
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]


def test_the_same_recording_makes_the_same_file_and_a_line_is_there_once() -> None:
    assert drawn()[0] == drawn()[0]
    long = record.Recording(
        "x", 80, 24, [(number / 5, f"line {number % 7} 한글 {'-' * 50}\r\n") for number in range(300)]
    )
    assert len(drawn(long)[0].encode()) < 200_000


# ---- a real command


def test_a_command_runs_in_a_terminal(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdout.isatty(), os.get_terminal_size().columns, '한글')"
    recording = record.record([sys.executable, "-X", "utf8", "-c", code], 44, 5)
    assert "".join(text for _, text in recording.events) == "True 44 한글\r\n"
    assert all(at > 0 for at, _ in recording.events)


def test_letters_that_come_in_parts_are_whole() -> None:
    code = "import os, time\nfor b in '한글'.encode(): os.write(1, bytes([b])); time.sleep(0.01)"
    recording = record.record([sys.executable, "-c", code], 44, 5)
    assert "".join(text for _, text in recording.events) == "한글"


def test_the_script_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new/one.svg"
    arguments = ["--out", str(out), "--rows", "4", "--speed", "0.5", sys.executable, "-c", "print('hello', 3 * 14)"]
    assert record.main(arguments) == 0
    assert any(text.text == "hello 42" for text in ET.parse(out).iter(f"{SVG}text"))
    assert "pictures" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[sys.executable, "-c", "raise SystemExit(3)"], ["there-is-no-such-program"]])
def test_of_a_command_that_fails_nothing_is_written(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record.main(["--out", str(tmp_path / "one.svg"), *command]) == 1
    assert not (tmp_path / "one.svg").exists()
    assert "nothing was recorded" in capsys.readouterr().err


def test_a_program_of_this_python_is_taken_first() -> None:
    assert record._found(["gieok", "demo"]) == [str(Path(sys.executable).with_name("gieok")), "demo"]


# ---- the one in the repository


def test_the_recording_of_the_demo_is_whole() -> None:
    path = Path(__file__).parents[1] / "docs/recording.svg"
    root = ET.parse(path).getroot()
    said = " ".join(text.text or "" for text in root.iter(f"{SVG}text"))
    assert path.stat().st_size < 200_000
    assert "gieok demo" in said and "Every ✓ was checked." in said and "✗" not in said
    assert "http" not in path.read_text(encoding="utf-8").replace('"http://www.w3.org/2000/svg"', "")
