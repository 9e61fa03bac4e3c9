"""What shows the documents at a glance, in plain SQL: nothing is opened for it, and no table looked at, but the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmmeta_core.database.sqlite import quote
from mmmeta_core.database.state import State


def newest(state: State, limit: int) -> tuple[list[str], list[Sequence[Any]]]:
    """Return the names of all columns, and the raw rows of the documents that were published last."""
    cursor = state.connection.execute(
        "SELECT * FROM files WHERE __deleted_at IS NULL ORDER BY __meta_added DESC NULLS LAST LIMIT ?",
        (limit,),
    )
    return [str(column[0]) for column in cursor.description], cursor.fetchall()


def per_day(state: State, column: str, days: int) -> list[tuple[str, int]]:
    """Return the newest days that a column of times has, the latest last, with how many documents each has."""
    name = quote(column)
    rows = state.connection.execute(
        f"SELECT substr({state.as_text(name)}, 1, 10), count(*) FROM files "
        f"WHERE {name} IS NOT NULL AND __deleted_at IS NULL GROUP BY 1 ORDER BY 1 DESC LIMIT ?",
        (days,),
    ).fetchall()
    return [(str(day), int(count)) for day, count in reversed(rows)]
