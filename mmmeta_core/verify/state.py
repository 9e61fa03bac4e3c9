"""The state db: whose columns are whose, published columns as the catalog has them, and the notes about work."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, STATE_BOOKKEEPING, fold
from mmmeta_core.database.lineage import PAST
from mmmeta_core.database.sqlite import quote, table_columns
from mmmeta_core.types import KINDS
from mmmeta_core.verify.compare import TIME, UPDATED, Rows, attached, differing
from mmmeta_core.verify.findings import Report

_MEND: Final = "repair: it is taken from the catalog again, and your own columns stay"
_MEND_COLUMNS: Final = "repair, or restore the state db from a backup"
_MEND_VALUES: Final = "set them anew: what they were is not known"
_MEND_WORK: Final = "repair: what can't be a note is dropped, so that these documents are due again"
BAD_CLAIM: Final = f"lease_until IS NOT NULL AND lease_until NOT GLOB '{TIME}'"
"""SQL on a row of `mmmeta_work`: who is at the document is not known."""
BAD_FAILURE: Final = (
    "typeof(attempts) <> 'integer' OR attempts < 0 OR typeof(set_aside) <> 'integer' OR set_aside NOT IN (0, 1) "
    f"OR (error IS NOT NULL AND (failed_at IS NULL OR failed_at NOT GLOB '{TIME}')) "
    f"OR (not_before IS NOT NULL AND not_before NOT GLOB '{TIME}')"
)
"""SQL on a row of `mmmeta_work`: how often and when it failed is not known."""
BAD_DOWNLOAD: Final = (
    "typeof(folder) <> 'text' OR folder NOT GLOB '/*' "
    "OR typeof(name) <> 'text' OR name = '' OR name GLOB '/*'"
)
"""SQL on a row of `mmmeta_downloads`: it names no file."""
BAD_RUN: Final = f"last_run IS NOT NULL AND last_run NOT GLOB '{TIME}'"
"""SQL on a row of `mmmeta_pipelines`: when it ran is not known."""


def look_at_state(connection: sqlite3.Connection, path: Path, catalog: Path | None, report: Report) -> None:
    """Look at what the tables say; `catalog` is the file of one that is whole."""
    info = dict(connection.execute("SELECT key, value FROM mmmeta_info"))
    _check_notes(info)
    columns = _look_at_columns(connection, path, info["unique"], report)
    _look_at_values(connection, path, columns, report)
    for table, condition, what in (
        ("mmmeta_work", BAD_CLAIM, "claims"),
        ("mmmeta_work", BAD_FAILURE, "failures"),
        ("mmmeta_downloads", BAD_DOWNLOAD, "downloads"),
        ("mmmeta_pipelines", BAD_RUN, "pipelines"),
    ):
        (count,) = connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone()
        if count:
            report.find("state-work", path, f"has notes of {what} that can't be: {count}", _MEND_WORK)
    if catalog is None or report.has_code("state-columns"):
        return
    with attached(connection, catalog):
        connection.execute("BEGIN")  # one moment of this database, whoever writes meanwhile
        try:
            differences = list(_differences(connection, report))
        finally:
            connection.execute("ROLLBACK")
    if differences:
        report.find("state-differs", path, f"is not what the catalog says ({'; '.join(differences)})", _MEND)


def _check_notes(info: Mapping[str, Any]) -> None:
    """Raise for notes that can't be."""
    if int(info.get("revision", 0)) < 0:
        raise ValueError("the merged revision can't be")
    for name, kind in (("store", dict), ("clashes", list), (PAST, dict)):
        if name in info and not isinstance(orjson.loads(info[name]), kind):
            raise ValueError(f"its note {name!r} can't be")


def _look_at_columns(
    connection: sqlite3.Connection, path: Path, unique: str, report: Report
) -> dict[str, tuple[str, str]]:
    """Return kind and owner by name of the columns that the table has; note those that only one of the two has."""
    said = {
        name: (kind, owner)
        for name, kind, owner in connection.execute("SELECT name, kind, owner FROM mmmeta_columns")
    }
    bookkeeping = {*PUBLISHED_BOOKKEEPING, *STATE_BOOKKEEPING}
    there = {*table_columns(connection, "files")} - {unique}
    if bookkeeping - there:
        raise ValueError(f"the column {min(bookkeeping - there)} is missing")
    wrong = [
        *(f"{name} is not in the table" for name in sorted({*said} - there)),
        *(f"{name} has no owner" for name in sorted(there - {*said} - bookkeeping)),
        *(
            f"{name} is a column of kind {kind} of {owner}"
            for name, (kind, owner) in sorted(said.items())
            if kind not in KINDS or owner not in ("publisher", "client")
        ),
    ]
    if wrong:
        report.find("state-columns", path, f"has columns that can't be ({'; '.join(wrong)})", _MEND_COLUMNS)
    return {name: of for name, of in said.items() if name in there}


def _look_at_values(
    connection: sqlite3.Connection, path: Path, columns: Mapping[str, tuple[str, str]], report: Report
) -> None:
    """Note values of the client's own that are not of their column's kind."""
    own = {name: kind for name, (kind, owner) in columns.items() if owner == "client"}
    own |= {
        name: kind for name, kind in STATE_BOOKKEEPING.items() if name in table_columns(connection, "files")
    }
    tests = {
        "boolean": "{c} IS NOT NULL AND (typeof({c}) <> 'integer' OR {c} NOT IN (0, 1))",
        "json": "{c} IS NOT NULL AND NOT json_valid({c})",
        "datetime": "{c} IS NOT NULL AND (typeof({c}) <> 'text' OR {c} NOT GLOB '" + TIME + "')",
    }
    for name, kind in sorted(own.items()):
        if kind not in tests:
            continue
        condition = tests[kind].format(c=quote(name))
        (count,) = connection.execute(f"SELECT count(*) FROM files WHERE {condition}").fetchone()
        if count:
            what = f"has values in {name} that are no {kind}: {count}"
            report.find("state-values", path, what, _MEND_VALUES)


def _differences(connection: sqlite3.Connection, report: Report) -> Iterator[str]:
    """Yield what the published columns have otherwise than the catalog. What the next update merges is no difference."""
    info = dict(connection.execute("SELECT key, value FROM main.mmmeta_info"))
    unique, archive, revision = info["unique"], info.get("archive"), int(info.get("revision", 0))
    columns = {
        name: (kind, owner)
        for name, kind, owner in connection.execute("SELECT name, kind, owner FROM main.mmmeta_columns")
    }
    other = dict(connection.execute("SELECT key, value FROM other.mmmeta_info"))
    if not archive or (archive, unique) != (other.get("archive"), other.get("unique")):
        return  # it is merged anew
    if int(other.get("revision", 0)) < revision:
        return  # the catalog has to catch up
    mine = {fold(name) for name, (_, owner) in columns.items() if owner == "client"}
    compared = [*PUBLISHED_BOOKKEEPING]
    for name, kind, since in connection.execute(
        "SELECT name, kind, revision FROM other.mmmeta_columns"
    ).fetchall():
        if fold(name) in mine or since is None or since > revision:
            continue
        if columns.get(name) != (kind, "publisher"):
            yield f"there is no published column {name} of kind {kind}"
        else:
            compared.append(name)
    report.counts["compared"] += connection.execute(
        "SELECT count(*) FROM other.files WHERE __revision <= ?", (revision,)
    ).fetchone()[0]
    left_out = "EXISTS (SELECT 1 FROM other.mmmeta_pending p WHERE p.key = {k})"
    if not table_columns(connection, "mmmeta_pending", "other"):
        left_out = "0"
    names = [name for name in compared if name != UPDATED]
    yield from differing(connection, Rows(unique, names, left_out, revision))
