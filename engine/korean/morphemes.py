"""Morphemes of Korean text, by Kiwi; the only file that imports it.

Kiwi's dictionary of multi-word names is left out: keywords do not need it, and without it Kiwi loads faster and
holds less. It opens no socket and writes nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kiwipiepy import Kiwi, Token

_NAMES = ("NNG", "NNP", "SL", "SH", "W_URL", "W_EMAIL", "W_HASHTAG", "W_MENTION", "W_SERIAL")
# Where Kiwi finds no word its time grows with the square of the text; pieces end at white space if they can.
_PIECE = r"(?s).{1,1000}(?=\s|\Z)|.{1,1000}"
_UNITS = ("NNG", "SL", "SW")
_TERMS = 1  # counts the ways in which terms() has read a text
_EMPTY_STEMS = frozenset(
    "하 되 있 없 같 않 그러 이러 그렇 이렇 저렇 어떻 어떡하 그래".split()
)  # they say nothing to search for
_COUNTS = frozenset("한 두 세 네 서 너 석 넉 첫".split())
# What a question says about asking, in the form of terms(); what is asked about stands beside it.
ASKING = frozenset("알리다 알다 말하다 기억 기억하다 나다 궁금 궁금하다 찾다 묻다 확인 부탁".split())
# How such words begin as they are written, and the words for what is not known.
ASKING_STARTS = tuple(
    "누구 누가 언제 어디 어딨 무엇 무슨 뭐 뭘 뭔 몇 어떤 어느 어떻 어때 왜 얼마 "
    "알려 알아 말해 말했 기억 궁금 찾아".split()
)


def version() -> str:
    """Name what terms() are made by: they may change when it does. Loads nothing."""
    from importlib.metadata import version as installed

    return f"kiwi {installed('kiwipiepy')}, model {installed('kiwipiepy_model')}, terms {_TERMS}"


class Analyser:
    """Finds words and their parts; loads Kiwi on first use and may be shared between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kiwi: Kiwi | None = None

    def keywords(self, text: str) -> tuple[str, ...]:
        """Return the words of `text` that a search could use, in order of appearance, each once.

        Nouns, names and foreign words stand as they are (운동 for 운동하다), verbs and adjectives in their
        dictionary form (맵다, 좋아하다), a number with the unit after it (1990년, 3살) or the letters before
        it (M3). Pronouns, particles, endings, auxiliary and empty verbs (하다, 있다) and bare numbers are
        left out. Raises UnicodeEncodeError for a lone surrogate.
        """
        return tuple(dict.fromkeys(word for tokens in self._read(text) for word in _words(tokens)))

    def terms(self, text: str) -> tuple[str, ...]:
        """Return what an index of texts should know `text` by, and a search look for: more than the keywords.

        Added are bare numbers (1234, 셋), counts with their unit (두명), and the parts of a name of letters and
        a number (RTX and 4070 beside RTX4070), which others write apart.
        Raises UnicodeEncodeError for a lone surrogate.
        """
        return tuple(dict.fromkeys(term for tokens in self._read(text) for term in _terms(tokens)))

    def tagged(self, text: str) -> list[tuple[str, str]]:
        """Return the form and the tag (of Sejong's set, as Kiwi has it) of every morpheme, in order.

        Raises UnicodeEncodeError for a lone surrogate.
        """
        return [(str(token.form), str(token.tag)) for tokens in self._read(text) for token in tokens]

    def _read(self, text: str) -> Iterator[Sequence[Token]]:
        for piece in re.findall(_PIECE, unicodedata.normalize("NFC", text)):  # macOS takes syllables apart
            with self._lock:
                tokens = self._load().tokenize(piece)
            yield tokens

    def _load(self) -> Kiwi:
        if self._kiwi is None:
            from kiwipiepy import Kiwi

            self._kiwi = Kiwi(num_workers=1, load_multi_dict=False)
        return self._kiwi


def _words(tokens: Sequence[Token]) -> Iterator[str]:
    place = 0
    while place < len(tokens):
        ahead = tokens[place : place + 4]
        count = _length_of_amount(ahead) or _length_of_model_name(ahead)
        if count:
            yield "".join(token.form for token in tokens[place : place + count])
            place += count
            continue
        word = _word(tokens[place], tokens[place + 1].tag if place + 1 < len(tokens) else "")
        if word:
            yield word
        place += 1


def _terms(tokens: Sequence[Token]) -> Iterator[str]:
    place = 0
    while place < len(tokens):
        ahead = tokens[place : place + 4]
        if count := _length_of_amount(ahead) or _length_of_count(ahead):
            yield "".join(token.form for token in ahead[:count])
            place += count
            continue
        if count := _length_of_model_name(ahead):
            yield "".join(token.form for token in ahead[:count])
        term = _term(tokens[place], ahead[1].tag if len(ahead) > 1 else "")
        if term:
            yield term
        place += 1


def _length_of_count(tokens: Sequence[Token]) -> int:
    """Return 2 where a number in words and a counter stand at the start (두 명, 스물다섯 살), else 0."""
    if len(tokens) < 2 or tokens[1].tag != "NNB":
        return 0
    return 2 if tokens[0].tag == "NR" or (tokens[0].tag == "MM" and tokens[0].form in _COUNTS) else 0


def _length_of_amount(tokens: Sequence[Token]) -> int:
    """Return how many tokens a number and its unit take at the start (150 + 만 + 원 is 3), else 0."""
    if tokens[0].tag != "SN":
        return 0
    for place, token in enumerate(tokens[1:], start=1):
        touching = token.start == tokens[place - 1].end
        if token.tag == "NNB" or (touching and token.tag in _UNITS):
            return place + 1
        if token.tag != "NR":
            return 0
    return 0


def _length_of_model_name(tokens: Sequence[Token]) -> int:
    """Return 2 where Latin letters and a number stand together (M3, GPT4), else 0."""
    if len(tokens) < 2 or tokens[0].tag != "SL" or tokens[1].tag != "SN":
        return 0
    return 2 if tokens[1].start == tokens[0].end else 0


def _word(token: Token, following: str) -> str | None:
    form: str = token.form
    if token.tag in _NAMES:
        return form
    if token.tag == "XR":
        return f"{form}하다" if following == "XSA" else form
    if token.tag.startswith(("VV", "VA")) and form not in _EMPTY_STEMS:
        return f"{form}다"
    return None


def _term(token: Token, following: str) -> str | None:
    if token.tag in ("SN", "NR"):
        return str(token.form)
    if token.form == "말" and following == "XSV":
        return "말하다"  # of all nouns before 하다 the one that would be another word: a horse
    return _word(token, following)
