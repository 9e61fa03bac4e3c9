"""The state: `state.db`, published columns merged with this client's own columns.

Every column has one owner. `merge` writes published columns only, `save` the client's only; a name that both
want stays with the client. The file is in WAL mode with `synchronous=NORMAL`: a commit is cheap and survives
any killed process; after a power cut the last commits may be missing, never half there.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import orjson

from mmmeta_core.database.columns import (
    PUBLISHED_BOOKKEEPING,
    PURGED,
    STATE_BOOKKEEPING,
    STATE_RESCUED,
    Columns,
    column_name,
    fold,
)
from mmmeta_core.database.foreign import check_documents
from mmmeta_core.database.migrations import Schema, Step, bring_up_to_date, set_format
from mmmeta_core.database.sqlite import (
    atomic,
    chunks,
    connect,
    get_value,
    quote,
    rows_by_key,
    set_values,
    table_columns,
    upsert_rows,
)
from mmmeta_core.errors import CatalogError, ColumnError, ReadOnlyColumnError
from mmmeta_core.trouble import explained, explained_database
from mmmeta_core.types import Key, Kind, Row, format_time, utcnow

log = logging.getLogger(__name__)

STEPS: Final[tuple[Step, ...]] = ()
"""How each format of the state db becomes the next; see `migrations`."""

VERSION: Final = 1 + len(STEPS)
_SCRUB: Final = "scrub"
PRAGMAS: Final[Mapping[str, str]] = {"journal_mode": "WAL", "synchronous": "NORMAL"}

Owner: TypeAlias = Literal["publisher", "client"]

_SCHEMA: Final = (
    """CREATE TABLE files (
  {key} NOT NULL PRIMARY KEY,
  __meta_added, __meta_last_updated, __deleted_at, __deleted_reason, __rescued,
  __state_added, __state_last_updated, __state_rescued
)""",
    "CREATE TABLE mmmeta_info (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE mmmeta_columns (name TEXT PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE mmmeta_work (
  mark TEXT NOT NULL, key NOT NULL, worker TEXT, lease_until TEXT,
  attempts INTEGER NOT NULL DEFAULT 0, error TEXT, failed_at TEXT, failed_version, not_before TEXT,
  set_aside INTEGER NOT NULL DEFAULT 0, done_at TEXT, done_version, done_content,
  PRIMARY KEY (mark, key)
) WITHOUT ROWID""",
    "CREATE INDEX mmmeta_work_worker ON mmmeta_work (worker) WHERE worker IS NOT NULL",
    "CREATE INDEX mmmeta_work_failed ON mmmeta_work (mark) WHERE error IS NOT NULL",
    "CREATE TABLE mmmeta_pipelines (mark TEXT PRIMARY KEY, settings TEXT, last_run TEXT) WITHOUT ROWID",
    """CREATE TABLE mmmeta_downloads (
  folder TEXT NOT NULL, folded TEXT NOT NULL, name TEXT NOT NULL, key NOT NULL,
  PRIMARY KEY (folder, folded)
) WITHOUT ROWID""",
)
_TABLES: Final = (
    "files",
    "mmmeta_info",
    "mmmeta_columns",
    "mmmeta_work",
    "mmmeta_pipelines",
    "mmmeta_downloads",
)


def check_writable(name: str, owners: Mapping[str, Owner]) -> None:
    """Raise unless a client may write a column of this name.

    `ReadOnlyColumnError` for the publisher's columns and bookkeeping, `ColumnError` for impossible names.
    """
    if owners.get(name) == "client":
        return
    if owners.get(name) == "publisher" or name in PUBLISHED_BOOKKEEPING or name in STATE_BOOKKEEPING:
        raise ReadOnlyColumnError(
            f"column {name!r} belongs to the publisher: choose another name for your own, such as 'my_{name.lstrip('_')}'"
        )
    if column_name(name) != name:
        raise ColumnError(
            f"no column can be named {name!r}: a name has 1 to 63 bytes, no '-', no '.', and does not begin with '__'"
        )
    for other in owners:
        if fold(other) == fold(name):
            raise ColumnError(f"column {name!r} differs from {other!r} only in case or spaces: use {other!r}")


def check_values(values: Mapping[str, Any], owners: Mapping[str, Owner]) -> None:
    """Raise unless a client may write all of these columns, and each value can be kept, be it as JSON.

    Raises as `check_writable` does, and `DocumentError` for a value.
    """
    for name in values:
        check_writable(name, owners)
    Columns({}).fit(values)


@dataclass(frozen=True)
class Merged:
    """What a merge changed. `clashes` are the client's columns that the publisher publishes too.

    `new_clashes` are those that the last merge did not have. `purged_downloads` are files here of purged documents.
    """

    added: int
    updated: int
    unchanged: int
    deleted: int
    restored: int
    revision: int
    clashes: tuple[str, ...]
    new_clashes: tuple[str, ...]
    purged_downloads: tuple[str, ...]


class State:
    """The state db of one client. One connection a thread, opened when first used."""

    pragmas: Mapping[str, str] = PRAGMAS
    """What each connection to the database is set to."""

    def __init__(self, path: Path, unique: str) -> None:
        self.path = path
        self.unique = unique
        self._local = threading.local()
        self._opened: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._lock = threading.Lock()

    @property
    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection. Raises `CatalogError` for a database that can't be used."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with explained(self.path):
                connection = self._connect()
            self._local.connection = connection
            with self._lock:
                for thread, other in self._opened:
                    if not thread.is_alive():
                        other.close()
                self._opened = [(thread, other) for thread, other in self._opened if thread.is_alive()]
                self._opened.append((threading.current_thread(), connection))
        return connection

    @property
    def url(self) -> str:
        """Return the SQLAlchemy URL of the database."""
        return f"sqlite:///{self.path.absolute()}"

    def close(self) -> None:
        """Close the connections of all threads; the next use opens new ones."""
        with self._lock:
            for _, connection in self._opened:
                connection.close()
            self._opened.clear()
            self._local = threading.local()

    def schema_version(self) -> int:
        """Return a number that changes when any process changes the tables."""
        version: int = self.connection.execute("PRAGMA schema_version").fetchone()[0]
        return version

    def owners(self) -> dict[str, Owner]:
        """Return who writes each column, bookkeeping left out. The key is the publisher's."""
        found: dict[str, Owner] = dict(self.connection.execute("SELECT name, owner FROM mmmeta_columns"))
        return {self.unique: "publisher", **found}

    def kinds(self) -> dict[str, Kind]:
        """Return the kind of each column but the key, bookkeeping included."""
        found: dict[str, Kind] = dict(self.connection.execute("SELECT name, kind FROM mmmeta_columns"))
        return {**PUBLISHED_BOOKKEEPING, **STATE_BOOKKEEPING, **found}

    @property
    def revision(self) -> int:
        """Return the revision that has been merged; 0 before the first."""
        return int(get_value(self.connection, "mmmeta_info", "revision") or 0)

    def count(self, *, deleted: bool) -> int:
        """Return the number of documents that are, or are not, soft-deleted."""
        test = "IS NOT NULL" if deleted else "IS NULL"
        total: int = self.connection.execute(
            f"SELECT count(*) FROM files WHERE __deleted_at {test}"
        ).fetchone()[0]
        return total

    def merged_store(self) -> dict[str, str]:
        """Return the store as published at the revision that was merged last, raw texts by key."""
        text = get_value(self.connection, "mmmeta_info", "store")
        store: dict[str, str] = orjson.loads(text) if text else {}
        return store

    def row(self, key: Key) -> Row | None:
        """Return one raw row."""
        return rows_by_key(self.connection, self.unique, [key]).get(key)

    # --- the publisher's columns

    def merge(self, catalog: Path, *, everything: bool = False, verified: bool = False) -> Merged:
        """Merge what the catalog has new into the published columns, in one transaction.

        Looks only at rows of revisions that were not merged before, and at local changes that wait for their
        publication; at all rows with `everything`, and when the catalog is of another archive than last time or is the
        first one that is `verified`, which is that trusted signatures cover it. Then documents that the catalog does not
        have are soft-deleted here, so no state is lost.
        """
        connection = self.connection
        connection.execute("ATTACH ? AS meta", (f"{catalog.absolute().as_uri()}?mode=rw",))
        try:
            with explained_database(self.path), atomic(connection):
                return self._merge(connection, catalog, everything, verified)
        finally:
            connection.execute("DETACH meta")

    def _merge(
        self, connection: sqlite3.Connection, catalog: Path, everything: bool, verified: bool
    ) -> Merged:
        info = dict(connection.execute("SELECT key, value FROM meta.mmmeta_info"))
        if info.get("unique") != self.unique:
            raise CatalogError(
                f"the catalog is keyed by {info.get('unique')!r}, {self.path} by {self.unique!r}"
            )
        known = dict(connection.execute("SELECT key, value FROM mmmeta_info"))
        archive = info.get("archive")
        moved = everything or ("archive" in known and archive != known["archive"])
        moved = moved or (verified and not known.get("verified"))
        # Before the first revision the catalog's rows have none: what an older version left does not wait in pending.
        whole = moved or not int(info.get("revision", 0))
        cursor = -1 if whole else int(known.get("revision", 0))
        clashes = self._adopt_columns(connection)
        columns = [name for name in self._published(connection) if name not in clashes]
        key, now = quote(self.unique), format_time(utcnow())
        connection.execute("DROP TABLE IF EXISTS temp.changed")
        connection.execute(
            f"CREATE TEMP TABLE changed AS SELECT {key} AS key FROM meta.files WHERE __revision > ? "
            "UNION SELECT key FROM meta.mmmeta_pending",
            (cursor,),
        )
        total, added, deleted, restored = connection.execute(
            f"SELECT count(*), total(f.{key} IS NULL AND m.__deleted_at IS NULL), "
            f"total(m.__deleted_at IS NOT NULL AND f.__deleted_at IS NULL), "
            f"total(f.__deleted_at IS NOT NULL AND m.__deleted_at IS NULL) "
            f"FROM temp.changed c JOIN meta.files m ON m.{key} = c.key LEFT JOIN main.files f ON f.{key} = c.key"
        ).fetchone()
        kinds = dict(connection.execute("SELECT name, kind FROM meta.mmmeta_columns"))
        source = f"temp.changed AS c JOIN meta.files AS m ON m.{key} = c.key"
        check_documents(connection, catalog, self.unique, kinds, source)
        left = self._forget_purged(connection)
        written = self._copy(connection, columns, now)
        gone = self._delete_missing(connection, now) if moved else 0
        connection.execute("DROP TABLE temp.changed")
        store = orjson.dumps(dict(connection.execute("SELECT key, value FROM meta.mmmeta_store"))).decode()
        merged = {
            "archive": archive,
            "revision": info.get("revision", 0),
            "store": store,
            "verified": int(verified),
        }
        before = orjson.loads(known.get("clashes") or "[]")
        set_values(connection, "mmmeta_info", {**merged, "clashes": orjson.dumps(clashes).decode()})
        return Merged(
            added=int(added),
            updated=written - int(added + deleted + restored),
            unchanged=total - written,
            deleted=int(deleted) + gone,
            restored=int(restored),
            revision=int(info.get("revision", 0)),
            clashes=tuple(clashes),
            new_clashes=tuple(name for name in clashes if name not in before),
            purged_downloads=tuple(left),
        )

    def _copy(self, connection: sqlite3.Connection, columns: list[str], now: str) -> int:
        key = quote(self.unique)
        names = ",".join(map(quote, columns))
        updates = ",".join(f"{quote(c)}=excluded.{quote(c)}" for c in columns)
        # As rows: a chain of ORs nests, and SQLite takes a thousand levels.
        here, there = (",".join(f"{table}.{quote(c)}" for c in columns) for table in ("files", "excluded"))
        cursor = connection.execute(
            f"INSERT INTO main.files ({key},{names},__state_added,__state_last_updated) "
            f"SELECT m.{key},{','.join(f'm.{quote(c)}' for c in columns)},?1,?1 "
            f"FROM temp.changed c JOIN meta.files m ON m.{key} = c.key WHERE 1 = 1 "
            f"ON CONFLICT ({key}) DO UPDATE SET {updates},__state_last_updated=excluded.__state_last_updated "
            f"WHERE ({here}) IS NOT ({there})",
            (now,),
        )
        return cursor.rowcount

    def _forget_purged(self, connection: sqlite3.Connection) -> list[str]:
        """Drop what is noted here of documents that were purged, but not the client's own columns; return their files."""
        key = quote(self.unique)
        connection.execute("DROP TABLE IF EXISTS temp.purged")
        connection.execute(
            f"CREATE TEMP TABLE purged AS SELECT c.key FROM temp.changed c JOIN meta.files m ON m.{key} = c.key "
            f"JOIN main.files f ON f.{key} = c.key WHERE m.__deleted_reason = ?",
            (PURGED,),
        )
        if connection.execute("SELECT 1 FROM temp.purged").fetchone() is not None:
            set_values(connection, "mmmeta_info", {_SCRUB: 1})
        connection.execute(
            "UPDATE mmmeta_work SET error = NULL, done_content = NULL WHERE key IN (SELECT key FROM temp.purged)"
        )
        found = connection.execute(
            "SELECT folder, name FROM mmmeta_downloads WHERE key IN (SELECT key FROM temp.purged) ORDER BY folder, name"
        ).fetchall()
        connection.execute("DROP TABLE temp.purged")
        return [str(Path(folder) / name) for folder, name in found]

    def scrub(self) -> None:
        """Rewrite the database if documents were purged, so that none of their bytes is left in its files.

        Where another process is at work in it, a later call does it.
        """
        if get_value(self.connection, "mmmeta_info", _SCRUB) is None:
            return
        try:
            with closing(connect(self.path, pragmas={**self.pragmas, "busy_timeout": "1000"})) as connection:
                connection.execute("VACUUM")
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (
                sqlite3.SQLITE_BUSY,
                sqlite3.SQLITE_LOCKED,
            ):
                raise
            busy = True
        if busy:
            log.warning(
                "%s is in use, so it still holds bytes of purged documents; the next update removes them",
                self.path,
            )
        else:
            set_values(self.connection, "mmmeta_info", {_SCRUB: None})

    def _delete_missing(self, connection: sqlite3.Connection, now: str) -> int:
        key = quote(self.unique)
        return connection.execute(
            f"UPDATE main.files SET __deleted_at = ?1, __deleted_reason = 'not in the archive', __state_last_updated = ?1 "
            f"WHERE __deleted_at IS NULL AND {key} NOT IN (SELECT {key} FROM meta.files)",
            (now,),
        ).rowcount

    def _published(self, connection: sqlite3.Connection) -> list[str]:
        names = connection.execute("SELECT name FROM meta.mmmeta_columns ORDER BY name")
        return [*PUBLISHED_BOOKKEEPING, *(name for (name,) in names)]

    def _adopt_columns(self, connection: sqlite3.Connection) -> list[str]:
        """Make the catalog's columns known here; return those that the client has already made its own."""
        owners = self.owners()
        del owners[self.unique]
        mine = {fold(name) for name, owner in owners.items() if owner == "client"}
        theirs = {fold(name): name for name, owner in owners.items() if owner == "publisher"}
        clashes = []
        for name, kind in connection.execute("SELECT name, kind FROM meta.mmmeta_columns").fetchall():
            if fold(name) in mine:
                clashes.append(name)
                continue
            before = theirs.get(fold(name), name)
            if before != name:  # it waited for its publication here, and others spelled it otherwise
                connection.execute(f"ALTER TABLE main.files DROP COLUMN {quote(before)}")
                connection.execute("DELETE FROM main.mmmeta_columns WHERE name = ?", (before,))
            self._add_column(connection, name, kind, "publisher")
        return clashes

    # --- the client's columns

    def save(self, updates: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
        """Set columns of the client's on documents, new columns included, in one transaction.

        Raises `ReadOnlyColumnError` for a published column, `ColumnError` for a name that no column can have and for
        a document that is not in the state db; then nothing is written.
        """
        with explained_database(self.path), atomic(self.connection):
            self.save_within(updates)

    def add_own(self, name: str, kind: Kind) -> None:
        """Make a column of the client's, if it is not there. Raises as `save` does."""
        check_writable(name, self.owners())
        if name not in self.kinds():
            with atomic(self.connection) as connection:
                self._add_column(connection, name, kind, "client")

    def inherit(self, rows: Iterable[Row]) -> None:
        """Put raw rows that an older version had on top of what was merged, in one transaction; keys come once."""
        with atomic(self.connection):
            for some in chunks(rows):
                upsert_rows(self.connection, self.unique, some)

    def save_within(self, updates: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
        """Do what `save` does as part of the transaction that the caller has begun."""
        connection, owners = self.connection, self.owners()
        own = {name: kind for name, kind in self.kinds().items() if owners.get(name) == "client"}
        columns = Columns(own, taken=[name for name in owners if name not in own])
        now = format_time(utcnow())
        for key, values in updates:
            for name in values:
                check_writable(name, owners)
            fitted = columns.fit(values)
            for name, kind in columns.added.items():
                self._add_column(connection, name, kind, "client")
            columns.added.clear()
            rescued = self._rescued(connection, key, values, fitted.rescued)
            self._update(connection, key, {**fitted.row, **rescued, "__state_last_updated": now})

    def _rescued(
        self, connection: sqlite3.Connection, key: Key, values: Mapping[str, Any], rescued: Mapping[str, Any]
    ) -> Row:
        """Return the new value of `__state_rescued`, if this save changes it, and NULL for what moved there."""
        found = connection.execute(
            f"SELECT {STATE_RESCUED} FROM files WHERE {quote(self.unique)} = ?", (key,)
        ).fetchone()
        before = orjson.loads(found[0]) if found and found[0] else {}
        after = {name: value for name, value in before.items() if name not in values} | dict(rescued)
        if after == before:
            return {}
        there = set(table_columns(connection, "files"))
        text = orjson.dumps(after, option=orjson.OPT_SORT_KEYS).decode() if after else None
        return {**{name: None for name in rescued if name in there}, STATE_RESCUED: text}

    def _update(self, connection: sqlite3.Connection, key: Key, values: Row) -> None:
        assignments = ",".join(f"{quote(name)}=?" for name in values)
        cursor = connection.execute(
            f"UPDATE files SET {assignments} WHERE {quote(self.unique)} = ?", (*values.values(), key)
        )
        if cursor.rowcount == 0:
            raise ColumnError(f"no document with {self.unique} {key!r} in {self.path}: run update first")

    # --- parts

    def _add_column(self, connection: sqlite3.Connection, name: str, kind: Kind, owner: Owner) -> None:
        known = connection.execute("SELECT kind FROM mmmeta_columns WHERE name = ?", (name,)).fetchone()
        if known == (kind,):
            return
        if known is None and name not in table_columns(connection, "files"):
            connection.execute(f"ALTER TABLE files ADD COLUMN {quote(name)}")
        connection.execute(
            "INSERT INTO mmmeta_columns (name, kind, owner) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET kind = excluded.kind",
            (name, kind, owner),
        )

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = connect(self.path, pragmas=self.pragmas)
        try:
            bring_up_to_date(connection, self.path, Schema(self._create, STEPS))
        except BaseException:
            connection.close()
            raise
        if get_value(connection, "mmmeta_info", "unique") != self.unique:
            self._key_anew(connection)
        return connection

    def _key_anew(self, connection: sqlite3.Connection) -> None:
        """Key a database by another column that has no documents yet. Raises `CatalogError` for one that has."""
        with atomic(connection):
            kept = get_value(connection, "mmmeta_info", "unique")
            if kept != self.unique and connection.execute("SELECT 1 FROM files").fetchone() is None:
                for table in _TABLES:
                    connection.execute(f"DROP TABLE {table}")
                self._create(connection)
                set_format(connection, VERSION)
                kept = self.unique
        if kept != self.unique:
            connection.close()
            raise CatalogError(
                f"{self.path} is keyed by {kept!r}, but the configured key is {self.unique!r}: "
                f"set metadata.unique to {kept!r}, or use another path"
            )

    def _create(self, connection: sqlite3.Connection) -> None:
        for statement in _SCHEMA:
            connection.execute(statement.format(key=quote(self.unique)))
        set_values(connection, "mmmeta_info", {"unique": self.unique, "revision": 0})
