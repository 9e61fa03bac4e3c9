"""Rows as a segment of the change log has them: JSON values by column, only those that were said or differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from mmmeta_core.database.columns import PURGED, RESCUED
from mmmeta_core.database.rebase import same
from mmmeta_core.types import Kind, Misfit, Row, from_json, to_json


def to_base(row: Row, kinds: Mapping[str, Kind]) -> str:
    """Return a published row in the log's JSON form."""
    kept = {name: to_json(row[name], kind) for name, kind in kinds.items() if row.get(name) is not None}
    return orjson.dumps(kept).decode()


def is_purged(row: Mapping[str, Any] | None) -> bool:
    """Whether the document is one of which nothing may be left."""
    return row is not None and row.get("__deleted_reason") == PURGED


def difference(row: Row, base: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the columns of `row` that differ from the published `base`, in the log's JSON form."""
    delta = {}
    for name, kind in kinds.items():
        raw = row.get(name)
        if raw is None and base.get(name) is None:
            continue
        value = to_json(raw, kind)
        if not same(value, base.get(name)):
            delta[name] = value
    return delta


def weight(value: Any) -> int:
    """Return about how many bytes a value of JSON takes in memory. The reader has bounded its depth."""
    if isinstance(value, str):
        return 50 + len(value)
    if isinstance(value, dict):
        return 100 + sum(100 + len(name) + weight(one) for name, one in value.items())
    return 60 + sum(map(weight, value)) if isinstance(value, list) else 30


def to_row(values: str | Mapping[str, Any], kinds: Mapping[str, Kind]) -> Row:
    """Return raw values of the log's JSON form. Raises `Misfit` for a column that was never declared."""
    loaded: Mapping[str, Any] = orjson.loads(values) if isinstance(values, str) else values
    if not isinstance(loaded.get(RESCUED) or {}, Mapping):
        raise Misfit(f"{RESCUED} is no object")
    try:
        return {name: from_json(value, kinds[name]) for name, value in loaded.items()}
    except KeyError as error:
        raise Misfit(f"column {error} was never declared") from None
