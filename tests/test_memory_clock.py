"""Clocks that jump: what was stored later stays later."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import memory_life
import pytest

from engine import records
from engine.memory import MemoryStore

USER = memory_life.STAYS
YEAR = 365 * 24 * 3600 * 1_000_000  # microseconds
HANG = 60.0


@pytest.mark.parametrize("seed", range(3))
def test_jumps_of_ten_years_reorder_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng, real = random.Random(seed), records.now
    jump = 0
    for module in ("records", "retriever"):  # who stores, and who tells how old a memory is
        monkeypatch.setattr(f"engine.{module}.now", lambda: real() + jump)
    texts, stored = [], []
    with closing(MemoryStore(tmp_path / "home", memory_life.faculties())) as store:
        for number, moved in enumerate((0, 10 * YEAR, -10 * YEAR, rng.randint(-10 * YEAR, 10 * YEAR), 0)):
            jump = moved
            texts.append(memory_life.fact("집", ("부산", "대전")[number % 2], f"{number:016x}"))
            stored += store.remember([texts[-1], f"다른 말 {number}"], user=USER)
            assert store.wait(HANG)
        created = [memory.created for memory in stored]
        assert created != sorted(created), "the clock went back"
        assert all(abs(one.year - created[0].year) >= 9 for one in created[2:6])
        history = store.history(stored[4].id)
        assert [memory.text for memory in history] == texts
        assert [memory.superseded_by for memory in history] == [memory.id for memory in history[1:]] + [None]
        every = [memory.id for memory in store.memories(user=USER, superseded=True)]
        assert every == [memory.id for memory in reversed(stored)]
        assert [memory.text for memory in store.memories(user=USER, limit=2)] == ["다른 말 4", texts[4]]
        assert all(
            memory.valid_to >= memory.valid_from for memory in history[:-1] if memory.valid_to and memory.valid_from
        )
        jump = rng.randint(-10 * YEAR, 10 * YEAR)
        hits = store.search(texts[4], user=USER, k=5)
        assert hits[0].memory.text == texts[4]
        assert all(0 <= hit.score <= 1 for hit in hits)
