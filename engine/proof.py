"""Whether bytes stand in any file below a folder: every byte of every file is read, nothing is taken on trust."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

_BLOCK = 1 << 22
_HEAD = 8  # bytes of a needle that are looked up as one number
_WINDOW = 24  # bytes of UTF-8: what a copy that is half overwritten still has
_RARE = 6  # bytes: of the places in a large file, one in 10^14 is such a word by chance
_HANGUL = re.compile("[가-힣]+")

Places = dict[int, list[tuple[Path, int]]]


@dataclass(slots=True)
class Searched:
    """What a search read, and the `places` it found: number of a needle → file and offset, in order.

    `unread` are files that could not be read, such as those which another program keeps to itself.
    """

    files: int = 0
    size: int = 0
    places: Places = field(default_factory=dict)
    unread: list[Path] = field(default_factory=list)

    def in_files(self) -> dict[Path, int]:
        """Return in which files needles stand, and how many of them."""
        found = [path for places in self.places.values() for path in {path for path, _ in places}]
        return {path: found.count(path) for path in sorted(set(found))}


def pieces(text: str) -> list[str]:
    """Return a text and everything of it that fits 24 bytes of UTF-8, from every letter on."""
    ends = [0]
    for letter in text:
        ends.append(ends[-1] + len(letter.encode("utf-8")))
    found, last = {text: None}, 0
    for first, begin in enumerate(ends[:-1]):
        while last + 1 < len(ends) and ends[last + 1] <= begin + _WINDOW:
            last += 1
        found[text[first:last]] = None
        if last + 1 == len(ends):
            break
    return list(found)


def words(text: str) -> list[str]:
    """Return what an index of words may hold of a text: its words, and of Korean ones every two letters in a row."""
    found: list[str] = []
    for word in re.findall(r"[^\W_]{2,}", text.casefold()):
        found += [word, *(pair for pair in map("".join, pairwise(word)) if _HANGUL.fullmatch(pair))]
    return [word for word in dict.fromkeys(found) if len(word.encode("utf-8")) >= _RARE]


def written(piece: str) -> list[bytes]:
    """Return how a piece may stand in a file: as UTF-8, in JSON with or without its letters escaped, as UTF-16.

    Left out is what has fewer than six bytes: in a large file these stand by chance.
    """
    forms = [piece, *(json.dumps(piece, ensure_ascii=escaped)[1:-1] for escaped in (False, True))]
    found = dict.fromkeys([*(form.encode("utf-8") for form in forms), piece.encode("utf-16-le")])
    return [form for form in found if len(form) >= _RARE]


def occurrences(folder: Path, needles: Sequence[bytes]) -> Searched:
    """Search every file below `folder` for needles of at least one byte; links are not followed.

    A file that goes away meanwhile is no place.
    """
    heads, short = _sorted(needles)
    overlap = max(map(len, needles), default=1) - 1
    searched = Searched()
    for path in _files(folder):
        try:
            with path.open("rb", buffering=0) as file:
                searched.files += 1
                tail, base = b"", 0
                while block := file.read(_BLOCK):
                    searched.size += len(block)
                    held = tail + block
                    for number, at in _found(held, needles, heads, short):
                        if at + len(needles[number]) > len(tail):  # else it was found with the block before
                            searched.places.setdefault(number, []).append((path, base + at))
                    tail = held[max(0, len(held) - overlap) :] if overlap else b""
                    base += len(held) - len(tail)
        except FileNotFoundError:
            continue
        except OSError:
            searched.unread.append(path)
    return searched


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(place, name) for name in sorted(names)):
            try:
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path
            except FileNotFoundError:
                continue


def _sorted(needles: Sequence[bytes]) -> tuple[dict[int, list[int]], list[int]]:
    """Return the numbers of needles by their first eight bytes, and those that have fewer."""
    heads: dict[int, list[int]] = {}
    for number, needle in enumerate(needles):
        if len(needle) >= _HEAD:
            heads.setdefault(int.from_bytes(needle[:_HEAD], sys.byteorder), []).append(number)
    return heads, [number for number, needle in enumerate(needles) if len(needle) < _HEAD]


def _found(
    held: bytes, needles: Sequence[bytes], heads: dict[int, list[int]], short: list[int]
) -> Iterator[tuple[int, int]]:
    """Yield number and offset of each needle in `held`. However many needles there are, one look-up a byte."""
    for shift in range(min(_HEAD, max(0, len(held) - _HEAD + 1)) if heads else 0):
        with memoryview(held)[shift : shift + (len(held) - shift) // _HEAD * _HEAD].cast("Q") as words:
            if heads.keys().isdisjoint(words):
                continue
            for at, word in enumerate(words):
                for number in heads.get(word, ()):
                    if held.startswith(needles[number], shift + at * _HEAD):
                        yield number, shift + at * _HEAD
    for number in short:
        at = held.find(needles[number])
        while at >= 0:
            yield number, at
            at = held.find(needles[number], at + 1)
