"""examples/: each run as its docstring says, on the starter profile, in a process of its own."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import pytest

import engine
from engine import Engine, InvalidInput

ROOT = Path(__file__).parents[1]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
STORY = "Write a very long story about the sea and the people who live by it."
# two threads that wait for each other in every layer are slow beyond measure where other tests take the cores
CONFIG = """
[engine.sampling]
temperature = 0
max_tokens = 1500

[models."smollm2-135m-instruct"]
n_threads = 1
"""
WAIT = 120  # seconds after which nothing will come any more: no test is decided by it
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals, named pipes and SIGTERM")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "집"


@pytest.fixture
def env(tmp_path: Path, home: Path) -> dict[str, str]:
    """Where an example finds Gieok, answers the same way each time, and keeps what it learns."""
    config = tmp_path / "same.toml"
    config.write_text(CONFIG, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(Path(engine.__file__).parents[1]), "PYTHONUTF8": "1", "TERM": "xterm",
            "GIEOK_CONFIG": str(config), "GIEOK_HOME": str(home)}  # fmt: skip


def command(name: str, *options: object) -> list[str]:
    return [sys.executable, str(EXAMPLES[name]), "--profile", "starter", *map(str, options)]


def run(name: str, *options: object, env: dict[str, str], profile: str = "starter") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(EXAMPLES[name]), "--profile", profile, *map(str, options)]
    return subprocess.run(line, capture_output=True, encoding="utf-8", env=env, timeout=WAIT, check=False)


def loaded(name: str) -> ModuleType:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES[name])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def history(home: Path, name: str) -> list[tuple[str, str]]:
    with Engine(profile="starter", home=home) as opened:
        return [(said.role, said.content) for said in opened.session(name, memory="off").history()]


# ---- what all have in common


def test_there_are_these_examples() -> None:
    assert set(EXAMPLES) == {"terminal", "window", "service", "bulk"}
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+)\.py\)", listed)) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_needs_what_a_reader_has(name: str) -> None:
    text = EXAMPLES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) < (40 if name == "terminal" else 120)
    tree = ast.parse(text)
    assert f"python examples/{name}.py" in (ast.get_docstring(tree) or "")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            top = str(node.module).partition(".")[0]
            assert top in sys.stdlib_module_names or top == "rich" or node.module in {"engine", "engine.errors"}
            if node.module == "engine":
                assert {alias.name for alias in node.names} <= set(engine.__all__)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_unknown_profile_is_told_in_a_line(name: str, env: dict[str, str], tmp_path: Path) -> None:
    given = (tmp_path, tmp_path / "out.jsonl") if name == "bulk" else ()
    done = run(name, *given, env=env, profile="startr")
    assert done.returncode in {1, 2}
    assert "Did you mean 'starter'?" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# ---- terminal.py

_AT_A_TERMINAL = (
    "import fcntl, runpy, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


class Terminal:
    """A pseudo-terminal in which an example runs."""

    def __init__(self, line: list[str], env: dict[str, str]) -> None:
        import pty

        self._fd, its = pty.openpty()
        line = [line[0], "-c", _AT_A_TERMINAL, *line[1:]]
        self.process = subprocess.Popen(line, stdin=its, stdout=its, stderr=its, env=env, start_new_session=True)
        os.close(its)
        self.shown, self._seen = b"", 0

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def until(self, pattern: str, again: str = "") -> str:
        """Wait until a pattern stands behind what was waited for before; type `again` every second until then."""
        while not (found := re.search(pattern, text := self.shown[self._seen :].decode("utf-8", "ignore"))):
            if again and not select.select([self._fd], [], [], 1)[0]:
                self.type(again)
            assert self._read(), f"the terminal closed without {pattern!r}: {self.shown.decode('utf-8', 'replace')}"
        self._seen += len(text[: found.end()].encode())
        return text[: found.end()]

    def ended(self) -> int:
        while self._read():
            pass
        os.close(self._fd)
        return self.process.wait(timeout=WAIT)

    def _read(self) -> bytes:
        if not select.select([self._fd], [], [], WAIT)[0]:
            self.process.kill()
            pytest.fail(f"nothing came: {self.shown.decode('utf-8', 'replace')}")
        try:
            data = os.read(self._fd, 4096)
        except OSError:  # how Linux says that nobody has the terminal any more
            data = b""
        self.shown += data
        return data


@posix
@pytest.mark.model
def test_the_terminal_assistant_stops_remembers_and_tells(env: dict[str, str], home: Path) -> None:
    terminal = Terminal(command("terminal"), env)
    terminal.until("> ")
    terminal.type(f"{STORY}\n")
    terminal.until(r"live by it\.[\s\S]*?\w+ \w+ \w+ \w+ \w+")
    terminal.type("\x03")
    terminal.until(r"\(stopped · 멈췄습니다; Ctrl-D: 끝\)\s+.*> ")
    terminal.type("제 이름은 김민지예요.\n")
    terminal.until(r"김민지예요\.\s+\w+")  # the answer has begun: before that, Ctrl-C takes the question back
    terminal.type("\x03")
    terminal.until(r"\(remembered · 기억했어요: 제 이름은 김민지예요\.\)", again="\n")
    terminal.type("제 이름이 뭐였죠?\n")
    terminal.until(r"\(told · 떠올린 기억: 제 이름은 김민지예요\.\)")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.ended() == 0
    (_, question), (_, story), *_ = history(home, "terminal")
    shown = terminal.shown.decode("utf-8").replace("\r\n", "\n").replace("^C", "")  # which the terminal shows
    assert question == STORY and story.strip() in shown and len(story) < 3000


# ---- window.py


class FakeStream:
    """Yields its pieces when it is let go on, until it is cancelled."""

    def __init__(self, *pieces: str | BaseException) -> None:
        self._pieces, self._go, self.cancelled = list(pieces), SimpleQueue[None](), threading.Event()

    def let(self, pieces: int) -> None:
        for _ in range(pieces):
            self._go.put(None)

    def cancel(self) -> None:
        self.cancelled.set()
        self.let(1)

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self._go.get()
            if self.cancelled.is_set():
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece


class FakeHouse:
    """An engine and its session: `streams` are taken in turn."""

    def __init__(self, *streams: FakeStream) -> None:
        self._streams, self.asked, self.closed_by = list(streams), list[str](), ""

    def session(self, name: str) -> FakeHouse:
        assert name == "window"
        return self

    def astream(self, text: str) -> FakeStream:
        self.asked.append(text)
        return self._streams.pop(0)

    def close(self) -> None:
        self.closed_by = threading.current_thread().name


def test_the_pump_hands_over_what_is_there_and_comes_again_until_the_end() -> None:
    pump, events = loaded("window").pump, SimpleQueue[tuple[str, str]]()
    later: list[tuple[Any, ...]] = []
    handled: list[tuple[str, str]] = []

    def after(*call: Any) -> None:
        later.append(call)

    def handle(kind: str, text: str) -> None:
        handled.append((kind, text))
        if text == "가":
            events.put(("text", "다"))  # as a thread may, meanwhile

    events.put(("text", "가"))
    events.put(("text", "나"))
    pump(after, events, handle)
    assert handled == [("text", "가"), ("text", "나")]
    [(ms, function, *arguments)] = later
    assert ms > 0
    events.put(("closed", ""))
    events.put(("text", "never"))
    function(*arguments)
    assert handled[2:] == [("text", "다"), ("closed", "")]
    assert len(later) == 1


def taken(answering: Any, count: int) -> list[tuple[str, str]]:
    return [answering.events.get(timeout=20) for _ in range(count)]


def test_the_window_s_thread_answers_stops_fails_and_leaves() -> None:
    long, bad, last = FakeStream("하나", "둘", "셋"), FakeStream(InvalidInput("no")), FakeStream("끝", "없음")
    house = FakeHouse(long, bad, last)
    answering = loaded("window").Answering(house)
    answering.daemon = True  # where it fails, the suite ends all the same
    answering.stop()  # nothing is asked yet
    answering.start()
    answering.ask("첫째")
    long.let(1)
    assert taken(answering, 1) == [("text", "하나")]
    answering.stop()
    assert taken(answering, 1) == [("ready", "\n\n")]
    answering.ask("둘째")
    bad.let(1)
    assert taken(answering, 2) == [("text", "[no]"), ("ready", "\n\n")]
    answering.ask("셋째")
    answering.leave()
    answering.join(WAIT)
    assert last.cancelled.is_set()
    assert taken(answering, 2) == [("ready", "\n\n"), ("closed", "")]
    assert (house.asked, house.closed_by) == (["첫째", "둘째", "셋째"], answering.name)


def test_without_tkinter_the_window_says_what_installs_it(env: dict[str, str], tmp_path: Path) -> None:
    hidden = "import importlib.util as u, runpy, sys; u.find_spec = lambda name: None; sys.argv = sys.argv[1:]; "
    line = [sys.executable, "-c", f"{hidden}runpy.run_path(sys.argv[0], run_name='__main__')", str(EXAMPLES["window"])]
    done = subprocess.run(line, capture_output=True, encoding="utf-8", env=env, timeout=WAIT, check=False)
    assert done.returncode == 1
    assert "apt-get install python3-tk" in done.stderr
    assert len(done.stderr.splitlines()) == 1


_DRIVEN = """
import importlib.util, json, sys

_, path, *options, story = sys.argv
spec = importlib.util.spec_from_file_location("window", path)
window = importlib.util.module_from_spec(spec)
spec.loader.exec_module(window)
log = []


class Driven(window.Window):  # what a user does: ask and stop, ask and close
    def __init__(self, answering):
        super().__init__(answering)
        self.asked = self.pieces = 0
        self.tick()
        self.root.after(50, self.type)

    def tick(self):
        log.append("tick")
        self.root.after(20, self.tick)

    def type(self):
        self.asked, self.pieces = self.asked + 1, 0
        self.entry.insert(0, story)
        self.entry.focus_force()
        self.root.update()
        log.append("asked")
        self.entry.event_generate("<Return>")

    def handle(self, kind, text):
        super().handle(kind, text)
        if text.startswith("나: "):
            return
        log.append(kind)
        self.pieces += 1
        if kind == "text" and self.pieces == 3:
            if self.asked == 1:
                self.stop.invoke()
            else:
                self.root.tk.call(self.root.protocol("WM_DELETE_WINDOW"))
        if kind == "ready" and self.asked == 1:
            log.append(self.said.get("1.0", "end"))
            self.type()


window.Window, sys.argv = Driven, [path, *options]
window.main()
print(json.dumps(log))
"""


@pytest.fixture
def display(env: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield `env` with a display to open windows on: Xvfb where it is installed, else the user's."""
    if importlib.util.find_spec("_tkinter") is None:
        pytest.skip("this Python has no tkinter")
    server = shutil.which("Xvfb")
    if server is None:
        if sys.platform == "linux" and not os.environ.get("DISPLAY"):
            pytest.skip("there is no display, and no Xvfb (Debian: apt-get install xvfb)")
        yield env
        return
    read, write = os.pipe()
    line = [server, "-displayfd", str(write), "-nolisten", "tcp", "-screen", "0", "800x600x24"]
    process = subprocess.Popen(line, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read, encoding="ascii") as numbers:
            number = numbers.readline().strip()
        if not number:
            pytest.skip("Xvfb does not start here")
        yield {**env, "DISPLAY": f":{number}"}
    finally:
        process.terminate()
        process.wait(WAIT)


@posix
@pytest.mark.model
def test_the_window_answers_stops_and_closes_without_freezing(display: dict[str, str], home: Path) -> None:
    python, *line = command("window")
    done = subprocess.run(
        [python, "-c", _DRIVEN, *line, STORY],
        capture_output=True, encoding="utf-8", env=display, timeout=WAIT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    log = json.loads(done.stdout)
    loading = log[log.index("asked") : log.index("text")]
    assert loading.count("tick") > 5  # the window lived while the model was loaded
    assert log.count("ready") == 2 and log[-1] == "closed"
    shown = next(entry for entry in log if STORY in entry)
    (asked, question), (_, first), *second = history(home, "window")
    assert (asked, question) == ("user", STORY)
    assert first in shown and len(first) < 3000
    assert [role for role, _ in second] == ["user", "assistant"] and len(second[1][1]) < 3000


# ---- service.py


class Client(threading.Thread):
    """A client that reads its answer, a line after the other, into `lines`; it leaves when `leave` is set."""

    def __init__(self, port: int, message: str, session: str, seen: list[tuple[str, str]]) -> None:
        super().__init__(daemon=True)
        self.lines = SimpleQueue[dict[str, Any]]()
        self._seen, self._session = seen, session
        self._connection = HTTPConnection("127.0.0.1", port, timeout=WAIT)
        self._asked = json.dumps({"message": message, "session": session})
        self.status, self.left = 0, threading.Event()
        self.start()

    def run(self) -> None:
        self._connection.request("POST", "/chat", self._asked.encode(), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        self.status = response.status
        while not self.left.is_set() and (line := response.readline()):
            value = json.loads(line)
            self._seen.append((self._session, next(iter(value))))
            self.lines.put(value)
        response.close()
        self._connection.close()

    def last(self) -> dict[str, Any]:
        while "piece" in (value := self.lines.get(timeout=WAIT)):
            pass
        return value


def told(port: int, request: str) -> str:
    """Send the bytes of a request, and return the status."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        connection.sendall(request.encode())
        return connection.makefile("rb").readline().decode().strip()


JSON = "Host: localhost\r\nContent-Type: application/json\r\n"
REFUSED = {
    "GET / HTTP/1.1\r\n\r\n": "404 Not Found",
    "POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n\r\n": "415 Unsupported Media Type",
    "POST /chat HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\n\r\n": "403 Forbidden",
    f"POST /chat HTTP/1.1\r\n{JSON}\r\n": "413 Content Too Large",
    f"POST /chat HTTP/1.1\r\n{JSON}Content-Length: 9999999\r\n\r\n": "413 Content Too Large",
    f"POST /chat HTTP/1.1\r\n{JSON}Content-Length: x\r\n\r\n": "400 Bad Request",
    f"POST /chat HTTP/1.1\r\n{JSON}Content-Length: 2\r\n\r\n[]": "400 Bad Request",
    f"POST /chat HTTP/1.1\r\n{JSON}Content-Length: 14\r\n\r\n" + '{"message": 1}': "400 Bad Request",
    f"POST /chat HTTP/1.1\r\n{JSON}Content-Length: 5\r\n\r\n" + '{"a":': "400 Bad Request",
    "x" * 100_000: "400 Bad Request",
}


@posix
@pytest.mark.model
def test_the_service_answers_several_cancels_and_ends_with_grace(env: dict[str, str], home: Path) -> None:
    line = [*command("service", "--port", 0, "--grace", 0.5)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=env) as process:
        assert process.stdout and process.stderr
        port = int(re.findall(r":(\d+)/chat", process.stdout.readline())[0])
        assert {request: told(port, request) for request in REFUSED} == {
            request: f"HTTP/1.1 {status}" for request, status in REFUSED.items()
        }
        seen: list[tuple[str, str]] = []
        long = Client(port, STORY, "긴", seen)
        assert long.lines.get(timeout=WAIT)["piece"]
        short = Client(port, "Hi", "짧은", seen)
        reply = short.last()["reply"]
        assert (short.status, reply["finish_reason"]) == (200, "stop")
        assert seen[-1][0] and ("긴", "piece") in seen[seen.index(("짧은", "piece")) :]  # both were being answered
        assert ("긴", "reply") not in seen
        waiting = json.dumps({"message": "Wait.", "session": "긴"})  # for its turn; and its client is gone at once
        ask = f"POST /chat HTTP/1.1\r\n{JSON}Content-Length: {len(waiting)}\r\n\r\n{waiting}"
        assert told(port, ask) == "HTTP/1.1 200 OK"
        long.left.set()
        long.join(WAIT)
        assert Client(port, "Hi", "긴", seen).last()["reply"]["text"]  # after the turn before it has ended
        assert Client(port, "", "빈", seen).last()["error"] == "invalid_input"
        cut = Client(port, STORY, "잘린", seen)
        assert cut.lines.get(timeout=WAIT)["piece"]
        process.send_signal(signal.SIGTERM)
        assert cut.last()["reply"]["finish_reason"] == "cancelled"
        assert process.wait(WAIT) == 0
        assert process.stderr.read() == ""
    with pytest.raises(ConnectionRefusedError):
        told(port, "GET / HTTP/1.1\r\n\r\n")
    assert history(home, "짧은") == [("user", "Hi"), ("assistant", reply["text"])]
    (_, question), (_, kept), (_, after), _ = history(home, "긴")
    assert (question, after) == (STORY, "Hi") and len(kept) < 3000


# ---- bulk.py

SAID = (
    "저는 땅콩 알레르기가 있어요.",
    "저는 매운 음식을 좋아해요.",
    "저는 부산에 살아요.",
    "어제 제주도에 다녀왔어요.",
)


def logs_in(folder: Path, count: int) -> list[str]:
    """Write logs of both kinds, and return their names."""
    names = []
    for i in range(count):
        name = f"방{i % 3}/{i:02}-2026-03-{i + 1:02}.{('json', 'txt')[i % 2]}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        said = SAID[i % len(SAID)]
        turns = [{"role": "assistant", "content": "안녕하세요?"}, {"role": "user", "content": said}]
        text = json.dumps(turns, ensure_ascii=False) if i % 2 == 0 else f"비서: 안녕하세요?\n\n민지: {said}\n"
        (folder / name).write_text(text, encoding="utf-8")
        names.append(name)
    return names


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@posix
@pytest.mark.model
def test_bulk_goes_on_after_a_kill_and_loses_and_doubles_nothing(env: dict[str, str], tmp_path: Path) -> None:
    folder, output = tmp_path / "대화", tmp_path / "기억.jsonl"
    names = logs_in(folder, 24)
    bad = {
        "방0/그림.json": b"\xff\xd8\xff", "방1/반쪽.json": b'[{"role": "user"', "방1/빈.json": b"[]",
        "방2/수.json": b'{"role": "user"}', "방2/역할.json": b'[{"role": "boss", "content": "x"}]',
        "방2/남.txt": "철수: 안녕\n".encode(), "방2/옛.txt": "민지: 안녕".encode("cp949"),
    }  # fmt: skip
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    stuck = sorted(names)[-3]
    content = (folder / stuck).read_bytes()
    (folder / stuck).unlink()
    os.mkfifo(folder / stuck)  # whoever reads this log waits for ever
    line = command("bulk", folder, output, "--me", "민지")
    with subprocess.Popen(line, stderr=subprocess.DEVNULL, env=env) as process:
        while not (output.exists() and output.read_bytes().count(b"\n") >= 4):
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    before = records(output)
    assert 4 <= len(before) < len(names)
    with output.open("ab") as file:
        file.write('{"log": "방2/'.encode()[:-1])  # as a kill in the midst of a line leaves it
    (folder / stuck).unlink()
    (folder / stuck).write_bytes(content)

    done = run("bulk", folder, output, "--me", "민지", env=env)
    after = records(output)
    assert after[: len(before)] == before
    assert sorted(record["log"] for record in after) == sorted(names)
    assert done.returncode == 1
    reasons = dict(re.findall(r"^(방\d/[^\d\s]+\.\w+): (.+)$", done.stderr, re.MULTILINE))
    assert reasons.keys() == bad.keys()
    assert (
        "iconv" in reasons["방2/옛.txt"] and "민지" in reasons["방2/남.txt"] and "no messages" in reasons["방1/빈.json"]
    )
    for record in after:
        [item] = [item for kind in record["memories"].values() for item in kind]
        number = int(record["log"][3:5])
        assert item["quote"] in SAID[number % len(SAID)]
        assert item["when"] == (f"2026-03-{number:02}" if "어제" in item["quote"] else None)

    for name in bad:
        (folder / name).unlink()
    written = output.read_bytes()
    done = run("bulk", folder, output, env=env)
    assert (done.returncode, output.read_bytes()) == (0, written)


@pytest.mark.parametrize(
    ("held", "left"),
    [
        (b"", b""),
        (b'{"lo', b""),
        (b'{"log": "a.json", "mem', b""),
        (b'{"log": "a.json"}\n{"log": "b', b'{"log": "a.json"}\n'),
        (b'{"log": "a.json"}\nmy diary', None),
        (b"my diary", None),
        (b"\n", None),
        (b'[{"role": "user", "content": "x"}]', None),
    ],
)
def test_bulk_cuts_its_own_last_line_and_nobody_else_s(
    held: bytes, left: bytes | None, env: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(held)
    if left is None:
        with pytest.raises(SystemExit, match="name another"):
            loaded("bulk").finished(output)
        assert output.read_bytes() == held
    else:
        assert loaded("bulk").finished(output) == ({"a.json"} if left else set())
        assert output.read_bytes() == left


def test_bulk_needs_a_folder_that_is_there(env: dict[str, str], tmp_path: Path) -> None:
    done = run("bulk", tmp_path / "없음", tmp_path / "out.jsonl", env=env)
    assert (done.returncode, list(tmp_path.glob("*.jsonl"))) == (1, [])
    assert str(tmp_path / "없음") in done.stderr and "Traceback" not in done.stderr
