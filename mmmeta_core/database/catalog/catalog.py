"""The rows of a catalog, and what is still to be published of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from mmmeta_core.atomic import fsync_file
from mmmeta_core.database.catalog.kinds import add_columns, change_kind
from mmmeta_core.database.catalog.log_form import difference, is_purged, to_base, to_row
from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, PURGED, RESCUED, Columns
from mmmeta_core.database.lineage import note_digest
from mmmeta_core.database.rebase import same
from mmmeta_core.database.sqlite import (
    atomic,
    chunks,
    connect,
    get_value,
    quote,
    rows_by_key,
    set_values,
    upsert_rows,
)
from mmmeta_core.types import (
    PLAIN_KINDS,
    Key,
    Kind,
    Row,
    Sql,
    format_time,
    utcnow,
)

SCRUB: Final = "scrub"
"""The private note that documents were purged and the file is to be rewritten."""
_UNPURGED: Final = "unpurged"
"""The private note of the digest of the revision as of which no document was purged."""
PRIVATE_TABLES: Final = frozenset({"mmmeta_pending", "mmmeta_local"})
PRAGMAS: Final = {
    "journal_mode": "DELETE",
    "synchronous": "FULL",
    "secure_delete": "ON",
    "cache_size": "-32768",  # KiB: what does not fit is written, and flushed, before its transaction ends
}

INHERITED: Final = "inherited"
"""The private note of a catalog that was converted: the columns that an older version of mmmeta had, a JSON list."""
_UNDECIDED: Final = "undecided"
"""Those of them whose kind no document has confirmed since, a JSON list."""


class Change(NamedTuple):
    """What to set on one document: raw values by column. The document is made when there is none."""

    key: Key
    values: Mapping[str, Sql]


@dataclass
class Staged:
    """How many documents a batch of changes added, changed or left as they were; those that were purged stay so."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    restored: int = 0
    purged: int = 0


@dataclass(frozen=True)
class Position:
    """How far the catalog has come: `digest` is of segment `revision`, `log_bytes` sums up all segments to it."""

    archive: str | None
    revision: int
    digest: str
    log_bytes: int


class Catalog:
    """An open `meta.db`. Get one with `open_catalog`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, unique: str, max_columns: int) -> None:
        self.connection = connection
        self.path = path
        self.unique = unique
        self._max_columns = max_columns

    # --- what there is

    @property
    def position(self) -> Position:
        """Return how far the catalog has come."""
        info = dict(self.connection.execute("SELECT key, value FROM mmmeta_info"))
        return Position(
            info.get("archive"),
            int(info.get("revision", 0)),
            info.get("digest", ""),
            int(info.get("log_bytes", 0)),
        )

    def kinds(self) -> dict[str, Kind]:
        """Return the kind of each published column, bookkeeping left out."""
        return dict(self.connection.execute("SELECT name, kind FROM mmmeta_columns"))

    def columns(self) -> Columns:
        """Return the columns as something to fit documents into."""
        undecided = self._noted(_UNDECIDED)
        return Columns(self.kinds(), taken=[self.unique], limit=self._max_columns, undecided=undecided)

    def store(self) -> dict[str, str]:
        """Return the store as published at this revision, raw texts by key."""
        return dict(self.connection.execute("SELECT key, value FROM mmmeta_store"))

    def rows(self, keys: Iterable[Key]) -> dict[Key, Row]:
        """Return whole raw rows by key."""
        found: dict[Key, Row] = {}
        for some in chunks(keys):
            found |= rows_by_key(self.connection, self.unique, some)
        return found

    def count(self, *, deleted: bool | None = False) -> int:
        """Return the number of documents, soft-deleted ones left out unless asked for (None: all)."""
        where = {None: "", True: " WHERE __deleted_at IS NOT NULL", False: " WHERE __deleted_at IS NULL"}[
            deleted
        ]
        total: int = self.connection.execute(f"SELECT count(*) FROM files{where}").fetchone()[0]
        return total

    @property
    def quoted_key(self) -> str:
        """Return the key column as an SQL identifier."""
        return quote(self.unique)

    def file_names(self, column: str) -> Iterator[tuple[Key, Any, str | None]]:
        """Yield key, document file name (None when it has none) and reason of deletion of each document."""
        name = "NULL" if column not in self.kinds() else quote(column)
        if column == self.unique:
            name = self.quoted_key
        yield from self.connection.cursor().execute(
            f"SELECT {self.quoted_key}, {name}, __deleted_reason FROM files"
        )

    def pending_count(self) -> int:
        """Return the number of documents with changes that are not published yet."""
        total: int = self.connection.execute("SELECT count(*) FROM mmmeta_pending").fetchone()[0]
        return total

    def waiting(self, keys: Iterable[Key]) -> set[Key]:
        """Return those of the documents that have changes which are not published yet."""
        found: set[Key] = set()
        for some in chunks(keys):
            marks = ",".join("?" * len(some))
            rows = self.connection.execute(f"SELECT key FROM mmmeta_pending WHERE key IN ({marks})", some)
            found.update(key for (key,) in rows)
        return found

    def local(self, key: str) -> Any:
        """Return a private note of this metadir; it is never published."""
        return get_value(self.connection, "mmmeta_local", key)

    def set_local(self, **values: Sql) -> None:
        """Set private notes of this metadir."""
        with atomic(self.connection):
            set_values(self.connection, "mmmeta_local", values)

    # --- signatures

    @property
    def is_verified(self) -> bool:
        """Whether all that is published here was signed by keys that were trusted when it came."""
        position = self.position
        return position.revision == 0 or self.local("verified") == position.digest

    def note_verified(self, verified: bool) -> None:
        """Note that what is published here, at this revision, is covered by trusted signatures, or is not."""
        self.set_local(verified=self.position.digest if verified else None)

    def forget_private(self) -> None:
        """Empty the private tables: whoever wrote a snapshot has no say in them."""
        with atomic(self.connection) as connection:
            for table in PRIVATE_TABLES:
                connection.execute(f"DELETE FROM {table}")

    # --- changes made here

    def stage(
        self, changes: Iterable[Change], columns: Columns | None = None, *, restores: Collection[str] = ()
    ) -> Staged:
        """Write changes into the catalog, to be published by the next push.

        `columns` are those that the changes were fitted into; the ones it added come into being here. Documents
        that were soft-deleted for a reason in `restores` are restored. One transaction; idempotent: what already
        is so stays untouched. Of several changes to a document all are made, in order.
        """
        with atomic(self.connection):
            return self.stage_within(changes, columns, restores=restores)

    def stage_within(
        self, changes: Iterable[Change], columns: Columns | None = None, *, restores: Collection[str] = ()
    ) -> Staged:
        """Do what `stage` does within the caller's transaction, which has to end if this fails.

        Without a savepoint of its own, for which SQLite would copy each page that is written.
        """
        staged = Staged()
        now = format_time(utcnow())
        if columns is not None:
            self._take_kinds(columns)
            add_columns(self, columns.added, revision=None)
            columns.added.clear()
        inherited = self.is_inherited
        for some in chunks(changes):
            if inherited:
                self._take_keys(change.key for change in some)
            self._stage(some, now, staged, restores)
        return staged

    def _stage(self, changes: list[Change], now: str, staged: Staged, restores: Collection[str]) -> None:
        present = rows_by_key(self.connection, self.unique, list({change.key for change in changes}))
        kinds = self.all_kinds() if present else {}
        written: dict[Key, Row] = {}
        bases: dict[Key, str | None] = {}
        for key, values in changes:
            row = present.get(key)
            if row is None:
                fresh = {self.unique: key, **values, "__meta_added": now, "__meta_last_updated": now}
                written[key] = present[key] = fresh
                bases[key] = None
                staged.added += 1
                continue
            if is_purged(row) and values.get("__deleted_reason") != PURGED:
                staged.purged += 1
                continue
            changed = {name: value for name, value in values.items() if not same(row.get(name), value)}
            restored = row.get("__deleted_at") is not None and row.get("__deleted_reason") in restores
            if restored:
                changed |= {"__deleted_at": None, "__deleted_reason": None}
            if not changed:
                staged.unchanged += 1
                continue
            if key not in bases:
                bases[key] = None if key in written else to_base(row, kinds)
            changed["__meta_last_updated"] = now
            row.update(changed)
            written[key] = {**written.get(key, {self.unique: key}), **changed}
            staged.restored += restored
            staged.updated += not restored
        upsert_rows(self.connection, self.unique, written.values())
        self.connection.executemany(
            "INSERT INTO mmmeta_pending (key, base) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", bases.items()
        )

    # --- what an older version had

    def inherit(self, rows: Iterable[Row], columns: Columns) -> None:
        """Write whole raw rows that an older version of mmmeta had, bookkeeping included, in one transaction.

        `columns` are those that the rows are fitted into as they come. The documents are neither published nor waiting to
        be, until a publisher says so with `publish_inherited`; the kinds of the columns are open until then.
        """
        with atomic(self.connection):
            for some in chunks(rows):
                add_columns(self, columns.added, revision=None)
                columns.added.clear()
                upsert_rows(self.connection, self.unique, {row[self.unique]: row for row in some}.values())
            names = orjson.dumps(sorted(columns.kinds)).decode()
            set_values(self.connection, "mmmeta_local", {INHERITED: names, _UNDECIDED: names})

    def inherited(self) -> frozenset[str]:
        """Return the columns that an older version had; none once there is a first revision."""
        return frozenset(self._noted(INHERITED))

    @property
    def is_inherited(self) -> bool:
        """Whether the documents are those of an older version, and no revision was published or pulled since."""
        return not self.position.revision and self.local(INHERITED) is not None

    def publish_inherited(self) -> None:
        """Let all documents of an older version wait to be published. Idempotent."""
        if self.is_inherited:
            with atomic(self.connection) as connection:
                connection.execute(
                    f"INSERT INTO mmmeta_pending (key, base) SELECT {self.quoted_key}, NULL FROM files WHERE true "
                    "ON CONFLICT (key) DO NOTHING"
                )

    def _take_keys(self, keys: Iterable[Key]) -> None:
        """Give documents the whole number as key that their metadata file says, where an older version made text of it."""
        numbers = [(key, str(key)) for key in keys if isinstance(key, int)]
        for table, column in (("files", self.quoted_key), ("mmmeta_pending", "key")) if numbers else ():
            self.connection.executemany(
                f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {column} = ?", numbers
            )

    def _noted(self, note: str) -> list[str]:
        names: list[str] = orjson.loads(self.local(note) or "[]")
        return names if names and not self.position.revision else []

    def _take_kinds(self, columns: Columns) -> None:
        """Give columns the kind that documents have decided on since an older version wrote them as something else."""
        before = self._noted(_UNDECIDED)
        if len(columns.undecided) == len(before):
            return
        known = self.kinds()
        for name, kind in columns.added.items():
            old = known.get(name, kind)
            if old != kind and not {old, kind} <= PLAIN_KINDS:
                change_kind(self, name, old, kind)
        left = orjson.dumps(sorted(columns.undecided)).decode()
        set_values(self.connection, "mmmeta_local", {_UNDECIDED: left})

    # --- publishing

    def deltas(self) -> Iterator[tuple[Key, dict[str, Any]]]:
        """Yield what is to be published: per document the columns that differ, in the log's JSON form.

        Streams; a document whose changes cancelled each other out is left out.
        """
        kinds = self.all_kinds()
        cursor = self.connection.cursor()
        cursor.execute(
            f"SELECT p.base, f.* FROM mmmeta_pending p CROSS JOIN files f ON f.{quote(self.unique)} = p.key ORDER BY p.rowid"
        )
        names = [column[0] for column in cursor.description][1:]
        for base, *values in cursor:
            row = dict(zip(names, values, strict=True))
            delta = difference(row, orjson.loads(base) if base else {}, kinds)
            if base is None or delta.keys() - {"__meta_last_updated"}:
                yield row[self.unique], delta

    def new_columns(self) -> dict[str, Kind]:
        """Return the columns that no segment has declared yet."""
        return dict(self.connection.execute("SELECT name, kind FROM mmmeta_columns WHERE revision IS NULL"))

    def mark_published(self, position: Position, store: Mapping[str, str | None]) -> None:
        """Note that all that was pending is now part of `position`; `store` holds the values that went with it.

        The caller holds the metadir's lock since it read the deltas, so nothing else became pending.
        """
        with atomic(self.connection) as connection:
            connection.execute(
                f"UPDATE files SET __revision = ? WHERE {quote(self.unique)} IN (SELECT key FROM mmmeta_pending)",
                (position.revision,),
            )
            connection.execute("DELETE FROM mmmeta_pending")
            connection.execute(
                "UPDATE mmmeta_columns SET revision = ? WHERE revision IS NULL", (position.revision,)
            )
            self.write_store(store)
            self.write_position(position)

    def soft_delete(self, keys: Iterable[Key], reason: str) -> int:
        """Mark documents as deleted, to be published by the next push; returns how many were not before."""
        values = {"__deleted_at": format_time(utcnow()), "__deleted_reason": reason}
        deleted = 0
        for some in chunks(keys):
            live = [key for key, row in self.rows(some).items() if row["__deleted_at"] is None]
            deleted += self.stage(Change(key, values) for key in live).updated
        return deleted

    def purged(self) -> list[Key]:
        """Return the documents that were purged. Looks at all once a revision, and at none where none was purged."""
        digest = self.position.digest
        if self.local(_UNPURGED) == digest:
            return []
        rows = self.connection.execute(
            f"SELECT {self.quoted_key} FROM files WHERE __deleted_reason = ?", (PURGED,)
        )
        keys: list[Key] = [key for (key,) in rows]
        if not keys:
            self.set_local(**{_UNPURGED: digest})
        return keys

    def blank(self, keys: Iterable[Key]) -> None:
        """Empty the columns of these documents and mark them as purged, so that no byte of what they held is left.

        For a catalog that stands by itself: nothing is to be published by this.
        """
        names = [*self.kinds(), RESCUED]
        emptied = ",".join(f"{quote(name)} = NULL" for name in names)
        held = " OR ".join(f"{quote(name)} IS NOT NULL" for name in names)
        with atomic(self.connection) as connection:
            set_values(connection, "mmmeta_local", {_UNPURGED: None})
            cursor = connection.executemany(
                f"UPDATE files SET {emptied}, __deleted_at = coalesce(__deleted_at, ?), __deleted_reason = ? "
                f"WHERE {self.quoted_key} = ? AND ({held})",
                [(format_time(utcnow()), PURGED, key) for key in keys],
            )
        if cursor.rowcount > 0:
            self.connection.execute("VACUUM")

    def purge(self, keys: Iterable[Key]) -> int:
        """Empty documents for good, to be published by the next push; returns how many were not empty before."""
        now, emptied = format_time(utcnow()), {**dict.fromkeys(self.kinds()), RESCUED: None}
        staged = 0
        with atomic(self.connection):
            set_values(self.connection, "mmmeta_local", {_UNPURGED: None})
            for some in chunks(keys):
                rows = self.rows(some)
                changes = [
                    Change(
                        key,
                        {
                            **emptied,
                            "__deleted_at": row["__deleted_at"] if is_purged(row) else now,
                            "__deleted_reason": PURGED,
                        },
                    )
                    for key, row in rows.items()
                ]
                staged += self.stage(changes).updated
            set_values(self.connection, "mmmeta_local", {SCRUB: 1})
        return staged

    @property
    def must_scrub(self) -> bool:
        """Whether documents were purged since the file was last rewritten."""
        return self.local(SCRUB) is not None

    def scrub(self) -> None:
        """Rewrite the file if documents were purged, so that none of their bytes is left in it."""
        if self.must_scrub:
            self.connection.execute("VACUUM")
            self.set_local(**{SCRUB: None})

    def drop_empty_pending(self) -> None:
        """Forget pending entries; the caller has seen that they make no difference to what is published."""
        with atomic(self.connection) as connection:
            self._revert_pending()
            connection.execute("DELETE FROM mmmeta_pending")

    def snapshot(self, path: Path) -> None:
        """Write the catalog as published at its revision into the new file `path`: no pending change, nothing private.

        Closed, consistent and flushed to disk when this returns.
        """
        self.connection.execute("VACUUM INTO ?", (str(path),))
        with closing(connect(path, pragmas=PRAGMAS)) as connection:
            copy = Catalog(connection, path, self.unique, self._max_columns)
            waits = copy.pending_count() > 0
            with atomic(connection):
                copy._revert_pending()
                copy._drop_undeclared()
                for table in PRIVATE_TABLES:
                    connection.execute(f"DROP TABLE {table}")
            if waits:  # or bytes of it may stay in pages that were not overwritten
                connection.execute("VACUUM")
        fsync_file(path)

    def _drop_undeclared(self) -> None:
        """Forget columns that no segment has declared; nothing is in them when nothing is pending."""
        for name in self.new_columns():
            self.connection.execute(f"ALTER TABLE files DROP COLUMN {quote(name)}")
        self.connection.execute("DELETE FROM mmmeta_columns WHERE revision IS NULL")

    def _revert_pending(self) -> None:
        kinds = self.all_kinds()
        empty: dict[str, Sql] = dict.fromkeys(kinds)
        entries = self.connection.execute("SELECT key, base FROM mmmeta_pending").fetchall()
        gone = [(key,) for key, base in entries if base is None]
        self.connection.executemany(f"DELETE FROM files WHERE {quote(self.unique)} = ?", gone)
        published = (
            {self.unique: key, **empty, **to_row(base, kinds)} for key, base in entries if base is not None
        )
        for some in chunks(published):
            upsert_rows(self.connection, self.unique, some)

    # --- parts

    def all_kinds(self) -> dict[str, Kind]:
        """Return the kind of each published column, bookkeeping included."""
        return {**PUBLISHED_BOOKKEEPING, **self.kinds()}

    def write_store(self, store: Mapping[str, str | None]) -> None:
        """Set published values of the store, raw texts by key (None: there is none any more)."""
        self.connection.executemany(
            "DELETE FROM mmmeta_store WHERE key = ?", [(key,) for key, text in store.items() if text is None]
        )
        set_values(
            self.connection, "mmmeta_store", {k: text for k, text in store.items() if text is not None}
        )

    def write_position(self, position: Position) -> None:
        """Note how far the catalog has come now."""
        before = self.position
        note_digest(self.connection, before.revision, before.digest)
        set_values(
            self.connection,
            "mmmeta_info",
            {
                "archive": position.archive,
                "revision": position.revision,
                "digest": position.digest,
                "log_bytes": position.log_bytes,
            },
        )
