"""Where things are in a metadir, here and at a remote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmmeta_core.errors import RefusedError

NAME: Final = "_mmmeta"

META_DB: Final = "meta.db"
SNAPSHOT_DB: Final = "snapshot.db"
"""The snapshot of an archive whose `meta.db` is a catalog that is worked in."""
STATE_DB: Final = "state.db"
HEAD: Final = "head.json"
CONFIG: Final = "config.yml"
STORE: Final = "_store"
TRUSTED_KEYS: Final = "trusted_keys"

_PRIVATE: Final = (STATE_DB, f"{STATE_DB}-wal", f"{STATE_DB}-shm", "cache.db", ".lock", TRUSTED_KEYS)


@dataclass(frozen=True)
class Paths:
    """The files of a local metadir.

    Of these `state`, `scan`, `past`, `lock` and `trusted_keys` are private: none leaves the machine or is taken from a
    remote.
    """

    root: Path

    @property
    def meta(self) -> Path:
        """The catalog."""
        return self.root / META_DB

    @property
    def state(self) -> Path:
        """The client's state."""
        return self.root / STATE_DB

    @property
    def scan(self) -> Path:
        """What `generate` saw."""
        return self.root / "cache.db"

    @property
    def past(self) -> Path:
        """The folder of catalogs as they were at earlier revisions; it may be removed at any time."""
        return self.root / "past"

    @property
    def store(self) -> Path:
        """The folder of the store's values."""
        return self.root / STORE

    @property
    def config(self) -> Path:
        """The settings that are published with the catalog."""
        return self.root / CONFIG

    @property
    def lock(self) -> Path:
        """What the one writer of this metadir holds."""
        return self.root / ".lock"

    @property
    def trusted_keys(self) -> Path:
        """Whose signatures are trusted here, unless the environment says so."""
        return self.root / TRUSTED_KEYS


def remote_name(name: str) -> str:
    """Return the name of a metadir's file as the remote has it. Raises `RefusedError` for a private one."""
    if name.casefold() in _PRIVATE:
        raise RefusedError(
            f"{name} is private to this machine: it is neither published nor taken from a remote"
        )
    return f"{NAME}/{name}"


def store_name(key: str) -> str:
    """Return the name of a store value at the remote."""
    return remote_name(f"{STORE}/{key}")
