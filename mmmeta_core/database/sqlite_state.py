"""The state as an SQLite file, `state.db`.

The file is in WAL mode with `synchronous=NORMAL`: a commit is cheap and survives any killed process; after a power cut
the last commits may be missing, never half there.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, PURGED, STATE_RESCUED, fold
from mmmeta_core.database.foreign import check_documents
from mmmeta_core.database.lineage import PAST, catalog_digests, past_after, relation
from mmmeta_core.database.migrations import Schema, Step, bring_up_to_date, set_format
from mmmeta_core.database.per_thread import PerThread
from mmmeta_core.database.sqlite import (
    atomic,
    chunks,
    connect,
    get_value,
    quote,
    set_values,
    table_columns,
    upsert_rows,
)
from mmmeta_core.database.state import (
    TABLES,
    Merged,
    Owner,
    State,
    index_name,
    is_unpulled,
    kept_rescued,
    nothing_merged,
)
from mmmeta_core.errors import CatalogError
from mmmeta_core.trouble import explained, explained_database
from mmmeta_core.types import Key, Kind, Row, format_time, utcnow

log = logging.getLogger(__name__)

STEPS: Final[tuple[Step, ...]] = ()
"""How each format of the state db becomes the next; see `migrations`."""

VERSION: Final = 1 + len(STEPS)
_SCRUB: Final = "scrub"
PRAGMAS: Final[Mapping[str, str]] = {"journal_mode": "WAL", "synchronous": "NORMAL"}

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

_CHANGED: Final = "temp.changed AS c CROSS JOIN meta.files AS m ON m.{row} = c.at"
"""Rows of the catalog that may be new. A plain JOIN may go through all of the catalog: SQLite knows no sizes."""

_NONE: Final[Mapping[str, Any]] = {
    "added": 0,
    "updated": 0,
    "unchanged": 0,
    "deleted": 0,
    "restored": 0,
    "purged_downloads": (),
}
"""What a merge counts that finds nothing."""


class SqliteState(State):
    """The state db of one client, a file."""

    pragmas: Mapping[str, str] = PRAGMAS
    """What each connection to the database is set to."""

    def __init__(self, path: Path, unique: str) -> None:
        super().__init__(unique)
        self.path = path
        self.name: str = str(path)
        self._connections = PerThread(self._open)

    @property
    def connection(self) -> sqlite3.Connection:
        """See `State.connection`."""
        return self._connections.get()

    def _open(self) -> sqlite3.Connection:
        with explained(self.path):
            return self._connect()

    @property
    def url(self) -> str:
        """See `State.url`."""
        return f"sqlite:///{self.path.absolute()}"

    def close(self) -> None:
        """See `State.close`."""
        self._connections.close()

    def schema_version(self) -> int:
        """See `State.schema_version`."""
        version: int = self.connection.execute("PRAGMA schema_version").fetchone()[0]
        return version

    def columns(self) -> list[str]:
        """See `State.columns`."""
        return table_columns(self.connection, "files")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """See `State.transaction`. Takes the write lock at once."""
        with atomic(self.connection) as connection:
            yield connection

    # --- the publisher's columns

    def merge(
        self,
        catalog: Path,
        *,
        everything: bool = False,
        verified: bool = False,
        confirmed: str = "",  # noqa: ARG002 - no other machine shares this state
    ) -> Merged:
        """See `State.merge`."""
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
        if is_unpulled(info, known):
            return nothing_merged(known)
        archive = info.get("archive")
        moved = everything or ("archive" in known and archive != known["archive"])
        moved = moved or (verified and not known.get("verified"))
        revision, digests = int(info.get("revision", 0)), catalog_digests(connection, info, "meta")
        how = relation(known, digests, revision)
        moved = moved or how in ("other", "unproven")
        # Before the first revision the catalog's rows have none: what an older version left does not wait in pending.
        whole = moved or not revision
        cursor = -1 if whole else int(known.get("revision", 0))
        kinds = dict(connection.execute("SELECT name, kind FROM meta.mmmeta_columns"))
        clashes = self._adopt_columns(kinds)
        news = whole or self._has_news(connection, cursor)
        emptied = self._unpublished(kinds) if moved else []
        counts = self._merge_rows(connection, catalog, kinds, clashes, emptied, cursor) if news else _NONE
        gone = self._delete_missing(connection) if moved else 0
        store = orjson.dumps(dict(connection.execute("SELECT key, value FROM meta.mmmeta_store"))).decode()
        notes = {
            "archive": archive,
            "store": store,
            "verified": int(verified),
            "clashes": orjson.dumps(clashes).decode(),
        }
        if moved or how != "behind":
            notes |= {"revision": revision, PAST: past_after(known, digests, "other" if moved else how)}
        changed = {name: value for name, value in notes.items() if name not in known or known[name] != value}
        set_values(connection, "mmmeta_info", changed)
        before = orjson.loads(known.get("clashes") or "[]")
        return Merged(
            **{**counts, "deleted": counts["deleted"] + gone},
            revision=int(notes.get("revision", known.get("revision", 0))),
            clashes=tuple(clashes),
            new_clashes=tuple(name for name in clashes if name not in before),
        )

    def _has_news(self, connection: sqlite3.Connection, cursor: int) -> bool:
        """Whether the catalog has documents that are newer, or wait for their publication."""
        (found,) = connection.execute(
            "SELECT EXISTS(SELECT 1 FROM meta.files WHERE __revision > ?) OR EXISTS(SELECT 1 FROM meta.mmmeta_pending)",
            (cursor,),
        ).fetchone()
        return bool(found)

    def _merge_rows(
        self,
        connection: sqlite3.Connection,
        catalog: Path,
        kinds: Mapping[str, Kind],
        clashes: Collection[str],
        emptied: list[str],
        cursor: int,
    ) -> Mapping[str, Any]:
        columns = [name for name in self._published(connection) if name not in clashes]
        row = self._row_id(kinds)
        self._note_changed(connection, row, cursor)
        total, added, deleted, restored = connection.execute(
            "SELECT count(*), total(NOT known AND lives), total(NOT lives AND NOT was_deleted), "
            "total(was_deleted AND lives) FROM temp.changed"
        ).fetchone()
        source = _CHANGED.format(row=row)
        check_documents(connection, catalog, self.unique, kinds, source)
        left = self._forget_purged(connection, row)
        written = self._copy(connection, row, columns, emptied, format_time(utcnow()))
        connection.execute("DROP TABLE temp.changed")
        return {
            "added": int(added),
            "updated": written - int(added + deleted + restored),
            "unchanged": total - written,
            "deleted": int(deleted),
            "restored": int(restored),
            "purged_downloads": tuple(left),
        }

    def _row_id(self, kinds: Mapping[str, Kind]) -> str:
        """Return what tells rows of the catalog apart: SQLite's number of a row, if no column hides it."""
        taken = {fold(name) for name in (self.unique, *kinds)}
        free = (name for name in ("_rowid_", "rowid", "oid") if fold(name) not in taken)
        return next(free, quote(self.unique))

    def _note_changed(self, connection: sqlite3.Connection, row: str, cursor: int) -> None:
        """Note which rows of the catalog may be new here, and what is of them, in a table of this connection's."""
        key = quote(self.unique)
        kind, rest = ("", "WITHOUT ROWID") if row == key else ("INTEGER", "")
        connection.execute("DROP TABLE IF EXISTS temp.changed")
        connection.execute(
            f"CREATE TEMP TABLE changed (at {kind} PRIMARY KEY, known, was_deleted, lives, purged) {rest}"
        )
        noted = (
            f"SELECT m.{row}, f.{key} IS NOT NULL, f.__deleted_at IS NOT NULL, m.__deleted_at IS NULL, "
            "m.__deleted_reason IS ?"
        )
        here = f"LEFT JOIN main.files f ON f.{key} = m.{key}"
        connection.execute(
            f"INSERT INTO temp.changed {noted} FROM meta.files m {here} WHERE m.__revision > ?",
            (PURGED, cursor),
        )
        connection.execute(
            f"INSERT OR IGNORE INTO temp.changed {noted} "
            f"FROM meta.mmmeta_pending p CROSS JOIN meta.files m ON m.{key} = p.key {here}",
            (PURGED,),
        )

    def _copy(
        self, connection: sqlite3.Connection, row: str, columns: list[str], emptied: list[str], now: str
    ) -> int:
        key, both = quote(self.unique), [*columns, *emptied]
        names = ",".join(map(quote, both))
        values = ",".join([*(f"m.{quote(c)}" for c in columns), *("NULL" for _ in emptied)])
        updates = ",".join(f"{quote(c)}=excluded.{quote(c)}" for c in both)
        # As rows: a chain of ORs nests, and SQLite takes a thousand levels.
        here, there = (",".join(f"{table}.{quote(c)}" for c in both) for table in ("files", "excluded"))
        cursor = connection.execute(
            f"INSERT INTO main.files ({key},{names},__state_added,__state_last_updated) "
            f"SELECT m.{key},{values},?,? "
            f"FROM {_CHANGED.format(row=row)} WHERE 1 = 1 "
            f"ON CONFLICT ({key}) DO UPDATE SET {updates},__state_last_updated=excluded.__state_last_updated "
            f"WHERE ({here}) IS NOT ({there})",
            (now, now),
        )
        return cursor.rowcount

    def _forget_purged(self, connection: sqlite3.Connection, row: str) -> list[str]:
        """Drop what is noted here of documents that were purged, but not the client's own columns; return their files."""
        key = quote(self.unique)
        connection.execute("DROP TABLE IF EXISTS temp.purged")
        connection.execute(
            f"CREATE TEMP TABLE purged AS SELECT m.{key} AS key FROM {_CHANGED.format(row=row)} "
            "WHERE c.purged AND c.known"
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
        """See `State.scrub`."""
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

    def _delete_missing(self, connection: sqlite3.Connection) -> int:
        key, now = quote(self.unique), format_time(utcnow())
        return connection.execute(
            f"UPDATE main.files SET __deleted_at = ?, __deleted_reason = 'not in the archive', __state_last_updated = ? "
            f"WHERE __deleted_at IS NULL AND {key} NOT IN (SELECT {key} FROM meta.files)",
            (now, now),
        ).rowcount

    def _published(self, connection: sqlite3.Connection) -> list[str]:
        names = connection.execute("SELECT name FROM meta.mmmeta_columns ORDER BY name")
        return [*PUBLISHED_BOOKKEEPING, *(name for (name,) in names)]

    # --- the client's columns

    def save(self, updates: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
        """See `State.save`."""
        with explained_database(self.path), atomic(self.connection):
            self.save_within(updates)

    def inherit(self, rows: Iterable[Row]) -> None:
        """Put raw rows that an older version had on top of what was merged, in one transaction; keys come once."""
        with atomic(self.connection):
            for some in chunks(rows):
                upsert_rows(self.connection, self.unique, some)

    def save_within(self, updates: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
        """See `State.save_within`."""
        connection, now = self.connection, format_time(utcnow())
        for key, values, fitted in self._fitted(updates):
            row = {**fitted.row, "__state_last_updated": now}
            # Nearly always nothing is rescued, neither before nor now.
            if not fitted.rescued and self._update(connection, key, row, f"{STATE_RESCUED} IS NULL"):
                continue
            rescued = self._rescued(connection, key, values, fitted.rescued)
            if not self._update(connection, key, row | rescued):
                raise self._missing(key)

    def _rescued(
        self, connection: sqlite3.Connection, key: Key, values: Mapping[str, Any], rescued: Mapping[str, Any]
    ) -> Row:
        """Return the new value of `__state_rescued`, if this save changes it, and NULL for what moved there."""
        found = connection.execute(
            f"SELECT {STATE_RESCUED} FROM files WHERE {quote(self.unique)} = ?", (key,)
        ).fetchone()
        before = found[0] if found else None
        after = kept_rescued(before, values, rescued)
        if after == before:
            return {}
        there = set(table_columns(connection, "files"))
        return {**{name: None for name in rescued if name in there}, STATE_RESCUED: after}

    def _update(self, connection: sqlite3.Connection, key: Key, values: Row, where: str = "true") -> bool:
        assignments = ",".join(f"{quote(name)}=?" for name in values)
        cursor = connection.execute(
            f"UPDATE files SET {assignments} WHERE {quote(self.unique)} = ? AND {where}",
            (*values.values(), key),
        )
        return cursor.rowcount > 0

    # --- indexes

    def index_mark(self, mark: str) -> None:
        """See `State.index_mark`."""
        # As `is_unset` has it, or SQLite would not see that the index is of these.
        self._index(
            index_name("due", mark),
            f"({quote(self.unique)}) WHERE {quote(mark)} IS NOT 1 AND __deleted_at IS NULL",
        )

    def index_columns(self, names: Iterable[str]) -> None:
        """See `State.index_columns`."""
        there = self.columns()
        for name in names:
            if name in there:
                self._index(index_name("by", name), f"({quote(name)})")

    def _index(self, name: str, of: str) -> None:
        made = "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?"
        if self.connection.execute(made, (name,)).fetchone() is None:
            with explained_database(self.path), atomic(self.connection) as connection:
                connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON files {of}")

    # --- parts

    def _add_column(self, name: str, kind: Kind, owner: Owner) -> None:
        connection = self.connection
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

    def _drop_column(self, name: str) -> None:
        self.connection.execute(f"DROP INDEX IF EXISTS main.{index_name('by', name)}")
        self.connection.execute(f"ALTER TABLE main.files DROP COLUMN {quote(name)}")
        self.connection.execute("DELETE FROM main.mmmeta_columns WHERE name = ?", (name,))

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
                for table in TABLES:
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
