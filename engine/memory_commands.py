"""`gieok remember`, `gieok search`, `gieok memory …`: what is remembered, and that it is gone once it is forgotten."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.console import Meter, complain, opened, show
from engine.instructions import Language
from engine.proof import Searched, occurrences, pieces, words, written
from engine.quantities import bytes_text

if TYPE_CHECKING:
    from engine import Engine, Memory

_SAID: dict[str, tuple[str, str]] = {
    "before": ("before", "지우기 전"),
    "after": ("after", "지운 뒤"),
    "searched": ("{files} files, {size}, every byte", "파일 {files}개 {size}의 모든 바이트"),
    "nowhere": ("nowhere", "어디에도 없음"),
    "looked for": ("looked for", "찾은 것"),
    "needles": (
        "{pieces} pieces of it, and {words} words that no other memory has",
        "조각 {pieces}개와 다른 기억에 없는 낱말 {words}개",
    ),
    "there": ("{pieces} pieces, {words} words", "조각 {pieces}개, 낱말 {words}개"),
    "unread": ("could not be read", "읽을 수 없는 파일"),
    "left": (
        "it is forgotten, yet pieces are left in {names}; unless another user said the same, report it: gieok doctor",
        "지웠지만 조각이 {names}에 남았습니다. 다른 사용자의 기억에 같은 말이 없다면 알려 주세요: gieok doctor",
    ),
}
_KINDS = {"pieces": pieces, "words": words}


def remember(arguments: argparse.Namespace) -> None:
    """Store a memory and print its id."""
    asked = _asked(arguments, "category", "when", "source", "user")
    if arguments.no_judge:
        asked["judge"] = False
    with opened(arguments) as engine:
        memories = engine.remember(arguments.text, **asked)
    show(arguments, [memory.to_dict() for memory in memories], [memory.id for memory in memories])


def search(arguments: argparse.Namespace) -> None:
    """Print what a search finds, best first; with `--explain` also what each score is made of."""
    asked = _asked(arguments, "k", "category", "since", "until", "source", "min_score", "user")
    if arguments.explain:
        asked["explain"] = True
    with opened(arguments) as engine:
        hits = engine.search(arguments.query, **asked)
    lines: list[str] = []
    for hit in hits:
        lines.append(f"{hit.score:.3f}\t{hit.memory.id}\t{hit.memory.text}")
        lines += [f"\t{name}\t{part:.3f}" for name, part in (hit.parts or {}).items()]
    show(arguments, [hit.to_dict() for hit in hits], lines)


def list_memories(arguments: argparse.Namespace) -> None:
    """Print the memories, the last stored first."""
    with opened(arguments) as engine:
        memories = engine.memories(superseded=arguments.superseded, **_asked(arguments, "user"))
    show(arguments, [memory.to_dict() for memory in memories], list(map(_line, memories)))


def show_memory(arguments: argparse.Namespace) -> None:
    """Print a memory field by field; with `--history` also what was so before it, and after."""
    with opened(arguments) as engine:
        fields = engine.memory(arguments.id).to_dict()
        chain = engine.history(arguments.id) if arguments.history else []
    lines = [f"{name}\t{'' if value is None else value}" for name, value in fields.items()]
    told = {**fields, "history": [memory.to_dict() for memory in chain]} if arguments.history else fields
    show(arguments, told, [*lines, *map(_line, chain)])


def history(arguments: argparse.Namespace) -> None:
    """Print what was so before a memory, it, and what took its place, oldest first."""
    with opened(arguments) as engine:
        chain = engine.history(arguments.id)
    show(arguments, [memory.to_dict() for memory in chain], list(map(_line, chain)))


def edit(arguments: argparse.Namespace) -> None:
    """Correct the text of a memory, and its category, moment and source where they are given."""
    with opened(arguments) as engine:
        memory = engine.update(arguments.id, text=arguments.text, **_asked(arguments, "category", "when", "source"))
    show(arguments, memory.to_dict(), [memory.id])


def forget(arguments: argparse.Namespace) -> int:
    """Remove a memory; with `--prove` every file of the home is searched for it before and after."""
    if arguments.prove:
        return _prove(arguments)
    with opened(arguments) as engine:
        engine.forget(arguments.id)
    show(arguments, {"forgotten": arguments.id}, [])
    return 0


def export(arguments: argparse.Namespace) -> None:
    """Write memories to a file; print how many, and the file."""
    asked = _asked(arguments, "user")
    if arguments.vectors:
        asked["vectors"] = True
    with opened(arguments) as engine:
        count = engine.export(arguments.path, **asked)
    show(arguments, {"exported": count, "path": arguments.path}, [f"{count}\t{arguments.path}"])


def take(arguments: argparse.Namespace) -> None:
    """Add the memories of a file that are not here; print how many, and how many were here."""
    with opened(arguments) as engine:
        done = engine.import_(arguments.path).to_dict()
    show(arguments, done, [f"{name}\t{count}" for name, count in done.items()])


def backup(arguments: argparse.Namespace) -> None:
    """Copy the database, also while it is used; print where the copy is."""
    with opened(arguments) as engine:
        path = engine.backup(*filter(None, [arguments.path]))
    show(arguments, {"backup": str(path)}, [str(path)])


def _asked(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that were given; the others have their defaults in the engine."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _line(memory: Memory) -> str:
    newer = f"\t→ {memory.superseded_by}" if memory.superseded_by else ""
    return f"{memory.id}\t{memory.created:%Y-%m-%d}\t{memory.text}{newer}"


# ---- the proof


def _prove(arguments: argparse.Namespace) -> int:
    """Forget, and show where all that is gone stood, and that it stands nowhere; 1 where something is left."""
    with opened(arguments) as engine:
        home, chain = Path(engine.status().home), engine.history(arguments.id)
    needles = {needle: piece for one in chain for kind in _KINDS.values() for piece in kind(one.text)
               for needle in written(piece)}  # fmt: skip
    found = [_searched(arguments, home, list(needles))]
    with opened(arguments) as engine:
        engine.forget(arguments.id)
        own = _own(engine, chain)
    found.append(_searched(arguments, home, list(needles)))
    before, after = (_traces(home, list(needles.values()), searched, own) for searched in found)
    counts = {kind: len(those) for kind, those in own.items()}
    value = {"forgotten": arguments.id, "proof": {**counts, "before": before, "after": after}}
    show(arguments, value, list(_proof_lines(arguments.language, counts, before, after)))
    if after["pieces"]:
        complain(_said("left", arguments.language).format(names=", ".join(after["pieces"])))
    return 1 if after["pieces"] else 0


def _searched(arguments: argparse.Namespace, home: Path, needles: Sequence[bytes]) -> Searched:
    """Search the home, of which no engine may be open here: it would lose its locks."""
    meter = Meter()
    try:
        return occurrences(home, needles, None if arguments.quiet else meter)
    finally:
        meter.end()


def _own(engine: Engine, chain: Sequence[Memory]) -> dict[str, set[str]]:
    """Return pieces and words of those memories that are gone now, which no other memory of their user has."""
    others = engine.memories(user=chain[0].user, superseded=True)
    left = {one.id for one in others}
    elsewhere = "\0".join(text for one in others for text in (one.text, one.source) if text).casefold()
    gone = [one.text for one in chain if one.id not in left]
    return {
        name: {piece for text in gone for piece in kind(text) if piece.casefold() not in elsewhere}
        for name, kind in _KINDS.items()
    }


def _traces(home: Path, meant: Sequence[str], searched: Searched, own: dict[str, set[str]]) -> dict[str, Any]:
    """Return what was searched, and how many of the pieces and words that count stand in which file."""
    there: dict[str, set[str]] = {}
    for number, places in searched.places.items():
        for path, _ in places:
            there.setdefault(path.relative_to(home).as_posix(), set()).add(meant[number])
    counts = {kind: {name: len(there[name] & those) for name in sorted(there) if there[name] & those}
              for kind, those in own.items()}  # fmt: skip
    unread = [path.relative_to(home).as_posix() for path in searched.unread]
    return {"files": searched.files, "bytes": searched.size, "unread": unread, **counts}


def _proof_lines(
    language: Language, counts: dict[str, int], before: dict[str, Any], after: dict[str, Any]
) -> Iterator[str]:
    yield f"{_said('looked for', language)}\t{_said('needles', language).format(**counts)}"
    for when, traces in (("before", before), ("after", after)):
        size = _said("searched", language).format(files=traces["files"], size=bytes_text(traces["bytes"]))
        yield f"{_said(when, language)}\t{size}"
        names = sorted({*traces["pieces"], *traces["words"]})
        for name in names:
            there = {kind: traces[kind].get(name, 0) for kind in counts}
            yield f"  {name}\t{_said('there', language).format(**there)}"
        if not names:
            yield f"  {_said('nowhere', language)}"
        for name in traces["unread"]:
            yield f"  {name}\t{_said('unread', language)}"


def _said(what: str, language: Language) -> str:
    return _SAID[what][language == "ko"]
