"""The runtime comparison: what its figures mean, how its sides take turns, whom it asks, and one row of it."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from script_module import SCRIPTS, load

benchmark = load("runtime_benchmark")
command = load("benchmark")
rows = load("runtime_rows")
server = load("runtime_server")
sides = load("runtime_sides")
table = load("runtime_table")
texts = load("runtime_texts")

SPEED = table.Wanted("ours/theirs", True, 0.98)
SOONER = table.Wanted("theirs/ours", True, 2)
SHARE = table.Wanted("ours/theirs", False, 0.6)
ALONE = table.Wanted("ours", False, 150)


def row(ours: list[float], theirs: list[float], wanted: object, **more: object) -> table.Row:
    return table.Row("a", "some work", "s", {"ours": ours, "llama_cpp.Llama": theirs}, wanted=wanted, **more)


@pytest.mark.parametrize(
    ("found", "ratio", "reached"),
    [
        (row([9, 10, 30], [10, 10, 10], SPEED), 1.0, True),
        (row([9], [10], SPEED), 0.9, False),
        (row([2, 4, 3], [6, 6, 6], SOONER), 2.0, True),
        (row([4], [6], SOONER), 1.5, False),
        (row([3], [6], SHARE), 0.5, True),
        (row([5], [6], SHARE), 5 / 6, False),
        (row([5], [6], None), 1.2, None),
        (row([2], [6], SOONER, flaw="the answers differ"), 3.0, False),
        (row([150], [], ALONE), None, True),
        (row([151], [], ALONE), None, False),
        (row([], [], ALONE), None, False),
        (row([1, 1, 10], [8, 8, 8], SOONER, pick="mean"), 2.0, True),
    ],
)
def test_what_a_ratio_means_and_when_a_figure_is_reached(
    found: table.Row, ratio: float | None, reached: bool | None
) -> None:
    assert found.ratio == (None if ratio is None else pytest.approx(ratio))
    assert found.reached is reached


@pytest.mark.parametrize(("unit", "ratio"), [("tokens/s", 2.0), ("s", 0.5), ("MB", 0.5)])
def test_where_nothing_is_wanted_ours_is_better_above_one(unit: str, ratio: float) -> None:
    found = table.Row("a", "work", unit, {"ours": [4.0], table.THEIRS: [2.0]})
    assert found.ratio == pytest.approx(ratio)


def test_the_95th_percentile_is_a_value_that_was_measured() -> None:
    assert table.p95([float(n) for n in range(50)]) == 47
    assert table.p95([3.0]) == 3.0


def test_the_table_names_what_a_row_was_measured_against() -> None:
    other = table.Row("b", "labels", "s", {"ours": [1.0], "server": [4.0], "a bare loop": [2.0]}, "a bare loop", SOONER)
    failed = table.Row("c", "c", "", flaw="failed, ValueError: no")
    lines = list(table.table([row([150.0, 151.0], [], ALONE, load=(50.0, 1.5)), other, failed]))
    assert lines[0] == "| work | ours | llama_cpp.Llama | ratio | wanted | reached | server |"
    assert lines[2] == "| some work | 150 s (150–151) | – | – | ≤ 150 s | no | – |"
    assert lines[3] == "| labels | 1.00 s | 2.00 s, a bare loop | 2.00× | ≥ 2× | yes | 4.00 s |"
    assert lines[4] == "| c | – | – | – | – | – | – |"
    assert "- c: failed, ValueError: no" in lines
    assert lines[-1] == "- a: before its measurements at most 50% of the processor in use, load 1.5"


def test_a_row_in_json_holds_every_value() -> None:
    found = json.loads(json.dumps(row([2.0, 4.0], [6.0, 8.0], SOONER).to_dict()))
    assert found["values"] == {"ours": [2.0, 4.0], "llama_cpp.Llama": [6.0, 8.0]}
    assert found["figures"]["ours"] == {"value": 3.0, "low": 2.0, "high": 4.0, "count": 2}
    assert found["ratio"] == pytest.approx(7 / 3)
    assert found["reached"] is True


# ---- one run


@pytest.fixture
def run(tmp_path: Path) -> benchmark.Run:
    return benchmark.Run(benchmark.Options(Path("none.gguf"), 2, (), "", benchmark.QUICK), str(tmp_path))


def test_sides_take_turns(run: benchmark.Run) -> None:
    order: list[str] = []
    found = run.alternate({"a": lambda n: order.append(f"a{n}"), "b": lambda n: order.append(f"b{n}")}, 2)
    assert order == ["a0", "b0", "a1", "b1"]
    assert found == {"a": [None, None], "b": [None, None]}
    assert run.load is not None


def interrupted_at(turn: int) -> Callable[[int], int]:
    def work(n: int) -> int:
        if n == turn:
            raise KeyboardInterrupt
        return n

    return work


def test_ctrl_c_keeps_what_was_measured(run: benchmark.Run) -> None:
    assert run.alternate({"a": lambda n: n, "b": interrupted_at(2)}, 5) == {"a": [0, 1, 2], "b": [0, 1]}
    assert run.stopped


def test_ctrl_c_before_every_side_was_measured_goes_on(run: benchmark.Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.alternate({"a": lambda n: n, "b": interrupted_at(0)}, 5)


def test_rows_after_a_ctrl_c_are_left_out(starter_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(run: benchmark.Run) -> table.Row:
        return table.Row("second", "second", "s", run.alternate({"ours": interrupted_at(1)}, 3))

    names = ("first", "second", "third")
    options = benchmark.Options(starter_gguf, 1, names, "", benchmark.QUICK)
    of = {"first": lambda run: table.Row("first", "first", "s", {"ours": [1.0]}), "second": stopped}
    found = benchmark.measure(options, of)
    assert [one["name"] for one in found["rows"]] == ["first", "second"]
    assert found["interrupted"] is True
    assert "Interrupted" in capsys.readouterr().out


def test_a_row_that_fails_leaves_the_others(starter_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_run: object) -> table.Row:
        raise ValueError("above\nthe last line\n-----")

    options = benchmark.Options(starter_gguf, 1, ("broken", "fine"), "", benchmark.QUICK)
    found = benchmark.measure(options, {"broken": broken, "fine": lambda run: table.Row("fine", "fine", "s")})
    assert [one["flaw"] for one in found["rows"]] == ["failed, ValueError: the last line", ""]
    assert "Traceback" in capsys.readouterr().err


# ---- texts


def test_texts_of_a_size() -> None:
    def count(messages: texts.Messages) -> int:
        return 5 + 2 * len(messages[0]["content"].split())

    def make(words: int) -> texts.Messages:
        return [texts.said("user", texts.prose("x", words))]

    assert [count(texts.sized(tokens, make, count)) for tokens in (40, 41, 3)] == [39, 41, 7]


def test_texts_begin_with_words_of_their_own() -> None:
    firsts = [texts.prose(f"{n}", 3).split()[0] for n in range(100)]
    assert len(set(firsts)) == 100
    assert texts.prose("1", 9) == texts.prose("1", 9)


def test_the_script_of_the_chat() -> None:
    assert len(texts.TURNS) == 10
    assert all(20 < len(user.split()) < 36 and answer for user, answer in texts.TURNS)
    assert [message["role"] for message in texts.conversation(1)] == ["system", "user", "assistant", "user"]


def test_where_two_answers_part() -> None:
    assert rows.first_difference("가나다라", "가나마라") == "they part at letter 2, '다라' for '마라'"
    assert rows.first_difference("가나", "가나다") == "they part at letter 2, '' for '다'"


# ---- whom it asks


@pytest.mark.parametrize(
    "url", ["http://example.com:80", "http://10.0.0.1", "https://127.0.0.1", "127.0.0.1:80", "http://", "file:///etc"]
)
def test_only_a_server_on_this_machine_is_asked(url: str) -> None:
    with pytest.raises(server.RefusedServer, match="not on this machine"):
        server.Server(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/", "http://localhost:1/v1", "http://[::1]:99"])
def test_loopback_has_several_names(url: str) -> None:
    assert server.checked(url) == url.removesuffix("/").removesuffix("/v1")


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible server does, or sends the caller elsewhere."""

    asked: list[dict[str, object]]

    def do_GET(self) -> None:
        self._say(json.dumps({"data": [{"id": "tiny"}]}))

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        deltas = [{"role": "assistant"}, {"content": "안"}, {"content": "녕"}, {}]
        events = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
        self._say("".join(f"data: {event}\n\n" for event in [*events, '{"choices": [], "usage": {}}', "[DONE]"]))

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class SendsAway(Answers):
    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://192.0.2.1/v1/models")
        self.end_headers()


@pytest.fixture
def serving() -> Iterator[Callable[[type[Answers]], str]]:
    started: list[http.server.ThreadingHTTPServer] = []

    def start(kind: type[Answers]) -> str:
        kind.asked = []
        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind))
        threading.Thread(target=started[-1].serve_forever, args=(0.01,)).start()
        return f"http://127.0.0.1:{started[-1].server_address[1]}"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def test_a_server_streams_its_answer(serving: Callable[[type[Answers]], str]) -> None:
    asked = server.Server(serving(Answers))
    answer = asked.chat([texts.said("user", "안녕")], 4)
    assert (answer.text, answer.tokens) == ("안녕", 2)
    assert 0 < answer.first <= answer.seconds
    assert asked.classify("나는 땅콩을 못 먹어") > 0
    plain, label = Answers.asked
    assert (plain["model"], plain["max_tokens"], plain["temperature"], plain["stream"]) == ("tiny", 4, 0, True)
    assert "response_format" not in plain
    assert label["response_format"]["json_schema"]["schema"] == texts.LABEL


def test_a_server_cannot_send_elsewhere(serving: Callable[[type[Answers]], str]) -> None:
    with pytest.raises(server.RefusedServer, match="302"):
        server.Server(serving(SendsAway)).chat([texts.said("user", "안녕")], 4)


# ---- the real thing


def test_the_clock_counts_only_steps_of_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    import llama_cpp

    def step(runner: SimpleNamespace) -> None:
        llama_cpp.llama_decode(None, SimpleNamespace(n_tokens=runner.tokens))
        for _ in range(runner.drawn):
            llama_cpp.llama_sampler_sample(None, None, 0)

    monkeypatch.setattr(llama_cpp, "llama_decode", lambda *_: 0)
    monkeypatch.setattr(llama_cpp, "llama_sampler_sample", lambda *_: 0)
    monkeypatch.setattr(sides.Runner, "step", step)
    clock = sides.StepClock(2)
    with clock.installed():
        for tokens, drawn in ((2, 2), (9, 2), (2, 1), (2, 2)):
            sides.Runner.step(SimpleNamespace(tokens=tokens, drawn=drawn))
    assert len(clock.python) == 2
    assert min(clock.python) > 0
    assert sides.Runner.step is step


def test_a_row_on_a_true_model(
    starter_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))  # what the sides' processes import from
    words = "benchmark.py runtime --quick --rounds 1 --rows decode".split()
    into = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", [*words, "--model", str(starter_gguf), "--json", str(into)])
    command.main()
    (found,) = json.loads(into.read_text(encoding="utf-8"))["rows"]
    assert found["flaw"] == ""
    assert all(value > 0 for side in ("ours", "a bare loop") for value in found["values"][side])
    assert "| one stream, 8 tokens: decode |" in capsys.readouterr().out


def test_a_row_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "runtime", "--rows", "decode,nothing"])
    with pytest.raises(SystemExit, match="there is no 'nothing'"):
        command.main()


def test_resident_memory_is_measured_of_shapes_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "resident", "--shape", "qwen2.5-3b,nothing"])
    with pytest.raises(SystemExit, match=r"there is no 'nothing'; there are qwen2.5-0.5b, .*bge-m3"):
        command.main()


def test_each_shape_is_alone_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = command.resident
    seen: list[tuple[list[str], list[str]]] = []

    def row(name: str, path: Path, folder: Path) -> object:
        (folder / "left").touch()
        seen.append(([entry.name for entry in tmp_path.iterdir()], [path.name]))
        return name

    monkeypatch.setattr(resident, "write", lambda name, folder: folder / f"{name}.gguf")
    monkeypatch.setattr(resident, "row", row)
    assert list(resident.measure(["one", "two"], tmp_path)) == ["one", "two"]
    assert seen == [(["one"], ["one.gguf"]), (["two"], ["two.gguf"])]
    assert list(tmp_path.iterdir()) == []


def test_a_shape_takes_its_entry_and_the_size_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident, asked = command.resident, []

    def child(words: list[str], **_: object) -> SimpleNamespace:
        asked.append(words[2:4])
        return SimpleNamespace(stdout=b'{"loaded": 100, "worked": 200}')

    monkeypatch.setattr(resident.subprocess, "run", child)
    path = tmp_path / "x.gguf"
    path.write_bytes(b"x" * 1000)
    found = resident.row("llama3.2:3b", path, tmp_path)
    assert asked == [[str(tmp_path / "models.toml"), "llama-3.2-3b-instruct"]]
    assert found.size == 1000
    assert found.held == resident.Held(100, 200)
    assert found.tuning == resident.tuning.usual()  # nothing was measured, so it would run like this
    assert found.estimated.weights == 1000
    assert found.estimated.kv == 114688 * 8192
