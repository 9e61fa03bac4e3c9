"""A remote in a folder: a disk, a mounted share, a volume that several machines see.

Readers never see half a file, because a file gets its name only when it is complete and on disk: by a hard
link where it must not exist yet (the one operation that is atomic and fails if it does), else by a rename.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from mmmeta_core.atomic import ABANDONED_SECONDS, TEMPORARY, fsync_folder, sweep
from mmmeta_core.errors import RemoteError
from mmmeta_core.paths import NAME as METADIR
from mmmeta_core.remotes import base
from mmmeta_core.remotes.base import ABSENT, CHUNK, LOCK, READ_LIMIT, Blob, Remote, Source, Stat, Trial
from mmmeta_core.remotes.local_errors import explain
from mmmeta_core.remotes.local_files import etag_of, is_regular, open_object, refuse_folder, stamp, status

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class LocalRemote(Remote):
    """The objects of a folder, which has to exist: a share that is not mounted must not look empty.

    Names stay inside it: a symbolic link that leads out is refused. Folders below it are made as needed.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root: Path = Path(root).absolute()
        self.url: str = self.root.as_uri()
        self._swept: dict[Path, float] = {}
        self._sweeping = threading.Lock()

    def check(self) -> None:
        """Raise if the folder does not exist, is not a folder, or may not be read."""
        with self._doing("list", ""), os.scandir(self.root) as entries:
            next(entries, None)

    def read(self, name: str, *, etag: str | None = None, limit: int = READ_LIMIT) -> Blob | None:
        """See `Remote.read`."""
        with self._doing("read", name), self._open(name) as file:
            info = os.fstat(file.fileno())
            if (now := etag_of(info)) == etag:
                return None
            if info.st_size > limit:
                raise base.too_large(self.url, name, info.st_size, limit)
            data = file.read(info.st_size + 1)
        if len(data) != info.st_size:
            raise self._changed(name)
        return Blob(data, now)

    def fetch(self, name: str, path: Path, *, limit: int | None = None) -> int:
        """See `Remote.fetch`."""
        with closing(self._chunks(name, limit)) as chunks:
            return base.save(chunks, path)

    def create(self, name: str, source: Source) -> bool:
        """See `Remote.create`."""
        return self._create(name, source) is not None

    def try_out(self) -> Trial:
        """See `Remote.try_out`; no folder is made for it, and no lock."""
        with self._doing("write", "a file to try it out"):
            self._check_root()
            inside = self.root / METADIR
            folder = inside if inside.is_dir() else self.root
            drafts = [folder / f"{TEMPORARY}{secrets.token_hex(12)}" for _ in range(3)]
            try:
                for draft in drafts[:2]:
                    base.save([draft.name.encode()], draft)
                created = self._link(drafts[0], drafts[2])
                again = self._link(drafts[1], drafts[2])
                return Trial(created and not again)
            finally:
                for draft in drafts:
                    draft.unlink(missing_ok=True)

    def write(self, name: str, source: Source, *, if_match: str | None = None) -> str | None:
        """See `Remote.write`."""
        if if_match == ABSENT:
            return self._create(name, source)
        with self._temporary(name, source) as (temporary, path):
            with self._lock():
                old = status(path)
                if if_match is not None and (old is None or etag_of(old) != if_match):
                    return None
                stamp(temporary, old)
                etag = etag_of(temporary.stat())
                temporary.replace(path)
            fsync_folder(path.parent)
        return etag

    def names(self, prefix: str) -> Iterator[str]:
        """See `Remote.names`. Symbolic links to folders are left out."""
        folder, slash, _ = base.check_prefix(prefix).rpartition("/")
        with self._doing("list", prefix):
            self._check_root()
            start = self._path(folder) if folder else self.root
            if start.is_dir() and not self._is_linked(start):
                yield from self._walk(start, folder + slash, prefix)

    def stat(self, name: str) -> Stat | None:
        """See `Remote.stat`."""
        with self._doing("look at", name):
            info = status(self._path(base.check_name(name)))
            if info is None or not stat.S_ISREG(info.st_mode):
                self._check_root()
                return None
            return Stat(info.st_size, etag_of(info))

    def remove(self, name: str) -> None:
        """See `Remote.remove`."""
        with self._doing("remove", name):
            path = self._path(base.check_name(name))
            if status(path) is None or path.is_dir():
                self._check_root()
                return
            with self._lock():
                path.unlink(missing_ok=True)
            fsync_folder(path.parent)

    def _create(self, name: str, source: Source) -> str | None:
        with self._doing("write", name):
            path = self._path(base.check_name(name))
            refuse_folder(path)
            if os.path.lexists(path):
                return None
        with self._temporary(name, source) as (temporary, path):
            if not self._link(temporary, path):
                return None
            fsync_folder(path.parent)
            return etag_of(temporary.stat())

    def _link(self, temporary: Path, path: Path) -> bool:
        """Give the finished file its name unless that is taken: the commit point."""
        try:
            path.hardlink_to(temporary)
        except OSError as error:
            # Network file systems may do it and lose the answer, then see the name taken when they ask again.
            if temporary.stat().st_nlink > 1:
                return True
            if error.errno == errno.EEXIST:
                refuse_folder(path)
                return False
            if error.errno in _NO_LINKS:
                # File systems that lack links often lack locks between machines too: there is no safe way.
                raise RemoteError(
                    f"The file system of {str(self.root)!r} has no hard links, and publishing is not atomic "
                    "without them: move the archive to another file system or to S3."
                ) from error
            raise
        return True

    @contextmanager
    def _temporary(self, name: str, source: Source) -> Iterator[tuple[Path, Path]]:
        """Yield a complete file on disk that does not have the name yet, and the path of the name."""
        if isinstance(source, Path):
            # Opened outside of `_doing`: that it is missing is not the remote's doing.
            with source.open("rb") as file:
                chunks = iter(lambda: file.read(CHUNK), b"")
                with self._doing("write", name), self._saved(name, chunks) as paths:
                    yield paths
        else:
            with self._doing("write", name), self._saved(name, iter([source])) as paths:
                yield paths

    @contextmanager
    def _saved(self, name: str, chunks: Iterator[bytes]) -> Iterator[tuple[Path, Path]]:
        path = self._path(base.check_name(name))
        self._make_folder(path.parent)
        # The log's folder grows for ever: what is unfinished is never in there, so that it need not be looked through.
        folder = self.root / METADIR if name.startswith(f"{METADIR}/") else path.parent
        self._sweep(folder)
        temporary = folder / f"{TEMPORARY}{secrets.token_hex(12)}"
        base.save(chunks, temporary)
        try:
            stamp(temporary)
            yield temporary, path
        finally:
            temporary.unlink(missing_ok=True)

    def _sweep(self, folder: Path) -> None:
        """Clear away what killed publishers left, before the first file that is written to a folder, and then each hour."""
        with self._sweeping:
            last, now = self._swept.get(folder), time.monotonic()
            if last is None or now - last > ABANDONED_SECONDS:
                sweep(folder)
                self._swept[folder] = now

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other writers out while a condition is checked and the file replaced; reads go on."""
        path = self._path(LOCK)
        self._make_folder(path.parent)
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            lock = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if not path.exists():
                raise
            lock = os.open(path, flags | os.O_RDONLY)  # made by another user; it locks all the same
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open(self, name: str) -> BinaryIO:
        return open_object(self._path(base.check_name(name)))

    def _chunks(self, name: str, limit: int | None) -> Generator[bytes]:
        with self._doing("read", name):
            file = self._open(name)
        with file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise base.too_large(self.url, name, size, limit)
            done = 0
            while True:
                with self._doing("read", name):
                    chunk = file.read(CHUNK)
                if not chunk:
                    break
                done += len(chunk)
                yield chunk
            if done != size:
                raise self._changed(name)

    def _changed(self, name: str) -> RemoteError:
        return RemoteError(f"{name!r} in {str(self.root)!r} was written to while it was read: try again.")

    def _walk(self, folder: Path, name: str, prefix: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                found = sorted((f"{name}{e.name}{'/' * e.is_dir(follow_symlinks=False)}", e) for e in entries)
        except FileNotFoundError:  # removed since it was listed
            return
        for child, entry in found:
            if child.endswith("/"):
                if child.startswith(prefix) or prefix.startswith(child):
                    yield from self._walk(Path(entry.path), child, prefix)
            elif child.startswith(prefix) and base.is_name(child) and self._is_object(entry):
                yield child

    def _is_object(self, entry: os.DirEntry[str]) -> bool:
        return is_regular(entry) and (not entry.is_symlink() or self._is_inside(Path(entry.path)))

    def _path(self, name: str) -> Path:
        path = self.root / name
        if not self._is_inside(path):
            raise RemoteError(
                f"{name!r} leads out of {str(self.root)!r} by a symbolic link: remove the link."
            )
        return path

    def _is_inside(self, path: Path) -> bool:
        # Not `Path.resolve`, which raises RuntimeError for links that lead in a circle.
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

    def _is_linked(self, folder: Path) -> bool:
        """Whether the way from the base to `folder` goes through a symbolic link."""
        return any(
            part.is_symlink()
            for part in (folder, *folder.parents)
            if part.is_relative_to(self.root) and part != self.root
        )

    def _make_folder(self, folder: Path) -> None:
        if folder == self.root or folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)

    def _check_root(self) -> None:
        """Raise FileNotFoundError, which `_doing` explains, if the folder itself is what is missing."""
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder")

    @contextmanager
    def _doing(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except RemoteError:
            raise
        except OSError as error:
            raise explain(error, self.root, verb, name) from error
