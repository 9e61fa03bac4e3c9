"""Upload: documents and their metadata files on this machine → the archive, where it lacks them.

A push that names documents does this first, so that whoever reads the catalog finds what it names.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.columns import PURGED
from mmmeta_core.database.scan import Scan, Seen, Uploaded
from mmmeta_core.database.sqlite import chunks, get_value
from mmmeta_core.errors import (
    ConfigError,
    DocumentError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)
from mmmeta_core.events import event
from mmmeta_core.paths import NAME
from mmmeta_core.remotes import LocalRemote, Remote, UploadResult
from mmmeta_core.remotes.base import is_name
from mmmeta_core.sources import is_content
from mmmeta_core.types import Key, Progress

log = logging.getLogger(__name__)

_IN_FLIGHT: Final = 4
"""How many uploads wait for each worker, so that no list of all of them is ever held."""

_SMALL: Final = 256 * 1024
"""Bytes up to which it costs no more to send a document than to ask for it first."""

_ELSEWHERE: Final = (-1, -1)
"""Size and time that are noted for a document that is in the archive and not on this machine."""


@dataclass(frozen=True)
class _Item:
    """A file to upload: `key` is the document's, None for a metadata file; `path` None when there is no such file here."""

    name: str
    path: Path | None
    key: Key | None


@dataclass
class _Counts:
    uploaded: int = 0
    present: int = 0
    missing: int = 0
    failed: int = 0
    bytes: int = 0


def upload(
    catalog: Catalog,
    scan: Scan,
    root: Path,
    remote: Remote,
    config: Config,
    *,
    creates: bool = False,
    workers: int = 8,
    progress: Progress | None = None,
) -> UploadResult:
    """Upload what `generate` saw below `root`: each document under its published file name, metadata files by path.

    What was uploaded once, and did not change since, is not asked for again, so a run that was killed goes on where it
    was. A document whose content is not what its key says is not uploaded, and nothing outside of `root` or in a metadir
    is ever read. `creates` is whether the remote is known to keep the promise of `Remote.create`: then small documents
    need one request. Raises `ConfigError` when `generate` looked at another folder, `RemoteUnreachableError`,
    `RemoteDeniedError` and `RemoteNotFoundError`; what else goes wrong with one file is counted, and the rest goes on.
    """
    if isinstance(remote, LocalRemote) and remote.root.resolve() == root.resolve():
        return UploadResult()
    looked_at = get_value(scan.connection, "info", "root")
    if looked_at not in (None, str(root)):
        raise ConfigError(f"the last generate looked at {looked_at}, not {root}: give the same files_root")
    return _Run(catalog, scan, root, remote, config, creates, progress).run(workers)


class _Run:
    def __init__(
        self,
        catalog: Catalog,
        scan: Scan,
        root: Path,
        remote: Remote,
        config: Config,
        creates: bool,
        progress: Progress | None,
    ) -> None:
        self.catalog = catalog
        self.scan = scan
        self.root = root
        self.remote = remote
        self.config = config
        self.creates = creates
        self.progress = progress
        self.counts = _Counts()
        self._lock = threading.Lock()

    def run(self, workers: int) -> UploadResult:
        pending: set[Future[Uploaded | None]] = set()
        number, total = 0, self.scan.count(problems=False)
        with ThreadPoolExecutor(workers, thread_name_prefix="mmmeta-upload") as pool:
            try:
                for number, item in enumerate(self._items(), 1):
                    pending.add(pool.submit(self._upload, item))
                    if len(pending) >= workers * _IN_FLIGHT:
                        pending = self._note(pending)
                    if self.progress is not None:
                        self.progress(number, max(total * 2, number))
                while pending:
                    pending = self._note(pending)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                self.scan.note_uploads(
                    one.result() for one in pending if not one.cancelled() and one.exception() is None
                )
                raise
        if self.progress is not None:
            self.progress(number, number)
        counts = self.counts
        if counts.uploaded or counts.failed or counts.missing:
            log.info(
                "files: %d uploaded (%d bytes), %d present, %d missing, %d failed",
                *(counts.uploaded, counts.bytes, counts.present, counts.missing, counts.failed),
                extra=event("uploaded", **vars(counts)),
            )
        return UploadResult(**vars(counts))

    def _note(self, pending: set[Future[Uploaded | None]]) -> set[Future[Uploaded | None]]:
        done, rest = wait(pending, return_when=FIRST_COMPLETED)
        failed = [one for one in done if one.exception() is not None]
        self.scan.note_uploads(one.result() for one in done if one not in failed)
        for one in failed:
            one.result()  # raises
        return rest

    # --- what there is

    def _items(self) -> Iterator[_Item]:
        """Yield each document and metadata file that `generate` saw, a document before its metadata file."""
        for seen in chunks(self.scan.sources()):
            keys = [one.key for one in seen if one.key is not None]
            names, purged = self._names(keys)
            sources: defaultdict[Key, list[Seen]] = defaultdict(list)
            for one in self.scan.with_keys(names):
                if one.key is not None:
                    sources[one.key].append(one)
            for one in seen:
                if one.key in purged:
                    continue
                own = sources[one.key] if one.key is not None else []
                is_first = bool(own) and own[0].path == one.path  # of several files with one key
                name = names[own[0].key] if is_first and own[0].key is not None else None
                if name is not None:
                    yield _Item(name, self._place(name, [other.folder for other in own]), one.key)
                if name != one.path:  # else there are no metadata files, and this is the document
                    yield _Item(one.path, self._inside(self.root / one.path), None)

    def _names(self, keys: list[Key]) -> tuple[dict[Key, str], set[Key]]:
        """Return the published file names of documents that are not deleted, and which ones were purged."""
        rows = self.catalog.rows(keys)
        names = {
            key: row.get(self.config.file_name) for key, row in rows.items() if row["__deleted_at"] is None
        }
        purged = {key for key, row in rows.items() if row["__deleted_reason"] == PURGED}
        return {key: name for key, name in names.items() if isinstance(name, str) and name}, purged

    def _place(self, name: str, folders: list[str]) -> Path | None:
        """Return the document's file, below the root or beside one of its metadata files."""
        if "\0" in name:
            return None
        for folder in ("", *folders):
            path = self._inside(self.root / folder / name)
            if path is not None and path.is_file():
                return path
        return None

    def _inside(self, path: Path) -> Path | None:
        """Return the path if it leads neither out of the root, also by a link, nor into a metadir."""
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self.root):
            return None
        return None if NAME in (part.casefold() for part in real.relative_to(self.root).parts) else path

    # --- what is done about it

    def _upload(self, item: _Item) -> Uploaded | None:
        """Bring one file there; None when it can't be."""
        try:
            return (
                self._look_for(item.name)
                if item.path is None
                else self._bring(item.name, item.path, item.key)
            )
        except (RemoteUnreachableError, RemoteDeniedError, RemoteNotFoundError):
            raise
        except (DocumentError, RemoteError, OSError) as error:
            fields = event("not uploaded", name=item.name, reason=str(error))
            log.warning("%r was not uploaded: %s", item.name, error, extra=fields)
            self._count(failed=1)
        return None

    def _bring(self, name: str, path: Path, key: Key | None) -> Uploaded:
        status = path.stat()
        note = Uploaded(self.remote.identity, name, status.st_size, status.st_mtime_ns)
        if self.scan.is_uploaded(note):
            self._count(present=1)
            return note
        _check_name(name)
        verified = None if key is None else is_content(path, key, self.config)
        if verified is False:
            raise DocumentError("its content is not what its metadata says: it has another hash")
        if not self._put(name, path, status.st_size, is_known=bool(verified)):
            self._count(present=1)
            return note
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise DocumentError("it was written to while it was uploaded")
        self._count(uploaded=1, bytes=status.st_size)
        return note

    def _put(self, name: str, path: Path, size: int, *, is_known: bool) -> bool:
        """Put a file there; False if it `is_known` by its digest and there already."""
        if is_known:
            if self.creates and size <= _SMALL and self.remote.create(name, path):
                return True
            there = self.remote.stat(name)
            if there is not None and there.size == size:
                return False
        self.remote.write(name, path)
        return True

    def _look_for(self, name: str) -> Uploaded | None:
        """See whether a document that is not here is in the archive."""
        note = Uploaded(self.remote.identity, name, *_ELSEWHERE)
        if self.scan.is_uploaded(note) or (_is_usable(name) and self.remote.stat(name) is not None):
            self._count(present=1)
            return note
        fields = event("document missing", name=name)
        log.warning("%r is neither here nor in the archive", name, extra=fields)
        self._count(missing=1)
        return None

    def _count(self, **counts: int) -> None:
        with self._lock:
            for name, number in counts.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)


def _is_usable(name: str) -> bool:
    """Whether a document of this name can be in an archive: a metadir's own names are not for documents."""
    return is_name(name) and NAME not in name.casefold().split("/")


def _check_name(name: str) -> None:
    if not _is_usable(name):
        raise DocumentError("an archive can't have a document of this name: rename it")
