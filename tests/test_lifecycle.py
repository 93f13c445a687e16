"""The lifecycle soak and benchmark: who is watched and how, what their figures mean, and one short run of each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from script_module import load

from engine import cohort, config, lexical
from engine.faculties import Embedded, Faculties, Space
from engine.korean import morphemes
from engine.memory import MemoryStore

benchmark = load("lifecycle_benchmark")
cast = load("lifecycle_cast")
driver = load("lifecycle_child")
lifecycle = load("lifecycle")
loads = load("lifecycle_loads")
memory_group = load("memory_group")
soak = load("soak")

CAST = cast.Cast("starter", "a", "b", "c", "d", {})
OPTIONS = lifecycle.Options(CAST, lifecycle.PARTS, 1, 0.0, 10, 16 * 10**9)


# ---- what is driven


def test_every_sentence_is_another_one() -> None:
    assert len({cast.sentence(n) for n in range(0, 200_000, 7)}) == len(range(0, 200_000, 7))
    assert len({cast.sentence(n) for n in range(45_000)}) == 45_000
    assert cast.sentence(0) == "나는 어제 집에서 비빔밥을 먹었어요"


def test_memories_are_found_without_anything_being_made_for_them(tmp_path: Path) -> None:
    space = Space("some model", "some")
    cast.write_memories(tmp_path, 200, space, 32)
    asked: list[tuple[str, int]] = []

    def embed(texts: list[str], kind: str, of: Space) -> Embedded:
        asked.append((kind, len(texts)))
        return Embedded(np.eye(len(texts), 32, dtype=np.float32))

    def words(texts: list[str]) -> list[tuple[str, ...]]:
        assert len(texts) == 1, "a query, and no memory"
        return [tuple(text.split()) for text in texts]

    analyser = f"{morphemes.version()}, rows {lexical.ROWS}"
    store = MemoryStore(tmp_path, Faculties(space=lambda: space, embed=embed, words=words, analyser=analyser))
    try:
        hits = store.search("비빔밥을", user=cast.USER, k=5)
        assert store.count() == 200
        store.update(hits[0].memory.id, {"category": "goal"})  # who writes finds nothing to do in the background
        assert store.wait()
    finally:
        store.close()
    assert len({hit.memory.text for hit in hits}) == 5
    assert any("비빔밥" in hit.memory.text for hit in hits)
    assert asked == [("query", 1), ("passage", len(cohort.SENTENCES))]


def test_a_models_toml_points_at_the_files(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"12345")
    played = replace(CAST, files={"qwen2.5-7b-instruct": str(file), "another": str(file)})
    laid = config.load(cast.lay(played, 16_000_000_000, tmp_path))
    assert laid.engine.ram_budget == 16_000_000_000
    assert laid.engine.sampling.max_tokens == cast.SHORT
    for name in ("qwen2.5-7b-instruct", "another"):
        assert laid.model(name).source.path == str(file)
        assert laid.model(name).size == 5


def test_memories_that_would_have_to_be_embedded_are_refused() -> None:
    progress = driver.Progress("embed memories", 0, 9, "memories")
    assert not driver.no_embedding(progress)
    assert driver.no_embedding(replace(progress, task="load x"))


# ---- who is watched


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Folders that look like the kernel's: the second version without memory, then the first."""
    monkeypatch.setattr(Path, "rmdir", shutil.rmtree)  # the kernel's folders are removed with their files
    second, first = (
        replace(kind, root=tmp_path / name) for kind, name in ((memory_group.V2, "2"), (memory_group.V1, "1"))
    )
    second.root.mkdir()
    first.root.mkdir()
    (second.root / "cgroup.controllers").write_text("cpu pids\n", encoding="ascii")
    return [second, first]


def test_a_group_of_the_first_version(kinds: list[Any]) -> None:
    with memory_group.limited(1000, kinds) as group:
        (folder,) = kinds[1].root.iterdir()
        assert (folder / "memory.limit_in_bytes").read_text(encoding="ascii") == "1000"
        assert (folder / "memory.memsw.limit_in_bytes").read_text(encoding="ascii") == "1000"
        (folder / "memory.max_usage_in_bytes").write_text("900\n", encoding="ascii")
        (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", encoding="ascii")
        assert group.account() == memory_group.Account(1000, 900, None, 2)
        assert group.command(["x", "y"])[-3:] == [str(folder / "cgroup.procs"), "x", "y"]
    assert list(kinds[1].root.iterdir()) == []


def test_a_group_of_the_second_version(kinds: list[Any]) -> None:
    (kinds[0].root / "cgroup.controllers").write_text("cpu memory\n", encoding="ascii")
    with memory_group.limited(1000, kinds) as group:
        folder = next(path for path in kinds[0].root.iterdir() if path.is_dir())
        assert (folder / "memory.max").read_text(encoding="ascii") == "1000"
        assert (folder / "memory.swap.max").read_text(encoding="ascii") == "0"
        (folder / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n", encoding="ascii")
        assert group.account() == memory_group.Account(1000, None, 7, 1)
    assert not folder.exists()


def test_where_no_group_can_be_had(tmp_path: Path) -> None:
    kinds = [replace(kind, root=tmp_path / "none") for kind in (memory_group.V1, memory_group.V2)]
    with memory_group.limited(1000, kinds) as group:
        assert group is None


def test_the_kernel_keeps_the_limit() -> None:
    with memory_group.limited(100_000_000) as group:
        if group is None:
            pytest.skip("only root on Linux may make such a group")
        command = group.command([sys.executable, "-c", "bytearray(300_000_000)"])
        assert subprocess.run(command, check=False, capture_output=True).returncode < 0
        account = group.account()
    assert account.kills == 1
    assert account.peak is None or account.peak <= 100_000_000


def test_what_processes_hold_together() -> None:
    held = memory_group.resident([psutil.Process().pid])
    assert held.total == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    assert held.anonymous > 0
    assert memory_group.resident([2**30]) == memory_group.Resident(0, 0)
    assert memory_group.family(psutil.Process().pid)[0] == psutil.Process().pid
    assert memory_group.family(2**30) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX systems fork")
def test_a_fork_counts_once_and_another_program_for_itself() -> None:
    code = (
        "import os, subprocess, sys, time; kept = bytearray(50_000_000); forked = os.fork(); "
        "other = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) if forked else None; "
        "print('ready', flush=True) if forked else None; sys.stdin.read(); other and other.kill()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        pids = memory_group.family(child.pid)
        alone, together = memory_group.resident([child.pid]), memory_group.resident(pids)
    assert len(pids) == 3
    assert alone.anonymous > 50_000_000
    assert alone.anonymous < together.anonymous < alone.anonymous + 40_000_000


def order(tmp_path: Path, **more: Any) -> Any:
    return driver.Part("rounds", str(tmp_path / "none.toml"), str(tmp_path / "home"), CAST, **more)


def test_a_child_that_fails_is_a_failure(tmp_path: Path) -> None:
    record = lifecycle.watch(order(tmp_path, rounds=1), tmp_path, None)
    summary = lifecycle.summary(record)
    assert summary["failures"] == ["the process ended with status 1"]
    assert summary["answers"] == 0
    assert record.looks > 0 and record.peak.total > 0


def test_an_interrupt_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(psutil.Process().children())  # Python's own, of other tests
    slept: list[float] = []

    def interrupted(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) in {1, 3}:  # while it looks, and once more while it waits for the end
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, memory_group.limited(10**10) as group:
        patch.setattr(lifecycle.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lifecycle.watch(order(tmp_path, rounds=1), tmp_path, group)
    assert set(psutil.Process().children()) <= before


def test_one_models_notes_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before would make every estimate right."""
    monkeypatch.setenv("GIEOK_MODELS", "before")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    seen: list[dict[str, str | None]] = []

    def watch(part: Any, *_: object) -> Any:
        seen.append({name: lifecycle.os.environ.get(name) for name in ("GIEOK_MODELS", "XDG_CACHE_HOME")})
        return lifecycle.Record()

    monkeypatch.setattr(lifecycle, "watch", watch)
    assert lifecycle.shape_row(OPTIONS, "", tmp_path, "a")["found"] is None
    assert seen[0]["GIEOK_MODELS"] == seen[0]["XDG_CACHE_HOME"] not in {None, "before"}
    assert lifecycle.os.environ["GIEOK_MODELS"] == "before"
    assert "XDG_CACHE_HOME" not in lifecycle.os.environ


# ---- what it means


def test_the_peak_is_of_both_together_and_known_by_step() -> None:
    record = lifecycle.Record()
    record.look(memory_group.Resident(5, 1))
    record.events.append({"event": "began", "step": "chat"})
    record.look(memory_group.Resident(4, 9))
    record.look(memory_group.Resident(6, 0))
    assert record.peak == memory_group.Resident(4, 9)
    assert record.anonymous == 6
    assert record.by_step == {"start": 6, "chat": 13}


def event(kind: str, **more: Any) -> dict[str, Any]:
    return {"event": kind, "at": 0.0, **more}


def test_a_report_of_a_child() -> None:
    record = lifecycle.Record(status=-9)
    record.events += [
        event("done", step="chat", round=0, seconds=2.0),
        event("done", step="chat", round=1, seconds=1.0),
        event("loaded", model="a"),
        event("loaded", model="a"),
        event("failed", step="search", round=1, error="StoreError", text="no"),
    ]
    found = lifecycle.summary(record)
    assert found["seconds"] == {"chat": {"first": 2.0, "median": 1.5, "highest": 2.0, "count": 2}}
    assert found["loads"] == {"a": 2}
    assert found["failures"] == ["search of round 2: StoreError: no", "the process was killed by signal 9"]


def report(total: int, peak: int, **rounds: Any) -> dict[str, Any]:
    plan = {"measured": False, "ram": {"total": total}}
    driven = {
        "answers": 3, "failures": [], "loads": {"a": 2, "b": 1, "c": 1, "d": 1}, "peak": {"total": peak}, "group": None,
    }  # fmt: skip
    return {"shapes": [{"found": {"plan": plan, "loaded": 90, "worked": 100}}], "rounds": {**driven, **rounds}}


@pytest.mark.parametrize(
    ("told", "missed"),
    [
        (report(110, 16 * 10**9), set()),
        (report(90, 1, group={"kills": 0}), set()),
        (report(111, 1), {"every estimate within 10% of the growth"}),
        (report(89, 1), {"every estimate within 10% of the growth"}),
        (report(100, 16 * 10**9 + 1), {"the peak is within the limit"}),
        (report(100, 1, failures=["x"]), {"every answer arrived"}),
        (report(100, 1, answers=0), {"every answer arrived"}),
        (report(100, 1, loads={"a": 9}), {"every model was loaded"}),
        (report(100, 1, group={"kills": 1}), {"nothing was killed"}),
    ],
)
def test_what_is_met(told: dict[str, Any], missed: set[str]) -> None:
    assert {what for what, met in lifecycle.checks(told, OPTIONS).items() if not met} == missed


def test_an_estimate_that_was_corrected_before_proves_nothing() -> None:
    found = report(100, 1)["shapes"][0]["found"]
    assert lifecycle.near(found)
    found["plan"]["measured"] = True
    assert not lifecycle.near(found)
    assert not lifecycle.near({})


@pytest.mark.parametrize(("resident", "met"), [(11_999_999_999, True), (12_000_000_000, False)])
def test_everything_resident(resident: int, met: bool) -> None:
    found = {"models": {"resident": resident}, "with_index": {"resident": resident}}
    told = {"everything": {"found": found, "failures": []}}
    assert list(lifecycle.checks(told, OPTIONS).values()) == [met]


def test_everything_that_could_not_be_loaded_is_missed() -> None:
    assert list(lifecycle.checks({"everything": {"found": None, "failures": ["x"]}}, OPTIONS).values()) == [False]


def lived(resident: list[int], threads: int = 0) -> dict[str, Any]:
    ends = {"resident": resident[-1], "descriptors": 4, "threads": 3}
    return {
        "model": "x", "lives": len(resident), "resident": resident, "growth": resident[-1] - resident[0],
        "descriptors": 0, "threads": threads, "before": ends, "last": ends, "closed": ends,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "lives", "met"),
    [
        (1.15, [lived([1, 20_000_001])], [True, True, True]),
        (1.16, [lived([1, 20_000_002]), lived([1], threads=1)], [False, False, False]),
    ],
)
def test_what_the_benchmark_wants(ratio: float, lives: list[dict[str, Any]], met: list[bool]) -> None:
    use = {"model": "x", "seconds": {"ours": [ratio], "bare": [1.0]}, "ratio": ratio, "very_first": 9.0, "tuned": True}
    told = {"first_use": use, "lives": lives}
    told["checks"] = benchmark.checks(told)
    assert list(told["checks"].values()) == met
    assert f"{ratio:.2f}×" in "\n".join(benchmark.table(told))


def test_a_model_that_could_not_be_tuned_is_no_fair_comparison() -> None:
    use = {"model": "x", "seconds": {"ours": [1.0], "bare": [1.0]}, "ratio": 1.0, "very_first": 9.0, "tuned": False}
    told = {"first_use": use, "lives": [lived([1, 1])]}
    told["checks"] = benchmark.checks(told)
    assert list(told["checks"].values()) == [False, True, True]
    assert "too busy" in "\n".join(benchmark.table(told))


# ---- short runs


@pytest.mark.model
def test_a_bare_load_and_lives_of_the_starter_model(starter_gguf: Path, tmp_path: Path) -> None:
    native = benchmark.bare_parameters(starter_gguf)
    assert native["context"]["n_batch"] >= native["context"]["n_seq_max"] > 1
    work = loads.Work("bare", str(starter_gguf), "llm", str(tmp_path), native=native)
    assert benchmark.child(work)["seconds"] > 0
    row = benchmark.leftovers(starter_gguf, 3, tmp_path)
    assert len(row["resident"]) == 3
    assert (row["descriptors"], row["threads"]) == (0, 0)


@pytest.mark.model
def test_a_bare_load_of_no_model(tmp_path: Path, starter_gguf: Path) -> None:
    broken = tmp_path / "x.gguf"
    broken.write_bytes(b"GGUF")
    native = benchmark.bare_parameters(starter_gguf)
    with pytest.raises(subprocess.CalledProcessError):
        benchmark.child(loads.Work("bare", str(broken), "llm", str(tmp_path), native=native))


@pytest.mark.model
@pytest.mark.slow
def test_the_soak_of_the_starter_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    words = ["soak.py", "lifecycle", "--quick", "--parts", "rounds", "--limit", "1.5GB", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", words)
    soak.main()  # so small a limit leaves no room for what a load of torch's models takes for a moment
    told = json.loads(output.read_text(encoding="utf-8"))
    rounds = told["rounds"]
    assert rounds["failures"] == []
    assert rounds["answers"] == 2 * 6 + 1
    assert set(rounds["loads"]) == {"smollm2-135m-instruct", "multilingual-e5-small", "another"}
    assert rounds["loads"]["another"] == 2  # 1.5 GB do not hold all three
    assert rounds["peak"]["total"] > 0
    assert not rounds["group"] or not rounds["group"]["kills"]
    assert "met    every answer arrived" in capfd.readouterr().out


def test_a_part_that_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["soak.py", "lifecycle", "--quick", "--parts", "rounds,shape"])
    with pytest.raises(SystemExit, match="2"):
        soak.main()
    assert "'shape'" in capsys.readouterr().err
