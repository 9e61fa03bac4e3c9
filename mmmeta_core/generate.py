"""Generate: metadata files on disk → catalog.

Three steps: *look* compares the tree with what was seen last time, *read* parses what differs, *stage* writes into
the catalog. A file that did not change is never opened. When several files have the same key, the first path, in
the order of folder and name, is the document's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import orjson

from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, Change, Staged
from mmmeta_core.database.columns import RESCUED, Columns
from mmmeta_core.database.scan import RACY, Scan, Seen
from mmmeta_core.database.sqlite import atomic, chunks
from mmmeta_core.documents import Entry, flatten, read_document, sha1, walk
from mmmeta_core.errors import DocumentError, RefusedError
from mmmeta_core.events import event
from mmmeta_core.notebook import Shown
from mmmeta_core.types import Key, Progress, is_key

log = logging.getLogger(__name__)

METADATA_GONE: Final = "metadata file is gone"
DOCUMENT_GONE: Final = "document is gone"
REPLACED: Final = "not in the replaced catalog"
_COMES_BACK: Final = (METADATA_GONE, REPLACED)

_BATCH_SECONDS: Final = 10.0
"""A transaction ends after so long. Each one writes most pages of the indexes again, so short ones make large catalogs slow;
who is killed in a long one does its files again, and who reads the catalog may have to wait for its end."""
_TOGETHER: Final = 100
"""Documents that are read before they are written: few enough to be in the CPU's caches still when they are."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RACY_NS: Final = 2_000_000_000
_PROGRESS_SECONDS: Final = 5.0


@dataclass(frozen=True)
class GenerateOptions:
    """What a run is to do besides taking in new and changed metadata files."""

    ensure: bool = False
    """Soft-delete documents whose metadata file is gone."""
    ensure_files: bool = False
    """Soft-delete documents whose file is gone, and restore them when it is back."""
    no_meta: bool = False
    """Catalog the files themselves; there are no metadata files."""
    replace: bool = False
    """Start over: the catalog is to hold what is on disk now and nothing else."""
    force: bool = False
    """Delete even more than half of the archive."""


@dataclass(frozen=True)
class GenerateResult(Shown):
    """What a run did. `invalid` counts all files that can't be taken at present, `read` the files it opened.

    `purged` is how many documents have a metadata file here and were purged from the archive: they stay so.
    """

    added: int
    updated: int
    unchanged: int
    deleted: int
    restored: int
    invalid: int
    duplicates: int
    rescued: int
    read: int
    pending: int
    purged: int
    seconds: float = field(compare=False)


class _Counts:
    def __init__(self) -> None:
        self.added = self.updated = self.deleted = self.restored = self.read = self.rescued = self.files = 0


class _Look(NamedTuple):
    """A file that is to be read, and what was known of it before."""

    entry: Entry
    before: Seen | None


class _Read(NamedTuple):
    """A file that was read: the change that makes the catalog's document what it says, or the reason why there is none.

    `shape` is the number of the columns that it gave.
    """

    look: _Look
    at_ns: int
    change: Change | None = None
    shape: int | None = None
    problem: str | None = None


def generate(
    catalog: Catalog,
    scan: Scan,
    root: Path,
    config: Config,
    options: GenerateOptions = GenerateOptions(),
    progress: Progress | None = None,
) -> GenerateResult:
    """Bring the catalog up to what is below `root`.

    Works in batches of ten seconds, each taken in as a whole, so a run that is killed goes on where it was. Idempotent.
    The caller holds the metadir's lock. Raises `ConfigError` when `root` is no folder, and `RefusedError` when it would
    delete more than half of the documents and `force` is not set; what is new or changed is in the catalog then all the
    same.
    """
    started = time.monotonic()
    return _Run(catalog, scan, root, config, options, progress).run(started)


class _Run:
    def __init__(
        self,
        catalog: Catalog,
        scan: Scan,
        root: Path,
        config: Config,
        options: GenerateOptions,
        progress: Progress | None,
    ) -> None:
        self.catalog = catalog
        self.scan = scan
        self.root = root
        self.config = config
        self.options = options
        self.progress = progress
        self.counts = _Counts()
        self.columns: Columns = catalog.columns()
        self.inherited = catalog.inherited()
        self.contested: set[Key] = set()
        self.hidden: set[str] = set()
        self.unsettled: list[Seen] = []
        self._reported = time.monotonic()

    def run(self, started: float) -> GenerateResult:
        log.info("looking for %s below %s", "files" if self.options.no_meta else "metadata files", self.root)
        self.scan.begin(self.root, self._settings())
        if self.options.replace:
            self.scan.forget_times()
        self._take_all()
        contested = sorted(self.contested, key=lambda key: (str(type(key)), key))
        self._settle(contested)
        self._delete()
        result = self._result(started, len(contested))
        log.info(
            "catalog: %d added, %d updated, %d unchanged, %d deleted, %d restored, %d invalid; %d files read in %.1f s",
            *(
                result.added,
                result.updated,
                result.unchanged,
                result.deleted,
                result.restored,
                result.invalid,
            ),
            *(result.read, result.seconds),
            extra=event(
                "generated",
                root=str(self.root),
                added=result.added,
                updated=result.updated,
                unchanged=result.unchanged,
                deleted=result.deleted,
                restored=result.restored,
                invalid=result.invalid,
                read=result.read,
                seconds=result.seconds,
            ),
        )
        return result

    def _result(self, started: float, contested: int) -> GenerateResult:
        counts = self.counts
        invalid, purged = self.scan.count(problems=True), self._purged()
        return GenerateResult(
            added=counts.added,
            updated=counts.updated,
            unchanged=max(
                counts.files - counts.added - counts.updated - counts.restored - invalid - purged, 0
            ),
            deleted=counts.deleted,
            restored=counts.restored,
            invalid=invalid,
            duplicates=contested,
            rescued=counts.rescued,
            read=counts.read,
            pending=self.catalog.pending_count(),
            purged=purged,
            seconds=time.monotonic() - started,
        )

    def _settings(self) -> str:
        """Return what decides how a file is read: when it differs from last time, every file is read again."""
        config = self.config
        values = [config.unique, config.file_name, config.include, config.required, dict(config.types)]
        return orjson.dumps([self.options.no_meta, *values], option=orjson.OPT_SORT_KEYS).decode()

    # --- look

    def _look(self) -> Iterator[_Look]:
        """Yield the files that are new or differ from last time, and forget those that are gone."""
        unseen = self.scan.folders()
        suffix = None if self.options.no_meta else ".json"
        for folder, entries in walk(self.root, suffix=suffix, on_error=self._unreadable):
            unseen.discard(folder)
            known = self.scan.marks(folder)
            for entry in entries:
                before = known.pop(entry.name, None)
                if before is None:
                    yield _Look(entry, None)
                elif before != entry[2:]:
                    yield _Look(entry, self.scan.seen(folder, entry.name))
            self.counts.files += len(entries)
            self._gone(folder, known)
        for folder in sorted(unseen):
            self._gone(folder, self.scan.marks(folder))

    def _gone(self, folder: str, names: Iterable[str]) -> None:
        """Forget files; another file with the same key, if there is one, becomes the document's.

        What is at or below a path that could not be looked at may be there all the same, and stays.
        """
        missed = (self.scan.seen(folder, name) for name in names)
        seen = [one for one in missed if not self._is_hidden(one.path)]
        if seen:
            keys = {one.key for one in seen if one.key is not None}
            self.contested.update(self.scan.forget(seen, keys))

    def _is_hidden(self, path: str) -> bool:
        return bool(self.hidden) and any(
            above in self.hidden for above in ("", path, *map(str, PurePosixPath(path).parents))
        )

    def _unreadable(self, path: str, reason: str) -> None:
        fields = event("unreadable", path=path or str(self.root), reason=reason)
        log.warning("can't look into %s: %s", path or self.root, reason, extra=fields)
        self.hidden.add(path)

    # --- read

    def _read(self, look: _Look) -> _Read:
        self.counts.read += 1
        self._report()
        at_ns = time.time_ns()
        relative = _path(look.entry)
        try:
            document = self._describe(look.entry) if self.options.no_meta else self._metadata(relative)
            change, shape = self._fit(self._key(document), document, look.before)
        except DocumentError as error:
            fields = event("invalid", path=relative, reason=str(error))
            log.warning("invalid: %s: %s", relative, error, extra=fields)
            return _Read(look, at_ns, problem=str(error))
        return _Read(look, at_ns, change, shape)

    def _metadata(self, relative: str) -> dict[str, Any]:
        document = flatten(read_document(f"{self.root}/{relative}", limit=self.config.max_metadata_bytes))
        missing = [key for key in self.config.required if document.get(key) is None]
        if missing:
            raise DocumentError(
                f"required {'key is' if len(missing) == 1 else 'keys are'} missing: {', '.join(missing)}"
            )
        if self.config.include:
            document = {key: value for key, value in document.items() if self.config.keeps(key)}
        return document

    def _describe(self, entry: Entry) -> dict[str, Any]:
        try:
            digest = sha1(self.root / _path(entry))
        except OSError as error:
            raise DocumentError(f"can't be read: {error.strerror}") from error
        relative = f"{entry.folder}/{entry.name}" if entry.folder else entry.name
        return {
            "name": entry.name,
            "path": relative,
            "size": entry.size,
            "modified_at": _EPOCH + timedelta(microseconds=entry.mtime_ns // 1_000),
            self.config.file_name: relative,
            self.config.unique: digest,
        }

    def _key(self, document: dict[str, Any]) -> Key:
        """Take the key out of the document."""
        unique = self.config.unique
        if document.get(unique) is None:
            raise DocumentError(f"key {unique!r} is {'null' if unique in document else 'missing'}")
        key = document.pop(unique)
        if not is_key(key):
            raise DocumentError(f"key {unique!r} is not text or an integer: {key!r:.80}")
        return key  # type: ignore[no-any-return]

    # --- stage

    def _take_all(self) -> None:
        """Take in all files that differ, in transactions of many, each of which ends in the catalog first."""
        parts = chunks(self._look(), _TOGETHER, weigh=lambda look: look.entry.size)
        for part in parts:
            with atomic(self.scan.connection), atomic(self.catalog.connection):
                until, looks = time.monotonic() + _BATCH_SECONDS, part
                while looks:
                    self._take([self._read(look) for look in looks])
                    looks = next(parts, []) if time.monotonic() < until else []

    def _take(self, reads: list[_Read]) -> None:
        """Take files in: documents into the catalog, and what was seen into the scan cache."""
        shared = self._shared(reads)
        self.contested |= shared
        changes: list[Change] = []
        seen: list[Seen] = []
        for read in reads:
            before, change = read.look.before, read.change
            if change is not None:
                if change.key not in shared:
                    changes.append(change)
                if before is not None and before.key is not None and before.key != change.key:
                    self.contested.add(before.key)
            seen.append(self._seen(read))
        self._count(self.catalog.stage_within(changes, self.columns, restores=_COMES_BACK))
        # A contested file is noted as still to be read, until its key is settled: this run may be killed before.
        if self.contested:
            self.unsettled += [one for one in seen if one.key in self.contested]
            seen = [one._replace(mtime_ns=RACY) if one.key in self.contested else one for one in seen]
        self.scan.remember(seen)

    def _shared(self, reads: list[_Read]) -> set[Key]:
        """Return those keys of this batch that several files have, of this batch or seen before."""
        paths: dict[Key, str] = {}
        shared: set[Key] = set()
        for read in reads:
            if read.change is not None:
                path = _path(read.look.entry)
                if paths.setdefault(read.change.key, path) is not path:
                    shared.add(read.change.key)
        for key, path in self.scan.paths_with_keys(paths):
            if paths[key] != path:
                shared.add(key)
        return shared

    def _fit(self, key: Key, document: dict[str, Any], before: Seen | None) -> tuple[Change, int]:
        """Return the change that makes the catalog's document what the file says, and the shape of the file."""
        fitted = self.columns.fit(document, self.config.types)
        row = fitted.row
        shape = self.scan.shape_id(row)
        self.counts.rescued += len(fitted.rescued)
        row[RESCUED] = fitted.rescued_json()
        for name in self._may_have_been(before):
            row.setdefault(name, None)
        return Change(key, row), shape

    def _count(self, staged: Staged) -> None:
        self.counts.added += staged.added
        self.counts.updated += staged.updated
        self.counts.restored += staged.restored

    def _may_have_been(self, before: Seen | None) -> Collection[str]:
        """Return the columns that the document may have from before, which are to be emptied."""
        if self.options.replace:
            return self.columns.kinds
        return self.scan.shape(before.shape) if before is not None else self.inherited

    def _seen(self, read: _Read) -> Seen:
        (folder, name, size, mtime_ns, inode), before = read.look
        if read.change is not None:
            key: Key | None = read.change.key
            shape = read.shape
        else:
            key, shape = (before.key, before.shape) if before is not None else (None, None)
        racy = read.at_ns - mtime_ns < _RACY_NS
        return Seen(folder, name, size, RACY if racy else mtime_ns, inode, key, shape, read.problem)

    def _settle(self, contested: list[Key]) -> None:
        """Read again what decides keys that several files have, or that one file has lost to another."""
        for keys in chunks(contested):
            first: dict[Key, Seen] = {}
            for seen in self.scan.with_keys(keys):
                if seen.key is not None:
                    first.setdefault(seen.key, seen)
            changes = []
            for key, seen in first.items():
                entry = Entry(seen.folder, seen.name, seen.size, seen.mtime_ns, seen.inode)
                change = self._read(_Look(entry, seen)).change
                if change is not None and change.key == key:
                    changes.append(change)
            self._count(self.catalog.stage(changes, self.columns, restores=_COMES_BACK))
        with atomic(self.scan.connection):
            self.scan.remember(self.unsettled)

    # --- delete

    def _delete(self) -> None:
        if self.options.ensure or self.options.replace:
            reason = REPLACED if self.options.replace else METADATA_GONE
            self._soft_delete(self._without_source(), reason)
        if self.options.ensure_files:
            gone, back = self._check_documents()
            self._soft_delete(gone, DOCUMENT_GONE)
            restored = self.catalog.stage((Change(key, {}) for key in back), restores=[DOCUMENT_GONE])
            self.counts.restored += restored.restored

    def _without_source(self) -> list[Key]:
        """Return the documents that no file on disk stands for."""
        connection = self.catalog.connection
        connection.execute("ATTACH ? AS scan", (f"{self.scan.path.absolute().as_uri()}?mode=rw",))
        try:
            rows = connection.execute(
                f"SELECT {self.catalog.quoted_key} FROM files WHERE __deleted_at IS NULL AND {self.catalog.quoted_key} "
                "NOT IN (SELECT key FROM scan.sources WHERE key IS NOT NULL)"
            )
            return [key for (key,) in rows]
        finally:
            connection.execute("DETACH scan")

    def _purged(self) -> int:
        """Return how many purged documents a file on disk stands for."""
        keys = {seen.key for seen in self.scan.with_keys(self.catalog.purged())}
        if keys:
            said = "documents that were purged, and whose metadata files still lie here: %d"
            log.warning(said, len(keys), extra=event("purged here", documents=len(keys)))
        return len(keys)

    def _check_documents(self) -> tuple[list[Key], list[Key]]:
        """Return the live documents whose file is gone, and the deleted ones whose file is back."""
        gone, back = [], []
        for key, name, reason in self.catalog.file_names(self.config.file_name):
            if reason not in (None, DOCUMENT_GONE):
                continue
            there = self._document_exists(key, name)
            if there is False and reason is None:
                gone.append(key)
            elif there and reason is not None:
                back.append(key)
        return gone, back

    def _document_exists(self, key: Key, name: object) -> bool | None:
        """Whether a document's file is below the root or beside its metadata file; None when it has no name."""
        if not isinstance(name, str) or not name or "\0" in name:
            return None
        folders = {"", *(seen.folder for seen in self.scan.with_keys([key]))}
        return any((self.root / folder / name).is_file() for folder in folders)

    def _soft_delete(self, keys: list[Key], reason: str) -> None:
        live = self.catalog.count()
        if len(keys) * 2 > live and not self.options.force:
            raise RefusedError(
                f"{len(keys)} of {live} documents would be deleted ({reason}); is {self.root} complete? "
                "Nothing was deleted. If it is meant, run again with force (--force)"
            )
        self.counts.deleted += self.catalog.soft_delete(keys, reason)

    # --- parts

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(self.counts.read, None)
        now = time.monotonic()
        if now - self._reported > _PROGRESS_SECONDS:
            self._reported = now
            log.info("read %d files so far, of %d looked at", self.counts.read, self.counts.files)


def _path(entry: Entry) -> str:
    return f"{entry.folder}/{entry.name}" if entry.folder else entry.name
