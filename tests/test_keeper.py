"""The background thread: chores in order until none has more to do, whatever one of them raises."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from engine.errors import EngineClosed, StoreLocked
from engine.keeper import Keeper


class Chores:
    """Chores that note what they did; each has so much to do."""

    def __init__(self) -> None:
        self.left = {"one": 0, "two": 0}
        self.done: list[str] = []
        self.fails: dict[str, BaseException] = {}
        self.threads: set[int] = set()
        self.keeper = Keeper([self.made("one"), self.made("two")])

    def made(self, name: str) -> Callable[[], bool]:
        def chore() -> bool:
            self.threads.add(threading.get_ident())
            if name in self.fails:
                raise self.fails[name]
            if not self.left[name]:
                return False
            self.left[name] -= 1
            self.done.append(name)
            return True

        return chore


@pytest.fixture
def chores() -> Iterator[Chores]:
    made = Chores()
    yield made
    made.keeper.close()


def test_there_is_no_thread_before_there_is_something_to_do(chores: Chores) -> None:
    before = threading.active_count()
    assert chores.keeper.wait(None) and chores.keeper.wait(0)
    assert threading.active_count() == before


def test_chores_are_done_a_bit_of_each_in_turn_until_nothing_is_left(chores: Chores) -> None:
    for _ in range(2):
        chores.left = {"one": 3, "two": 2}
        chores.keeper.nudge()
        assert chores.keeper.wait(None)
        assert chores.done == ["one", "two", "one", "two", "one"]
        chores.done.clear()
    assert threading.get_ident() not in chores.threads


def test_a_nudge_during_the_work_is_not_lost() -> None:
    working, go = threading.Event(), threading.Event()
    rounds: list[int] = []

    def chore() -> bool:
        rounds.append(1)
        if len(rounds) == 1:
            working.set()
            go.wait(timeout=30)
        return False

    keeper = Keeper([chore])
    keeper.nudge()
    working.wait(timeout=30)
    assert not keeper.wait(0.01), "it is not done"
    for _ in range(5):
        keeper.nudge()  # after the chore has looked
    go.set()
    assert keeper.wait(None)
    assert len(rounds) == 2
    keeper.close()


@pytest.mark.parametrize("error", [StoreLocked("비밀"), ValueError("비밀"), MemoryError("비밀"), EngineClosed("비밀")])
def test_a_chore_that_fails_keeps_none_of_the_others(
    chores: Chores, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    chores.fails["one"] = error
    chores.left["two"] = 2
    chores.keeper.nudge()
    assert not chores.keeper.wait(None), "not all is done"
    assert chores.done == ["two"] * 2
    assert "비밀" not in caplog.text
    assert bool(caplog.records) == (not isinstance(error, EngineClosed))
    del chores.fails["one"]
    chores.left["one"] = 1
    chores.keeper.nudge()  # until the next time
    assert chores.keeper.wait(None)
    assert chores.done[2:] == ["one"]


def test_a_chore_has_its_turn_again_after_another_did_what_it_waited_for() -> None:
    ready, done = threading.Event(), []

    def makes() -> bool:
        more = not ready.is_set()
        ready.set()
        return more

    def waits() -> bool:
        done.append(ready.is_set())
        return False

    keeper = Keeper([waits, makes])
    keeper.nudge()
    assert keeper.wait(None)
    keeper.close()
    assert done[-1] and not done[0]


def test_closing_ends_the_work_after_the_bit_in_hand(chores: Chores) -> None:
    chores.left["one"] = 10**9
    chores.keeper.nudge()
    while len(chores.done) < 3:
        pass
    chores.keeper.close()
    done = len(chores.done)
    assert chores.keeper.wait(0)
    chores.keeper.nudge()
    chores.keeper.close()
    assert len(chores.done) == done < 10**9


def test_it_may_be_closed_by_its_own_chore() -> None:
    done: list[bool] = []

    def chore() -> bool:
        keeper.close()
        done.append(True)
        return True

    keeper = Keeper([chore, lambda: pytest.fail("it was closed")])
    keeper.nudge()
    assert keeper.wait(None)
    assert done == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_wait_for_its_parents_thread() -> None:
    working, go = threading.Event(), threading.Event()

    def chore() -> bool:
        working.set()
        go.wait(timeout=30)
        return False

    keeper = Keeper([chore])
    keeper.nudge()
    working.wait(timeout=30)
    pid = os.fork()
    if pid == 0:  # pragma: no cover (another process)
        keeper.close()
        os._exit(0 if keeper.wait(None) else 1)
    go.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    keeper.close()


def test_a_chore_that_waits_for_the_chores_is_not_waited_for() -> None:
    waited: list[bool] = []
    keeper = Keeper([lambda: bool(waited.append(keeper.wait(None)))])
    keeper.nudge()
    assert keeper.wait(30)
    assert waited == [False]
    keeper.close()
