"""Pull: what the remote published since last time → the local catalog, store and settings."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import temporary
from mmmeta_core.changelog import check_follows, digest_of, open_segment, replay_segment, segment_name
from mmmeta_core.database.catalog import Position
from mmmeta_core.database.sqlite import atomic
from mmmeta_core.errors import LogError, RemoteNotFoundError, SignatureError
from mmmeta_core.events import event
from mmmeta_core.head import Head, read_head
from mmmeta_core.notebook import Shown
from mmmeta_core.paths import remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.signing import Trust
from mmmeta_core.sync.history import check_history
from mmmeta_core.sync.replica import Replica
from mmmeta_core.sync.segments import comes_otherwise, fetch_segment, missing
from mmmeta_core.sync.snapshot import Came, take_snapshot
from mmmeta_core.types import Progress

log = logging.getLogger(__name__)

_REQUEST_BYTES: Final = 20_000
"""What one more request is worth in bytes, when log and snapshot are compared."""
_LARGE_LOG: Final = 100_000_000
_LARGE_LOG_WEIGHT: Final = 8
"""What more bytes of log than that weigh besides: to replay them takes far longer than to fetch as many of a snapshot."""


@dataclass(frozen=True)
class PullResult(Shown):
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


def pull(
    replica: Replica, remote: Remote, *, probe: bool = False, progress: Progress | None = None
) -> PullResult:
    """Bring the local metadir to the newest revision.

    Asks for `head.json` first; one that did not change since the last complete pull ends it after that one request,
    unless `probe` asks to look for a next segment all the same. Each segment is applied in one transaction, so a
    kill leaves a whole revision and the next pull goes on from there. Local changes that wait to be published are
    kept on top. The caller holds the metadir's lock. Raises `LogError` for a missing, damaged or foreign
    segment, and `RemoteError`; then the catalog is at the last good revision. A missing one is a
    `RemoteUnreachableError` where a cache may be what misses it. Where keys are trusted, `head.json` and each segment must
    be signed by one of them, else `SignatureError`; segments that are not may be bridged by a snapshot that a signed
    `head.json` names, and what was pulled before without keys is replaced by one.
    """
    started = time.monotonic()
    came = Came(progress=progress)
    position = _pull(replica, remote, came, probe)
    if came.segments or came.snapshot:
        log.info(
            "pulled revision %d: %d segments, %d documents, %d bytes%s",
            *(position.revision, came.segments, came.documents, came.bytes),
            ", with a snapshot" if came.snapshot else "",
            extra=event(
                "pulled",
                remote=remote.url,
                revision=position.revision,
                segments=came.segments,
                documents=came.documents,
                bytes=came.bytes,
                snapshot=came.snapshot,
            ),
        )
    return PullResult(
        position.revision,
        came.segments,
        came.documents,
        came.snapshot,
        came.bytes,
        time.monotonic() - started,
    )


def _pull(replica: Replica, remote: Remote, came: Came, probe: bool) -> Position:
    here = _here(replica)
    position, came.trust = here.position, here.trust
    anew = not here.is_verified and came.trust is not None
    url, _, etag = (here.head or "").partition(" ")
    is_known = etag and url == remote.url and not anew
    head, new_etag, unchanged = read_head(remote, etag=etag if is_known else None, trust=came.trust)
    if unchanged and not probe:
        return position
    if head is not None:
        check_history(replica, remote, head, position)
        if position.revision == 0:
            _start(replica, head, remote)
        if anew or _snapshot_pays(head, position):
            take_snapshot(replica, remote, head, came)
            position = _here(replica).position
    if anew and not came.snapshot:
        raise SignatureError(
            f"{replica.paths.meta} was pulled without the keys that are trusted now, and {remote.url} has no "
            "signed snapshot to take instead: move it away and pull again (state is kept)"
        )
    position = _replay(replica, remote, head, came, position, probe=probe)
    complete = head is not None and head.revision == position.revision
    if complete or (here.head and not (unchanged and not came.segments)):
        with replica.catalog() as catalog:
            catalog.set_local(head=f"{remote.url} {new_etag}" if complete else None)
    return position


@dataclass(frozen=True)
class _Here:
    """What is here already: how far the catalog is, and with which head it was complete.

    `trust` has the keys of which one must have signed what comes, `is_verified` says whether that holds for what came.
    """

    position: Position
    head: str | None
    trust: Trust | None
    is_verified: bool


def _here(replica: Replica) -> _Here:
    """Look at the catalog, after undoing what a kill left half taken; makes none where there is none."""
    if not replica.paths.meta.exists():
        return _Here(Position(None, 0, "", 0), None, replica.trust(None), is_verified=True)
    with replica.catalog() as catalog:
        replica.undo_taking(catalog)
        return _Here(catalog.position, catalog.local("head"), replica.trust(catalog), catalog.is_verified)


def _start(replica: Replica, head: Head, remote: Remote) -> None:
    """Take over the archive's settings before the first revision comes: they name the key column."""
    replica.paths.root.mkdir(parents=True, exist_ok=True)
    replica.take_config(head.config, None, f"{remote.url}: config.yml")
    replica.check_unique(head.unique)


def _snapshot_pays(head: Head, position: Position) -> bool:
    """Whether the snapshot and the log after it are less to transfer, and to replay, than the log alone."""
    snapshot = head.snapshot
    if snapshot is None or snapshot.revision <= position.revision:
        return False
    by_log = _cost(head, position.revision, position.log_bytes)
    return snapshot.size + _cost(head, snapshot.revision, snapshot.log_bytes) < by_log


def _cost(head: Head, revision: int, log_bytes: int) -> int:
    """Return what the log after `revision` costs, in bytes of a snapshot."""
    behind = head.log_bytes - log_bytes
    requests = (head.revision - revision) * _REQUEST_BYTES
    return behind + requests + max(behind - _LARGE_LOG, 0) * _LARGE_LOG_WEIGHT


def _replay(
    replica: Replica, remote: Remote, head: Head | None, came: Came, position: Position, *, probe: bool
) -> Position:
    """Fetch and apply the segments after `position` until there is no next one."""
    if head is None and not replica.paths.root.is_dir():
        return Position(None, 0, "", 0)
    replica.paths.root.mkdir(parents=True, exist_ok=True)
    while True:
        if remote.is_cached and not probe and head is not None and position.revision == head.revision:
            return position  # to ask for the next one would have a cache remember that it is not there
        try:
            _next(replica, remote, head, came, position)
        except RemoteNotFoundError:
            if head is None or position.revision >= head.revision:
                return position
            head = read_head(remote, trust=came.trust)[0] or head  # it may have been pruned since
            if not _bridge(replica, remote, head, came, position, last_resort=True):
                raise missing(remote, position.revision + 1, head) from None
        except SignatureError as error:
            if error.forged or not _bridge(replica, remote, head, came, position):
                raise
        else:
            came.segments += 1
            _report(came, head, position)
        position = _here(replica).position


def _report(came: Came, head: Head | None, before: Position) -> None:
    if came.progress is not None:
        left = max(head.revision - before.revision - 1, 0) if head is not None else 0
        came.progress(came.segments, came.segments + left)


def _is_behind(head: Head | None, position: Position) -> bool:
    """Whether the remote has a snapshot that is newer than what is here."""
    return head is not None and head.snapshot is not None and head.snapshot.revision > position.revision


def _bridge(
    replica: Replica,
    remote: Remote,
    head: Head | None,
    came: Came,
    position: Position,
    *,
    last_resort: bool = False,
) -> bool:
    """Take the snapshot instead of a segment that can't be had, if there is one that goes further."""
    if head is None or not _is_behind(head, position):
        return False
    return take_snapshot(replica, remote, head, came, last_resort=last_resort)


def _next(replica: Replica, remote: Remote, head: Head | None, came: Came, position: Position) -> None:
    """Fetch and apply the segment after `position`. Raises `RemoteNotFoundError`, `LogError`, `SignatureError`."""
    revision = position.revision + 1
    with temporary(replica.paths.root) as draft:
        came.bytes += fetch_segment(remote, revision, draft, head, wait=not _is_behind(head, position))
        part = _Part(replica, draft, f"{remote.url}/{remote_name(segment_name(revision))}", position)
        try:
            documents = _apply(part, head, came.trust)
        except LogError:
            if not comes_otherwise(remote, revision, draft):
                raise
            documents = _apply(part, head, came.trust)
        came.documents += documents


@dataclass(frozen=True)
class _Part:
    """A segment that lies in the file `draft`, came from `source`, and is to follow `position`."""

    replica: Replica
    draft: Path
    source: str
    position: Position


def _apply(part: _Part, head: Head | None, trust: Trust | None) -> int:
    """Apply one segment: documents, store and settings, or nothing.

    Files are written last before the transaction ends; should this be killed in between, they are taken again.
    """
    replica, draft, source, position = part.replica, part.draft, part.source, part.position
    if trust is not None:
        trust.check_segment(draft, source)
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
            catalog.note_verified(trust is not None)
            replica.end_taking(catalog)
    return documents
