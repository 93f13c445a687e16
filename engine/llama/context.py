"""One unified KV cache of a model: decode, logits, and what sequences share."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.abort import AbortFlag
from engine.batch import Batch
from engine.errors import EngineClosed, EngineError
from engine.llama.library import errors, lib, no_memory
from engine.llama.model import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.scheduler import Chunk


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
    """One unified KV cache and the batch that feeds it.

    Raises `MemoryError` if llama.cpp found no memory for it, `EngineError` if it refuses the sizes.
    """

    def __init__(self, model: Model, params: ContextParams) -> None:
        self.model, self.params = model, params
        self.abort = AbortFlag()
        self.ready: Callable[[], object] = lambda: None  # called last before a batch, which lets other threads run
        self._callback = self.abort.callback(lib().llama_cpp.ggml_abort_callback)
        with errors() as said:
            self._ctx: Any = lib().llama_init_from_model(model.handle, self._native(params))
        if not self._ctx:
            wanted = f"a context of {params.n_ctx} tokens of {model.path.name}"
            raise no_memory(wanted, said) or EngineError(
                f"llama.cpp could not make a context of {params.n_ctx} tokens for {model.path.name}; "
                "lower n_ctx of this model in models.toml, or free memory."
            )
        model.contexts.append(self)
        self._adapt()
        self.n_ctx = int(lib().llama_n_ctx(self._ctx))
        # it is cut to the context that was asked for, which is rounded up, and a larger batch aborts the process
        self.params = replace(params, n_batch=int(lib().llama_n_batch(self._ctx)))
        self._batch = Batch(self.params.n_batch, lib().llama_batch())
        self.n_vocab = model.vocabulary.size

    def _adapt(self) -> None:
        """Let the model's adapters work in this context."""
        if not (count := len(self.model.adapters)):
            return
        handles, scales = zip(*self.model.adapters, strict=True)
        pointers = (lib().llama_adapter_lora_p_ctypes * count)(*handles)
        if lib().llama_set_adapters_lora(self._ctx, pointers, count, (ctypes.c_float * count)(*scales)):
            self.close()
            raise EngineError(f"llama.cpp could not apply the adapters of {self.model.path.name}")

    def _native(self, params: ContextParams) -> Any:
        native = lib().llama_context_default_params()
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
        status = lib().llama_decode(self.handle, batch)
        if status not in (0, 2):
            raise EngineError(f"llama.cpp could not decode a batch of {batch.n_tokens} tokens (status {status})")
        return bool(status == 0)

    def set_threads(self, one: int, many: int) -> None:
        """Use so many threads for batches of one token, and of more."""
        lib().llama_set_n_threads(self.handle, one, many)

    def logits(self, row: int) -> NDArray[np.float32]:
        """Return the logits (n_vocab,) of batch entry `row`: a view, valid until the next decode, writable.

        Raises `EngineError` if the last batch did not want them, and where they are no numbers: of those llama.cpp
        would take whatever comes first.
        """
        import numpy as np

        pointer = lib().llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise EngineError(f"the last batch has no logits for its entry {row}")
        logits = np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))
        if not math.isfinite(logits.max()):  # one that is not makes the greatest so
            raise EngineError(
                f"{self.model.path.name} answered with something that is not a number; "
                "check its file: gieok models verify"
            )
        return logits

    def fork(self, source: int, target: int, count: int) -> None:
        """Let sequence `target` share the first `count` positions of `source`; copies nothing."""
        lib().llama_memory_seq_cp(self._memory, source, target, 0, count)

    def cut(self, sequence: int, start: int) -> None:
        """Forget positions `start` and later of `sequence`. Raises `EngineError` where `whole` forbids that."""
        if not lib().llama_memory_seq_rm(self._memory, sequence, start, -1):
            raise EngineError(f"the cache of {self.model.path.name} cannot be cut")

    @property
    def identity(self) -> dict[str, object]:
        """All that a state depends on beside the weights."""
        params = self.params
        sizes = {"n_ctx": self.n_ctx, "n_seq": params.n_seq, "flash_attention": params.flash_attention}
        return {"llama_cpp": lib().__version__, **sizes}

    def state(self, sequence: int) -> bytes:
        """Return all that the cache holds of `sequence`."""
        size = lib().llama_state_seq_get_size(self.handle, sequence)
        data = (ctypes.c_uint8 * size)()
        written = lib().llama_state_seq_get_data(self.handle, data, size, sequence)
        return bytes(memoryview(data)[:written])

    def restore(self, sequence: int, state: bytes) -> bool:
        """Fill the empty `sequence` with what `state` returned; false, with nothing filled, if it does not fit.

        llama.cpp checks little of it: only ever hand it what an equal context of the same model wrote.
        """
        data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        return bool(lib().llama_state_seq_set_data(self.handle, data, len(state), sequence))

    def clear(self) -> None:
        """Forget everything."""
        lib().llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the cache and the compute buffers."""
        if self._ctx:
            context, self._ctx = self._ctx, None
            self.model.contexts.remove(self)
            lib().llama_free(context)

    @property
    def handle(self) -> Any:
        """The native context. Raises `EngineClosed` if it was freed."""
        if not self._ctx:
            raise EngineClosed("the model was unloaded")
        return self._ctx

    @property
    def _memory(self) -> Any:
        return lib().llama_get_memory(self.handle)
