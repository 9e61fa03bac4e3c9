"""The remote's log: gaps, `head.json`, and whether it is the history that this catalog was made from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmmeta_core.changelog import FOLDER, digest_of, segment_name, segment_revision
from mmmeta_core.database.catalog import Position
from mmmeta_core.errors import LogError, RemoteNotFoundError
from mmmeta_core.head import Head, parse_head
from mmmeta_core.paths import HEAD, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.verify.findings import Report

_MEND_LOG: Final = "restore it from a backup of the archive"
_MEND_HISTORY: Final = (
    "restore it from a backup of the archive, or move meta.db away and pull again (state is kept)"
)


@dataclass(frozen=True)
class _Known:
    """A segment's hash, and who says so."""

    revision: int
    digest: str
    who: str
    mend: str


def look_at_log(remote: Remote, position: Position, report: Report) -> int:
    """Look at the log, as far as that is cheap, and return its newest revision."""
    head = _head(remote, report)
    # Listed after the head was read, so that what was published meanwhile is no contradiction.
    known = {position.revision, head.revision if head is not None else 0} - {0}
    revisions = _listed(remote) if remote.can_list else {n for n in known if _has_segment(remote, n)}
    newest = max(revisions, default=0)
    report.counts["segments"] = len(revisions)
    for first, last in _gaps(revisions) if remote.can_list else ():
        subject = _segment(remote, first)
        what = "is missing" if first == last else f"and all segments up to {last} are missing"
        report.find(subject, f"{what}: who is not past it can't pull", _MEND_LOG)
    if head is not None:
        _look_at_head(remote, head, position, revisions, report)
    if position.archive is not None and (head is None or head.archive == position.archive):
        if position.revision > newest:
            what = "is missing, which this catalog has: the remote was set back"
            report.find(_segment(remote, position.revision), what, _MEND_HISTORY)
        elif head is None or (head.revision, head.digest) != (position.revision, position.digest):
            known_here = _Known(position.revision, position.digest, "this catalog has", _MEND_HISTORY)
            _look_at_digest(remote, known_here, revisions, report)
    return newest


def _look_at_head(
    remote: Remote, head: Head, position: Position, revisions: set[int], report: Report
) -> None:
    url, newest = f"{remote.url}/{remote_name(HEAD)}", max(revisions, default=0)
    if head.revision > newest:
        what = f"names revision {head.revision}, the log ends at {newest}"
        report.find(url, what, "restore the newest segments from a backup of the archive")
    if position.archive not in (None, head.archive):
        what = "belongs to another archive than this catalog"
        report.find(url, what, "move meta.db away and pull again (state is kept), or use another path")
    _look_at_digest(remote, _Known(head.revision, head.digest, f"{HEAD} names", _MEND_LOG), revisions, report)


def _head(remote: Remote, report: Report) -> Head | None:
    name = remote_name(HEAD)
    url = f"{remote.url}/{name}"
    try:
        blob = remote.read(name)
        return parse_head(blob.data, url) if blob is not None else None
    except RemoteNotFoundError:
        remote.check()
        if _listed(remote) if remote.can_list else _has_segment(remote, 1):
            report.find(url, "is missing, so sensors see no news", "push once more: a push writes it anew")
    except LogError as error:
        if error.__cause__ is None:
            report.find(url, "is of a newer format", "install a newer mmmeta")
        else:
            what = f"is damaged ({error.__cause__})"
            report.find(url, what, "remove it, and push once more: a push writes it anew")
    return None


def _look_at_digest(remote: Remote, known: _Known, revisions: set[int], report: Report) -> None:
    revision = known.revision
    if revision not in revisions:
        return
    with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
        path = Path(folder) / "segment"
        try:
            remote.fetch(remote_name(segment_name(revision)), path)
        except RemoteNotFoundError:
            report.find(_segment(remote, revision), "is gone since the log was listed", known.mend)
            return
        if digest_of(path) != known.digest:
            report.find(
                _segment(remote, revision),
                f"is not the one that {known.who}: it has another hash",
                known.mend,
            )


def _listed(remote: Remote) -> set[int]:
    """Return the revisions that the remote has a segment of."""
    names = remote.names(remote_name(f"{FOLDER}/"))
    return {number for name in names if (number := segment_revision(name))}


def _has_segment(remote: Remote, revision: int) -> bool:
    return remote.stat(remote_name(segment_name(revision))) is not None


def _gaps(revisions: set[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of the revisions that are missing in a row, from 1 to the newest."""
    before = 0
    for revision in sorted(revisions):
        if revision > before + 1:
            yield before + 1, revision - 1
        before = revision


def _segment(remote: Remote, revision: int) -> str:
    return f"{remote.url}/{remote_name(segment_name(revision))}"
