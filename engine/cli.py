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

_HELP: dict[str, tuple[str, str]] = {
    "": ("offline, Korean-first assistant brain", "오프라인 한국어 비서의 두뇌"),
    "chat": ("talk, with memories; /help tells more", "기억하며 대화합니다. /도움 에 더 있습니다"),
    "--session": ("which conversation goes on; its name", "이어 갈 대화의 이름"),
    "--system": ("what stands in for the usual instruction", "평소의 지시 대신 쓸 말"),
    "--memory": (
        "auto: told and searched for memories; read: only told; off: neither",
        "auto: 기억을 쓰고 찾아 둠, read: 쓰기만 함, off: 둘 다 안 함",
    ),
    "ask": ("answer one message, streamed", "한 마디에 답합니다"),
    "extract": ("find what is worth remembering in a dialogue", "대화에서 기억할 것을 찾습니다"),
    "classify": ("say which category each text belongs to", "글을 분류합니다"),
    "summarize": ("summarise a text or a dialogue", "글이나 대화를 요약합니다"),
    "embed": ("print the vector of each text", "글의 벡터를 출력합니다"),
    "remember": ("store a memory", "기억을 저장합니다"),
    "search": ("find memories by meaning", "뜻으로 기억을 찾습니다"),
    "memory": (
        "list, show, correct, forget, export or import memories",
        "기억을 보고, 고치고, 지우고, 내보내고, 가져옵니다",
    ),
    "list": ("all of them", "모두 보여 줍니다"),
    "show": ("one memory", "하나를 보여 줍니다"),
    "history": ("what was so before a memory, and after", "그 기억의 예전과 나중"),
    "edit": ("correct the text of a memory", "기억의 글을 고칩니다"),
    "forget": ("remove a memory for good", "기억을 완전히 지웁니다"),
    "export": ("write memories to a file of JSON Lines", "기억을 JSON Lines 파일로 내보냅니다"),
    "backup": ("copy the database, also while it is used", "쓰는 중에도 데이터베이스를 복사합니다"),
    "path?": ("a file; else one in the folder of memories", "파일. 없으면 기억 폴더 안"),
    "--superseded": ("also what is no longer so", "지금은 아닌 예전 기억도"),
    "--history": ("also what was so before, and after", "예전과 나중 기억도"),
    "--prove": (
        "search every file for it, before and after; 1 if a trace is left",
        "지우기 전과 뒤에 모든 파일을 뒤져 확인. 흔적이 남으면 1",
    ),
    "--user": ("whose memories, where several users have some", "여러 사용자 가운데 누구의 기억인지"),
    "--vectors": ("vectors too, so that an import need not make them", "가져올 때 다시 만들지 않도록 벡터도"),
    "--category": ("one of the eight categories", "여덟 분류 가운데 하나"),
    "--when": ("when it happens or happened, such as 2026-03-05", "언제 일인지 (예: 2026-03-05)"),
    "--source": ("who or what it comes from", "어디에서 나온 말인지"),
    "--no-judge": ("compare it with no older memory", "예전 기억과 견주지 않음"),
    "--since": ("from this day on, such as 2026-03-05", "이날부터 (예: 2026-03-05)"),
    "--until": ("up to this day", "이날까지"),
    "--min-score": ("only what scores so much, from 0 to 1", "점수가 이 이상인 것만 (0~1)"),
    "--explain": ("show what a score is made of", "점수를 이루는 값도 출력"),
    "models": ("list, plan, download, verify or remove models", "모델을 보고, 내려받고, 확인하고, 지웁니다"),
    "plan": ("what profiles, roles or models need, before a download", "내려받기 전에 필요한 용량과 메모리를 봅니다"),
    "pull": (
        "download profiles, roles or models; without a name, all of the profile in use",
        "프로필, 역할 또는 모델을 내려받습니다. 이름이 없으면 쓰는 프로필 전체",
    ),
    "names*": ("such as chat, commercial or qwen2.5:7b", "예: chat, commercial, qwen2.5:7b"),
    "names+": ("models, such as qwen2.5:7b", "모델 이름 (예: qwen2.5:7b)"),
    "path": ("a file or folder", "파일 또는 폴더"),
    "name?": ("the model it is; else all that are found", "모델 이름. 없으면 찾은 모델 모두"),
    "verify": ("hash the files anew; damaged ones are put aside", "파일을 다시 확인하고 손상된 것은 치워 둡니다"),
    "remove": ("delete the files of models", "모델 파일을 지웁니다"),
    "import": (
        "take from a file or folder what is not here yet, checked",
        "파일이나 폴더에서 없는 것을 확인하며 가져옵니다",
    ),
    "--dest": ("the models folder to use", "쓸 모델 폴더"),
    "--from": ("take the files from a folder, such as a USB stick", "폴더(USB 등)에서 파일을 가져옵니다"),
    "--dry-run": ("only show what would be fetched", "내려받지 않고 보여 주기만 합니다"),
    "status": (
        "what is loaded, and what a load would take",
        "올라온 모델과 쓰는 메모리, 올릴 때 드는 메모리",
    ),
    "doctor": ("check this machine: what to mend, which profiles run here", "컴퓨터 점검: 고칠 것과 돌아가는 프로필"),
    "demo": ("the main job on the starter models", "작은 모델로 보는 시연"),
    "-k": ("how many at most", "몇 개까지"),
    "--speed": ("measure what a user waits for; takes a minute", "사용자가 기다리는 시간을 측정 (1분쯤)"),
    "--retune": ("measure again: all chat models, or one", "다시 측정: 모든 대화 모델 또는 하나"),
    "--profile": ("a profile of models.toml", "models.toml의 프로필"),
    "--home": ("folder of memories", "기억을 두는 폴더"),
    "--json": ("print one JSON value", "JSON 값 하나로 출력"),
    "--quiet": ("no progress, no messages", "진행 상황과 안내를 출력하지 않음"),
}


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


def _parser(language: Language) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gieok", description=_told("", language))
    parser.set_defaults(language=language, profile=None, home=None, json=False, quiet=False)
    _add_words(parser, _EVERYWHERE, language)
    groups = {"": parser.add_subparsers(metavar="VERB", required=True)}
    for path, (run, words) in _VERBS.items():
        group, _, name = path.rpartition(" ")
        if group not in groups:
            above = groups[""].add_parser(group, help=_told(group, language), description=_told(group, language))
            groups[group] = above.add_subparsers(metavar="VERB", required=True)
        verb = groups[group].add_parser(name, help=_told(name, language), description=_told(name, language))
        verb.set_defaults(run=run)
        _add_words(verb, (*words, *_EVERYWHERE), language)
    return parser


def _add_words(parser: argparse.ArgumentParser, words: Sequence[str], language: Language) -> None:
    for word in words:
        if word in _OPTIONS:
            parser.add_argument(word, help=_told(word, language), **_OPTIONS[word])
        else:
            told = _told(word, language) if word in _HELP else None  # of the rest, the verb says enough
            parser.add_argument(word.rstrip("+*?"), nargs={"+": "+", "*": "*", "?": "?"}.get(word[-1]), help=told)


def _told(name: str, language: Language) -> str:
    return _HELP[name][language == "ko"]


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
_EVERYWHERE = ("--profile", "--home", "--json", "--quiet")  # before the verb or behind it
_OPTIONS: dict[str, dict[str, Any]] = {
    "--profile": {"default": argparse.SUPPRESS},
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
