"""What files of a folder remote need of the file system beyond open, link and rename."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

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


def stamp(draft: Path, old: os.stat_result | None = None) -> None:
    """Give the new file a time that no file at its path had before, so that their etags differ.

    File systems' clocks tick in milliseconds and inodes are used again: without this an object that is
    removed and created, or replaced twice, could have the etag of the first. Shares may keep microseconds.
    """
    now = time.time_ns()
    if old is not None:
        now = max(now, old.st_mtime_ns + 1_000_000)
    with suppress(PermissionError):  # some shares give new files to another user
        os.utime(draft, ns=(now, now))


def open_object(path: Path) -> BinaryIO:
    """Open a regular file for reading; anything else, also a pipe that would block, is FileNotFoundError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return os.fdopen(descriptor, "rb")


def is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether a folder's entry is a file, or a link that leads to one."""
    try:
        return entry.is_file()
    except OSError:  # a link that leads in a circle, or where we may not look
        return False
