"""What `gieok --help` says, in English and in Korean, within 80 columns, of which a Korean letter takes two."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable
from functools import partial
from typing import Any, NoReturn

from engine.instructions import Language

_COLUMNS = 80
_INDENT = 19  # columns before what is told of a verb, an option or a variable

VERBS: dict[str, tuple[str, str]] = {
    "": (
        "the brain of an offline assistant: chat, memory, search, with no network",
        "오프라인 한국어 비서의 두뇌: 네트워크 없이 대화하고 기억하고 찾습니다",
    ),
    "chat": ("talk, with memories; /help tells more", "기억하며 대화합니다. /도움 에 더 있습니다"),
    "ask": ("answer one message, streamed", "한 마디에 답합니다"),
    "extract": ("find what is worth remembering in a dialogue", "대화에서 기억할 것을 찾습니다"),
    "classify": ("say which of eight categories each text belongs to", "글이 여덟 분류 가운데 무엇인지 답합니다"),
    "summarize": ("summarise a text or a dialogue", "글이나 대화를 요약합니다"),
    "embed": ("print the vector of each text", "글의 벡터를 출력합니다"),
    "remember": ("store a memory, and print its id", "기억을 저장하고 id를 출력합니다"),
    "search": ("find memories by meaning", "뜻으로 기억을 찾습니다"),
    "status": ("what is loaded, and what a load would take", "올라온 모델과 쓰는 메모리, 올릴 때 드는 메모리"),
    "doctor": ("check this machine: what to mend, which profiles run here", "컴퓨터 점검: 고칠 것과 돌아가는 프로필"),
    "demo": ("the main job on the starter models, with the network shut", "작은 모델로 보는 시연. 네트워크는 막습니다"),
    "memory": (
        "list, show, correct, forget, export or import memories",
        "기억을 보고, 고치고, 지우고, 내보내고, 가져옵니다",
    ),
    "memory list": ("all memories of a user", "한 사용자의 기억을 모두 보여 줍니다"),
    "memory show": ("one memory", "기억 하나를 보여 줍니다"),
    "memory history": ("what was so before a memory, and after", "그 기억의 예전과 나중"),
    "memory edit": ("correct the text of a memory", "기억의 글을 고칩니다"),
    "memory forget": ("remove a memory for good", "기억을 완전히 지웁니다"),
    "memory export": ("write memories to a file of JSON Lines", "기억을 JSON Lines 파일로 내보냅니다"),
    "memory import": ("take memories from such a file; twice is once", "그 파일의 기억을 가져옵니다. 두 번 해도 한 번"),
    "memory backup": ("copy the database, also while it is used", "쓰는 중에도 데이터베이스를 복사합니다"),
    "models": ("list, plan, download, verify or remove models", "모델을 보고, 내려받고, 확인하고, 지웁니다"),
    "models list": (
        "all models: size, RAM, context, Korean, licence",
        "모든 모델: 크기, 메모리, 문맥, 한국어, 라이선스",
    ),
    "models plan": (
        "what profiles, roles or models need, before a download",
        "내려받기 전에 필요한 용량과 메모리를 봅니다",
    ),
    "models pull": (
        "download profiles, roles or models; without a name, the profile in use",
        "프로필, 역할 또는 모델을 내려받습니다. 이름이 없으면 쓰는 프로필",
    ),
    "models verify": (
        "hash the files anew; a damaged one is put aside, and the exit status is 1",
        "파일을 다시 확인합니다. 손상된 것은 치워 두고 종료 코드는 1",
    ),
    "models remove": ("delete the files of models", "모델 파일을 지웁니다"),
    "models import": (
        "take from a file or folder what is not here yet, checked",
        "파일이나 폴더에서 없는 것을 확인하며 가져옵니다",
    ),
}  # fmt: skip

# Of an argument or option; "VERB NAME" where a verb means something else by it than the others do.
WORDS: dict[str, tuple[str, str]] = {
    "--help": ("this page", "이 도움말"),
    "--profile": ("a profile of models.toml (default: default)", "models.toml의 프로필 (기본값: default)"),
    "--home": ("the folder of memories", "기억을 두는 폴더"),
    "--json": ("print one JSON value", "JSON 값 하나로 출력"),
    "--quiet": ("no progress, no messages", "진행 상황과 안내를 출력하지 않음"),
    "--session": ("which conversation goes on; its name", "이어 갈 대화의 이름"),
    "--system": ("what stands in for the usual instruction", "평소의 지시 대신 쓸 말"),
    "--memory": (
        "auto: told and searched for memories; read: only told; off: neither",
        "auto: 기억을 쓰고 찾아 둠, read: 쓰기만 함, off: 둘 다 안 함",
    ),
    "text": ("the message", "할 말"),
    "text+": ("one text or more", "글 하나 또는 여럿"),
    "remember text": ("what to remember, kept word for word", "기억할 글. 그대로 간직합니다"),
    "memory edit text": ("what stands in its place", "대신할 글"),
    "file": (
        "a file in UTF-8, - for standard input: a text, or a JSON list of {role, content, at}",
        "UTF-8 파일, -는 표준 입력: 글, 또는 {role, content, at}의 JSON 목록",
    ),
    "query": ("what is looked for, such as a question", "찾는 것 (예: 질문)"),
    "id": ("the id, as memory list and search print it", "memory list와 search가 출력하는 id"),
    "path": ("a file or folder", "파일 또는 폴더"),
    "memory export path": ("the file to write", "쓸 파일"),
    "memory import path": ("the file to read", "읽을 파일"),
    "path?": ("a file; else one in the folder of memories", "파일. 없으면 기억 폴더 안"),
    "names*": ("such as chat, commercial or qwen2.5:7b", "예: chat, commercial, qwen2.5:7b"),
    "names+": ("models, such as qwen2.5:7b", "모델 이름 (예: qwen2.5:7b)"),
    "name?": ("the model it is; else all that are found", "모델 이름. 없으면 찾은 모델 모두"),
    "--user": (
        "whose memories (default: default)",
        "누구의 기억인지 (기본값: default)",
    ),
    "--category": (
        "personal, preference, experience, knowledge, relationship, goal, health or work",
        "personal, preference, experience, knowledge, relationship, goal, health, work 가운데 하나",
    ),
    "--when": ("when it happens or happened, such as 2026-03-05", "언제 일인지 (예: 2026-03-05)"),
    "--source": ("who or what it comes from", "어디에서 나온 말인지"),
    "--no-judge": ("compare it with no older memory", "예전 기억과 견주지 않음"),
    "-k": ("how many at most", "몇 개까지"),
    "--since": ("from this day on, such as 2026-03-05", "이날부터 (예: 2026-03-05)"),
    "--until": ("up to this day", "이날까지"),
    "--min-score": ("only what scores so much, from 0 to 1", "점수가 이 이상인 것만 (0~1)"),
    "--explain": ("show what a score is made of", "점수를 이루는 값도 출력"),
    "--superseded": ("also what is no longer so", "지금은 아닌 예전 기억도"),
    "--history": ("also what was so before, and after", "예전과 나중 기억도"),
    "--prove": (
        "search every file for it, before and after; the exit status is 1 if a trace is left",
        "지우기 전과 뒤에 모든 파일을 뒤져 확인. 흔적이 남으면 종료 코드 1",
    ),
    "--vectors": ("vectors too, so that an import need not make them", "가져올 때 다시 만들지 않도록 벡터도"),
    "--speed": ("measure what a user waits for; takes a minute", "사용자가 기다리는 시간을 측정 (1분쯤)"),
    "--retune": ("measure again: all chat models, or one", "다시 측정: 모든 대화 모델 또는 하나"),
    "--dest": ("the models folder to use", "쓸 모델 폴더"),
    "--from": ("take the files from a folder, such as a USB stick", "폴더(USB 등)에서 파일을 가져옵니다"),
    "--dry-run": ("only show what would be fetched", "내려받지 않고 보여 주기만 합니다"),
}

_STATUSES: dict[str, tuple[str, str]] = {
    "0": ("all went well", "잘됐음"),
    "1": ("it failed; standard error says why, and what to do", "실패. 까닭과 할 일은 표준 오류에 있습니다"),
    "2": ("the command was not understood", "명령을 알아듣지 못함"),
    "130": ("interrupted, as by Ctrl-C", "Ctrl-C 등으로 멈춤"),
}
_VARIABLES: dict[str, tuple[str, str]] = {
    "GIEOK_PROFILE": ("the profile, where --profile names none", "--profile이 없을 때의 프로필"),
    "GIEOK_HOME": ("the folder of memories, where --home names none", "--home이 없을 때 기억을 두는 폴더"),
    "GIEOK_MODELS": ("the models folder", "모델 폴더"),
    "GIEOK_CONFIG": ("a models.toml of yours, laid over ours", "기본 models.toml 위에 얹을 내 설정 파일"),
    "GIEOK_PYTHON": (
        "a Python that has Gieok, for the children of a frozen application",
        "얼린 프로그램(PyInstaller)이 자식 프로세스에 쓸, Gieok이 있는 Python",
    ),
    "HF_TOKEN": ("token for models that ask for consent", "동의가 필요한 모델의 토큰"),
    "HF_ENDPOINT": ("a mirror of the model hub; it is given the token", "모델 허브의 미러. 토큰도 그리로 갑니다"),
    "HF_HUB_OFFLINE": ("1: download nothing", "1이면 내려받지 않음"),
    "NO_COLOR": ("any value: no colours", "값이 있으면 색을 쓰지 않음"),
    "LC_ALL, LANG": ("ko: help and messages in Korean; else in English", "ko면 한국어, 아니면 영어로 안내"),
}
_EXAMPLES = (
    "gieok models pull default",
    'gieok remember "저는 땅콩 알레르기가 있어요"',
    'gieok search "못 먹는 음식이 뭐지?" -k 3',
    "gieok chat --session diary",
    "gieok extract talk.json --json > memories.json",
    "gieok --profile starter --quiet ask \"Say hello.\"",
    "gieok memory forget --prove ID",
)  # fmt: skip
_TITLES: dict[str, tuple[str, str]] = {
    "usage": ("usage: ", "사용법: "),
    "verbs": ("verbs (gieok VERB --help tells more)", "하는 일 (자세한 것은 gieok VERB --help)"),
    "arguments": ("arguments", "인자"),
    "options": ("options", "옵션"),
    "everywhere": ("options of every verb, before or behind it", "어느 일에나 쓰는 옵션 (앞이나 뒤에)"),
    "statuses": ("exit status", "종료 코드"),
    "variables": ("environment variables", "환경 변수"),
    "examples": ("examples", "보기"),
    "error": ("error", "오류"),
}
# What argparse says of a wrong command, in whose words the user typed; the rest stays as it is.
_WRONG = (
    (r"the following arguments are required: (.+)", r"빠진 인자: \1"),
    (r"unrecognized arguments: (.+)", r"모르는 인자: \1"),
    (r"argument (\S+): expected .*", r"\1: 값이 있어야 합니다"),
    (r"argument (\S+): invalid choice: (.+) \(choose from (.+)\)", r"\1: \2는(은) 없습니다. 고를 수 있는 것: \3"),
    (r"argument (\S+): invalid \w+ value: (.+)", r"\1: \2는(은) 알맞은 값이 아닙니다"),
    (r"argument (\S+): ignored explicit argument (.+)", r"\1: 값을 받지 않습니다: \2"),
    (r"ambiguous option: (\S+) could match (.+)", r"\1는(은) 여럿일 수 있습니다: \2"),
)


class Manual(argparse.ArgumentParser):
    """A parser whose help and errors are in one language; "" is the path of the command itself."""

    def __init__(self, path: str = "", *, language: Language, prog: str = "gieok", color: object = None) -> None:
        # Python 3.14 hands `color` down to verbs; what it chooses by itself is the same
        self.path, self.language = path, language
        told, page = VERBS[path][language == "ko"], partial(_Page, language=language)
        super().__init__(prog, description=told, add_help=False, formatter_class=page)
        self._sections: dict[str, Any] = {}

    def verbs(self) -> Any:
        """Return what verbs are added to; the command itself shows all of them in `format_help`."""
        title = _title("verbs", self.language)
        shown = None if self.path else argparse.SUPPRESS
        return self.add_subparsers(title=title, metavar="VERB", required=True, prog=self.prog, help=shown)

    def word(self, name: str, section: str, settings: dict[str, Any]) -> None:
        """Add an argument or option with what `WORDS` tells of it, under the title of a section."""
        told = WORDS.get(f"{self.path} {name}") or WORDS[name]
        if section not in self._sections:
            self._sections[section] = self.add_argument_group(_title(section, self.language))
        names = ("-h", name) if name == "--help" else (name.rstrip("+*?"),)
        self._sections[section].add_argument(*names, help=told[self.language == "ko"], **settings)

    def format_help(self) -> str:
        """Return the page of a verb; that of the command itself has everything that all verbs share."""
        if self.path:
            return super().format_help()
        korean = self.language == "ko"
        told = {name: words[korean] for name, words in VERBS.items() if name not in ("", "memory", "models")}
        tables = {"verbs": told, "everywhere": self._options()}
        tables |= {"statuses": _pick(_STATUSES, korean), "variables": _pick(_VARIABLES, korean)}
        parts = [self.format_usage().rstrip(), VERBS[""][korean]]
        parts += [f"{_title(name, self.language)}:\n{_table(rows.items())}" for name, rows in tables.items()]
        parts += ["\n  ".join([f"{_title('examples', self.language)}:", *_EXAMPLES])]
        return "\n\n".join(parts) + "\n"

    def format_usage(self) -> str:
        """Return the line that says how the command is called; argparse leaves out the verb, whose table is ours."""
        told = super().format_usage()
        return told if self.path else f"{told.rstrip()} VERB ...\n"

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong on stderr, and exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {_title('error', self.language)}: {_wrong(message, self.language)}\n")

    def _options(self) -> dict[str, str]:
        told = {}
        for action in self._actions:
            if action.option_strings:
                names = " ".join(filter(None, [", ".join(action.option_strings), action.metavar]))  # type: ignore[list-item]
                told[names] = action.help or ""
        return told


class _Page(argparse.HelpFormatter):
    """Breaks lines where they are full on a terminal, where a Korean letter is two columns wide."""

    def __init__(self, prog: str, language: Language = "en") -> None:
        width = min(_COLUMNS, shutil.get_terminal_size().columns) - 4  # the Korean word for usage is wide
        super().__init__(prog, max_help_position=_INDENT + 5, width=width)
        self._language = language

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        """Add the usage, in the user's language."""
        super().add_usage(usage, actions, groups, _title("usage", self._language) if prefix is None else prefix)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in wrapped(text, width))


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def wrapped(text: str, columns: int) -> list[str]:
    """Return the lines of a text, broken at blanks; a word that is longer than a line stays whole."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(lines[-1]) + 1 + width(word) <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines: list[str] = []
    for name, told in rows:
        first, *rest = wrapped(told, _COLUMNS - _INDENT - 2)
        head = f"  {name:<{_INDENT - 2}}"
        lines += [head + first] if len(head) <= _INDENT else [head, " " * _INDENT + first]
        lines += [" " * _INDENT + line for line in rest]
    return "\n".join(lines)


def _pick(table: dict[str, tuple[str, str]], korean: bool) -> dict[str, str]:
    return {name: words[korean] for name, words in table.items()}


def _title(name: str, language: Language) -> str:
    return _TITLES[name][language == "ko"]


def _wrong(message: str, language: Language) -> str:
    if language == "ko":
        for english, korean in _WRONG:
            if re.fullmatch(english, message):
                return re.sub(english, korean, message)
    return message
