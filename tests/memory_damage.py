"""Memory stores whose log was damaged after their process was killed: a committed prefix is left, or a clear refusal.

`damage` is what the suite runs some of and `scripts/soak.py memory-damage` all of.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import apsw
import memory_life

from engine.errors import StoreError
from engine.memory import MemoryStore
from engine.store import BACKUPS, FILE_NAME

USER = memory_life.STAYS
LOG = f"{FILE_NAME}-wal"
HANG = 60.0
State = dict[str, tuple[str, str | None]]  # id → text and source


class Killed(NamedTuple):
    """The files of a home as a killed process left them, and what it held after each acknowledged step."""

    home: Path
    states: list[State]


@dataclass
class Tally:
    """What came of damaged logs, by how far back they went, and what was wrong."""

    ends: Counter[str] = field(default_factory=Counter)
    back: Counter[str] = field(default_factory=Counter)  # steps that were lost
    failures: list[str] = field(default_factory=list)
    points: int = 0
    seconds: float = 0.0


# ---- homes


def state(store: MemoryStore) -> State:
    """Return all that a store holds."""
    return {memory.id: (memory.text, memory.source) for memory in store.memories(user=USER, superseded=True)}


def _steps(store: MemoryStore, rng: random.Random, count: int) -> list[State]:
    """Change the store so many times; return what it held after each."""
    states = []
    for step in range(count):
        texts = [
            f"적어 둔 말 {rng.getrandbits(64):016x} " * rng.choice((1, 3, 60)) for _ in range(rng.choice((1, 2, 9)))
        ]
        known = store.memories(user=USER)
        if step % 4 == 3 and known:
            # not its text: who corrects one has the log written back, which is not to be empty here
            store.update(rng.choice(known).id, {"source": f"대화 {step}", "importance": rng.random()})
        elif step % 4 == 2:
            store.remember([memory_life.fact("집", rng.choice(memory_life.VALUES), f"{step:016x}")], user=USER)
            store.wait(HANG)
        else:
            store.remember(texts, user=USER, judge=False)
        states.append(state(store))
    return states


def _checkpoint(home: Path) -> None:
    """Copy the log into the database as far as nobody reads behind it, as SQLite does by itself every 1,000 pages."""
    with closing(apsw.Connection(str(home / FILE_NAME))) as db:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _plain(store: MemoryStore, home: Path, rng: random.Random) -> list[State]:
    return _steps(store, rng, 14)


def _copied(store: MemoryStore, home: Path, rng: random.Random) -> list[State]:
    """All of the log is in the database, too."""
    states = _steps(store, rng, 14)
    _checkpoint(home)
    return states


def _half_copied(store: MemoryStore, home: Path, rng: random.Random) -> list[State]:
    """The first half of the log is in the database, too: who read meanwhile kept the rest."""
    states = _steps(store, rng, 7)
    with closing(apsw.Connection(str(home / FILE_NAME))) as reader, reader:
        reader.execute("SELECT count(*) FROM memories").fetchall()
        states += _steps(store, rng, 7)
        _checkpoint(home)
        return states


def _begun_anew(store: MemoryStore, home: Path, rng: random.Random) -> list[State]:
    """Behind the new log there is still the end of an older one."""
    _steps(store, rng, 10)
    store.wait(HANG)  # who writes meanwhile keeps the log from being begun anew
    _checkpoint(home)
    before = state(store)
    return [before, *_steps(store, rng, 6)]


KINDS: dict[str, Callable[[MemoryStore, Path, random.Random], list[State]]] = {
    "a log": _plain,
    "a log that is in the database": _copied,
    "a log that is half in the database": _half_copied,
    "a log over an older one": _begun_anew,
}


def killed(folder: Path, kind: str, rng: random.Random, *, backup: bool) -> Killed:
    """Return a home whose process did much and was killed: its files are taken while it has them open."""
    living, home = folder / "living", folder / "killed"
    with ExitStack() as stack:
        store = stack.enter_context(closing(MemoryStore(living, memory_life.faculties())))
        store.remember([f"처음 말 {n}" for n in range(12)], user=USER, judge=False)
        store.close()  # the log is in the database, and gone
        store = stack.enter_context(closing(MemoryStore(living, memory_life.faculties())))
        first = state(store)
        if backup:
            store.backup()
        states = [first, *KINDS[kind](store, living, rng)]
        # an index that is being written aside is none, and may be renamed under the copy
        shutil.copytree(living, home, ignore=shutil.ignore_patterns("*.part"))
    shutil.rmtree(living)
    return Killed(home, states)


# ---- damage


def _cut(log: bytes, rng: random.Random) -> bytes:
    return log[: rng.randrange(len(log))]


def _flip(log: bytes, rng: random.Random) -> bytes:
    at = rng.choice((rng.randrange(len(log)), rng.randrange(56)))  # now and then in the headers
    return log[:at] + bytes([log[at] ^ 1 << rng.randrange(8)]) + log[at + 1 :]


def _blank(log: bytes, rng: random.Random) -> bytes:
    """A sector that was never written."""
    at = rng.randrange(len(log)) // 512 * 512
    return log[:at] + bytes(min(512, len(log) - at)) + log[at + 512 :]


WAYS = {"cut": _cut, "flipped": _flip, "blank": _blank}


def damage(folder: Path, points: int, seed: int) -> Tally:
    """Damage logs of each kind at so many points in all, and open each home."""
    tally, rng, began = Tally(), random.Random(seed), time.perf_counter()
    for number, kind in enumerate(KINDS):
        place = folder / f"{number}"
        place.mkdir()
        left = killed(place, kind, rng, backup=bool(number % 2))
        log = (left.home / LOG).read_bytes()
        for _ in range(points // len(KINDS)):
            way = rng.choice(list(WAYS))
            copy = place / "copy"
            shutil.copytree(left.home, copy)
            (copy / LOG).write_bytes(WAYS[way](log, rng))
            _try(tally, f"{kind}, {way}", left, copy)
            shutil.rmtree(copy)
    tally.seconds = time.perf_counter() - began
    return tally


def _try(tally: Tally, name: str, left: Killed, home: Path) -> None:
    tally.points += 1
    try:
        with closing(MemoryStore(home, memory_life.faculties())) as store:
            memory_life.begin(store)
            found = state(store)
            problems = store.problems()
            usable = _used(store)
    except StoreError as error:
        tally.ends[f"{name}: refused"] += 1
        newest = sorted((home / BACKUPS).glob("*.sqlite3"))
        if (str(newest[-1]) if newest else "none is in this home") not in str(error):
            tally.failures.append(f"{name}: a refusal without the backup: {error}")
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
        tally.failures.append(f"{name}: {type(error).__name__}: {error}")
        return
    tally.ends[f"{name}: a prefix"] += 1
    if found in left.states:
        lost = len(left.states) - 1 - left.states.index(found)
        tally.back["nothing" if not lost else "1 to 5" if lost < 6 else "more"] += 1
    else:
        tally.failures.append(f"{name}: {len(found)} memories, as there never were")
    tally.failures += [f"{name}: {problem}" for problem in problems]
    if not usable:
        tally.failures.append(f"{name}: what is stored in it is not found")


def _used(store: MemoryStore) -> bool:
    """Return whether the store does its work."""
    text = "나중에 적은 말"
    store.remember([text], user=USER, judge=False)
    hits = store.search(text, user=USER, k=3)
    return store.wait(HANG) and text in [hit.memory.text for hit in hits]
