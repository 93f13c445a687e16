"""What each task tells the model and what the eight categories mean, read from words/ko.toml and words/en.toml.

Those two files are the only place for such words. A missing or an unknown key fails at import.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


@dataclass(frozen=True, slots=True)
class SessionWords:
    """What a session says of itself; `now` takes `now`, a datetime, and `weekday`."""

    system: str
    profile: str
    summary: str
    now: str
    weekdays: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Category:
    """What a category means: the description is also what an LLM is shown."""

    description: str
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """All words of one language; `extract_example` is a dialogue and its answer, `context` stands around quoted data.

    `speakers` are the heads of the lines of a conversation that is summarised; "former" is a summary of what came
    before.
    """

    extract: str
    extract_example: tuple[str, str]
    classify: str
    everyday: tuple[str, ...]
    summarize: str
    summarize_parts: str
    at_most: str
    context: tuple[str, str]
    speakers: Mapping[str, str]
    session: SessionWords
    categories: Mapping[str, Category]


def words_of(text: str) -> Words:
    """Return the words of a file's text. Raises `ValueError` for what is no TOML, `TypeError` for other keys."""
    table = _with_tuples(tomllib.loads(text))
    session, categories = table.pop("session"), table.pop("categories")
    return Words(
        **table,
        session=SessionWords(**session),
        categories={name: Category(**category) for name, category in categories.items()},
    )


@cache
def version() -> str:
    """Return a short sha256 of all words: what was computed of other words must not be used."""
    return hashlib.sha256("\0".join(_TEXTS.values()).encode()).hexdigest()[:16]


def language_of(text: str) -> Language:
    """Return "ko" if a text holds Hangul, else "en"."""
    return "ko" if any("가" <= char <= "힣" or "ㄱ" <= char <= "ㆎ" for char in text) else "en"


def _read(language: Language) -> str:
    text = resources.files("engine").joinpath("words", f"{language}.toml").read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")  # as a checkout on Windows may have it


def _with_tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _with_tuples(value) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
        for key, value in table.items()
    }


_TEXTS: dict[Language, str] = {language: _read(language) for language in LANGUAGES}
WORDS: dict[Language, Words] = {language: words_of(text) for language, text in _TEXTS.items()}

EXTRACT = {language: words.extract for language, words in WORDS.items()}
EXTRACT_EXAMPLE = {language: words.extract_example for language, words in WORDS.items()}
CLASSIFY = {language: words.classify for language, words in WORDS.items()}
EVERYDAY = {language: words.everyday for language, words in WORDS.items()}
SUMMARIZE = {language: words.summarize for language, words in WORDS.items()}
SUMMARIZE_PARTS = {language: words.summarize_parts for language, words in WORDS.items()}
AT_MOST = {language: words.at_most for language, words in WORDS.items()}
CONTEXT = {language: words.context for language, words in WORDS.items()}
SPEAKERS = {language: words.speakers for language, words in WORDS.items()}
SESSION = {language: words.session for language, words in WORDS.items()}
CATEGORIES = {language: words.categories for language, words in WORDS.items()}

# words of someone who wants Han characters or kana in an answer; not 일어나다, 집중문제, 한자리, 어디 가나요
ASKS_FOR_HAN = re.compile(
    r"한자(?!리|루)|(?<![가-힣])한문(?!제|단|장)|(?<![가-힣])중문|중국[어말]|일본[어말]|(?<![가-힣])일어(?![나났난날남납서섰선설섬섭])|"
    r"(?<![가-힣])간체|번체|히라가나|[가카]타카나|가나 ?문자|"
    r"가나[로를] ?(?:써|쓰|적|읽|바꿔)|만다린|광둥어|병음|사자성어|고사성어|"
    r"(?<![a-z])(?:Chinese|Japanese|Mandarin|Cantonese|kanji|kana|hanja|hanzi|hiragana|katakana|pinyin)(?![a-z])",
    re.IGNORECASE,
)
