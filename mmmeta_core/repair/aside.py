"""Damaged files are kept: under a name beside their own, before anything takes their place."""

from __future__ import annotations

import errno
import fcntl
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import fsync_file, fsync_folder, temporary
from mmmeta_core.errors import CatalogError

SIDES: Final = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database; its changes are not complete without the first two."""
_KEPT_SIDES: Final = ("-journal", "-wal")
_SHARED_FIRST: Final = 0x40000002
_SHARED_SIZE: Final = 510


def keep_aside(path: Path, folder: Path | None = None) -> Path | None:
    """Keep the file, with what SQLite has beside it, under the name that this returns; None if there is no file.

    It keeps its own name, too, until something else gets that. Asked again after a kill, this goes on where it was.
    """
    if not path.exists():
        return None
    for number in count(1):
        aside = (folder or path.parent) / f"{path.name}.damaged-{number}"
        if aside.exists() and not _is_same(path, aside):
            continue
        for side in ("", *_KEPT_SIDES):
            _copy(side_of(path, side), side_of(aside, side))
        fsync_folder(aside.parent)
        return aside
    raise AssertionError  # pragma: no cover - numbers do not end


def take_place(draft: Path, path: Path) -> None:
    """Give a finished database the place of one that was kept aside, and whose journals must not be mixed with it."""
    fsync_file(draft)
    for side in SIDES:
        side_of(path, side).unlink(missing_ok=True)
    fsync_folder(path.parent)
    draft.replace(path)
    fsync_folder(path.parent)


def side_of(path: Path, side: str) -> Path:
    """Return the file beside a database; the database itself for no side."""
    return path.with_name(path.name + side)


@contextmanager
def database_draft(folder: Path) -> Iterator[Path]:
    """Give a path for a database that is to be made, and clear away what is left of it."""
    with temporary(folder) as draft:
        try:
            yield draft
        finally:
            for side in SIDES:
                side_of(draft, side).unlink(missing_ok=True)


@contextmanager
def database_copy(path: Path, folder: Path) -> Iterator[Path]:
    """Give a copy of a database that nobody writes to, journals included, to be read and changed at will."""
    with database_draft(folder) as draft:
        for side in ("", *_KEPT_SIDES):
            if side_of(path, side).exists():
                shutil.copyfile(side_of(path, side), side_of(draft, side))
        yield draft


def check_unused(path: Path) -> None:
    """Raise `CatalogError` if another process has the database open: what it writes would be lost with the file."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        try:
            # Where SQLite itself notes that somebody reads; this process has no connection now.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise CatalogError(f"another process has {path} open: end it, and repair again") from None


def _is_same(path: Path, aside: Path) -> bool:
    return path.samefile(aside) or filecmp.cmp(path, aside, shallow=False)


def _copy(path: Path, aside: Path) -> None:
    if aside.exists() or not path.exists():
        return
    with suppress(OSError):
        os.link(path, aside)
        return
    with temporary(aside.parent) as draft:  # this file system has no links
        shutil.copyfile(path, draft)
        fsync_file(draft)
        draft.replace(aside)
