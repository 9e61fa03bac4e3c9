"""What old catalogs hold, document by document, and which of their values are no longer what they were."""

from __future__ import annotations

import ast
import csv
import json
import sqlite3
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from mmmeta_core.atomic import temporary
from mmmeta_core.database.sqlite import chunks, quote
from mmmeta_core.documents import flatten
from mmmeta_core.errors import CatalogError, DocumentError
from mmmeta_core.legacy.layout import parts
from mmmeta_core.types import Key, Kind, Misfit, is_key, parse_time

ROW_NUMBER: Final = "id"
"""dataset's own key, which the old packages copied about with the documents."""
BOOKKEEPING: Final = frozenset(
    {
        "__meta_added",
        "__meta_last_updated",
        "__state_added",
        "__state_last_updated",
        "__seen",
        "__deleted",
        "__deleted_at",
        "__deleted_reason",
        "__mmmeta_keys",
    }
)

_KINDS: Final[Mapping[str, Kind]] = {
    "BOOLEAN": "boolean",
    "DATETIME": "datetime",
    "TIMESTAMP": "datetime",
    "JSON": "json",
    "BIGINT": "integer",
    "INTEGER": "integer",
    "FLOAT": "float",
}
_KEYS: Final = "__mmmeta_keys"


@dataclass
class Damage:
    """How many values of a column may have been something else before an old version wrote them.

    `numbers`: text that reads as a number, or a number where text was made one. `booleans`: the text "True". `lists`:
    text that reads as a list. `empty`: nothing, where 0, false, "" and [] became nothing too.
    """

    numbers: int = 0
    booleans: int = 0
    lists: int = 0
    empty: int = 0

    def __str__(self) -> str:
        said = {
            "number or text": self.numbers,
            "True or text": self.booleans,
            "list or text": self.lists,
        }
        return ", ".join(f"{count} {what}" for what, count in said.items() if count)


@dataclass
class Old:
    """One document as it was in an old catalog. `values` are flat; times are as they were written, or None."""

    key: Key
    values: dict[str, Any]
    times: dict[str, Any] = field(default_factory=dict)

    @property
    def deleted(self) -> bool:
        """Whether it was marked as deleted."""
        return bool(self.times.get("__deleted_at")) or self.times.get("__deleted") not in (None, "", 0, "0")


@dataclass
class Report:
    """What reading found out. `invalid` are rows without a usable key or cut off, `duplicates` further rows of a key."""

    invalid: int = 0
    duplicates: int = 0
    damage: defaultdict[str, Damage] = field(default_factory=lambda: defaultdict(Damage))

    def columns(self) -> dict[str, Damage]:
        """Return the columns that have damage."""
        return {name: damage for name, damage in sorted(self.damage.items()) if damage != Damage()}


def kind_of_type(declared: str) -> Kind:
    """Return the kind of column that dataset declared with this SQL type."""
    return _KINDS.get(declared.upper().partition("(")[0], "text")


def value_of(raw: Any, kind: Kind) -> Any:
    """Return what SQLAlchemy would read from such a column; what can't be read stays as it is."""
    try:
        if kind == "boolean" and raw in (0, 1):
            return bool(raw)
        if kind == "datetime" and isinstance(raw, str):
            return parse_time(raw)
        if kind == "json" and isinstance(raw, str):
            return orjson.loads(raw)
    except ValueError:
        pass
    return raw


def declared(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the columns of `files` with their SQL types."""
    return dict(connection.execute("SELECT name, type FROM pragma_table_info('files')"))


# --- 0.1


def read_table(connection: sqlite3.Connection, unique: str, report: Report) -> Iterator[Old]:
    """Yield the documents of a `meta.db` of 0.1, in the order in which they came."""
    kinds = {name: kind_of_type(sql) for name, sql in declared(connection).items()}
    mixed = {
        name for name, kind in kinds.items() if kind in ("integer", "float") and _has_text(connection, name)
    }
    numbered = _is_numbered(connection) if ROW_NUMBER in kinds else False
    seen_twice = connection.execute(
        f"SELECT count({quote(unique)}) - count(DISTINCT {quote(unique)}) FROM files"
    )
    (report.duplicates,) = seen_twice.fetchone()
    cursor = connection.cursor().execute("SELECT * FROM files ORDER BY rowid")
    names = [column[0] for column in cursor.description]
    for raw in cursor:
        row = dict(zip(names, raw, strict=True))
        key = row.pop(unique)
        if not is_key(key):
            report.invalid += 1
            continue
        if numbered:
            row.pop(ROW_NUMBER)
        times = {name: row.pop(name) for name in BOOKKEEPING & row.keys()}
        for name, value in row.items():
            _examine_typed(report.damage, name, value, kinds[name], mixed=name in mixed)
        values = {name: value_of(value, kinds[name]) for name, value in row.items()}
        yield Old(key, _flat(values), times)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Cut objects flat as today's version does; one that clashes with another column stays as text."""
    try:
        return flatten(values)
    except DocumentError:
        return {
            name: orjson.dumps(value).decode() if isinstance(value, dict) else value
            for name, value in values.items()
        }


def _has_text(connection: sqlite3.Connection, name: str) -> bool:
    found = connection.execute(f"SELECT 1 FROM files WHERE typeof({quote(name)}) = 'text'").fetchone()
    return found is not None


def _is_numbered(connection: sqlite3.Connection) -> bool:
    """Whether `id` is no more than the number of the row, which dataset gives where a document has none."""
    count, first, last = connection.execute("SELECT count(*), min(id), max(id) FROM files").fetchone()
    return bool(count == 0 or (first, last) == (1, count))


def _examine_typed(damage: Mapping[str, Damage], name: str, raw: Any, kind: Kind, *, mixed: bool) -> None:
    if kind == "text" and isinstance(raw, str):
        if raw.startswith("["):
            damage[name].lists += is_list(raw)
        elif reads_as_number(raw):
            damage[name].numbers += 1
    elif (mixed and isinstance(raw, int | float)) or (
        kind == "float" and isinstance(raw, float) and raw.is_integer()
    ):
        damage[name].numbers += 1


# --- 0.4


def part_columns(folder: Path) -> set[str]:
    """Return the columns of all parts, bookkeeping left out."""
    found: set[str] = set()
    for path in parts(folder):
        with path.open(encoding="utf-8", newline="") as file:
            found.update(next(csv.reader(file), []))
    return found - BOOKKEEPING


@contextmanager
def parts_read(folder: Path, unique: str, report: Report) -> Iterator[Iterator[Old]]:
    """Give the documents of a catalog of 0.4: its parts since the last squashed one, put on top of each other.

    They are gathered in a temporary database, so no more than some hundred documents are in memory.
    """
    chosen = _since_squashed(parts(folder))
    with temporary(folder.parent) as draft, closing(sqlite3.connect(draft, isolation_level=None)) as gathered:
        gathered.execute("PRAGMA journal_mode=OFF")
        gathered.execute("PRAGMA synchronous=OFF")
        gathered.execute("CREATE TABLE old (key TEXT PRIMARY KEY, document TEXT)")
        gathered.execute("BEGIN")
        for path in chosen:
            for rows in chunks(_rows(path, unique, report)):
                _gather(gathered, rows)
        gathered.execute("COMMIT")
        yield _gathered(gathered, report)


def _since_squashed(found: list[Path]) -> list[Path]:
    last = max((n for n, path in enumerate(found) if path.suffix == ".squashed"), default=0)
    return found[last:]


def _gather(gathered: sqlite3.Connection, rows: list[tuple[str, dict[str, str | None]]]) -> None:
    marks = ",".join("?" * len(rows))
    found = gathered.execute(
        f"SELECT key, document FROM old WHERE key IN ({marks})", [key for key, _ in rows]
    )
    documents: dict[str, dict[str, Any]] = {key: orjson.loads(document) for key, document in found}
    for key, values in rows:
        documents.setdefault(key, {}).update(values)
    gathered.executemany(
        "INSERT INTO old VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET document = excluded.document",
        [(key, orjson.dumps(document).decode()) for key, document in documents.items()],
    )


def _gathered(gathered: sqlite3.Connection, report: Report) -> Iterator[Old]:
    for key, document in gathered.execute("SELECT key, document FROM old ORDER BY rowid"):
        values: dict[str, Any] = orjson.loads(document)
        times = {name: values.pop(name) for name in BOOKKEEPING & values.keys()}
        for name, value in values.items():
            _examine_text(report.damage, name, value)
        yield Old(key, values, times)


def _rows(path: Path, unique: str, report: Report) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Yield key and changed values of each row. A row that a killed process left unfinished is counted, not taken."""
    try:
        with _long_fields(), path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if header and unique not in header:
                raise CatalogError(
                    f"{path} has no column {unique!r}: set metadata.unique to the key of this archive"
                )
            for fields in _finished(reader, path, report):
                row = dict(zip(header, fields, strict=False))
                key = row.get(unique)
                if len(fields) != len(header) or key is None or not is_key(key):
                    report.invalid += 1
                    continue
                yield key, _changed(row, unique)
    except (csv.Error, UnicodeDecodeError) as error:
        raise CatalogError(
            f"{path} can't be read ({error}): restore it from a backup, or move it away"
        ) from error


def _finished(reader: Iterator[list[str]], path: Path, report: Report) -> Iterator[list[str]]:
    """Leave out the last row of a file that does not end with a line's end."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 1, 0))
        whole = file.read() in (b"\n", b"")
    before: list[str] | None = None
    for fields in reader:
        if before is not None:
            yield before
        before = fields
    if before is not None and whole:
        yield before
    elif before is not None:
        report.invalid += 1


def _changed(row: dict[str, str], unique: str) -> dict[str, str | None]:
    keys = row.pop(_KEYS, "")
    row.pop(unique)
    # Names may have commas, which 0.4 did not think of.
    return {name: value or None for name, value in row.items() if not keys or f",{name}," in f",{keys},"}


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _examine_text(damage: Mapping[str, Damage], name: str, text: str | None) -> None:
    if text is None:
        damage[name].empty += 1
    elif text == "True":
        damage[name].booleans += 1
    elif text.startswith("["):
        damage[name].lists += is_list(text)
    elif reads_as_number(text):
        damage[name].numbers += 1


# --- texts that may have been something else


def reads_as_number(text: str) -> bool:
    """Whether a number, written out, looks like this: "007" does not."""
    if len(text) > 40 or (not text[:1].strip("-").isdecimal() and not text[1:2].isdecimal()):
        return False
    for number in (int, float):
        try:
            if str(number(text)) == text:
                return True
        except (ValueError, OverflowError):
            continue
    return False


def is_list(text: str) -> bool:
    """Whether a list, written out as JSON or as Python does, looks like this."""
    return list_of(text) is not None


def list_of(text: str) -> list[Any] | None:
    """Return the list that the text was, None for other text."""
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            with warnings.catch_warnings(action="ignore"):  # the text is nobody's program
                value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list):
            return value
    return None


def time_of(raw: Any) -> str | None:
    """Return a time as today's columns have it; old versions wrote them without an offset, so they are read as UTC."""
    from mmmeta_core.types import format_time

    try:
        return format_time(parse_time(raw)) if isinstance(raw, str) else None
    except (ValueError, Misfit):
        return None
