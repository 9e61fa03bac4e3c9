"""Push: what waits in the local catalog, store and settings → the next revision at the remote.

The commit is the creation of segment N+1, which only one publisher can do. Everything written after it (the store's
files, `config.yml`, `meta.db`, `head.json`) repeats what the log already says; see `hints`.
"""

from __future__ import annotations

import getpass
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import temporary
from mmmeta_core.changelog import (
    Header,
    Written,
    open_segment,
    segment_name,
    write_segment,
)
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.sqlite import atomic
from mmmeta_core.errors import (
    ConflictError,
    LogError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
    StoreError,
)
from mmmeta_core.events import event
from mmmeta_core.head import Head
from mmmeta_core.limits import cap
from mmmeta_core.notebook import Shown
from mmmeta_core.paths import remote_name
from mmmeta_core.remotes import Remote, UploadResult
from mmmeta_core.signing import Signer, load_signer
from mmmeta_core.store import decode_value, encode_value
from mmmeta_core.sync.hints import head_there, write_hints
from mmmeta_core.sync.pull import pull
from mmmeta_core.sync.replica import TIMESTAMP, Replica, digest
from mmmeta_core.sync.signs import check_signs, expects_signatures, note_signs
from mmmeta_core.types import format_time, never, to_utc, utcnow
from mmmeta_core.writer import WRITER

log = logging.getLogger(__name__)

SINGLE_PUBLISHER: Final = "MMMETA_SINGLE_PUBLISHER"
"""Set to 1 by somebody who knows that there is one publisher only, whatever the store does."""

_TRIES: Final = 50
_WAIT_SECONDS: Final = 0.05


@dataclass(frozen=True)
class PushResult(Shown):
    """What was published: `revision` is where the archive is now, `bytes` the size of the segment.

    `files` is what was uploaded before it, None where that was not asked for.
    """

    revision: int
    documents: int
    store_keys: int
    bytes: int
    seconds: float = field(compare=False)
    files: UploadResult | None = None

    @property
    def published(self) -> bool:
        """Whether there was anything to publish."""
        return self.bytes > 0


@dataclass(frozen=True)
class _Waiting:
    """What is to be published besides documents."""

    store: Mapping[str, str | None]
    config: str | None


def push(replica: Replica, remote: Remote, *, note: str | None = None) -> PushResult:
    """Publish all that waits as one new revision; `note` says why, to people who read the log.

    Pulls first, so that changes by other publishers are underneath; who loses the race for a revision pulls and
    tries the next. All or nothing: a reader sees the documents and the store values of the revision together. A kill
    before the commit leaves everything waiting, a kill after it is recognised by the next push. Nothing is published
    when nothing changed. The caller holds the metadir's lock. Raises `ConflictError` after losing too often,
    `RemoteDeniedError` when the remote is read only, `RemoteError` when it can't keep publishers apart, and what `pull`
    raises. With `MMMETA_SIGNING_KEY` what is published is signed; the first time that this is set, and nothing else waits,
    `head.json` and a snapshot are signed. Raises `ConfigError` without it where signatures are expected.
    """
    started = time.monotonic()
    signer = load_signer()
    for attempt in range(_TRIES):
        pull(replica, remote, probe=attempt > 0)
        with replica.catalog() as catalog, temporary(replica.paths.root) as draft:
            waiting = _waiting(replica, catalog)
            written = _write(catalog, draft, waiting, note, signer)
            if written is None:
                _hint(replica, remote, catalog, signer)
                return PushResult(catalog.position.revision, 0, 0, 0, time.monotonic() - started)
            check_signs(replica, catalog, signer)
            _check_conditions(remote, catalog)
            # What the hints were is known no more: should this be cut off from here on, the next push looks.
            catalog.set_local(head=None)
            if _commit(remote, written, draft):
                seen = head_there(replica, remote, signer)
                if _is_astray(remote, written, seen[0]):
                    remote.remove(remote_name(segment_name(written.header.revision)))
                    continue
                _note(replica, catalog, written, signer)
                if write_hints(replica, remote, catalog, signer, seen=seen):
                    note_signs(catalog, signer)
                revision, documents = written.header.revision, written.documents
                fields = event("published", remote=remote.url, revision=revision, documents=documents)
                log.info("published revision %d: %d documents", revision, documents, extra=fields)
                return PushResult(
                    written.header.revision,
                    written.documents,
                    len(waiting.store),
                    written.size,
                    time.monotonic() - started,
                )
        time.sleep(random.uniform(0, _WAIT_SECONDS * min(attempt + 1, 20)))  # noqa: S311 - jitter, not a secret
    raise ConflictError(
        f"other publishers to {remote.url} were faster {_TRIES} times in a row; run push again"
    )


def _hint(replica: Replica, remote: Remote, catalog: Catalog, signer: Signer | None) -> None:
    """Mend the hints where nothing is to be published; what this metadir has been signed for is not left unsigned."""
    if signer is None and expects_signatures(replica, catalog):
        return
    first = signer is not None and not catalog.local("signs")
    if write_hints(replica, remote, catalog, signer, only_if_behind=not first):
        note_signs(catalog, signer)


def _waiting(replica: Replica, catalog: Catalog) -> _Waiting:
    """Compare the store's files and `config.yml` with what is published."""
    published, here = catalog.store(), replica.store.texts()
    here.pop(TIMESTAMP, None)
    keys = (here.keys() | published.keys()) - {TIMESTAMP}
    store = {key: here.get(key) for key in sorted(keys) if here.get(key) != published.get(key)}
    config = replica.config_text()
    if config is not None:
        Config.parse(config, str(replica.paths.config))
        if digest(config) == catalog.local("config"):
            config = None
    return _Waiting(store, config)


def _write(
    catalog: Catalog, draft: Path, waiting: _Waiting, note: str | None, signer: Signer | None
) -> Written | None:
    """Write the next segment into `draft`; None when there is nothing to publish."""
    nothing_else = not waiting.store and waiting.config is None
    if nothing_else and next(catalog.deltas(), None) is None:
        if catalog.pending_count():
            catalog.drop_empty_pending()
        return None
    position = catalog.position
    now = utcnow()
    header = Header(
        archive=position.archive or uuid.uuid4().hex,
        revision=position.revision + 1,
        commit=uuid.uuid4().hex,
        previous=position.digest,
        at=format_time(now),
        unique=catalog.unique,
        log_bytes=position.log_bytes,
        columns=catalog.new_columns(),
        store={
            **waiting.store,
            TIMESTAMP: encode_value(max(now, _last_timestamp(catalog) + timedelta(microseconds=1))),
        },
        config=waiting.config,
        by=_publisher(),
        note=note,
        writer=WRITER,
    )
    return write_segment(draft, header, catalog.deltas(), signer)


def _publisher() -> str:
    """Return who publishes, for people who read the log."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container without a user of this number
        return socket.gethostname()


def _last_timestamp(catalog: Catalog) -> datetime:
    try:
        value = decode_value(catalog.store().get(TIMESTAMP, ""))
    except StoreError:
        return never
    return to_utc(value) if isinstance(value, datetime) else never


def keeps_conditions(remote: Remote, catalog: Catalog) -> bool:
    """Whether the remote keeps publishers apart. Tried out once for each metadir and remote."""
    if catalog.local("conditions") == remote.identity:
        return True
    if not remote.keeps_conditions():
        return False
    catalog.set_local(conditions=remote.identity)
    return True


def _check_conditions(remote: Remote, catalog: Catalog) -> None:
    """Raise `RemoteError` if the remote can't keep publishers apart."""
    if keeps_conditions(remote, catalog):
        return
    risk = f"{remote.url} does not keep conditional writes, so publishers at the same time would overwrite each other"
    if os.environ.get(SINGLE_PUBLISHER) != "1":
        raise RemoteError(
            f"{risk}; nothing was published. Use a store that keeps If-None-Match, or set {SINGLE_PUBLISHER}=1 where "
            "there is only ever this one publisher"
        )
    log.warning("%s: this must be the only publisher", risk, extra=event("no conditions", remote=remote.url))


def _commit(remote: Remote, written: Written, draft: Path) -> bool:
    """Create the segment; False when another publisher has this revision."""
    name = remote_name(segment_name(written.header.revision))
    try:
        created = remote.create(name, draft)
    except RemoteUnreachableError:
        # The reply may be lost while the segment is there.
        if _is_mine(remote, name, written):
            return True
        raise
    return created or _is_mine(remote, name, written)


def _is_astray(remote: Remote, written: Written, head: Head | None) -> bool:
    """Whether the segment may be in the place of one that was pruned meanwhile, where nobody would read it."""
    revision = written.header.revision
    if head is None or head.revision <= revision:
        return False
    if head.snapshot is None or head.snapshot.revision < revision:
        return False
    with temporary(written.path.parent) as next_one:
        name = remote_name(segment_name(revision + 1))
        try:
            remote.fetch(name, next_one, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
        except RemoteNotFoundError:
            return True
        with open_segment(next_one, f"{remote.url}/{name}") as (header, _):
            return header.previous != written.digest


def _is_mine(remote: Remote, name: str, written: Written) -> bool:
    """Whether the segment that is there is this one; False also when there is none after all."""
    with temporary(written.path.parent) as theirs:
        for is_last in (False, True):
            try:
                remote.fetch(name, theirs, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
                with open_segment(theirs, f"{remote.url}/{name}") as (header, _):
                    return header.commit == written.header.commit
            except RemoteNotFoundError:
                return False
            except LogError:  # it may have come in part
                if is_last:
                    raise
    raise AssertionError


def _note(replica: Replica, catalog: Catalog, written: Written, signer: Signer | None) -> None:
    """Note here what was published."""
    header = written.header
    replica.store.set_text(TIMESTAMP, header.store[TIMESTAMP])
    with atomic(catalog.connection):  # a kill in between would have the next push publish the settings again
        verified = catalog.is_verified and signer is not None
        catalog.mark_published(written.position, header.store)
        catalog.note_verified(verified)
        if header.config is not None:
            catalog.set_local(config=digest(header.config))
