"""What a remote is: named objects below one base, with a create that exactly one of many callers wins.

Names are relative POSIX paths (`_mmmeta/head.json`, `documents/a.pdf`). Folder and bucket behave alike, so
the rest of the package never asks which of them it talks to.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final, TypeAlias

from mmmeta_core.atomic import TEMPORARY
from mmmeta_core.errors import RemoteDeniedError, RemoteError
from mmmeta_core.limits import way_out
from mmmeta_core.notebook import Shown
from mmmeta_core.trouble import naming

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ABSENT: Final = ""
"""The `if_match` of a write that may only create."""

READ_LIMIT: Final = 64 * 1024 * 1024
"""Bytes that `Remote.read` takes into memory unless told otherwise."""

CHUNK: Final = 1024 * 1024

LOCK: Final = "_mmmeta/.write.lock"
"""The file that writers in a folder lock; it is never an object."""

Source: TypeAlias = bytes | Path
"""What is uploaded: bytes, or a local file that is read as a stream."""


@dataclass(frozen=True, slots=True)
class Blob:
    """An object's whole content, and the etag to ask with next time."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of an object without reading it."""

    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying out a remote: whether `create` holds its promise, and the object that could not be removed."""

    holds: bool = True
    left: str | None = None


@dataclass(frozen=True)
class UploadResult(Shown):
    """What went to the archive. `present` were there; `failed` could not be taken and are named in the log.

    `missing` documents are in the catalog with a metadata file here, but are neither here nor in the archive.
    """

    uploaded: int = 0
    present: int = 0
    missing: int = 0
    failed: int = 0
    bytes: int = 0


class Remote(ABC):
    """Objects below a base: a folder, or a prefix in a bucket.

    Etags are opaque: two that are equal mean the same content, and each change gives a new one. An object
    appears whole or not at all. An instance may be used by many threads. Every method raises
    `RemoteNotFoundError` if the base itself does not exist, `RemoteDeniedError`, `RemoteUnreachableError`, or
    `RemoteError`, also for a name that is not a relative path below the base. A local file that can't be read
    or written (`source`, `path`) raises the OSError that it raises anywhere.
    """

    url: str
    """For people and metadata. Never holds a credential, nor how to connect."""

    can_list: ClassVar[bool] = True
    """Whether `names` works; web servers have no such request."""

    can_write: ClassVar[bool] = True
    """Whether anything can be written, by whoever may."""

    is_cached: ClassVar[bool] = False
    """Whether a cache may be between, which can remember for a while that an object was not there."""

    @property
    def identity(self) -> str:
        """What tells this place from others, for notes that are kept about it. Holds no credential either."""
        return self.url

    @abstractmethod
    def check(self) -> None:
        """Raise if the base folder or bucket does not exist, may not be listed, or does not answer."""

    def check_writable(self) -> None:
        """Raise `RemoteDeniedError` where nothing can be written, whoever asks. Does no I/O."""
        if not self.can_write:
            raise RemoteDeniedError(f"{self.url} is read only: publish to the folder or bucket behind it.")

    @abstractmethod
    def read(self, name: str, *, etag: str | None = None, limit: int = READ_LIMIT) -> Blob | None:
        """Return the object's content, or None if it still has this `etag`, in exactly one request.

        Raises `RemoteNotFoundError` if there is none, `RemoteError` if it is larger than `limit` bytes.
        """

    @abstractmethod
    def fetch(self, name: str, path: Path, *, limit: int | None = None) -> int:
        """Stream the object into the file `path`, flush it to disk, and return its size in bytes.

        `path` is the caller's temporary file: what it held is lost, and if the object does not arrive whole
        the file is removed. Raises as `read` does.
        """

    @abstractmethod
    def create(self, name: str, source: Source) -> bool:
        """Create the object if it does not exist. Of any number of callers exactly one gets True.

        After `RemoteUnreachableError` the object may exist or not: read it to know.
        """

    def keeps_conditions(self) -> bool:
        """Whether `create` holds what it promises here; tried out with a small object where that is not certain."""
        return True

    def try_out(self) -> Trial:
        """Write a small object of a name that is nobody's, see whether `create` holds, and remove it.

        Raises as `create` does where nothing can be written.
        """
        self.check_writable()
        return Trial()

    def clock(self) -> datetime | None:
        """Return what time it is there, by the whole second; None where that is this machine's own. One request."""
        return None

    def access(self) -> str | None:
        """Return where the credentials come from, never one of them; None where there are none. May ask the network."""
        return None

    @abstractmethod
    def write(self, name: str, source: Source, *, if_match: str | None = None) -> str | None:
        """Replace or create the object; return its new etag, or None if the condition did not hold.

        `if_match` None: always. `ABSENT`: only if there is none. Otherwise: only if that is its etag now.
        Where the answer is lost on the way and somebody else replaces the object at once, None may also mean
        that it was written, and then replaced.
        """

    @abstractmethod
    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with `prefix` (text, not a folder), in the order of their UTF-8 bytes.

        Left out: unfinished files, and whatever has a name that the other methods would refuse.
        """

    @abstractmethod
    def stat(self, name: str) -> Stat | None:
        """Return size and etag, or None if there is no such object."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove the object. It is fine if there is none."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"


def check_name(name: str) -> str:
    """Return `name` if it can be an object's. Raises `RemoteError`."""
    if reason := _flaw(name):
        raise RemoteError(f"{name!r:.200} can't be the name of an object: it {reason}.")
    return name


def check_prefix(prefix: str) -> str:
    """Return `prefix` if names can begin with it. Raises `RemoteError`."""
    # Any text may follow a prefix: "a/" and "a/." can both go on to be names.
    head, slash, _ = prefix.rpartition("/")
    if (slash and _flaw(head)) or _unfit(prefix):
        raise RemoteError(f"{prefix!r:.200} can't be the beginning of an object's name.")
    return prefix


def is_name(name: str) -> bool:
    """Whether `name` can be an object's."""
    return _flaw(name) is None


def too_large(url: str, name: str, size: int, limit: int) -> RemoteError:
    """Return the error for an object beyond the caller's limit."""
    return RemoteError(
        f"{name!r} in {url} has {size:,} bytes, more than the {limit:,} that are taken{way_out(limit)}."
    )


def time_of(headers: Mapping[str, str]) -> datetime | None:
    """Return the time that an answer's `Date` says, with how long a cache had kept it; None for none."""
    from email.utils import parsedate_to_datetime

    found = {name.lower(): value for name, value in headers.items()}
    try:
        said = parsedate_to_datetime(found.get("date", ""))
        age = int(found.get("age", "0"))
        return said.astimezone(UTC) + timedelta(seconds=age)
    except (ValueError, TypeError, OverflowError):
        return None


def save(chunks: Iterable[bytes], path: Path) -> int:
    """Write `chunks` to `path`, flush it to disk, return the bytes; leave no file behind if it fails."""
    with drafted(path) as file:
        return sum(map(file.write, chunks))


@contextmanager
def drafted(path: Path) -> Iterator[BinaryIO]:
    """Give the empty file `path` to write to, and flush it to disk; leave no file behind if the block fails."""
    # Not through a link: in a folder that others write to, one could have been put there.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with naming(path), os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _flaw(name: str) -> str | None:
    parts = name.split("/")
    if not name:
        return "is empty"
    if name.startswith("/"):
        return "is absolute, but has to be relative to the base"
    if unfit := _unfit(name):
        return unfit
    if "" in parts:
        return "has an empty part"
    if "." in parts or ".." in parts:
        return "has a part that is '.' or '..'"
    if name == LOCK or any(part.startswith(TEMPORARY) for part in parts):
        return "is kept for unfinished files and locks"
    return None


def _unfit(text: str) -> str | None:
    if "\0" in text or "\\" in text:
        return "has a NUL or a backslash"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None
