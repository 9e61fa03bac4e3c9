"""What this package asks of a connection, whichever database it is of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class Cursor(Protocol):
    """What is asked of a statement that was executed."""

    @property
    def rowcount(self) -> int:
        """How many rows were written."""

    @property
    def description(self) -> Any:
        """The columns of the result, each with its name first."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """Statements have `?` or `:name` for parameters, rows are raw."""

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        """Execute a statement."""

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Cursor:
        """Execute a statement for each of many rows of parameters."""
