"""A process that lives on a memory store until it is killed: what it is about to do and what was done, a line each.

`{"will": …}` comes before a step and `{"did": …}` after it returned, which is the store's promise; between them
`memory_phases` says what goes on inside. Each text holds a
token that stands nowhere else. It reads one line, its `Order`, when it has imported all that it needs.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fake_embedder
import memory_phases
import numpy as np

from engine import shortlist
from engine.faculties import Embedded, Faculties, Space, Verdict
from engine.inputs import CATEGORIES
from engine.memory import MemoryStore
from engine.records import Edit, Memory
from engine.store import FILE_NAME

FEW = 30  # memories from which on there is an index, instead of a thousand
STAYS, PASSES = "나", "손님"  # users: nobody forgets all of the first one
VALUES = ("부산", "대전", "강릉")
_FACT = re.compile(r"사실 (\S+) .*: (\S+) \[[0-9a-f]+\]$")


@dataclass(frozen=True)
class Order:
    """What a life does: `lead` steps of all kinds, one of the kind `aim`, and on until it is killed or has done `steps`."""

    home: str
    seed: str
    space: int
    aim: str
    lead: int
    steps: int


# ---- what the store is lent


def fact(subject: str, value: str, token: str) -> str:
    """Return a text that replaces what was said of the same subject, or says the same again."""
    return f"사실 {' '.join([subject] * 6)}: {value} [{token}]"


def stated(text: str) -> tuple[str, str] | None:
    """Return subject and value of a fact, None for any other text."""
    found = _FACT.match(text)
    return (found[1], found[2]) if found else None


def judge(old: Memory, new: Memory, likeness: float) -> Verdict:
    """Compare two facts; anything else is different."""
    one, other = stated(old.text), stated(new.text)
    if one is None or other is None or one[0] != other[0]:
        return "different"
    return "same" if one == other else "replaces"


def faculties(number: int = 0) -> Faculties:
    """Return those of the fake embedder in one of several spaces, each with its vectors in another permutation."""
    known = {f"{n:064x}": n for n in range(number + 1)}

    def embed(texts: list[str], kind: Any, space: Space) -> Embedded:
        turned = np.random.default_rng(known[space.model]).permutation(fake_embedder.DIM)
        return Embedded(np.ascontiguousarray(fake_embedder.embed(texts, kind)[:, turned]))

    return fake_embedder.faculties(space=lambda: Space(f"{number:064x}", f"pairs {number}"), embed=embed, judge=judge)


def few() -> None:
    """Let an index be used from `FEW` memories on."""
    shortlist.FEW = FEW


def begin(store: MemoryStore) -> None:
    """Make the store write, without a change: its first write locks, migrates and removes traces."""
    store.forget_all("아무도")


# ---- living


class Life:
    """The steps of one process; `say` hands on what happens."""

    def __init__(self, order: Order, say: Callable[[dict[str, Any]], object]) -> None:
        self.order, self.say = order, say
        self.home, self.rng, self.space = Path(order.home), random.Random(order.seed), order.space
        self.tokens = 0
        self.store: MemoryStore | None = None
        self.kinds: dict[str, tuple[int, Callable[[], None]]] = {
            "one": (4, partial(self.remember, 1)),
            "batch": (3, partial(self.remember, None)),
            "fact": (6, self.assert_fact),
            "again": (2, self.say_again),
            "update": (4, self.update),
            "forget": (3, self.forget),
            "forget_all": (1, self.forget_all),
            "search": (3, self.search),
            "wait": (2, self.wait),
            "reopen": (2, self.reopen),
            "rebuild": (1, self.rebuild),
            "space": (1, self.change_space),
            "backup": (1, self.backup),
        }

    def run(self) -> None:
        """Live; the store is opened by a step of its own."""
        self.open()
        names, weights = list(self.kinds), [weight for weight, _ in self.kinds.values()]
        for step in range(self.order.steps):
            if aimed := step == self.order.lead and self.order.aim in self.kinds:
                self.say({"aim": self.order.aim})
            name = self.order.aim if aimed else self.rng.choices(names, weights)[0]
            self.kinds[name][1]()
        self.close()

    # ---- steps

    def open(self) -> None:
        self.say({"will": "open", "space": self.space})
        self.store = MemoryStore(self.home, faculties(self.space))
        begin(self.store)
        self.say({"did": "open"})

    def remember(self, many: int | None) -> None:
        user = self.rng.choice((STAYS, STAYS, PASSES))
        texts = [self.note() for _ in range(many or self.rng.choice((2, 5, 12, 30)))]
        fields = {"category": self.rng.choice((None, *CATEGORIES)), "source": self.rng.choice((None, "대화 3"))}
        self._remember("one" if many else "batch", texts, user, fields, judged=self.rng.random() < 0.5)

    def assert_fact(self) -> None:
        texts = [self.some_fact() for _ in range(self.rng.choice((1, 1, 2)))]
        self._remember("fact", texts, STAYS, {"category": None, "source": None}, judged=True)
        if self.rng.random() < 0.4:
            self.wait()

    def _remember(self, kind: str, texts: list[str], user: str, fields: dict[str, Any], *, judged: bool) -> None:
        self.say({"will": kind, "texts": texts, "user": user, "fields": fields})
        stored = self._store.remember(texts, user=user, judge=judged, **fields)
        self.say({"did": kind, "ids": [memory.id for memory in stored]})

    def say_again(self) -> None:
        if known := self._some(lambda memory: stated(memory.text) is None):
            self.say({"will": "again", "id": known.id})
            (found,) = self._store.remember([known.text], user=known.user)
            self.say({"did": "again", "id": found.id})

    def update(self) -> None:
        if known := self._some():
            changed: Edit = {"category": self.rng.choice((None, *CATEGORIES))}
            if self.rng.random() < 0.5:
                changed = {"source": f"대화 {self.rng.randrange(9)}", "importance": round(self.rng.random(), 3)}
            if stated(known.text) is None and self.rng.random() < 0.7:
                changed["text"] = self.note()
            self.say({"will": "update", "id": known.id, "fields": changed})
            self._store.update(known.id, changed)
            self.say({"did": "update"})

    def forget(self) -> None:
        if known := self._some():
            if stated(known.text):  # what is merged into it meanwhile would go too, and nobody would say so
                self._store.wait()
            along = self._merged(known)
            self.say({"will": "forget", "ids": [known.id, *along]})
            self._store.forget(known.id)
            self.say({"did": "forget"})

    def forget_all(self) -> None:
        if not self._current(PASSES):
            self.remember(None)
        ids = [memory.id for memory in self._store.memories(user=PASSES, superseded=True)]
        self.say({"will": "forget_all", "ids": ids})
        self._store.forget_all(PASSES)
        self.say({"did": "forget_all"})

    def search(self) -> None:
        self.say({"will": "search"})
        self._store.search(self.note(), user=STAYS, k=5)
        self.say({"did": "search"})

    def wait(self) -> None:
        self.say({"will": "wait"})
        self._store.wait()
        self.say({"did": "wait"})

    def close(self) -> None:
        self.say({"will": "close"})  # saves the index
        self._store.close()
        self.say({"did": "close"})

    def reopen(self) -> None:
        self.close()
        self.open()

    def rebuild(self) -> None:
        """Lose the index, and let it be built by who misses it."""
        self.close()
        self.say({"will": "rebuild"})
        for path in (self.home / "index").glob("*"):
            path.write_bytes(self.rng.randbytes(99)) if self.rng.random() < 0.5 else path.unlink()
        self.say({"did": "rebuild"})
        self.open()
        self.search()
        self.wait()

    def change_space(self) -> None:
        """Have another embedding model; the background embeds anew, and may not come to its end."""
        self.close()
        self.space += 1
        self.say({"will": "space", "space": self.space})
        self.open()
        self.search()
        self.say({"did": "space"})

    def backup(self) -> None:
        if not self._store.count():
            return
        target = None if self.rng.random() < 0.7 else self.home.parent / f"{self.home.name}-{self.token()}.sqlite3"
        self.say({"will": "backup"})
        path = self._store.backup(target)
        self.say({"did": "backup", "path": str(path)})

    # ---- inside

    @property
    def _store(self) -> MemoryStore:
        assert self.store is not None
        return self.store

    def token(self) -> str:
        """Return what stands in no other text."""
        self.tokens += 1
        return f"{random.Random(f'{self.order.seed} {self.tokens}').getrandbits(64):016x}"

    def note(self) -> str:
        """Return a text that nothing is to be compared with, now and then a long one."""
        token = self.token()
        return f"{token} " + " ".join([f"적어 둔 말 {token}"] * self.rng.choice((1, 1, 2, 5, 40, 400)))

    def some_fact(self) -> str:
        """Return one of few facts."""
        return fact(f"주제{self.rng.randrange(4)}", self.rng.choice(VALUES), self.token())

    def _current(self, user: str) -> list[Memory]:
        return self._store.memories(user=user)

    def _some(self, fits: Callable[[Memory], bool] = lambda memory: True) -> Memory | None:
        fitting = [memory for user in (STAYS, PASSES) for memory in self._current(user) if fits(memory)]
        return self.rng.choice(fitting) if fitting else None

    def _merged(self, known: Memory) -> list[str]:
        """Return what goes with a fact: the same said before, and merged into it."""
        same = [
            m for m in self._store.memories(user=known.user, superseded=True) if stated(m.text) == stated(known.text)
        ]
        found = [known.id]
        while more := [m.id for m in same if m.superseded_by in found and m.id not in found]:
            found += more
        return found[1:]


# ---- a home of the first version

FIRST = """
    CREATE TABLE memories (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, digest BLOB NOT NULL,
        category TEXT, kind TEXT, source TEXT, user TEXT NOT NULL, created INTEGER NOT NULL, happened TEXT,
        moment INTEGER NOT NULL, valid_from INTEGER, valid_to INTEGER, superseded_by TEXT, importance REAL NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX memories_current ON memories (user, digest) WHERE superseded_by IS NULL;
    CREATE TABLE vectors (
        memory INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE, model TEXT NOT NULL, vector BLOB NOT NULL,
        UNIQUE (memory, model)
    ) STRICT;
    CREATE TABLE chores (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 1;
"""


def first_version(home: Path, rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Write the database as the first schema had it; return id, text, user, category and source of each memory."""
    import apsw

    life = Life(Order(str(home), f"first {rng.random()}", 0, "", 0, 0), lambda line: None)
    home.mkdir(parents=True)
    found = [
        {
            "id": life.token() * 2,
            "text": life.note(),
            "user": STAYS,
            "category": None,
            "source": rng.choice((None, "옛날")),
        }
        for _ in range(count)
    ]
    vectors = faculties().embed([row["text"] for row in found], "passage", faculties().space()).dense.astype("<f2")
    with closing(apsw.Connection(str(home / FILE_NAME))) as db, db:
        db.execute(FIRST)
        for row, vector in zip(found, vectors, strict=True):
            db.execute(
                "INSERT INTO memories (id, text, digest, source, user, created, moment, valid_from, importance) "
                "VALUES (:id, :text, :digest, :source, :user, 5, 5, 5, 0.5)",
                {**row, "digest": hashlib.sha256(row["text"].encode("utf-8")).digest()},
            )
            if rng.random() < 0.9:  # the others were never searched for after the model had changed
                model = faculties().space().model
                db.execute("INSERT INTO vectors VALUES (last_insert_rowid(), ?, ?)", (model, vector.tobytes()))
    return found


def ordered(order: Order) -> str:
    """Return the line that a life reads."""
    return json.dumps(asdict(order))


def main() -> None:
    """Live by the order on standard input."""
    few()
    order = Order(**json.loads(sys.stdin.readline()))
    one_at_a_time = threading.Lock()

    def say(line: dict[str, Any]) -> None:
        with one_at_a_time:  # the background has something to say, too
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    memory_phases.Watch(say).start()
    Life(order, say).run()


if __name__ == "__main__":
    main()
