"""The documents in the archive: each is there, under its name and with its size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mmmeta_core.config import Config, expand
from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.sqlite import CHUNK, chunks, quote, table_columns
from mmmeta_core.errors import (
    ConfigError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)
from mmmeta_core.remotes import Remote
from mmmeta_core.remotes.base import is_name
from mmmeta_core.sources import ARCHIVE, PUBLIC_URL, has_digest, is_document
from mmmeta_core.types import Progress, Row
from mmmeta_core.verify.findings import Finding, Report

_WORKERS: Final = 8
_SIZE: Final = "size"
_MEND: Final = "restore it, or let the publisher push with files"


def look_at_documents(
    remote: Remote,
    catalog: Catalog,
    config: Config,
    report: Report,
    *,
    limit: int | None,
    newest: int,
    hashes: bool,
    progress: Progress | None,
) -> None:
    """Look for so many documents in the archive, picked at random; None is all. With `hashes` read them, too."""
    source = _source(catalog, config)
    if source is None or ARCHIVE in config.remote:
        report.counts["unnamed"] = catalog.count() if source is None else 0
        return
    live, name = source
    report.counts["unnamed"] = catalog.connection.execute(
        f"SELECT count(*) {live} AND {name} IS NULL"
    ).fetchone()[0]
    behind = max(newest - catalog.position.revision, 0)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="mmmeta-verify") as pool:
        for rows in _rows(catalog, f"{live} AND {name} IS NOT NULL", limit):
            looked = pool.map(lambda row: _look_for(remote, row, config, behind, hashes), rows)
            for number, one in enumerate(looked, report.counts["documents"] + 1):
                report.counts["documents"] = number
                report.counts["elsewhere"] += one.elsewhere
                report.counts["hashed"] += one.hashed
                report.findings += [one.finding] if one.finding is not None else []
                if progress is not None:
                    progress(number, limit)


def _source(catalog: Catalog, config: Config) -> tuple[str, str] | None:
    """Return the SQL for published documents that are not deleted, and for their file name; None when they have none."""
    there = {*catalog.kinds(), catalog.unique}
    if config.file_name not in there:
        return None
    live = "FROM files WHERE __deleted_at IS NULL"
    if table_columns(catalog.connection, "mmmeta_pending"):
        live += f" AND {catalog.quoted_key} NOT IN (SELECT key FROM mmmeta_pending)"
    return live, f"nullif({quote(config.file_name)}, '')"


def _rows(catalog: Catalog, source: str, limit: int | None) -> Iterator[list[Row]]:
    """Yield whole raw rows: a random sample, or all of them. No read is open while the caller has some."""
    key = catalog.quoted_key
    if limit is not None:
        sample = catalog.connection.execute(f"SELECT {key} {source} ORDER BY random() LIMIT ?", (limit,))
        for some in chunks([key for (key,) in sample.fetchall()]):
            yield list(catalog.rows(some).values())
        return
    after: tuple[Any, ...] = ()
    while True:
        further = f" AND {key} > ?" if after else ""
        page = catalog.connection.execute(
            f"SELECT {key} {source}{further} ORDER BY {key} LIMIT {CHUNK}", after
        ).fetchall()
        if not page:
            return
        yield list(catalog.rows(value for (value,) in page).values())
        after = page[-1]


@dataclass(frozen=True)
class Looked:
    """What was seen of one document."""

    finding: Finding | None = None
    elsewhere: bool = False
    hashed: bool = False


def _look_for(remote: Remote, row: Row, config: Config, behind: int, hashes: bool) -> Looked:
    name, key = str(row[config.file_name]), row[config.unique]
    url = f"{remote.url}/{name}"
    if not is_name(name):
        what = f"can't be in an archive, as the file name of document {key} says"
        return Looked(Finding(url, what, "let the publisher correct the file name", "document-name"))
    first = f"this catalog is {behind} revisions behind, so pull and verify again; else " if behind else ""
    try:
        there = remote.stat(name)
    except (RemoteUnreachableError, RemoteDeniedError, RemoteNotFoundError):
        raise
    except RemoteError as error:
        mend = "put the document there as a plain file"
        return Looked(Finding(url, f"can't be looked at ({error})", mend, "document-unreadable"))
    if there is None:
        if _is_elsewhere(row, config):
            return Looked(elsewhere=True)
        what = f"is missing, the file of document {key}"
        mend = "restore it, or let the publisher push with files, or delete the document"
        return Looked(Finding(url, what, first + mend, "document-missing"))
    size = row.get(_SIZE)
    if isinstance(size, int) and size != there.size:
        what = f"has {there.size} bytes, document {key} says {size}"
        return Looked(Finding(url, what, first + _MEND, "document-size"))
    return _read(remote, name, row, config, first) if hashes else Looked()


def _read(remote: Remote, name: str, row: Row, config: Config, first: str) -> Looked:
    """Read the document, if its key or a column is a digest of it."""
    url, key = f"{remote.url}/{name}", row[config.unique]
    if not has_digest(row, config):
        return Looked()
    with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
        path = Path(folder) / "document"
        try:
            remote.fetch(name, path)
        except RemoteNotFoundError:
            what = f"is gone since it was looked for, the file of document {key}"
            return Looked(Finding(url, what, first + _MEND, "document-missing"))
        if is_document(path, row, config) is False:
            what = f"is not document {key}: its content has another hash"
            return Looked(Finding(url, what, first + _MEND, "document-content"))
    return Looked(hashed=True)


def _is_elsewhere(row: Row, config: Config) -> bool:
    """Whether the publisher names another place for the document than the archive."""
    if row.get(PUBLIC_URL):
        return True
    for template in config.remote.values():
        try:
            expand(template, row)
        except ConfigError:  # it needs a column that this document does not have
            continue
        return True
    return False
