"""What a publish leaves at the remote besides the log: the snapshot, `head.json`, store values and settings as files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmmeta_core.changelog import digest_of
from mmmeta_core.database.catalog import Position, check_whole, open_catalog
from mmmeta_core.database.sqlite import connect, get_value
from mmmeta_core.errors import CatalogError, LogError, RemoteError, RemoteNotFoundError
from mmmeta_core.head import Head, Snapshot, parse_head
from mmmeta_core.paths import CONFIG, HEAD, META_DB, NAME, STORE, remote_name, store_name
from mmmeta_core.remotes import Remote
from mmmeta_core.store import is_local
from mmmeta_core.verify.findings import Report
from mmmeta_core.verify.history import MAX_COLUMNS, NOWHERE, Published
from mmmeta_core.verify.log import MEND_HEAD, Log, has_segment

_LOCK: Final = ".lock"
MEND_SNAPSHOT: Final = "let a publisher repair, or restore it from a backup of the archive"


def is_live(remote: Remote, head: Head | None) -> bool:
    """Whether the remote's metadir is one that is worked in: `meta.db`, store and settings there may be ahead of the log."""
    if remote.stat(f"{NAME}/{_LOCK}") is not None:
        return True
    return head is not None and head.snapshot is None and remote.stat(remote_name(META_DB)) is not None


@dataclass(frozen=True)
class Fetched:
    """The remote's snapshot in a file, as of `revision`, 0 when that can't be told.

    `flaw` is what is wrong with it; that it is `newer` than `head.json` says is none if it is as the log says.
    """

    path: Path
    revision: int
    flaw: str
    newer: bool = False


def fetch_snapshot(remote: Remote, log: Log, path: Path) -> Fetched | None:
    """Fetch the snapshot into `path`; None where there is none to look at.

    One that is newer than `head.json` says is what a publisher leaves that was killed, if it is as the log says.
    """
    head = log.head
    if head is None or head.snapshot is None:
        return None
    flaw = _fetch(remote, head.snapshot, path)
    if not path.exists():
        return (
            None
            if is_live(remote, head) or _has_moved_on(remote, head, log.newest)
            else Fetched(path, 0, flaw)
        )
    position, damage = _position(path)
    newer = bool(flaw) and not damage and position.revision > head.snapshot.revision
    if not flaw and not damage and position.revision != head.snapshot.revision:
        flaw = f"is at revision {position.revision}, and {HEAD} says otherwise"
    elif not flaw and not damage and position.log_bytes != head.snapshot.log_bytes:
        flaw = f"was made after {position.log_bytes} bytes of the log, and {HEAD} says otherwise"
    if flaw and (is_live(remote, head) or _has_moved_on(remote, head, log.newest)):
        return None
    return Fetched(path, position.revision, flaw or damage, newer)


def _fetch(remote: Remote, snapshot: Snapshot, path: Path) -> str:
    try:
        remote.fetch(remote_name(META_DB), path)
    except RemoteNotFoundError:
        return f"is missing, the snapshot that {HEAD} names"
    if path.stat().st_size != snapshot.size or digest_of(path) != snapshot.sha256:
        return f"is not the snapshot that {HEAD} names: it has another hash"
    return ""


def _position(path: Path) -> tuple[Position, str]:
    """Return where a snapshot is, and what is wrong with it."""
    try:
        check_whole(path, str(path))
        with closing(connect(path, pragmas={})) as connection:
            unique = get_value(connection, "mmmeta_info", "unique")
        with open_catalog(path, unique, max_columns=MAX_COLUMNS) as catalog:
            return catalog.position, ""
    except (CatalogError, sqlite3.DatabaseError, ValueError, TypeError) as error:
        return NOWHERE, f"is damaged ({error})"


def look_at_hints(
    remote: Remote, head: Head | None, at_head: Published | None, newest: Published, report: Report
) -> None:
    """Compare `head.json`, store values and settings at the remote with what the log says.

    They may lag behind the newest revision, as after a publisher that was killed. `at_head` is as of the revision that
    `head.json` names.
    """
    url = f"{remote.url}/{remote_name(HEAD)}"
    wrong = _wrong_head(head, at_head) if head is not None and at_head is not None else ""
    if wrong and head is not None and not report.has(url):
        report.find("head-wrong", url, f"has {wrong} than revision {head.revision} of the log", MEND_HEAD)
    if is_live(remote, head):
        return
    fine = [newest, *([at_head] if at_head is not None else [])]
    for name in _wrong_files(remote, fine):
        if head is not None and _has_moved_on(remote, head, newest.position.revision):
            return
        report.find("hints", f"{remote.url}/{name}", "is not what the log says", MEND_HEAD)


def _wrong_head(head: Head, published: Published) -> str:
    here = published.position
    if (head.archive, head.digest, head.log_bytes) != (here.archive, here.digest, here.log_bytes):
        return "another archive, hash or size of the log"
    if head.unique != published.unique:
        return "another key column"
    if dict(head.store) != dict(published.store):
        return "other store values"
    return "other settings" if published.knows_config and head.config != published.config else ""


def _wrong_files(remote: Remote, fine: list[Published]) -> list[str]:
    keys = {key for one in fine for key in one.store}
    if remote.can_list:
        prefix = remote_name(f"{STORE}/")
        there = {name.removeprefix(prefix) for name in remote.names(prefix)}
        keys |= {key for key in there if "/" not in key and not is_local(key)}
    wrong = [
        store_name(key)
        for key in sorted(keys)
        if _text(remote, store_name(key)) not in {one.store.get(key) for one in fine}
    ]
    known = {one.config for one in fine if one.knows_config}
    # A publisher's settings stay where they are when the log has none.
    if known - {None} and _text(remote, remote_name(CONFIG)) not in known:
        wrong.append(remote_name(CONFIG))
    return wrong


def _text(remote: Remote, name: str) -> str | None:
    try:
        blob = remote.read(name)
    except RemoteNotFoundError:
        return None
    return blob.data.decode(errors="backslashreplace") if blob is not None else None


def _has_moved_on(remote: Remote, head: Head, newest: int) -> bool:
    """Whether somebody publishes at this moment, or has since the log was listed."""
    if has_segment(remote, newest + 1):
        return True
    try:
        blob = remote.read(remote_name(HEAD))
        return blob is None or parse_head(blob.data, remote.url).revision != head.revision
    except (LogError, RemoteError):
        return False
