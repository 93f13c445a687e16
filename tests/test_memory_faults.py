"""Disks that fail under a memory store."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import apsw
import memory_life
import pytest
from faulty_disk import faulty
from memory_faults import FLOWS, HANG, USER, named, opened, sweep


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.shortlist.FEW", memory_life.FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_every_step_of_a_flow_fails_once(tmp_path: Path, name: str) -> None:
    """Every fifth or ninth; `scripts/soak.py memory-faults` fails each, and in other ways."""
    forget = name == "forget"
    tally = sweep(tmp_path, name, full=forget, lasting=forget, every=9 if forget else 5)
    assert tally.failures == []
    assert tally.steps.total() >= 5, "nothing failed"
    assert any("Error" in end for end in tally.ends) and f"{name}: done" in tally.ends


@pytest.mark.parametrize("full", [True, False])
def test_a_store_closes_on_a_disk_that_takes_nothing(tmp_path: Path, full: bool) -> None:
    with faulty(tmp_path, full=full, lasting=True) as disk:
        store = opened(tmp_path)
        store.remember(["적어 둔 말"], user=USER, judge=False)
        store.wait(HANG)
        disk.arm(1)
        store.close()
        assert any("memory.sqlite3" in step for step in disk.failed), "nothing was to be written back"
        disk.mend()
    with closing(opened(tmp_path)) as again:
        assert list(named(again)) == ["적어 둔 말"] and again.problems() == []


# ---- the disk itself


def test_the_chosen_step_of_sqlite_fails_and_no_other(tmp_path: Path) -> None:
    with faulty(tmp_path) as disk, closing(apsw.Connection(str(tmp_path / "a.sqlite3"))) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE a (x)")
        disk.arm(2)
        with pytest.raises(apsw.IOError):
            db.execute("INSERT INTO a VALUES (1)")
        assert len(disk.failed) == 1 and disk.failed == disk.steps[1:2]
        db.execute("INSERT INTO a VALUES (2)")
        disk.mend()
        assert db.execute("SELECT x FROM a").get == 2


def test_a_full_disk_stays_full(tmp_path: Path) -> None:
    with faulty(tmp_path, full=True, lasting=True) as disk, closing(apsw.Connection(str(tmp_path / "a.sqlite3"))) as db:
        db.execute("CREATE TABLE a (x)")
        disk.arm(1)
        for _ in range(2):
            with pytest.raises(apsw.FullError):
                db.execute("INSERT INTO a VALUES (1)")
        disk.mend()
        db.execute("INSERT INTO a VALUES (2)")
        assert db.execute("SELECT count(*) FROM a").get == 1


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_python_files_fail_too(tmp_path: Path, at: int) -> None:
    with faulty(tmp_path, full=True) as disk:
        disk.arm(at)
        with pytest.raises(OSError, match="space") as caught:
            _written(tmp_path)
        assert caught.value.errno == errno.ENOSPC
        disk.arm(5)
        _written(tmp_path)
        assert [step.split()[0] for step in disk.steps] == ["open", "write", "sync", "replace"]
        (tmp_path.parent / "beside").write_bytes(b"x")  # not under the folder
        assert len(disk.steps) == 4


def _written(folder: Path) -> None:
    with (folder / "part").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    (folder / "part").replace(folder / "whole")


def test_the_disk_is_well_afterwards(tmp_path: Path) -> None:
    before = apsw.vfs_names()
    with pytest.raises(ZeroDivisionError), faulty(tmp_path):
        1 / 0  # noqa: B018
    assert apsw.vfs_names() == before
    with closing(apsw.Connection(str(tmp_path / "a.sqlite3"))) as db:
        db.execute("CREATE TABLE a (x)")
    _written(tmp_path)
