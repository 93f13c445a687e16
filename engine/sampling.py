"""How the next token is drawn: what a caller may ask for, checked. Defaults are in models.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from engine.errors import InvalidInput


class Sampling(TypedDict, total=False):
    """The sampling keywords of `Engine.chat` and `Engine.stream`."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    max_tokens: int
    stop: str | Sequence[str]
    seed: int


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Checked sampling; temperature 0 is greedy, seed None is random. Raises `InvalidInput`, `TypeError`."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in _RANGES:
            if name != "seed" or self.seed is not None:
                check_number(name, getattr(self, name))
        if not all(self.stop):
            raise InvalidInput("stop holds an empty string")


_RANGES: dict[str, tuple[float, float, bool]] = {  # lowest, highest, whole numbers only
    "temperature": (0, 10, False),
    "top_p": (0, 1, False),
    "top_k": (0, 2**31 - 1, True),
    "min_p": (0, 1, False),
    "repeat_penalty": (0.01, 10, False),
    "max_tokens": (1, 2**31 - 1, True),
    "seed": (0, 2**32 - 1, True),
}


def check_number(name: str, value: object) -> None:
    """Raise `TypeError` or `InvalidInput` unless `value` may be the sampling keyword `name`."""
    low, high, whole = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{name} must be {'an int' if whole else 'a number'}, not {type(value).__name__}")
    if not low <= value <= high:  # so asked, it refuses nan
        raise InvalidInput(f"{name} must be between {low} and {high}")


def resolve(defaults: Mapping[str, Any], asked: Mapping[str, Any]) -> SamplingParams:
    """Lay what a caller asked for over the defaults; an unknown keyword is a `TypeError`."""
    known = [field.name for field in fields(SamplingParams)]
    for name in asked:
        if name not in known:
            raise TypeError(f"{name!r} is not a sampling keyword; there are {', '.join(known)}")
    values = {**defaults, **asked}
    stop = values.get("stop", ())
    if not isinstance(stop, (str, Sequence)) or not all(isinstance(part, str) for part in stop):
        raise TypeError("stop must be a str or a list of str")
    return SamplingParams(**{**values, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})
