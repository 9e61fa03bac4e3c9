"""The catalog: `meta.db`, one row a document, published metadata and what is still to be published.

Only publishers' verbs and `pull` write here, one process at a time (see `lock`). The file is never in WAL mode,
so that between transactions it is one closed file that may be copied, and a copy put in its place is never
mixed with a leftover log. `synchronous` stays FULL: a published revision depends on it.

A row that was changed here and is not published yet has an entry in `mmmeta_pending` with the row as it was
published (NULL: never). The difference of the two is what the next push publishes, so changes by other
publishers to other columns of the same document survive.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from mmmeta_core.atomic import fsync_file
from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, PURGED, RESCUED, Columns, Fitted, fold
from mmmeta_core.database.foreign import Looked, check_content, check_schema
from mmmeta_core.database.lineage import note_digest
from mmmeta_core.database.migrations import Schema, Step, bring_up_to_date, set_format, writable
from mmmeta_core.database.rebase import left, rescued_of, same
from mmmeta_core.database.sqlite import (
    atomic,
    check_version,
    chunks,
    connect,
    get_value,
    quote,
    rows_by_key,
    set_values,
    table_columns,
    upsert_rows,
)
from mmmeta_core.errors import CatalogError
from mmmeta_core.limits import cap, check
from mmmeta_core.trouble import explained_database
from mmmeta_core.types import (
    PLAIN_KINDS,
    Key,
    Kind,
    Misfit,
    Row,
    Sql,
    decode,
    encode,
    format_time,
    from_json,
    to_json,
    utcnow,
)

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
_SCRUB: Final = "scrub"
"""The private note that documents were purged and the file is to be rewritten."""
_UNPURGED: Final = "unpurged"
"""The private note of the digest of the revision as of which no document was purged."""
_PRIVATE_TABLES: Final = frozenset({"mmmeta_pending", "mmmeta_local"})
_PRAGMAS: Final = {
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
            for table in _PRIVATE_TABLES:
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
            self._add_columns(columns.added, revision=None)
            columns.added.clear()
        inherited = self.is_inherited
        for some in chunks(changes):
            if inherited:
                self._take_keys(change.key for change in some)
            self._stage(some, now, staged, restores)
        return staged

    def _stage(self, changes: list[Change], now: str, staged: Staged, restores: Collection[str]) -> None:
        present = rows_by_key(self.connection, self.unique, list({change.key for change in changes}))
        kinds = self._all_kinds() if present else {}
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
            if _is_purged(row) and values.get("__deleted_reason") != PURGED:
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
                bases[key] = None if key in written else _base(row, kinds)
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
                self._add_columns(columns.added, revision=None)
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
                self._change_kind(name, old, kind)
        left = orjson.dumps(sorted(columns.undecided)).decode()
        set_values(self.connection, "mmmeta_local", {_UNDECIDED: left})

    # --- publishing

    def deltas(self) -> Iterator[tuple[Key, dict[str, Any]]]:
        """Yield what is to be published: per document the columns that differ, in the log's JSON form.

        Streams; a document whose changes cancelled each other out is left out.
        """
        kinds = self._all_kinds()
        cursor = self.connection.cursor()
        cursor.execute(
            f"SELECT p.base, f.* FROM mmmeta_pending p JOIN files f ON f.{quote(self.unique)} = p.key ORDER BY p.rowid"
        )
        names = [column[0] for column in cursor.description][1:]
        for base, *values in cursor:
            row = dict(zip(names, values, strict=True))
            delta = _delta(row, orjson.loads(base) if base else {}, kinds)
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
            self._write_store(store)
            self._write_position(position)

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
                            "__deleted_at": row["__deleted_at"] if _is_purged(row) else now,
                            "__deleted_reason": PURGED,
                        },
                    )
                    for key, row in rows.items()
                ]
                staged += self.stage(changes).updated
            set_values(self.connection, "mmmeta_local", {_SCRUB: 1})
        return staged

    @property
    def must_scrub(self) -> bool:
        """Whether documents were purged since the file was last rewritten."""
        return self.local(_SCRUB) is not None

    def scrub(self) -> None:
        """Rewrite the file if documents were purged, so that none of their bytes is left in it."""
        if self.must_scrub:
            self.connection.execute("VACUUM")
            self.set_local(**{_SCRUB: None})

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
        with closing(connect(path, pragmas=_PRAGMAS)) as connection:
            copy = Catalog(connection, path, self.unique, self._max_columns)
            waits = copy.pending_count() > 0
            with atomic(connection):
                copy._revert_pending()
                copy._drop_undeclared()
                for table in _PRIVATE_TABLES:
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
        kinds = self._all_kinds()
        empty: dict[str, Sql] = dict.fromkeys(kinds)
        entries = self.connection.execute("SELECT key, base FROM mmmeta_pending").fetchall()
        gone = [(key,) for key, base in entries if base is None]
        self.connection.executemany(f"DELETE FROM files WHERE {quote(self.unique)} = ?", gone)
        published = (
            {self.unique: key, **empty, **_raw(base, kinds)} for key, base in entries if base is not None
        )
        for some in chunks(published):
            upsert_rows(self.connection, self.unique, some)

    # --- what others published

    def apply(
        self,
        position: Position,
        new_columns: Mapping[str, Kind],
        records: Iterable[tuple[Key, Mapping[str, Any]]],
        store: Mapping[str, str | None],
    ) -> int:
        """Apply one segment in one transaction: documents, columns, store and position, or nothing at all.

        Changes that wait here for their publication are put on top again: their own columns keep the local value,
        all others take the published one. Returns the number of records. Raises whatever `records` raises, and
        `Misfit` for a value that is not of its column's kind.
        """
        total = 0
        with atomic(self.connection):
            self._declare(new_columns, position.revision)
            kinds = self._all_kinds()
            pending = self.pending_count() > 0
            for some in chunks(records, weigh=lambda record: _weight(record[1])):
                total += len(some)
                if any(values.get("__deleted_reason") == PURGED for _, values in some):
                    set_values(self.connection, "mmmeta_local", {_SCRUB: 1})
                published = {key: _raw(values, kinds) for key, values in some}
                rows = self._rebase(published, kinds) if pending else published
                upsert_rows(
                    self.connection,
                    self.unique,
                    ({self.unique: key, **row, "__revision": position.revision} for key, row in rows.items()),
                )
            self._write_store(store)
            check(len(self.store()), cap("MMMETA_MAX_STORE_KEYS"), "store values in all")
            self._write_position(position)
        return total

    def _rebase(self, published: dict[Key, Row], kinds: Mapping[str, Kind]) -> dict[Key, Row]:
        keys = list(published)
        marks = ",".join("?" * len(keys))
        waiting = dict(
            self.connection.execute(f"SELECT key, base FROM mmmeta_pending WHERE key IN ({marks})", keys)
        )
        if not waiting:
            return published
        here = rows_by_key(self.connection, self.unique, list(waiting))
        now = format_time(utcnow())
        for key, base_json in waiting.items():
            if _is_purged(published[key]) and not _is_purged(here[key]):  # what waits here goes with it
                published[key] = {**dict.fromkeys(self.kinds()), RESCUED: None, **published[key]}
                self.connection.execute("DELETE FROM mmmeta_pending WHERE key = ?", (key,))
                continue
            before = _raw(base_json, kinds) if base_json else {}
            base = {**before, **published[key]}
            mine = left(here[key], before, base, kinds, now)
            # The rest, bookkeeping too, is as published.
            published[key] = {**dict.fromkeys(kinds), **base, **mine}
            if mine:
                kept = {n: to_json(v, kinds[n]) for n, v in base.items() if v is not None}
                self.connection.execute(
                    "UPDATE mmmeta_pending SET base = ? WHERE key = ?", (orjson.dumps(kept).decode(), key)
                )
            else:
                self.connection.execute("DELETE FROM mmmeta_pending WHERE key = ?", (key,))
        return published

    def carry_over(self, older: Catalog) -> None:
        """Take over what waits in another catalog of the same archive: pending changes and their columns."""
        kinds = older._all_kinds()
        columns = self.columns()
        entries = older.connection.execute("SELECT key, base FROM mmmeta_pending").fetchall()
        now = format_time(utcnow())
        for some in chunks(entries):
            keys = [key for key, _ in some]
            here, published = older.rows(keys), self.rows(keys)
            changes = []
            for key, base in some:
                mine = _fit_anew(here[key], kinds, columns)
                before = _fit_anew(_raw(base or "{}", kinds), kinds, columns)
                mine = left(mine, before, published.get(key, {}), mine.keys() | before.keys(), now)
                if mine or key not in published:
                    changes.append(Change(key, mine))
            self.stage(changes, columns)

    # --- parts

    def _all_kinds(self) -> dict[str, Kind]:
        return {**PUBLISHED_BOOKKEEPING, **self.kinds()}

    def _add_columns(self, added: Mapping[str, Kind], revision: int | None) -> None:
        there = set(table_columns(self.connection, "files"))
        for name, kind in added.items():
            if name not in there:
                self.connection.execute(f"ALTER TABLE files ADD COLUMN {quote(name)}")
            self.connection.execute(
                "INSERT INTO mmmeta_columns (name, kind, revision) VALUES (?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, revision = excluded.revision",
                (name, kind, revision),
            )

    def _declare(self, declared: Mapping[str, Kind], revision: int) -> None:
        """Take over columns that a segment declares; values that wait here under another kind move to `__rescued`."""
        known = self.kinds()
        check(len(known.keys() | declared.keys()), cap("MMMETA_MAX_COLUMNS"), "columns in all")
        waiting = {fold(name): name for name in self.new_columns()}
        for name, kind in declared.items():
            other = waiting.get(fold(name), name)
            if other != name:
                self._give_up_column(other, known[other])
            elif known.get(name, kind) != kind:
                self._change_kind(name, known[name], kind)
        self._add_columns(declared, revision)

    def _give_up_column(self, name: str, kind: Kind) -> None:
        """Move what waits here in a column that was published with another spelling to `__rescued`."""
        column = quote(name)
        rows = self.connection.execute(
            f"SELECT {self.quoted_key}, {column}, {RESCUED} FROM files WHERE {column} IS NOT NULL"
        ).fetchall()
        for key, raw, rescued in rows:
            kept = {**orjson.loads(rescued or "{}"), name: to_json(raw, kind)}
            self.connection.execute(
                f"UPDATE files SET {RESCUED} = ? WHERE {self.quoted_key} = ?",
                (orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode(), key),
            )
        self.connection.execute("DELETE FROM mmmeta_columns WHERE name = ?", (name,))
        self.connection.execute(f"ALTER TABLE files DROP COLUMN {column}")

    def _change_kind(self, name: str, old: Kind, new: Kind) -> None:
        column, key = quote(name), quote(self.unique)
        rows = self.connection.execute(
            f"SELECT {key}, {column}, {RESCUED} FROM files WHERE {column} IS NOT NULL"
        ).fetchall()
        for row_key, raw, rescued in rows:
            value = decode(raw, old)
            try:
                raw = encode(value, new)
            except Misfit:
                raw = None
                rescued = orjson.dumps(
                    {**orjson.loads(rescued or "{}"), name: to_json(value, "text")}
                ).decode()
            self.connection.execute(
                f"UPDATE files SET {column} = ?, {RESCUED} = ? WHERE {key} = ?", (raw, rescued, row_key)
            )

    def _write_store(self, store: Mapping[str, str | None]) -> None:
        self.connection.executemany(
            "DELETE FROM mmmeta_store WHERE key = ?", [(key,) for key, text in store.items() if text is None]
        )
        set_values(
            self.connection, "mmmeta_store", {k: text for k, text in store.items() if text is not None}
        )

    def _write_position(self, position: Position) -> None:
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


@contextmanager
def open_catalog(path: Path, unique: str, *, max_columns: int = 500) -> Iterator[Catalog]:
    """Open the catalog at `path`, made when missing, and close it at the end of the block.

    Raises `CatalogError` when it is unreadable, of another format, or has another key column than `unique`.
    """
    with closing(connect(path, pragmas=_PRAGMAS)) as connection, explained_database(path):
        if check_version(connection, path, VERSION) < VERSION:
            bring_up_to_date(connection, path, Schema(partial(_create, unique=unique), STEPS))
        found = check_catalog(connection, path)
        if not found.tables >= _PRIVATE_TABLES:
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
            fresh.carry_over(older)
            if fresh.purged():
                fresh.set_local(**{_SCRUB: 1})
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


def _fit_anew(row: Row, kinds: Mapping[str, Kind], columns: Columns) -> Row:
    """Return a raw row for a table where a column may be of another kind: what does not fit moves to `__rescued`."""
    document = {
        name: decode(row[name], kind)
        for name, kind in kinds.items()
        if name not in PUBLISHED_BOOKKEEPING and row.get(name) is not None
    }
    fitted = columns.fit(document)
    kept = Fitted(rescued={**rescued_of(row), **fitted.rescued})
    return {
        **{name: row.get(name) for name in PUBLISHED_BOOKKEEPING},
        **fitted.row,
        RESCUED: kept.rescued_json(),
    }


def _base(row: Row, kinds: Mapping[str, Kind]) -> str:
    """Return a published row in the log's JSON form."""
    kept = {name: to_json(row[name], kind) for name, kind in kinds.items() if row.get(name) is not None}
    return orjson.dumps(kept).decode()


def _is_purged(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row.get("__deleted_reason") == PURGED


def _delta(row: Row, base: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the columns of `row` that differ from the published `base`, in the log's JSON form."""
    delta = {}
    for name, kind in kinds.items():
        raw = row.get(name)
        if raw is None and base.get(name) is None:
            continue
        value = to_json(raw, kind)
        if not same(value, base.get(name)):
            delta[name] = value
    return delta


def _weight(value: Any) -> int:
    """Return about how many bytes a value of JSON takes in memory. The reader has bounded its depth."""
    if isinstance(value, str):
        return 50 + len(value)
    if isinstance(value, dict):
        return 100 + sum(100 + len(name) + _weight(one) for name, one in value.items())
    return 60 + sum(map(_weight, value)) if isinstance(value, list) else 30


def _raw(values: str | Mapping[str, Any], kinds: Mapping[str, Kind]) -> Row:
    """Return raw values of the log's JSON form. Raises `Misfit` for a column that was never declared."""
    loaded: Mapping[str, Any] = orjson.loads(values) if isinstance(values, str) else values
    if not isinstance(loaded.get(RESCUED) or {}, Mapping):
        raise Misfit(f"{RESCUED} is no object")
    try:
        return {name: from_json(value, kinds[name]) for name, value in loaded.items()}
    except KeyError as error:
        raise Misfit(f"column {error} was never declared") from None
