"""One request's use of its logits, with a scripted model: letters are tokens, a row of logits is a list of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.closing import MOST_TOKENS
from engine.errors import EngineError, InvalidInput
from engine.generation import Finished, Generation
from engine.guard import Guard, holds
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
        self.closes = True
        self.asked: list[bytes] = []

    @property
    def done(self) -> bool:
        return not self._left

    def mask(self, logits: object) -> None:
        self.masked += 1

    def accept(self, token: int) -> list[int]:
        assert token == self._left.pop(0)
        return self.forced()

    def closing(self, written: bytes) -> list[int] | None:
        self.asked.append(written)
        return [*self._left] if self.closes else None

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


def railed(text: str, free: str = "", **over: Any) -> tuple[Generation, Rails]:
    rails = Rails(text, free)
    return Generation([1, 2], params(**over), matcher=rails), rails  # type: ignore[arg-type]


def on_rails(text: str, free: str = "", **over: Any) -> Generation:
    return railed(text, free, **over)[0]


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
    generation = on_rails(text, free, max_tokens=most)
    _, last = write(generation, sampler)
    assert (last.text, last.whole) == (text, True)
    assert last.finish_reason == ("stop" if most >= len(text) else "length")
    assert len(generation.job.tokens) == 2 + min(most, len(text)), "what closes it needs no cells"
    assert last.usage.completion_tokens == len(text)
    assert last.usage.forced_tokens == len(text) - sum(char in free for char in text[:most])


@pytest.mark.parametrize("most", range(1, 9))
def test_the_search_is_told_where_the_matcher_is(most: int) -> None:
    generation, rails = railed("[yes,no]", free="y", max_tokens=most)
    write(generation, Script("y", end=False))
    ended = most >= 8
    assert rails.asked == ([] if ended else [b"[" if most == 1 else b"[yes,no]"])


def test_without_an_end_the_text_stays_cut() -> None:
    generation, rails = railed("[yes,no]", free="yn", max_tokens=3)
    rails.closes = False
    _, last = write(generation, Script("y"))
    assert (last.text, last.finish_reason, last.whole) == ("[ye", "length", False)
    assert last.usage.completion_tokens == 3


def test_an_end_beyond_the_bound_is_not_written() -> None:
    """The forced run that did not fit counts with what closes it."""
    text = "[" + "x" * (MOST_TOKENS - 1) + "]"
    _, last = write(on_rails(text, max_tokens=1), Script(""))
    assert (last.text, last.whole, last.finish_reason) == (text, True, "length")
    _, last = write(on_rails("[x" + text[1:], max_tokens=1), Script(""))
    assert (last.text, last.whole, last.finish_reason) == ("[", False, "length")


def test_what_is_not_to_be_closed_is_not() -> None:
    generation = Generation([1], params(max_tokens=3), matcher=Rails("[yes]", "y"), closes=False)  # type: ignore[arg-type]
    _, last = write(generation, Script("y"))
    assert (last.text, last.finish_reason, last.whole) == ("[ye", "length", False)


def test_cancelled_documents_are_not_closed() -> None:
    generation, rails = railed("[yes]", free="y")
    begin(generation, Script("y"))
    generation.stop()
    assert drain(generation)[1].text == "["
    assert rails.asked == []


def test_a_stop_string_in_what_closes_a_document() -> None:
    _, last = write(on_rails("[yes,no]", free="y", max_tokens=2, stop=(",",)), Script("y"))
    assert (last.text, last.finish_reason, last.whole) == ("[yes", "stop", False)


def test_a_character_that_was_cut_is_made_whole() -> None:
    """Its first bytes were written: another character than the model meant, but one."""
    for most in range(2, 5):
        _, last = write(on_rails('"가나"', free="가", max_tokens=most), Script("가", end=False))
        assert (last.text, last.whole) == ('"가나"', True)


def test_a_stop_string_inside_a_forced_run() -> None:
    _, last = write(on_rails("[yes,no]", free="y", stop=(",",)), Script("y"))
    assert (last.text, last.finish_reason, last.whole) == ("[yes", "stop", False)


# what logits are left of a row


class Best:
    """A sampler that takes the best of the row that it is given."""

    def __init__(self) -> None:
        self.row: np.ndarray[Any, Any] | None = None

    def sample(self, context: Rows, row: int) -> int:
        self.row = context.logits(row)
        return int(self.row.argmax())

    def accept(self, token: int) -> None: ...

    def close(self) -> None: ...


class Only(Rails):
    """A matcher that lets these tokens come, and never ends."""

    def __init__(self, tokens: str) -> None:
        super().__init__("x", free="x")
        self._tokens = [ord(char) for char in tokens]

    def mask(self, logits: Any) -> None:
        kept = logits[self._tokens]
        logits[:] = -np.inf
        logits[self._tokens] = kept

    def accept(self, token: int) -> list[int]:
        return []


def best_of(likes: str, *, matcher: Rails | None = None, guard: Guard | None = None, **over: Any) -> bytes:
    """Write three tokens of a model that likes the letters of `likes`, the first best."""
    row = [0.0] * 256
    for rank, char in enumerate(likes.encode()):
        row[char] = max(row[char], 10.0 - rank)
    generation = Generation([1], params(max_tokens=3, **over), matcher=matcher, closes=False)  # type: ignore[arg-type]
    generation.begin(Letters(), Best(), guard)  # type: ignore[arg-type]
    while not generation.over:
        generation.advance(Rows([row]), range(1))  # type: ignore[arg-type]
    return bytes(generation.job.tokens[1:])


def test_a_bias_is_added() -> None:
    assert best_of("abc") == b"aaa"
    assert best_of("abc", logit_bias=((ord("c"), 2.5),)) == b"ccc"
    assert best_of("abc", logit_bias=((ord("a"), -1.5),)) == b"bbb"
    assert best_of("abc", logit_bias=((ord("z"), 100.0), (ord("c"), -100.0))) == b"zzz"


def test_a_token_that_is_ruled_out_never_comes() -> None:
    ruled_out = ((ord("a"), -math.inf), (ord("b"), -math.inf))
    assert best_of("abc", logit_bias=ruled_out) == b"ccc"
    assert best_of("abc", logit_bias=ruled_out, matcher=Only("abx")) == b"xxx"


def test_a_schema_is_stronger_than_a_bias_and_a_guard() -> None:
    assert best_of("abc", logit_bias=((ord("a"), 100.0),), matcher=Only("bc")) == b"bbb"
    assert best_of("abc", logit_bias=((ord("c"), -math.inf),), matcher=Only("c")) == b"ccc"
    han = Guard(Letters.pieces)
    first = "中".encode()[0]
    assert best_of("abc", guard=han, matcher=Only(chr(0xE5) + chr(0xE6))) == b"\xe5\xe5\xe5", "it steps back"
    assert first == 0xE4


def test_the_guard_follows_the_bytes() -> None:
    """E3 81 would be kana: the model likes them best, and gets the comma that begins alike."""
    guard = Guard(Letters.pieces)
    kana, comma = "ぁ".encode(), "、".encode()
    row = [0.0] * 256
    for rank, byte in enumerate([kana[0], kana[1], *comma[1:]]):
        row[byte] = 10.0 - rank
    generation = Generation([1], params(max_tokens=9))
    generation.begin(Letters(), Best(), guard)  # type: ignore[arg-type]
    while not generation.over:
        written = bytes(generation.job.tokens[1:])
        likes = list(row)
        likes[0xE3] = 20.0 if len(written) % 3 == 0 else -20.0
        generation.advance(Rows([likes]), range(1))  # type: ignore[arg-type]
    text = drain(generation)[1].text
    assert len(text) == 3 and not holds(text)


def test_a_bias_for_a_token_that_is_not_there() -> None:
    generation, sampler = Generation([1], params(logit_bias=((256, 1.0),))), Script("")
    with pytest.raises(InvalidInput, match="names token 256; the model has 256"):
        begin(generation, sampler)
    generation.fail(EngineError("as the runner does"))
    assert sampler.closed == 1


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
