"""Damaged logs of memory stores, and that a mixture would be noticed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import apsw
from memory_damage import KINDS, LOG, Tally, _try, damage, killed

from engine.store import FILE_NAME


def test_a_damaged_log_leaves_a_prefix_or_is_refused_with_the_backup(tmp_path: Path) -> None:
    """A fifth of what `scripts/soak.py memory-damage` runs."""
    tally = damage(tmp_path, 100, seed=5)
    assert tally.failures == []
    assert tally.points == 100
    assert tally.back["1 to 5"] and tally.back["more"], "no damage took anything"


def test_a_mixture_is_noticed(tmp_path: Path) -> None:
    left = killed(tmp_path, next(iter(KINDS)), random.Random(1), backup=False)
    db = apsw.Connection(str(left.home / FILE_NAME))
    db.execute("DELETE FROM memories WHERE seq = 3")
    db.close()
    tally = Tally()
    _try(tally, "mixed", left, left.home)
    assert any("as there never were" in failure for failure in tally.failures)


def test_a_killed_home_has_a_log_full_of_commits(tmp_path: Path) -> None:
    left = killed(tmp_path, next(iter(KINDS)), random.Random(1), backup=True)
    assert (left.home / LOG).stat().st_size > 100_000
    alone = tmp_path / "alone"
    shutil.copytree(left.home, alone)
    (alone / LOG).unlink()
    tally = Tally()
    _try(tally, "no log", left, alone)
    assert tally.failures == [] and tally.back == {"more": 1}
