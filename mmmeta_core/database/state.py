"""A client's state: published columns merged with this client's own columns, in whichever database it lies.

Every column has one owner. `merge` writes published columns only, `save` the client's only; a name that both
want stays with the client. `SqliteState` keeps it in a file, `PostgresState` on a server; rows are raw in one form for
both: text, integers and floats as they are, booleans as 0 and 1, times as the text of `format_time`, lists as JSON.
"""

from __future__ import annotations

import hashlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import orjson

from mmmeta_core.database.columns import (
    PUBLISHED_BOOKKEEPING,
    STATE_BOOKKEEPING,
    Columns,
    Fitted,
    column_name,
    fold,
)
from mmmeta_core.database.connection import Connection
from mmmeta_core.database.lineage import catalog_digests, relation
from mmmeta_core.database.sqlite import get_value, quote, rows_by_key
from mmmeta_core.errors import ColumnError, ReadOnlyColumnError
from mmmeta_core.types import Key, Kind, Row, utcnow

Owner: TypeAlias = Literal["publisher", "client"]
T = TypeVar("T")


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


TABLES: Final = (
    "files",
    "mmmeta_info",
    "mmmeta_columns",
    "mmmeta_work",
    "mmmeta_pipelines",
    "mmmeta_downloads",
)
"""The tables of a state, in each database."""


def is_unpulled(info: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a catalog has nothing of an archive yet, and the state has: it is a machine's that is to pull first.

    What such a catalog lacks was not deleted by anybody. `info` and `known` are what `mmmeta_info` says in the two.
    """
    return info.get("archive") is None and known.get("archive") is not None


def nothing_merged(known: Mapping[str, Any]) -> Merged:
    """Return what came of a merge that changed nothing."""
    clashes = tuple(orjson.loads(known.get("clashes") or "[]"))
    return Merged(0, 0, 0, 0, 0, int(known.get("revision") or 0), clashes, (), ())


class State(ABC):
    """The state of one client. May be used by many threads, each with a connection of its own, opened when first used."""

    name: str
    """What messages call the database: a path, or an address without its password."""

    def __init__(self, unique: str) -> None:
        self.unique = unique
        self._own: set[str] = set()

    # --- what each database does in its own way

    @property
    @abstractmethod
    def connection(self) -> Connection:
        """Return this thread's connection. Raises `CatalogError` for a database that can't be used."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Return the SQLAlchemy URL of the database."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections of all threads; the next use opens new ones."""

    @abstractmethod
    def schema_version(self) -> int:
        """Return a number that changes when any process changes the tables."""

    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of the columns that the table has."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Connection]:
        """Run a block in one transaction; a nested one is a savepoint."""

    @abstractmethod
    def merge(
        self, catalog: Path, *, everything: bool = False, verified: bool = False, confirmed: str = ""
    ) -> Merged:
        """Merge what the catalog has new into the published columns, in one transaction.

        Looks only at rows of revisions that were not merged before, and at local changes that wait for their
        publication; at all rows with `everything`, and when the catalog is of another archive than last time, or of
        another history of it, or is the first one that is `verified`, which is that trusted signatures cover it. Then
        documents that the catalog does not have are soft-deleted here, so no state is lost. A catalog of a machine that
        has not pulled yet changes nothing.

        Which of two histories is the archive's only the remote knows. So where machines share a state `HistoryError` is
        raised, unless the remote has `confirmed` this catalog's since the state had what the error's `merged` names.
        """

    def already_merged(self, catalog: sqlite3.Connection, *, verified: bool) -> Merged | None:
        """Return what a merge of this open catalog comes to where it has nothing new; None where there may be more to do.

        Takes no lock and attaches nothing: most updates end here.
        """
        info = dict(catalog.execute("SELECT key, value FROM mmmeta_info"))
        known = dict(self.connection.execute("SELECT key, value FROM mmmeta_info").fetchall())
        revision = int(info.get("revision", 0))
        same = revision > 0 and (info["unique"], info.get("archive"), revision, str(int(verified))) == (
            self.unique,
            known.get("archive"),
            int(known.get("revision") or 0),
            str(known.get("verified")),
        )
        if not same or relation(known, catalog_digests(catalog, info), revision) != "onward":
            return None
        waits = catalog.execute("SELECT 1 FROM mmmeta_pending LIMIT 1").fetchone()
        return nothing_merged(known) if waits is None else None

    @abstractmethod
    def scrub(self) -> None:
        """Rewrite the database if documents were purged, so that none of their bytes is left in its files.

        Where another process is at work in it, a later call does it.
        """

    @abstractmethod
    def save_within(self, updates: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
        """Do what `save` does as part of the transaction that the caller has begun."""

    @abstractmethod
    def _add_column(self, name: str, kind: Kind, owner: Owner) -> None:
        """Make a column known, and have the table have it; within a transaction."""

    @abstractmethod
    def index_mark(self, mark: str) -> None:
        """Make an index of the documents that this column of the client's does not say yes to, if there is none."""

    @abstractmethod
    def index_columns(self, names: Iterable[str]) -> None:
        """Make an index of each of these columns that is there and has none that was made by this."""

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` does in one transaction. It may be called again, so it has to start from the beginning."""
        with self.transaction() as connection:
            return work(connection)

    def taking(self, work: Callable[[], T]) -> T:
        """Return what `work` does, which finds documents and claims them."""
        return work()

    # --- SQL that is not the same everywhere

    now_sql: str = ":mmmeta_now"
    """The time now, as all who share the database see it; the parameter is given when it is there."""

    one_by_one: str = ""
    """What ends a subquery that is to be asked for each row, and not joined for all of them at once."""

    def now(self) -> datetime:
        """Return the time now, as all who share the database see it."""
        return utcnow()

    def same(self, one: str, other: str) -> str:
        """Return the SQL condition that two values are the same, NULL being the same as NULL."""
        return f"{one} IS {other}"

    def differ(self, one: str, other: str) -> str:
        """Return the SQL condition that two values are not the same."""
        return f"{one} IS NOT {other}"

    def is_set(self, mark: str) -> str:
        """Return the SQL condition on a row of `files` that this column of the client's says yes; it is never NULL."""
        return f"files.{quote(mark)} IS 1"

    def as_key(self, key: Key) -> Key:
        """Return a document's key as its column has it."""
        return key

    def is_unset(self, mark: str) -> str:
        """Return the SQL condition that `is_set` does not hold, in the words of the index of `index_mark`."""
        return f"files.{quote(mark)} IS NOT 1"

    def as_text(self, column: str) -> str:
        """Return SQL for a column's value in the form in which notes about work keep it."""
        return column

    def locked(self, keys: Sequence[Key]) -> Sequence[Key]:
        """Return those of the documents that nobody else is claiming just now; within a transaction."""
        return keys

    # --- what is in it

    def owners(self) -> dict[str, Owner]:
        """Return who writes each column, bookkeeping left out. The key is the publisher's."""
        found = dict(self.connection.execute("SELECT name, owner FROM mmmeta_columns").fetchall())
        return {self.unique: "publisher", **found}

    def kinds(self) -> dict[str, Kind]:
        """Return the kind of each column but the key, bookkeeping included."""
        found = dict(self.connection.execute("SELECT name, kind FROM mmmeta_columns").fetchall())
        return {**PUBLISHED_BOOKKEEPING, **STATE_BOOKKEEPING, **found}

    def own_kinds(self) -> dict[str, Kind]:
        """Return the kind of each of the client's columns, also of those that the table has no room for."""
        return dict(
            self.connection.execute("SELECT name, kind FROM mmmeta_columns WHERE owner = 'client'").fetchall()
        )

    @property
    def revision(self) -> int:
        """Return the revision that has been merged; 0 before the first."""
        return int(self.note("revision") or 0)

    def note(self, key: str) -> Any:
        """Return what `mmmeta_info` says of the merged catalog under this key; None when nothing."""
        return get_value(self.connection, "mmmeta_info", key)

    def count(self, *, deleted: bool) -> int:
        """Return the number of documents that are, or are not, soft-deleted."""
        test = "IS NOT NULL" if deleted else "IS NULL"
        total: int = self.connection.execute(
            f"SELECT count(*) FROM files WHERE __deleted_at {test}"
        ).fetchone()[0]
        return total

    def merged_store(self) -> dict[str, str]:
        """Return the store as published at the revision that was merged last, raw texts by key."""
        text = self.note("store")
        store: dict[str, str] = orjson.loads(text) if text else {}
        return store

    def rows(self, keys: Sequence[Key]) -> dict[Key, Row]:
        """Return whole raw rows by key, `CHUNK` of them at most."""
        return rows_by_key(self.connection, self.unique, keys)

    def row(self, key: Key) -> Row | None:
        """Return one raw row."""
        return self.rows([key]).get(key)

    # --- the client's columns

    def save(self, updates: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:
        """Set columns of the client's on documents, new columns included, in one transaction.

        Raises `ReadOnlyColumnError` for a published column, `ColumnError` for a name that no column can have and for
        a document that is not in the state db; then nothing is written.
        """
        given = updates if isinstance(updates, Sequence) else list(updates)
        self.run(lambda _: self.save_within(given))

    def check_own(self, names: Iterable[str]) -> None:
        """Raise as `check_writable` does unless a client may write all of these columns.

        Those that are the client's stay so, and are asked for once.
        """
        unknown = [name for name in names if name not in self._own]
        if unknown:
            owners = self.owners()
            for name in unknown:
                check_writable(name, owners)
            self._own.update(name for name in unknown if owners.get(name) == "client")

    def add_own(self, name: str, kind: Kind) -> None:
        """Make a column of the client's, if it is not there. Raises as `save` does."""
        check_writable(name, self.owners())
        if name not in self.kinds():
            self.run(lambda _: self._add_column(name, kind, "client"))

    def add_mark(self, mark: str) -> None:
        """Make the column of a pipeline, if it is not there. Raises as `save` does."""
        self.add_own(mark, "boolean")

    def _fitted(
        self, updates: Iterable[tuple[Key, Mapping[str, Any]]]
    ) -> Iterator[tuple[Key, Mapping[str, Any], Fitted]]:
        """Yield what is to be saved, cut to the client's columns, after making those that it asks for."""
        columns = Columns(self.own_kinds())
        owners: dict[str, Owner] = {}
        for key, values in updates:
            if not owners and not values.keys() <= columns.kinds.keys():
                owners = self.owners()
                columns = Columns(columns.kinds, taken=owners.keys() - columns.kinds.keys())
            for name in values if owners else ():
                check_writable(name, owners)
            fitted = columns.fit(values)
            for name, kind in columns.added.items():
                self._add_column(name, kind, "client")
            columns.added.clear()
            yield key, values, fitted

    def _missing(self, key: Key) -> ColumnError:
        return ColumnError(f"no document with {self.unique} {key!r} in {self.name}: run update first")

    # --- what the catalog has

    def _adopt_columns(self, kinds: Mapping[str, Kind]) -> list[str]:
        """Make the catalog's columns known here; return those that the client has already made its own."""
        owners, known = self.owners(), self.kinds()
        del owners[self.unique]
        mine = {fold(name) for name, owner in owners.items() if owner == "client"}
        theirs = {fold(name): name for name, owner in owners.items() if owner == "publisher"}
        clashes = []
        for name, kind in kinds.items():
            if fold(name) in mine:
                clashes.append(name)
                continue
            before = theirs.get(fold(name), name)
            if before == name and known.get(name) == kind:
                continue
            if before != name:  # it waited for its publication here, and others spelled it otherwise
                self._drop_column(before)
            self._add_column(name, kind, "publisher")
        return clashes

    def _unpublished(self, kinds: Mapping[str, Kind]) -> list[str]:
        """Return the publisher's columns that a catalog with these does not have: it is not the one that was merged."""
        owners = self.owners()
        del owners[self.unique]
        return [name for name, owner in owners.items() if owner == "publisher" and name not in kinds]

    @abstractmethod
    def _drop_column(self, name: str) -> None:
        """Forget a column and what is in it; within a transaction."""


def index_name(kind: str, column: str) -> str:
    """Return the name of an index that this package makes of a column; the column's own may be too long for it."""
    return f"mmmeta_{kind}_{hashlib.sha1(column.encode(), usedforsecurity=False).hexdigest()[:16]}"


def kept_rescued(text: str | None, values: Mapping[str, Any], rescued: Mapping[str, Any]) -> str | None:
    """Return the JSON of what has no column, after `values` were set: what was kept before, and `rescued` of these."""
    before = orjson.loads(text) if text else {}
    after = {name: value for name, value in before.items() if name not in values} | dict(rescued)
    return orjson.dumps(after, option=orjson.OPT_SORT_KEYS).decode() if after else None
