"""Into a database: a handler that keeps documents as rows of a table, in any database that SQLAlchemy knows."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import orjson

from mmmeta_core.database.columns import column_name
from mmmeta_core.errors import ConfigError, DocumentError, UnavailableError
from mmmeta_core.types import Key, Kind, Misfit, encode, format_time, to_json

if TYPE_CHECKING:
    from sqlalchemy import URL, Column, Connection, Engine, Table
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.types import TypeEngine

    from mmmeta_core.files import File

RESCUED: Final = "rescued"
"""The JSON column for values that are of another kind than their column."""

_PLAIN: Final = re.compile(r"sqlite:///[\w./ -]+")
"""URLs that are right for sure, so that SQLAlchemy is not imported before they are used."""

_TRIES: Final = 3
"""How often a table is made ready: another process may be doing the same."""


def into_database(
    url: str, table: str = "documents", columns: Sequence[str] | Mapping[str, str] | None = None
) -> IntoDatabase:
    """Return a handler for `files.process` that upserts documents into `table`, by their key.

    `columns` are those to take, or a mapping from them to the table's names; None takes all that is published. The key
    column is always there, and the primary key of a table that is made here; missing columns are added. A document
    that was deleted (`on="deleted"`) has its row removed. A chunk is one transaction; a document that can't be written
    fails alone. A database that does not answer, or a table that can't take documents, ends the run. Raises
    `ConfigError` for a wrong URL, a missing driver, or a name that no table or column can have.
    """
    return IntoDatabase(url, table, columns)


class TableError(ConfigError, UnavailableError):
    """The table is not one for documents: that ends the run, and no document is to blame."""


class IntoDatabase:
    """See `into_database`. Connects when it is first used, by many threads if need be; `close` ends that."""

    def __init__(
        self, url: str, table: str, columns: Sequence[str] | Mapping[str, str] | None = None
    ) -> None:
        self._given = url
        if not _PLAIN.fullmatch(url):
            _ = self._url  # raises
        if not table.strip() or len(table.encode()) > 63:
            raise ConfigError(f"no table can be named {table!r:.100}: a name has 1 to 63 bytes")
        self._name = table
        self._columns = _checked_columns(columns)
        self._opened: Engine | None = None
        self._table: Table | None = None
        self._lock = threading.RLock()

    @cached_property
    def _url(self) -> URL:
        return _checked(self._given)

    def __call__(self, file: File) -> None:
        """Write one document. Raises `DocumentError` when the database does not take it."""
        self._write([file])

    def chunk(self, files: Sequence[File]) -> None:
        """Write many documents, all or none."""
        self._write(files)

    def close(self) -> None:
        """Close the database's connections; the next use opens new ones."""
        with self._lock:
            if self._opened is not None:
                self._opened.dispose()
            self._opened = self._table = None

    def __repr__(self) -> str:
        return f"<IntoDatabase {self._where()} table={self._name}>"

    def _where(self) -> str:
        # An URL may have a password among its options, too.
        return self._url.set(query={}).render_as_string(hide_password=True)

    @property
    def _engine(self) -> Engine:
        from sqlalchemy import create_engine

        from mmmeta_core.database.identifiers import connect_any_name

        with self._lock:
            if self._opened is None:
                options = {"timeout": 60} if self._url.get_backend_name() == "sqlite" else {}
                self._opened = create_engine(self._url, hide_parameters=True, connect_args=options)
                connect_any_name(self._opened)
                # Who forgets to close leaves nothing open.
                weakref.finalize(self, self._opened.dispose)
            return self._opened

    # --- rows

    def _write(self, files: Sequence[File]) -> None:
        from sqlalchemy.exc import IntegrityError

        with self._sentences():
            kinds = self._kinds(files)
            table = self._ready(files[0], kinds)
            rows, rescued = self._rows(files[0], [f for f in files if f.get("__deleted_at") is None], kinds)
            name = _rescued_column(table, kinds)
            if any(rescued):
                table = self._ready(files[0], {**kinds, name: "json"})
            if name in table.c:
                rows = [{**row, name: values or None} for row, values in zip(rows, rescued, strict=True)]
            key = table.c[self._key_column(files[0])]
            rows = [{n: _bound(value, table.c[n]) for n, value in row.items()} for row in rows]
            gone = [_stored(file.key, key) for file in files if file.get("__deleted_at") is not None]
            try:
                self._apply(table, key, rows, gone)
            except IntegrityError:
                # Somebody else may have inserted one of them just now; what is wrong with a document stays wrong.
                self._apply(table, key, rows, gone)

    def _apply(self, table: Table, key: Column[Any], rows: list[dict[str, Any]], gone: list[Key]) -> None:
        with self._engine.begin() as connection:
            if gone:
                connection.execute(table.delete().where(key.in_(gone)))
            if rows:
                _upsert(connection, table, key, rows)

    def _key_column(self, file: File) -> str:
        return (self._columns or {}).get(file.unique, file.unique)

    def _kinds(self, files: Sequence[File]) -> dict[str, Kind]:
        """Return the table's columns but the key, and their kinds."""
        published: dict[str, Kind] = {}
        for file in files:  # one that was read later than the others may have a column more
            published |= file.published_kinds
        if self._columns is None:
            return published
        kinds = {there: published[here] for here, there in self._columns.items() if here in published}
        if self._key_column(files[0]) in kinds:
            raise TableError(f"the column {self._key_column(files[0])!r} is the key's: give another name")
        return kinds

    def _rows(
        self, first: File, files: Sequence[File], kinds: Mapping[str, Kind]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return each document's whole row, so that what was emptied is NULL there too, and what does not fit."""
        names = {name: name for name in kinds} if self._columns is None else self._columns
        rows, rescued = [], []
        for file in files:
            row: dict[str, Any] = {self._key_column(first): file.key, **dict.fromkeys(kinds)}
            other: dict[str, Any] = dict(file.rescued) if self._columns is None else {}
            for here, there in names.items():
                value = file.get(here)
                if value is None or there not in kinds:
                    continue
                try:
                    row[there] = _fitted(value, kinds[there])
                except Misfit:
                    other[there] = value
            rows.append(row)
            rescued.append(other)
        return rows, rescued

    # --- the table

    def _ready(self, file: File, kinds: Mapping[str, Kind]) -> Table:
        """Return the table with all these columns."""
        from sqlalchemy.exc import DBAPIError

        with self._lock:
            for attempt in range(_TRIES):
                try:
                    if self._table is None or not kinds.keys() <= set(self._table.c.keys()):
                        self._table = self._make(file, kinds)
                    return self._table
                except DBAPIError:
                    self._table = None
                    if attempt == _TRIES - 1:
                        raise
        raise AssertionError

    def _make(self, file: File, kinds: Mapping[str, Kind]) -> Table:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations
        from sqlalchemy import BigInteger, Column, MetaData, Table, inspect

        key = self._key_column(file)
        with self._engine.begin() as connection:
            if not inspect(connection).has_table(self._name):
                primary: TypeEngine[Any] = BigInteger() if isinstance(file.key, int) else _text()
                columns = [Column(name, _type(kind)) for name, kind in kinds.items()]
                new = Column(key, primary, primary_key=True, autoincrement=False)
                Table(self._name, MetaData(), new, *columns).create(connection)
            there = Table(self._name, MetaData(), autoload_with=connection)
            self._check(there, key, kinds)
            lacking = [name for name in kinds if name not in there.c]
            for name in lacking:
                change = Operations(MigrationContext.configure(connection))
                change.add_column(self._name, Column(name, _type(kinds[name])))
        return _reflected(self._engine, self._name)

    def _check(self, table: Table, key: str, kinds: Mapping[str, Kind]) -> None:
        if key not in table.c:
            raise TableError(
                f"table {self._name!r} has no column {key!r}, which the documents' key goes into: "
                "give another table, or drop this one"
            )
        primary = [column.name for column in table.primary_key]
        if primary != [key]:
            raise TableError(
                f"table {self._name!r} has the primary key {', '.join(primary) or 'none'}, not {key!r}: give another table"
            )
        for name in kinds:
            for other in (column.name for column in table.columns):
                if name != other and name.casefold() == other.casefold():
                    raise TableError(
                        f"table {self._name!r} spells the column {name!r} {other!r}: give columns={{{name!r}: {other!r}}}"
                    )

    # --- errors

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn the database's errors into ours, which never show a statement's values or the URL."""
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        try:
            yield
        except DBAPIError as error:
            with self._lock:
                self._table = None  # it may be another one by now
            said = _first_line(error.orig)
            if self._is_away(error):
                raise UnavailableError(
                    f"the database {self._where()}, table {self._name!r} can't be used: {said}; see to it and run it again"
                ) from None
            raise DocumentError(f"table {self._name!r} does not take it: {said}") from None
        except SQLAlchemyError as error:
            raise DocumentError(f"table {self._name!r} does not take it: {_first_line(error)}") from None

    def _is_away(self, error: DBAPIError) -> bool:
        """Whether it is the database that is at fault, or its lock, its disk, its table, and not a document."""
        from sqlalchemy.exc import OperationalError

        if isinstance(error, OperationalError) and self._url.get_backend_name() in ("sqlite", "postgresql"):
            return True
        return error.connection_invalidated or not self._answers()

    def _answers(self) -> bool:
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True


def _checked(url: str) -> URL:
    """Return the URL of a database that there is a driver for; an error never shows more of it than its scheme."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ValueError):
        scheme = re.match(r"([\w+.-]{1,40})://", url)
        raise ConfigError(
            f"the database URL ({scheme[1] if scheme else ''}…) is not one that SQLAlchemy knows: "
            "write sqlite:///file.db or postgresql+psycopg://user@host/name"
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"the driver {error.name!r} of the database URL is not installed, or lacks something: {error}"
        ) from None
    return parsed


def _checked_columns(columns: Sequence[str] | Mapping[str, str] | None) -> dict[str, str] | None:
    if columns is None:
        return None
    if isinstance(columns, str):
        raise ConfigError(f"columns are a list or a mapping, not the text {columns!r:.80}")
    chosen = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    for name in chosen.values():
        if column_name(name) != name:
            raise ConfigError(
                f"no column can be named {name!r:.100}: 1 to 63 bytes, no '-', no '.', no '__' first"
            )
    if len({name.casefold() for name in chosen.values()}) < len(chosen):
        raise ConfigError(f"columns go into one of the same name: {', '.join(sorted(chosen.values()))}")
    return chosen


def _reflected(engine: Engine, name: str) -> Table:
    from sqlalchemy import JSON, MetaData, Table

    table = Table(name, MetaData(), autoload_with=engine)
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type.none_as_null = True  # NULL of SQL, not the one of JSON
    return table


def _rescued_column(table: Table, kinds: Mapping[str, Kind]) -> str:
    """Return the name for what fits no column: `RESCUED`, unless that is the publisher's or the user's own."""
    from sqlalchemy import JSON

    name = RESCUED
    while name in kinds or (name in table.c and not isinstance(table.c[name].type, JSON)):
        name += "_"
    return name


def _upsert(connection: Connection, table: Table, key: Column[Any], rows: Sequence[dict[str, Any]]) -> None:
    """Update the rows that are there and insert the others; the table's further columns stay as they are."""
    from sqlalchemy import bindparam, select

    wanted = [row[key.name] for row in rows]
    there = set(connection.execute(select(key).where(key.in_(wanted))).scalars())
    if new := [row for row in rows if row[key.name] not in there]:
        connection.execute(table.insert(), new)
    old = [{f"new_{name}": value for name, value in row.items()} for row in rows if row[key.name] in there]
    changed: dict[str, Any] = {name: bindparam(f"new_{name}") for name in rows[0] if name != key.name}
    if old and changed:
        connection.execute(table.update().where(key == bindparam(f"new_{key.name}")).values(changed), old)


def _stored(key: Key, column: Column[Any]) -> Key:
    """Return the key as its column holds it."""
    from sqlalchemy import Integer

    if not isinstance(column.type, Integer):
        return str(key)
    if isinstance(key, str):
        raise DocumentError(f"the key {key!r:.80} is text, and column {column.name!r} holds integers")
    return key


def _bound(value: Any, column: Column[Any]) -> Any:
    """Return a value as its column takes it: the key, and times and lists where a column holds text."""
    from sqlalchemy import String
    from sqlalchemy.types import NullType

    if column.primary_key:
        return _stored(value, column)
    if isinstance(column.type, String | NullType):
        if isinstance(value, datetime):
            return format_time(value)
        if isinstance(value, list | dict):
            return orjson.dumps(value).decode()
    return value


def _fitted(value: Any, kind: Kind) -> Any:
    """Return the value as the table takes it. Raises `Misfit` where a strictly typed database would refuse it."""
    encode(value, kind)
    if kind == "text" and not isinstance(value, str):
        raise Misfit("not text")
    if kind == "integer" and not isinstance(value, int):
        raise Misfit("not an integer")
    if kind == "float" and (isinstance(value, str) or int(value) != int(float(value))):
        raise Misfit("not a number of this precision")
    if kind == "json":
        return to_json(encode(value, kind), kind)
    return value.astimezone(UTC) if kind == "datetime" else value


def _first_line(error: object) -> str:
    """Return what a database says, without the values that it may list below."""
    return (str(error).splitlines() or [""])[0]


def _type(kind: Kind) -> TypeEngine[Any]:
    from sqlalchemy import JSON, BigInteger, Boolean, DateTime, Double, Text

    types: dict[str, TypeEngine[Any]] = {
        "text": Text(),
        "integer": BigInteger(),
        "float": Double(),
        "boolean": Boolean(),
        "datetime": DateTime(timezone=True),
        "json": JSON(),
    }
    return types[kind]


def _text() -> TypeEngine[Any]:
    from sqlalchemy import String, Text

    return Text().with_variant(String(255), "mysql", "mariadb")
