"""Files below a folder that others may write to as well: on the way to a file no symbolic link is followed.

Paths are looked up again each time that they are used, so what was a folder when it was checked may be a link when it is
written to. Here a folder is opened once, part by part, and what is done is done in the open folder.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import TEMPORARY

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@contextmanager
def opened(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """Give an open folder below `root`, made if need be. Raises NotADirectoryError for a link or file on the way."""
    folder = os.open(root, _FOLDER)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
            below = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def link(draft: Path, folder: int, name: str) -> bool:
    """Give the file `draft` a name in the open folder; False if something has it."""
    try:
        with _near(draft, folder) as (source, near):
            try:
                os.link(source, name, src_dir_fd=near, dst_dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # This file system has no links: hold the name, then take it.
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder))
                os.replace(source, name, src_dir_fd=near, dst_dir_fd=folder)
    except FileExistsError:
        return False
    return True


def replace(draft: Path, folder: int, name: str) -> None:
    """Put the file `draft` in the place of the one that has the name in the open folder; never write into that."""
    with _near(draft, folder) as (source, near):
        os.replace(source, name, src_dir_fd=near, dst_dir_fd=folder)


@contextmanager
def _near(draft: Path, folder: int) -> Iterator[tuple[str, int | None]]:
    """Give the file as a name and folder on the file system that `folder` is on, which may be another one mounted there."""
    if draft.stat(follow_symlinks=False).st_dev == os.fstat(folder).st_dev:
        yield str(draft), None
        return
    name = f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with (
            draft.open("rb") as source,
            os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "wb") as copy,
        ):
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        yield name, folder
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
