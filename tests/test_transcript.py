"""Sessions on disk: places, what waits, summaries, and that whatever is forgotten is in no file afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import apsw
import fake_embedder
import pytest
from fake_answers import every_byte

from engine import store as store_module
from engine.connections import rows
from engine.conversations import Saying
from engine.errors import EngineClosed, InvalidInput
from engine.inputs import Turn
from engine.memory import MemoryStore
from engine.migrations import MIGRATIONS
from engine.records import Memory
from engine.store import BACKUPS, FILE_NAME
from engine.transcript import ANSWERING, Condensed, Said, Seen, Transcript

AT = datetime(2026, 3, 5, 10, 30, tzinfo=timezone(timedelta(hours=9)))
SECRET = "제 비밀번호는 감자구이사백십칠이에요."
NAMES = ["대화", "a' OR '1'='1", "%_*?[", "../..", "😀\n줄", " ", "a", "A", "민지\x01대화", "é", "e\u0301", "x" * 9_000]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here loses power."""
    monkeypatch.setattr(store_module, "_PRAGMAS", (*store_module._PRAGMAS, "synchronous = OFF"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "홍길동" / "내 문서"


@pytest.fixture
def store(home: Path) -> Iterator[MemoryStore]:
    with closing(MemoryStore(home, fake_embedder.faculties())) as store:
        yield store


@pytest.fixture
def session(store: MemoryStore) -> Transcript:
    return store.transcripts.of("민지", "대화")


def talk(session: Transcript, *texts: str, waiting: bool = False) -> None:
    """Say texts, the user and the assistant in turn."""
    for number, text in enumerate(texts):
        session.say("assistant" if number % 2 else "user", text, AT, waiting=waiting and not number % 2)


def found(store: MemoryStore, text: str, place: int, name: str = "대화", user: str = "민지") -> Memory:
    """Remember what was found in a turn."""
    return store.remember([text], user=user, said=Saying(name, place))[0]


def contents(session: Transcript) -> list[str]:
    return [said.content for said in session.said()]


def traces(home: Path, text: str = SECRET) -> list[str]:
    return [path.name for path in home.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


# ---- what is said


def test_a_session_that_is_not_there_makes_no_file(store: MemoryStore, session: Transcript, home: Path) -> None:
    assert (session.said(), session.waiting(5), session.carried(0), session.condensed()) == ([], [], set(), Condensed())
    assert store.transcripts.unfinished() == []
    assert store.transcripts.forget("민지", "대화") is False
    assert not home.exists()


def test_what_is_said_is_there_in_order_also_after_a_restart(session: Transcript, home: Path) -> None:
    said = [session.say("user", "하나", AT), session.say("assistant", "둘", AT), session.say("user", "셋", AT)]
    assert said == [Said(0, "user", "하나", AT), Said(1, "assistant", "둘", AT), Said(2, "user", "셋", AT)]
    assert session.said() == said
    assert session.said(2) == said[2:]
    assert session.said()[0].turn == Turn("user", "하나", at=AT)
    assert session.said()[0].to_dict() == {
        "place": 0, "role": "user", "content": "하나", "at": "2026-03-05T10:30:00+09:00", "memories": [],
        "condensed": False,
    }  # fmt: skip
    session._store.close()
    with closing(MemoryStore(home, fake_embedder.faculties())) as again:
        assert again.transcripts.of("민지", "대화").said() == said


def test_names_are_taken_as_they_are(store: MemoryStore) -> None:
    left = [store.transcripts.of(*both) for name in NAMES for both in (("민지", name), (name, "민지"))]
    for one in left:
        one.say("user", f"{one.user} {one.name}"[:99], AT, waiting=True)
    assert len(store.transcripts.unfinished()) == len(left)
    while left:
        one = left.pop(len(left) // 2)
        assert store.transcripts.forget(one.user, one.name) is True
        assert [len(other.said()) for other in [one, *left]] == [0, *[1] * len(left)]
        assert store.transcripts.forget(one.user, one.name) is False


def test_a_turn_is_taken_back(session: Transcript) -> None:
    talk(session, "하나", "둘")
    session.unsay(session.say("user", "셋", AT).place)
    assert contents(session) == ["하나", "둘"]
    session.unsay(7)
    assert contents(session) == ["하나", "둘"]


def test_a_turn_that_others_follow_is_not_taken_back(session: Transcript) -> None:
    """Who stops an answer may do so after its last word was stored."""
    session.say("user", "하나", AT, waiting=ANSWERING)
    session.say("assistant", "둘", AT)
    session.unsay(0)
    assert contents(session) == ["하나", "둘"]
    assert session.waiting(9) == [0], "its answer has ended"


def test_some_of_what_was_said_is_read(session: Transcript) -> None:
    talk(session, "하나", "둘", "셋", "넷")
    assert [said.place for said in session.said(1, 3)] == [1, 2]
    assert (session.said(before=0), session.said(2)) == ([], session.said()[2:])


def test_a_turn_that_is_being_answered_does_not_wait_yet(store: MemoryStore, session: Transcript, home: Path) -> None:
    session.say("user", "하나", AT, waiting=ANSWERING)
    session.say("assistant", "둘", AT)
    session.say("user", "셋", AT, waiting=ANSWERING)
    assert (store.transcripts.unfinished(), session.waiting(9)) == ([], [])
    session.answered(0)
    session.answered(1)
    assert (len(store.transcripts.unfinished()), session.waiting(9)) == (1, [0])
    session.searched(session.said(0, 1))
    session.answered(0)
    assert session.waiting(9) == [], "once"
    assert session.answer("넷", AT, session.seen(), [])
    assert session.waiting(9) == [2]
    session.say("user", "다섯", AT, waiting=ANSWERING)
    seen = session.seen()
    session.searched(session.said(2, 3))
    store.forget(store.remember(["셋"], user="민지")[0].id)
    assert not session.answer("여섯", AT, seen, [])
    assert session.waiting(9) == [4], "nor is it written any more"
    session.say("user", "일곱", AT, waiting=ANSWERING)
    store.close()
    with closing(MemoryStore(home, fake_embedder.faculties())) as again:
        (left,) = again.transcripts.unfinished()
        assert left.waiting(9) == [4, 5], "nobody answers it any more"


def test_what_waits_is_searched_once_and_in_order(store: MemoryStore, session: Transcript) -> None:
    talk(session, "하나", "둘", "셋", "넷", "다섯", waiting=True)
    assert (session.waiting(2), session.waiting(9)) == ([0, 2], [0, 2, 4])
    assert [(one.user, one.name) for one in store.transcripts.unfinished()] == [("민지", "대화")]
    session.searched([one for one in session.said() if one.place in (0, 2)])
    assert session.waiting(9) == [4]
    session.searched(session.said())
    assert store.transcripts.unfinished() == []


def test_who_may_not_write_takes_nothing_up(store: MemoryStore, session: Transcript, home: Path) -> None:
    talk(session, "하나", waiting=True)
    with closing(MemoryStore(home, fake_embedder.faculties())) as other:
        assert other.transcripts.unfinished() == []
        assert len(other.transcripts.of("민지", "대화").said()) == 1, "who reads beside sees it"


def test_after_close_everything_says_so(store: MemoryStore, session: Transcript) -> None:
    talk(session, "하나")
    store.close()
    for call in (session.said, session.condensed, lambda: session.waiting(1), lambda: session.say("user", "둘", AT),
                 store.transcripts.unfinished, lambda: store.transcripts.forget("민지", "대화")):  # fmt: skip
        with pytest.raises(EngineClosed):
            call()


# ---- memories and turns


def test_an_answer_knows_what_it_was_given(store: MemoryStore, session: Transcript) -> None:
    one, two = store.remember(["하나", "둘"], user="민지")
    session.say("user", "몇까지 세죠?", AT)
    assert session.answer("둘까지요", AT, session.seen(), [one, two])
    assert set(session.said()[1].memories) == {one.id, two.id}
    store.forget(one.id)
    assert session.said()[1].memories == (two.id,)


def test_what_a_session_carries(store: MemoryStore, session: Transcript) -> None:
    talk(session, "저는 서울에 살아요.", "네", "저는 회사에 다녀요.")
    first, last = found(store, "저는 서울에 살아요.", 0), found(store, "저는 회사에 다녀요.", 2)
    assert (session.carried(0), session.carried(1)) == ({first.id, last.id}, {last.id})
    assert store.transcripts.of("민지", "남").carried(0) == set()


def test_a_memory_needs_a_turn_that_says_it(store: MemoryStore, session: Transcript) -> None:
    """Who searches a turn may come too late: it is gone, or another one has its place."""
    with pytest.raises(InvalidInput, match="forgotten"):
        found(store, SECRET, 0)
    talk(session, "안녕", "네")
    for place, user in ((0, "민지"), (1, "민지"), (7, "민지"), (0, "남")):
        with pytest.raises(InvalidInput, match="forgotten"):
            found(store, SECRET, place, user=user)
    assert store.count() == 0


def test_places_are_not_used_again_by_what_is_in_the_summary(session: Transcript) -> None:
    talk(session, "하나", "둘")
    assert session.condense(session.seen(), Condensed("요약", 2), "v")
    session.unsay(1)
    assert session.say("user", "셋", AT).place == 2
    assert [said.condensed for said in session.said()] == [True, False]


# ---- summaries


def test_a_summary_takes_the_place_of_the_former_one(session: Transcript) -> None:
    talk(session, "하나", "둘", "셋", "넷")
    first, second = Condensed("하나 둘", 2), Condensed("하나 둘 셋 넷", 4)
    before = session.seen()
    assert session.condense(before, first, "v")
    assert session.condensed() == first
    assert [said.condensed for said in session.said()] == [True, True, False, False]
    assert session.seen() == Seen(first, tuple(session.said(2)))
    assert not session.condense(before, second, "v"), "another was faster"
    seen = session.seen()
    session.say("user", "다섯", AT)
    assert session.condense(seen, second, "v"), "whatever was said meanwhile"
    assert not session.condense(session.seen(), Condensed("", 5), "v"), "nothing was summarised"
    assert session.condensed() == second


@pytest.mark.parametrize("gone", ["forgotten", "corrected", "deleted", "everything"])
def test_a_summary_of_what_was_forgotten_meanwhile_is_not_kept(
    store: MemoryStore, session: Transcript, home: Path, gone: str
) -> None:
    talk(session, f"있잖아요. {SECRET} 날씨 좋네요.", f"네, {SECRET}", "둘", "셋")
    memory = found(store, SECRET, 0)
    seen = session.seen()
    CHANGES[gone](store, memory.id)
    assert not session.condense(seen, Condensed(f"비밀: {SECRET}", 2), "v")
    assert session.condensed() == Condensed()
    if gone == "deleted":
        store.forget(memory.id)
    assert traces(home) == []


# ---- forgetting


def told_everywhere(store: MemoryStore) -> Memory:
    """Leave a memory in all places that a text can come to."""
    one = store.transcripts.of("민지", "대화")
    talk(one, SECRET, f"알겠어요: {SECRET}", "제가 뭐라고 했죠?", f"'{SECRET}' 라고요.", f"또 말하지만 {SECRET}", "네.")
    memory = found(store, SECRET, 0)
    assert one.condense(one.seen(), Condensed(f"사용자: {SECRET}", 2), "v")
    other = store.transcripts.of("민지", "다른 날")
    other.say("user", "제 비밀번호가 뭐죠?", AT, waiting=True)
    assert other.answer(f"전에 {SECRET} 하셨어요.", AT, other.seen(), [memory])
    assert other.condense(other.seen(), Condensed(f"비밀번호를 물었고 {SECRET}", 2), "v")
    return memory


@pytest.mark.parametrize("way", ["forget", "update"])
def test_the_text_of_a_memory_is_in_no_file_afterwards(store: MemoryStore, home: Path, way: str) -> None:
    bystander = store.transcripts.of("민지", "딴 얘기")
    talk(bystander, "안녕", "네")
    assert bystander.condense(bystander.seen(), Condensed("인사", 2), "v")
    theirs = store.transcripts.of("철수", "대화")
    talk(theirs, "저는 철수예요.", "네")
    memory = told_everywhere(store)
    if way == "forget":
        store.backup()
    assert traces(home)
    store.forget(memory.id) if way == "forget" else store.update(memory.id, {"text": "다른 말"})
    assert traces(home) == []
    assert contents(store.transcripts.of("민지", "대화")) == [
        "제가 뭐라고 했죠?",
        "'…' 라고요.",
        "또 말하지만 …",
        "네.",
    ]
    assert contents(store.transcripts.of("민지", "다른 날")) == ["제 비밀번호가 뭐죠?", "전에 … 하셨어요."]
    for name in ("대화", "다른 날"):
        assert store.transcripts.of("민지", name).condensed() == Condensed()
    assert (contents(bystander), bystander.condensed().text) == (["안녕", "네"], "인사")
    assert contents(theirs) == ["저는 철수예요.", "네"]
    assert store.problems() == []


def test_a_turn_that_others_come_from_stays_without_what_was_forgotten(store: MemoryStore, home: Path) -> None:
    session = store.transcripts.of("민지", "대화")
    talk(session, f"저는 서울에 살아요. {SECRET}", f"서울이군요. {SECRET}")
    gone, kept = found(store, SECRET, 0), found(store, "저는 서울에 살아요.", 0)
    store.forget(gone.id)
    assert contents(session) == ["저는 서울에 살아요. …", "서울이군요. …"]
    assert traces(home) == []
    store.forget(kept.id)
    assert contents(session) == []


def test_what_is_said_again_and_not_searched_yet_does_not_come_back(store: MemoryStore, home: Path) -> None:
    session = store.transcripts.of("민지", "대화")
    talk(session, SECRET, "네", f"아까 그 말: {SECRET}", "네", waiting=True)
    store.forget(found(store, SECRET, 0).id)
    with pytest.raises(InvalidInput):
        found(store, SECRET, 2)
    assert traces(home) == []


def test_another_session_that_waits_does_not_bring_it_back(store: MemoryStore, home: Path) -> None:
    one, other = store.transcripts.of("민지", "대화"), store.transcripts.of("민지", "다른 날")
    talk(one, SECRET, "네")
    talk(other, f"그러니까 {SECRET} 알죠?", f"네, {SECRET}", "네", waiting=True)
    seen = other.seen()
    assert other.condense(seen, Condensed("비밀번호 이야기", 2), "v")
    store.forget(found(store, SECRET, 0).id)
    with pytest.raises(InvalidInput):
        found(store, SECRET, 0, "다른 날")
    assert contents(other) == ["그러니까 … 알죠?", "네, …", "네"]
    assert other.condensed() == Condensed(), "it was of what is gone"
    assert not other.answer(f"{SECRET}", AT, seen, [])
    assert traces(home) == []


@pytest.mark.parametrize("way", ["forget", "update"])
def test_others_may_have_said_the_same(store: MemoryStore, way: str) -> None:
    for user in ("민지", "철수"):
        talk(store.transcripts.of(user, "대화"), f"아마 {SECRET}", "네")
    (memory,) = store.remember([SECRET], user="민지")
    store.forget(memory.id) if way == "forget" else store.update(memory.id, {"text": "다른 말"})
    assert contents(store.transcripts.of("민지", "대화")) == ["아마 …", "네"]
    assert contents(store.transcripts.of("철수", "대화")) == [f"아마 {SECRET}", "네"]


def test_what_an_answer_was_given_goes_where_that_answer_is_gone(store: MemoryStore, home: Path) -> None:
    session = store.transcripts.of("민지", "대화")
    (secret,) = store.remember([SECRET], user="민지")
    talk(session, "저는 감자를 좋아해요.")
    assert session.answer(f"네, {SECRET}", AT, session.seen(), [secret])
    talk(session, "안녕", f"안녕하세요. {SECRET}")
    store.forget(found(store, "저는 감자를 좋아해요.", 0).id)
    assert session.condense(session.seen(), Condensed(f"요약 {SECRET}", 4), "v")
    store.forget(secret.id)
    assert (contents(session), session.condensed()) == (["안녕", "안녕하세요. …"], Condensed())
    assert traces(home) == []


def test_a_summary_that_holds_it_goes_though_no_turn_does(store: MemoryStore, home: Path) -> None:
    session = store.transcripts.of("민지", "대화")
    talk(session, "하나", "둘")
    assert session.condense(session.seen(), Condensed(f"요약: {SECRET}", 2), "v")
    store.forget(store.remember([SECRET], user="민지")[0].id)
    assert (session.condensed(), traces(home)) == (Condensed(), [])


def test_what_was_backed_up_before_it_was_found_is_blanked_there(store: MemoryStore, home: Path) -> None:
    mine, theirs = store.transcripts.of("민지", "대화"), store.transcripts.of("철수", "대화")
    talk(mine, f"있잖아요. {SECRET}", f"네, {SECRET}", waiting=True)
    talk(theirs, "저는 철수예요.", "네")
    assert mine.condense(mine.seen(), Condensed(f"요약: {SECRET}", 2), "v")
    backup = store.backup()
    store.forget(found(store, SECRET, 0).id)
    assert traces(home) == []
    with closing(apsw.Connection(str(backup))) as db:
        assert rows(db, "SELECT content FROM turns ORDER BY seq") == [
            ("있잖아요. …",), ("네, …",), ("저는 철수예요.",), ("네",),
        ]  # fmt: skip
        assert rows(db, "SELECT * FROM summaries") == []


def test_a_backup_holds_what_a_memory_said_before_it_was_corrected(store: MemoryStore, home: Path) -> None:
    session = store.transcripts.of("민지", "대화")
    talk(session, f"있잖아요. {SECRET}", "네")
    memory = found(store, SECRET, 0)
    found(store, "있잖아요.", 0)
    session.say("user", f"또 {SECRET}", AT)
    store.backup()
    store.update(memory.id, {"text": "다른 말"})
    store.forget(memory.id)
    assert traces(home) == []


@pytest.mark.parametrize("way", ["forget", "update"])
def test_a_text_of_several_lines_goes_also_where_it_was_told_in_one(store: MemoryStore, home: Path, way: str) -> None:
    session = store.transcripts.of("민지", "대화")
    (memory,) = store.remember(["제 비밀번호는\n\n감자구이사백십칠이에요. "], user="민지")
    talk(session, "뭐였죠?", f"네, {SECRET}", "제 비밀번호는\t감자구이사백십칠이에요. 맞죠?")
    store.forget(memory.id) if way == "forget" else store.update(memory.id, {"text": "다른 말"})
    assert contents(session) == ["뭐였죠?", "네, …", "… 맞죠?"]
    assert "감자구이사백십칠".encode() not in every_byte(home)


@pytest.mark.parametrize("carried", [False, True])
def test_a_short_text_takes_no_part_of_another_word(store: MemoryStore, carried: bool) -> None:
    session = store.transcripts.of("민지", "대화")
    talk(session, "비빔밥 비용 준비 비밀, 비!", "비", "비가 와요")
    memory = found(store, "비", 0) if carried else store.remember(["비"], user="민지")[0]
    if carried:
        found(store, "비빔밥", 0)
    store.forget(memory.id)
    assert contents(session) == ["비빔밥 비용 준비 비밀, …!", "…", "비가 와요"]


CHANGES: dict[str, Callable[[MemoryStore, str], object]] = {
    "forgotten": lambda store, memory: store.forget(memory),
    "corrected": lambda store, memory: store.update(memory, {"text": "다른 말"}),
    "deleted": lambda store, _: store.transcripts.forget("민지", "대화"),
    "everything": lambda store, _: store.forget_all("민지"),
}


@pytest.mark.parametrize("change", ["forgotten", "corrected"])
def test_an_answer_that_was_given_what_is_forgotten_meanwhile(store: MemoryStore, home: Path, change: str) -> None:
    session = store.transcripts.of("민지", "대화")
    gone, kept = store.remember([SECRET, "저는 서울에 살아요."], user="민지")
    session.say("user", "뭐였죠?", AT)
    seen = session.seen()
    CHANGES[change](store, gone.id)
    assert not session.answer(f"{SECRET} 저는 서울에 살아요.", AT, seen, [gone, kept])
    store.update(kept.id, {"category": "personal"})
    assert session.answer("저는 서울에 살아요.", AT, seen, [kept]), "it says the same"
    assert contents(session) == ["뭐였죠?", "저는 서울에 살아요."]
    assert traces(home) == []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("alone", "condensed"), [(True, False), (False, True)])
def test_an_answer_to_what_is_forgotten_meanwhile(
    store: MemoryStore, home: Path, change: str, alone: bool, condensed: bool
) -> None:
    session = store.transcripts.of("민지", "대화")
    talk(session, SECRET if alone else f"저는 서울에 살아요. {SECRET}", "네", "뭐였죠?")
    memory = found(store, SECRET, 0)
    if not alone:
        found(store, "저는 서울에 살아요.", 0)
    if condensed:
        assert session.condense(session.seen(), Condensed(f"{SECRET}", 2), "v")
    seen = session.seen()
    CHANGES[change](store, memory.id)
    assert not session.answer(f"네, {SECRET}", AT, seen, [])
    if change != "deleted":
        assert traces(home) == []
    session.say("user", "다른 말", AT)
    assert contents(session)[-1] == "다른 말"


def test_deleting_a_session_leaves_memories_and_others(store: MemoryStore, home: Path) -> None:
    mine, theirs = store.transcripts.of("민지", "대화"), store.transcripts.of("철수", "대화")
    other = store.transcripts.of("민지", "다른 날")
    for one in (mine, theirs, other):
        talk(one, "저는 감자를 좋아해요.", "네")
    mine.say("user", "지울 말 일이삼사오", AT, waiting=True)
    memory = found(store, "저는 감자를 좋아해요.", 0)
    assert mine.condense(mine.seen(), Condensed("요약 일이삼사오", 2), "v")
    store.backup()
    assert store.transcripts.forget("민지", "대화") is True
    assert "일이삼사오".encode() not in every_byte(home)
    assert store.memories(user="민지") == [memory]
    assert contents(theirs) == contents(other) == ["저는 감자를 좋아해요.", "네"]
    assert (contents(mine), mine.condensed(), store.transcripts.unfinished()) == ([], Condensed(), [])
    assert mine.say("user", "새로", AT).place == 0
    store.forget(memory.id)
    assert contents(mine) == ["새로"]


def test_forgetting_all_of_a_user_takes_what_that_user_said(store: MemoryStore, home: Path) -> None:
    mine, theirs = store.transcripts.of("민지", "대화"), store.transcripts.of("철수", "대화")
    talk(mine, "저는 감자를 좋아해요.", "네", "그냥 말 일이삼사오")
    talk(theirs, "저는 감자를 좋아해요.", "네")
    found(store, "저는 감자를 좋아해요.", 0)
    kept = found(store, "저는 감자를 좋아해요.", 0, user="철수")
    assert mine.condense(mine.seen(), Condensed("요약 일이삼사오", 2), "v")
    store.backup()
    assert store.forget_all("민지") == 1
    left = every_byte(home)
    assert "일이삼사오".encode() not in left and "민지".encode() not in left
    assert (store.memories(user="철수"), contents(theirs)) == ([kept], ["저는 감자를 좋아해요.", "네"])


def test_forgetting_all_of_who_only_talked(store: MemoryStore, home: Path) -> None:
    talk(store.transcripts.of("민지", "대화"), "그냥 말 일이삼사오", "네")
    store.backup()
    assert store.forget_all("민지") == 0
    assert "일이삼사오".encode() not in every_byte(home)


# ---- homes of before


BEFORE = next(number for number, step in enumerate(MIGRATIONS) if step.__name__ == "sessions")


def before_sessions(path: Path, steps: int = BEFORE) -> None:
    """Write a home of a former schema, with what `extract_memory(store=True)` left in it where it could."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(apsw.Connection(str(path))) as db:
        db.pragma("synchronous", "OFF")
        for step in MIGRATIONS[:steps]:
            step(db)
        db.pragma("user_version", steps)
        db.execute(
            "INSERT INTO memories (id, text, digest, user, created, moment, importance) VALUES ('m', ?, x'00', '민지', 5, 5, 0.5)",
            (SECRET,),
        )
        if steps == BEFORE:
            db.execute("INSERT INTO conversations (user, name, created) VALUES ('민지', 'abc', 5)")
            db.execute(
                "INSERT INTO turns (conversation, place, role, content, name, at, created) "
                "VALUES (1, 3, 'user', ?, '민지', NULL, 1000000), (1, 5, 'assistant', '네', NULL, NULL, 2000000)",
                (SECRET,),
            )
            db.execute("INSERT INTO carried VALUES (1, 1)")


def test_conversations_of_the_former_schema_stay_as_they_were(home: Path) -> None:
    before_sessions(home / FILE_NAME)
    with closing(MemoryStore(home, fake_embedder.faculties())) as store:
        old = store.transcripts.of("민지", "abc")
        assert [(said.place, said.role, said.content, said.condensed) for said in old.said()] == [
            (3, "user", SECRET, False), (5, "assistant", "네", False),
        ]  # fmt: skip
        assert old.said()[0].at.timestamp() == 1, "when it was stored"
        assert store.transcripts.unfinished() == [], "they are not searched again"
        assert (old.carried(0), old.condensed()) == ({"m"}, Condensed())
        assert old.say("user", "이어서", AT, waiting=True).place == 6
        with store._store.read() as db:
            assert db.pragma("user_version") == len(MIGRATIONS)
            assert rows(db, "PRAGMA foreign_key_check") == []
        store.forget("m")
        assert contents(old) == ["네", "이어서"]
        assert traces(home) == []


@pytest.mark.parametrize("way", ["forget_all", "forget", "delete"])
def test_backups_of_former_schemas_stand_in_nobodys_way(home: Path, way: str) -> None:
    for steps in (1, BEFORE - 2, BEFORE):
        before_sessions(home / BACKUPS / f"memory-{steps}.sqlite3", steps)
    with closing(MemoryStore(home, fake_embedder.faculties())) as store:
        session = store.transcripts.of("민지", "abc")
        session.say("user", "말", AT)
        (memory,) = store.remember([SECRET], user="민지")
        call: Callable[[], object] = {
            "forget_all": lambda: store.forget_all("민지"),
            "forget": lambda: store.forget(memory.id),
            "delete": lambda: store.transcripts.forget("민지", "abc"),
        }[way]
        call()
        if way == "forget_all":
            assert traces(home) == []
