"""SQLite connections: how a file is opened to write, to read, to look, and what errors mean. Only this knows apsw."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.blanking import blanked
from engine.errors import StoreError, StoreLocked

if TYPE_CHECKING:
    from apsw import Bindings, Connection, URIFilename, VFSFile

_log = logging.getLogger("engine.connections")
_BACKUP_PAGES = 4096  # copied between two looks at a Ctrl-C
Row = tuple[Any, ...]


class Damaged(Exception):
    """A file that SQLite cannot read as a database, or not whole."""


def rows(db: Connection, sql: str, values: Bindings = ()) -> list[Row]:
    """Run one statement to its end and return its rows."""
    return list(db.execute(sql, values))


def sqlite_version() -> str:
    """Return the version of the SQLite that is used here."""
    import apsw

    return str(apsw.sqlite_lib_version())


def to_write(path: Path) -> Connection:
    """Open a file to write to it, so that the unused space of its pages is always cleared.

    Its log is not written back where nobody closes the connection, as at the end of the interpreter: that would call
    Python. Close it by `close_writer`.
    """
    import apsw

    class Pages(apsw.VFSFile):
        def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
            super().xWrite(blanked(data, first=offset == 0), offset)

    class Files(apsw.VFS):
        def xOpen(self, name: str | URIFilename | None, flags: list[int]) -> VFSFile:  # noqa: N802
            kind = Pages if flags[0] & apsw.SQLITE_OPEN_MAIN_DB else apsw.VFSFile
            return kind("", name, flags)

    class Writing(apsw.Connection):
        files: Files  # VACUUM opens a file of its own by its name

    name = f"gieok {uuid.uuid4().hex}"
    files = Files(name, "")  # on top of the default one
    db = Writing(str(path), vfs=name)
    db.files = files
    db.transaction_mode = "IMMEDIATE"
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return db


def close_writer(db: Connection) -> None:
    """Write the log back into the file, as far as nobody reads it and the disk takes it, and close.

    Nothing is lost where it takes nothing: what was committed stays in the log, and who opens the file reads that, too.
    """
    import apsw

    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    try:
        db.close()
    except (apsw.FullError, apsw.IOError) as error:
        _log.warning("the memories' log could not be written back (%s); it stays beside them", str(error))


def to_read(path: Path) -> Connection:
    """Open a file that others may write to meanwhile, and only read it."""
    import apsw

    return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)


def to_look(path: Path) -> Connection:
    """Open a file to read it, and leave nothing behind."""
    import apsw

    # Without a log nobody has the file open; an ordinary reader would then leave a log and its index behind.
    alone = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"{path.absolute().as_uri()}?mode=ro{alone}", flags=flags)


def checked(db: Connection, check: str) -> list[str]:
    """Return what `integrity_check` or `quick_check` finds, nothing for a sound file."""
    import apsw

    found: list[str] = []
    try:
        found.extend(str(problem) for (problem,) in db.execute(f"PRAGMA {check}"))
    except apsw.CorruptError as error:  # damage that the check itself cannot get past
        found.append(str(error))
    return [] if found == ["ok"] else found


def see_sound(db: Connection) -> None:
    """Raise `Damaged` where the pages of a file do not fit each other; this reads all of it."""
    if problems := checked(db, "quick_check"):
        raise Damaged(problems[0])


def copied(db: Connection, copy: Connection, heed: Callable[[int, int], object]) -> None:
    """Copy a database as one connection sees it into another; `heed` hears how many pages of how many are done."""
    with copy.backup("main", db, "main") as work:
        while not work.done:
            work.step(_BACKUP_PAGES)
            heed(work.page_count - work.remaining, work.page_count)
    rows(copy, "PRAGMA journal_mode = DELETE")  # one file, whoever opens it


@contextmanager
def noticed() -> Iterator[None]:
    """Raise `Damaged` for what SQLite says of a file that is none of its own, or broken."""
    import apsw

    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Damaged(str(error)) from error


@contextmanager
def translated(path: Path, mend: Callable[[], str]) -> Iterator[None]:
    """Raise `StoreError` for errors of SQLite and of the system; `mend` says what to do about a damaged file."""
    import apsw

    try:
        with noticed():
            yield
    except Damaged as error:
        raise StoreError(f"{path} is damaged ({error}). {mend()}") from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StoreLocked(f"another program is writing to {path}; close it and try again.") from error
    except apsw.FullError as error:
        raise StoreError(f"the disk that holds {path} is full; free some space and try again.") from error
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be read or written: {error}.") from error
    except OSError as error:
        raise StoreError(f"{error.filename or path} cannot be used: {error.strerror}.") from error
