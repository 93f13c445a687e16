"""The process that runs rounds of one part: an order a line comes in, what came of it goes out.

Native code may end it, and a round may never end: so it is not the process that keeps the log. It ends when its input
does, with all that it started; a round that takes too long ends it, with the places of its threads on standard error.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TextIO

import lifecycle_loads
import soak_parts
from soak_outcome import Order

from engine.errors import ConfigError, ModelNotFound


class Ended(Exception):
    """The process of a round ended before the round did."""


class Refused(Exception):
    """A round lacks what it needs, as every other one of its part would."""


# ---- on the side of who asks


class Worker:
    """A process that runs rounds, in a folder for temporary files that goes with it."""

    def __init__(self, part: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="gieok-soak-")
        names = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), self._folder)
        self._process = subprocess.Popen(
            [sys.executable, __file__, part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **names, "PYTHONUTF8": "1"},
            start_new_session=True,  # Ctrl-C is for who keeps the log
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    def ask(self, order: Order, limit: float) -> dict[str, Any]:
        """Run a round, for `limit` seconds at most, and return what came of it. Raises `Ended`, `Refused`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = {"seed": order.seed, "sizes": dict(order.sizes), "vocab": str(order.vocab), "limit": limit}
        with contextlib.suppress(OSError):  # it has ended; so has what it would answer
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.endswith("\n"):
            status = self._process.wait()
            raise Ended(f"the process was ended by signal {-status}" if status < 0 else f"it ended with {status}")
        found: dict[str, Any] = json.loads(answer)
        if refusal := found.get("refused"):
            raise Refused(refusal)
        return found

    def close(self) -> None:
        """End it and all that it started."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not written yet
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


# ---- on the side of who is asked


def main() -> None:
    """Run rounds of the part that the command line names until there are no more orders."""
    say, orders = _own_output(), SimpleQueue[str]()
    threading.Thread(target=_hear, args=(orders.put,), daemon=True).start()
    part, nth = soak_parts.PARTS[sys.argv[1]], 0
    while True:
        said, nth = json.loads(orders.get()), nth + 1
        faulthandler.dump_traceback_later(said["limit"], exit=True)
        try:
            outcome = asdict(soak_parts.run(part, Order(said["seed"], said["sizes"], Path(said["vocab"]))))
        except (ConfigError, ModelNotFound) as error:
            outcome = {"refused": str(error)}
        faulthandler.cancel_dump_traceback_later()
        gc.collect()
        found = outcome | asdict(lifecycle_loads.held()) | {"nth": nth}
        say.write(json.dumps(found, ensure_ascii=False) + "\n")
        say.flush()


def _own_output() -> TextIO:
    """Return what was standard output; what libraries and parts print goes to standard error from now on."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _hear(put: Callable[[str], object]) -> None:
    for line in sys.stdin:
        put(line)
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    faulthandler.enable()
    main()
