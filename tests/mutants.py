"""GGUF files that are almost right: a good one, changed in one seeded way that some reader might not survive."""

from __future__ import annotations

import logging
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import gguf
import pytest
import tiny_models

from engine import config, layout, probe, runner, tuning
from engine.config import ModelSpec
from engine.errors import EngineClosed, EngineError, ModelCorrupt
from engine.tuning import Timing

INTERESTING = (0, 1, 2, 3, 7, 31, 33, 255, 256, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
HUGE = (2**32, 2**33 + 1, 2**40, 2**48, 2**61, 2**62 + 1, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)
FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
CELLS = 8192  # as an engine has them
TYPES_OF_TENSORS = (*range(45), 99, 255, 2**31 - 1, 2**32 - 1)
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Mutant:
    """What is done to the good file: bytes written over it, then its end cut off or something put there."""

    kind: str
    edits: tuple[tuple[int, bytes], ...] = ()
    end: int | None = None
    tail: bytes = b""

    def write(self, good: bytes, path: Path) -> Path:
        """Write the changed file to `path`."""
        with path.open("wb") as file:
            file.write(good if self.end is None else memoryview(good)[: self.end])
            for at, data in self.edits:
                file.seek(at)
                file.write(data)
            file.seek(0, 2)
            file.write(self.tail)
        return path


@dataclass
class Original:
    """A good file, and where its numbers stand: (offset, struct format) of each."""

    path: Path
    counts: list[tuple[int, str]] = field(default_factory=lambda: [(8, "<Q"), (16, "<Q")])  # of tensors, of fields
    lengths: list[tuple[int, str]] = field(default_factory=list)  # of names, strings and arrays
    kinds: list[tuple[int, str]] = field(default_factory=list)  # types of fields and of arrays
    values: list[tuple[int, str]] = field(default_factory=list)  # single numbers
    elements: list[tuple[int, str]] = field(default_factory=list)  # numbers in arrays: scores and types of tokens
    dimensions: list[tuple[int, str]] = field(default_factory=list)
    tensor_kinds: list[tuple[int, str]] = field(default_factory=list)
    offsets: list[tuple[int, str]] = field(default_factory=list)
    named: dict[str, tuple[int, str]] = field(default_factory=dict)  # where the value of a metadata field stands
    texts: list[tuple[int, int]] = field(default_factory=list)  # (offset, length)
    header: int = 0  # bytes before the first tensor's data

    def __post_init__(self) -> None:
        reader = gguf.GGUFReader(self.path)
        for one in reader.fields.values():
            if one.name.startswith("GGUF."):
                continue
            self.lengths.append((one.offset, "<Q"))
            self.texts.append((one.offset + 8, len(one.name)))
            self._value(one.name, one.offset + 8 + len(one.name))
        for tensor in reader.tensors:
            self._tensor(tensor.field.offset, len(tensor.name.encode()))
        self.header = int(reader.data_offset)
        del reader

    @cached_property
    def data(self) -> bytes:
        """All of the file."""
        return self.path.read_bytes()

    def _number(self, at: int, form: str) -> int:
        return int(struct.unpack_from(form, self.data, at)[0])

    def with_value(self, name: str, value: int) -> Mutant:
        """Return the mutant that says `value` in one metadata field."""
        return Mutant(name, (_overwritten(self.named[name], value),))

    def _value(self, name: str, at: int) -> None:
        kind = self._number(at, "<I")
        self.kinds.append((at, "<I"))
        if kind == STRING:
            self._text(at + 4)
        elif kind == ARRAY:
            self._array(at + 4)
        else:
            self.named[name] = at + 4, FORMS[kind]
            self.values.append(self.named[name])

    def _text(self, at: int) -> int:
        length = self._number(at, "<Q")
        self.lengths.append((at, "<Q"))
        self.texts.append((at + 8, length))
        return at + 8 + length

    def _array(self, at: int) -> None:
        kind, count = self._number(at, "<I"), self._number(at + 4, "<Q")
        self.kinds.append((at, "<I"))
        self.lengths.append((at + 4, "<Q"))
        at += 12
        for number in range(min(count, 3000)):
            if kind == STRING:
                at = self._text(at)
            else:
                self.elements.append((at + number * struct.calcsize(FORMS[kind]), FORMS[kind]))

    def _tensor(self, at: int, name: int) -> None:
        self.lengths.append((at, "<Q"))
        self.texts.append((at + 8, name))
        at += 8 + name
        count = self._number(at, "<I")
        self.counts.append((at, "<I"))
        self.dimensions += [(at + 4 + 8 * number, "<Q") for number in range(count)]
        self.tensor_kinds.append((at + 4 + 8 * count, "<I"))
        self.offsets.append((at + 8 + 8 * count, "<Q"))

    def mutants(self, seed: object) -> Iterator[Mutant]:
        """Yield changes without end, each kind in turn."""
        rng = random.Random(f"{seed} {self.path.name}")
        while True:
            for kind, change in KINDS.items():
                mutant = change(self, rng)
                yield Mutant(kind, mutant.edits, mutant.end, mutant.tail)


def _packed(form: str, value: int) -> bytes:
    if form in {"<f", "<d"}:
        return struct.pack(form, random.Random(value).choice([0.0, -1.0, 1e30, float("inf"), float("nan")]))
    return (value % 2**64).to_bytes(8, "little")[: struct.calcsize(form)]


def _overwritten(place: tuple[int, str], value: int) -> tuple[int, bytes]:
    return place[0], _packed(place[1], value)


def _cut(file: Original, rng: random.Random) -> Mutant:
    edge = rng.choice([file.header, len(file.data)])
    near = edge - rng.choice([1, 2, 8, 31, 32, 100, 4096])
    return Mutant("", end=max(0, rng.choice([near, rng.randrange(file.header), rng.randrange(len(file.data))])))


def _bits(file: Original, rng: random.Random) -> Mutant:
    reach = rng.choice([file.header, file.header, min(file.header, 2000), len(file.data)])
    places = [rng.randrange(reach) for _ in range(rng.choice([1, 1, 2, 4, 16, 64]))]
    return Mutant("", tuple((at, bytes([file.data[at] ^ 1 << rng.randrange(8)])) for at in places))


def _bytes(file: Original, rng: random.Random) -> Mutant:
    at, size = rng.randrange(file.header), rng.choice([1, 4, 8, 64])
    return Mutant("", ((at, rng.choice([rng.randbytes(size), b"\0" * size, b"\xff" * size])),))


def _of(places: str, values: tuple[int, ...]) -> Callable[[Original, random.Random], Mutant]:
    def change(file: Original, rng: random.Random) -> Mutant:
        place = rng.choice(getattr(file, places))
        return Mutant("", (_overwritten(place, rng.choice(values)),))

    return change


def _nudged(places: str) -> Callable[[Original, random.Random], Mutant]:
    def change(file: Original, rng: random.Random) -> Mutant:
        at, form = rng.choice(getattr(file, places))
        now = file._number(at, form)
        return Mutant(
            "", (_overwritten((at, form), rng.choice([now + 1, now - 1, 2 * now, now // 2, -now, now + 32])),)
        )

    return change


def _swapped(places: str) -> Callable[[Original, random.Random], Mutant]:
    def change(file: Original, rng: random.Random) -> Mutant:
        one, other = rng.sample(getattr(file, places), 2)
        values = file._number(*one), file._number(*other)
        return Mutant("", (_overwritten(one, values[1]), _overwritten(other, values[0])))

    return change


def _texts(file: Original, rng: random.Random) -> Mutant:
    at, length = rng.choice([text for text in file.texts if text[1]])
    start = rng.randrange(length)
    size = rng.randint(1, length - start)
    fill = rng.choice([b"\xff" * size, b"\0" * size, rng.randbytes(size), (b"{{%\n" * size)[:size]])
    return Mutant("", ((at + start, fill),))


def _moved(file: Original, rng: random.Random) -> Mutant:
    size = rng.choice([8, 32, 1000])
    source, target = (rng.randrange(file.header - size) for _ in range(2))
    return Mutant("", ((target, file.data[source : source + size]),))


def _several(file: Original, rng: random.Random) -> Mutant:
    names = ["values", "dimensions", "tensor_kinds", "elements", "lengths"]
    places = [rng.choice(getattr(file, rng.choice(names))) for _ in range(rng.randint(2, 5))]
    return Mutant("", tuple(_overwritten(place, rng.choice(INTERESTING)) for place in places))


def _longer(file: Original, rng: random.Random) -> Mutant:
    return Mutant("", tail=rng.randbytes(rng.choice([1, 31, 4096])))


KINDS: dict[str, Callable[[Original, random.Random], Mutant]] = {
    "cut off": _cut,
    "flipped bits": _bits,
    "other bytes": _bytes,
    "hostile count": _of("counts", INTERESTING + HUGE),
    "hostile length": _of("lengths", INTERESTING + HUGE),
    "hostile type": _of("kinds", (*range(15), 255, 2**31, 2**32 - 1)),
    "hostile number": _of("values", INTERESTING + HUGE),
    "nudged number": _nudged("values"),
    "hostile element": _of("elements", INTERESTING),
    "hostile dimension": _of("dimensions", INTERESTING + HUGE),
    "nudged dimension": _nudged("dimensions"),
    "swapped dimensions": _swapped("dimensions"),
    "hostile tensor type": _of("tensor_kinds", TYPES_OF_TENSORS),
    "hostile offset": _of("offsets", INTERESTING + HUGE),
    "swapped offsets": _swapped("offsets"),
    "other text": _texts,
    "moved bytes": _moved,
    "several": _several,
    "longer": _longer,
}


# ---- many of them, for the soak script


@dataclass
class Tally:
    """How the probe ended on each file, and the seconds: of all, and of the slowest verdict."""

    ends: Counter[str] = field(default_factory=Counter)
    loaded: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0


def soak(folder: Path, files: int, seed: int) -> Tally:
    """Check mutants of the starter model, one of eight, and of tiny ones.

    What was accepted of these, and of every fourth of the starter's, is then loaded here as an engine does it: should
    the probe be wrong, this process dies of it.
    """
    originals = [
        Original(make(folder / f"{make.__name__}.gguf"))
        for make in (tiny_models.attention, tiny_models.hybrid, tiny_models.sliding, tiny_models.mamba)
    ]
    spec = config.load().model("smollm2-135m-instruct")
    starter = Original(layout.locate(spec))
    files_of = [*originals, starter, *originals[:3]]
    streams = [(file, file.mutants(f"{seed} {number}")) for number, file in enumerate(files_of)]
    tally, began = Tally(), time.perf_counter()
    logging.getLogger("engine.probe").addHandler(_Listener(tally))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIEOK_MODELS", str(folder))  # what is remembered of mutants goes with them
        for number in range(files):
            file, mutants = streams[number % len(streams)]
            sampled = file is not starter or number // len(streams) % 4 == 0
            _check(next(mutants).write(file.data, folder / f"{number}.gguf"), tally, spec if sampled else None)
    tally.seconds = time.perf_counter() - began
    return tally


def _check(path: Path, tally: Tally, spec: ModelSpec | None) -> None:
    """Have a file checked; load it with the settings of `spec` if it passes."""
    began, end = time.perf_counter(), "accepted"
    try:
        probe.check(path, lambda: None)
    except ModelCorrupt as error:
        end = next((end for words, end in ENDS.items() if words in str(error)), "refused by its header")
    except EngineError as error:
        end = "ended from outside"
        tally.failures.append(str(error))
    tally.ends[end] += 1
    tally.slowest = max(tally.slowest, time.perf_counter() - began)
    if end == "accepted" and spec:
        _load(path, spec, tally)
    path.unlink()


def _load(path: Path, spec: ModelSpec, tally: Tally) -> None:
    """Load a file as an engine does, but for the measuring, and read and weigh a few tokens."""
    known = _tuned(path)
    try:
        table = config.load().engine
        loaded = runner.load(str(path), spec, table, lambda _done: None, cells=CELLS, n_gpu_layers=0)
        try:
            loaded.score(loaded.model.vocabulary.tokenize("Hello, 가나다.") or [0], ["a", "나"])
            while loaded.busy:
                loaded.step()
        finally:
            loaded.close(EngineClosed("it was only tried"))
    except EngineError as error:
        tally.failures.append(f"accepted, and yet: {error}")
    known.unlink()
    tally.loaded += 1


def _tuned(path: Path) -> Path:
    """Remember what a measured model is run with; to measure each would take seconds."""
    usual = tuning.usual()
    timings = tuple(Timing(True, n, usual.n_threads if n == 1 else usual.n_threads_batch, False, 0.01) for n in (1, 64))
    place = tuning.remember(path, replace(usual, timings=timings))
    assert place and tuning.recall(path), "it is not measured again"
    return place


class _Listener(logging.Handler):
    """Counts files that no child could be asked about as failures: that is not what is measured here."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(logging.WARNING)
        self.tally = tally

    def emit(self, record: logging.LogRecord) -> None:
        self.tally.failures.append(record.getMessage())


ENDS = {
    "crashes of it": "crashed a child",
    "refuses it": "refused by llama.cpp",
    "took longer than": "took too long",
    "more memory": "asked for too much memory",
    "could not be tried": "an error of Python",
    "to its end": "could not be read",
    "of two trials": "two trials disagree",
}
