"""One request's use of its logits, with a scripted model: letters are tokens, a row of logits is a list of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import EngineError
from engine.generation import Finished, Generation
from engine.sampling import SamplingParams

EOG = 0


class Letters:
    """A vocabulary in which token n is the byte n; 0 ends a generation."""

    eog = frozenset([EOG])
    pieces: ClassVar = [b"", *(bytes([n]) for n in range(1, 256))]


class Script:
    """A sampler that draws what it was told to, whatever the logits."""

    def __init__(self, text: str, *, end: bool = True) -> None:
        self._tokens = [*text.encode(), *[EOG] * end]
        self.accepted: list[int] = []
        self.closed = 0

    def sample(self, context: object, row: int) -> int:
        return self._tokens.pop(0)

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def close(self) -> None:
        self.closed += 1


class Rails:
    """A matcher of one text in which the bytes of `free` are chosen and all others forced."""

    def __init__(self, text: str, free: str = "") -> None:
        self._left, self._free = list(text.encode()), free.encode()
        self.masked = 0

    @property
    def done(self) -> bool:
        return not self._left

    def mask(self, logits: object) -> None:
        self.masked += 1

    def accept(self, token: int) -> list[int]:
        assert token == self._left.pop(0)
        return self.forced()

    def forced(self) -> list[int]:
        run: list[int] = []
        while self._left and self._left[0] not in self._free:
            run.append(self._left.pop(0))
        return run


class Rows:
    """A context whose batch entries have these logits."""

    def __init__(self, rows: Sequence[Sequence[float]] = ((0.0,),)) -> None:
        self._rows = np.array(rows, np.float32)

    def logits(self, row: int) -> np.ndarray[Any, Any]:
        return self._rows[row]


def params(**over: Any) -> SamplingParams:
    return SamplingParams(
        **{"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repeat_penalty": 1, "max_tokens": 99, **over}
    )


def begin(generation: Generation, sampler: Script) -> None:
    generation.begin(Letters(), sampler)  # type: ignore[arg-type]


def write(generation: Generation, sampler: Script) -> tuple[list[str], Finished]:
    """Run to the end as the runner would; return the pieces and the last word."""
    begin(generation, sampler)
    while not generation.over:
        assert generation.advance(Rows(), range(1)) == generation.over  # type: ignore[arg-type]
    return drain(generation)


def drain(generation: Generation) -> tuple[list[str], Finished]:
    events = [generation.out.get_nowait() for _ in range(generation.out.qsize())]
    pieces, last = [e for e in events if isinstance(e, str)], events[-1]
    assert isinstance(last, Finished) and len(pieces) == len(events) - 1
    assert "".join(pieces) == last.text
    return pieces, last


def on_rails(text: str, free: str = "", **over: Any) -> Generation:
    return Generation([1, 2], params(**over), matcher=Rails(text, free))  # type: ignore[arg-type]


def test_pieces_then_one_last_word() -> None:
    sampler = Script("hey")
    pieces, last = write(Generation([1, 2], params()), sampler)
    assert pieces == ["h", "e", "y"]
    assert (last.text, last.finish_reason, sampler.closed) == ("hey", "stop", 1)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.forced_tokens) == (2, 3, 0)
    assert 0 <= last.usage.ttft <= last.usage.seconds


@given(st.integers(1, 8))
def test_max_tokens_is_exact(most: int) -> None:
    _, last = write(Generation([1], params(max_tokens=most)), Script("123456789"))
    assert (last.text, last.finish_reason) == ("123456789"[:most], "length")
    assert last.usage.completion_tokens == most


def test_an_answer_of_just_max_tokens_was_cut_as_far_as_anyone_knows() -> None:
    _, last = write(Generation([1], params(max_tokens=3)), Script("abc"))
    assert (last.text, last.finish_reason) == ("abc", "length")


def test_characters_come_whole_and_half_ones_not_at_all() -> None:
    pieces, last = write(Generation([1], params()), Script("안녕"))
    assert pieces == ["안", "녕"]
    pieces, last = write(Generation([1], params(max_tokens=4)), Script("안녕"))
    assert (pieces, last.text) == (["안"], "안")


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it() -> None:
    pieces, last = write(Generation([1], params(stop=("END",))), Script("the ENtry END more"))
    assert (last.text, last.finish_reason) == ("the ENtry ", "stop")
    assert not any("END".startswith(piece) for piece in pieces), "a possible beginning of a stop string is held back"


def test_what_was_held_back_for_a_stop_string_comes_at_the_end() -> None:
    assert write(Generation([1], params(stop=("END",))), Script("the EN"))[1].text == "the EN"
    assert write(Generation([1], params(stop=("END",), max_tokens=6)), Script("the END"))[1].text == "the EN"


def test_what_a_schema_forces_is_not_sampled() -> None:
    generation, sampler = on_rails("[yes,no]", free="yn"), Script("yn", end=False)
    _, last = write(generation, sampler)
    assert (last.text, last.finish_reason) == ("[yes,no]", "stop")
    assert (last.usage.completion_tokens, last.usage.forced_tokens) == (8, 6)
    assert bytes(sampler.accepted) == b"[es,o]", "forced tokens count for the repeat penalty"
    assert bytes(generation.job.tokens[2:]) == b"[yes,no]"


def test_what_is_forced_at_once_joins_the_prompt() -> None:
    generation = on_rails("[yes]", free="y")
    begin(generation, Script("y"))
    assert bytes(generation.job.tokens[2:]) == b"["
    assert (generation.job.prompt, generation.job.room, generation.over) == (2, 98, False)


def test_an_answer_that_is_forced_as_a_whole_is_over_before_it_runs() -> None:
    generation, sampler = on_rails("[]"), Script("")
    begin(generation, sampler)
    _, last = drain(generation)
    assert generation.over and sampler.closed == 1
    assert (last.text, last.finish_reason, last.usage.forced_tokens) == ("[]", "stop", 2)


@given(st.integers(1, 12), st.sampled_from(["", "y", "yn", ","]))
def test_a_forced_run_that_does_not_fit_ends_with_length(most: int, free: str) -> None:
    text = "[yes,no]"
    sampler = Script("".join(c for c in text if c in free), end=False)
    _, last = write(on_rails(text, free, max_tokens=most), sampler)
    assert last.text == text[:most]
    assert last.finish_reason == ("stop" if most >= len(text) else "length")
    assert last.usage.completion_tokens == min(most, len(text))


def test_a_stop_string_inside_a_forced_run() -> None:
    _, last = write(on_rails("[yes,no]", free="y", stop=(",",)), Script("y"))
    assert (last.text, last.finish_reason) == ("[yes", "stop")


def test_forced_tokens_found_in_the_cache_are_no_part_of_the_prompt() -> None:
    generation = on_rails("[yes]", free="y")
    begin(generation, Script("y"))
    generation.job.cached = 3  # both tokens of the prompt, and the forced bracket
    while not generation.advance(Rows(), range(1)):  # type: ignore[arg-type]
        pass
    _, last = drain(generation)
    assert (last.usage.prompt_tokens, last.usage.cached_tokens) == (2, 2)


def test_cancelled_keeps_the_text_so_far() -> None:
    generation, sampler = Generation([1], params()), Script("abc")
    begin(generation, sampler)
    generation.advance(Rows(), range(1))  # type: ignore[arg-type]
    generation.stop()
    generation.stop()
    generation.fail(EngineError("too late"))
    _, last = drain(generation)
    assert (last.text, last.finish_reason, sampler.closed) == ("a", "cancelled", 1)


def test_an_error_is_the_last_word() -> None:
    generation, sampler, error = Generation([1], params()), Script("abc"), EngineError("broken")
    begin(generation, sampler)
    generation.advance(Rows(), range(1))  # type: ignore[arg-type]
    generation.fail(error)
    generation.stop()
    assert [generation.out.get_nowait() for _ in range(generation.out.qsize())] == ["a", error]
    assert generation.over and sampler.closed == 1


def test_ended_before_it_began() -> None:
    generation = Generation([1], params())
    generation.stop()
    assert drain(generation)[1].finish_reason == "cancelled"
    failed = Generation([1], params())
    failed.fail(EngineError("no"))
    assert failed.over and isinstance(failed.out.get_nowait(), EngineError)
