"""The probe: what would take this process down does so to a child, once."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError
from itertools import count, islice
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


def refused(path: Path, kind: type[EngineError] = ModelCorrupt) -> str:
    with pytest.raises(EngineError) as caught:
        probe.check(path, wanted)
    assert type(caught.value) is kind
    said = str(caught.value)
    assert path.name in said and said.isprintable() and len(said) < 600
    return said


def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Have the child run by a shell script instead of a Python; returns where it writes its process id."""
    file, pid = tmp_path / "no python", tmp_path / "pid"
    file.write_text(f"#!/bin/sh\necho $$ >> '{pid}'\n{textwrap.dedent(script)}", encoding="utf-8")
    file.chmod(0o700)
    monkeypatch.setenv("GIEOK_PYTHON", str(file))
    return pid


def started(pid: Path) -> int:
    """How many children there were."""
    return len(pid.read_text(encoding="utf-8").split()) if pid.exists() else 0


def is_gone(pid: Path) -> bool:
    """Whether the child has ended and was waited for: a zombie would still be there."""
    try:
        os.kill(int(pid.read_text(encoding="utf-8").split()[-1]), 0)
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


def test_a_vocabulary_that_lacks_a_byte_is_refused(tiny: Original, tmp_path: Path, models: Path) -> None:
    """llama.cpp dies of the first text that has it, which may come much later."""
    path = tmp_path / "byte.gguf"
    assert tiny.data.count(b"<0xEB>") == 1  # 다 and others begin with it
    path.write_bytes(tiny.data.replace(b"<0xEB>", b"<0xzz>"))
    assert "crashes of it" in refused(path)


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
    assert refused(path) == said and len(children) == 2, "it crashed twice before that was believed"
    assert {child.returncode for child in children}.isdisjoint({0, 1, None}) and len(verdicts(models)) == 1


def test_what_llama_refuses_is_corrupt_with_its_reason(
    vocab_folder: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    for _ in range(2):
        assert "refuses it (" in refused(vocab_folder / "ggml-vocab-llama-spm.gguf")
    assert len(children) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has no limit")
def test_what_asks_for_more_memory_than_it_can_need_is_refused_and_asked_again(
    tiny: Original, tmp_path: Path, models: Path
) -> None:
    greedy = tiny.with_value("llama.context_length", 2**32 - 4096)
    said = refused(greedy.write(tiny.data, tmp_path / "greedy.gguf"))
    assert "more memory than" in said and "Delete" not in said and verdicts(models) == []


def test_a_bad_header_needs_no_child(tiny: Original, tmp_path: Path, children: list[subprocess.Popen[bytes]]) -> None:
    assert "cut off" in refused(Mutant("", end=len(tiny.data) - 1).write(tiny.data, tmp_path / "cut.gguf"))
    assert children == []


@pytest.mark.parametrize("tokens", [0, 1, 255])
def test_a_context_with_less_room_than_sequences_is_refused(
    tiny: Original, tmp_path: Path, children: list[subprocess.Popen[bytes]], tokens: int
) -> None:
    """llama.cpp aborts where an engine asks for so many, and a child asks for one."""
    path = tiny.with_value("llama.context_length", tokens).write(tiny.data, tmp_path / "short.gguf")
    assert f"reads {tokens} tokens at most" in refused(path) and children == []


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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has no limit")
def test_the_child_is_bound() -> None:
    code = """
        import json, resource as r, pathlib
        from engine.probe import _limit
        _limit(10, 5 << 30)
        try:
            bytearray(6 << 30)
        except MemoryError:
            print("bound")
        now = int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * r.getpagesize()
        kinds = r.RLIMIT_CPU, r.RLIMIT_CORE, r.RLIMIT_FSIZE, r.RLIMIT_AS
        print(json.dumps([now, *(r.getrlimit(kind)[0] for kind in kinds)]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, encoding="utf-8", check=True, timeout=HANG,
    )  # fmt: skip
    bound, numbers = done.stdout.splitlines()
    now, cpu, core, written, space = json.loads(numbers)
    assert (bound, core, written) == ("bound", 0, 1 << 20) and 21 <= cpu <= 21 + HANG
    assert 0 < space - (5 << 30) <= now, "what was taken before does not count"


@pytest.mark.skipif(sys.platform != "linux", reason="what is left is looked for in /proc")
def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    """A middle process runs a child, and is killed."""
    note = tmp_path / "pid"
    child = """
        import os, sys, time
        from pathlib import Path
        from engine.probe import _end_with_parent
        _end_with_parent()
        Path(sys.argv[1]).write_text(f"{os.getpid()}.", encoding="utf-8")
        time.sleep(600)
    """
    middle = "import sys; from engine import probe; probe._run([sys.executable, *sys.argv[1:]], 600, lambda: None)"
    command = [sys.executable, "-c", middle, "-c", textwrap.dedent(child), str(note)]
    with subprocess.Popen(command) as parent:
        wait_until(lambda: note.exists() and note.read_text(encoding="utf-8").endswith("."))
        parent.kill()
        wait_until(lambda: not is_running(int(note.read_text(encoding="utf-8").rstrip("."))))


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG
    while not done():
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
    """With what it started, too: the shell waits for `sleep`. Hours pass once that is there."""
    other, real, hours = tmp_path / "other", time.monotonic, count()
    pid = interpreter(tmp_path, monkeypatch, f"{first}\nsleep 600 & echo $!. > '{other}'; wait")

    def clock() -> float:
        there = other.exists() and other.read_text(encoding="utf-8").endswith(".\n")
        return real() + 3600 * (next(hours) if there else 0)

    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", clock)
        if first:
            assert "took longer than 12 s" in refused(tiny.path)
        else:
            probe.check(tiny.path, wanted)
            assert "without having been tried" in caplog.text
    assert is_gone(pid) and verdicts(models) == [] and started(pid) == 1
    wait_until(lambda: not is_running(int(other.read_text(encoding="utf-8").rstrip(".\n"))))


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
@pytest.mark.parametrize("name", ["SEGV", "ABRT", "FPE", "TRAP"])
def test_a_crash_is_named(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pid = interpreter(tmp_path, monkeypatch, f"echo ready\nkill -{name} $$")
    assert f"crashes of it, SIG{name}." in refused(tiny.path)
    assert verdicts(models) == [f"llama.cpp crashes of it, SIG{name}"] and started(pid) == 2


@posix
@pytest.mark.parametrize("other", ["kill -ABRT $$", "echo ok", "echo unreadable", "kill -KILL $$"])
def test_what_only_one_of_two_children_says_is_not_remembered(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    once = tmp_path / "once"
    interpreter(
        tmp_path, monkeypatch, f"echo ready; [ -e '{once}' ] && {{ {other}; exit; }}\n:>'{once}'; kill -SEGV $$"
    )
    said = refused(tiny.path, EngineError if "KILL" in other else ModelCorrupt)
    assert ("of two trials" in said or "KILL" in other) and "Delete" not in said and verdicts(models) == []


@posix
def test_a_second_child_that_cannot_begin_does_not_lead_to_loading(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "once"
    interpreter(tmp_path, monkeypatch, f"[ -e '{once}' ] && exit 3\n:>'{once}'; echo ready; kill -SEGV $$")
    said = refused(tiny.path)
    assert "SIGSEGV; and no second trial could begin" in said and verdicts(models) == []


@posix
@pytest.mark.parametrize("end", ["kill -KILL $$", "kill -TERM $$", "kill -INT $$", "kill -HUP $$", "exit 1", "exit 0"])
def test_what_ends_it_from_outside_says_nothing_of_the_file_and_does_not_load_it(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The system ends who takes the last memory, and would end this process next."""
    interpreter(tmp_path, monkeypatch, f"echo ready\n{end}")
    said = refused(tiny.path, EngineError)
    assert "something ended the process" in said and "try again" in said and verdicts(models) == []


SHORT = [
    "ggml.c:1558: GGML_ASSERT(ctx->mem_buffer != NULL) failed",
    "libgomp: Thread creation failed: Resource temporarily unavailable",
    "llama_model_load: error loading model: unable to allocate CPU buffer",
    "OSError: [WinError 1455] The paging file is too small for this operation to complete",
    "MemoryError",
]


@posix
@pytest.mark.parametrize("end", ["kill -ABRT $$", "exit 1", "echo unreadable"])
@pytest.mark.parametrize("words", SHORT)
def test_want_of_memory_is_not_remembered(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, words: str, end: str
) -> None:
    interpreter(tmp_path, monkeypatch, f"echo ready\necho '{words}' >&2\n{end}")
    said = refused(tiny.path)
    assert "more memory" in said and "Delete" not in said and verdicts(models) == []


@posix
@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("kill -BUS $$", "cannot be read to its end"),
        ("echo 'tiny.gguf cannot be read: Permission denied' >&2; exit 1", "cannot be read to its end"),
        (
            "echo 'error loading model: read error: Input/output error' >&2; echo unreadable",
            "cannot be read to its end",
        ),
        ("kill -XCPU $$", "took longer than"),
        ("echo 'TypeError: x' >&2; exit 1", "could not be tried (TypeError: x)"),
    ],
)
def test_what_may_be_the_machines_doing_is_not_remembered(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, end: str, words: str
) -> None:
    interpreter(tmp_path, monkeypatch, f"echo ready\n{end}")
    said = refused(tiny.path)
    assert words in said and "Delete" not in said and verdicts(models) == []


@posix
def test_a_file_that_the_child_cannot_open_is_not_refused_for_ever(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = Mutant("").write(tiny.data, tmp_path / "gone.gguf")
    pid = interpreter(tmp_path, monkeypatch, f"mv '{path}' '{path}.away'\nexec '{sys.executable}' \"$@\"")
    probe.check(path, wanted)
    assert "gone.gguf cannot be read: No such file" in caplog.text and verdicts(models) == [] and started(pid) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="Windows has no such signal")
@pytest.mark.parametrize("end", ["echo ok", "kill -SEGV $$"])
def test_a_host_that_ignores_its_children_is_told_no_lie(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """There a child's status is always 0."""
    interpreter(tmp_path, monkeypatch, f"echo ready\n{end}")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        if end == "echo ok":
            probe.check(tiny.path, wanted)
        else:
            assert "(0)" in refused(tiny.path, EngineError)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert verdicts(models) == ["ok"] * (end == "echo ok")


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
        assert "(0)" in refused(tiny.path, EngineError)
    assert verdicts(models) == []


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

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
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


def test_another_processor_is_asked_anew(
    tiny: Original, models: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]]
) -> None:
    """The models may lie on a disk that goes from machine to machine."""
    for name in ("one", "other", "one"):
        monkeypatch.setattr(probe, "processor", lambda name=name: name)
        probe.check(tiny.path, wanted)
    assert len(children) == 2 and verdicts(models) == ["ok", "ok"]


def test_the_child_has_the_modules_that_this_process_has(
    tiny: Original, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkout that nobody installed, by a host that stands in it, and puts what it likes on its path."""
    root = str(Path(probe.__file__).parents[1])
    here = [path for path in sys.path if path != root]
    monkeypatch.setattr(sys, "path", ["", tmp_path, *here])
    monkeypatch.chdir(tmp_path)
    assert probe._environment(sys.executable)["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)
    probe.check(tiny.path, wanted)
    assert verdicts(models) == ["ok"]


def test_without_a_known_version_nothing_is_remembered(
    tiny: Original, models: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]]
) -> None:
    def version(_name: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(probe, "version", version)
    for _ in range(2):
        probe.check(tiny.path, wanted)
    assert len(children) == 2 and verdicts(models) == []


# ---- where there is no interpreter


@pytest.mark.parametrize("how", ["frozen", "embedded", "uwsgi"])
def test_an_application_is_not_started_again(
    tiny: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: list[subprocess.Popen[bytes]], how: str
) -> None:
    python = sys.executable
    if how == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi" if how == "uwsgi" else "")
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


STATUSES = {
    -signal.SIGSEGV: "SIGSEGV", -999: "signal 999", 4: "", 0: "",
    0xC000013A: "SIGINT", 0x40010004: "SIGKILL", 0xC000001D: "SIGILL", 0xC0000006: "SIGBUS", 0xC0000005: "SIGSEGV",
    0xC0000409: "SIGABRT",
}  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_has_a_name_on_every_system(status: int) -> None:
    assert probe._Ended(status, [], "", 0.0).name == STATUSES[status]


@pytest.mark.parametrize("status", [0xC000013A, 0x40010004, 0xC000001D, 0xC0000006, 1, 5, 0xC0000135])
def test_a_status_of_windows_that_is_not_the_files_fault_is_no_verdict(tmp_path: Path, status: int) -> None:
    with pytest.raises(EngineError):
        probe._verdict(tmp_path / "x.gguf", probe._Ended(status, ["ready"], "", 0.0), 1.0)
    crash = probe._verdict(tmp_path / "x.gguf", probe._Ended(0xC0000005, ["ready"], "", 0.0), 1.0)
    assert crash == "llama.cpp crashes of it, SIGSEGV"
