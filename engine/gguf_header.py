"""What a GGUF file says of itself, read without believing it.

Contract: the file may be hostile. Every count and length is compared with what is left of the file before anything is
read or made because of it, no more than a window of the file is held, and only what is small is kept. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, NoReturn

from engine.errors import ModelCorrupt

NEXT_STEP = "Delete it and run `gieok models pull` again, or copy it again from where it came."
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)  # what llama.cpp calls a part of a model
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_WINDOW = 1 << 20  # bytes that are read at once
_KEPT, _KEPT_IN_ALL = 1 << 16, 1 << 25  # bytes that are kept of a string, and of all strings and names
_MOST_FIELDS, _MOST_TENSORS = 1 << 16, 1 << 18
_MOST_STRINGS = 1 << 22  # of all arrays: each takes a moment to pass by; the largest vocabularies have 800,000
_MOST_LISTED, _MOST_LISTED_IN_ALL = 1024, 1 << 16  # whole numbers that are kept of an array, and of all arrays
_MOST_SIZE = 1 << 60  # elements or bytes: sums and products of these stay harmless numbers
_STRING, _ARRAY, _BOOL = 8, 9, 7
_WHOLE = frozenset({0, 1, 2, 3, 4, 5, _BOOL, 10, 11})  # types of whole numbers; a bool is one, too
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
# ggml's type → (elements, bytes) of a block; of types that are not here only the offset is checked
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Header:
    """A file's own account; `tensor_bytes` counts the data of those of a known type.

    `metadata` holds single values, long strings cut. Of an array its length is kept, in `arrays`, and of a short one of
    whole numbers, such as one that has a number for each layer, these as well, in `lists`. `groups` are the bytes of
    tensors by the first word of their names: "blk" is all layers. `split_no` counts from 0; only the first of several
    parts names its architecture.
    """

    architecture: str
    metadata: Mapping[str, Scalar]
    arrays: Mapping[str, int]
    lists: Mapping[str, tuple[int, ...]]
    tensors: int
    tensor_bytes: int
    groups: Mapping[str, int]
    vocabulary: int
    split_no: int
    split_count: int


def read_header(path: Path) -> Header:
    """Read the header of one GGUF file. Raises `ModelCorrupt` where it cannot be true of this file."""
    try:
        with path.open("rb", buffering=0) as file:
            return _Reader(path, file, os.fstat(file.fileno()).st_size).header()
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error.strerror}", path=str(path)) from None


class _Reader:
    """Walks through a file by a window of its bytes."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._size = path, file, size
        self._window, self._at = b"", 0  # what was read, and how far into it we are
        self._ahead = size  # bytes of the file after the window
        self._strings = self._kept = 0
        self._metadata: dict[str, Scalar] = {}
        self._arrays: dict[str, int] = {}
        self._lists: dict[str, tuple[int, ...]] = {}
        self._listed = 0
        self._groups: dict[str, int] = {}

    def header(self) -> Header:
        if self._size < 4 or self._take(4) != _MAGIC:
            self._refuse("it is not a GGUF file")
        version = self._number("<I")
        if version not in _VERSIONS:
            self._refuse(f"it is of GGUF version {version}, or made for another byte order; known are 2 and 3")
        tensors = self._count("tensors", 24, _MOST_TENSORS)
        for _ in range(self._count("metadata fields", 13, _MOST_FIELDS)):
            self._field()
        tensor_bytes = self._tensors(tensors)
        split_no, split_count = self._whole("split.no", 0), self._whole("split.count", 1)
        architecture = self._metadata.get("general.architecture", "")
        if not isinstance(architecture, str) or not (architecture or split_no):
            self._refuse("it does not name its architecture")
        return Header(
            architecture=architecture,
            metadata=self._metadata,
            arrays=self._arrays,
            lists=self._lists,
            tensors=tensors,
            tensor_bytes=tensor_bytes,
            groups=self._groups,
            vocabulary=self._arrays.get("tokenizer.ggml.tokens", 0),
            split_no=split_no,
            split_count=max(1, split_count),
        )

    def _field(self) -> None:
        name, kind = self._name("a metadata field"), self._number("<I")
        if name in self._metadata or name in self._arrays:
            self._refuse(f"it says {name!r} twice")
        if kind == _ARRAY:
            self._arrays[name] = self._array(name)
        elif kind == _STRING:
            self._metadata[name] = self._text(name)
        else:
            self._metadata[name] = self._scalar(name, kind)

    def _scalar(self, name: str, kind: int) -> Scalar:
        if kind not in _SCALARS:
            self._refuse(f"{name!r} is of an unknown type, {kind}")
        value: int | float = struct.unpack(_SCALARS[kind], self._take(struct.calcsize(_SCALARS[kind])))[0]
        if kind == _BOOL and value not in (0, 1):
            self._refuse(f"{name!r} is neither true nor false")
        return bool(value) if kind == _BOOL else value

    def _array(self, name: str) -> int:
        """Pass by an array, of which little is kept, and return its length."""
        kind = self._number("<I")
        if kind == _STRING:
            count = self._count(f"strings in {name!r}", 8, _MOST_STRINGS - self._strings)
            self._strings += count
            self._skip_strings(name, count)
        elif kind in _SCALARS:
            size = struct.calcsize(_SCALARS[kind])
            count = self._count(f"values in {name!r}", size, self._size)
            if kind in _WHOLE and count <= min(_MOST_LISTED, _MOST_LISTED_IN_ALL - self._listed):
                self._listed += count
                self._lists[name] = struct.unpack(f"<{count}{_SCALARS[kind][1]}", self._take(count * size))
            else:
                self._skip(count * size)
        else:
            self._refuse(f"{name!r} is an array of an unknown type, {kind}")
        return count

    def _skip_strings(self, name: str, count: int) -> None:
        length_at = struct.Struct("<Q").unpack_from
        window, at, ends = self._window, self._at, len(self._window) - 8
        for _ in range(count):  # of some hundred thousands, so nothing is called that need not be
            if at > ends:
                self._at = at
                self._fill(8)
                window, at, ends = self._window, self._at, len(self._window) - 8
            at += 8 + length_at(window, at)[0]
            if at > ends:
                self._pass(at, name)
                window, at, ends = self._window, self._at, len(self._window) - 8
        self._at = at

    def _pass(self, at: int, name: str) -> None:
        """Go to `at`, counted from the window's begin, which a length of the file has led to."""
        if at > len(self._window) + self._ahead:
            self._refuse(f"a string in {name!r} is longer than the file")
        self._skip(at - self._at)

    def _tensors(self, count: int) -> int:
        """Return the bytes of data of all tensors, each of which must lie in the file."""
        seen: set[str] = set()
        needed = total = 0
        for _ in range(count):
            name = self._name("a tensor")
            if name in seen:
                self._refuse(f"tensor {name!r} is there twice")
            seen.add(name)
            offset, size = self._tensor(name)
            needed, total = max(needed, offset + size), total + size
            group = name.partition(".")[0]
            self._groups[group] = self._groups.get(group, 0) + size
        alignment = self._whole("general.alignment", 32)
        if alignment < 1 or alignment & (alignment - 1):
            self._refuse(f"its alignment, {alignment}, is no power of two")
        start = -(-self._place // alignment) * alignment
        if count and start + needed > self._size:
            self._refuse(f"its tensors end at byte {start + needed}, the file at byte {self._size}: it was cut off")
        if count and total > self._size - start:
            self._refuse(f"its tensors have {total} bytes together, and {self._size - start} of the file: they overlap")
        return total

    def _tensor(self, name: str) -> tuple[int, int]:
        dimensions = self._number("<I")
        if dimensions > 4:
            self._refuse(f"tensor {name!r} has {dimensions} dimensions; at most 4 are possible")
        shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        kind, offset = self._number("<I"), self._number("<Q")
        if offset > self._size or max(shape, default=1) > _MOST_SIZE or prod(shape) > _MOST_SIZE:
            self._refuse(f"tensor {name!r} lies outside of the file")
        if kind not in _BLOCKS:
            return offset, 0
        elements, size = _BLOCKS[kind]
        if (shape[0] if shape else 1) % elements:
            self._refuse(f"the rows of tensor {name!r} are no whole blocks of {elements} numbers")
        return offset, prod(shape) // elements * size

    def _whole(self, name: str, default: int) -> int:
        value = self._metadata.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._refuse(f"{name!r} is no whole number")
        return value

    def _count(self, what: str, least: int, most: int) -> int:
        """Read how many things of at least so many bytes follow."""
        count = self._number("<Q")
        if count > min(most, self._left // least):
            self._refuse(f"it says that it holds {count} {what}, and has no room for them")
        return count

    def _name(self, what: str) -> str:
        length = self._number("<Q")
        if not 0 < length <= min(_KEPT, self._left):
            self._refuse(f"the name of {what} is said to have {length} bytes")
        return self._keep(length)

    def _text(self, name: str) -> str:
        length = self._number("<Q")
        if length > self._left:
            self._refuse(f"{name!r} is longer than the file")
        text = self._keep(min(length, _KEPT))
        self._skip(max(0, length - _KEPT))
        return text

    def _keep(self, length: int) -> str:
        self._kept += length
        if self._kept > _KEPT_IN_ALL:
            self._refuse("its header holds more text than any model's")
        return self._take(length).decode("utf-8", "replace")

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    @property
    def _left(self) -> int:
        return len(self._window) - self._at + self._ahead

    @property
    def _place(self) -> int:
        return self._size - self._left

    def _take(self, size: int) -> bytes:
        if len(self._window) - self._at < size:
            self._fill(size)
        taken = self._window[self._at : self._at + size]
        self._at += size
        return taken

    def _skip(self, size: int) -> None:
        """Pass by so many bytes, which the file has."""
        beyond = size - (len(self._window) - self._at)
        if beyond <= 0:
            self._at += size
            return
        self._file.seek(beyond, os.SEEK_CUR)
        self._ahead -= beyond
        self._window, self._at = b"", 0

    def _fill(self, size: int) -> None:
        """Read on, until the window holds `size` bytes from here."""
        if size > self._left:
            self._refuse("it ends within its header: it was cut off")
        rest = self._window[self._at :]
        while len(rest) < size:
            more = self._file.read(min(_WINDOW, self._ahead))
            if not more:
                self._refuse("it became shorter while it was read")
            self._ahead -= len(more)
            rest += more
        self._window, self._at = rest, 0

    def _refuse(self, why: str) -> NoReturn:
        raise ModelCorrupt(f"{self._path.name} is damaged or no model: {why}. {NEXT_STEP}", path=str(self._path))
