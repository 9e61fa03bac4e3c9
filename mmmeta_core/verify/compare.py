"""Two databases of one archive side by side: which of the first one's published rows are not those of the second."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING
from mmmeta_core.database.sqlite import chunks, quote, table_columns
from mmmeta_core.types import Kind, to_json

UPDATED: Final = "__meta_last_updated"
TIME: Final = (
    "[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]"
    "T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9][0-9][0-9][0-9]+00:00"
)
"""GLOB of a time as databases have it."""
_TERMS: Final = 100
"""Terms that are joined in a row: SQLite limits how deep an expression is."""


@dataclass(frozen=True)
class Rows:
    """Rows to compare: those of `files` in the main database that are not left out, with those of `other`."""

    key: str
    columns: Sequence[str]
    left_out: str
    """SQL condition on a key `k` that its document is not compared."""
    revision_limit: int | None = None
    """Rows of `other` beyond this revision are left out, too; None: `__revision` is compared."""


@contextmanager
def attached(connection: sqlite3.Connection, other: Path) -> Iterator[None]:
    """Have another database as `other` for the block; it is not written to."""
    connection.execute("ATTACH ? AS other", (f"{other.absolute().as_uri()}?mode=rw",))
    try:
        yield
    finally:
        connection.execute("DETACH other")


def differing(connection: sqlite3.Connection, rows: Rows) -> Iterator[str]:
    """Yield sentences: how many rows are missing, differ, or are there without a reason."""
    key = quote(rows.key)
    differs = any_of([_differs(name) for name in rows.columns] + [_later()])
    newer = "0"
    if rows.revision_limit is None:
        differs += " OR m.__revision < o.__revision OR typeof(m.__revision) <> 'integer'"
    else:
        newer = f"o.__revision > {int(rows.revision_limit)}"
    joined = f"FROM other.files o LEFT JOIN main.files m ON m.{key} = o.{key}"
    skipped = f"NOT ({newer}) AND NOT ({rows.left_out.format(k=f'o.{key}')})"
    yield from _counted(connection, f"{joined} WHERE {skipped} AND m.{key} IS NULL", f"o.{key}", "missing")
    yield from _counted(
        connection,
        f"{joined} WHERE {skipped} AND m.{key} IS NOT NULL AND ({differs})",
        f"o.{key}",
        "different",
    )
    live = "" if rows.revision_limit is None else "m.__deleted_at IS NULL AND "
    yield from _counted(
        connection,
        f"FROM main.files m WHERE {live}NOT ({rows.left_out.format(k=f'm.{key}')}) "
        f"AND NOT EXISTS (SELECT 1 FROM other.files o WHERE o.{key} = m.{key})",
        f"m.{key}",
        "too many",
    )


def any_of(terms: Sequence[str]) -> str:
    """Return SQL that is true when one of any number of terms is."""
    some = [f"({' OR '.join(part)})" for part in chunks(terms, _TERMS)]
    return " OR ".join(some) or "0"


def _differs(name: str) -> str:
    m, o = f"m.{quote(name)}", f"o.{quote(name)}"
    return f"{m} IS NOT {o} OR typeof({m}) <> typeof({o})"


def _later() -> str:
    """Return SQL for a time of the last change that can't be.

    It may be later than the log's: a change that was taken back before it was published leaves its time here.
    """
    m, o = f"m.{UPDATED}", f"o.{UPDATED}"
    return f"({m} IS NOT {o} AND NOT (typeof({m}) = 'text' AND {m} GLOB '{TIME}' AND ({o} IS NULL OR {m} > {o})))"


def _counted(connection: sqlite3.Connection, source: str, key: str, what: str) -> Iterator[str]:
    (count,) = connection.execute(f"SELECT count(*) {source}").fetchone()
    if count:
        (example,) = connection.execute(f"SELECT hex({key}) {source} LIMIT 1").fetchone()
        shown = bytes.fromhex(example).decode(errors="backslashreplace")
        yield f"documents {what}: {count}, such as {shown:.80}"


def catalog_differences(connection: sqlite3.Connection, other: Path, unique: str) -> Iterator[str]:
    """Yield what the catalog behind the connection has otherwise than `other`, the catalog of the same revision.

    What waits for its publication is no difference, but what it was made from has to be what is published.
    """
    with attached(connection, other):
        pending = bool(table_columns(connection, "mmmeta_pending"))
        published = (
            "SELECT name, kind, revision FROM {}.mmmeta_columns WHERE revision IS NOT NULL ORDER BY name"
        )
        kinds = {name: kind for name, kind, _ in connection.execute(published.format("other"))}
        there = {*table_columns(connection, "files")}
        columns = [*PUBLISHED_BOOKKEEPING, *kinds]
        if connection.execute(published.format("main")).fetchall() != connection.execute(
            published.format("other")
        ).fetchall() or not there.issuperset({*columns, "__revision"}):
            yield "it has other columns"
            return
        left_out = "EXISTS (SELECT 1 FROM main.mmmeta_pending p WHERE p.key = {k})" if pending else "0"
        names = [name for name in columns if name != UPDATED]
        yield from differing(connection, Rows(unique, names, left_out))
        store = "SELECT key, value FROM {}.mmmeta_store ORDER BY key"
        if (
            connection.execute(store.format("main")).fetchall()
            != connection.execute(store.format("other")).fetchall()
        ):
            yield "it has other store values"
        if pending:
            yield from _bases(connection, unique, {**PUBLISHED_BOOKKEEPING, **kinds})


def _bases(connection: sqlite3.Connection, unique: str, kinds: dict[str, Kind]) -> Iterator[str]:
    """Yield what is wrong with pending changes: each has a row, and names what is published of that now."""
    key = quote(unique)
    columns = ",".join(f"o.{quote(name)}" for name in kinds)
    bad = 0
    for here, base, there, *values in connection.execute(
        f"SELECT m.{key}, p.base, o.{key}, {columns} FROM main.mmmeta_pending p "
        f"LEFT JOIN main.files m ON m.{key} = p.key LEFT JOIN other.files o ON o.{key} = p.key"
    ):
        published = _published(values, kinds.items()) if there is not None else None
        bad += here is None or not _is_same(base, published)
    if bad:
        yield f"changes that wait to be published and don't fit what is published: {bad}"


def _published(values: Iterable[Any], kinds: Iterable[tuple[str, Kind]]) -> dict[str, Any]:
    row = zip(kinds, values, strict=True)
    return {name: to_json(raw, kind) for (name, kind), raw in row if raw is not None and name != UPDATED}


def _is_same(base: str | None, published: dict[str, Any] | None) -> bool:
    if base is None or published is None:
        return base is None and published is None
    try:
        loaded = orjson.loads(base)
    except (ValueError, TypeError):
        return False
    if not isinstance(loaded, dict):
        return False
    loaded.pop(UPDATED, None)
    sort = orjson.OPT_SORT_KEYS
    return orjson.dumps(loaded, option=sort) == orjson.dumps(published, option=sort)
