"""The metadir's own files: settings, stored values, and both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from mmmeta_core.config import Config
from mmmeta_core.database import catalog as catalogs
from mmmeta_core.database import state as states
from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.sqlite import get_value, table_columns
from mmmeta_core.errors import ConfigError, StoreError, StoreKeyError
from mmmeta_core.paths import Paths
from mmmeta_core.store import Store
from mmmeta_core.verify.findings import Finding, Report

_WAIT_SECONDS: Final = 60.0
_META_TABLES: Final = ("files", "mmmeta_info", "mmmeta_columns", "mmmeta_store")
_STATE_TABLES: Final = ("files", "mmmeta_info", "mmmeta_columns", "mmmeta_downloads")
_MEND_META: Final = "move it away and pull again (state is kept); a publisher also generates again"
_MEND_STATE: Final = "restore it from a backup, for it holds this client's own state"


def look_at_files(paths: Paths, report: Report) -> Config | None:
    """Look at settings and stored values; return the settings if they can be used."""
    path, config = paths.config, None
    try:
        config = Config.load(path)
    except ConfigError as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
        report.find(path, f"can't be used ({reason})", "correct it, or restore the published one")
    store = Store(paths.store)
    for key in store:
        try:
            store[key]
        except StoreKeyError:  # removed by another process meanwhile
            continue
        except (StoreError, OSError) as error:
            report.find(store.folder / key, f"can't be read ({error})", "write the value anew, or remove it")
        report.counts["store_values"] += 1
    return config


@contextmanager
def whole_catalog(paths: Paths, config: Config | None, report: Report) -> Iterator[Catalog | None]:
    """Give the catalog if it is whole."""
    path = paths.meta
    if not _is_there(path):
        report.find(path, "is missing", "pull, or generate where this is a publisher")
        yield None
        return
    with _database(path, catalogs.VERSION, _META_TABLES, _MEND_META, report) as connection:
        if connection is None:
            yield None
            return
        catalog = Catalog(connection, path, get_value(connection, "mmmeta_info", "unique"), 0)
        if catalog.position.revision or catalog.count(deleted=None):
            _look_at_key(path, catalog.unique, paths, config, report)
        yield catalog


@contextmanager
def whole_state(
    path: Path, paths: Paths, config: Config | None, report: Report
) -> Iterator[sqlite3.Connection | None]:
    """Give a connection to the state db if there is one and it is whole."""
    if not _is_there(path):
        yield None
        return
    with _database(path, states.VERSION, _STATE_TABLES, _MEND_STATE, report) as connection:
        if connection is not None and connection.execute("SELECT 1 FROM files").fetchone() is not None:
            _look_at_key(path, get_value(connection, "mmmeta_info", "unique"), paths, config, report)
        yield connection


@contextmanager
def _database(
    path: Path, newest: int, tables: Iterable[str], mend: str, report: Report
) -> Iterator[sqlite3.Connection | None]:
    """Give a connection to a database that is whole."""
    report.counts["databases"] += 1
    connection: sqlite3.Connection | None = None
    try:
        # Not read only: SQLite itself may have to undo what a killed writer left. Nothing is written here.
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_SECONDS, isolation_level=None
        )
        flaw = _flaw(connection, path, newest, tables, mend)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise
        flaw = Finding(
            str(path), f"can't be read ({error})", f"check its permissions; if it is damaged, {mend}"
        )
    if flaw is not None:
        report.findings.append(flaw)
    if connection is None:
        yield None
        return
    with closing(connection):
        yield connection if flaw is None else None


def _look_at_key(path: Path, unique: object, paths: Paths, config: Config | None, report: Report) -> None:
    if config is not None and config.unique != unique:
        report.find(
            path,
            f"is keyed by {unique!r}, {paths.config.name} says {config.unique!r}",
            f"set metadata.unique to {unique!r} in {paths.config}",
        )


def _is_there(path: Path) -> bool:
    """Whether there is a database: a file without content is one that was never begun."""
    try:
        return path.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _flaw(
    connection: sqlite3.Connection, path: Path, newest: int, tables: Iterable[str], mend: str
) -> Finding | None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > newest:
        what = f"has format {version}, this mmmeta reads up to {newest}"
        return Finding(str(path), what, "install a newer mmmeta")
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        return Finding(str(path), f"is damaged ({' '.join(found.split())})", mend)
    if version == 0 or not all(table_columns(connection, table) for table in tables):
        return Finding(str(path), "was not written by this mmmeta", mend)
    return None
