"""How the table of documents is asked, in SQLAlchemy's words; rows come back raw, whichever database they are of."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from mmmeta_core.database.sqlite_state import SqliteState
from mmmeta_core.database.state import State

if TYPE_CHECKING:
    import dataset
    from sqlalchemy import ColumnElement, Engine, Select

    from mmmeta_core.files.filters import Terms

Rows = tuple[Sequence[str], Generator[Sequence[Sequence[Any]], None, None]]
"""The names of the columns, and the rows, some at a time."""

_TOGETHER: Final = 100
"""Rows of an SQLite file that are held at once: few enough for the next ones to find their memory in the CPU's caches."""


class Reading(ABC):
    """One database of documents, through dataset; opened when first used. For many threads."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._lock = threading.Lock()
        self._database: dataset.Database | None = None
        self._table: dataset.Table | None = None
        self._version = -1

    @property
    def table(self) -> dataset.Table:
        """The dataset table, as the database is now."""
        import dataset

        version = self.state.schema_version()
        with self._lock:
            if self._database is None:
                self._database = self._connected()
                # Who forgets to close leaves nothing open.
                weakref.finalize(self, self._database.close)
            if self._table is None or self._version != version:
                fresh = dataset.Table(self._database, "files")
                fresh.columns  # noqa: B018 - looked at here, or two threads would each have columns of their own
                self._table, self._version = fresh, version
            return self._table

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = self._table = None

    @property
    @abstractmethod
    def terms(self) -> Terms:
        """How this database says what filters ask."""

    @abstractmethod
    def rows(self, query: Select[Any], step: int | None, limit: int | None = None) -> Rows:
        """Return what a query finds, so many rows at a time, None is all at once; `limit` is the query's."""

    @abstractmethod
    def number(self, query: Select[Any]) -> int:
        """Return the one number that a query gives."""

    @abstractmethod
    def plan(self, query: Select[Any]) -> list[str]:
        """Return how the database would go about a query, in its own words, a step a line."""

    @abstractmethod
    def ordering(self, column: ColumnElement[Any], *, descending: bool) -> Sequence[ColumnElement[Any]]:
        """Return how to sort by a column; NULL is less than anything."""

    @abstractmethod
    def _connected(self) -> dataset.Database: ...


class SqliteReading(Reading):
    """Of an SQLite file, with a connection a thread, beside the one that the state writes with."""

    @property
    def terms(self) -> Terms:
        """See `Reading.terms`."""
        from mmmeta_core.files.filters import Terms

        return Terms()

    def rows(self, query: Select[Any], step: int | None, limit: int | None = None) -> Rows:  # noqa: ARG002
        """See `Reading.rows`."""
        result = self.table.db.executable.execute(query)
        names = tuple(result.keys())

        def some() -> Generator[Sequence[Sequence[Any]], None, None]:
            try:
                yield from result.partitions(min(step, _TOGETHER)) if step else iter([result.fetchall()])
            finally:
                result.close()

        return names, some()

    def number(self, query: Select[Any]) -> int:
        """See `Reading.number`."""
        return int(self.table.db.executable.execute(query).scalar_one())

    def plan(self, query: Select[Any]) -> list[str]:
        """See `Reading.plan`."""
        connection = self.table.db.executable
        statement = query.compile(connection, compile_kwargs={"render_postcompile": True})
        values = tuple(statement.params[name] for name in statement.positiontup or ())
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        return [str(row[-1]) for row in plan]

    def ordering(self, column: ColumnElement[Any], *, descending: bool) -> Sequence[ColumnElement[Any]]:
        """See `Reading.ordering`."""
        return [column.desc() if descending else column.asc()]

    def _connected(self) -> dataset.Database:
        import dataset
        from sqlalchemy import event
        from sqlalchemy.pool import NullPool

        from mmmeta_core.database.identifiers import connect_any_name
        from mmmeta_core.files.filters import TIME_FUNCTION, time_text

        pragmas: Mapping[str, str] = cast("SqliteState", self.state).pragmas
        database = dataset.connect(
            self.state.url,
            ensure_schema=False,
            sqlite_wal_mode=False,  # the pragmas say it where it is so
            on_connect_statements=[f"PRAGMA {name}={value}" for name, value in pragmas.items()],
            # dataset keeps a connection for each thread; a pool would limit how many threads there can be.
            engine_kwargs={"connect_args": {"timeout": 60}, "poolclass": NullPool},
        )
        connect_any_name(cast("Engine", database.engine))
        event.listen(
            database.engine,
            "connect",
            lambda connection, _: connection.create_function(TIME_FUNCTION, 1, time_text, deterministic=True),
        )
        return database


def reading(state: State) -> Reading:
    """Return how the documents of this state are asked."""
    if isinstance(state, SqliteState):
        return SqliteReading(state)
    from mmmeta_core.files.reading_postgres import PostgresReading

    return PostgresReading(state)
