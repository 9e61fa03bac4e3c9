"""Writing published metadata from Python: for a publisher that keeps no metadata files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, Change
from mmmeta_core.database.columns import RESCUED, Columns
from mmmeta_core.database.sqlite import quote
from mmmeta_core.documents import flatten
from mmmeta_core.errors import DocumentError
from mmmeta_core.types import Key, encode, is_key

DELETED: Final = "deleted by the publisher"

Existing: TypeAlias = Literal["refuse", "ignore", "update", "only"]
"""What to do about a document that exists: refuse all, leave it, update it, or update and never add."""


@dataclass(frozen=True)
class Publisher:
    """Changes the catalog and shows the change in the state db."""

    config: Config
    edit: Callable[[], AbstractContextManager[Catalog]]
    """Gives the open catalog under the metadir's lock, and merges it into the state db at the end."""

    def insert(
        self, rows: Iterable[Mapping[str, Any]], keys: Sequence[str] = (), *, existing: Existing
    ) -> list[Key]:
        """Stage documents in one transaction; return the keys of those that were added or are there.

        `keys` are the columns that tell which document is meant, the key column unless given. Nested objects are
        flattened, deleted documents restored. Raises `DocumentError`; then nothing is changed.
        """
        with self.edit() as catalog:
            columns = catalog.columns()
            changes: list[Change] = []
            for row in rows:
                changes += self._changes(catalog, columns, flatten(row), list(keys), existing)
            catalog.stage(changes, columns, restores=[DELETED])
        return [change.key for change in changes]

    def delete(self, keys: Iterable[Key]) -> int:
        """Mark documents as deleted; return how many were not before."""
        with self.edit() as catalog:
            return catalog.soft_delete(keys, DELETED)

    def _changes(
        self, catalog: Catalog, columns: Columns, document: dict[str, Any], by: list[str], existing: Existing
    ) -> Iterator[Change]:
        found = list(self._matching(catalog, columns, document, by))
        if found and existing == "refuse":
            raise DocumentError(
                f"a document with {self.config.unique} {found[0]!r} exists already: use upsert"
            )
        if found and existing == "ignore":
            return
        if not found and existing == "only":
            return
        key = document.pop(self.config.unique, None)
        if not found and not is_key(key):
            raise DocumentError(f"{self.config.unique!r} is not a key (text or an integer): {key!r:.80}")
        fitted = columns.fit(document, self.config.types)
        values = fitted.row if not fitted.rescued else {**fitted.row, RESCUED: fitted.rescued_json()}
        for one in found or [key]:
            yield Change(one, values)

    def _matching(
        self, catalog: Catalog, columns: Columns, document: Mapping[str, Any], by: list[str]
    ) -> Iterator[Key]:
        """Yield the keys of the documents that are meant."""
        by = by or [self.config.unique]
        if any(document.get(name) is None for name in by):
            raise DocumentError(f"the document lacks {', '.join(n for n in by if document.get(n) is None)}")
        if by == [self.config.unique]:
            key = document[self.config.unique]
            if is_key(key):
                yield from catalog.rows([key])
            return
        if any(name not in columns.kinds and name != self.config.unique for name in by):
            return
        where = " AND ".join(f"{quote(name)} = ?" for name in by)
        values = [encode(document[name], columns.kinds.get(name, "text")) for name in by]
        for (key,) in catalog.connection.execute(
            f"SELECT {catalog.quoted_key} FROM files WHERE {where}", values
        ):
            yield key
