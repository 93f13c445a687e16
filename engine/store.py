"""The SQLite file under the memories: opening, locking, migrating, wiping. Nothing else knows apsw.

One process at a time holds a home, by a lock of the operating system taken at the first use. What `write()`
has left is on disk: WAL with `synchronous=FULL`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import EngineClosed, StoreError, StoreLocked

if TYPE_CHECKING:
    from apsw import Bindings, Connection
    from filelock import FileLock

FILE_NAME = "memory.sqlite3"
LOCK_TIMEOUT = 0.5  # seconds until another writer of the same home is reported
_PRAGMAS = (
    "page_size = 8192",  # three vectors of 1,024 numbers a page; at 4,096 one, and half the page empty
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = ON",
    "foreign_keys = ON",
)

Row = tuple[Any, ...]
Migration = Callable[["Connection"], None]
MIGRATIONS: list[Migration] = []


def migration(step: Migration) -> Migration:
    """Register `step` as the next one of the schema; steps are never changed once released, only followed."""
    MIGRATIONS.append(step)
    return step


@migration
def memories_and_vectors(db: Connection) -> None:
    """Times are microseconds of UTC; `happened` keeps the caller's offset; `moment` is it, else `created`."""
    # AUTOINCREMENT: a seq is never given twice, so an index entry cannot come to mean another memory.
    # The digest is unique among the current ones only: what was superseded may become true again.
    db.execute("""
        CREATE TABLE memories (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            text TEXT NOT NULL,
            digest BLOB NOT NULL,
            category TEXT,
            kind TEXT,
            source TEXT,
            user TEXT NOT NULL,
            created INTEGER NOT NULL,
            happened TEXT,
            moment INTEGER NOT NULL,
            valid_from INTEGER,
            valid_to INTEGER,
            superseded_by TEXT,
            importance REAL NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX memories_current ON memories (user, digest) WHERE superseded_by IS NULL;
        CREATE TABLE vectors (
            memory INTEGER NOT NULL REFERENCES memories (seq) ON DELETE CASCADE,
            model TEXT NOT NULL,
            vector BLOB NOT NULL,
            UNIQUE (memory, model)
        ) STRICT;
        CREATE TABLE chores (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    """)


def rows(db: Connection, sql: str, values: Bindings = ()) -> list[Row]:
    """Run one statement to its end and return its rows."""
    return list(db.execute(sql, values))


def _checked(db: Connection, check: str) -> list[str]:
    import apsw

    found: list[str] = []
    try:
        found.extend(str(problem) for (problem,) in db.execute(f"PRAGMA {check}"))
    except apsw.CorruptError as error:  # damage that the check itself cannot get past
        found.append(str(error))
    return [] if found == ["ok"] else found


@dataclass(frozen=True, slots=True)
class Health:
    """What a home's database looks like: its bytes, what SQLite's check finds, and how much is in it.

    `memories` is user → how many; `vectors` of all of them have one of the model that was asked about.
    """

    size: int
    problems: tuple[str, ...]
    memories: dict[str, int]
    vectors: int


def sqlite_version() -> str:
    """Return the version of the SQLite that is used here."""
    import apsw

    return str(apsw.sqlite_lib_version())


class Store:
    """The database of one home: one connection behind one lock, opened by its first use.

    Every method raises `StoreLocked` where another process has the home, `StoreError` where the file cannot
    be used, and `EngineClosed` after `close()` or in a forked child.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE_NAME
        self._guard = threading.RLock()
        self._lock: FileLock | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._pid = os.getpid()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Lend the connection; no other thread uses the store meanwhile."""
        if os.getpid() != self._pid:  # before the guard: a thread that is not in this process may hold it
            raise EngineClosed("this engine belongs to the parent process; make a new Engine after the fork.")
        with self._guard, self._translated():
            if self._closed:
                raise EngineClosed("the engine is closed; make a new Engine.")
            if self._connection is None:
                self._connection = self._open()
            yield self._connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Lend the connection inside a transaction that is on disk at the end, or undone by any exception."""
        with self.read() as db, db:
            yield db

    def owe_wipe(self, db: Connection) -> None:
        """Record in the deleting transaction that traces are left, for `wipe` or the next opening."""
        db.execute("INSERT OR IGNORE INTO chores VALUES ('wipe')")

    def wipe(self) -> None:
        """Remove the traces of deleted rows from the database file and its log.

        `secure_delete` misses the copies that SQLite leaves in a page's unused space when it moves rows
        between pages, or so it seems: deleted texts were found there (DECISIONS). A rewritten file has none.
        """
        with self.read() as db:
            self._wipe(db)

    def problems(self) -> list[str]:
        """Return what SQLite's own integrity check finds, nothing for a sound file."""
        with self.read() as db:
            return _checked(db, "integrity_check")

    def health(self, model: str | None) -> Health | None:
        """Look at the file, also while another process has it; None where there is none. Nothing is changed or locked.

        `model` is the embedding model whose vectors are counted.
        """
        with self._translated():
            if not self.path.exists():
                return None
            size = self.path.stat().st_size
            with self._looking() as db:
                self._version(db)
                if problems := _checked(db, "quick_check"):
                    return Health(size, tuple(problems), {}, 0)
                if not rows(db, "SELECT 1 FROM sqlite_schema WHERE name = 'vectors'"):  # made, and not yet used
                    return Health(size, (), {}, 0)
                memories: dict[str, int] = dict(
                    rows(db, "SELECT user, count(*) FROM memories GROUP BY user ORDER BY 2 DESC")
                )
                ((vectors,),) = rows(db, "SELECT count(*) FROM vectors WHERE model = ?", (model,))
                return Health(size, (), memories, vectors)

    @contextmanager
    def _looking(self) -> Iterator[Connection]:
        """Lend a connection that can only read."""
        import apsw

        # Without a log nobody has the file open; an ordinary reader would then leave a log and its index behind.
        alone = "" if self.path.with_name(f"{FILE_NAME}-wal").exists() else "&immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        db = apsw.Connection(f"{self.path.absolute().as_uri()}?mode=ro{alone}", flags=flags)
        try:
            db.set_busy_timeout(int(LOCK_TIMEOUT * 1000))
            yield db
        finally:
            db.close()

    def close(self) -> None:
        """Free the file and the lock; may be called twice; in a forked child it leaves both alone."""
        if os.getpid() != self._pid:
            return
        with self._guard, self._translated():
            self._closed = True
            try:
                if self._connection is not None:
                    self._connection.close()
            finally:
                self._connection = None
                self._release()

    def _open(self) -> Connection:
        self._acquire()
        try:
            return self._connect()
        except BaseException:
            self._release()
            raise

    def _acquire(self) -> None:
        from filelock import FileLock, Timeout

        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # thread_local=False: the thread that closes need not be the one that opened.
        lock = FileLock(self.path.with_name("lock"), timeout=LOCK_TIMEOUT, mode=0o600, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLocked(
                f"another engine is using the memories in {self.path.parent}. "
                "Close it, or give this one another home (--home DIR)."
            ) from None
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _connect(self) -> Connection:
        import apsw

        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        self.path.chmod(0o600)  # SQLite gives its log the same
        db = apsw.Connection(str(self.path))
        try:
            db.set_busy_timeout(int(LOCK_TIMEOUT * 1000))
            db.transaction_mode = "IMMEDIATE"
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # a file that is refused is not written to
            version = self._version(db)
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            self._prepare(db, version)
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
        if rows(db, "SELECT 1 FROM chores WHERE name = 'wipe'"):
            self._wipe(db)

    def _wipe(self, db: Connection) -> None:
        db.execute("VACUUM")
        ((busy, _, _),) = rows(db, "PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise StoreError(
                f"the memory is deleted, but another program is reading {self.path}, so traces stay in its "
                "log. Close that program; the next forget or the next start removes them."
            )
        db.execute("DELETE FROM chores WHERE name = 'wipe'")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import apsw

        try:
            yield
        except apsw.Error as error:
            raise self._explain(error) from error
        except OSError as error:
            raise StoreError(f"{error.filename or self.path} cannot be used: {error.strerror}.") from error

    def _explain(self, error: Exception) -> StoreError:
        import apsw

        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            return StoreError(
                f"{self.path} is damaged ({error}). Close Gieok and move {FILE_NAME} away, its -wal and -shm "
                "files with it (keep them: they may be repairable); put a backup there or start anew."
            )
        if isinstance(error, (apsw.BusyError, apsw.LockedError)):
            return StoreLocked(f"another program is writing to {self.path}; close it and try again.")
        if isinstance(error, apsw.FullError):
            return StoreError(f"the disk that holds {self.path} is full; free some space and try again.")
        return StoreError(f"{self.path} cannot be read or written: {error}.")
