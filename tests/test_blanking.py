"""Pages of SQLite without leftovers: what nothing reads is zero, and every other byte is as it was."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.blanking import blanked
from engine.connections import close_writer, rows, to_write


def leaf(cells: int, content: int, size: int = 512, kind: int = 13) -> bytes:
    """Return a page of this type whose unused space holds ones."""
    header = bytes([kind, 0, 0, *cells.to_bytes(2, "big"), *(content % 65_536).to_bytes(2, "big"), 0])
    return (header + b"\1" * size)[:size]


def test_the_space_between_the_list_of_cells_and_the_cells_is_cleared() -> None:
    page = blanked(leaf(3, 400), first=False)
    assert (page[:14], page[14:400], page[400:]) == (leaf(3, 400)[:14], bytes(386), b"\1" * 112)
    inner = blanked(leaf(3, 400, kind=5), first=False)
    assert (inner[12:18], inner[18:400]) == (b"\1" * 6, bytes(382)), "an inner page has a longer header"
    first = blanked(b"\1" * 100 + leaf(3, 400, 412), first=True)
    assert (first[:100], first[114:400], first[400:]) == (b"\1" * 100, bytes(286), b"\1" * 112)


def test_a_page_of_64_kb_says_0_where_its_cells_end() -> None:
    assert blanked(leaf(0, 65_536, 65_536), first=False)[8:] == bytes(65_528)


@pytest.mark.parametrize(
    "page",
    [
        leaf(3, 400, kind=0),  # an overflow page, a page of the free list
        leaf(3, 14),  # full
        leaf(3, 10),  # impossible
        leaf(300, 400),
        leaf(3, 600),
        b"",
        b"\r",
        bytes(512),
    ],
)
def test_what_is_no_page_with_unused_space_stays(page: bytes) -> None:
    assert blanked(page, first=False) == page


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_keep_their_length_and_are_cleared_once(page: bytes, first: bool) -> None:
    once = blanked(page, first=first)
    assert len(once) == len(page) and blanked(once, first=first) == once
    assert all(new in (old, 0) for new, old in zip(once, page, strict=True))


def filled(path: Path, seed: int) -> dict[int, bytes]:
    """Write and delete rows of many lengths in turn; return what is left."""
    choose, kept = random.Random(seed), dict[int, bytes]()
    with closing(to_write(path)) as db:
        for pragma in ("page_size = 4096", "journal_mode = WAL", "secure_delete = ON"):
            rows(db, f"PRAGMA {pragma}")
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB); CREATE INDEX i ON t (b)")
        for number in range(400):
            kept[number] = choose.randbytes(choose.choice([20, 300, 900, 9_000]))
            db.execute("INSERT INTO t VALUES (?, ?)", (number, kept[number]))
            if choose.random() < 0.4:
                gone = choose.choice(list(kept))
                del kept[gone]
                db.execute("DELETE FROM t WHERE n = ?", (gone,))
        close_writer(db)
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_a_database_written_through_it_is_sound_and_holds_what_it_should(tmp_path: Path, seed: int) -> None:
    kept = filled(tmp_path / "x.sqlite3", seed)
    with closing(apsw.Connection(str(tmp_path / "x.sqlite3"))) as db:
        assert rows(db, "PRAGMA integrity_check") == [("ok",)]
        assert dict(rows(db, "SELECT n, b FROM t")) == kept
    data = (tmp_path / "x.sqlite3").read_bytes()
    pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    assert all(blanked(page, first=not number) == page for number, page in enumerate(pages))
    assert not (tmp_path / "x.sqlite3-wal").exists(), "closing writes the log back"


def test_a_writer_that_nobody_closes_leaves_its_log(tmp_path: Path) -> None:
    """At the end of the interpreter, writing it back would call Python."""
    db = to_write(tmp_path / "x.sqlite3")
    rows(db, "PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE t (n)")
    db.close()
    assert (tmp_path / "x.sqlite3-wal").stat().st_size > 0
    with closing(apsw.Connection(str(tmp_path / "x.sqlite3"))) as again:
        assert rows(again, "SELECT name FROM sqlite_schema") == [("t",)]
