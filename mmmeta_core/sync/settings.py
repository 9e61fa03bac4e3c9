"""The archive's settings alone, for a worker that needs no catalog: its documents are in a state db that it shares."""

from __future__ import annotations

from mmmeta_core.head import read_head
from mmmeta_core.paths import HEAD, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.sync.replica import Replica, digest


def pull_settings(replica: Replica, remote: Remote) -> int:
    """Bring `config.yml` as the archive has published it last; return that revision, 0 before the first.

    One request. A metadir that has a catalog is left alone: there a pull brings the settings, with the revision that they
    belong to. The caller holds the metadir's lock. Raises `SignatureError` where keys are trusted and none of them has
    signed `head.json`, `LogError` for one that is damaged, `CatalogError` for an archive that is keyed otherwise.
    """
    head, _, _ = read_head(remote, trust=replica.trust(None))
    if head is None:
        return 0
    if not replica.paths.meta.exists():
        here = replica.config_text()
        replica.take_config(
            head.config, None if here is None else digest(here), f"{remote.url}/{remote_name(HEAD)}"
        )
        replica.check_unique(head.unique)
    return head.revision
