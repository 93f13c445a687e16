"""Ends a document that was cut: a short way to its last bracket, found without the model.

The search sees nothing of the grammar but which bytes may come next, and so serves every grammar; it takes what it
writes for JSON where it looks for quotes and brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

MOST_TOKENS = 512  # that a closing may have
_MOST_STATES = 1_000  # tried in all: 0.1 ms each, 0.4 where a pattern is hard
_STATES_A_SEARCH = 150
_FREE = 32  # where more bytes than this may come, a string may hold nearly anything

_PLAIN, _QUOTED, _ESCAPED = range(3)
_NEVER = 2**31
_ENDS = {_PLAIN: (b"}", b"]", b","), _QUOTED: (b'"',), _ESCAPED: ()}


def _order(first: bytes) -> tuple[int, ...]:
    return tuple(dict.fromkeys(first + bytes(range(256))))


# what is tried first: what ends, then what is short; 1 before 0, since no year, month or day is 0
_IN_QUOTES = _order(
    b'"' + bytes(range(0x80, 0xC0)) + b" n1023456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.-_"
)
_ORDER = {_PLAIN: _order(b'}],:n1023456789tf"[{-'), _QUOTED: _IN_QUOTES, _ESCAPED: _IN_QUOTES}


@dataclass(frozen=True, slots=True)
class Hints:
    """What a grammar may ask for: words that its strings may need, and whether a number must divide."""

    words: tuple[str, ...] = ()
    multiples: bool = False


class Bytes:
    """The tokens that are a single byte; `pieces` are the bytes of every token, control tokens begin with 0xFF."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.token = {piece[0]: token for token, piece in enumerate(pieces) if len(piece) == 1 and piece != b"\xff"}


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a text ends: plain, in quotes or behind a backslash; in how many values; the outermost end it passed."""

    place: int = _PLAIN
    depth: int = 0
    passed: int = _NEVER

    def after(self, text: Iterable[int]) -> _Where:
        place, depth, passed = self.place, self.depth, self.passed
        for byte in text:
            char = chr(byte)
            if place == _ESCAPED or (place == _QUOTED and char == "\\"):
                place = _QUOTED if place == _ESCAPED else _ESCAPED
            elif char == '"':
                place, depth = (_PLAIN, depth - 1) if place == _QUOTED else (_QUOTED, depth + 1)
                passed = min(passed, depth)
            elif place == _PLAIN and char in "{[":
                depth += 1
            elif place == _PLAIN and char in "}],":
                depth -= char != ","
                passed = min(passed, depth)
        return _Where(place, depth, passed)


@dataclass
class _State:
    """An output so far: the matcher behind `tokens`, and where they end."""

    matcher: Any
    tokens: list[int]
    where: _Where
    letters: Bytes

    @property
    def place(self) -> int:
        return self.where.place

    @property
    def whole(self) -> bool:
        return bool(self.matcher.is_accepting())

    @cached_property
    def allowed(self) -> list[bytes]:
        """The bytes that may come next, the best first."""
        bits, token = self.matcher.compute_bitmask(), self.letters.token
        ordered = [(byte, token[byte]) for byte in _ORDER[self.place] if byte in token]
        return [bytes([byte]) for byte, one in ordered if bits[one >> 3] >> (one & 7) & 1]

    @cached_property
    def end(self) -> bytes | None:
        """What ends the innermost value now, if anything can."""
        return next((byte for byte in self.allowed if byte in _ENDS[self.place]), None)

    @property
    def filler(self) -> bytes:
        """What to write where no end is near: the best, or digit after digit, since a number may have to divide."""
        best, digits = self.allowed[0], [byte for byte in self.allowed if byte.isdigit()]
        return digits[len(self.tokens) % len(digits)] if self.place == _PLAIN and best in digits else best

    def after(self, text: bytes) -> _State | None:
        """Return the state behind `text` and what it forces, None if there is none."""
        if not self.letters.token.keys() >= set(text):
            return None
        matcher, tokens = self.matcher.deep_copy(), [self.letters.token[byte] for byte in text]
        if matcher.try_consume_tokens(tokens) < len(tokens):
            return None
        return _follow(_State(matcher, [*self.tokens, *tokens], self.where.after(text), self.letters))


class Closing:
    """One search."""

    def __init__(self, letters: Bytes, hints: Hints) -> None:
        self._letters, self._left = letters, _MOST_STATES
        self._needed, self._multiples = [word.encode() for word in hints.words], hints.multiples

    def close(self, matcher: Any, written: bytes) -> list[int] | None:
        """Return the tokens that end `written`, at most `MOST_TOKENS`, or None if none are found.

        `matcher` is an LLMatcher behind `written`; it is copied, not changed.
        """
        state = _follow(_State(matcher.deep_copy(), [], _Where().after(written), self._letters))
        steps = 1
        while state and not state.whole and len(state.tokens) <= MOST_TOKENS:
            if state.end:
                state = state.after(state.end)
            elif near := self._search(state):
                state = near
            else:
                state, steps = self._fill(state, steps), 2 * steps
        return state.tokens if state and len(state.tokens) <= MOST_TOKENS else None

    def _search(self, start: _State) -> _State | None:
        """Return the nearest state in which a value can end, or has: breadth first, what leaves fewer open first."""
        level, before = [replace(start, where=_Where(start.place, start.where.depth))], self._left
        while level:
            below: list[_State] = []
            for state in level:
                for child in self._children(state):
                    below.append(child)
                    if before - self._left >= _STATES_A_SEARCH or self._left <= 0:
                        return _best(below, start.where)
            if best := _best(below, start.where):
                return best
            level = below
        return None

    def _children(self, state: _State) -> Iterator[_State]:
        """Yield what may come next; of what looks the same only the first, but where a string may hold anything."""
        if state.place == _QUOTED and len(state.allowed) > _FREE:
            yield from self._behind(state, [state.allowed[0], *self._needed])
            return
        kinds = {_kind(byte): byte for byte in reversed(state.allowed)}
        texts = [*reversed(kinds.values()), *self._needed] if state.place == _QUOTED else state.allowed
        seen: set[tuple[_Where, bytes]] = set()
        for child in self._behind(state, texts):
            # all numbers look the same that do not divide yet
            same = (child.where, b"".join(child.allowed))
            if same not in seen or (self._multiples and state.place == _PLAIN):
                seen.add(same)
                yield child

    def _behind(self, state: _State, texts: Iterable[bytes]) -> Iterator[_State]:
        for text in texts:
            if child := state.after(text):
                self._left -= 1
                yield child

    def _fill(self, state: _State, steps: int) -> _State | None:
        """Write `steps` times what is best by itself; a length that is asked for is reached so."""
        for _ in range(steps):
            if state.end or state.whole or not state.allowed:
                break
            after = state.after(state.filler)
            if after is None:
                return None
            state = after
        return state if state.allowed or state.whole else None


def _kind(byte: bytes) -> bytes:
    """Return one for all small letters, capitals, digits, and bytes of longer characters."""
    kinds = ((b"a", byte.islower()), (b"A", byte.isupper()), (b"1", byte.isdigit()), (b"\x80", byte >= b"\x80"))
    return next((kind for kind, belongs in kinds if belongs), byte)


def _best(states: Iterable[_State], start: _Where) -> _State | None:
    def left(state: _State) -> int:
        """How many values are open where the next one has ended."""
        return -1 if state.whole else state.where.depth - (state.end in {b'"', b"}", b"]"})

    def ends(state: _State) -> bool:
        return state.whole or state.end is not None or state.where.passed <= start.depth

    return min(filter(ends, states), key=left, default=None)


def _follow(state: _State) -> _State | None:
    """Take what is forced; None if that leads nowhere."""
    forced = state.matcher.compute_ff_tokens()
    if forced:
        state.matcher.consume_tokens(forced)
        state.tokens += forced
        state.where = state.where.after(b"".join(state.letters.pieces[token] for token in forced))
    if state.matcher.is_error():
        return None
    # llguidance waits with bytes that may belong to a longer token
    return state.after(state.allowed[0]) if len(state.allowed) == 1 and not state.whole else state
