"""Who is compared in the runtime table: our engine, llama_cpp.Llama, a bare loop of llama.cpp, a server on loopback.

Each side but the server lives in a process of its own, since thread pools and interpreter locks of one slow down the
other. What is timed is timed there. All of them are greedy, without a penalty.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from unittest import mock

from runtime_texts import EXTRACTED, LABEL, LABEL_GRAMMAR, Messages, classification, extraction, said

from engine import Engine
from engine.generation import Generation
from engine.runner import Runner
from engine.sampling import Sampling

N_CTX = 4096
EXTRACTED_TOKENS = 96  # more than an extraction of one message takes here
LABEL_TOKENS = 24
ROLES = ("chat", "extraction", "classification")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Setup:
    """The file that is measured, and a folder for what an engine keeps."""

    model: str
    home: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: seconds until its first token and in all; tokens written, of these forced, of the prompt, cached."""

    text: str
    first: float
    seconds: float
    tokens: int
    forced: int = 0
    prompt: int = 0
    cached: int = 0
    finish: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Seconds from a cancel until the iteration ended and until nothing ran; `inside`: no token had come."""

    ended: float
    idle: float
    inside: bool


class Side(Protocol):
    """What every side can be asked."""

    def chat(self, messages: Messages, tokens: int) -> Answer: ...
    def document(self, messages: Messages, schema: dict[str, Any], tokens: int) -> Answer: ...
    def extract(self, text: str) -> float: ...
    def classify(self, text: str) -> float: ...
    def together(self, conversations: Sequence[Messages], tokens: int) -> tuple[float, int]: ...


class _Processes(BaseManager):
    """Starts a process that holds one side."""


def _attend() -> None:
    """Let a Ctrl-C be for the one who asks, and end with that one, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def apart(make: Callable[..., S], *arguments: object) -> Iterator[S]:
    """Make a side in a new process, whose methods can be called as if it were here; the process ends with the block."""
    manager = _Processes(ctx=get_context("spawn"))
    manager.start(_attend)
    try:
        yield cast("S", getattr(manager, make.__name__)(*arguments))
    finally:
        manager.shutdown()


def library() -> Any:
    """Import llama_cpp, whose types say less than its documentation."""
    import llama_cpp

    return llama_cpp


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def at_once(
    chat: Callable[[Messages, int], Answer], conversations: Sequence[Messages], tokens: int
) -> tuple[float, int]:
    """Return how long answers that so many threads ask for take, and the tokens written."""
    with ThreadPoolExecutor(len(conversations)) as pool:
        began = time.perf_counter()
        answers = list(pool.map(lambda messages: chat(messages, tokens), conversations))
        return time.perf_counter() - began, sum(answer.tokens for answer in answers)


# ---- ours


def settings(setup: Setup) -> dict[str, Any]:
    """Return what an `Engine` takes to run the file in three roles; the rest is the starter profile's."""
    file = Path(setup.home, "models.toml")
    source = json.dumps(str(Path(setup.model).absolute()))
    entry = f'[models.bench]\nkind = "llm"\nsource = {{ path = {source} }}\nn_ctx = {N_CTX}\n'
    file.write_text(entry, encoding="utf-8")
    return {"config": str(file), "profile": "starter", "home": setup.home, "models": dict.fromkeys(ROLES, "bench")}


def _runner(engine: Engine) -> Runner:
    engine.load("chat")
    return engine._pool.call("chat", lambda runner: cast("Runner", runner), "llm")


def _greedy(tokens: int) -> Sampling:
    return {"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": tokens}


class Ours:
    """Our engine."""

    def __init__(self, setup: Setup) -> None:
        self._engine = Engine(**settings(setup))
        self._runner = _runner(self._engine)
        self.chat([said("user", "안녕")], 2)

    def context(self) -> dict[str, Any]:
        """Return the sizes and threads of its context."""
        return asdict(self._runner._context.params)

    def ids(self, messages: Messages) -> list[int]:
        """Return the tokens that the model reads."""
        return self._engine.tokens(list(messages))

    def chat(self, messages: Messages, tokens: int) -> Answer:
        """Answer as any application would ask."""
        return self._answer(messages, tokens, None)

    def document(self, messages: Messages, schema: dict[str, Any], tokens: int) -> Answer:
        """Answer as the schema says."""
        return self._answer(messages, tokens, schema)

    def _answer(self, messages: Messages, tokens: int, schema: dict[str, Any] | None) -> Answer:
        reply = self._engine.chat(list(messages), schema=schema, **_greedy(tokens))
        used = reply.usage
        return Answer(
            reply.text, used.ttft, used.seconds, used.completion_tokens, used.forced_tokens, used.prompt_tokens,
            used.cached_tokens, reply.finish_reason,
        )  # fmt: skip

    def extract(self, text: str) -> float:
        """Return how long the memories in one message take."""
        return seconds(partial(self._engine.extract_memory, text))

    def classify(self, text: str) -> float:
        """Return how long a label out of the default eight takes."""
        return seconds(partial(self._engine.classify, text))

    def together(self, conversations: Sequence[Messages], tokens: int) -> tuple[float, int]:
        """Return how long answers asked for at once take, and the tokens written."""
        return at_once(self.chat, conversations, tokens)

    def cancel(self, messages: Messages, after: float) -> Cancelled:
        """Cancel an answer `after` seconds, while another thread of this process runs Python."""
        with busy_thread(), self._engine.stream(list(messages), **_greedy(1)) as stream:
            time.sleep(after)
            began = time.perf_counter()
            stream.cancel()
            reply = stream.reply
            ended = time.perf_counter()
            while self._engine._worker.call(lambda: self._runner.busy):
                pass
            idle = time.perf_counter()
        inside = reply.finish_reason == "cancelled" and not reply.usage.completion_tokens
        return Cancelled(ended - began, idle - began, inside)

    def python_time(self, conversations: Sequence[Messages], tokens: int) -> list[float]:
        """Return the seconds that each decode step of all answers together spends outside llama.cpp."""
        clock = StepClock(len(conversations))
        with clock.installed():
            self.together(conversations, tokens)
        return clock.python


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """Run Python in another thread inside the block."""
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class StepClock:
    """Splits steps in which each of `streams` streams gets one token into llama.cpp's time and the rest."""

    def __init__(self, streams: int) -> None:
        self.python: list[float] = []
        self._streams = streams
        self._native, self._tokens, self._drawn = 0.0, 0, 0

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Time inside the block; what the clock itself takes, some microseconds a step, counts as Python."""
        llama_cpp = library()
        with contextlib.ExitStack() as stack:
            for name, note in (
                ("llama_decode", self._decoded),
                ("llama_get_logits_ith", None),
                ("llama_sampler_sample", self._sampled),
            ):
                timed = self._timed(getattr(llama_cpp, name), note)
                stack.enter_context(mock.patch.object(llama_cpp, name, timed))
            # what a schema, a bias and the guard leave of the logits is part of sampling
            stack.enter_context(mock.patch.object(Generation, "_weigh", self._timed(Generation._weigh, None)))
            stack.enter_context(mock.patch.object(Runner, "step", self._step(Runner.step)))
            yield

    def _timed(self, function: Callable[..., Any], note: Callable[..., None] | None) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            if note:
                note(*arguments)
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self._native += time.perf_counter() - began

        return timed

    def _decoded(self, _context: object, batch: Any) -> None:
        self._tokens += batch.n_tokens

    def _sampled(self, *_: object) -> None:
        self._drawn += 1

    def _step(self, step: Callable[[Runner], None]) -> Callable[[Runner], None]:
        def timed(runner: Runner) -> None:
            self._native, self._tokens, self._drawn = 0.0, 0, 0
            spent = seconds(partial(step, runner))
            if self._tokens == self._drawn == self._streams:
                self.python.append(spent - self._native)

        return timed


class Bare:
    """A loop around `llama_decode`, as a C program would have it, on weights that our engine has loaded."""

    def __init__(self, setup: Setup) -> None:
        llama_cpp = library()
        self._engine = Engine(**settings(setup))
        runner = _runner(self._engine)
        ours, params = runner._context.params, llama_cpp.llama_context_default_params()
        params.n_ctx, params.no_perf = ours.n_ctx, True
        params.n_batch = params.n_ubatch = ours.n_batch
        params.n_threads, params.n_threads_batch = ours.n_threads, ours.n_threads_batch
        self._context = llama_cpp.llama_init_from_model(runner.model.handle, params)
        self._size = runner.model.vocabulary.size

    def speed(self, ids: list[int], tokens: int) -> float:
        """Return the tokens a second after the first one."""
        llama_cpp = library()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        token = self._next(ids)
        began = time.perf_counter()
        for _ in range(tokens - 1):
            token = self._next([token])
        return (tokens - 1) / (time.perf_counter() - began)

    def _next(self, ids: list[int]) -> int:
        import numpy as np

        llama_cpp = library()
        tokens = (llama_cpp.llama_token * len(ids))(*ids)  # the batch only points at them
        status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        assert status == 0, f"llama_decode returned {status}"
        logits = llama_cpp.llama_get_logits_ith(self._context, ctypes.c_int32(-1))
        return int(np.ctypeslib.as_array(logits, shape=(self._size,)).argmax())


# ---- theirs


class Theirs:
    """`llama_cpp.Llama` as its documentation shows it: chat completions, `grammar=`, `response_format=`.

    It keeps the last prompt's prefix by itself; with `cache`, also the states of earlier ones.
    """

    def __init__(self, setup: Setup, context: dict[str, Any], cache: bool = False) -> None:
        self._llama = library().Llama(
            model_path=setup.model,
            n_ctx=N_CTX,
            n_threads=context["n_threads"],
            n_threads_batch=context["n_threads_batch"],
            verbose=False,
        )
        if cache:
            self._llama.set_cache(library().LlamaRAMCache())
        self._drawn: list[float] = []
        self._sample = self._llama.sample
        self._llama.sample = self._timed_sample
        self._grammars: dict[str, Any] = {}
        self.chat([said("user", "안녕")], 2)

    def prefill(self, ids: list[int]) -> float:
        """Return how long it takes to read tokens from an empty cache."""
        self._llama.reset()
        return seconds(partial(self._llama.eval, ids))

    def chat(self, messages: Messages, tokens: int) -> Answer:
        """Answer; the first token is there when it is drawn, as for ours."""
        return self._answer(messages, max_tokens=tokens)

    def document(self, messages: Messages, schema: dict[str, Any], tokens: int) -> Answer:
        """Answer as the schema says."""
        return self._answer(messages, max_tokens=tokens, grammar=self._grammar(schema))

    def extract(self, text: str) -> float:
        """Return how long our prompt takes under a schema of the same form."""
        return self.document(extraction(text), EXTRACTED, EXTRACTED_TOKENS).seconds

    def classify(self, text: str) -> float:
        """Return how long our prompt takes as its documentation has it, with a schema in `response_format`."""
        wanted = {"type": "json_object", "schema": LABEL}
        return self._answer(classification(text), max_tokens=LABEL_TOKENS, response_format=wanted).seconds

    def classify_lean(self, text: str) -> float:
        """Return how long it takes with a grammar that allows nothing but a label."""
        grammar = self._grammar(LABEL_GRAMMAR)
        return self._answer(classification(text), max_tokens=LABEL_TOKENS, grammar=grammar).seconds

    def together(self, conversations: Sequence[Messages], tokens: int) -> tuple[float, int]:
        """Return how long the answers take one after the other, and the tokens written."""
        began = time.perf_counter()
        answers = [self.chat(messages, tokens) for messages in conversations]
        return time.perf_counter() - began, sum(answer.tokens for answer in answers)

    def _answer(self, messages: Messages, **asked: Any) -> Answer:
        self._drawn.clear()
        began = time.perf_counter()
        chunks = self._llama.create_chat_completion(
            list(messages), temperature=0.0, repeat_penalty=1.0, stream=True, **asked
        )
        choices = [chunk["choices"][0] for chunk in chunks]
        spent = time.perf_counter() - began
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        return Answer(text, self._drawn[0] - began, spent, len(self._drawn), finish=choices[-1]["finish_reason"])

    def _timed_sample(self, *arguments: Any, **named: Any) -> int:
        token: int = self._sample(*arguments, **named)
        self._drawn.append(time.perf_counter())
        return token

    def _grammar(self, wanted: dict[str, Any] | str) -> Any:
        made, key = library().LlamaGrammar, json.dumps(wanted)
        if key not in self._grammars:
            if isinstance(wanted, str):
                self._grammars[key] = made.from_string(wanted, verbose=False)
            else:
                self._grammars[key] = made.from_json_schema(key, verbose=False)
        return self._grammars[key]


for side in (Ours, Bare, Theirs):
    _Processes.register(side.__name__, side)
