"""Archives that an old version still keeps at the remote: nobody can pull from one, and no push may lose what is in it."""

from __future__ import annotations

from typing import Final

from mmmeta_core.errors import CatalogError, RefusedError, RemoteNotFoundError
from mmmeta_core.head import read_head
from mmmeta_core.legacy.layout import Version, aside
from mmmeta_core.paths import META_DB, NAME, Paths, remote_name, store_name
from mmmeta_core.remotes import Remote

_MARK: Final = "meta_last_updated"
"""The store key that a `generate` of both old versions set, and no other does."""
_LIMIT: Final = 1000


def check_pulled(remote: Remote) -> None:
    """Raise `CatalogError` if the remote, where nothing was found to pull, has a catalog of an old version.

    A client can't convert it: which rows are still the archive's, only its publisher's copy tells.
    """
    if _generated(remote) is not None:
        raise CatalogError(
            f"the archive at {remote.url} is still in the format of mmmeta {_version(remote)}: its publisher has to run "
            "`mmmeta generate` and `mmmeta push` with this version once. If that is you, do so here without a pull"
        )


def check_first_push(paths: Paths, remote: Remote, *, inherited: bool) -> None:
    """Raise unless what is to become revision 1 has all that an old version left at the remote.

    `inherited` is whether the catalog here was converted. `RefusedError` when the remote's was generated later than the
    one that was converted, or none was: the old packages tell by time only.
    """
    there = _generated(remote)
    if there is None or read_head(remote)[0] is not None:
        return
    here = _converted(paths)
    if not inherited or here is None or here < there:
        raise RefusedError(
            f"the archive at {remote.url} has a catalog of mmmeta {_version(remote)} that is newer than the one here, so "
            f"this push would lose documents: copy its {NAME} folder to an empty one here, and generate and push from there"
        )


def _generated(remote: Remote) -> str | None:
    """Return when an old version generated the remote's catalog; None when none did."""
    try:
        blob = remote.read(store_name(_MARK), limit=_LIMIT)
    except RemoteNotFoundError:
        return None
    return blob.data.decode(errors="replace").strip() if blob is not None else None


def _converted(paths: Paths) -> str | None:
    """Return when an old version generated the catalog that was converted here."""
    versions: tuple[Version, ...] = ("0.4", "0.1")
    for version in versions:
        path = aside(paths, version) / paths.store.name / _MARK
        if path.exists():
            return path.read_text(errors="replace").strip()
    return None


def _version(remote: Remote) -> Version:
    return "0.1" if remote.stat(remote_name(META_DB)) is not None else "0.4"
