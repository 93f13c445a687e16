"""Sessions without a model: answers are what a script says, a token is a letter, memories are found by a pattern.

Worker, pool, answers, generations, streams and the memory store are the real ones; as a program it is a process that
talks in a session until it is killed.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_embedder

from engine.answers import Answers
from engine.config import SamplingTable
from engine.engine import _release
from engine.errors import ContextOverflow, InvalidInput
from engine.faculties import Faculties, Space
from engine.generation import Generation
from engine.inputs import Turn
from engine.lending import Lender
from engine.memory import MemoryStore
from engine.pool import Pool
from engine.sampling import SamplingParams
from engine.session import Session
from engine.sessions import Sessions
from engine.tasks import ExtractedItem, ExtractedMemory
from engine.transcript import Transcript
from engine.twins import Threads
from engine.worker import Worker

Part = str | BaseException | threading.Event  # of an answer: an event is waited for
_SPEC = SimpleNamespace(name="fake", sampling={})
_TABLE = SamplingTable(temperature=0.7, top_p=0.9, top_k=40, min_p=0.0, repeat_penalty=1.1, max_tokens=200)
_STATED = re.compile(r"(?:저는|나는) [^.]*\.")


class FakeRunner:
    """A chat model that answers as `says` tells it; `asked` and `warmed` are what it was given to read."""

    def __init__(self, cells: int) -> None:
        self.kv_cells, self.spec = cells, _SPEC
        self.says: Callable[[tuple[Turn, ...]], Iterable[Part]] = lambda turns: ["그래", "요."]
        self.asked: list[tuple[Turn, ...]] = []
        self.warmed: list[tuple[Turn, ...]] = []
        self.forgotten = 0
        self._pieces = [b""]
        self._running: deque[tuple[Generation, deque[Part]]] = deque()
        self._turns: tuple[Turn, ...] = ()

    def length(self, turns: Sequence[Turn]) -> int:
        """Count as a strict template does, which wants the user and the assistant in turn."""
        roles = [turn.role for turn in turns if turn.role != "system"]
        if roles != (["user", "assistant"] * len(roles))[: len(roles)]:
            raise InvalidInput("the model's chat template refuses this conversation")
        return sum(len(turn.content) + 4 for turn in turns)

    def encode(self, turns: tuple[Turn, ...]) -> list[int]:
        if self.length(turns) > self.kv_cells:
            raise ContextOverflow(self.length(turns), self.kv_cells)
        self._turns = turns
        return [0] * self.length(turns)

    def generate(self, generation: Generation, params: SamplingParams) -> None:
        vocabulary: Any = SimpleNamespace(pieces=self._pieces, eog={0})
        sampler: Any = SimpleNamespace(
            sample=lambda context, row: context.token, accept=lambda token: None, close=lambda: None
        )
        generation.begin(vocabulary, sampler)
        warms = params.max_tokens == 1
        (self.warmed if warms else self.asked).append(self._turns)
        self._running.append((generation, deque("." if warms else self.says(self._turns))))

    # ---- what the compute thread asks

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def step(self) -> None:
        for one in list(self._running):
            if self._over(*one):
                self._running.remove(one)

    def _over(self, generation: Generation, left: deque[Part]) -> bool:
        if generation.cancelled:
            generation.stop()
            return True
        part = left[0] if left else ""
        if isinstance(part, threading.Event):
            if part.wait(0.005):
                left.popleft()
            return False
        if isinstance(part, BaseException):
            generation.fail(part)
            return True
        if left:
            left.popleft()
        context: Any = SimpleNamespace(token=self._token(part), logits=lambda row: None)
        over = generation.advance(context, [0])
        generation.deliver()
        return over

    def _token(self, piece: str) -> Any:
        if piece and piece.encode() not in self._pieces:
            self._pieces.append(piece.encode())
        return self._pieces.index(piece.encode())

    def fail_all(self, error: BaseException) -> None:
        while self._running:
            self._running.pop()[0].fail(error)

    def interrupt(self) -> None:
        pass

    def forget(self) -> None:
        self.forgotten += 1


class FakePool(Pool):
    """One model, always in memory."""

    def __init__(self, runner: FakeRunner) -> None:
        self.runner, self.worker, self._using = runner, Worker(self), threading.local()
        self.models: Any = SimpleNamespace(
            spec=lambda name, kind=None: _SPEC, loaded=[SimpleNamespace(runner=runner)], progress=None
        )

    def call(self, name: str, job: Callable[[Any], Any], kind: Any = None) -> Any:
        with self._occupied():
            return self.worker.call(lambda: job(self.runner))

    def start(self, name: str, begin: Callable[[Any], Any]) -> Any:
        with self._occupied():
            return self.worker.start(lambda: begin(self.runner))

    def steppable(self) -> Any:
        return [self.runner]

    def tend(self) -> None:
        pass

    def interrupt(self) -> None:
        pass

    def close(self, error: BaseException) -> None:
        self.runner.fail_all(error)


class FakeErrands:
    """Finds what begins with 저는 or 나는; condenses to what was said. `during` is called in the middle of each."""

    def __init__(self) -> None:
        self.during: Callable[[], object] = lambda: None
        self.searched: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
        self.condensed: list[tuple[str | None, tuple[str, ...], int]] = []
        self.extractor = self.summarizer = self

    def extract(
        self, turns: Sequence[Turn], at: datetime, model: str = "extraction", asked: Collection[int] | None = None
    ) -> ExtractedMemory:
        numbers = range(len(turns)) if asked is None else sorted(asked)
        self.searched.append((tuple(turn.content for turn in turns), tuple(numbers)))
        self.during()
        assert all(turns[number].role == "user" for number in numbers)
        found = [(number, text) for number in numbers for text in _STATED.findall(turns[number].content)]
        return ExtractedMemory(
            tuple(ExtractedItem(text, text, "personal" if "이름" in text else "work", at, None) for at, text in found)
        )

    def condense(self, former: str | None, turns: Sequence[Turn], most_tokens: int, model: str = "summary") -> str:
        self.condensed.append((former, tuple(turn.content for turn in turns), most_tokens))
        self.during()
        return " / ".join([*([former] if former else []), *(turn.content for turn in turns)])[-most_tokens:]


class FakeLender(Lender):
    """Lends a memory store the embedder without a model."""

    def faculties(self) -> Faculties:
        return fake_embedder.faculties(forgotten=self.forgotten)

    def space(self) -> Space:
        return fake_embedder.SPACE


class Place:
    """What of an engine has to do with sessions; `close` ends it as an engine ends."""

    def __init__(self, home: Path, cells: int = 4000) -> None:
        self.home, self.runner, self.errands = home, FakeRunner(cells), FakeErrands()
        self.pool = FakePool(self.runner)
        self.threads = Threads(self.pool.worker.check)
        self.answers = Answers(_TABLE, self.pool, self.threads.run)
        errands: Any = self.errands
        self.lender = FakeLender(self.pool, None, errands, home)  # type: ignore[arg-type]
        self.sessions = Sessions(self.pool, self.answers, errands, self.lender, self.threads)

    @property
    def store(self) -> MemoryStore:
        return self.lender.store()

    def open(self, name: str = "대화", user: str = "민지", system: str | None = None, memory: Any = "auto") -> Session:
        return Session(self.sessions, self.sessions.transcript(user, name), system, memory)

    def close(self) -> None:
        _release(self.pool.worker, self.threads, self.sessions, self.lender)


def every_byte(home: Path) -> bytes:
    """Return all that is in the files of a home."""
    return b"".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def _stop() -> None:
    """Say how far it is, and wait to be killed."""
    print("here", flush=True)
    threading.Event().wait(60)


def _live(home: str, when: str) -> None:
    place = Place(Path(home))
    session = place.open()
    if when == "answering":
        place.runner.says = lambda turns: ["감자", threading.Event()]
        place.errands.during = lambda: threading.Event().wait(60)
        for _ in session.stream("저는 감자를 좋아해요."):
            _stop()
    if when == "extracting":
        place.errands.during = _stop
    if when == "marking":
        Transcript.searched = lambda *asked: _stop()  # type: ignore[method-assign]
    session.chat("저는 감자를 좋아해요.")
    threading.Event().wait(60)


if __name__ == "__main__":
    _live(*sys.argv[1:])
