"""Formats of the databases, and the way from each one to the next.

A database says its format in `PRAGMA user_version`, and in `mmmeta_info` which mmmeta made or changed it last. A step is
one transaction with its new number: who is killed in a step finds the database as it was before, and goes on there.
Nothing goes back: a database of a higher format is refused with the version of mmmeta to install.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from mmmeta_core.database.sqlite import atomic, check_version, set_values
from mmmeta_core.errors import CatalogError
from mmmeta_core.writer import WRITER

Step: TypeAlias = Callable[[sqlite3.Connection], None]
"""Changes the tables within the transaction that it is given, and leaves what it does not know as it is."""

_NOT_WRITABLE: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN)


@dataclass(frozen=True)
class Schema:
    """How a database is made, and `steps`, of which the first leads from format 1 to 2. Published steps never change."""

    create: Step
    steps: Sequence[Step] = ()

    @property
    def newest(self) -> int:
        """Return the format that is made and read."""
        return 1 + len(self.steps)


def bring_up_to_date(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Make the tables of an empty database, or bring those of an older format to the newest, step by step.

    Costs one look when there is nothing to do; several processes may do this at once. Raises `CatalogError` for a newer
    format, for another program's database, and for an older one that can't be written.
    """
    while (found := check_version(connection, path, schema.newest)) < schema.newest:
        what = (
            f"has format {found} and has to be brought to format {schema.newest} first"
            if found
            else "is empty"
        )
        # Looked at again in the transaction, since another process may have been faster before this one had the lock.
        with writable(path, what), atomic(connection):
            if check_version(connection, path, schema.newest) == found:
                _step(connection, schema, found)


@contextmanager
def writable(path: Path, what: str) -> Iterator[None]:
    """Raise `CatalogError` if the block finds that the database can't be written; `what` says why it has to be."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in _NOT_WRITABLE:
            raise
        raise CatalogError(
            f"{path} {what}, but it can't be written ({error}): check the permissions, or copy the metadir to where it can "
            "be written and use it there"
        ) from error


def set_format(connection: sqlite3.Connection, number: int) -> None:
    """Note the format that the tables have as of this transaction, and who gave it to them."""
    connection.execute(f"PRAGMA user_version = {number}")
    set_values(connection, "mmmeta_info", {"writer": WRITER})


def _step(connection: sqlite3.Connection, schema: Schema, found: int) -> None:
    if found == 0:
        schema.create(connection)
        set_format(connection, schema.newest)
    else:
        schema.steps[found - 1](connection)
        set_format(connection, found + 1)
