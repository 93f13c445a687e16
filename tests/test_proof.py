"""The search for bytes in files: against a plain one, across blocks, and through what a home may hold."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import proof
from engine.errors import Cancelled
from engine.metrics import Progress
from engine.proof import occurrences, pieces, words, written

TEXT = "저는 땅콩 알레르기가 있어서 견과류를 못 먹어요"


def plain(content: bytes, needle: bytes) -> list[int]:
    return [at for at in range(len(content)) if content.startswith(needle, at)]


letters = st.binary(max_size=60).map(lambda junk: bytes(byte % 3 for byte in junk))


@given(letters, st.lists(letters.filter(len), max_size=6), st.integers(1, 70))
def test_every_place_is_found_once_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, needles: list[bytes], block: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "searched"
    folder.mkdir(exist_ok=True)
    (folder / "file").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "_BLOCK", block)
        found = occurrences(folder, needles)
    assert (found.files, found.size, found.unread) == (1, len(content), [])
    assert {number: sorted(at for _, at in places) for number, places in found.places.items()} == {
        number: places for number, needle in enumerate(needles) if (places := plain(content, needle))
    }


def test_all_files_below_a_folder_are_searched(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/deep").write_bytes(b"x" * 100 + TEXT.encode())
    (tmp_path / ".hidden").write_bytes(TEXT.encode() * 2)
    (tmp_path / "empty").touch()
    found = occurrences(tmp_path, [TEXT.encode()])
    assert (found.files, found.size) == (3, 100 + 3 * len(TEXT.encode()))
    assert found.in_files() == {tmp_path / ".hidden": 1, tmp_path / "a/b/deep": 1}
    assert found.places[0] == [
        (tmp_path / ".hidden", 0),
        (tmp_path / ".hidden", len(TEXT.encode())),
        (tmp_path / "a/b/deep", 100),
    ]


@pytest.mark.skipif(os.name != "posix", reason="Windows asks for a right to make links, and has no such pipes")
def test_links_and_what_is_no_file_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"needle")
    home = tmp_path / "home"
    home.mkdir()
    (home / "folder").symlink_to(tmp_path / "outside")
    (home / "link").symlink_to(tmp_path / "outside/file")
    os.mkfifo(home / "pipe")  # reading it would wait for ever
    assert (occurrences(home, [b"needle"]).files, occurrences(home, [b"needle"]).places) == (0, {})


@pytest.mark.parametrize(("error", "unread"), [(PermissionError, 1), (FileNotFoundError, 0)])
def test_a_file_that_cannot_be_read_is_told_and_one_that_went_away_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError], unread: int
) -> None:
    (tmp_path / "other").write_bytes(b"needle")
    (tmp_path / "kept").touch()
    opened = Path.open

    def refuse(path: Path, *given: object, **asked: object) -> object:
        if path.name == "kept":
            raise error(13, "no")
        return opened(path, *given, **asked)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    found = occurrences(tmp_path, [b"needle"])
    assert found.unread == [tmp_path / "kept"] * unread
    assert list(found.places) == [0]


def test_nothing_to_look_for_is_found_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert occurrences(tmp_path, []).places == {}
    assert occurrences(tmp_path / "missing", [b"abc"]).files == 0


def test_progress_tells_the_bytes_and_may_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_BLOCK", 40)
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "b").write_bytes(b"x" * 10)
    told: list[Progress] = []
    occurrences(tmp_path, [b"needle"], told.append)
    assert [(one.done, one.total, one.unit) for one in told] == [(at, 110, "bytes") for at in (40, 80, 100, 110)]
    with pytest.raises(Cancelled):
        occurrences(tmp_path, [b"needle"], lambda _: False)


@pytest.mark.skipif(not Path("/proc/locks").is_file(), reason="only Linux tells who holds which locks")
def test_a_search_takes_the_locks_of_whoever_has_a_database_open_in_this_process(tmp_path: Path) -> None:
    def locks() -> int:
        numbers = {str(path.stat().st_ino) for path in tmp_path.iterdir()}
        held = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
        return sum(one[1:3] == ["POSIX", "ADVISORY"] and one[-3].split(":")[-1] in numbers for one in held)

    with closing(sqlite3.connect(tmp_path / "memory.sqlite3")) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.execute("CREATE TABLE t (x)")
        if not locks():
            pytest.skip("this file system has other numbers for its files there")
        subprocess.run(
            [sys.executable, "-c", "import sys; from engine.proof import *; occurrences(Path(sys.argv[1]), [b'x'])",
             str(tmp_path)], check=True, cwd=Path(proof.__file__).parents[1],
        )  # fmt: skip
        assert locks()  # another process may look
        occurrences(tmp_path, [b"needle"])
        assert not locks()  # therefore the engine is closed first; where this fails it need no longer be


# ---- what to look for


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_pieces_cover_a_text_from_every_letter_on(text: str) -> None:
    found = pieces(text)
    assert found[0] == text
    assert len(found) == len(set(found))
    for piece in found[1:]:
        at = text.index(piece)
        assert len(piece.encode()) <= 24
        assert at + len(piece) == len(text) or len(text[at : at + len(piece) + 1].encode()) > 24
    for at in range(len(text)):  # whatever 27 bytes of it are left, a piece is within them
        end = next((end for end in range(at, len(text) + 1) if len(text[at:end].encode()) >= 27), None)
        assert end is None or any(piece in text[at:end] for piece in found)


def test_every_half_of_an_overwritten_copy_shows(tmp_path: Path) -> None:
    needles = [needle for piece in pieces(TEXT) for needle in written(piece)]
    for form in (
        TEXT.encode(),
        json.dumps(TEXT).encode(),
        TEXT.encode("utf-16-le"),
        json.dumps(TEXT, ensure_ascii=False).encode(),
    ):
        for half in (form[: len(form) // 2], form[len(form) // 2 :]):
            (tmp_path / "file").write_bytes(os.urandom(50) + half + os.urandom(50))
            assert occurrences(tmp_path, needles).places, half
    (tmp_path / "file").write_bytes(os.urandom(5_000))
    assert occurrences(tmp_path, needles).places == {}


def test_a_form_that_is_the_same_or_stands_anywhere_is_not_looked_for() -> None:
    assert written("abcdef") == [b"abcdef", b"a\0b\0c\0d\0e\0f\0"]
    assert written("가\n") == [rb"\uac00\n"]
    assert written('ab"가') == ['ab"가'.encode(), r"ab\"가".encode(), rb"ab\"\uac00", 'ab"가'.encode("utf-16-le")]


def test_words_are_those_that_an_index_of_words_may_hold() -> None:
    assert words("Peanuts: 못 먹는 땅콩버터! snake_case cat") == ["peanuts", "먹는", "땅콩버터", "땅콩", "콩버", "버터"]
