"""A damaged state db, made anew: published columns from the catalog, the client's own as far as they can be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from mmmeta_core import update as updating
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, open_catalog
from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, STATE_BOOKKEEPING, column_name
from mmmeta_core.database.sqlite import atomic, quote, table_columns
from mmmeta_core.database.sqlite_state import SqliteState
from mmmeta_core.errors import CatalogError
from mmmeta_core.paths import Paths
from mmmeta_core.repair.aside import check_unused, database_copy, database_draft, keep_aside, take_place
from mmmeta_core.repair.reading import (
    Values,
    columns_of,
    damaged,
    keys_by_rowid,
    row_of,
    rows_by_key,
    rows_by_rowid,
)
from mmmeta_core.repair.state import WORK, is_near, owned
from mmmeta_core.store import Store
from mmmeta_core.types import KINDS, Key, Kind, Misfit, decode, format_time, is_key, utcnow

_NOTES: Final[Mapping[str, Sequence[str]]] = {
    "mmmeta_pipelines": ("mark",),
    "mmmeta_work": ("mark", "key"),
    "mmmeta_downloads": ("folder", "folded"),
}
"""The tables that are taken as they are, and their keys."""


@dataclass
class _Salvaged:
    documents: int = 0
    lost: int = 0
    kept: int = 0
    values_lost: int = 0
    columns: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def salvage(paths: Paths, state_db: Path) -> str:
    """Put a state db that is whole in the place of a damaged one; return what could be taken over.

    A document whose own columns can't be read has none, and is due again. Raises `CatalogError` when nothing can be read at
    all, or another process has the database open; then that is as it was.
    """
    config = Config.load(paths.config)
    if not paths.meta.exists():
        raise CatalogError("there is no catalog to begin from")
    check_unused(state_db)
    aside = keep_aside(state_db)
    if aside is None:
        raise CatalogError("there is no state db")
    with ExitStack() as stack:
        catalog = stack.enter_context(open_catalog(paths.meta, config.unique, max_columns=config.max_columns))
        copy = stack.enter_context(database_copy(aside, state_db.parent))
        draft = stack.enter_context(database_draft(state_db.parent))
        fresh = SqliteState(draft, config.unique)
        try:
            fresh.merge(catalog.path)
            fresh.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with damaged(copy, draft) as old:
                done = _Salvage(old, fresh, catalog).run()
        finally:
            fresh.close()
        take_place(draft, state_db)
        state = SqliteState(state_db, config.unique)
        try:
            updating.update(catalog, state, Store(paths.store), paths.root)
        finally:
            state.close()
    return _said(done, aside)


def _said(done: _Salvaged, aside: Path) -> str:
    said = [f"made anew; your own columns of {done.documents} documents were taken over"]
    if done.lost:
        said.append(f"{done.lost} documents could not be read and are due again")
    if done.values_lost:
        said.append(f"{done.values_lost} values could not be read")
    if done.kept:
        said.append(f"{done.kept} documents that the catalog does not have are kept as deleted")
    if done.columns:
        said.append(f"of these columns the kind was told from their values: {', '.join(done.columns)}")
    notes = ", ".join(f"{table.removeprefix('mmmeta_')} {count}" for table, count in done.notes.items())
    return f"{'; '.join([*said, notes])}; the old file is {aside}"


class _Salvage:
    def __init__(self, old: sqlite3.Connection, fresh: SqliteState, catalog: Catalog) -> None:
        self.old = old
        self.fresh = fresh
        self.connection = fresh.connection
        self.unique = fresh.unique
        self.catalog = catalog
        self.published = catalog.kinds()
        self.known = {key for (key,) in self.connection.execute(f"SELECT {quote(self.unique)} FROM files")}
        self.renamed: dict[str, str] = {}
        self.done = _Salvaged()

    def run(self) -> _Salvaged:
        there = self._names()
        if not there:
            raise CatalogError(
                "nothing of your own can be read: restore it from a backup. Without one, move it away and update; "
                "then every document is due again"
            )
        with atomic(self.connection):
            guessed = self._make_columns(there)
            self._take_documents(there)
            for table, key in _NOTES.items():
                self.done.notes[table] = self._take_notes(table, key)
            for statement in WORK:
                self.connection.execute(statement)
            self._tell_kinds(guessed)
        return self.done

    def _names(self) -> list[str]:
        """Return the table's columns by the names that they had before a letter was damaged."""
        there = columns_of(self.old, "files")
        said = [row.get("name") for row in rows_by_key(self.old, "mmmeta_columns", ["name"])]
        known = [
            self.unique,
            *self.published,
            *STATE_BOOKKEEPING,
            *(name for name in said if isinstance(name, str)),
        ]
        for name in there:
            near = {other for other in known if other not in there and is_near(other, name)}
            if name not in known and len(near) == 1:
                self.renamed[name] = near.pop()
        return [self.renamed.get(name, name) for name in there]

    def _make_columns(self, there: Sequence[str]) -> list[str]:
        """Make the client's columns; return those of unknown kind."""
        said = {row.get("name"): row for row in rows_by_key(self.old, "mmmeta_columns", ["name"])}
        taken = {self.unique, *self.published, *PUBLISHED_BOOKKEEPING, *STATE_BOOKKEEPING}
        guessed = []
        for name in there:
            note = said.get(name, {})
            is_own = note.get("owner") == "client" or name not in taken
            if not is_own or column_name(name) != name or note.get("owner") == "publisher":
                continue
            kind = note.get("kind")
            if kind not in KINDS:
                guessed.append(name)
                kind = "text"
            if name not in table_columns(self.connection, "files"):
                self.connection.execute(f"ALTER TABLE files ADD COLUMN {quote(name)}")
            self.connection.execute(
                "INSERT INTO mmmeta_columns (name, kind, owner) VALUES (?, ?, 'client') "
                "ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, owner = 'client'",
                (name, kind),
            )
        return guessed

    def _take_documents(self, there: Sequence[str]) -> None:
        key = self.unique if self.unique in there else there[0]
        old_key = next((old for old, name in self.renamed.items() if name == key), key)
        query = "SELECT name, kind FROM mmmeta_columns WHERE owner = 'client'"
        own: dict[str, Kind] = dict(self.connection.execute(query))
        own |= STATE_BOOKKEEPING
        indexed = keys_by_rowid(self.old, "files", old_key)
        seen: set[Key] = set()
        for number, found_row in rows_by_rowid(self.old, "files"):
            row = self._named(found_row)
            candidates = [found for found in (row.get(key), indexed.get(number)) if is_key(found)]
            found = next(
                (one for one in candidates if one in self.known), candidates[0] if candidates else None
            )
            if found is not None and found not in seen:
                seen.add(found)
                self._take_document(found, row, own)
        for missed in self.known - seen:
            row_there = row_of(self.old, "files", {old_key: missed})
            if row_there is not None:
                seen.add(missed)
                self._take_document(missed, self._named(row_there), own)
        self.done.lost = len(self.known - seen - self._news())

    def _named(self, row: Values) -> Values:
        return {self.renamed.get(name, name): value for name, value in row.items()}

    def _news(self) -> set[Key]:
        """Return the documents that the old one did not have yet."""
        notes = {row.get("key"): row.get("value") for row in rows_by_key(self.old, "mmmeta_info", ["key"])}
        merged = notes.get("revision")
        if not isinstance(merged, int):
            return set()
        query = f"SELECT {quote(self.unique)} FROM files WHERE __revision > ?"
        return {key for (key,) in self.catalog.connection.execute(query, (merged,))}

    def _take_document(self, key: Key, row: Values, own: Mapping[str, Kind]) -> None:
        values = {name: row[name] for name, kind in own.items() if name in row and _is_of(row[name], kind)}
        self.done.values_lost += sum(name not in values for name in own if name in row)
        if key not in self.known:
            values |= self._gone(row)
            self.connection.execute(
                f"INSERT INTO files ({quote(self.unique)}) VALUES (?) ON CONFLICT DO NOTHING", (key,)
            )
            self.done.kept += 1
        else:
            self.done.documents += 1
        assignments = ",".join(f"{quote(name)} = ?" for name in values)
        if values:
            self.connection.execute(
                f"UPDATE files SET {assignments} WHERE {quote(self.unique)} = ?", (*values.values(), key)
            )

    def _gone(self, row: Values) -> Values:
        """Return the published columns of a document that the catalog does not have: as it was, and deleted."""
        kinds = {**PUBLISHED_BOOKKEEPING, **self.published}
        kept = {name: row[name] for name, kind in kinds.items() if name in row and _is_of(row[name], kind)}
        if kept.get("__deleted_at") is None:
            kept |= {"__deleted_at": format_time(utcnow()), "__deleted_reason": "not in the archive"}
        return kept

    def _take_notes(self, table: str, key: Sequence[str]) -> int:
        names = table_columns(self.connection, table)
        rows = list(rows_by_key(self.old, table, key))
        if table == "mmmeta_work":
            found = {(row.get("mark"), row.get("key")) for row in rows}
            marks = {mark for (mark,) in self.connection.execute("SELECT mark FROM mmmeta_pipelines")}
            for mark in {*marks, *(mark for mark, _ in found if isinstance(mark, str))}:
                missed = (row_of(self.old, table, {"mark": mark, "key": one}) for one in self.known)
                rows += [row for row in missed if row is not None and (mark, row.get("key")) not in found]
        taken = 0
        for row in rows:
            values = {name: value for name, value in row.items() if name in names}
            if any(values.get(name) is None for name in key) or (
                "key" in names and values.get("key") not in self.known
            ):
                continue
            columns = ",".join(map(quote, values))
            marks_ = ",".join("?" * len(values))
            try:
                taken += self.connection.execute(
                    f"INSERT INTO {table} ({columns}) VALUES ({marks_}) ON CONFLICT DO NOTHING",
                    [*values.values()],
                ).rowcount
            except sqlite3.IntegrityError:  # a value is missing that has to be there
                continue
        return taken

    def _tell_kinds(self, guessed: Sequence[str]) -> None:
        marks = {mark for (mark,) in self.connection.execute("SELECT mark FROM mmmeta_pipelines")}
        for name in guessed:
            kind, _ = owned(self.connection, name, {}, marks)
            self.connection.execute("UPDATE mmmeta_columns SET kind = ? WHERE name = ?", (kind, name))
        self.done.columns = list(guessed)


def _is_of(value: Any, kind: Kind) -> bool:
    """Whether a raw value can be one of this kind."""
    if value is None:
        return True
    try:
        decode(value, kind)
    except (ValueError, TypeError, Misfit, orjson.JSONDecodeError):
        return False
    return kind != "boolean" or value in (0, 1)
