"""What a request answers alone on a fresh context, and how far from that an answer given among others may lie.

The model's int8 activations turn any other order of a sum into differences of its logits of about 1, so that greedy
answers may part where the lone run was undecided. How undecided is measured on the machine at hand (`Alone.bounds`):
the tokens of lone answers are computed again in parts, in batches with other sequences and in cells among theirs, and
`row` is twice the largest difference of a logit, `lead` twice the largest change of the lead of the best token over
the second. On x86 with AVX-512, one thread, 520 rows of five questions gave 1.9 and 0.84: hence `STATED`, which a
noisier machine may exceed and a lucky measurement does not lower. The logits after another question lie 10 away.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine import layout, runner
from engine.answers import Question
from engine.config import Config
from engine.errors import EngineClosed
from engine.generation import Generation
from engine.inputs import Turn
from engine.llama import Context
from engine.runner import Runner
from engine.sampling import SamplingParams
from engine.scheduler import Chunk, Job, Scheduler
from engine.scoring import Scoring

END = -1  # what is chosen where an answer ends by itself
EVERY = 16  # of so many logits one is kept
CELLS = 1024
PROBES = (
    "Tell me a joke about cats and dogs, please, and make it long.",
    "What is a violin made of?",
    "Describe a lighthouse in one sentence.",
)
Row = NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """A token that the model chose; `lead` is how far it lay before the one that another run chose there."""

    token: int
    row: Row
    lead: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Question):
    """A question, and how its answer was sampled, which the model that answered it decided."""

    params: SamplingParams

    @classmethod
    def of(cls, question: Question, params: SamplingParams) -> Self:
        """Return `question` with its `params`."""
        return cls(**{one.name: getattr(question, one.name) for one in fields(question)}, params=params)


class Trace:
    """What one generation chooses, seen on the compute thread, by position in the answer."""

    def __init__(self, question: Asked, generation: Generation, other: Mapping[int, Choice] | None = None) -> None:
        self.question, self.generation, self._other = question, generation, other or {}
        self.choices: dict[int, Choice] = {}
        self.failed = False
        self._advance, self._fail = generation.advance, generation.fail
        generation.advance, generation.fail = self.advance, self.fail  # type: ignore[method-assign]

    def advance(self, context: Context, rows: Sequence[int], branch: int | None = None) -> bool:
        tokens, at = self.generation.job.tokens, len(self.answer)
        row = context.logits(rows[-1])[::EVERY].copy()
        done = self._advance(context, rows, branch)
        chosen = tokens[self.generation.job.prompt + at] if len(self.answer) > at else END
        weighed = context.logits(rows[-1])  # by now without what the schema forbids
        self.choices[at] = Choice(chosen, row, self._lead(weighed, at))
        return done

    def fail(self, error: BaseException) -> None:
        self.failed = True
        self._fail(error)

    @property
    def answer(self) -> list[int]:
        """The tokens so far."""
        return self.generation.job.tokens[self.generation.job.prompt :]

    @property
    def text(self) -> str:
        return "".join(self.generation._pieces)

    @property
    def whole(self) -> bool:
        """Whether it came to its own end."""
        return self.generation.over and not self.failed and not self.generation.cancelled

    def _lead(self, weighed: Row, at: int) -> float:
        if at not in self._other:
            return 0.0
        assert self.generation._vocabulary is not None
        other = self._other[at].token
        ends = sorted(self.generation._vocabulary.eog)
        return float(weighed.max() - (weighed[ends].max() if other == END else weighed[other]))


@dataclass(frozen=True)
class Bounds:
    """How far two runs of the same tokens may lie apart: any logit, and the lead of one token over another."""

    row: float
    lead: float


STATED = Bounds(row=4.0, lead=1.7)


@dataclass(frozen=True)
class Verdict:
    """How an answer compares with the lone one: `lead` of the token at which they part, if they do."""

    apart: float = 0.0
    lead: float | None = None
    wrong: str | None = None


def compare(found: Trace, alone: Trace, bounds: Bounds) -> Verdict:
    """Judge an answer; one that was cut short is judged as far as it came."""
    apart = 0.0
    for at, choice in sorted(found.choices.items()):
        expected = alone.choices.get(at)
        if expected is None:
            return Verdict(apart, wrong=f"token {at} is chosen that is forced, or never comes, alone")
        apart = max(apart, float(np.abs(choice.row - expected.row).max()))
        if apart > bounds.row:
            return Verdict(apart, wrong=f"logits {apart:.2f} apart at token {at}")
        if choice.token != expected.token:
            undecided = expected.lead <= bounds.lead
            return Verdict(apart, expected.lead, None if undecided else f"another choice at token {at}")
    same = found.text == alone.text if found.whole else alone.text.startswith(found.text)
    return Verdict(apart, wrong=None if same else "the same choices made another text")


class Alone:
    """Answers one request at a time, each on a context that computed nothing before; the model is loaded as usual."""

    def __init__(self, config: Config) -> None:
        spec = config.model("smollm2-135m-instruct")
        path = str(layout.locate(spec))
        self._runner = runner.load(path, spec, config.engine, lambda _: None, cells=CELLS, n_gpu_layers=0)
        self._params = replace(self._runner._context.params, n_ctx=CELLS, n_seq=8)

    def close(self) -> None:
        self._runner.close(EngineClosed("the comparison is over"))

    def answer(self, question: Asked, other: Mapping[int, Choice] | None = None) -> Trace:
        """Answer `question`, and remember how far the choices of `other` were from being made."""
        fresh = self._fresh()
        matcher = fresh.matcher(question.grammar) if question.grammar else None
        prompt = fresh.encode(question.turns)
        generation = Generation(prompt, question.params, matcher=matcher, closes=question.schema is not None)
        trace = Trace(question, generation, other)
        fresh.generate(generation, question.params)
        self._run()
        return trace

    def weigh(self, scoring: Scoring) -> list[float]:
        """Return the log-probabilities that `scoring` asks for."""
        again = Scoring(list(scoring.job.tokens), scoring._continuations)
        self._fresh().submit(again)
        self._run()
        return again.result.result(timeout=0)

    def bounds(self, like: Asked, probes: Sequence[str] = PROBES) -> Bounds:
        """Measure on questions of our own, asked like `like`."""
        chance, apart, shift = random.Random(0), 0.0, 0.0
        for probe in probes:
            trace = self.answer(replace(like, turns=(Turn("user", probe),), grammar=None, schema=None))
            tokens, prompt = trace.generation.job.tokens, trace.generation.job.prompt
            context = self._fresh()._context
            expected = [
                *decode(context, [(0, 0, tokens[:prompt])])[0],
                *(decode(context, [(0, at, tokens[at : at + 1])])[0][0] for at in range(prompt, len(tokens))),
            ]
            found = among_others(self._fresh()._context, tokens, chance)
            for row, reference in zip(found, expected, strict=True):
                apart = max(apart, float(np.abs(row - reference)[::EVERY].max()))
                second, first = np.argsort(reference)[-2:]
                before, after = reference[first] - reference[second], row[first] - row[second]
                shift = max(shift, abs(float(after - before)))
        return Bounds(max(STATED.row, 2 * apart), max(STATED.lead, 2 * shift))

    def _fresh(self) -> Runner:
        self._runner._context.close()
        self._runner._context = Context(self._runner.model, self._params)
        limits = self._runner.scheduler.limits
        self._runner.scheduler = Scheduler(replace(limits, cells=CELLS, sequences=self._params.n_seq, parallel=1))
        return self._runner

    def _run(self) -> None:
        while self._runner.busy:
            self._runner.step()


def decode(context: Context, parts: Sequence[tuple[int, int, list[int]]]) -> list[list[Row]]:
    """Compute (sequence, start, tokens) in one batch; return the logits of every token, by part."""
    chunks = [Chunk(Job(tokens, 0), sequence, start, tokens, len(tokens)) for sequence, start, tokens in parts]
    assert context.decode(chunks)
    rows = count()
    return [[context.logits(next(rows)).copy() for _ in tokens] for _, _, tokens in parts]


def among_others(context: Context, tokens: list[int], chance: random.Random) -> list[Row]:
    """Compute `tokens` in parts, in batches with other sequences, whose cells are freed and taken in between."""
    rows: list[Row] = []
    while len(rows) < len(tokens):
        for sequence in range(1, 5):
            context.cut(sequence, 0)
        others = [(i, 0, chance.choices(tokens, k=chance.randint(1, 16))) for i in range(1, chance.randint(1, 4) + 1)]
        own = (0, len(rows), tokens[len(rows) : len(rows) + chance.choice((1, 1, 2, 8, 30))])
        at = chance.randint(0, len(others))
        rows += decode(context, [*others[:at], own, *others[at:]])[at]
    return rows
