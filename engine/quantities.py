"""Times and weights as people write them in models.toml → numbers."""

from __future__ import annotations

import math
import re


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
