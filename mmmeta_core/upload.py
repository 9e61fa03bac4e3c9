"""Upload: documents and their metadata files on this machine → the archive, where it lacks them.

A push that names documents does this first, so that whoever reads the catalog finds what it names.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.scan import Scan, Uploaded
from mmmeta_core.database.sqlite import chunks
from mmmeta_core.errors import DocumentError, RemoteError, RemoteUnreachableError
from mmmeta_core.remotes import LocalRemote, Remote, UploadResult
from mmmeta_core.sources import is_content
from mmmeta_core.types import Key, Progress

log = logging.getLogger(__name__)

_IN_FLIGHT: Final = 4
"""How many uploads wait for each worker, so that no list of all of them is ever held."""


@dataclass(frozen=True)
class _Item:
    """A file to upload: `key` is the document's, None for a metadata file."""

    name: str
    path: Path
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
    workers: int = 8,
    progress: Progress | None = None,
) -> UploadResult:
    """Upload what `generate` saw below `root`: each document under its published file name, metadata files by path.

    What was uploaded once, and did not change since, is not asked for again, so a run that was killed goes on where it
    was. A document whose content is not what its key says is not uploaded. Raises `RemoteUnreachableError` and
    `RemoteDeniedError`; what else goes wrong with one file is counted, and the rest goes on.
    """
    if isinstance(remote, LocalRemote) and remote.root.resolve() == root.resolve():
        return UploadResult()
    return _Run(catalog, scan, root, remote, config, progress).run(workers)


class _Run:
    def __init__(
        self,
        catalog: Catalog,
        scan: Scan,
        root: Path,
        remote: Remote,
        config: Config,
        progress: Progress | None,
    ) -> None:
        self.catalog = catalog
        self.scan = scan
        self.root = root
        self.remote = remote
        self.config = config
        self.progress = progress
        self.counts = _Counts()
        self._lock = threading.Lock()

    def run(self, workers: int) -> UploadResult:
        pending: set[Future[Uploaded | None]] = set()
        total = self.scan.count(problems=False)
        with ThreadPoolExecutor(workers, thread_name_prefix="mmmeta-upload") as pool:
            try:
                for number, item in enumerate(self._items(), 1):
                    pending.add(pool.submit(self._upload, item))
                    if len(pending) >= workers * _IN_FLIGHT:
                        pending = self._note(pending, FIRST_COMPLETED)
                    if self.progress is not None:
                        self.progress(number, max(total * 2, number))
                while pending:
                    pending = self._note(pending, FIRST_COMPLETED)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                self.scan.note_uploads(
                    one.result() for one in pending if not one.cancelled() and one.exception() is None
                )
                raise
        counts = self.counts
        if counts.uploaded or counts.failed or counts.missing:
            log.info(
                "files: %d uploaded (%d bytes), %d present, %d missing, %d failed",
                *(counts.uploaded, counts.bytes, counts.present, counts.missing, counts.failed),
            )
        return UploadResult(**vars(counts))

    def _note(self, pending: set[Future[Uploaded | None]], when: str) -> set[Future[Uploaded | None]]:
        done, rest = wait(pending, return_when=when)
        failed = [one for one in done if one.exception() is not None]
        self.scan.note_uploads(one.result() for one in done if one not in failed)
        for one in failed:
            one.result()  # raises
        return rest

    def _items(self) -> Iterator[_Item]:
        """Yield what was not uploaded yet as it is now."""
        for seen in chunks(self.scan.sources()):
            names = dict(self._names([one.key for one in seen if one.key is not None]))
            for one in seen:
                items = [_Item(one.path, self.root / one.path, None)]
                name = names.get(one.key) if one.key is not None else None
                if name is not None and one.key is not None:
                    place = next((p for p in self._places(one.folder, name) if p.is_file()), None)
                    if place is None:
                        self._look_for(name)
                    elif name == one.path:  # there are no metadata files: this is the document
                        items = [_Item(name, place, one.key)]
                    else:
                        items.insert(0, _Item(name, place, one.key))
                yield from items

    def _names(self, keys: list[Key]) -> Iterator[tuple[Key, str]]:
        column = self.config.file_name
        for key, row in self.catalog.rows(keys).items():
            name = row.get(column)
            if isinstance(name, str) and name and row.get("__deleted_at") is None:
                yield key, name

    def _places(self, folder: str, name: str) -> Iterator[Path]:
        """Yield where a document may lie: below the root, or beside its metadata file; never outside."""
        if "\0" in name:
            return
        for path in dict.fromkeys((self.root / name, self.root / folder / name)):
            if path.resolve().is_relative_to(self.root.resolve()):
                yield path

    def _look_for(self, name: str) -> None:
        try:
            is_there = self.remote.stat(name) is not None
        except RemoteUnreachableError:
            raise
        except RemoteError:
            is_there = False
        if is_there:
            self.counts.present += 1
        else:
            self.counts.missing += 1
            log.warning("%s is neither here nor in the archive", name)

    def _upload(self, item: _Item) -> Uploaded | None:
        """Bring one file there; None when it can't be."""
        try:
            status = item.path.stat()
            note = Uploaded(self.remote.url, item.name, status.st_size, status.st_mtime_ns)
            if self.scan.is_uploaded(note):
                return self._count(note, present=True)
            if item.key is not None:
                if is_content(item.path, item.key, self.config) is False:
                    raise DocumentError("its content is not what its metadata says: it has another hash")
                there = self.remote.stat(item.name)
                if there is not None and there.size == status.st_size:
                    return self._count(note, present=True)
            self.remote.write(item.name, item.path)
            arrived = self.remote.stat(item.name)
            if arrived is None or arrived.size != status.st_size:
                raise DocumentError("it did not arrive whole")
            return self._count(note, present=False)
        except (RemoteUnreachableError, PermissionError) as error:
            if isinstance(error, RemoteError):
                raise
            self._fail(item, error)
        except (DocumentError, RemoteError, OSError) as error:
            self._fail(item, error)
        return None

    def _fail(self, item: _Item, error: Exception) -> None:
        log.warning("%s was not uploaded: %s", item.name, error)
        with self._lock:
            self.counts.failed += 1

    def _count(self, note: Uploaded, *, present: bool) -> Uploaded:
        with self._lock:
            self.counts.present += present
            self.counts.uploaded += not present
            self.counts.bytes += 0 if present else note.size
        return note
