"""Models that keep one state a sequence, on tiny random files: recurrent, hybrid, and one with a sliding window.

What runs together, is forked, paused, aborted or restored says what a lone request says on a fresh context. These
models run in floats, so that the logits hardly depend on how batches are cut; the bound is far below what any wrong
state gives (0.1 to 3.6, measured by breaking each rule on purpose).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from numpy.typing import NDArray

from engine import config, instructions
from engine.generation import Generation
from engine.llama import Context, ContextParams, Model
from engine.runner import Runner
from engine.sampling import SamplingParams, resolve

BOUND = 0.02
SPEC = config.load().model("smollm2-135m-instruct").model_copy(update={"name": "tiny"})
DEFAULTS = config.load().engine.sampling.model_dump()
MAKERS = {each.__name__: each for each in (tiny_models.mamba, tiny_models.hybrid, tiny_models.sliding)}


class Watched(Generation):
    """A generation that keeps the logits of each choice."""

    def __init__(self, prompt: list[int], params: SamplingParams, priority: int = 0) -> None:
        super().__init__(prompt, params, priority=priority)
        self.rows: list[NDArray[np.float32]] = []

    def advance(self, context: Context, rows: Sequence[int], branch: int | None = None) -> bool:
        self.rows.append(context.logits(rows[-1]).copy())
        return super().advance(context, rows, branch)


def greedy(tokens: int = 8) -> SamplingParams:
    return resolve(DEFAULTS, {"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": tokens})


class Bench:
    """Runners on one model, and what each prompt says alone."""

    def __init__(self, model: Model) -> None:
        self.model, self._alone = model, dict[tuple[int, ...], Watched]()

    def fresh(self, cells: int = 512) -> Runner:
        params = ContextParams(cells, 32, 12, n_threads=1, n_threads_batch=1)
        return Runner(self.model, Context(self.model, params), SPEC, 4)

    def alone(self, prompt: list[int]) -> Watched:
        if tuple(prompt) not in self._alone:
            runner = self.fresh()
            self._alone[tuple(prompt)] = ask(runner, prompt)
            run(runner)
            runner._context.close()
        return self._alone[tuple(prompt)]


def ask(runner: Runner, prompt: list[int], *, priority: int = 0, pin: int = 0) -> Watched:
    generation = Watched(list(prompt), greedy(), priority)
    generation.job.pin = pin
    runner.generate(generation, greedy())
    return generation


def run(runner: Runner) -> None:
    while runner.busy:
        runner.step()


def assert_same(found: Watched, expected: Watched) -> None:
    for at, (row, reference) in enumerate(zip(found.rows, expected.rows, strict=False)):
        assert float(np.abs(row - reference).max()) <= BOUND, f"other logits at token {at}"
        chosen = [each.job.tokens[each.job.prompt + at :][:1] for each in (found, expected)]  # none at the end
        if chosen[0] != chosen[1]:
            second, first = np.partition(reference, -2)[-2:]
            assert first - second <= 2 * BOUND
            return


@pytest.fixture(scope="module", params=list(MAKERS))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    maker: Callable[[Path], Path] = MAKERS[request.param]
    model = Model(maker(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))
    assert model.whole == (request.param != "sliding") and bool(model.window) == (request.param == "sliding")
    yield Bench(model)
    model.close()


def prompts(count: int, seed: int = 1) -> list[list[int]]:
    """Return prompts that share beginnings of many lengths."""
    chance = random.Random(seed)
    head = [chance.randrange(40, 120) for _ in range(60)]
    return [
        head[: chance.randrange(61)] + [chance.randrange(40, 120) for _ in range(chance.randint(1, 30))]
        for _ in range(count)
    ]


def test_together_and_after_each_other(bench: Bench) -> None:
    runner = bench.fresh()
    for _ in range(2):
        asked = [(prompt, ask(runner, prompt, pin=5)) for prompt in prompts(6)]
        run(runner)
        for prompt, found in asked:
            assert_same(found, bench.alone(prompt))
    runner._context.close()


def test_a_conversation_goes_on(bench: Bench) -> None:
    runner, prompt = bench.fresh(), prompts(1)[0]
    for turn in range(3):
        found = ask(runner, prompt)
        run(runner)
        assert_same(found, bench.alone(prompt))
        assert turn == 0 or found.job.cached > 0, "what was said is not computed again"
        prompt = [*found.job.tokens, 50 + turn, 60]
    runner._context.close()


def test_aborts_at_any_moment(bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    runner, chance = bench.fresh(), random.Random(7)
    real = runner._context.decode

    def decode(chunks: Sequence[object]) -> bool:
        """Abort before it begins, or throw away what was done: states are then half-way."""
        if chance.random() < 0.2:
            runner._context.abort.set()
        done = real(chunks)  # type: ignore[arg-type]
        runner._context.abort.clear()
        return done and chance.random() > 0.1

    monkeypatch.setattr(runner._context, "decode", decode)
    for seed in range(3):
        asked = [(prompt, ask(runner, prompt)) for prompt in prompts(4, seed)]
        run(runner)
        for prompt, found in asked:
            assert_same(found, bench.alone(prompt))
    runner._context.close()
    assert not caplog.records, "an abort was asked for and is no error"


def test_paused_for_chat_and_resumed(bench: Bench) -> None:
    runner, (one, two, chat) = bench.fresh(), prompts(3, seed=3)
    background = [ask(runner, prompt, priority=1) for prompt in (one, two)]
    for _ in range(5):
        runner.step()
    in_front = ask(runner, chat)
    run(runner)
    for prompt, found in zip((one, two, chat), (*background, in_front), strict=True):
        assert_same(found, bench.alone(prompt))
    runner._context.close()


def test_labels_are_weighed(bench: Bench) -> None:
    runner, other = bench.fresh(), bench.fresh()
    prompt, labels = prompts(1, seed=5)[0], ["red apple", "red wine", "blue", "green", "red"]
    first = runner.score(prompt, labels, pin=4)
    run(runner)
    ask(runner, prompts(1, seed=6)[0])
    again = runner.score(prompt, labels, pin=4)
    run(runner)
    alone = []
    for label in labels:  # one by one, so that nothing is a branch
        one = other.score(prompt, [label, "~"])
        run(other)
        alone.append(one.result.result(timeout=0)[0])
    for scores in (first.result.result(timeout=0), again.result.result(timeout=0)):
        firsts = {label[0] for label in labels}
        assert len(scores) == len(labels) and firsts == {"r", "b", "g"}
        assert scores[2] == pytest.approx(alone[2], abs=BOUND) and scores[3] == pytest.approx(alone[3], abs=BOUND)
        assert scores == pytest.approx(first.result.result(timeout=0), abs=BOUND)
    for each in (runner, other):
        each._context.close()


def test_more_than_the_cache_holds(bench: Bench) -> None:
    runner = bench.fresh(cells=256)
    for seed in range(4):
        asked = [(prompt, ask(runner, prompt)) for prompt in prompts(5, seed)]
        run(runner)
        for prompt, found in asked:
            assert_same(found, bench.alone(prompt))
    runner._context.close()


def test_a_state_of_another_context_goes_on(bench: Bench, tmp_path: Path) -> None:
    if bench.model.window:
        pytest.skip("a window is not kept on disk")
    head = prompts(1, seed=9)[0][:20] + [99] * 20
    first = bench.fresh()
    first.restore_from(bench.model.path, tmp_path, lambda part: None)
    ask(first, [*head, 41, 42], pin=len(head))
    run(first)
    first._context.close()
    second = bench.fresh()
    second.restore_from(bench.model.path, tmp_path, lambda part: None)
    found = ask(second, [*head, 61, 62], pin=len(head))
    run(second)
    assert found.job.cached == len(head)
    assert_same(found, bench.alone([*head, 61, 62]))
    second._context.close()


def test_a_state_of_other_instructions_is_not_used(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bench.model.window:
        pytest.skip("a window is not kept on disk")
    head = prompts(1, seed=9)[0][:20] + [99] * 20

    def cached() -> int:
        runner = bench.fresh()
        runner.restore_from(bench.model.path, tmp_path, lambda part: None)
        found = ask(runner, [*head, 41, 42], pin=len(head))
        run(runner)
        runner._context.close()
        return found.job.cached

    assert cached() == 0 and cached() == len(head)
    monkeypatch.setattr(instructions, "version", lambda: "other words")
    assert cached() == 0 and cached() == len(head)
    monkeypatch.undo()
    assert cached() == 0, "what the other words replaced is gone"
