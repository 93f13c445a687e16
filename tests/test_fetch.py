"""One file from a source that fails in every way: the right bytes, or a typed error; never a gap, never too much."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import fetch
from engine.errors import Cancelled, DownloadError
from engine.fetch import Body, Interrupted, Patience, Remote, Unreachable

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()
REMOTE = Remote("x.gguf", len(CONTENT), SHA)
QUICK = Patience(tries=3, first_wait=0.0, longest_wait=0.01, stall=1.0)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "PATIENCE", QUICK)
        yield


@dataclass
class Source:
    """Answers from `content`, cut off after each of `cuts` in turn; remembers where it was asked to begin."""

    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    total: int | None = None
    asked: list[int] = field(default_factory=list)
    piece: int = 1000

    @contextlib.contextmanager
    def __call__(self, start: int) -> Iterator[Body]:
        self.asked.append(start)
        begin = start if self.ranges else 0
        yield Body(begin, self.total, self._pieces(begin, self.cuts.pop(0) if self.cuts else None))

    def _pieces(self, begin: int, cut: int | None) -> Iterator[bytes]:
        end = len(self.content) if cut is None else min(begin + cut, len(self.content))
        for at in range(begin, end, self.piece):
            yield self.content[at : min(at + self.piece, end)]
        if cut is not None:
            raise Interrupted("dropped")


def silent(_doing: str, _done: int) -> None:
    pass


def run(source: Source, part: Path, remote: Remote = REMOTE) -> str:
    return fetch.fetch(remote, part, source, silent)


def test_what_comes_whole_is_asked_for_once(tmp_path: Path) -> None:
    source = Source()
    assert run(source, tmp_path / "x") == SHA
    assert source.asked == [0]
    assert (tmp_path / "x").read_bytes() == CONTENT


@given(cuts=st.lists(st.integers(1, 3000), max_size=12), there=st.integers(0, len(CONTENT)))
def test_every_byte_is_asked_for_once_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], there: int
) -> None:
    part = tmp_path_factory.mktemp("cut") / "x"
    part.write_bytes(CONTENT[:there])
    source = Source(cuts=list(cuts))
    assert run(source, part) == SHA
    assert part.read_bytes() == CONTENT
    assert source.asked == sorted(set(source.asked))
    assert source.asked[:1] in ([there], [])


@given(there=st.binary(max_size=300), content=st.binary(max_size=300))
def test_a_part_of_something_else_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, there: bytes, content: bytes
) -> None:
    part = tmp_path_factory.mktemp("else") / "x"
    part.write_bytes(there)
    sha256 = hashlib.sha256(content).hexdigest()
    assert run(Source(content), part, Remote("x", len(content), sha256)) == sha256
    assert part.read_bytes() == content


def test_the_page_of_a_network_costs_nothing_of_what_came(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT[:3000])
    with pytest.raises(DownloadError, match=r"has 20 bytes at its source.*what came before is kept"):
        run(Source(b"<html>Sign in</html>", total=20, ranges=False), tmp_path / "x")
    source = Source()
    assert run(source, tmp_path / "x") == SHA
    assert source.asked == [3000]


def test_a_part_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "x").symlink_to(tmp_path / "mine")
    assert run(Source(), tmp_path / "x") == SHA
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_gits_id_is_not_asked_of_a_file_without_a_size(tmp_path: Path) -> None:
    assert run(Source(b"{}"), tmp_path / "x", Remote("x", blob="0" * 40)) == hashlib.sha256(b"{}").hexdigest()


def test_cancelling_the_check_of_a_part_closes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "POLL", -1.0)
    (tmp_path / "x").write_bytes(CONTENT[:3000])

    def stop(doing: str, _done: int) -> None:
        if doing == "check":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):  # a file that stays open is a warning, and warnings are errors
        fetch.fetch(REMOTE, tmp_path / "x", Source(), stop)
    assert (tmp_path / "x").read_bytes() == CONTENT[:3000]


def test_a_source_without_ranges_begins_again(tmp_path: Path) -> None:
    source = Source(cuts=[5000], ranges=False)
    assert run(source, tmp_path / "x") == SHA
    assert source.asked == [0, 5000]


def test_patience_ends_where_nothing_comes(tmp_path: Path) -> None:
    source = Source(cuts=[2000, 0, 0, 0, 0])
    with pytest.raises(DownloadError, match=r"x\.gguf.*dropped \(3 times in a row\).*What came is kept") as caught:
        run(source, tmp_path / "x")
    assert caught.value.file == "x.gguf"
    assert source.asked == [0, 2000, 2000]
    assert (tmp_path / "x").read_bytes() == CONTENT[:2000]
    assert run(source, tmp_path / "x") == SHA
    assert source.asked[3:] == [2000, 2000, 2000]


def test_patience_is_as_long_as_something_comes(tmp_path: Path) -> None:
    source = Source(cuts=[700] * 14)
    assert run(source, tmp_path / "x") == SHA
    assert len(source.asked) == 15


def test_nobody_there_is_said_sooner(tmp_path: Path) -> None:
    asked: list[int] = []

    @contextlib.contextmanager
    def nobody(start: int) -> Iterator[Body]:
        asked.append(start)
        raise Unreachable("connection refused")
        yield

    with pytest.raises(DownloadError, match=r"refused \(1 times"):
        fetch.fetch(REMOTE, tmp_path / "x", nobody, silent)
    assert asked == [0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (Source(CONTENT[:-1] + b"?"), "came with sha256"),
        (Source(CONTENT + b"more"), "is longer than its 10240 bytes"),
        (Source(CONTENT[:500], total=500), "has 500 bytes at its source where 10240 are expected"),
    ],
)
def test_what_is_wrong_twice_is_refused_and_leaves_nothing(tmp_path: Path, source: Source, why: str) -> None:
    with pytest.raises(DownloadError, match=rf"x\.gguf {why}.*twice; (nothing of it was|what came before is) kept"):
        run(source, tmp_path / "x")
    assert source.asked == [0, 0]
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_once_comes_again(tmp_path: Path) -> None:
    bodies = iter([Source(CONTENT[:-1] + b"?"), Source()])

    def source(start: int) -> contextlib.AbstractContextManager[Body]:
        return next(bodies)(start)

    assert fetch.fetch(REMOTE, tmp_path / "x", source, silent) == SHA
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_part_from_the_wrong_place_is_not_appended(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT[:3000])

    @contextlib.contextmanager
    def elsewhere(start: int) -> Iterator[Body]:
        begin = 0 if not start else 2000
        yield Body(begin, None, iter([CONTENT[begin:]]))

    assert fetch.fetch(REMOTE, tmp_path / "x", elsewhere, silent) == SHA


def test_without_a_size_the_end_is_the_end(tmp_path: Path) -> None:
    assert run(Source(), tmp_path / "x", Remote("x")) == SHA
    blob = hashlib.sha1(b"blob 2\0{}", usedforsecurity=False).hexdigest()
    assert run(Source(b"{}"), tmp_path / "y", Remote("y", 2, blob=blob)) == hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(DownloadError, match="git's id"):
        run(Source(b"[]"), tmp_path / "z", Remote("z", 2, blob=blob))


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    assert run(Source(b""), tmp_path / "x", Remote("x", 0, empty)) == empty
    assert (tmp_path / "x").read_bytes() == b""


def test_cancelling_keeps_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "POLL", -1.0)

    def stop(_doing: str, done: int) -> None:
        if done >= 4000:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        fetch.fetch(REMOTE, tmp_path / "x", Source(), stop)
    assert (tmp_path / "x").read_bytes() == CONTENT[:4000]
    source = Source()
    assert run(source, tmp_path / "x") == SHA
    assert source.asked == [4000]


def test_waiting_can_be_cancelled_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PATIENCE", Patience(tries=3, first_wait=60, longest_wait=60, stall=1))
    heard: list[str] = []

    def stop(doing: str, _done: int) -> None:
        heard.append(doing)
        if doing.startswith("retry"):
            raise Cancelled("no")

    with pytest.raises(Cancelled):
        fetch.fetch(REMOTE, tmp_path / "x", Source(cuts=[100]), stop)
    assert heard[-1] == "retry in 60 s (dropped)"


@pytest.mark.parametrize(("asked", "waited"), [(None, 1.0), (7.0, 7.0), (900.0, 60.0)])
def test_a_source_may_ask_for_a_pause_within_reason(
    monkeypatch: pytest.MonkeyPatch, asked: float | None, waited: float
) -> None:
    monkeypatch.setattr(fetch, "PATIENCE", Patience(tries=3, first_wait=1, longest_wait=60, stall=1))
    now, failures = [0.0], iter([Interrupted("busy", asked)])
    monkeypatch.setattr(fetch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def once() -> str:
        for failure in failures:
            raise failure
        return "listing"

    assert fetch.retried("the list", "x", once, silent) == "listing"
    assert now[0] == pytest.approx(waited)


def test_what_cannot_be_written_is_the_systems_word(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        run(Source(), tmp_path)
