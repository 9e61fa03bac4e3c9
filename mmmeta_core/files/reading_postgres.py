"""The table of documents on PostgreSQL, asked through the connection that the state has, so that rows are raw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.dialects.postgresql.base import PGDialect

from mmmeta_core.database.identifiers import connect_any_name, plain, take_any_name
from mmmeta_core.database.postgres.state import PostgresState
from mmmeta_core.files.reading import Reading, Rows

if TYPE_CHECKING:
    import dataset
    from sqlalchemy import ColumnElement, Engine, Select

    from mmmeta_core.files.filters_postgres import PostgresTerms

_DIALECT = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
take_any_name(_DIALECT)


class PostgresReading(Reading):
    """See the module. A result that is not small is of one moment, and holds no lock while it is iterated."""

    @property
    def _state(self) -> PostgresState:
        return cast("PostgresState", self.state)

    @property
    def terms(self) -> PostgresTerms:
        """See `Reading.terms`."""
        from mmmeta_core.files.filters_postgres import PostgresTerms

        return PostgresTerms(self.table.table, self.state.unique, self._state.mixed())

    def rows(self, query: Select[Any], step: int | None, limit: int | None = None) -> Rows:
        """See `Reading.rows`."""
        if self._state.is_taking:
            query = query.with_for_update(skip_locked=True)
        statement, values = _compiled(query)
        session = self._state.connection
        if session.in_transaction or step is None or (limit is not None and limit <= step):
            cursor = session.execute_native(statement, values)
            return [column.name for column in cursor.description or ()], (
                some for some in [cursor.fetchall()]
            )
        return session.stream(statement, values, step)

    def number(self, query: Select[Any]) -> int:
        """See `Reading.number`."""
        row = self._state.connection.execute_native(*_compiled(query)).fetchone()
        return int(row[0]) if row else 0

    def plan(self, query: Select[Any]) -> list[str]:
        """See `Reading.plan`."""
        statement, values = _compiled(query)
        return [
            str(line) for (line,) in self._state.connection.execute_native(f"EXPLAIN {statement}", values)
        ]

    def ordering(self, column: ColumnElement[Any], *, descending: bool) -> Sequence[ColumnElement[Any]]:
        """See `Reading.ordering`."""
        return self.terms.ordering(column, descending=descending)

    def _connected(self) -> dataset.Database:
        import dataset
        from sqlalchemy.pool import NullPool

        database = dataset.connect(
            self.state.url,
            schema=self._state.server.schema,
            ensure_schema=False,
            # A reader that leaves a transaction open would keep others from adding a column.
            engine_kwargs={"isolation_level": "AUTOCOMMIT", "poolclass": NullPool},
        )
        connect_any_name(cast("Engine", database.engine))
        return database


def _compiled(query: Select[Any]) -> tuple[str, list[Any]]:
    compiled = query.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    return plain(str(compiled)), [compiled.params[name] for name in compiled.positiontup or ()]
