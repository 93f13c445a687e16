"""In which phase of a memory store's work a process was when it was killed.

`Watch` is for the process: it says `{"begin": …}` and `{"end": …}` around what runs inside a step or in the background.
`phases` is for who killed it: what those lines and the files say together.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from engine import index_file, spaces
from engine.migrations import MIGRATIONS
from engine.settling import Settling
from engine.shortlist import Shortlist
from engine.store import FILE_NAME, Store

Say = Callable[[dict[str, Any]], object]
ADDED, UPDATED, FORGOTTEN = ("one", "batch", "fact"), ("update",), ("forget", "forget_all")
COMMITS = ("add", "update", "forget")
PHASES = (*COMMITS, "wipe", "migration", "judging", "index save", "re-embedding")
_SLOW = 0.01  # seconds of a judge that thinks, of a disk that is asked to write


# ---- the process


class Watch:
    """Says when migrations, judgings, savings of the index and wipes begin and end, and lets them take a while."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.begun: set[str] = set()

    def start(self) -> None:
        """Watch this process from now on; there is no way back."""
        # A judging and a saving begin where there is something to judge or to save, and not with every look.
        self._around(Store, "_prepare", begins=_migrates, phase="migration")
        self._around(Settling, "_older", phase="judging", ends=False)
        self._around(Settling, "settle", begins=_never, phase="judging")
        self._around(index_file, "save", phase="index save", ends=False)
        self._around(Shortlist, "_write", begins=_never, phase="index save")
        self._around(Store, "wipe", phase="wipe")
        for owner, name in ((Settling, "_verdict"), (os, "fsync"), (spaces, "missing")):
            _slow(owner, name)

    def _around(
        self,
        owner: Any,
        name: str,
        *,
        phase: str,
        begins: Callable[..., bool] = lambda *_, **__: True,
        ends: bool = True,
    ) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def told(*arguments: Any, **named: Any) -> Any:
            if begins(*arguments, **named):
                self.begun.add(phase)
                self.say({"begin": phase})
            try:
                return real(*arguments, **named)
            finally:
                if ends and phase in self.begun:
                    self.begun.discard(phase)
                    self.say({"end": phase})

        setattr(owner, name, told)


def _migrates(store: Store, db: apsw.Connection, version: int) -> bool:
    return 0 < version < len(MIGRATIONS)


def _never(*_: Any) -> bool:
    return False


def _slow(owner: Any, name: str) -> None:
    real = getattr(owner, name)

    @functools.wraps(real)
    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(_SLOW)
        return real(*arguments, **named)

    setattr(owner, name, slow)


# ---- who killed it


def phases(home: Path, step: str, begun: set[str]) -> set[str]:
    """Return the phases that a kill fell in, by the `step` and the phases that had `begun`, and by what the files say.

    A wipe that is owed, memories that wait for the judge and a space that is being filled are told by the files alone;
    a migration and a saving have to have begun, too: an older schema and a left file may come from before.
    """
    found = {name for name, steps in (("add", ADDED), ("update", UPDATED), ("forget", FORGOTTEN)) if step in steps}
    if "index save" in begun and any((home / "index").glob("*.part")):
        found.add("index save")
    if not (home / FILE_NAME).exists():
        return found
    with tempfile.TemporaryDirectory() as folder:  # whoever opens a log brings it in, and the next process is to do so
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            if (home / name).exists():
                shutil.copy(home / name, folder)
        with closing(apsw.Connection(str(Path(folder, FILE_NAME)))) as db:
            return found | _in_database(db, begun)


def _in_database(db: apsw.Connection, begun: set[str]) -> set[str]:
    version = int(str(db.pragma("user_version")))
    chores = {name for (name,) in db.execute("SELECT name FROM chores")} if version else set()
    found = {"wipe"} & chores
    if "migration" in begun and (0 < version < len(MIGRATIONS) or "rewrite" in chores):
        found.add("migration")
    if version < len(MIGRATIONS):
        return found
    if db.execute("SELECT 1 FROM unjudged").fetchall():
        found.add("judging")
    if db.execute("SELECT complete FROM spaces ORDER BY number DESC LIMIT 1").fetchall() == [(0,)]:
        found.add("re-embedding")
    return found
