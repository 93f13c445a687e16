"""The process that is measured: one engine, used as a desktop application uses it; what it takes is said line by line.

`prepare` is what happens once on a machine: models are tuned and converted, memories are there by and by. `day` is a
start of the application, and what its user then waits for. It ends when its parent's end of its input closes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import expectations_memories
from expectations_texts import OPENINGS, SHORT, TOLD, of_about, queries
from lifecycle_child import follow_parent, say

from engine import Engine
from engine.metrics import Progress
from engine.session import Session
from engine.stream import Stream

ROLES = ("chat", "classification", "embedding")
FEW = 1_000  # memories that may be embedded meanwhile; were there more, the store would not be as it was prepared
SETTLED = 0.5  # seconds in which a background that has nothing to do says so
TAIL = " 오래 기억하고 싶어요."
PLAIN, LABELLED, EMBEDDED = 30, 25, 32  # tokens


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is asked: answers of `written` tokens, and `pause` seconds after each, to read it and to type the next.

    `openings` are first turns, each of a new conversation after a load; `told` and `short` are turns of one that goes
    on, of which only the latter count.
    """

    plain: int = 10
    openings: int = len(OPENINGS)
    told: int = len(TOLD)
    short: int = len(SHORT)
    labels: int = 60
    embeddings: int = 100
    searches: int = 200
    written: int = 24
    pause: float = 10.0


QUICK = Counts(  # shows that all of it works, and measures nothing
    plain=2, openings=1, told=1, short=1, labels=3, embeddings=3, searches=3, written=4, pause=0.0
)


@dataclass(frozen=True, slots=True)
class Texts:
    """What is asked beside conversations, chosen by how long it is for the models."""

    plain: tuple[str, ...] = ()
    labelled: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What this process is to do; `models` are laid over the roles of `profile`, `folder` is for files of a moment.

    `fill`: `home` is new, and is to be given `memories`. `tune`: how the chat models run best is measured anew.
    """

    what: str
    laid: str
    profile: str
    home: str
    models: dict[str, str]
    memories: int
    counts: Counts
    folder: str
    fill: bool = False
    tune: bool = True
    texts: Texts = Texts()

    @classmethod
    def read(cls, file: Path) -> Plan:
        """Return what `write` has written."""
        said = json.loads(file.read_text(encoding="utf-8"))
        texts = Texts(**{name: tuple(found) for name, found in said["texts"].items()})
        return replace(cls(**said), counts=Counts(**said["counts"]), texts=texts)

    def write(self, file: Path) -> Path:
        """Write it as JSON."""
        file.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")
        return file

    def engine(self) -> Engine:
        """Return a new engine."""
        return Engine(self.laid, profile=self.profile, home=self.home, models=self.models, progress=few_embedded)


def few_embedded(progress: Progress) -> bool:
    """Refuse to embed the whole store: that would take hours, and is not what is measured."""
    return not (progress.task.startswith("embed memories") and progress.total > FEW)


def timed(step: str, work: Callable[[], object]) -> float:
    """Do it, tell how many seconds it took, and return that."""
    say("began", step=step)
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    say("done", step=step, seconds=seconds)
    return seconds


# ---- once on a machine


def prepare(plan: Plan) -> dict[str, Any]:
    """Tune, load and convert the models, fill the store if it is new, and choose texts."""
    seconds: dict[str, float] = {}
    with plan.engine() as engine:
        for name in chat_models(engine) if plan.tune else ():
            seconds[f"tune {name}"] = timed(f"tune {name}", partial(engine.doctor, retune=name))
        for role in ROLES:
            seconds[f"load {role}"] = timed(f"load {role}", partial(engine.load, role))
        if plan.fill:
            fill = partial(expectations_memories.fill, engine, plan.memories, Path(plan.folder))
            seconds["fill"] = timed(f"write {plan.memories:,} memories", fill)
        texts = chosen(engine, plan.counts)
    return {"seconds": seconds, "texts": asdict(texts)}


def chat_models(engine: Engine) -> list[str]:
    """Return the language models of the roles that are measured, each once."""
    plans = [engine.plan(role) for role in ROLES]
    return list(dict.fromkeys(plan.model for plan in plans if plan.kind == "llm"))


def chosen(engine: Engine, counts: Counts) -> Texts:
    """Return texts of about the lengths that are to be measured, by the tokenizers of the models that read them."""
    frame = len(engine.tokens("네")) - 1

    def read(texts: Sequence[str]) -> list[int]:
        return [len(engine.tokens(text)) - frame for text in texts]

    def embedded(texts: Sequence[str]) -> list[int]:
        found = engine.embed(texts, heads=("multi",)).multi
        return [len(text) for text in texts] if found is None else [len(rows) for rows in found]

    return Texts(
        tuple(of_about(PLAIN, counts.plain, read)),
        tuple(of_about(LABELLED, counts.labels, read)),
        tuple(of_about(EMBEDDED, counts.embeddings, embedded, TAIL)),
    )


# ---- a day


def day(plan: Plan) -> dict[str, Any]:
    """Start, and do what a user waits for; return what each took."""
    counts, texts = plan.counts, plan.texts
    with plan.engine() as engine:
        found: dict[str, Any] = {"loads": {role: timed(f"load {role}", partial(engine.load, role)) for role in ROLES}}
        found["classification"] = each("classification", engine.classify, texts.labelled)
        found["embedding"] = each("embedding", engine.embed, texts.embedded)
        found["search"] = each("search", engine.search, queries(counts.searches, plan.memories))
        found["plain"] = [message(engine, text, counts) for text in texts.plain]
        found["openings"] = [opening(engine, number, counts) for number in range(counts.openings)]
        session = engine.session("day")
        found["turns"] = conversation(session, counts)
        found["background"] = timed("background", engine.wait)
        found["learnt"] = len(session.news())
        status = engine.status()
    return {**found, "resident": status.resident, "parts": [asdict(part) for part in status.parts]}


def each(step: str, ask: Callable[[str], object], texts: Sequence[str]) -> list[float]:
    """Return the seconds that each text takes, once one has been asked that is not counted."""
    found: list[float] = []

    def all_of_them() -> None:
        ask("어제 도서관에서 책을 한 권 빌렸어요.")
        for text in texts:
            began = time.perf_counter()
            ask(text)
            found.append(time.perf_counter() - began)

    timed(step, all_of_them)
    return found


def message(engine: Engine, text: str, counts: Counts) -> dict[str, Any]:
    """Ask without a conversation."""
    return spoken("message", engine.stream, text, counts.written)


def opening(engine: Engine, number: int, counts: Counts) -> dict[str, Any]:
    """Load the chat model anew and begin a conversation: what comes first after a start of the application."""
    engine.unload("chat")
    load = timed("load again", partial(engine.load, "chat"))
    session = engine.session(f"opening {number}")
    found = turn("opening", session, OPENINGS[number], counts)
    engine.wait()
    return {**found, "load": load}


def conversation(session: Session, counts: Counts) -> list[dict[str, Any]]:
    """Return each turn of a conversation; those that tell something come first."""
    turns = [turn("telling", session, text, counts) for text in TOLD[: counts.told]]
    turns += [turn("turn", session, text, counts) for text in SHORT[: counts.short]]
    return turns


def turn(step: str, session: Session, text: str, counts: Counts) -> dict[str, Any]:
    """Say something, then give its user time to read and to type; `busy`: the background was not done yet before."""
    busy = not session.wait(SETTLED)
    found = spoken(step, session.stream, text, counts.written)
    time.sleep(counts.pause)
    return {**found, "busy": busy}


def spoken(step: str, ask: Callable[..., Stream], text: str, written: int) -> dict[str, Any]:
    """Return what an answer cost; `first` are the seconds from the call to the first piece that can be shown."""
    say("began", step=step)
    began = time.perf_counter()
    with ask(text, max_tokens=written) as stream:
        next(iter(stream), "")
        first = time.perf_counter() - began
        for _ in stream:
            pass
    reply = stream.reply
    say("done", step=step, seconds=first)
    return {"first": first, "told": len(reply.memories), **reply.usage.to_dict()}


PARTS: dict[str, Callable[[Plan], dict[str, Any]]] = {"prepare": prepare, "day": day}

if __name__ == "__main__":
    follow_parent()
    plan = Plan.read(Path(sys.argv[1]))
    say("found", **PARTS[plan.what](plan))
