"""Threads and tasks that ask one engine for everything at once, and the check that each got what was its own.

`soak` is what the suite runs a little of and `scripts/soak.py mixed` a lot. No two requests ask the same, so that text
of one in another shows: each greedy answer is compared, token by token and in its logits, with that of the request
alone (`alone.py`), and whatever quotes, stores or finds is checked for the words of its own request.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from alone import PROBES, Alone, Asked, Bounds, Trace, compare
from asks import KNOWN, THREADS, Ask, plan

from engine import Engine, EngineClosed, config
from engine.answers import Question, Running
from engine.llama import Context
from engine.runner import Runner
from engine.scheduler import Chunk
from engine.scoring import Scoring
from engine.stream import Stream

CONFIG = """
[engine]
n_ctx = 2048  # so little that requests wait for each other's cells
n_batch = 256

[engine.sampling]
repeat_penalty = 1.0
max_tokens = 12

[models."smollm2-135m-instruct"]
n_threads = 1
"""


@dataclass
class Heard:
    """What came of the calls; threads add to it a whole item at a time."""

    results: list[tuple[Ask, Any]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    scorings: list[Scoring] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)  # requests in each
    contexts: list[Context] = field(default_factory=list)
    unloads_begun: list[str] = field(default_factory=list)
    unloads_ended: list[str] = field(default_factory=list)


class Attempt:
    """A block that asks once; what it raises is judged and kept. `again`: a model was unloaded meanwhile."""

    def __init__(self, ask: Ask, heard: Heard) -> None:
        self._ask, self._heard, self.again = ask, heard, False

    def __enter__(self) -> Self:
        self._unloads = len(self._heard.unloads_ended)
        if self._ask.method == "unload":
            self._heard.unloads_begun.append(str(self._ask))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        heard, ask = self._heard, self._ask
        unloaded = len(heard.unloads_begun) > self._unloads
        if ask.method == "unload":
            heard.unloads_ended.append(str(ask))
        if error is not None and not isinstance(error, Exception):
            return False
        if isinstance(error, EngineClosed) and unloaded and "unloaded" in str(error):
            self.again = True
            heard.ends.append("asked again after an unload")
        elif type(error) is not (ask.error or type(None)):
            heard.failures.append(f"{ask}: {error!r}, expected {ask.error}")
        elif error is not None:
            heard.ends.append("refused")
        return True


class Crowd:
    """The threads and tasks, and the two engines that they ask."""

    def __init__(self, engine: Engine, second: Engine) -> None:
        self._engines, self.heard = (engine, second), Heard()
        for each in self._engines:
            listen(each, self.heard)

    def ask(self, actors: Sequence[Sequence[Ask]], limit: float) -> None:
        """Let the first `THREADS` ask as threads and the others as tasks, all at once, for `limit` seconds at most."""
        threads = [threading.Thread(target=self._in_thread, args=(asks,), daemon=True) for asks in actors[:THREADS]]
        until = time.monotonic() + limit
        for thread in threads:
            thread.start()
        try:
            asyncio.run(asyncio.wait_for(self._in_tasks(actors[THREADS:]), limit))
        except TimeoutError:
            self.heard.failures.append("tasks did not end")
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self.heard.failures.append("a thread did not end")

    def ask_again(self) -> None:
        """Repeat alone, one after the other, what must then give the same."""
        for ask, result in self.heard.results:
            if ask.again and not ask.again(result, getattr(self._engine(ask), ask.method)(*ask.args, **ask.kwargs)):
                self.heard.failures.append(f"{ask}: another result alone")

    def _engine(self, ask: Ask) -> Engine:
        return self._engines[ask.beside]

    def _in_thread(self, asks: Sequence[Ask]) -> None:
        for ask in asks:
            while True:
                with Attempt(ask, self.heard) as attempt:
                    self._end(ask, self._now(ask))
                if not attempt.again:
                    break

    async def _in_tasks(self, actors: Sequence[Sequence[Ask]]) -> None:
        await asyncio.gather(*map(self._in_task, actors))

    async def _in_task(self, asks: Sequence[Ask]) -> None:
        for ask in asks:
            while True:
                with Attempt(ask, self.heard) as attempt:
                    self._end(ask, await self._soon(ask))
                if not attempt.again:
                    break

    def _now(self, ask: Ask) -> Any:
        engine = self._engine(ask)
        if ask.method != "stream":
            return getattr(engine, ask.method)(*ask.args, **ask.kwargs)
        with engine.stream(*ask.args, **ask.kwargs) as stream, cancelling(stream, ask.delay):
            pieces = list(islice(stream, ask.pieces))
            return None if ask.pieces is not None else joined(pieces, stream)

    async def _soon(self, ask: Ask) -> Any:
        engine = self._engine(ask)
        if ask.method == "stream":
            async with engine.astream(*ask.args, **ask.kwargs) as stream:
                with cancelling(stream, ask.delay):
                    pieces = [piece async for piece in first(stream, ask.pieces)]
                    return None if ask.pieces is not None else joined(pieces, stream)
        task = asyncio.create_task(getattr(engine, f"a{ask.method}")(*ask.args, **ask.kwargs))
        if ask.delay is not None:
            await asyncio.wait({task}, timeout=ask.delay)
            task.cancel()
            await asyncio.wait({task})
        return None if ask.delay is not None and task.cancelled() else await task

    def _end(self, ask: Ask, result: Any) -> None:
        """Keep a result; None is what was broken off."""
        if result is not None:
            ask.check(result)
        self.heard.results.append((ask, result))
        broken_off = ask.pieces is not None or (ask.delay is not None and result is None)
        self.heard.ends.append("broken off" if broken_off else getattr(result, "finish_reason", "done"))


@contextlib.contextmanager
def cancelling(stream: Stream, delay: float | None) -> Iterator[None]:
    """Cancel `stream` from another thread after `delay` seconds, unless the block ends before."""
    timer = threading.Timer(delay or 0.0, stream.cancel)
    if delay is not None:
        timer.start()
    yield
    timer.cancel()


async def first(stream: Stream, most: int | None) -> AsyncIterator[str]:
    """Yield the first pieces of `stream`, or all."""
    for _ in count() if most is None else range(most):
        piece = await anext(stream, None)
        if piece is None:
            return
        yield piece


def joined(pieces: list[str], stream: Stream) -> Any:
    reply = stream.reply
    assert "".join(pieces) == reply.text, (pieces, reply.text)
    return reply


def listen(engine: Engine, heard: Heard) -> None:
    """Let `heard` know what `engine` generates and weighs."""
    generate, begin = engine._answers._generate, engine._classifier._begin

    def generate_and_tell(question: Question, began: float, runner: Runner) -> Running:
        count_requests(runner._context, heard)
        running = generate(question, began, runner)
        asked = Asked.of(question, engine._answers._params(question, runner.spec))
        heard.traces.append(Trace(asked, running._generation))
        return running

    def begin_and_tell(*given: Any) -> Any:
        begun = begin(*given)
        heard.scorings.extend(begun.scorings)
        return begun

    engine._answers._generate = generate_and_tell  # type: ignore[method-assign]
    engine._classifier._begin = begin_and_tell  # type: ignore[method-assign]


def count_requests(context: Context, heard: Heard) -> None:
    """Let `heard` know how many requests share each batch of `context`."""
    if context in heard.contexts:
        return
    heard.contexts.append(context)
    decode = context.decode

    def decode_and_tell(chunks: Sequence[Chunk]) -> bool:
        heard.batches.append(len({id(chunk.job) for chunk in chunks}))
        return decode(chunks)

    context.decode = decode_and_tell  # type: ignore[method-assign]


# ---- judging


@dataclass
class Report:
    """What a run came to. `compared` answers, of which `parted` from the lone one; `noticed`: not passing for others'.

    `batches` are counted by how many requests shared them.
    """

    kinds: Counter[str]
    ends: Counter[str]
    failures: list[str]
    batches: Counter[int]
    bounds: Bounds
    seconds: float = 0.0
    compared: int = 0
    tokens: int = 0
    parted: int = 0
    noticed: int = 0
    apart: float = 0.0
    lead: float = 0.0
    weighed: int = 0
    shift: float = 0.0


def soak(home: Path, calls: int, seed: int, probes: Sequence[str] = PROBES) -> Report:
    """Ask `calls` mixed calls of engines in `home`, and compare what they answered with what they answer alone.

    The bounds of the comparison are measured with `probes`.
    """
    began, actors, path = time.perf_counter(), plan(calls, seed), home / "mixed.toml"
    path.write_text(CONFIG, encoding="utf-8")
    models = {"classification": "smollm2-135m-instruct"}
    with (
        Engine(path, profile="starter", home=home / "one") as engine,
        Engine(path, profile="starter", home=home / "two", models=models) as second,
    ):
        engine.remember(KNOWN, user="reader")
        crowd = Crowd(engine, second)
        crowd.ask(actors, 60 + 10 * calls)
        crowd.ask_again()
    heard, kinds = crowd.heard, Counter(ask.kind for asks in actors for ask in asks)
    with contextlib.closing(Alone(config.load(path))) as alone:
        like = next(trace.question for trace in heard.traces if trace.question.params.temperature == 0)
        bounds, batches = alone.bounds(like, probes), Counter(heard.batches)
        report = Report(kinds, Counter(heard.ends), heard.failures, batches, bounds)
        judge_answers(heard, alone, report)
        judge_scores(heard, alone, report)
    report.failures += other_texts(heard)
    report.seconds = time.perf_counter() - began
    return report


def judge_answers(heard: Heard, alone: Alone, report: Report) -> None:
    """Compare each greedy answer with the lone one, and with that of another request, which must not pass for it."""
    before: Trace | None = None
    for trace in [trace for trace in heard.traces if trace.choices and trace.question.params.temperature == 0]:
        expected = alone.answer(as_far_as(trace), trace.choices)
        verdict = compare(trace, expected, report.bounds)
        report.compared, report.tokens = report.compared + 1, report.tokens + len(trace.choices)
        report.parted += verdict.lead is not None
        report.apart, report.lead = max(report.apart, verdict.apart), max(report.lead, verdict.lead or 0.0)
        report.noticed += before is None or compare(before, expected, report.bounds).wrong is not None
        if verdict.wrong:
            report.failures.append(f"{trace.question.turns[-1].content}: {verdict.wrong}")
        before = trace


def as_far_as(trace: Trace) -> Question:
    """Return the question of `trace`, answered no further than need be."""
    params = trace.question.params
    most = params.max_tokens if trace.whole else min(params.max_tokens, len(trace.answer) + 1)
    return replace(trace.question, params=replace(params, max_tokens=most))


def judge_scores(heard: Heard, alone: Alone, report: Report) -> None:
    """Compare the log-probabilities of labels; each token adds the difference of its logit and of the sum of all."""
    for scoring in heard.scorings:
        if scoring.cancelled or not scoring.result.done() or scoring.result.exception():
            continue
        for found, expected, label in zip(
            scoring.result.result(), alone.weigh(scoring), scoring._continuations, strict=True
        ):
            report.weighed, report.shift = report.weighed + 1, max(report.shift, abs(found - expected))
            if abs(found - expected) > 2 * report.bounds.row * len(label):
                report.failures.append(f"a label weighs {found:.2f}, alone {expected:.2f}")


def other_texts(heard: Heard) -> Iterator[str]:
    """Yield each reply that is not the text which was generated for it."""
    for ask, result in heard.results:
        if hasattr(result, "finish_reason"):
            own = [trace for trace in heard.traces if ask.question in trace.question.turns[-1].content]
            if not own or own[-1].text != result.text:
                yield f"{ask}: {result.text!r} was not generated for it"
