"""What a publish leaves at the remote besides the segment: it repeats the log in forms that are quick to read.

The store's values as files, `config.yml`, a snapshot of the catalog when the log since the last one has grown past a
share of it, and `head.json`, by compare-and-swap, so that an older revision never replaces a newer one. A
publisher that is killed here leaves hints that lag; the next push mends them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mmmeta_core.atomic import temporary
from mmmeta_core.changelog import digest_of
from mmmeta_core.database.catalog import Catalog, Position
from mmmeta_core.errors import SignatureError
from mmmeta_core.events import event
from mmmeta_core.head import Head, Snapshot, read_head
from mmmeta_core.paths import CONFIG, HEAD, META_DB, NAME, SNAPSHOT_DB, Paths, remote_name, store_name
from mmmeta_core.remotes import LocalRemote, Remote
from mmmeta_core.remotes.base import ABSENT
from mmmeta_core.signing import SIGNING_KEY, Signer, Trust, load_trust
from mmmeta_core.sync.replica import Replica
from mmmeta_core.writer import WRITER

log = logging.getLogger(__name__)

_SNAPSHOT_SHARE: Final = 4
"""A snapshot is due when the log since the last one exceeds this fraction (1/n) of the snapshot's size …"""
_SNAPSHOT_SEGMENTS: Final = 500
"""… or this many segments, …"""
_SNAPSHOT_BYTES: Final = 1_000_000
"""… but of a large one no more than so many bytes for each of them, or a publish would cost what the archive does."""
_TRIES: Final = 20


def write_hints(
    replica: Replica,
    remote: Remote,
    catalog: Catalog,
    signer: Signer | None,
    *,
    only_if_behind: bool = False,
    covering: int = 0,
    seen: tuple[Head | None, str] | None = None,
) -> bool:
    """Bring the remote's hints up to the catalog's revision; a newer revision's hints stay.

    With `only_if_behind` it costs nothing when the last pull saw the hints of this very revision. Unless the snapshot
    there covers the revision `covering`, a new one is made. `seen` is what `head_there` has just returned to the caller.
    Who signs repeats nothing of a `head.json` that is not signed by a trusted key, and replaces it. Returns whether they
    are up to date.
    """
    position = catalog.position
    if position.archive is None:
        return False
    if only_if_behind and (catalog.local("head") or "").startswith(f"{remote.url} "):
        return True
    mine: Snapshot | None = None
    wrote: set[str] = set()
    for _ in range(_TRIES):
        head, etag = seen or head_there(replica, remote, signer)
        seen = None
        if head is not None and head.revision > position.revision:
            # Somebody published since, and our store values may have come after theirs.
            _write_store(remote, {key: head.store.get(key) for key in wrote})
            new = replace(head, writer=WRITER)
        else:
            new = _head(replica, catalog, head)
            if not is_here(replica, remote):
                wrote |= _write_files(remote, head, new)
        if new.revision == position.revision:
            mine = mine or _snapshot(replica, remote, catalog, head, covering)
        new = replace(new, snapshot=mine or (head.snapshot if head else None))
        # Written even when it is the same again: only this shows that nobody else's came in between.
        written = remote.write(remote_name(HEAD), new.to_json(signer), if_match=etag or ABSENT)
        if written is not None:
            if new.revision == position.revision:
                catalog.set_local(head=f"{remote.url} {written}")
            return True
    fields = event("head behind", remote=remote.url, revision=position.revision)
    log.warning(
        "%s/%s could not be brought up to date; the next push does it",
        remote.url,
        remote_name(HEAD),
        extra=fields,
    )
    return False


def head_there(replica: Replica, remote: Remote, signer: Signer | None) -> tuple[Head | None, str]:
    """Return the head that is there and its etag; None for one that says nothing to who signs."""
    try:
        head, etag, _ = read_head(remote)
        if signer is None or head is None:
            return head, etag
        trust = load_trust(replica.paths.trusted_keys) or Trust((), SIGNING_KEY)
        head, etag, _ = read_head(remote, trust=trust.also(signer))
    except SignatureError:
        return None, etag
    return head, etag


def _write_files(remote: Remote, before: Head | None, new: Head) -> set[str]:
    """Write what differs from the last hints: store values and settings. Returns the store's keys."""
    old: Mapping[str, str] = before.store if before else {}
    changed = {
        key: new.store.get(key) for key in old.keys() | new.store.keys() if old.get(key) != new.store.get(key)
    }
    _write_store(remote, changed)
    if new.config is not None and (before is None or before.config != new.config):
        remote.write(remote_name(CONFIG), new.config.encode())
    return set(changed)


def _head(replica: Replica, catalog: Catalog, before: Head | None) -> Head:
    position = catalog.position
    config = replica.config_text() if catalog.local("config") is not None else None
    return Head(
        archive=position.archive or "",
        revision=position.revision,
        unique=catalog.unique,
        digest=position.digest,
        log_bytes=position.log_bytes,
        store=catalog.store(),
        config=before.config if config is None and before else config,
        writer=WRITER,
    )


def is_here(replica: Replica, remote: Remote) -> bool:
    """Whether the remote's metadir is the local one: an archive that is published where it lies."""
    return isinstance(remote, LocalRemote) and remote.root.resolve() == replica.paths.root.parent.resolve()


def _is_live(remote: Remote) -> bool:
    """Whether the remote's metadir is one that is worked in, so that a `meta.db` there is its catalog and no snapshot."""
    return isinstance(remote, LocalRemote) and Paths(remote.root / NAME).lock.exists()


def _write_store(remote: Remote, texts: Mapping[str, str | None]) -> None:
    for key, text in texts.items():
        if text is None:
            remote.remove(store_name(key))
        else:
            remote.write(store_name(key), text.encode())


def _snapshot(
    replica: Replica, remote: Remote, catalog: Catalog, head: Head | None, covering: int
) -> Snapshot | None:
    """Upload a snapshot if one is due; None if not, or if another publisher was faster."""
    position = catalog.position
    last = head.snapshot if head else None
    meta = remote.stat(remote_name(META_DB))
    here = is_here(replica, remote)
    live = here or (meta is not None and (last is None or last.name != META_DB) and _is_live(remote))
    if live and last is None and not covering:
        return None
    name = SNAPSHOT_DB if live else META_DB
    there = remote.stat(remote_name(name)) if live else meta
    is_last = last is not None and last.name == name and there is not None and there.etag == last.etag
    if last is not None and is_last and not _is_due(position, last, covering):
        return None
    with temporary(replica.paths.root) as draft:
        catalog.snapshot(draft)
        if name == META_DB and last is None and there is not None:
            # An old version's has logs, which SQLite would mix with this one.
            for log_name in (f"{META_DB}-wal", f"{META_DB}-shm"):
                remote.remove(remote_name(log_name))
        etag = remote.write(remote_name(name), draft, if_match=there.etag if there else ABSENT)
        if etag is None:
            return None
        size = draft.stat().st_size
        return Snapshot(position.revision, size, digest_of(draft), position.log_bytes, etag, name)


def _is_due(position: Position, last: Snapshot, covering: int) -> bool:
    if last.revision >= position.revision:
        return False
    segments = max(_SNAPSHOT_SEGMENTS, last.size // _SNAPSHOT_BYTES)
    grown = (position.log_bytes - last.log_bytes) * _SNAPSHOT_SHARE > last.size
    return grown or position.revision - last.revision >= segments or last.revision < covering
