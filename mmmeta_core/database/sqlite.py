"""Connections, transactions and statements that both databases of a metadir use."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from mmmeta_core.database.connection import Connection
from mmmeta_core.errors import CatalogError
from mmmeta_core.trouble import database_sentence
from mmmeta_core.types import Key, Row, Sql
from mmmeta_core.writer import newer_format

CHUNK: Final = 500
"""Rows that are looked up or written in one go; also the most parameters of one `IN (…)`."""

GUARDS: Final = {"trusted_schema": "OFF", "cell_size_check": "ON"}
"""For databases that others may have written: no function is called from a schema, and pages are looked at."""

_WAIT_SECONDS: Final = 60.0
_HEAVY: Final = 32 * 1024 * 1024
"""Bytes of items from which on no more are held at once."""
_SUPER: Final = bytes.fromhex("d9d505f920a163d7")
"""The end of a rollback journal that names another file."""
T = TypeVar("T")


class UnknownFormatError(CatalogError):
    """A database without a format: an older version's, or another program's."""


def quote(name: str) -> str:
    """Return `name` as an SQL identifier. Every identifier in this package's SQL goes through here."""
    return '"' + name.replace('"', '""') + '"'


def connect(path: Path, *, pragmas: Mapping[str, str]) -> sqlite3.Connection:
    """Open `path` (created when missing) in autocommit mode, waiting up to a minute for other processes' locks.

    Transactions are explicit: see `atomic`. Raises `CatalogError` naming the file.
    """
    check_journal(path)
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rwc",
            uri=True,
            timeout=_WAIT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            for name, value in {**GUARDS, **pragmas}.items():
                _set(connection, name, value)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        if _is_busy(error):
            raise _busy(path) from error
        raise CatalogError(database_sentence(error, path)) from error
    return connection


def _set(connection: sqlite3.Connection, pragma: str, value: str) -> None:
    """Set a pragma, waiting for other processes: to make a database WAL, SQLite itself does not wait."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}={value}")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _busy(path: object) -> CatalogError:
    return CatalogError(
        f"another process has been writing to {path} for more than {_WAIT_SECONDS:.0f} s: run again when it is done"
    )


def check_journal(path: Path) -> None:
    """Raise `CatalogError` for a rollback journal that names another file, which SQLite would remove.

    None of mmmeta's does; one that was copied here with a metadir could make opening the database delete any file.
    """
    # Beside the file itself, as SQLite has it; links on the way to it lead there anyway.
    journal = f"{os.path.realpath(path) if path.is_symlink() else path}-journal"
    try:
        with open(journal, "rb") as file:  # noqa: PTH123 - on the way of every connection
            file.seek(max(os.fstat(file.fileno()).st_size - len(_SUPER), 0))
            tail = file.read(len(_SUPER))
    except OSError:  # there is none, nearly always; SQLite says what else is wrong
        return
    if tail == _SUPER:
        raise CatalogError(
            f"{journal} was not written by mmmeta and is not safe to use: remove it, and see where it came from"
        )


@contextmanager
def atomic(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the block in one transaction that takes the write lock at once; a nested block is a savepoint.

    Raises `CatalogError` when another process does not let go of the lock in a minute.
    """
    nested = connection.in_transaction
    begin, commit, rollback = (
        ("SAVEPOINT nested", "RELEASE nested", "ROLLBACK TO nested")
        if nested
        else ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
    )
    try:
        connection.execute(begin)
    except sqlite3.OperationalError as error:
        if not _is_busy(error):
            raise
        (path,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
        raise _busy(path) from error
    try:
        yield connection
        connection.execute(commit)
    except BaseException:
        if connection.in_transaction:  # SQLite itself ends a transaction on some errors, such as a full disk
            connection.execute(rollback)
        raise


def chunks(
    items: Iterable[T], size: int = CHUNK, *, weigh: Callable[[T], int] | None = None
) -> Iterator[list[T]]:
    """Yield lists of at most `size` items; with `weigh`, which gives an item's bytes, also of few enough to hold."""
    iterator = iter(items)
    if weigh is None:
        while chunk := list(islice(iterator, size)):
            yield chunk
        return
    some: list[T] = []
    weight = 0
    for item in iterator:
        some.append(item)
        weight += weigh(item)
        if len(some) == size or weight > _HEAVY:
            yield some
            some, weight = [], 0
    if some:
        yield some


def table_columns(connection: sqlite3.Connection, table: str, schema: str = "main") -> list[str]:
    """Return the column names of `table`; empty when there is no such table."""
    rows = connection.execute("SELECT name FROM pragma_table_info(?, ?)", (table, schema))
    return [name for (name,) in rows]


def get_value(connection: Connection, table: str, key: str) -> Any:
    """Return a value of a key-value table (`mmmeta_info`, `mmmeta_local`), None when it isn't set."""
    row = connection.execute(f"SELECT value FROM {quote(table)} WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def set_values(connection: Connection, table: str, values: Mapping[str, Sql]) -> None:
    """Set values of a key-value table."""
    connection.executemany(
        f"INSERT INTO {quote(table)} (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        values.items(),
    )


def rows_by_key(connection: Connection, unique: str, keys: Sequence[Key]) -> dict[Key, Row]:
    """Return the rows of `files` with these keys, at most `CHUNK` of them, whole and raw."""
    marks = ",".join("?" * len(keys))
    cursor = connection.execute(f"SELECT * FROM files WHERE {quote(unique)} IN ({marks})", keys)
    names = [column[0] for column in cursor.description]
    at = names.index(unique)
    return {values[at]: dict(zip(names, values, strict=True)) for values in cursor}


def upsert_rows(connection: sqlite3.Connection, unique: str, rows: Iterable[Row]) -> None:
    """Write raw rows into `files`: what a row names is set, other columns of an existing row stay.

    Rows are grouped by the columns that they set, so the order among different keys is not kept; a key must
    not come twice.
    """
    groups: defaultdict[tuple[str, ...], list[list[Sql]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row)].append(list(row.values()))
    for columns, values in groups.items():
        names = ",".join(map(quote, columns))
        updates = ",".join(f"{quote(c)}=excluded.{quote(c)}" for c in columns if c != unique)
        action = f"UPDATE SET {updates}" if updates else "NOTHING"
        connection.executemany(
            f"INSERT INTO files ({names}) VALUES ({','.join('?' * len(columns))}) "
            f"ON CONFLICT ({quote(unique)}) DO {action}",
            values,
        )


def check_version(connection: sqlite3.Connection, path: Path | str, newest: int) -> int:
    """Return the format of the database (0: empty). Raises `CatalogError` for one that can't be used.

    That is an `UnknownFormatError` for one that has none, as an older version's, or another program's.
    """
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = 0
        if not version:  # in one statement: another process may be making the tables just now
            version, tables = connection.execute(
                "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
            ).fetchone()
    except sqlite3.DatabaseError as error:
        if _is_busy(error):
            raise _busy(path) from error
        raise CatalogError(database_sentence(error, path)) from error
    if version > newest:
        raise CatalogError(f"{path} {newer_format(version, newest, _writer(connection))}")
    if version == 0 and tables:
        raise UnknownFormatError(
            f"{path} was not written by this mmmeta (an older version, or another program); move it away and run again"
        )
    return int(version)


def _writer(connection: sqlite3.Connection) -> Any:
    """Return which mmmeta a database of unknown format says that it is of; None if it does not, or not as this one does."""
    try:
        # A view of this name could compute anything, without end.
        if connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'mmmeta_info' AND type != 'table'"
        ).fetchone():
            return None
        row = connection.execute(
            "SELECT value FROM mmmeta_info WHERE key = 'writer' AND typeof(value) = 'text' AND length(value) < 100"
        ).fetchone()
    except sqlite3.Error:
        return None
    return row[0] if row else None
