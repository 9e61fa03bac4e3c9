"""Purge: a document that must not be there goes from catalog, log, snapshot and archive, and clients follow.

What is left is a tombstone: its key, when it was published and purged, and that it was. Steps, each of which may be
repeated: the files in the archive; a revision that empties all columns; a snapshot as of it; the old segments. A run that
was killed is finished by running it again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from mmmeta_core import history
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.columns import PURGED, RESCUED
from mmmeta_core.database.scan import open_scan
from mmmeta_core.database.sqlite import chunks, quote
from mmmeta_core.documents import flatten
from mmmeta_core.errors import ConfigError, ConflictError, DocumentError, RemoteError, RemoteNotFoundError
from mmmeta_core.notebook import Shown
from mmmeta_core.paths import NAME
from mmmeta_core.remotes import Remote
from mmmeta_core.remotes.base import is_name
from mmmeta_core.sync import Replica
from mmmeta_core.sync.pull import pull
from mmmeta_core.sync.push import push
from mmmeta_core.sync.retire import listed, retire
from mmmeta_core.types import Key, Row

_TRIES: Final = 10


@dataclass(frozen=True)
class PurgeResult(Shown):
    """What went, or would go: `documents` that were not purged before, `segments` of the log, and `files` of the archive.

    `revision` is the one that says so, `first` the oldest that is left in the log. `left` are metadata files on this
    machine that still tell of the documents: they are not taken in any more, and yours to remove.
    """

    documents: int
    revision: int
    segments: int
    first: int
    files: tuple[str, ...]
    left: tuple[str, ...]
    dry_run: bool
    seconds: float = field(compare=False)


def purge(
    replica: Replica,
    remote: Remote,
    keys: Iterable[Key | Collection[Key]],
    *,
    reason: str,
    root: Path,
    files: bool = False,
    dry_run: bool = False,
) -> PurgeResult:
    """Remove documents and all that was ever published of them; see the module for how.

    Pulls first. Several keys in place of one are ways to write it. What else waits here is published along. `reason` goes
    into the log for all to read, so it must not say what is to be forgotten. All revisions up to the newest that
    mentions one of the documents leave the log: clients that are behind take the snapshot, `files.as_of` reaches back to
    it. With `files` the documents, and metadata files beside them, leave the archive, unless another document has the
    same file. With `dry_run` it only tells. The caller holds the metadir's lock, and updates afterwards.

    Raises `ConfigError` without a reason, `DocumentError` for a document that is not there, and `RemoteDeniedError` where
    the remote is read only; then nothing is changed. Raises `ConflictError` when other publishers are in the way.
    """
    started = time.monotonic()
    wanted = list(keys)
    if not wanted or not reason.strip():
        raise ConfigError("to purge, say which documents and for what reason")
    remote.check_writable()
    pull(replica, remote, probe=True)
    run = _Run(replica, remote, root, reason.strip())
    with replica.catalog() as catalog:
        rows = _resolve(catalog, wanted)
        purged = {key for key, row in rows.items() if _is_empty(row)} - catalog.waiting(rows)
        names = tuple(run.names(catalog, rows)) if files else ()
    upto = run.newest_mention(rows, purged)
    if not dry_run:
        for name in names:
            remote.remove(name)
        upto = max(upto, run.publish(list(rows)))
    with replica.catalog() as catalog:
        revision = catalog.position.revision if dry_run else _tombstone(catalog, list(rows))
    revisions = listed(remote)
    going = [one for one in revisions if one <= upto]
    if not dry_run:
        retire(replica, remote, upto, covering=revision)
    return PurgeResult(
        len(rows.keys() - purged),
        revision,
        len(going),
        next((one for one in revisions if one > upto), 0),
        names,
        tuple(run.left(list(rows))),
        dry_run,
        time.monotonic() - started,
    )


def _resolve(catalog: Catalog, wanted: list[Key | Collection[Key]]) -> dict[Key, Row]:
    """Return the documents that are meant."""
    rows: dict[Key, Row] = {}
    missing = []
    for one in wanted:
        ways: Sequence[Key] = [one] if isinstance(one, str | int) else list(one)
        found = catalog.rows(ways)
        key = next((way for way in ways if way in found), None)
        if key is None:
            missing.append(repr(ways[0]) if ways else "''")
        else:
            rows[key] = found[key]
    if missing:
        raise DocumentError(
            f"nothing was purged: there is no document with {catalog.unique} {', '.join(missing)}"
        )
    return rows


def _is_empty(row: Row) -> bool:
    """Whether a document was purged: it is told to be, and no column has a value."""
    held = (value for name, value in row.items() if not name.startswith("__") or name == RESCUED)
    return row["__deleted_reason"] == PURGED and sum(value is not None for value in held) == 1  # the key


def _tombstone(catalog: Catalog, keys: list[Key]) -> int:
    """Return the newest revision that says that one of the documents was purged."""
    revision: int = max(row["__revision"] for row in catalog.rows(keys).values())
    return revision


@dataclass(frozen=True)
class _Run:
    replica: Replica
    remote: Remote
    root: Path
    reason: str

    # --- the log

    def newest_mention(self, rows: dict[Key, Row], purged: Collection[Key]) -> int:
        """Return the newest revision whose segment may tell something of the documents; 0 when there is none.

        Of those that are `purged` already the newest revision is the tombstone; a run that was killed may have left more.
        """
        upto = max((row["__revision"] for key, row in rows.items() if key not in purged), default=0)
        if purged:
            newest = max(rows[key]["__revision"] for key in purged)
            upto = history.mentions(self.remote, purged, below=newest, above=upto)
        return upto

    def publish(self, keys: list[Key]) -> int:
        """Publish the tombstones; return the newest revision by other publishers that told of the documents meanwhile."""
        mentioned = 0
        for _ in range(_TRIES):
            with self.replica.catalog() as catalog:
                before = catalog.position.revision
                catalog.purge(keys)
            revision = push(self.replica, self.remote, note=self.reason).revision
            if revision > before + 1:
                mentioned = max(
                    mentioned,
                    history.mentions(self.remote, set(keys), below=revision, above=before),
                )
            with self.replica.catalog() as catalog:
                if all(_is_empty(row) for row in catalog.rows(keys).values()):
                    return mentioned
                mentioned = max(mentioned, revision)
        raise ConflictError(
            f"other publishers to {self.remote.url} kept changing the documents; run purge again"
        )

    # --- files

    def names(self, catalog: Catalog, rows: dict[Key, Row]) -> Iterator[str]:
        """Yield the names in the archive of the documents and of their metadata files."""
        config = self.replica.config()
        seen = {key: [path for one, path in self._sources(list(rows)) if one == key] for key in rows}
        for key, row in rows.items():
            name = row.get(config.file_name)
            guesses = [path for path in seen[key] if path.endswith(".json")]
            if isinstance(name, str) and _is_usable(name):
                if not _is_shared(catalog, config, name, list(rows)) and self.remote.stat(name) is not None:
                    yield name
                stem = Path(name).with_suffix(".json").as_posix()
                guesses += [guess for guess in (f"{name}.json", stem) if guess != name]
            for guess in dict.fromkeys(guesses):
                if _is_usable(guess) and self._tells_of(guess, key, config):
                    yield guess

    def _tells_of(self, name: str, key: Key, config: Config) -> bool:
        """Whether the object is the metadata file of this document."""
        try:
            blob = self.remote.read(name, limit=config.max_metadata_bytes)
            document: Any = orjson.loads(blob.data) if blob is not None else None
            return isinstance(document, dict) and flatten(document).get(config.unique) == key
        except (RemoteNotFoundError, ValueError):
            return False
        except RemoteError as error:
            if isinstance(error, PermissionError | ConnectionError):
                raise
            return False

    def _sources(self, keys: list[Key]) -> list[tuple[Key, str]]:
        """Return the metadata files that `generate` saw here, by key."""
        path = self.replica.paths.scan
        if not path.exists():
            return []
        with open_scan(path) as scan:
            return [(seen.key, seen.path) for seen in scan.with_keys(keys) if seen.key is not None]

    def left(self, keys: list[Key]) -> list[str]:
        """Return the metadata files of the documents that are still here."""
        return [str(self.root / path) for _, path in self._sources(keys) if (self.root / path).exists()]


def _is_usable(name: str) -> bool:
    return is_name(name) and NAME not in name.casefold().split("/")


def _is_shared(catalog: Catalog, config: Config, name: str, keys: list[Key]) -> bool:
    """Whether another document that is not deleted has the same file."""
    if config.file_name not in {*catalog.kinds(), catalog.unique}:
        return False
    found = catalog.connection.execute(
        f"SELECT {catalog.quoted_key} FROM files WHERE {quote(config.file_name)} = ? AND __deleted_at IS NULL",
        (name,),
    ).fetchall()
    return any(key not in keys for some in chunks(found) for (key,) in some)
