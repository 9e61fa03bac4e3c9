"""Retire: the oldest segments go, once a snapshot stands for them.

Oldest first, so that what is left of the log has no gap wherever this ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mmmeta_core.atomic import temporary
from mmmeta_core.changelog import FOLDER, digest_of, segment_name, segment_revision
from mmmeta_core.database.catalog import check_whole, open_catalog
from mmmeta_core.errors import CatalogError, ConflictError, RemoteNotFoundError
from mmmeta_core.head import Head, Snapshot, read_head
from mmmeta_core.paths import SNAPSHOT_DB, Paths, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.signing import load_signer
from mmmeta_core.sync.hints import write_hints
from mmmeta_core.sync.pull import pull
from mmmeta_core.sync.replica import Replica
from mmmeta_core.sync.signs import check_signs
from mmmeta_core.types import Progress

_TRIES: Final = 5


@dataclass(frozen=True)
class Retired:
    """How many segments were removed, and the revision of the snapshot that stands for them; 0 when none had to."""

    segments: int
    snapshot: int


def listed(remote: Remote) -> list[int]:
    """Return the revisions that the remote has a segment of, in order."""
    names = remote.names(remote_name(f"{FOLDER}/"))
    return sorted(number for name in names if (number := segment_revision(name)))


def forget_copies(paths: Paths, revision: int) -> None:
    """Remove what another tool copied here of the archive's log and snapshot, up to the revision that the catalog has."""
    for path in (paths.root / FOLDER).glob("*.gz"):
        if (segment_revision(path.name) or revision + 1) <= revision:
            path.unlink()
    (paths.root / SNAPSHOT_DB).unlink(missing_ok=True)


def retire(
    replica: Replica, remote: Remote, upto: int, *, covering: int = 0, progress: Progress | None = None
) -> Retired:
    """Remove all segments up to the revision `upto`, which the catalog has.

    First there has to be a snapshot of it, or of the later revision `covering`; one is written if need be, read back
    and compared with what `head.json` says of it. Raises `ConflictError` when other publishers were in the way of that,
    and `ConfigError` where that has to be signed and there is no key; then nothing is removed.
    """
    revisions = [revision for revision in listed(remote) if revision <= upto]
    if not revisions and not covering:
        return Retired(0, 0)
    snapshot = _secured(replica, remote, max(upto, covering))
    for number, revision in enumerate(revisions, 1):
        remote.remove(remote_name(segment_name(revision)))
        if progress is not None:
            progress(number, len(revisions))
    return Retired(len(revisions), snapshot.revision)


def _secured(replica: Replica, remote: Remote, covering: int) -> Snapshot:
    """Return a snapshot that is there, whole, and covers the revision."""
    signer = load_signer()
    for _ in range(_TRIES):
        with replica.catalog() as catalog:
            check_signs(replica, catalog, signer)
            trust = replica.trust(catalog)
            write_hints(replica, remote, catalog, signer, covering=covering)
        head, _, _ = read_head(remote, trust=trust)
        snapshot = head.snapshot if head is not None else None
        covers = snapshot is not None and snapshot.revision >= covering
        if (
            head is not None
            and snapshot is not None
            and covers
            and _is_whole(replica, remote, head, snapshot)
        ):
            return snapshot
        pull(replica, remote, probe=True)
    raise ConflictError(
        f"there is no snapshot at {remote.url} that head.json names and that covers revision {covering}, so no segment was "
        "removed: run it again when no other publisher is at work"
    )


def _is_whole(replica: Replica, remote: Remote, head: Head, snapshot: Snapshot) -> bool:
    with temporary(replica.paths.root) as draft:
        try:
            remote.fetch(remote_name(snapshot.name), draft, limit=snapshot.size)
            if digest_of(draft) != snapshot.sha256:
                return False
            check_whole(draft, f"{remote.url}/{remote_name(snapshot.name)}")
            with open_catalog(draft, head.unique) as catalog:
                return (catalog.position.archive, catalog.position.revision) == (
                    head.archive,
                    snapshot.revision,
                )
        except (RemoteNotFoundError, CatalogError):
            return False
