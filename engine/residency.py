"""Which models are in memory, which go, and who waits: decided here, carried out by a `Host`.

Contract: pure bookkeeping under one lock; no model is touched, no thread started, and time is what `clock` says. Who
uses a model has a lease of it, and while it has, or while the model is busy, the model stays. Who must wait stands in
one line: the first in it that needs room names the models that are to leave, and who wants one of these stands behind.
Callbacks of the host are called with the lock held, `evict` only inside `tend`, `adopted` and `drop`, which are for the
compute thread.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.budget import Budget, Hold
from engine.errors import EngineClosed, OutOfBudget
from engine.quantities import bytes_text
from engine.status import Outlook

LOOK = 1.0  # seconds after which who waits for room is looked at again: other programs give memory back, too
_REST = 86_400.0  # seconds after which it is looked again in any case: no system sleeps for longer than weeks at once


@dataclass(frozen=True, slots=True)
class Option:
    """One way to load something: bytes of RAM, `mapped` of them pages of its file; `how` is for who loads it, and
    `gpu` says that some of it lies on a GPU."""

    bytes: int
    mapped: int = 0
    how: Any = None
    gpu: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Want:
    """Something to be had in memory, called `key`.

    Of `options` the first is wanted most; a later one is taken where an earlier could never fit, or where the system
    refused it the memory. `start` begins the load and returns what gives it up; without it only bytes are wanted.
    `advice` is what else the user may do where it does not fit; `passes` is of bytes that are given back soon.
    """

    key: Hashable
    name: str
    options: tuple[Option, ...]
    start: Callable[[Option, Hold], Callable[[], object]] | None = None
    advice: str = ""
    passes: bool = False


class Host(Protocol):
    """Whoever has the models."""

    def evict(self, key: Hashable) -> None:
        """Free a model."""

    def wake(self) -> None:
        """Let `tend` be called soon, on the compute thread."""


@dataclass(eq=False, slots=True)
class _Resident:
    name: str
    hold: Hold
    busy: Callable[[], bool]
    used: float
    leases: int = 0

    @property
    def idle(self) -> bool:
        return not self.leases and not self.busy()


@dataclass(eq=False, slots=True)
class _Loading:
    want: Want
    option: Option
    hold: Hold
    give_up: Callable[[], object] = lambda: None


@dataclass(eq=False, slots=True)
class Lease:
    """A claim to have something stay in memory; `future` is done once it is there, or holds why it is not.

    `hold` are the bytes, where these are all that was wanted; they stay until `Residency.give_back`.
    """

    want: Want
    future: Future[None] = field(default_factory=Future)
    hold: Hold | None = None
    of: _Resident | None = None


class Residency:
    """The memory of one engine; a model that nobody used for `keep_alive` seconds leaves."""

    def __init__(self, budget: Budget, host: Host, keep_alive: float, clock: Callable[[], float]) -> None:
        self.budget = budget
        self._host, self._keep_alive, self._clock = host, keep_alive, clock
        self._lock = threading.RLock()  # not a plain one: the garbage collector may close an engine inside
        self._resident: dict[Hashable, _Resident] = {}
        self._loading: dict[Hashable, _Loading] = {}
        self._ending: list[Hold] = []  # of loads that were given up and have not ended yet, and of what only passes
        self._kept: list[Hold] = []  # of what is no model and does not leave
        self._refused: dict[Hashable, tuple[int, bool]] = {}  # which option is next, and if all that is idle leaves
        self._line: list[Lease] = []
        self._leaving: set[Hashable] = set()
        self._closed: str | None = None

    # ---- any thread

    def lease(self, want: Want) -> Lease:
        """Return a claim to what is wanted, which is loaded if it has to be; release it in any case."""
        lease = Lease(want)
        with self._lock:
            if self._closed:
                lease.future.set_exception(EngineClosed(self._closed))
                return lease
            self._line.append(lease)
            try:
                self._receive(lease)
            except BaseException:  # a Ctrl-C may come here, and nobody would have the lease
                self.release(lease)
                raise
        return lease

    def release(self, lease: Lease) -> None:
        """End a claim, whether it was met or not; doing it again does nothing."""
        with self._lock:
            lease.future.cancel()
            if lease in self._line:
                self._line.remove(lease)
                self._forget(lease.want.key)
            if lease.of is not None:
                lease.of.leases -= 1
                lease.of.used = self._clock()
                lease.of = None
            asked = bool(self._line) or self._keep_alive < math.inf  # or nobody would look when its time has come
        if asked:
            self._host.wake()

    def give_back(self, hold: Hold) -> None:
        """Release bytes in which nothing lies any more: a load ended, or what only held bytes."""
        with self._lock:
            self.budget.release(hold)
            for holds in (self._ending, self._kept):
                if hold in holds:
                    holds.remove(hold)
            asked = bool(self._line)
        if asked:
            self._host.wake()

    def failed(self, key: Hashable, hold: Hold, error: BaseException, *, elsewhere: bool = False) -> None:
        """Say that a load ended without a model. `MemoryError`: the system refused the memory, `elsewhere`: a GPU."""
        with self._lock:
            if not self.expects(key, hold):
                return  # it was given up
            loading = self._loading.pop(key)
            if not (isinstance(error, MemoryError) and self._try_again(loading, elsewhere=elsewhere)):
                self._refused.pop(key, None)
                told = _out_of_memory(loading, error) if isinstance(error, MemoryError) else error
                self._fail(key, told)
        self._host.wake()

    def keep(self, hold: Hold) -> None:
        """Let what is held stay, whatever leaves."""
        with self._lock:
            self._kept.append(hold)

    def expects(self, key: Hashable, hold: Hold) -> bool:
        """Return whether this load is the one that somebody waits for: one that was given up may end after the next."""
        with self._lock:
            loading = self._loading.get(key)
            return loading is not None and loading.hold is hold

    def loads(self, key: Hashable) -> bool:
        """Return whether `key` is being loaded."""
        with self._lock:
            return key in self._loading

    @property
    def waiting(self) -> int:
        """How many callers wait for something."""
        return len(self._line)

    def seen(self, key: Hashable) -> tuple[Hold, float] | None:
        """Return what is held for a model in memory, and for how many seconds it has been idle."""
        with self._lock:
            found = self._resident.get(key)
            if found is None:
                return None
            return found.hold, max(0.0, self._clock() - found.used) if found.idle else 0.0

    def outlook(self, option: Option) -> tuple[Outlook, tuple[str, ...]]:
        """Return what would become of a load, and the names of the models that would leave for it."""
        with self._lock:
            if self._hopeless(option):
                return "too large", ()
            leave = self._to_leave(option)
            names = tuple(self._resident[key].name for key in leave)
            if self._free(leave) < option.bytes or not all(self._resident[key].idle for key in leave):
                return "waits", names
            return ("evicts" if names else "fits"), names

    # ---- the compute thread

    def adopted(self, key: Hashable, hold: Hold, busy: Callable[[], bool]) -> bool:
        """Say that a load has ended with a model, whose bytes are settled; False if nobody wants it any more."""
        with self._lock:
            if not self.expects(key, hold):
                return False
            loading = self._loading.pop(key)
            self._refused.pop(key, None)
            self._resident[key] = _Resident(loading.want.name, hold, busy, self._clock())
            self._advance(evict=True)
            for other in self._idle():  # it came to more than was estimated
                if self._free() >= 0:
                    break
                self._evict(other)
            return True

    def tend(self) -> float | None:
        """Do what there is to do; return after how many seconds there may be more: None until it is woken."""
        with self._lock:
            now = self._clock()
            for one in self._resident.values():
                if not one.idle:
                    one.used = now
            if self._line:
                self._advance(evict=True)
            for key in self._idle():
                over = self.budget.held > self.budget.limit  # what came to more than was estimated was in use then
                if over or now - self._resident[key].used >= self._keep_alive:
                    self._evict(key)
            times = [self._resident[key].used + self._keep_alive - now for key in self._idle()]
            soonest = min([*times, *([LOOK] if self._line else [])], default=math.inf)
            return None if soonest == math.inf else min(soonest, _REST)

    def drop(self, key: Hashable) -> bool:
        """Let `key` leave, used or not; who waits for it gets `EngineClosed`. Return whether it was in memory."""
        with self._lock:
            self._refused.pop(key, None)
            if loading := self._loading.pop(key, None):
                self._abandon(loading)
            for lease in [lease for lease in self._line if lease.want.key == key]:
                self._end(lease, EngineClosed(f"{lease.want.name} was unloaded while it loaded"))
            there = key in self._resident
            if there:
                self._evict(key)
            return there

    def close(self, reason: str) -> None:
        """Refuse who waits and who comes; what is in memory is the host's to free."""
        with self._lock:
            self._closed = reason
            for lease in list(self._line):
                self._end(lease, EngineClosed(reason))
            for one in self._resident.values():
                self.budget.release(one.hold)
            self._resident.clear()

    # ---- inside, with the lock

    def _receive(self, lease: Lease) -> None:
        """Grant it or begin, or let it wait; what the budget can never hold is told now, whoever stands before it."""
        want = lease.want
        if want.key not in self._resident and all(option.bytes > self._limit for option in want.options):
            self._end(lease, self._too_large(want, want.options[-1]))
        else:
            self._advance(evict=False)
            if not lease.future.done():
                self._host.wake()

    @property
    def _limit(self) -> int:
        """Bytes that one model may have at most, whatever the machine has."""
        return self.budget.limit - sum(hold.bytes for hold in self._kept)

    def _advance(self, *, evict: bool) -> None:
        """Go along the line: grant what is there, and begin what fits, until one has to wait for room."""
        self._leaving = set()
        blocked = False
        with self.budget.steady():
            for lease in list(self._line):
                if lease in self._line:  # it may have been answered with one before it
                    blocked = not self._pass(lease, evict, blocked) or blocked

    def _pass(self, lease: Lease, evict: bool, blocked: bool) -> bool:
        """Do what can be done for one in the line; False where it has to wait for room."""
        key = lease.want.key
        if key in self._resident:
            if key not in self._leaving:
                self._grant(lease)
            return True
        return key in self._loading or blocked or self._admit(lease, evict)

    def _admit(self, lease: Lease, evict: bool) -> bool:
        """Begin a load, or end the claim; False where it has to wait, with the models named that are to leave."""
        want, (first, again) = lease.want, self._refused.get(lease.want.key, (0, False))
        options = want.options[first:] or want.options[-1:]  # of another caller: fewer
        option = next((option for option in options if not self._hopeless(option)), None)
        if option is None:
            self._refused.pop(want.key, None)
            self._fail(want.key, self._too_large(want, options[-1]))
            return True
        leave = self._to_leave(option)
        if again:
            leave = list(dict.fromkeys((*self._idle(), *leave)))
        if self._free(leave) < option.bytes:
            return False  # a load or what is at work must end first
        if leave and not (evict and all(self._resident[key].idle for key in leave)):
            self._leaving = set(leave)
            return False
        for key in leave:
            self._evict(key)
        hold = self.budget.reserve(want.name, option.bytes, option.mapped)
        return hold is not None and self._begin(lease, option, hold)

    def _begin(self, lease: Lease, option: Option, hold: Hold) -> bool:
        want = lease.want
        if want.start is None:
            lease.hold = hold
            (self._ending if want.passes else self._kept).append(hold)
            self._grant(lease)
            return True
        loading = self._loading[want.key] = _Loading(want, option, hold)
        try:
            loading.give_up = want.start(option, hold)
        except Exception as error:  # noqa: BLE001 - a thread that cannot start, too: the line must go on
            self._loading.pop(want.key, None)
            self.budget.release(hold)
            self._fail(want.key, error)
        return True

    def _grant(self, lease: Lease) -> None:
        if not lease.future.set_running_or_notify_cancel():
            self._line.remove(lease)
            return
        lease.of = self._resident.get(lease.want.key)
        if lease.of is not None:
            lease.of.leases += 1
        self._line.remove(lease)
        lease.future.set_result(None)

    def _fail(self, key: Hashable, error: BaseException) -> None:
        for lease in [lease for lease in self._line if lease.want.key == key]:
            self._end(lease, error)

    def _end(self, lease: Lease, error: BaseException) -> None:
        self._line.remove(lease)
        if lease.future.set_running_or_notify_cancel():
            lease.future.set_exception(error)

    def _forget(self, key: Hashable) -> None:
        """Give a load up, or its second try, that nobody waits for any more."""
        if any(lease.want.key == key for lease in self._line):
            return
        self._refused.pop(key, None)
        if loading := self._loading.pop(key, None):
            self._abandon(loading)

    def _abandon(self, loading: _Loading) -> None:
        self._ending.append(loading.hold)
        loading.give_up()

    def _try_again(self, loading: _Loading, *, elsewhere: bool) -> bool:
        """Decide what is next: the same without all that is idle, then a smaller one; `elsewhere`: without a GPU."""
        key, options = loading.want.key, loading.want.options
        tried = options.index(loading.option)
        following = tried + self._refused.get(key, (0, False))[1]
        if elsewhere:
            following = next((at for at in range(tried + 1, len(options)) if not options[at].gpu), len(options))
        if following < len(options):
            self._refused[key] = following, not elsewhere
        return following < len(options)

    def _evict(self, key: Hashable) -> None:
        hold = self._resident.pop(key).hold
        self._host.evict(key)
        self.budget.release(hold)

    def _idle(self) -> list[Hashable]:
        """The models that nobody uses, least recently used first."""
        return sorted((key for key, one in self._resident.items() if one.idle), key=lambda k: self._resident[k].used)

    def _to_leave(self, option: Option) -> list[Hashable]:
        """The models that have to leave for `option`: idle ones first, then the least recently used."""
        idle = self._idle()
        busy = sorted(set(self._resident) - set(idle), key=lambda key: self._resident[key].used)
        leave: list[Hashable] = []
        for key in (*idle, *busy):
            if self._free(leave) >= option.bytes:
                break
            leave.append(key)
        for key in reversed(leave[:-1]):  # a large one may make room enough without small ones that are older
            rest = [other for other in leave if other != key]
            if self._free(rest) >= option.bytes:
                leave = rest
        return leave

    def _free(self, without: Iterable[Hashable] = ()) -> int:
        return self.budget.total() - self.budget.held + sum(self._resident[key].hold.bytes for key in without)

    def _most(self) -> int:
        """Bytes that one model could have if all others left."""
        return self.budget.total() - sum(hold.bytes for hold in self._kept)

    def _hopeless(self, option: Option) -> bool:
        """Whether it would not fit if all others left; what loads or ends counts twice now, so that is no reason."""
        return option.bytes > (self._limit if self._loading or self._ending else self._most())

    def _too_large(self, want: Want, option: Option) -> OutOfBudget:
        most, limit = max(0, self._most()), self.budget.limit
        if self.budget.total() < limit:
            why = f"this machine has no more than {bytes_text(most)} for it now (of a budget of {bytes_text(limit)})"
            step = "Close other programs"
        else:
            why = f"the budget of {bytes_text(limit)} leaves {bytes_text(most)} for it"
            step = "Raise ram_budget"
        return OutOfBudget(
            f"{want.name} needs {bytes_text(option.bytes)} of memory, and {why}; held now: {self._held()}. "
            f"{step}{want.advice}.",
            needed=option.bytes,
            available=most,
        )

    def _held(self) -> str:
        stay = {hold.name for hold in self._kept}
        parts = (f"{p.name} {bytes_text(p.bytes)}{' (stays)' if p.name in stay else ''}" for p in self.budget.parts())
        return ", ".join(parts) or "nothing"


def _out_of_memory(loading: _Loading, error: MemoryError) -> OutOfBudget:
    wanted, want = loading.option.bytes, loading.want
    why = f": {error}" if str(error) else ""
    refusal = OutOfBudget(
        f"the system refused the memory that {want.name} needs ({bytes_text(wanted)}), though it seemed to be there"
        f"{why}. Close other programs{want.advice}.",
        needed=wanted,
        available=0,
    )
    refusal.__cause__ = error
    return refusal
