"""Processes that are killed on a memory store, and that the check of what they leave would notice a loss."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import apsw
import memory_life
import pytest
from memory_kills import AIMS, Check, Child, Delay, Ledger, Row, kill_cycles
from memory_life import Order
from memory_phases import COMMITS, phases

from engine.memory import MemoryStore
from engine.store import FILE_NAME


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.shortlist.FEW", memory_life.FEW)


def test_killed_processes_lose_nothing_and_bring_nothing_back(tmp_path: Path) -> None:
    """A tenth of what `scripts/soak.py memory-kills` runs."""
    report = kill_cycles(tmp_path, 20, seed=7, wanted=COMMITS)
    assert report.failures == []
    assert report.killed >= 20 and len(report.aims) > 10
    assert all(report.phases[phase] for phase in COMMITS)
    assert report.looked_for > 100


def lived(script: Path, text: str) -> Child:
    """Return what became of a process of other doings."""
    script.write_text(f"import sys, time\nsys.stdin.readline()\n{text}", encoding="utf-8")
    child = Child(script)
    child.live(Order("", "", 0, "", 0, 0), AIMS["start"], Delay(random.Random(0)), Ledger())
    return child


def test_a_process_that_hangs_is_a_failure_and_not_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_kills.HANG", 1.0)
    child = lived(tmp_path / "hangs.py", "time.sleep(600)")
    assert not child.killed and child.said.startswith("the process hung")


def test_a_process_that_comes_to_its_end_is_no_kill(tmp_path: Path) -> None:
    child = lived(tmp_path / "ends.py", "")
    assert not child.killed and child.said == ""


def test_a_process_that_fails_is_a_failure_and_not_a_kill(tmp_path: Path) -> None:
    child = lived(tmp_path / "fails.py", "raise SystemError('odd')")
    assert not child.killed and "SystemError: odd" in child.said


def test_a_phase_that_no_kill_fell_in_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory_kills.phases", lambda *_: set())
    monkeypatch.setattr("memory_kills._MORE", 1)
    assert kill_cycles(tmp_path, 1, seed=1, wanted=["add"]).failures == ["no kill fell in this: add"]


# ---- the check


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def ledger(home: Path) -> Ledger:
    """What a home of ten memories holds, as its process said, and one that was forgotten."""
    ledger = Ledger()
    life = memory_life.Life(memory_life.Order(str(home), "a life", 0, "", 0, 0), ledger.hear)
    life.open()
    for _ in range(5):
        life.remember(1)
        life.assert_fact()
    life.forget()
    life.wait()
    life.close()
    return ledger


def wrong(home: Path, ledger: Ledger) -> list[str]:
    return Check(home, ledger, random.Random(0)).run()


def change(home: Path, sql: str) -> None:
    with closing(apsw.Connection(str(home / FILE_NAME))) as db:
        db.execute(sql)


def test_a_home_that_is_as_it_was_said_passes(home: Path, ledger: Ledger) -> None:
    assert len(ledger.rows) > 5 and ledger.gone
    assert wrong(home, ledger) == []


@pytest.mark.parametrize(
    ("sql", "noticed"),
    [
        ("DELETE FROM memories WHERE seq = (SELECT max(seq) FROM memories)", "acknowledged, and lost"),
        ("UPDATE memories SET text = text || '.' WHERE seq = (SELECT max(seq) FROM memories)", "not what was"),
        ("UPDATE memories SET superseded_by = NULL, fate = NULL", "facts of"),
        ("DELETE FROM words WHERE rowid = (SELECT max(rowid) FROM words)", "have no words"),
        ("DELETE FROM vectors WHERE key = (SELECT max(key) FROM vectors)", "have no vectors"),
        ("UPDATE memories SET superseded_by = 'nothing', valid_to = 0", "superseded by nothing"),
    ],
)
def test_what_is_lost_is_noticed(home: Path, ledger: Ledger, sql: str, noticed: str) -> None:
    change(home, sql)
    assert noticed in " ".join(wrong(home, ledger))


def test_what_comes_back_is_noticed(home: Path, ledger: Ledger) -> None:
    text = next(iter(ledger.gone.values()))
    with closing(MemoryStore(home, memory_life.faculties())) as store:
        store.remember([text], user=memory_life.STAYS, judge=False)
    found = " ".join(wrong(home, ledger))
    assert "still in memory.sqlite3" in found and "nobody remembered this" in found and "a search found" in found


def test_traces_in_any_file_are_noticed(home: Path, ledger: Ledger) -> None:
    (home / "backups").mkdir(exist_ok=True)
    (home / "backups" / "note").write_text(next(iter(ledger.gone.values())), encoding="utf-8")
    assert "still in note" in " ".join(wrong(home, ledger))


def test_half_a_batch_is_noticed(home: Path, ledger: Ledger) -> None:
    with closing(MemoryStore(home, memory_life.faculties())) as store:
        store.remember(["하나 " + "a" * 16], user=memory_life.STAYS, judge=False)
    texts = ["하나 " + "a" * 16, "둘 " + "b" * 16]
    ledger.hear(
        {"will": "batch", "texts": texts, "user": memory_life.STAYS, "fields": {"category": None, "source": None}}
    )
    assert "of 2 in flight in one batch, 1 are done" in wrong(home, ledger)


def test_a_backup_that_misses_one_is_noticed(home: Path, ledger: Ledger) -> None:
    with closing(MemoryStore(home, memory_life.faculties())) as store:
        path = store.backup()
    ledger.backups[str(path)] = frozenset({*ledger.rows, "another"})
    assert "other memories" in " ".join(wrong(home, ledger))


def test_a_home_of_the_first_version_is_brought_up(home: Path) -> None:
    ledger = Ledger()
    for row in memory_life.first_version(home, random.Random(1), 40):
        ledger.add(row.pop("id"), Row(**row))
    assert wrong(home, ledger) == []


# ---- the phases


@pytest.mark.parametrize(
    ("sql", "phase"),
    [
        ("INSERT INTO chores VALUES ('wipe')", "wipe"),
        ("INSERT INTO chores VALUES ('rewrite')", "migration"),
        ("INSERT INTO unjudged VALUES (1)", "judging"),
        ("UPDATE spaces SET complete = 0", "re-embedding"),
    ],
)
def test_a_phase_is_known_by_what_it_leaves(home: Path, ledger: Ledger, sql: str, phase: str) -> None:
    assert phases(home, "", {"migration", "index save"}) == set()
    change(home, sql)
    assert phases(home, "", {"migration", "index save"}) == {phase}
    assert phases(home, "update", {phase}) == {phase, "update"}


def test_a_saving_is_known_by_its_part(home: Path, ledger: Ledger) -> None:
    (home / "index").mkdir(exist_ok=True)
    (home / "index" / "memory.index.a.part").touch()
    assert phases(home, "", set()) == set()
    assert phases(home, "", {"index save"}) == {"index save"}
