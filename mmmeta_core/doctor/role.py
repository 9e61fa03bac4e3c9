"""Whether a metadir is a publisher's, and where its metadata files are, as far as is given or was noted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmmeta_core.database.sqlite import connect
from mmmeta_core.errors import CatalogError
from mmmeta_core.paths import Paths


@dataclass(frozen=True)
class Role:
    """`files_root` is None at a client, and at a publisher whose documents come from Python."""

    publishes: bool
    files_root: Path | None


def role_of(paths: Paths, given: Path | None) -> Role:
    """Return the role that `given`, the files root, says; else what `generate` or changes that wait to be published say."""
    if given is not None:
        return Role(publishes=True, files_root=given)
    noted = _first(paths.scan, "SELECT value FROM info WHERE key = 'root'")
    if isinstance(noted, str):
        return Role(publishes=True, files_root=Path(noted))
    waits = _first(paths.meta, "SELECT 1 FROM mmmeta_pending LIMIT 1")
    return Role(publishes=waits is not None, files_root=None)


def _first(path: Path, query: str) -> Any:
    """Return the first value; None where there is none, or where it can't be read, which other checks tell."""
    try:
        if not path.stat().st_size:
            return None
        with closing(connect(path, pragmas={})) as connection:
            row = connection.execute(query).fetchone()
    except (OSError, CatalogError, sqlite3.Error):
        return None
    return row[0] if row else None
