"""Files that appear whole or not at all: written beside their place, flushed to disk, then renamed.

A process that is killed leaves at most a file whose name begins with `.tmp-`. Nothing ever reads, lists or
publishes such a name; `sweep` removes it when it is old.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from mmmeta_core.trouble import naming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPORARY: Final = ".tmp-"
"""What the names of unfinished files begin with."""
ABANDONED_SECONDS: Final = 3600.0


@contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """Give a path in `folder` that no file has, and remove what is still there on leaving.

    The caller writes, fsyncs and renames the file; being in the same folder, the rename is atomic.
    """
    draft = folder / f"{TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace or create `path`, durably: a reader sees the old bytes or all of the new ones.

    Raises OSError, and then `path` is what it was. The folder must exist.
    """
    with naming(path), temporary(path.parent) as draft:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    fsync_folder(path.parent)


def sweep(folder: Path) -> int:
    """Remove the unfinished files in `folder` that nobody has written to for an hour; return how many.

    By the file system's own clock. Should their writer live after all, its rename fails and it has to run again.
    """
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        found = [folder / entry.name for entry in entries if entry.name.startswith(TEMPORARY)]
    if not found:
        return 0
    with temporary(folder) as now:
        now.touch()
        oldest = now.stat().st_mtime - ABANDONED_SECONDS
    removed = 0
    for path in found:
        with suppress(FileNotFoundError, PermissionError):  # another user's may stay; it is in nobody's way
            if path.stat(follow_symlinks=False).st_mtime < oldest:
                path.unlink()
                removed += 1
    return removed


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` (a rename, link or removal just done there) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems can't flush a folder; there is nothing more to be done there.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make what was written to `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
