"""Threads and tasks at one memory store: nobody's change is lost, nothing is read half, nothing forgotten is found.

`crowd` is what the suite runs for seconds and `scripts/soak.py memory-crowd` for a minute. Each member changes memories
that only it changes, so that it knows what they are, and everybody reads those of all. Of the facts that a member states
the judge lets the last one hold, beside all that is done meanwhile: which of them are superseded only the end shows.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import memory_life
from memory_life import VALUES

from engine.errors import MemoryNotFound
from engine.faculties import Verdict
from engine.inputs import CATEGORIES
from engine.memory import MemoryStore
from engine.records import IMPORTANCE, Memory

USER = "모두"
SUBJECT = "주제"
THREADS, TASKS = 8, 16
HANG = 60.0
_KEPT = 12  # memories that a member has at once


@dataclass
class Report:
    """How often each kind of call was made, how many hits were looked at, and what was wrong."""

    calls: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    left: int = 0  # memories at the end
    superseded: int = 0  # of them
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def spoken(member: int, number: int) -> tuple[str, str, str]:
    """Return text, source and category that belong together."""
    return (
        f"말 {member} {number} 그리고 {number * 7919 % 1000} 가지",
        f"말 {number}",
        CATEGORIES[number % len(CATEGORIES)],
    )


def asserted(member: int, number: int) -> tuple[str, str, str]:
    """Return text, source and category of a fact; every third one says the same."""
    text = memory_life.fact(f"{SUBJECT}{member}", VALUES[number % len(VALUES)], f"{member:08x}{number:08x}")
    return (text, *spoken(member, number)[1:])


def judge(old: Memory, new: Memory, likeness: float) -> Verdict:
    """Take a while, as a real one does."""
    time.sleep(0.002)
    return memory_life.judge(old, new, likeness)


def torn(memory: Memory) -> bool:
    """Return whether the parts of a memory come from two changes."""
    if memory_life.stated(memory.text):
        token = memory.text.split("[")[-1]
        return (memory.text, memory.source, memory.category) != asserted(int(token[:8], 16), int(token[8:16], 16))
    _, member, number, *_ = memory.text.split()
    return (memory.text, memory.source, memory.category) != spoken(int(member), int(number))


class Crowd:
    """The store, and what its members know together."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.report = store, Report()
        self.guard = threading.Lock()
        self.gone: set[str] = set()  # whose forgetting has returned
        self.over = threading.Event()

    def count(self, kind: str) -> None:
        """Note a call."""
        with self.guard:
            self.report.calls[kind] += 1

    def fail(self, failure: str) -> None:
        """Note what must not be."""
        with self.guard:
            self.report.failures.append(failure)

    def look(self, found: list[Memory], gone: frozenset[str]) -> None:
        """See that what was read is whole, and was not forgotten before it was asked for."""
        for memory in found:
            if memory.id in gone:
                self.fail("a search found what was forgotten before it began")
            if torn(memory):
                self.fail("a memory was read half")
        with self.guard:
            self.report.seen += len(found)

    def forgotten(self) -> frozenset[str]:
        """Return what was forgotten up to now."""
        with self.guard:
            return frozenset(self.gone)


class Member:
    """One caller; `mine` is what its memories must be, `number` that of the last thing it said."""

    def __init__(self, crowd: Crowd, member: int, seed: int) -> None:
        self.crowd, self.store, self.member = crowd, crowd.store, member
        self.rng = random.Random(f"{seed} {member}")
        self.mine: dict[str, int] = {}
        self.facts: dict[str, int] = {}  # as they were stored
        self.last = ""  # the fact that was stated last
        self.number = 0
        # Two members change one memory, each its own part of it, and know both parts together.
        self.weighed: str | None = None
        self.restated = 0
        self.beside: str | None = None
        self.weight = IMPORTANCE
        self.steps: tuple[Callable[[], None], ...] = (
            self.add, self.add_some, self.change, self.change, self.search, self.search, self.forget, self.listed, self.one,
            self.weigh, self.restate, self.state, self.state, self.reword, self.retract,
        )  # fmt: skip

    def step(self) -> None:
        """Make one call; what it raises is a failure, and ends this member."""
        step = self.rng.choice(self.steps)
        self.crowd.count(step.__name__)
        step()

    def add(self) -> None:
        self._add(1)

    def add_some(self) -> None:
        self._add(3)

    def _add(self, count: int) -> None:
        if len(self.mine) + count > _KEPT:
            return
        for _ in range(count):
            text, source, category = self._next()
            judged = self.rng.random() < 0.3  # with nothing like it
            (memory,) = self.store.remember([text], user=USER, source=source, category=category, judge=judged)
            self.mine[memory.id] = self.number

    def change(self) -> None:
        if self.mine:
            key = self.rng.choice(list(self.mine))
            text, source, category = self._next()
            self.store.update(key, {"text": text, "source": source, "category": category})
            self.mine[key] = self.number

    def weigh(self) -> None:
        """Change the importance of what the next member says, and nothing else of it."""
        if self.beside is not None:
            self.weight = self.rng.randrange(1, 1000) / 1000
            self.store.update(self.beside, {"importance": self.weight})

    def restate(self) -> None:
        """Change what another member weighs."""
        if self.weighed is not None:
            text, source, category = self._next()
            self.store.update(self.weighed, {"text": text, "source": source, "category": category})
            self.restated = self.number

    def forget(self) -> None:
        if len(self.mine) > _KEPT // 2:
            key = self.rng.choice(list(self.mine))
            self.store.forget(key)
            del self.mine[key]
            with self.crowd.guard:
                self.crowd.gone.add(key)
            try:
                self.store.memory(key)
            except MemoryNotFound:
                return
            self.crowd.fail("a memory is there after it was forgotten")

    def state(self) -> None:
        """State a fact, which is to take the place of the one before."""
        if len(self.facts) < _KEPT:
            self.number += 1
            text, source, category = asserted(self.member, self.number)
            (memory,) = self.store.remember([text], user=USER, source=source, category=category)
            self.facts[memory.id] = self.number
            self.last = memory.id

    def reword(self) -> None:
        """State a fact in other words, whatever the judge is doing with it."""
        if self.facts:
            key = self.rng.choice(list(self.facts))
            self.number += len(VALUES) - (self.number - self.facts[key]) % len(VALUES)
            text, source, category = asserted(self.member, self.number)
            self.store.update(key, {"text": text, "source": source, "category": category})
            self.facts[key] = self.number

    def retract(self) -> None:
        """Forget a fact; what said the same before goes with it, if the judge had merged it, and nothing else does."""
        if len(self.facts) > _KEPT // 2:
            key = self.rng.choice(list(self.facts))
            before = list(self.facts)[: list(self.facts).index(key)]
            self.store.forget(key)
            number = self.facts.pop(key)
            there = {memory.id for memory in self.store.memories(user=USER, superseded=True)}
            merged = {other for other in before if (self.facts[other] - number) % len(VALUES) == 0} - there
            for other in merged:
                del self.facts[other]
            with self.crowd.guard:
                self.crowd.gone |= {key, *merged}

    def expected(self, found: dict[str, Memory]) -> bool:
        """Return whether all of the facts that nobody forgot are there, current or not, as they were last worded."""
        wanted = {key: asserted(self.member, number)[0] for key, number in self.facts.items()}
        return all(key in found and found[key].text == text for key, text in wanted.items())

    def search(self) -> None:
        gone = self.crowd.forgotten()
        own = self.rng.choice(list(self.mine.values())) if self.mine else 0
        text = spoken(self.member, own)[0]
        hits = [hit.memory for hit in self.store.search(text, user=USER, k=5)]
        self.crowd.look(hits, gone)
        if self.mine and text not in [memory.text for memory in hits]:
            self.crowd.fail("a search did not find its caller's own memory")

    def listed(self) -> None:
        gone = self.crowd.forgotten()
        found = self.store.memories(user=USER, superseded=self.rng.random() < 0.5)
        self.crowd.look(found, gone)
        there = {memory.id: memory.text for memory in found}
        for key, number in self.mine.items():
            if there.get(key) != spoken(self.member, number)[0]:
                self.crowd.fail("a change was lost" if key in there else "a memory was lost")
        if not self.expected({memory.id: memory for memory in self.store.memories(user=USER, superseded=True)}):
            self.crowd.fail("a fact is not as it was stated, or lost")

    def one(self) -> None:
        if self.mine:
            key = self.rng.choice(list(self.mine))
            memory = self.store.memory(key)
            self.crowd.look([memory], frozenset())
            if memory.text != spoken(self.member, self.mine[key])[0]:
                self.crowd.fail("a change was lost")

    def _next(self) -> tuple[str, str, str]:
        self.number += 1
        return spoken(self.member, self.number)


def _thread(member: Member) -> None:
    try:
        while not member.crowd.over.is_set():
            member.step()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
        member.crowd.fail(f"{type(error).__name__}: {error}")


async def _task(member: Member, pool: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    try:
        while not member.crowd.over.is_set():
            await loop.run_in_executor(pool, member.step)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
        member.crowd.fail(f"{type(error).__name__}: {error}")


async def _tasks(members: list[Member], seconds: float) -> None:
    """Run the tasks for so long, on half as many threads, so that calls wait for each other."""
    with ThreadPoolExecutor(TASKS // 2) as pool:
        running = [asyncio.create_task(_task(member, pool)) for member in members]
        await asyncio.sleep(seconds)
        members[0].crowd.over.set()
        await asyncio.gather(*running)


def crowd(home: Path, seconds: float, seed: int) -> Report:
    """Let everybody at one store for so long; at the end it must hold what its members know."""
    began = time.perf_counter()
    lent = replace(memory_life.faculties(), judge=judge)
    with closing(MemoryStore(home, lent)) as store:
        together = Crowd(store)
        members = [Member(together, number, seed) for number in range(THREADS + TASKS)]
        _introduce(members, store)
        threads = [threading.Thread(target=_thread, args=(member,)) for member in members[:THREADS]]
        for thread in threads:
            thread.start()
        asyncio.run(_tasks(members[THREADS:], seconds))
        for thread in threads:
            thread.join(HANG)
        if any(thread.is_alive() for thread in threads):
            together.fail("a thread hangs")
        _end(together, members, store)
    with closing(MemoryStore(home, lent)) as again:
        _contents(together, members, again)
    together.report.seconds = time.perf_counter() - began
    return together.report


def _introduce(members: list[Member], store: MemoryStore) -> None:
    """Give everybody a memory that the one before weighs."""
    for before, member in zip(members[-1:] + members[:-1], members, strict=True):
        text, source, category = spoken(member.member, 0)
        (memory,) = store.remember([text], user=USER, source=source, category=category, judge=False)
        member.weighed = before.beside = memory.id


def _end(together: Crowd, members: list[Member], store: MemoryStore) -> None:
    if not store.wait(HANG):
        together.fail("the background did not come to its end")
    together.report.failures += store.problems()
    together.report.left = store.count()
    _contents(together, members, store)


def _contents(together: Crowd, members: list[Member], store: MemoryStore) -> None:
    expected = {key: spoken(member.member, number)[0] for member in members for key, number in member.mine.items()}
    for member in members:
        assert member.weighed is not None
        expected[member.weighed] = spoken(member.member, member.restated)[0]
    found = {memory.id: memory for memory in store.memories(user=USER, superseded=True)}
    together.report.superseded = sum(memory.superseded_by is not None for memory in found.values())
    expected |= {key: asserted(member.member, number)[0] for member in members for key, number in member.facts.items()}
    if {key: memory.text for key, memory in found.items()} != expected:
        together.fail("the memories at the end are not those that were made")
    if any(torn(memory) for memory in found.values()):
        together.fail("a memory is torn at the end")
    for member in members:
        if member.beside in found and found[member.beside].importance != member.weight:
            together.fail("a change of one part was lost by a change of another")
        _facts(together, member, found)


def _facts(together: Crowd, member: Member, found: dict[str, Memory]) -> None:
    """See that of a member's facts the last one holds, or none where that was forgotten, or those that it replaced."""
    if not member.expected(found):
        together.fail("the facts at the end are not those that were stated")
    current = [key for key in member.facts if key in found and found[key].superseded_by is None]
    if member.last in member.facts and current != [member.last]:
        together.fail(f"of {len(member.facts)} facts {len(current)} hold, not the last one")
    if len(current) > 1:
        together.fail(f"{len(current)} facts hold that exclude each other")
