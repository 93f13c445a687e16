"""What was found of the tasks, as a picture: shares as bars, times beside them on a scale of tens.

In Korean where a font is installed that has its letters, else in English.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import task_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
NO_LETTER = 0x0378  # what is no character; a font of last resort has even that
# tried in this order before any other font
FONTS = (
    "Noto Sans CJK KR", "Noto Sans KR", "Pretendard", "NanumGothic", "NanumBarunGothic", "Malgun Gothic",
    "Apple SD Gothic Neo", "AppleGothic", "Source Han Sans KR", "Noto Sans CJK JP", "UnDotum", "Baekmuk Dotum",
)  # fmt: skip
NO_FONT = (
    "No installed font has Korean letters, so the picture is in English. One comes with: sudo apt-get install "
    "fonts-nanum (Debian, Ubuntu), sudo dnf install google-noto-sans-cjk-fonts (Fedora); macOS and Windows have one.\n"
    "한글 글꼴이 없어 그림을 영어로 그립니다. 예: sudo apt-get install fonts-nanum"
)
NO_MATPLOTLIB = (
    "--plot needs matplotlib, which is not installed: .venv/bin/python -m pip install matplotlib\n"
    "--plot에는 matplotlib이 필요합니다: .venv/bin/python -m pip install matplotlib"
)
_NAMES = {
    "classification by meaning": "분류(의미)", "classification by logits": "분류(로짓)", "extraction": "기억 추출",
    "extraction by rules alone": "기억 추출(규칙만)", "times": "시간 표현", "understanding": "의도 이해",
    "questions of 3i4K": "질문 여부(3i4K)", "summary": "요약", "conversation": "대화",
}  # fmt: skip
_TITLES = {
    False: ("The tasks in Korean, profile {profile}", "share (%)", "seconds an answer"),
    True: ("한국어 과제 평가, 프로필 {profile}", "비율(%)", "답 하나에 걸린 시간(초)"),
}
_BAR = 0.32  # inches
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#117755")  # Tol's bright


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its label, how long it is, and what it belongs to."""

    label: str
    value: float
    section: str


def available() -> bool:
    """Return whether pictures can be drawn here."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def draw(sections: Mapping[str, Mapping[str, Any]], profile: str, path: Path) -> str | None:
    """Write the picture in the format of `path`; return what to tell where it is in English for want of a font.

    Raises `OSError`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    font = korean_font()
    title, *axes_titles = _TITLES[font is not None]
    drawn = shares(sections, korean=font is not None), times(sections, korean=font is not None)
    families = [*([] if font is None else [font]), "DejaVu Sans"]
    # with the salt, one set of figures gives one picture, byte for byte
    with mpl.rc_context({"font.family": families, "axes.unicode_minus": False, "svg.hashsalt": "gieok"}):
        figure = Figure(figsize=(13, 1.5 + _BAR * max(map(len, drawn))), layout="constrained")
        figure.suptitle(title.format(profile=profile))
        for axes, bars, name in zip(figure.subplots(1, 2), drawn, axes_titles, strict=True):
            _fill(axes, bars, list(sections))
            axes.set_xlabel(name)
        _scale(*figure.axes)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return None if font else NO_FONT


def shares(sections: Mapping[str, Mapping[str, Any]], *, korean: bool) -> list[Bar]:
    """Return the bars of what is a share and is drawn, in percent."""
    return [
        Bar(_label(name, row, korean=korean), 100 * value, name)
        for name, found in sections.items()
        for row, value in task_table.rows_of(found)
        if row.drawn and value is not None
    ]


def times(sections: Mapping[str, Mapping[str, Any]], *, korean: bool) -> list[Bar]:
    """Return the bars of times, in seconds."""
    return [
        Bar(_label(name, row, korean=korean), value, name)
        for name, found in sections.items()
        for row, value in task_table.rows_of(found)
        if row.unit == "seconds" and value is not None
    ]


def _label(name: str, row: task_table.Row, *, korean: bool) -> str:
    return f"{_NAMES.get(name, name)}: {row.korean}" if korean else f"{name}: {row.english}"


def _fill(axes: Axes, bars: Sequence[Bar], names: Sequence[str]) -> None:
    places = range(len(bars))
    colours = [_COLOURS[names.index(bar.section) % len(_COLOURS)] for bar in bars]
    drawn = axes.barh(places, [bar.value for bar in bars], color=colours)
    axes.bar_label(drawn, fmt="{:.3g}", padding=3)
    axes.set_yticks(places, labels=[bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)  # the first on top
    axes.spines[["top", "right"]].set_visible(False)


def _scale(shares: Axes, times: Axes) -> None:
    shares.set_xlim(0, 112)  # room for the number behind a full bar
    if times.patches:
        times.set_xscale("log")
        times.xaxis.set_major_formatter("{x:g}")
        times.margins(x=0.2)


def korean_font() -> str | None:
    """Return the family of an installed font that has every Korean letter that is drawn, the known ones first."""
    from matplotlib import font_manager

    entries = sorted(font_manager.fontManager.ttflist, key=lambda entry: _rank(entry.name))
    return next((entry.name for entry in entries if _writes(entry.fname)), None)


def _rank(name: str) -> int:
    return FONTS.index(name) if name in FONTS else len(FONTS)


def _writes(file: str) -> bool:
    """Return whether a font has the letters; one that cannot be read has none, nor one that draws boxes for all."""
    from matplotlib.ft2font import FT2Font

    try:
        has = FT2Font(file).get_charmap()
    except (OSError, RuntimeError):
        return False
    return NO_LETTER not in has and all(ord(letter) in has for letter in _letters())


def _letters() -> frozenset[str]:
    rows = (row.korean for rows in (*task_table.ROWS.values(), task_table.TIMES) for row in rows)
    words: Iterable[str] = (*rows, *_NAMES.values(), *_TITLES[True])
    return frozenset("".join(words).replace(" ", ""))
