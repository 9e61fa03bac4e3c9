"""What is left of changes that wait here when somebody else's are published underneath: column by column, raw values.

A value that its column could not take is in `__rescued`, which is merged name by name, so that a later write to one name
never takes away what was said under another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from mmmeta_core.database.columns import RESCUED
from mmmeta_core.types import Row, Sql

_UPDATED: Final = "__meta_last_updated"


def left(
    here: Mapping[str, Any],
    before: Mapping[str, Any],
    published: Mapping[str, Any],
    columns: Iterable[str],
    now: str,
) -> Row:
    """Return what `here` still says otherwise than `published`; it said it otherwise than `before`, too.

    Empty when both say the same of the document, even if they said so at different times. Else it is a change that
    nobody has seen as it is now, made `now`.
    """
    mine = {name: here.get(name) for name in columns if not same(here.get(name), before.get(name))}
    rescued = _merge_rescued(mine, here, before, published)
    rest: Row = {name: value for name, value in mine.items() if not same(value, published.get(name))}
    rest.pop(RESCUED, None)
    if not same(rescued, published.get(RESCUED)):
        rest[RESCUED] = rescued
    if published.get("__meta_added") is not None:
        rest.pop("__meta_added", None)
    if "__deleted_reason" not in rest and here.get("__deleted_at") and published.get("__deleted_at"):
        rest.pop("__deleted_at", None)
    return {**rest, _UPDATED: now} if rest.keys() - {_UPDATED} else {}


def same(a: Any, b: Any) -> bool:
    """Whether two raw values are the same: 1, 1.0 and "1" are three values."""
    if isinstance(a, list | dict):
        return orjson.dumps(a) == orjson.dumps(b)
    return a is b or (type(a) is type(b) and bool(a == b))


def _merge_rescued(
    mine: Row, here: Mapping[str, Any], before: Mapping[str, Any], published: Mapping[str, Any]
) -> Sql:
    """Return `__rescued` as it is with both; a name that was rescued here is emptied in its column."""
    own, old, merged = (rescued_of(row) for row in (here, before, published))
    changed = {
        name for name in own.keys() | old.keys() if name not in own or not same(own[name], old.get(name))
    }
    for name in mine.keys() & merged.keys():
        del merged[name]  # the column was written here, later than that
    for name in changed:
        if name in own:
            merged[name] = own[name]
            if published.get(name) is not None:
                mine[name] = None
        else:
            merged.pop(name, None)
    return orjson.dumps(merged, option=orjson.OPT_SORT_KEYS).decode() if merged else None


def rescued_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row that found no column, by their own names."""
    kept: dict[str, Any] = orjson.loads(row.get(RESCUED) or "{}")
    return kept
