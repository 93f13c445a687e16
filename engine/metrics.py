"""What work cost and how far it is: usage, timings, progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from engine.errors import Cancelled


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request cost; times in seconds.

    `prompt_tokens` includes the `cached_tokens` that were not computed again; `completion_tokens` includes the
    `forced_tokens` that a schema left no choice about; `ttft` is the time from the call to the first token.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    forced_tokens: int
    ttft: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens a second after the first one; 0 where there were fewer than two."""
        rest = self.seconds - self.ttft
        return (self.completion_tokens - 1) / rest if self.completion_tokens > 1 and rest > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and `tokens_per_second`."""
        return {**asdict(self), "tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long task is: `done` of `total` `unit`s; `total` is 0 while it is not known.

    `part` is how far that part of it is which is being done now, such as one file of a download.
    """

    task: str
    done: int
    total: int
    unit: str
    part: Progress | None = None


ProgressCallback = Callable[[Progress], object]


def report(progress: ProgressCallback | None, event: Progress) -> None:
    """Tell a caller's callback; raises `Cancelled` if it returns False."""
    if progress is not None and progress(event) is False:
        raise Cancelled(f"{event.task} was cancelled by its progress callback")
