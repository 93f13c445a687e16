"""What callers may pass in, and what each mistake is told."""

from __future__ import annotations

import time as clock
from collections import UserDict, UserList
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError, InvalidInput
from engine.inputs import MAX_TEXT_BYTES, ROLES, Turn, check_dialogue, check_moment, check_text, check_texts

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
LONE = st.integers(0xD800, 0xDFFF).map(chr)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes() | st.dates(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["role", "content", "name", "at", "tools"]), inner)
        | st.sets(st.integers())
    ),
    max_leaves=8,
)
NOT_STRINGS: list[object] = [None, 0, 1.5, True, b"bytes", bytearray(b"x"), ["a"], {"a": 1}, object(), str]


def told(call: Callable[[], object], what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert what in str(caught.value)


def test_a_refusal_is_an_engine_error_and_a_value_error() -> None:
    assert issubclass(InvalidInput, EngineError)
    assert issubclass(InvalidInput, ValueError)


# ---- one text


@given(TEXT)
def test_a_text_comes_back_as_it_is(text: str) -> None:
    assert check_text(text) is text


@pytest.mark.parametrize("text", [" ", "\n", "\t\t", "\u3000", "\u200b", "\ufeff", "😀", "ㄱ", "\u1100\u1161", "\x7f"])
def test_white_space_and_odd_characters_are_text(text: str) -> None:
    assert check_text(text) == text


@pytest.mark.parametrize("value", NOT_STRINGS)
def test_another_type_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=f"query must be a str, not {type(value).__name__}"):
        check_text(value, "query")


def test_an_empty_text_is_refused() -> None:
    told(lambda: check_text("", "query"), "query is empty")


@given(before=TEXT, after=TEXT)
def test_a_nul_is_refused_and_its_place_told(before: str, after: str) -> None:
    told(lambda: check_text(f"{before}\0{after}"), f"NUL character at position {len(before)}")


@given(before=TEXT, half=LONE, after=TEXT)
def test_half_a_character_is_refused_and_its_place_told(before: str, half: str, after: str) -> None:
    told(lambda: check_text(before + half + after), f"lone surrogate) at position {len(before)}")


def test_the_limit_is_in_bytes_and_inclusive() -> None:
    assert check_text("가" * 100, limit=300)
    told(lambda: check_text("가" * 100 + "a", limit=300), "301 bytes long; the limit is 300")
    assert check_text("a" * MAX_TEXT_BYTES)
    told(lambda: check_text("a" * (MAX_TEXT_BYTES + 1)), "262,145 bytes long; the limit is 262,144")
    assert check_text("a" * (MAX_TEXT_BYTES + 1), limit=None)


@pytest.mark.parametrize("mistake", ["비밀\0", "비밀\ud800", "비밀" * MAX_TEXT_BYTES])
def test_no_message_repeats_what_a_user_wrote(mistake: str) -> None:
    for call in (check_text, check_dialogue, lambda text: check_dialogue([{"role": "user", "content": text}])):
        with pytest.raises(InvalidInput) as caught:
            call(mistake)
        assert "비밀" not in str(caught.value)


# ---- several


@given(st.lists(TEXT))
def test_several_texts_keep_their_order(texts: list[str]) -> None:
    for form in (texts, tuple(texts), iter(texts), dict.fromkeys(range(len(texts)), "").keys() and texts):
        assert check_texts(form) == (texts, False)


def test_one_text_is_told_from_a_list_of_one() -> None:
    assert check_texts("가") == (["가"], True)
    assert check_texts(["가"]) == (["가"], False)
    assert check_texts(text for text in ("가", "나")) == (["가", "나"], False)


def test_a_bad_text_among_several_is_named_by_its_number() -> None:
    told(lambda: check_texts(["a", "b", ""], "text"), "text 2 is empty")
    with pytest.raises(TypeError, match="text 1 must be a str, not int"):
        check_texts(["a", 5])


@pytest.mark.parametrize("value", [None, 5, 1.5, object(), b"bytes"])
def test_what_is_neither_text_nor_texts_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        check_texts(value)


# ---- a moment


def test_none_is_no_moment() -> None:
    assert check_moment(None, "at") is None


LOCAL = datetime(2026, 3, 5).astimezone()
SEOUL = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (date(2026, 3, 5), LOCAL),
        (datetime(2026, 3, 5), LOCAL),
        ("2026-03-05", LOCAL),
        ("20260305", LOCAL),
        ("2026-W10-4", LOCAL),
        ("2026-03-05T13:30", datetime(2026, 3, 5, 13, 30).astimezone()),
        ("2026-03-05 13:30:01.5", datetime(2026, 3, 5, 13, 30, 1, 500_000).astimezone()),
        ("2026-03-05T13:30Z", datetime(2026, 3, 5, 13, 30, tzinfo=UTC)),
        ("2026-03-05T13:30+09:00", datetime(2026, 3, 5, 13, 30, tzinfo=SEOUL)),
        (datetime(2026, 3, 5, 13, 30, tzinfo=SEOUL), datetime(2026, 3, 5, 13, 30, tzinfo=SEOUL)),
    ],
)
def test_a_moment_is_a_date_a_time_or_iso(value: Any, moment: datetime) -> None:
    found = check_moment(value, "at")
    assert found is not None
    assert found == moment
    assert found.utcoffset() == moment.utcoffset()


@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))
def test_a_naive_time_is_local_and_an_aware_one_is_kept(moment: datetime) -> None:
    found = check_moment(moment, "at")
    assert found is not None
    assert found == moment.astimezone()
    assert check_moment(found, "at") is found
    assert check_moment(found.isoformat(), "at") == found


class NoOffset(tzinfo):
    """A time zone that does not know its offset: such a time counts as naive in Python."""

    def utcoffset(self, moment: datetime | None) -> None:
        return None

    def dst(self, moment: datetime | None) -> None:
        return None

    def tzname(self, moment: datetime | None) -> str:
        return "?"


def test_a_time_zone_without_an_offset_is_local() -> None:
    found = check_moment(datetime(2026, 3, 5, tzinfo=NoOffset()), "at")
    assert found is not None
    assert found == LOCAL
    assert found.utcoffset() is not None


@pytest.mark.parametrize("value", ["", "어제", "2026-02-30", "2026-3-5", "13:30", "2026-03-05T25:00", "1\ud800", "\0"])
def test_what_is_not_iso_is_refused(value: str) -> None:
    told(lambda: check_moment(value, "since"), "since is not an ISO date")


@pytest.mark.parametrize("value", [5, 1.5, True, b"2026-03-05", time(13, 30), timedelta(1), [2026, 3, 5]])
def test_another_type_of_moment_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="until must be a datetime, a date or an ISO string"):
        check_moment(value, "until")


FAR_WEST, FAR_EAST = timezone(timedelta(hours=-23, minutes=-59)), timezone(timedelta(hours=23, minutes=59))


@pytest.mark.parametrize(
    "value",
    [
        datetime.max.replace(tzinfo=FAR_WEST),
        datetime.min.replace(tzinfo=FAR_EAST),
        "9999-12-31T23:59:59-12:00",
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_a_time_that_utc_cannot_hold_is_refused(value: Any) -> None:
    told(lambda: check_moment(value, "at"), "at is outside the years")


@pytest.mark.skipif(not hasattr(clock, "tzset"), reason="the zone of a process is fixed here")
@pytest.mark.parametrize(
    ("zone", "value"),
    [
        ("Asia/Seoul", datetime(1, 1, 1, 8)),
        ("Asia/Seoul", date.min),
        ("America/Los_Angeles", datetime(9999, 12, 31, 20)),
        ("America/Los_Angeles", datetime.max),
        ("Asia/Seoul", "9999-12-31T23:59:59Z"),
        ("America/Los_Angeles", "0001-01-01T00:00:00Z"),
    ],
)
def test_a_local_time_at_the_end_of_days_is_refused(monkeypatch: pytest.MonkeyPatch, zone: str, value: Any) -> None:
    monkeypatch.setenv("TZ", zone)
    clock.tzset()
    try:
        told(lambda: check_moment(value, "at"), "at is outside the years")
    finally:
        monkeypatch.undo()
        clock.tzset()


@given(st.datetimes(timezones=st.none() | st.timezones()) | st.dates())
def test_every_moment_that_is_accepted_can_be_compared_and_converted(value: Any) -> None:
    try:
        found = check_moment(value, "at")
    except InvalidInput:
        return
    assert found is not None
    for other in (found.astimezone(UTC), found.astimezone()):
        assert other.timestamp() == found.timestamp()


# ---- a dialogue


def test_a_string_is_one_user_turn() -> None:
    assert check_dialogue("안녕") == (Turn("user", "안녕"),)


@given(st.lists(st.tuples(st.sampled_from(ROLES), TEXT), min_size=1))
def test_messages_become_turns_in_order(messages: list[tuple[str, str]]) -> None:
    turns = tuple(Turn(role, content) for role, content in messages)
    dicts = [{"role": role, "content": content} for role, content in messages]
    assert check_dialogue(dicts) == turns
    assert check_dialogue(tuple(dicts)) == turns
    assert check_dialogue(UserList(map(UserDict, dicts))) == turns


def test_a_message_may_have_a_name_and_a_time() -> None:
    message = {"role": "user", "content": "안녕", "name": "민지", "at": "2026-03-05"}
    assert check_dialogue([message]) == (Turn("user", "안녕", "민지", LOCAL),)
    assert check_dialogue([{**message, "name": None, "at": None}]) == (Turn("user", "안녕"),)
    for at in (date(2026, 3, 5), datetime(2026, 3, 5)):
        assert check_dialogue([{**message, "at": at}])[0].at == LOCAL


class Role(str, Enum):  # noqa: UP042 - callers' code is full of these
    USER = "user"


def test_a_role_may_be_a_string_enum() -> None:
    [turn] = check_dialogue([{"role": Role.USER, "content": "안녕"}])
    assert turn.role == "user" and type(turn.role) is str


USER = {"role": "user", "content": "안녕"}


@pytest.mark.parametrize(
    ("dialogue", "what"),
    [
        ("", "message is empty"),
        ([], "no messages"),
        ([USER, {**USER, "content": ""}], "content of message 1 is empty"),
        ([USER, {**USER, "content": "a\0"}], "content of message 1 holds a NUL"),
        ([USER, {**USER, "content": "\udc80"}], "content of message 1 holds half a character"),
        ([USER, {**USER, "content": "가" * MAX_TEXT_BYTES}], "content of message 1 is 786,432 bytes"),
        ([USER, {**USER, "name": ""}], "name of message 1 is empty"),
        ([USER, {**USER, "at": "어제"}], "at of message 1 is not an ISO date"),
        ([USER, {**USER, "role": "tool"}], "role of message 1 must be one of system, user, assistant"),
        ([USER, {**USER, "role": None}], "role of message 1"),
        ([USER, {**USER, "role": ["user"]}], "role of message 1"),
        ([USER, {"role": "user"}], "message 1 has no 'content'"),
        ([USER, {"content": "안녕"}], "message 1 has no 'role'"),
        ([USER, {}], "message 1 has no 'content'"),
        ([USER, {**USER, "tools": []}], "message 1 has an unknown key 'tools'"),
        ([USER, {5: 6}], "message 1 has an unknown key '5'"),
    ],
)
def test_each_mistake_in_a_dialogue_is_told(dialogue: Any, what: str) -> None:
    told(lambda: check_dialogue(dialogue), what)


@pytest.mark.parametrize(
    ("dialogue", "what"),
    [
        (None, "a dialogue is a str or a list of messages, not NoneType"),
        (5, "not int"),
        (USER, "not dict"),
        ({1, 2}, "not set"),
        (iter([USER]), "not list_iterator"),
        (b"bytes", "message 0 must be a dict with role and content, not int"),
        ([USER, "안녕"], "message 1 must be a dict with role and content, not str"),
        ([USER, ("user", "안녕")], "message 1 must be a dict"),
        ([USER, {**USER, "content": None}], "content of message 1 must be a str, not NoneType"),
        ([USER, {**USER, "content": ["안녕"]}], "content of message 1 must be a str, not list"),
        ([USER, {**USER, "name": 5}], "name of message 1 must be a str"),
        ([USER, {**USER, "at": 5}], "at of message 1 must be a datetime, a date or an ISO string"),
    ],
)
def test_each_wrong_type_in_a_dialogue_is_told(dialogue: Any, what: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_dialogue(dialogue)
    assert what in str(caught.value)


def test_a_long_message_is_accepted_where_there_is_no_limit() -> None:
    assert check_dialogue("a" * (MAX_TEXT_BYTES + 1), limit=None)


@given(ANYTHING | st.lists(st.fixed_dictionaries({"role": st.sampled_from(ROLES) | ANYTHING, "content": ANYTHING})))
def test_whatever_comes_is_accepted_or_explained(value: Any) -> None:
    checks: tuple[Callable[[Any], object], ...] = (
        check_text, check_texts, check_dialogue, lambda moment: check_moment(moment, "at"),
    )  # fmt: skip
    for check in checks:
        try:
            check(value)
        except (InvalidInput, TypeError) as mistake:
            assert str(mistake)  # noqa: PT017 - what is not refused is right
