"""Embedding models are made ready for the fast path before their first use; where that fails, torch serves them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine import fastpath, layout, prepare
from engine.errors import Cancelled, EngineClosed, EngineError, ModelCorrupt
from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    from engine.config import ModelSpec
    from engine.hub import Room

_log = logging.getLogger("engine.ready")
_here = threading.local()  # of all engines and libraries: they wait for the same lock


def is_ready(spec: ModelSpec, folder: Path) -> bool:
    """Return whether OpenVINO is to run the model in `folder`, from what was prepared of it. Cheap."""
    return spec.backend != "torch" and fastpath.available() and fastpath.state(folder) == "ready"


def obstacle(folder: Path) -> str | None:
    """Return why OpenVINO cannot run the model in `folder`, None where nothing is known against it."""
    if not fastpath.available():
        return "OpenVINO is not installed, or does not know this processor"
    return fastpath.refusal(folder)


class Ready:
    """Makes models ready; `room` is entered for as long as a child takes so much RAM. For any thread."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._given_up: set[Path] = set()

    def __call__(self, spec: ModelSpec, progress: ProgressCallback | None) -> None:
        """Prepare an embedding model that is here, unless it is ready, or cannot be.

        Where it cannot be, torch will run it, which the log says once. Raises `Cancelled`, `EngineClosed`; and, where
        its entry asks for OpenVINO, what stands against it: `OutOfBudget`, `ModelCorrupt`.
        """
        if spec.kind != "embedding" or spec.backend == "torch" or not layout.installed(spec):
            return
        folder = layout.locate(spec)
        forced = spec.backend == "openvino"
        if not layout.weights(folder) or (folder in self._given_up and not forced):
            return
        if fastpath.available() and fastpath.state(folder) == "absent":
            with self._alone():
                self._try(spec, folder, progress)
        if forced:
            _insist(spec, folder)

    def _try(self, spec: ModelSpec, folder: Path, progress: ProgressCallback | None) -> None:
        raised: list[BaseException] = []

        def told(event: Progress) -> None:
            try:
                report(progress, event)
            except BaseException as error:
                raised.append(error)
                raise

        try:
            prepare.prepare(folder, spec, room=self._room, progress=told)
        except (Cancelled, EngineClosed):
            raise
        except (EngineError, OSError, MemoryError) as error:
            if error in raised:  # the callback's own
                raise
            self.give_up(spec, error)

    def give_up(self, spec: ModelSpec, error: Exception) -> None:
        """Leave a model to torch for as long as this process runs. Raises `error` where that is not wanted."""
        if spec.backend == "openvino":
            if isinstance(error, EngineError):
                raise error
            raise prepare.PreparationFailed(f"{spec.name} could not be prepared for OpenVINO: {error}") from error
        folder = layout.locate(spec)
        if folder in self._given_up:
            return
        self._given_up.add(folder)
        _log.warning("%s is run by torch, since it cannot be prepared for OpenVINO: %s", spec.name, error)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep a progress callback from waiting for the preparation that calls it."""
        if getattr(_here, "busy", False):
            raise EngineError("the engine cannot wait for itself: a progress callback called one of its methods")
        _here.busy = True
        try:
            yield
        finally:
            _here.busy = False


def _insist(spec: ModelSpec, folder: Path) -> None:
    if not is_ready(spec, folder):
        why = obstacle(folder) or "it could not be prepared"
        step = f'Set backend = "auto" of {spec.name} in models.toml, and torch will run it'
        raise ModelCorrupt(f"{spec.name} cannot be run by OpenVINO: {why}. {step}.", path=str(folder))
