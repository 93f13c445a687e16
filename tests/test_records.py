from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from engine.errors import InvalidInput
from engine.records import Filter, Hit, Memory, memory

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
