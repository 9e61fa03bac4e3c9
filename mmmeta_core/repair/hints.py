"""What a publish leaves at the remote besides the log, written anew from that."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import fsync_file
from mmmeta_core.changelog import digest_of
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import open_catalog
from mmmeta_core.errors import ConflictError, LogError, RemoteNotFoundError, SignatureError
from mmmeta_core.head import Head, Snapshot, parse_head
from mmmeta_core.paths import CONFIG, HEAD, META_DB, Paths, remote_name, store_name
from mmmeta_core.remotes import Remote
from mmmeta_core.remotes.base import ABSENT
from mmmeta_core.repair.aside import database_draft
from mmmeta_core.signing import load_signer, load_trust
from mmmeta_core.verify import Finding
from mmmeta_core.verify.hints import is_live
from mmmeta_core.verify.history import Published, Truth
from mmmeta_core.writer import WRITER

_TRIES: Final = 5


def rewrite(remote: Remote, paths: Paths, findings: Sequence[Finding], truth: Truth) -> str:
    """Write `head.json`, the store's files, the settings and the snapshot as the log says, where they are not so.

    By compare-and-swap, `head.json` last, so that whoever publishes meanwhile wins. Raises `ConflictError` then,
    `RemoteDeniedError` for one who may not write, `SignatureError` where signatures are expected.
    """
    if load_trust(paths.trusted_keys) is not None or load_signer() is not None:
        raise SignatureError(
            f"{remote.url}/{remote_name(HEAD)} has to be signed by a publisher who has seen all of it: let one push, which "
            "writes it anew"
        )
    for _ in range(_TRIES):
        head, etag = _read(remote)
        if head is not None and head.revision > truth.published.position.revision:
            break
        live = is_live(remote, head)
        if not live:
            _write_files(remote, findings, truth.published)
        snapshot = head.snapshot if head is not None else None
        if not live and (head is None or any(finding.code == "snapshot" for finding in findings)):
            snapshot = _write_snapshot(remote, paths, truth) or snapshot
        new = replace(_head(truth.published, head), snapshot=snapshot)
        if remote.write(remote_name(HEAD), new.to_json(), if_match=etag or ABSENT) is not None:
            return f"written anew from the log at revision {new.revision}"
    raise ConflictError(f"somebody publishes to {remote.url} at this moment: repair again")


def _read(remote: Remote) -> tuple[Head | None, str]:
    """Return `head.json` if it can be read, and what to replace it by."""
    try:
        blob = remote.read(remote_name(HEAD))
    except RemoteNotFoundError:
        return None, ""
    if blob is None:
        return None, ""
    try:
        return parse_head(blob.data, remote.url), blob.etag
    except LogError:
        return None, blob.etag


def _head(published: Published, before: Head | None) -> Head:
    position = published.position
    config = published.config
    if not published.knows_config and before is not None:
        config = before.config
    return Head(
        archive=position.archive or "",
        revision=position.revision,
        unique=published.unique,
        digest=position.digest,
        log_bytes=position.log_bytes,
        store=dict(published.store),
        config=config,
        writer=WRITER,
    )


def _write_files(remote: Remote, findings: Sequence[Finding], published: Published) -> None:
    wrong = {finding.subject for finding in findings if finding.code == "hints"}
    if f"{remote.url}/{remote_name(CONFIG)}" in wrong and published.config is not None:
        Config.parse(published.config, "the published config.yml")
        remote.write(remote_name(CONFIG), published.config.encode())
    prefix = f"{remote.url}/{store_name('')}"
    for subject in sorted(wrong):
        if not subject.startswith(prefix):
            continue
        key = subject.removeprefix(prefix)
        text = published.store.get(key)
        if text is None:
            remote.remove(store_name(key))
        else:
            remote.write(store_name(key), text.encode())


def _write_snapshot(remote: Remote, paths: Paths, truth: Truth) -> Snapshot | None:
    """Upload what the log says as a snapshot; None if somebody else just did."""
    there = remote.stat(remote_name(META_DB))
    position = truth.published.position
    paths.root.mkdir(parents=True, exist_ok=True)
    with database_draft(paths.root) as whole, database_draft(paths.root) as draft:
        shutil.copyfile(truth.path, whole)
        _snapshot(whole, truth.published.unique, draft)
        etag = remote.write(remote_name(META_DB), draft, if_match=there.etag if there else ABSENT)
        if etag is None:
            return None
        size, sha256 = draft.stat().st_size, digest_of(draft)
    return Snapshot(position.revision, size, sha256, position.log_bytes, etag)


def _snapshot(whole: Path, unique: str, draft: Path) -> None:
    with open_catalog(whole, unique) as catalog:
        catalog.snapshot(draft)
    fsync_file(draft)
