"""The fast path of an embedding model: its transformer by OpenVINO, from a cache beside the weights.

Contract: a cache is a folder of four files, written whole by `engine.prepare` and then only read or removed. Its record
names by hash what it was made from and what it consists of, so that a cache of other weights, or a damaged one, is as
good as none. Nothing here sends anything: `library` sees to that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine import digests, layout
from engine.errors import Cancelled, EngineClosed, InvalidInput, ModelCorrupt
from engine.machine import no_memory
from engine.prepared import BIN, FILES, RECORD, TOKENIZER, XML, Mark, Prepared, read
from engine.tuning import processor
from engine.windows import padded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers.base.modules.input_module import InputModule

    from engine.heads import Linear

    Floats = NDArray[np.float32]

_log = logging.getLogger("engine.fastpath")
State = Literal["ready", "refused", "absent"]
FOLDER = ".openvino-int8"
LEAST_PROBED = 0.98  # cosine to torch; 8 bits leave 0.999 of it, a wrong weight or kernel far less
_MACHINES = {"x86_64", "amd64", "arm64", "aarch64"}  # processors that openvino's wheels have a plugin for
_LIBRARIES = ("openvino", "nncf", "torch", "transformers")  # what a verdict depends on
# Beside the weights, all that decides how a text becomes hidden states.
_BESIDE = (
    "added_tokens.json", "config.json", "merges.txt", "modules.json", "sentence_bert_config.json",
    "sentencepiece.bpe.model", "special_tokens_map.json", "spm.model", "tokenizer.json", "tokenizer_config.json",
    "vocab.json", "vocab.txt",
)  # fmt: skip
_SLICE = 50  # ms between two looks whether a pass is still wanted
_LONG = 512  # tokens of a pass, padding counted, whose memory is given back at once
# The same numbers on processors with and without bf16; no thread is bound to a core, since those are the host's.
_EVERYWHERE = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
_ON_CPU = {**_EVERYWHERE, "ENABLE_CPU_PINNING": False, "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"}


class CacheDamaged(ModelCorrupt):
    """The cache beside a model cannot be used: `discard` it and prepare anew."""


def cache_of(folder: Path) -> Path:
    """Return where the cache of a model's folder lies, or would."""
    return folder / FOLDER


def weights_of(folder: Path) -> Path:
    """Return where the weights of the cache of a model's folder lie, or would."""
    return cache_of(folder) / BIN


def refusal(folder: Path) -> str | None:
    """Return why only torch can run the model of a folder, None where nothing says so."""
    if state(folder) != "refused":
        return None
    with contextlib.suppress(OSError, ValueError):
        return read(cache_of(folder)).refused
    return None


def library() -> Any:
    """Return the module `openvino`. Raises `ImportError` where it is not installed."""
    # openvino and nncf report what they are used for over the network, with the package openvino_telemetry, and by
    # default. Both do without it where it cannot be imported, which is what None says; it has to say so before either
    # is imported. A host that has imported it by itself keeps it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def _core() -> Any:
    # One for the life of the process: with the last one OpenVINO would unload its plugin, while threads may still run
    # what is in it.
    return library().Core()


def available() -> bool:
    """Return whether OpenVINO is installed and could run on this processor; imports nothing."""
    if platform.machine().lower() not in _MACHINES:
        return False
    try:
        return importlib.util.find_spec("openvino") is not None
    except ValueError:  # somebody has forbidden its import, with None in sys.modules
        return False


def state(folder: Path) -> State:
    """Return whether the cache of a model's folder can be used, was refused for good reasons, or is not there.

    What is damaged, or was made from other weights, is not there. Files are read when they have changed only, so that
    this may be asked before every request.
    """
    folder = folder.absolute()
    try:
        sight, known = _sight(folder), _judged.get(folder)
        if known is None or known[0] != sight:
            with _judging:
                known = _judged.get(folder)
                if known is None or known[0] != sight:
                    known = _judged[folder] = sight, _judge(folder)
    except OSError:
        return "absent"
    return known[1]


def load(folder: Path, *, threads: int | None = None) -> InputModule:
    """Return the transformer of a model's folder, from its cache, as a module of sentence-transformers.

    It takes `input_ids` and `attention_mask` (n, tokens) and adds `token_embeddings` (n, tokens, width) of float32. It
    has `tokenizer`, which neither pads nor cuts, `max_seq_length`, `width`, `interrupt()` and `close()`. One thread
    owns it; any may interrupt. `threads` is the processor's; None leaves it to OpenVINO. Raises `CacheDamaged`, having
    removed a cache that cannot be used; `MemoryError`, `ImportError`.
    """
    if state(folder) != "ready":
        raise CacheDamaged(f"{cache_of(folder)} is not what was prepared.", path=str(cache_of(folder)))
    sight = _judged[folder.absolute()][0]
    try:
        return open_cache(cache_of(folder), threads=threads)
    except CacheDamaged as error:
        _log.warning("%s", error)
        _drop(folder.absolute(), sight)
        raise


def open_cache(cache: Path, *, threads: int | None = None) -> InputModule:
    """Return what `load` does, from a cache whose files are known to be whole. Raises as `load`."""
    library()
    from tokenizers import Tokenizer

    try:
        prepared = read(cache)
        _check_sizes(cache, prepared)
        tokenizer = Tokenizer.from_file(str(cache / TOKENIZER))
        return _module()(_open(_core(), cache, prepared, threads), tokenizer, prepared, threads)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # tokenizers raises nothing narrower
        why = " ".join(str(error).split())[-300:]
    # Not in the block above: what an error remembers would keep the files mapped, and Windows removes none that is.
    if no_memory(why):
        raise MemoryError(f"there was no memory for the model in {cache} ({why})")
    raise CacheDamaged(f"{cache} cannot be used: {why}. It is made anew where it can be.", path=str(cache))


def _drop(folder: Path, sight: _Sight) -> None:
    """Remove the cache that was seen, unless another process has put a new one into its place."""
    with contextlib.suppress(OSError):
        if _sight(folder) == sight:
            _judged[folder] = sight, "absent"  # what cannot be removed is not looked at again until it changes
            discard(folder)


def discard(folder: Path) -> None:
    """Remove the cache of a model's folder, which nobody may have open. Raises `OSError`."""
    cache = cache_of(folder)
    aside = folder / f"{FOLDER}.old-{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.suppress(FileNotFoundError):
        cache.rename(aside)  # at once, so that nobody finds half of it
        shutil.rmtree(aside)


# ---- what a cache is made from, and whether it still is


def sources(folder: Path) -> list[Path]:
    """Return the files of a model's folder that its cache is made from."""
    beside = (folder / name for name in _BESIDE)
    return sorted([*layout.weights(folder), *(path for path in beside if path.is_file())])


def marks(paths: Iterable[Path], tell: Callable[[], object]) -> dict[str, Mark]:
    """Return name → mark of files, remembered ones where they are known. Raises as `digests.sha256_of` does."""
    return {path.name: Mark(path.stat().st_size, digests.sha256_of(path, tell)) for path in paths}


@cache
def versions() -> dict[str, str]:
    """Return the version of each library that decides whether a model can be prepared; "" where it is missing."""
    return {name: _version(name) for name in _LIBRARIES}


@cache
def machine() -> str:
    """Return what kind of processor this is."""
    return f"{platform.machine()} {processor()}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


_Sight = tuple[tuple[str, int, int, int, int], ...]
_judging = threading.Lock()  # once is enough, where that is hashing gigabytes
_judged: dict[Path, tuple[_Sight, State]] = {}  # what was last seen of a folder, and what came of it


def _sight(folder: Path) -> _Sight:
    """Return all that shows, without reading, that a file has changed. Raises `OSError` where there is no record."""
    own = cache_of(folder)
    there = [own / RECORD, *(own / name for name in FILES if (own / name).exists()), *sources(folder)]
    stats = ((str(path), path.stat()) for path in there)
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats)


def _judge(folder: Path) -> State:
    own = cache_of(folder)
    try:
        prepared = read(own)
    except ValueError:
        return "absent"
    if prepared.made_from != marks(sources(folder), lambda: None):
        return "absent"
    if prepared.refused is not None:
        return "refused" if (prepared.versions, prepared.machine) == (versions(), machine()) else "absent"
    return "ready" if prepared.files == marks((own / name for name in FILES), lambda: None) else "absent"


def _check_sizes(cache: Path, prepared: Prepared) -> None:
    # OpenVINO maps the weights: touching what a shorter file does not hold would end the host.
    for name, mark in prepared.files.items():
        if (cache / name).stat().st_size != mark.size:
            raise ValueError(f"{name} has another size than was written")


# ---- passes


class _Session:
    """A compiled transformer and the one request that runs it; one thread owns it, any may interrupt."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._ended = threading.Event()

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64], stopped: threading.Event | None = None) -> Floats:
        """Return the hidden states (n, tokens, width) of ids (n, tokens), as an array of their own.

        Once `stopped` is set, nobody waits for them any more. Raises `Cancelled`, `EngineClosed`, `MemoryError`,
        `RuntimeError`.
        """
        if (request := self._request) is None:
            raise EngineClosed("the embedding model was closed")
        try:
            request.start_async({"input_ids": ids, "attention_mask": mask})
            self._wait(request, stopped)
            states: Floats = request.get_output_tensor(0).data.copy()
        except RuntimeError as error:
            raise MemoryError(f"no memory for {ids.size} tokens") if no_memory(str(error)) else error from None
        finally:
            if ids.size > _LONG:
                self._compiled.release_memory()
        return states

    def _wait(self, request: Any, stopped: threading.Event | None) -> None:
        try:
            while not request.wait_for(_SLICE):
                if self._ended.is_set():
                    raise EngineClosed("the embedding model was closed")
                if stopped and stopped.is_set():
                    raise Cancelled("the embedding was cancelled")
        except BaseException:  # a Ctrl-C, too, comes between two slices: no pass may go on behind its caller's back
            request.cancel()
            with contextlib.suppress(RuntimeError):
                request.wait()
            raise

    def interrupt(self) -> None:
        """Let the pass that runs, and each after it, end soon with `EngineClosed`."""
        self._ended.set()

    def close(self) -> None:
        """Free all; again, it does nothing."""
        self._request = self._compiled = None


def _linear(weight: Floats, bias: Floats, options: dict[str, Any]) -> Linear:
    """Return x (n, d) → x @ weight.T + bias, on the processor."""
    openvino = library()
    from openvino import opset13 as made

    rows = made.parameter([-1, weight.shape[1]], weight.dtype)
    product = made.add(made.matmul(rows, made.constant(weight), False, True), made.constant(bias))
    compiled = _core().compile_model(openvino.Model([product], [rows]), "CPU", options)
    request = compiled.create_infer_request()

    def run(given: Floats) -> Floats:
        request.infer([given])
        found: Floats = request.get_output_tensor(0).data.copy()
        return found

    return run


@cache
def _module() -> Callable[[_Session, Any, Prepared, int | None], InputModule]:
    import torch
    from sentence_transformers.base.modules.input_module import InputModule

    class OpenVINOTransformer(InputModule):  # type: ignore[misc]
        """A transformer run by OpenVINO, in the place of sentence-transformers' own."""

        def __init__(self, session: _Session, tokenizer: Any, prepared: Prepared, threads: int | None) -> None:
            super().__init__()
            self._threads = threads
            self._session, self.tokenizer = session, tokenizer
            self.max_seq_length, self.width = prepared.max_tokens, prepared.width

        def forward(
            self, features: dict[str, Any], *, stopped: threading.Event | None = None, **_options: object
        ) -> dict[str, Any]:
            ids, mask = (features[name].cpu().numpy() for name in ("input_ids", "attention_mask"))
            return {**features, "token_embeddings": torch.from_numpy(self._session.run(ids, mask, stopped))}

        def save(self, output_path: str, *_arguments: object, **_options: object) -> None:
            raise InvalidInput("what OpenVINO runs is a cache: copy the model's own folder.")

        def linear(self, weight: Floats, bias: Floats) -> Linear:
            return _linear(weight, bias, _on_cpu(self._threads))

        def interrupt(self) -> None:
            self._session.interrupt()

        def close(self) -> None:
            self._session.close()

    return OpenVINOTransformer


def _open(core: Any, cache: Path, prepared: Prepared, threads: int | None) -> _Session:
    """Return the model on the first device that runs it as torch did. Raises what openvino does on the processor."""
    for gpu in _gpus(core):
        try:
            return _opened(core, cache, prepared, gpu, _EVERYWHERE)
        except (RuntimeError, ValueError) as error:
            _log.warning("%s cannot run the model in %s, so the processor does: %s", gpu, cache, error)
    return _opened(core, cache, prepared, "CPU", _on_cpu(threads))


def _on_cpu(threads: int | None) -> dict[str, Any]:
    return _ON_CPU | ({"INFERENCE_NUM_THREADS": threads} if threads else {})


def _opened(core: Any, cache: Path, prepared: Prepared, device: str, options: dict[str, Any]) -> _Session:
    session = _Session(core.compile_model(str(cache / XML), device, options))
    try:
        _check(session, prepared)
    except BaseException:
        session.close()
        raise
    return session


def _gpus(core: Any) -> Iterator[str]:
    """Yield the GPUs with memory of their own; one that shares the processor's is not faster than it."""
    try:
        for device in core.available_devices:
            if device.startswith("GPU") and "DISCRETE" in str(core.get_property(device, "DEVICE_TYPE")):
                yield device
    except RuntimeError as error:  # a GPU that is there and does not answer
        _log.warning("the GPUs cannot be used: %s", error)


def _check(session: _Session, prepared: Prepared) -> None:
    """Raise `ValueError` unless a pass over the probe gives what torch gave."""

    probe = prepared.probe
    if probe is None:
        raise ValueError("nothing was prepared")
    ids, mask = padded(probe.ids)
    states = session.run(ids, mask)
    if states.shape != (*ids.shape, prepared.width):
        raise ValueError(f"its states have the shape {states.shape}")
    means = [row[: len(own)].mean(axis=0) for row, own in zip(states, probe.ids, strict=True)]
    cosines = [*_cosines(states[:, 0], probe.first), *_cosines(means, probe.mean)]
    if not all(cosine >= LEAST_PROBED for cosine in cosines):  # a NaN is no better
        raise ValueError(f"its states are not torch's (cosines {', '.join(f'{cosine:.3f}' for cosine in cosines)})")


def _cosines(own: Sequence[Floats] | Floats, wanted: Sequence[Sequence[float]]) -> list[float]:
    import numpy as np

    pairs = zip(own, map(np.asarray, wanted), strict=True)
    return [float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other))) for one, other in pairs]
