from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from engine import index as index_module
from engine import index_file
from engine.index import Entries, VectorIndex, Wanted
from engine.index_file import NAME, Unusable, discard, load, quarantine, save

DIM = 64
COUNT = 300
ROWS = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)
START = 12  # bytes before the header


@pytest.fixture(autouse=True)
def _by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have few entries searched as many are."""
    monkeypatch.setattr(index_module, "EXHAUSTIVE", 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "홍길동" / "내 문서"
    folder.mkdir(parents=True)
    return folder / NAME


def made(count: int = COUNT, shift: int = 0) -> VectorIndex:
    index, number = VectorIndex(DIM), np.arange(count)
    hashes = (number % 3).astype(np.uint64)
    index.add(Entries(number + shift, hashes, hashes, hashes.astype(np.uint8), number * 1000), ROWS[:count])
    return index


def results(index: VectorIndex) -> list[list[int]]:
    filters = (Wanted(), Wanted(user=1), Wanted(category=2, since=9_000), Wanted(until=90_000))
    return [index.candidates(row, 20, wanted).tolist() for row in ROWS[:5] for wanted in filters]


def saved(path: Path, index: VectorIndex, generation: int = 7) -> str:
    return save(path, index, model="model", store="store", generation=generation)


def loaded(path: Path, checksum: str, model: str = "model", store: str = "store", dim: int = DIM) -> VectorIndex:
    index, generation = load(path, model=model, store=store, dim=dim, checksum=checksum)
    assert generation == 7
    return index


# ---- there and back


@pytest.mark.parametrize("count", [0, 1, COUNT])
def test_what_is_saved_is_loaded(path: Path, count: int) -> None:
    index = made(count)
    again = loaded(path, saved(path, index))
    assert (len(again), again.trained, again.outgrown) == (count, count, index.outgrown)
    assert results(again) == results(index)
    assert [file.name for file in path.parent.iterdir()] == [NAME]


def test_what_is_loaded_can_be_changed(path: Path) -> None:
    index = made()
    again = loaded(path, saved(path, index))
    for one in (index, again):
        one.remove(np.arange(0, 100))
        one.add(Entries(*(column[:5] for column in columns())), ROWS[5:10])
    assert len(again) == COUNT - 100 + 5
    assert results(again) == results(index)


def columns() -> list[np.ndarray]:
    number = np.arange(COUNT)
    return [number, number.astype(np.uint64), number.astype(np.uint64), np.zeros(COUNT, np.uint8), number]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_nobody_else_may_read_it(path: Path) -> None:
    saved(path, made())
    assert path.stat().st_mode & 0o777 == 0o600


def test_only_the_file_saved_last_is_loaded(path: Path) -> None:
    first = saved(path, made())
    before = path.read_bytes()
    second = saved(path, made(shift=5))
    assert first != second
    with pytest.raises(Unusable, match="saved last"):
        loaded(path, first)
    path.write_bytes(before)
    with pytest.raises(Unusable, match="saved last"):
        loaded(path, second)
    assert results(loaded(path, first)) == results(made())


# ---- damaged and foreign


def flipped(data: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 50))):
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def flipped_in_the_header(data: bytes, draw: random.Random) -> bytes:
    end = data.index(b"}") + 1
    return flipped(data[:end], draw) + data[end:]


def truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.choice((0, 1, START - 1, START, START + 5, draw.randrange(len(data))))]


def lengthened(data: bytes, draw: random.Random) -> bytes:
    return data + draw.choice((b"\0", draw.randbytes(50), data))


def with_parts_swapped(data: bytes, draw: random.Random) -> bytes:
    a, b, c, d = sorted(draw.sample(range(len(data)), 4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def zeroed(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.choice((1, 512, 4096)))
    return data[:start] + bytes(end - start) + data[end:]


def with_another_header(data: bytes, draw: random.Random) -> bytes:
    (length,) = struct.unpack_from("<I", data, 8)
    header = json.loads(data[START : START + length])
    name = draw.choice(sorted(header))
    header[name] = draw.choice((0, 1, -1, 1 << 40, 1 << 200, None, "x", [], {}, True, 1.5, 299, 301, "9" * 5_000))
    body = json.dumps(header).encode()
    return data[:8] + struct.pack("<I", len(body)) + body + data[START + length :]


def with_a_header_that_is_none(data: bytes, draw: random.Random) -> bytes:
    (length,) = struct.unpack_from("<I", data, 8)
    body = draw.choice((b"", b"[]", b"null", b"[" * 4_000, b'{"a":' * 600, b"\xff\xfe", draw.randbytes(200)))
    claimed = draw.choice((len(body), 0, 1, 4_096, 4_097, 0xFFFFFFFF))
    return data[:8] + struct.pack("<I", claimed) + body + data[START + length :]


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    flipped,
    flipped_in_the_header,
    truncated,
    lengthened,
    with_parts_swapped,
    zeroed,
    with_another_header,
    with_a_header_that_is_none,
]


@pytest.mark.parametrize("mutated", MUTATIONS)
def test_a_mutated_file_is_known_or_gives_the_same(
    path: Path, mutated: Callable[[bytes, random.Random], bytes]
) -> None:
    """125 of each kind, a thousand in all. Taken with its own checksum, it may be loaded, and must not crash."""
    draw, index = random.Random(mutated.__name__), made()
    checksum, expected = saved(path, index), results(index)
    data, unusable = path.read_bytes(), 0
    for _ in range(125):
        path.write_bytes(changed := mutated(data, draw))
        try:
            assert results(loaded(path, checksum)) == expected
            assert changed == data
        except Unusable:
            unusable += 1
        try:
            again, _ = load(path, model="model", store="store", dim=DIM, checksum=hashlib.sha256(changed).hexdigest())
            results(again)
        except Unusable:
            pass
    assert unusable >= 100


def test_what_a_file_is_of_must_be_asked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksum = saved(path, made())
    for asked in ({"model": "other"}, {"store": "other"}, {"dim": DIM + 1}, {"dim": DIM - 8}):
        with pytest.raises(Unusable, match=f"another {next(iter(asked))}"):
            loaded(path, checksum, **asked)  # type: ignore[arg-type]
    monkeypatch.setattr(index_file, "layout", lambda: "of a faiss to come")
    with pytest.raises(Unusable, match="another layout"):
        loaded(path, checksum)


def test_nothing_is_made_for_vectors_that_a_header_only_claims(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(path, made())
    data = path.read_bytes().replace(f'"count": {COUNT}'.encode(), b'"count": 999999999999999')
    (length,) = struct.unpack_from("<I", data, 8)
    path.write_bytes(data[:8] + struct.pack("<I", length + 12) + data[START:])
    monkeypatch.setattr(VectorIndex, "loads", lambda *_: pytest.fail("made"))
    with pytest.raises(Unusable, match="not as long"):
        loaded(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_no_more_is_read_than_a_header_may_be_long(path: Path) -> None:
    saved(path, made())
    data = path.read_bytes()
    path.write_bytes(data[:8] + struct.pack("<I", 4_097) + data[START:])
    with pytest.raises(Unusable, match="no index file"):
        loaded(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_no_file_and_a_folder_in_its_place_are_unusable(path: Path) -> None:
    with pytest.raises(Unusable, match="cannot be read"):
        loaded(path, "")
    path.mkdir()
    with pytest.raises(Unusable, match="cannot be read"):
        loaded(path, "")


# ---- what fails while it is saved


class Failing:
    """A file whose n-th write fails halfway."""

    def __init__(self, file: object, n: int) -> None:
        self.file, self.left = file, n

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()  # type: ignore[attr-defined]

    def write(self, part: memoryview) -> None:
        self.left -= 1
        if self.left < 0:
            self.file.write(part[: len(part) // 2])  # type: ignore[attr-defined]
            raise OSError(28, "No space left on device")
        self.file.write(part)  # type: ignore[attr-defined]


def fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("step", [*range(8), "fsync", "replace", "mkstemp"])
def test_a_save_that_fails_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch, step: int | str) -> None:
    checksum, index = saved(path, made()), made(shift=9)
    with monkeypatch.context() as patch:
        if isinstance(step, int):
            fdopen = os.fdopen
            patch.setattr(index_file.os, "fdopen", lambda *args: Failing(fdopen(*args), step))
        elif step == "fsync":
            patch.setattr(index_file.os, "fsync", fail)
        elif step == "replace":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(index_file.tempfile, "mkstemp", fail)
        with pytest.raises(OSError, match=r"space|output"):
            saved(path, index)
    assert [file.name for file in path.parent.iterdir()] == [NAME]
    assert results(loaded(path, checksum)) == results(made())
    assert results(loaded(path, saved(path, index))) == results(index)


def test_a_folder_that_cannot_be_synced_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows opens no folders."""
    real = os.open
    monkeypatch.setattr(index_file.os, "open", lambda name, *rest: fail() if name == path.parent else real(name, *rest))
    assert len(loaded(path, saved(path, made()))) == COUNT


def test_a_killed_save_leaves_the_old_file_and_what_it_left_is_removed_by_the_next(path: Path) -> None:
    checksum = saved(path, made())
    dies = (
        "import os, sys, pathlib, engine.index_file as f, engine.index as i\n"
        "f.os.fsync = lambda handle: os._exit(9)\n"
        "f.save(pathlib.Path(sys.argv[1]), i.VectorIndex(64), model='model', store='store', generation=8)\n"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", dies, str(path)], cwd=root, check=False).returncode == 9
    assert len(list(path.parent.iterdir())) == 2
    assert results(loaded(path, checksum)) == results(made())
    other = path.with_name("other.part")
    other.touch()
    saved(path, made())
    assert {*path.parent.iterdir()} == {path, other}


# ---- put aside and away


def test_a_file_is_put_aside_in_place_of_the_one_before(path: Path) -> None:
    quarantine(path)
    for content in (b"first", b"second"):
        path.write_bytes(content)
        quarantine(path)
        assert [file.name for file in path.parent.iterdir()] == [f"{NAME}.damaged"]
        assert path.with_name(f"{NAME}.damaged").read_bytes() == content


def test_discarding_leaves_nothing_of_the_index_and_all_else(path: Path) -> None:
    discard(path.parent)
    for name in (NAME, f"{NAME}.damaged", f"{NAME}.abc.part", "memory.db", "memory.index2"):
        path.with_name(name).touch()
    discard(path.parent)
    assert {file.name for file in path.parent.iterdir()} == {"memory.db", "memory.index2"}
