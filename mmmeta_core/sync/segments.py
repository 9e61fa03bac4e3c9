"""Fetching a segment from a store that may not say the truth at first.

`head.json` is written after the segment that it names. One that it names and that is not there may be a moment's lie:
a cache on the way remembers that it was missing, a network file system has not looked again. So is one that ends too early
though the store calls it whole. Both are asked for again before anything is said about the archive.
"""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

from mmmeta_core.changelog import digest_of, segment_name
from mmmeta_core.errors import LogError, RemoteNotFoundError, RemoteUnreachableError
from mmmeta_core.head import Head
from mmmeta_core.limits import cap
from mmmeta_core.paths import remote_name
from mmmeta_core.remotes import Remote

log = logging.getLogger(__name__)

WAITS: tuple[float, ...] = (0.2, 0.6, 1.2)
"""Seconds, at most, that a segment which `head.json` names is waited for, each time that it is not there."""


def fetch_segment(remote: Remote, revision: int, draft: Path, head: Head | None, *, wait: bool = True) -> int:
    """Fetch the segment into the file `draft`; return its bytes.

    Raises `RemoteNotFoundError` when it is not there. One that `head` names is waited for a little, unless `wait` is
    False.
    """
    is_named = head is not None and head.revision >= revision
    waits = list(WAITS) if is_named and wait else []
    name = remote_name(segment_name(revision))
    while True:
        try:
            return remote.fetch(name, draft, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
        except RemoteNotFoundError:
            if not waits:
                raise
        log.info("%s/%s is named by head.json, but not there yet; asking again", remote.url, name)
        time.sleep(waits.pop(0) * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret


def comes_otherwise(remote: Remote, revision: int, draft: Path) -> bool:
    """Fetch a segment that is damaged once more; whether it comes otherwise than it lies in `draft`."""
    before = digest_of(draft)
    remote.fetch(remote_name(segment_name(revision)), draft, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
    return digest_of(draft) != before


def missing(remote: Remote, revision: int, head: Head) -> LogError | RemoteUnreachableError:
    """Return the error for a segment that is not there although `head` names it, however often it was asked for."""
    what = (
        f"segment {remote.url}/{remote_name(segment_name(revision))} is missing, but head.json names revision "
        f"{head.revision}; nothing after revision {revision - 1} was applied."
    )
    if remote.is_cached:
        return RemoteUnreachableError(
            f"{what} A cache may still remember that it was not there: pull again later. If it stays so, restore the "
            "segment from a backup of the archive"
        )
    return LogError(f"{what} Restore the segment from a backup of the archive")
