"""How the next token is drawn: what a caller may ask for, checked. Defaults are in models.toml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from engine.errors import InvalidInput


class Sampling(TypedDict, total=False):
    """The sampling keywords of `Engine.chat` and `Engine.stream`.

    `temperature` 0 is greedy. `stop` texts end the answer and are no part of it. `logit_bias` is token id → what is
    added to its logit, from -100 to 100, or minus infinity to forbid it (but what a schema leaves no choice about).
    `han`: whether Han characters and kana may be written; left out or None, they may not where the conversation is
    Korean and nobody uses or asks for them.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    max_tokens: int
    stop: str | Sequence[str]
    seed: int
    logit_bias: Mapping[int, float]
    han: bool | None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Checked sampling; temperature 0 is greedy, seed None is random. Raises `InvalidInput`, `TypeError`.

    `logit_bias` is pairs of token id and what is added; of `han`, only False keeps Han and kana out.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    han: bool | None = None

    def __post_init__(self) -> None:
        for name in _RANGES:
            if name != "logit_bias" and (name != "seed" or self.seed is not None):
                check_number(name, getattr(self, name))
        if not all(self.stop):
            raise InvalidInput("stop holds an empty string")
        for token, bias in self.logit_bias:
            _check_bias(token, bias)
        if not (self.han is None or isinstance(self.han, bool)):
            raise TypeError(f"han must be a bool or None, not {type(self.han).__name__}")


_RANGES: dict[str, tuple[float, float, bool]] = {  # lowest, highest, whole numbers only
    "temperature": (0, 10, False),
    "top_p": (0, 1, False),
    "top_k": (0, 2**31 - 1, True),
    "min_p": (0, 1, False),
    "repeat_penalty": (0.01, 10, False),
    "max_tokens": (1, 2**31 - 1, True),
    "seed": (0, 2**32 - 1, True),
    "logit_bias": (-100, 100, False),  # of one token
}


def check_number(name: str, value: object) -> None:
    """Raise `TypeError` or `InvalidInput` unless `value` may be the sampling keyword `name`."""
    low, high, whole = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise TypeError(f"{name} must be {'an int' if whole else 'a number'}, not {type(value).__name__}")
    if not low <= value <= high:  # so asked, it refuses nan
        raise InvalidInput(f"{name} must be between {low} and {high}")


def _check_bias(token: object, bias: object) -> None:
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"logit_bias must name tokens by an int, not {type(token).__name__}")
    if token < 0:
        raise InvalidInput("logit_bias names a token below 0")
    if bias != -math.inf:
        check_number("logit_bias", bias)


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
    bias = values.get("logit_bias", {})
    if not isinstance(bias, Mapping):
        raise TypeError(f"logit_bias must be a dict of token id to number, not {type(bias).__name__}")
    pairs = tuple(bias.items())
    return SamplingParams(**{**values, "stop": (stop,) if isinstance(stop, str) else tuple(stop), "logit_bias": pairs})
