"""What a soak borrows of the suite: its generators and its fakes, so that there is one of each."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).resolve().parents[1] / "tests"


def from_tests(name: str) -> ModuleType:
    """Import a module of the suite."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    return importlib.import_module(name)


@contextlib.contextmanager
def few_memories() -> Iterator[Path]:
    """Lend an empty folder, and meanwhile let a few memories be enough for an index."""
    from engine import shortlist

    usual, shortlist.FEW = shortlist.FEW, from_tests("memory_life").FEW
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        shortlist.FEW = usual
