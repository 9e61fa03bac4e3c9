"""The remote's log: gaps, `head.json`, and whether it is the history that this catalog was made from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmmeta_core.changelog import FOLDER, digest_of, segment_name, segment_revision
from mmmeta_core.database.catalog import Position
from mmmeta_core.errors import LogError, RemoteNotFoundError, SignatureError
from mmmeta_core.head import Head, parse_head
from mmmeta_core.limits import cap
from mmmeta_core.paths import HEAD, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.signing import Trust
from mmmeta_core.verify.findings import Report

MEND_LOG: Final = "restore it from a backup of the archive"
MEND_HISTORY: Final = (
    "restore it from a backup of the archive, or move meta.db away and pull again (state is kept)"
)
MEND_SIGNATURE: Final = (
    "let a publisher with a trusted key push once more, or trust the key if it is the right one"
)
MEND_HEAD: Final = "let a publisher push once more, or repair"


@dataclass(frozen=True)
class Log:
    """What there is of the log: its revisions, and `head.json` if it can be read."""

    revisions: frozenset[int]
    head: Head | None

    @property
    def newest(self) -> int:
        """The newest revision; 0 before the first."""
        return max(self.revisions, default=0)

    @property
    def pruned(self) -> int:
        """Up to which revision segments are missing that nobody needs, for the snapshot has what they said."""
        first = min(self.revisions, default=1)
        snapshot = self.head.snapshot if self.head is not None else None
        return first - 1 if snapshot is not None and snapshot.revision >= first - 1 else 0


def look_at_log(
    remote: Remote,
    position: Position,
    report: Report,
    *,
    hashes: bool = True,
    trust: Trust | None = None,
) -> Log:
    """Look at the log, as far as that is cheap.

    With `hashes` the segments that `head.json` and the catalog name are read, and have to be the ones. With `trust`
    `head.json` has to be signed.
    """
    head = _head(remote, report, trust)
    # Listed after the head was read, so that what was published meanwhile is no contradiction.
    known = {position.revision, head.revision if head is not None else 0} - {0}
    revisions = listed(remote) if remote.can_list else {n for n in known if has_segment(remote, n)}
    log = Log(frozenset(revisions), head)
    report.counts["segments"] = len(revisions)
    if remote.can_list:
        look_for_gaps(remote, log, report)
    if head is not None:
        _look_at_head(remote, head, position, log.newest, report)
    mine = position.archive is not None and (head is None or head.archive == position.archive)
    if mine and position.revision > log.newest:
        what = "is missing, which this catalog has: the remote was set back"
        report.find("set-back", segment_url(remote, position.revision), what, MEND_HISTORY)
    if hashes:
        _look_at_hashes(remote, log, position if mine else None, report)
    return log


def look_for_gaps(remote: Remote, log: Log, report: Report) -> None:
    """Note the segments that are missing; a beginning that was pruned is not."""
    for first, last in _gaps(log.revisions, log.pruned):
        what = "is missing" if first == last else f"and all segments up to {last} are missing"
        report.find(
            "segment-missing", segment_url(remote, first), f"{what}: who is not past it can't pull", MEND_LOG
        )


def _look_at_head(remote: Remote, head: Head, position: Position, newest: int, report: Report) -> None:
    url = f"{remote.url}/{remote_name(HEAD)}"
    if head.revision > newest:
        what = f"names revision {head.revision}, the log ends at {newest}"
        mend = "restore the newest segments from a backup of the archive"
        report.find("set-back", url, what, mend)
    if position.archive not in (None, head.archive):
        what = "belongs to another archive than this catalog"
        mend = "move meta.db away and pull again (state is kept), or use another path"
        report.find("other-archive", url, what, mend)


def _look_at_hashes(remote: Remote, log: Log, position: Position | None, report: Report) -> None:
    head = log.head
    by_head = (head.revision, head.digest) if head is not None else (0, "")
    by_catalog = (position.revision, position.digest) if position is not None else (0, "")
    for revision in sorted({by_head[0], by_catalog[0]} & log.revisions):
        found = _digest(remote, revision)
        claims = [(f"{HEAD} names", MEND_LOG, *by_head), ("this catalog has", MEND_HISTORY, *by_catalog)]
        wrong = [claim for claim in claims if claim[2] == revision and claim[3] != found]
        right = [claim for claim in claims if claim[2] == revision and claim[3] == found]
        subject = segment_url(remote, revision)
        if found is None:
            report.find("segment-missing", subject, "is gone since the log was listed", MEND_LOG)
        elif wrong and right and wrong[0][0].startswith(HEAD):
            what = f"names another hash for segment {revision} than it has, which this catalog was made from"
            report.find("head-wrong", f"{remote.url}/{remote_name(HEAD)}", what, MEND_HEAD)
        elif wrong:
            who, mend, *_ = wrong[0]
            what = f"is not the one that {who}: it has another hash"
            report.find("segment-replaced", subject, what, mend)


def _head(remote: Remote, report: Report, trust: Trust | None) -> Head | None:
    name = remote_name(HEAD)
    url = f"{remote.url}/{name}"
    try:
        blob = remote.read(name, limit=cap("MMMETA_MAX_HEAD_BYTES"))
        if blob is None:
            return None
        head = parse_head(blob.data, url)
        _look_at_signature(blob.data, url, trust, report)
        return head
    except RemoteNotFoundError:
        remote.check()
        if listed(remote) if remote.can_list else has_segment(remote, 1):
            report.find("head-missing", url, "is missing, so sensors see no news", MEND_HEAD)
    except LogError as error:
        if error.__cause__ is None:
            report.find("newer", url, "is of a newer format", "install a newer mmmeta")
        else:
            what = f"is damaged ({error.__cause__})"
            mend = "repair, or remove it and push once more: a push writes it anew"
            report.find("head-damaged", url, what, mend)
    return None


def _look_at_signature(data: bytes, url: str, trust: Trust | None, report: Report) -> None:
    try:
        if trust is not None:
            trust.check_head(data, url)
    except SignatureError as error:
        report.find("signature", url, f"is not to be trusted ({error})", MEND_SIGNATURE)


def _digest(remote: Remote, revision: int) -> str | None:
    with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
        path = Path(folder) / "segment"
        try:
            remote.fetch(remote_name(segment_name(revision)), path, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
        except RemoteNotFoundError:
            return None
        return digest_of(path)


def listed(remote: Remote) -> set[int]:
    """Return the revisions that the remote has a segment of."""
    names = remote.names(remote_name(f"{FOLDER}/"))
    return {number for name in names if (number := segment_revision(name))}


def has_segment(remote: Remote, revision: int) -> bool:
    """Whether the remote has this segment."""
    return remote.stat(remote_name(segment_name(revision))) is not None


def _gaps(revisions: frozenset[int], pruned: int) -> Iterator[tuple[int, int]]:
    """Yield first and last of the revisions that are missing in a row, up to the newest."""
    before = pruned
    for revision in sorted(revisions):
        if revision > before + 1:
            yield before + 1, revision - 1
        before = revision


def segment_url(remote: Remote, revision: int) -> str:
    """Return what findings call a segment."""
    return f"{remote.url}/{remote_name(segment_name(revision))}"
