"""Moving a client's state to another place: its own columns, and what it noted of work and downloads."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mmmeta_core.database.columns import STATE_RESCUED
from mmmeta_core.database.connection import Connection
from mmmeta_core.database.sqlite import chunks, quote
from mmmeta_core.database.state import State
from mmmeta_core.errors import RefusedError
from mmmeta_core.events import event
from mmmeta_core.files.layout import Layout
from mmmeta_core.notebook import Shown
from mmmeta_core.types import Key

log = logging.getLogger(__name__)

_NOTES: Final[Mapping[str, tuple[str, ...]]] = {
    "mmmeta_work": (
        "mark", "key", "attempts", "error", "failed_at", "failed_version", "not_before", "set_aside", "done_at",
        "done_version", "done_content",
    ),
    "mmmeta_pipelines": ("mark", "settings", "last_run"),
    "mmmeta_downloads": ("folder", "folded", "name", "key"),
}  # fmt: skip
"""What is copied of each table; claims are not, since nobody works there yet."""


@dataclass(frozen=True)
class MoveResult(Shown):
    """What was copied: documents with values of the client's own, and rows of notes; `missing` are not in the catalog."""

    documents: int
    notes: int
    missing: int
    seconds: float = field(compare=False)


def move(old: State, new: State) -> MoveResult:
    """Copy what is the client's from one state to another one, in one transaction; nothing of the old one is changed.

    The catalog has been merged into the new one, and nothing else was done there yet. Own values of documents that the
    catalog does not have are not copied, but counted. Raises `RefusedError` for a state that has columns of its own.
    """
    started = time.monotonic()
    if "client" in new.owners().values():
        raise RefusedError(
            f"{new.name} has own columns of a client already: name a place where there is no state yet"
        )
    # All of it is read from the old one anew when the server makes this be repeated.
    documents, missing, notes = new.run(lambda connection: _copy(old, new, connection))
    fields = event("moved", documents=documents, notes=notes, missing=missing, to=new.name)
    log.info("state: %d documents and %d notes moved to %s", documents, notes, new.name, extra=fields)
    return MoveResult(documents, notes, missing, time.monotonic() - started)


def _copy(old: State, new: State, connection: Connection) -> tuple[int, int, int]:
    owners, kinds = old.owners(), old.kinds()
    own = [name for name, owner in owners.items() if owner == "client"]
    for name in own:
        new.add_own(name, kinds[name])
    documents = missing = notes = 0
    for some in chunks(_own_values(old, own)):
        there = new.rows([key for key, _ in some])
        known = [(key, values) for key, values in some if key in there or str(key) in there]
        new.save_within(known)
        documents += len(known)
        missing += len(some) - len(known)
    for table, columns in _NOTES.items():
        notes += _copy_notes(old, new, connection, table, columns)
    return documents, missing, notes


def _own_values(old: State, own: list[str]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Yield the own values of each document that has any."""
    if not own:
        return
    there = [name for name in own if name in old.columns()]
    names = [old.unique, *there, STATE_RESCUED]
    some = " OR ".join(f"{quote(name)} IS NOT NULL" for name in names[1:])
    layout = Layout(names, {**old.kinds(), old.unique: "text"})
    for row in old.connection.execute(f"SELECT {','.join(map(quote, names))} FROM files WHERE {some}"):
        values = layout.decode(row, own)
        key = values.pop(old.unique)
        yield key, {name: value for name, value in values.items() if value is not None}


def _copy_notes(old: State, new: State, connection: Connection, table: str, columns: tuple[str, ...]) -> int:
    flags = {at for at, name in enumerate(columns) if name == "set_aside"}
    keys = {at for at, name in enumerate(columns) if name == "key"}
    total = 0
    for rows in chunks(old.connection.execute(f"SELECT {','.join(columns)} FROM {table}")):
        connection.executemany(
            f"INSERT INTO {table} ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})",
            [
                [
                    bool(value) if at in flags else new.as_key(value) if at in keys else value
                    for at, value in enumerate(row)
                ]
                for row in rows
            ],
        )
        total += len(rows)
    return total
