"""Export: documents → one file that other programs read. Streams: memory does not grow with the documents."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, TypeAlias, get_args

import orjson

from mmmeta_core.atomic import fsync_file, fsync_folder, temporary
from mmmeta_core.database.sqlite import chunks, quote
from mmmeta_core.errors import ConfigError
from mmmeta_core.files import File, Files
from mmmeta_core.types import Kind, Misfit, Progress, coerce, encode

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
_BATCH: Final = 5_000
RESCUED: Final = "rescued"


@dataclass(frozen=True)
class ExportResult:
    """What was written, and its size in bytes."""

    documents: int
    bytes: int


@dataclass(frozen=True)
class Selection:
    """Which documents, and which of their columns with what kinds."""

    files: Iterator[File]
    kinds: Mapping[str, Kind]
    whole: bool

    def values(self, file: File) -> dict[str, Any]:
        """Return a document's values by column, those without a column under `rescued`."""
        values = {name: file.get(name) for name in self.kinds}
        if RESCUED in values:
            values[RESCUED] = {
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
    progress: Progress | None = None,
    filters: Mapping[str, Any],
) -> ExportResult:
    """Write the matching documents into `target`: a path, or an open binary file for CSV and JSON lines.

    The format comes from the path's suffix unless given. A file appears whole or not at all, and replaces one of its
    name. Columns are the key, the published and the client's own, bookkeeping left out unless asked for. Times are
    ISO 8601 in UTC, or the format's own; lists are JSON; what has no column is in one named `rescued`.
    Raises `ConfigError`, and OSError.
    """
    chosen = format or _format_of(target)
    if chosen not in FORMATS:
        raise ConfigError(f"there is no format {chosen!r}; there are: {', '.join(FORMATS)}")
    kinds = files.kinds(columns)
    if columns is None and chosen != "jsonl" and files.count(__rescued={"not": None}, deleted=None):
        kinds[RESCUED] = "json"
    total = files.count(deleted=deleted, **filters) if progress is not None else None
    found = files.find(deleted=deleted, **filters)
    selection = Selection(_counted(found, total, progress), kinds, whole=columns is None)
    if not isinstance(target, Path):
        if chosen not in _STREAMS:
            raise ConfigError(f"{chosen} needs a file of its own: give a path")
        return _STREAMS[chosen](selection, target)
    with _whole(target) as draft:
        if chosen == "sqlite":
            count = _sqlite(selection, draft)
        elif chosen == "parquet":
            count = _parquet(selection, draft)
        else:
            with draft.open("wb") as file:
                count = _STREAMS[chosen](selection, file).documents
        return ExportResult(count, draft.stat().st_size)


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
    with temporary(path.parent) as draft:
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
    rows = ([_cell(value) for value in selection.values(file).values()] for file in selection.files)
    size += target.write(_line(list(selection.kinds)))
    for row in rows:
        size += target.write(_line(row))
        documents += 1
    return ExportResult(documents, size)


def _line(cells: Sequence[Any]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode(errors="backslashreplace")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else value


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
        return _json(value)


def _parquet(selection: Selection, path: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ConfigError("parquet needs the package pyarrow: pip install 'mmmeta[parquet]'") from None
    kinds = {**selection.kinds, RESCUED: "json"}
    schema = pyarrow.schema([(name, _arrow(kind)) for name, kind in kinds.items()])
    documents = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for some in chunks(selection.files, _BATCH):
            rows = [_typed(selection.values(file), selection.kinds) for file in some]
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


def _typed(values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the values as typed columns take them; what has another kind goes under `rescued`."""
    row: dict[str, Any] = {}
    rescued: dict[str, Any] = dict(values.get(RESCUED) or {})
    for name, value in values.items():
        if name == RESCUED or value is None:
            continue
        try:
            row[name] = _json(value) if kinds[name] == "json" else coerce(value, kinds[name])
        except Misfit:
            rescued[name] = value
    return {**row, RESCUED: _json(rescued) if rescued else None}


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
