"""`benchmark.py all` and `again`: what is kept, what is said of it, what is drawn, and whether it is found again."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from script_module import SCRIPTS, load

again = load("benchmark_again")
whole = load("benchmark_all")
command = load("benchmark")
lifecycle = load("lifecycle_benchmark")
parallel = load("runtime_parallel")
plots = load("benchmark_plots")
record = load("benchmark_record")
runtime_benchmark = load("runtime_benchmark")
runtime_rows = load("runtime_rows")
session = load("benchmark_session")
table = load("benchmark_table")
Row, Wanted = load("runtime_table").Row, load("runtime_table").Wanted
LLAMA, FAISS, CACHED = "llama_cpp.Llama", "FAISS flat + JSON", "with LlamaRAMCache"
MACHINE = {"processor": "Some CPU", "cores": 2, "memory": 25_000_000_000, "system": "Linux 6.1 x86_64"}
ABOUT = {"day": "2026-11-23", "code": "abc1234", "machine": MACHINE, "versions": {"python": "3.11.7"}}


def report(*rows: Any, interrupted: bool = False, **told: Any) -> dict[str, Any]:
    return {**told, "interrupted": interrupted, "rows": [row.to_dict() for row in rows]}


def canned(**parts: list[Any]) -> dict[str, Any]:
    """Return a record as it is read from a file."""
    found = {
        name: {"about": {**ABOUT, "model": "x.gguf"}, "interrupted": False, "rows": [row.to_dict() for row in rows]}
        for name, rows in parts.items()
    }
    return json.loads(record.text({"parts": found}))


SPEED = Row("decode", "decode", "tokens/s", {"ours": [9.0, 10.0, 11.0], LLAMA: [8.0, 8.5, 9.0]})
CHAT = Row(
    "turns", "turns of chat", "s", {"ours": [1.0, 2.0], LLAMA: [3.0, 9.0], "server": [2.0, 4.0]}, pick="mean", repeats=1
)
CHAT_CACHED = Row(
    "turns-cached", "the same", "s", {"ours": [1.1, 2.1], CACHED: [2.0, 5.0]}, CACHED, pick="mean", repeats=1
)
AT_ONCE = [
    Row(f"parallel-{n}", f"{n} at once", "tokens/s", {"ours": [n, n + 1, n + 3], LLAMA: [4, 4, 5]}) for n in (1, 2)
]
SEARCHES = [
    Row(f"{name} {of}", "search", "ms", {"ours": [float(n) for n in range(1, 21)], FAISS: [2.0, 4.0]}, FAISS, pick="p95", repeats=2)
    for of in ("1k", "100k") for name in ("all", "user")
]  # fmt: skip
HELD = (
    Row("session", "a session", "MB", {"ours": [100.0, 101.0, 102.0]}),
    Row("session own", "own", "MB", {"ours": [60.0, 60.0, 61.0]}),
)


@pytest.fixture
def found() -> dict[str, Any]:
    return canned(runtime=[SPEED], turns=[CHAT, CHAT_CACHED], parallel=AT_ONCE, memory=SEARCHES, session=[*HELD])


# ---- rows and files


def test_each_run_has_a_figure_of_its_own() -> None:
    row = Row("a", "b", "ms", {"ours": [1.0, 2.0, 3.0, 4.0, 9.0]}, pick="p95", repeats=2)
    assert row.repeated("ours") == [3.0, 9.0]  # the first run has one value more
    assert (row.figure("ours").low, row.figure("ours").high, row.figure("ours").count) == (3.0, 9.0, 5)
    assert SPEED.repeated("ours") == [9.0, 10.0, 11.0]
    assert CHAT.repeated("ours") == [1.5]
    assert replace(row, values={"ours": [1.0]}, repeats=3).repeated("ours") == [1.0]
    assert row.repeated("nobody") == []


def test_a_row_comes_back_from_its_file() -> None:
    row = replace(SPEED, wanted=Wanted("ours/theirs", True, 0.98), notes=("a", "b"), load=(50.0, 1.5), flaw="odd")
    read = Row.from_dict(json.loads(record.text(row.to_dict())))
    assert replace(read, load=tuple(read.load)) == row


def test_json_holds_every_value_in_one_line_and_no_more_digits_than_were_measured() -> None:
    told = {"values": [1 / 3, 2e-7, -4.0, 12345678.9], "none": [], "words": ["a, b", "1,\n 2"], "n": 123456789}
    text = record.text(told)
    assert '"values": [0.333333, 2e-07, -4.0, 12345700.0],' in text
    assert json.loads(text) == {**told, "values": [0.333333, 2e-7, -4.0, 12345700.0]}


def test_what_is_written_names_no_machine_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/benchmark.py", "all", "--folder", str(SCRIPTS), "--quick"])
    told = record.text(record.part(report(SPEED), {"command": whole.command()}))
    assert platform.node() not in json.loads(told)["about"]["machine"].values()
    assert str(SCRIPTS.parent) not in told
    assert str(Path.home()) not in told
    about = json.loads(told)["about"]
    assert about["command"] == "python scripts/benchmark.py all --folder scripts --quick"
    assert {"processor", "cores", "memory", "system"} == about["machine"].keys()
    assert {"python", "llama-cpp-python", "torch", "openvino", "faiss-cpu", "numpy"} <= about["versions"].keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", about["day"])
    assert re.fullmatch(r"|[0-9a-f]{7,}\+?", about["code"])


def test_of_a_kernel_only_the_numbers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-12-somebody-s-kernel")
    assert re.fullmatch(rf"{platform.system()} 6\.1\.0 \S+", record.system())


def test_another_file_is_not_taken_for_a_record(tmp_path: Path) -> None:
    assert record.load(tmp_path / "none.json") == {"parts": {}}
    (tmp_path / "other.json").write_text('{"rows": []}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"other.json is no file of `benchmark.py all`"):
        record.load(tmp_path / "other.json")


# ---- the run


@pytest.fixture
def order(tmp_path: Path) -> Any:
    return whole.Order(tmp_path / "chat.gguf", tmp_path / "embedder", 2, whole.QUICK)


def parts(**does: Any) -> dict[str, Callable[[Any], Any]]:
    """Return parts that report, or raise, what is said here."""

    def part(said: Any) -> Callable[[Any], Any]:
        def measure(_order: Any) -> Any:
            if isinstance(said, BaseException):
                raise said
            return said

        return measure

    return {name: part(said) for name, said in does.items()}


def test_parts_are_put_together_from_several_runs(order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        whole, "PARTS", parts(runtime=report(SPEED, model="a"), memory=report(*SEARCHES), session=report(*HELD))
    )
    assert whole.run(order, ["session"], tmp_path) == 0
    assert whole.run(order, ["runtime"], tmp_path) == 0
    monkeypatch.setattr(whole, "PARTS", parts(runtime=report(SPEED, model="b"), memory=report(), session=report()))
    assert whole.run(order, ["runtime"], tmp_path) == 0
    kept = record.load(tmp_path / record.NAME)["parts"]
    assert list(kept) == ["runtime", "session"]  # in the order in which they are measured
    assert kept["runtime"]["about"]["model"] == "b"
    assert [row["name"] for row in kept["session"]["rows"]] == ["session", "session own"]
    assert kept["session"]["about"]["seconds"] >= 0


def test_ctrl_c_keeps_what_was_measured(
    order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = report(CHAT, interrupted=True)
    monkeypatch.setattr(whole, "PARTS", parts(runtime=report(SPEED), turns=cut, memory=report(*SEARCHES)))
    assert whole.run(order, ["runtime", "turns", "memory"], tmp_path) == 130
    kept = record.load(tmp_path / record.NAME)["parts"]
    assert [(name, part["interrupted"]) for name, part in kept.items()] == [("runtime", False), ("turns", True)]
    assert "interrupted" in capsys.readouterr().err
    whole.finish(tmp_path, plots=False)
    assert "turns: **interrupted**" in (tmp_path / table.NAME).read_text(encoding="utf-8")


def test_ctrl_c_before_anything_was_measured_leaves_what_was_there(
    order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "PARTS", parts(runtime=report(SPEED)))
    whole.run(order, ["runtime"], tmp_path)
    before = (tmp_path / record.NAME).read_bytes()
    monkeypatch.setattr(whole, "PARTS", parts(runtime=KeyboardInterrupt()))
    assert whole.run(order, ["runtime"], tmp_path) == 130
    assert (tmp_path / record.NAME).read_bytes() == before


def test_a_part_that_fails_leaves_the_others(
    order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whole, "PARTS", parts(runtime=OSError("no room"), session=report(*HELD)))
    assert whole.run(order, ["runtime", "session"], tmp_path) == 1
    assert list(record.load(tmp_path / record.NAME)["parts"]) == ["session"]
    assert "runtime could not be measured: no room" in capsys.readouterr().err
    failed = report(Row("a", "a", "", flaw="failed, ValueError: no"), SPEED)
    monkeypatch.setattr(whole, "PARTS", parts(runtime=failed))
    assert whole.run(order, ["runtime"], tmp_path) == 1


def test_rows_that_come_one_by_one_are_gathered_until_a_ctrl_c() -> None:
    def cut() -> Iterator[Any]:
        yield SPEED
        raise KeyboardInterrupt

    found = whole.gathered(cut(), {"lives": 3})
    assert (found["interrupted"], found["lives"], [row["name"] for row in found["rows"]]) == (True, 3, ["decode"])
    assert whole.gathered(iter([SPEED]), {})["interrupted"] is False


def test_every_row_of_the_engine_is_measured_once_in_all() -> None:
    sizes = whole.FULL
    rows = [*sizes.runtime_rows, *sizes.turns_rows, *(f"parallel-{n}" for n in sizes.streams)]
    assert len(rows) == len(set(rows))
    assert {*rows} | {"shared"} == whole.ROWS.keys()
    assert (*whole.PARTS, whole.PLOTS) == tuple(whole.parser().get_default("parts").split(","))
    assert {*whole.CHAT_PARTS, *whole.EMBEDDING_PARTS} < {*whole.PARTS}


def test_what_cannot_be_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whole, "run", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(SystemExit):
        whole.main(["--parts", "runtime,speed"])
    assert "there is no part 'speed'; there are runtime, turns" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="not on this machine"):
        whole.main(["--parts", "runtime", "--peer-url", "http://192.0.2.1"])
    with pytest.raises(SystemExit, match=r"nowhere\.gguf"):
        whole.main(["--quick", "--parts", "runtime", "--model", str(tmp_path / "nowhere.gguf")])
    with pytest.raises(SystemExit, match=r"tokenizer\.json"):
        whole.main(["--quick", "--parts", "memory", "--embedding", str(tmp_path)])


def test_a_part_of_it_with_true_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = replace(whole.QUICK, memories=(60,), memory_rows=())
    monkeypatch.setattr(whole, "QUICK", quick)
    words = ["benchmark.py", "all", "--quick", "--parts", "memory,plots", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(SCRIPTS))  # what the sides' processes import from
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    ((name, part),) = record.load(tmp_path / record.NAME)["parts"].items()
    (row,) = part["rows"]
    assert (name, row["name"], row["flaw"]) == ("memory", "ingest 60", "")
    assert all(value > 0 for value in row["values"]["ours"])
    assert "| memory | durable ingest of 60" in (tmp_path / table.NAME).read_text(encoding="utf-8")
    assert str(tmp_path / table.NAME) in capsys.readouterr().out


# ---- the page


def test_the_page_has_every_row_and_says_where_and_when(found: dict[str, Any]) -> None:
    found["parts"]["session"]["about"] = {**ABOUT, "day": "2026-11-24", "code": ""}
    page = table.write(found, {"search.svg": "Search time"})
    lines = page.splitlines()
    assert "| part | work | ours | against | ratio | wanted | reached | server |" in lines
    assert (
        "| runtime | decode | 10.0 tokens/s (9.00–11.0) | 8.50 tokens/s (8.00–9.00), llama_cpp.Llama | 1.18× | – | – | – |"
        in lines
    )
    assert (
        "| turns | turns of chat | mean 1.50 s | mean 6.00 s, llama_cpp.Llama | 4.00× | – | – | mean 3.00 s |" in lines
    )
    assert sum(line.startswith("| ") for line in lines) == 1 + sum(
        len(part["rows"]) for part in found["parts"].values()
    )
    assert (
        "- runtime, turns, parallel, memory: 2026-11-23, commit abc1234; Some CPU, 2 cores, 25 GB, Linux 6.1 x86_64; x.gguf; python 3.11.7"
        in lines
    )
    assert any(line.startswith("- session: 2026-11-24; Some CPU") for line in lines)
    assert lines[-1] == "![Search time](search.svg)"
    assert "server" not in table.write(canned(runtime=[SPEED]), {})


def test_notes_flaws_and_the_busiest_moment_are_told() -> None:
    one = replace(SPEED, notes=("it rained",), flaw="it broke", load=(90.0, 0.5))
    other = replace(SPEED, name="prefill", load=(10.0, 1.5))
    lines = list(table.page(canned(runtime=[one, other]), {}))
    at = lines.index("- runtime, decode: it broke")
    assert lines[at + 1 : at + 3] == [
        "- runtime, decode: it rained",
        "- runtime: before its measurements at most 90% of the processor in use, load 1.5",
    ]


# ---- pictures


def test_lines_are_the_values_that_were_measured() -> None:
    chat = {line.name: list(line.up) for line in plots.over_turns([CHAT, CHAT_CACHED])}
    assert chat == {"ours": [1.0, 2.0], LLAMA: [3.0, 9.0], "server": [2.0, 4.0], f"{LLAMA} {CACHED}": [2.0, 5.0]}
    ours, theirs = plots.over_requests(AT_ONCE)
    assert (ours.across, ours.up, ours.spread) == ([1, 2], [2, 3], ([1, 1], [2, 2]))
    assert (theirs.name, theirs.up) == (f"{LLAMA}, one after the other", [4, 4])
    median, most, *others = plots.over_memories([*SEARCHES, *HELD])
    assert (median.name, median.across, median.up) == ("ours, median", [1_000, 100_000], [10.5, 10.5])
    assert (most.name, most.up, most.dashed) == ("ours, p95", [19.0, 19.0], True)
    assert [line.up for line in others] == [[3.0, 3.0], [4.0, 4.0]]
    assert [list(line.up) for line in plots.over_session(HELD)] == [[100.0, 101.0, 102.0], [60.0, 60.0, 61.0]]


@pytest.mark.parametrize(
    ("told", "count"), [("1k", 1_000), ("100k", 100_000), ("1M", 10**6), ("1,500", 1_500), ("7", 7)]
)
def test_the_size_of_a_store(told: str, count: int) -> None:
    assert plots.size(told) == count


def test_pictures_are_small_have_no_background_and_are_the_same_again(found: dict[str, Any], tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        assert plots.draw(found, folder) == list(plots.PICTURES)
    for name in plots.PICTURES:
        drawn = (first / name).read_bytes()
        assert drawn == (second / name).read_bytes()
        assert len(drawn) < 100_000
        assert ET.fromstring(drawn).tag.endswith("svg")
        assert b"#ffffff" not in drawn
        assert plots.GREY.encode() in drawn
        assert str(tmp_path).encode() not in drawn


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    record.save(canned(runtime=[SPEED], session=[*HELD]), tmp_path / record.NAME)
    whole.finish(tmp_path, plots=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [record.NAME, table.NAME, "session.svg"]
    assert "![Resident memory over a session](session.svg)" in (tmp_path / table.NAME).read_text(encoding="utf-8")


def test_without_matplotlib_there_is_a_table_and_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    record.save(canned(session=[*HELD]), tmp_path / record.NAME)
    whole.finish(tmp_path, plots=True)
    assert "pip install matplotlib" in capsys.readouterr().err
    assert (tmp_path / table.NAME).is_file()


# ---- again


def verdicts(old: dict[str, Any], new: dict[str, Any], margin: float = 0.2) -> dict[tuple[str, str], bool | None]:
    return {(line.row, line.side): line.within for line in again.compare(old, new, margin)}


@pytest.mark.parametrize(
    ("now", "margin", "within"),
    [(10.0, 0.0, True), (9.0, 0.0, True), (11.1, 0.0, False), (13.1, 0.2, True), (13.3, 0.2, False), (7.2, 0.2, True), (7.1, 0.2, False)],
)  # fmt: skip
def test_a_figure_lies_within_the_spread_and_a_margin(now: float, margin: float, within: bool) -> None:
    new = replace(SPEED, values={"ours": [now], LLAMA: [8.5]})
    found = verdicts(canned(runtime=[SPEED]), canned(runtime=[new]), margin)
    assert found == {("decode", "ours"): within, ("decode", LLAMA): True}


def test_a_figure_of_megabytes_may_differ_by_what_allocators_keep() -> None:
    grown = Row("growth", "growth", "MB", {"ours": [1.5]}, repeats=1)
    for now, within in ((-3.0, True), (21.0, True), (22.0, False)):
        new = replace(grown, values={"ours": [now]})
        assert verdicts(canned(session=[grown]), canned(session=[new])) == {("growth", "ours"): within}


def test_other_work_is_no_repetition_and_a_failure_is_not_found_again() -> None:
    old, new = canned(runtime=[SPEED], turns=[CHAT]), canned(runtime=[SPEED])
    assert verdicts(old, new) == {("decode", "ours"): True, ("decode", LLAMA): True}
    new["parts"]["runtime"]["about"]["counts"] = {"decode": 8}
    assert set(verdicts(old, new).values()) == {None}
    failed = canned(runtime=[replace(SPEED, values={}, flaw="failed, ValueError: no")])
    assert set(verdicts(old, failed).values()) == {False}
    assert set(verdicts(old, canned(runtime=[CHAT])).values()) == {None}


def test_the_command_compares_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    slower = replace(SPEED, values={"ours": [5.0], LLAMA: [8.5]})
    for file, row in zip(files, (SPEED, slower), strict=True):
        record.save(canned(runtime=[row]), file)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "again", *map(str, files)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "| runtime | decode | ours | 10.0 (9.00–11.0) tokens/s | 5.00 tokens/s | **no** |" in told
    assert "1 of 2 figures were found again." in told
    assert again.main([str(files[0]), str(files[0])]) == 0
    assert again.main([*map(str, files), "--margin", "0.5"]) == 0
    with pytest.raises(SystemExit, match=r"none\.json"):
        again.main([str(files[0]), str(tmp_path / "none.json")])


def test_nothing_to_compare_is_not_found_again(tmp_path: Path) -> None:
    for name, part in (("a", {"runtime": [SPEED]}), ("b", {"session": [*HELD]})):
        record.save(canned(**part), tmp_path / name)
    assert again.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1


# ---- parts of its own


class Talk:
    """A session that holds a megabyte more each turn, and is cut off in one of them."""

    def __init__(self, cut: int) -> None:
        self.said, self._cut = {"total": 50_000_000, "own": 40_000_000}, cut

    def ask(self, method: str, *arguments: int) -> dict[str, int]:
        if method == "facts":
            return {"turns": 12, "memories": 1_000}
        if arguments[0] == self._cut:
            raise KeyboardInterrupt
        return {"total": (100 + arguments[0]) * 1_000_000, "own": 60_000_000}


def talking(cut: int = -1) -> Callable[[Any], Any]:
    @contextlib.contextmanager
    def make(order: Any) -> Iterator[Talk]:
        assert Path(order.home).is_dir()
        yield Talk(cut)

    return make


def test_what_a_session_holds_turn_by_turn(capsys: pytest.CaptureFixture[str]) -> None:
    total, own, growth = session.rows(12, 512, talking())
    assert total.values["ours"] == [float(n) for n in range(100, 112)]
    assert own.values["ours"] == [60.0] * 12
    assert growth.values["ours"] == [2.0]  # since the tenth
    assert total.notes == ("50 MB before the first turn", "at the end: turns 12, memories 1,000")
    assert "session: 10 of 12 turns" in capsys.readouterr().err


def test_a_session_that_is_cut_off_tells_what_was_seen() -> None:
    found = whole.gathered(session.rows(12, 512, talking(3)), {})
    assert found["interrupted"] is True
    assert found["rows"][0]["values"]["ours"] == [100.0, 101.0, 102.0]
    assert whole.gathered(session.rows(12, 512, talking(0)), {})["rows"] == []


def test_requests_at_once_are_measured_in_tokens_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Writer:
        def __init__(self, seconds: float) -> None:
            self.seconds, self.asked = seconds, []

        def together(self, conversations: list[Any], tokens: int) -> tuple[float, int]:
            self.asked.append(len(conversations))
            return self.seconds, tokens * len(conversations)

    run = runtime_benchmark.Run(runtime_benchmark.Options(Path("x"), 2, (), "", runtime_benchmark.QUICK), str(tmp_path))
    ours, theirs = Writer(2.0), Writer(8.0)
    seeds: list[int] = []

    def family(_ours: Any, seed: int, _counts: Any, streams: int) -> list[str]:
        seeds.append(seed)
        return ["asked"] * streams

    monkeypatch.setattr(parallel, "family", family)
    monkeypatch.setattr(run, "sides", lambda: contextlib.nullcontext((ours, theirs, {"ours": ours, LLAMA: theirs})))
    found = [parallel.ROWS[f"parallel-{n}"](run) for n in (1, 8)]
    written = runtime_benchmark.QUICK.written
    assert [row.values for row in found] == [
        {"ours": [written / 2] * 2, LLAMA: [written / 8] * 2},
        {"ours": [8 * written / 2] * 2, LLAMA: [written] * 2},
    ]
    assert ours.asked == theirs.asked == [1, 1, 8, 8]
    assert len(set(seeds)) == 4  # a prefix that was read before would be no new one


def test_the_family_of_requests_is_as_large_as_it_is_asked_to_be() -> None:
    ours = SimpleNamespace(ids=lambda messages: [0] * sum(len(one["content"].split()) for one in messages))
    counts = replace(runtime_benchmark.QUICK, prefix=20, own=5)
    found = runtime_rows.family(ours, 7, counts, 3)
    assert len(found) == 3
    assert len({messages[0]["content"] for messages in found}) == 1
    assert len({messages[1]["content"] for messages in found}) == 3


def test_the_life_of_a_model_in_rows() -> None:
    use = {"model": "x", "seconds": {"ours": [1.1, 1.2], "bare": [1.0, 1.0]}, "tuned": True, "very_first": 17.0}
    first, very_first = lifecycle.first_rows(use)
    assert (first.ratio, first.reached) == (pytest.approx(1.15), True)
    assert lifecycle.BARE in table.cells(first)[2]
    assert very_first.values == {"ours": [17.0]}
    assert next(iter(lifecycle.first_rows({**use, "tuned": False}))).reached is False
    lives = {
        "model": "x",
        "lives": 7,
        "resident": [n * 10**6 for n in range(7)],
        "growth": 2 * 10**6,
        "descriptors": 0,
        "threads": 0,
    }
    held, growth, left = lifecycle.lives_rows(lives)
    assert held.values["ours"] == [4.0, 5.0, 6.0]
    assert (growth.values["ours"], growth.reached, left.reached) == ([2.0], True, True)
    _, growth, left = lifecycle.lives_rows({**lives, "growth": 21 * 10**6, "threads": 1})
    assert (growth.reached, left.reached) == (False, False)
