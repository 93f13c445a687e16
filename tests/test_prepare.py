"""How a cache of the fast path is made: whole or not at all, by a child that sends nothing and outlives nobody."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tiny_embedder

from engine import compress, fastpath, prepare, prepared
from engine.errors import Cancelled, ModelCorrupt
from engine.metrics import Progress
from engine.prepare import PreparationFailed

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
ROOT = Path(prepare.__file__).parents[1]
SPEC = tiny_embedder.spec()

pytestmark = pytest.mark.skipif(not fastpath.available(), reason="there is no OpenVINO for this machine")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A model that is not prepared."""
    return Path(shutil.copytree(tiny_embedder.once(tmp_path_factory, tiny_embedder.bge), tmp_path / "모델"))


def left(folder: Path) -> set[str]:
    """Return what preparations left in a folder."""
    return {path.name for path in folder.iterdir() if path.name.startswith(fastpath.FOLDER)}


LOCK, CACHE = f"{fastpath.FOLDER}.lock", fastpath.FOLDER


# ---- a true child


def test_cancelled_half_way_then_made_once_for_two(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(popen(*args, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Cancelled, match="prepare tiny"):
        prepare.prepare(folder, SPEC, progress=lambda event: event.done < 1)
    assert [child.returncode for child in children] == [-9 if os.name == "posix" else 1]
    assert (left(folder), fastpath.state(folder)) == ({LOCK}, "absent")

    told: list[list[Progress]] = [[], []]
    entered: list[tuple[str, int]] = []

    def room(name: str, size: int) -> contextlib.AbstractContextManager[None]:
        entered.append((name, size))
        return contextlib.nullcontext()

    def one(number: int) -> None:
        prepare.prepare(folder, SPEC, room=room, progress=told[number].append)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fastpath.state(folder) == "ready"
    assert left(folder) == {LOCK, CACHE}
    assert {path.name for path in fastpath.cache_of(folder).iterdir()} == {*prepared.FILES, "prepared.json"}
    assert len(children) == 2  # the one that was cancelled, and one for both
    assert entered == [("preparing tiny", prepare.memory(folder))]
    made, waited = sorted(told, key=lambda events: events[0].task)
    assert [event.done for event in made] == sorted(event.done for event in made)
    assert {(event.task, event.total, event.unit) for event in made} == {("prepare tiny", 5, "steps")}
    assert (made[0].done, made[-1].done) == (0, 5)
    assert len(made) > 4
    assert {event.task for event in waited} == {"wait for another preparation of tiny"}
    prepare.prepare(folder, SPEC)
    assert len(children) == 2  # what is there is not made again


# Imported by every Python below, so by the child of the child, too: it writes down what they try.
WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        said = event
    elif event == "exec" and "openvino_telemetry" in args[0].co_filename:
        said = "telemetry"
    elif event == "import" and args[0] in ("nncf", "openvino", "engine.compress"):
        said = args[0]
    else:
        return
    with open(os.environ["WATCHED"], "a", encoding="utf-8") as file:
        file.write(f"{said}\\n")
sys.addaudithook(watch)
"""
SERVE = """
import sys
from pathlib import Path
from engine import config, fastpath, prepare
from engine.embedder import Embedder
spec = config.ModelSpec.model_validate_json(sys.argv[2])
prepare.prepare(Path(sys.argv[1]), spec)
assert not {"torch", "openvino", "nncf", "numpy", "transformers"} & set(sys.modules)
model = Embedder(Path(sys.argv[1]), spec, fast=True)
assert len(model.embed(["가", "나 " * 99], "query")) == 2
model.close()
assert "nncf" not in sys.modules and "openvino" in sys.modules
assert sys.modules["openvino_telemetry"] is None
"""
CONTROL = "import openvino, nncf, socket; socket.getaddrinfo('127.0.0.1', 9)"


def watched(tmp_path: Path, code: str, *arguments: str) -> tuple[set[str], str]:
    """Run a program in a process that knows nothing of pytest; return what it and its children did, and printed."""
    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    log = tmp_path / "watched"
    log.touch()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "NNCF_", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code, *arguments],
        cwd=ROOT,
        env={**env, "PYTHONPATH": str(tmp_path), "WATCHED": str(log), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(log.read_text(encoding="utf-8").split()), done.stdout + done.stderr


def test_nothing_is_sent_by_who_prepares_and_serves(folder: Path, tmp_path: Path) -> None:
    did, said = watched(tmp_path, SERVE, str(folder), SPEC.model_dump_json())
    assert did == {"engine.compress", "openvino", "nncf"}  # in the child; and no socket.*, no telemetry
    assert said == ""
    assert fastpath.state(folder) == "ready"


def test_without_our_doing_telemetry_would_be_imported(tmp_path: Path) -> None:
    did, _ = watched(tmp_path, CONTROL)
    assert {"telemetry", "socket.getaddrinfo"} <= did


@posix
def test_a_child_does_not_outlive_its_parent(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engine import config, prepare\n"
        "prepare.prepare(Path(sys.argv[1]), config.ModelSpec.model_validate_json(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder), SPEC.model_dump_json()], cwd=ROOT) as parent:
        child = awaited(lambda: psutil.Process(parent.pid).children())[0]
        awaited(lambda: any(".part-" in name for name in left(folder)))
        parent.kill()
    child.wait(60)
    awaited(lambda: left(folder) <= {LOCK} or not child.is_running())


def awaited(what: Any) -> Any:
    """Wait until something is so, and return it."""
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


# ---- children that do not behave; a script takes Python's place


def python_that(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> Path:
    """Have the child be a shell script, which writes down each time that it runs."""
    script, runs = folder.parent / "python", folder.parent / "runs"
    script.write_text(f"#!/bin/sh\necho run >> '{runs}'\n{does}\n", encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("GIEOK_PYTHON", str(script))
    return runs


@posix
@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("""echo '["refused", "its first module is a StaticEmbedding", ""]'; exit 1""", "is a StaticEmbedding"),
        ("kill -SEGV $$", "ended with status -11"),
        ("echo 'Illegal instruction'; kill -ILL $$", "Illegal instruction"),
        ("kill -ABRT $$", "ended with status -6"),
    ],
)
def test_a_refusal_is_recorded_and_not_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, does: str, why: str
) -> None:
    runs = python_that(folder, monkeypatch, f'touch "$6/model.xml"; {does}')
    for _ in range(2):
        prepare.prepare(folder, SPEC)
        assert fastpath.state(folder) == "refused"
    assert why in (fastpath.refusal(folder) or "")
    assert [path.name for path in fastpath.cache_of(folder).iterdir()] == ["prepared.json"]
    assert runs.read_text(encoding="utf-8") == "run\n"
    (folder / "model.safetensors").touch()  # the same bytes
    assert fastpath.state(folder) == "refused"
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert fastpath.state(folder) == "absent"
    prepare.prepare(folder, SPEC)
    assert runs.read_text(encoding="utf-8") == "run\nrun\n"


@posix
@pytest.mark.parametrize(
    ("does", "error", "why"),
    [
        ("kill -KILL $$", PreparationFailed, "outside.*SIGKILL"),
        ("kill -TERM $$", PreparationFailed, "outside.*SIGTERM"),
        ("kill -INT $$; sleep 9", PreparationFailed, "outside.*SIGINT"),
        ("kill -BUS $$", PreparationFailed, "outside.*SIGBUS"),
        ("echo std::bad_alloc; kill -ABRT $$", PreparationFailed, "no memory"),
        ("""echo '["memory", "std::bad_alloc", ""]'; exit 1""", PreparationFailed, "no memory"),
        ("""echo '["disk", "No space left on device", "28"]'; exit 1""", OSError, "No space"),
        ("""echo '["corrupt", "m lacks the weights a.b", ""]'; exit 1""", ModelCorrupt, "lacks the weights"),
        ("echo 'No module named nncf'; exit 1", PreparationFailed, "cannot run Gieok: No module named nncf"),
        ("exit 0", PreparationFailed, "cannot run Gieok"),
        ("""echo '["python", "No module named nncf", ""]'; exit 1""", PreparationFailed, "cannot run Gieok"),
        (
            """printf '\\377\\n[\\n[]\\n{}\\n["step", 1]\\n1\\n"done"\\n'; exit 1""",
            PreparationFailed,
            "done",
        ),
    ],
)
def test_what_is_not_the_models_fault_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, does: str, error: type[Exception], why: str
) -> None:
    runs = python_that(folder, monkeypatch, f'touch "$6/model.xml"; {does}')
    for _ in range(2):
        with pytest.raises(error, match=why):
            prepare.prepare(folder, SPEC)
        assert (left(folder), fastpath.state(folder)) == ({LOCK}, "absent")
    assert runs.read_text(encoding="utf-8") == "run\nrun\n"


@posix
@pytest.mark.parametrize("how", ["cancelled", "interrupted", "too long"])
def test_a_child_does_not_outlive_its_preparation(folder: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    runs, told = python_that(folder, monkeypatch, "exec sleep 1000"), []
    before = psutil.Process().children()  # Python's own helper, say

    def progress(event: Progress) -> bool:
        told.append(event)
        if runs.exists() and how == "interrupted":
            raise KeyboardInterrupt
        return not runs.exists() or how != "cancelled"

    if how == "too long":
        monkeypatch.setattr(prepare, "START_SECONDS", 0.3)
    errors = {"cancelled": Cancelled, "interrupted": KeyboardInterrupt, "too long": PreparationFailed}
    with pytest.raises(errors[how]):
        prepare.prepare(folder, SPEC, progress=progress)
    assert left(folder) == {LOCK}
    assert [child for child in psutil.Process().children() if child not in before] == []
    assert not [thread for thread in threading.enumerate() if thread.name == "gieok-prepare"]


def test_where_no_python_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIEOK_PYTHON", raising=False)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(PreparationFailed, match="Set GIEOK_PYTHON"):
        prepare.prepare(folder, SPEC)
    monkeypatch.setenv("GIEOK_PYTHON", str(folder / "nowhere"))
    with pytest.raises(PreparationFailed, match="Correct GIEOK_PYTHON"):
        prepare.prepare(folder, SPEC)
    assert left(folder) == {LOCK}


def test_nobody_makes_room_for_what_cannot_begin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []

    @contextlib.contextmanager
    def room(name: str, _size: int) -> Iterator[None]:
        entered.append(name)
        yield

    with monkeypatch.context() as patch:
        patch.delenv("GIEOK_PYTHON", raising=False)
        patch.setattr(sys, "frozen", True, raising=False)
        with pytest.raises(PreparationFailed):
            prepare.prepare(folder, SPEC, room=room)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _name: None)
        with pytest.raises(PreparationFailed, match="pip install nncf"):
            prepare._interpreter(SPEC)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="free"):
            prepare.prepare(folder, SPEC, room=room)
    assert entered == []


def test_a_header_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{" * 1_000)
    assert prepare._numbers_of(path) == 504


@posix
def test_weights_that_change_meanwhile_are_not_taken_for_what_was_prepared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_that(folder, monkeypatch, """echo x >> "$5/config.json"; echo '["refused", "x", ""]'; exit 1""")
    with pytest.raises(PreparationFailed, match="was changed"):
        prepare.prepare(folder, SPEC)
    assert fastpath.state(folder) == "absent"


# ---- disks


def test_what_was_left_is_swept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"{CACHE}.part-1-2", f"{CACHE}.old-1-2"):
        (folder / name).mkdir()
        (folder / name / "model.bin").write_bytes(b"half")
    monkeypatch.setattr(prepare, "interpreter", lambda: None)
    with pytest.raises(PreparationFailed):
        prepare.prepare(folder, SPEC)
    assert left(folder) == {LOCK}


@posix
def test_a_damaged_cache_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_that(folder, monkeypatch, """echo '["refused", "no", ""]'; exit 1""")
    (folder / CACHE).mkdir()
    (folder / CACHE / "model.bin").write_bytes(b"of long ago")
    prepare.prepare(folder, SPEC)
    assert [path.name for path in (folder / CACHE).iterdir()] == ["prepared.json"]
    assert left(folder) == {LOCK, CACHE}


def test_a_disk_without_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match="are needed and 1 free"):
        prepare.prepare(folder, SPEC)
    assert left(folder) == {LOCK}


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    (folder / LOCK).mkdir()  # root may write anywhere, but not that
    with pytest.raises(OSError, match=LOCK):
        prepare.prepare(folder, SPEC)
    assert left(folder) == {LOCK}


# ---- memory


def weights(path: Path, dtype: str, bytes_each: int, numbers: int) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": dtype, "shape": [numbers], "data_offsets": [0, numbers * bytes_each]},
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + numbers * bytes_each)  # a hole: it takes no disk


def test_memory_that_the_child_takes(tmp_path: Path) -> None:
    """What was measured, and not much more."""
    weights(tmp_path / "model.safetensors", "F32", 4, 566_700_000)
    assert 4.15e9 < prepare.memory(tmp_path) < 4.6e9
    weights(tmp_path / "model.safetensors", "F32", 4, 117_500_000)
    assert 1.55e9 < prepare.memory(tmp_path) < 1.8e9
    full = prepare.memory(tmp_path)
    weights(tmp_path / "model.safetensors", "F16", 2, 117_500_000)
    assert prepare.memory(tmp_path) - full == pytest.approx(2 * 117_500_000, abs=1000)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff" * 99, b"\x02" + b"\0" * 7 + b"[]", b"\x09" + b"\0" * 7 + b'{"a": {}}']
)
def test_memory_of_what_is_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    assert prepare.BESIDE <= prepare.memory(tmp_path) < prepare.BESIDE + 1000


# ---- what the child thinks


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (compress._Refused("no"), "refused"),
        (RuntimeError("No conversion rule found for operations: aten::x"), "refused"),
        (ValueError(""), "refused"),
        (fastpath.CacheDamaged("its states are not torch's", path="p"), "refused"),
        (ModelCorrupt("lacks weights", path="p"), "corrupt"),
        (ModuleNotFoundError("No module named 'nncf'"), "python"),
        (MemoryError(), "memory"),
        (RuntimeError("std::bad_alloc"), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (OSError(28, "No space left on device"), "disk"),
        (RuntimeError("basic_ios::clear: iostream error"), "disk"),
        (Exception("No space left on device (os error 28)"), "disk"),
    ],
)
def test_what_an_error_is_taken_for(tmp_path: Path, error: Exception, kind: str) -> None:
    found, why, number = compress._explain(error, tmp_path)
    assert found == kind
    assert why
    assert (number == "28") is (kind == "disk")


def test_a_model_that_torch_cannot_load_either(folder: Path, tmp_path: Path) -> None:
    whole = folder / "model.safetensors"
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ModelCorrupt, match=r"cannot be loaded.*source\.path"):
        compress._prepare(folder, tmp_path, SPEC)


def test_a_module_that_needs_more_than_states_is_refused(folder: Path, tmp_path: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 3, "name": "3", "path": "3_Dropout", "type": "sentence_transformers.models.Dropout"})
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "3_Dropout").mkdir()
    (folder / "3_Dropout" / "config.json").write_text('{"dropout": 0.1}', encoding="utf-8")
    with pytest.raises(compress._Refused, match="Dropout"):
        compress._prepare(folder, tmp_path, SPEC)


def test_vectors_that_differ_are_refused() -> None:
    own = np.eye(4, dtype=np.float32)
    compress._compare(own * 2, own)
    for other in (own[::-1], own * np.nan, np.vstack([own[:3], own[:1]])):
        with pytest.raises(compress._Refused, match="at worst"):
            compress._compare(other, own)


def test_what_is_compared_is_of_every_length() -> None:
    sizes = sorted(map(len, compress.TEXTS))
    assert (len(sizes), sizes[0]) == (16, 1)
    assert sizes[-1] > 400
