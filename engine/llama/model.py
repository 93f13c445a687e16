"""The weights and the vocabulary of one GGUF file."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.errors import EngineClosed, EngineError, ModelCorrupt
from engine.llama.library import errors, has_gpu, lib, no_memory
from engine.llama.vocabulary import Vocabulary

Listen = Callable[[float], object]


class Closable(Protocol):
    """What must be freed before the weights."""

    def close(self) -> None:
        """Free it."""


class _Listener:
    """Hands a load's progress on; what the listener raises ends the load, and is kept, since C cannot raise it."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self.error: BaseException | None = None
        self.callback = lib().llama_progress_callback(self._hear)  # kept here: llama.cpp calls it until it has loaded

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
    some batches faster. `n_gpu_layers` go to the GPUs, all where it is -1; the attribute says how many did. With 0 no
    GPU is touched. Raises `ModelCorrupt` if llama.cpp cannot read the file, `MemoryError` if it found no memory.
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
        params, listener = lib().llama_model_default_params(), _Listener(listen)
        params.n_gpu_layers, params.use_extra_bufts = n_gpu_layers, repack
        if repack and not n_gpu_layers:
            params.load_mode = lib().LLAMA_LOAD_MODE_NONE  # mapped, it would be resident beside what is made of it
        params.vocab_only = vocab_only
        params.progress_callback = listener.callback
        no_devices = (ctypes.c_void_p * 1)()  # an empty list: else a GPU would compute large batches of 0 layers, too
        if not n_gpu_layers:
            params.devices = ctypes.addressof(no_devices)
        _check_gguf(path)
        self.path = path
        self.contexts: list[Closable] = []
        self.adapters: list[tuple[Any, float]] = []
        with errors() as said:
            self._handle: Any = lib().llama_model_load_from_file(os.fsencode(path), params)
        if listener.error:
            self.close()
            raise listener.error
        if not self._handle:
            raise _refused(path, n_gpu_layers, said)
        try:
            self.vocabulary = Vocabulary(self)
            self.n_gpu_layers = self._on_gpu(n_gpu_layers)
        except BaseException:
            self.close()
            raise

    def adapt(self, path: Path, scale: float) -> None:
        """Apply the LoRA adapter in a GGUF file, `scale` times, in every context that is made from now on.

        Raises `ModelCorrupt` if llama.cpp refuses it, `MemoryError` if it found no memory.
        """
        if self.contexts:
            raise EngineError("a context is not large enough for an adapter that comes after it")
        _check_gguf(path)
        with errors() as said:
            adapter = lib().llama_adapter_lora_init(self.handle, os.fsencode(path))
        if not adapter:
            raise no_memory(f"the adapter {path.name}", said) or ModelCorrupt(
                f"llama.cpp cannot apply {path.name} to {self.path.name}: it is damaged, or was made for another "
                "model. Convert it again from an adapter of this model.",
                path=str(path),
            )
        self.adapters.append((adapter, scale))

    @property
    def context_length(self) -> int:
        """Tokens that the model was trained to read at once."""
        return int(lib().llama_model_n_ctx_train(self.handle))

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return int(lib().llama_model_size(self.handle))

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return int(lib().llama_model_n_layer(self.handle))

    @property
    def whole(self) -> bool:
        """Whether the model keeps one state a sequence (recurrent, hybrid), which cannot be cut."""
        return bool(lib().llama_model_is_recurrent(self.handle) or lib().llama_model_is_hybrid(self.handle))

    @property
    def window(self) -> int:
        """Tokens that some layers look back, in a model with sliding-window attention; else 0."""
        return int(lib().llama_model_n_swa(self.handle))

    @property
    def chat_template(self) -> str | None:
        """The jinja template that the file brings, if any."""
        raw: bytes | None = lib().llama_model_chat_template(self.handle, None)
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

    def _on_gpu(self, wanted: int) -> int:
        """Return how many layers llama.cpp has put on GPUs of the `wanted` ones; the output counts as one."""
        if not wanted or not has_gpu():
            return 0
        return min(wanted, self.layers + 1) if wanted > 0 else self.layers + 1

    def close(self) -> None:
        """Free the weights, before them the adapters, and before these every context of this model."""
        while self.contexts:
            self.contexts[-1].close()
        while self.adapters:
            lib().llama_adapter_lora_free(self.adapters.pop()[0])
        if self._handle:
            handle, self._handle = self._handle, None
            lib().llama_model_free(handle)


def _refused(path: Path, n_gpu_layers: int, said: Sequence[str]) -> MemoryError | ModelCorrupt:
    layers = "all of its layers" if n_gpu_layers < 0 else f"{n_gpu_layers} of its layers"
    place = f", {layers} on the GPU" if n_gpu_layers else ""
    wanted = f"the weights of {path.name}, {path.stat().st_size / 1e9:.1f} GB{place}"
    return no_memory(wanted, said) or ModelCorrupt(
        f"llama.cpp cannot load {path.name}: it is damaged, incomplete, or of a kind that this version does "
        "not know. Delete its folder and run `gieok models pull` again.",
        path=str(path),
    )


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error.strerror}", path=str(path)) from None
    if magic != b"GGUF":
        raise ModelCorrupt(f"{path.name} is not a GGUF file", path=str(path))
