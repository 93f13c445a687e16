"""The budget with a machine whose memory is written down: what is free, what counts twice, what comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.budget import Budget, Hold
from engine.machine import Memory
from engine.status import Part

PLENTY = 1_000


class Machine:
    """So much of it is available, now."""

    def __init__(self, available: int = PLENTY) -> None:
        self.available = available

    def __call__(self) -> Memory:
        return Memory(PLENTY, self.available)


def taken(budget: Budget, name: str, size: int, mapped: int = 0) -> Hold:
    hold = budget.reserve(name, size, mapped)
    assert hold is not None
    return hold


def test_nothing_is_held_at_first() -> None:
    budget = Budget(100, Machine())
    assert (budget.held, budget.total(), budget.parts()) == (0, 100, ())


def test_what_is_reserved_is_not_free_any_more() -> None:
    budget = Budget(100, Machine())
    taken(budget, "a", 60)
    assert budget.held == 60
    assert budget.reserve("b", 41) is None
    assert budget.held == 60  # a refusal holds nothing
    taken(budget, "b", 40)
    assert budget.reserve("c", 1) is None


def test_what_is_released_is_free_again_and_only_once() -> None:
    budget = Budget(100, Machine())
    first, second = taken(budget, "a", 60), taken(budget, "a", 40)
    budget.release(first)
    budget.release(first)
    assert budget.held == 40
    assert budget.reserve("c", 61) is None
    budget.release(second)
    assert budget.held == 0


def test_the_machine_may_have_less_than_the_limit() -> None:
    machine = Machine(available=50)
    budget = Budget(100, machine)
    assert budget.total() == 50
    assert budget.reserve("a", 51) is None
    machine.available = 80  # another program ended
    taken(budget, "a", 51)


def test_what_is_settled_counts_on_top_of_what_is_available() -> None:
    machine = Machine(available=50)
    budget = Budget(100, machine)
    hold = taken(budget, "a", 30)
    machine.available = 20  # it is in RAM by now, and nobody said so yet: it counts twice, to be on the safe side
    assert budget.total() == 20
    budget.settle(hold, 30)
    assert budget.total() == 50
    taken(budget, "b", 20)


def test_settled_pages_of_a_file_are_still_available() -> None:
    machine = Machine(available=50)
    budget = Budget(100, machine)
    hold = taken(budget, "a", 30, 10)
    machine.available = 30  # 20 anonymous ones are gone; the system can drop the others
    budget.settle(hold, 30, 10)
    assert budget.total() == 50
    assert budget.held == 30


def test_what_only_reserves_is_no_memory_yet() -> None:
    machine = Machine(available=50)
    budget = Budget(100, machine)
    taken(budget, "a", 30, 10)
    assert budget.total() == 50  # not 70


def test_settling_says_what_it_came_to() -> None:
    budget = Budget(100, Machine())
    hold = taken(budget, "a", 30, 30)
    budget.settle(hold, 45, 5)
    assert (hold.bytes, hold.mapped, hold.settled) == (45, 5, True)
    assert budget.held == 45
    budget.settle(hold, 20)
    assert budget.parts() == (Part("a", 20, 0),)


def test_more_than_was_reserved_may_turn_out_to_be_there() -> None:
    budget = Budget(100, Machine())
    budget.settle(taken(budget, "a", 90), 110)
    assert budget.held == 110  # told as it is
    assert budget.reserve("b", 0) is None


def test_parts_of_one_name_are_told_together() -> None:
    budget = Budget(100, Machine())
    taken(budget, "index", 10)
    budget.settle(taken(budget, "chat", 50, 40), 50, 40)
    taken(budget, "index", 5, 1)
    assert budget.parts() == (Part("index", 15, 1), Part("chat", 50, 40))


def test_a_part_of_what_is_held_may_be_held_apart() -> None:
    budget = Budget(100, Machine(50))
    hold = taken(budget, "chat", 40)
    budget.settle(hold, 40, 10)
    before = budget.held, budget.total()
    part = budget.split(hold, "libraries", 15, 4)
    assert budget.parts() == (Part("chat", 25, 6), Part("libraries", 15, 4))
    assert (budget.held, budget.total()) == before
    budget.release(hold)
    assert budget.held == 15
    assert budget.split(part, "more", 99, 99).bytes == 15  # never more than there is


@pytest.mark.parametrize("limit", [0, 5])
def test_a_small_limit(limit: int) -> None:
    budget = Budget(limit, Machine())
    assert budget.reserve("a", limit + 1) is None
    taken(budget, "a", limit)


def test_threads_never_hold_more_than_there_is() -> None:
    budget = Budget(10, Machine())
    seen: list[int] = []

    def work(number: int) -> int:
        got = 0
        for _ in range(300):
            hold = budget.reserve(str(number), 3)
            if hold is not None:
                seen.append(budget.held)
                budget.settle(hold, 3)
                budget.release(hold)
                got += 1
        return got

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) > 0
    assert max(seen) <= 9
    assert budget.held == 0


def test_where_the_machine_cannot_tell_what_it_last_told_holds() -> None:
    machine = Machine()
    budget = Budget(10**12, machine)
    before = budget.total()

    def fail() -> Memory:
        raise OSError("Too many open files")

    budget._memory = fail
    assert budget.total() == before
    assert Budget(7, fail).total() == 7


def test_in_a_steady_block_the_machine_is_looked_at_once_and_after_each_release() -> None:
    looks: list[int] = []

    def memory() -> Memory:
        looks.append(1)
        return Memory(100, 100)

    budget = Budget(50, memory)
    with budget.steady():
        hold = taken(budget, "a", 5)
        assert [budget.total(), budget.total(), len(looks)] == [50, 50, 1]
        budget.release(hold)
        assert [budget.total(), budget.total(), len(looks)] == [50, 50, 2]
    assert [budget.total(), budget.total(), len(looks)] == [50, 50, 4]
