"""What others published, put below what waits here for its publication."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mmmeta_core.database.catalog.catalog import SCRUB, Change, Position
from mmmeta_core.database.catalog.kinds import declare
from mmmeta_core.database.catalog.log_form import is_purged, to_base, to_row, weight
from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, PURGED, RESCUED, Columns, Fitted
from mmmeta_core.database.rebase import left, rescued_of
from mmmeta_core.database.sqlite import atomic, chunks, rows_by_key, set_values, upsert_rows
from mmmeta_core.limits import cap, check
from mmmeta_core.types import Key, Kind, Row, decode, format_time, utcnow

if TYPE_CHECKING:
    from mmmeta_core.database.catalog.catalog import Catalog


def apply(
    catalog: Catalog,
    position: Position,
    new_columns: Mapping[str, Kind],
    records: Iterable[tuple[Key, Mapping[str, Any]]],
    store: Mapping[str, str | None],
) -> int:
    """Apply one segment in one transaction: documents, columns, store and position, or nothing at all.

    Changes that wait here for their publication are put on top again: their own columns keep the local value,
    all others take the published one. Returns the number of records. Raises whatever `records` raises, and
    `Misfit` for a value that is not of its column's kind.
    """
    total = 0
    with atomic(catalog.connection):
        declare(catalog, new_columns, position.revision)
        kinds = catalog.all_kinds()
        pending = catalog.pending_count() > 0
        for some in chunks(records, weigh=lambda record: weight(record[1])):
            total += len(some)
            if any(values.get("__deleted_reason") == PURGED for _, values in some):
                set_values(catalog.connection, "mmmeta_local", {SCRUB: 1})
            published = {key: to_row(values, kinds) for key, values in some}
            rows = _rebase(catalog, published, kinds) if pending else published
            upsert_rows(
                catalog.connection,
                catalog.unique,
                ({catalog.unique: key, **row, "__revision": position.revision} for key, row in rows.items()),
            )
        catalog.write_store(store)
        check(len(catalog.store()), cap("MMMETA_MAX_STORE_KEYS"), "store values in all")
        catalog.write_position(position)
    return total


def _rebase(catalog: Catalog, published: dict[Key, Row], kinds: Mapping[str, Kind]) -> dict[Key, Row]:
    keys = list(published)
    marks = ",".join("?" * len(keys))
    waiting = dict(
        catalog.connection.execute(f"SELECT key, base FROM mmmeta_pending WHERE key IN ({marks})", keys)
    )
    if not waiting:
        return published
    here = rows_by_key(catalog.connection, catalog.unique, list(waiting))
    now = format_time(utcnow())
    for key, base_json in waiting.items():
        if is_purged(published[key]) and not is_purged(here[key]):  # what waits here goes with it
            published[key] = {**dict.fromkeys(catalog.kinds()), RESCUED: None, **published[key]}
            catalog.connection.execute("DELETE FROM mmmeta_pending WHERE key = ?", (key,))
            continue
        before = to_row(base_json, kinds) if base_json else {}
        base = {**before, **published[key]}
        mine = left(here[key], before, base, kinds, now)
        # The rest, bookkeeping too, is as published.
        published[key] = {**dict.fromkeys(kinds), **base, **mine}
        if mine:
            catalog.connection.execute(
                "UPDATE mmmeta_pending SET base = ? WHERE key = ?", (to_base(base, kinds), key)
            )
        else:
            catalog.connection.execute("DELETE FROM mmmeta_pending WHERE key = ?", (key,))
    return published


def carry_over(older: Catalog, catalog: Catalog) -> None:
    """Take over what waits in an older catalog of the same archive: pending changes and their columns."""
    kinds = older.all_kinds()
    columns = catalog.columns()
    entries = older.connection.execute("SELECT key, base FROM mmmeta_pending").fetchall()
    now = format_time(utcnow())
    for some in chunks(entries):
        keys = [key for key, _ in some]
        here, published = older.rows(keys), catalog.rows(keys)
        changes = []
        for key, base in some:
            mine = _fit_anew(here[key], kinds, columns)
            before = _fit_anew(to_row(base or "{}", kinds), kinds, columns)
            mine = left(mine, before, published.get(key, {}), mine.keys() | before.keys(), now)
            if mine or key not in published:
                changes.append(Change(key, mine))
        catalog.stage(changes, columns)


def _fit_anew(row: Row, kinds: Mapping[str, Kind], columns: Columns) -> Row:
    """Return a raw row for a table where a column may be of another kind: what does not fit moves to `__rescued`."""
    document = {
        name: decode(row[name], kind)
        for name, kind in kinds.items()
        if name not in PUBLISHED_BOOKKEEPING and row.get(name) is not None
    }
    fitted = columns.fit(document)
    kept = Fitted(rescued={**rescued_of(row), **fitted.rescued})
    return {
        **{name: row.get(name) for name in PUBLISHED_BOOKKEEPING},
        **fitted.row,
        RESCUED: kept.rescued_json(),
    }
