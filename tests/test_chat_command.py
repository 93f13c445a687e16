"""`gieok chat`: a stand-in session that presses Ctrl-C where a test says so, and the starter in a pseudo-terminal."""

from __future__ import annotations

import asyncio
import builtins
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self

import pytest

import engine
from engine import chat_command, chat_verbs, cli, console
from engine.config import packaged_file
from engine.errors import ContextOverflow, EngineClosed, InvalidInput, MemoryNotFound, StoreLocked
from engine.instructions import Language
from engine.metrics import Usage
from engine.records import Hit, Memory
from engine.tasks import Reply, Summary
from engine.transcript import Said

WHEN = datetime(2026, 3, 11, 9, 0).astimezone()
USAGE = Usage(10, 4, 3, 0, 0.1, 0.2)
CTRL_C, END = object(), object()


class GivenUp(str):
    """A line that is being typed when Ctrl-C is pressed."""


def memory(number: int, text: str) -> Memory:
    return Memory(f"m{number}", text, "health", None, None, "default", WHEN, None, WHEN, None, None, 0.5)


PEANUTS, BUSAN, DOG = memory(1, "저는 땅콩을 못 먹어요"), memory(2, "부산에 살아요"), memory(3, "개를\n키워요")


class FakeStream:
    """Writes pieces; at `CTRL_C` the key is pressed, and an answer that is cancelled says one piece more and ends."""

    def __init__(self, house: FakeEngine, pieces: tuple[object, ...]) -> None:
        self._house, self._left, self._text = house, list(pieces), ""
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while self._left:
            piece = self._left.pop(0)
            if isinstance(piece, BaseException):
                raise piece
            if piece is CTRL_C:
                signal.raise_signal(signal.SIGINT)
                await asyncio.sleep(0)  # where the task learns of it
                continue
            await asyncio.sleep(0)
            self._text += str(piece)
            return str(piece)
        raise StopAsyncIteration

    def cancel(self) -> None:
        self.cancelled = True
        del self._left[1:]

    @property
    def reply(self) -> Reply:
        return Reply(
            self._text, "fake", "cancelled" if self.cancelled else self._house.finish, USAGE, memories=self._house.told
        )


class FakeEngine:
    """An engine and its one session: `answers` are taken in turn, `fails` is raised by the next call of that name."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.opened: Any = None
        self.answers: list[tuple[object, ...]] = []
        self.said: list[str] = []
        self.finish: Literal["stop", "length"] = "stop"
        self.told: tuple[Memory, ...] = ()
        self.found: list[Memory] = []
        self.kept = [PEANUTS, BUSAN, DOG]
        self.turns: list[Said] = []
        self.summary: str | None = None
        self.idle, self.waited = True, list[float | None]()
        self.fails: dict[str, BaseException] = {}
        self.closed = False
        self.threads = SimpleNamespace(run=self._in_thread)
        self.transcript = SimpleNamespace(user="default", name="default")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def _may(self, name: str) -> None:
        if name in self.fails:
            raise self.fails.pop(name)

    async def _in_thread(self, act: Callable[[], Any]) -> Any:
        return act()

    def session(self, *named: str, **given: str) -> Self:
        self.opened = (named, given)
        return self

    def astream(self, text: str) -> FakeStream:
        self._may("astream")
        self.said.append(text)
        return FakeStream(self, self.answers.pop(0) if self.answers else ("네", ", 안녕", "하세요"))

    async def anews(self) -> list[Memory]:
        found, self.found = self.found, []
        return found

    async def ahistory(self) -> list[Said]:
        self._may("ahistory")
        return self.turns

    async def await_(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - as a session's
        self.waited.append(timeout)
        self._may("await_")
        return self.idle

    async def amemories(self, *, user: str, limit: int) -> list[Memory]:
        assert user == "default"
        return self.kept[:limit]

    async def asearch(self, query: str, *, user: str, k: int) -> list[Hit]:
        self._may("asearch")
        hits = [Hit(one, 0.75) for one in self.kept if query in one.text]
        return [*hits, *(Hit(one, 0.25) for one in self.kept if query not in one.text)][:k] if query != "없음" else []

    async def aforget(self, id: str) -> None:
        if id not in {one.id for one in self.kept}:
            raise MemoryNotFound(id)
        self.kept = [one for one in self.kept if one.id != id]

    async def aforget_all(self, user: str) -> int:
        assert user == "default"
        count, self.kept = len(self.kept), []
        return count

    async def asummarize(self, dialogue: list[dict[str, Any]]) -> Summary:
        self._may("asummarize")
        return Summary(f"{len(dialogue)}마디의 요약", USAGE)

    async def astatus(self) -> Any:
        loaded = [SimpleNamespace(name="big", tokens_per_second=12.34)]
        return SimpleNamespace(held=400_000_000, budget=16_000_000_000, resident=500_000_000, loaded=loaded)

    def plan(self, role: str) -> Any:
        names = {"classification": "small", "embedding": "far"}
        plan = {"model": names.get(role, "big"), "installed": role != "embedding"}
        return SimpleNamespace(to_dict=lambda: plan)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setenv("LC_ALL", "ko_KR.UTF-8")
    made = FakeEngine()

    def make(**keywords: Any) -> FakeEngine:
        made.made = keywords
        return made

    monkeypatch.setattr(console, "Engine", make)
    return made


Output = pytest.CaptureFixture[str]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(text: str, *options: str) -> int:
        given = io.BytesIO(text.encode("utf-8", "surrogateescape"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given, encoding="cp949"))
        return cli.main(["chat", *options])

    return run


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> Callable[..., int]:
    """Run at a terminal: each word is a line, `CTRL_C` the key, END or the last one the end of file."""

    def run(*lines: object, options: tuple[str, ...] = ()) -> int:
        left, being = [*lines, END], [""]

        def read(prompt: str = "") -> str:
            print(prompt, end="")
            line = left.pop(0)
            being[0] = str(line) if isinstance(line, GivenUp) else ""
            if line is CTRL_C or being[0]:
                raise KeyboardInterrupt
            if line is END:
                raise EOFError
            return str(line)

        monkeypatch.setattr(builtins, "input", read)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setattr(chat_command, "_editing", lambda: lambda: being[0])
        return cli.main(["chat", *options])

    return run


# ---- piped lines


def test_a_line_is_answered_on_stdout_and_the_rest_is_told_on_stderr(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output
) -> None:
    fake.told, fake.found = (PEANUTS, BUSAN), [DOG]
    assert piped("\ufeff안녕\r\n\n  \n잘 있어?") == 0
    out, err = capsys.readouterr()
    assert out == "네, 안녕하세요\n" * 2
    assert fake.said == ["안녕", "잘 있어?"]
    told = "(떠올린 기억: 저는 땅콩을 못 먹어요 · 부산에 살아요)\n"
    assert err == f"기억했어요: 개를 키워요\n{told}{told}"
    assert fake.waited == [2.0]
    assert fake.closed


def test_with_json_every_answer_is_a_line(fake: FakeEngine, piped: Callable[..., int], capsys: Output) -> None:
    fake.told, fake.found = (PEANUTS,), [DOG]
    fake.answers = [("좋\x9b31m아요",), (ContextOverflow(9, 5),)]
    assert piped("안녕\n길다\n/기억 땅콩\n", "--json", "--quiet") == 1
    out, err = capsys.readouterr()
    answer, failed, found = map(json.loads, out.splitlines())
    assert answer["text"] == "좋\x9b31m아요"
    assert "\x9b" not in out
    assert ([one["id"] for one in answer["memories"]], [one["id"] for one in answer["news"]]) == (["m1"], ["m3"])
    assert failed["error"] == "context_overflow"
    assert (found["command"], found["result"][0]["score"]) == ("memory", 0.75)
    assert err.startswith("gieok: the prompt has 9 tokens")


def test_what_is_found_at_the_end_is_a_line_of_json_too(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(timeout: float | None = None) -> bool:  # noqa: ASYNC109 - as a session's
        fake.found = [BUSAN]
        return True

    monkeypatch.setattr(fake, "await_", found)
    assert piped("안녕\n", "--json") == 0
    answer, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert answer["news"] == []
    assert (last["text"], [one["id"] for one in last["news"]]) == (None, ["m2"])


def test_options_reach_the_session(fake: FakeEngine, piped: Callable[..., int]) -> None:
    assert piped("") == 0
    assert fake.opened == ((), {})
    assert piped("", "--session", "일기", "--user", "철수", "--system", "짧게", "--memory", "read", "--home", "집") == 0
    assert fake.opened == (("일기",), {"user": "철수", "system": "짧게", "memory": "read"})
    assert fake.made["home"] == "집"
    with pytest.raises(SystemExit) as ended:
        piped("", "--memory", "some")
    assert ended.value.code == 2


def test_what_fails_is_one_line_and_the_next_is_answered(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output
) -> None:
    fake.fails["astream"] = InvalidInput("message is\nodd")
    assert piped("하나\n둘\n/없는말\n/m\n") == 1
    out, err = capsys.readouterr()
    assert out == "네, 안녕하세요\n"
    lines = err.splitlines()
    assert lines[0] == "gieok: message is odd"
    assert lines[1].startswith("gieok: /기억 /잊어 /요약 /모델 /상태 /도움 /끝 ")
    assert lines[2].startswith("gieok: /기억 /모델 ")
    assert len(lines) == 3


@pytest.mark.parametrize("error", [EngineClosed("it was closed"), StoreLocked("another process writes")])
def test_what_cannot_be_mended_ends_it(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output, error: Exception
) -> None:
    fake.answers = [("반쯤", error)]
    assert piped("하나\n둘\n") == 1
    assert capsys.readouterr() == ("반쯤", f"gieok: {error}\n")
    assert fake.said == ["하나"]
    assert fake.closed


def test_a_byte_that_is_no_utf8_is_refused_and_not_guessed(fake: FakeEngine, piped: Callable[..., int]) -> None:
    assert piped("\udcff 안녕\n") == 0
    assert fake.said == ["\udcff 안녕"]  # which every real session refuses, as a lone surrogate


def test_ctrl_c_ends_a_pipe_and_what_was_written_stays(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output
) -> None:
    fake.answers = [("반쯤", CTRL_C, " 썼", "다가")]
    assert piped("하나\n둘\n") == 130
    assert capsys.readouterr().out == "반쯤 썼\n"
    assert fake.said == ["하나"]


def test_what_is_left_for_the_next_time_is_told(fake: FakeEngine, piped: Callable[..., int], capsys: Output) -> None:
    fake.idle = False
    assert piped("하나\n") == 0
    assert capsys.readouterr().err == "아직 살펴보지 못한 말은 다음에 이어서 살펴봅니다\n"
    assert piped("하나\n", "--memory", "read") == 0
    assert capsys.readouterr().err == ""


def test_the_messages_are_english_elsewhere(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    fake.idle, fake.found = False, [BUSAN]
    assert piped("hello\n/sta\n") == 0
    out, err = capsys.readouterr()
    assert "memory held\t400 MB of 16.0 GB; the process has 500 MB" in out
    assert err == "remembered: 부산에 살아요\nwhat was not searched for memories yet will be next time\n"


# ---- at a terminal


def test_a_session_that_goes_on_says_so(fake: FakeEngine, typed: Callable[..., int], capsys: Output) -> None:
    fake.turns = [Said(0, "user", "안녕", WHEN), Said(1, "assistant", "네", WHEN)]
    assert typed("  안녕 ") == 0
    out, err = capsys.readouterr()
    assert out == "> 네, 안녕하세요\n> \n"
    assert "이어서 이야기합니다: 2마디, 마지막은 2026-03-11" in err


def test_condensed_turns_are_told_once(fake: FakeEngine, typed: Callable[..., int], capsys: Output) -> None:
    fake.turns = [Said(0, "user", "옛말", WHEN, condensed=True), Said(1, "user", "안녕", WHEN)]

    def condense(text: str) -> FakeStream:
        fake.turns[1] = replace(fake.turns[1], condensed=True)
        return FakeStream(fake, ("네",))

    fake.astream = condense  # type: ignore[method-assign]
    assert typed("하나", "둘") == 0
    assert capsys.readouterr().err.count("가장 오래된 2마디는") == 1


def test_ctrl_c_stops_an_answer_and_the_next_message_is_answered(
    fake: FakeEngine, typed: Callable[..., int], capsys: Output
) -> None:
    fake.answers = [("반쯤", CTRL_C, " 썼", "다가")]
    assert typed("하나", "둘") == 0
    out, err = capsys.readouterr()
    assert out == "> 반쯤 썼\n> 네, 안녕하세요\n> \n"
    assert err.count("(멈췄습니다)") == 1


def test_ctrl_c_stops_a_command_too(
    fake: FakeEngine, typed: Callable[..., int], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def search(query: str, **_: object) -> list[Hit]:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(fake, "asearch", search)
    assert typed("/기억 개", "안녕") == 0
    out, err = capsys.readouterr()
    assert out == "> \n> 네, 안녕하세요\n> \n"
    assert "(멈췄습니다)" in err


def test_ctrl_c_while_an_answer_is_being_stopped_leaves(fake: FakeEngine, typed: Callable[..., int]) -> None:
    class Stubborn(FakeStream):
        def cancel(self) -> None:
            self.cancelled, self._left = True, [CTRL_C]

    fake.astream = lambda text: Stubborn(fake, ("반", CTRL_C, "쯤"))  # type: ignore[method-assign]
    assert typed("하나", "둘") == 130
    assert fake.closed


@pytest.mark.parametrize(
    ("seconds", "lines", "status"),
    [
        (1.0, ("하나", CTRL_C), 130),  # twice in a row
        (5.0, ("하나", CTRL_C), 0),
        (5.0, ("하나", CTRL_C, CTRL_C), 130),
        (5.0, ("하나", CTRL_C, "둘", CTRL_C), 0),
        (5.0, (CTRL_C, "", CTRL_C), 0),
        (5.0, (CTRL_C, CTRL_C), 130),
    ],
)
def test_ctrl_c_twice_leaves(
    fake: FakeEngine, typed: Callable[..., int], monkeypatch: pytest.MonkeyPatch,
    seconds: float, lines: tuple[object, ...], status: int,
) -> None:  # fmt: skip
    clock = iter(range(1000))
    monkeypatch.setattr(chat_command, "time", SimpleNamespace(monotonic=lambda: next(clock) * seconds))
    fake.answers = [("반쯤", CTRL_C, " 썼", "다가")]
    assert typed(*lines) == status


def test_ctrl_c_gives_up_the_line_that_is_being_typed(fake: FakeEngine, typed: Callable[..., int]) -> None:
    half = GivenUp("반쯤 쓴 말")
    assert typed(half, half, CTRL_C, half, CTRL_C, "하나") == 0
    assert fake.said == ["하나"]


def test_leaving_waits_a_little_and_ctrl_c_not_at_all(fake: FakeEngine, typed: Callable[..., int]) -> None:
    assert typed("/끝", "하나") == 0
    assert typed(CTRL_C, CTRL_C) == 130
    fake.fails["await_"] = KeyboardInterrupt()
    assert typed(END) == 0
    assert fake.waited == [2.0, 0, 2.0]
    assert fake.said == []


def test_what_a_model_or_a_memory_writes_cannot_steer_the_terminal(
    fake: FakeEngine, typed: Callable[..., int], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    evil = memory(9, "a\x1b]0;title\x07\x9b2J\u202eb")
    fake.kept = fake.found = [evil]
    fake.told, fake.summary = (evil,), "\x1b[2J"
    fake.turns = [Said(0, "user", "x", WHEN, condensed=True)]
    fake.answers = [
        (
            "\x1b[31",
            "m빨강\r\n\t\x08",
        )
    ]
    assert typed("하나", "/기억", "/잊어 title", "네", "/요약") == 0
    shown = "".join(capsys.readouterr())
    assert "␛[31m빨강␍\n\t␈" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)


@pytest.mark.parametrize(
    ("variables", "dim"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)]
)
@pytest.mark.skipif(os.name == "nt", reason="which depends on the console there")
def test_what_is_no_answer_is_dim_where_colour_is_welcome(
    fake: FakeEngine, typed: Callable[..., int], capsys: Output, monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str], dim: bool,
) -> None:  # fmt: skip
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fake.found = [BUSAN]
    assert typed("하나") == 0
    err = capsys.readouterr().err
    assert ("\x1b[2m기억했어요: 부산에 살아요\x1b[0m\n" in err) is dim
    assert ("\x1b" in err) is dim


# ---- what /… does


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("기억", "memory"), ("기", "memory"), ("memory", "memory"), ("MEM", "memory"), ("잊", "forget"), ("f", "forget"),
        ("요약", "summary"), ("su", "summary"), ("모델", "model"), ("models", "model"), ("상태", "status"),
        ("도움말", "help"), ("?", "help"), ("끝", "quit"), ("exit", "quit"), ("q", "quit"),
        ("\u1100\u1175\u110b\u1165\u11a8", "memory"),
    ],
)  # fmt: skip
def test_a_verb_is_known_by_its_beginning_in_both_languages(word: str, name: str) -> None:
    assert chat_verbs.verb(word, "ko") == name


@pytest.mark.parametrize("word", ["", "m", "s", "없는말", "기억해"])
def test_a_verb_that_is_not_clear_is_not_guessed(word: str) -> None:
    languages: tuple[Language, ...] = ("ko", "en")
    for language in languages:
        with pytest.raises(InvalidInput, match="/") as told:
            chat_verbs.verb(word, language)
        assert word not in {"없는말", "기억해"} or word not in str(told.value)


def test_every_verb_has_help_in_both_languages(fake: FakeEngine, piped: Callable[..., int], capsys: Output) -> None:
    assert piped("/도움\n") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(chat_verbs._NAMES)
    for line, (english, korean, *_) in zip(lines, chat_verbs._NAMES.values(), strict=True):
        assert line.startswith(f"/{korean}")
        assert line.endswith(f"\t/{english}")
    for english, korean in (*chat_verbs._SAID.values(), *chat_command._SAID.values()):
        assert not re.search("[가-힣]", english)
        assert re.search("[가-힣]", korean)


def test_a_message_may_begin_with_a_slash(fake: FakeEngine, piped: Callable[..., int]) -> None:
    assert piped("//etc/passwd가 뭐야?\n") == 0
    assert fake.said == ["/etc/passwd가 뭐야?"]


def test_memories_are_listed_with_numbers_and_found_with_scores(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output
) -> None:
    fake.kept[1:1] = [memory(n, f"기억 {n} " + "가" * 300) for n in range(10, 30)]
    assert piped("/기억\n/기억 땅콩\n/기억 없음\n") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == " 1. 저는 땅콩을 못 먹어요 · 2026-03-11"
    assert lines[19].startswith("20. 기억 28 ")
    assert lines[19].endswith("가… · 2026-03-11")
    assert lines[20] == "… 더 있습니다: /기억 찾을 말"
    assert lines[21] == " 1. 저는 땅콩을 못 먹어요 · 2026-03-11 · 0.75"
    assert lines[-1] == "맞는 기억이 없습니다"


LEFT = {"m1", "m2", "m3"}


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (("/기억", "/잊어 2", "네"), {"m1", "m3"}),
        (("/기억", "/잊어 1, 3번", "예."), {"m2"}),
        (("/기억", "/잊어 2", "아니요"), LEFT),
        (("/기억", "/잊어 2", ""), LEFT),
        (("/기억", "/잊어 2", END), LEFT),
        (("/기억", "/잊어 2", CTRL_C), LEFT),
        (("/기억", "/잊어 4", "네"), LEFT),
        (("/기억", "/잊어 0", "네"), LEFT),
        (("/잊어 1", "네"), LEFT),  # no list was shown
        (("/잊어", "네"), LEFT),
        (("/기억", "/잊어 1", "y", "/잊어 2", "y"), {"m3"}),  # the numbers are still those that were read
        (("/기억", "/잊어 1", "y", "/잊어 1", "y"), {"m2", "m3"}),
        (("/잊어 부산", "yes"), {"m1", "m3"}),
        (("/잊어 부산", "2"), {"m2", "m3"}),  # which was number 2 of what was found
        (("/잊어 부산", "7"), LEFT),
        (("/잊어 부산", "글쎄"), LEFT),
        (("/잊어 없음", "네"), LEFT),
        (("/잊어 전부", "네"), LEFT),
        (("/잊어 전부", ""), LEFT),
        (("/잊어 전부", "전부"), set()),
        (("/forget all", "'all'"), set()),
    ],
)
def test_only_what_was_confirmed_is_forgotten(
    fake: FakeEngine, typed: Callable[..., int], capsys: Output, lines: tuple[object, ...], left: set[str]
) -> None:
    assert typed(*lines) == 0
    assert {one.id for one in fake.kept} == left
    assert ("잊었습니다" in capsys.readouterr().out) is (left != LEFT)


def test_what_will_go_is_shown_before_it_goes(fake: FakeEngine, piped: Callable[..., int], capsys: Output) -> None:
    assert piped("/잊어 부산\n네\n") == 0
    out, err = capsys.readouterr()
    assert out == "잊었습니다: 1개\n"
    assert err.splitlines()[0] == " 1. 부산에 살아요 · 2026-03-11 · 0.75"
    assert err.splitlines()[-1].startswith("1번을 완전히 잊을까요?")
    assert piped("/잊어 전부\n전부\n", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"command": "forget", "result": {"forgotten": 2}}
    assert "기억 2개와 모든 대화가" in err


def test_the_summary_is_what_was_condensed_or_made_anew(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output
) -> None:
    fake.summary = "앞부분의 요약"
    assert piped("/요약\n") == 0
    assert capsys.readouterr().out == "아직 나눈 말이 없습니다\n"
    fake.turns = [Said(0, "user", "안녕", WHEN), Said(1, "assistant", "네", WHEN)]
    assert piped("/요약\n") == 0
    assert capsys.readouterr().out == "2마디의 요약\n"
    fake.turns[0] = replace(fake.turns[0], condensed=True)
    assert piped("/요약\n") == 0
    assert capsys.readouterr().out == "앞부분 1마디를 줄인 것:\n앞부분의 요약\n"


def test_models_are_told_with_their_roles_and_speed(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output
) -> None:
    assert piped("/모델\n") == 0
    assert capsys.readouterr().out.splitlines() == [
        "big (chat, summary, extraction, fallback)\t올라와 있음 · 초당 12.3 토큰",
        "small (classification)\t안 올라옴",
        "far (embedding)\t설치 안 됨: gieok models pull far",
    ]
    assert piped("/모델\n", "--json") == 0
    big, *_ = json.loads(capsys.readouterr().out)["result"]
    assert (big["model"], big["loaded"], big["tokens_per_second"]) == ("big", True, 12.34)


def test_status_tells_of_the_session_and_what_is_still_to_do(
    fake: FakeEngine, piped: Callable[..., int], capsys: Output
) -> None:
    fake.turns, fake.idle = [Said(0, "user", "안녕", WHEN, condensed=True), Said(1, "assistant", "네", WHEN)], False
    assert piped("/상태\n") == 0
    assert capsys.readouterr().out.splitlines() == [
        "대화\tdefault (사용자 default): 2마디, 그중 1마디는 줄임",
        "기억\t3",
        "쓰는 메모리\t16.0 GB 중 400 MB, 프로세스는 500 MB",
        "남은 일\t하는 중",
    ]
    assert piped("/상태\n", "--json") == 0
    told = json.loads(capsys.readouterr().out)["result"]
    assert (told["memories"], told["held"], told["idle"]) == (3, 400_000_000, False)


# ---- a real terminal, and a real session

_AT_A_TERMINAL = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from engine.cli import main; sys.exit(main())"
)


class Terminal:
    """A pseudo-terminal in which `gieok chat` runs."""

    def __init__(self, home: Path, *options: str, **variables: str) -> None:
        import pty

        own, its = pty.openpty()
        # not by LC_ALL: where that locale is not installed, Python reads the paths of its own environment as ASCII
        env = {**os.environ, "PYTHONPATH": str(Path(engine.__file__).parents[1]), "TERM": "xterm",
               "GIEOK_CONFIG": str(packaged_file()), "LC_ALL": "",
               "LC_CTYPE": "C.UTF-8", "LC_MESSAGES": "ko_KR.UTF-8", **variables}  # fmt: skip
        command = [sys.executable, "-c", _AT_A_TERMINAL, "--profile", "starter", "--home", str(home), "chat", *options]
        self.process = subprocess.Popen(
            command, stdin=its, stdout=its, stderr=its, env=env, start_new_session=True, close_fds=True
        )
        os.close(its)
        self._fd, self.shown, self._seen = own, b"", 0

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode("utf-8"))

    def until(self, pattern: str) -> str:
        """Wait until a pattern stands behind what was waited for before, and return what stands up to its end."""
        while not (found := re.search(pattern, text := self.shown[self._seen :].decode("utf-8", "ignore"))):
            data = self._read()
            assert data, f"the terminal closed without {pattern!r}: {self.shown.decode('utf-8', 'replace')}"
        self._seen += len(text[: found.end()].encode("utf-8"))
        return text[: found.end()]

    def ended(self) -> int:
        while self._read():
            pass
        os.close(self._fd)
        return self.process.wait(timeout=120)

    def _read(self) -> bytes:
        if not select.select([self._fd], [], [], 200)[0]:
            self.process.kill()
            pytest.fail(f"nothing came: {self.shown.decode('utf-8', 'replace')}")
        try:
            data = os.read(self._fd, 4096)
        except OSError:  # how Linux says that nobody has the terminal any more
            data = b""
        self.shown += data
        return data


_STORY = "Write a very long story about the sea and the people who live by it."
_WORDS = r"\?2004l[^a-zA-Z]*(load [^\n]*\n)*[^\n]*?[a-zA-Z]+ [a-zA-Z]+ [a-zA-Z]+"  # of an answer


@pytest.mark.model
@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals")
def test_a_real_answer_is_stopped_kept_and_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / "same.toml").write_text("[engine.sampling]\ntemperature = 0\n", encoding="utf-8")
    config, home = str(tmp_path / "same.toml"), tmp_path / "home"
    terminal = Terminal(home, "--memory", "off", GIEOK_CONFIG=config)
    terminal.until(r"> ")
    terminal.type(f"{_STORY}\n")
    terminal.until(_WORDS)
    terminal.type("\x03")
    terminal.until(r"\(멈췄습니다\)")
    terminal.until(r"> ")
    terminal.type("/상태가\x7f\n")  # a letter of three bytes is taken back as one
    assert "2마디" in terminal.until(r"남은 일")
    terminal.until(r"> ")
    terminal.type("\x04")
    assert terminal.ended() == 0
    with engine.Engine(profile="starter", home=home) as opened:
        asked, answer = opened.session(memory="off").history()
    assert asked.content == _STORY
    written = terminal.shown.decode("utf-8").replace("\r\n", "\n").replace("^C", "")  # which the terminal shows
    assert answer.content in written
    assert len(answer.content) < 1500
    assert not (tmp_path / ".python_history").exists()


@pytest.mark.model
def test_a_real_session_is_talked_to_through_a_pipe(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(engine.__file__).parents[1]), "GIEOK_CONFIG": str(packaged_file())}
    command = [sys.executable, "-m", "engine", "--profile", "starter", "--home", str(tmp_path / "집"), "chat", "--json"]
    talk = b"Say hello.\n\xff\n" + "/없는말\n/상태".encode()
    done = subprocess.run(
        [*command, "--quiet", "--memory", "off"], input=talk, capture_output=True, timeout=250, env=env, check=False
    )
    answer, half, unknown, status = map(json.loads, done.stdout.decode("utf-8").splitlines())
    assert answer["text"]
    assert answer["finish_reason"] in {"stop", "length"}
    assert [half["error"], unknown["error"]] == ["invalid_input"] * 2
    assert status["result"]["session"] == {"name": "default", "user": "default", "turns": 2, "condensed": 0}
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 2)
