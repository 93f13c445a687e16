"""The sessions of one engine: what they recall, and what is done with them in the background, behind every answer.

In the background, in this order: what a session has no room for any more goes into its summary, the context of its next
turn is computed while its user reads and types, and turns that were not searched for memories are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

from engine import instructions
from engine.briefing import Brief, fit, to_condense
from engine.conversations import Saying
from engine.errors import (
    Cancelled,
    ContextOverflow,
    EngineClosed,
    EngineError,
    InvalidInput,
    MemoryNotFound,
    ModelNotFound,
    OutOfBudget,
    SchemaError,
    StoreLocked,
)
from engine.inputs import Turn, check_text
from engine.keeper import Keeper
from engine.korean.dates import resolve
from engine.korean.intent import understand_rules
from engine.transcript import Condensed

if TYPE_CHECKING:
    from engine.answers import Answers
    from engine.errands import Errands
    from engine.lending import Lender
    from engine.pool import Pool
    from engine.records import Memory
    from engine.runner import Runner
    from engine.sampling import Sampling
    from engine.transcript import Said, Transcript
    from engine.twins import Threads

ROLE = "chat"
_log = logging.getLogger("engine.sessions")
_RELEVANT = 0.2  # score of a memory that is worth telling (DECISIONS)
_RECALLED = 5  # memories, at most
_ASKED = 3  # memories of which the best are told, whatever their score, where what is known can change the answer
_PROFILE = 8  # memories of the category "personal" that are always told
_ANSWER = 4  # an answer has the room that is asked for, but at most this part of the context
_SEARCHED = 4  # turns that are searched for memories together
_BEFORE = 4  # turns before them, so that they are understood
_SUMMARY = 6  # a summary has this part of the room
_CATCH_UP = 16  # turns that are condensed before an answer, at most
_AT_ONCE = 32  # turns that are measured at once
_NEWS = 100  # memories of a session that are kept for who asks what is new
_ENDS = 5.0  # seconds in which an answer is kept whose engine was closed: it has ended then
_Key = tuple[str, str]


class Open(Protocol):
    """A session that somebody uses."""

    transcript: Transcript

    def outlook(self) -> tuple[Brief, list[Memory]]:
        """Return what would be told next, and the memories of the profile."""


class Sessions:
    """Tends sessions; `close` ends what runs in the background."""

    def __init__(self, pool: Pool, answers: Answers, errands: Errands, lender: Lender, threads: Threads) -> None:
        self._pool, self.answers, self._errands, self._lender, self.threads = pool, answers, errands, lender, threads
        self._lock = threading.RLock()  # not a plain one: the garbage collector may close an engine inside
        self._condensing = threading.Lock()
        self._beginning: set[int] = set()  # threads
        self._failed: dict[_Key, Exception] = {}  # what cannot be searched, until something changes
        self._turns: dict[_Key, threading.Lock] = defaultdict(threading.Lock)
        self._open: dict[_Key, Open] = {}  # the last that was spoken in, of each name
        self._spoken: dict[_Key, Open] = {}  # whose next turn is to be prepared
        self._long: dict[_Key, Open] = {}  # whose room is to be looked at
        self._news: dict[_Key, deque[str]] = defaultdict(partial(deque, maxlen=_NEWS))  # ids of memories
        self._keeper = Keeper([self._condense, self._warm, self._search], "gieok-sessions")
        self._used = False
        self._pid = os.getpid()

    def transcript(self, user: str, name: str) -> Transcript:
        """Return what is kept of the session called `name`. Raises `InvalidInput`."""
        return self._lender.store().transcripts.of(check_text(user, "user"), check_text(name, "name"))

    def take_up(self) -> None:
        """Let the background go on with what an engine before this one has left."""
        self._used = True
        self._failed.clear()
        self._keeper.nudge()

    def wait(self, timeout: float | None) -> bool:
        """Wait until neither this background nor the memory store's has anything to do; return whether that is so."""
        from time import monotonic

        until = None if timeout is None else monotonic() + timeout
        if self._used:
            self.take_up()
        done = self._keeper.wait(timeout)
        return self._lender.wait(None if until is None else max(0.0, until - monotonic())) and done

    def close(self) -> None:
        """End the background, and see answers kept or taken back that have just ended.

        Turns that wait to be searched are taken up by the next engine.
        """
        if os.getpid() != self._pid:
            return
        self._keeper.close()
        with self._lock:
            turns = list(self._turns.values())
        for turn in turns:
            if turn.acquire(timeout=_ENDS):
                turn.release()

    # ---- for sessions

    def check(self) -> None:
        """Raise `EngineClosed` after `close`."""
        self._pool.worker.check()

    @contextlib.contextmanager
    def turn(self, transcript: Transcript) -> Iterator[None]:
        """Have a session for the block. Raises `Cancelled`, `EngineClosed`."""
        if threading.get_ident() in self._beginning:
            raise EngineError("the session cannot wait for itself: a progress callback called one of its methods")
        with self._lock:
            lock = self._turns[_key(transcript)]
        with self._pool.turn(lock):
            yield

    @contextlib.contextmanager
    def beginning(self) -> Iterator[None]:
        """Let this thread have no other turn in the block: it might wait for the one that it has."""
        self._beginning.add(threading.get_ident())
        try:
            yield
        finally:
            self._beginning.discard(threading.get_ident())

    def profile(self, user: str) -> list[Memory]:
        """Return what is always told of a user, the oldest first, so that what is new changes only the end."""
        return self._lender.store().memories(user=user, category="personal", limit=_PROFILE)[::-1]

    def recall(self, user: str, text: str, at: datetime) -> list[Memory]:
        """Return the memories that a message brings to mind, best first; small talk brings none."""
        rules = understand_rules(text)
        if rules.intent == "small_talk":
            return []
        search = partial(self._lender.store().search, text, user=user)
        days = resolve(text, at) if rules.intent == "memory_query" else None
        found = search(k=_ASKED, since=days[0], until=days[1]) if days else []
        best = search(k=_RECALLED, min_score=None if rules.needs_memory else _RELEVANT)
        found += [hit for rank, hit in enumerate(best) if rank < _ASKED or hit.score >= _RELEVANT]
        return list({hit.memory.id: hit.memory for hit in found}.values())[:_RECALLED]

    def fitted(self, brief: Brief, sampling: Sampling) -> Brief:
        """Return what of a brief leaves room for an answer."""
        room = self.answers.max_tokens(ROLE, sampling)
        return self._pool.call(ROLE, lambda runner: fit(brief, runner.length, _room(runner, room)), "llm")

    def spoken(self, session: Open) -> None:
        """Note that a session has a new turn."""
        self._note(session)
        self.take_up()

    def _note(self, session: Open) -> None:
        with self._lock:
            for noted in (self._open, self._spoken, self._long):
                noted[_key(session.transcript)] = session

    def news(self, transcript: Transcript) -> list[Memory]:
        """Return the memories found in a session, once; not what was forgotten since."""
        with self._lock:
            found = list(dict.fromkeys(self._news.pop(_key(transcript), ())))
        memories: list[Memory] = []
        for one in found:
            with contextlib.suppress(MemoryNotFound):
                memories.append(self._lender.store().memory(one))
        return memories

    def forget(self, transcript: Transcript) -> bool:
        """Remove what was said in a session; return whether there was anything."""
        with self._lock:
            for noted in (self._open, self._spoken, self._long):
                noted.pop(_key(transcript), None)
        return self._lender.store().transcripts.forget(transcript.user, transcript.name)

    def catch_up(self, session: Open, brief: Brief, left_out: int) -> None:
        """Put turns that have no room into the summary before an answer, unless these are many.

        Then, and where it fails, the answer goes without them, and the background comes to it.
        """
        if left_out > _CATCH_UP:
            return
        try:
            self.condense(session, brief, left_out)
        except (Cancelled, EngineClosed, StoreLocked):
            raise
        except EngineError as error:
            _log.warning("a session was not condensed before an answer: %s", error.code)

    def condense(self, session: Open, brief: Brief | None = None, least: int = 0) -> bool:
        """Put the oldest turns of a session into its summary, if it is long, at least so many; return whether it did.

        What is long depends on what else is told: `brief`, or what would be told next.
        """
        transcript = session.transcript
        with self._pool.turn(self._condensing):  # who comes second finds it done
            seen = transcript.seen()
            former, turns = seen.summary, [one.turn for one in seen.turns]
            room, fixed = self._fixed(brief or session.outlook()[0])
            left = max(room - fixed, 0)
            number = to_condense(turns, self._lengths(turns, 2 * room), left, least)
            if not number:
                return False
            most = max(1, min(room // _SUMMARY, left // 4))
            text = self._errands.summarizer.condense(former.text, turns[:number], most, ROLE)
            new = Condensed(text or former.text or "…", seen.turns[number - 1].place + 1)
            return transcript.condense(seen, new, instructions.version())

    def _fixed(self, brief: Brief) -> tuple[int, int]:
        """Return how many tokens there is room for, and how many are told whatever was said."""
        bare = replace(brief, turns=brief.turns[-1:], recalled=())
        return self._pool.call(
            ROLE, lambda runner: (_room(runner, runner.kv_cells), runner.length(bare.messages())), "llm"
        )

    def _lengths(self, turns: Sequence[Turn], enough: int) -> list[int]:
        """Return the tokens of the oldest turns, up to `enough`: a few at a time, so that others' answers go on."""
        lengths: list[int] = []
        for start in range(0, len(turns), _AT_ONCE):
            if sum(lengths) > enough:
                break
            lengths += self._pool.call(ROLE, partial(_measured, turns[start : start + _AT_ONCE]), "llm")
        return lengths

    # ---- in the background

    def _warm(self) -> bool:
        with self._taken(self._spoken) as session:
            if session is not None:
                brief, _ = session.outlook()
                self.answers.warm(self.fitted(brief, {}).messages(), ROLE)
        return session is not None

    def _condense(self) -> bool:
        with self._taken(self._long) as session:
            if session is not None and self.condense(session):
                self._note(session)  # again, until it is no longer too long, and what is told has changed
        return session is not None

    def _search(self) -> bool:
        """Search some turns of one session for memories; one that cannot be searched does not keep others waiting."""
        unfinished = self._lender.store().transcripts.unfinished()
        for transcript in unfinished:
            if _key(transcript) in self._failed:
                continue
            try:
                self._search_in(transcript)
            except (EngineClosed, ModelNotFound, OutOfBudget, StoreLocked):  # so it would be with the others
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, the other sessions are searched
                self._failed[_key(transcript)] = error
            return True
        if unfinished:
            raise next(iter(self._failed.values()))
        return False

    def _search_in(self, transcript: Transcript) -> None:
        places = transcript.waiting(_SEARCHED)
        said = transcript.said(max(0, places[0] - _BEFORE), places[-1] + 1) if places else []
        self._keep(transcript, said, places)

    def _keep(self, transcript: Transcript, said: Sequence[Said], places: Sequence[int]) -> None:
        turns: list[Turn] = [one.turn for one in said]
        asked = [number for number, one in enumerate(said) if one.place in places]
        self._lender.space()  # what is found could not be kept without its model
        try:
            found = self._errands.extractor.extract(turns, said[-1].at, asked=asked) if asked else None
        except (ContextOverflow, InvalidInput, SchemaError) as error:  # so it would be the next time
            _log.warning("turns of a session were not searched for memories: %s", error.code)
            found = None
        for kind, item in found.items() if found else ():
            saying = Saying(transcript.name, said[item.source].place)
            with contextlib.suppress(InvalidInput):  # it was forgotten meanwhile
                memory = self._lender.keep_item(kind, item, saying, transcript.user)
                with self._lock:
                    self._news[_key(transcript)].append(memory.id)
        transcript.searched([said[number] for number in asked])
        if not transcript.waiting(1):  # in a small context all that has taken the place of its next turn
            with self._lock:
                if session := self._open.get(_key(transcript)):
                    self._spoken[_key(transcript)] = session

    @contextlib.contextmanager
    def _taken(self, noted: dict[_Key, Open]) -> Iterator[Open | None]:
        """Take a session out of those that are noted; where the block fails, it is noted again."""
        with self._lock:
            key = next(iter(noted), None)
            session = noted.pop(key) if key else None
        try:
            yield session
        except BaseException:
            if key and session:
                with self._lock:
                    noted.setdefault(key, session)
            raise


def _key(transcript: Transcript) -> _Key:
    return transcript.user, transcript.name


def _room(runner: Runner, answer: int) -> int:
    return runner.kv_cells - min(answer, runner.kv_cells // _ANSWER)


def _measured(turns: Sequence[Turn], runner: Runner) -> list[int]:
    bare = runner.length([Turn("user", "")])
    return [runner.length([replace(turn, role="user")]) - bare for turn in turns]  # no template takes an answer alone
