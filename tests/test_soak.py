"""Rounds of a soak: what its log keeps, how it goes on after a kill, and that what is wrong is found and repeated."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from script_module import SCRIPTS, load

from engine import config, gguf_header, index_file, prefixes, shortlist, transfer
from engine.errors import InvalidInput

soak, soak_log, soak_rounds, soak_fuzz = load("soak"), load("soak_log"), load("soak_rounds"), load("soak_fuzz")
soak_growth, soak_summary, soak_worker = load("soak_growth"), load("soak_summary"), load("soak_worker")
soak_suite, soak_outcome = load("soak_suite"), load("soak_outcome")
Entry, Held = soak_log.Entry, soak_growth.Held

SECONDS = 120.0  # until a test gives up
# A fault in the reading of settings, which depends on their content alone.
PLANT = """
import os, signal, time, zlib
import engine.config
real = engine.config._text
def text(path):
    found = real(path)
    if path.name == "settings.toml" and zlib.crc32(found.encode()) % 3:
        what = os.environ["PLANTED"]
        if what == "crash" and not os.path.exists(os.environ["PLANTED_ONCE"]):
            open(os.environ["PLANTED_ONCE"], "wb").close()
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "hang":
            time.sleep(600)
        elif what == "error":
            raise KeyError("planted")
    return found
engine.config._text = text
"""


def entry(**fields: Any) -> Any:
    usual = Entry("fuzz", 1, 0, {"files": 9}, 9, "files", {"ends": {"read": 9}}, {"slowest": 0.5}, [], 10.0)
    return replace(usual, **fields)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let every process that is started have the fault from its beginning."""
    folder = tmp_path / "plant"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PLANT, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(SCRIPTS.parent)]))
    monkeypatch.setenv("PLANTED", "nothing")
    monkeypatch.setenv("PLANTED_ONCE", str(tmp_path / "crashed"))
    return lambda what: monkeypatch.setenv("PLANTED", what)


def command(*words: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "soak.py"), *words]


def rounds(log: Path) -> list[int]:
    return [one.round for one in soak_log.read(log)]


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


# ---- the log


def test_what_is_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "soak.jsonl"
    log = soak_log.Log.opened(path)
    log.add(entry())
    log.add(entry(round=2, failures=["갑자기 끝났다"]))
    again = soak_log.Log.opened(path)
    assert again.entries == log.entries
    assert (again.following("fuzz"), again.following("growth"), again.seconds(["fuzz"])) == (3, 1, 20.0)


def test_half_a_line_is_cut_off_and_its_round_is_the_next(tmp_path: Path) -> None:
    path = tmp_path / "soak.jsonl"
    soak_log.Log.opened(path).add(entry())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert list(soak_log.read(path)) == [entry()]
    log = soak_log.Log.opened(path)
    assert path.read_bytes() == whole and log.following("fuzz") == 2
    log.add(entry(round=2))
    assert rounds(path) == [1, 2]


@pytest.mark.parametrize("text", ["[]\n", "no JSON\n", '{"part": "fuzz"}\n'])
def test_another_file_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text, encoding="utf-8")
    assert soak.main(["summary", str(path)]) == 1
    assert f"{path}, line 1" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == text


def test_a_log_is_of_one_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "soak.jsonl"
    soak_log.Log.opened(path).add(entry(seed=3))
    assert soak.main(["fuzz", "--minutes", "0.001", "--log", str(path)]) == 1
    assert "--seed 3" in capsys.readouterr().err and rounds(path) == [1]


# ---- turns


def test_the_seed_of_a_round_is_its_own() -> None:
    seeds = {soak_outcome.drawn(seed, part, number) for seed in (0, 1) for part in ("a", "b") for number in (1, 2)}
    assert len(seeds) == 8
    assert soak_outcome.drawn(7, "fuzz", 3) == 2506048485, "another one would make old commands repeat something else"


def asked(seconds: float, *names: str) -> Any:
    return soak_rounds.Soak([soak.PARTS[name] for name in names], 0, seconds, {}, Path())


def test_the_part_that_had_least_time_is_next_until_the_time_is_over() -> None:
    log = soak_log.Log()
    wanted = asked(60, "fuzz", "growth")
    taken = []
    for seconds in (30.0, 5.0, 5.0, 30.0):
        part = soak_rounds.following(wanted, log)
        taken.append(part.name)
        log.add(entry(part=part.name, seconds=seconds, nth=1))
    assert taken == ["fuzz", "growth", "growth", "growth"]
    assert soak_rounds.following(wanted, log) is None
    assert soak_rounds.following(asked(71, "fuzz", "growth"), log).name == "fuzz"


def test_a_part_whose_processes_all_end_is_left_out() -> None:
    log = soak_log.Log(entries=[entry(nth=0, seconds=0.1)] * 3)
    assert soak_rounds.following(asked(60, "fuzz", "growth"), log).name == "growth"
    assert soak_rounds.following(asked(60, "fuzz"), log) is None
    log.add(entry(nth=1))
    assert soak_rounds.following(asked(60, "fuzz"), log).name == "fuzz"


# ---- processes


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_killed_soak_goes_on_where_it_was_and_ctrl_c_sums_up(tmp_path: Path) -> None:
    log = tmp_path / "홍길동 soak.jsonl"
    words = command("fuzz", "--files", "5", "--minutes", "9", "--seed", "5", "--log", str(log))
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        until(lambda: log.exists() and len(rounds(log)) >= 2)
        workers = psutil.Process(killed.pid).children(recursive=True)
        killed.kill()
    assert workers
    until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))
    before = len(rounds(log))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as again:
        until(lambda: len(rounds(log)) > before)
        again.send_signal(signal.SIGINT)
        printed, errors = again.communicate(timeout=SECONDS)
    assert again.returncode == 130 and "Traceback" not in errors
    found = rounds(log)
    assert found == list(range(1, len(found) + 1)) and len(found) > before
    row = next(line for line in printed.splitlines() if line.startswith("fuzz"))
    assert row.split()[1:5] == [str(len(found)), str(5 * len(found)), "files", "0"]
    entries = list(soak_log.read(log))
    assert [one.nth for one in entries] == [*range(1, before + 1), *range(1, len(found) - before + 1)]
    assert all(one.resident > 10**7 and one.descriptors and one.threads for one in entries)


@pytest.mark.slow
def test_a_fault_is_found_and_its_command_finds_it_again(
    tmp_path: Path, planted: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    planted("error")
    log = tmp_path / "soak.jsonl"
    assert soak.main(["fuzz", "--files", "16", "--minutes", "0.001", "--seed", "2", "--log", str(log)]) == 1
    (found,) = soak_log.read(log)
    assert found.failures and all("settings: KeyError: 'planted'" in failure for failure in found.failures)
    printed = capsys.readouterr().out
    told = next(line for line in printed.splitlines() if "again: " in line).split("again: ")[1]
    assert told == "python scripts/soak.py fuzz --round 1 --seed 2 --files 16"

    def repeated() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *shlex.split(told)[1:]]
        return subprocess.run(words, cwd=SCRIPTS.parent, capture_output=True, encoding="utf-8", check=False)

    again = repeated()
    assert again.returncode == 1
    assert [line for line in again.stdout.splitlines() if "FAILED" in line] == [
        f"FAILED {one}" for one in found.failures
    ]
    planted("nothing")
    assert repeated().returncode == 0


def two_rounds(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Run two rounds of damaged files and return their lines."""
    log, wanted = soak_log.Log(), replace(asked(3600.0, "fuzz"), sizes={"files": 16})
    following = lambda *_: wanted.parts[0] if len(log.entries) < 2 else None  # noqa: E731
    monkeypatch.setattr(soak_rounds, "following", following)
    soak_rounds.run(wanted, log)
    return list(log.entries)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_round_that_ends_its_process_is_a_failure_and_the_next_has_a_new_one(
    planted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted("crash")
    first, second = two_rounds(monkeypatch)
    assert (first.round, first.nth, second.round, second.nth) == (1, 0, 2, 1)
    assert "signal 9" in first.failures[0] and second.failures == []


@pytest.mark.slow
def test_a_round_that_hangs_is_ended_and_is_a_failure(
    planted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    planted("hang")
    monkeypatch.setattr(soak_rounds, "LIMIT", 3.0)
    assert [failure for one in two_rounds(monkeypatch) for failure in one.failures] == ["it ended with 1"] * 2
    assert "Timeout" in capfd.readouterr().err, "nobody says where it hung"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_round_ends_with_who_keeps_the_log(planted: Callable[[str], None]) -> None:
    planted("hang")
    with subprocess.Popen(command("fuzz", "--files", "16", "--minutes", "9"), stderr=subprocess.DEVNULL) as killed:
        parent = psutil.Process(killed.pid)
        until(lambda: bool(parent.children()))
        (worker,) = parent.children()
        killed.kill()
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_what_a_round_lacks_ends_the_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "soak.jsonl"
    assert soak.main(["prompts", "--minutes", "9", "--vocab", str(tmp_path), "--log", str(log)]) == 1
    assert "dev.py test" in capsys.readouterr().err and rounds(log) == []


# ---- the summary


def test_the_summary_of_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = soak_log.Log.opened(tmp_path / "one.jsonl")
    sizes = iter((100, 150, 180, 181, 182, 400, 90, 90))
    for number, size in enumerate(sizes, 1):
        nth = number if number <= 6 else number - 6
        log.add(entry(round=number, resident=size * 10**6, descriptors=4, threads=nth, nth=nth, seconds=600.0))
    other = soak_log.Log.opened(tmp_path / "two.jsonl")
    other.add(entry(part="growth", unit="steps", tried=1234, failures=["it grew"], nth=1, sizes={"steps": 25}))
    logs = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    assert soak.main(["summary", *logs, "--details"]) == 1
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert lines[0].split() == "part rounds tried failures time MB grown files threads".split()
    assert lines[1].split() == "fuzz 8 72 files 0 1 h 20 min +220.0 +0 +3".split()
    assert lines[2].split() == "growth 1 1,234 steps 1 0 min 10 s – – –".split()
    assert lines[3:5] == [
        "FAILED growth 1: it grew",
        "  again: python scripts/soak.py growth --round 1 --seed 0 --steps 25",
    ]
    assert "ends (72)" in told and "slowest: at most 0.5" in told
    assert soak.main(["summary", logs[0], "--markdown"]) == 0
    assert "| fuzz | 8 | 72 files | 0 | 1 h 20 min | +220.0 | +0 | +3 |" in capsys.readouterr().out


# ---- growth


def test_growth_is_a_failure_beyond_its_bound_and_only_after_the_warm_up() -> None:
    usual = [Held(size << 20, 20, 9) for size in (100, 400, 700, 690, 710, 700)]
    bound = soak_growth.MOST_RESIDENT >> 20
    assert soak_growth.grown(usual) == []
    assert soak_growth.grown([*usual, Held((700 + bound) << 20, 28, 17)]) == []
    (memory,) = soak_growth.grown([*usual, Held((701 + bound) << 20, 28, 17)])
    (files,) = soak_growth.grown([*usual, Held(700 << 20, 29, 17)])
    (threads,) = soak_growth.grown([*usual, Held(700 << 20, 28, 18)])
    assert "resident memory" in memory and "descriptors" in files and "threads" in threads


@pytest.mark.slow
@pytest.mark.model
def test_a_round_of_growth_leaves_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_growth, "_KEPT", 5)
    monkeypatch.setattr(soak_growth, "_LOADED", ("embedding",))
    growing = soak_growth.Growing()
    try:
        visit = soak_growth.Visit(growing.engine, random.Random(1), growing._folder)
        for step in (visit.remember, visit.search, visit.update, visit.export, visit.refused):
            step()
        assert visit.leave() == []
        assert growing.engine.memories(user=visit.user) == []
        outcome = growing.round(random.Random(2), 0)
        assert outcome.failures == [] and outcome.most["MB resident"] > 100
        growing.engine.remember("남은 것", judge=False)
        assert "not what they were" in visit.leave()[0]
    finally:
        growing.close()


# ---- damaged files


KINDS = ("settings", "header", "prefix", "index", "export")


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files_are_read_right_or_refused(seed: int) -> None:
    with soak_suite.few_memories() as folder:
        outcome = soak_fuzz.fuzz(folder, 25, seed)
    assert outcome.failures == []
    assert {end.split(":")[0] for end in outcome.counts["ends"]} == set(KINDS)


def test_damage_is_drawn_from_the_seed_and_changes_something() -> None:
    data = Path(config.packaged_file()).read_bytes()
    one, other = ([soak_fuzz.damaged(data, random.Random(seed)) for seed in range(60)] for _ in range(2))
    assert one == other
    assert sum(found != data for found in one) > 50 and len(set(one)) > 50
    assert all(soak_fuzz.damaged(b"", random.Random(seed)) == b"" for seed in range(5))


def fail(*_: Any, **__: Any) -> Any:
    raise KeyError("planted")


def quote(path: Path) -> Any:
    raise InvalidInput(f"{path}: {path.read_text(encoding='utf-8', errors='replace')}")


FAULTS: list[tuple[str, tuple[object, str, Callable[..., Any]]]] = [
    ("settings", (config, "_merge", fail)),
    ("header", (gguf_header, "_Reader", fail)),
    ("prefix", (prefixes.Prefixes, "_checksum", lambda *_: "the same")),
    ("prefix", (prefixes, "_delete", lambda *_: None)),
    ("index", (index_file, "_read", fail)),
    ("index", (shortlist.Shortlist, "near", lambda *_: [])),
    ("export", (transfer, "read", quote)),
    ("export", (transfer, "_batches", fail)),
]


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_a_planted_fault_is_found(
    kind: str, fault: tuple[object, str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with soak_suite.few_memories() as folder:
        trials = soak_fuzz.Trials(folder, random.Random(4))
        getattr(trials, kind)()  # what is made once is made well
        monkeypatch.setattr(*fault)
        wrong = 0
        for _ in range(12):
            try:
                getattr(trials, kind)()
            except Exception:  # noqa: BLE001 - whatever it raises is what `fuzz` would tell
                wrong += 1
    assert wrong


def test_the_options_of_before_mean_what_they_meant() -> None:
    before = soak.parsed(["downloads", "--kills", "3", "--rounds", "5", "--seed", "2"])
    assert (soak.given(before), before.seed, before.round) == ({"kills": 3, "rounds": 5}, 2, None)
    again = soak.parsed(["downloads", "--round", "7"])
    assert (soak.given(again), again.round) == ({}, 7)
    long = soak.parsed(["session", "--turns", "9", "--n-ctx", "512", "--output", "x.json"])
    assert (soak.given(long), long.output) == ({"turns": 9, "n-ctx": 512}, Path("x.json"))
    some = soak.parsed(["all", "--parts", "fuzz,growth", "--hours", "1", "--log", "soak.jsonl"])
    assert (some.parts, some.hours, some.seed) == (("fuzz", "growth"), 1.0, 0)
    assert soak.parsed(["all", "--hours", "8"]).parts == tuple(soak.PARTS)
    with pytest.raises(SystemExit):
        soak.parsed(["all", "--parts", "fuzz,lifecycle"])


def test_every_part_is_told_in_the_help_and_has_sizes_of_a_round() -> None:
    for name, part in soak.PARTS.items():
        assert f"`{name}`: " in str(soak.__doc__)
        assert part.name == name and part.sizes and all(one.alone and one.a_round for one in part.sizes)
    assert asdict(soak_outcome.Outcome(1))["failures"] == []
