"""Real trouble without a fault in the code: a disk that is full, a limit on file sizes, folders that may not be written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crash.place import Place

PAGE = 4096
DISK = 8 * 1024 * 1024
NOBODY = 65534


class UnavailableError(Exception):
    """This kind of trouble can't be made on this machine."""


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system in memory at `folder` for the block."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "mmmeta-crash", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode != 0:
        raise UnavailableError(
            f"no file system can be mounted here: {done.stderr.strip() if done else 'no mount'}"
        )
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def full_but_for(pages: int, folder: Path) -> Iterator[None]:
    """Leave only so many pages free on the file system of `folder` for the block."""
    filler = folder / "filler"
    free = os.statvfs(folder)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max((free.f_bavail - pages) * free.f_frsize, 1))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def no_larger_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes for the block, which Python answers with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def areas(place: Place, kept: Path) -> list[Path]:
    """What may be read only: everything, or one part of it alone."""
    found = sorted(path.name for path in kept.iterdir() if path.is_dir() and path.name != "documents")
    return [place.work, *(place.work / name for name in found)]


def protect(place: Place, area: Path) -> None:
    """Make these folders read only for whoever is to work there: root's, where root has to become somebody else."""
    os.chmod(place.base, 0o755)  # noqa: PTH101, S103
    os.chmod(place.base.parent, 0o755)  # noqa: PTH101, S103
    for path in (place.work, *place.work.rglob("*")):
        is_protected = path.is_relative_to(area)
        if os.geteuid() == 0:
            os.chown(path, 0 if is_protected else NOBODY, -1)
        elif is_protected:
            path.chmod(0o555 if path.is_dir() else 0o444)


def release(place: Place) -> None:
    """Take that back."""
    for path in (place.work, *place.work.rglob("*")):
        if os.geteuid() == 0:
            os.chown(path, 0, -1)
        else:
            path.chmod(0o755 if path.is_dir() else 0o644)


def become_somebody() -> None:
    """Be a user whom permissions hold for."""
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
