"""Files that an engine reads, damaged: settings, exports, the index, stored prefixes, the headers of models.

Whatever stands in a file, it is read right, or refused with an error of our own that names it and quotes no memory; or
it is a cache, and what it was about is right all the same.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from pathlib import Path

from soak_outcome import Outcome
from soak_suite import from_tests

from engine import config, gguf_header
from engine.errors import EngineError
from engine.memory import MemoryStore
from engine.prefixes import Prefix, Prefixes
from engine.records import Hit

USER = "나"
HANG = 60.0  # seconds
_SLOW = 20.0  # seconds that reading a file may take
_HOSTILE = (
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf", b"\r", b'"', b"'''", b"}", b"[", b"\n\n", b"=",
    b"-1", b"0", b"1e999", b"nan", b"inf", b"9" * 400, b"9" * 5000, b"true", b"null", b"{}", b"../x", b"CON", b"#",
    b"\x1b[31m", "가".encode(), "\u202e".encode(), b"[" * 50_000, b'{"a":' * 50_000, b"x" * 100_000,
)  # fmt: skip


class Wrong(Exception):
    """A file was neither read right nor refused in words."""


def must(held: bool, otherwise: str) -> None:
    """Raise `Wrong` unless something held."""
    if not held:
        raise Wrong(otherwise)


def sound(store: MemoryStore) -> None:
    """See that a store's file is."""
    problems = store.problems()
    must(not problems, "; ".join(problems))


def refused(error: EngineError, path: Path) -> str:
    """Return the name of an error, which must name the file."""
    must(path.name in str(error), f"an error that does not name the file: {error.code}")
    return type(error).__name__


# ---- damage

Change = Callable[[bytes, random.Random], bytes]


def _part(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 64, 512, 4096)))


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 16))):
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _overwritten(data: bytes, rng: random.Random) -> bytes:
    start, end = _part(data, rng)
    size = end - start
    return data[:start] + rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size))) + data[end:]


def _removed(data: bytes, rng: random.Random) -> bytes:
    start, end = _part(data, rng)
    return data[:start] + data[end:]


def _moved(data: bytes, rng: random.Random) -> bytes:
    start, end = _part(data, rng)
    at = rng.randrange(len(data))
    return data[:at] + data[start:end] + data[at:]


def _hostile(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice(_HOSTILE) + data[at:]


def _swapped(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _another_value(data: bytes, rng: random.Random) -> bytes:
    """Put something else in the place of a number or a text."""
    places = [found.span() for found in re.finditer(rb'-?\d+(?:\.\d+)?|"[^"\n]*"|true|false|null', data[:200_000])]
    if not places:
        return _hostile(data, rng)
    start, end = rng.choice(places)
    value = rng.choice(_HOSTILE)
    return data[:start] + (b'"' + value + b'"' if rng.random() < 0.4 else value) + data[end:]


def _longer(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice((b"\n", b"\0", rng.randbytes(64), data))


CHANGES: tuple[Change, ...] = (
    _cut, _flipped, _overwritten, _removed, _moved, _hostile, _swapped, _another_value, _another_value, _longer,
)  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return a file's content changed in one way, now and then in several."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if data:
            data = rng.choice(CHANGES)(data, rng)
    return data


# ---- what is damaged


@dataclass
class Trials:
    """One round's files; each kind is made when it is first needed. A trial returns its end, or raises."""

    folder: Path
    rng: random.Random
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def settings(self) -> str:
        """Lay damaged settings over the catalogue."""
        path = self.folder / "settings.toml"
        path.write_bytes(damaged(config.packaged_file().read_bytes(), self.rng))
        try:
            found = config.load(path)
            for name in found.profiles:
                found.profile(name)
        except EngineError as error:
            return refused(error, path)
        return "read"

    def header(self) -> str:
        """Read what a damaged model says of itself."""
        path = next(self._mutants)
        try:
            gguf_header.read_header(path)
        except EngineError as error:
            return refused(error, path)
        return "read"

    def prefix(self) -> str:
        """Read stored prefixes of which one is damaged: the others come back, and it is deleted."""
        folder, key = self.folder / "prefixes", {"model": "a" * 64, "n_ctx": 512}
        prefixes = Prefixes(folder, key)
        known = [Prefix([number, *range(self.rng.randrange(40))], self.rng.randbytes(3000)) for number in range(3)]
        for one in known:
            prefixes.write(one)
        path = self.rng.choice(sorted(folder.iterdir()))
        good = path.read_bytes()
        path.write_bytes(damaged(good, self.rng))
        same = path.read_bytes() == good
        found = sorted((one.tokens, one.state) for one in prefixes.read())
        whole = sorted((one.tokens, one.state) for one in known)
        left = len(list(folder.iterdir()))
        shutil.rmtree(folder)
        must(set(map(repr, found)) <= set(map(repr, whole)), "a prefix came back that nobody stored")
        must(len(found) == left == len(known) - (not same), f"{len(found)} prefixes came back, {left} files are left")
        return "the same" if same else "deleted"

    def index(self) -> str:
        """Open a home whose index is damaged: what is found is what was found before."""
        home = self.folder / "index-home"
        shutil.copytree(self._home, home)
        path = home / "index" / "memory.index"
        path.write_bytes(damaged(path.read_bytes(), self.rng))
        try:
            with closing(self._store(home)) as store:
                self._same(store)
                must(store.wait(HANG), "the background did not come to its end")
                self._same(store)
                sound(store)
        finally:
            shutil.rmtree(home)
        return "rebuilt"

    def export(self) -> str:
        """Import a damaged export: an error names the file; the store stays sound, and takes the whole one after it."""
        home, path = self.folder / "import-home", self.folder / "damaged.jsonl"
        path.write_bytes(damaged(self._export.read_bytes(), self.rng))
        try:
            with closing(self._store(home)) as store:
                end = self._imported(store, path)
                sound(store)
                store.search(self._texts[0], user=USER, k=3)
                self._imported(store, self._export)
                must(store.wait(HANG), "the background did not come to its end")
                sound(store)
        finally:
            shutil.rmtree(home, ignore_errors=True)
        return end

    def _imported(self, store: MemoryStore, path: Path) -> str:
        try:
            found = store.import_(path)
        except EngineError as error:
            quoted = [text for text in self._texts if text.split()[0] in str(error)]
            must(not quoted, "an error quotes a memory")
            return refused(error, path)
        return "some of it" if found.added < len(self._texts) else "all of it"

    # ---- made once

    @cached_property
    def _texts(self) -> list[str]:
        return [f"{self.rng.getrandbits(64):016x} 적어 둔 말 {number}" for number in range(60)]

    @cached_property
    def _home(self) -> Path:
        """A home with an index that is saved, and an export of it beside it."""
        home = self.folder / "home"
        with closing(self._store(home)) as store:
            store.remember(self._texts, user=USER, judge=False, category="work", source="대화 1")
            store.search(self._texts[0], user=USER, k=3)
            assert store.wait(HANG)
            store.export(self.folder / "export.jsonl", vectors=True)
        assert (home / "index" / "memory.index").exists()
        return home

    @cached_property
    def _export(self) -> Path:
        return self._home.with_name("export.jsonl")

    @cached_property
    def _before(self) -> list[list[tuple[str, float]]]:
        """What searches of the undamaged home find."""
        with closing(self._store(self._home)) as store:
            return self._found(store)

    def _same(self, store: MemoryStore) -> None:
        must(self._found(store) == self._before, "a search found something else than before")

    def _found(self, store: MemoryStore) -> list[list[tuple[str, float]]]:
        # Half a word: only its vector says what it is like.
        hits: list[list[Hit]] = [store.search(text[:12], user=USER, k=3) for text in self._texts[::20]]
        return [[(hit.memory.id, round(hit.score, 6)) for hit in found] for found in hits]

    def _store(self, home: Path) -> MemoryStore:
        return MemoryStore(home, from_tests("memory_life").faculties())

    @cached_property
    def _mutants(self) -> Iterator[Path]:
        """Damaged models, one after the other in the same place."""
        models, mutants = from_tests("tiny_models"), from_tests("mutants")
        originals = [
            mutants.Original(make(self.folder / f"{make.__name__}.gguf"))
            for make in (models.attention, models.hybrid, models.sliding, models.mamba)
        ]
        streams = [original.mutants(self.rng.random()) for original in originals]
        return (
            next(stream).write(original.data, self.folder / "mutant.gguf")
            for original, stream in cycle(list(zip(originals, streams, strict=True)))
        )


def fuzz(folder: Path, files: int, seed: int) -> Outcome:
    """Try so many files, each kind in its turn."""
    trials = Trials(folder, random.Random(seed))
    kinds = (trials.settings, trials.header, trials.prefix, trials.index, trials.export)
    for number in range(files):
        trial = kinds[number % len(kinds)]
        began = time.perf_counter()
        try:
            trials.ends[f"{trial.__name__}: {trial()}"] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
            trials.failures.append(f"file {number}, {trial.__name__}: {type(error).__name__}: {error}")
        took = time.perf_counter() - began
        trials.slowest = max(trials.slowest, took)
        if took > _SLOW:
            trials.failures.append(f"file {number}, {trial.__name__}: it took {took:.0f} s")
    return Outcome(files, {"ends": dict(trials.ends)}, {"seconds of the slowest": trials.slowest}, trials.failures)
