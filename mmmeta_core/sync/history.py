"""Whether the remote's history is the one that a metadir has: an archive may be started anew, set back or replaced."""

from __future__ import annotations

from mmmeta_core.atomic import temporary
from mmmeta_core.changelog import digest_of, segment_name
from mmmeta_core.database.catalog import Position
from mmmeta_core.errors import LogError, RemoteNotFoundError
from mmmeta_core.head import Head
from mmmeta_core.paths import HEAD, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.sync.replica import Replica
from mmmeta_core.sync.segments import comes_otherwise, fetch_segment


def check_history(replica: Replica, remote: Remote, head: Head, position: Position) -> None:
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
    if head.revision < position.revision:
        _check_newest(replica, remote, position)


def _check_newest(replica: Replica, remote: Remote, position: Position) -> None:
    """Raise `LogError` unless the remote has the newest segment that this metadir has, though its head lags behind.

    An archive that was put back may have gone on otherwise to the same revision. The segment is fetched, once for
    each etag that it has.
    """
    name = remote_name(segment_name(position.revision))
    source = f"{remote.url}/{name}"
    there = remote.stat(name)
    with replica.catalog() as catalog:
        if there is not None and there.etag and catalog.local("newest") == f"{source} {there.etag}":
            return
    with temporary(replica.paths.root) as draft:
        try:
            fetch_segment(remote, position.revision, draft, None)
        except RemoteNotFoundError:
            raise LogError(
                f"segment {source} is missing, which this metadir has: the remote was set back. Restore it "
                "from a backup, or move meta.db away and pull again (state is kept)"
            ) from None
        is_ours = digest_of(draft) == position.digest
        if not is_ours and comes_otherwise(remote, position.revision, draft):
            is_ours = digest_of(draft) == position.digest
        if not is_ours:
            raise LogError(
                f"segment {source} is another than this metadir has: the remote was set back and went on otherwise, or "
                "the segment was replaced. Move meta.db away and pull again (state is kept)"
            )
    with replica.catalog() as catalog:
        catalog.set_local(newest=f"{source} {there.etag}" if there is not None else None)
