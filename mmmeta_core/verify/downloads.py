"""The downloads on this machine: each is there, and is the document that it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from mmmeta_core.config import Config
from mmmeta_core.database.sqlite import get_value, quote
from mmmeta_core.sources import is_content
from mmmeta_core.verify.findings import Report

_MEND_DOWNLOAD: Final = (
    "repair, or set the document's column that says downloaded to False, and download again into this folder"
)


def look_at_downloads(
    connection: sqlite3.Connection, config: Config, report: Report, *, limit: int | None
) -> None:
    """Look at so many downloads of documents that are not deleted, picked at random; None is all."""
    unique = get_value(connection, "mmmeta_info", "unique")
    found = connection.execute(
        f"SELECT d.folder, d.name, d.key FROM mmmeta_downloads d JOIN files f ON f.{quote(unique)} = d.key "
        "WHERE f.__deleted_at IS NULL ORDER BY random() LIMIT ?",
        (-1 if limit is None else limit,),
    )
    for folder, name, key in found.fetchall():
        path = Path(folder) / name
        report.counts["downloads"] += 1
        try:
            if not path.is_file():
                report.find("download-missing", path, f"is missing, the download of {key}", _MEND_DOWNLOAD)
            elif is_content(path, key, config) is False:
                what = f"is not the document {key}: it has another hash"
                report.find("download-content", path, what, _MEND_DOWNLOAD)
        except OSError as error:
            report.find(
                "download-unreadable", path, f"can't be read ({error.strerror})", "check its permissions"
            )
