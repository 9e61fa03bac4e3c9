"""The state db, mended in its place: columns and notes that can't be, published columns as the catalog has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from mmmeta_core import update as updating
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, open_catalog
from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, STATE_BOOKKEEPING
from mmmeta_core.database.place import Server, open_state
from mmmeta_core.database.sqlite import atomic, quote, table_columns
from mmmeta_core.database.sqlite_state import SqliteState
from mmmeta_core.database.state import State
from mmmeta_core.errors import CatalogError
from mmmeta_core.paths import Paths
from mmmeta_core.store import Store
from mmmeta_core.types import KINDS, Kind
from mmmeta_core.verify.compare import TIME
from mmmeta_core.verify.state import BAD_CLAIM, BAD_DOWNLOAD, BAD_FAILURE, BAD_RUN

WORK: Final = (
    f"UPDATE mmmeta_work SET worker = NULL, lease_until = NULL WHERE {BAD_CLAIM}",
    "UPDATE mmmeta_work SET attempts = 0, error = NULL, failed_at = NULL, failed_version = NULL, not_before = NULL, "
    f"set_aside = 0 WHERE {BAD_FAILURE}",
    f"DELETE FROM mmmeta_downloads WHERE {BAD_DOWNLOAD}",
    f"UPDATE mmmeta_pipelines SET last_run = NULL WHERE {BAD_RUN}",
)
"""SQL that leaves no note which can't be."""


def mend(paths: Paths, state_db: Path) -> str:
    """Mend what can't be, then take all published columns from the catalog again; your own columns stay.

    Other processes may work meanwhile.
    """
    config = Config.load(paths.config)
    if not paths.meta.exists():
        raise CatalogError("there is no catalog to take it from")
    state = SqliteState(state_db, config.unique)
    try:
        with open_catalog(paths.meta, config.unique, max_columns=config.max_columns) as catalog:
            with atomic(state.connection) as connection:
                columns = mend_columns(connection, catalog)
                for statement in WORK:
                    connection.execute(statement)
            said = _merge(paths, catalog, state)
    finally:
        state.close()
    return f"{said}; columns: {', '.join(columns)}" if columns else said


def merge_anew(paths: Paths, server: Server) -> str:
    """Take all published columns of a state on a server from the catalog again; your own columns stay."""
    config = Config.load(paths.config)
    with (
        closing(open_state(server, config.unique)) as state,
        open_catalog(paths.meta, config.unique, max_columns=config.max_columns) as catalog,
    ):
        return _merge(paths, catalog, state)


def _merge(paths: Paths, catalog: Catalog, state: State) -> str:
    merged = updating.update(catalog, state, Store(paths.store), paths.root, everything=True)
    total = merged.updated + merged.added + merged.deleted + merged.restored
    return f"taken from the catalog again: {total} documents"


def mend_columns(connection: sqlite3.Connection, catalog: Catalog) -> list[str]:
    """Make the notes about columns agree with the table; return what was done, as words."""
    said = {
        name: (kind, owner)
        for name, kind, owner in connection.execute("SELECT name, kind, owner FROM mmmeta_columns")
    }
    known = {catalog.unique, *PUBLISHED_BOOKKEEPING, *STATE_BOOKKEEPING}
    there = {*table_columns(connection, "files")} - known
    published, marks = catalog.kinds(), _marks(connection)
    done = [*_rename(connection, said, there, {*published, *marks})]
    for name in sorted({*said} - there):
        connection.execute("DELETE FROM mmmeta_columns WHERE name = ?", (name,))
        done.append(f"{name} is not in the table and was forgotten")
    for name in sorted(there):
        kind, owner = said.get(name, ("", ""))
        if kind in KINDS and owner in ("publisher", "client"):
            continue
        kind, owner = owned(connection, name, published, marks)
        connection.execute(
            "INSERT INTO mmmeta_columns (name, kind, owner) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, owner = excluded.owner",
            (name, kind, owner),
        )
        done.append(f"{name} was taken as {kind}, {'your own' if owner == 'client' else 'published'}")
    return done


def _rename(
    connection: sqlite3.Connection, said: dict[str, tuple[str, str]], there: set[str], known: set[str]
) -> list[str]:
    """Mend names of which one letter is damaged, in the table or in the notes, and all that belongs to them with it."""
    done = []
    for name in sorted({*said} - there):
        near = [other for other in there - {*said} if is_near(name, other)]
        if len(near) != 1:
            continue
        (other,) = near
        if name in known:
            connection.execute(f"ALTER TABLE files RENAME COLUMN {quote(other)} TO {quote(name)}")
            there.remove(other)
            there.add(name)
        else:
            connection.execute("UPDATE mmmeta_columns SET name = ? WHERE name = ?", (other, name))
            said[other] = said.pop(name)
        done.append(f"{name} and {other} were one")
    return done


def is_near(name: str, other: str) -> bool:
    """Whether two names differ in one letter only."""
    return len(name) == len(other) and sum(a != b for a, b in zip(name, other, strict=True)) == 1


def owned(
    connection: sqlite3.Connection, name: str, published: Mapping[str, Kind], marks: set[str]
) -> tuple[Kind, str]:
    """Return kind and owner of a column whose note is lost: the catalog's is the publisher's, any other the client's.

    The kind of the client's own is what all its values are.
    """
    if name in published:
        return published[name], "publisher"
    if name in marks:
        return "boolean", "client"
    c = quote(name)
    tests: Mapping[Kind, str] = {
        "boolean": f"typeof({c}) = 'integer' AND {c} IN (0, 1)",
        "integer": f"typeof({c}) = 'integer'",
        "datetime": f"typeof({c}) = 'text' AND {c} GLOB '{TIME}'",
        "json": f"typeof({c}) = 'text' AND {c} GLOB '[[{{]*' AND json_valid({c})",
    }
    for kind, test in tests.items():
        some, other = connection.execute(
            f"SELECT count({c}), count(CASE WHEN {test} THEN NULL ELSE {c} END) FROM files"
        ).fetchone()
        if some and not other:
            return kind, "client"
    return "text", "client"


def _marks(connection: sqlite3.Connection) -> set[str]:
    return {mark for (mark,) in connection.execute("SELECT mark FROM mmmeta_pipelines")}
