"""The columns of the catalog's table of documents: how they come to be, and to be others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson

from mmmeta_core.database.columns import RESCUED, fold
from mmmeta_core.database.sqlite import quote, table_columns
from mmmeta_core.limits import cap, check
from mmmeta_core.types import Kind, Misfit, decode, encode, to_json

if TYPE_CHECKING:
    from mmmeta_core.database.catalog.catalog import Catalog


def add_columns(catalog: Catalog, added: Mapping[str, Kind], revision: int | None) -> None:
    """Make columns known, which a segment of this revision declares (None: none has yet), and add those that are missing."""
    there = set(table_columns(catalog.connection, "files"))
    for name, kind in added.items():
        if name not in there:
            catalog.connection.execute(f"ALTER TABLE files ADD COLUMN {quote(name)}")
        catalog.connection.execute(
            "INSERT INTO mmmeta_columns (name, kind, revision) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, revision = excluded.revision",
            (name, kind, revision),
        )


def declare(catalog: Catalog, declared: Mapping[str, Kind], revision: int) -> None:
    """Take over columns that a segment declares; values that wait here under another kind move to `__rescued`."""
    known = catalog.kinds()
    check(len(known.keys() | declared.keys()), cap("MMMETA_MAX_COLUMNS"), "columns in all")
    waiting = {fold(name): name for name in catalog.new_columns()}
    for name, kind in declared.items():
        other = waiting.get(fold(name), name)
        if other != name:
            _give_up(catalog, other, known[other])
        elif known.get(name, kind) != kind:
            change_kind(catalog, name, known[name], kind)
    add_columns(catalog, declared, revision)


def _give_up(catalog: Catalog, name: str, kind: Kind) -> None:
    """Move what waits here in a column that was published with another spelling to `__rescued`."""
    column = quote(name)
    rows = catalog.connection.execute(
        f"SELECT {catalog.quoted_key}, {column}, {RESCUED} FROM files WHERE {column} IS NOT NULL"
    ).fetchall()
    for key, raw, rescued in rows:
        kept = {**orjson.loads(rescued or "{}"), name: to_json(raw, kind)}
        catalog.connection.execute(
            f"UPDATE files SET {RESCUED} = ? WHERE {catalog.quoted_key} = ?",
            (orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode(), key),
        )
    catalog.connection.execute("DELETE FROM mmmeta_columns WHERE name = ?", (name,))
    catalog.connection.execute(f"ALTER TABLE files DROP COLUMN {column}")


def change_kind(catalog: Catalog, name: str, old: Kind, new: Kind) -> None:
    """Write what is in a column as another kind; a value that is none of that kind moves to `__rescued`."""
    column, key = quote(name), catalog.quoted_key
    rows = catalog.connection.execute(
        f"SELECT {key}, {column}, {RESCUED} FROM files WHERE {column} IS NOT NULL"
    ).fetchall()
    for row_key, raw, rescued in rows:
        value = decode(raw, old)
        try:
            raw = encode(value, new)
        except Misfit:
            raw = None
            rescued = orjson.dumps({**orjson.loads(rescued or "{}"), name: to_json(value, "text")}).decode()
        catalog.connection.execute(
            f"UPDATE files SET {column} = ?, {RESCUED} = ? WHERE {key} = ?", (raw, rescued, row_key)
        )
