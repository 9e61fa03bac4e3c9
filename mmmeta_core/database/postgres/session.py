"""A connection to the server that speaks the SQL of this package, gives raw rows, and comes back after a restart.

Statements have `?` and `:name` for parameters, as SQLite's do. Values arrive in the one raw form of a state db: times
as the text of `format_time`, booleans as 0 and 1, JSON as its text.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from typing import Any, Final, TypeVar

import psycopg
from psycopg import RawCursor, RawServerCursor, sql
from psycopg.adapt import Loader

from mmmeta_core.database.place import Server
from mmmeta_core.database.postgres.errors import explained, explanation, first_line

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 60.0
"""How long a lost server is waited for, and how long another's lock."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_AGAIN: Final = frozenset({"40001", "40P01"})
"""Serialization failures and deadlocks: the server has undone the transaction, and asks for it once more."""
_AWAY: Final = frozenset({"57P01", "57P02", "57P03"})
"""The server is shutting down, has crashed, or is not up yet."""

_NUMBERS: Final = count()
"""Of the cursors of this process."""

T = TypeVar("T")
_Psycopg = psycopg.Connection[tuple[Any, ...]]


class _Bool(Loader):
    def load(self, data: Any) -> int:
        return int(data == b"t")


class _Text(Loader):
    def load(self, data: Any) -> str:
        return bytes(data).decode()


class _Time(Loader):
    """What the server writes, `2024-05-01 12:00:00.5+00`, as `format_time` does."""

    def load(self, data: Any) -> str:
        text = bytes(data).decode().removesuffix("+00")
        seconds, _, fraction = text.partition(".")
        return f"{seconds.replace(' ', 'T', 1)}.{fraction:0<6}+00:00"


class Session:
    """One thread's connection. Outside of a transaction only reads are executed: these may be repeated."""

    def __init__(self, server: Server, prepare: Callable[[Session], None]) -> None:
        """Connect; `prepare` is called with this session, in autocommit mode, whenever it has connected anew."""
        self.server = server
        self._prepare = prepare
        self._level = 0
        try:
            self._connection = self._connected()
        except psycopg.Error as error:
            raise explanation(error, server.name) from error
        try:
            with explained(server.name):
                prepare(self)
        except BaseException:
            self._connection.close()
            raise

    def execute(self, statement: str, parameters: Any = ()) -> RawCursor[tuple[Any, ...]]:
        """Execute a statement of this package's."""
        return self.execute_native(*_native(statement, parameters))

    def execute_native(self, statement: str, values: Sequence[Any] = ()) -> RawCursor[tuple[Any, ...]]:
        """Execute a statement whose parameters are $1, $2 and so on."""
        if self._level:
            return self._execute(statement, values)
        return self.patiently(lambda: self._execute(statement, values))

    def _execute(self, statement: str, values: Sequence[Any]) -> RawCursor[tuple[Any, ...]]:
        cursor = RawCursor(self._connection)
        cursor.execute(statement.encode(), values or None)
        return cursor

    def executemany(self, statement: str, parameters: Iterable[Any]) -> RawCursor[tuple[Any, ...]]:
        """Execute a statement of this package's for each of many rows, within a transaction."""
        rows = list(parameters)
        cursor = RawCursor(self._connection)
        if rows:
            native, _ = _native(statement, rows[0])
            cursor.executemany(native.encode(), [_native(statement, row)[1] for row in rows])
        return cursor

    def stream(
        self, statement: str, values: Sequence[Any], size: int
    ) -> tuple[list[str], Generator[list[tuple[Any, ...]], None, None]]:
        """Return the columns of a query, and its rows, so many at a time.

        They are of one moment, and no lock is held meanwhile: the server keeps them until they are fetched.
        """
        cursor = self.patiently(lambda: self._declared(statement, values))

        def some() -> Generator[list[tuple[Any, ...]], None, None]:
            with explained(self.server.name), cursor:
                while rows := cursor.fetchmany(size):
                    yield rows

        return [column.name for column in cursor.description or ()], some()

    def _declared(self, statement: str, values: Sequence[Any]) -> RawServerCursor[tuple[Any, ...]]:
        name = f"mmmeta_{next(_NUMBERS)}"
        cursor: RawServerCursor[tuple[Any, ...]] = RawServerCursor(self._connection, name, withhold=True)
        cursor.execute(statement.encode(), values or None)
        return cursor

    @contextmanager
    def copy(self, table: str, columns: Sequence[str]) -> Iterator[Callable[[Sequence[Any]], None]]:
        """Write rows into a table; the block gets what takes one."""
        names = sql.SQL(",").join(map(sql.Identifier, columns))
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy.write_row

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has been begun."""
        return self._level > 0

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Run a block in one transaction; a nested one is a savepoint."""
        self._level += 1
        try:
            with self._connection.transaction():
                yield self
        finally:
            self._level -= 1

    def patiently(self, work: Callable[[], T]) -> T:
        """Return what `work` does, once more after a lost connection or a deadlock, for up to a minute.

        Its transaction, if it has one, was undone then, or committed without a word: it has to bear being repeated.
        Raises `UnavailableError` when that does not help, and `CatalogError` for what the server says no to.
        """
        until, pause = time.monotonic() + PATIENCE_SECONDS, _FIRST_PAUSE
        while True:
            try:
                if self._connection.closed:
                    self._connection = self._connected()
                    self._prepare(self)
                return work()
            except psycopg.Error as error:
                if self._level:
                    raise
                again = self._is_lost(error) or error.sqlstate in _AGAIN
                if not again or time.monotonic() > until:
                    raise explanation(error, self.server.name) from error
                log.info("%s: %s; trying again", self.server.name, first_line(error))
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    def vacuum(self, table: str) -> None:
        """Write a table anew, without what was deleted from it. Raises TimeoutError when others are using it."""
        self.execute("SELECT set_config('lock_timeout', '1s', false)")
        try:
            self._execute(f"VACUUM (FULL) {table}", ())
        except psycopg.errors.LockNotAvailable as error:
            raise TimeoutError from error
        except psycopg.Error as error:
            raise explanation(error, self.server.name) from error
        finally:
            self.execute("SELECT set_config('lock_timeout', ?, false)", (_SETTINGS["lock_timeout"],))

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def _is_lost(self, error: psycopg.Error) -> bool:
        return (
            self._connection.closed
            or error.sqlstate in _AWAY
            or (error.sqlstate is None and isinstance(error, psycopg.OperationalError))
        )

    def _connected(self) -> _Psycopg:
        # No statement is prepared: a prepared one fails after another process has added a column.
        connection = psycopg.connect(
            self.server.uri,
            autocommit=True,
            prepare_threshold=None,
            fallback_application_name="mmmeta",
            **_DEFAULTS,
        )
        try:
            for name, loader in _LOADERS.items():
                connection.adapters.register_loader(name, loader)
            settings = {**_SETTINGS, "search_path": f'"{self.server.schema.replace(chr(34), chr(34) * 2)}"'}
            for name, value in settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        except BaseException:
            connection.close()
            raise
        return connection


_LOADERS: Final[Mapping[str, type[Loader]]] = {
    "bool": _Bool,
    "timestamptz": _Time,
    "json": _Text,
    "jsonb": _Text,
}
_DEFAULTS: Final[Mapping[str, Any]] = {
    # A server that vanishes without a word is noticed in a minute.
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
_SETTINGS: Final[Mapping[str, str]] = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "client_encoding": "UTF8",
    "lock_timeout": f"{PATIENCE_SECONDS:.0f}s",
}
_TOKEN: Final = re.compile(r""""(?:[^"]|"")*"|'(?:[^']|'')*'|\?|(?<!:):(\w+)""")


def _native(statement: str, parameters: Any) -> tuple[str, Sequence[Any]]:
    native, names = _translated(statement)
    if isinstance(parameters, Mapping):
        return native, [parameters[name] for name in names if name is not None]
    return native, list(parameters)


@lru_cache(maxsize=512)
def _translated(statement: str) -> tuple[str, tuple[str | None, ...]]:
    """Return a statement with $1, $2, … and which parameter each of these is; quoted names and texts stay as they are."""
    names: list[str | None] = []

    def numbered(found: re.Match[str]) -> str:
        token, name = found[0], found[1]
        if token == "?":  # noqa: S105 - a placeholder
            names.append(None)
            return f"${len(names)}"
        if name is None:
            return token
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _TOKEN.sub(numbered, statement), tuple(names)
