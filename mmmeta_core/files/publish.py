"""Writing published metadata from Python: for a publisher that keeps no metadata files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, Change
from mmmeta_core.database.columns import PURGED, RESCUED, Columns, Fitted, column_name
from mmmeta_core.database.rebase import rescued_of
from mmmeta_core.database.sqlite import atomic, quote
from mmmeta_core.documents import flatten
from mmmeta_core.errors import DocumentError
from mmmeta_core.types import Key, Row, Sql, is_key

log = logging.getLogger(__name__)

DELETED: Final = "deleted by the publisher"

Existing: TypeAlias = Literal["refuse", "ignore", "update", "only"]
"""What to do about a document that is there: refuse all, leave it, update it, or update it and never add one."""


@dataclass(frozen=True)
class Publisher:
    """Changes the catalog and shows the change in the state db."""

    config: Config
    edit: Callable[[], AbstractContextManager[Catalog]]
    """Gives the open catalog under the metadir's lock, and merges it into the state db at the end."""

    def insert(
        self, rows: Iterable[Mapping[str, Any]], keys: str | Sequence[str] = (), *, existing: Existing
    ) -> list[Key]:
        """Stage documents in one transaction; return the keys of those that were added or are there.

        `keys` are the columns that tell which document is meant, the key column unless given. Nested objects are
        flattened. A deleted document counts as not there, except that it comes back with the columns it had when it is
        updated. Raises `DocumentError`; then nothing is changed.
        """
        by = [keys] if isinstance(keys, str) else list(keys) or [self.config.unique]
        touched: list[Key] = []
        with self.edit() as catalog, atomic(catalog.connection):
            columns = catalog.columns()
            waiting: dict[Key, Change] = {}
            for row in rows:
                document = flatten(row)
                if by != [self.config.unique] or _key(document, self.config.unique) in waiting:
                    catalog.stage(waiting.values(), columns)  # this document may mean one of those
                    waiting.clear()
                changes = list(self._changes(catalog, columns, document, by, existing))
                waiting |= {change.key: change for change in changes}
                touched += [change.key for change in changes]
            catalog.stage(waiting.values(), columns)
        return touched

    def delete(self, keys: Iterable[Key]) -> int:
        """Mark documents as deleted; return how many were not before."""
        with self.edit() as catalog:
            return catalog.soft_delete(keys, DELETED)

    def _changes(
        self, catalog: Catalog, columns: Columns, document: dict[str, Any], by: list[str], existing: Existing
    ) -> Iterator[Change]:
        lacking = [name for name in by if document.get(name) is None]
        if lacking:
            raise DocumentError(f"the document lacks {', '.join(lacking)}")
        unique = self.config.unique
        found = self._matching(catalog, columns, document, by)
        key = _key(document, unique)
        if not found and existing != "only":
            if key is None:
                raise DocumentError(
                    f"{unique!r} is not a key (text or an integer): {document.get(unique)!r:.80}"
                )
            found = catalog.rows([key]) or {key: {}}
        purged = [there for there, row in found.items() if row and row["__deleted_reason"] == PURGED]
        if purged and existing == "refuse":
            raise DocumentError(
                f"the document with {unique} {purged[0]!r} was purged: it can't come back under this key"
            )
        for there in purged:
            log.warning("the document with %s %r was purged and stays so", unique, there)
            del found[there]
        live = [there for there, row in found.items() if row and row["__deleted_at"] is None]
        if live and existing == "refuse":
            raise DocumentError(f"a document with {unique} {live[0]!r} exists already: use upsert")
        if live and existing == "ignore":
            return
        values = {name: value for name, value in document.items() if name != unique}
        fitted = columns.fit(values, self.config.types)
        for one, row in found.items():
            if existing == "only" and one not in live:
                continue
            fresh = dict.fromkeys(columns.kinds) if existing in ("refuse", "ignore") and row else {}
            kept = {} if fresh else rescued_of(row)
            rescued = {name: value for name, value in kept.items() if name not in values} | fitted.rescued
            emptied = dict.fromkeys(name for name in fitted.rescued if name in columns.kinds)
            published: dict[str, Sql] = {**fresh, **emptied, **fitted.row, **_LIVE}
            yield Change(one, {**published, RESCUED: Fitted(rescued=rescued).rescued_json()})

    def _matching(
        self, catalog: Catalog, columns: Columns, document: Mapping[str, Any], by: list[str]
    ) -> dict[Key, Row]:
        """Return the rows of the documents that are meant, deleted ones too."""
        unique = self.config.unique
        key = _key(document, unique)
        if by == [unique]:
            return catalog.rows([] if key is None else [key])
        others = {name: document[name] for name in by if name != unique}
        if any((column_name(name) or name) not in columns.kinds for name in others):
            return {}
        fitted = columns.fit(others, self.config.types)
        if fitted.rescued:
            return {}
        wanted = {**fitted.row, **({unique: key} if unique in by else {})}
        where = " AND ".join(f"{quote(name)} = ?" for name in wanted)
        select = f"SELECT {catalog.quoted_key} FROM files WHERE {where}"
        return catalog.rows(
            one for (one,) in catalog.connection.execute(select, list(wanted.values())).fetchall()
        )


_LIVE: Final[Mapping[str, Sql]] = {"__deleted_at": None, "__deleted_reason": None}


def _key(document: Mapping[str, Any], unique: str) -> Key | None:
    key = document.get(unique)
    return cast("Key", key) if is_key(key) else None
