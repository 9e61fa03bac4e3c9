"""A metadir as one copy of an archive's: its files, and how published store values and settings reach them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mmmeta_core.atomic import write_atomic
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, open_catalog
from mmmeta_core.errors import CatalogError, LogError, SignatureError, StoreError
from mmmeta_core.events import event
from mmmeta_core.paths import Paths

if TYPE_CHECKING:
    from mmmeta_core.signing import Trust
    from mmmeta_core.store import Store

log = logging.getLogger(__name__)

TIMESTAMP: Final = "remote_last_updated"
"""The store key that each publish sets. It only ever grows, whatever the publisher's clock says."""


@dataclass(frozen=True)
class Replica:
    """The local side of a sync."""

    paths: Paths

    @property
    def store(self) -> Store:
        """The store's files."""
        from mmmeta_core.store import Store

        return Store(self.paths.store)

    def config(self) -> Config:
        """Return the settings as they are now; a pull may bring new ones."""
        return Config.load(self.paths.config)

    def config_text(self) -> str | None:
        """Return the text of `config.yml`, None when there is none."""
        try:
            return self.paths.config.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        """Open the catalog, keyed as `config.yml` says."""
        config = self.config()
        with open_catalog(self.paths.meta, config.unique, max_columns=config.max_columns) as catalog:
            yield catalog

    def trust(self, catalog: Catalog | None) -> Trust | None:
        """Return the keys of which one must have signed what is taken; None when everything is.

        A publisher trusts its own key at least, unless this metadir has an archive from a time before it was signed.
        """
        from mmmeta_core.signing import SIGNING_KEY, Trust, load_signer, load_trust

        trust, signer = load_trust(self.paths.trusted_keys), load_signer()
        if trust is not None:
            return trust.also(signer)
        if signer is None:
            return None
        if catalog is not None and not catalog.is_verified and not catalog.local("signs"):
            return None
        return Trust((), SIGNING_KEY).also(signer)

    def check_verified(self, catalog: Catalog) -> Trust | None:
        """Return what `trust` does. Raises `SignatureError` if the catalog has anything that was taken without it."""
        trust = self.trust(catalog)
        if trust is not None and not catalog.is_verified:
            raise SignatureError(
                f"{catalog.path} has what was not pulled with the keys that {trust.source} trusts: pull first. A folder "
                "that another tool copied can be given as the remote"
            )
        return trust

    def take_config(self, text: str | None, synced: str | None, source: str) -> str | None:
        """Write settings that were published, unless this metadir has changes of its own to them.

        `synced` is the digest that the last call returned. Returns the digest of what was published.
        """
        if text is None:
            return synced
        Config.parse(text, source)
        here = self.config_text()
        if here is not None and here != text and digest(here) != synced:
            fields = event("settings kept", path=str(self.paths.config))
            log.warning(
                "%s was changed here and is kept; the publisher's differs", self.paths.config, extra=fields
            )
        elif here != text:
            write_atomic(self.paths.config, text.encode())
        return digest(text)

    def take_store(self, published: Mapping[str, str | None], before: Mapping[str, str], source: str) -> None:
        """Write store values that were published, but none over a value that was changed here since `before`.

        `remote_last_updated` is the publisher's alone. Raises `LogError` for a bad key; then nothing is written.
        """
        from mmmeta_core.store import check_key, is_local

        for key in published:
            try:
                check_key(key)
            except StoreError as error:
                raise LogError(f"{source} has a store key that can't be: {error}") from error
            if is_local(key):
                raise LogError(f"{source} publishes the private store key {key!r}")
        for key, text in published.items():
            here = self.store.text(key) if key in self.store else None
            if here != text and (key == TIMESTAMP or here == before.get(key)):
                self.store.set_text(key, text)

    def begin_taking(self, catalog: Catalog, store: Mapping[str, str | None], config: str | None) -> None:
        """Note what is about to be taken into files, before it is in the catalog; `end_taking` forgets it.

        Should this be killed in between, the files would look like changes that were made here.
        """
        noted = {key: text for key, text in store.items() if key != TIMESTAMP}
        if noted or config is not None:
            note = {"store": noted, "config": digest(config) if config is not None else None}
            catalog.set_local(taking=json.dumps(note))

    def end_taking(self, catalog: Catalog) -> None:
        """Forget what was noted: it is in the catalog, or undone."""
        if catalog.local("taking") is not None:
            catalog.set_local(taking=None)

    def undo_taking(self, catalog: Catalog) -> None:
        """Put the files of a kill in between back to what the catalog has published; later changes here stay."""
        text = catalog.local("taking")
        if text is None:
            return
        note, published = json.loads(text), catalog.store()
        for key, taken in note["store"].items():
            if taken == (self.store.text(key) if key in self.store else None):
                self.store.set_text(key, published.get(key))
        here = self.config_text()
        if here is not None and digest(here) == note["config"]:
            catalog.set_local(config=note["config"])
        self.end_taking(catalog)

    def check_unique(self, unique: str) -> None:
        """Raise `CatalogError` unless this metadir is keyed as the archive is."""
        configured = self.config().unique
        if configured != unique:
            raise CatalogError(
                f"the archive is keyed by {unique!r}, {self.paths.config} says {configured!r}: "
                f"set metadata.unique to {unique!r} there"
            )


def digest(text: str) -> str:
    """Return the SHA-256 of a text, hexadecimal."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
