"""Memory stores whose process is killed: what was acknowledged is there, what was forgotten is not.

`kill_cycles` is what the suite runs a little of and `scripts/soak.py memory-kills` a lot.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import memory_life
from memory_life import PASSES, STAYS, Order, stated
from memory_phases import ADDED, FORGOTTEN, PHASES, phases

from engine.memory import MemoryStore
from engine.store import FILE_NAME

Line = dict[str, Any]
HANG = 60.0  # seconds without a line
STEPS = 60  # of a life that nobody kills
LIVES = 5  # in one home
_MORE = 40  # kills aimed at a phase that none fell in yet, and lives that may end by themselves
KILLED = -signal.SIGKILL if sys.platform != "win32" else 1  # the status of a process that was


class Aim(NamedTuple):
    """A step to be done, and the line after which the process is killed."""

    step: str
    when: str
    kind: str


AIMS = {
    "anywhere": Aim("", "will", "open"),
    "start": Aim("", "will", "open"),
    "migration": Aim("", "begin", "migration"),
    "add": Aim("one", "will", "one"),
    "batch": Aim("batch", "will", "batch"),
    "again": Aim("again", "will", "again"),
    "judging": Aim("fact", "begin", "judging"),
    "update": Aim("update", "will", "update"),
    "forget": Aim("forget", "will", "forget"),
    "forget all": Aim("forget_all", "will", "forget_all"),
    "wipe": Aim("forget", "begin", "wipe"),
    "index save": Aim("reopen", "begin", "index save"),
    "closing": Aim("reopen", "will", "close"),
    "rebuild": Aim("rebuild", "did", "rebuild"),
    "re-embedding": Aim("space", "will", "space"),
    "backup": Aim("backup", "will", "backup"),
}


@dataclass
class Report:
    """What came of killed lives: at what they were, what became of it, how much was promised, and what was wrong."""

    killed: int = 0
    lived: int = 0  # to their end, before the kill came
    aims: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)  # the step in flight
    phases: Counter[str] = field(default_factory=Counter)  # a kill may fall in several
    ends: Counter[str] = field(default_factory=Counter)  # of what was in flight
    looked_for: int = 0  # acknowledged memories, each after every kill
    looked_for_gone: int = 0  # forgotten ones
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


# ---- what was promised


@dataclass(frozen=True)
class Row:
    """A memory as its process knew it."""

    text: str
    user: str
    category: str | None
    source: str | None


@dataclass
class Ledger:
    """What a home must hold by the lines of its processes; `pending` is the step that was begun and not ended."""

    rows: dict[str, Row] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)  # id → text
    attempted: set[str] = field(default_factory=set)  # ids that were to be forgotten
    order: list[str] = field(default_factory=list)  # ids, as they were stored
    backups: dict[str, frozenset[str]] = field(default_factory=dict)  # path → ids
    pending: Line | None = None
    begun: set[str] = field(default_factory=set)  # phases of the process
    space: int = 0
    wrong: list[str] = field(default_factory=list)

    def hear(self, line: Line) -> None:
        """Take in one line."""
        if "begin" in line:
            self.begun.add(line["begin"])
        elif "end" in line:
            self.begun.discard(line["end"])
        elif "will" in line:
            self.pending = line
            if line["will"] in FORGOTTEN:
                self.attempted.update(line["ids"])
            self.space = line.get("space", self.space)
        elif "did" in line:
            self._done(line)
            self.pending = None

    def _done(self, line: Line) -> None:
        begun, kind = self.pending or {}, line["did"]
        if kind in ADDED:
            for key, text in zip(line["ids"], begun["texts"], strict=True):
                self.add(key, self.stored(begun, text))
        elif kind == "update":
            self.rows[begun["id"]] = self.updated(begun)
        elif kind in FORGOTTEN:
            self.forget(begun["ids"])
        elif kind == "backup":
            self.backups[line["path"]] = frozenset(self.rows)
        elif kind == "again" and line["id"] != begun["id"]:
            self.wrong.append("a text that was remembered again became another memory")

    def add(self, key: str, row: Row) -> None:
        """Expect a memory."""
        self.rows[key] = row
        self.order.append(key)

    def stored(self, begun: Line, text: str) -> Row:
        """Return what a text becomes."""
        return Row(text, begun["user"], begun["fields"]["category"], begun["fields"]["source"])

    def updated(self, begun: Line) -> Row:
        """Return what an update makes of a memory."""
        row, fields = self.rows[begun["id"]], begun["fields"]
        return Row(
            fields.get("text", row.text),
            row.user,
            fields.get("category", row.category),
            fields.get("source", row.source),
        )

    def forget(self, ids: list[str]) -> None:
        """Move memories to what must be gone."""
        self.gone |= {key: self.rows.pop(key).text for key in ids}


def token(text: str) -> bytes:
    """Return the part of a text that stands in no other."""
    fitting = [word.strip("[]") for word in text.split() if len(word.strip("[]")) == 16]
    return fitting[-1].encode("ascii")


def written(home: Path) -> dict[Path, bytes]:
    """Return all that is in the files of a home."""
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def store_made(home: Path) -> bool:
    """Return whether a process came so far as to store anything."""
    return (home / FILE_NAME).exists() and (home / FILE_NAME).stat().st_size > 0


# ---- what there is


class Check:
    """Opens a home as its next process would, and says what is not as the ledger has it."""

    def __init__(self, home: Path, ledger: Ledger, rng: random.Random) -> None:
        self.home, self.ledger, self.rng = home, ledger, rng
        self.wrong: list[str] = []
        self.end = "nothing in flight"

    def run(self) -> list[str]:
        """Check everything; the ledger knows then what became of the step in flight."""
        self.wrong += self.ledger.wrong
        self.ledger.wrong = []
        self._traces("before the home is opened")
        store = MemoryStore(self.home, memory_life.faculties(self.ledger.space))
        try:
            with closing(store):
                self._open(store)
        except Exception:  # noqa: BLE001 - whatever it is, it is what is wrong
            self.wrong.append(f"the home cannot be used: {short(traceback.format_exc())}")
            return self.wrong
        self._traces("after the home was closed")
        self._backups()
        self.ledger.pending = None
        return self.wrong

    def _open(self, store: MemoryStore) -> None:
        memory_life.begin(store)
        self.wrong += [f"integrity: {problem}" for problem in store.problems()]
        found = self._found(store)
        self._settle(found)
        self._compare(found, "at once")
        self._traces("after the home was opened")
        if not store.wait(HANG):
            self.wrong.append("the background did not come to its end")
        self._compare(self._found(store), "after the background was done")
        self._facts(store)
        self._searches(store)
        self.wrong += [f"integrity at the end: {problem}" for problem in store.problems()]
        self._orphans()

    def _found(self, store: MemoryStore) -> dict[str, Row]:
        return {
            memory.id: Row(memory.text, memory.user, memory.category, memory.source)
            for user in (STAYS, PASSES)
            for memory in store.memories(user=user, superseded=True)
        }

    def _settle(self, found: dict[str, Row]) -> None:
        """See that what was in flight is whole or not at all, and take it as it is."""
        begun, ledger = self.ledger.pending, self.ledger
        if begun is None:
            return
        kind = begun["will"]
        if kind in ADDED:
            new = {key: row for key, row in found.items() if key not in ledger.rows and row.text in begun["texts"]}
            self._whole(len(new), len(begun["texts"]), kind)
            if [row.text for row in reversed(new.values())] not in ([], begun["texts"]):
                self.wrong.append(f"a {kind} in flight is not in its order")
            for key, row in reversed(new.items()):
                ledger.add(key, ledger.stored(begun, row.text))
        elif kind == "update":
            if updated := found.get(begun["id"]) == ledger.updated(begun):
                ledger.rows[begun["id"]] = ledger.updated(begun)
            self._whole(int(updated), 1, kind)
        elif kind in FORGOTTEN:
            lost = [key for key in begun["ids"] if key not in found]
            self._whole(len(lost), len(begun["ids"]), kind)
            ledger.forget(lost)
        else:
            self.end = f"{kind} cut short"

    def _whole(self, done: int, of: int, kind: str) -> None:
        self.end = f"{kind} {'done' if done else 'undone'}"
        if done not in (0, of):
            self.wrong.append(f"of {of} in flight in one {kind}, {done} are done")

    def _compare(self, found: dict[str, Row], when: str) -> None:
        for key, row in self.ledger.rows.items():
            if key not in found:
                self.wrong.append(f"{when}: acknowledged, and lost: {key}")
            elif found[key] != row:
                self.wrong.append(f"{when}: not what was acknowledged: {key}")
        for key in found.keys() - self.ledger.rows.keys():
            what = "forgotten, and back" if key in self.ledger.gone else "nobody remembered this"
            self.wrong.append(f"{when}: {what}: {key}")

    def _traces(self, when: str) -> None:
        everything = written(self.home)
        for key, text in self.ledger.gone.items():
            places = [path.name for path, data in everything.items() if token(text) in data]
            if places:
                self.wrong.append(f"{when}: forgotten, and still in {', '.join(places)}: {key}")

    def _facts(self, store: MemoryStore) -> None:
        """See that of each subject one fact holds, the last that was said."""
        facts: defaultdict[str, list[str]] = defaultdict(list)
        for key, text in self._said():
            if fact := stated(text):
                facts[fact[0]].append(key)
        holds = {memory.id: stated(memory.text) for memory in store.memories(user=STAYS)}
        for subject, ids in facts.items():
            current = [key for key in ids if key in holds]
            expected = ids[-1:] if ids[-1] not in self.ledger.gone else current[:1]
            if current != expected:
                self.wrong.append(f"of {len(ids)} facts of {subject}, {len(current)} hold, not the last one")
        known = self.ledger.rows.keys() | self.ledger.gone.keys()
        for memory in store.memories(user=STAYS, superseded=True):
            if memory.superseded_by is not None and memory.superseded_by not in known:
                self.wrong.append(f"superseded by nothing: {memory.id}")

    def _said(self) -> list[tuple[str, str]]:
        """Return id and text of all that was ever stored, in the order in which it was."""
        everything = {key: row.text for key, row in self.ledger.rows.items()} | self.ledger.gone
        return [(key, everything[key]) for key in self.ledger.order if key in everything]

    def _searches(self, store: MemoryStore) -> None:
        current = [memory for user in (STAYS, PASSES) for memory in store.memories(user=user)]
        for memory in self.rng.sample(current, min(6, len(current))):
            if memory.id not in [hit.memory.id for hit in store.search(memory.text, user=memory.user, k=3)]:
                self.wrong.append(f"not found by its own text: {memory.id}")
        for text in self.rng.sample(sorted(self.ledger.gone.values()), min(3, len(self.ledger.gone))):
            for user in (STAYS, PASSES):
                if any(hit.memory.id not in self.ledger.rows for hit in store.search(text, user=user, k=20)):
                    self.wrong.append("a search found what was forgotten")

    def _orphans(self) -> None:
        if not store_made(self.home):
            return
        with closing(apsw.Connection(str(self.home / FILE_NAME), flags=apsw.SQLITE_OPEN_READONLY)) as db:
            for table, key in (("vectors", "key & ((1 << 40) - 1)"), ("words", "rowid"), ("unjudged", "memory")):
                sql = f"SELECT count(*) FROM {table} WHERE {key} NOT IN (SELECT seq FROM memories)"
                if count := db.execute(sql).get:
                    self.wrong.append(f"{count} rows of {table} belong to no memory")
            for table, key in (("words", "w.rowid"), ("vectors", "w.key & ((1 << 40) - 1)")):
                sql = f"SELECT count(*) FROM memories WHERE seq NOT IN (SELECT {key} FROM {table} AS w)"
                if count := db.execute(sql).get:
                    self.wrong.append(f"{count} memories have no {table}")

    def _backups(self) -> None:
        """See that every backup is whole, and has what there was then and was not forgotten since."""
        for path in {*map(Path, self.ledger.backups), *(self.home / "backups").glob("*.sqlite3")}:
            if not path.exists():
                self.wrong.append(f"a backup is not there: {path.name}")
                continue
            with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
                if db.execute("PRAGMA integrity_check").get != "ok":
                    self.wrong.append(f"a backup is damaged: {path.name}")
                ids = {key for (key,) in db.execute("SELECT id FROM memories")}
            expected = self.ledger.backups.get(str(path), frozenset(ids))
            # Of a forgetting that was cut short the backups in the home may have lost what the store still has.
            less = self.ledger.attempted if path.is_relative_to(self.home) else set()
            if not expected - less <= ids <= expected:
                self.wrong.append(f"a backup has other memories than there were: {path.name}")


# ---- killing


class Child:
    """A process that has imported what it needs, and lives when it is told how.

    After `live`: `killed`, whether that was its end, and `said`, what went wrong.
    """

    def __init__(self, script: Path = Path(memory_life.__file__)) -> None:
        self.killed, self.said = False, ""
        self._hangs = False
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-X", "faulthandler", str(script.resolve())],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PYTHONUTF8": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def live(self, order: Order, aim: Aim, delay: Delay, ledger: Ledger) -> None:
        """Let it live, kill it `delay` after the line aimed at, and let the ledger hear."""
        assert self.process.stdin is not None
        self.process.stdin.write(memory_life.ordered(order) + "\n")
        self.process.stdin.flush()
        ledger.begun.clear()
        kill: threading.Timer | None = None
        near = not order.aim
        for line in self._lines():
            near = near or "aim" in line
            if near and kill is None and line.get(aim.when) == aim.kind:
                kill = threading.Timer(delay.draw(aim), self.process.kill)
                kill.start()
            delay.heed(line)
            ledger.hear(line)
        self._end(kill)

    def _lines(self) -> Iterator[Line]:
        """Yield what it says; one that says nothing for long hangs, and is ended."""
        assert self.process.stdout is not None
        while True:
            guard = threading.Timer(HANG, self._hang)
            guard.start()
            try:
                text = self.process.stdout.readline()
            finally:
                guard.cancel()
            if not text.endswith("\n"):  # its end, or it was killed while it wrote
                return
            yield json.loads(text)

    def _hang(self) -> None:
        self._hangs = True
        if os.name == "posix":
            self.process.send_signal(signal.SIGABRT)  # it says then where its threads are
        else:
            self.process.kill()

    def _end(self, kill: threading.Timer | None) -> None:
        """Wait for its end, and note what it was."""
        if kill is not None:
            kill.cancel()
        assert self.process.stderr is not None
        errors = self.process.stderr.read()
        status = self.process.wait(HANG)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.killed = kill is not None and status == KILLED and not self._hangs
        if self._hangs:
            self.said = f"the process hung: {errors}"
        elif errors or not (self.killed or status == 0):
            self.said = f"the process ended by itself, with {status}: {short(errors)}"

    def kill(self) -> None:
        """End one that is not to live."""
        self.process.kill()
        self.process.communicate()


class Delay:
    """How long after its beginning a step is to be cut short: somewhere in the time that such steps took before."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._took: defaultdict[str, list[float]] = defaultdict(list)
        self._began: dict[str, float] = {}

    def heed(self, line: Line) -> None:
        """Measure a step."""
        now = time.perf_counter()
        if started := line.get("will", line.get("begin")):
            self._began[started] = now
        elif (done := line.get("did", line.get("end"))) in self._began:
            self._took[done].append(now - self._began.pop(done))

    def draw(self, aim: Aim) -> float:
        """Return seconds."""
        took = self._took["wait" if aim.when == "did" else aim.kind] or [0.01]
        return self.rng.uniform(0, 1.2 * statistics.median(took))


class Anywhere(Delay):
    """A moment that has nothing to do with any step."""

    def draw(self, aim: Aim) -> float:
        """Return seconds from the first line."""
        return self.rng.uniform(0, 0.5)


class Killing:
    """Lives of several homes, one after the other; `report` is what came of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.rng = folder, seed, random.Random(seed)
        self.report = Report()
        self.delay, self.anywhere = Delay(self.rng), Anywhere(self.rng)
        self.home, self.ledger, self.lives = folder, Ledger(), 0
        self.child = Child()

    def cycle(self, name: str) -> bool:
        """Let one live, aimed at as `name` says, and check its home; return whether it was killed."""
        if name == "migration" or self.lives % LIVES == 0:
            self.home, self.ledger = self.folder / f"홍길동 {self.lives}" / "내 문서", Ledger()
        if name == "migration":
            for row in memory_life.first_version(self.home, self.rng, self.rng.choice((40, 300))):
                self.ledger.add(row.pop("id"), Row(**row))
        aim, rng = AIMS[name], self.rng
        order = Order(str(self.home), f"{self.seed} {self.lives}", self.ledger.space, aim.step, rng.randrange(8), STEPS)
        child, self.lives = self.child, self.lives + 1
        child.live(order, aim, self.anywhere if name == "anywhere" else self.delay, self.ledger)
        self.child = Child()  # it imports while the home is checked
        self._judge(name, child)
        return child.killed

    def _judge(self, name: str, child: Child) -> None:
        report, ledger = self.report, self.ledger
        if child.killed:
            step = ledger.pending["will"] if ledger.pending else ""
            report.killed += 1
            report.aims[name] += 1
            report.moments[step or "between two steps"] += 1
            report.phases.update(phases(self.home, step, ledger.begun))
        else:
            report.lived += 1
        check = Check(self.home, ledger, self.rng)
        wrong = check.run() + ([child.said] if child.said else [])
        report.ends[check.end] += child.killed
        report.looked_for += len(ledger.rows)
        report.looked_for_gone += len(ledger.gone)
        report.failures += [f"life {self.lives - 1}, {name}: {failure}" for failure in wrong]


def kill_cycles(folder: Path, cycles: int, seed: int, wanted: Collection[str] = PHASES) -> Report:
    """Kill so many lives, each aim in its turn, several in one home, and check the home after each.

    A life that ended before the kill came is checked and not counted. Where no kill fell in a phase that is `wanted`,
    some more are aimed at it; none at all is a failure.
    """
    began, killing = time.perf_counter(), Killing(folder, seed)
    report = killing.report
    aims: list[str] = []
    try:
        while report.killed < cycles and report.lived < cycles + _MORE:
            aims = aims or killing.rng.sample(sorted(AIMS), len(AIMS))
            if killing.cycle(aims[-1]) or killing.rng.random() < 0.5:  # else once more
                aims.pop()
        for phase in wanted:
            for _ in range(_MORE):
                if not report.phases[phase]:
                    killing.cycle(phase)
    finally:
        killing.child.kill()
    if report.killed < cycles:
        report.failures.append(f"only {report.killed} of {cycles} were killed: the others ended before")
    report.failures += [f"no kill fell in this: {phase}" for phase in wanted if not report.phases[phase]]
    report.seconds = time.perf_counter() - began
    return report


def short(said: str) -> str:
    """Return where an error came from and what it was, of what a process said at its end."""
    frames = re.findall(r'/(\w+\.py)", line (\d+)', said)
    return f"{(said.strip().splitlines() or ['no word'])[-1][:300]} ({' '.join(':'.join(frame) for frame in frames[-12:])})"
