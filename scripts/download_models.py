#!/usr/bin/env python3
"""Fetch models for Gieok with nothing but this repository: `gieok models pull`.

usage: python3 scripts/download_models.py [ROLE|MODEL|PROFILE ...] [--dest DIR] [--from DIR]
                                          [--dry-run] [--json] [--quiet] [--profile PROFILE]

  ROLE|MODEL|PROFILE  such as chat, qwen2.5:7b or commercial; without any, the models of the default profile
  --dest DIR          the models folder to fill, such as a USB stick
  --from DIR          take the files from a folder, verified like a download, in place of the network
  --dry-run           only show files, sizes, licences, disk and memory
  --json              print one JSON value
  --quiet             no progress, no messages

Any Python will do that has the few packages this needs; where it has not, .venv of this folder is used, which
scripts/dev.py makes. What was cut off goes on where it was when the same command is run again.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
MIN_PYTHON = (3, 11)
NEEDED = ("filelock", "huggingface_hub", "platformdirs", "pydantic", "rich")
CONVERTER = "torch"  # turns the pickles of some models into safetensors; the others do without it


def tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def requirements() -> list[str]:
    """The lines of pyproject.toml for what a download needs, such as `rich>=15.0`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = re.findall(r'^ +"([\w.-]+)(>=[\d.]+)",$', text, re.MULTILINE)
    return [name + bound for name, bound in lines if name.replace("-", "_") in NEEDED]


def lacking() -> list[str]:
    """The requirements that this Python does not meet."""
    return [line for line in requirements() if not is_met(*line.split(">="))]


def is_met(name: str, least: str) -> bool:
    try:
        there = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return numbers(there) >= numbers(least)


def numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def is_venv() -> bool:
    return Path(sys.prefix).resolve() == VENV.resolve()


def hand_over(arguments: list[str]) -> int:
    """Run this script in .venv's Python in place of this one, with its terminal and signals."""
    command = [str(PYTHON), str(Path(__file__).resolve()), *arguments]
    if os.name != "nt":
        sys.stdout.flush()
        os.execv(command[0], command)
    child = subprocess.Popen(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the console sends it to both, and the child has something to say
    return child.wait()


def install(missing: list[str]) -> str:
    """The command for any shell: cmd.exe quotes with "…" only, and PowerShell does not run what is quoted."""
    python = f'"{sys.executable}"' if re.search(r"[\s&()]", sys.executable) else sys.executable
    return " ".join([python, "-m pip install", *(f'"{line}"' for line in missing)])


def refuse(missing: list[str]) -> int:
    tell("This needs a few packages that are not here. Either set Gieok up, which also runs its demo:")
    tell("    python3 scripts/dev.py demo")
    if sys.version_info >= MIN_PYTHON:
        tell("or install what downloads need, and run the same command again:")
        tell("    " + install(missing))
    else:
        tell("or run this script with Python 3.11 or newer that has them.")
    return 1


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    missing = lacking() if sys.version_info >= MIN_PYTHON else requirements()
    better = PYTHON.exists() and not is_venv()
    if better and (missing or importlib.util.find_spec(CONVERTER) is None):
        return hand_over(arguments)
    if missing:
        return refuse(missing)
    sys.path.insert(0, str(ROOT))
    from engine.cli import main as gieok

    return gieok(["models", "pull", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # before the engine could say so
        tell("gieok: interrupted")
        sys.exit(130)
