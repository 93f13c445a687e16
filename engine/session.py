"""A conversation that goes on: kept on disk, told what is known of its user, and searched for what is new.

Contract: one turn of a session at a time, whoever asks. What is said is on disk before it is answered, an answer before
its reader sees the end of it. What else is to be done with a turn is done by `Sessions`, in the background.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Literal, Unpack

from engine.answers import Question, reply_of
from engine.briefing import Brief
from engine.errors import InvalidInput
from engine.inputs import Turn, check_text
from engine.instructions import SESSION
from engine.recording import Recording
from engine.sampling import Sampling
from engine.sessions import ROLE, Sessions
from engine.stream import Stream
from engine.summary import language_of_dialogue
from engine.transcript import ANSWERING
from engine.twins import Threads, twin

if TYPE_CHECKING:
    from engine.answers import Running
    from engine.generation import Finished
    from engine.records import Memory
    from engine.tasks import Reply
    from engine.transcript import Said, Seen, Transcript

MemoryUse = Literal["auto", "read", "off"]
MEMORY_USES: tuple[MemoryUse, ...] = ("auto", "read", "off")


@dataclass(frozen=True, slots=True)
class _Asked:
    text: str
    sampling: Sampling
    at: datetime


@dataclass(frozen=True, slots=True)
class _Told:
    """What an answer is written with."""

    question: Question
    memories: tuple[Memory, ...]
    seen: Seen


class Session:
    """One conversation of a user; made by `Engine.session`. May be shared between threads."""

    def __init__(self, house: Sessions, transcript: Transcript, system: str | None, memory: MemoryUse) -> None:
        if memory not in MEMORY_USES:
            raise InvalidInput(f"memory must be one of {', '.join(MEMORY_USES)}, not {memory!r}")
        self._house, self.transcript, self._memory = house, transcript, memory
        self._system = None if system is None else check_text(system, "system")
        if memory == "auto":
            house.take_up()

    @property
    def threads(self) -> Threads:
        """The threads of the engine, for async twins."""
        return self._house.threads

    def chat(self, text: str, **sampling: Unpack[Sampling]) -> Reply:
        """Say something and return the answer, which is on disk then.

        `Reply.memories` are those that the model was told. Raises `InvalidInput`, `ContextOverflow`, `ModelNotFound`,
        `StoreError`, `StoreLocked`, `EngineClosed`.
        """
        return self.stream(text, **sampling).reply

    def stream(self, text: str, **sampling: Unpack[Sampling]) -> Stream:
        """Answer like `chat`, piece by piece; errors of input and loading are raised here.

        What was written when it is cancelled, or no longer referred to, stays in the history.
        """
        return self.astream(text, **sampling).open()

    def astream(self, text: str, **sampling: Unpack[Sampling]) -> Stream:
        """Answer like `stream`, for `async for`; nothing is said before the first piece is asked for."""
        self._house.check()
        asked = _Asked(check_text(text, "message"), sampling, datetime.now().astimezone())
        began: list[tuple[Running, _Told]] = []  # at most one

        def conclude(finished: Finished) -> Reply:
            if not began:  # it was cancelled before
                return reply_of(Question((), ROLE, {}), ROLE, finished)
            running, told = began[0]
            return replace(reply_of(told.question, running.spec.name, finished), memories=told.memories)

        return Stream(lambda: self._begin(asked, began), conclude, self.threads.run)

    def history(self) -> list[Said]:
        """Return what was said, in order. Raises `StoreError`, `EngineClosed`."""
        self._house.check()
        return self.transcript.said()

    @property
    def summary(self) -> str | None:
        """What stands for the turns that are `condensed` in the history; None while there are none."""
        self._house.check()
        return self.transcript.condensed().text

    def news(self) -> list[Memory]:
        """Return the memories that this engine found in the session since the last call. Raises `EngineClosed`."""
        self._house.check()
        return self._house.news(self.transcript)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until what was said is searched for memories, and these are compared with older ones.

        At most `timeout` seconds; return whether it is done. Raises `EngineClosed`.
        """
        self._house.check()
        return self._house.wait(timeout)

    def delete(self) -> bool:
        """Remove what was said for good, but no memory; return whether there was anything. Raises `StoreError`."""
        self._house.check()
        with self._house.turn(self.transcript):
            return self._house.forget(self.transcript)

    achat, ahistory, anews, adelete, await_ = twin(chat), twin(history), twin(news), twin(delete), twin(wait)

    # ---- for the house

    def outlook(self, text: str = ".") -> tuple[Brief, list[Memory]]:
        """Return what would be told with `text`, without what that brings to mind, and the memories of the profile."""
        former = self.transcript.condensed()
        turns = [said.turn for said in self.transcript.said(former.upto)]
        words = [*turns, Turn("user", text), *([Turn("assistant", former.text)] if former.text else ())]
        language = language_of_dialogue(words)
        profile = [] if self._memory == "off" else self._house.profile(self.transcript.user)
        brief = Brief(
            self._system or SESSION[language].system,
            (*turns, Turn("user", text)),
            language,
            profile=tuple(memory.text for memory in profile),
            summary=former.text,
        )
        return brief, profile

    # ---- one turn

    def _begin(self, asked: _Asked, began: list[tuple[Running, _Told]]) -> Recording:
        turn = self._house.turn(self.transcript)
        turn.__enter__()  # left by the thread that records the answer
        try:
            with self._house.beginning():
                told = self._told(asked)
            said = self.transcript.say("user", asked.text, asked.at, waiting=ANSWERING if self._memory == "auto" else 0)
            told = replace(told, seen=replace(told.seen, turns=(*told.seen.turns, said)))
            try:
                began.append((self._house.answers.begin(told.question), told))
                return Recording(began[0][0], partial(self._ended, turn, told))
            except BaseException:
                for running, _ in began:  # nobody would read it
                    running.cancel()
                self.transcript.unsay(said.place)
                raise
        except BaseException:
            turn.__exit__(None, None, None)
            raise

    def _ended(self, turn: AbstractContextManager[None], told: _Told, event: Finished | BaseException) -> None:
        """Keep an answer, on the thread that recorded it."""
        try:
            if isinstance(event, BaseException):
                self.transcript.unsay(told.seen.turns[-1].place)
            elif event.text:
                self.transcript.answer(event.text, datetime.now().astimezone(), told.seen, told.memories)
            else:
                self.transcript.answered(told.seen.turns[-1].place)
        finally:
            turn.__exit__(None, None, None)
            self._house.spoken(self)

    def _told(self, asked: _Asked) -> _Told:
        """Choose what is told; what has no room among it goes into the summary first, as far as one step does that."""
        seen = self.transcript.seen()  # before it is told: whatever is forgotten from here on may be in the answer
        brief, memories = self._brief(asked)
        fitted = self._house.fitted(brief, asked.sampling)
        if left_out := len(brief.turns) - len(fitted.turns):
            self._house.catch_up(self, brief, left_out)
            brief, memories = self._brief(asked)  # also where the background was first
            fitted = self._house.fitted(brief, asked.sampling)
        profile, recalled = memories[: len(brief.profile)], memories[len(brief.profile) :]
        told = (*profile[: len(fitted.profile)], *recalled[: len(fitted.recalled)])
        return _Told(self._house.answers.question(fitted.messages(), ROLE, asked.sampling, None), told, seen)

    def _brief(self, asked: _Asked) -> tuple[Brief, list[Memory]]:
        """Return all that could be told, and the memories in it: those of the profile, then the recalled ones."""
        brief, profile = self.outlook(asked.text)
        if self._memory == "off":
            return brief, profile
        known = {memory.id for memory in profile} | self.transcript.carried(self.transcript.condensed().upto)
        found = self._house.recall(self.transcript.user, asked.text, asked.at)
        recalled = [memory for memory in found if memory.id not in known]
        lines = tuple(f"({memory.when or memory.created:%Y-%m-%d}) {memory.text}" for memory in recalled)
        return replace(brief, recalled=lines, now=asked.at), [*profile, *recalled]
