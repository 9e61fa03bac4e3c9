"""Catalogs as they were at earlier revisions: made from a snapshot and the log after it, and the last few kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import fsync_file, temporary
from mmmeta_core.changelog import digest_of, replay_segment, segment_name
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Position, check_whole, open_catalog
from mmmeta_core.database.past import Past
from mmmeta_core.errors import ConfigError, LogError, RemoteNotFoundError
from mmmeta_core.files import Files
from mmmeta_core.files.publish import Publisher
from mmmeta_core.head import Head, Snapshot, read_head
from mmmeta_core.limits import cap
from mmmeta_core.paths import Paths, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.signing import Trust, load_signer, load_trust
from mmmeta_core.sources import Sources

KEPT: Final = 4
"""How many catalogs are kept, those that were asked for last."""

_REQUEST_BYTES: Final = 20_000
"""What one more request is worth in bytes, when log and snapshot are compared."""
_NOWHERE: Final = Position(None, 0, "", 0)


class Pasts:
    """The archive's earlier catalogs, in the metadir's private folder `past`, which may be removed at any time."""

    def __init__(
        self, paths: Paths, config: Callable[[], Config], remote: Callable[[], Remote], sources: Sources
    ) -> None:
        """Take where things are; `remote` is asked only when something has to come from there."""
        self.paths = paths
        self._config = config
        self._remote = remote
        self._sources = sources
        self._open: dict[Path, Past] = {}
        self._files: dict[Past, Files] = {}

    def at(self, revision: int) -> Past:
        """Return the catalog as it was at a revision; see `Files.as_of`."""
        if isinstance(revision, bool) or not isinstance(revision, int) or revision < 1:
            raise ConfigError(f"there is no revision {revision!r}: the first is 1")
        path = self._made(revision)
        past = self._open.get(path)
        if past is None or not past.path.exists():
            past = self._open[path] = Past(path, self._config().unique)
        return past

    def files(self, revision: int) -> Files:
        """Return the documents of a revision; see `Files.as_of`."""
        past, config = self.at(revision), self._config()
        if past not in self._files:
            self._files[past] = Files(past, config, Publisher(config, past.refuse), self._sources)
        return self._files[past]

    def close(self) -> None:
        """Close the databases."""
        for past in list(self._open.values()):
            self._close(past)
        self._open.clear()

    def _close(self, past: Past) -> None:
        if (files := self._files.pop(past, None)) is not None:
            files.close()
        past.close()

    def forget(self) -> None:
        """Remove all that is kept."""
        self.close()
        shutil.rmtree(self.paths.past, ignore_errors=True)

    def _made(self, revision: int) -> Path:
        """Return the file of that catalog, made when it is not there."""
        own, purged = self._own()
        archive, head = own.archive, None
        if archive is None:
            head, _, _ = read_head(self._remote(), trust=self._trust())
            archive = head.archive if head is not None else None
        if archive is None:
            raise LogError(f"revision {revision} does not exist yet: nothing was published")
        path = self.paths.past / f"{self._prefix(archive)}-{revision}.db"
        if path.exists():
            path.touch()
            return path
        self.paths.past.mkdir(parents=True, exist_ok=True)
        with temporary(self.paths.past) as draft:
            self._build(draft, revision, own, archive, head)
            with open_catalog(draft, self._config().unique) as catalog:
                if catalog.position.revision != revision:  # the local catalog has moved on meanwhile
                    return self._made(revision)
                catalog.blank(purged)
            fsync_file(draft)
            draft.replace(path)
        self._make_room(path)
        return path

    def _own(self) -> tuple[Position, list[str | int]]:
        """Return where the local catalog is, and which documents it knows to be purged."""
        if not self.paths.meta.exists():
            return _NOWHERE, []
        with open_catalog(self.paths.meta, self._config().unique) as catalog:
            return catalog.position, catalog.purged()

    def _trust(self) -> Trust | None:
        """Return the keys of which one must have signed what is read here; None when everything is."""
        trust = load_trust(self.paths.trusted_keys)
        return None if trust is None else trust.also(load_signer())

    def _is_own_trusted(self) -> bool:
        if self._trust() is None:
            return True
        with open_catalog(self.paths.meta, self._config().unique) as catalog:
            return catalog.is_verified

    def _prefix(self, archive: str) -> str:
        """Return how the names of its catalogs begin: what was made before keys were trusted is not taken for the rest."""
        trusted = "" if self._trust() is None else "signed:"
        return hashlib.sha256(f"{trusted}{archive}".encode()).hexdigest()[:12]

    # --- building

    def _build(self, draft: Path, revision: int, own: Position, archive: str, head: Head | None) -> None:
        bases = self._kept(archive)
        if own.archive == archive and self._is_own_trusted():
            bases[own.revision] = self._copy_own
        start = max((number for number in bases if number <= revision), default=0)
        if start:
            bases[start](draft)
        if start == revision:
            return
        remote = self._remote()
        head = head or read_head(remote, trust=self._trust())[0]
        snapshot = head.snapshot if head is not None else None
        if snapshot is not None and not start < snapshot.revision <= revision:
            snapshot = None
        took = snapshot is not None and self._pays(snapshot, draft) and self._fetch(remote, snapshot, draft)
        if self._replay(remote, draft, revision):
            return
        again = snapshot is not None and not took and self._fetch(remote, snapshot, draft)
        if not (again and self._replay(remote, draft, revision)):
            raise _unavailable(remote, revision)

    def _kept(self, archive: str) -> dict[int, Callable[[Path], object]]:
        """Return what copies each of the catalogs that are kept, by revision."""
        paths = self.paths.past.glob(f"{self._prefix(archive)}-*.db")
        return {int(path.stem.rpartition("-")[2]): partial(shutil.copyfile, path) for path in paths}

    def _pays(self, snapshot: Snapshot, draft: Path) -> bool:
        """Whether the snapshot is less to transfer than the log up to it."""
        with open_catalog(draft, self._config().unique) as catalog:
            position = catalog.position
        by_log = snapshot.log_bytes - position.log_bytes
        return snapshot.size < by_log + (snapshot.revision - position.revision) * _REQUEST_BYTES

    def _copy_own(self, draft: Path) -> None:
        with open_catalog(self.paths.meta, self._config().unique) as catalog:
            catalog.snapshot(draft)

    def _fetch(self, remote: Remote, snapshot: Snapshot, draft: Path) -> bool:
        """Fetch the snapshot; False when what lies there is not what `head.json` names."""
        try:
            with temporary(self.paths.past) as fetched:
                remote.fetch(
                    remote_name(snapshot.name),
                    fetched,
                    limit=min(snapshot.size, cap("MMMETA_MAX_SNAPSHOT_BYTES")),
                )
                if digest_of(fetched) != snapshot.sha256:
                    return False
                check_whole(fetched, f"{remote.url}/{remote_name(snapshot.name)}")
                fetched.replace(draft)
        except RemoteNotFoundError:
            return False
        return True

    def _replay(self, remote: Remote, draft: Path, revision: int) -> bool:
        """Apply the segments up to `revision`; False when one is not there."""
        trust = self._trust()
        with open_catalog(draft, self._config().unique) as catalog, temporary(self.paths.past) as segment:
            catalog.connection.execute("PRAGMA synchronous = OFF")  # the file is flushed when it is complete
            while catalog.position.revision < revision:
                name = remote_name(segment_name(catalog.position.revision + 1))
                try:
                    remote.fetch(name, segment, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
                except RemoteNotFoundError:
                    return False
                if trust is not None:
                    trust.check_segment(segment, f"{remote.url}/{name}")
                replay_segment(catalog, segment, f"{remote.url}/{name}")
        return True

    def _make_room(self, newest: Path) -> None:
        """Remove all but the catalogs that were asked for last."""
        found = sorted(self.paths.past.glob("*.db"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in [path for path in found if path != newest][KEPT - 1 :]:
            if (past := self._open.pop(path, None)) is not None:
                self._close(past)
            with suppress(FileNotFoundError):
                path.unlink()


def _unavailable(remote: Remote, revision: int) -> LogError:
    """Say why the documents of a revision can't be had."""
    head, _, _ = read_head(remote)
    newest = head.revision if head is not None else 0
    snapshot = head.snapshot.revision if head is not None and head.snapshot is not None else 0
    if revision > newest:
        return LogError(f"revision {revision} does not exist yet: the newest at {remote.url} is {newest}")
    if revision < snapshot:
        return LogError(
            f"revision {revision} was pruned from {remote.url}: the earliest that can be had is {snapshot}"
        )
    return LogError(
        f"the log at {remote.url} does not lead to revision {revision}: a segment is missing. Restore it from a backup "
        "of the archive"
    )
