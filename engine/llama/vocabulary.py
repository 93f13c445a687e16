"""Token ids of one model: text → ids, ids → bytes, and which ids are no text."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any, Protocol

from engine.llama.library import lib


class Weights(Protocol):
    """What a vocabulary belongs to."""

    @property
    def handle(self) -> Any:
        """The native model. Raises `EngineClosed` if it was freed."""


class Vocabulary:
    """Token ids of one model: tokenize, pieces, and which ids control the conversation.

    Valid while `model`, which it keeps, is open.
    """

    def __init__(self, model: Weights) -> None:
        self._model = model
        self._ptr = lib().llama_model_get_vocab(model.handle)
        self.size: int = lib().llama_vocab_n_tokens(self._ptr)
        self.bos: int = lib().llama_vocab_bos(self._ptr)
        self.eos: int = lib().llama_vocab_eos(self._ptr)
        self.add_bos: bool = lib().llama_vocab_get_add_bos(self._ptr)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of `text`, without BOS; only with `special` do control words become control tokens."""
        data = text.encode("utf-8")
        room, count = len(data) + 8, -1
        while count < 0:
            ids = (ctypes.c_int32 * room)()
            count = lib().llama_tokenize(self._live, data, len(data), ids, room, False, special)
            room = -count
        return ids[:count]

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes that a reader sees for every token, in id order; control tokens have none."""
        piece, vocabulary, room = lib().llama_token_to_piece, self._live, 64
        buffer = ctypes.create_string_buffer(room)
        counts = (piece(vocabulary, token, buffer, room, 0, False) for token in range(self.size))
        return [buffer.raw[:n] if n >= 0 else self._long_piece(token, -n) for token, n in enumerate(counts)]

    @cached_property
    def longest_piece(self) -> int:
        """The bytes of the longest token: n tokens never hold more than n times this."""
        return max(map(len, self.pieces))

    @cached_property
    def control(self) -> dict[str, int]:
        """The literal of every control token → its id."""
        return self._with_attribute(lib().LLAMA_TOKEN_ATTR_CONTROL | lib().LLAMA_TOKEN_ATTR_UNKNOWN)

    @cached_property
    def user_defined(self) -> dict[str, int]:
        """The literal of every user-defined token → its id; these parse in any text, so prompts cut them."""
        return self._with_attribute(lib().LLAMA_TOKEN_ATTR_USER_DEFINED)

    @cached_property
    def eog(self) -> frozenset[int]:
        """The ids that end a generation: among those that are no plain text, and the two that the file names."""
        marks = lib().LLAMA_TOKEN_ATTR_CONTROL | lib().LLAMA_TOKEN_ATTR_UNKNOWN | lib().LLAMA_TOKEN_ATTR_USER_DEFINED
        marked = {t for t, attribute in enumerate(self._attributes) if attribute & marks}
        named = {self.eos, lib().llama_vocab_eot(self._live)} - {-1}
        return frozenset(t for t in marked | named if lib().llama_vocab_is_eog(self._live, t))

    def strips(self, token: int) -> tuple[bool, bool]:
        """Return whether `token` swallows white space before it and after it."""
        attributes = lib().llama_vocab_get_attr(self._live, token)
        return bool(attributes & lib().LLAMA_TOKEN_ATTR_LSTRIP), bool(attributes & lib().LLAMA_TOKEN_ATTR_RSTRIP)

    def text(self, token: int) -> str:
        """Return the literal of `token` as the vocabulary spells it."""
        raw: bytes = lib().llama_vocab_get_text(self._live, token)
        return raw.decode("utf-8", "replace")

    @cached_property
    def raw(self) -> tuple[list[bytes], int, int]:
        """What a constraint engine needs: bytes of every token (control ones marked by 0xFF), two addresses."""
        # llguidance's own binding marks user-defined tokens that look like control tokens, too
        tags = (token for word, token in self.user_defined.items() if word.startswith("<") and word.endswith(">"))
        special = {*self.control.values(), *tags}
        tokens = [b"\xff" + self.text(t).encode() if t in special else p for t, p in enumerate(self.pieces)]
        tokenize = ctypes.cast(lib().llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
        return tokens, self._live, int(tokenize or 0)

    @property
    def _live(self) -> Any:
        return self._model.handle and self._ptr

    def read(self) -> None:
        """Read all that prompts and answers need now: it takes a moment with 150,000 tokens."""
        for name in ("longest_piece", "control", "user_defined", "eog"):
            getattr(self, name)

    @cached_property
    def _attributes(self) -> list[int]:
        attribute, vocabulary = lib().llama_vocab_get_attr, self._live
        return [attribute(vocabulary, token) for token in range(self.size)]

    def _with_attribute(self, wanted: int) -> dict[str, int]:
        found = [token for token, attribute in enumerate(self._attributes) if attribute & wanted]
        return {text: token for token in found if (text := self.text(token))}

    def _long_piece(self, token: int, room: int) -> bytes:
        buffer = ctypes.create_string_buffer(room)
        size = lib().llama_token_to_piece(self._live, token, buffer, room, 0, False)
        return buffer.raw[:size]
