"""The `gieok` command. Data goes to stdout, everything else to stderr; it uses the facade only."""

from __future__ import annotations

import argparse
import errno
import json
import locale
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine import EngineError, InvalidInput, chat_command, memory_commands, model_commands, reports
from engine.console import complain, for_stdout, opened, show
from engine.inputs import check_dialogue
from engine.instructions import Language
from engine.manual import VERBS, Manual


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 (failed), 2 (wrong usage, by argparse) or 130 (interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    language = locale_language()
    try:
        try:
            arguments = _parsed(language, argv)
            return int(arguments.run(arguments) or 0)
        finally:
            print(end="", flush=True)  # meets a closed pipe here, not when Python exits
    except EngineError as error:
        return _failed(str(error))
    except OSError as error:
        return 0 if _reader_left(error) else _failed(str(error))
    except KeyboardInterrupt as stop:
        complain("; ".join([{"en": "interrupted", "ko": "멈췄습니다"}[language], *map(str, stop.args)]))
        return 130


def _failed(reason: str) -> int:
    complain(reason)
    return 1


def _reader_left(error: OSError) -> bool:
    """Return whether stdout's reader has closed it, as `head` does; what is still buffered then goes nowhere."""
    if not (isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def locale_language() -> Language:
    """Return "ko" where the locale's messages are Korean, else "en"."""
    named = next((os.environ[n] for n in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(n)), "")
    named = named or (locale.getlocale()[0] or "")
    return "ko" if re.match(r"(?i)ko(rean)?(?![a-z])", named) else "en"


def _parser(language: Language) -> Manual:
    parser = Manual(language=language)
    parser.set_defaults(language=language, profile=None, home=None, json=False, quiet=False)
    _add_everywhere(parser)
    groups = {"": parser.verbs()}
    for path, (run, words) in _VERBS.items():
        group = path.rpartition(" ")[0]
        if group not in groups:
            above = _add_verb(groups[""], group, language)
            groups[group] = above.verbs()
            _add_everywhere(above)
        verb = _add_verb(groups[group], path, language)
        verb.set_defaults(run=run)
        for word in words:
            section = "options" if word in _OPTIONS else "arguments"
            many = word[-1] if word[-1] in "+*?" else None
            verb.word(word, section, _OPTIONS.get(word) or {"nargs": many})
        _add_everywhere(verb)
    return parser


def _add_verb(group: Any, path: str, language: Language) -> Manual:
    name, told = path.rpartition(" ")[2], VERBS[path][language == "ko"]
    verb: Manual = group.add_parser(name, path=path, language=language, help=told)
    return verb


def _add_everywhere(parser: Manual) -> None:
    for word in _EVERYWHERE:
        parser.word(word, "everywhere", _OPTIONS[word])


def _parsed(language: Language, argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; names may also stand behind options, which argparse leaves over."""
    parser = _parser(language)
    arguments, left = parser.parse_known_args(argv)
    if left and ("names" not in arguments or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        arguments.names = [*arguments.names, *left]
    return arguments


def _ask(arguments: argparse.Namespace) -> None:
    with opened(arguments) as engine, engine.stream(arguments.text) as stream:
        if not arguments.json:
            for piece in stream:
                print(for_stdout(piece), end="", flush=True)
            print()
        else:
            show(arguments, stream.reply.to_dict(), [])


def _extract(arguments: argparse.Namespace) -> None:
    with opened(arguments) as engine:
        found = engine.extract_memory(_read_dialogue(arguments.file))
    lines = [f"{kind}\t{item.when or ''}\t{item.quote}" for kind, item in found.items()]
    show(arguments, found.to_dict(), lines)


def _classify(arguments: argparse.Namespace) -> None:
    with opened(arguments) as engine:
        found = engine.classify(arguments.text)
    lines = [f"{one.label}\t{one.confidence:.2f}\t{text}" for one, text in zip(found, arguments.text, strict=True)]
    show(arguments, [one.to_dict() for one in found], lines)


def _summarize(arguments: argparse.Namespace) -> None:
    with opened(arguments) as engine:
        summary = engine.summarize(_read_dialogue(arguments.file))
    show(arguments, summary.to_dict(), [summary.text])


def _embed(arguments: argparse.Namespace) -> None:
    with opened(arguments) as engine:
        vectors = engine.embed(arguments.text).to_dict()
    show(arguments, vectors, [" ".join(f"{x:.6f}" for x in row) for row in vectors["dense"]])


def _demo(arguments: argparse.Namespace) -> int:
    from engine.demo import run

    return run(arguments.language)


_VERBS: dict[str, tuple[Callable[[Any], int | None], tuple[str, ...]]] = {
    "chat": (chat_command.chat, ("--session", "--user", "--system", "--memory")),
    "ask": (_ask, ("text",)),
    "extract": (_extract, ("file",)),
    "classify": (_classify, ("text+",)),
    "summarize": (_summarize, ("file",)),
    "embed": (_embed, ("text+",)),
    "remember": (memory_commands.remember, ("text", "--user", "--category", "--when", "--source", "--no-judge")),
    "search": (
        memory_commands.search,
        ("query", "-k", "--user", "--category", "--since", "--until", "--source", "--min-score", "--explain"),
    ),
    "status": (reports.status, ()),
    "doctor": (reports.doctor, ("--retune", "--speed")),
    "demo": (_demo, ()),
    "memory list": (memory_commands.list_memories, ("--user", "--superseded")),
    "memory show": (memory_commands.show_memory, ("id", "--history")),
    "memory history": (memory_commands.history, ("id",)),
    "memory edit": (memory_commands.edit, ("id", "text", "--category", "--when", "--source")),
    "memory forget": (memory_commands.forget, ("id", "--prove")),
    "memory export": (memory_commands.export, ("path", "--user", "--vectors")),
    "memory import": (memory_commands.take, ("path",)),
    "memory backup": (memory_commands.backup, ("path?",)),
    "models list": (model_commands.list_models, ("--dest",)),
    "models plan": (model_commands.plan, ("names*", "--dest")),
    "models pull": (model_commands.pull, ("names*", "--from", "--dest", "--dry-run")),
    "models verify": (model_commands.verify, ("names*", "--dest")),
    "models remove": (model_commands.remove, ("names+", "--dest")),
    "models import": (model_commands.take, ("path", "name?", "--dest")),
}
_EVERYWHERE = ("--help", "--profile", "--home", "--json", "--quiet")  # before the verb or behind it
_OPTIONS: dict[str, dict[str, Any]] = {
    "--help": {"action": "help"},
    "--profile": {"default": argparse.SUPPRESS, "metavar": "NAME"},
    "--home": {"default": argparse.SUPPRESS, "metavar": "DIR"},
    "--json": {"action": "store_true", "default": argparse.SUPPRESS},
    "--quiet": {"action": "store_true", "default": argparse.SUPPRESS},
    "--session": {"metavar": "NAME"},
    "--system": {"metavar": "TEXT"},
    "--memory": {"choices": ("auto", "read", "off")},
    "-k": {"type": int, "metavar": "N"},
    "--category": {"metavar": "NAME"},
    "--when": {"metavar": "DAY"},
    "--source": {"metavar": "TEXT"},
    "--no-judge": {"action": "store_true"},
    "--since": {"metavar": "DAY"},
    "--until": {"metavar": "DAY"},
    "--min-score": {"type": float, "metavar": "X"},
    "--explain": {"action": "store_true"},
    "--superseded": {"action": "store_true"},
    "--history": {"action": "store_true"},
    "--prove": {"action": "store_true"},
    "--user": {"metavar": "NAME"},
    "--vectors": {"action": "store_true"},
    "--retune": {"nargs": "?", "const": True, "default": False, "metavar": "MODEL"},
    "--speed": {"action": "store_true"},
    "--dest": {"type": Path, "metavar": "DIR"},
    "--from": {"type": Path, "metavar": "DIR", "dest": "source"},
    "--dry-run": {"action": "store_true"},
}


def _read_dialogue(file: str) -> Any:
    """Return a text, or the list of messages where the file holds JSON; `-` is stdin."""
    text = _read(file)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(parsed, list):
        return text
    try:
        check_dialogue(parsed, limit=None)
    except TypeError as error:
        raise InvalidInput(str(error)) from None
    return parsed


def _read(file: str) -> str:
    try:
        if file != "-":
            return Path(file).read_text(encoding="utf-8-sig")
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise InvalidInput(f"{file} is not UTF-8; save it as UTF-8") from None
