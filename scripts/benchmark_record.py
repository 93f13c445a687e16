"""The file of a whole benchmark: what was measured, part by part, and where, when and with which versions.

    {"parts": {NAME: {"about": {...}, "interrupted": false, "rows": [ROW, ...]}, ...}}

A ROW is `runtime_table.Row.to_dict`, every value of it. Parts may be measured on different days; each says on which.
No name of a machine, of a folder or of a user is written.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from runtime_table import Row

from engine import tuning

PACKAGES = (
    "gieok", "llama-cpp-python", "llguidance", "torch", "openvino", "nncf", "sentence-transformers", "transformers",
    "faiss-cpu", "apsw", "kiwipiepy", "numpy",
)  # fmt: skip
NAME = "benchmark.json"
DIGITS = 6
_NUMBERS = re.compile(r"\[\s+(-?[\d.][-+.\de,\s]*?)\s+\]")


def about() -> dict[str, Any]:
    """Return what a figure means nothing without: the machine, the versions, the state of this code, the day."""
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "code": commit(),
        "machine": {
            "processor": tuning.processor(),
            "cores": os.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "system": system(),
        },
        "versions": {"python": platform.python_version(), **dict(versions())},
    }


def versions() -> Iterator[tuple[str, str]]:
    """Yield the version of each package that is installed."""
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def system() -> str:
    """Return the operating system; of its kernel only the numbers, the rest may name a machine."""
    numbers = re.match(r"[\d.]*\d", platform.release())
    return " ".join(filter(None, [platform.system(), numbers and numbers[0], platform.machine()]))


def commit() -> str:
    """Return the commit that this code is, with a + where something was changed since, or "" without git."""
    asked = "git", "-C", str(Path(__file__).parent)
    try:
        said = [
            subprocess.run([*asked, *words], capture_output=True, check=True, encoding="utf-8").stdout.strip()
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "../engine", "."))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said[0] + ("+" if said[1] else "")


def part(report: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Return a part for the file from what a benchmark reports; `told` is what else is to be said of it."""
    own = {name: value for name, value in report.items() if name not in {"rows", "interrupted", "machine", "versions"}}
    return {"about": {**about(), **told, **own}, "interrupted": report["interrupted"], "rows": report["rows"]}


def rows(record: Mapping[str, Any], name: str) -> list[Row]:
    """Return the rows of a part; none where it was not measured."""
    return [Row.from_dict(row) for row in record["parts"].get(name, {}).get("rows", ())]


def load(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing was measured where there is none. Raises `OSError`, `ValueError`."""
    if not path.exists():
        return {"parts": {}}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not isinstance(found.get("parts"), dict):
        raise ValueError(f"{path} is no file of `benchmark.py all`")
    return found


def save(record: dict[str, Any], path: Path) -> None:
    """Write a file whole or not at all. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(text(record), encoding="utf-8")
    new.replace(path)


def text(found: object) -> str:
    """Return JSON, with a list of numbers in one line and numbers to six digits."""
    told = json.dumps(_rounded(found), ensure_ascii=False, indent=1)
    return _NUMBERS.sub(lambda match: f"[{', '.join(match[1].replace(',', ' ').split())}]", told) + "\n"


def _rounded(found: object) -> object:
    if isinstance(found, dict):
        return {name: _rounded(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_rounded(value) for value in found]
    return float(f"{found:.{DIGITS}g}") if isinstance(found, float) else found
