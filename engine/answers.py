"""Questions → answers being written: what a caller asked for, carried to the compute thread and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.errors import SchemaError
from engine.guard import wanted
from engine.sampling import SamplingParams, resolve
from engine.stream import InThread, Stream

if TYPE_CHECKING:
    from engine.config import SamplingTable
    from engine.constrain import Grammar
    from engine.generation import Finished, Generation
    from engine.inputs import Turn
    from engine.models import Models
    from engine.runner import Runner
    from engine.tasks import Reply
    from engine.worker import Worker

_BACKGROUND = 1  # priority of tasks: behind chat


@dataclass(frozen=True, slots=True)
class Question:
    """One answer to be written, before a model has seen it; `model` is a role or a name."""

    turns: tuple[Turn, ...]
    model: str
    params: SamplingParams
    grammar: Grammar | None = None
    schema: Any = None
    priority: int = 0


class Running:
    """A generation and what it takes to stop it."""

    def __init__(self, generation: Generation, runner: Runner, check: Callable[[], None]) -> None:
        self.out, self.check = generation.out, check
        self._generation, self._runner = generation, runner

    def cancel(self) -> None:
        """Stop it, from any thread."""
        self._generation.cancelled = True
        self._runner.interrupt()


class Answers:
    """Makes the streams of one engine."""

    def __init__(self, defaults: SamplingTable, models: Models, worker: Worker, in_thread: InThread) -> None:
        self._defaults, self._models, self._worker, self._in_thread = defaults, models, worker, in_thread

    def params(self, model: str, asked: Mapping[str, Any]) -> SamplingParams:
        """Lay what is asked over the model's own sampling and the defaults. Raises `InvalidInput`, `TypeError`."""
        return resolve({**self._defaults.model_dump(), **self._models.spec(model).sampling}, asked)

    def question(self, turns: tuple[Turn, ...], model: str, sampling: Mapping[str, Any], schema: Any) -> Question:
        """Return a chat question, checked as far as it can be without the model. Raises `SchemaError` too."""
        from engine.constrain import Grammar
        from engine.tasks import schema_of

        if schema is None:
            return Question(turns, model, _guarded(self.params(model, sampling), turns))
        # a penalty on repeated brackets would bend the document
        params, plain = self.params(model, {"repeat_penalty": 1.0, **sampling}), schema_of(schema)
        grammar = Grammar.json(plain)
        return Question(turns, model, _guarded(params, turns, plain), grammar, schema)

    def stream(self, question: Question) -> Stream:
        """Return a stream that has not been opened."""
        return Stream(partial(self._start, question), partial(self._conclude, question), self._in_thread)

    def task(
        self, role: str, turns: tuple[Turn, ...], sampling: Mapping[str, Any], grammar: Grammar | None = None
    ) -> Reply:
        """Return the whole answer to a task, which gives way to chat."""
        params = self.params(role, sampling)
        params = params if grammar else _guarded(params, turns)  # a grammar of quotes adds nothing that was not said
        question = Question(turns, role, params, grammar, priority=_BACKGROUND)
        return self.stream(question).open().reply

    def _start(self, question: Question) -> Running:
        get = partial(self._models.runner, question.model)
        return self._worker.start(get, partial(self._generate, question, time.perf_counter()))

    def _generate(self, question: Question, began: float, runner: Runner) -> Running:
        """On the compute thread: encode, queue."""
        from engine.generation import Generation

        matcher = runner.matcher(question.grammar) if question.grammar else None
        prompt = runner.encode(question.turns)
        generation = Generation(
            prompt,
            question.params,
            priority=question.priority,
            matcher=matcher,
            closes=question.schema is not None,  # a task reads what it was told, not how it might have ended
            began=began,
        )
        if question.priority == _BACKGROUND:  # tasks tell every text the same
            generation.job.pin = runner.instruction(question.turns, prompt)
        runner.generate(generation, question.params)
        return Running(generation, runner, self._worker.check)

    def _conclude(self, question: Question, finished: Finished) -> Reply:
        from engine import tasks

        parsed = None
        if question.schema is not None and finished.whole:
            try:
                parsed = tasks.parse_as(question.schema, finished.text)
            except SchemaError:
                if finished.finish_reason == "stop":  # else it is not the model's value, and max_tokens is to blame
                    raise
        name = self._models.spec(question.model).name
        return tasks.Reply(finished.text, name, finished.finish_reason, finished.usage, parsed)


def _guarded(
    params: SamplingParams, turns: tuple[Turn, ...], schema: Mapping[str, Any] | None = None
) -> SamplingParams:
    """Decide whether Han and kana may be written, unless the caller has."""
    return params if params.han is not None else replace(params, han=not wanted(turns, schema))
