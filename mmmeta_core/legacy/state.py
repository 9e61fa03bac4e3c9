"""An old state db → today's `state.db`: the client's columns stay the client's, the published ones come from the catalog.

What is published is what the old catalog has; every other column is the client's. The new database is built
beside the old one, merged with the catalog, and put in place with one rename.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mmmeta_core.atomic import fsync_file, fsync_folder, temporary
from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.columns import STATE_RESCUED, Columns, column_name, fold
from mmmeta_core.database.sqlite import chunks, quote
from mmmeta_core.database.sqlite_state import SqliteState
from mmmeta_core.errors import CatalogError
from mmmeta_core.events import event
from mmmeta_core.legacy.catalog import published_columns, reason_of
from mmmeta_core.legacy.layout import (
    Version,
    aside,
    held,
    keep,
    old_state,
    set_store_keys_aside,
    state_version,
)
from mmmeta_core.legacy.read import BOOKKEEPING, ROW_NUMBER, declared, kind_of_type, time_of, value_of
from mmmeta_core.paths import Paths
from mmmeta_core.types import Key, Kind, Misfit, Row, encode, format_time, utcnow

log = logging.getLogger(__name__)

NOT_THERE: Final = "not in the archive"


@dataclass(frozen=True)
class StateConversion:
    """What became of an old state db. `columns` are the client's, `missing` its documents that the catalog lacks.

    `booleans` are those of the columns that held 0 and 1 as numbers, and are true and false now. `shared` rows stood
    for several documents, whose keys 0.4 had made the same number: whose state that was can't be told, so none has it.
    """

    version: Version
    kept: Path
    documents: int
    columns: tuple[str, ...]
    booleans: tuple[str, ...]
    missing: int
    shared: int


def convert_state(
    paths: Paths, state_db: Path, catalog: Catalog, *, needed: bool = False
) -> StateConversion | None:
    """Convert the client's state if an old version wrote it; else return None.

    It waits for a catalog that has documents, so that none of them counts as deleted before the first pull; when it is
    `needed`, that is a `CatalogError`.
    All or nothing: a run that is killed leaves the old state as it was. The caller holds the metadir's lock.
    Raises `CatalogError`.
    """
    source = old_state(paths, state_db)
    version = state_version(source) if source is not None else None
    if source is None or version is None:
        return None
    log.info("converting the state of mmmeta %s in %s", version, source)
    folder = aside(paths, version)
    state_db.parent.mkdir(parents=True, exist_ok=True)
    with held(source) as old, temporary(state_db.parent) as draft:
        if catalog.count(deleted=None) == 0 and old.execute("SELECT 1 FROM files").fetchone():
            if not needed:
                return None
            raise CatalogError(
                f"{source} was written by mmmeta {version}, and there is no catalog yet that has its documents: pull "
                "first (docs/upgrade.md says what to do where there never was one)"
            )
        run = _Run(old, version, catalog, published_columns(paths))
        with closing(SqliteState(draft, catalog.unique)) as state:
            run.write(state)
        fsync_file(draft)
        keep(source, folder)
        set_store_keys_aside(paths, folder)
        draft.replace(state_db)
        fsync_folder(state_db.parent)
        if source != state_db:
            source.unlink()
    result = StateConversion(
        version, folder, run.documents, tuple(run.own), tuple(run.booleans), run.missing, run.shared
    )
    _say(result)
    return result


class _Run:
    def __init__(
        self, old: sqlite3.Connection, version: Version, catalog: Catalog, published: set[str] | None
    ) -> None:
        types = declared(old)
        if catalog.unique not in types:
            raise CatalogError(f"the old state db has no column {catalog.unique!r}, the key of its catalog")
        self.old = old
        self.casts = version == "0.4"
        self.catalog = catalog
        self.unique = catalog.unique
        if published is None:
            # 0.1 kept an object as one column, of which today's are called after.
            published = {part for name in catalog.kinds() for part in (name, name.partition(":")[0])}
        self.kinds: dict[str, Kind] = {name: kind_of_type(sql) for name, sql in types.items()}
        own = types.keys() - published - BOOKKEEPING - {ROW_NUMBER, self.unique}
        self.own = [name for name in types if name in own]
        self.booleans = [name for name in self.own if self.kinds[name] == "integer" and self._is_flag(name)]
        self.kinds |= dict.fromkeys(self.booleans, "boolean")
        self.documents = self.missing = self.shared = 0

    def write(self, state: SqliteState) -> None:
        """Write today's state: the client's columns first, so that none of them becomes the publisher's."""
        columns = Columns({}, taken=[self.unique])
        for name in self.own:
            column = column_name(name)
            if column is not None and columns.find(column) is None and fold(column) != fold(self.unique):
                state.add_own(column, self.kinds[name])
                columns.add(column, self.kinds[name])
        state.merge(self.catalog.path)
        state.inherit(self._rows(columns))

    def _is_flag(self, name: str) -> bool:
        """Whether a column of numbers has 0 and 1 only: `update --cleanup` of 0.4 made these of False and True."""
        column = quote(name)
        count, other = self.old.execute(
            f"SELECT count({column}), total({column} NOT IN (0, 1)) FROM files WHERE {column} IS NOT NULL"
        ).fetchone()
        return bool(count and not other)

    def _rows(self, columns: Columns) -> Iterator[Row]:
        keys = _Keys(self.catalog, casts=self.casts)
        cursor = self.old.cursor().execute("SELECT * FROM files ORDER BY rowid")
        names = [column[0] for column in cursor.description]
        for some in chunks(dict(zip(names, raw, strict=True)) for raw in cursor):
            found = keys.find([row[self.unique] for row in some])
            for row in some:
                old_key = row[self.unique]
                if old_key is None:
                    continue
                candidates = found[old_key]
                self.documents += 1
                if len(candidates) > 1:
                    self.shared += 1
                    continue
                missing = not candidates
                self.missing += missing
                yield {
                    self.unique: old_key if missing else candidates[0],
                    **(self._published(row) if missing else {}),
                    **self._own_values(row, columns),
                }

    def _own_values(self, row: Row, columns: Columns) -> Row:
        values = {name: value_of(row[name], self.kinds[name]) for name in self.own if row[name] is not None}
        fitted = columns.fit(values)
        added = {name: time_of(row.get(name)) for name in ("__state_added", "__state_last_updated")}
        # What is not set stays out: two old rows may stand for one document, and neither is to empty the other's.
        more = {STATE_RESCUED: fitted.rescued_json(), **added}
        return {**fitted.row, **{name: value for name, value in more.items() if value is not None}}

    def _published(self, row: Row) -> Row:
        """Return what the old state has of a document that the catalog lacks, as far as it fits the columns of today."""
        kept: Row = {name: time_of(row.get(name)) for name in ("__meta_added", "__meta_last_updated")}
        for name, kind in self.catalog.kinds().items():
            if row.get(name) is not None and name not in self.own:
                try:
                    kept[name] = encode(value_of(row[name], self.kinds[name]), kind)
                except Misfit:
                    continue
        kept["__deleted_at"] = time_of(row.get("__deleted_at")) or format_time(utcnow())
        kept["__deleted_reason"] = reason_of(row) if row.get("__deleted_at") else NOT_THERE
        return kept


class _Keys:
    """Which documents of the catalog a row of an old state db stands for. 0.4 read keys as numbers: "007" was 7 there."""

    def __init__(self, catalog: Catalog, *, casts: bool) -> None:
        self._catalog = catalog
        self._changed: defaultdict[str, list[Key]] = defaultdict(list)
        for (key,) in catalog.connection.execute(f"SELECT {catalog.quoted_key} FROM files") if casts else ():
            written = _as_written(str(key))
            if written != key:
                self._changed[written].append(key)

    def find(self, keys: list[Any]) -> dict[Any, list[Key]]:
        """Return the documents by the keys of the old state; the one that has the very same key among them."""
        there = self._catalog.rows(key for key in keys if key is not None)
        found: dict[Any, list[Key]] = {}
        for key in keys:
            same = [key] if key in there else []
            found[key] = same + [one for one in self._changed.get(str(key), []) if one not in same]
        return found


def _as_written(key: str) -> str:
    """Return the text that 0.4 made of a key when it cast it and wrote it into a column of text."""
    text = key.strip()
    try:
        number = float(text)
        return str(int(text)) if number == int(number) else str(number)
    except (ValueError, OverflowError):
        pass
    try:
        return str(datetime.fromisoformat(text))
    except ValueError:
        return text


def _say(result: StateConversion) -> None:
    log.info(
        "converted: the state of %d documents, with your own columns %s; the old file is kept in %s",
        *(result.documents, ", ".join(result.columns) or "(none)", result.kept),
        extra=event(
            "state converted",
            version=result.version,
            documents=result.documents,
            columns=result.columns,
            missing=result.missing,
            kept=str(result.kept),
        ),
    )
    for name in result.booleans:
        log.info("your column %r held only 0 and 1, and is true and false now", name)
    if result.missing:
        log.warning(
            "%d documents of the old state are not in the catalog: they count as deleted", result.missing
        )
    if result.shared:
        log.warning(
            "%d rows of the old state stood for several documents each, whose keys 0.4 read as one number: whose state that "
            "was can't be told, so these documents count as never worked on",
            result.shared,
        )
