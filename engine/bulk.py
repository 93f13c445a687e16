"""Many dialogues → their memories, in order: several are under way at once, so that the parallel slots stay full."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from engine.errors import Cancelled, EngineClosed, EngineError, InvalidInput
from engine.inputs import check_dialogue
from engine.worker import Scope, cancels, wait

if TYPE_CHECKING:
    from engine.inputs import Turn
    from engine.tasks import ExtractedMemory
    from engine.twins import Threads

Dialogue = str | Sequence[Mapping[str, object]]
Keep = Callable[["ExtractedMemory", Sequence["Turn"]], object]
_AHEAD = 2  # dialogues under way for each slot of the model: while one is classified, another is written


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done with each dialogue: `extract` beside others, then `keep`, if there is one, in order."""

    extract: Callable[[Sequence[Turn]], ExtractedMemory]
    keep: Keep | None


class Extractions:
    """The memories of dialogues, or for each the `EngineError` that it met; for `for` and for `async for`.

    A dialogue of a wrong type is an `InvalidInput`. `dialogues` are read when they are needed, by who iterates;
    what they raise is raised after the results of what came before it. `EngineClosed` and `Cancelled` are raised, and
    end it; so do `close` and a Ctrl-C, which stop what is under way. `dialogues` that ask for these results get a
    `ValueError`, as a generator's would.
    """

    def __init__(self, dialogues: Iterable[Dialogue], steps: Steps, slots: int, threads: Threads) -> None:
        if isinstance(dialogues, str | Mapping):
            raise TypeError("dialogues must be an iterable of dialogues, not one dialogue")
        self._dialogues, self._steps = iter(dialogues), steps
        self._most, self._threads = _AHEAD * slots, threads
        self._under_way: deque[Future[_Done]] = deque()
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="gieok-bulk")
        self._scope, self._lock = Scope(), threading.RLock()
        self._over = self._iterating = False
        self._failed: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ExtractedMemory | EngineError:
        with self._lock, self._once(), cancels(self.close):
            try:
                return self._next()
            except BaseException:
                self.close()
                raise

    @contextlib.contextmanager
    def _once(self) -> Iterator[None]:
        if self._iterating:  # the lock lets in the thread that holds it: the dialogues themselves
            raise ValueError("already iterating: the dialogues asked for the results that they are read for")
        self._iterating = True
        try:
            yield
        finally:
            self._iterating = False

    def close(self) -> None:
        """Stop what is under way, from any thread; iteration ends."""
        self._over = True
        self._scope.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ExtractedMemory | EngineError:
        found = await self._threads.run(lambda: next(self, None))
        if found is None:
            raise StopAsyncIteration
        return found

    def _next(self) -> ExtractedMemory | EngineError:
        self._fill()
        if not self._over and not self._under_way and self._failed:
            raise self._failed
        if self._over or not self._under_way:
            raise StopIteration
        try:
            done = wait(self._under_way.popleft())
            return done.error or self._kept(done)
        except (Cancelled, CancelledError):
            if self._over:  # another thread closed it
                raise StopIteration from None
            raise

    def _fill(self) -> None:
        while len(self._under_way) < self._most and not self._over and not self._failed:
            try:
                dialogue = next(self._dialogues)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001  # raised when its turn comes
                # Without this frame, which holds `self`: that must go as soon as nobody holds it.
                self._failed = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
                return
            if not self._over:  # the reading may take long, and `close` come meanwhile
                self._start(dialogue)

    def _start(self, dialogue: Dialogue) -> None:
        try:
            self._under_way.append(self._pool.submit(_extracted, self._scope, self._steps, dialogue))
        except RuntimeError:  # the pool was shut down this moment
            if not self._over:
                raise

    def _kept(self, done: _Done) -> ExtractedMemory | EngineError:
        try:
            if self._steps.keep is not None:
                self._steps.keep(done.found, done.turns)
        except (EngineClosed, Cancelled):
            raise
        except EngineError as error:
            return error
        return done.found


@dataclass(frozen=True, slots=True)
class _Done:
    turns: Sequence[Turn]
    found: ExtractedMemory
    error: EngineError | None = None


def _extracted(scope: Scope, steps: Steps, dialogue: Dialogue) -> _Done:
    from engine.tasks import ExtractedMemory

    with scope.entered():
        try:
            turns = _checked(dialogue)
            return _Done(turns, steps.extract(turns))
        except (EngineClosed, Cancelled):
            raise
        except EngineError as error:
            return _Done((), ExtractedMemory(), error)


def _checked(dialogue: Dialogue) -> tuple[Turn, ...]:
    try:
        return check_dialogue(dialogue)
    except TypeError as error:
        raise InvalidInput(str(error)) from None
