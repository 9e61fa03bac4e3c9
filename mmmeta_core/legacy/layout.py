"""Which metadirs are old, and how their files are held and kept aside."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

from mmmeta_core.atomic import fsync_file, fsync_folder, temporary
from mmmeta_core.database.catalog import INHERITED
from mmmeta_core.database.sqlite import GUARDS, check_journal, connect, table_columns
from mmmeta_core.errors import CatalogError
from mmmeta_core.paths import Paths

Version: TypeAlias = Literal["0.1", "0.4"]

PARTS: Final = "db"
"""The folder in which 0.4 kept its catalog."""
STORE_KEYS: Final = ("meta_last_updated", "state_last_updated", "store_last_updated")
"""What both versions wrote into the store by themselves."""

_PART: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\.(append|squashed)")
_WAIT_SECONDS: Final = 10.0


def old_catalog(paths: Paths) -> Version | None:
    """Return which version wrote the catalog that is to be converted; None when there is none.

    Today's `meta.db` is never old. One that is empty does not hide the parts of 0.4 beside it.
    """
    columns = _columns(paths.meta)
    if parts(paths.root / PARTS) and (columns is not None or _is_unused(paths.meta)):
        return "0.4"
    return "0.1" if columns and "__meta_last_updated" in columns else None


def has_old_files(paths: Paths) -> bool:
    """Whether there is a catalog to convert, or may be something left of one that was."""
    return old_catalog(paths) is not None or aside(paths, "0.4").exists()


def old_state(paths: Paths, state_db: Path) -> Path | None:
    """Return the state db that is to be converted into `state_db`: itself, or the metadir's where that is not there yet."""
    for path in (state_db,) if state_db.exists() else (paths.state,):
        if state_version(path) is not None:
            return path
    return None


def state_version(path: Path) -> Version | None:
    """Return which version wrote a state db; None for today's, an empty one, and all others."""
    columns = _columns(path)
    if not columns or "__state_last_updated" not in columns:
        return None
    return "0.4" if "__seen" in columns else "0.1"


def refuse_catalog(paths: Paths) -> None:
    """Raise `CatalogError` for a catalog that is still to be converted; for what only reads."""
    version = old_catalog(paths)
    if version is not None:
        where = paths.meta if version == "0.1" else paths.root / PARTS
        raise CatalogError(
            f"{where} was written by mmmeta {version}: run `mmmeta update` once (a publisher `mmmeta generate`), "
            "which converts it in place and keeps the old files aside"
        )


def refuse_state(paths: Paths, state_db: Path) -> None:
    """Raise `CatalogError` for a state db that is still to be converted; for what only reads."""
    state = old_state(paths, state_db)
    if state is not None:
        raise CatalogError(
            f"{state} was written by mmmeta {state_version(state)}: run `mmmeta update` once, which converts it in place "
            "and keeps the old file aside"
        )


def parts(folder: Path) -> list[Path]:
    """Return the files of a catalog of 0.4, in the order in which it read them."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if _PART.fullmatch(path.name) and path.is_file()), key=str
    )


def aside(paths: Paths, version: Version) -> Path:
    """Return the folder that keeps what was old."""
    return paths.root / f"old-{version}"


@contextmanager
def held(path: Path) -> Iterator[sqlite3.Connection]:
    """Give an old database of one closed file, which nobody else can read or write until the end of the block.

    SQLite puts what is in a log beside it into the file first. Raises `CatalogError` when another program has it open.
    """
    check_journal(path)
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_SECONDS, isolation_level=None
    )
    with closing(connection):
        try:
            for name, value in {**GUARDS, "journal_mode": "DELETE"}.items():
                connection.execute(f"PRAGMA {name}={value}")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("PRAGMA query_only=ON")
        except sqlite3.DatabaseError as error:
            raise CatalogError(
                f"{path}, which is to be converted, can't be held ({error}): stop the programs that use it and run again; "
                "if it is damaged, restore it from a backup or move it away"
            ) from error
        yield connection


def keep(path: Path, folder: Path) -> Path:
    """Give the file a second name in `folder`, durably, or a copy there; idempotent. Returns that name."""
    import filecmp
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        kept = folder / (path.name if number == 1 else f"{path.name}.{number}")
        if not kept.exists():
            break
        if kept.samefile(path) or filecmp.cmp(kept, path, shallow=False):
            return kept
        number += 1
    try:
        os.link(path, kept)
    except OSError:  # a file system without links, or another one
        with temporary(folder.parent) as draft:
            shutil.copyfile(path, draft)
            fsync_file(draft)
            draft.replace(kept)
    fsync_folder(folder)
    return kept


def set_store_keys_aside(paths: Paths, folder: Path) -> None:
    """Move what old versions wrote into the store by themselves out of it: nobody keeps it up to date any more."""
    for key in STORE_KEYS:
        path = paths.store / key
        if path.is_file() and not path.is_symlink():
            (folder / paths.store.name).mkdir(parents=True, exist_ok=True)
            path.replace(folder / paths.store.name / key)


def _columns(path: Path) -> list[str] | None:
    """Return the columns of an old database's documents, empty when there is no database; None for today's and foreign."""
    if not path.is_file() or path.stat().st_size == 0:
        return []
    try:
        # Not read only: SQLite itself may have to undo what a killed writer left.
        with closing(connect(path, pragmas={})) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version or table_columns(connection, "mmmeta_info"):
                return None
            return table_columns(connection, "files")
    except (sqlite3.DatabaseError, CatalogError):  # who is to use it says what is wrong
        return None


def _is_unused(path: Path) -> bool:
    """Whether a `meta.db` is today's and never had a document."""
    try:
        with closing(connect(path, pragmas={})) as connection:
            if not table_columns(connection, "mmmeta_info"):
                return False
            (revision,) = connection.execute(
                "SELECT max(CAST(value AS INTEGER)) FROM mmmeta_info WHERE key = 'revision'"
            ).fetchone()
            documents = connection.execute("SELECT 1 FROM files").fetchone()
            noted = (
                table_columns(connection, "mmmeta_local")
                and connection.execute("SELECT 1 FROM mmmeta_local WHERE key = ?", (INHERITED,)).fetchone()
            )
            return not revision and documents is None and not noted
    except (sqlite3.DatabaseError, CatalogError):
        return False
