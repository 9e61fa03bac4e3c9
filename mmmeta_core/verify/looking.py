"""Look at all parts of a metadir, one after the other."""

from __future__ import annotations

import time
from pathlib import Path

from mmmeta_core.database.catalog import Position
from mmmeta_core.paths import Paths
from mmmeta_core.remotes import Remote
from mmmeta_core.types import Progress
from mmmeta_core.verify.databases import look_at_files, whole_catalog, whole_state
from mmmeta_core.verify.documents import look_at_documents
from mmmeta_core.verify.downloads import look_at_downloads
from mmmeta_core.verify.findings import Report, VerifyResult
from mmmeta_core.verify.log import look_at_log


def verify(
    paths: Paths,
    state_db: Path,
    remote: Remote | None,
    *,
    documents: int | None,
    downloads: int | None,
    progress: Progress | None = None,
) -> VerifyResult:
    """Look at the metadir, at the remote's log, and at random samples of so many `documents` and `downloads`; None is all.

    Publishing and pulling may go on meanwhile. Raises `RemoteError` when the remote does not do what it is asked.
    """
    started = time.monotonic()
    report, newest = Report(), None
    config = look_at_files(paths, report)
    with whole_catalog(paths, config, report) as catalog:
        position = catalog.position if catalog is not None else Position(None, 0, "", 0)
        if remote is not None:
            newest = look_at_log(remote, position, report)
            if catalog is not None and config is not None and documents != 0:
                look_at_documents(
                    remote, catalog, config, report, limit=documents, newest=newest, progress=progress
                )
    with whole_state(state_db, paths, config, report) as connection:
        if connection is not None and config is not None and downloads != 0:
            look_at_downloads(connection, config, report, limit=downloads)
    return VerifyResult(
        revision=position.revision,
        remote_revision=newest,
        **report.counts,
        findings=tuple(report.findings),
        seconds=time.monotonic() - started,
    )
