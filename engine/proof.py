"""Whether bytes stand in any file below a folder: every byte of every file is read, nothing is taken on trust.

No connection to a database below the folder may be open in this process while it is searched: under POSIX a process
that closes a file loses every lock that it holds on it (fcntl(2)), SQLite's among them. Another process may then take
the database's log away, and with it what was acknowledged. So close the engine first; other processes may go on.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_BLOCK = 1 << 22
_PAIRS = 3  # pairs of bytes at the beginning of a needle by which the places are chosen that it is compared with
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


def occurrences(folder: Path, needles: Sequence[bytes], progress: ProgressCallback | None = None) -> Searched:
    """Search every file below `folder` for needles of at least one byte; links are not followed.

    A file that goes away meanwhile is no place. Nothing may hold a file below it open in this process, see above.
    Raises `Cancelled`.
    """
    sought, searched = _Sought(needles), Searched()
    paths = list(_files(folder))
    total = sum(size for _, size in paths)
    for path, _ in paths:
        try:
            with path.open("rb", buffering=0) as file:
                searched.files += 1
                for size, found in _read(file, sought):
                    searched.size += size
                    for number, at in found:
                        searched.places.setdefault(number, []).append((path, at))
                    report(progress, Progress("search files", searched.size, total, "bytes"))
        except FileNotFoundError:
            continue
        except OSError:
            searched.unread.append(path)
    return searched


def _read(file: FileIO, sought: _Sought) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield of each block its bytes, and number and offset in the file of each needle that ends in it."""
    tail, base = b"", 0
    while block := file.read(_BLOCK):
        held = tail + block
        ends = [(number, at, at + len(sought.needles[number])) for number, at in sought.found(held)]
        # what ends in the tail was found with the block before
        yield len(block), [(number, base + at) for number, at, end in ends if end > len(tail)]
        tail = held[max(0, len(held) - sought.overlap) :] if sought.overlap else b""
        base += len(held) - len(tail)


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield every file with its bytes."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(place, name) for name in sorted(names)):
            try:
                told = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(told.st_mode):
                yield path, told.st_size


class _Sought:
    """Needles, looked for all at once: what a place costs does not grow with their number."""

    def __init__(self, needles: Sequence[bytes]) -> None:
        import numpy as np

        self.needles = needles
        self.overlap = max(map(len, needles), default=1) - 1
        self._heads: dict[bytes, list[int]] = {}
        self._short: list[int] = []
        self._pairs = np.zeros((_PAIRS, 1 << 16), dtype=np.bool_)  # which pairs some needle has there
        for number, needle in enumerate(needles):
            head = needle[: 2 * _PAIRS]
            if len(head) < 2 * _PAIRS:
                self._short.append(number)
                continue
            self._heads.setdefault(head, []).append(number)
            self._pairs[range(_PAIRS), np.frombuffer(head, dtype="<u2")] = True

    def found(self, held: bytes) -> Iterator[tuple[int, int]]:
        """Yield number and offset of each needle in `held`."""
        for at in self._candidates(held).tolist() if self._heads else ():
            for number in self._heads.get(held[at : at + 2 * _PAIRS], ()):
                if held.startswith(self.needles[number], at):
                    yield number, at
        for number in self._short:
            at = held.find(self.needles[number])
            while at >= 0:
                yield number, at
                at = held.find(self.needles[number], at + 1)

    def _candidates(self, held: bytes) -> npt.NDArray[np.intp]:
        """Return the offsets at which each pair of bytes is one that a needle begins with."""
        import numpy as np

        read = np.frombuffer(held, dtype=np.uint8)
        pairs = read[1:].astype(np.uint16) << 8
        pairs |= read[:-1]
        places = np.flatnonzero(self._pairs[0][pairs[: max(0, len(held) - 2 * _PAIRS + 1)]])
        for pair in range(1, _PAIRS):
            places = places[self._pairs[pair][pairs[places + 2 * pair]]]
        return places
