"""What files of a folder remote need of the file system beyond open, link and rename."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mmmeta_core.errors import RemoteError

if TYPE_CHECKING:
    from pathlib import Path


def etag_of(info: os.stat_result) -> str:
    """Return what differs between any two contents that a path has had."""
    return f"{info.st_mtime_ns:x}-{info.st_size:x}-{info.st_ino:x}"


def status(path: Path) -> os.stat_result | None:
    """Return what the file system knows of `path`, following links; None if there is nothing."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def refuse_folder(path: Path) -> None:
    """Raise if `path`, which is to be an object, is a folder."""
    if path.is_dir():
        raise RemoteError(f"{str(path)!r} is a folder, so no object can have this name: rename one of them.")


def make_newer(temporary: Path, old: os.stat_result | None) -> None:
    """Make the new file's time differ from that of the old one, so that their etags do.

    File systems' clocks tick in milliseconds and inodes are used again: without this the third of three
    quick writes could have the etag of the first.
    """
    new = temporary.stat()
    if old is not None and new.st_mtime_ns <= old.st_mtime_ns:
        os.utime(temporary, ns=(new.st_atime_ns, old.st_mtime_ns + 1))


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
