"""Sentence spans: nothing but white space is lost, and numbers stay whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.korean.sentences import sentences


def _split(text: str) -> list[str]:
    return [text[begin:stop] for begin, stop in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("안녕하세요. 반가워요!", ["안녕하세요.", "반가워요!"]),
        ("정말?! 그래…그렇구나", ["정말?!", "그래…", "그렇구나"]),
        ("첫 줄\n\n둘째 줄", ["첫 줄", "둘째 줄"]),
        ("키는 175.5cm야. 커?", ["키는 175.5cm야.", "커?"]),
        ("2026.3.5. 회의", ["2026.3.5.", "회의"]),
        ("2026. 3. 5. 10시에 보자. 응", ["2026. 3. 5. 10시에 보자.", "응"]),
        ("1. 우유 사기", ["1. 우유 사기"]),
        ('그가 "안녕." 하고 갔다.', ['그가 "안녕."', "하고 갔다."]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("그래.그럼 가자", ["그래.", "그럼 가자"]),
        ("engine.py 파일", ["engine.py 파일"]),
        ("끝은 없다", ["끝은 없다"]),
        ("", []),
        (" \n\t ", []),
        ("...", ["..."]),
    ],
)
def test_sentences_are_cut_where_a_reader_would(text: str, expected: list[str]) -> None:
    assert _split(text) == expected


@given(st.text() | st.text(alphabet=" \n.?!。…\"')1234가나ab", max_size=40))
def test_spans_cover_every_visible_character_once_in_order(text: str) -> None:
    covered, end = [False] * len(text), 0
    for begin, stop in sentences(text):
        assert end <= begin < stop
        assert text[begin:stop] == text[begin:stop].strip()
        covered[begin:stop] = [True] * (stop - begin)
        end = stop
    assert all(seen or char.isspace() for seen, char in zip(covered, text, strict=True))


@pytest.mark.parametrize("run", ["." * 100_000, "?!" * 50_000, "." * 50_000 + '"' * 50_000])
def test_a_run_of_enders_is_read_once(run: str) -> None:
    """Read anew from each of its marks, it would take hours."""
    assert sentences(run + "x") == [(0, 100_001)]
