"""An answer on its way to its reader, who may stop reading: whatever was written is kept when it ends.

A thread of its own reads the generation to its end, since that of the reader may be gone by then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from engine.generation import Finished
from engine.worker import LOOK_UP

if TYPE_CHECKING:
    from engine.stream import Source

Event = str | Finished | BaseException


class Recording:
    """Passes on what `source` says; its last event, not before `ended` has returned, or with what that raised."""

    def __init__(self, source: Source, ended: Callable[[Finished | BaseException], object]) -> None:
        self.out: SimpleQueue[Event] = SimpleQueue()
        self.cancel, self.check = source.cancel, source.check
        self._source, self._ended = source, ended
        threading.Thread(target=self._pass_on, name="gieok-session", daemon=True).start()

    def _pass_on(self) -> None:
        while isinstance(event := self._next(), str):
            self.out.put(event)
        try:
            self._ended(event)
        except BaseException as error:  # noqa: BLE001 - the reader is to see it
            event = error
        self.out.put(event)

    def _next(self) -> Event:
        while True:
            try:
                return self._source.out.get(timeout=LOOK_UP)
            except Empty:
                try:
                    self._source.check()
                except BaseException as error:  # noqa: BLE001 - the engine was closed: nothing more will come
                    return error
