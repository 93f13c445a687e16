"""The guide's four lines: what is measured, what is told where it cannot be, and that nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from engine import speed
from engine.config import ModelSpec, Source
from engine.errors import Cancelled, EngineClosed, OutOfBudget
from engine.metrics import Progress
from engine.speed import Line, Measured, Search

ORDER = ["first chat token", "classification", "embedding", "memory search"]


class FakeStream:
    reply = SimpleNamespace(usage=SimpleNamespace(prompt_tokens=123))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[str]:
        return iter(())  # a model that ends at once has answered all the same


class Clocked:
    """An engine in which each call takes as long as it is told, by a clock of its own."""

    def __init__(self) -> None:
        self.now, self.takes = 0.0, dict.fromkeys(("stream", "classify", "embed", "remember", "search"), 0.01)
        self.calls: list[tuple[str, Any]] = []
        self.homes: list[Path] = []
        self.fails: dict[str, Exception] = {}
        self.open = False

    @contextmanager
    def opened(self, home: Path) -> Iterator[Clocked]:
        assert list(home.iterdir()) == []
        self.homes.append(home)
        (home / "memory.sqlite3").write_bytes(b"x")
        self.open = True
        yield self
        self.open = False

    def stream(self, messages: Sequence[dict[str, str]], /, *, context: Sequence[str], max_tokens: int) -> Any:
        assert [turn["role"] for turn in messages] == ["system", "user"]
        return self._call("stream", (messages[1]["content"], *context), FakeStream())

    def classify(self, texts: str, /) -> object:
        return self._call("classify", texts)

    def embed(self, texts: str, /) -> object:
        return self._call("embed", texts)

    def remember(self, texts: Sequence[str], /) -> object:
        return self._call("remember", texts)

    def search(self, query: str, /) -> object:
        return self._call("search", query)

    def _call(self, name: str, given: Any, answer: object = None) -> object:
        assert self.open
        first = not any(called == name for called, _ in self.calls)
        self.calls.append((name, given))
        if name in self.fails:
            raise self.fails[name]
        self.now += 60.0 if first else self.takes[name]  # the first one loads the model
        return answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    made = Clocked()
    monkeypatch.setattr(speed.time, "perf_counter", lambda: made.now)
    monkeypatch.setattr(speed, "_busy", str)
    return made


@pytest.fixture
def measure(fake: Clocked, tmp_path: Path) -> Callable[..., list[Line]]:
    def run(own: Search | None = None, progress: Any = None, **roles: ModelSpec | None) -> list[Line]:
        for name in ("chat", "embedding"):
            (tmp_path / f"{name}.gguf").touch()
        here = {role: spec(tmp_path / f"{role}.gguf") for role in ("chat", "embedding")}
        here["classification"] = here["embedding"]
        named = {role: entry for role, entry in {**here, **roles}.items() if entry}
        return speed.measure(Measured(fake.opened, named, own, progress))

    return run


def spec(path: Path) -> ModelSpec:
    return ModelSpec(name=path.stem, kind="llm", source=Source(path=str(path)))


def test_each_line_is_the_median_of_warm_calls_against_the_guide(
    fake: Clocked, measure: Callable[..., list[Line]]
) -> None:
    fake.takes |= {"stream": 3.1, "classify": 0.2, "embed": 0.05, "search": 0.25}
    lines = measure()
    assert [line.what for line in lines] == ORDER
    assert [line.target for line in lines] == [3.0, 0.5, 0.1, 0.2]
    assert [line.measured for line in lines] == pytest.approx([3.1, 0.2, 0.05, 0.25])
    assert [line.met for line in lines] == [False, True, True, False]
    assert [line.model for line in lines] == ["chat", "embedding", "embedding", "embedding"]
    assert [line.over for line in lines] == [
        "a prompt of 123 tokens", None, None, "64 made-up memories, removed again",
    ]  # fmt: skip
    assert [bool(line.step) for line in lines] == [True, False, False, True]


def test_no_two_calls_of_a_kind_can_share_what_was_computed(fake: Clocked, measure: Callable[..., list[Line]]) -> None:
    measure()
    given = [str(call) for call in fake.calls]
    assert len(set(given)) == len(given)
    asked = [set(words) for name, words in fake.calls if name == "stream"]
    assert len(asked) == 4
    assert not any(one & other for n, one in enumerate(asked) for other in asked[:n])


def test_the_borrowed_home_is_gone(fake: Clocked, measure: Callable[..., list[Line]]) -> None:
    measure()
    [home] = fake.homes
    assert not home.exists()
    fake.fails["classify"] = Cancelled("enough")
    with pytest.raises(Cancelled):
        measure()
    assert not fake.homes[1].exists()


def test_made_up_memories_are_all_different() -> None:
    assert len(set(speed.made_up())) == speed.MADE_UP


def test_own_memories_are_searched_where_they_are_after_the_other_engine_has_gone(
    fake: Clocked, measure: Callable[..., list[Line]]
) -> None:
    asked: list[tuple[str, bool]] = []
    lines = measure(own=Search(lambda query: asked.append((query, fake.open)), "7 memories"))
    assert lines[-1].over == "7 memories"
    assert len(asked) == 4
    assert not any(still_open for _, still_open in asked)
    assert {name for name, _ in fake.calls} == {"stream", "classify", "embed"}


def test_a_model_that_is_not_here_is_told_with_the_command(
    measure: Callable[..., list[Line]], tmp_path: Path, fake: Clocked
) -> None:
    lines = measure(chat=spec(tmp_path / "away.gguf"), classification=None)
    assert lines[0] == Line("first chat token", 3.0, model="away", step="gieok models pull away")
    assert lines[1] == Line("classification", 0.5, step="the profile names no classification model")
    assert lines[2].met is True
    assert {name for name, _ in fake.calls} == {"embed", "remember", "search"}


def test_what_fails_is_told_in_its_line_and_the_others_go_on(fake: Clocked, measure: Callable[..., list[Line]]) -> None:
    error = OutOfBudget.__new__(OutOfBudget)
    Exception.__init__(error, "it does not fit")
    fake.fails["stream"] = error
    first, *rest = measure()
    assert (first.measured, first.met, first.step) == (None, None, str(error))
    assert all(line.met for line in rest)


@pytest.mark.parametrize("error", [Cancelled("enough"), EngineClosed("closed")])
def test_an_end_ends_it(fake: Clocked, measure: Callable[..., list[Line]], error: Exception) -> None:
    fake.fails["embed"] = error
    with pytest.raises(type(error)):
        measure()


def test_progress_is_told_and_may_cancel(measure: Callable[..., list[Line]]) -> None:
    told: list[Progress] = []
    measure(progress=told.append)
    assert [event.task for event in told] == [*(f"measure speed: {what}" for what in ORDER), "measure speed"]
    with pytest.raises(Cancelled):
        measure(progress=lambda event: event.task != "measure speed: embedding")


def test_a_busy_machine_is_named_as_the_reason(
    fake: Clocked, measure: Callable[..., list[Line]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_busy", lambda: "close them")
    fake.takes["embed"] = 9.0
    assert [line.step for line in measure()] == ["", "", "close them", ""]


@pytest.mark.parametrize(("load", "cores", "told"), [(0.2, 2, ""), (1.0, 2, "load 1.0 on 2"), (9.0, 16, "load 9.0")])
def test_what_counts_as_busy(load: float, cores: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(speed.tuning, "usable_cores", lambda: cores)
    assert told in speed._busy()
    assert bool(speed._busy()) is bool(told)
    monkeypatch.delattr(speed.os, "getloadavg")
    assert speed._busy() == ""
