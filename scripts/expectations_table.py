"""The guide's expectations beside what was measured: rows, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from runtime_table import p95, short

ASKED = {  # what the guide asks: words, and the most; seconds, and bytes
    "chat": ("a chat answer begins within 3 s", 3.0),
    "classification": ("classification in less than 500 ms", 0.5),
    "embedding": ("an embedding in less than 100 ms", 0.1),
    "search": ("a search of memories in less than 200 ms", 0.2),
    "memory": ("at most 16 GB of RAM", 16e9),
}
VERSIONS = ("python", "gieok", "llama-cpp-python", "openvino", "faiss-cpu")
Reached = Literal["yes", "median only", "no"]


@dataclass(frozen=True, slots=True)
class Row:
    """One expectation, and the values that were measured: seconds, or bytes; `model` is the one that worked."""

    asks: str
    model: str
    what: str
    values: tuple[float, ...]

    @property
    def limit(self) -> float:
        """The most that is expected."""
        return ASKED[self.asks][1]

    @property
    def median(self) -> float:
        """Half of the values are no higher."""
        return statistics.median(self.values)

    @property
    def reached(self) -> Reached:
        """Whether 95 of 100 are within the limit, or half of them at least."""
        if p95(self.values) <= self.limit:
            return "yes"
        return "median only" if self.median <= self.limit else "no"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        figures = {"median": self.median, "p95": p95(self.values), "low": min(self.values), "high": max(self.values)}
        return {**asdict(self), "limit": self.limit, **figures, "reached": self.reached}


def rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of a report; what does not depend on the chat model is told of the first one."""
    for number, (chat, found) in enumerate(report["chats"].items()):
        yield from _answers(chat, found)
        if not number:
            yield from _others(found)
        yield Row("memory", chat, "the highest, all models and memories used", (found["memory"]["total"],))
        if done := found["prepared"]["done"]:
            what = f"the highest of a first start, {', '.join(done)}"
            yield Row("memory", chat, what, (found["prepared"]["memory"]["total"],))


def _answers(chat: str, found: Mapping[str, Any]) -> Iterator[Row]:
    told = found["counts"]["told"]
    turns = found["turns"][told:]
    said = _of(turns, "told")
    yield Row("chat", chat, f"a short turn after {told} others, {said} memories told", _first(turns))
    said = _of(found["openings"], "told")
    yield Row("chat", chat, f"the first turn after a start, {said} memories told", _first(found["openings"]))
    tokens = _of(found["plain"], "prompt_tokens")
    yield Row("chat", chat, f"a message by itself, a prompt of {tokens} tokens", _first(found["plain"]))


def _others(found: Mapping[str, Any]) -> Iterator[Row]:
    labels, embedding = (found["models"][role] for role in ("classification", "embedding"))
    yield Row("classification", labels, "a text of about 25 tokens", tuple(found["classification"]))
    yield Row("embedding", embedding, "a text of about 32 tokens", tuple(found["embedding"]))
    what = f"one among {found['memories']:,}, the question's embedding included"
    yield Row("search", embedding, what, tuple(found["search"]))


def _first(asked: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    return tuple(one["first"] for one in asked)


def _of(asked: Sequence[Mapping[str, Any]], name: str) -> str:
    return f"{statistics.median(one[name] for one in asked):.0f}"


def table(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table in Markdown, and what else is to be known."""
    yield "| the guide asks | measured | reached |"
    yield "|---|---|---|"
    for row in rows(report):
        yield f"| {ASKED[row.asks][0]} | {row.model}, {row.what}: {_figures(row)} | {row.reached} |"
    yield ""
    for chat, found in report["chats"].items():
        loads = [*found["loads"].items(), *(("chat again", one["load"]) for one in found["openings"][:1])]
        seconds = ", ".join(f"{role} {short(taken)} s" for role, taken in loads)
        yield f"- {chat}: loads, not counted above, from the disk: {seconds}"
        busy = sum(turn["busy"] for turn in found["turns"])
        yield (
            f"- {chat}: the background was at work when {busy} of {len(found['turns'])} turns came, and found "
            f"{found['learnt']} memories in the conversation"
        )
        machine, how = found["machine"], ", ".join(f"{name} {found['versions'][name]}" for name in VERSIONS)
        of = f"{machine['processor']}, {machine['cores']} cores, {machine['memory'] / 1e9:.0f} GB, {machine['system']}"
        yield f"- {chat}: {of}; {how}; {found['day']}"


def _figures(row: Row) -> str:
    if row.asks == "memory":
        return f"{row.median / 1e9:.1f} GB"
    median, most = (_seconds(value, row.asks) for value in (row.median, p95(row.values)))
    return f"median {median}, 95 of 100 within {most} ({len(row.values)} times)"


def _seconds(value: float, asks: str) -> str:
    return f"{value:.1f} s" if asks == "chat" else f"{value * 1000:.0f} ms"
