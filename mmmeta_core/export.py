"""Export: documents → one file that other programs read. Streams: memory does not grow with the documents."""

from __future__ import annotations

import csv
import io
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, TypeAlias, cast, get_args

import orjson

from mmmeta_core.atomic import fsync_file, fsync_folder, sweep, temporary
from mmmeta_core.database.columns import RESCUED as COLUMN
from mmmeta_core.database.columns import STATE_RESCUED as STATE_COLUMN
from mmmeta_core.database.columns import fold
from mmmeta_core.database.sqlite import chunks, quote
from mmmeta_core.errors import ConfigError, RefusedError
from mmmeta_core.files import File, Files
from mmmeta_core.notebook import Shown
from mmmeta_core.paths import NAME
from mmmeta_core.trouble import naming
from mmmeta_core.types import PLAIN_KINDS, Kind, Misfit, Progress, encode, kind_of

if TYPE_CHECKING:
    import pyarrow

Format: TypeAlias = Literal["csv", "jsonl", "parquet", "sqlite"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

_SUFFIXES: Final[Mapping[str, Format]] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".db": "sqlite",
    ".sqlite": "sqlite",
}
_BATCH: Final = 2_000
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_ARGUMENTS: Final = frozenset({"_limit", "_offset", "_step", "_streamed", "order_by"})
"""What `find` takes besides filters."""

RESCUED: Final = "rescued"


@dataclass(frozen=True)
class ExportResult(Shown):
    """What was written, and its size in bytes."""

    documents: int
    bytes: int


@dataclass(frozen=True)
class Selection:
    """Which documents, and which of their columns with what kinds; `rescued` is the column for what has no other."""

    files: Iterator[File]
    kinds: Mapping[str, Kind]
    whole: bool
    rescued: str
    spreadsheet: bool = False

    def values(self, file: File) -> dict[str, Any]:
        """Return a document's values by column, those without a column under `rescued`."""
        values = {name: file.get(name) for name in self.kinds}
        if self.rescued in values:
            values[self.rescued] = {
                n: v for n, v in file.items() if n not in values and not n.startswith("__")
            } or None
        return values


def export(
    files: Files,
    target: Path | BinaryIO,
    format: Format | None = None,  # noqa: A002 - what users call it
    *,
    columns: Sequence[str] | None = None,
    deleted: bool | None = False,
    spreadsheet: bool = False,
    progress: Progress | None = None,
    filters: Mapping[str, Any],
) -> ExportResult:
    """Write the matching documents into `target`: a path, or an open binary file for CSV and JSON lines.

    The format comes from the path's suffix unless given. A file appears whole or not at all, and replaces one of its
    name. Columns are the key, the published and the client's own, bookkeeping left out unless asked for. Times are
    ISO 8601 in UTC, or the format's own; lists are JSON; what has no column is in one named `rescued`.
    Values are written as they are, and spreadsheet programs run CSV cells that begin with `=`, `+`, `-` or `@` as formulas:
    with `spreadsheet` an apostrophe stands before text that begins so, which is another value then.
    Raises `ConfigError`, `RefusedError` for a path inside a metadir, and OSError.
    """
    chosen = format or _format_of(target)
    if chosen not in FORMATS:
        raise ConfigError(f"there is no format {chosen!r}; there are: {', '.join(FORMATS)}")
    if not isinstance(target, Path) and chosen not in _STREAMS:
        raise ConfigError(f"{chosen} needs a file of its own: give a path")
    if spreadsheet and chosen != "csv":
        raise ConfigError(f"only CSV can be made for spreadsheets, not {chosen}")
    path = _checked(target) if isinstance(target, Path) else None
    kinds = files.kinds(_chosen(columns))
    rescued = RESCUED
    while any(fold(name) == fold(rescued) for name in kinds):
        rescued += "_"
    if columns is None and chosen != "jsonl" and _has_rescued(files):
        kinds[rescued] = "json"
    total = _total(files, deleted, filters) if progress is not None else None
    found = files.find(deleted=deleted, **filters)
    selection = Selection(_counted(found, total, progress), kinds, columns is None, rescued, spreadsheet)
    if path is None:
        return _STREAMS[chosen](selection, cast("BinaryIO", target))
    with _whole(path) as draft:
        if chosen == "sqlite":
            count = _sqlite(selection, draft)
        elif chosen == "parquet":
            count = _parquet(selection, draft)
        else:
            with draft.open("wb") as file:
                count = _STREAMS[chosen](selection, file).documents
        size = draft.stat().st_size
    return ExportResult(count, size)


def _checked(target: Path) -> Path:
    """Return the file that is written, which a link may lead to."""
    path = Path(os.path.realpath(target))
    if NAME in path.parts:
        raise RefusedError(
            f"{target} is inside a metadir, which mmmeta keeps for itself: choose another folder"
        )
    if path.exists() and not path.is_file():
        raise ConfigError(f"{target} is not a file, so it can't be replaced by one: choose another name")
    return path


def _chosen(columns: Sequence[str] | None) -> list[str] | None:
    if columns is None:
        return None
    if isinstance(columns, str) or not columns:
        raise ConfigError(f"columns is a list of at least one name, not {columns!r:.80}")
    chosen: dict[str, str] = {}
    for name in columns:
        chosen.setdefault(fold(name), name)
    return list(chosen.values())


def _has_rescued(files: Files) -> bool:
    return any(files.count(deleted=None, **{name: {"not": None}}) for name in (COLUMN, STATE_COLUMN))


def _total(files: Files, deleted: bool | None, filters: Mapping[str, Any]) -> int:
    """Return how many documents there will be."""
    conditions = {name: value for name, value in filters.items() if name not in _ARGUMENTS}
    found = files.count(deleted=deleted, **conditions) - (filters.get("_offset") or 0)
    limit = filters.get("_limit")
    return max(found if limit is None else min(found, limit), 0)


def _format_of(target: Path | BinaryIO) -> Format:
    suffix = target.suffix.lower() if isinstance(target, Path) else ""
    if suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise ConfigError(
            f"the format can't be told from the name {suffix!r}: name it, or use one of {known}"
        )
    return _SUFFIXES[suffix]


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    sweep(path.parent)
    with naming(path), temporary(path.parent) as draft:
        yield draft
        fsync_file(draft)
        draft.replace(path)
    fsync_folder(path.parent)


def _counted(files: Iterator[File], total: int | None, progress: Progress | None) -> Iterator[File]:
    for number, file in enumerate(files, 1):
        yield file
        if progress is not None and number % 100 == 0:
            progress(number, total)
    if progress is not None and total is not None:
        progress(total, total)


def _csv(selection: Selection, target: BinaryIO) -> ExportResult:
    size = documents = 0
    cell = _harmless if selection.spreadsheet else _cell
    rows = ([cell(value) for value in selection.values(file).values()] for file in selection.files)
    size += target.write(_line([cell(name) for name in selection.kinds]))
    for row in rows:
        size += target.write(_line(row))
        documents += 1
    return ExportResult(documents, size)


def _line(cells: Sequence[Any]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(
        cells
    )  # so that either of the two in a value is quoted
    return buffer.getvalue().removesuffix("\r\n").encode(errors="backslashreplace") + b"\n"


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else value


def _harmless(value: Any) -> Any:
    """Return a cell that no spreadsheet program takes for a formula; a number stays one."""
    cell = _cell(value)
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def _jsonl(selection: Selection, target: BinaryIO) -> ExportResult:
    size = documents = 0
    for file in selection.files:
        values = selection.values(file)
        if selection.whole:
            values |= {name: value for name, value in file.items() if not name.startswith("__")}
        size += target.write(orjson.dumps(values, default=str) + b"\n")
        documents += 1
    return ExportResult(documents, size)


_STREAMS: Final[Mapping[str, Callable[[Selection, BinaryIO], ExportResult]]] = {"csv": _csv, "jsonl": _jsonl}


def _sqlite(selection: Selection, path: Path) -> int:
    """Write a table `files`; times are ISO 8601 text, booleans 0 and 1, lists JSON text."""
    names = list(selection.kinds)
    documents = 0
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE files ({','.join(map(quote, names))})")
        for some in chunks(selection.files, _BATCH):
            marks = ",".join("?" * len(names))
            rows = [
                [_raw(value, selection.kinds[name]) for name, value in selection.values(file).items()]
                for file in some
            ]
            database.executemany(f"INSERT INTO files VALUES ({marks})", rows)
            documents += len(rows)
    return documents


def _raw(value: Any, kind: Kind) -> Any:
    try:
        return encode(value, kind)
    except Misfit:
        return _cell(value)


def _parquet(selection: Selection, path: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ConfigError("parquet needs the package pyarrow: pip install 'mmmeta[parquet]'") from None
    kinds: dict[str, Kind] = {**selection.kinds, selection.rescued: "json"}
    schema = pyarrow.schema([(name, _arrow(kind)) for name, kind in kinds.items()])
    documents = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for some in chunks(selection.files, _BATCH):
            rows = [_typed(selection.values(file), selection) for file in some]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            documents += len(rows)
    return documents


def _arrow(kind: Kind) -> pyarrow.DataType:
    import pyarrow

    types: dict[Kind, pyarrow.DataType] = {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "float": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
        "datetime": pyarrow.timestamp("us", tz="UTC"),
        "json": pyarrow.string(),
    }
    return types[kind]


def _typed(values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """Return the values as typed columns take them; what has another kind goes under `rescued`."""
    row: dict[str, Any] = {}
    rescued: dict[str, Any] = dict(values.get(selection.rescued) or {})
    for name, value in values.items():
        if name == selection.rescued or value is None:
            continue
        try:
            row[name] = _exact(value, selection.kinds[name])
        except Misfit:
            rescued[name] = value
    return {**row, selection.rescued: _json(rescued) if rescued else None}


def _exact(value: Any, kind: Kind) -> Any:
    """Return the value as a column of this kind has it, without a loss. Raises `Misfit`."""
    if kind == "json":
        return _json(value)
    own = kind_of(value)
    if own == kind:
        return value
    if kind == "text" and own in PLAIN_KINDS:
        return str(value)
    if (kind, own) == ("float", "integer") and int(float(value)) == value:
        return float(value)
    raise Misfit(f"{own} in a column of {kind}")


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
