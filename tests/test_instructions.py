"""The words of each language: typed, alike in both, and known by their version."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import instructions
from engine.inputs import CATEGORIES, ROLES
from engine.instructions import LANGUAGES, Language

FOLDER = Path(instructions.__file__).parent / "words"
LEAVES = {"ko": "한국어로", "en": "briefly"}  # a word of each file


def text_of(language: Language) -> str:
    return (FOLDER / f"{language}.toml").read_text(encoding="utf-8")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text with where it stands."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}")
    elif isinstance(value, tuple):
        for number, below in enumerate(value):
            yield from leaves(below, f"{path}[{number}]")
    else:
        yield path, value


def named_fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_is_a_text_that_says_something(language: Language) -> None:
    words = dict(leaves(asdict(instructions.WORDS[language])))
    assert len(words) > 40
    for path, text in words.items():
        assert isinstance(text, str) and text.strip() == text != "", path
    assert instructions.language_of(words[".classify"]) == language


def test_both_languages_say_the_same_things() -> None:
    # how many examples there are may differ
    ko, en = ({path.split("[")[0] for path, _ in leaves(asdict(instructions.WORDS[one]))} for one in LANGUAGES)
    assert ko == en
    for name in ("extract_example", "context"):
        assert len(getattr(instructions.WORDS["ko"], name)) == len(getattr(instructions.WORDS["en"], name)) == 2
    assert len(instructions.EVERYDAY["ko"]) == len(instructions.EVERYDAY["en"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_filled_in_has_its_places(language: Language) -> None:
    words = instructions.WORDS[language]
    assert named_fields(words.at_most) == {"words"}
    assert named_fields(words.session.now) == {"now", "weekday"}
    assert len(set(words.session.weekdays)) == 7
    told = words.session.now.format(now=datetime(2026, 3, 5, 9, 7), weekday=words.session.weekdays[3])
    assert "2026-03-05" in told and "09:07" in told
    assert set(words.speakers) >= {*ROLES, "former"}
    assert tuple(words.categories) == CATEGORIES


def test_names_are_those_of_the_files() -> None:
    for field in fields(instructions.Words):
        by_language = getattr(instructions, field.name.upper())
        assert {language: by_language[language] for language in LANGUAGES} == {
            language: getattr(instructions.WORDS[language], field.name) for language in LANGUAGES
        }


@pytest.mark.parametrize("language", LANGUAGES)
def test_another_word_is_another_version(language: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    before = instructions.version()
    changed = text_of(language).replace(LEAVES[language], LEAVES[language] + "!", 1)
    assert instructions.words_of(changed) != instructions.WORDS[language]
    monkeypatch.setitem(instructions._TEXTS, language, changed)
    instructions.version.cache_clear()
    try:
        assert instructions.version() != before
        monkeypatch.undo()
        instructions.version.cache_clear()
        assert instructions.version() == before
    finally:
        instructions.version.cache_clear()


def test_the_version_is_of_the_files_as_they_are_in_the_package() -> None:
    for language in LANGUAGES:
        assert instructions._read(language) == text_of(language)
        assert instructions.words_of(text_of(language)) == instructions.WORDS[language]


def test_a_word_too_many_or_too_few_is_refused() -> None:
    text = text_of("en")
    with pytest.raises(TypeError, match="clasify"):
        instructions.words_of(text.replace("\nclassify =", "\nclasify ="))
    with pytest.raises(TypeError, match="samples"):
        instructions.words_of(text.replace("examples", "samples"))
    with pytest.raises(ValueError, match="document"):
        instructions.words_of(text + "\n[")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), max_size=20))
def test_a_text_without_hangul_is_english(text: str) -> None:
    assert instructions.language_of(text) == "en"
    assert instructions.language_of(text + "가") == "ko"
    assert instructions.language_of(text + "ㅋ") == "ko"
