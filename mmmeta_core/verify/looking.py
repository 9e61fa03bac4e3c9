"""Look at all parts of a metadir, one after the other."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, Position
from mmmeta_core.database.place import Place, Server
from mmmeta_core.paths import Paths
from mmmeta_core.remotes import Remote
from mmmeta_core.signing import load_trust
from mmmeta_core.types import Progress
from mmmeta_core.verify.databases import is_there, look_at_files, look_at_time, whole_catalog, whole_state
from mmmeta_core.verify.deep import Deep
from mmmeta_core.verify.documents import look_at_documents
from mmmeta_core.verify.downloads import look_at_downloads
from mmmeta_core.verify.findings import Report, VerifyResult
from mmmeta_core.verify.history import Truth
from mmmeta_core.verify.log import look_at_log
from mmmeta_core.verify.server import look_at_server
from mmmeta_core.verify.state import look_at_state


@dataclass(frozen=True)
class Depth:
    """How deep to look: at so many `documents` and `downloads`, None is all; with their content; with the whole log."""

    documents: int | None = 100
    downloads: int | None = 100
    hashes: bool = False
    deep: bool = False


def verify(
    paths: Paths, state: Place, remote: Remote | None, depth: Depth, progress: Progress | None = None
) -> VerifyResult:
    """Look at the metadir, at the remote's log, and at random samples of documents and downloads.

    Publishing and pulling may go on meanwhile. Raises `RemoteError` when the remote does not do what it is asked.
    """
    with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
        return look(paths, state, remote, depth, Path(folder), progress).result


@dataclass(frozen=True)
class Looked:
    """What was found, and what the log says where that could be told."""

    result: VerifyResult
    truth: Truth | None


def look(
    paths: Paths,
    state: Place,
    remote: Remote | None,
    depth: Depth,
    folder: Path,
    progress: Progress | None = None,
) -> Looked:
    """Do what `verify` does; what the log says is kept in `folder`."""
    started = time.monotonic()
    run = _Run(paths, remote, depth, folder, progress)
    position = run.look_at_catalog()
    run.look_at_state(state)
    result = VerifyResult(
        revision=position.revision,
        remote_revision=run.newest,
        findings=tuple(run.report.findings),
        seconds=time.monotonic() - started,
        repaired=(),
        **run.report.counts,
    )
    return Looked(result, run.truth)


@dataclass
class _Run:
    paths: Paths
    remote: Remote | None
    depth: Depth
    folder: Path
    progress: Progress | None
    report: Report = field(default_factory=Report)
    config: Config | None = None
    newest: int | None = None
    truth: Truth | None = None
    has_catalog: bool = False

    def look_at_catalog(self) -> Position:
        """Look at all that has to do with the catalog, and return where that is."""
        self.config = look_at_files(self.paths, self.report)
        position = Position(None, 0, "", 0)
        with whole_catalog(self.paths, self.config, self.report, deep=self.depth.deep) as catalog:
            if catalog is not None:
                position = catalog.position
                look_at_time(self.paths, catalog.store(), self.report)
            if self.remote is not None:
                self._look_at_remote(self.remote, catalog, position)
        self.has_catalog = is_there(self.paths.meta) and not self.report.has(str(self.paths.meta))
        return position

    def look_at_state(self, place: Place) -> None:
        """Look at the state db, and at downloads, which it knows of; of one on a server at published columns, if `deep`."""
        report, config = self.report, self.config
        if isinstance(place, Server):
            if self.depth.deep and self.has_catalog and config is not None and not report.has_code("key"):
                look_at_server(place, config, self.paths.meta, report)
            return
        path = place
        with whole_state(path, self.paths, config, report, deep=self.depth.deep) as connection:
            if connection is None or report.has_code("key"):
                return
            look_at_state(connection, path, self.paths.meta if self.has_catalog else None, report)
            if config is not None and self.depth.downloads != 0:
                look_at_downloads(connection, config, report, limit=self.depth.downloads)

    def _look_at_remote(self, remote: Remote, catalog: Catalog | None, position: Position) -> None:
        depth = self.depth
        trust = load_trust(self.paths.trusted_keys)
        log = look_at_log(remote, position, self.report, hashes=not depth.deep, trust=trust)
        self.newest = log.newest
        if depth.deep and log.newest:
            self.truth = Deep(remote, log, catalog, position, self.folder, self.report).read(self.progress)
            self.newest = max(
                log.newest, self.truth.published.position.revision if self.truth is not None else 0
            )
        if catalog is None or self.config is None or self.report.has_code("key"):
            return
        if depth.documents != 0:
            look_at_documents(
                remote,
                catalog,
                self.config,
                self.report,
                limit=depth.documents,
                newest=self.newest,
                hashes=depth.hashes,
                progress=self.progress,
            )
