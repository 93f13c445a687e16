"""Turns that memories come from: kept once, told in order, and gone with the last memory that they carried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import apsw
import fake_embedder
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.connections import rows
from engine.conversations import Saying, blank, keep, turns_of
from engine.inputs import Turn
from engine.memory import MemoryStore
from engine.migrations import MIGRATIONS

KST = timezone(timedelta(hours=9))
HELLO = Turn("user", "저는 민지예요. 서울에 살아요", "민지", datetime(2026, 3, 5, 10, tzinfo=KST))
WORK = Turn("user", "요즘 회사가 바빠요")
FACTS = ("이름은 민지다", "서울에 산다", "회사가 바쁘다")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with closing(MemoryStore(tmp_path / "home", fake_embedder.faculties())) as store:
        yield store


def remember(store: MemoryStore, text: str, said: Saying, user: str = "u") -> str:
    return store.remember([text], user=user, said=said)[0].id


def told(store: MemoryStore, memory: str) -> list[Turn]:
    with store._store.read() as db:
        return turns_of(db, memory)


def left(store: MemoryStore) -> list[tuple[str, str]]:
    """Return conversation and content of each turn."""
    with store._store.read() as db:
        assert rows(db, "SELECT 1 FROM conversations WHERE seq NOT IN (SELECT conversation FROM turns)") == []
        return rows(
            db, "SELECT c.name, content FROM turns JOIN conversations AS c ON conversation = c.seq ORDER BY 1, 2"
        )


def test_a_turn_is_kept_once_with_all_that_was_said_of_it(store: MemoryStore) -> None:
    name, place = (
        remember(store, FACTS[0], Saying("첫 만남", 0, HELLO)),
        remember(store, FACTS[1], Saying("첫 만남", 0, HELLO)),
    )
    assert told(store, name) == told(store, place) == [HELLO]
    assert left(store) == [("첫 만남", HELLO.content)]
    work = remember(store, FACTS[2], Saying("첫 만남", 1, WORK))
    assert told(store, work) == [WORK]
    assert told(store, "nobody") == []


def test_a_memory_may_come_from_several_turns(store: MemoryStore) -> None:
    first = remember(store, FACTS[0], Saying("첫 만남", 0, HELLO))
    assert remember(store, FACTS[0], Saying("첫 만남", 1, WORK)) == first, "the same again"
    assert remember(store, FACTS[0], Saying("첫 만남", 1, WORK)) == first
    assert told(store, first) == [HELLO, WORK]


def test_conversations_of_the_same_name_are_each_users_own(store: MemoryStore) -> None:
    mine, yours = (
        remember(store, FACTS[0], Saying("a", 0, HELLO)),
        remember(store, FACTS[0], Saying("a", 0, WORK), "남"),
    )
    assert (told(store, mine), told(store, yours)) == ([HELLO], [WORK])
    store.forget_all("남")
    assert left(store) == [("a", HELLO.content)]


def test_a_turn_goes_with_the_last_memory_that_it_carried(store: MemoryStore, tmp_path: Path) -> None:
    name, place = (remember(store, fact, Saying("a", 0, HELLO)) for fact in FACTS[:2])
    work = remember(store, FACTS[2], Saying("a", 1, WORK))
    store.forget(name)
    assert left(store) == [("a", WORK.content), ("a", HELLO.content)]
    store.forget(place)
    assert left(store) == [("a", WORK.content)]
    assert HELLO.content.encode() not in b"".join(
        file.read_bytes() for file in (tmp_path / "home").rglob("*") if file.is_file()
    )
    store.forget(work)
    assert left(store) == []


def test_turns_that_carried_two_memories_go_when_both_go_at_once(store: MemoryStore) -> None:
    for fact in FACTS[:2]:
        remember(store, fact, Saying("a", 0, HELLO))
    assert store.forget_all("u") == 2
    assert left(store) == []


def test_a_turn_is_stored_with_its_memory_or_not_at_all(store: MemoryStore) -> None:
    remember(store, FACTS[0], Saying("a", 0, HELLO))

    def failing() -> None:
        with store._store.write() as db:
            keep(db, Saying("b", 0, WORK), "u", "nobody")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert left(store) == [("a", HELLO.content)]


def test_what_is_forgotten_leaves_a_turn_that_others_need(store: MemoryStore) -> None:
    both = Turn("user", "저는 서울에 살아요. 회사가 바빠요")
    home = remember(store, "저는 서울에 살아요.", Saying("첫 만남", 0, both))
    work = remember(store, "회사가 바빠요", Saying("첫 만남", 0, both))
    store.forget(home)
    assert [turn.content for turn in told(store, work)] == ["… 회사가 바빠요"]
    store.forget(work)
    assert left(store) == []


def test_what_is_corrected_leaves_the_turns_that_it_came_from(store: MemoryStore) -> None:
    alone = remember(store, "저는 서울에 살아요", Saying("첫 만남", 0, Turn("user", "저는 서울에 살아요!")))
    store.update(alone, {"text": "저는 부산에 살아요"})
    assert left(store) == [] and told(store, alone) == []


def test_what_is_corrected_to_the_same_leaves_its_turns(store: MemoryStore) -> None:
    alone = remember(store, HELLO.content, Saying("첫 만남", 0, HELLO))
    store.update(alone, {"text": HELLO.content})
    assert told(store, alone) == [HELLO]


def test_importance_grows_with_what_is_said_not_with_how_often_it_is_found(store: MemoryStore) -> None:
    """Who could not note that a turn was searched finds the same in it again."""

    def importance() -> float:
        return store.memories(user="u")[0].importance

    remember(store, FACTS[0], Saying("첫 만남", 0, HELLO))
    once = importance()
    for _ in range(5):
        remember(store, FACTS[0], Saying("첫 만남", 0, HELLO))
    assert importance() == once
    remember(store, FACTS[0], Saying("첫 만남", 1, WORK))
    twice = importance()
    assert twice > once
    store.remember([FACTS[0]], user="u")
    assert importance() > twice, "that it is known from a turn does not matter where it is said elsewhere"


BLANKED = [
    ("저는 서울에 살아요.", "저는 서울에 살아요. 네", "… 네"),
    ("저는  서울에\n살아요.", "아, 저는 서울에 살아요.저는\t서울에 살아요.", "아, ……"),
    ("  서울에서  ", "서울에서!", "…!"),
    ("서울에", "서울에서 서울에", "서울에서 …"),
    ("비", "비빔밥, 준비", "비빔밥, 준비"),
    ("비", "비. '비'", "…. '…'"),
    ("😀", "😀말 😀", "😀말 …"),
    ("a b", "a b ab a bc", "… ab a bc"),
    ("a.c d(", "abc d( a.c d(", "abc d( …"),
    ("…가나다라", "……가나다라가나다라", "……"),
    (" \n", "가 \n나", "가 \n나"),
]


def said_by(user: str, content: str) -> apsw.Connection:
    db = apsw.Connection(":memory:")
    for step in MIGRATIONS:
        step(db)
    db.execute("INSERT INTO conversations (user, name, created) VALUES (?, 'c', 0)", (user,))
    db.execute(
        "INSERT INTO turns (conversation, place, role, content, created) VALUES (1, 0, 'user', ?, 0)", (content,)
    )
    return db


@pytest.mark.parametrize(("text", "content", "left"), BLANKED)
def test_what_is_blanked(text: str, content: str, left: str) -> None:
    for user, expected in (("u", left), ("남", content)):
        with closing(said_by(user, content)) as db:
            blank(db, "u", text)
            assert rows(db, "SELECT content FROM turns") == [(expected,)]


_WILD = st.text(st.sampled_from("가나다 \n….*(a\u3000"), max_size=12)


@given(st.text(st.sampled_from("가나다 \n….*(a\u3000"), min_size=4, max_size=12), _WILD, _WILD)
def test_whatever_is_blanked_is_nowhere(text: str, before: str, after: str) -> None:
    flat = " ".join(text.split())
    if sum(letter.isalnum() for letter in flat) < 4:
        return
    with closing(said_by("u", f"{before}{text}{after}{flat}")) as db:
        blank(db, "u", text)
        ((content,),) = rows(db, "SELECT content FROM turns")
        assert text not in content and flat not in " ".join(content.split())
