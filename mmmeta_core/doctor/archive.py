"""Checks of the remote: is it there, who may do what, does it keep its promises, what time does it have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from mmmeta_core.doctor.checkup import Examination, Found, Site
from mmmeta_core.errors import RemoteError, RemoteUnreachableError
from mmmeta_core.head import read_head
from mmmeta_core.signing import load_trust
from mmmeta_core.sync.push import SINGLE_PUBLISHER
from mmmeta_core.types import utcnow

if TYPE_CHECKING:
    from mmmeta_core.remotes import Remote

_WARNED_SECONDS: Final = 60
_REFUSED_SECONDS: Final = 15 * 60
"""How far clocks may differ before S3 refuses each request."""


def _credentials(site: Site) -> Iterator[Found]:
    if site.remote is None:
        yield "ok", "none are needed", ""
        return
    yield "ok", site.remote.access() or "none are needed", ""


def _reached(site: Site) -> Iterator[Found]:
    remote = site.remote
    if remote is None:
        if (site.paths.root / "log").is_dir():
            yield "ok", "the archive is published where it lies", ""
        else:
            yield (
                "warning",
                "there is no remote",
                "give --remote or MMMETA_REMOTE, unless this folder is the archive",
            )
        return
    remote.check()
    head = read_head(remote, trust=load_trust(site.paths.trusted_keys))[0]
    if head is None:
        mend = "mmmeta push publishes" if site.publishes else "its publisher has to push first"
        yield "warning", f"{remote.url} answers, and nothing is published there", mend
    else:
        yield "ok", f"{remote.url} is at revision {head.revision}", ""


def _conditions(site: Site) -> Iterator[Found]:
    remote = site.remote
    if remote is None:
        yield "ok", "nothing to try out", ""
    elif not remote.can_write:
        if site.publishes:
            yield "problem", f"{remote.url} is read only", "publish to the folder or bucket behind it"
        else:
            yield "ok", "read only, as a client needs it", ""
    elif not site.writes:
        why = "no --files-root was given" if site.publishes else "this is a client"
        yield "ok", f"not tried out, {why}; --write tries", ""
    else:
        yield from _written(remote)


def _written(remote: Remote) -> Iterator[Found]:
    trial = remote.try_out()
    if not trial.holds:
        alone = os.environ.get(SINGLE_PUBLISHER) == "1"
        yield (
            "warning" if alone else "problem",
            f"{remote.url} does not keep conditional writes (If-None-Match): publishers would overwrite each other",
            "there must only ever be this one publisher"
            if alone
            else f"use another store, or set {SINGLE_PUBLISHER}=1 where there is only ever one publisher",
        )
    else:
        yield "ok", "objects can be written, and what exists is never overwritten by a create", ""
    if trial.left is not None:
        yield (
            "warning",
            f"objects can't be removed, so {trial.left} stays",
            "allow it (s3:DeleteObject): purge, prune and removed store keys need it",
        )


def _clock(site: Site) -> Iterator[Found]:
    """Compare the clocks. Nothing in an archive is ordered by them, but people read times, and S3 refuses old requests."""
    try:
        there = site.remote.clock() if site.remote is not None else None
    except RemoteError as error:
        if isinstance(error, RemoteUnreachableError):
            raise
        yield "ok", "the remote does not tell its own", ""  # what is wrong, another check says
        return
    if there is None:
        yield "ok", "the remote has none of its own", ""
        return
    seconds = (utcnow() - there).total_seconds()
    ahead = "ahead of" if seconds > 0 else "behind"
    what = f"this machine's is {abs(seconds):,.0f} s {ahead} the remote's"
    if abs(seconds) < _WARNED_SECONDS:
        yield "ok", what, ""
    elif abs(seconds) < _REFUSED_SECONDS:
        yield "warning", what, "turn on time synchronisation (NTP)"
    else:
        yield "problem", what, "turn on time synchronisation (NTP); S3 refuses what is 15 minutes off"


CHECKS: Final[Mapping[str, Examination]] = {
    "credentials": _credentials,
    "remote": _reached,
    "writes": _conditions,
    "clock": _clock,
}
