"""How raw values of a catalog go into the typed columns of the server, and what does not fit them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from mmmeta_core.types import PLAIN_KINDS, Kind, Misfit, Sql, to_json

TYPES: Final[Mapping[Kind, str]] = {
    "text": 'text COLLATE "C"',
    "integer": "bigint",
    "float": "double precision",
    "boolean": "boolean",
    "datetime": "timestamptz",
    "json": "jsonb",
}
"""The type of the column of each kind. Text sorts by code points, as it does in SQLite."""

SYSTEM_COLUMNS: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
"""What no column of a table can be called."""

MOST_COLUMNS: Final[Mapping[str, int]] = {"publisher": 1_450, "client": 1_590}
"""Who may add a column to a table of how many; the server takes 1,600, dropped ones included."""

LONGEST_KEY: Final = 2_600
"""Bytes of a key: what an index of the server takes."""

_EXACT: Final = 2**53
_INT64: Final = 2**63
_UINT64: Final = 2**64
_EXPONENTS_FROM: Final = 1e16
_EXPONENT: Final = re.compile(r"[0-9]e\+?[0-9]")
_ROOM: Final = 7_800
"""Bytes of a row that stay when long values are moved out of it; a page has 8,160."""
_POINTER: Final = 18
"""Bytes that are left in the row of a value that is moved out."""


def typed(raw: Sql, kind: Kind, said: Kind) -> Any:
    """Return the raw value as its column takes it, without losing any of it. Raises `Misfit`.

    `said` is the kind as which the value was encoded.
    """
    if raw is None:
        return None
    if kind != said and not {kind, said} <= PLAIN_KINDS:
        raise Misfit(f"{said} in a column of {kind}")
    if kind == "boolean":
        return bool(raw)
    if isinstance(raw, str):
        # In JSON text NUL is written \\u0000.
        if kind in ("integer", "float") or "\0" in raw or (kind == "json" and _changes(raw)):
            raise Misfit("text that the column can't hold")
        return raw
    if kind == "integer" and (isinstance(raw, int) or (raw.is_integer() and -_INT64 <= raw < _INT64)):
        return int(raw)
    if kind == "float" and (isinstance(raw, float) or -_EXACT <= raw <= _EXACT):
        return float(raw)
    raise Misfit(f"{type(raw).__name__} in a column of {kind}")


def _changes(text: str) -> bool:
    """Whether jsonb refuses this JSON, or gives back an integer for a float: it writes numbers without exponents."""
    if "\\u0000" in text:
        return True
    if _EXPONENT.search(text) is None:
        return False
    left = [orjson.loads(text)]
    while left:
        value = left.pop()
        if isinstance(value, float) and _EXPONENTS_FROM <= abs(value) < _UINT64:
            return True
        if isinstance(value, dict | list):
            left.extend(value.values() if isinstance(value, dict) else value)
    return False


def fit(
    row: Mapping[str, Sql], kinds: Mapping[str, Kind], said: Mapping[str, Kind]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what goes into the columns, NULL for what does not, and that as JSON has it, by name.

    A name that `kinds` lacks has no column; `said` are the kinds as which the values were encoded.
    """
    values: dict[str, Any] = {}
    rescued: dict[str, Any] = {}
    for name, raw in row.items():
        kind = kinds.get(name)
        if kind is None:
            if raw is not None:
                rescued[name] = to_json(raw, said[name])
            continue
        try:
            values[name] = typed(raw, kind, said.get(name, kind))
        except Misfit:
            values[name] = None
            rescued[name] = to_json(raw, said.get(name, kind))
    if len(values) * _POINTER > _ROOM:
        _make_room(values, rescued, kinds)
    return values, rescued


def _make_room(values: dict[str, Any], rescued: dict[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Move the longest values out of a row that would not go into a page."""
    sizes = {name: _size(value) for name, value in values.items() if value is not None}
    total = sum(sizes.values()) + len(values) // 8
    for name in sorted((name for name in sizes if not name.startswith("__")), key=lambda one: -sizes[one]):
        if total <= _ROOM:
            return
        total -= sizes[name]
        value = values[name]
        rescued[name] = orjson.loads(value) if kinds[name] == "json" else value
        values[name] = None


def _size(value: Any) -> int:
    """Return how many bytes a value takes in its row at most, once what is long is moved out; with its alignment."""
    if isinstance(value, str):
        return min(len(value.encode()) + 4, _POINTER + 4) + 3
    return 8 + 7
