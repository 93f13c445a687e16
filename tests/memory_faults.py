"""Memory stores on a disk that fails: every n-th step of three flows, and a file system that is really full.

`sweep` is what the suite runs; `scripts/soak.py memory-faults` adds other ways to fail, and `full_disk`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import memory_life
from faulty_disk import Disk, faulty
from memory_kills import token, written

from engine.errors import EngineError, MemoryNotFound
from engine.memory import MemoryStore

USER = memory_life.STAYS
HANG = 60.0
MOST = 500  # steps that no flow takes
_NOTES = tuple(f"적어 둔 말 {n:016x} 하나" for n in range(60))
_FACTS = tuple(memory_life.fact("집", value, f"{n:016x}") for n, value in enumerate(("부산", "대전"), 200))
_EXTRA = f"나중에 적은 말 {300:016x}"


@dataclass
class Tally:
    """What failed, what the calls answered, and what was wrong."""

    steps: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Flow:
    """A call; the texts that it adds, all or none, and those that it removes."""

    act: Callable[[MemoryStore], None]
    adds: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()


def _remember(store: MemoryStore) -> None:
    store.remember(_NOTES[40:50], user=USER, judge=False)


def _forget(store: MemoryStore) -> None:
    store.forget(named(store)[_NOTES[3]])


def _supersede(store: MemoryStore) -> None:
    """Enough changes that the background saves the index, too."""
    store.remember([_FACTS[1], *_NOTES[50:60]], user=USER)
    store.wait(HANG)


FLOWS = {
    "remember a batch": Flow(_remember, adds=_NOTES[40:50]),
    "forget": Flow(_forget, removes=(_NOTES[3],)),
    "supersede and save the index": Flow(_supersede, adds=(_FACTS[1], *_NOTES[50:60])),
}


def named(store: MemoryStore) -> dict[str, str]:
    """Return text → id of all there is."""
    return {memory.text: memory.id for memory in store.memories(user=USER, superseded=True)}


def prepared(folder: Path) -> Path:
    """Return a home with memories, and an index that is saved."""
    home = folder / "well"
    with closing(opened(home)) as store:
        store.remember([*_NOTES[:40], _FACTS[0]], user=USER, judge=False)
        store.search(_NOTES[0], user=USER, k=3)
        store.wait(HANG)
        store.backup()
    return home


def opened(home: Path) -> MemoryStore:
    """Return the store of a home."""
    return MemoryStore(home, memory_life.faculties())


class Trial:
    """One flow on a copy of a home whose disk fails once, or from some step on."""

    def __init__(self, home: Path, name: str, tally: Tally) -> None:
        self.home, self.name, self.flow, self.tally = home, name, FLOWS[name], tally
        self.acknowledged = False

    def run(self, at: int, *, full: bool, lasting: bool) -> bool:
        """Fail the `at`-th step; return whether the flow had so many."""
        with faulty(self.home, full=full, lasting=lasting) as disk, closing(opened(self.home)) as store:
            memory_life.begin(store)
            store.search(_NOTES[0], user=USER, k=3)
            store.wait(HANG)
            disk.arm(at)
            self._act(store)
            disk.mend()
            self.tally.steps.update(step.split(".part")[0] for step in disk.failed[:1])
            self._same_store(store, disk)
        with closing(opened(self.home)) as store:
            self._contents(store, "a fresh store")
            memory_life.begin(store)
            self._traces(store)
        return bool(disk.failed)

    def fail(self, failure: str) -> None:
        """Note what must not be."""
        self.tally.failures.append(f"{self.name}: {failure}")

    def _act(self, store: MemoryStore) -> None:
        try:
            self.flow.act(store)
            self.acknowledged = True
            end = "done"
        except EngineError as error:
            end = type(error).__name__
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
            end = "no typed error"
            self.fail(f"{type(error).__name__}: {error}")
        self.tally.ends[f"{self.name}: {end}"] += 1
        began = time.monotonic()
        store.wait(HANG)  # False where a chore met the fault, too
        if time.monotonic() - began >= HANG:
            self.fail("the background did not come to its end")
        if self.acknowledged:
            self._traces(store)

    def _same_store(self, store: MemoryStore, disk: Disk) -> None:
        failed = disk.failed[:1]
        added, removed = (len(named(store).keys() & texts) for texts in (self.flow.adds, self.flow.removes))
        if added not in {0, len(self.flow.adds)} or removed not in {0, len(self.flow.removes)}:
            self.fail(f"{failed}: half of it is done")
        try:
            store.remember([_EXTRA], user=USER, judge=False)
            if _EXTRA not in [hit.memory.text for hit in store.search(_EXTRA, user=USER, k=3)]:
                self.fail(f"{failed}: the same store does not find what it has just stored")
            self._again(store)
            store.wait(HANG)
            self._contents(store, f"{failed}: the same store")
        except EngineError as error:
            self.fail(f"{failed}: the same store, once the disk is well: {type(error).__name__}: {error}")

    def _again(self, store: MemoryStore) -> None:
        """Do again what was not acknowledged: it is done then."""
        if self.acknowledged:
            return
        try:
            self.flow.act(store)
        except (KeyError, MemoryNotFound):  # it was removed, and its traces are to follow
            if not self.flow.removes:
                raise

    def _contents(self, store: MemoryStore, where: str) -> None:
        expected = {*_NOTES[:40], _FACTS[0], _EXTRA, *self.flow.adds}.difference(self.flow.removes)
        found = named(store)
        if found.keys() != expected:
            self.fail(f"{where}: {len(expected - found.keys())} lost, {len(found.keys() - expected)} back")
        self.tally.failures += [f"{self.name}: {where}: {problem}" for problem in store.problems()]
        store.wait(HANG)
        facts = [memory.text for memory in store.memories(user=USER) if memory.text in _FACTS]
        if facts != [_FACTS[1] if _FACTS[1] in expected else _FACTS[0]]:
            self.fail(f"{where}: {len(facts)} facts hold, not the last one")

    def _traces(self, store: MemoryStore) -> None:
        there = named(store)
        data = b"".join(written(self.home).values())
        for text in self.flow.removes:
            if text not in there and token(text) in data:
                self.fail("forgotten, and its text is still in a file")


def sweep(folder: Path, name: str, *, full: bool, lasting: bool, every: int = 1, first: int = 1) -> Tally:
    """Fail every step of a flow from the `first` on in its turn, or every so manieth, until it has no more."""
    tally, began = Tally(), time.perf_counter()
    home = prepared(folder)
    for at in range(first, MOST, every):
        copy = folder / "copy"
        shutil.copytree(home, copy)
        reached = Trial(copy, name, tally).run(at, full=full, lasting=lasting)
        shutil.rmtree(copy)
        if not reached:
            break
    else:
        tally.failures.append(f"{name}: more than {MOST} steps")
    tally.seconds = time.perf_counter() - began
    return tally


# ---- a file system that is full

_ROOM = "12m"
_BALLAST = 8 << 20  # bytes that are freed in the end: a wipe needs room for all that is stored, twice
_MOUNTED = 'mount -t tmpfs -o size="$0" none "$1" && shift && exec "$@"'


def full_disk(folder: Path) -> Tally | None:
    """Fill a file system of a few megabytes, mounted for one process only; None where this user may not mount one."""
    here = Path(__file__).resolve()
    python = [sys.executable, "-W", "error", str(here), str(folder)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", _MOUNTED, _ROOM, str(folder), *python],
        env={**os.environ, "PYTHONPATH": str(here.parents[1]), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=10 * HANG,
        check=False,
    )
    if not done.stdout and ("unshare" in done.stderr or "mount" in done.stderr):
        return None
    if done.returncode:
        return Tally(failures=[done.stderr[-2000:]])
    found = json.loads(done.stdout)
    return Tally(Counter(found["steps"]), Counter(found["ends"]), found["failures"], found["seconds"])


def fill(folder: Path) -> Tally:
    """Store until nothing more goes in, forget meanwhile, make room, and see that nothing is missing."""
    tally, began = Tally(), time.perf_counter()
    (folder / "ballast").write_bytes(bytes(_BALLAST))
    kept: set[str] = set()
    gone = ""
    with closing(opened(folder / "home")) as store:
        for number in range(10_000):
            texts = [f"적어 둔 말 a{number:07x}b{n:07x} " * 20 for n in range(5)]
            end = _tried(tally, "remember", lambda texts=texts: store.remember(texts, user=USER, judge=False))
            if end != "done":
                break
            kept.update(texts)
        for number in range(5):
            _tried(tally, "remember when full", lambda n=number: store.remember([f"가득 찬 {n} " * 8_000], user=USER))
        if not store.search(next(iter(kept)), user=USER, k=3):
            tally.failures.append("a full disk stops the search")
        gone = min(kept)
        _tried(tally, "forget when full", lambda: store.forget(named(store)[gone]))
        _tried(tally, "back up when full", store.backup)
        store.wait(HANG)
        _same(tally, kept, named(store), gone)
        (folder / "ballast").unlink()
        if gone in named(store):
            store.forget(named(store)[gone])
        kept.remove(gone)
        kept.update(memory.text for memory in store.remember(["나중에 적은 말"], user=USER, judge=False))
        _same(tally, kept, named(store))
    with closing(opened(folder / "home")) as store:
        memory_life.begin(store)
        _same(tally, kept, named(store))
        tally.failures += store.problems()
    if any(gone.split("말 ")[1][:16].encode() in data for data in written(folder).values()):
        tally.failures.append("forgotten on a full disk, and still in a file")
    tally.seconds = time.perf_counter() - began
    return tally


def _tried(tally: Tally, what: str, call: Callable[[], object]) -> str:
    try:
        call()
        end = "done"
    except EngineError as error:
        end = f"{type(error).__name__}{', says full' if 'full' in str(error) else ''}"
    tally.ends[f"{what}: {end}"] += 1
    return end


def _same(tally: Tally, kept: set[str], found: dict[str, str], either: str = "") -> None:
    if found.keys() - {either} != kept - {either}:
        tally.failures.append(f"{len(kept - found.keys())} lost, {len(found.keys() - kept)} not acknowledged")


if __name__ == "__main__":
    print(json.dumps(vars(fill(Path(sys.argv[1])))))
