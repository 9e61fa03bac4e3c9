"""Whether a database that others may have written is one of mmmeta's, and nothing else.

A schema is a program: triggers, views, generated columns and checks are SQL of whoever wrote the file. So before anything
of a catalog is read its schema is compared, as text, with the one that mmmeta writes. What the tables hold is then
looked at before it reaches a client's state.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import closing
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, RESCUED, column_name, fold
from mmmeta_core.database.sqlite import quote
from mmmeta_core.errors import CatalogError
from mmmeta_core.limits import Beyond, cap, check
from mmmeta_core.types import KINDS, Kind, is_key, is_key_column

_MEND: Final = "nothing was changed. Move it away and pull again (state is kept), or ask the publisher"
_MOST_OBJECTS: Final = 50
_VALUE_BYTES: Final = 4
"""How many times a line of the log a row may be: it grows by more than one revision."""
_MAX_TEXT: Final = 1024 * 1024
_MOST_KNOWN: Final = 1_000
_INFO: Final[Mapping[str, type]] = {
    "unique": str,
    "archive": str,
    "revision": int,
    "digest": str,
    "log_bytes": int,
}

Schema = Mapping[str, tuple[str, str, str | None]]
"""Name → type, table and SQL, as `sqlite_master` has them."""


class Looked(NamedTuple):
    """What was seen of a database whose schema is as it should be: the tables that it has, and its key column."""

    tables: Set[str]
    unique: str


def check_schema(connection: sqlite3.Connection, path: Path | str, script: str) -> Looked:
    """Raise `CatalogError` unless the database has these tables and indexes, and nothing else that runs or is read.

    `script` makes them, with `{key}` in the place of the key column, which `mmmeta_info` names. The columns of `files` are
    those that `mmmeta_columns` declares.
    """
    try:
        return _check_schema(connection, path, script)
    except (sqlite3.Error, Beyond, ValueError, OverflowError) as error:
        raise _refused(path, str(error)) from error


def _check_schema(connection: sqlite3.Connection, path: Path | str, script: str) -> Looked:
    found = _schema(connection)
    expected = _expected(script, "key")
    for name, (kind, table, sql) in found.items():
        if name not in expected or expected[name][:2] != (kind, table):
            raise _refused(path, f"it has a {kind} {name!r:.80}, which mmmeta does not write")
        if name != "files" and _squeezed(sql) != _squeezed(expected[name][2]):
            raise _refused(path, f"its {kind} {name!r} is not the one that mmmeta writes")
    if not {"files", "mmmeta_info", "mmmeta_columns", "mmmeta_store"} <= found.keys():
        raise _refused(path, "tables are missing")
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    if encoding != "UTF-8":
        raise _refused(path, f"its text is {encoding}")
    info = _info(connection, path)
    declared = _declared(connection, path, info["unique"])
    _check_files(found["files"][2], _expected(script, info["unique"])["files"][2], declared, path)
    return Looked(found.keys(), info["unique"])


def _check_files(sql: str | None, expected: str | None, declared: Iterable[str], path: Path | str) -> None:
    """Compare the table of documents with the one that mmmeta makes, and columns added to it, in any order."""
    begin = _squeezed(expected).removesuffix(")").rstrip()
    text = _squeezed(sql)
    names = {_squeezed(quote(name)) for name in declared}
    if not text.startswith(begin) or not text.endswith(")"):
        raise _refused(path, "its table 'files' is not the one that mmmeta writes")
    rest = text[len(begin) : -1].strip()
    while rest:
        column = _COLUMN.match(rest)
        if column is None or column[1] not in names:
            raise _refused(path, f"its table 'files' has a part that mmmeta does not write: {rest!r:.80}")
        names.remove(column[1])
        rest = rest[column.end() :]
    if names:
        raise _refused(path, f"its table 'files' lacks the column {min(names)}")


_COLUMN: Final = re.compile(r', ?("(?:[^"]|"")*") ?')


def _schema(connection: sqlite3.Connection) -> Schema:
    rows = connection.execute(
        "SELECT name, type, tbl_name, sql FROM sqlite_master LIMIT ?", (_MOST_OBJECTS,)
    ).fetchall()
    return {str(name): (str(kind), str(table), sql) for name, kind, table, sql in rows}


@lru_cache(maxsize=16)
def _expected(script: str, unique: str) -> Schema:
    """Return what SQLite has in its schema after `script`; to let it run there takes as long as all other checks."""
    found: dict[str, tuple[str, str, str | None]] = {}
    for kind, rest, name, table in _STATEMENT.findall(script):
        found[name] = (kind.lower(), table or name, f"CREATE {kind} {rest.replace('{key}', quote(unique))}")
        if "PRIMARY KEY" in rest and "WITHOUT ROWID" not in rest:
            found[f"sqlite_autoindex_{name}_1"] = ("index", name, None)
    return found


_STATEMENT: Final = re.compile(r"CREATE (TABLE|INDEX) (?:IF NOT EXISTS )?((\w+)(?: ON (\w+))?[^;]*)")


def _squeezed(sql: object) -> str:
    return " ".join(str(sql).split())


def _info(connection: sqlite3.Connection, path: Path | str) -> dict[str, Any]:
    rows = connection.execute("SELECT key, value FROM mmmeta_info LIMIT ?", (_MOST_OBJECTS,)).fetchall()
    info = dict(rows)
    for name, kind in _INFO.items():
        value = info.get(name)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, int) and value < 0)):
            raise _refused(path, f"mmmeta_info has a wrong {name!r}")
    if not is_key_column(info.get("unique")):
        raise _refused(path, "mmmeta_info names no key column")
    return info


def _declared(connection: sqlite3.Connection, path: Path | str, unique: object) -> list[str]:
    most = cap("MMMETA_MAX_COLUMNS")
    rows = connection.execute("SELECT name, kind FROM mmmeta_columns LIMIT ?", (most + 1,)).fetchall()
    check(len(rows), most, "columns")
    taken = {fold(str(unique))}
    for name, kind in rows:
        if not isinstance(name, str) or column_name(name) != name or kind not in KINDS or fold(name) in taken:
            raise _refused(path, f"it declares a column that can't be: {name!r:.80} of kind {kind!r:.20}")
        taken.add(fold(name))
    return [name for name, _ in rows]


def check_content(connection: sqlite3.Connection, path: Path | str) -> None:
    """Raise `CatalogError` unless store and documents hold what mmmeta writes; the schema has been looked at.

    Reads everything once, with no value larger than a segment could have brought.
    """
    try:
        connection.setlimit(
            sqlite3.SQLITE_LIMIT_LENGTH, min(_VALUE_BYTES * cap("MMMETA_MAX_LINE_BYTES"), 10**9)
        )
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise CatalogError(f"{path} is damaged: {found}")
        _check_store(connection, path)
        unique = connection.execute("SELECT value FROM mmmeta_info WHERE key = 'unique'").fetchone()[0]
        kinds = dict(connection.execute("SELECT name, kind FROM mmmeta_columns"))
        check_documents(connection, path, unique, kinds, "main.files AS m")
    except (sqlite3.Error, Beyond) as error:
        raise _refused(path, str(error)) from error


def _check_store(connection: sqlite3.Connection, path: Path | str) -> None:
    (count,) = connection.execute("SELECT count(*) FROM mmmeta_store").fetchone()
    check(count, cap("MMMETA_MAX_STORE_KEYS"), "store values")
    for key, value in connection.execute("SELECT key, value FROM mmmeta_store"):
        if not (isinstance(key, str) and isinstance(value, str) and len(value.encode()) <= _MAX_TEXT):
            raise _refused(path, f"it has a store value that can't be: {key!r:.80}")


def check_documents(
    connection: sqlite3.Connection, path: Path | str, unique: str, kinds: Mapping[str, Kind], source: str
) -> None:
    """Raise `CatalogError` unless each value of the documents in `source` (an SQL FROM, as `m`) is of its column's kind."""
    columns = {**PUBLISHED_BOOKKEEPING, **kinds}
    names = ",".join(f"m.{quote(name)}" for name in (unique, *columns))
    fits = _Fit(columns)
    try:
        with closing(connection.execute(f"SELECT {names} FROM {source}")) as rows:
            for row in rows:
                if not fits(row):
                    raise _refused(
                        path, f"the document {row[0]!r:.80} has a value that its column can't have"
                    )
    except sqlite3.Error as error:  # for text that is no UTF-8, too
        raise _refused(path, f"it has a value that can't be read ({error})") from error


class _Fit:
    """Whether rows, a key and then these columns, are as mmmeta writes them."""

    def __init__(self, columns: Mapping[str, Kind]) -> None:
        self._columns = tuple(columns.items())
        # Most rows are of a few types, column by column; what is left to be looked at is known from these.
        self._known: dict[tuple[type, ...], list[tuple[int, _Test]] | None] = {}

    def __call__(self, row: tuple[Any, ...]) -> bool:
        types = tuple(map(type, row))
        try:
            tests = self._known[types]
        except KeyError:
            if len(self._known) == _MOST_KNOWN:
                self._known.clear()
            tests = self._known[types] = self._tests(types)
        if tests is None:
            return False
        for at, test in tests:  # noqa: SIM110 - a generator for each row takes as long as its tests
            if not test(row[at]):
                return False
        return True

    def _tests(self, types: Sequence[type]) -> list[tuple[int, _Test]] | None:
        """Return where values of these types are to be looked at, and how; None for types that can't be."""
        tests: list[tuple[int, _Test]] = [(0, is_key)]
        for at, ((name, kind), found) in enumerate(zip(self._columns, types[1:], strict=True), 1):
            wanted, test = _KINDS.get(kind, (found, math.isfinite if found is float else None))
            if found is bytes or found not in (wanted, NoneType):
                return None
            if test is not None and found is not NoneType:
                tests.append((at, _is_object if name == RESCUED else test))
        return tests


def _is_json(raw: str) -> bool:
    try:
        orjson.loads(raw)
    except ValueError:
        return False
    return True


def _is_object(raw: str) -> bool:
    try:
        return isinstance(orjson.loads(raw), dict)
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def _is_time(text: str) -> bool:
    """Whether `format_time` wrote it."""
    if _TIME.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{6}\+00:00"
)

_Test: TypeAlias = Callable[[Any], bool]
_KINDS: Final[Mapping[Kind, tuple[type, _Test]]] = {
    "boolean": (int, (0, 1).__contains__),
    "datetime": (str, _is_time),
    "json": (str, _is_json),
}
"""How values of a kind are kept, and what they must be; of the other kinds they may be anything but bytes."""


def _refused(path: Path | str, reason: str) -> CatalogError:
    return CatalogError(f"{path} is not a catalog that can be used: {reason}; {_MEND}")
