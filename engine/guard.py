"""Keeps Han characters and kana out of Korean answers, down to tokens that hold only a part of such a character.

Chinese-trained models slip into Chinese in the middle of a Korean sentence. Byte-level vocabularies split characters,
so the guard looks at bytes: a token is forbidden where it completes such a character, or begins what only such a
character can end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.instructions import ASKS_FOR_HAN, language_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.inputs import Turn

# Han, kana and bopomofo of Unicode 16; punctuation, enclosed and full-width forms that Korean uses are not among them.
# The hexagrams 4DC0-4DFF are, or whoever begins a Han letter with its first byte, E4, could only end in a hexagram.
RANGES = (
    (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x30FF), (0x3100, 0x312F), (0x31A0, 0x31BF),
    (0x31F0, 0x31FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)  # fmt: skip
_HELD = re.compile("[" + "".join(f"{chr(low)}-{chr(high)}" for low, high in RANGES) + "]")
_REST = b"\x80-\xbf"  # the bytes that go on with a character, as a class of a pattern
# what is left of a character that may still become a forbidden one
_PENDING = re.compile(rb"(?:[\xe2\xe3\xef][%b]?|\xf0[%b]{0,2})\Z" % (_REST, _REST))


class Guard:
    """Which tokens of one vocabulary may not come next; `pieces` are the bytes of every token, in id order."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._found = re.compile(_pattern()).search
        self._always = [token for token, piece in enumerate(pieces) if self._found(piece)]
        self._going_on = [(token, piece) for token, piece in enumerate(pieces) if piece[:1] and 0x80 <= piece[0] < 0xC0]
        self._forbidden: dict[bytes, NDArray[np.int32]] = {}

    def forbidden(self, pending: bytes) -> NDArray[np.int32]:
        """Return the ids that may not follow a text that ends in `pending`."""
        import numpy as np

        if pending not in self._forbidden:
            # only a token that goes on with the pending character means something else than at the start of one
            more = {token for token, piece in self._going_on if self._found(pending + piece)}
            self._forbidden[pending] = np.array(sorted(more.union(self._always)), np.int32)
        return self._forbidden[pending]

    def pending(self, pending: bytes, piece: bytes) -> bytes:
        """Return the bytes of an unfinished character that matter for what comes after `pending` and `piece`."""
        left = _PENDING.search((pending + piece)[-3:])
        return left[0] if left else b""


def holds(text: str) -> bool:
    """Return whether `text` holds a Han character or kana."""
    return _HELD.search(text) is not None


def wanted(turns: Sequence[Turn], schema: Mapping[str, Any] | None = None) -> bool:
    """Return whether to keep Han and kana out: the user writes Korean, and nobody uses or asks for them."""
    told = [turn.content for turn in turns if turn.role in ("user", "system")]
    last = next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
    if language_of(last) != "ko" or any(holds(text) or ASKS_FOR_HAN.search(text) for text in told):
        return False
    return schema is None or not holds(json.dumps(schema, ensure_ascii=False))


def _pattern() -> bytes:
    """Return a pattern that finds the UTF-8 of a forbidden character, or a beginning that only such can follow."""
    parts = []
    for low, high in RANGES:
        size = len(chr(low).encode())
        parts.append(_between(chr(low).encode(), chr(high).encode()))
        for length in range(1, size):
            # the characters that share their first `length` bytes are one aligned block of code points
            block = 64 ** (size - length)
            first, end = -(-low // block) * block, (high + 1) // block * block
            if first < end:
                begins = _between(chr(first).encode()[:length], chr(end - 1).encode()[:length])
                parts.append(rb"%b\Z" % begins)
    return b"|".join(parts)


def _between(low: bytes, high: bytes) -> bytes:
    """Return a pattern of the byte strings from `low` to `high`, in the order of UTF-8, all of one length."""
    first, last, rest = low[0], high[0], len(low) - 1
    if not rest or first == last:
        return b"[%c-%c]" % (first, last) + (_between(low[1:], high[1:]) if rest else b"")
    parts = []
    if low[1:] != b"\x80" * rest:
        parts.append(low[:1] + _between(low[1:], b"\xbf" * rest))
        first += 1
    if high[1:] != b"\xbf" * rest:
        parts.append(high[:1] + _between(b"\x80" * rest, high[1:]))
        last -= 1
    if first <= last:
        parts.append(b"[%c-%c]" % (first, last) + b"[%b]" % _REST * rest)
    return b"(?:%b)" % b"|".join(parts)
