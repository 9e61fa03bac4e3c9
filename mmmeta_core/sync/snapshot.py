"""Taking the remote's snapshot: a catalog whole, instead of the log that leads to it."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import temporary
from mmmeta_core.changelog import digest_of, segment_name
from mmmeta_core.database.catalog import Catalog, check_whole, open_catalog, replace_catalog
from mmmeta_core.database.sqlite import connect, table_columns
from mmmeta_core.errors import CatalogError, LogError, RemoteNotFoundError
from mmmeta_core.head import Head, Snapshot, read_head
from mmmeta_core.limits import cap
from mmmeta_core.paths import CONFIG, HEAD, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.signing import Trust
from mmmeta_core.sync.replica import Replica
from mmmeta_core.types import Progress

log = logging.getLogger(__name__)

_TRIES: Final = 3


@dataclass
class Came:
    """What came from the remote so far."""

    segments: int = 0
    documents: int = 0
    snapshot: bool = False
    bytes: int = 0
    trust: Trust | None = None
    progress: Progress | None = None


def take_snapshot(
    replica: Replica, remote: Remote, head: Head, came: Came, *, last_resort: bool = False
) -> bool:
    """Replace the catalog by the remote's snapshot; False when what lies there is not what `head.json` names.

    As a `last_resort` a later one is taken, too, whose publisher was killed before it could name it; but not where keys
    are trusted, since then only what a signed `head.json` names can be.
    """
    for _ in range(_TRIES):
        snapshot = head.snapshot
        if snapshot is None:
            return False
        there = remote.stat(remote_name(snapshot.name))
        if there is not None and there.size == snapshot.size:
            with temporary(replica.paths.root) as draft:
                came.bytes += remote.fetch(
                    remote_name(snapshot.name),
                    draft,
                    limit=min(snapshot.size, cap("MMMETA_MAX_SNAPSHOT_BYTES")),
                )
                if digest_of(draft) == snapshot.sha256:
                    check_whole(draft, f"{remote.url}/{remote_name(snapshot.name)}")
                    _adopt(replica, remote, draft, snapshot, head, verified=came.trust is not None)
                    came.snapshot = True
                    return True
        head = read_head(remote, trust=came.trust)[0] or head
    if last_resort and came.trust is None and _take_newer(replica, remote, head, came):
        return True
    log.info("the snapshot at %s is not the one that head.json names; reading the log instead", remote.url)
    return False


def _take_newer(replica: Replica, remote: Remote, head: Head, came: Came) -> bool:
    """Take a snapshot that `head.json` does not name yet, if it says of itself where in this log it belongs."""
    named = head.snapshot
    if named is None:
        return False
    with temporary(replica.paths.root) as draft:
        try:
            came.bytes += remote.fetch(remote_name(named.name), draft, limit=cap("MMMETA_MAX_SNAPSHOT_BYTES"))
            newer = _recognise(draft, named, head)
        except (RemoteNotFoundError, CatalogError):
            return False
        if newer is None or not _is_in_log(replica, remote, *newer):
            return False
        try:
            config = remote.read(remote_name(CONFIG))
        except RemoteNotFoundError:
            config = None
        text = config.data.decode(errors="replace") if config is not None else head.config
        _adopt(replica, remote, draft, newer[0], replace(head, config=text), verified=False)
    came.snapshot = True
    return True


def _recognise(draft: Path, named: Snapshot, head: Head) -> tuple[Snapshot, str] | None:
    """Return which snapshot this is and its segment's digest; None for a catalog that is worked in, or an older one."""
    check_whole(draft, str(draft))
    with closing(connect(draft, pragmas={})) as connection:
        position = Catalog(connection, draft, head.unique, 0).position
        if table_columns(connection, "mmmeta_pending") or position.archive != head.archive:
            return None
    if position.revision <= named.revision:
        return None
    snapshot = Snapshot(
        position.revision, draft.stat().st_size, digest_of(draft), position.log_bytes, name=named.name
    )
    return snapshot, position.digest


def _is_in_log(replica: Replica, remote: Remote, snapshot: Snapshot, digest: str) -> bool:
    with temporary(replica.paths.root) as segment:
        try:
            remote.fetch(
                remote_name(segment_name(snapshot.revision)), segment, limit=cap("MMMETA_MAX_SEGMENT_BYTES")
            )
        except RemoteNotFoundError:
            return False
        return digest_of(segment) == digest


def _adopt(
    replica: Replica, remote: Remote, draft: Path, snapshot: Snapshot, head: Head, *, verified: bool
) -> None:
    config = replica.config()
    old: dict[str, str] = {}
    synced = signs = None
    with open_catalog(draft, config.unique, max_columns=config.max_columns) as fresh:
        if fresh.position.revision != snapshot.revision or fresh.position.archive != head.archive:
            raise LogError(
                f"{remote.url}/{remote_name(snapshot.name)} is not the snapshot that head.json names"
            )
        new = fresh.store()
        fresh.forget_private()
        fresh.note_verified(verified)
    if replica.paths.meta.exists():
        with replica.catalog() as catalog:
            old, synced, signs = catalog.store(), catalog.local("config"), catalog.local("signs")
            replica.begin_taking(catalog, {**dict.fromkeys(old), **new}, head.config)
    synced = replica.take_config(head.config, synced, f"{remote.url}/{remote_name(HEAD)}")
    replica.take_store({**dict.fromkeys(old), **new}, old, remote.url)
    # Before it takes its place: a kill in between would lose these notes.
    with open_catalog(draft, config.unique, max_columns=config.max_columns) as fresh:
        fresh.set_local(config=synced, signs=signs)
    replace_catalog(replica.paths.meta, draft, config.unique, max_columns=config.max_columns)
