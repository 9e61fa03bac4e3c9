"""Download: documents → a folder of this client, by work that remembers what it has done."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mmmeta_core.database.sqlite import CHUNK
from mmmeta_core.database.state import check_writable
from mmmeta_core.database.work import OnChange
from mmmeta_core.errors import RemoteUnreachableError, UnavailableError
from mmmeta_core.files import File, Folder
from mmmeta_core.notebook import Shown
from mmmeta_core.process import Documents
from mmmeta_core.types import Progress

MARK: Final = "downloaded"


@dataclass(frozen=True)
class DownloadResult(Shown):
    """What came: `present` documents lay at the destination already, with the right content.

    `left` matching documents are not there: due again later, set aside, or someone else is at them.
    """

    downloaded: int
    present: int
    failed: int
    set_aside: int
    left: int
    bytes: int
    seconds: float = field(compare=False)


def download(
    files: Documents,
    folder: Folder,
    *,
    mark: str = MARK,
    source: str | None = None,
    workers: int = 8,
    max_attempts: int = 5,
    limit: int | None = None,
    on_change: OnChange = "content",
    progress: Progress | None = None,
    filters: Mapping[str, Any],
) -> DownloadResult:
    """Put the matching documents that were not downloaded yet into the folder.

    The client's columns `<mark>` and `<mark>_path`, which is relative to the folder, are set. A document that fails is
    noted and tried again by a later run, as `Documents.process` says. Raises what that does, and `ColumnError` for a
    `<mark>_path` that is not the client's to set.
    """
    started = time.monotonic()
    fetcher = _Fetcher(folder, f"{mark}_path", source)
    check_writable(fetcher.column, folder.state.owners())
    result = files.process(
        fetcher,
        mark=mark,
        workers=workers,
        chunk=min(max(100, workers * 4), CHUNK),
        max_attempts=max_attempts,
        limit=limit,
        on_change=on_change,
        progress=progress,
        **filters,
    )
    return DownloadResult(
        downloaded=result.processed - fetcher.present,
        present=fetcher.present,
        failed=result.failed,
        set_aside=result.set_aside,
        left=result.left,
        bytes=fetcher.bytes,
        seconds=time.monotonic() - started,
    )


class _Fetcher:
    def __init__(self, folder: Folder, column: str, source: str | None) -> None:
        self.folder = folder
        self.column = column
        self.source = source
        self.bytes = 0
        self.present = 0
        self._lock = threading.Lock()

    def __call__(self, file: File) -> Mapping[str, Any]:
        try:
            placed = self.folder.put(file, source=self.source)
        except RemoteUnreachableError as error:
            if self.folder.is_archive_away():
                raise UnavailableError(str(error)) from error
            raise
        with self._lock:
            self.present += placed.bytes is None
            self.bytes += placed.bytes or 0
        return {self.column: placed.name}
