"""The catalog, rebuilt from the log, with what waits here to be published."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import orjson

from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, carry_over, open_catalog
from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING
from mmmeta_core.database.sqlite import atomic, connect, get_value, table_columns
from mmmeta_core.errors import CatalogError, MmmetaError, StoreError
from mmmeta_core.paths import Paths
from mmmeta_core.repair.aside import check_unused, database_copy, database_draft, keep_aside, take_place
from mmmeta_core.repair.reading import mend_header
from mmmeta_core.store import check_key, is_local
from mmmeta_core.sync import Replica
from mmmeta_core.types import Key, is_key, to_json
from mmmeta_core.verify.history import Truth

_UNREADABLE: Final = (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError, MmmetaError)


@dataclass
class _Old:
    """What could be read of the old catalog besides what is published."""

    waiting: int = 0
    lost: int = 0
    is_readable: bool = False
    store: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None


def rebuild(paths: Paths, state_db: Path, truth: Truth) -> str:
    """Put the catalog that the log says in the place of the one that is here; return what was done.

    It is at the newest revision, as after a pull, and so are the store's values and the settings. Changes that wait here for
    their publication are carried over as far as they can be read.
    """
    published = truth.published
    replica = Replica(paths)
    replica.check_unique(published.unique)
    config = replica.config()
    check_unused(paths.meta)
    aside = keep_aside(paths.meta)
    with database_draft(paths.root) as draft:
        _copy(truth.path, draft)
        with open_catalog(draft, published.unique, max_columns=config.max_columns) as fresh:
            old = _carry_over(aside, fresh, config) if aside is not None else _Old()
            before = old.store if old.is_readable else _merged_store(state_db)
            before = {key: text for key, text in before.items() if _is_published(key, text)}
            replica.take_store({**dict.fromkeys(before), **published.store}, before, "the log")
            synced = replica.take_config(published.config, old.config, "the log")
            fresh.set_local(head=None, config=synced)
        take_place(draft, paths.meta)
    return _said(published.position.revision, aside, old)


def _is_published(key: object, text: object) -> bool:
    """Whether a store value can have been published, for this was read from a damaged file."""
    try:
        check_key(cast("str", key))
    except StoreError:
        return False
    return isinstance(text, str) and not is_local(cast("str", key))


def _said(revision: int, aside: Path | None, old: _Old) -> str:
    said = f"rebuilt from the log at revision {revision}"
    if aside is None:
        return said
    if old.is_readable:
        said += f"; {old.waiting} changes that wait to be published were carried over"
        said += f", {old.lost} could not be read" * bool(old.lost)
    else:
        said += "; what waited to be published could not be read"
    return f"{said}; the old file is {aside}"


def _copy(path: Path, draft: Path) -> None:
    with closing(connect(path, pragmas={})) as connection:
        connection.execute("VACUUM INTO ?", (str(draft),))


def _carry_over(aside: Path, fresh: Catalog, config: Config) -> _Old:
    """Take over what waits in the old catalog, from a copy of it in which nothing is left that does not make sense."""
    old = _Old()
    with database_copy(aside, fresh.path.parent) as copy, ExitStack() as stack:
        mend_header(copy, fresh.path)
        older = stack.enter_context(_opened(copy, fresh.unique, config))
        if older is None:
            return old
        try:
            with atomic(fresh.connection):
                old.lost = _drop_senseless(older, fresh)
                old.waiting = older.pending_count()
                carry_over(older, fresh)
            old.store, old.config = older.store(), older.local("config")
            old.is_readable = True
        except _UNREADABLE:
            return _Old()
    return old


@contextmanager
def _opened(path: Path, unique: str, config: Config) -> Iterator[Catalog | None]:
    try:
        connection = connect(path, pragmas={})
    except CatalogError:
        yield None
        return
    with closing(connection):
        try:
            kept = get_value(connection, "mmmeta_info", "unique")
            tables = ("files", "mmmeta_columns", "mmmeta_store", "mmmeta_pending", "mmmeta_local")
            is_one = kept == unique and all(table_columns(connection, table) for table in tables)
        except _UNREADABLE:
            is_one = False
        yield Catalog(connection, path, unique, config.max_columns) if is_one else None


def _drop_senseless(older: Catalog, fresh: Catalog) -> int:
    """Remove pending changes that can't be read, and say of the others what is published; return how many were removed."""
    entries = older.connection.execute("SELECT rowid, key, base FROM mmmeta_pending").fetchall()
    is_same = older.position.revision == fresh.position.revision
    senseless = []
    for rowid, key, base in entries:
        try:
            fits = is_key(key) and key in older.rows([key])
            if is_same:
                base = _base(fresh, key)
                older.connection.execute("UPDATE mmmeta_pending SET base = ? WHERE rowid = ?", (base, rowid))
            fits = fits and (base is None or isinstance(orjson.loads(base), dict))
        except _UNREADABLE:
            fits = False
        if not fits:
            senseless.append((rowid,))
    older.connection.executemany("DELETE FROM mmmeta_pending WHERE rowid = ?", senseless)
    return len(senseless)


def _base(fresh: Catalog, key: Key) -> str | None:
    """Return what is published of a document, as a pending change keeps it."""
    row = fresh.rows([key]).get(key)
    if row is None:
        return None
    kinds = {**PUBLISHED_BOOKKEEPING, **fresh.kinds()}
    kept = {name: to_json(row[name], kind) for name, kind in kinds.items() if row.get(name) is not None}
    return orjson.dumps(kept).decode()


def _merged_store(state_db: Path) -> Mapping[str, str]:
    """Return the store as this client knew it last, by its state."""
    try:
        if not state_db.exists():
            return {}
        with closing(connect(state_db, pragmas={})) as connection:
            text = get_value(connection, "mmmeta_info", "store")
            store = orjson.loads(text) if text else {}
    except _UNREADABLE:
        return {}
    return store if isinstance(store, dict) else {}
