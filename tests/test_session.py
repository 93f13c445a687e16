"""One session: what is on disk when, what becomes of answers that are cut short, and one turn at a time."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_answers import Place, every_byte

from engine import Engine
from engine import store as store_module
from engine.errors import ContextOverflow, EngineClosed, EngineError, InvalidInput, StoreError
from engine.inputs import Turn
from engine.instructions import SESSION
from engine.recording import Recording
from engine.session import MEMORY_USES, Session
from engine.transcript import Said, Transcript

LIKES = "저는 감자를 좋아해요."
PATIENCE = 10.0  # seconds; no test passes by them


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here loses power."""
    monkeypatch.setattr(store_module, "_PRAGMAS", (*store_module._PRAGMAS, "synchronous = OFF"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "홍길동" / "내 문서")
    yield made
    made.close()


def said(session: Session) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in session.history()]


def on_disk(place: Place, user: str = "민지", name: str = "대화") -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in place.store.transcripts.of(user, name).said()]


def within(condition: Callable[[], object]) -> bool:
    """Wait for what another thread does."""
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return bool(condition())


def quiet(session: Session) -> None:
    """Have a turn, and nothing said in it: it waits for the turns before."""
    with session._house.turn(session.transcript):
        pass


# ---- a turn


def test_it_answers_and_goes_on_after_a_restart(place: Place) -> None:
    session = place.open()
    reply = session.chat("안녕하세요")
    assert (reply.text, reply.model, reply.finish_reason, reply.memories) == ("그래요.", "fake", "stop", ())
    session.chat("오늘은 3월 5일이죠?")
    place.close()
    again = Place(place.home)
    try:
        session = again.open()
        session.chat("아까 뭐라고 했죠?")
        assert said(session) == [
            ("user", "안녕하세요"), ("assistant", "그래요."), ("user", "오늘은 3월 5일이죠?"), ("assistant", "그래요."),
            ("user", "아까 뭐라고 했죠?"), ("assistant", "그래요."),
        ]  # fmt: skip
        (system, *before, last) = again.runner.asked[-1]
        assert system == Turn("system", SESSION["ko"].system)
        assert [(turn.role, turn.content) for turn in before] == said(session)[:4]
        assert last.content.endswith("\n\n아까 뭐라고 했죠?")
        assert again.open("다른 것").history() == again.open(user="철수").history() == []
    finally:
        again.close()


def test_what_is_said_is_on_disk_before_it_is_answered(place: Place) -> None:
    seen: list[Any] = []

    def says(turns: tuple[Turn, ...]) -> list[str]:
        seen.append(b"\xec\x95\x88\xeb\x85\x95" in every_byte(place.home))
        return ["네"]

    place.runner.says = says
    place.open().chat("안녕")
    assert seen == [True]


def test_the_answer_is_on_disk_when_its_end_is_seen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, told = Transcript.answer, threading.Event()

    def slow(*asked: Any) -> bool:
        assert told.wait(PATIENCE)
        return answer(*asked)

    monkeypatch.setattr(Transcript, "answer", slow)
    stream = place.open().stream("안녕")
    assert [next(stream), next(stream)] == ["그래", "요."]
    assert on_disk(place) == [("user", "안녕")]
    assert not stream._over
    told.set()
    assert next(stream, None) is None
    assert on_disk(place) == [("user", "안녕"), ("assistant", "그래요.")]
    assert stream.reply.text == "그래요."


def test_an_answer_that_cannot_be_kept_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    session = place.open()

    def fails(*asked: Any) -> bool:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Transcript, "answer", fails)
        with pytest.raises(StoreError, match="full"):
            session.chat("안녕")
    assert session.chat("또").text == "그래요.", "the turn is free again"


@pytest.mark.parametrize("error", [EngineError("a step failed"), ContextOverflow(9, 8)])
def test_an_error_takes_back_what_was_said(place: Place, error: EngineError) -> None:
    session = place.open()
    session.chat("하나")
    place.runner.says = lambda turns: ["반만", error]
    with pytest.raises(type(error)):
        session.chat("둘")
    assert said(session) == [("user", "하나"), ("assistant", "그래요.")]
    place.runner.says = lambda turns: ["네"]
    assert session.chat("셋").text == "네"
    assert [turn.place for turn in session.history()] == [0, 1, 2, 3]


def test_what_is_too_long_for_the_model_is_not_said(tmp_path: Path) -> None:
    place = Place(tmp_path / "home", cells=300)
    try:
        session = place.open()
        with pytest.raises(ContextOverflow):
            session.chat("말" * 400)
        assert session.history() == []
        assert session.chat("안녕").text == "그래요."
    finally:
        place.close()


@pytest.mark.parametrize("sampling", [{"temperature": -1}, {"max_tokens": 0}])
def test_odd_sampling_is_refused_before_anything_is_said(place: Place, sampling: Any) -> None:
    session = place.open()
    with pytest.raises(InvalidInput):
        session.chat("안녕", **sampling)
    assert session.history() == []
    assert session.chat("안녕", max_tokens=2).finish_reason == "length"


def test_no_thread_to_be_had(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    session, forever = place.open(), threading.Event()
    place.runner.says = lambda turns: [forever]

    def fails(*asked: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "__init__", fails)
        with pytest.raises(RuntimeError):
            session.chat("안녕")
    assert session.history() == []
    assert within(lambda: not place.runner.busy), "nobody would ever read it"
    place.runner.says = lambda turns: ["네"]
    assert session.chat("안녕").text == "네"


# ---- input


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800"])
def test_odd_messages_and_names_are_refused(place: Place, text: str) -> None:
    session = place.open()
    for call in (
        lambda: session.chat(text),
        lambda: session.astream(text),
        lambda: place.open(name=text),
        lambda: place.open(user=text),
        lambda: place.open(system=text),
    ):
        with pytest.raises(InvalidInput):
            call()
    assert not place.home.exists()


def test_only_three_ways_to_use_memories(place: Place) -> None:
    assert [place.open(memory=use) is not None for use in MEMORY_USES] == [True] * 3
    with pytest.raises(InvalidInput, match="auto, read, off"):
        place.open(memory="write")


def test_opening_makes_no_file(place: Place) -> None:
    session = place.open()
    assert (session.history(), session.summary, session.news(), session.wait()) == ([], None, [], True)
    assert session.delete() is False
    assert not place.home.exists()


# ---- cut short


def cut(place: Place) -> threading.Event:
    """Let answers stop in their middle until the event is set."""
    go_on = threading.Event()
    place.runner.says = lambda turns: ["감자는 ", "맛", go_on, "있죠."]
    return go_on


def test_a_cancelled_answer_stays_as_far_as_it_came(place: Place) -> None:
    cut(place)
    session = place.open()
    stream = session.stream("감자는?")
    assert [next(stream), next(stream)] == ["감자는 ", "맛"]
    stream.cancel()
    assert list(stream) == []
    assert (stream.reply.text, stream.reply.finish_reason) == ("감자는 맛", "cancelled")
    assert said(session) == [("user", "감자는?"), ("assistant", "감자는 맛")]


def test_a_stream_that_is_left_stays_as_far_as_it_came(place: Place) -> None:
    cut(place)
    session = place.open()
    with session.stream("감자는?") as stream:
        next(stream)
    quiet(session)
    assert said(session)[0] == ("user", "감자는?") and said(session)[1][1].startswith("감자는 ")


def test_an_abandoned_stream_frees_the_turn(place: Place) -> None:
    cut(place)
    session = place.open()
    stream = session.stream("감자는?")
    next(stream)
    del stream
    gc.collect()
    place.runner.says = lambda turns: ["네"]
    assert session.chat("다음").text == "네"
    assert [role for role, _ in said(session)] == ["user", "assistant"] * 2
    assert not [thread for thread in threading.enumerate() if thread.name == "gieok-session"]


def test_an_abandoned_answer_without_a_word_leaves_the_question(place: Place) -> None:
    forever = threading.Event()
    place.runner.says = lambda turns: [forever]
    session = place.open()
    stream = session.stream("감자는?")
    assert within(lambda: place.runner.busy)
    stream.close()
    place.runner.says = lambda turns: ["네"]
    session.chat("다음")
    assert said(session) == [("user", "감자는?"), ("user", "다음"), ("assistant", "네")]
    assert [turn.role for turn in place.runner.asked[-1]] == ["system", "user"]
    assert "감자는?\n다음" in place.runner.asked[-1][-1].content


def test_an_answer_that_nobody_reads_comes_to_its_end(place: Place) -> None:
    session = place.open()
    stream = session.stream("안녕")
    quiet(session)
    assert said(session) == [("user", "안녕"), ("assistant", "그래요.")]
    assert list(stream) == ["그래", "요."]


def test_what_is_cancelled_before_its_turn_says_nothing(place: Place) -> None:
    go_on = cut(place)
    session = place.open()
    first = session.stream("하나")
    second = session.astream("둘")
    thread = threading.Thread(target=second.open)
    thread.start()
    second.cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert (second.reply.text, second.reply.finish_reason) == ("", "cancelled")
    go_on.set()
    assert first.reply.text == "감자는 맛있죠."
    assert said(session) == [("user", "하나"), ("assistant", "감자는 맛있죠.")]


# ---- one turn at a time


def test_turns_of_one_name_come_one_after_the_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.runner.says = lambda turns: [f"답 {turns[-1].content.rpartition(' ')[2]}"]
    sessions = [place.open() for _ in range(2)]
    busy: list[int] = []
    generate = place.runner.generate

    def watched(*asked: Any) -> None:
        generate(*asked)
        busy.append(len([one for one, _ in place.runner._running if not one.job.priority]))

    monkeypatch.setattr(place.runner, "generate", watched)

    def talk(number: int) -> None:
        for turn in range(3):
            assert sessions[number % 2].chat(f"말 {number}.{turn}").text == f"답 {number}.{turn}"

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    history = said(sessions[0])
    assert len(history) == 24
    for (_, question), (role, answer) in zip(history[::2], history[1::2], strict=True):
        assert role == "assistant" and answer.removeprefix("답 ") == question.removeprefix("말 ")
    for number in range(4):
        own = [text for role, text in history if role == "user" and text.startswith(f"말 {number}.")]
        assert own == sorted(own)
    assert max(busy) == 1
    assert [turn.place for turn in sessions[1].history()] == list(range(24))


def test_turns_of_different_names_do_not_wait_for_each_other(place: Place) -> None:
    go_on = cut(place)
    first = place.open("하나").stream("하나")
    assert [next(first), next(first)] == ["감자는 ", "맛"]
    place.runner.says = lambda turns: ["네"]
    for session in (place.open("둘"), place.open("하나", user="철수")):
        assert session.chat("둘").text == "네"
    go_on.set()
    assert first.reply.text == "감자는 맛있죠."


def test_deleting_waits_for_the_answer(place: Place) -> None:
    go_on = cut(place)
    session = place.open()
    stream = session.stream("감자는?")
    next(stream)
    gone: list[bool] = []
    thread = threading.Thread(target=lambda: gone.append(session.delete()))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive() and not gone
    go_on.set()
    thread.join(PATIENCE)
    assert gone == [True] and session.history() == []
    assert stream.reply.text == "감자는 맛있죠."
    assert session.delete() is False


# ---- async


def test_async_twins(place: Place) -> None:
    async def talk() -> None:
        session = place.open()
        assert (await session.achat("안녕")).text == "그래요."
        assert [piece async for piece in session.astream("또")] == ["그래", "요."]
        assert len(await session.ahistory()) == 4
        assert await session.await_() is True
        assert await session.anews() == []
        assert await session.adelete() is True

    asyncio.run(talk())


def test_a_cancelled_task_keeps_what_was_written(place: Place) -> None:
    cut(place)
    session = place.open()

    async def talk() -> None:
        task = asyncio.create_task(session.achat("감자는?"))
        while not place.runner.busy:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(talk())
    quiet(session)
    assert said(session)[0] == ("user", "감자는?")
    assert not place.runner.busy


def test_a_cancelled_task_that_waits_for_its_turn_says_nothing(place: Place) -> None:
    go_on = cut(place)
    session = place.open()
    first = session.stream("하나")

    async def talk() -> None:
        task = asyncio.create_task(session.achat("둘"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(talk())
    go_on.set()
    assert first.reply.text == "감자는 맛있죠."
    assert place.threads._pool is not None
    place.threads._pool.shutdown()
    assert [text for _, text in said(session)] == ["하나", "감자는 맛있죠."]


# ---- the end of the engine


def test_closing_during_an_answer(place: Place) -> None:
    cut(place)
    session = place.open()
    stream = session.stream("감자는?")
    assert next(stream) == "감자는 "
    waits: list[BaseException] = []

    def wait() -> None:
        try:
            session.chat("다음")
        except EngineError as error:
            waits.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    place.close()
    assert not [one for one in threading.enumerate() if one.name in ("gieok-session", "gieok-sessions")]
    with pytest.raises(EngineClosed):
        list(stream)
    thread.join(PATIENCE)
    assert [type(error) for error in waits] == [EngineClosed]
    for call in (lambda: session.chat("또"), session.history, session.news, session.wait, session.delete,
                 lambda: session.summary, lambda: session.astream("또")):  # fmt: skip
        with pytest.raises(EngineClosed):
            call()
    again = Place(place.home)
    try:
        assert on_disk(again) == [], "nothing came of it, and its reader was told so"
        assert again.open().chat("감자는?").text == "그래요."
    finally:
        again.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_is_told_and_disturbs_nobody(place: Place) -> None:
    cut(place)
    session = place.open()
    stream = session.stream("감자는?")
    next(stream)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for call in (lambda: session.chat("또"), session.history, session.wait, session.delete):
                try:
                    call()
                except EngineClosed:
                    continue
                os._exit(2)
            place.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    stream.cancel()
    assert stream.reply.finish_reason == "cancelled"
    assert len(said(session)) == 2


def test_an_engine_opens_sessions(tmp_path: Path) -> None:
    """Without a model: nothing is loaded for what is only looked at."""
    with Engine(profile="starter", home=tmp_path / "home") as engine:
        session = engine.session("대화", user="민지", system="짧게.", memory="read")
        assert (session.history(), session.summary) == ([], None)
        assert engine.wait()
        assert asyncio.run(engine.asession()).history() == []
        with pytest.raises(InvalidInput):
            engine.session("a\0b")
    with pytest.raises(EngineClosed):
        engine.session()
    with pytest.raises(EngineClosed):
        session.history()


def test_what_a_turn_was_can_be_told(place: Place) -> None:
    session = place.open()
    session.chat("안녕")
    first = session.history()[0]
    assert first == Said(0, "user", "안녕", first.at) and first.at.tzinfo is not None
    assert first.to_dict()["content"] == "안녕"
