"""What goes wrong with files and databases on this machine, as one sentence that names them and says what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mmmeta_core.errors import CatalogError, FileError, MmmetaError

WAYS_OUT: Final[Mapping[int, str]] = {
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "the file system is read only; use another folder",
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.EFBIG: "raise the limit on file sizes and run it again",
    errno.EIO: "check the disk and run it again",
    errno.EMFILE: "raise the limit on open files and run it again",
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "a part of the path is a file; correct the path",
    errno.EEXIST: "a file is where a folder has to be; move it away",
    errno.EISDIR: "a folder is where a file has to be; move it away",
}
_DATABASE_WAYS_OUT: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_BUSY: "another process holds it; try again when that is done",
    sqlite3.SQLITE_FULL: "free some space and run it again",
    sqlite3.SQLITE_IOERR: "check the disk, and that it is not full, and run it again",
    sqlite3.SQLITE_READONLY: "check the permissions",
    sqlite3.SQLITE_CANTOPEN: "check the permissions, and that the disk is not full",
    sqlite3.SQLITE_PERM: "check the permissions",
}
_DAMAGED: Final = (
    "if it is damaged move it away: a catalog comes back with the next pull, "
    "a state.db has to be restored from a backup"
)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block name `path` where the system does not: a write to a full disk knows of no name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and not isinstance(error, MmmetaError):
            error.filename = str(path)
        raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of the file system and of SQLite into `FileError` and `CatalogError`.

    `path` is what they name where they know of no name. A broken pipe is left as it is: nothing is wrong here then.
    """
    try:
        with explained_database(path):
            yield
    except (MmmetaError, BrokenPipeError):
        raise
    except OSError as error:
        raise _file_error(error, path) from error


@contextmanager
def explained_database(path: object) -> Iterator[None]:
    """Turn errors of SQLite into `CatalogError`s that name the database `path`."""
    try:
        yield
    except Exception as error:
        # An error of SQLite's, or one of SQLAlchemy's around it, which is not imported for that.
        cause = getattr(error, "orig", error)
        if not isinstance(cause, sqlite3.Error):
            raise
        raise CatalogError(database_sentence(cause, path)) from error


def _file_error(error: OSError, path: Path) -> FileError:
    reason = error.strerror or str(error)
    # Of a rename or a link the second one is what was to come into being.
    of_system = error.filename if error.filename2 is None else error.filename2
    named = path if of_system is None else os.fsdecode(of_system)
    explanation = FileError(sentence(f"{named} can't be used", reason, error.errno))
    explanation.errno, explanation.strerror, explanation.filename = error.errno, reason, str(named)
    return explanation


def sentence(what: str, reason: str, code: int | None) -> str:
    """Return the sentence for an error of the file system."""
    way_out = WAYS_OUT.get(code or 0)
    return f"{what} ({reason})" + (f": {way_out}" if way_out else "")


def database_sentence(error: sqlite3.Error, what: object = "a database of the metadir") -> str:
    """Return the sentence for an error of SQLite's."""
    return f"{what} can't be used ({error}): {_DATABASE_WAYS_OUT.get(_code(error), _DAMAGED)}"


def passes(error: BaseException | None) -> bool:
    """Whether this is an error of SQLite's that says nothing of the database itself: no room, no permission, a lock."""
    return isinstance(error, sqlite3.Error) and _code(error) in _DATABASE_WAYS_OUT


def _code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
