"""Questions → answers being written: what a caller asked for, carried to the compute thread and back."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.errors import SchemaError
from engine.guard import wanted
from engine.sampling import SamplingParams, resolve
from engine.stream import InThread, Stream

if TYPE_CHECKING:
    from engine.config import ModelSpec, SamplingTable
    from engine.constrain import Grammar
    from engine.generation import Finished, Generation
    from engine.inputs import Turn
    from engine.pool import Pool
    from engine.runner import Runner
    from engine.tasks import Reply

_BACKGROUND = 1  # priority of tasks: behind chat


@dataclass(frozen=True, slots=True)
class Question:
    """One answer to be written, before a model has seen it; `model` is a role or a name, `asked` how it is sampled."""

    turns: tuple[Turn, ...]
    model: str
    asked: Mapping[str, Any]
    grammar: Grammar | None = None
    schema: Any = None
    priority: int = 0
    pinned: bool = False  # the turns before the last instruct, and are kept for the next time
    han: bool | None = None  # whether Han and kana may be written, by the conversation: what is asked goes before it


class Running:
    """A generation and what it takes to stop it."""

    def __init__(self, generation: Generation, runner: Runner, check: Callable[[], None]) -> None:
        self.out, self.spec, self._check = generation.out, runner.spec, check
        self.look: Callable[[], object] | None = None
        self._generation, self._runner = generation, weakref.ref(runner)  # who keeps a stream keeps no model

    def check(self) -> None:
        """Raise `EngineClosed` if nobody writes it any more, and what a look raises."""
        self._check()
        if self.look:
            self.look()

    def cancel(self) -> None:
        """Stop it, from any thread."""
        self._generation.cancelled = True
        if runner := self._runner():
            runner.interrupt()


class Answers:
    """Makes the streams of one engine."""

    def __init__(self, defaults: SamplingTable, pool: Pool, in_thread: InThread) -> None:
        self._defaults, self._pool, self._in_thread = defaults, pool, in_thread

    def question(self, turns: tuple[Turn, ...], model: str, sampling: Mapping[str, Any], schema: Any) -> Question:
        """Return a chat question, checked as far as it can be without the model. Raises `SchemaError` too."""
        from engine.constrain import Grammar
        from engine.tasks import schema_of

        if schema is None:
            question = Question(turns, model, sampling, han=not wanted(turns))
        else:
            # a penalty on repeated brackets would bend the document
            plain, asked = schema_of(schema), {"repeat_penalty": 1.0, **sampling}
            question = Question(turns, model, asked, Grammar.json(plain), schema, han=not wanted(turns, plain))
        self._params(question, self._pool.models.spec(model))
        return question

    def stream(self, question: Question, look: Callable[[], object] | None = None) -> Stream:
        """Return a stream that has not been opened; who waits for it calls `look` every second."""
        began: list[Running] = []  # at most one: who answers is known when it begins

        def start() -> Running:
            began.append(self.begin(question))
            began[0].look = look
            return began[0]

        def conclude(finished: Finished) -> Reply:
            spec = began[0].spec if began else self._pool.models.spec(question.model)
            return reply_of(question, spec.name, finished)

        return Stream(start, conclude, self._in_thread)

    def task(
        self, role: str, turns: tuple[Turn, ...], sampling: Mapping[str, Any], grammar: Grammar | None = None
    ) -> Reply:
        """Return the whole answer to a task, which gives way to chat."""
        return self.ask(role, turns, sampling, grammar).reply

    def ask(
        self,
        role: str,
        turns: tuple[Turn, ...],
        sampling: Mapping[str, Any],
        grammar: Grammar | None = None,
        look: Callable[[], object] | None = None,
    ) -> Stream:
        """Start the answer to a task; who waits for it calls `look` every second, and raises what that raises."""
        # a grammar of quotes adds nothing that was not said
        han = None if grammar else not wanted(turns)
        question = Question(turns, role, sampling, grammar, priority=_BACKGROUND, pinned=True, han=han)
        self._params(question, self._pool.models.spec(role))
        return self.stream(question, look).open()

    def warm(self, turns: tuple[Turn, ...], role: str) -> None:
        """Compute the context of what will be asked next, behind everything else."""
        self.stream(Question(turns, role, {"max_tokens": 1}, priority=_BACKGROUND)).open().reply  # noqa: B018

    def max_tokens(self, model: str, sampling: Mapping[str, Any]) -> int:
        """Return how long an answer may be, in tokens. Raises `InvalidInput`, `TypeError`."""
        return self._params(Question((), model, sampling), self._pool.models.spec(model)).max_tokens

    def _params(self, question: Question, spec: ModelSpec) -> SamplingParams:
        """Lay what is asked over the model's own sampling and the defaults. Raises `InvalidInput`, `TypeError`."""
        params = resolve({**self._defaults.model_dump(), **spec.sampling}, question.asked)
        return params if params.han is not None else replace(params, han=question.han)

    def begin(self, question: Question) -> Running:
        """Let the model begin to answer. Raises as `Pool.leased` does, `ContextOverflow`, `InvalidInput`."""
        return self._pool.start(question.model, partial(self._generate, question, time.perf_counter()))

    def _generate(self, question: Question, began: float, runner: Runner) -> Running:
        """On the compute thread: encode, queue."""
        from engine.generation import Generation

        params = self._params(question, runner.spec)
        matcher = runner.matcher(question.grammar) if question.grammar else None
        prompt = runner.encode(question.turns)
        generation = Generation(
            prompt,
            params,
            priority=question.priority,
            matcher=matcher,
            closes=question.schema is not None,  # a task reads what it was told, not how it might have ended
            began=began,
        )
        if question.pinned:
            generation.job.pin = runner.instruction(question.turns, prompt)
        runner.generate(generation, params)
        return Running(generation, runner, self._pool.worker.check)


def reply_of(question: Question, model: str, finished: Finished) -> Reply:
    """Return what a finished generation of `model` means. Raises `SchemaError`."""
    from engine import tasks

    parsed = None
    if question.schema is not None and finished.whole:
        try:
            parsed = tasks.parse_as(question.schema, finished.text)
        except SchemaError:
            if finished.finish_reason == "stop":  # else it is not the model's value, and max_tokens is to blame
                raise
    return tasks.Reply(finished.text, model, finished.finish_reason, finished.usage, parsed)
