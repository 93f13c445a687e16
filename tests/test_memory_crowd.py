"""Threads and tasks at one memory store."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import memory_life
import pytest
from memory_crowd import USER, Crowd, Member, _facts, crowd, spoken

from engine.memory import MemoryStore


@pytest.mark.slow
def test_a_crowd_gets_what_it_stored_and_nothing_that_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sixth of what `scripts/soak.py memory-crowd` runs."""
    monkeypatch.setattr("engine.shortlist.FEW", memory_life.FEW)
    report = crowd(tmp_path / "home", 10, seed=3)
    assert report.failures == []
    assert report.left >= 24 and report.seen > 200
    assert {"search", "change", "forget", "listed", "weigh", "restate"} <= report.calls.keys()
    assert {"state", "reword", "retract"} <= report.calls.keys() and report.superseded > 10


def test_what_must_not_be_is_noticed(tmp_path: Path) -> None:
    with closing(MemoryStore(tmp_path / "home", memory_life.faculties())) as store:
        together = Crowd(store)
        member = Member(together, 1, seed=0)
        member.add()
        (key,) = member.mine
        store.update(key, {"source": "다른 말"})
        member.search()
        store.update(key, {"text": spoken(1, 99)[0]})
        member.listed()
        together.gone.add(key)
        member.search()
        store.forget_all(USER)
        member.listed()
        assert set(together.report.failures) == {
            "a memory was read half",
            "a change was lost",
            "a search did not find its caller's own memory",
            "a search found what was forgotten before it began",
            "a memory was lost",
        }


def test_facts_that_are_not_as_they_were_judged_are_noticed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with closing(MemoryStore(home, memory_life.faculties())) as store:
        together = Crowd(store)
        member = Member(together, 1, seed=0)
        for _ in range(3):
            member.state()
        assert store.wait(60)
        found = {memory.id: memory for memory in store.memories(user=USER, superseded=True)}
        _facts(together, member, found)
        assert together.report.failures == [] and sum(memory.superseded_by is None for memory in found.values()) == 1
        both = {key: replace(memory, superseded_by=None) for key, memory in found.items()}
        _facts(together, member, both)
        _facts(together, member, {member.last: found[member.last]})
        assert together.report.failures == [
            "of 3 facts 3 hold, not the last one",
            "3 facts hold that exclude each other",
            "the facts at the end are not those that were stated",
        ]
