"""Into a database: a handler that keeps documents as rows of a table, in any database that SQLAlchemy knows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from mmmeta_core.errors import ConfigError, DocumentError, UnavailableError
from mmmeta_core.files import File
from mmmeta_core.types import Key, Kind, Misfit, encode, to_json

if TYPE_CHECKING:
    import dataset
    from sqlalchemy import URL, Connection, Engine, Table
    from sqlalchemy.types import TypeEngine

RESCUED: Final = "rescued"
"""The JSON column for values that are of another kind than their column."""


def into_database(
    url: str, table: str = "documents", columns: Sequence[str] | Mapping[str, str] | None = None
) -> IntoDatabase:
    """Return a handler for `files.process` that upserts documents into `table`, by their key.

    `columns` are those to take, or a mapping from them to the table's names; None takes all that is published. The key
    column is always there, and the primary key of a table that is made here; missing columns are added. A document
    that was deleted (`on="deleted"`) has its row removed. A chunk is one transaction; a document that can't be written
    fails alone. Raises `ConfigError` for a wrong URL or a missing driver.
    """
    return IntoDatabase(url, table, columns)


class IntoDatabase:
    """See `into_database`. Connects when it is first used, by many threads if need be; `close` ends that."""

    def __init__(
        self, url: str, table: str, columns: Sequence[str] | Mapping[str, str] | None = None
    ) -> None:
        self._url = _checked(url)
        self._opened: dataset.Database | None = None
        self._name = table
        if columns is None or isinstance(columns, Mapping):
            self._columns = columns
        else:
            self._columns = {name: name for name in columns}
        self._known: Table | None = None
        self._lock = threading.Lock()

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
                self._opened.close()
            self._opened = self._known = None

    def __repr__(self) -> str:
        return f"<IntoDatabase {self._url.render_as_string(hide_password=True)} table={self._name}>"

    @property
    def _database(self) -> dataset.Database:
        if self._opened is None:
            self._opened = _connect(self._url)
        return self._opened

    @property
    def _engine(self) -> Engine:
        with self._lock:
            engine = self._database.engine
        if engine is None:
            raise UnavailableError(f"the database of table {self._name!r} was closed")
        return engine

    # --- rows

    def _write(self, files: Sequence[File]) -> None:
        with self._sentences():
            live = [file for file in files if file.get("__deleted_at") is None]
            kinds = self._kinds(files[0])
            rows = [self._row(file, kinds) for file in live]
            if any(RESCUED in row for row in rows):
                kinds = {**kinds, RESCUED: "json"}
            table = self._ready(files[0], kinds)
            with self._engine.begin() as connection:
                key = table.c[files[0].unique]
                gone = [_stored(file.key, key) for file in files if file.get("__deleted_at") is not None]
                if gone:
                    connection.execute(table.delete().where(key.in_(gone)))
                if rows:
                    _upsert(connection, table, key.name, [self._whole(row, table, kinds) for row in rows])

    def _kinds(self, file: File) -> dict[str, Kind]:
        """Return the table's columns for a document, and their kinds."""
        kinds = file.published_kinds
        if self._columns is None:
            return kinds
        return {there: kinds[here] for here, there in self._columns.items() if here in kinds}

    def _row(self, file: File, kinds: Mapping[str, Kind]) -> dict[str, Any]:
        """Return what is set of a document, what does not fit under `RESCUED`."""
        row: dict[str, Any] = {file.unique: file.key}
        rescued: dict[str, Any] = {}
        for here, there in (self._columns or {name: name for name in kinds}).items():
            value = file.get(here)
            if value is None or there not in kinds:
                continue
            try:
                row[there] = _fitted(value, kinds[there])
            except Misfit:
                rescued[there] = value
        return {**row, RESCUED: rescued} if rescued else row

    def _whole(self, row: dict[str, Any], table: Table, kinds: Mapping[str, Kind]) -> dict[str, Any]:
        """Return the row with all columns that are kept here, so that what was emptied is NULL there too."""
        (key, *_) = row
        mine = [*kinds, *([RESCUED] if RESCUED in table.c and RESCUED not in kinds else [])]
        return {**dict.fromkeys(mine), **row, key: _stored(row[key], table.c[key])}

    # --- the table

    def _ready(self, file: File, kinds: Mapping[str, Kind]) -> Table:
        """Return the table with all these columns."""
        with self._lock:
            known = self._known
            if known is None or not kinds.keys() <= set(known.c.keys()):
                known = self._known = self._make(file, kinds)
        return known

    def _make(self, file: File, kinds: Mapping[str, Kind]) -> Table:
        from sqlalchemy import JSON, BigInteger, MetaData, Table, inspect

        database = self._database
        engine = database.engine
        primary: TypeEngine[Any] = BigInteger() if isinstance(file.key, int) else _text()
        table = database.create_table(
            self._name, primary_id=file.unique, primary_type=primary, primary_increment=False
        )
        for name, kind in kinds.items():
            if name != file.unique and not table.has_column(name):
                table.create_column(name, JSON() if kind == "json" else _type(kind))
        found = Table(self._name, MetaData(), autoload_with=engine)
        for column in found.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True  # NULL of SQL, not the one of JSON
        if file.unique not in found.c:
            raise ConfigError(
                f"table {self._name!r} has no column {file.unique!r}, which the documents' key goes into"
            )
        keys = inspect(engine).get_pk_constraint(self._name)["constrained_columns"]
        if keys != [file.unique]:
            raise ConfigError(f"table {self._name!r} has the primary key {keys}, expected {file.unique!r}")
        return found

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn the database's errors into ours, which never show a statement's values or the URL."""
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        try:
            yield
        except DBAPIError as error:
            if error.connection_invalidated or not self._answers():
                raise UnavailableError(
                    f"the database of table {self._name!r} can't be used: {error.orig}"
                ) from None
            raise DocumentError(f"table {self._name!r} does not take it: {error.orig}") from None
        except SQLAlchemyError as error:
            raise DocumentError(f"table {self._name!r} does not take it: {error}") from None

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
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        scheme = url.partition(":")[0]
        raise ConfigError(
            f"the database URL ({scheme}:…) is not one that SQLAlchemy knows: write sqlite:///file.db or "
            "postgresql+psycopg://user@host/name"
        ) from None
    return parsed


def _connect(url: URL) -> dataset.Database:
    import dataset

    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": 60}
    try:
        return dataset.connect(
            url.render_as_string(hide_password=False),
            ensure_schema=False,
            engine_kwargs=options,
            sqlite_wal_mode=False,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(f"the driver {error.name!r} of the database URL is not installed") from None


def _upsert(connection: Connection, table: Table, key: str, rows: Sequence[dict[str, Any]]) -> None:
    """Update the rows that are there and insert the others; the table's further columns stay as they are."""
    from sqlalchemy import bindparam, select

    column = table.c[key]
    wanted = [row[key] for row in rows]
    there = set(connection.execute(select(column).where(column.in_(wanted))).scalars())
    if new := [row for row in rows if row[key] not in there]:
        connection.execute(table.insert(), new)
    old = [{f"new_{name}": value for name, value in row.items()} for row in rows if row[key] in there]
    changed: dict[str, Any] = {name: bindparam(f"new_{name}") for name in rows[0] if name != key}
    if old and changed:
        connection.execute(table.update().where(column == bindparam(f"new_{key}")).values(changed), old)


def _stored(key: Key, column: Any) -> Key:
    """Return the key as its column holds it."""
    return key if column.type.python_type is int else str(key)


def _fitted(value: Any, kind: Kind) -> Any:
    """Return the value as the table takes it. Raises `Misfit` where a strictly typed database would refuse it."""
    encode(value, kind)
    if kind == "text" and not isinstance(value, str):
        raise Misfit("not text")
    if kind == "integer" and not isinstance(value, int):
        raise Misfit("not an integer")
    if kind == "float" and not isinstance(value, int | float):
        raise Misfit("not a number")
    if kind == "json":
        return to_json(encode(value, kind), kind)
    return value.astimezone(UTC) if kind == "datetime" else value


def _type(kind: Kind) -> TypeEngine[Any]:
    from sqlalchemy import BigInteger, Boolean, DateTime, Double, Text

    types: dict[str, TypeEngine[Any]] = {
        "text": Text(),
        "integer": BigInteger(),
        "float": Double(),
        "boolean": Boolean(),
        "datetime": DateTime(timezone=True),
    }
    return types[kind]


def _text() -> TypeEngine[Any]:
    from sqlalchemy import String, Text

    return Text().with_variant(String(255), "mysql", "mariadb")
