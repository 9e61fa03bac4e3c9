"""How full the columns of a catalog are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.columns import column_name
from mmmeta_core.database.sqlite import quote


@dataclass(frozen=True)
class Fill:
    """How many documents there are, and how many of them have a value; None for a column that is not there."""

    documents: int
    values: Mapping[str, int | None]


def fill(catalog: Catalog, columns: Iterable[str]) -> Fill:
    """Count how many of the documents in the catalog have a value in each column; soft-deleted ones are left out."""
    there = {*catalog.kinds(), catalog.unique}
    names = {name: column if (column := column_name(name)) in there else None for name in columns}
    known = [column for column in names.values() if column is not None]
    counted = ",".join(["count(*)", *(f"count({quote(column)})" for column in known)])
    documents, *values = catalog.connection.execute(
        f"SELECT {counted} FROM files WHERE __deleted_at IS NULL"
    ).fetchone()
    found = dict(zip(known, values, strict=True))
    return Fill(
        documents, {name: None if column is None else found[column] for name, column in names.items()}
    )
