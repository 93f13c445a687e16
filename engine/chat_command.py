"""`gieok chat`: a conversation in a terminal, or a line of stdin at a time.

Answers and what `/…` shows go to stdout, everything else to stderr. The engine is called off this thread, so that
Ctrl-C meets nothing but the wait for it: it stops what is under way, and the conversation goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import locale
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine import EngineClosed, EngineError, StoreLocked
from engine.chat_verbs import Talk, act, short, verb
from engine.console import Meter, aside, complain, for_stdout, opened, printable, show

if TYPE_CHECKING:
    from engine import Engine, Memory, Reply, Stream

_SAID: dict[str, tuple[str, str]] = {
    "begin": ("/help tells what else there is; Ctrl-D leaves", "/도움 으로 할 수 있는 일을 봅니다. Ctrl-D로 나갑니다"),
    "again": ("it goes on: {turns} turns, the last on {day}", "이어서 이야기합니다: {turns}마디, 마지막은 {day}"),
    "told": ("(told: {memories})", "(떠올린 기억: {memories})"),
    "news": ("remembered: {memory}", "기억했어요: {memory}"),
    "condensed": (
        "the oldest {count} turns are kept as a summary from now on: /summary",
        "가장 오래된 {count}마디는 이제 요약으로 기억합니다: /요약",
    ),
    "stopped": ("(stopped)", "(멈췄습니다)"),
    "length": ("(as long as an answer may be)", "(답의 최대 길이에서 멈췄습니다)"),
    "once more": ("Ctrl-C once more leaves", "한 번 더 Ctrl-C를 누르면 나갑니다"),
    "later": (
        "what was not searched for memories yet will be next time",
        "아직 살펴보지 못한 말은 다음에 이어서 살펴봅니다",
    ),
}  # fmt: skip
_TWICE = 2.0  # seconds within which a second Ctrl-C leaves
_PATIENCE = 2.0  # seconds that leaving waits for the background
_TOLD = 3  # memories that are named after an answer


def chat(arguments: argparse.Namespace) -> int:
    """Talk until the end of file, `/quit` (0) or Ctrl-C (130); 1 where stdin is no terminal and something failed."""
    meter = Meter()
    with opened(arguments, meter=meter) as engine, asyncio.Runner() as runner:
        return _Chat(engine, arguments, meter, runner).run()


class _Left(BaseException):
    """Ctrl-C was pressed to leave."""


class _Chat:
    """One conversation at one terminal or pipe."""

    def __init__(self, engine: Engine, arguments: argparse.Namespace, meter: Meter, runner: asyncio.Runner) -> None:
        given = {"user": arguments.user, "system": arguments.system, "memory": arguments.memory}
        named = [arguments.session] if arguments.session is not None else []
        self._session = engine.session(*named, **{name: value for name, value in given.items() if value is not None})
        self._arguments, self._meter, self._runner = arguments, meter, runner
        transcript = self._session.transcript
        self._talk = Talk(
            engine, self._session, transcript.user, transcript.name, arguments.language, self._run, self._ask
        )
        self._terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._typed = _editing() if self._terminal else lambda: ""
        self._condensed = 0
        self._pressed = float("-inf")  # when Ctrl-C stopped something
        self._warned = self._stopping = self._failed = False

    def run(self) -> int:
        """Talk until the user leaves; return the exit status."""
        if not self._terminal and hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
        try:
            self._try(self._greet)
            while self._turn():
                pass
        except _Left:
            self._leave(0)
            return 130
        self._leave(_PATIENCE)
        return 1 if self._failed and not self._terminal else 0

    # ---- one turn

    def _turn(self) -> bool:
        """Read a line and do what it asks for; return whether there is to be another."""
        self._try(self._tell_background)
        try:
            line = self._read("> " if self._terminal else "").strip()
        except EOFError:
            if self._terminal:
                print()
            return False
        except KeyboardInterrupt:
            self._interrupted()
            return True
        self._warned = False
        if line.startswith("/") and not line.startswith("//"):
            return self._command(line[1:])
        if line:
            self._try(lambda: self._say(line.removeprefix("/")))
        return True

    def _command(self, line: str) -> bool:
        word, _, rest = line.partition(" ")

        def command() -> bool:
            name = verb(word, self._arguments.language)
            if name == "quit":
                return True
            value, lines = act(self._talk, name, rest.strip())
            self._show({"command": name, "result": value}, lines)
            return False

        return not self._try(command)

    def _say(self, text: str) -> None:
        stream = self._session.astream(text)
        reply = self._run(self._answer(stream))
        if self._arguments.json:
            news = [memory.to_dict() for memory in self._run(self._session.anews())]
            self._show({**reply.to_dict(), "news": news})
        else:
            self._end(reply)
        if self._stopping and not self._terminal:
            raise _Left

    async def _answer(self, stream: Stream) -> Reply:
        """Write an answer as it comes; Ctrl-C stops it, and what was written by then is the answer."""
        written = 0
        try:
            async for piece in stream:
                self._write(piece)
                written += len(piece)
        except asyncio.CancelledError:
            self._pressed, self._stopping = time.monotonic(), True
            stream.cancel()
            async for _ in stream:  # it may take the model a moment to notice
                pass
        self._write(stream.reply.text[written:])
        return stream.reply

    def _write(self, piece: str) -> None:
        if piece and not self._arguments.json:
            self._meter.hold()  # what is loaded from here on, is loaded for the background
            print(for_stdout(piece), end="", flush=True)

    def _end(self, reply: Reply) -> None:
        print(flush=True)
        if reply.finish_reason in ("length", "cancelled"):
            self._note("length" if reply.finish_reason == "length" else "stopped")
        if reply.memories:
            self._note("told", memories=_named(reply.memories))

    # ---- around the turns

    def _greet(self) -> None:
        history = self._run(self._session.ahistory())
        self._condensed = sum(said.condensed for said in history)
        if self._terminal:
            self._note("begin")
            if history:
                self._note("again", turns=len(history), day=f"{history[-1].at.astimezone():%Y-%m-%d}")

    def _tell_background(self) -> None:
        """Tell what was found and condensed behind the answers so far."""
        if not self._arguments.json:
            for memory in self._run(self._session.anews()):
                self._note("news", memory=short(memory))
        condensed = sum(said.condensed for said in self._run(self._session.ahistory()))
        if condensed > self._condensed:
            self._note("condensed", count=condensed)
        self._condensed = condensed

    def _leave(self, patience: float) -> None:
        """Wait a little for what is still to be found, and say so where something is left."""
        done = False
        try:
            done = self._run(self._session.await_(patience))
            self._tell_background()
            news = self._run(self._session.anews()) if self._arguments.json else []
            if news:
                self._show({"text": None, "memories": [], "news": [memory.to_dict() for memory in news]})
        except KeyboardInterrupt:  # who leaves twice is in a hurry
            pass
        if not done and self._arguments.memory in (None, "auto"):
            self._note("later")

    # ---- Ctrl-C

    def _interrupted(self) -> None:
        """Leave where that is the second Ctrl-C, or nobody is there to be asked. Raises `_Left`."""
        typed, now = self._typed(), time.monotonic()
        if self._terminal:
            print()
        if not self._terminal or (not typed and (self._warned or now - self._pressed < _TWICE)):
            raise _Left
        self._warned = not typed  # a line that was being typed is only given up
        if self._warned:
            self._note("once more")

    def _try(self, action: Callable[[], Any]) -> Any:
        """Do something; what fails or is stopped is told, and None is returned. Raises `_Left`, and what is fatal."""
        self._meter.release()
        self._stopping = False
        try:
            return action()
        except (EngineClosed, StoreLocked):
            raise
        except EngineError as error:
            self._failed = True
            self._meter.end()
            complain(str(error))
            if self._arguments.json:
                self._show({"error": error.code, "message": str(error)})
        except KeyboardInterrupt:
            if self._stopping or not self._terminal or time.monotonic() - self._pressed < _TWICE:
                raise _Left from None
            self._pressed = time.monotonic()
            print()
            self._note("stopped")
        return None

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)

    # ---- reading and telling

    def _read(self, prompt: str) -> str:
        self._meter.release()  # what was to be told meanwhile, stands before the prompt
        self._meter.hold()
        sys.stdout.flush()
        return input(prompt)

    def _ask(self, question: str, lines: Sequence[str] = ()) -> str:
        """Show lines and ask; the end of file is an empty answer."""
        *before, prompt = [*lines, *question.split("\n")]
        stream = sys.stdout if self._terminal else sys.stderr
        for line in before:
            print(printable(line), file=stream)
        if not self._terminal:
            print(prompt, file=sys.stderr, flush=True)
        try:
            return self._read(prompt if self._terminal else "")
        except EOFError:
            return ""

    def _show(self, value: Any, lines: Sequence[str] = ()) -> None:
        show(self._arguments, value, lines)
        sys.stdout.flush()

    def _note(self, what: str, **values: object) -> None:
        if not self._arguments.quiet:
            self._meter.end()
            aside(_SAID[what][self._arguments.language == "ko"].format_map(values))


def _editing() -> Callable[[], str]:
    """Have lines edited and remembered until the end, where Python can; return what tells the line being typed."""
    try:
        import readline
    except ImportError:  # the console of Windows does so itself
        return lambda: ""
    if (
        locale.setlocale(locale.LC_CTYPE) == "C"
    ):  # the one that is asked for is not here: it would take bytes for letters
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    readline.parse_and_bind("set enable-bracketed-paste on")  # several pasted lines are one message
    return readline.get_line_buffer


def _named(memories: Sequence[Memory]) -> str:
    named = [short(memory) for memory in memories[:_TOLD]]
    return " · ".join(named) + (f" · +{len(memories) - _TOLD}" if len(memories) > _TOLD else "")
