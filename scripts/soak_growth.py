"""One engine that does everything, round after round, and a look at what its process holds after each.

A round leaves what it found: it forgets what it remembered, deletes its conversations, loads what it unloaded. So what
the process holds may not depend on how many rounds there were. The first `SETTLED` let libraries take what they keep;
after them the resident memory may be at most `MOST_RESIDENT` above the median of the next few, however long it runs,
and files and threads above their highest by `MOST_OPEN`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import lifecycle_loads
from lifecycle_loads import Held
from soak_outcome import Outcome

from engine import Engine
from engine.errors import InvalidInput

SETTLED = 3  # rounds until libraries have what they keep
_COMPARED = 3  # rounds after these, whose median is what later ones are compared with
MOST_RESIDENT = 128 << 20  # bytes
MOST_OPEN = 8  # files, and threads
_KEPT = 100  # memories that are there all the time
_LOADED = ("chat", "embedding")  # at the end of each round
_SHORT = 8  # tokens of an answer
_WORDS = "오늘 어제 회사 친구 비빔밥 영화 바다 자전거 책 커피 고양이 병원 여행 노래 공부 운동 시장 편지 눈 약속".split()
_LABELS = ("food", "travel", "music", "sport", "work")
_SCHEMA = {"type": "object", "properties": {"mood": {"enum": ["good", "bad"]}}, "required": ["mood"]}


@dataclass
class Growing:
    """An engine of this process, and what was held after each round."""

    held: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._home = self._folder / "home"
        self.engine = self._stack.enter_context(Engine(profile="starter", home=self._home))
        self.engine.remember([_sentence(random.Random(n)) + f" {n}" for n in range(_KEPT)], judge=False)

    def round(self, rng: random.Random, steps: int) -> Outcome:
        """Do so many things, leave nothing, and look."""
        visit = Visit(self.engine, rng, self._folder)
        failures = [failure for _ in range(steps) if (failure := visit.step())]
        failures += visit.leave()
        gc.collect()
        self.held.append(lifecycle_loads.held())
        failures += grown(self.held)
        files = sum(path.stat().st_size for path in self._home.rglob("*") if path.is_file())
        last = self.held[-1]
        most = {
            "MB resident": last.resident / 1e6, "files open": last.descriptors, "threads": last.threads,
            "MB of files in the home": files / 1e6,
        }  # fmt: skip
        return Outcome(steps, {"steps": dict(visit.done)}, most, failures)

    def close(self) -> None:
        """Close the engine."""
        self._stack.close()


def grown(held: list[Held]) -> list[str]:
    """Say what has grown since the process had settled."""
    first = held[SETTLED : SETTLED + _COMPARED]
    if len(held) <= SETTLED + _COMPARED:
        return []
    now, wrong = held[-1], []
    usual = statistics.median(one.resident for one in first)
    if now.resident > usual + MOST_RESIDENT:
        wrong.append(f"resident memory has grown by {(now.resident - usual) / 1e6:.0f} MB since round {SETTLED + 1}")
    for what in ("descriptors", "threads"):
        before = max(getattr(one, what) for one in first)
        if getattr(now, what) > before + MOST_OPEN:
            wrong.append(f"{what} have grown from {before} to {getattr(now, what)} since round {SETTLED + 1}")
    return wrong


class Visit:
    """One round of steps, drawn from `rng`; it knows what it left in the engine."""

    def __init__(self, engine: Engine, rng: random.Random, folder: Path) -> None:
        self.engine, self.rng, self.folder = engine, rng, folder
        self.done: Counter[str] = Counter()
        self.user = f"guest {rng.getrandbits(64):016x}"
        self.sessions: set[str] = set()
        self.steps: dict[Callable[[], object], int] = {
            self.chat: 6, self.stream: 3, self.schema: 2, self.turn: 8, self.classify: 6, self.embed: 6,
            self.remember: 8, self.search: 10, self.update: 3, self.forget: 5, self.extract: 2, self.summarize: 1,
            self.understand: 3, self.together: 2, self.export: 1, self.back_up: 1, self.refused: 2, self.reload: 1,
        }  # fmt: skip

    def step(self) -> str | None:
        """Do one thing; return what was wrong with it."""
        step = self.rng.choices(list(self.steps), list(self.steps.values()))[0]
        name = step.__name__
        self.done[name] += 1
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
            return f"{name}: {type(error).__name__}: {error}"
        return None

    def leave(self) -> list[str]:
        """Undo all that was done, and have the models loaded that were loaded."""
        engine = self.engine
        engine.wait()
        for name in self.sessions:
            engine.session(name, user=self.user).delete()
        engine.forget_all(self.user)
        for role in _LOADED:
            engine.load(role)
        failures = [] if engine.wait(60) else ["the background did not come to its end"]
        if len(engine.memories()) != _KEPT:
            failures.append("the memories of another user are not what they were")
        return failures

    # ---- steps

    def text(self) -> str:
        """Return a sentence that nobody said before."""
        return f"{_sentence(self.rng)} {self.rng.getrandbits(32):08x}"

    def chat(self) -> None:
        self.engine.chat(self.text(), max_tokens=_SHORT)

    def stream(self) -> None:
        """Read some of an answer, and leave."""
        with self.engine.stream(self.text(), max_tokens=4 * _SHORT) as pieces:
            for _ in range(self.rng.randrange(4)):
                next(pieces, None)

    def schema(self) -> None:
        assert self.engine.chat(self.text(), schema=_SCHEMA, max_tokens=32).parsed["mood"] in {"good", "bad"}

    def turn(self) -> None:
        name = self.rng.choice("abc")
        self.sessions.add(name)
        self.engine.session(name, user=self.user).chat(self.text(), max_tokens=_SHORT)

    def classify(self) -> None:
        self.engine.classify([self.text() for _ in range(self.rng.choice((1, 4)))], _LABELS)

    def embed(self) -> None:
        count = self.rng.choice((1, 1, 8))
        dense = self.engine.embed([self.text() for _ in range(count)]).dense
        assert dense is not None and len(dense) == count

    def remember(self) -> None:
        texts = [self.text() for _ in range(self.rng.choice((1, 1, 5)))]
        self.engine.remember(texts, user=self.user, judge=self.rng.random() < 0.5)

    def search(self) -> None:
        self.engine.search(self.text(), user=self.rng.choice(("default", self.user)), k=5)

    def update(self) -> None:
        if known := self.engine.memories(user=self.user, limit=5):
            self.engine.update(self.rng.choice(known).id, text=self.text())

    def forget(self) -> None:
        if known := self.engine.memories(user=self.user, limit=5):
            self.engine.forget(self.rng.choice(known).id)

    def extract(self) -> None:
        self.engine.extract_memory(f"나는 {self.text()}을 좋아해요.", store=True, user=self.user)

    def summarize(self) -> None:
        self.engine.summarize(" ".join(self.text() for _ in range(6)), max_words=20)

    def understand(self) -> None:
        self.engine.understand(self.text())

    def together(self) -> None:
        """Ask for several things at once, and cancel one."""
        asyncio.run(self._together())

    async def _together(self) -> None:
        asks = (self.engine.achat(self.text(), max_tokens=_SHORT), self.engine.asearch(self.text()))
        tasks = [asyncio.ensure_future(ask) for ask in (*asks, self.engine.aembed(self.text()))]
        await asyncio.sleep(self.rng.random() / 20)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        for task in tasks[1:]:
            task.result()

    def export(self) -> None:
        path = self.folder / "export.jsonl"
        self.engine.export(path, vectors=True)
        assert self.engine.import_(path).added == 0

    def back_up(self) -> None:
        self.engine.backup(self.folder / "backup.sqlite3")

    def refused(self) -> None:
        """Ask for what is refused."""
        try:
            self.engine.chat("", max_tokens=_SHORT)
        except InvalidInput:
            return
        raise AssertionError("an empty message was answered")

    def reload(self) -> None:
        self.engine.unload(self.rng.choice(_LOADED))


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(2, 12)))
