"""The process that a lifecycle watches: it drives an engine and says each thing that happens as a line of JSON.

It ends when its parent's end of its input closes. What comes is {"event": …} with further keys: "began" and "done" of
a step, "failed", "loaded", "warning", and "found" with what was measured.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from lifecycle_cast import SHORT, Cast, sentence
from resident import work

from engine import Engine, config
from engine.errors import EngineError
from engine.metrics import Progress

Step = tuple[str, Callable[[], object]]
FEW = 4  # tokens of the largest model's answer
_LOADED = "loaded %s in"  # how the engine's log begins that a model is there
_speaking = threading.Lock()


class Missing(Exception):
    """An answer that is not what was asked for."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a child is to do: a models.toml, a home, and how long; `until` is seconds from the start, 0 for rounds."""

    what: str
    laid: str
    home: str
    cast: Cast
    rounds: int = 0
    until: float = 0.0
    model: str = ""


def say(event: str, **more: object) -> None:
    """Tell the parent, in one line."""
    with _speaking:
        print(json.dumps({"event": event, "at": time.time(), **more}, ensure_ascii=False), flush=True)


class Listener(logging.Handler):
    """Hands on which models were loaded, and warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, if it is one of these."""
        if isinstance(record.msg, str) and record.msg.startswith(_LOADED) and isinstance(record.args, tuple):
            say("loaded", model=str(record.args[0]))
        elif record.levelno >= logging.WARNING:
            say("warning", logger=record.name, text=record.getMessage())


def listen() -> None:
    """Hear the engine's log; llama.cpp's own only where it warns."""
    logging.getLogger("engine").addHandler(Listener())
    logging.getLogger("engine").setLevel(logging.INFO)
    logging.getLogger("engine.llama").setLevel(logging.WARNING)


def no_embedding(progress: Progress) -> bool:
    """Refuse to embed the memories: they have vectors, or something is wrong, and it would take hours."""
    return not progress.task.startswith("embed memories")


def opened(part: Part, **models: str) -> Engine:
    """Return the engine that a part is driven with."""
    return Engine(part.laid, profile=part.cast.profile, home=part.home, models=models, progress=no_embedding)


# ---- steps


def steps(engine: Engine, cast: Cast, n: int) -> Iterator[Step]:
    """Yield what one round asks, in the order in which models come and go."""
    said = sentence(7919 * n + 1)
    yield "chat", partial(chat, engine, f"{said} 어떻게 생각해?", None, cast.chat, SHORT)
    yield "classify", partial(classify, engine, said)
    yield "embed", partial(embed, engine, [sentence(7919 * n + i) for i in range(8)])
    yield "search", partial(search, engine, said)
    yield "summary", partial(summarize, engine, n)
    yield "chat with the largest", partial(chat, engine, f"{said} 왜 그랬을까?", cast.large, cast.large, FEW)


def chat(engine: Engine, text: str, model: str | None, expected: str, most: int) -> None:
    """Ask, and see that the answer came from the right model."""
    reply = engine.chat(text, model=model, max_tokens=most)
    wanted(reply.model == expected, f"{reply.model} answered for {expected}")
    wanted(reply.finish_reason in ("stop", "length"), f"the answer ended with {reply.finish_reason}")
    wanted(reply.usage.completion_tokens > 0, "the answer has no token")


def classify(engine: Engine, text: str) -> None:
    """Classify, and see that there is a label."""
    found = engine.classify(text)
    wanted(found.label is not None and abs(sum(found.scores.values()) - 1) < 1e-3, "no label, or scores that are none")


def embed(engine: Engine, texts: list[str]) -> None:
    """Embed, and see that there is a vector for each text."""
    dense = engine.embed(texts).dense
    wanted(dense is not None and len(dense) == len(texts), "not a vector for each text")


def search(engine: Engine, query: str) -> None:
    """Search, and see that as many memories came as were asked for."""
    wanted(len(engine.search(query, k=5)) == 5, "fewer memories than asked for")


def summarize(engine: Engine, n: int) -> None:
    """Summarise a dialogue, and see that something was written."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": sentence(7919 * n + 31 * i)} for i in range(4)]
    wanted(engine.summarize(turns).usage.completion_tokens > 0, "the summary has no token")


def wanted(holds: bool, otherwise: str) -> None:
    """Raise `Missing` unless it holds."""
    if not holds:
        raise Missing(otherwise)


def take(engine: Engine, step: Step, n: int) -> None:
    """Do one step and say how it went; the next one comes in any case."""
    name, do = step
    say("began", step=name, round=n)
    began = time.perf_counter()
    try:
        do()
    except (EngineError, Missing, ValueError, TypeError, RuntimeError, MemoryError) as error:
        say("failed", step=name, round=n, error=type(error).__name__, text=str(error))
        return
    status = engine.status()
    loaded = [model.name for model in status.loaded]
    say("done", step=name, round=n, seconds=time.perf_counter() - began, loaded=loaded, held=status.held)


# ---- parts


def rounds(part: Part) -> None:
    """Drive rounds, so many or for so long, and come back to the first model at the end."""
    began = time.perf_counter()
    with opened(part) as engine:
        for n in count():
            if time.perf_counter() - began >= part.until if part.until else n >= part.rounds:
                break
            for step in steps(engine, part.cast, n):
                take(engine, step, n)
        take(engine, next(steps(engine, part.cast, n)), n)
        say("found", status=engine.status().to_dict())


def everything(part: Part) -> None:
    """Use each model of the profile and the Korean analyser once; say what is resident, then with the index, too."""
    with opened(part) as engine:
        for step in list(steps(engine, part.cast, 0))[:3]:
            take(engine, step, 0)
        take(engine, ("understand", partial(engine.understand, f"{sentence(3)} 언제였지?")), 0)
        without = engine.status()
        take(engine, ("search", partial(search, engine, sentence(5))), 0)
        say("found", models=without.to_dict(), with_index=engine.status().to_dict())


def shape(part: Part) -> None:
    """Say what one model was estimated to take, and by how much this process grew."""
    kind = config.load(part.laid).model(part.model)
    role = "chat" if kind.kind == "llm" else "embedding"
    with opened(part, **{role: part.model}) as engine:
        plan = engine.plan(role)
        grown = [engine.status().resident]
        engine.load(role)
        grown.append(engine.status().resident)
        work(engine, kind)
        grown.append(engine.status().resident)
        after = engine.plan(role)
    loaded, worked = (size - grown[0] for size in grown[1:])
    say("found", plan=plan.to_dict(), loaded=loaded, worked=worked, remembered=after.to_dict())


PARTS: dict[str, Callable[[Part], None]] = {"rounds": rounds, "everything": everything, "shape": shape}


def follow_parent() -> None:
    """End this process when the parent's end of its input closes; nothing is ever written there."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(order: str) -> None:
    """Do the part that the parent wrote into a file."""
    follow_parent()
    read: dict[str, Any] = json.loads(Path(order).read_text(encoding="utf-8"))
    part = Part(**{**read, "cast": Cast(**read["cast"])})
    listen()
    PARTS[part.what](part)


def written(part: Part, file: Path) -> Path:
    """Write the order for a child."""
    file.write_text(json.dumps(asdict(part)), encoding="utf-8")
    return file


if __name__ == "__main__":
    main(sys.argv[1])
