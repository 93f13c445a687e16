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
from engine.errors import ContextOverflow, EngineClosed, InvalidInput, MemoryNotFound, SchemaError
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
_FULL, _LEFT = 0.7, 0.35  # of the room for turns: when the oldest are condensed, and how much is left of them
_SUMMARY = 6  # a summary has this part of the room
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
        self._lock = threading.Lock()
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
        self._keeper.nudge()

    def wait(self, timeout: float | None) -> bool:
        """Wait until neither this background nor the memory store's has anything to do; return whether that is so."""
        from time import monotonic

        until = None if timeout is None else monotonic() + timeout
        if self._used:
            self._keeper.nudge()
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
        with self._lock:
            lock = self._turns[_key(transcript)]
        with self._pool.turn(lock):
            yield

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
        with self._lock:
            self._used = True
            for noted in (self._open, self._spoken, self._long):
                noted[_key(session.transcript)] = session
        self._keeper.nudge()

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

    def condense(self, session: Open) -> bool:
        """Put the oldest turns of a session into its summary, if it is long; return whether that was done."""
        transcript = session.transcript
        seen = transcript.seen()
        former, said = seen.summary, seen.turns
        brief, _ = session.outlook()
        number, most = self._pool.call(ROLE, partial(_excess, brief, [one.turn for one in said]), "llm")
        if not number:
            return False
        text = self._errands.summarizer.condense(former.text, [one.turn for one in said[:number]], most, ROLE)
        new = Condensed(text, said[number - 1].place + 1)
        return transcript.condense(seen, new, instructions.version())

    # ---- in the background

    def _warm(self) -> bool:
        session = self._next(self._spoken)
        if session is None:
            return False
        brief, _ = session.outlook()
        self.answers.warm(self.fitted(brief, {}).messages(), ROLE)
        return True

    def _condense(self) -> bool:
        session = self._next(self._long)
        if session is None:
            return False
        if self.condense(session):
            self.spoken(session)  # again, until it is no longer too long, and what is told has changed
        return True

    def _search(self) -> bool:
        """Search some turns of one session for memories: of the first that can be searched."""
        failed: Exception | None = None
        for transcript in self._lender.store().transcripts.unfinished():
            try:
                self._search_in(transcript)
            except EngineClosed:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, the other sessions are searched
                failed = failed or error
            else:
                return True
        if failed is not None:
            raise failed
        return False

    def _search_in(self, transcript: Transcript) -> None:
        places = transcript.waiting(_SEARCHED)
        said = transcript.said(max(0, min(places, default=0) - _BEFORE)) if places else []
        said = [one for one in said if one.place <= places[-1]]
        self._keep(transcript, said, places)

    def _keep(self, transcript: Transcript, said: Sequence[Said], places: Sequence[int]) -> None:
        turns: list[Turn] = [one.turn for one in said]
        asked = [number for number, one in enumerate(said) if one.place in places]
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
        with self._lock:  # in a small context that has taken the place of its next turn
            if session := self._open.get(_key(transcript)):
                self._spoken[_key(transcript)] = session

    def _next(self, noted: dict[_Key, Open]) -> Open | None:
        with self._lock:
            return noted.pop(next(iter(noted)), None) if noted else None


def _key(transcript: Transcript) -> _Key:
    return transcript.user, transcript.name


def _room(runner: Runner, answer: int) -> int:
    return runner.kv_cells - min(answer, runner.kv_cells // _ANSWER)


def _excess(brief: Brief, turns: Sequence[Turn], runner: Runner) -> tuple[int, int]:
    """Return how many of the oldest turns a session is to lose, at most half a context at once, and how long, in
    tokens, a summary may be."""
    room = _room(runner, runner.kv_cells)
    whole, fixed = (runner.length(one.messages()) for one in (brief, replace(brief, turns=brief.turns[-1:])))
    left = max(room - fixed, 0)
    if whole - fixed <= left * _FULL:
        return 0, 0
    bare = runner.length([Turn("user", "")])
    lengths = [
        runner.length([replace(turn, role="user")]) - bare for turn in turns
    ]  # no template takes an answer alone
    number = to_condense(lengths, int(left * _LEFT))
    while number > 1 and sum(lengths[:number]) > runner.kv_cells // 2:
        number -= 1
    return number, room // _SUMMARY
