"""Whether a publisher signs, and is to sign: nothing goes out unsigned where others expect signatures."""

from __future__ import annotations

from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.sqlite import atomic
from mmmeta_core.errors import ConfigError
from mmmeta_core.signing import SIGNING_KEY, Signer
from mmmeta_core.sync.replica import Replica


def note_signs(catalog: Catalog, signer: Signer | None) -> None:
    """Note that this metadir signs, so that from now on it is careful with what others publish.

    Not before `head.json` is signed: a publisher who is killed until then has to be able to go on.
    """
    if signer is not None and not catalog.local("signs"):
        with atomic(catalog.connection):
            catalog.set_local(signs="1")
            catalog.note_verified(True)


def expects_signatures(replica: Replica, catalog: Catalog) -> bool:
    """Whether what this metadir publishes has to be signed."""
    return bool(catalog.local("signs")) or replica.trust(catalog) is not None


def check_signs(replica: Replica, catalog: Catalog, signer: Signer | None) -> None:
    """Raise `ConfigError` where something would be published unsigned that has to be signed."""
    if signer is None and expects_signatures(replica, catalog):
        raise ConfigError(
            f"nothing was published: {replica.paths.root} has published signed, or trusts signed publishes only, so "
            f"others would refuse this one. Set {SIGNING_KEY}"
        )
