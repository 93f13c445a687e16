"""Dialogues of any length → summaries: cut by a model's own tokens, its parts asked side by side, merged into one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from engine import instructions, summary
from engine.errors import Cancelled, ContextOverflow, InvalidInput
from engine.guard import wanted
from engine.inputs import Turn
from engine.metrics import Progress, Usage, report
from engine.tasks import Summary

if TYPE_CHECKING:
    from engine.answers import Answers
    from engine.pool import Pool
    from engine.runner import Runner
    from engine.stream import Stream
    from engine.summary import Aim, Call, Plan, Stretch

    Piece = Sequence[Stretch]

T = TypeVar("T")
_LEAST = 48  # tokens of a dialogue that a call must have room for
_COUNTING = 0.01  # seconds for which the compute thread counts tokens at once: others may be streaming
_TOLD = 1.0  # seconds between two reports
_LONGEST_NUMBER = 9_999  # words that a prompt is measured with


class Summarizer:
    """Summarises for one engine; keeps nothing."""

    def __init__(self, pool: Pool, answers: Answers) -> None:
        self._pool, self._answers = pool, answers

    def summarize(self, turns: Sequence[Turn], max_words: int | None, model: str = "summary") -> Summary:
        """Return a summary in the dialogue's language, of at most `max_words` words; of blanks alone an empty one.

        What is longer than the context is summarised in parts, and these again; for a part about which the model says
        nothing its leading sentences stand. `usage` adds up all calls: `seconds` are those of the whole, `ttft` is the
        time to the first token of the first call. Raises `InvalidInput`, `ContextOverflow` where the context has no
        room for a sentence, `Cancelled`, and as chat does.
        """
        if max_words is not None and max_words < 1:
            raise InvalidInput(f"max_words must be at least 1, not {max_words}")
        work = _Work(self._pool, self._answers, model)
        text = work.text(turns, None, max_words=max_words)
        return Summary(summary.cut_words(text, max_words), work.usage())

    def condense(self, former: str | None, turns: Sequence[Turn], most_tokens: int, model: str = "summary") -> str:
        """Return a summary of a former one and the turns after it, of at most `most_tokens` tokens of `model`.

        Raises as `summarize` does.
        """
        if most_tokens < 1:
            raise InvalidInput(f"most_tokens must be at least 1, not {most_tokens}")
        return _Work(self._pool, self._answers, model).text(turns, former, most_tokens=most_tokens)


class _Work:
    """One summary being made with one model."""

    def __init__(self, pool: Pool, answers: Answers, model: str) -> None:
        self._pool, self._answers, self._model = pool, answers, model
        self._began = self._told = time.perf_counter()
        self._usages: list[Usage] = []
        self._before = 0.0  # seconds until the first call
        self._total = 0
        self._language: instructions.Language = "en"
        self._han = True

    def text(
        self, turns: Sequence[Turn], former: str | None, *, max_words: int | None = None, most_tokens: int | None = None
    ) -> str:
        """Return the summary of a former one and what came then; at most `most_tokens` long where given."""
        said = [*([Turn("user", former)] if former else []), *turns]
        self._language = summary.language_of_dialogue(said)
        everything = Turn("user", "\n".join(f"{turn.name or ''} {turn.content}" for turn in said))
        self._han = self._language != "ko" or not wanted([everything])
        stretches = summary.stretches_of(turns, self._language, former)
        if not stretches:
            return ""
        plan, slots = self._plan(stretches, max_words, most_tokens)
        return self._merged(stretches, plan, 2 * slots)

    def usage(self) -> Usage:
        """Return what all calls so far cost together."""
        seconds = time.perf_counter() - self._began
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in self._usages),
            cached_tokens=sum(usage.cached_tokens for usage in self._usages),
            completion_tokens=sum(usage.completion_tokens for usage in self._usages),
            forced_tokens=sum(usage.forced_tokens for usage in self._usages),
            ttft=self._before + self._usages[0].ttft if self._usages else seconds,
            seconds=seconds,
        )

    def _plan(self, stretches: Piece, max_words: int | None, most_tokens: int | None) -> tuple[Plan, int]:
        """Return how to go about it with the model that is there, and how many calls it answers at once."""
        asked = [self._prompt(told[self._language], "", _LONGEST_NUMBER) for told in _TOLD_OF]
        cells, slots, overhead = self._ask(partial(_facts, asked))
        label = max(self._counted(sorted({one.label for one in stretches})))
        text = summary.listing(stretches)
        words, tokens = summary.count_words(text), sum(self._counted(summary.written(stretches)))
        measured = summary.Measured(cells, overhead + label, words, tokens)
        target = summary.default_words(words) if max_words is None else min(max_words, max(words, _LEAST))
        target = target if most_tokens is None else measured.words_in(most_tokens)
        plan = summary.plan_for(measured, target, most_tokens)
        if min(plan.last.room, plan.part.room) < _LEAST:
            raise ContextOverflow(measured.overhead + plan.part.aim.tokens + _LEAST, cells, at_least=True)
        return plan, slots

    def _merged(self, stretches: Piece, plan: Plan, at_once: int) -> str:
        """Summarise in rounds, each of fewer pieces than the one before, until all fits one call."""
        told, last = instructions.SUMMARIZE[self._language], False
        before = 0
        while not last:
            pieces, last = self._pieces(stretches, plan, told)
            if before and len(pieces) >= before and not last:
                plan = plan.tighter()
            self._total = len(self._usages) + len(pieces) + (not last)
            texts = self._answered(pieces, (plan.last if last else plan.part).aim, told, at_once)
            stretches, before = summary.stretches_of_parts(texts), len(pieces)
            told = instructions.SUMMARIZE_PARTS[self._language]
        return texts[0]

    # ---- cutting

    def _pieces(self, stretches: Piece, plan: Plan, told: str) -> tuple[list[Piece], bool]:
        """Return what each call reads, and whether it is the last one."""
        sizes = self._counted(summary.written(stretches))
        if sum(sizes) <= plan.last.room and self._fits(stretches, plan.last, told):
            return [stretches], True
        while any(size > plan.part.room and len(one.text) > 1 for one, size in zip(stretches, sizes, strict=True)):
            stretches = [
                part
                for one, size in zip(stretches, sizes, strict=True)
                for part in (one.halves() if size > plan.part.room and len(one.text) > 1 else [one])
            ]
            sizes = self._counted(summary.written(stretches))
        packed = summary.packed(stretches, sizes, plan.part.room)
        return [part for piece in packed for part in self._fitting(piece, plan.part, told)], False

    def _fitting(self, piece: Piece, call: Call, told: str) -> list[Piece]:
        """Return a piece, cut further where its tokens together are more than apart."""
        if self._fits(piece, call, told):
            return [piece]
        if len(piece) == 1 and len(piece[0].text) == 1:
            raise ContextOverflow(call.most, call.most)
        return [part for half in summary.in_two(piece) for part in self._fitting(half, call, told)]

    def _fits(self, piece: Piece, call: Call, told: str) -> bool:
        asked = self._prompt(told, summary.listing(piece), call.aim.words)
        return self._ask(partial(_tokens, asked)) + call.aim.tokens <= call.most

    def _counted(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        while len(counts) < len(texts):
            counts += self._ask(partial(_some_counted, texts, len(counts)))
            self._look()
        return counts

    def _shortened(self, text: str, most: int) -> str:
        return self._ask(partial(_shortened, text, most))

    def _ask(self, job: Callable[[Runner], T]) -> T:
        return self._pool.call(self._model, job, "llm")

    # ---- asking

    def _prompt(self, told: str, text: str, words: int) -> tuple[Turn, Turn]:
        return summary.prompt(told, text, words, self._language)

    def _answered(self, pieces: Sequence[Piece], aim: Aim, told: str, at_once: int) -> list[str]:
        """Return a summary of each piece, of at most the tokens of `aim`; none runs on where one fails."""
        running: deque[Stream] = deque()
        texts: list[str] = []
        try:
            for piece in pieces:
                running.append(self._begin(piece, aim, told))
                if len(running) == at_once:
                    texts.append(self._read(running[0], pieces[len(texts)], aim))
                    running.popleft()
            while running:
                texts.append(self._read(running[0], pieces[len(texts)], aim))
                running.popleft()
        finally:
            for stream in running:
                stream.close()
        return texts

    def _begin(self, piece: Piece, aim: Aim, told: str) -> Stream:
        self._before = self._before or time.perf_counter() - self._began
        asked = self._prompt(told, summary.listing(piece), aim.words)
        sampling = {"temperature": 0.0, "max_tokens": aim.tokens, "han": self._han}
        return self._answers.ask(self._model, asked, sampling, look=self._look)

    def _read(self, stream: Stream, piece: Piece, aim: Aim) -> str:
        for _ in stream:
            self._look()
        reply = stream.reply
        if reply.finish_reason == "cancelled":
            raise Cancelled("the summary was cancelled")
        self._usages.append(reply.usage)
        text = summary.finished(reply.text) if reply.finish_reason == "length" else reply.text.strip()
        if not summary.says_something(text):
            text = self._ask(partial(_heads, piece, aim.tokens))
        return self._shortened(text, aim.tokens)

    def _look(self) -> None:
        """Tell how far it is, once a second. Raises `Cancelled`."""
        now = time.perf_counter()
        if now - self._told >= _TOLD:
            self._told = now
            report(self._pool.models.progress, Progress("summarize", len(self._usages), self._total, "part"))


_TOLD_OF = (instructions.SUMMARIZE, instructions.SUMMARIZE_PARTS)


def _facts(asked: Sequence[tuple[Turn, ...]], runner: Runner) -> tuple[int, int, int]:
    """Return a model's cells, how many requests it runs at once, and the tokens of the longest prompt."""
    return runner.kv_cells, runner.scheduler.limits.parallel, max(_tokens(turns, runner) for turns in asked)


def _tokens(turns: tuple[Turn, ...], runner: Runner) -> int:
    """Return how many tokens a prompt has; of one that is refused unread, at least how many."""
    try:
        return len(runner.encode(turns))
    except ContextOverflow as error:
        return error.tokens


def _some_counted(texts: Sequence[str], start: int, runner: Runner) -> list[int]:
    until, counts = time.perf_counter() + _COUNTING, []
    for text in islice(texts, start, None):
        counts.append(len(runner.model.vocabulary.tokenize(text)))
        if time.perf_counter() > until:
            break
    return counts


def _shortened(text: str, most: int, runner: Runner) -> str:
    return summary.shortened(text, most, partial(_length, runner=runner))


def _heads(piece: Piece, most: int, runner: Runner) -> str:
    return summary.heads(piece, most, partial(_length, runner=runner))


def _length(text: str, runner: Runner) -> int:
    """Return the tokens of a text in a prompt, where words that control are cut into several; as it is, or in a line.

    Of both the larger number: a part is read in one line.
    """
    bare = _tokens((Turn("user", ""),), runner)
    return max(_tokens((Turn("user", one),), runner) for one in (text, summary.one_line(text))) - bare
