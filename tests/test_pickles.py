"""What becomes of a pickle: its tensors to the bit, or an error with a reason; never what it asks to be run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine import pickles
from engine.errors import Cancelled, DownloadError, ModelCorrupt
from engine.metrics import Progress
from engine.pickles import convert, is_pickle, safetensors_name

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
BASE = torch.randn(64, 48, generator=torch.Generator().manual_seed(1))


class Bomb:
    """Writes `file` when it is unpickled by the plain reader."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a child's work be done in this process, which must keep its limits; for what takes no child to show."""

    def run(job: Any) -> None:
        try:
            pickles._rewrite(job.source, job.part)
        except Exception as error:
            said = json.dumps(pickles._explain(error))
            raise pickles._failure(job.source, sys.executable, 1, said) from error

    monkeypatch.setattr(pickles, "_limit", lambda _size: None)
    monkeypatch.setattr(pickles, "_write_in_child", run)


def saved(folder: Path, content: Any, **options: Any) -> Path:
    path = folder / "pytorch_model.bin"
    torch.save(content, path, **options)
    return path


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors have the same type, shape and bits."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


def refused(source: Path) -> str:
    """Convert what must be refused; return the message, having seen that nothing is left."""
    before = set(source.parent.iterdir())
    with pytest.raises(ModelCorrupt) as caught:
        convert(source, source.with_name("model.safetensors"))
    assert caught.value.path == str(source)
    assert str(source) in str(caught.value)
    assert "*.safetensors" in str(caught.value)  # the next step
    assert "\n" not in str(caught.value)
    assert set(source.parent.iterdir()) == before
    return str(caught.value)


# ---- names


@pytest.mark.parametrize(
    ("name", "converted"),
    [
        ("pytorch_model.bin", "model.safetensors"),
        ("1_Dense/pytorch_model.bin", "1_Dense/model.safetensors"),
        ("sparse_linear.pt", "sparse_linear.safetensors"),
        ("colbert_linear.pt", "colbert_linear.safetensors"),
        ("a.b/모델.v2.CKPT", "a.b/모델.v2.safetensors"),
    ],
)
def test_names(name: str, converted: str) -> None:
    assert is_pickle(name)
    assert safetensors_name(name) == converted
    assert not is_pickle(converted)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin.index.json", "config.json", "bin", "a.bin/b"])
def test_what_is_no_pickle(name: str) -> None:
    assert not is_pickle(name)


def test_a_pickle_in_parts_is_refused_by_name(tmp_path: Path) -> None:
    part = "sub/pytorch_model-00001-of-00002.bin"
    with pytest.raises(DownloadError, match=r"one part.*repository that has \*\.safetensors") as caught:
        safetensors_name(part)
    assert caught.value.file == part
    with pytest.raises(DownloadError, match="one part"):
        convert(tmp_path / Path(part).name, tmp_path / "model.safetensors")


# ---- what comes out


def test_a_child_converts_to_the_bit(tmp_path: Path) -> None:
    content = {"encoder.layer.0.weight": BASE, "half": BASE.half(), "이름": BASE.bfloat16(), "ids": torch.arange(7)}
    told: list[Progress] = []
    source, target = saved(tmp_path, content), tmp_path / "model.safetensors"
    digest = convert(source, target, progress=told.append)
    assert digest == hashlib.sha256(target.read_bytes()).hexdigest()
    weights = load_file(target)
    assert weights.keys() == content.keys()
    assert all(same(weights[name], content[name]) for name in content)
    with safe_open(target, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert {path.name for path in tmp_path.iterdir()} == {"pytorch_model.bin", "model.safetensors"}
    size = source.stat().st_size
    assert {(one.task, one.total, one.unit) for one in told} == {("convert pytorch_model.bin", size, "bytes")}
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert told[-1].done == size


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"a": BASE, "tied": BASE, "again": BASE}, id="tied"),
        pytest.param({"rows": BASE[3:9], "all": BASE, "more": BASE[8:20]}, id="overlapping"),
        pytest.param({"first": BASE[:32], "second": BASE[32:]}, id="halves of one storage"),
        pytest.param({"turned": BASE.t(), "column": BASE[:, 5], "as it is": BASE}, id="not contiguous"),
        pytest.param({"buffer": torch.arange(5).expand(3, -1)}, id="expanded"),
        pytest.param({"none": torch.empty(0, 4), "nor": torch.empty(0), "one": torch.tensor(1.5)}, id="tiny"),
        pytest.param({"bool": BASE > 0, "double": BASE.double(), "byte": BASE.to(torch.uint8)}, id="dtypes"),
        pytest.param({"nan": torch.tensor([float("nan"), -0.0, float("inf")])}, id="not numbers"),
        pytest.param({"neg": torch.view_as_complex(BASE.view(64, 24, 2)).conj().imag}, id="lazily negated"),
        pytest.param({"weight": torch.nn.Parameter(BASE)}, id="parameter"),
    ],
)
def test_every_tensor_comes_out_as_it_was(tmp_path: Path, content: dict[str, torch.Tensor], zipped: bool) -> None:
    source = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    convert(source, tmp_path / "model.safetensors")
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == content.keys()
    assert all(same(weights[name], tensor.detach().resolve_neg()) for name, tensor in content.items())


@pytest.mark.usefixtures("here")
def test_a_state_dict_and_a_checkpoint_of_a_training_run(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    for content in (layer.state_dict(), {"epoch": 3, "state_dict": layer.state_dict()}):
        convert(saved(tmp_path, content), tmp_path / "model.safetensors")  # over the one before
        assert load_file(tmp_path / "model.safetensors").keys() == {"weight", "bias"}


def test_this_process_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engine.pickles import convert\n"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "assert not {'torch', 'safetensors', 'numpy'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(saved(tmp_path, {"a": BASE})), str(tmp_path / "model.safetensors")]
    subprocess.run(command, cwd=Path(pickles.__file__).parents[1], check=True, stdin=subprocess.DEVNULL)
    assert (tmp_path / "model.safetensors").is_file()


# ---- what does not


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_pickle_that_asks_for_a_program_gets_none(tmp_path: Path, form: str) -> None:
    ran, source = tmp_path.with_name(f"{tmp_path.name}-ran"), tmp_path / "pytorch_model.bin"
    if form == "bare":
        source.write_bytes(pickle.dumps(Bomb(ran), protocol=2))
        pickle.loads(source.read_bytes())  # the bait is live
    else:
        saved(tmp_path, {"a": BASE, "b": Bomb(ran)}, _use_new_zipfile_serialization=form == "zip")
        torch.load(source, weights_only=False)
    ran.rmdir()
    assert "mkdir, which weights have no use for" in refused(source)
    assert not ran.exists()


def zip_bomb(source: Path) -> None:
    with zipfile.ZipFile(source) as plain:
        entries = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, data in {**entries, "pytorch_model/data/9": bytes(100_000_000)}.items():
            bomb.writestr(name, data)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "junk that begins as a zip": lambda path: path.write_bytes(b"PK\3\4" + bytes(range(256)) * 20),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bomb": zip_bomb,
    "a page of the network": lambda path: path.write_text("<!DOCTYPE html>", encoding="utf-8"),
    "a pointer of git": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1", encoding="utf-8"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("zipped", [True, False])
def test_damage(tmp_path: Path, damage: str, zipped: bool) -> None:
    source = saved(tmp_path, {"a": BASE}, _use_new_zipfile_serialization=zipped)
    if damage == "bomb" and not zipped:
        pytest.skip("not a zip")
    DAMAGE[damage](source)
    assert re.search("cannot be read|compressed archive", refused(source))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (BASE, "one Tensor and no named tensors"),
        ([BASE], "one list"),
        ({}, "no tensors"),
        ({"epoch": 3, "a": BASE}, "'epoch' in it is of type int"),
        ({"a": {"b": BASE}}, "'a' in it is of type dict"),
        ({1: BASE}, "cannot be called 1"),
        ({"__metadata__": BASE}, "cannot be called '__metadata__'"),
        ({"\x1b[2J": BASE}, "cannot be called"),
        ({"\ud800": BASE}, "cannot be called"),
        ({"a": torch.zeros(1).expand(1_000_000, 1_000_000)}, "would take 4,000,000,000,000 bytes"),
        ({"a": torch.eye(3).to_sparse()}, "'a' in it is not a plain dense tensor"),
        ({"a": torch.empty(3, device="meta")}, "'a' in it is not a plain dense tensor"),
        (torch.nn.Linear(2, 2), "asks for torch.nn.modules.linear.Linear"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, "complex128"),
    ],
)
def test_what_cannot_become_safetensors_says_why(tmp_path: Path, content: Any, why: str) -> None:
    assert why in refused(saved(tmp_path, content))


def test_a_damaged_file_in_a_child(tmp_path: Path) -> None:
    source = saved(tmp_path, {"a": BASE})
    DAMAGE["cut"](source)
    assert "cannot be read" in refused(source)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_a_file_cannot_ask_for_more_memory_than_its_size_needs(tmp_path: Path) -> None:
    source = saved(tmp_path, {"a": torch.zeros(70_001)}, _use_new_zipfile_serialization=False)
    data = source.read_bytes()
    length = b"J" + (70_001).to_bytes(4, "little")
    assert length in data
    source.write_bytes(data.replace(length, b"J" + (2**31 - 1).to_bytes(4, "little")))  # 8 GiB
    assert "more memory than a file of its size needs" in refused(source)


@posix
def test_a_disk_that_is_full_is_not_the_files_fault(tmp_path: Path) -> None:
    import resource

    source = saved(tmp_path, {"a": torch.zeros(1_000_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"\w"):
            convert(source, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [source]


# ---- the child's life


@pytest.fixture
def asleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """An interpreter that sleeps; what it is run as is collected here."""
    python_that(tmp_path, monkeypatch, "exec sleep 1000")
    children: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(popen(*args, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return children


def python_that(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> Path:
    script = folder.with_name(f"{folder.name}-python")
    script.write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("GIEOK_PYTHON", str(script))
    return script


@posix
@pytest.mark.parametrize("how", ["cancelled", "interrupted", "too long"])
def test_a_child_does_not_outlive_its_conversion(
    tmp_path: Path, asleep: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    source, told = saved(tmp_path, {"a": BASE}), []

    def progress(event: Progress) -> object:
        (tmp_path / "model.safetensors.part").touch()  # as if it had begun
        told.append(event)
        if len(told) == 2 and how == "interrupted":
            raise KeyboardInterrupt
        return len(told) < 2 or how != "cancelled"

    if how == "too long":
        monkeypatch.setattr(pickles, "START_SECONDS", 0.3)
    errors = {"cancelled": Cancelled, "interrupted": KeyboardInterrupt, "too long": ModelCorrupt}
    with pytest.raises(errors[how]):
        convert(source, tmp_path / "model.safetensors", progress=progress)
    assert [child.returncode for child in asleep] == [-9]
    assert list(tmp_path.iterdir()) == [source]


def test_cancelled_while_it_is_hashed(tmp_path: Path) -> None:
    source = saved(tmp_path, {"a": BASE})
    size = source.stat().st_size
    with pytest.raises(Cancelled):
        convert(source, tmp_path / "model.safetensors", progress=lambda event: event.done < size)
    assert list(tmp_path.iterdir()) == [source]


@posix
def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    """Its source here is a pipe that nobody writes to, so that only the parent's end can end it."""
    os.mkfifo(tmp_path / "pytorch_model.bin")
    part = tmp_path / "model.safetensors.part"
    part.touch()
    root = str(Path(pickles.__file__).parents[1])
    command = [sys.executable, "-P", "-c", pickles.BOOT, root, str(tmp_path / "pytorch_model.bin"), str(part)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait() == 1
    assert not part.exists()


# ---- which Python


def test_a_frozen_application_needs_a_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = saved(tmp_path, {"a": BASE}), tmp_path / "model.safetensors"
    real = sys.executable
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "application"))
    monkeypatch.delenv("GIEOK_PYTHON", raising=False)
    with pytest.raises(DownloadError, match=r"GIEOK_PYTHON.*safetensors"):
        convert(source, target)
    monkeypatch.setenv("GIEOK_PYTHON", real)
    convert(source, target)
    assert load_file(target)["a"].equal(BASE)


@posix
@pytest.mark.parametrize(
    ("does", "error", "why"),
    [
        (None, DownloadError, "cannot be run: No such file"),
        ("echo 'unknown option -P'; exit 2", DownloadError, "cannot run Gieok: unknown option -P"),
        ("echo \"ModuleNotFoundError: No module named 'engine'\"; exit 1", DownloadError, "GIEOK_PYTHON"),
        ("""echo '["python", "No module named torch", 0]'; exit 1""", DownloadError, "No module named torch"),
        ("kill -9 $$", DownloadError, "SIGKILL.*Run it again"),
        ("kill -11 $$", ModelCorrupt, "its reader died"),
        ("head -c 300000 /dev/zero; exit 3", ModelCorrupt, "cannot be converted"),
        ("""printf '["refused", "\\\\u001b[2J", 0]'; exit 1""", ModelCorrupt, r" \[2J"),
        ("echo '[5]'; exit 7", ModelCorrupt, r"\[5\]"),
        ("exit 0", DownloadError, "cannot run Gieok"),
    ],
)
def test_a_python_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str | None, error: type[Exception], why: str
) -> None:
    script = python_that(tmp_path, monkeypatch, does or "")
    if does is None:
        script.unlink()
    source = saved(tmp_path, {"a": BASE})
    with pytest.raises(error, match=why) as caught:
        convert(source, tmp_path / "model.safetensors")
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == [source]


def test_a_child_that_did_not_say_it_was_done_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a host reaps all children itself, every status reads 0."""
    monkeypatch.setattr(pickles, "BOOT", "import sys; open(sys.argv[3], 'wb').write(b'half')")
    source = saved(tmp_path, {"weight": torch.zeros(2)})
    with pytest.raises(DownloadError):
        pickles.convert(source, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
