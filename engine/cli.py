"""The `gieok` command. Data goes to stdout, everything else to stderr; it uses the facade only."""

from __future__ import annotations

import argparse
import errno
import json
import locale
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine import Engine, EngineError, InvalidInput, Progress
from engine.inputs import check_dialogue
from engine.instructions import Language

_HELP: dict[str, tuple[str, str]] = {
    "": ("offline, Korean-first assistant brain", "오프라인 한국어 비서의 두뇌"),
    "ask": ("answer one message, streamed", "한 마디에 답합니다"),
    "extract": ("find what is worth remembering in a dialogue", "대화에서 기억할 것을 찾습니다"),
    "classify": ("say which category each text belongs to", "글을 분류합니다"),
    "summarize": ("summarise a text or a dialogue", "글이나 대화를 요약합니다"),
    "embed": ("print the vector of each text", "글의 벡터를 출력합니다"),
    "remember": ("store a memory", "기억을 저장합니다"),
    "search": ("find memories by meaning", "뜻으로 기억을 찾습니다"),
    "memory": ("list, show or forget memories", "기억을 보거나 지웁니다"),
    "list": ("all of them", "모두 보여 줍니다"),
    "show": ("one memory", "하나를 보여 줍니다"),
    "forget": ("remove a memory for good", "기억을 완전히 지웁니다"),
    "models": ("list or download models", "모델을 보거나 내려받습니다"),
    "pull": ("download a profile, role or model", "프로필, 역할 또는 모델을 내려받습니다"),
    "status": ("what is loaded, and where data lives", "올라온 모델과 자료의 위치"),
    "doctor": ("what this machine is, and how models run on it", "이 컴퓨터와 모델의 실행 설정"),
    "demo": ("the main job on the starter models", "작은 모델로 보는 시연"),
    "-k": ("how many at most", "몇 개까지"),
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
            arguments = _parser(language).parse_args(argv)
            return int(arguments.run(arguments) or 0)
        finally:
            print(end="", flush=True)  # meets a closed pipe here, not when Python exits
    except EngineError as error:
        return _failed(str(error))
    except OSError as error:
        return 0 if _reader_left(error) else _failed(str(error))
    except KeyboardInterrupt:
        print({"en": "gieok: interrupted", "ko": "gieok: 멈췄습니다"}[language], file=sys.stderr)
        return 130


def _failed(reason: str) -> int:
    print("gieok:", " ".join(reason.splitlines()), file=sys.stderr)
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
    def told(name: str) -> str:
        return _HELP[name][language == "ko"]

    parser = argparse.ArgumentParser("gieok", description=told(""))
    parser.set_defaults(language=language)
    parser.add_argument("--profile", help=told("--profile"))
    parser.add_argument("--home", help=told("--home"))
    parser.add_argument("--json", action="store_true", help=told("--json"))
    parser.add_argument("--quiet", action="store_true", help=told("--quiet"))
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, run: Callable[[Any], int | None], *words: str, under: Any = verbs) -> Any:
        found = under.add_parser(name, help=told(name), description=told(name))
        found.set_defaults(run=run)
        for word in words:
            found.add_argument(word.rstrip("*?"), nargs={"*": "+", "?": "?"}.get(word[-1]))
        return found

    verb("ask", _ask, "text")
    verb("extract", _extract, "file")
    verb("classify", _classify, "text*")
    verb("summarize", _summarize, "file")
    verb("embed", _embed, "text*")
    verb("remember", _remember, "text")
    verb("search", _search, "query").add_argument("-k", type=int, help=told("-k"))
    verb("status", _status)
    retune = verb("doctor", _doctor)
    retune.add_argument("--retune", nargs="?", const=True, default=False, metavar="MODEL", help=told("--retune"))
    verb("demo", _demo)
    for name, below in (("memory", _MEMORY), ("models", _MODELS)):
        parent = verbs.add_parser(name, help=told(name), description=told(name))
        group = parent.add_subparsers(metavar="VERB", required=True)
        for child, (run, words) in below.items():
            verb(child, run, *words, under=group)
    return parser


@contextmanager
def _open(arguments: argparse.Namespace) -> Iterator[Engine]:
    meter = Meter()
    progress = None if arguments.quiet else meter
    try:
        with Engine(profile=arguments.profile, home=arguments.home, progress=progress) as engine:
            yield engine
    finally:
        meter.end()


def _show(arguments: argparse.Namespace, value: Any, lines: Sequence[str]) -> None:
    if arguments.json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        print("\n".join(lines), end="\n" if lines else "")


def _ask(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine, engine.stream(arguments.text) as stream:
        if not arguments.json:
            for piece in stream:
                print(piece, end="", flush=True)
            print()
        else:
            _show(arguments, stream.reply.to_dict(), [])


def _extract(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        found = engine.extract_memory(_read_dialogue(arguments.file))
    lines = [f"{kind}\t{item.when or ''}\t{item.quote}" for kind, item in found.items()]
    _show(arguments, found.to_dict(), lines)


def _classify(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        found = engine.classify(arguments.text)
    lines = [f"{one.label}\t{one.confidence:.2f}\t{text}" for one, text in zip(found, arguments.text, strict=True)]
    _show(arguments, [one.to_dict() for one in found], lines)


def _summarize(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        summary = engine.summarize(_read_dialogue(arguments.file))
    _show(arguments, summary.to_dict(), [summary.text])


def _embed(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        vectors = engine.embed(arguments.text).to_dict()
    _show(arguments, vectors, [" ".join(f"{x:.6f}" for x in row) for row in vectors["dense"]])


def _remember(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        memories = engine.remember(arguments.text)
    _show(arguments, [memory.to_dict() for memory in memories], [memory.id for memory in memories])


def _search(arguments: argparse.Namespace) -> None:
    asked = {} if arguments.k is None else {"k": arguments.k}
    with _open(arguments) as engine:
        hits = engine.search(arguments.query, **asked)
    lines = [f"{hit.score:.3f}\t{hit.memory.id}\t{hit.memory.text}" for hit in hits]
    _show(arguments, [hit.to_dict() for hit in hits], lines)


def _memory_list(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        memories = engine.memories()
    lines = [f"{memory.id}\t{memory.created:%Y-%m-%d}\t{memory.text}" for memory in memories]
    _show(arguments, [memory.to_dict() for memory in memories], lines)


def _memory_show(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        fields = engine.memory(arguments.id).to_dict()
    _show(arguments, fields, [f"{name}\t{'' if value is None else value}" for name, value in fields.items()])


def _memory_forget(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        engine.forget(arguments.id)
    _show(arguments, {"forgotten": arguments.id}, [])


def _models_list(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        entries = engine.catalogue()
    lines = [
        f"{'✓' if one['installed'] else ' '} {one['name']:26} {_gigabytes(one['size']):>7}  {one['license'] or '?'}"
        + (f"  ({one['note']})" if one["note"] else "")
        for one in entries
    ]
    _show(arguments, entries, lines)


def _gigabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e9:.1f} GB"


def _models_pull(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        paths = [str(path) for path in engine.pull(arguments.name)]
    _show(arguments, paths, paths)


def _status(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        fields = engine.status().to_dict()
    _show(arguments, fields, [f"{name}\t{value}" for name, value in fields.items()])


def _doctor(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        found = engine.doctor(retune=arguments.retune)
    facts = {**found, "ram": _gigabytes(found["ram"]), **found["versions"]}
    lines = [f"{name}\t{value}" for name, value in facts.items() if name not in ("versions", "models")]
    _show(arguments, found, [*lines, *map(_doctor_line, found["models"])])


def _doctor_line(model: dict[str, Any]) -> str:
    if not model["installed"]:
        state = "not installed"
    elif model["kind"] != "llm":
        state = "installed"
    elif model["tuning"] is None:
        state = "not measured yet: measured at first load"
    else:
        state = _tuning(model["tuning"])
    return f"{model['name']}\t{', '.join(model['roles'])}\t{state}"


def _tuning(chosen: dict[str, Any]) -> str:
    speeds = {name: "?" if speed is None else speed for name, speed in chosen["tokens_per_second"].items()}
    return (
        f"threads {chosen['n_threads']}, for batches {chosen['n_threads_batch']}; "
        f"{'' if chosen['repack'] else 'not '}repacked; micro-batch {chosen['n_ubatch']}; tokens/s: "
        f"prefill {speeds['prefill']} ({speeds['prefill_busy']} beside a busy host), "
        f"decode {speeds['decode']} ({speeds['decode_busy']})"
    )


def _demo(arguments: argparse.Namespace) -> int:
    from engine.demo import run

    return run(arguments.language)


_MEMORY: dict[str, tuple[Callable[[Any], int | None], tuple[str, ...]]] = {
    "list": (_memory_list, ()),
    "show": (_memory_show, ("id",)),
    "forget": (_memory_forget, ("id",)),
}
_MODELS: dict[str, tuple[Callable[[Any], int | None], tuple[str, ...]]] = {
    "list": (_models_list, ()),
    "pull": (_models_pull, ("name",)),
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


_TERMINAL_SECONDS, _FILE_SECONDS = 0.1, 10.0  # between two lines of progress


class Meter:
    """Progress on stderr: one line that is overwritten on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._said = float("-inf")
        self._width = 0

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        began = self._began.setdefault(event.task, now)
        ended = bool(event.total) and event.done >= event.total
        terminal = sys.stderr.isatty()
        quiet = now - self._said < _TERMINAL_SECONDS if terminal else now - max(self._said, began) < _FILE_SECONDS
        if quiet and not (terminal and ended):
            return
        self._said = now
        line = f"{event.task}: {_amount(event)} · {now - began:.0f} s"
        end = "\n" if ended or not terminal else ""
        print(("\r" if terminal else "") + line.ljust(self._width), end=end, file=sys.stderr, flush=True)
        self._width = 0 if end else len(line)

    def end(self) -> None:
        """End a line that waits to be overwritten, so that what follows has its own."""
        if self._width:
            print(file=sys.stderr)
            self._width = 0


def _amount(event: Progress) -> str:
    if event.unit == "bytes":
        return f"{event.done / 1e6:.0f} / {event.total / 1e6:.0f} MB" if event.total else f"{event.done / 1e6:.0f} MB"
    return f"{event.done} / {event.total} {event.unit}" if event.total else f"{event.done} {event.unit}"
