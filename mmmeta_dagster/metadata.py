"""What materializations say about a metadir, in Dagster's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import dagster as dg

from mmmeta_core import Insight, Metadir

_SHOWN_ROWS = 20


def of_result(result: Any) -> dict[str, dg.MetadataValue[Any]]:
    """Return the counts of a verb's result as `mmmeta/…` entries."""
    return {f"mmmeta/{name}": _value(value) for name, value in dataclasses.asdict(result).items()}


def of_metadir(metadir: Metadir) -> dict[str, dg.MetadataValue[Any]]:
    """Return where a metadir stands: rows, place, revision, and when what it shows was published."""
    insight = metadir.inspect()
    metadata = {
        "dagster/row_count": dg.MetadataValue.int(insight.files),
        "dagster/uri": dg.MetadataValue.text(insight.remote or insight.path),
        "mmmeta/path": dg.MetadataValue.path(insight.path),
        "mmmeta/revision": dg.MetadataValue.int(insight.revision),
        "mmmeta/soft_deleted": dg.MetadataValue.int(insight.deleted),
        "mmmeta/pending": dg.MetadataValue.int(insight.pending),
    }
    return metadata | _times(insight)


def of_invalid(invalid: Iterable[tuple[str, str]]) -> dict[str, dg.MetadataValue[Any]]:
    """Return a table of the metadata files that could not be taken, if there are any."""
    return _table("mmmeta/invalid_documents", [{"path": p, "reason": r} for p, r in invalid])


def of_pipeline(metadir: Metadir, mark: str) -> dict[str, dg.MetadataValue[Any]]:
    """Return how many documents a pipeline has done in all, and a table of those it failed at last, if any."""
    rows = [
        {
            "document": str(failure.key),
            "attempts": failure.attempts,
            "error": failure.error,
            "failed_at": failure.failed_at.isoformat(timespec="seconds"),
            "set_aside": failure.set_aside,
        }
        for failure in metadir.failures(mark)
    ]
    done = metadir.files.count(**{mark: True})
    return {"dagster/row_count": dg.MetadataValue.int(done)} | _table("mmmeta/failures", rows)


def _times(insight: Insight) -> dict[str, dg.MetadataValue[Any]]:
    times = {
        "mmmeta/remote_last_updated": insight.remote_last_updated,
        "mmmeta/local_last_updated": insight.local_last_updated,
    }
    return {name: _value(time) for name, time in times.items() if time is not None}


def _table(name: str, rows: list[dict[str, Any]]) -> dict[str, dg.MetadataValue[Any]]:
    if not rows:
        return {}
    return {name: dg.MetadataValue.table([dg.TableRecord(row) for row in rows[:_SHOWN_ROWS]])}


def _value(value: Any) -> dg.MetadataValue[Any]:
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(round(value, 3))
    if isinstance(value, datetime):
        return dg.MetadataValue.timestamp(value.timestamp())
    if isinstance(value, str):
        return dg.MetadataValue.text(value)
    return dg.MetadataValue.json(list(value) if isinstance(value, tuple) else value)
