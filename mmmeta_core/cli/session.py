"""What all commands share: the metadir that the options name, logging, and errors as sentences."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

if TYPE_CHECKING:
    from mmmeta_core.metadir import Metadir

_WAYS_OUT: Final[Mapping[int, str]] = {
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "the file system is read only; use another folder",
    errno.ENOSPC: "free some space and run it again",
    errno.EDQUOT: "free some space and run it again",
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "a part of the path is a file; correct the path",
    errno.EEXIST: "a file is where a folder has to be; move it away",
    errno.EISDIR: "a folder is where a file has to be; move it away",
}


class Session:
    """The options of the group; the metadir is made when a command asks for it."""

    def __init__(self, metadir: str | None, files_root: str | None, remote: str | None) -> None:
        self._arguments = (metadir, files_root, remote)

    @contextmanager
    def open(self, *, existing: bool = False) -> Iterator[Metadir]:
        """Give the metadir; `existing` refuses a path where there is none."""
        from mmmeta_core.errors import CatalogError
        from mmmeta_core.metadir import Metadir
        from mmmeta_core.paths import NAME

        with Metadir(*self._arguments) as metadir:
            if existing and not metadir.paths.root.is_dir():
                raise CatalogError(f"{metadir.path} has no {NAME}: generate, pull, or copy one there first")
            yield metadir


class Program(click.Group):
    """A group whose commands end with one sentence on stderr and an exit code, whatever stops them."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments, and print the help if they ask for it."""
        with sentences():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with sentences():
            return super().invoke(ctx)


@contextmanager
def sentences() -> Iterator[None]:
    """Turn the errors that are the user's to mend into one sentence and an exit code."""
    from mmmeta_core.errors import MmmetaError

    try:
        yield
    except MmmetaError as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough. What is still buffered must not fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        fail(_sentence(error))
    except KeyboardInterrupt:
        click.echo("mmmeta: interrupted; run it again to go on", err=True)
        sys.exit(130)
    except Exception as error:
        # An error of SQLite's, or one of SQLAlchemy's around it, which is not imported for that.
        cause = getattr(error, "orig", error)
        if isinstance(cause, sqlite3.Error):
            fail(_database_sentence(cause))
        raise


def fail(sentence: str) -> NoReturn:
    """Say what is wrong, and end with exit code 1."""
    click.echo(f"mmmeta: {printable(sentence)}", err=True)
    sys.exit(1)


def printable(words: str) -> str:
    """Return text of others without what a terminal would obey: escapes, carriage returns, turned text."""
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in words)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _sentence(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename is not None:
        what = f"{os.fsdecode(error.filename)} can't be used"
    elif error.errno == errno.ENOENT:
        return "the working folder is gone: go to another one, or give --metadir as an absolute path"
    else:
        what = "the output can't be written" if error.errno == errno.ENOSPC else "a file can't be used"
    way_out = _WAYS_OUT.get(error.errno or 0)
    return f"{what} ({reason})" + (f": {way_out}" if way_out else "")


def _database_sentence(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    way_out = {
        sqlite3.SQLITE_BUSY: "another process holds it; try again when that is done",
        sqlite3.SQLITE_FULL: "free some space and run it again",
        sqlite3.SQLITE_READONLY: "check the permissions",
        sqlite3.SQLITE_CANTOPEN: "check the permissions",
        sqlite3.SQLITE_PERM: "check the permissions",
    }.get(
        code,
        "if meta.db is damaged, move it away and pull again; state.db holds your own state, so restore that from a backup",
    )
    return f"a database of the metadir can't be used ({error}): {way_out}"


def configure_logging(level: str) -> None:
    """Log to stderr, one line an event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("mmmeta_core")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
