"""Results as people and as programs read them: tables on a terminal, tab-separated lines in a pipe, JSON on request."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import Any

import click
import orjson

_SAMPLE = 200
_WIDEST = 60


def echo_json(value: Any) -> None:
    """Print one JSON document on one line; times as ISO 8601."""
    click.echo(orjson.dumps(value, default=str).decode())


def echo_result(result: Any, *, as_json: bool) -> None:
    """Print a verb's result: its counts on one line, or as JSON."""
    values = plain(result)
    if as_json:
        echo_json(values)
    else:
        click.echo(", ".join(f"{name} {text(value)}" for name, value in _flat(values)))


def plain(result: Any) -> Any:
    """Return a result as dicts and lists; results within it that are None are left out."""
    return {k: v for k, v in dataclasses.asdict(result).items() if not (k in _PARTS and v is None)}


_PARTS = frozenset({"pulled", "generated", "pushed"})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def text(value: Any) -> str:
    """Return a value as one line of text, without control characters."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    shown = (
        orjson.dumps(value, default=str).decode() if isinstance(value, list | tuple | dict) else str(value)
    )
    return "".join(c if c.isprintable() else " " for c in shown)


def echo_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, how: str) -> None:
    """Print rows as `json` lines, `csv`, or a `table`, which is tab-separated when stdout is no terminal. Streams."""
    if how == "json":
        for row in rows:
            echo_json({column: row.get(column) for column in columns})
    elif how == "csv":
        for line in chain([columns], ([_cell(row.get(c)) for c in columns] for row in rows)):
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerow(line)
            click.echo(buffer.getvalue(), nl=False)
    elif sys.stdout.isatty():
        _table(iter(rows), columns)
    else:
        for row in rows:
            click.echo("\t".join(text(row.get(column)) for column in columns))


def _cell(value: Any) -> str:
    return text(value) if isinstance(value, bool | list | dict | datetime) or value is None else str(value)


def _table(rows: Iterator[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print aligned columns; their widths come from the first rows."""
    sample = [[text(row.get(column)) for column in columns] for row in islice(rows, _SAMPLE)]
    widths = [min(max(map(len, cells)), _WIDEST) for cells in zip(columns, *sample, strict=True)]
    room = shutil.get_terminal_size().columns
    for cells in chain([list(columns)], sample, ([text(row.get(c)) for c in columns] for row in rows)):
        line = "  ".join(_fit(cell, width) for cell, width in zip(cells, widths, strict=True))
        click.echo(line[:room].rstrip())


def _fit(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"
