"""Sizes, times and weights as people write them in models.toml → numbers; and a size as people say it."""

from __future__ import annotations

import math
import re
from typing import Literal

LEAST_BUDGET = 100_000_000  # bytes: with less, not even the starter's chat model could be loaded
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{end}": step ** (power + 1)
    for end, step in (("b", 1000), ("ib", 1024))
    for power, letter in enumerate("kmgt")
}
_INT32 = 2**31 - 1  # llama.cpp would take a larger number for another one


def size(given: object) -> int:
    """Return bytes, from a number of them or a text such as "12GB", "1.5 GiB" or "300MB"."""
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    text = given.lower() if isinstance(given, str) else ""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?((?:[kmgt]i?)?b)|([0-9]{1,15})", text)
    if found is None:
        raise ValueError('must be a number of bytes, or a text such as "12GB"')
    return int(found[3]) if found[3] else round(float(found[1]) * _UNITS[found[2]])


def budget(given: object) -> int:
    """Return bytes of a memory budget, from what `size` takes; less than 100 MB is a slip of the pen."""
    found = size(given)
    if found < LEAST_BUDGET:
        raise ValueError(f'must be at least 100MB, in bytes or as a text such as "12GB"; {found} bytes are too few')
    return found


def bytes_text(size: int | None) -> str:
    """Return a number of bytes as people say it: "72 MB", "24.7 GB"; "?" where it is not known."""
    if size is None:
        return "?"
    if size >= 999_500_000:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 999_500 or not size else f"{size / 1e3:.0f} kB"


def cells(given: object) -> int | Literal["auto"]:
    """Return a number of KV cells, or "auto"."""
    return _auto_or(given, 256, "a whole number from 256")


def layers(given: object) -> int | Literal["auto"]:
    """Return a number of layers for the GPU, -1 for all of them, or "auto"."""
    return _auto_or(given, -1, "a whole number of layers (0 for none, -1 for all)")


def _auto_or(given: object, least: int, wanted: str) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    if isinstance(given, int) and not isinstance(given, bool) and least <= given <= _INT32:
        return given
    raise ValueError(f'must be "auto" or {wanted}')


def duration(time: object) -> float:
    """Return seconds, from a number of them or a text such as "30s", "10m", "2h" or "forever"."""
    if time == "forever":
        return math.inf
    if isinstance(time, int | float) and not isinstance(time, bool) and 0 <= time < math.inf:
        return float(time)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", time) if isinstance(time, str) else None
    if found is None:
        raise ValueError('must be a number of seconds, or a text such as "30s", "10m", "2h" or "forever"')
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def three_weights(given: object) -> tuple[float, ...]:
    """Return three numbers, none below 0 and not all 0."""
    numbers = given if isinstance(given, list | tuple) else ()
    plain = all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < math.inf for n in numbers)
    if len(numbers) != 3 or not plain or not any(numbers):
        raise ValueError("must be three numbers, none below 0 and not all 0")
    return tuple(map(float, numbers))
