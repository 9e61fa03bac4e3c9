"""Verify: is what a metadir says true? Its own files, its place in the remote's log, documents in the archive, downloads.

Nothing is changed, and everything is looked at, however much is wrong: each thing is a `Finding` that says how to mend it.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mmmeta_core.changelog import FOLDER, digest_of, segment_name, segment_revision
from mmmeta_core.config import Config, expand
from mmmeta_core.database import catalog as catalogs
from mmmeta_core.database import state as states
from mmmeta_core.database.catalog import Catalog, Position
from mmmeta_core.database.columns import column_name
from mmmeta_core.database.sqlite import CHUNK, GUARDS, check_journal, chunks, get_value, quote, table_columns
from mmmeta_core.errors import (
    CatalogError,
    ConfigError,
    LogError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
    StoreError,
    StoreKeyError,
)
from mmmeta_core.head import Head, parse_head
from mmmeta_core.limits import cap
from mmmeta_core.paths import HEAD, META_DB, Paths, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.remotes.base import is_name
from mmmeta_core.sources import ARCHIVE, PUBLIC_URL, is_content
from mmmeta_core.store import Store
from mmmeta_core.types import Key, Progress, Row

_WAIT_SECONDS: Final = 60.0
_WORKERS: Final = 8
_SIZE: Final = "size"
_META_TABLES: Final = ("files", "mmmeta_info", "mmmeta_columns", "mmmeta_store")
_STATE_TABLES: Final = ("files", "mmmeta_info", "mmmeta_columns", "mmmeta_downloads")

_MEND_META: Final = "move it away and pull again (state is kept); a publisher also generates again"
_MEND_STATE: Final = "restore it from a backup, for it holds this client's own state"
_MEND_LOG: Final = "restore it from a backup of the archive"
_MEND_HISTORY: Final = (
    "restore it from a backup of the archive, or move meta.db away and pull again (state is kept)"
)
_MEND_DOWNLOAD: Final = (
    "set the document's column that says downloaded to False, and download again into this folder"
)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. `subject` is the file, object or setting; what is wrong with it, and how to mend it."""

    subject: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.subject} {self.what}: {self.mend}"


@dataclass(frozen=True)
class VerifyResult:
    """What was looked at, and what is wrong.

    `revision` is the catalog's, `remote_revision` the newest in the log, None when there was no log to look at. Of the
    documents in the catalog `documents` were looked for in the archive. `elsewhere` of these are not there, but the
    publisher names another place for them; `unnamed` documents have no file name and can't be looked for.
    `downloads` are files on this machine.
    """

    revision: int
    remote_revision: int | None
    databases: int
    store_values: int
    segments: int
    documents: int
    elsewhere: int
    unnamed: int
    downloads: int
    findings: tuple[Finding, ...]
    seconds: float = field(compare=False)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


@dataclass(frozen=True)
class Fill:
    """How many documents there are, and how many of them have a value; None for a column that is not there."""

    documents: int
    values: Mapping[str, int | None]


def verify(
    paths: Paths,
    state_db: Path,
    remote: Remote | None,
    *,
    documents: int | None,
    downloads: int | None,
    progress: Progress | None = None,
) -> VerifyResult:
    """Look at the metadir, at the remote's log, and at random samples of so many `documents` and `downloads`; None is all.

    Publishing and pulling may go on meanwhile. Raises `RemoteError` when the remote does not do what it is asked.
    """
    started = time.monotonic()
    run = _Run(paths, remote, progress)
    run.look_at_files()
    with run.catalog() as catalog:
        position = catalog.position if catalog is not None else Position(None, 0, "", 0)
        if remote is not None:
            run.look_at_log(remote, position)
            if catalog is not None and run.config is not None and documents != 0:
                run.look_at_documents(remote, catalog, run.config, documents)
    run.look_at_state(state_db, downloads)
    return VerifyResult(
        revision=position.revision,
        remote_revision=run.newest,
        **run.counts,
        findings=tuple(run.findings),
        seconds=time.monotonic() - started,
    )


def fill(catalog: Catalog, columns: Iterable[str]) -> Fill:
    """Count how many of the documents in the catalog have a value in each column; soft-deleted ones are left out."""
    there = {*catalog.kinds(), catalog.unique}
    names = {name: column if (column := column_name(name)) in there else None for name in columns}
    known = [column for column in names.values() if column is not None]
    counted = ",".join(["count(*)", *(f"count({quote(column)})" for column in known)])
    documents, *values = catalog.connection.execute(
        f"SELECT {counted} FROM files WHERE __deleted_at IS NULL"
    ).fetchone()
    found = dict(zip(known, values, strict=True))
    return Fill(
        documents, {name: None if column is None else found[column] for name, column in names.items()}
    )


class _Run:
    def __init__(self, paths: Paths, remote: Remote | None, progress: Progress | None) -> None:
        self.paths = paths
        self.remote = remote
        self.progress = progress
        self.findings: list[Finding] = []
        self.counts = dict.fromkeys(
            ("databases", "store_values", "segments", "documents", "elsewhere", "unnamed", "downloads"), 0
        )
        self.config: Config | None = None
        self.newest: int | None = None

    def find(self, subject: object, what: str, mend: str) -> None:
        self.findings.append(Finding(str(subject), what, mend))

    # --- the metadir's own files

    def look_at_files(self) -> None:
        path = self.paths.config
        try:
            self.config = Config.load(path)
        except ConfigError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
            self.find(path, f"can't be used ({reason})", "correct it, or restore the published one")
        store = Store(self.paths.store)
        for key in store:
            try:
                store[key]
            except StoreKeyError:  # removed by another process meanwhile
                continue
            except (StoreError, OSError) as error:
                self.find(
                    store.folder / key, f"can't be read ({error})", "write the value anew, or remove it"
                )
            self.counts["store_values"] += 1

    @contextmanager
    def catalog(self) -> Iterator[Catalog | None]:
        """Give the catalog if it is whole."""
        path = self.paths.meta
        if not _is_there(path):
            self.find(path, "is missing", "pull, or generate where this is a publisher")
            yield None
            return
        with self._database(path, catalogs.VERSION, _META_TABLES, _MEND_META) as connection:
            if connection is None:
                yield None
                return
            catalog = Catalog(connection, path, get_value(connection, "mmmeta_info", "unique"), 0)
            if catalog.position.revision or catalog.count(deleted=None):
                self._look_at_key(path, catalog.unique)
            yield catalog

    def look_at_state(self, path: Path, downloads: int | None) -> None:
        if not _is_there(path):
            return
        with self._database(path, states.VERSION, _STATE_TABLES, _MEND_STATE) as connection:
            if connection is None:
                return
            unique = get_value(connection, "mmmeta_info", "unique")
            if connection.execute("SELECT 1 FROM files").fetchone() is not None:
                self._look_at_key(path, unique)
            if self.config is not None and downloads != 0:
                self._look_at_downloads(connection, unique, self.config, downloads)

    @contextmanager
    def _database(
        self, path: Path, newest: int, tables: Iterable[str], mend: str
    ) -> Iterator[sqlite3.Connection | None]:
        """Give a connection to a database that is whole."""
        self.counts["databases"] += 1
        connection: sqlite3.Connection | None = None
        try:
            # Not read only: SQLite itself may have to undo what a killed writer left. Nothing is written here.
            check_journal(path)
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_SECONDS, isolation_level=None
            )
            for name, value in GUARDS.items():
                connection.execute(f"PRAGMA {name}={value}")
            flaw = _flaw(connection, path, newest, tables, mend)
        except CatalogError as error:
            flaw = Finding(str(path), "can't be used", str(error))
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise
            flaw = Finding(
                str(path), f"can't be read ({error})", f"check its permissions; if it is damaged, {mend}"
            )
        if flaw is not None:
            self.findings.append(flaw)
        if connection is None:
            yield None
            return
        with closing(connection):
            yield connection if flaw is None else None

    def _look_at_key(self, path: Path, unique: object) -> None:
        if self.config is not None and self.config.unique != unique:
            self.find(
                path,
                f"is keyed by {unique!r}, {self.paths.config.name} says {self.config.unique!r}",
                f"set metadata.unique to {unique!r} in {self.paths.config}",
            )

    # --- the log

    def look_at_log(self, remote: Remote, position: Position) -> None:
        head = self._head(remote)
        # Listed after the head was read, so that what was published meanwhile is no contradiction.
        known = {position.revision, head.revision if head is not None else 0} - {0}
        revisions = _listed(remote) if remote.can_list else {n for n in known if _has_segment(remote, n)}
        self.newest = newest = max(revisions, default=0)
        self.counts["segments"] = len(revisions)
        for first, last in _gaps(revisions) if remote.can_list else ():
            subject = _segment(remote, first)
            what = "is missing" if first == last else f"and all segments up to {last} are missing"
            self.find(subject, f"{what}: who is not past it can't pull", _MEND_LOG)
        if head is not None:
            self._look_at_head(remote, head, position, revisions)
        if position.archive is not None and (head is None or head.archive == position.archive):
            if position.revision > newest:
                what = "is missing, which this catalog has: the remote was set back"
                self.find(_segment(remote, position.revision), what, _MEND_HISTORY)
            elif head is None or (head.revision, head.digest) != (position.revision, position.digest):
                self._look_at_digest(
                    remote, position.revision, position.digest, revisions, "this catalog has", _MEND_HISTORY
                )

    def _look_at_head(self, remote: Remote, head: Head, position: Position, revisions: set[int]) -> None:
        url, newest = f"{remote.url}/{remote_name(HEAD)}", max(revisions, default=0)
        if head.revision > newest:
            what = f"names revision {head.revision}, the log ends at {newest}"
            self.find(url, what, "restore the newest segments from a backup of the archive")
        if position.archive not in (None, head.archive):
            what = "belongs to another archive than this catalog"
            self.find(url, what, "move meta.db away and pull again (state is kept), or use another path")
        self._look_at_digest(remote, head.revision, head.digest, revisions, f"{HEAD} names", _MEND_LOG)

    def _head(self, remote: Remote) -> Head | None:
        name = remote_name(HEAD)
        url = f"{remote.url}/{name}"
        try:
            blob = remote.read(name, limit=cap("MMMETA_MAX_HEAD_BYTES"))
            return parse_head(blob.data, url) if blob is not None else None
        except RemoteNotFoundError:
            remote.check()
            if _listed(remote) if remote.can_list else _has_segment(remote, 1):
                self.find(url, "is missing, so sensors see no news", "push once more: a push writes it anew")
        except LogError as error:
            if error.__cause__ is None:
                self.find(url, "is of a newer format", "install a newer mmmeta")
            else:
                what = f"is damaged ({error.__cause__})"
                self.find(url, what, "remove it, and push once more: a push writes it anew")
        return None

    def _look_at_digest(
        self, remote: Remote, revision: int, digest: str, revisions: set[int], who: str, mend: str
    ) -> None:
        if revision not in revisions:
            return
        with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
            path = Path(folder) / "segment"
            try:
                remote.fetch(remote_name(segment_name(revision)), path, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
            except RemoteNotFoundError:
                self.find(_segment(remote, revision), "is gone since the log was listed", mend)
                return
            if digest_of(path) != digest:
                self.find(_segment(remote, revision), f"is not the one that {who}: it has another hash", mend)

    # --- documents

    def look_at_documents(self, remote: Remote, catalog: Catalog, config: Config, limit: int | None) -> None:
        source = _source(catalog, config)
        if source is None or ARCHIVE in config.remote:
            self.counts["unnamed"] = catalog.count() if source is None else 0
            return
        live, name = source
        self.counts["unnamed"] = catalog.connection.execute(
            f"SELECT count(*) {live} AND {name} IS NULL"
        ).fetchone()[0]
        behind = max((self.newest or 0) - catalog.position.revision, 0)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="mmmeta-verify") as pool:
            for rows in _rows(catalog, f"{live} AND {name} IS NOT NULL", limit):
                looked = pool.map(
                    lambda row: _look_for(remote, row, row[catalog.unique], config, behind), rows
                )
                for number, (elsewhere, finding) in enumerate(looked, self.counts["documents"] + 1):
                    self.counts["documents"] = number
                    self.counts["elsewhere"] += elsewhere
                    self.findings += [finding] if finding is not None else []
                    if self.progress is not None:
                        self.progress(number, limit)

    # --- downloads

    def _look_at_downloads(
        self, connection: sqlite3.Connection, unique: str, config: Config, limit: int | None
    ) -> None:
        found = connection.execute(
            f"SELECT d.folder, d.name, d.key FROM mmmeta_downloads d JOIN files f ON f.{quote(unique)} = d.key "
            "WHERE f.__deleted_at IS NULL ORDER BY random() LIMIT ?",
            (-1 if limit is None else limit,),
        )
        for folder, name, key in found.fetchall():
            path = Path(folder) / name
            self.counts["downloads"] += 1
            try:
                if not path.is_file():
                    self.find(path, f"is missing, the download of {key}", _MEND_DOWNLOAD)
                elif is_content(path, key, config) is False:
                    what = f"is not the document {key}: it has another hash"
                    self.find(path, what, f"remove it, {_MEND_DOWNLOAD}")
            except OSError as error:
                self.find(path, f"can't be read ({error.strerror})", "check its permissions")


def _is_there(path: Path) -> bool:
    """Whether there is a database: a file without content is one that was never begun."""
    try:
        return path.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _flaw(
    connection: sqlite3.Connection, path: Path, newest: int, tables: Iterable[str], mend: str
) -> Finding | None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > newest:
        what = f"has format {version}, this mmmeta reads up to {newest}"
        return Finding(str(path), what, "install a newer mmmeta")
    if version and path.name == META_DB:
        catalogs.check_catalog(connection, path)
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        return Finding(str(path), f"is damaged ({' '.join(found.split())})", mend)
    if version == 0 or not all(table_columns(connection, table) for table in tables):
        return Finding(str(path), "was not written by this mmmeta", mend)
    return None


def _listed(remote: Remote) -> set[int]:
    """Return the revisions that the remote has a segment of."""
    names = remote.names(remote_name(f"{FOLDER}/"))
    return {number for name in names if (number := segment_revision(name))}


def _has_segment(remote: Remote, revision: int) -> bool:
    return remote.stat(remote_name(segment_name(revision))) is not None


def _gaps(revisions: set[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of the revisions that are missing in a row, from 1 to the newest."""
    before = 0
    for revision in sorted(revisions):
        if revision > before + 1:
            yield before + 1, revision - 1
        before = revision


def _segment(remote: Remote, revision: int) -> str:
    return f"{remote.url}/{remote_name(segment_name(revision))}"


def _source(catalog: Catalog, config: Config) -> tuple[str, str] | None:
    """Return the SQL for published documents that are not deleted, and for their file name; None when they have none."""
    there = {*catalog.kinds(), catalog.unique}
    if config.file_name not in there:
        return None
    live = "FROM files WHERE __deleted_at IS NULL"
    if table_columns(catalog.connection, "mmmeta_pending"):
        live += f" AND {catalog.quoted_key} NOT IN (SELECT key FROM mmmeta_pending)"
    return live, f"nullif({quote(config.file_name)}, '')"


def _rows(catalog: Catalog, source: str, limit: int | None) -> Iterator[list[Row]]:
    """Yield whole raw rows: a random sample, or all of them. No read is open while the caller has some."""
    key = catalog.quoted_key
    if limit is not None:
        sample = catalog.connection.execute(f"SELECT {key} {source} ORDER BY random() LIMIT ?", (limit,))
        for some in chunks([key for (key,) in sample.fetchall()]):
            yield list(catalog.rows(some).values())
        return
    after: tuple[Any, ...] = ()
    while True:
        further = f" AND {key} > ?" if after else ""
        page = catalog.connection.execute(
            f"SELECT {key} {source}{further} ORDER BY {key} LIMIT {CHUNK}", after
        ).fetchall()
        if not page:
            return
        yield list(catalog.rows(value for (value,) in page).values())
        after = page[-1]


def _look_for(remote: Remote, row: Row, key: Key, config: Config, behind: int) -> tuple[bool, Finding | None]:
    """Return whether the document is elsewhere than in the archive, and what is wrong with it there."""
    name = str(row[config.file_name])
    url = f"{remote.url}/{name}"
    if not is_name(name):
        what = f"can't be in an archive, as the file name of document {key} says"
        return False, Finding(url, what, "let the publisher correct the file name")
    first = f"this catalog is {behind} revisions behind, so pull and verify again; else " if behind else ""
    try:
        there = remote.stat(name)
    except (RemoteUnreachableError, RemoteDeniedError, RemoteNotFoundError):
        raise
    except RemoteError as error:
        return False, Finding(url, f"can't be looked at ({error})", "put the document there as a plain file")
    if there is None:
        if _is_elsewhere(row, config):
            return True, None
        what = f"is missing, the file of document {key}"
        mend = "restore it, or let the publisher push with files, or delete the document"
        return False, Finding(url, what, first + mend)
    size = row.get(_SIZE)
    if isinstance(size, int) and size != there.size:
        what = f"has {there.size} bytes, document {key} says {size}"
        return False, Finding(url, what, f"{first}restore it, or let the publisher push with files")
    return False, None


def _is_elsewhere(row: Row, config: Config) -> bool:
    """Whether the publisher names another place for the document than the archive."""
    if row.get(PUBLIC_URL):
        return True
    for template in config.remote.values():
        try:
            expand(template, row)
        except ConfigError:  # it needs a column that this document does not have
            continue
        return True
    return False
