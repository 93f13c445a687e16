"""Where in a valid TOML text a key is set: tomllib keeps no positions, so each statement is parsed alone."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """Return the line that sets `path`, else that of the nearest table around it, else None."""
    best, depth = None, min(1, len(path) - 1)  # [models.a] says nothing about [models.b]
    table: tuple[str, ...] = ()
    for line, is_header, statement in _statements(text):
        if is_header:
            table, found = _inmost(statement), _reaches(statement, path)
        elif path[: len(table)] == table:
            found = len(table) + _reaches(statement, path[len(table) :])
        else:
            continue
        if found > depth:
            best, depth = line, found
    return best


def _statements(text: str) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    """Yield each header and setting with its first line; one of several lines parses at its last."""
    begun, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        begun += line + "\n"
        try:
            statement = tomllib.loads(begun)
        except tomllib.TOMLDecodeError:
            continue
        yield first, begun.lstrip().startswith("["), statement
        begun, first = "", number + 1


def _inmost(header: Any) -> tuple[str, ...]:
    """Return the path of the table that a parsed header opens."""
    path: tuple[str, ...] = ()
    while isinstance(header, dict) and header:
        [(key, header)] = header.items()
        path = (*path, key)
    return path


def _reaches(statement: Any, path: tuple[str, ...]) -> int:
    """Return how many parts of `path` a parsed statement sets."""
    for depth, key in enumerate(path):
        if not isinstance(statement, dict) or key not in statement:
            return depth
        statement = statement[key]
    return len(path)
