"""Morphemes of Korean text, by Kiwi; the only file that imports it.

Kiwi's dictionary of multi-word names is left out: keywords do not need it, and without it Kiwi loads faster and
holds less. It opens no socket and writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kiwipiepy import Kiwi, Token

_NAMES = ("NNG", "NNP", "SL", "SH", "W_URL", "W_EMAIL", "W_HASHTAG", "W_MENTION", "W_SERIAL")
# Where Kiwi finds no word its time grows with the square of the text; pieces end at white space if they can.
_PIECE = r"(?s).{1,1000}(?=\s|\Z)|.{1,1000}"
_UNITS = ("NNG", "SL", "SW")
_EMPTY_STEMS = frozenset(
    "하 되 있 없 같 않 그러 이러 그렇 이렇 저렇 어떻 어떡하 그래".split()
)  # they say nothing to search for


class Analyser:
    """Finds keywords; loads Kiwi on first use and may be shared between threads."""

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
        found: dict[str, None] = {}
        for piece in re.findall(_PIECE, text):
            with self._lock:
                tokens = self._load().tokenize(piece)
            found.update(dict.fromkeys(_words(tokens)))
        return tuple(found)

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
