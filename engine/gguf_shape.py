"""How wide a GGUF model is and what its cache takes, told from what its header says.

Contract: the header may be hostile, so every number is bounded; what it does not say is taken for the most that it may
be. llama.cpp takes the same numbers from the same keys (src/llama-hparams.cpp, llama-kv-cache.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.gguf_header import Header

_F16, _F32 = 2, 4
_MOST_LAYERS = 512  # llama.cpp's own limit
_MOST, _MOST_BYTES = 1 << 20, 1 << 40  # of any other number, and of a token or sequence; no model comes near
_USUAL_LAYERS, _USUAL_WIDTH = 128, 1 << 14  # more than models have; without these keys llama.cpp loads none
_STATE_ONLY = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})


@dataclass(frozen=True, slots=True)
class GgufShape:
    """Numbers of a model: layers, columns, tokens of the vocabulary, and those it was trained to read at once.

    `kv_bytes` is of the KV cache for a token (f16), `state_bytes` of recurrent layers for a sequence (f32). `bound` is
    whether one of them may be too large, since the header does not say enough.
    """

    layers: int
    width: int
    vocabulary: int
    trained: int | None
    kv_bytes: int
    state_bytes: int
    bound: bool


def shape_of(header: Header) -> GgufShape:
    """Return the shape of the model that a header, the first where there are several, is of."""
    told = _Told(header)
    recurrent, state = told.recurrent, told.state
    attention = [not (told.interval and one) for one in recurrent]  # with an interval no layer has both
    return GgufShape(
        layers=told.layers,
        width=told.width,
        vocabulary=max(header.vocabulary, told.number("vocab_size", 0)),
        trained=told.trained,
        kv_bytes=0 if header.architecture in _STATE_ONLY else min(told.cells(attention), _MOST_BYTES),
        state_bytes=min(sum(recurrent) * state, _MOST_BYTES),
        bound=told.guessed or (bool(state) and not told.tells_layers),
    )


class _Told:
    """What one header says, bounded."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self.guessed = False
        self.layers = max(1, min(self._needed("block_count", _USUAL_LAYERS), _MOST_LAYERS))
        self.width = max(1, self._needed("embedding_length", _USUAL_WIDTH))
        self.heads = self.each("attention.head_count")
        self.kv_heads = self.each("attention.head_count_kv") or self.heads or [self._unknown(1)] * self.layers
        self.interval = self.number("full_attention_interval", 0)

    def number(self, key: str, default: int) -> int:
        """Return a single whole number, `default` where there is none."""
        value = self._header.metadata.get(f"{self._header.architecture}.{key}")
        return min(int(value), _MOST) if isinstance(value, int) and value >= 0 else default

    def each(self, key: str) -> list[int]:
        """Return a number for each layer: of an array its own, else the same; an empty list without such a key."""
        listed = self._list(key)
        if listed is None:
            one = self.number(key, -1)
            return [one] * self.layers if one >= 0 else []
        most = max(listed, default=0)  # for layers that it forgets
        return [listed[layer] if layer < len(listed) else most for layer in range(self.layers)]

    @property
    def trained(self) -> int | None:
        """Tokens that the model was trained to read at once, where the header says it; llama.cpp needs it."""
        value = self._header.metadata.get(f"{self._header.architecture}.context_length")
        return min(value, 2**31 - 1) if isinstance(value, int) and value > 0 else None

    @property
    def tells_layers(self) -> bool:
        """Whether it says which layers are recurrent."""
        return bool(self.interval) or 0 in self.kv_heads or self._header.architecture in _STATE_ONLY

    @property
    def recurrent(self) -> list[bool]:
        """For each layer whether it keeps a state, all where that is not said."""
        if self.interval:
            return [bool((layer + 1) % self.interval) for layer in range(self.layers)]
        if 0 in self.kv_heads:
            feeds = self.each("feed_forward_length") if self._alternates else []
            return [not heads and not any(feeds[layer : layer + 1]) for layer, heads in enumerate(self.kv_heads)]
        return [True] * self.layers

    @property
    def _alternates(self) -> bool:
        """Whether a layer is either attention, or a state, or feeds forward."""
        return self._header.architecture.startswith("nemotron_h")

    @property
    def state(self) -> int:
        """Bytes of the state of one recurrent layer, 0 in models that have none."""
        convolution = max(0, self.number("ssm.conv_kernel", 0) - 1)
        inner, size = self.number("ssm.inner_size", 0), self.number("ssm.state_size", 0)
        if head := self.number("wkv.head_size", 0):
            return _F32 * self.width * (self.number("token_shift_count", 2) + head)
        if cached := self.number("shortconv.l_cache", 0):
            return _F32 * self.width * max(0, cached - 1)
        if head := self.number("kda.head_dim", 0):
            return _F32 * max(self.heads or self.kv_heads) * head * (3 * (convolution or 3) + head)
        return _F32 * (convolution * (inner + 2 * self.number("ssm.group_count", 0) * size) + inner * size)

    def cells(self, attention: Sequence[bool]) -> int:
        """Return the bytes of keys and values of a token in the layers that have attention.

        A model with latent attention keeps no values. One that looks things up beforehand has keys for that as well.
        """
        shared = self.number("attention.shared_kv_layers", 0)  # the last ones use the cells of others
        latent = self.number("attention.key_length_mla", 0) and self.number("attention.value_length_mla", 0)
        lookup = self.number("attention.indexer.key_length", 0)
        total = 0
        for layer in range(max(1, self.layers - shared)):
            key, value = (self._length(kind, layer) for kind in ("key", "value"))
            if attention[layer]:
                total += self.kv_heads[layer] * (key + (0 if latent else value)) + lookup
        return _F16 * total

    def _length(self, kind: str, layer: int) -> int:
        """Return the columns of a head's keys or values, in layers with a sliding window perhaps others."""
        heads = self.heads[0] if self.heads else 0
        wide = self.number(f"attention.{kind}_length", self.width // max(1, heads))
        narrow = self.number(f"attention.{kind}_length_swa", wide)
        slides = self._list("attention.sliding_window_pattern")
        if slides is None or layer >= len(slides):
            return max(wide, narrow)
        return narrow if slides[layer] else wide

    def _list(self, key: str) -> list[int] | None:
        listed = self._header.lists.get(f"{self._header.architecture}.{key}")
        return None if listed is None else [max(0, min(one, _MOST)) for one in listed]

    def _needed(self, key: str, default: int) -> int:
        return self.number(key, 0) or self._unknown(default)

    def _unknown(self, default: int) -> int:
        self.guessed = True
        return default
