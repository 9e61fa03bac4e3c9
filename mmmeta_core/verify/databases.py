"""The metadir's own files: settings, stored values, and both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from mmmeta_core.config import Config
from mmmeta_core.database import catalog as catalogs
from mmmeta_core.database import sqlite_state as states
from mmmeta_core.database.catalog import Catalog, check_catalog
from mmmeta_core.database.sqlite import GUARDS, check_journal, get_value, table_columns
from mmmeta_core.errors import CatalogError, ConfigError, MmmetaError, StoreError, StoreKeyError
from mmmeta_core.paths import META_DB, Paths
from mmmeta_core.store import Store, decode_value
from mmmeta_core.verify.findings import Code, Finding, Report

PUBLISHED_TIME: Final = "remote_last_updated"
_WAIT_SECONDS: Final = 60.0
_UNREADABLE: Final = (sqlite3.DatabaseError, ValueError, TypeError, KeyError, OverflowError)
MEND_META: Final = (
    "repair, or move it away and pull again (state is kept); a publisher without a log generates again"
)
MEND_STATE: Final = "repair, or restore it from a backup, for it holds this client's own state"
_MEND_STORE: Final = "write the value anew, or remove it; a published one comes back with a repair"


@dataclass(frozen=True)
class _Kind:
    """What a database of this kind has, and what is said of a damaged one."""

    version: int
    tables: tuple[str, ...]
    damaged: Code
    mend: str


_META: Final = _Kind(
    catalogs.VERSION,
    ("files", "mmmeta_info", "mmmeta_columns", "mmmeta_store"),
    "catalog-damaged",
    MEND_META,
)
_STATE: Final = _Kind(
    states.VERSION,
    ("files", "mmmeta_info", "mmmeta_columns", "mmmeta_work", "mmmeta_pipelines", "mmmeta_downloads"),
    "state-damaged",
    MEND_STATE,
)


def look_at_files(paths: Paths, report: Report) -> Config | None:
    """Look at settings and stored values; return the settings if they can be used."""
    path, config = paths.config, None
    try:
        config = Config.load(path)
    except ConfigError as error:
        reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
        report.find(
            "settings",
            path,
            f"can't be used ({reason})",
            "correct it, or restore the published one by a repair",
        )
    store = Store(paths.store)
    for key in store:
        try:
            store[key]
        except StoreKeyError:  # removed by another process meanwhile
            continue
        except (StoreError, OSError) as error:
            report.find("store", store.folder / key, f"can't be read ({error})", _MEND_STORE)
        report.counts["store_values"] += 1
    return config


def look_at_time(paths: Paths, published: Mapping[str, str], report: Report) -> None:
    """Look at the one store value that only publishing changes; others may wait here to be published.

    It may be later than the catalog, as after a pull that was killed.
    """
    if PUBLISHED_TIME not in published:
        return
    path = paths.store / PUBLISHED_TIME
    try:
        here = decode_value(Store(paths.store).text(PUBLISHED_TIME))
    except StoreKeyError:
        report.find("store", path, "is missing, which the catalog has", _MEND_STORE)
        return
    except StoreError:
        return  # is a finding already
    try:
        there = decode_value(published[PUBLISHED_TIME])
    except StoreError:
        there = None
    if not isinstance(here, datetime) or (isinstance(there, datetime) and here < there):
        report.find("store", path, "is not the time that the catalog has", _MEND_STORE)


@contextmanager
def whole_catalog(
    paths: Paths, config: Config | None, report: Report, *, deep: bool = False
) -> Iterator[Catalog | None]:
    """Give the catalog if it is whole. What turns out to be unreadable in the block is a finding, and ends it."""
    path = paths.meta
    if not is_there(path):
        report.find(
            "catalog-missing", path, "is missing", "pull or repair, or generate where this is a publisher"
        )
        yield None
        return
    with _database(path, _META, report, deep) as connection:
        catalog: Catalog | None = None
        if connection is not None:
            with readable(path, "catalog-damaged", MEND_META, report):
                found = _sane(Catalog(connection, path, get_value(connection, "mmmeta_info", "unique"), 0))
                if found.position.revision or found.count(deleted=None):
                    _look_at_key(path, found.unique, paths, config, report)
                catalog = found
        with readable(path, "catalog-damaged", MEND_META, report):
            yield catalog


@contextmanager
def whole_state(
    path: Path, paths: Paths, config: Config | None, report: Report, *, deep: bool = False
) -> Iterator[sqlite3.Connection | None]:
    """Give a connection to the state db if there is one and it is whole, as `whole_catalog` does."""
    if not is_there(path):
        yield None
        return
    with _database(path, _STATE, report, deep) as connection:
        usable: sqlite3.Connection | None = None
        if connection is not None:
            with readable(path, "state-damaged", MEND_STATE, report):
                unique = get_value(connection, "mmmeta_info", "unique")
                if unique not in table_columns(connection, "files"):
                    raise ValueError(f"there is no key column {unique!r}")
                if connection.execute("SELECT 1 FROM files").fetchone() is not None:
                    _look_at_key(path, unique, paths, config, report)
                usable = connection
        with readable(path, "state-damaged", MEND_STATE, report):
            yield usable


@contextmanager
def readable(path: Path, code: Code, mend: str, report: Report) -> Iterator[None]:
    """Make a finding of what can't be read in the block, and end that."""
    try:
        yield
    except _UNREADABLE as error:
        if isinstance(error, MmmetaError) or _is_busy(error):
            raise
        report.find(code, path, f"is damaged ({' '.join(str(error).split()) or type(error).__name__})", mend)


def is_there(path: Path) -> bool:
    """Whether there is a database: a file without content is one that was never begun."""
    try:
        return path.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextmanager
def _database(path: Path, kind: _Kind, report: Report, deep: bool) -> Iterator[sqlite3.Connection | None]:
    """Give a connection to a database that is whole."""
    report.counts["databases"] += 1
    connection: sqlite3.Connection | None = None
    try:
        # Not read only: SQLite itself may have to undo what a killed writer left. Nothing is written here.
        check_journal(path)
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_SECONDS, isolation_level=None
        )
        for name, value in GUARDS.items():
            connection.execute(f"PRAGMA {name}={value}")
        flaw = _flaw(connection, path, kind, deep)
    except CatalogError as error:
        flaw = Finding(str(path), "can't be used", str(error), kind.damaged)
    except sqlite3.DatabaseError as error:
        if _is_busy(error):
            if connection is not None:
                connection.close()
            raise
        mend = f"check its permissions; if it is damaged, {kind.mend}"
        flaw = Finding(str(path), f"can't be read ({error})", mend, kind.damaged)
    if flaw is not None:
        report.findings.append(flaw)
    if connection is None:
        yield None
        return
    with closing(connection):
        yield connection if flaw is None else None


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _sane(catalog: Catalog) -> Catalog:
    """Return the catalog. Raises for a position or columns that can't be."""
    position = catalog.position
    if position.revision < 0 or not isinstance(position.digest, str):
        raise ValueError("its position can't be")
    if {catalog.unique, *catalog.kinds()} - {*table_columns(catalog.connection, "files")}:
        raise ValueError("a column is missing")
    return catalog


def _look_at_key(path: Path, unique: object, paths: Paths, config: Config | None, report: Report) -> None:
    if config is not None and config.unique != unique:
        report.find(
            "key",
            path,
            f"is keyed by {unique!r}, {paths.config.name} says {config.unique!r}",
            f"set metadata.unique to {unique!r} in {paths.config}",
        )


def _flaw(connection: sqlite3.Connection, path: Path, kind: _Kind, deep: bool) -> Finding | None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > kind.version:
        what = f"has format {version}, this mmmeta reads up to {kind.version}"
        return Finding(str(path), what, "install a newer mmmeta", "newer")
    if version == 0 or not all(table_columns(connection, table) for table in kind.tables):
        return Finding(str(path), "was not written by this mmmeta", kind.mend, kind.damaged)
    if path.name == META_DB:
        check_catalog(connection, path)
    # The full check also compares the indexes with their tables.
    (found,) = connection.execute(f"PRAGMA {'integrity' if deep else 'quick'}_check(1)").fetchone()
    if found != "ok":
        return Finding(str(path), f"is damaged ({' '.join(found.split())})", kind.mend, kind.damaged)
    return None
