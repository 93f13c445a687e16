"""The SQLite file under the memories: opening, locking, migrating, backing up, wiping.

One process at a time writes to a home, by a lock of the operating system taken at its first change; others read beside
it. What `write()` has left is on disk: WAL with `synchronous=FULL`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine import connections
from engine.connections import rows
from engine.errors import EngineClosed, InvalidInput, StoreError, StoreLocked
from engine.holding import Holding
from engine.migrations import MIGRATIONS, SHIFT

if TYPE_CHECKING:
    from apsw import Connection

FILE_NAME = "memory.sqlite3"
BACKUPS = "backups"
LOCK_TIMEOUT = 0.5  # seconds until another writer of the same home is reported
_READERS_GO = 30.0  # seconds in which who reads is done: a search over a large store without its index takes some
_BLANKED = 2  # the schema since which the unused space of every page is cleared
_GIVE_WAY = 1.0  # seconds that who begins to read lets who wipes go first: that takes a moment without readers
_READERS = 8  # connections that stay open for the next reader
_PRAGMAS = (
    "page_size = 8192",  # three vectors of 1,024 numbers a page; at 4,096 one, and half the page empty
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = ON",
    "foreign_keys = ON",
    "temp_store = MEMORY",  # what is deleted must not pass through the system's folder of temporary files
    "fullfsync = ON",  # macOS: what a plain fsync has written may still be in the disk's own cache
    "checkpoint_fullfsync = ON",
    "max_page_count = 33554431",  # as far as `blanking` can tell pages apart: 256 GB
)


@dataclass(frozen=True, slots=True)
class Health:
    """What a home's database looks like: its bytes, what SQLite's check finds, and how much is in it.

    `memories` is user → how many; `vectors` of all of them have one by which they are searched, and `model` is what the
    model is called that made those.
    """

    size: int
    problems: tuple[str, ...]
    memories: dict[str, int]
    vectors: int
    model: str | None = None


class Store:
    """The database of one home: one connection that writes, behind a lock, and a few that read.

    `leftovers` is called at the opening after a process that was killed while it forgot; it removes what else may hold
    what was forgotten. Every method raises `StoreLocked` where it has to write and another process does, `StoreError`
    where the file cannot be used, and `EngineClosed` after `close()` or in a forked child.
    """

    def __init__(self, home: Path, leftovers: Callable[[], object] = lambda: None) -> None:
        self.path = home / FILE_NAME
        self._leftovers = leftovers
        self._guard = threading.RLock()  # of the writer
        self._holding = Holding(home, LOCK_TIMEOUT)
        self._writer: Connection | None = None
        self._lending = threading.Condition()
        self._readers: list[Connection] = []
        self._lent = 0
        self._wiping = False
        self.copying = threading.Lock()  # of who puts a backup into the home, or forgets what may be in one
        self._closed = False
        self._pid = os.getpid()

    def exists(self) -> bool:
        """Return whether anything was ever stored here."""
        self._check()
        return self.path.exists() and self.path.stat().st_size > 0

    @property
    def is_writer(self) -> bool:
        """Whether this process is the one that may write."""
        return self._writer is not None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Lend a connection that can only read, and sees all that was committed before and nothing that comes later."""
        with self._translated():
            db = self._borrow()
            broken = True
            try:
                db.execute("BEGIN")
                yield db
                db.execute("COMMIT")
                broken = False
            finally:
                self._give_back(db, broken)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Lend the writer inside a transaction that is on disk at the end, or undone by any exception."""
        with self._alone() as db, db:
            yield db

    def hold(self) -> None:
        """Become the process that writes. Raises `StoreLocked`, within a second, if another one does."""
        with self._alone():
            pass

    def claim(self) -> bool:
        """Become the process that writes, if no other one does; return whether this is it."""
        with contextlib.suppress(StoreLocked):
            self.hold()
        return self.is_writer

    def owe_wipe(self, db: Connection) -> None:
        """Record in the deleting transaction that traces are left, for `wipe` or the next opening."""
        db.execute("INSERT OR IGNORE INTO chores VALUES ('wipe')")

    def wipe(self, patience: float | None = None) -> None:
        """Remove the traces of deleted rows from the words' index, from the log, and from the pages in memory.

        In the file itself there are none: `secure_delete` clears deleted cells, `engine.blanking` what that misses. Who
        reads is waited for, `patience` seconds at the most; then `StoreError` is raised, and the wipe stays owed.
        """
        with self._alone() as db:
            self._wipe(db, _READERS_GO if patience is None else patience)

    def problems(self) -> list[str]:
        """Return what SQLite's own integrity check finds, nothing for a sound file."""
        if not self.exists():
            return []
        with self._translated(), self._looking() as db:  # outside of a transaction: damage may fail its end, too
            return connections.checked(db, "integrity_check")

    def backup(self, path: Path | None, heed: Callable[[int, int], object]) -> Path:
        """Copy the database into one file, as it is now; return its path, in the home's `backups` if none is named.

        `heed` hears how many pages of how many are copied; what it raises ends the copying. An existing file is
        replaced once the copy is whole. Raises `InvalidInput` for a path in the home, where forgetting must find all.
        """
        from engine.workplace import sync

        if path is not None and path.resolve().is_relative_to(self.path.parent.resolve()):
            raise InvalidInput(f"{path} lies in the folder of the memories; name a place outside of it, or none.")
        if not self.exists():
            raise InvalidInput("nothing was ever stored in this home, so there is nothing to back up")
        target = path or self.path.parent / BACKUPS / f"memory-{datetime.now():%Y%m%d-%H%M%S-%f}.sqlite3"
        aside = target.with_name(f"{target.name}.part")
        with self.copying, self.read() as db:
            rows(db, "SELECT 1 FROM sqlite_schema LIMIT 1")  # from here on it sees one state, whoever writes
            if path is None:
                target.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                os.close(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
                with contextlib.closing(connections.to_write(aside)) as copy:
                    connections.copied(db, copy, heed)
                sync(aside)
                aside.replace(target)
                sync(target.parent)
            finally:
                aside.unlink(missing_ok=True)
        return target

    def backups(self) -> list[Path]:
        """Return the backups that lie in the home, the newest first."""
        folder = self.path.parent / BACKUPS
        return sorted(folder.glob("*.sqlite3"), key=lambda path: path.stat().st_mtime_ns, reverse=True)

    def forget_in_backups(self, delete: Callable[[Connection], object]) -> None:
        """Let `delete` change every backup of the home, whatever its schema; one that cannot be read is removed."""
        with self._translated():
            for part in (self.path.parent / BACKUPS).glob("*.part*"):  # of a process that was killed
                part.unlink(missing_ok=True)
            for path in self.backups():
                try:
                    with connections.noticed(), contextlib.closing(connections.to_write(path)) as db:
                        _forget_in(db, delete)
                except connections.Damaged:  # nobody can restore it
                    path.unlink()

    def health(self) -> Health | None:
        """Look at the file, also while another process has it; None where there is none. It changes nothing."""
        with self._translated():
            if not self.path.exists():
                return None
            size = self.path.stat().st_size
            with self._looking() as db:
                self._version(db)
                if problems := connections.checked(db, "quick_check"):
                    return Health(size, tuple(problems), {}, 0)
                if not rows(db, "SELECT 1 FROM sqlite_schema WHERE name = 'spaces'"):  # made, and not yet used
                    return Health(size, (), {}, 0)
                memories: dict[str, int] = dict(
                    rows(db, "SELECT user, count(*) FROM memories GROUP BY user ORDER BY 2 DESC")
                )
                served = rows(db, _SERVED) or [(None, 0)]
                return Health(size, (), memories, served[0][1], served[0][0])

    @contextmanager
    def _looking(self) -> Iterator[Connection]:
        """Lend a connection that can only read, and leaves nothing behind."""
        with contextlib.closing(connections.to_look(self.path)) as db:
            db.set_busy_timeout(int(LOCK_TIMEOUT * 1000))
            yield db

    def close(self) -> None:
        """Free the file and the lock, once who reads is done; may be called twice; a forked child leaves both alone."""
        if os.getpid() != self._pid:
            return
        with self._lending:
            self._closed = True
            self._lending.wait_for(lambda: not self._lent, _READERS_GO)
            readers, self._readers = self._readers, []
        for db in readers:
            db.close()
        with self._guard, self._translated():
            try:
                if self._writer is not None:
                    connections.close_writer(self._writer)
            finally:
                self._writer = None
                self._holding.release()

    # ---- who reads

    def _borrow(self) -> Connection:
        self._check()
        with self._lending:
            self._lending.wait_for(lambda: not self._wiping, _GIVE_WAY)
            self._check()
            self._lent += 1
            if self._readers:
                return self._readers.pop()
        try:
            return self._reader()
        except BaseException:
            with self._lending:
                self._lent -= 1
                self._lending.notify_all()
            raise

    def _give_back(self, db: Connection, broken: bool) -> None:
        with self._lending:
            self._lent -= 1
            keep = not (broken or self._closed) and len(self._readers) < _READERS
            if keep:
                self._readers.append(db)
            self._lending.notify_all()
        if not keep:
            db.close()

    def _reader(self) -> Connection:
        db = connections.to_read(self.path)
        try:
            db.set_busy_timeout(int(LOCK_TIMEOUT * 1000))
            if self._version(db) < len(MIGRATIONS):
                with self._alone():  # brings the file up to date
                    pass
        except BaseException:
            db.close()
            raise
        return db

    # ---- who writes

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """Lend the writer; no other thread has it meanwhile."""
        self._check()  # before the guard: after a fork a thread that is not in this process may hold it
        with self._guard, self._translated():
            self._check()
            if self._writer is None:
                self._writer = self._open()
            yield self._writer

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise EngineClosed("this engine belongs to the parent process; make a new Engine after the fork.")
        if self._closed:
            raise EngineClosed("the engine is closed; make a new Engine.")

    def _open(self) -> Connection:
        self._holding.take()
        try:
            return self._connect()
        except BaseException:
            self._holding.release()
            raise

    def _connect(self) -> Connection:
        if not self.path.exists():
            # Never where it may be open in this process: closing any descriptor of a file drops all locks on it, and
            # another program would believe that nobody uses the log, and remove it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self.path.chmod(0o600)  # SQLite gives its log the same
        log = self.path.with_name(f"{self.path.name}-wal")
        killed = log.exists() and log.stat().st_size > 0  # who closes a file removes its log
        db = connections.to_write(self.path)
        try:
            db.set_busy_timeout(int(LOCK_TIMEOUT * 1000))
            if killed:  # of a log that was damaged later, less may be left than was copied into the file before
                connections.see_sound(db)
            self._prepare(db, self._version(db))
        except BaseException:
            db.close()
            raise
        return db

    def _version(self, db: Connection) -> int:
        version = int(str(db.pragma("user_version")))
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path} was written by a newer Gieok (schema {version}; this one knows up to "
                f"{len(MIGRATIONS)}). Nothing was changed. Update Gieok: pip install -U gieok"
            )
        return version

    def _prepare(self, db: Connection, version: int) -> None:
        for pragma in _PRAGMAS:
            rows(db, f"PRAGMA {pragma}")
        for number, step in enumerate(MIGRATIONS[version:], version + 1):
            with db:
                step(db)
                db.execute(f"PRAGMA user_version = {number}")
                if number == _BLANKED and version:
                    db.execute("INSERT OR IGNORE INTO chores VALUES ('rewrite')")
        if rows(db, "SELECT 1 FROM chores WHERE name = 'rewrite'"):
            db.execute("VACUUM")  # pages that were written before their unused space was cleared
            db.execute("DELETE FROM chores WHERE name = 'rewrite'")
        db.execute("UPDATE turns SET waiting = 1 WHERE waiting > 0 AND waiting = 2")  # nobody answers them any more
        if rows(db, "SELECT 1 FROM chores WHERE name = 'wipe'"):
            self._leftovers()
            self._wipe(db)

    def _wipe(self, db: Connection, patience: float = LOCK_TIMEOUT) -> None:
        db.set_busy_timeout(int(patience * 1000))
        try:
            _merge_words(db)
            self._part_from_readers()
            ((busy, _, _),) = rows(db, "PRAGMA wal_checkpoint(TRUNCATE)")
            rows(db, "PRAGMA shrink_memory")  # a page from before would take its unused space into the log again
        finally:
            with self._lending:
                self._wiping = False
                self._lending.notify_all()
            db.set_busy_timeout(int(LOCK_TIMEOUT * 1000))
        if busy:
            raise StoreError(
                f"the memory is deleted, but another program is reading {self.path}, so traces stay in its "
                "log. Close that program; the next forget, or the first change after a start, removes them."
            )
        db.execute("DELETE FROM chores WHERE name = 'wipe'")

    def _part_from_readers(self) -> None:
        """Wait until nobody in this process reads, and let who comes then wait a little."""
        with self._lending:
            self._wiping = True
            self._lending.wait_for(lambda: not self._lent, _GIVE_WAY)

    def _translated(self) -> AbstractContextManager[None]:
        return connections.translated(self.path, self._mend)

    def _mend(self) -> str:
        newest = next(iter(self.backups()), None)
        step = f"put {newest} in its place" if newest else "put a backup there (none is in this home) or start anew"
        return (
            f"Close Gieok and move {FILE_NAME} away, its -wal and -shm files with it (keep them: they may be "
            f"repairable); {step}."
        )


_SERVED = f"""
    SELECT name, (SELECT count(*) FROM vectors WHERE key >> {SHIFT} = number) FROM spaces
    WHERE number = (SELECT value FROM meta WHERE name = 'serving')
"""


def _merge_words(db: Connection) -> None:
    """Leave in the words' index only what there are rows of; what was deleted is in older parts of it until then."""
    if rows(db, "SELECT 1 FROM sqlite_schema WHERE name = 'words'"):
        db.execute("INSERT INTO words (words) VALUES ('optimize')")


def _forget_in(db: Connection, delete: Callable[[Connection], object]) -> None:
    if not rows(db, "SELECT 1 FROM sqlite_schema WHERE name = 'memories'"):
        return  # a database, and none of ours
    for pragma in ("foreign_keys = ON", "secure_delete = ON", "journal_mode = DELETE"):
        rows(db, f"PRAGMA {pragma}")
    with db:
        before = db.total_changes()
        delete(db)
        if db.total_changes() > before:
            db.execute("INSERT OR IGNORE INTO chores VALUES ('wipe')")  # who is killed now wipes it the next time
    if rows(db, "SELECT 1 FROM chores WHERE name = 'wipe'"):
        _merge_words(db)
        db.execute("VACUUM")
        db.execute("DELETE FROM chores WHERE name = 'wipe'")
