"""What is done for sessions: what they are told, what is found in them, and how that ends with kills and forgetting."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import fake_answers
import fake_embedder
import pytest
from fake_answers import Place

from engine import Engine, briefing, prefixes
from engine import sessions as sessions_module
from engine import store as store_module
from engine.errors import ContextOverflow, EngineError, InvalidInput, ModelNotFound
from engine.extractor import Extractor
from engine.instructions import SESSION
from engine.lending import Lender
from engine.session import Session
from engine.transcript import Transcript

LIKES, NAME, SECRET = "저는 감자를 좋아해요.", "저는 이름이 민지예요.", "저는 비밀번호가 감자구이사백십칠이에요."
PATIENCE = 10.0  # seconds; no test passes by them


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here loses power."""
    monkeypatch.setattr(store_module, "_PRAGMAS", (*store_module._PRAGMAS, "synchronous = OFF"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "홍길동" / "내 문서"


@pytest.fixture
def place(home: Path) -> Iterator[Place]:
    made = Place(home)
    yield made
    made.close()


def talk(session: Session, *texts: str) -> None:
    for text in texts:
        session.chat(text)
    assert session.wait(PATIENCE)


def texts(place: Place, user: str = "민지") -> list[str]:
    return [memory.text for memory in place.store.memories(user=user)][::-1]


def last(place: Place) -> str:
    """Return what the model read last."""
    return place.runner.asked[-1][-1].content


def contents(session: Session) -> list[str]:
    return [turn.content for turn in session.history()]


def traces(home: Path, text: str = SECRET) -> list[str]:
    return [path.name for path in home.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


# ---- what is told


def test_a_memory_is_told_where_it_matters_and_its_turn_is_not_there(place: Place) -> None:
    (memory,) = place.store.remember([LIKES], user="민지")
    place.store.remember(["철수의 비밀"], user="철수")
    session = place.open()
    reply = session.chat("감자를 좋아하냐고요? 제가 감자를 좋아해요?")
    assert reply.memories == (memory,)
    assert f"- ({memory.created:%Y-%m-%d}) {LIKES}\n" in last(place)
    assert session.history()[1].memories == (memory.id,)
    assert session.chat("안녕").memories == (), "small talk brings none to mind"
    assert "철수의 비밀" not in str(place.runner.asked)


def test_what_the_session_says_itself_is_not_told_twice(place: Place) -> None:
    session = place.open()
    talk(session, LIKES)
    assert texts(place) == [LIKES]
    assert session.chat("제가 감자를 좋아해요?").memories == ()
    other = place.open("다른 날").chat("제가 감자를 좋아해요?")
    assert [memory.text for memory in other.memories] == [LIKES]


def test_the_profile_is_told_always_the_oldest_first(place: Place) -> None:
    names = [f"저는 이름이 {number}예요." for number in range(10)]
    for name in names:
        place.store.remember([name], user="민지", category="personal", judge=False)
    reply = place.open().chat("안녕")
    assert [memory.text for memory in reply.memories] == names[2:]
    system = place.runner.asked[-1][0].content
    assert system.endswith("\n".join([SESSION["ko"].profile, *(f"- {name}" for name in names[2:])]))


@pytest.mark.parametrize("memory", ["read", "off"])
def test_who_does_not_want_memories_stores_none(place: Place, memory: str) -> None:
    place.store.remember([NAME], user="민지", category="personal")
    session = place.open(memory=memory)
    reply = session.chat(LIKES)
    assert session.wait(PATIENCE)
    assert (texts(place), session.news(), place.errands.searched) == ([NAME], [], [])
    assert len(session.history()) == 2
    told = str(place.runner.asked + place.runner.warmed)
    assert (NAME in told) == (memory == "read") == bool(reply.memories)


def test_a_system_prompt_of_ones_own(place: Place) -> None:
    place.open(system="짧게.").chat("안녕")
    assert place.runner.asked[-1][0].content == "짧게."


def test_what_is_given_leaves_room_for_an_answer(tmp_path: Path) -> None:
    place = Place(tmp_path / "small", cells=400)
    try:
        place.store.remember([f"저는 감자 {number}번을 좋아해요." for number in range(8)], user="민지", judge=False)
        reply = place.open(system="비서").chat("제가 감자 3번을 좋아해요?")
        assert place.runner.length(place.runner.asked[-1]) <= 300
        assert 0 < len(reply.memories) <= 5
        for memory in reply.memories:
            assert memory.text in last(place)
    finally:
        place.close()


def test_the_next_context_is_computed_ahead(place: Place) -> None:
    session = place.open()
    talk(session, "안녕하세요")
    warmed = place.runner.warmed[-1]
    session.chat("또요")
    assert place.runner.asked[-1][:-1] == warmed[:-1]
    assert len(warmed) == 4


# ---- what is found


def test_what_is_found_is_news_once(place: Place) -> None:
    session = place.open()
    talk(session, f"안녕하세요. {LIKES}", "그냥 말")
    (memory,) = session.news()
    assert (memory.text, memory.source, memory.user, memory.kind) == (LIKES, "turn 0", "민지", "fact")
    assert session.news() == []
    assert place.open("다른 날").news() == []


def test_what_was_forgotten_is_no_news(place: Place) -> None:
    session = place.open()
    talk(session, f"{LIKES} {SECRET}")
    place.store.forget(place.store.memories(user="민지")[0].id)
    assert [memory.text for memory in session.news()] == [LIKES]


def test_no_news_piles_up_where_nobody_asks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "_NEWS", 2)
    place = Place(home)
    try:
        session = place.open()
        talk(session, *(f"저는 {number}을 알아요." for number in range(4)))
        assert [memory.text for memory in session.news()] == ["저는 2을 알아요.", "저는 3을 알아요."]
    finally:
        place.close()


def test_each_turn_is_searched_once_with_what_was_said_before(place: Place) -> None:
    session = place.open()
    talk(session, "하나", "둘", "셋", "넷")
    found = [said[number] for said, asked in place.errands.searched for number in asked]
    assert found == ["하나", "둘", "셋", "넷"]
    said, asked = place.errands.searched[-1]
    assert len(said) <= sessions_module._BEFORE + 2 * sessions_module._SEARCHED
    assert asked[-1] in (len(said) - 1, len(said) - 2), "nothing that came later"
    assert place.store.transcripts.unfinished() == []


@pytest.mark.parametrize("error", [InvalidInput("no"), EngineError("no"), ValueError("no")])
def test_a_session_that_cannot_be_searched_stands_in_nobodys_way(
    place: Place, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = place.errands.extract

    def failing(turns: Any, at: Any, **asked: Any) -> Any:
        if any("나쁜" in turn.content for turn in turns):
            raise error
        return extract(turns, at, **asked)

    monkeypatch.setattr(place.errands, "extract", failing)
    place.open("가", user="가").chat("나쁜 말")
    session = place.open()
    session.chat(LIKES)
    done = session.wait(PATIENCE)
    assert texts(place) == [LIKES]
    assert done == isinstance(error, InvalidInput), "the others may be better the next time"
    assert bool(place.store.transcripts.unfinished()) == (not done)
    assert len(place.open("가", user="가").history()) == 2


def test_logs_say_nothing_of_what_was_said(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.errands.during = lambda: (_ for _ in ()).throw(InvalidInput(SECRET))
    with caplog.at_level(logging.DEBUG, "engine"):
        talk(place.open(SECRET), SECRET)
    assert "invalid_input" in caplog.text or caplog.records
    assert SECRET not in caplog.text


# ---- kills


@pytest.mark.skipif(sys.platform == "win32", reason="a killed process on Windows is another test's")
@pytest.mark.parametrize("when", ["answering", "extracting", "marking"])
def test_what_waits_when_the_process_is_killed_is_taken_up(home: Path, when: str) -> None:
    program = [sys.executable, fake_answers.__file__, str(home), when]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
                          env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}) as child:  # fmt: skip
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        child.kill()
    again = Place(home)
    try:
        session = again.open()
        history = [(turn.role, turn.content) for turn in session.history()]
        assert history[0] == ("user", LIKES), "it was on disk before it was answered"
        assert session.wait(PATIENCE)
        assert texts(again) == [LIKES], "once"
        assert [memory.text for memory in session.news()] == [LIKES]
        assert again.store.transcripts.unfinished() == []
        talk(session, "그리고요")
        assert [memory.source for memory in again.store.memories(user="민지")] == ["turn 0"]
        assert again.store.problems() == []
    finally:
        again.close()


def test_what_waits_when_the_engine_is_closed_is_taken_up(home: Path) -> None:
    place, began, go_on = Place(home), threading.Event(), threading.Event()
    place.errands.during = lambda: [step() for step in (began.set, lambda: go_on.wait(PATIENCE))]
    place.open().chat(LIKES)
    assert began.wait(PATIENCE)
    closing = threading.Thread(target=place.close)
    closing.start()
    go_on.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    again = Place(home)
    try:
        assert again.open(memory="read").history() and again.errands.searched == []
        assert again.open("딴 것").wait(PATIENCE)
        assert texts(again) == [LIKES]
    finally:
        again.close()


def test_closing_sees_to_it_that_an_answer_is_kept_or_taken_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, unsay, began = Place(home), Transcript.unsay, threading.Event()

    def late(*asked: Any) -> None:
        began.wait(0.3)
        unsay(*asked)

    monkeypatch.setattr(Transcript, "unsay", late)
    place.runner.says = lambda turns: ["감자", threading.Event()]
    stream = place.open().stream("감자는?")
    next(stream)
    place.close()
    again = Place(home)
    try:
        assert again.open().history() == []
    finally:
        again.close()


# ---- forgetting


def during(place: Place, change: Any) -> None:
    """Have `change` happen, on another thread, in the middle of the next extraction or condensing."""

    def once() -> None:
        place.errands.during = lambda: None
        thread = threading.Thread(target=change)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    place.errands.during = once


@pytest.mark.parametrize("way", ["delete", "forget_all"])
def test_a_turn_that_is_forgotten_while_it_is_searched_does_not_come_back(place: Place, home: Path, way: str) -> None:
    session = place.open()
    during(place, session.delete if way == "delete" else lambda: place.store.forget_all("민지"))
    talk(session, SECRET)
    assert place.errands.searched
    assert (session.history(), texts(place), session.news()) == ([], [], [])
    assert traces(home) == []


def test_another_turn_in_its_place_is_not_taken_for_it(place: Place, home: Path) -> None:
    session = place.open()

    def change() -> None:
        session.delete()
        session.chat(LIKES)

    during(place, change)
    talk(session, SECRET)
    assert contents(session) == [LIKES, "그래요."]
    assert texts(place) == [LIKES], "and it is searched itself"
    assert place.store.transcripts.unfinished() == []
    assert traces(home) == []


@pytest.mark.parametrize("way", ["forget", "update"])
def test_a_memory_that_is_forgotten_is_nowhere(place: Place, home: Path, way: str) -> None:
    place.runner.says = lambda turns: ["아까 ", SECRET, " 라고 하셨어요."]
    session, other, theirs = place.open(), place.open("다른 날"), place.open(user="철수")
    talk(theirs, LIKES)
    talk(session, f"있잖아요. {SECRET}", "그러니까요")
    talk(other, "제 비밀번호가 감자구이사백십칠이에요?")
    assert other.history()[1].memories
    assert traces(home)
    (memory,) = place.store.memories(user="민지")
    place.runner.says = lambda turns: ["네"]
    place.store.forget(memory.id) if way == "forget" else place.store.update(memory.id, {"text": "다른 말"})
    place.store.forget_all("철수") if SECRET in str(contents(theirs)) else None
    assert traces(home) == []
    assert contents(session) == ["그러니까요", "아까 … 라고 하셨어요."]
    assert contents(other) == ["제 비밀번호가 감자구이사백십칠이에요?", "아까 … 라고 하셨어요."]
    assert place.runner.forgotten
    for one in (session, other):
        one.chat("그래서요?")
        assert SECRET not in str(place.runner.asked[-1])
    assert one.wait(PATIENCE) and traces(home) == []


@pytest.mark.parametrize("memory", ["auto", "read"])
def test_an_answer_that_quotes_what_is_forgotten_meanwhile_is_not_kept(place: Place, home: Path, memory: str) -> None:
    (kept,) = place.store.remember([SECRET], user="민지", category="personal")
    go_on = threading.Event()
    place.runner.says = lambda turns: ["네, ", go_on, SECRET]
    session = place.open(memory=memory)
    stream = session.stream("뭐였죠?")
    assert next(stream) == "네, "
    place.store.forget(kept.id)
    go_on.set()
    assert stream.reply.text == f"네, {SECRET}", "its reader is in the middle of it"
    assert session.wait(PATIENCE)
    assert contents(session) == ["뭐였죠?"]
    assert traces(home) == []
    place.runner.says = lambda turns: ["네"]
    assert session.chat("그럼요?").memories == ()


def test_forgetting_while_everything_is_under_way(place: Place, home: Path) -> None:
    """Two sessions talk, and whatever is found is forgotten at once; what was forgotten last of all is nowhere."""
    place.runner.says = lambda turns: ["네, ", SECRET]
    sessions, over, failed = [place.open(name) for name in "가나"], threading.Event(), list[BaseException]()

    def guarded(work: Any) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - the test is to see it
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def forget() -> None:
        for memory in place.store.memories(user="민지"):
            place.store.forget(memory.id)

    def forget_on() -> None:
        while not over.is_set():
            forget()

    talking = [guarded(lambda one=one: [one.chat(SECRET) for _ in range(5)]) for one in sessions]
    forgetting = guarded(forget_on)
    for thread in talking:
        thread.join(PATIENCE * 3)
    over.set()
    forgetting.join(PATIENCE)
    assert failed == []
    assert sessions[0].wait(PATIENCE)
    forget()
    assert texts(place) == []
    told = [turn for one in sessions for turn in one.history() if SECRET in turn.content]
    assert [turn.role for turn in told] in ([], ["assistant"] * len(told)), "no question is left to be searched"
    for one in sessions:
        one.delete()
    assert traces(home) == []
    assert place.store.problems() == []


# ---- summaries


def small(home: Path) -> Place:
    return Place(home, cells=600)


def test_a_long_session_is_condensed_and_nothing_is_left_out(home: Path) -> None:
    place = small(home)
    try:
        session = place.open(system="비서", memory="off")
        for number in range(30):
            session.chat(f"{number}번째 말이 조금 깁니다")
            assert session.wait(PATIENCE)
            told = place.runner.asked[-1]
            assert place.runner.length(told) <= 450
            shown = "\n".join(turn.content for turn in told)
            condensed = [turn.content for turn in session.history() if turn.condensed and turn.role == "user"]
            summed = [text for _, said, _ in place.errands.condensed for text in said]
            for earlier in range(number):
                text = f"{earlier}번째 말이 조금 깁니다"
                assert text in shown or text in summed, "nothing is dropped without a summary"
            assert all(text in summed for text in condensed)
        assert len(place.errands.condensed) > 1
        former, _, most = place.errands.condensed[-1]
        assert former and most == 450 // 6
        assert session.summary in place.runner.warmed[-1][0].content  # type: ignore[operator]
        assert len(session.history()) == 60, "what was said stays"
        flags = [turn.condensed for turn in session.history()]
        assert flags == sorted(flags, reverse=True) and not flags[-1]
    finally:
        place.close()


def test_what_nobody_can_search_is_asked_once_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its model no session is searched: none of them costs an extraction that cannot be kept."""
    asked: list[str] = []

    def space() -> Any:
        asked.append("space")
        raise ModelNotFound("no", model="m")

    monkeypatch.setattr(place.lender, "space", space)
    for name in ("가", "나", "다"):
        place.open(name).transcript.say("user", LIKES, datetime.now().astimezone(), waiting=True)
    assert not place.open().wait(PATIENCE)
    asked.clear()
    assert not place.open().wait(PATIENCE)
    assert 1 <= len(asked) <= 2, "once a nudge"
    assert place.errands.searched == []


@pytest.mark.parametrize("error", [EngineError("no"), ContextOverflow(9, 8)])
def test_a_summary_that_fails_costs_no_answer(home: Path, error: EngineError, monkeypatch: pytest.MonkeyPatch) -> None:
    place = small(home)
    try:

        def condense(*_: object) -> str:
            raise error

        monkeypatch.setattr(place.errands, "condense", condense)
        session = place.open(system="비서")
        for number in range(30):
            session.chat(f"{number}번째 말이에요. 오늘은 무엇을 할까요?")
        assert not session.wait(PATIENCE) and not session.wait(PATIENCE), "it is owed"
        assert len(session.history()) == 60
    finally:
        place.close()


def test_an_answer_is_never_told_without_its_question(home: Path) -> None:
    place = small(home)
    try:
        session = place.open(system="비서")
        for number in range(40):
            session.chat(f"{number}번째 말이에요.")
            session.wait(PATIENCE)
            upto = session.transcript.condensed().upto
            first = next(said for said in session.history() if said.place >= upto)
            assert first.role == "user", "each turn is in the summary or is told"
    finally:
        place.close()


def test_a_progress_callback_that_talks_is_refused(place: Place) -> None:
    session = place.open()
    with place.sessions.beginning(), pytest.raises(EngineError, match="wait for itself"):
        session.chat("안녕")
    assert session.chat("안녕").text


def test_a_session_that_got_long_elsewhere_is_condensed(home: Path) -> None:
    """In the background where it is much: whoever writes does not wait for that."""
    place = small(home)
    try:
        transcript = place.store.transcripts.of("민지", "대화")
        for number in range(60):
            transcript.say("assistant" if number % 2 else "user", f"{number}번째 말", datetime.now().astimezone())
        session = place.open(system="비서", memory="off")
        session.chat("이어서 말해요")
        assert place.runner.length(place.runner.asked[-1]) <= 450
        assert session.wait(PATIENCE)
        assert place.errands.condensed and session.summary
        assert place.runner.length(place.runner.warmed[-1]) <= 450 * 0.8
    finally:
        place.close()


@pytest.mark.parametrize("way", ["forget", "delete", "forget_all"])
def test_a_summary_of_what_is_forgotten_meanwhile_is_not_kept(home: Path, way: str) -> None:
    place = small(home)
    try:
        session = place.open(system="비서")
        talk(session, SECRET)
        (memory,) = place.store.memories(user="민지")
        changes = {
            "forget": lambda: place.store.forget(memory.id),
            "delete": lambda: place.sessions.forget(session.transcript),
            "forget_all": lambda: place.store.forget_all("민지"),
        }
        for number in range(40):
            if number == 1:
                during(place, changes[way])
            place.errands.extractor = None  # type: ignore[assignment]
            session.chat(f"{number}번째 말이 조금 깁니다")
            if place.errands.condensed:
                break
        session.wait(PATIENCE)
        assert SECRET in str(place.errands.condensed[0])
        assert SECRET not in (session.summary or "")
        if way == "delete":
            place.store.forget(memory.id)
        assert traces(home) == []
    finally:
        place.close()


# ---- with a model


@pytest.mark.model
def test_nothing_that_is_said_is_pinned_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed of instructions stays in the home for the next start; of conversations nothing does."""
    done: list[str] = []
    # without the embedding model, which has no prefixes
    monkeypatch.setattr(Lender, "faculties", lambda lender: fake_embedder.faculties(forgotten=lender.forgotten))
    monkeypatch.setattr(Extractor, "_categories", lambda extractor, turns, kept: ["work"] * len(kept))
    for name in ("_warm", "_keep", "condense"):
        spied(monkeypatch, name, done)
    monkeypatch.setattr(briefing, "_FULL", 0.0)
    monkeypatch.setattr(briefing, "_LEFT", 0.0)
    settings, home = tmp_path / "models.toml", tmp_path / "home"
    settings.write_text("[engine]\nn_ctx = 800\n", encoding="utf-8")
    with Engine(settings, profile="starter", home=home) as engine:
        session = engine.session("비밀 zebra", user="walrus", system="You are the helper of an ocelot.")
        engine.remember("My name is Quokka Smith.", user="walrus", category="personal")
        session.chat("I work at the Platypus bakery, and I do not like coriander.", max_tokens=2)
        assert session.wait(120)
        assert session.summary and {"_warm", "_keep", "condense"} <= set(done)
        vocabulary = engine._pool.call("chat", lambda runner: runner.model.vocabulary)
        pinned = [header(path)["tokens"] for path in home.rglob("*.prefix")]
        shown = [b"".join(vocabulary.pieces[token] for token in tokens).decode() for tokens in pinned]
    assert shown, "instructions are kept"
    for text in shown:
        for word in ("zebra", "walrus", "ocelot", "quokka", "platypus", "bakery", "coriander", SESSION["en"].profile):
            assert word.lower() not in text.lower()


def spied(monkeypatch: pytest.MonkeyPatch, name: str, done: list[str]) -> None:
    """Note in `done` where a method of the background did something."""
    method = getattr(sessions_module.Sessions, name)

    def watched(*asked: Any) -> Any:
        result = method(*asked)
        done.extend([name] if result is not False else [])
        return result

    monkeypatch.setattr(sessions_module.Sessions, name, watched)


def header(path: Path) -> Any:
    """Return what a prefix on disk says of itself."""
    with path.open("rb") as file:
        assert file.read(len(prefixes._MAGIC)) == prefixes._MAGIC
        return json.loads(file.readline())
