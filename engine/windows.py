"""Texts → pieces that a model reads at once, and these in batches of like length.

Contract: any thread may use a `Reader`; it changes nothing of the tokenizer, which neither pads nor cuts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.inputs import TextKind
from engine.korean.sentences import sentences

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

Tokenize = Callable[[list[str]], list[list[int]]]
_PAD = 1
_AT_ONCE = 64  # texts that are tokenized together


@dataclass(frozen=True, slots=True)
class Piece:
    """A text, or a window of one, as the model reads it: with its prefix and markers, which are `overhead` of `ids`.

    `owner` is the number of the text that it belongs to.
    """

    owner: int
    text: str
    ids: tuple[int, ...]
    overhead: int

    @property
    def weight(self) -> int:
        """How many tokens are the text's own; at least one."""
        return max(1, len(self.ids) - self.overhead)


class Reader:
    """Splits texts for one model, that reads `max_tokens` at once with its markers and the prefix of `prefixes`.

    `overheads` is how many tokens these take, for each kind of text.
    """

    def __init__(self, tokenize: Tokenize, max_tokens: int, prefixes: Mapping[TextKind, str]) -> None:
        self._tokenize, self.max_tokens, self._prefixes = tokenize, max_tokens, prefixes
        self.overheads = {kind: len(tokenize([prefix])[0]) for kind, prefix in prefixes.items()}

    def pieces(self, texts: Sequence[str], kind: TextKind) -> Iterator[Piece]:
        """Yield the pieces of each text in order; nothing of a text is left out, however long it is.

        What is too long is halved, and its halves again: near the middle at a line's end, else at a sentence's, else
        at white space, else there.
        """
        for at in range(0, len(texts), _AT_ONCE):
            group = texts[at : at + _AT_ONCE]
            for owner, (text, ids) in enumerate(zip(group, self._ids(group, kind), strict=True), at):
                yield from self._split(owner, text, ids, kind)

    def _ids(self, texts: Sequence[str], kind: TextKind) -> list[list[int]]:
        return self._tokenize([self._prefixes[kind] + text for text in texts])

    def _split(self, owner: int, text: str, ids: list[int], kind: TextKind) -> Iterator[Piece]:
        # Halving needs no token offsets, which not every tokenizer has, and leaves windows of like size.
        if len(ids) <= self.max_tokens or len(text) < 2:
            yield Piece(owner, self._prefixes[kind] + text, tuple(ids), self.overheads[kind])
            return
        cut = _middle(text)
        halves = [text[:cut], text[cut:]]
        for half, own in zip(halves, self._ids(halves, kind), strict=True):
            yield from self._split(owner, half, own, kind)


def batches(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the indices of pieces of like size together, short ones first: as many as, padded, are `most` tokens.

    A piece that is larger than that is alone.
    """
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        if batch and (len(batch) + 1) * sizes[i] > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Return the ids (n, longest) of n pieces and their mask, behind which no id makes a difference."""
    import numpy as np

    size = max(map(len, rows))
    ids = [[*row, *[_PAD] * (size - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (size - len(row)) for row in rows]
    return np.array(ids, np.int64), np.array(mask, np.int64)


def _middle(text: str) -> int:
    """Return a cut near the middle of what is not white space around a text, at the best border between its quarters.

    So neither half is white space alone, which for some models has no tokens.
    """
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if end - start < 2:
        start, end = 0, len(text)
    half, quarter = (start + end) // 2, (end - start) // 4
    for cuts in (_ends(r"\n", text), _sentence_ends(text), _ends(r"\s", text)):
        near = [cut for cut in cuts if start + quarter <= cut <= end - quarter]
        if near:
            return min(near, key=lambda cut: abs(cut - half))
    return half


def _sentence_ends(text: str) -> Iterator[int]:
    # A date may go on after its last number: 2026. 3. 5. 저녁에
    return (stop for _, stop in sentences(text) if not text[stop - 2 : stop - 1].isdecimal())


def _ends(border: str, text: str) -> Iterator[int]:
    return (found.end() for found in re.finditer(border, text))
