"""The state on PostgreSQL: typed columns, merged by COPY; claims with SKIP LOCKED and the server's clock.

What does not fit its column's type is kept in the JSON columns `__rescued` (the publisher's) and `__state_rescued` (the
client's), and `mmmeta_columns` notes that such a column is mixed, so that filters look there too.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from mmmeta_core.database.columns import STATE_RESCUED
from mmmeta_core.database.per_thread import PerThread
from mmmeta_core.database.place import Server
from mmmeta_core.database.postgres import schema
from mmmeta_core.database.postgres.compare import Compared, Comparison
from mmmeta_core.database.postgres.merge import Merge
from mmmeta_core.database.postgres.session import Session
from mmmeta_core.database.postgres.values import MOST_COLUMNS, SYSTEM_COLUMNS, TYPES, fit
from mmmeta_core.database.sqlite import chunks, quote, set_values
from mmmeta_core.database.state import Merged, Owner, State, check_writable, index_name, kept_rescued
from mmmeta_core.errors import ColumnError
from mmmeta_core.types import Key, Kind, Row, format_time, parse_time

log = logging.getLogger(__name__)

_SCRUB: Final = "scrub"
_KEY_KIND: Final = "key_kind"
T = TypeVar("T")


@dataclass(frozen=True)
class Mixed:
    """The columns of which some values are in the JSON column of their writer, and the kind of the key."""

    publisher: frozenset[str]
    client: frozenset[str]
    key: Kind


class PostgresState(State):
    """The state of one client, in a schema on a server. Any number of processes, on any machines, may share it."""

    now_sql = "clock_timestamp()"
    # The server joins a subquery with the whole table before it takes the first rows, but not one with an offset.
    one_by_one = " OFFSET 0"

    def __init__(self, server: Server, unique: str) -> None:
        super().__init__(unique)
        self.server = server
        self.name: str = server.name
        self._connections = PerThread(self._open)
        self._taking = _Taking()

    @property
    def connection(self) -> Session:
        """See `State.connection`. Raises `UnavailableError` for a server that does not answer, too."""
        return self._connections.get()

    @property
    def url(self) -> str:
        """See `State.url`."""
        return self.server.url

    def close(self) -> None:
        """See `State.close`."""
        self._connections.close()

    def _open(self) -> Session:
        return Session(self.server, lambda session: schema.bring_up_to_date(session, self.unique))

    def schema_version(self) -> int:
        """See `State.schema_version`."""
        row = self.connection.execute(
            "SELECT hashtextextended(string_agg(concat(attnum, attname, atttypid), ',' ORDER BY attnum), 0) "
            "FROM pg_attribute WHERE attrelid = 'files'::regclass AND attnum > 0 AND NOT attisdropped"
        ).fetchone()
        return int(row[0]) if row else 0

    def columns(self) -> list[str]:
        """See `State.columns`."""
        rows = self.connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'files'::regclass AND attnum > 0 AND NOT attisdropped "
            "ORDER BY attnum"
        )
        return [name for (name,) in rows]

    # --- transactions

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """See `State.transaction`."""
        with self.connection.transaction() as session:
            yield session

    def run(self, work: Callable[[Session], T]) -> T:
        """See `State.run`. Waits for a server that is restarted, and repeats what a deadlock has undone."""
        session = self.connection

        def once() -> T:
            with session.transaction():
                return work(session)

        return once() if session.in_transaction else session.patiently(once)

    def taking(self, work: Callable[[], T]) -> T:
        """See `State.taking`. In one transaction, and what others are taking is not found."""

        def take(_: Session) -> T:
            self._taking.now = True
            try:
                return work()
            finally:
                self._taking.now = False

        return self.run(take)

    @property
    def is_taking(self) -> bool:
        """Whether this thread is finding documents in order to claim them."""
        return self._taking.now

    # --- SQL

    def now(self) -> datetime:
        """See `State.now`. It is the server's."""
        ((text,),) = self.connection.execute("SELECT clock_timestamp()").fetchall()
        return parse_time(text)

    def same(self, one: str, other: str) -> str:
        """See `State.same`."""
        return f"{one} IS NOT DISTINCT FROM {other}"

    def differ(self, one: str, other: str) -> str:
        """See `State.differ`."""
        return f"{one} IS DISTINCT FROM {other}"

    def is_set(self, mark: str) -> str:
        """See `State.is_set`."""
        column = f"files.{quote(mark)}"
        kind = self.kinds().get(mark)
        if kind == "boolean":
            return f"{column} IS TRUE"
        return f"coalesce({column} = 1, FALSE)" if kind in ("integer", "float") else "FALSE"

    def as_key(self, key: Key) -> Key:
        """See `State.as_key`."""
        return key if self.key_kind == "integer" else str(key)

    def is_unset(self, mark: str) -> str:
        """See `State.is_unset`."""
        return (
            f"files.{quote(mark)} IS NOT TRUE"
            if self.kinds().get(mark) == "boolean"
            else f"NOT {self.is_set(mark)}"
        )

    def as_text(self, column: str) -> str:
        """See `State.as_text`."""
        return f"CAST({column} AS text)"

    def locked(self, keys: Sequence[Key]) -> Sequence[Key]:
        """See `State.locked`. What the transaction sees of them afterwards can't change before it ends."""
        key = quote(self.unique)
        rows = self.connection.execute(
            f"SELECT {key} FROM files WHERE {key} IN ({','.join('?' * len(keys))}) ORDER BY {key} FOR UPDATE SKIP LOCKED",
            self._keys(keys),
        )
        return [one for (one,) in rows]

    # --- what is in it

    def mixed(self) -> Mixed:
        """Return which columns have values elsewhere too."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for name, owner in self.connection.execute("SELECT name, owner FROM mmmeta_columns WHERE mixed"):
            found[owner].add(name)
        return Mixed(frozenset(found["publisher"]), frozenset(found["client"]), self.key_kind)

    @property
    def key_kind(self) -> Kind:
        """Return the kind of the key column: text, or integer as long as all keys are."""
        return "integer" if self.note(_KEY_KIND) == "integer" else "text"

    def rows(self, keys: Sequence[Key]) -> dict[Key, Row]:
        """See `State.rows`."""
        return super().rows(self._keys(keys))

    def _keys(self, keys: Iterable[Key]) -> list[Any]:
        """Return keys as the column has them; what it can't have is none of them."""
        if self.key_kind == "integer":
            return [key for key in keys if isinstance(key, int)] or [None]
        return [str(key) for key in keys] or [None]

    # --- the publisher's columns

    def merge(
        self, catalog: Path, *, everything: bool = False, verified: bool = False, confirmed: str = ""
    ) -> Merged:
        """See `State.merge`. A catalog that is older than what was merged changes nothing: another machine has more."""
        merge = Merge(self, catalog, everything=everything, verified=verified, confirmed=confirmed)
        merged = self.run(merge.run)
        if merge.rescued:
            log.info("state: %d documents have values that no column can have, kept as JSON", merge.rescued)
        for key in merge.left_out:
            log.warning(
                "the document %.80r… is left out: its key is longer than an index takes, or is another's as text",
                key,
            )
        return merged

    def compare(self, catalog: Path) -> Compared:
        """Compare what was merged with the catalog, and change nothing. Reads all of both."""
        return self.run(Comparison(self, catalog).compare)

    def adopt(self, kinds: Mapping[str, Kind]) -> list[str]:
        """Make the catalog's columns known, as far as there is room; return those that are the client's own already."""
        return self._adopt_columns(kinds)

    def unpublished(self, kinds: Mapping[str, Kind]) -> list[str]:
        """Return the publisher's columns that the catalog does not have."""
        return self._unpublished(kinds)

    def take_texts_as_keys(self) -> None:
        """Turn a key column of integers into one of text; within a transaction."""
        if self.key_kind == "integer":
            self._set_key_kind("text")

    def take_integers_as_keys(self) -> None:
        """Turn a key column that has no documents yet into one of integers; within a transaction."""
        self._set_key_kind("integer")

    def _set_key_kind(self, kind: Kind) -> None:
        kind_of_column = "bigint" if kind == "integer" else "text"
        for table, column in (("files", self.unique), ("mmmeta_work", "key"), ("mmmeta_downloads", "key")):
            self.connection.execute(
                f"ALTER TABLE {table} ALTER COLUMN {quote(column)} TYPE {TYPES[kind]} "
                f"USING CAST({quote(column)} AS {kind_of_column})"
            )
        set_values(self.connection, "mmmeta_info", {_KEY_KIND: kind})

    def scrub(self) -> None:
        """See `State.scrub`. Backups and the server's write-ahead log are the server's to forget."""
        if self.note(_SCRUB) is None:
            return
        session = self.connection
        try:
            for table in ("files", "mmmeta_work"):
                session.vacuum(table)
        except TimeoutError:
            log.warning(
                "%s is in use, so it still holds bytes of purged documents; the next update removes them",
                self.name,
            )
        else:
            self.run(lambda inner: set_values(inner, "mmmeta_info", {_SCRUB: None}))

    def to_scrub(self) -> None:
        """Note that documents were purged; within a transaction."""
        set_values(self.connection, "mmmeta_info", {_SCRUB: "1"})

    # --- the client's columns

    def add_mark(self, mark: str) -> None:
        """See `State.add_mark`. Other columns may be kept as JSON, but this one has to be in the table, or `ColumnError`."""
        check_writable(mark, self.owners())
        if mark in self.columns():
            return

        def add(_: Session) -> None:
            self.add_own(mark, "boolean")
            if mark not in self.columns():
                raise ColumnError(
                    f"there is no room for the column {mark!r} in {self.name}, or no column can have that name: PostgreSQL "
                    "takes 1,600 columns, those that were dropped among them. Choose another name, have fewer columns "
                    "published, or move the state to an empty schema with move-state"
                )

        self.run(add)

    def save_within(self, updates: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
        """See `State.save_within`."""
        session, now = self.connection, format_time(self.now())
        for some in chunks(self._fitted(updates)):
            own, there = self.own_kinds(), set(self.columns())
            kinds = {name: kind for name, kind in own.items() if name in there}
            keys = self._keys(key for key, _, _ in some)
            key = quote(self.unique)
            kept = dict(
                session.execute(
                    f"SELECT {key}, {STATE_RESCUED} FROM files WHERE {key} IN ({','.join('?' * len(keys))})",
                    keys,
                ).fetchall()
            )
            rows: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
            for (given, values, fitted), mine in zip(some, self._each_key(some), strict=True):
                if mine not in kept:
                    raise self._missing(given)
                row, misfits = fit(fitted.row, kinds, own)
                self.note_mixed(misfits)
                said = kept_rescued(kept[mine], values, {**fitted.rescued, **misfits})
                if said != kept[mine]:
                    row |= {name: None for name in fitted.rescued if name in kinds}
                    row[STATE_RESCUED] = kept[mine] = said
                rows[mine] |= row
            groups: defaultdict[tuple[str, ...], list[list[Any]]] = defaultdict(list)
            for mine, row in rows.items():
                groups[tuple(row)].append([*row.values(), now, mine])
            for columns, parameters in groups.items():
                assignments = "".join(f"{quote(name)}=?," for name in columns)
                session.executemany(
                    f"UPDATE files SET {assignments}__state_last_updated=? WHERE {key} = ?", parameters
                )

    def _each_key(self, some: Sequence[tuple[Key, Any, Any]]) -> Iterator[Any]:
        integers = self.key_kind == "integer"
        for key, _, _ in some:
            yield key if integers else str(key)

    def note_mixed(self, names: Iterable[str]) -> None:
        """Note that some values of these columns are kept as JSON; within a transaction."""
        for name in names:
            self.connection.execute(
                "UPDATE mmmeta_columns SET mixed = TRUE WHERE name = ? AND NOT mixed", (name,)
            )

    # --- indexes

    def index_mark(self, mark: str) -> None:
        """See `State.index_mark`."""
        if self.kinds().get(mark) == "boolean":
            self._index(
                index_name("due", mark),
                f"({quote(self.unique)}) WHERE {quote(mark)} IS NOT TRUE AND __deleted_at IS NULL",
            )

    def index_columns(self, names: Iterable[str]) -> None:
        """See `State.index_columns`."""
        there, kinds = self.columns(), self.kinds()
        for name in names:
            if name in there and kinds.get(name) != "json":
                # What is too long for an index is told apart by its hash, which serves equality.
                how = "USING hash " if kinds.get(name) == "text" else ""
                self._index(index_name("by", name), f"{how}({quote(name)})")

    def _index(self, name: str, of: str) -> None:
        made = "SELECT 1 FROM pg_indexes WHERE schemaname = ? AND indexname = ?"
        if self.connection.execute(made, (self.server.schema, name)).fetchone() is not None:
            return

        def make(session: Session) -> None:
            schema.locked(session)  # two that make it at once would fail
            session.execute(f"CREATE INDEX IF NOT EXISTS {name} ON files {of}")
            # Until autovacuum comes by, the server takes few rows to match, and sorts all of them for each chunk.
            session.execute("ANALYZE files")

        self.run(make)

    # --- columns

    def _add_column(self, name: str, kind: Kind, owner: Owner) -> None:
        session = self.connection
        known = session.execute("SELECT kind FROM mmmeta_columns WHERE name = ?", (name,)).fetchone()
        there = self.columns()
        if known is not None and (known[0] == kind or (name in there and self._has_values(name))):
            return
        if known is not None and name in there:
            session.execute(f"ALTER TABLE files DROP COLUMN {quote(name)}")
        if self._has_room(name, owner):
            session.execute(f"ALTER TABLE files ADD COLUMN IF NOT EXISTS {quote(name)} {TYPES[kind]}")
        session.execute(
            "INSERT INTO mmmeta_columns (name, kind, owner, mixed) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET kind = excluded.kind",
            (name, kind, owner, name not in self.columns()),
        )

    def _drop_column(self, name: str) -> None:
        self.connection.execute(f"ALTER TABLE files DROP COLUMN IF EXISTS {quote(name)}")
        self.connection.execute("DELETE FROM mmmeta_columns WHERE name = ?", (name,))

    def _has_values(self, name: str) -> bool:
        return (
            self.connection.execute(f"SELECT 1 FROM files WHERE {quote(name)} IS NOT NULL LIMIT 1").fetchone()
            is not None
        )

    def _has_room(self, name: str, owner: Owner) -> bool:
        row = self.connection.execute(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 'files'::regclass AND attnum > 0"
        ).fetchone()
        return name not in SYSTEM_COLUMNS and row is not None and row[0] < MOST_COLUMNS[owner]


class _Taking(threading.local):
    """Whether a thread is finding documents in order to claim them."""

    now = False
