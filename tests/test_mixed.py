"""Many callers at once on the starter models: nobody gets what is another's, and chat goes first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from alone import PROBES, Alone, compare
from asks import GREEDY
from mixed import CONFIG, Heard, listen, soak

from engine import Engine, config
from engine.cache import common_prefix
from engine.llama import Context
from engine.scheduler import Chunk, Job

pytestmark = pytest.mark.model

HANG = 60.0
SYSTEM = (
    "You are the porter of an old hotel by the sea. You know every guest by name, you never sleep, and you answer in "
    "one short sentence, politely, without ever saying no."
)


@pytest.mark.slow
def test_mixed_calls_of_threads_and_tasks(tmp_path: Path) -> None:
    """A tenth of what `scripts/soak.py mixed` runs."""
    report = soak(tmp_path, 30, seed=15, probes=PROBES[:1])
    assert not report.failures
    assert report.kinds.total() == 30 and report.compared > 10 and report.weighed > 0
    assert max(report.batches) > 4, "there was nothing to mix up"
    # the comparison can fail: an answer that belongs to another does not pass
    assert report.noticed > 0.9 * report.compared


# ---- one engine whose batches are seen


class Watched:
    """An engine, its chat model's batches, and what it was asked to generate."""

    def __init__(self, engine: Engine, patch: pytest.MonkeyPatch) -> None:
        self.engine, self.heard = engine, Heard()
        self.batches: list[Sequence[Chunk]] = []
        self.before: Callable[[], object] = lambda: None
        listen(engine, self.heard)
        engine.load("chat")
        context: Context = next(iter(engine._models.steppable()))._context
        real = context.decode

        def decode(chunks: Sequence[Chunk]) -> bool:
            self.before()
            self.batches.append(chunks)
            return real(chunks)

        patch.setattr(context, "decode", decode)

    def wait_for_calls(self, number: int) -> None:
        """Wait, on any thread, until so many calls wait for the compute thread."""
        pause = threading.Event()
        for _ in range(int(HANG / 0.001)):
            if self.engine._worker._jobs.qsize() >= number:
                return
            pause.wait(0.001)
        raise AssertionError("waited too long")

    def steps_of(self, job: Job) -> list[int]:
        return [i for i, chunks in enumerate(self.batches) if any(chunk.job is job for chunk in chunks)]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture
def watched(settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with Engine(settings, profile="starter", home=tmp_path / "home") as engine:
        yield Watched(engine, monkeypatch)


def together(calls: Sequence[Callable[[], Any]]) -> tuple[list[threading.Thread], list[Any]]:
    """Start a thread for each call; the list fills with their results, in order, while they run."""
    results: list[Any] = [None] * len(calls)

    def run(i: int) -> None:
        results[i] = calls[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    return threads, results


def test_background_work_makes_no_progress_while_a_chat_streams(watched: Watched, settings: Path) -> None:
    """The chat arrives in the middle of the extraction's answer, whose decode waits for it."""
    under_way, engine = threading.Event(), watched.engine

    def hold() -> None:
        if not under_way.is_set() and len(watched.heard.traces[0].answer) > 20:
            under_way.set()
            watched.wait_for_calls(1)

    watched.before = hold
    unsure = " ".join(f"{n}번 바퀴는 접이식이야." for n in range(1, 9))  # a decision each
    threads, results = together([lambda: engine.extract_memory(unsure)])
    assert under_way.wait(HANG)
    pieces = list(engine.stream("Name three colours.", **GREEDY))
    threads[0].join(HANG)
    background, chat = watched.heard.traces
    mine, its = watched.steps_of(chat.generation.job), watched.steps_of(background.generation.job)
    assert pieces and mine == list(range(mine[0], mine[-1] + 1)), "the chat is never passed over"
    assert not set(mine) & set(its), "the extraction waits for the chat's end"
    assert its[0] < mine[0] and mine[-1] < its[-1], "it had begun, and goes on"
    with contextlib.closing(Alone(config.load(settings))) as alone:
        expected = alone.answer(background.question, background.choices)
        assert compare(background, expected, alone.bounds(chat.question, PROBES[:1])).wrong is None
    assert results[0] is not None and background.whole


def test_requests_that_arrive_together_compute_their_common_prefix_once(watched: Watched) -> None:
    guests = ("Where is the bar?", "Is it raining?", "Who has my key?", "Wake me at six.", "What is for lunch?")
    asked = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": guest}] for guest in guests]
    engine, prompts = watched.engine, [watched.engine.tokens(messages) for messages in asked]
    shared = min(common_prefix(prompts[0], other, len(other)) for other in prompts[1:])
    begun, release = threading.Event(), threading.Event()
    held = engine._worker.post(lambda: (begun.set(), release.wait(HANG)))
    assert begun.wait(HANG)
    threads, replies = together([lambda m=messages: engine.chat(m, **GREEDY) for messages in asked])  # type: ignore[misc]
    watched.wait_for_calls(len(guests))
    release.set()
    assert held.result(HANG)
    for thread in threads:
        thread.join(HANG)
    cached = sorted(reply.usage.cached_tokens for reply in replies)
    assert cached[0] == 0 and cached[1] >= shared > 40
    computed = [max(0, min(shared, c.start + len(c.tokens)) - c.start) for chunks in watched.batches for c in chunks]
    assert sum(computed) == shared
    assert [reply.usage.prompt_tokens for reply in replies] == list(map(len, prompts))
