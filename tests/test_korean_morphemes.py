"""Keywords by Kiwi: the real analyser, loaded once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.korean.morphemes import ASKING, ASKING_STARTS, Analyser, version


@pytest.fixture(scope="module")
def analyser() -> Analyser:
    return Analyser()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("저는 매운 음식을 못 먹어요", ("맵다", "음식", "먹다")),
        ("내 생일은 1990년 5월 17일이야", ("생일", "1990년", "5월", "17일")),
        ("운동하는 걸 좋아해", ("운동", "좋아하다")),
        ("깨끗한 방이 있어", ("깨끗하다", "방")),
        ("3살 강아지를 150만원에 샀다", ("3살", "강아지", "150만원", "사다")),
        ("3.14 5kg", ("5kg",)),
        ("강아지와 강아지", ("강아지",)),
        ("a@b.com", ("a@b.com",)),
        ("그래서 그렇게 했어요", ()),
        ("  ", ()),
    ],
)
def test_keywords(analyser: Analyser, text: str, expected: tuple[str, ...]) -> None:
    assert analyser.keywords(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("도어락 비밀번호는 0427이야", ("도어", "락", "비밀", "번호", "0427")),
        ("RTX4070 샀어", ("RTX4070", "RTX", "4070", "사다")),
        ("RTX 4070 샀어", ("RTX", "4070", "사다")),
        ("고양이 두 마리를 키워", ("고양이", "두마리", "키우다")),
        ("스물다섯 살이야", ("스물다섯살",)),
        ("3살 강아지를 150만원에 샀다", ("3살", "강아지", "150만원", "사다")),
        ("몇 살이야?", ()),
        ("  ", ()),
    ],
)
def test_terms(analyser: Analyser, text: str, expected: tuple[str, ...]) -> None:
    assert analyser.terms(text) == expected


@pytest.mark.parametrize(
    "text", ["알려줘", "내가 뭐라고 말했지?", "기억나?", "기억해?", "혹시 알아?", "궁금해", "찾아줘", "확인 부탁해"]
)
def test_terms_of_asking_are_known_as_such(analyser: Analyser, text: str) -> None:
    terms = [term for term in analyser.terms(text) if term != "혹시"]
    assert terms
    assert set(terms) <= ASKING


def test_a_horse_is_no_word_of_asking(analyser: Analyser) -> None:
    assert analyser.terms("말을 탔어") == ("말", "타다")
    assert not ASKING & {"말", "타다"}
    assert not "말을".startswith(ASKING_STARTS)


def test_tags_are_those_of_kiwi_in_order(analyser: Analyser) -> None:
    assert analyser.tagged("커피를 안 마셔") == [
        ("커피", "NNG"),
        ("를", "JKO"),
        ("안", "MAG"),
        ("마시", "VV"),
        ("어", "EF"),
    ]
    assert len(analyser.tagged("나는 산책을 한다. " * 500)) == 500 * len(analyser.tagged("나는 산책을 한다."))


def test_the_version_names_kiwi_and_its_model() -> None:
    assert version().startswith("kiwi ")
    assert ", model " in version()


def test_letters_and_a_number_that_touch_are_one_word(analyser: Analyser) -> None:
    assert "M3" in analyser.keywords("BGE-M3 모델")


def test_long_text_is_read_to_its_end(analyser: Analyser) -> None:
    text = "나는 산책을 한다. " * 2000 + "고양이"
    assert analyser.keywords(text) == ("산책", "고양이")


def test_an_endless_word_is_no_trap(analyser: Analyser) -> None:
    assert len(analyser.keywords("a" * 200_000)) >= 1


def test_one_analyser_serves_many_threads() -> None:
    shared = Analyser()
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(shared.keywords, ["매운 떡볶이를 먹었어"] * 32))
    assert found == {("맵다", "떡볶이", "먹다")}


def test_importing_and_making_an_analyser_loads_nothing() -> None:
    code = (
        "import sys, engine.korean; engine.korean.Analyser(); engine.korean.morphemes.version();"
        "sys.exit(any(name.startswith('kiwipiepy') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
