"""Read what can be read of a damaged database: row by row, over and around what can't."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from mmmeta_core.database.sqlite import quote, table_columns

Values: TypeAlias = dict[str, Any]

_CONSTANT: Final = ((0, 24), (44, 48), (56, 60))
"""Bytes of SQLite's header that are the same in all databases of a kind: name, page size, encoding."""
_FARTHEST: Final = 2**48
_LOST: Final = object()


def mend_header(path: Path, model: Path) -> None:
    """Write what begins every database of this kind over the beginning of a copy of a damaged one."""
    with path.open("rb+") as file, model.open("rb") as sound:
        header = sound.read(100)
        for first, last in _CONSTANT:
            file.seek(first)
            file.write(header[first:last])


@contextmanager
def damaged(path: Path, model: Path) -> Iterator[sqlite3.Connection]:
    """Open a damaged database, which is a copy that may be changed; `model` is a sound one of the same kind."""
    mend_header(path, model)
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    try:
        connection.text_factory = bytes
        connection.execute("PRAGMA writable_schema = ON")  # so that one bad table does not hide the others
        _mend_names(connection)
        yield connection
    finally:
        connection.close()


def _mend_names(connection: sqlite3.Connection) -> None:
    """Give columns whose name is no text one that is; nothing could be read through them."""
    with suppress(sqlite3.DatabaseError):
        for number, text in connection.execute(
            "SELECT rowid, sql FROM sqlite_master WHERE sql IS NOT NULL"
        ).fetchall():
            if _text(text) is _LOST:
                mended = text.decode(errors="replace")
                connection.execute("UPDATE sqlite_master SET sql = ? WHERE rowid = ?", (mended, number))
                connection.execute("PRAGMA writable_schema = RESET")
                connection.execute("PRAGMA writable_schema = ON")


def columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the table's column names; none when it can't be read."""
    try:
        return [name.decode(errors="replace") for name in _raw_names(connection, table)]
    except sqlite3.DatabaseError:
        return []


def rows_by_rowid(connection: sqlite3.Connection, table: str) -> Iterator[tuple[int, Values]]:
    """Yield number and values of each row that can be read. Values that can't are left out."""
    names = columns_of(connection, table)
    after: int | None = -(2**62)
    while names and after is not None:
        try:
            for number, *values in connection.execute(_seek(table), (after,)):
                if number <= after:  # pages that lead in a circle
                    raise sqlite3.DatabaseError("rows are out of order")
                after = number
                yield number, _readable(names, values)
        except sqlite3.DatabaseError:
            after = _beyond(connection, table, after)
        else:
            return


def rows_by_key(connection: sqlite3.Connection, table: str, key: Sequence[str]) -> Iterator[Values]:
    """Yield the rows that can be read of a table that is its own index: from its beginning, and from its end."""
    names = columns_of(connection, table)
    seen: set[tuple[Any, ...]] = set()
    for order in ("ASC", "DESC") if names else ():
        by = ",".join(f"{quote(name)} {order}" for name in key)
        try:
            for values in connection.execute(f"SELECT * FROM {quote(table)} ORDER BY {by}"):
                row = _readable(names, values)
                found = tuple(row.get(name) for name in key)
                if found in seen:
                    return  # both ends have met
                seen.add(found)
                yield row
        except sqlite3.DatabaseError:
            continue
        return


def row_of(connection: sqlite3.Connection, table: str, key: Values) -> Values | None:
    """Return one row, if there is one and it can be read."""
    names = columns_of(connection, table)
    test = " AND ".join(f"{quote(name)} = ?" for name in key)
    try:
        found = connection.execute(f"SELECT * FROM {quote(table)} WHERE {test}", [*key.values()]).fetchone()
    except sqlite3.DatabaseError:
        return None
    return _readable(names, found) if found is not None else None


def keys_by_rowid(connection: sqlite3.Connection, table: str, key: str) -> dict[int, Any]:
    """Return the key of each row as the table's index has it; what can't be read is left out."""
    found: dict[int, Any] = {}
    column = quote(key)
    for order in ("ASC", "DESC"):
        try:
            for number, value in connection.execute(
                f"SELECT rowid, {column} FROM {quote(table)} INDEXED BY sqlite_autoindex_{table}_1 ORDER BY {column} {order}"
            ):
                if number in found:
                    return found
                if (text := _text(value)) is not _LOST:
                    found[number] = text
        except sqlite3.DatabaseError:
            continue
        return found
    return found


def _raw_names(connection: sqlite3.Connection, table: str) -> list[bytes]:
    names: Sequence[Any] = table_columns(connection, table)
    return list(names)


def _seek(table: str) -> str:
    return f"SELECT rowid, * FROM {quote(table)} WHERE rowid > ? ORDER BY rowid"


def _beyond(connection: sqlite3.Connection, table: str, after: int) -> int | None:
    """Return a number after which rows can be read again, the nearest one that halving finds; None if there is none."""
    after = max(after, 0)
    step = 1
    while not _reads(connection, table, after + step):
        step *= 2
        if step > _FARTHEST:
            return None
    low, high = after + step // 2, after + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _reads(connection, table, middle) else (middle, high)
    return high


def _reads(connection: sqlite3.Connection, table: str, after: int) -> bool:
    try:
        row = connection.execute(f"{_seek(table)} LIMIT 1", (after,)).fetchone()
    except sqlite3.DatabaseError:
        return False
    return row is None or row[0] > after


def _readable(names: Sequence[str], values: Sequence[Any]) -> Values:
    row = {name: _text(value) for name, value in zip(names, values, strict=False)}
    return {name: value for name, value in row.items() if value is not _LOST}


def _text(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return _LOST
