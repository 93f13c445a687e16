"""The only owner of llama.cpp's handles: vocabulary, weights, context, sampler.

Contract: every object here is used by one thread, the compute thread, and freed by it. Token ids go in, rows of
logits come out; nothing here knows what a request, a role or a message is. `AbortFlag.set` alone may be called
from any thread.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.abort import AbortFlag
from engine.batch import Batch
from engine.errors import EngineClosed, EngineError, ModelCorrupt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.sampling import SamplingParams
    from engine.scheduler import Chunk

_log = logging.getLogger("engine.llama")
Listen = Callable[[float], object]
_PENALTY_LAST = 64  # tokens back that the repeat penalty looks at, as in llama.cpp
_LEVELS = {2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}  # ggml's info, warn, error; the rest is noise
# what llama.cpp reports as errors where a decode was aborted, as it was told to
_ABORTED = re.compile(rb"compute_async failed with error 1\b|compute status: 1\b|failed to decode, ret = 2\b")


@cache
def _lib() -> Any:
    """Import llama_cpp once and send its log to ours; it would go to stderr otherwise."""
    import llama_cpp

    llama_cpp.llama_log_set(_log_callback(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache
def _log_callback(llama_cpp: Any) -> Any:
    def forward(level: int, text: bytes, _data: object) -> None:
        shown = logging.DEBUG if _ABORTED.search(text) else _LEVELS.get(level)
        if shown is not None and _log.isEnabledFor(shown):
            _log.log(shown, "%s", text.decode("utf-8", "replace").rstrip())

    return llama_cpp.llama_log_callback(forward)


def has_gpu() -> bool:
    """Return whether this build of llama.cpp can use a GPU."""
    return bool(_lib().llama_supports_gpu_offload())


class Vocabulary:
    """Token ids of one model: tokenize, pieces, and which ids control the conversation.

    Valid while `model`, which it keeps, is open.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._ptr = _lib().llama_model_get_vocab(model.handle)
        self.size: int = _lib().llama_vocab_n_tokens(self._ptr)
        self.bos: int = _lib().llama_vocab_bos(self._ptr)
        self.eos: int = _lib().llama_vocab_eos(self._ptr)
        self.add_bos: bool = _lib().llama_vocab_get_add_bos(self._ptr)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of `text`, without BOS; only with `special` do control words become control tokens."""
        data = text.encode("utf-8")
        room, count = len(data) + 8, -1
        while count < 0:
            ids = (ctypes.c_int32 * room)()
            count = _lib().llama_tokenize(self._live, data, len(data), ids, room, False, special)
            room = -count
        return ids[:count]

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes that a reader sees for every token, in id order; control tokens have none."""
        piece, vocabulary, room = _lib().llama_token_to_piece, self._live, 64
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
        return self._with_attribute(_lib().LLAMA_TOKEN_ATTR_CONTROL | _lib().LLAMA_TOKEN_ATTR_UNKNOWN)

    @cached_property
    def user_defined(self) -> dict[str, int]:
        """The literal of every user-defined token → its id; these parse in any text, so prompts cut them."""
        return self._with_attribute(_lib().LLAMA_TOKEN_ATTR_USER_DEFINED)

    @cached_property
    def eog(self) -> frozenset[int]:
        """The ids that end a generation."""
        return frozenset(t for t in range(self.size) if _lib().llama_vocab_is_eog(self._live, t))

    def strips(self, token: int) -> tuple[bool, bool]:
        """Return whether `token` swallows white space before it and after it."""
        attributes = _lib().llama_vocab_get_attr(self._live, token)
        return bool(attributes & _lib().LLAMA_TOKEN_ATTR_LSTRIP), bool(attributes & _lib().LLAMA_TOKEN_ATTR_RSTRIP)

    def text(self, token: int) -> str:
        """Return the literal of `token` as the vocabulary spells it."""
        raw: bytes = _lib().llama_vocab_get_text(self._live, token)
        return raw.decode("utf-8", "replace")

    @cached_property
    def raw(self) -> tuple[list[bytes], int, int]:
        """What a constraint engine needs: bytes of every token (control ones marked by 0xFF), two addresses."""
        # llguidance's own binding marks user-defined tokens that look like control tokens, too
        tags = (token for word, token in self.user_defined.items() if word.startswith("<") and word.endswith(">"))
        special = {*self.control.values(), *tags}
        tokens = [b"\xff" + self.text(t).encode() if t in special else p for t, p in enumerate(self.pieces)]
        tokenize = ctypes.cast(_lib().llama_cpp._lib.llama_tokenize, ctypes.c_void_p).value
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
        attribute, vocabulary = _lib().llama_vocab_get_attr, self._live
        return [attribute(vocabulary, token) for token in range(self.size)]

    def _with_attribute(self, wanted: int) -> dict[str, int]:
        found = [token for token, attribute in enumerate(self._attributes) if attribute & wanted]
        return {text: token for token in found if (text := self.text(token))}

    def _long_piece(self, token: int, room: int) -> bytes:
        buffer = ctypes.create_string_buffer(room)
        size = _lib().llama_token_to_piece(self._live, token, buffer, room, 0, False)
        return buffer.raw[:size]


class _Listener:
    """Hands a load's progress on; what the listener raises ends the load, and is kept, since C cannot raise it."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self.error: BaseException | None = None
        self.callback = _lib().llama_progress_callback(self._hear)  # kept here: llama.cpp calls it until it has loaded

    def _hear(self, done: float, _data: object) -> bool:
        try:
            self._listen(done)
        except BaseException as error:  # noqa: BLE001 - ctypes would print it and go on
            self.error = error
        return self.error is None


class Model:
    """Weights and vocabulary of one GGUF file.

    `listen` is told which part of the weights is read, from 0 to 1, about once a tensor; what it raises ends the load
    and is raised here. `repack` lays the weights out anew for this processor, which takes time and memory and makes
    some batches faster. Raises `ModelCorrupt` if llama.cpp cannot read the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int = 0,
        repack: bool = True,
        vocab_only: bool = False,
        listen: Listen = lambda done: None,
    ) -> None:
        params, listener = _lib().llama_model_default_params(), _Listener(listen)
        params.n_gpu_layers, params.use_extra_bufts = n_gpu_layers, repack
        if repack and not n_gpu_layers:
            params.load_mode = _lib().LLAMA_LOAD_MODE_NONE  # mapped, it would be resident beside what is made of it
        params.vocab_only = vocab_only
        params.progress_callback = listener.callback
        _check_gguf(path)
        self.path = path
        self.contexts: list[Context] = []
        self._handle: Any = _lib().llama_model_load_from_file(os.fsencode(path), params)
        if listener.error:
            self.close()
            raise listener.error
        if not self._handle:
            raise ModelCorrupt(
                f"llama.cpp cannot load {path.name}: it is damaged, incomplete, or of a kind that this version does "
                "not know. Delete its folder and run `gieok models pull` again.",
                path=str(path),
            )
        try:
            self.vocabulary = Vocabulary(self)
        except BaseException:
            self.close()
            raise

    @property
    def context_length(self) -> int:
        """Tokens that the model was trained to read at once."""
        return int(_lib().llama_model_n_ctx_train(self.handle))

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return int(_lib().llama_model_size(self.handle))

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return int(_lib().llama_model_n_layer(self.handle))

    @property
    def whole(self) -> bool:
        """Whether the model keeps one state a sequence (recurrent, hybrid), which cannot be cut."""
        return bool(_lib().llama_model_is_recurrent(self.handle) or _lib().llama_model_is_hybrid(self.handle))

    @property
    def window(self) -> int:
        """Tokens that some layers look back, in a model with sliding-window attention; else 0."""
        return int(_lib().llama_model_n_swa(self.handle))

    @property
    def chat_template(self) -> str | None:
        """The jinja template that the file brings, if any."""
        raw: bytes | None = _lib().llama_model_chat_template(self.handle, None)
        try:
            return raw.decode("utf-8") if raw else None
        except UnicodeDecodeError:
            raise ModelCorrupt(f"the chat template of {self.path.name} is no UTF-8", path=str(self.path)) from None

    @property
    def handle(self) -> Any:
        """The native model. Raises `EngineClosed` if the weights were freed."""
        if not self._handle:
            raise EngineClosed("the model was unloaded")
        return self._handle

    def close(self) -> None:
        """Free the weights, and before them every context of this model."""
        while self.contexts:
            self.contexts[-1].close()
        if self._handle:
            handle, self._handle = self._handle, None
            _lib().llama_model_free(handle)


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error.strerror}", path=str(path)) from None
    if magic != b"GGUF":
        raise ModelCorrupt(f"{path.name} is not a GGUF file", path=str(path))


@dataclass(frozen=True, slots=True)
class ContextParams:
    """Sizes of one context: KV cells in all, tokens a batch, sequences, threads for one token and for many.

    `n_ubatch` is how many tokens of a batch are computed together: all of them where it is None.
    """

    n_ctx: int
    n_batch: int
    n_seq: int
    n_threads: int
    n_threads_batch: int
    flash_attention: bool | None = None
    n_ubatch: int | None = None


class Context:
    """One unified KV cache and the batch that feeds it."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        self.model, self.params = model, params
        self.abort = AbortFlag()
        self.ready: Callable[[], object] = lambda: None  # called last before a batch, which lets other threads run
        self._callback = self.abort.callback(_lib().llama_cpp.ggml_abort_callback)
        self._ctx: Any = _lib().llama_init_from_model(model.handle, self._native(params))
        if not self._ctx:
            raise EngineError(
                f"llama.cpp could not make a context of {params.n_ctx} tokens for {model.path.name}; "
                "lower n_ctx of this model in models.toml, or free memory."
            )
        model.contexts.append(self)
        self.n_ctx = int(_lib().llama_n_ctx(self._ctx))
        self._batch = Batch(params.n_batch, _lib().llama_batch())
        self.n_vocab = model.vocabulary.size

    def _native(self, params: ContextParams) -> Any:
        native = _lib().llama_context_default_params()
        native.n_ctx, native.n_seq_max = params.n_ctx, params.n_seq
        native.n_batch, native.n_ubatch = params.n_batch, params.n_ubatch or params.n_batch
        native.n_threads, native.n_threads_batch = params.n_threads, params.n_threads_batch
        native.kv_unified = native.no_perf = True
        if params.flash_attention is not None:
            native.flash_attn_type = int(params.flash_attention)
        native.abort_callback, native.abort_callback_data = self._callback
        return native

    def decode(self, chunks: Sequence[Chunk]) -> bool:
        """Compute `chunks` in one batch; False if it was aborted, with part of it possibly in the cache.

        Raises `EngineError` if llama.cpp refuses the batch, or if it is larger than `n_batch`.
        """
        size = sum(len(chunk.tokens) for chunk in chunks)
        if size > self.params.n_batch:
            raise EngineError(f"a batch of {size} tokens does not fit n_batch = {self.params.n_batch}")
        batch = self._batch.fill(chunks)
        self.ready()
        status = _lib().llama_decode(self.handle, batch)
        if status not in (0, 2):
            raise EngineError(f"llama.cpp could not decode a batch of {batch.n_tokens} tokens (status {status})")
        return bool(status == 0)

    def set_threads(self, one: int, many: int) -> None:
        """Use so many threads for batches of one token, and of more."""
        _lib().llama_set_n_threads(self.handle, one, many)

    def logits(self, row: int) -> NDArray[np.float32]:
        """Return the logits (n_vocab,) of batch entry `row`: a view, valid until the next decode, writable.

        Raises `EngineError` if the last batch did not want them.
        """
        import numpy as np

        pointer = _lib().llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise EngineError(f"the last batch has no logits for its entry {row}")
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))

    def fork(self, source: int, target: int, count: int) -> None:
        """Let sequence `target` share the first `count` positions of `source`; copies nothing."""
        _lib().llama_memory_seq_cp(self._memory, source, target, 0, count)

    def cut(self, sequence: int, start: int) -> None:
        """Forget positions `start` and later of `sequence`. Raises `EngineError` where `whole` forbids that."""
        if not _lib().llama_memory_seq_rm(self._memory, sequence, start, -1):
            raise EngineError(f"the cache of {self.model.path.name} cannot be cut")

    @property
    def identity(self) -> dict[str, object]:
        """All that a state depends on beside the weights."""
        params = self.params
        sizes = {"n_ctx": self.n_ctx, "n_seq": params.n_seq, "flash_attention": params.flash_attention}
        return {"llama_cpp": _lib().__version__, **sizes}

    def state(self, sequence: int) -> bytes:
        """Return all that the cache holds of `sequence`."""
        size = _lib().llama_state_seq_get_size(self.handle, sequence)
        data = (ctypes.c_uint8 * size)()
        written = _lib().llama_state_seq_get_data(self.handle, data, size, sequence)
        return bytes(memoryview(data)[:written])

    def restore(self, sequence: int, state: bytes) -> bool:
        """Fill the empty `sequence` with what `state` returned; false, with nothing filled, if it does not fit.

        llama.cpp checks little of it: only ever hand it what an equal context of the same model wrote.
        """
        data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        return bool(_lib().llama_state_seq_set_data(self.handle, data, len(state), sequence))

    def clear(self) -> None:
        """Forget everything."""
        _lib().llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the cache and the compute buffers."""
        if self._ctx:
            context, self._ctx = self._ctx, None
            self.model.contexts.remove(self)
            _lib().llama_free(context)

    @property
    def handle(self) -> Any:
        """The native context. Raises `EngineClosed` if it was freed."""
        if not self._ctx:
            raise EngineClosed("the model was unloaded")
        return self._ctx

    @property
    def _memory(self) -> Any:
        return _lib().llama_get_memory(self.handle)


class Sampler:
    """llama.cpp's sampler chain for one request."""

    def __init__(self, params: SamplingParams, seed: int, n_vocab: int) -> None:
        lib = _lib()
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._chain: Any = chain
        links = []
        if params.repeat_penalty != 1.0:
            links.append(lib.llama_sampler_init_penalties(n_vocab, _PENALTY_LAST, params.repeat_penalty, 0.0, 0.0))
        if params.temperature == 0:
            links.append(lib.llama_sampler_init_greedy())
        else:
            links += [
                lib.llama_sampler_init_top_k(params.top_k),  # unset, it would sort the whole vocabulary every time
                lib.llama_sampler_init_top_p(params.top_p, 1),
                lib.llama_sampler_init_min_p(params.min_p, 1),
                lib.llama_sampler_init_temp(params.temperature),
                lib.llama_sampler_init_dist(seed),
            ]
        for link in links:
            lib.llama_sampler_chain_add(chain, link)

    def sample(self, context: Context, row: int) -> int:
        """Draw a token from the logits of batch entry `row` and remember it for the penalty."""
        return int(_lib().llama_sampler_sample(self._live, context.handle, row))

    def accept(self, token: int) -> None:
        """Remember a token that was not drawn but forced."""
        _lib().llama_sampler_accept(self._live, token)

    def close(self) -> None:
        """Free the chain."""
        if self._chain:
            chain, self._chain = self._chain, None
            _lib().llama_sampler_free(chain)

    @property
    def _live(self) -> Any:
        if not self._chain:
            raise EngineClosed("the sampler was closed")
        return self._chain
