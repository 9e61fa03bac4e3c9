"""Pull: what the remote published since last time → the local catalog, store and settings."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import temporary
from mmmeta_core.changelog import check_follows, digest_of, open_segment, replay_segment, segment_name
from mmmeta_core.database.catalog import Position, check_whole, open_catalog, replace_catalog
from mmmeta_core.database.sqlite import atomic
from mmmeta_core.errors import LogError, RemoteNotFoundError
from mmmeta_core.head import Head, Snapshot, parse_head
from mmmeta_core.paths import HEAD, META_DB, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.sync.replica import Replica
from mmmeta_core.sync.segments import comes_otherwise, fetch_segment, missing
from mmmeta_core.types import Progress

log = logging.getLogger(__name__)

_REQUEST_BYTES: Final = 20_000
"""What one more request is worth in bytes, when log and snapshot are compared."""
_SNAPSHOT_TRIES: Final = 3


@dataclass(frozen=True)
class PullResult:
    """What came: `revision` is where the catalog is now, `bytes` what was transferred in segments and snapshot."""

    revision: int
    segments: int
    documents: int
    snapshot: bool
    bytes: int
    seconds: float = field(compare=False)

    @property
    def unchanged(self) -> bool:
        """Whether there was nothing new."""
        return not self.segments and not self.snapshot


@dataclass
class _Came:
    segments: int = 0
    documents: int = 0
    snapshot: bool = False
    bytes: int = 0
    progress: Progress | None = None


def pull(
    replica: Replica, remote: Remote, *, probe: bool = False, progress: Progress | None = None
) -> PullResult:
    """Bring the local metadir to the newest revision.

    Asks for `head.json` first; one that did not change since the last complete pull ends it after that one request,
    unless `probe` asks to look for a next segment all the same. Each segment is applied in one transaction, so a
    kill leaves a whole revision and the next pull goes on from there. Local changes that wait to be published are
    kept on top. The caller holds the metadir's lock. Raises `LogError` for a missing, damaged or foreign
    segment, and `RemoteError`; then the catalog is at the last good revision. A missing one is a
    `RemoteUnreachableError` where a cache may be what misses it.
    """
    started = time.monotonic()
    came = _Came(progress=progress)
    position = _pull(replica, remote, came, probe)
    if came.segments or came.snapshot:
        log.info(
            "pulled revision %d: %d segments, %d documents, %d bytes%s",
            *(position.revision, came.segments, came.documents, came.bytes),
            ", with a snapshot" if came.snapshot else "",
        )
    return PullResult(
        position.revision,
        came.segments,
        came.documents,
        came.snapshot,
        came.bytes,
        time.monotonic() - started,
    )


def read_head(remote: Remote, *, etag: str | None = None) -> tuple[Head | None, str, bool]:
    """Return the remote's head (None: it has none), its etag, and whether it is unchanged since `etag`."""
    name = remote_name(HEAD)
    try:
        blob = remote.read(name, etag=etag)
    except RemoteNotFoundError:
        remote.check()
        return None, "", False
    if blob is None:
        return None, etag or "", True
    try:
        return parse_head(blob.data, f"{remote.url}/{name}"), blob.etag, False
    except LogError:
        blob = remote.read(name) or blob  # it may have come in part, from a store that calls that whole
    return parse_head(blob.data, f"{remote.url}/{name}"), blob.etag, False


def _pull(replica: Replica, remote: Remote, came: _Came, probe: bool) -> Position:
    position, known = _here(replica)
    url, _, etag = (known or "").partition(" ")
    head, new_etag, unchanged = read_head(remote, etag=etag if etag and url == remote.url else None)
    if unchanged and not probe:
        return position
    if head is not None:
        _check_head(head, position, remote)
        if position.revision == 0:
            _start(replica, head, remote)
        if _snapshot_pays(head, position):
            _take_snapshot(replica, remote, head, came)
    position = _replay(replica, remote, head, came, probe)
    complete = head is not None and head.revision == position.revision
    if complete or (known and not (unchanged and not came.segments)):
        with replica.catalog() as catalog:
            catalog.set_local(head=f"{remote.url} {new_etag}" if complete else None)
    return position


def _check_head(head: Head, position: Position, remote: Remote) -> None:
    """Raise `LogError` when the remote's history is not the one that this metadir has."""
    if position.archive is None:
        return
    source = f"{remote.url}/{remote_name(HEAD)}"
    if head.archive != position.archive:
        raise LogError(
            f"{source} belongs to another archive than this metadir: was the remote started anew? "
            "Move meta.db away and pull again (state is kept), or use another path"
        )
    if head.revision == position.revision and head.digest != position.digest:
        raise LogError(
            f"{source} does not name the segment {head.revision} that this metadir has: it was replaced. "
            "Move meta.db away and pull again (state is kept)"
        )
    newest = remote_name(segment_name(position.revision))
    if head.revision < position.revision and remote.stat(newest) is None:
        raise LogError(
            f"segment {remote.url}/{newest} is missing, which this metadir has: the remote was set back. Restore it "
            "from a backup, or move meta.db away and pull again (state is kept)"
        )


def _here(replica: Replica) -> tuple[Position, str | None]:
    """Return how far the catalog is, and which head it was complete with. Makes no catalog where there is none."""
    if not replica.paths.meta.exists():
        return Position(None, 0, "", 0), None
    with replica.catalog() as catalog:
        replica.undo_taking(catalog)
        return catalog.position, catalog.local("head")


def _start(replica: Replica, head: Head, remote: Remote) -> None:
    """Take over the archive's settings before the first revision comes: they name the key column."""
    replica.paths.root.mkdir(parents=True, exist_ok=True)
    replica.take_config(head.config, None, f"{remote.url}: config.yml")
    replica.check_unique(head.unique)


def _snapshot_pays(head: Head, position: Position) -> bool:
    """Whether the snapshot and the log after it are less to transfer than the log alone."""
    snapshot = head.snapshot
    if snapshot is None or snapshot.revision <= position.revision:
        return False
    by_log = head.log_bytes - position.log_bytes + (head.revision - position.revision) * _REQUEST_BYTES
    rest = head.log_bytes - snapshot.log_bytes + (head.revision - snapshot.revision) * _REQUEST_BYTES
    return snapshot.size + rest < by_log


def _take_snapshot(replica: Replica, remote: Remote, head: Head, came: _Came) -> bool:
    """Replace the catalog by the remote's snapshot; False when what lies there is not what `head.json` names."""
    for _ in range(_SNAPSHOT_TRIES):
        snapshot = head.snapshot
        if snapshot is None:
            return False
        there = remote.stat(remote_name(META_DB))
        if there is not None and there.size == snapshot.size:
            with temporary(replica.paths.root) as draft:
                came.bytes += remote.fetch(remote_name(META_DB), draft, limit=snapshot.size)
                if digest_of(draft) == snapshot.sha256:
                    check_whole(draft)
                    _adopt(replica, remote, draft, snapshot, head)
                    came.snapshot = True
                    return True
        again, _, _ = read_head(remote)
        head = again or head
    log.info("the snapshot at %s is not the one that head.json names; reading the log instead", remote.url)
    return False


def _adopt(replica: Replica, remote: Remote, draft: Path, snapshot: Snapshot, head: Head) -> None:
    config = replica.config()
    with open_catalog(draft, config.unique, max_columns=config.max_columns) as fresh:
        if fresh.position.revision != snapshot.revision or fresh.position.archive != head.archive:
            raise LogError(f"{remote.url}/{remote_name(META_DB)} is not the snapshot that head.json names")
        new = fresh.store()
    old: dict[str, str] = {}
    synced: str | None = None
    if replica.paths.meta.exists():
        with replica.catalog() as catalog:
            old, synced = catalog.store(), catalog.local("config")
            replica.begin_taking(catalog, {**dict.fromkeys(old), **new}, head.config)
    synced = replica.take_config(head.config, synced, f"{remote.url}/{remote_name(HEAD)}")
    replica.take_store({**dict.fromkeys(old), **new}, old, remote.url)
    if synced is not None:  # before it takes its place: a kill in between would lose it
        with open_catalog(draft, config.unique, max_columns=config.max_columns) as fresh:
            fresh.set_local(config=synced)
    replace_catalog(replica.paths.meta, draft, config.unique, max_columns=config.max_columns)


def _replay(replica: Replica, remote: Remote, head: Head | None, came: _Came, probe: bool) -> Position:
    """Fetch and apply segments until there is no next one."""
    if not replica.paths.root.is_dir():
        if head is None:
            return Position(None, 0, "", 0)
        replica.paths.root.mkdir(parents=True)
    while True:
        position, _ = _here(replica)
        if remote.is_cached and not probe and head is not None and position.revision == head.revision:
            return position  # to ask for the next one would have a cache remember that it is not there
        behind = head is not None and head.snapshot is not None and head.snapshot.revision > position.revision
        try:
            _next(replica, remote, head, came, position, wait=not behind)
        except RemoteNotFoundError:
            if head is None or position.revision >= head.revision:
                return position
            if behind and _take_snapshot(replica, remote, head, came):
                continue
            raise missing(remote, position.revision + 1, head) from None
        came.segments += 1
        if came.progress is not None:
            left = max(head.revision - position.revision - 1, 0) if head is not None else 0
            came.progress(came.segments, came.segments + left)


def _next(
    replica: Replica, remote: Remote, head: Head | None, came: _Came, position: Position, *, wait: bool
) -> None:
    """Fetch and apply the segment after `position`. Raises `RemoteNotFoundError`, `LogError`."""
    revision = position.revision + 1
    source = f"{remote.url}/{remote_name(segment_name(revision))}"
    with temporary(replica.paths.root) as draft:
        came.bytes += fetch_segment(remote, revision, draft, head, wait=wait)
        try:
            documents = _apply(replica, draft, source, position, head)
        except LogError:
            if not comes_otherwise(remote, revision, draft):
                raise
            documents = _apply(replica, draft, source, position, head)
        came.documents += documents


def _apply(replica: Replica, draft: Path, source: str, position: Position, head: Head | None) -> int:
    """Apply one segment: documents, store and settings, or nothing.

    Files are written last before the transaction ends; should this be killed in between, they are taken again.
    """
    if head is not None and position.revision + 1 == head.revision and digest_of(draft) != head.digest:
        raise LogError(
            f"segment {source} is not the one that head.json names: it is damaged or was replaced; nothing "
            "was changed. Restore it from a backup of the archive"
        )
    with open_segment(draft, source) as (header, _):
        check_follows(header, position, source)
        if position.revision == 0:
            replica.take_config(header.config, None, source)
            replica.check_unique(header.unique)
    with replica.catalog() as catalog:
        replica.begin_taking(catalog, header.store, header.config)
        with atomic(catalog.connection):
            before = catalog.store()
            documents = replay_segment(catalog, draft, source)
            replica.take_store(header.store, before, source)
            synced = replica.take_config(header.config, catalog.local("config"), source)
            catalog.set_local(config=synced)
            replica.end_taking(catalog)
    return documents
