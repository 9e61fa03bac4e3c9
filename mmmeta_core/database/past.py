"""The past: a catalog that is never written to again, read as the state db is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from mmmeta_core.database.sqlite import connect, get_value, quote
from mmmeta_core.database.sqlite_state import SqliteState
from mmmeta_core.database.state import Owner
from mmmeta_core.errors import CatalogError, RefusedError
from mmmeta_core.types import Key, Kind


class Past(SqliteState):
    """The documents of a catalog that was made for one revision. All columns are the publisher's; nothing is written."""

    pragmas: Final[Mapping[str, str]] = {"query_only": "1"}  # type: ignore[misc]

    def owners(self) -> dict[str, Owner]:
        """See `State.owners`."""
        names = self.connection.execute("SELECT name FROM mmmeta_columns")
        return {self.unique: "publisher", **{name: "publisher" for (name,) in names}}

    @property
    def quoted_key(self) -> str:
        """Return the key column as an SQL identifier."""
        return quote(self.unique)

    def kinds(self) -> dict[str, Kind]:
        """See `State.kinds`."""
        return {**super().kinds(), "__revision": "integer"}

    def add_own(self, name: str, kind: Kind) -> None:  # noqa: ARG002
        """Raise `RefusedError`."""
        raise self._refused()

    def save_within(self, updates: Iterable[tuple[Key, Mapping[str, Any]]]) -> None:  # noqa: ARG002
        """Raise `RefusedError`."""
        raise self._refused()

    save = save_within

    def refuse(self) -> NoReturn:
        """Raise `RefusedError`."""
        raise self._refused()

    def _refused(self) -> RefusedError:
        return RefusedError(
            f"these are the documents as they were at revision {self.revision}: set columns on those of m.files"
        )

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():  # made room for a later one
            raise CatalogError(f"{self.path} is gone: ask for the revision once more")
        connection = connect(self.path, pragmas=self.pragmas)
        kept = get_value(connection, "mmmeta_info", "unique")
        if kept != self.unique:
            connection.close()
            raise CatalogError(f"{self.path} is keyed by {kept!r}, but the configured key is {self.unique!r}")
        return connection
