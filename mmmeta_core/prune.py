"""Prune: the log of years ago goes, the documents stay.

A client that was away for less than what is kept pulls by the log; who fell further behind takes the snapshot.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from mmmeta_core.changelog import open_segment, segment_name
from mmmeta_core.errors import ConfigError, RemoteNotFoundError
from mmmeta_core.head import read_head
from mmmeta_core.limits import cap
from mmmeta_core.notebook import Shown
from mmmeta_core.paths import remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.sync import Replica
from mmmeta_core.sync.pull import pull
from mmmeta_core.sync.retire import Retired, listed, retire
from mmmeta_core.types import Progress, never, parse_time, utcnow


@dataclass(frozen=True)
class PruneResult(Shown):
    """What was removed, or would be. `first` is the oldest revision that is left, `snapshot` the one it rests on.

    `snapshot` is 0 where nothing had to be removed.
    """

    segments: int
    bytes: int
    first: int
    snapshot: int
    dry_run: bool
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class _Plan:
    """Which segments go: all up to the revision `upto`."""

    upto: int = 0
    segments: int = 0
    bytes: int = 0
    first: int = 0


def prune(
    replica: Replica,
    remote: Remote,
    *,
    keep_days: float,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Remove the oldest segments of the log: those that say to be older than `keep_days`, and never the newest one.

    It ends at the first one that is younger, or that tells no time. Before anything is removed, a snapshot that stands
    for them is there, named in `head.json`, and was read back and verified; it costs one transfer of it, two if it has
    to be written, and one request for each segment to go. Killed, it leaves a log without a gap, and the next run goes
    on. With `dry_run` it only tells. The caller holds the metadir's lock. Raises `ConfigError`, `RemoteDeniedError`
    where the remote is read only, what `pull` raises, and `ConflictError`; then nothing is removed.
    """
    started = time.monotonic()
    if not keep_days >= 0:
        raise ConfigError(f"keep_days={keep_days!r} is not 0 or more")
    remote.check_writable()
    if not dry_run:
        pull(replica, remote, probe=True)
    try:
        before = utcnow() - timedelta(days=keep_days)
    except OverflowError:  # more days than there are years
        before = never
    head, _, _ = read_head(remote)
    covered = head.snapshot.revision if head is not None and head.snapshot is not None else 0
    with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
        plan = _plan(remote, listed(remote), before, covered, Path(folder) / "segment")
    retired = Retired(0, 0)
    if plan.upto and not dry_run:
        retired = retire(replica, remote, plan.upto, progress=progress)
    return PruneResult(
        plan.segments if dry_run else retired.segments,
        plan.bytes,
        plan.first,
        retired.snapshot,
        dry_run,
        time.monotonic() - started,
    )


def _plan(remote: Remote, revisions: list[int], before: datetime, covered: int, draft: Path) -> _Plan:
    """Read the segments from the oldest on, up to the first that stays."""
    plan = _Plan(first=revisions[0] if revisions else 0)
    joined = min(_joined(revisions), covered)
    for number, revision in enumerate(revisions[:-1], 1):
        name = remote_name(segment_name(revision))
        try:
            size = remote.fetch(name, draft, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
        except RemoteNotFoundError:  # someone else prunes, too
            continue
        # What lies below a gap that a snapshot covers leads nowhere.
        if revision >= joined and not _is_older(draft, f"{remote.url}/{name}", before):
            return plan
        plan = _Plan(revision, plan.segments + 1, plan.bytes + size, revisions[number])
    return plan


def _joined(revisions: list[int]) -> int:
    """Return the first of the revisions that lead to the newest without a gap."""
    first = 0
    for before, revision in zip([0, *revisions], revisions, strict=False):
        if revision != before + 1:
            first = revision
    return first


def _is_older(path: Path, source: str, before: datetime) -> bool:
    with open_segment(path, source) as (header, _):
        try:
            return parse_time(header.at) < before
        except ValueError:
            return False
