"""One process of `lifecycle_benchmark`: loads a model, by an engine or by bare calls, and prints what it found.

Nothing but Python's own library is imported before the clock runs: what a library takes to import is part of a load.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import Engine

TEXT = "오늘 점심은 회사 앞에서 비빔밥을 먹었고 저녁에는 친구와 영화를 보기로 했어요."


@dataclass(frozen=True, slots=True)
class Work:
    """What a child does with the model at `path`; `native` are llama.cpp's parameters, of a bare load only."""

    what: str
    path: str
    kind: str
    folder: str
    lives: int = 0
    native: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds: bytes of RAM, file descriptors (or handles), threads."""

    resident: int
    descriptors: int
    threads: int


def bare(work: Work) -> dict[str, float]:
    """Load weights and make a context with nothing but llama.cpp's own calls."""
    began, wanted = time.perf_counter(), work.native or {}
    import ctypes

    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    weights, sizes = llama_cpp.llama_model_default_params(), llama_cpp.llama_context_default_params()
    weights.n_gpu_layers, weights.use_extra_bufts = wanted["n_gpu_layers"], wanted["repack"]
    if wanted["repack"] and not wanted["n_gpu_layers"]:
        weights.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    for name, value in wanted["context"].items():
        setattr(sizes, name, value)
    model = llama_cpp.llama_model_load_from_file(os.fsencode(work.path), weights)
    context = llama_cpp.llama_init_from_model(model, sizes) if model else None
    seconds = time.perf_counter() - began
    if not context:
        raise SystemExit(f"llama.cpp cannot load {work.path}")
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return {"seconds": seconds}


def first(work: Work) -> dict[str, float]:
    """Load the model into an engine that is there already; what a load imports is a part of it."""
    with opened(work) as engine:
        began = time.perf_counter()
        engine.load(role(work))
        return {"seconds": time.perf_counter() - began}


def lives(work: Work) -> dict[str, Any]:
    """Load, use and unload again and again."""
    with opened(work) as engine:
        before, after = held(), []
        for _ in range(work.lives):
            engine.load(role(work))
            use(engine, work)
            engine.unload(role(work))
            after.append(asdict(held()))
    return {"before": asdict(before), "after": after, "closed": asdict(held())}


def opened(work: Work) -> Engine:
    """Return an engine on one model."""
    from engine import Engine

    return Engine(laid(work), profile="starter", home=Path(work.folder, "home"), models={role(work): "measured"})


def laid(work: Work) -> Path:
    """Write a models.toml with an entry for the model."""
    source = json.dumps(str(Path(work.path).absolute()))
    entry = f'[models.measured]\nkind = "{work.kind}"\nsource = {{ path = {source} }}\n'
    path = Path(work.folder, "models.toml")
    path.write_text(entry + ('pooling = "mean"\n' if work.kind == "embedding" else ""), encoding="utf-8")
    return path


def role(work: Work) -> str:
    """Return what the model is to the engine."""
    return "chat" if work.kind == "llm" else "embedding"


def use(engine: Engine, work: Work) -> None:
    """Let the model work a little."""
    if work.kind == "llm":
        engine.chat(TEXT, max_tokens=4)
    else:
        engine.embed(TEXT)


def held() -> Held:
    """Return what this process holds."""
    import psutil

    process = psutil.Process()
    descriptors = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return Held(process.memory_info().rss, descriptors, process.num_threads())


CHILDREN: dict[str, Callable[[Work], dict[str, Any]]] = {"bare": bare, "first": first, "lives": lives}


if __name__ == "__main__":
    task = Work(**json.loads(sys.argv[1]))
    print(json.dumps(CHILDREN[task.what](task)))
