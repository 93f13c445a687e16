"""A house of models for tests of the residency: a host, loads and a clock that do what they are told.

It keeps a machine's memory of its own, and finds out whoever breaks the rules: a model in use that is evicted, more
held than there is, bytes that come back while something lies in them. The compute thread is only as awake as it
would be: it runs when it was woken, or when the seconds it asked for have passed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from engine.budget import Budget, Hold
from engine.errors import OutOfBudget
from engine.machine import Memory
from engine.residency import Lease, Option, Residency, Want

MACHINE = 1_000


class Checked(Budget):
    """A budget that looks after itself."""

    def reserve(self, name: str, size: int, mapped: int = 0) -> Hold | None:
        hold = super().reserve(name, size, mapped)
        assert hold is None or self.held <= self.total(), "more is held than there is"
        return hold


class FakeLoad:
    """A load under way; the test says how it ends."""

    def __init__(self, house: House, want: Want, option: Option, hold: Hold) -> None:
        self.house, self.want, self.option, self.hold = house, want, option, hold
        self.given_up = False

    def give_up(self) -> None:
        self.given_up = True

    def made(self, size: int | None = None, mapped: int | None = None) -> bool:
        """It ends with a model, on the compute thread; return whether somebody wanted it still."""
        house, key = self.house, self.want.key
        size = self.option.bytes if size is None else size
        house.loads.remove(self)
        if not house.residency.expects(key, self.hold):  # the model that is there under this key is another
            assert self.given_up, "a load that was wanted was not adopted"
            house.residency.give_back(self.hold)
            house.run()
            return False
        house.budget.settle(self.hold, size, self.option.mapped if mapped is None else mapped)
        house.models[key] = self.hold
        house.made.append(self.want.name)
        adopted = house.residency.adopted(key, self.hold, lambda: key in house.busy)
        if not adopted:
            assert self.given_up, "a load that was wanted was not adopted"
            del house.models[key]
            house.residency.give_back(self.hold)
        house.woken = True  # it was a job of the compute thread, which tends after each
        house.run()
        return adopted

    def failed(self, error: BaseException, *, elsewhere: bool = False) -> None:
        """It ends without one; first of all its bytes are free again."""
        self.house.loads.remove(self)
        self.house.residency.give_back(self.hold)
        self.house.residency.failed(self.want.key, self.hold, error, elsewhere=elsewhere)
        self.house.run()


class House:
    """A residency and all that it works with; `limit` is the budget, `others` what other programs take."""

    def __init__(self, limit: int = 16, keep_alive: float = 300.0, others: int = 0) -> None:
        self.now, self.others = 0.0, others
        self.budget = Checked(limit, self.memory)
        self.residency = Residency(self.budget, self, keep_alive, lambda: self.now)
        self.loads: list[FakeLoad] = []
        self.models: dict[Hashable, Hold] = {}
        self.busy: set[Hashable] = set()
        self.leases: list[Lease] = []
        self.started: list[str] = []
        self.made: list[str] = []
        self.evicted: list[str] = []
        self.dropping = False
        self.woken, self.due = False, float("inf")

    # ---- the machine

    def memory(self) -> Memory:
        """Loads have taken all their memory from the beginning, which is the worst case."""
        loading = sum(load.option.bytes - load.option.mapped for load in self.loads)
        loaded = sum(hold.bytes - hold.mapped for hold in self.models.values())
        return Memory(MACHINE, max(0, MACHINE - self.others - loading - loaded))

    # ---- the host

    def evict(self, key: Hashable) -> None:
        assert key in self.models, "evicted twice"
        assert self.dropping or (key not in self.busy and not self.leased(key)), "a model in use was evicted"
        del self.models[key]
        self.busy.discard(key)
        self.evicted.append(str(key))

    def wake(self) -> None:
        self.woken = True

    # ---- the compute thread

    def run(self) -> None:
        """Tend as often as it was woken."""
        while self.woken:
            self.woken = False
            self.tend()

    def tend(self) -> None:
        pause = self.residency.tend()
        assert pause is None or pause > 0, "the compute thread would spin"
        self.due = float("inf") if pause is None else self.now + pause

    def sleep(self, seconds: float) -> None:
        """Let time pass; the thread looks when it said that it would, and all the time while a model is at work."""
        self.run()
        end = self.now + seconds
        while True:
            due = min(self.due, self.now + 1.0) if self.busy else self.due
            if due > end:
                break
            self.now = max(self.now, due)
            self.tend()
            self.run()
        self.now = end

    def answered(self) -> None:
        """Every model has done its work: the thread looks after the last step."""
        self.busy.clear()
        self.woken = True
        self.run()

    # ---- for tests

    def want(self, name: str, *sizes: int | Option, mapped: int = 0) -> Want:
        """Return the want of a model called `name` that may be loaded with any of `sizes`."""

        def start(option: Option, hold: Hold) -> Callable[[], object]:
            assert not hold.settled and hold.bytes == option.bytes
            assert name not in self.models, "loaded twice"
            assert not [load for load in self.loads if load.want.name == name and not load.given_up], "loaded twice"
            load = FakeLoad(self, made, option, hold)
            self.loads.append(load)
            self.started.append(name)
            return load.give_up

        made = Want(name, name, tuple(Option(size, mapped) if isinstance(size, int) else size for size in sizes), start)
        return made

    def lease(self, name: str, *sizes: int | Option) -> Lease:
        """Ask for a model, as a caller's thread would."""
        return self.ask(self.want(name, *sizes))

    def bytes(self, size: int, name: str = "index") -> Lease:
        """Ask for bytes."""
        return self.ask(Want(object(), name, (Option(size),)))

    def ask(self, want: Want) -> Lease:
        lease = self.residency.lease(want)
        self.leases.append(lease)
        self.run()
        return lease

    def release(self, *leases: Lease) -> None:
        for lease in leases:
            self.leases.remove(lease)
            self.residency.release(lease)
            self.run()

    def loaded(self, name: str, size: int, used: float | None = None) -> None:
        """Have a model in memory that nobody uses; it was used at `used`."""
        lease = self.lease(name, size)
        self.load(name).made()
        if used is not None:
            self.now = used
        self.release(lease)

    def load(self, name: str) -> FakeLoad:
        """Return the load of a model that is under way."""
        (load,) = [load for load in self.loads if load.want.name == name and not load.given_up]
        return load

    def drop(self, name: str) -> bool:
        self.dropping = True
        try:
            return self.residency.drop(name)
        finally:
            self.dropping = False
            self.woken = True  # a job of the compute thread, which tends after each
            self.run()

    def leased(self, key: Hashable) -> bool:
        return any(lease.want.key == key and granted(lease) for lease in self.leases)

    def names(self) -> set[str]:
        """What is in memory."""
        return {str(key) for key in self.models}


def granted(lease: Lease) -> bool:
    future = lease.future
    return future.done() and not future.cancelled() and future.exception() is None


def refusal(lease: Lease) -> OutOfBudget:
    """Return why a lease was refused the memory."""
    assert lease.future.done(), "it still waits"
    error = lease.future.exception()
    assert isinstance(error, OutOfBudget), error
    return error
