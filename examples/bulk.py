"""Finds memories in a folder of chat logs: python examples/bulk.py LOGS memories.jsonl --profile starter --me 민지
LOGS holds, in subfolders too, files in UTF-8: .json, a list of {"role": "user" or "assistant", "content": …}, and .txt,
lines of "이름: 말", of which those of --me are the user's; a line without a name goes on with the one before it. Days
such as 어제 count from a turn's "at", else from the date in the file's name (2026-03-05), else from its last change.

The output gets one line a log: {"log": its path below LOGS, "memories": {"facts": […], "preferences": […], …}}. After a
Ctrl-C or a kill the same command goes on: a log in the output is not read again. One that cannot be used is named with
the reason and tried again next time; the exit status is then 1. / 멈춘 뒤 다시 실행하면 이어서 합니다.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from engine import ContextOverflow, Engine, EngineError, ExtractedMemory, InvalidInput

KINDS = {".json", ".txt"}
BEGIN = b'{"log": '  # of each line of the output
Dialogue = list[dict[str, Any]]


def read(path: Path, me: str) -> Dialogue:
    """Return the dialogue of a log. Raises `ValueError` or `OSError` where it cannot be used."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 / UTF-8이 아닙니다: iconv -f cp949 -t utf-8") from None
    dialogue = json.loads(text) if path.suffix == ".json" else spoken(text, me)
    if not (isinstance(dialogue, list) and all(isinstance(turn, dict) for turn in dialogue)):
        raise ValueError('it is not a list of {"role", "content"}')
    day = re.search(r"(19|20)\d\d-[01]\d-[0-3]\d", path.name) or [date.fromtimestamp(path.stat().st_mtime)]
    return [{**turn, "at": turn.get("at") or day[0]} for turn in dialogue]


def spoken(text: str, me: str) -> Dialogue:
    turns: Dialogue = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if said := re.match(r"([^:]{1,20}): +(.+)", line):
            turns.append({"role": "user" if said[1] == me else "assistant", "name": said[1], "content": said[2]})
        elif turns:
            turns[-1]["content"] += f"\n{line}"
    if not any(turn["role"] == "user" for turn in turns):
        raise ValueError(f'no line begins with "{me}: "; --me says who the user is')
    return turns


def finished(output: Path) -> set[str]:
    """Return the logs in the output, after a line is cut off that a kill left without its end."""
    whole, logs = 0, set()
    with output.open("a+b") as file:
        file.seek(0)
        for line in file:
            if line[: len(BEGIN)] != BEGIN[: len(line)]:
                sys.exit(f"{output} holds what this script did not write: name another / 다른 출력 파일을 쓰세요")
            if line.endswith(b"\n"):
                logs.add(json.loads(line)["log"])
                whole += len(line)
        file.truncate(whole)
    return logs


def extract(engine: Engine, arguments: argparse.Namespace, bar: Progress) -> int:
    """Write what is found in the logs that are not finished; return how many cannot be used."""
    folder = arguments.logs.resolve(strict=True)  # raises where there is none: `rglob` would find nothing
    done, reasons = finished(arguments.output), dict[str, Exception]()
    logs = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in KINDS)
    left = [log for log in logs if log not in done]
    task = bar.add_task("기억 찾기", total=len(logs), completed=len(logs) - len(left))

    def dialogues() -> Iterator[Dialogue]:
        for log in left:
            try:
                dialogue = read(folder / log, arguments.me)
            except (OSError, ValueError, RecursionError) as error:
                reasons[log], dialogue = error, []  # which the engine refuses
            yield dialogue

    with arguments.output.open("a", encoding="utf-8", newline="\n") as file:
        for log, found in zip(left, engine.extract_memories(dialogues()), strict=True):
            if isinstance(found, ExtractedMemory):
                file.write(json.dumps({"log": log, "memories": found.to_dict()}, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            elif isinstance(found, InvalidInput | ContextOverflow):
                reason = f"{log}: {reasons.setdefault(log, found)}"
                bar.console.print(reason, markup=False, highlight=False, soft_wrap=True)
            else:  # not this log's fault
                raise found
            bar.advance(task)
    return len(reasons)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, help="a folder / 대화 기록 폴더")
    parser.add_argument("output", type=Path, help="no .json or .txt in that folder / 결과 파일 (.jsonl)")
    parser.add_argument("--me", default="나", help="who the user is in .txt logs / .txt에서 사용자의 이름 (나)")
    parser.add_argument("--profile", help="default: $GIEOK_PROFILE / 모델 구성")
    arguments = parser.parse_args()
    try:
        with Engine(profile=arguments.profile) as engine, Progress(console=Console(stderr=True)) as bar:
            return 1 if extract(engine, arguments, bar) else 0
    except (EngineError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
