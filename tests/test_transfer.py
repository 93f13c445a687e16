"""Export and import on real stores: what goes out comes in the same, once, whatever is there already."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import spaces, transfer
from engine.connections import rows
from engine.errors import Cancelled, InvalidInput, StoreError
from engine.exported import read
from engine.faculties import Space
from engine.inputs import CATEGORIES, KINDS
from engine.records import COLUMNS, Draft, Memory, add, find, memory
from engine.store import Store
from engine.transfer import Imported

HERE = Space("0" * 64, "pairs")
THERE = Space("1" * 64, "other")
SEOUL, BUSAN = "저는 서울에 살아요", "저는 부산에 살아요"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    made: list[Store] = []

    def make(name: str) -> Store:
        made.append(Store(tmp_path / "홍길동" / name))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "내 기억.jsonl"


def remember(store: Store, *texts: str, user: str = "default") -> list[Memory]:
    with store.write() as db:
        return [add(db, Draft(user, None, None, None, None), text)[1] for text in texts]


def supersede(store: Store, old: Memory, new: Memory, fate: str = "replaced") -> None:
    with store.write() as db:
        sql = "UPDATE memories SET superseded_by = ?, fate = ?, valid_to = created + 5 WHERE id = ?"
        db.execute(sql, (new.id, fate, old.id))


def embed(store: Store, *vectors: tuple[float, float] | None, space: Space = HERE) -> None:
    """Give the memories of a store their vectors, in order; the first also gets sparse weights."""
    with store.write() as db:
        place = spaces.made(db, space, 2)
        for seq, vector in enumerate(vectors, 1):
            if vector is not None:
                blob = np.array(vector, "<f2").tobytes()
                spaces.put(db, place, seq, spaces.Coded(blob, b"\7\0\0\0\0<" if seq == 1 else None))


def export(store: Store, path: Path, **asked: Any) -> int:
    with store.read() as db:
        return transfer.export(db, path, **asked)


def take(store: Store, path: Path, space: Space = HERE, **asked: Any) -> Imported:
    return transfer.import_(store.write, path, space=space, **asked)


def everything(store: Store) -> list[tuple[Any, ...]]:
    with store.read() as db:
        return rows(db, f"SELECT seq, fate, digest, moment, {COLUMNS} FROM memories ORDER BY seq")


def vectors(store: Store, space: Space = HERE) -> list[tuple[str, bytes, bytes | None]]:
    sql = (
        "SELECT id, vector, weights FROM memories JOIN spaces JOIN vectors ON key = number << 40 | seq "
        "WHERE model = ? ORDER BY seq"
    )
    with store.read() as db:
        return rows(db, sql, (space.model,))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rewritten(path: Path, said: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in said), encoding="utf-8")
    return path


# ---- out


def test_a_line_is_a_memory_with_all_that_is_known_of_it(stores: Callable[[str], Store], file: Path) -> None:
    store = stores("a")
    old, new = remember(store, SEOUL, BUSAN)
    supersede(store, old, new)
    assert export(store, file) == 2
    header, first, second = lines(file)
    assert header == {"gieok": "memories", "version": 1, "count": 2}
    with store.read() as db:
        known = [memory(row).to_dict() for row in rows(db, f"SELECT {COLUMNS} FROM memories ORDER BY seq")]
    assert [first, second] == [{**known[0], "fate": "replaced"}, {**known[1], "fate": None}]
    assert SEOUL in file.read_text(encoding="utf-8")  # to be read by people, too
    assert datetime.fromisoformat(first["created"]).tzinfo is not None


def test_one_user_or_all_of_them(stores: Callable[[str], Store], file: Path) -> None:
    store = stores("a")
    remember(store, SEOUL)
    remember(store, BUSAN, user="수진")
    assert (export(store, file, user="수진"), lines(file)[1]["text"]) == (1, BUSAN)
    assert export(store, file, user="nobody") == 0
    assert export(store, file) == 2
    with pytest.raises(InvalidInput):
        export(store, file, user="")


def test_where_nothing_is_kept_the_file_says_so(stores: Callable[[str], Store], file: Path) -> None:
    assert transfer.export(None, file) == 0
    assert lines(file) == [{"gieok": "memories", "version": 1, "count": 0}]
    assert take(stores("a"), file) == Imported(0, 0)


def test_only_its_owner_may_read_the_file(stores: Callable[[str], Store], file: Path) -> None:
    store = stores("a")
    remember(store, SEOUL)
    file.write_text("old", encoding="utf-8")
    file.chmod(0o644)
    export(store, file)
    assert os.name != "posix" or stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device"), "cancel"])
def test_an_export_that_is_cut_short_leaves_what_was_there(
    stores: Callable[[str], Store], file: Path, monkeypatch: pytest.MonkeyPatch, stop: Any
) -> None:
    store = stores("a")
    remember(store, SEOUL, BUSAN)
    file.write_text("old", encoding="utf-8")
    monkeypatch.setattr(transfer, "_BATCH", 1)
    events = []

    def progress(event: Any) -> bool:
        events.append((event.done, event.total))
        if len(events) > 1 and stop != "cancel":
            raise stop
        return len(events) < 2

    expected = {"cancel": Cancelled, KeyboardInterrupt: KeyboardInterrupt}.get(stop, StoreError)
    with pytest.raises(expected):
        export(store, file, progress=progress)
    assert events == [(0, 2), (1, 2)]
    assert file.read_text(encoding="utf-8") == "old"
    assert list(file.parent.glob(".gieok*")) == []
    assert export(store, file) == 2


def test_a_place_that_will_not_do_is_refused(stores: Callable[[str], Store], tmp_path: Path) -> None:
    store = stores("a")
    remember(store, SEOUL)
    home = store.path.parent
    for path in (home / "out.jsonl", store.path, home / "backups/../x"):
        with pytest.raises(InvalidInput, match="outside"):
            export(store, path)
    with pytest.raises(InvalidInput, match="not a file"):
        export(store, tmp_path)
    with pytest.raises(StoreError, match="cannot be written"):
        export(store, tmp_path / "missing" / "out.jsonl")
    assert store.problems() == []


@pytest.mark.skipif(os.name != "posix", reason="Windows asks for a right to make links")
def test_behind_a_link_its_file_is_replaced(stores: Callable[[str], Store], tmp_path: Path) -> None:
    store = stores("a")
    remember(store, SEOUL)
    (tmp_path / "real").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export(store, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert len(lines(tmp_path / "real")) == 2
    (tmp_path / "inside").symlink_to(store.path.parent)
    with pytest.raises(InvalidInput, match="outside"):
        export(store, tmp_path / "inside" / "out.jsonl")


# ---- in


def test_what_comes_in_is_what_went_out(stores: Callable[[str], Store], file: Path) -> None:
    store, empty = stores("a"), stores("b")
    old, new, third = remember(store, SEOUL, BUSAN, "저는 제주에 살아요")
    supersede(store, old, new)
    supersede(store, new, third, "merged")
    export(store, file)
    assert take(empty, file) == Imported(3, 0)
    assert everything(empty) == everything(store)
    assert take(empty, file) == Imported(0, 3)
    assert everything(empty) == everything(store)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(2, 1, 2), datetime(9998, 12, 30), timezones=offsets)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            texts, st.sampled_from(CATEGORIES) | st.none(), st.sampled_from(KINDS) | st.none(), texts | st.none(),
            moments | st.none(), moments, st.floats(0, 1), st.integers(0, 9) | st.none(),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_whatever_a_memory_is_it_comes_through(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[Any, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("wild")
    with closing(Store(folder / "a")) as store, closing(Store(folder / "b")) as empty:
        stored: list[str] = []
        for text, category, kind, source, when, created, importance, newer in wanted:
            with store.write() as db:
                if find(db, "나", text, when):
                    continue
                seq, new = add(db, Draft("나", category, kind, source, when), text)
                stored.append(new.id)
                db.execute(
                    "UPDATE memories SET created = ?, valid_to = ?, importance = ?, superseded_by = ?, fate = ? WHERE seq = ?",
                    (
                        at := transfer.stamp(created), None if newer is None else at, importance,
                        None if newer is None else f"x{newer}", None if newer is None else "merged", seq,
                    ),
                )  # fmt: skip
                if when is None:
                    db.execute("UPDATE memories SET moment = created WHERE seq = ?", (seq,))
        with store.write():  # also where nothing was remembered there is a file then
            pass
        export(store, folder / "out")
        assert take(empty, folder / "out") == Imported(len(stored), 0)
        with empty.write():
            pass
        assert everything(empty) == everything(store)
        export(empty, folder / "again")
        assert (folder / "again").read_bytes() == (folder / "out").read_bytes()


def test_the_order_of_the_file_is_the_order_of_history(stores: Callable[[str], Store], file: Path) -> None:
    store, other = stores("a"), stores("b")
    remember(store, "하나", "둘", "셋")
    with store.write() as db:
        for seq, year in enumerate((2400, 1970, 2026), 1):
            at = transfer.stamp(datetime(year, 1, 1, tzinfo=UTC))
            db.execute("UPDATE memories SET created = ?, moment = ? WHERE seq = ?", (at, at, seq))
    export(store, file)
    remember(other, "먼저")
    take(other, file)
    assert [row[5] for row in everything(other)] == ["먼저", "하나", "둘", "셋"]
    assert [row[10] for row in everything(other)][1:] == [row[10] for row in everything(store)]


def test_a_text_that_is_current_here_stands_for_the_one_in_the_file(stores: Callable[[str], Store], file: Path) -> None:
    store, other = stores("a"), stores("b")
    early, old, new = remember(store, "저는 인천에 살아요", SEOUL, BUSAN)
    supersede(store, early, new)
    supersede(store, old, new)
    export(store, file)
    header, *said = lines(file)
    rewritten(file, [header, said[0], said[2], said[1]])  # one that refers to it before, one after
    [mine] = remember(other, BUSAN)
    remember(other, BUSAN, user="수진")
    assert take(other, file) == Imported(2, 1)
    newer = {row[4]: row[14] for row in everything(other)}
    assert (newer[early.id], newer[old.id], newer[mine.id]) == (mine.id, mine.id, None)
    assert take(other, file) == Imported(0, 3)


def test_another_user_may_have_the_same_text(stores: Callable[[str], Store], file: Path) -> None:
    store, other = stores("a"), stores("b")
    remember(store, SEOUL, user="수진")
    remember(other, SEOUL)
    export(store, file)
    assert take(other, file) == Imported(1, 0)


def test_a_superseded_text_comes_in_beside_a_current_one(stores: Callable[[str], Store], file: Path) -> None:
    store, other = stores("a"), stores("b")
    old, new = remember(store, SEOUL, BUSAN)
    supersede(store, old, new)
    export(store, file)
    [mine] = remember(other, SEOUL)
    assert take(other, file) == Imported(2, 0)
    with other.read() as db:
        assert find(db, "default", SEOUL, None) == mine


def test_an_import_that_was_cut_short_goes_on(
    stores: Callable[[str], Store], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = stores("a"), stores("b")
    remember(store, *(f"기억 {n}" for n in range(25)))
    export(store, file)
    monkeypatch.setattr(transfer, "_BATCH", 10)
    events: list[tuple[int, int]] = []

    def progress(event: Any) -> bool:
        events.append((event.done, event.total))
        return len(events) != 3

    with pytest.raises(Cancelled):
        take(other, file, progress=progress)
    assert len(everything(other)) == 20
    assert take(other, file, progress=progress) == Imported(5, 20)
    assert everything(other) == everything(store)
    assert events[0] == (0, file.stat().st_size) and 0 < events[1][0] < events[2][0] < events[2][1]


def test_a_wrong_line_undoes_no_transaction_before_its_own(
    stores: Callable[[str], Store], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = stores("a"), stores("b")
    remember(store, *(f"기억 {n}" for n in range(5)))
    export(store, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    monkeypatch.setattr(transfer, "_BATCH", 2)
    with pytest.raises(InvalidInput, match="line 6: the file ends within this line"):
        take(other, file)
    assert len(everything(other)) == 4
    file.write_bytes(whole)
    assert take(other, file) == Imported(1, 4)


def test_large_lines_make_small_transactions(
    stores: Callable[[str], Store], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = stores("a"), stores("b")
    remember(store, *(f"{n}" * 900 for n in range(6)))
    export(store, file)
    monkeypatch.setattr(transfer, "_BATCH_BYTES", 1_500)
    assert [len(batch) for batch in transfer._batches(read(file))] == [2, 2, 2]
    assert take(other, file) == Imported(6, 0)


# ---- vectors


def test_vectors_go_along_where_they_are_asked_for(stores: Callable[[str], Store], file: Path) -> None:
    store, other = stores("a"), stores("b")
    remember(store, SEOUL, BUSAN, "벡터가 없는 기억")
    embed(store, (0.6, 0.8), (1, 0), None)
    export(store, file)
    assert not {"vector", "weights", "model"} & {name for line in lines(file) for name in line}
    export(store, file, vectors=True)
    assert ["vector" in line for line in lines(file)[1:]] == [True, True, False]
    take(other, file)
    assert vectors(other) == vectors(store) and len(vectors(other)) == 2
    with other.read() as db:
        place = spaces.serving(db)
        assert place and (place.space, place.dim, place.complete) == (HERE, 2, False)  # the third has to be made
    embed(store, None, None, (0, 1))
    export(store, file, vectors=True)
    take(full := stores("c"), file)
    with full.read() as db:
        assert (found := spaces.serving(db)) and found.complete
        assert {seq for (seq,) in rows(db, "SELECT memory FROM journal")} >= {1, 2, 3}  # the index hears of them


def test_vectors_of_another_model_stay_behind(stores: Callable[[str], Store], file: Path) -> None:
    store, other = stores("a"), stores("b")
    remember(store, SEOUL)
    embed(store, (0.6, 0.8), space=THERE)
    export(store, file, vectors=True)
    assert take(other, file) == Imported(1, 0)
    with other.read() as db:
        assert rows(db, "SELECT count(*) FROM spaces UNION ALL SELECT count(*) FROM vectors") == [(0,), (0,)]


def test_memories_without_vectors_make_a_space_incomplete(stores: Callable[[str], Store], file: Path) -> None:
    store, other = stores("a"), stores("b")
    remember(store, BUSAN)
    export(store, file)
    embed(other)
    remember(other, SEOUL)
    embed(other, (1, 0))
    take(other, file)
    with other.read() as db:
        place = spaces.serving(db)
        assert place and not place.complete
        assert [text for _, text in spaces.missing(db, place.number, 0, 9)] == [BUSAN]


def test_a_vector_of_another_width_is_refused_by_its_line(stores: Callable[[str], Store], file: Path) -> None:
    store, other = stores("a"), stores("b")
    remember(store, SEOUL, BUSAN)
    embed(store, None, (1, 0))
    export(store, file, vectors=True)
    with other.write() as db:
        spaces.made(db, HERE, 3)
    with pytest.raises(InvalidInput, match="line 3: its vector has 2 numbers, where those of this model have 3"):
        take(other, file)
    assert everything(other) == []
