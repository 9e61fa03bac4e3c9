"""What materializations say about a metadir, in Dagster's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from mmmeta_core.store import decode_value
from mmmeta_core.types import Kind
from mmmeta_dagster.chart import bar_chart

if TYPE_CHECKING:
    from mmmeta_core import Insight, Metadir

REVISION: Final = "mmmeta/revision"
LEFT: Final = "mmmeta/left"
_SHOWN_ROWS: Final = 20
_PREVIEW_ROWS: Final = 5
_PREVIEW_COLUMNS: Final = 8
_PREVIEW_TEXT: Final = 60
_CHART_DAYS: Final = 30
_TYPES: Final[Mapping[Kind, str]] = {
    "text": "string",
    "integer": "int",
    "float": "float",
    "boolean": "bool",
    "datetime": "timestamp",
    "json": "json",
}


def of_result(result: Any) -> dict[str, dg.MetadataValue[Any]]:
    """Return the counts of a verb's result as `mmmeta/…` entries."""
    return {f"mmmeta/{name}": _value(value) for name, value in dataclasses.asdict(result).items()}


def of_insight(insight: Insight) -> dict[str, dg.MetadataValue[Any]]:
    """Return where a metadir stands: rows, place, revision, and when what it shows was published."""
    metadata = {
        "dagster/row_count": dg.MetadataValue.int(insight.files),
        "dagster/uri": dg.MetadataValue.text(insight.remote or insight.path),
        "mmmeta/path": dg.MetadataValue.path(insight.path),
        REVISION: dg.MetadataValue.int(insight.revision),
        "mmmeta/soft_deleted": dg.MetadataValue.int(insight.deleted),
        "mmmeta/pending": dg.MetadataValue.int(insight.pending),
    }
    return metadata | _times(insight)


def revision_of(instance: dg.DagsterInstance, key: dg.AssetKey) -> int | None:
    """Return the revision that an asset's last materialization tells of, None where none does."""
    records = instance.fetch_materializations(key, limit=1).records
    materialization = records[0].asset_materialization if records else None
    value = materialization.metadata.get(REVISION) if materialization is not None else None
    return value.value if isinstance(value, dg.IntMetadataValue) else None


def of_store(store: Mapping[str, str]) -> dict[str, dg.MetadataValue[Any]]:
    """Return when the archive was published last, from its store as `head.json` has it."""
    text = store.get("remote_last_updated")
    value = decode_value(text) if text is not None else None
    return {"mmmeta/remote_last_updated": _value(value)} if isinstance(value, datetime) else {}


def of_columns(unique: str, columns: Mapping[str, Kind], table: str) -> dict[str, dg.MetadataValue[Any]]:
    """Return the published columns as a table's schema, and the table's name."""
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(
                unique,
                "string",
                "The key.",
                constraints=dg.TableColumnConstraints(nullable=False, unique=True),
            ),
            *(dg.TableColumn(name, _TYPES[kind]) for name, kind in columns.items()),
        ]
    )
    return {
        "dagster/column_schema": dg.MetadataValue.table_schema(schema),
        "dagster/table_name": dg.MetadataValue.text(table),
    }


def of_documents(metadir: Metadir) -> dict[str, dg.MetadataValue[Any]]:
    """Return what a client sees: its columns, the newest documents, and a chart of the documents by day."""
    files = metadir.files
    kinds = files.kinds()
    unique = files.unique
    shown = [name for name in kinds if name != unique][:_PREVIEW_COLUMNS]
    rows = [
        {name: _preview(file.get(name)) for name in [unique, *shown]} for file in files.newest(_PREVIEW_ROWS)
    ]
    days = files.per_day("__meta_added", _CHART_DAYS)
    chart = {"mmmeta/added_by_day": dg.MetadataValue.md(bar_chart("documents added, by day", days))}
    columns = {name: kind for name, kind in kinds.items() if name != unique}
    return {
        **of_columns(unique, columns, "files"),
        **(chart if days else {}),
        **_table("mmmeta/newest", rows),
    }


def _preview(value: Any) -> str | int | float | bool:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    text = "" if value is None else str(value)
    return text if len(text) <= _PREVIEW_TEXT else text[: _PREVIEW_TEXT - 1] + "…"


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


def of_backlog(backlog: Sequence[tuple[datetime, int]]) -> dict[str, dg.MetadataValue[Any]]:
    """Return a chart of how many documents a pipeline had left after each of its last runs, the latest last.

    Nothing where there never was one left: a row of zeros is no picture.
    """
    if not any(left for _, left in backlog):
        return {}
    bars = [(f"{at:%m-%d %H:%M}", left) for at, left in backlog]
    return {"mmmeta/backlog": dg.MetadataValue.md(bar_chart("documents left, by run (UTC)", bars))}


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
