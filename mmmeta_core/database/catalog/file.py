"""The file of the catalog: its schema, how it is opened, checked and replaced."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import fsync_file
from mmmeta_core.database.catalog.apply import carry_over
from mmmeta_core.database.catalog.catalog import PRAGMAS, PRIVATE_TABLES, SCRUB, Catalog
from mmmeta_core.database.foreign import Looked, check_content, check_schema
from mmmeta_core.database.migrations import Schema, Step, bring_up_to_date, set_format, writable
from mmmeta_core.database.sqlite import atomic, check_version, connect, get_value, quote, set_values
from mmmeta_core.errors import CatalogError
from mmmeta_core.trouble import explained_database

STEPS: Final[tuple[Step, ...]] = ()
"""How each format of the catalog becomes the next; see `migrations`."""

VERSION: Final = 1 + len(STEPS)

_SCHEMA: Final = """
CREATE TABLE files (
  {key} NOT NULL PRIMARY KEY,
  __revision INTEGER NOT NULL DEFAULT 0,
  __meta_added, __meta_last_updated, __deleted_at, __deleted_reason, __rescued
);
CREATE INDEX files_revision ON files (__revision);
CREATE TABLE mmmeta_info (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE mmmeta_columns (name TEXT PRIMARY KEY, kind TEXT NOT NULL, revision INTEGER) WITHOUT ROWID;
CREATE TABLE mmmeta_store (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_PRIVATE_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS mmmeta_pending (key PRIMARY KEY, base TEXT);
CREATE TABLE IF NOT EXISTS mmmeta_local (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""


@contextmanager
def open_catalog(path: Path, unique: str, *, max_columns: int = 500) -> Iterator[Catalog]:
    """Open the catalog at `path`, made when missing, and close it at the end of the block.

    Raises `CatalogError` when it is unreadable, of another format, or has another key column than `unique`.
    """
    with closing(connect(path, pragmas=PRAGMAS)) as connection, explained_database(path):
        if check_version(connection, path, VERSION) < VERSION:
            bring_up_to_date(connection, path, Schema(partial(_create, unique=unique), STEPS))
        found = check_catalog(connection, path)
        if not found.tables >= PRIVATE_TABLES:
            with (
                writable(path, "is a published copy that this metadir has to make its own first"),
                atomic(connection),
            ):
                for statement in _statements(_PRIVATE_SCHEMA):
                    connection.execute(statement)
        if found.unique != unique and _is_empty(connection):
            with atomic(connection):
                _drop(connection)
                _create(connection, unique)
                set_format(connection, VERSION)
        elif found.unique != unique:
            raise CatalogError(
                f"{path} is keyed by {found.unique!r}, but the configured key is {unique!r}: "
                f"set metadata.unique to {found.unique!r}, "
                "or use another path for a new archive"
            )
        yield Catalog(connection, path, unique, max_columns)


def replace_catalog(path: Path, snapshot: Path, unique: str, *, max_columns: int = 500) -> None:
    """Put a snapshot in the place of the catalog, keeping what waits here for its publication. Atomic.

    `snapshot` lies in the same folder and is consumed.
    """
    if path.exists():
        with (
            open_catalog(snapshot, unique, max_columns=max_columns) as fresh,
            open_catalog(path, unique, max_columns=max_columns) as older,
        ):
            carry_over(older, fresh)
            if fresh.purged():
                fresh.set_local(**{SCRUB: 1})
    else:
        # What a killed process left of a catalog that was moved away; SQLite would roll it back into the snapshot.
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    fsync_file(snapshot)
    snapshot.replace(path)


def check_catalog(connection: sqlite3.Connection, path: Path) -> Looked:
    """Raise `CatalogError` unless the database has the schema of a catalog and no more; it may have been copied here."""
    return check_schema(connection, path, _SCHEMA + _PRIVATE_SCHEMA)


def check_whole(path: Path, name: str) -> None:
    """Raise `CatalogError`, which calls the file `name`, unless it is a closed database, whole, and as mmmeta writes one.

    Its schema is looked at first: to check the content SQLite would run what a hostile one says.
    """
    with closing(connect(path, pragmas={})) as connection:
        if check_version(connection, name, VERSION) == 0:
            raise CatalogError(f"{name} is empty")
        check_schema(connection, name, _SCHEMA)
        check_content(connection, name)


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether there never was a document, so that the key column can still be another one."""
    revision = get_value(connection, "mmmeta_info", "revision")
    return not revision and connection.execute("SELECT 1 FROM files").fetchone() is None


def _drop(connection: sqlite3.Connection) -> None:
    for table in ("files", "mmmeta_info", "mmmeta_columns", "mmmeta_store"):
        connection.execute(f"DROP TABLE {table}")


def _create(connection: sqlite3.Connection, unique: str) -> None:
    for statement in _statements(_SCHEMA.format(key=quote(unique)) + _PRIVATE_SCHEMA):
        connection.execute(statement)
    set_values(connection, "mmmeta_info", {"unique": unique, "revision": 0})


def _statements(script: str) -> list[str]:
    return [statement for statement in script.split(";") if statement.strip()]
