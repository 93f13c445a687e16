"""The probe: what would take this process down does so to a child, once."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_models
from mutants import Mutant, Original

from engine import Engine, probe
from engine.errors import Cancelled, EngineError, ModelCorrupt
from engine.gguf_header import read_header

HANG = 60.0
posix = pytest.mark.skipif(os.name == "nt", reason="the interpreter that is no Python is a shell script")


def wanted() -> None:
    """Somebody waits for the model."""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder in which nothing is known yet."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    monkeypatch.delenv("GIEOK_PYTHON", raising=False)
    return folder


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every child that is started."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*args: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(real(*args, **more))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return started


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return Original(tiny_models.attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


def verdicts(models: Path) -> list[str]:
    file = models / ".verdicts.json"
    return list(json.loads(file.read_text(encoding="utf-8")).values()) if file.exists() else []


def refused(path: Path) -> str:
    with pytest.raises(ModelCorrupt) as caught:
        probe.check(path, wanted)
    said = str(caught.value)
    assert path.name in said and said.isprintable() and len(said) < 600
    return said


def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Have the child run by a shell script instead of a Python; returns where it writes its process id."""
    file, pid = tmp_path / "no python", tmp_path / "pid"
    file.write_text(f"#!/bin/sh\necho $$ > '{pid}'\n{textwrap.dedent(script)}", encoding="utf-8")
    file.chmod(0o700)
    monkeypatch.setenv("GIEOK_PYTHON", str(file))
    return pid


def is_gone(pid: Path) -> bool:
    """Whether the child has ended and was waited for: a zombie would still be there."""
    try:
        os.kill(int(pid.read_text(encoding="utf-8")), 0)
    except ProcessLookupError:
        return True
    return False


# ---- real children


@pytest.mark.parametrize("make", [tiny_models.attention, tiny_models.mamba, tiny_models.hybrid, tiny_models.sliding])
def test_a_good_model_is_tried_once(
    make: Callable[[Path], Path], tmp_path: Path, models: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    path = make(tmp_path / "홍길동 😀.gguf")
    for _ in range(3):
        probe.check(path, wanted)
    assert len(children) == 1 and verdicts(models) == ["ok"]
    path.rename(tmp_path / "other.gguf")
    probe.check(tmp_path / "other.gguf", wanted)
    assert len(children) == 1, "it is known by its content"


CRASHES = {
    "llama.block_count": (10**6, "n_layer"),
    "llama.attention.layer_norm_rms_epsilon": (1, "eps"),  # only a decode finds it
}


@pytest.mark.parametrize("name", CRASHES)
def test_what_crashes_llama_is_corrupt_here(
    tiny: Original, tmp_path: Path, models: Path, children: list[subprocess.Popen[bytes]], name: str
) -> None:
    value, words = CRASHES[name]
    mutant = (
        tiny.with_value(name, value) if words != "eps" else Mutant("eps", ((tiny.named[name][0], b"\0\0\x80\xbf"),))
    )
    path = mutant.write(tiny.data, tmp_path / "crash.gguf")
    read_header(path)
    said = refused(path)
    assert re.search(rf"crashes of it, (SIGABRT|status \d+) \(.*{words}", said) and "gieok models pull" in said
    assert refused(path) == said and len(children) == 1
    assert children[0].returncode not in {0, 1, None} and len(verdicts(models)) == 1


def test_what_llama_refuses_is_corrupt_with_its_reason(
    vocab_folder: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    for _ in range(2):
        assert "refuses it (" in refused(vocab_folder / "ggml-vocab-llama-spm.gguf")
    assert len(children) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has no limit")
def test_what_asks_for_more_memory_than_it_can_need_is_refused_and_asked_again(
    tiny: Original, tmp_path: Path, models: Path
) -> None:
    greedy = tiny.with_value("llama.context_length", 2**32 - 4096)
    assert "more memory than" in refused(greedy.write(tiny.data, tmp_path / "greedy.gguf"))
    assert verdicts(models) == []


def test_a_bad_header_needs_no_child(tiny: Original, tmp_path: Path, children: list[subprocess.Popen[bytes]]) -> None:
    assert "cut off" in refused(Mutant("", end=len(tiny.data) - 1).write(tiny.data, tmp_path / "cut.gguf"))
    assert children == []


def test_mutants_end_in_a_verdict_and_this_process_lives(tiny: Original, tmp_path: Path, models: Path) -> None:
    mutants = islice(tiny.mutants("probe"), 28)
    ends = set()
    for mutant in mutants:
        path = mutant.write(tiny.data, tmp_path / "mutant.gguf")
        try:
            probe.check(path, wanted)
        except ModelCorrupt:
            ends.add("refused")
        else:
            ends.add("accepted")
        path.unlink()
    assert ends == {"refused", "accepted"} and len(verdicts(models)) > 5


def test_an_engine_refuses_it_and_lives(tiny: Original, tmp_path: Path, models: Path) -> None:
    good = Mutant("").write(tiny.data, tmp_path / "good.gguf")
    crash = tiny.with_value("llama.block_count", 10**6).write(tiny.data, tmp_path / "crash.gguf")
    with Engine(profile="starter", home=tmp_path / "home", models={"chat": str(crash), "summary": str(good)}) as engine:
        for _ in range(2):
            with pytest.raises(ModelCorrupt, match=r"crash\.gguf cannot be loaded: llama\.cpp crashes"):
                engine.chat("Hi.")
        engine.load("summary")
        assert [model.name for model in engine.status().loaded] == ["good"]
    assert len(verdicts(models)) == 2


def test_the_child_is_bound(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    code = "from engine.probe import _limit; _limit(10, 5 << 30); import resource as r; print([r.getrlimit(k)[0] for k in (r.RLIMIT_CPU, r.RLIMIT_CORE, r.RLIMIT_FSIZE, r.RLIMIT_AS)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=HANG)
    cpu, core, written, space = json.loads(done.stdout)
    assert (cpu, core, written) == (21, 0, 1 << 20)
    assert space == 5 << 30 or sys.platform != "linux"
    assert resource.getrlimit(resource.RLIMIT_CORE) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_the_child_dies_with_its_parent() -> None:
    """A middle process starts a child, and is killed."""
    child = (
        "from engine.probe import _limit; _limit(60, 5 << 30); print('bound', flush=True); import time; time.sleep(600)"
    )
    middle = "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); print(c.pid, flush=True); c.wait()"
    with subprocess.Popen([sys.executable, "-c", middle, child], stdout=subprocess.PIPE, encoding="utf-8") as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        pid = int((said - {"bound"}).pop())
        parent.kill()
        end = time.monotonic() + HANG
        while is_running(pid):
            assert time.monotonic() < end
            time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether it runs: who adopted it may not have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- children that do not behave


@posix
@pytest.mark.parametrize("first", ["", "echo ready"])
def test_a_child_that_hangs_is_ended(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    first: str,
) -> None:  # fmt: skip
    """With what it started, too: the shell waits for `sleep`."""
    pid = interpreter(tmp_path, monkeypatch, f"{first}\nsleep 600 & echo $! > '{tmp_path / 'other'}'; wait")
    monkeypatch.setattr(probe, "SECONDS", 0.5)
    if first:
        assert "took longer than 1 s" in refused(tiny.path)
    else:
        probe.check(tiny.path, wanted)
        assert "without having been tried" in caplog.text
    assert is_gone(pid) and verdicts(models) == []
    end = time.monotonic() + HANG
    while is_running(int((tmp_path / "other").read_text(encoding="utf-8"))):
        assert time.monotonic() < end
        time.sleep(0.01)


@posix
def test_who_gives_up_ends_the_child(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = interpreter(tmp_path, monkeypatch, "echo ready\nexec sleep 600")

    def heed() -> None:
        if pid.exists() and pid.read_text(encoding="utf-8").endswith("\n"):
            raise Cancelled("nobody waits any more")

    with pytest.raises(Cancelled):
        probe.check(tiny.path, heed)
    assert is_gone(pid) and verdicts(models) == []


@posix
@pytest.mark.parametrize("name", ["SEGV", "ABRT", "BUS", "FPE"])
def test_a_crash_is_named(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    interpreter(tmp_path, monkeypatch, f"echo ready\nkill -{name} $$")
    assert f"crashes of it, SIG{name}." in refused(tiny.path)
    assert verdicts(models) == [f"llama.cpp crashes of it, SIG{name}"]


@posix
@pytest.mark.parametrize("end", ["kill -KILL $$", "kill -TERM $$", "kill -INT $$", "exit 1"])
def test_what_ends_it_from_outside_says_nothing_of_the_file(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    end: str,
) -> None:  # fmt: skip
    interpreter(tmp_path, monkeypatch, f"echo ready\n{end}")
    probe.check(tiny.path, wanted)
    assert "something ended that process" in caplog.text and verdicts(models) == []


@posix
def test_a_processor_that_is_too_old_is_not_the_files_fault(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, monkeypatch, "echo ready\nkill -ILL $$")
    with pytest.raises(EngineError, match="another processor"):
        probe.check(tiny.path, wanted)
    assert verdicts(models) == []


@posix
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo \"ModuleNotFoundError: No module named 'engine'\" >&2; exit 1", "No module named 'engine'"),
        ("echo nonsense; exit 0", "ended with status 0"),
        ("exit 127", "ended with status 127"),
        ("kill -SEGV $$", "ended with status -11"),
    ],
)
def test_a_child_that_cannot_begin_is_not_the_files_fault(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    script: str, why: str,
) -> None:  # fmt: skip
    interpreter(tmp_path, monkeypatch, script)
    probe.check(tiny.path, wanted)
    assert why in caplog.text and "tiny.gguf is loaded without" in caplog.text and verdicts(models) == []


@posix
@pytest.mark.parametrize("answer", ["echo ready; echo maybe", "echo ready", "echo ready; echo ok; echo ok", "echo ok"])
def test_only_the_right_answer_is_a_yes(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    interpreter(tmp_path, monkeypatch, answer)
    if answer == "echo ok":
        probe.check(tiny.path, wanted)
    else:
        assert "status 0" in refused(tiny.path)
    assert "ok" not in verdicts(models)


@posix
def test_its_last_words_are_made_harmless(tiny: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "printf 'first\n/build/of/llama/x.cpp:7: \033[31mred\007 %s\377' \"$(yes word | head -900 | tr '\n' ' ')\" >&2"
    )
    interpreter(tmp_path, monkeypatch, f"echo ready\n{words}\nkill -ABRT $$")
    said = refused(tiny.path)
    assert "/build" not in said and "word word" in said and len(said) < 500


def test_an_interpreter_that_is_not_there_is_not_the_files_fault(
    tiny: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GIEOK_PYTHON", str(tmp_path / "none"))
    probe.check(tiny.path, wanted)
    assert "none: No such file" in caplog.text


def test_a_system_without_a_place_for_files_is_not_the_files_fault(
    tiny: Original, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(probe.tempfile, "TemporaryFile", full)
    probe.check(tiny.path, wanted)
    assert "No space left" in caplog.text


def test_another_version_of_llama_is_asked_anew(
    tiny: Original, models: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    probe.check(tiny.path, wanted)
    monkeypatch.setattr(probe, "version", lambda _name: "99.0")
    probe.check(tiny.path, wanted)
    assert len(children) == 2 and "another llama-cpp-python than 99.0" in caplog.text
    assert verdicts(models) == ["ok"], "an interpreter with another version has no say"


def test_without_a_known_version_nothing_is_remembered(
    tiny: Original, models: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]]
) -> None:
    def version(_name: str) -> str:
        raise probe.PackageNotFoundError

    monkeypatch.setattr(probe, "version", version)
    for _ in range(2):
        probe.check(tiny.path, wanted)
    assert len(children) == 2 and verdicts(models) == []


# ---- where there is no interpreter


@pytest.mark.parametrize("how", ["frozen", "embedded"])
def test_an_application_is_not_started_again(
    tiny: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]], how: str
) -> None:
    python = sys.executable
    if how == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", "")
    probe.check(tiny.path, wanted)
    assert "cut off" in refused(Mutant("", end=len(tiny.data) - 1).write(tiny.data, tmp_path / "cut.gguf"))
    assert children == []
    monkeypatch.setenv("GIEOK_PYTHON", python)
    probe.check(tiny.path, wanted)
    assert len(children) == 1


# ---- models in parts


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(gguf, "GGUFWriter", partial(gguf.GGUFWriter, split_max_tensors=8))
    tiny_models.attention(tmp_path / "parts.gguf")
    return sorted(tmp_path.glob("parts*.gguf"))


def test_a_model_in_parts_is_tried_whole(
    split: list[Path], models: Path, children: list[subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            probe.check(split[0], wanted)
    assert probe.parts(split[0]) == split and len(split) == 3
    assert len(children) == 1 and verdicts(models) == ["ok"]
    data = bytearray(split[2].read_bytes())
    data[-1] ^= 1
    split[2].write_bytes(data)
    probe.check(split[0], wanted)
    assert len(children) == 2, "each part counts"


def test_a_part_that_is_missing_or_wrong_is_named(split: list[Path], tmp_path: Path) -> None:
    assert f"name {split[0].name} instead" in refused(split[1])
    one = split[0].rename(tmp_path / "renamed.gguf")
    assert "its name must end in -00001-of-0000N.gguf" in refused(one)
    one.rename(split[0])
    kept = split[1].read_bytes()
    split[1].write_bytes(split[2].read_bytes())
    with pytest.raises(ModelCorrupt, match=rf"{split[1].name}.*it says that it is part 3 of 3"):
        probe.check(split[0], wanted)
    split[1].write_bytes(kept[:-1])
    with pytest.raises(ModelCorrupt, match=rf"{split[1].name}.*cut off"):
        probe.check(split[0], wanted)
    split[1].unlink()
    assert f"{split[1].name} is missing" in refused(split[0])


def test_a_signal_of_an_unknown_number_has_a_name() -> None:
    assert (probe._signal_name(-signal.SIGSEGV), probe._signal_name(-999), probe._signal_name(3)) == (
        "SIGSEGV", "signal 999", "",
    )  # fmt: skip
