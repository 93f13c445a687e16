"""A memory as a value, a row and a filter, and what one statement changes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import apsw
import pytest

from engine import records
from engine.errors import InvalidInput, MemoryNotFound
from engine.index import Wanted
from engine.inputs import CATEGORIES
from engine.migrations import MIGRATIONS
from engine.records import COLUMNS, Draft, Filter, Hit, Memory, add, edit, find, memory, reinforce

KST = timezone(timedelta(hours=9))
ROW = ("id1", "글", "goal", None, "엄마", "u", -1, "2026-03-05T00:00:00+09:00", 0, None, None, 0.5)


def test_a_row_becomes_a_memory_with_aware_times() -> None:
    found = memory(ROW)
    assert found.created == datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert found.created.utcoffset() is not None
    assert found.when == datetime(2026, 3, 5, tzinfo=KST)
    assert found.when.utcoffset() == timedelta(hours=9)  # the caller's, wherever the machine is now
    assert (found.valid_from, found.valid_to) == (datetime(1970, 1, 1, tzinfo=UTC), None)


def test_to_dict_is_json_and_says_everything() -> None:
    found = memory(ROW)
    value = json.loads(json.dumps(Hit(found, 0.5, {"dense": 0.5}).to_dict()))
    assert value["score"] == 0.5
    assert value["parts"] == {"dense": 0.5}
    assert list(value["memory"]) == list(Memory.__slots__)
    assert value["memory"]["when"] == "2026-03-05T00:00:00+09:00"
    assert datetime.fromisoformat(value["memory"]["created"]) == found.created
    assert value["memory"]["valid_to"] is None


def test_memories_are_values() -> None:
    assert memory(ROW) == memory(ROW)
    assert len({Hit(memory(ROW), 0.5, {"dense": 0.5}), Hit(memory(ROW), 0.5, {"dense": 0.5})}) == 1
    with pytest.raises(AttributeError):
        memory(ROW).text = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("until", "last"),
    [
        (date(2026, 3, 5), datetime(2026, 3, 5, 23, 59, 59, 999999)),
        ("2026-03-05", datetime(2026, 3, 5, 23, 59, 59, 999999)),
        ("2026-03-05T10:00", datetime(2026, 3, 5, 10)),
        (datetime(2026, 3, 5, 10, tzinfo=KST), datetime(2026, 3, 5, 10, tzinfo=KST)),
    ],
)
def test_until_a_day_is_until_its_end(until: date | str, last: datetime) -> None:
    where, values = Filter("u", until=until).sql()
    assert where == "user = ? AND moment <= ?"
    assert values == [
        "u",
        (last.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1),
    ]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"user": ""}, InvalidInput),
        ({"user": 3}, TypeError),
        ({"category": "sports"}, InvalidInput),
        ({"category": 1}, TypeError),
        ({"source": "\ud800"}, InvalidInput),
        ({"since": "어제"}, InvalidInput),
        ({"until": "2026-13-01"}, InvalidInput),
        ({"until": 5}, TypeError),
        ({"since": datetime.min}, InvalidInput),
    ],
)
def test_wrong_filters_are_refused(wrong: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Filter(**{"user": "u", **wrong})  # type: ignore[arg-type]


def test_a_filter_says_the_same_to_the_index_as_to_sqlite() -> None:
    wanted = Filter("u", category="work", source="엄마", since="2026-03-05", until="2026-03-05").wanted()
    day = int(datetime(2026, 3, 5).astimezone().timestamp()) * 10**6
    assert wanted == Wanted(
        user=records.hashed("u"),
        source=records.hashed("엄마"),
        category=CATEGORIES.index("work") + 1,
        since=day,
        until=day + 86_400_000_000 - 1,
    )
    assert Filter("u").wanted() == Wanted(user=records.hashed("u"))


def test_hashes_stay_what_they_are_and_mean_something() -> None:
    """They stand in index files."""
    assert (records.hashed("민지"), records.hashed("")) == (1_971_601_613_514_793_691, 6_510_301_506_637_419_378)
    many = {records.hashed(str(number)) for number in range(10_000)}
    assert len(many) == 10_000 and all(0 < one < 1 << 63 for one in many)
    assert [records.category_code(one) for one in (None, *CATEGORIES)] == list(range(len(CATEGORIES) + 1))


# ---- rows


@pytest.fixture
def db() -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(":memory:")) as db:
        for step in MIGRATIONS:
            step(db)
        yield db


DRAFT = Draft("u", "work", "fact", "엄마", datetime(2026, 3, 5, tzinfo=KST))


def row(db: apsw.Connection, seq: int) -> dict[str, Any]:
    cursor = db.execute("SELECT * FROM memories WHERE seq = ?", (seq,))
    names = [column[0] for column in cursor.description]
    return dict(zip(names, next(cursor), strict=True))


def test_a_memory_is_stored_as_it_is_returned(db: apsw.Connection) -> None:
    seq, stored = add(db, DRAFT, "글")
    assert (stored.text, stored.user, stored.category, stored.kind) == ("글", "u", "work", "fact")
    assert (stored.source, stored.when, stored.importance) == ("엄마", DRAFT.when, records.IMPORTANCE)
    assert stored.valid_from == stored.created and (stored.valid_to, stored.superseded_by) == (None, None)
    assert memory(next(db.execute(f"SELECT {COLUMNS} FROM memories WHERE seq = ?", (seq,)))) == stored
    assert row(db, seq)["moment"] == records.stamp(datetime(2026, 3, 5, tzinfo=KST))
    later, undated = add(db, Draft("u", None, None, None, None), "다른 글")
    assert later > seq and row(db, later)["moment"] == records.stamp(undated.created)


def test_only_a_current_memory_of_the_user_is_found_by_its_text(db: apsw.Connection) -> None:
    _, stored = add(db, DRAFT, "글")
    assert find(db, "u", "글", stored.when) == stored
    assert find(db, "v", "글", stored.when) is find(db, "u", "글 ", stored.when) is None
    db.execute("UPDATE memories SET superseded_by = 'x'")
    assert find(db, "u", "글", stored.when) is None


def test_only_what_is_named_changes(db: apsw.Connection) -> None:
    seq, stored = add(db, DRAFT, "글")
    before = row(db, seq)
    assert edit(db, stored.id, {}) == (seq, stored)
    assert row(db, seq) == before
    assert edit(db, stored.id, {"text": "새 글"})[1].text == "새 글"
    assert row(db, seq) == before | {"text": "새 글", "digest": records.digest("새 글", stored.when)}
    edit(db, stored.id, {"when": None, "importance": 0})
    assert row(db, seq) == before | {
        "text": "새 글", "digest": records.digest("새 글", None), "happened": None, "moment": before["created"], "importance": 0.0,
    }  # fmt: skip
    with pytest.raises(MemoryNotFound):
        edit(db, "nothing", {"importance": 0.5})


def test_reinforcing_takes_a_share_of_what_is_missing(db: apsw.Connection) -> None:
    _, stored = add(db, DRAFT, "글")
    once = reinforce(db, stored)
    twice = reinforce(db, once)
    assert 0.5 == stored.importance < once.importance < twice.importance < 1
    assert find(db, "u", "글", stored.when) == twice
    assert records.reinforced(1.0) == 1.0
