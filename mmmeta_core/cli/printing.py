"""Results as people and as programs read them: tables on a terminal, tab-separated lines in a pipe, JSON on request."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, Final

import click
import orjson

from mmmeta_core.cli.session import printable
from mmmeta_core.cli.tables import is_terminal, print_list, print_table

_PARTS: Final = frozenset({"pulled", "generated", "pushed", "files"})


def echo_json(value: Any) -> None:
    """Print one JSON document on one line; times as ISO 8601."""
    click.echo(_json(value))


def echo_result(result: Any, *, as_json: bool) -> None:
    """Print a verb's result: its counts on one line, or as JSON."""
    values = plain(result)
    if as_json:
        echo_json(values)
        return
    counts = {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in _flat(values)}
    echo_counts(counts)


def echo_counts(counts: Mapping[str, Any]) -> None:
    """Print counts on one line; on a terminal what is nothing is less bright."""
    styles = [{"dim": True} if value == 0 else {} for value in counts.values()]
    print_list([f"{name} {text(value)}" for name, value in counts.items()], styles)


def plain(result: Any) -> Any:
    """Return a result as dicts and lists; results within it that are None are left out."""
    return _present(dataclasses.asdict(result))


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _present(value) if name in _PARTS and isinstance(value, dict) else value
        for name, value in values.items()
        if not (name in _PARTS and value is None)
    }


def text(value: Any) -> str:
    """Return a value as one line of text, without control characters."""
    return "" if value is None else printable(_cell(value)).replace("\n", " ").replace("\t", " ")


def echo_raw(value: str, *, nl: bool = True) -> None:
    """Print text that others wrote: as it is into a pipe or file, without control characters on a terminal."""
    click.echo(printable(value) if is_terminal() else value, nl=nl)


def echo_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, how: str) -> None:
    """Print rows as `json` lines, `csv`, or a `table`, which is tab-separated when stdout is no terminal. Streams."""
    if how == "json":
        for row in rows:
            echo_json({column: row[column] for column in columns})
    elif how == "csv":
        import csv
        import io

        for line in chain([columns], ([_cell(row[c]) for c in columns] for row in rows)):
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerow(line)
            echo_raw(buffer.getvalue(), nl=False)
    elif is_terminal():
        print_table(iter(rows), columns)
    else:
        for row in rows:
            click.echo("\t".join(text(row[column]) for column in columns))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return _json(value) if isinstance(value, list | tuple | dict) else str(value)


def _json(value: Any) -> str:
    try:
        plain = orjson.dumps(value, default=str).decode()
    except TypeError:  # integers beyond 64 bits and lone surrogates, which JSON can say all the same
        return json.dumps(value, default=_json_value, separators=(",", ":"))
    # JSON leaves DEL, C1 controls and characters that turn or hide text as they are, and a terminal obeys them.
    return plain if plain.isprintable() else "".join(map(_escaped, plain))


def _escaped(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


def _json_value(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
