"""`gieok models …`: which models there are, what they need, and how they come and go."""

from __future__ import annotations

import argparse
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine import EngineError, ModelNotFound
from engine.console import Bars, complain, opened, show
from engine.instructions import Language
from engine.quantities import bytes_text

if TYPE_CHECKING:
    from engine.library import Library

T = TypeVar("T")
_SAID: dict[str, tuple[str, str]] = {
    "header": (" |MODEL|KIND|SIZE|RAM|CONTEXT|KOREAN|LICENCE", " |모델|종류|크기|메모리|문맥|한국어|라이선스"),
    "llm": ("chat", "대화"),
    "embedding": ("embed", "임베딩"),
    "here": ("here already", "이미 있음"),
    "research": ("not for commercial use", "상업적 이용 불가"),
    "no sale": ("non-commercial", "비상업용"),
    "gated": ("asks for consent on its page", "페이지에서 동의 필요"),
    "aliases": ("also called: {names}", "다른 이름: {names}"),
    "unlisted": ("which files, its repository tells", "파일 목록은 저장소에서 확인"),
    "sizes": (
        "download {download} · disk {disk} · memory {ram}",
        "내려받기 {download} · 디스크 {disk} · 메모리 {ram}",
    ),
    "total": (
        "in all: download {download} · disk {disk} ({free} free in {folder}) · memory {ram} with all loaded",
        "모두: 내려받기 {download} · 디스크 {disk} ({folder}에 {free} 남음) · 모두 올렸을 때 메모리 {ram}",
    ),
    "full": ("the disk has too little room for that: {size} more is needed", "디스크 공간이 {size} 모자랍니다"),
    "go on": (
        "the same command goes on from there (a file of the package index begins anew)",
        "같은 명령을 다시 실행하면 이어서 받습니다 (파이썬 패키지 파일은 처음부터)",
    ),
    "others": ("done all the same: {names}", "나머지는 끝났습니다: {names}"),
    "dest": (
        "to use these, set GIEOK_MODELS={folder}; to copy them elsewhere: gieok models pull --from {folder}",
        "이 폴더의 모델을 쓰려면 GIEOK_MODELS={folder}, 다른 곳으로 복사하려면 gieok models pull --from {folder}",
    ),
    "optional": (
        "optional, answers where the chat model cannot be loaded: gieok models pull {name}",
        "선택: 대화 모델을 올릴 수 없을 때 대신 답하는 모델. gieok models pull {name}",
    ),
    "removed": ("{name}: {size} freed", "{name}: {size} 확보"),
    "ok": ("ok", "정상"),
    "missing": ("MISSING", "없음"),
    "corrupt": ("DAMAGED, put aside as .corrupt", "손상됨 (.corrupt로 치워 둠)"),
    "unknown": ("not checked: no hash of it is known", "확인 못 함: 알려진 해시가 없음"),
    "again": (
        "damaged or missing; to get it again: gieok models pull {names}",
        "손상되었거나 없습니다. 다시 받기: gieok models pull {names}",
    ),
    "none": ("there is no model in {folder}", "{folder}에 모델이 없습니다"),
}


def list_models(arguments: argparse.Namespace) -> None:
    """Print the catalogue."""
    with _library(arguments) as library:
        entries = library.entries()
    rows = [_said("header", arguments.language).split("|")]
    rows += [_row(one, arguments.language) for one in entries]
    show(arguments, entries, _table(rows, right=(3, 4, 5)))


def plan(arguments: argparse.Namespace) -> None:
    """Print what models need, without fetching anything."""
    with _library(arguments) as library:
        _show_plan(arguments, _planned(library, arguments.names))


def pull(arguments: argparse.Namespace) -> int:
    """Fetch models; their licences and sizes are said first. 1 where one of them could not be had."""
    source = _existing(arguments.source) if arguments.source else None
    with _library(arguments) as library:
        planned = _planned(library, arguments.names)
        if arguments.dry_run:
            _show_plan(arguments, planned)
            return 0
        _announce(arguments, planned)
        sizes = {model["model"]: model["download"] or 0 for model in planned["models"]}
        with _going_on(arguments.language), Bars(sizes, arguments.language) as bars:
            progress = None if arguments.quiet else bars
            came, failed = _each(sizes, lambda name: library.pull(name, source=source, progress=progress))
        optional = {library.optional(name) for name in arguments.names or [None]} - {None}
    status = _brought(arguments, came, failed)
    if optional and not arguments.quiet:
        _note(arguments.language, "optional", name=" ".join(sorted(map(str, optional))))
    return status


def take(arguments: argparse.Namespace) -> int:
    """Copy models from a file or folder, verified."""
    path = _existing(Path(arguments.path))
    with _library(arguments) as library, _going_on(arguments.language), Bars({}, arguments.language) as bars:
        progress = None if arguments.quiet else bars
        names = [arguments.name] if arguments.name else library.found(path)
        came, failed = _each(names, lambda name: library.take(path, name, progress=progress))
    return _brought(arguments, came, failed)


def verify(arguments: argparse.Namespace) -> int:
    """Hash models anew; 1 where a file is damaged or missing."""
    with _library(arguments) as library:
        folder = library.disk()["folder"]
        sizes = {one["name"]: one["size"] or 0 for one in library.entries() if one["installed"]}
        names = [model["model"] for model in _planned(library, arguments.names)["models"]] if arguments.names else None
        sizes = {name: sizes[name] for name in names or sizes if name in sizes}
        with Bars(sizes, arguments.language) as bars:
            found = _checked(library, names, None if arguments.quiet else bars)
    lines = [f"{one['model']}\t{one['file'] or ''}\t{_said(one['state'], arguments.language)}" for one in found]
    show(arguments, found, lines)
    if not found and not arguments.quiet:
        _note(arguments.language, "none", folder=folder)
    bad = dict.fromkeys(one["model"] for one in found if one["state"] in ("missing", "corrupt"))
    if bad:
        dest = f" --dest {arguments.dest}" if arguments.dest else ""
        complain(_said("again", arguments.language).format(names=" ".join(bad) + dest))
    return 1 if bad else 0


def remove(arguments: argparse.Namespace) -> int:
    """Delete the files of models."""
    with _library(arguments) as library:
        freed, failed = _each(dict.fromkeys(arguments.names), library.remove)
    said = _said("removed", arguments.language)
    lines = [said.format(name=name, size=bytes_text(size)) for name, size in freed.items()]
    return _ended(arguments, freed, lines, freed, failed)


# ---- what they share


@contextmanager
def _library(arguments: argparse.Namespace) -> Iterator[Library]:
    """Open the catalogue; the models folder is the one that `--dest` names, also for child processes."""
    before = os.environ.get("GIEOK_MODELS")
    if arguments.dest:
        os.environ["GIEOK_MODELS"] = str(arguments.dest.expanduser().absolute())
    try:
        with opened(arguments) as engine:
            yield engine.library
    finally:
        os.environ.pop("GIEOK_MODELS", None)
        if before is not None:
            os.environ["GIEOK_MODELS"] = before


def _existing(path: Path) -> Path:
    """Return the whole path of what is there. Raises `OSError`."""
    return path.expanduser().resolve(strict=True)


@contextmanager
def _going_on(language: Language) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_said("go on", language)) from None


def _each(names: Iterable[str], act: Callable[[str], T]) -> tuple[dict[str, T], list[EngineError]]:
    """Do something for each name; what fails for one keeps the others from nothing."""
    done, failed = {}, []
    for name in names:
        try:
            done[name] = act(name)
        except EngineError as error:
            failed.append(error)
    return done, failed


def _brought(arguments: argparse.Namespace, came: Mapping[str, Sequence[Path]], failed: list[EngineError]) -> int:
    paths = list(dict.fromkeys(str(path) for found in came.values() for path in found))
    status = _ended(arguments, paths, paths, came, failed)
    if paths and arguments.dest and not arguments.quiet:
        _note(arguments.language, "dest", folder=arguments.dest.expanduser().absolute())
    return status


def _ended(
    arguments: argparse.Namespace, value: Any, lines: Sequence[str], done: Iterable[str], failed: list[EngineError]
) -> int:
    """Show what was done, then what was not."""
    if done or not failed:
        show(arguments, value, lines)
        sys.stdout.flush()
    for error in failed:
        complain(str(error))
    if done and failed:
        complain(_said("others", arguments.language).format(names=", ".join(done)))
    return 1 if failed else 0


def _checked(library: Library, names: Sequence[str] | None, progress: Bars | None) -> list[dict[str, Any]]:
    if names is None:
        return [one.to_dict() for one in library.verify(progress=progress)]
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            found += [one.to_dict() for one in library.verify(name, progress=progress)]
        except ModelNotFound:
            found.append({"model": name, "file": None, "state": "missing"})
    return found


def _said(what: str, language: Language) -> str:
    return _SAID[what][language == "ko"]


def _note(language: Language, what: str, **values: object) -> None:
    text = _said(what, language)
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    print(text, file=sys.stderr, flush=True)


# ---- plans


def _planned(library: Library, names: Sequence[str]) -> dict[str, Any]:
    aliases = {one["name"]: one["aliases"] for one in library.entries()}
    found = {model.model: model.to_dict() for name in names or (None,) for model in library.plan(name)}
    models = [{**model, "aliases": aliases.get(name, [])} for name, model in found.items()]
    return {
        "models": models,
        **{what: _sum(model[what] for model in models) for what in ("download", "disk")},
        "ram": _sum(model["ram"]["total"] for model in models),
        **library.disk(),
    }


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return the sum, or None where one is not known."""
    found = list(numbers)
    return None if None in found else sum(number or 0 for number in found)


def _announce(arguments: argparse.Namespace, planned: dict[str, Any]) -> None:
    """Say what is about to come, on stderr, so that stdout has the paths only."""
    coming = [model for model in planned["models"] if not model["installed"]]
    if coming and not arguments.quiet:
        lines = _plan_lines({**planned, "models": coming}, arguments.language)
        print("\n".join(lines), file=sys.stderr, flush=True)


def _show_plan(arguments: argparse.Namespace, planned: dict[str, Any]) -> None:
    names = {model["model"]: ", ".join(model["aliases"]) for model in planned["models"]}
    said = _said("aliases", arguments.language)
    aliases = {model: said.replace("{names}", known) for model, known in names.items() if known}
    show(arguments, planned, list(_plan_lines(planned, arguments.language, aliases)))


def _plan_lines(planned: dict[str, Any], language: Language, aliases: Mapping[str, str] | None = None) -> Iterator[str]:
    for model in planned["models"]:
        yield " · ".join([model["model"], model["source"], model["license"] or "?", *_marks(model, language)])
        known = (aliases or {}).get(model["model"])
        adapted = f"LoRA: {', '.join(model['adapters'])}" if model["adapters"] else None
        yield from (f"    {text}" for text in (model["note"], adapted, known) if text)
        for file in model["files"]:
            size = "" if file["size"] is None else f"  {bytes_text(file['size'])}"
            yield f"  {'✓' if file['installed'] else ' '} {file['name']}{size}"
        if not model["files"]:
            yield f"    {_said('unlisted', language)}"
        yield "    " + _sizes(_said("sizes", language), model, model["ram"]["total"])
    said = _said("total", language).replace("{free}", bytes_text(planned["free"]))
    yield _sizes(said, planned, planned["ram"]).replace("{folder}", planned["folder"])
    short = (planned["download"] or 0) - planned["free"]
    if short > 0:
        yield _said("full", language).format(size=bytes_text(short))


def _sizes(said: str, of: dict[str, Any], ram: int | None) -> str:
    sizes = {"download": of["download"], "disk": of["disk"], "ram": ram}
    for name, size in sizes.items():
        said = said.replace(f"{{{name}}}", bytes_text(size))
    return said


def _marks(model: dict[str, Any], language: Language) -> list[str]:
    marks = {"here": model["installed"], "research": model["commercial"] is False, "gated": model["gated"]}
    return [_said(what, language) for what, there in marks.items() if there]


# ---- the table of all models


def _row(one: dict[str, Any], language: Language) -> list[str]:
    licence = one["license"] or "?"
    return [
        "✓" if one["installed"] else " ",
        " + ".join([one["name"], *one["adapters"]]),
        _said(one["kind"], language),
        bytes_text(one["size"]),
        bytes_text(one["ram"]),
        _context(one["context"]),
        "" if one["korean"] is None else f"{one['korean']}/5",
        f"{licence}, {_said('no sale', language)}" if one["commercial"] is False else licence,
    ]


def _context(tokens: int | None) -> str:
    return "?" if tokens is None else f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def _table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    """Return lines of columns as wide as their cells; those of the numbers in `right` end where their header ends."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        gaps = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [gap + cell if n in right else cell + gap for n, (cell, gap) in enumerate(zip(row, gaps, strict=True))]
        lines.append(f"{cells[0]} {'  '.join(cells[1:])}".rstrip())
    return lines


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
