"""`Metadir`: a catalog of documents with its store, its remote, and this client's state. Composes all the rest."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, overload

from mmmeta_core import lock
from mmmeta_core.atomic import sweep
from mmmeta_core.database.place import open_state, place
from mmmeta_core.database.sqlite import UnknownFormatError
from mmmeta_core.errors import (
    CatalogError,
    ConfigError,
    HistoryError,
    LogError,
    MmmetaError,
    RefusedError,
    RemoteError,
    RemoteNotFoundError,
)
from mmmeta_core.legacy import Conversion
from mmmeta_core.paths import NAME, Paths, store_name
from mmmeta_core.sync import Replica
from mmmeta_core.trouble import explained

# What a verb needs is imported with its first call: to load it all takes longer than most runs with nothing new.
if TYPE_CHECKING:
    from mmmeta_core.config import Config
    from mmmeta_core.database.catalog import Catalog
    from mmmeta_core.database.state import State
    from mmmeta_core.database.work import Failure, OnChange, Work
    from mmmeta_core.doctor import Check, DoctorResult
    from mmmeta_core.download import DownloadResult
    from mmmeta_core.export import ExportResult, Format
    from mmmeta_core.files import Files
    from mmmeta_core.generate import GenerateResult
    from mmmeta_core.head import Head
    from mmmeta_core.history import Diff, Revision, Touch
    from mmmeta_core.init import InitResult, Proposal
    from mmmeta_core.legacy.conversion import Converted
    from mmmeta_core.moving import MoveResult
    from mmmeta_core.past import Pasts
    from mmmeta_core.process import Documents, Handler
    from mmmeta_core.prune import PruneResult
    from mmmeta_core.purge import PurgeResult
    from mmmeta_core.remotes import Remote, UploadResult
    from mmmeta_core.sources import Sources
    from mmmeta_core.standing import Insight, Pipeline, Poll, Status, SyncResult
    from mmmeta_core.store import Store
    from mmmeta_core.sync.pull import PullResult
    from mmmeta_core.sync.push import PushResult
    from mmmeta_core.types import Key, Progress
    from mmmeta_core.update import UpdateResult
    from mmmeta_core.verify import VerifyResult
    from mmmeta_core.watch import Turn

log = logging.getLogger(__name__)


class Metadir:
    """The metadir `path/_mmmeta`.

        m = mmmeta("./client", remote="s3://bucket/archive")
        m.pull(); m.update()
        for file in m.files(document_type="contract", imported=False):
            …
            file["imported"] = True
            file.save()

    What is not given comes from the environment, read when this is called: `MMMETA` (else the working folder),
    `MMMETA_FILES_ROOT` (else `path`), `MMMETA_REMOTE`, `MMMETA_STATE_DB` (else `path/_mmmeta/state.db`; a path,
    or `postgresql+psycopg://user@host/database?schema=name`). Nothing is
    read, written or connected to before it is needed. May be used by many threads; writers of one metadir,
    also in other processes, wait for each other. `close()`, or leaving a `with` block, closes the databases.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        files_root: str | os.PathLike[str] | None = None,
        remote: str | os.PathLike[str] | Remote | None = None,
        state_db: str | os.PathLike[str] | None = None,
    ) -> None:
        base = Path(path or os.environ.get("MMMETA") or Path.cwd())
        root = files_root or os.environ.get("MMMETA_FILES_ROOT") or None
        where = remote or os.environ.get("MMMETA_REMOTE") or None
        if base.is_file():
            raise ConfigError(f"{base} is a file; give the folder that holds, or is to hold, {NAME}")
        self.path = base
        self.paths: Paths = Paths(base / NAME)
        self.files_root: Path = Path(root) if root else base
        self.remote: Remote | None = _remote(where) if where else None
        self._generates = bool(root)
        self._replica = Replica(self.paths)
        self._place = place(state_db or os.environ.get("MMMETA_STATE_DB") or self.paths.state)
        self._old = Conversion(self._replica, self._own_state_file)
        self._state: State | None = None
        self._files: Documents | None = None
        self._configured: Config | None = None
        self._pasts: Pasts | None = None

    # --- parts

    @property
    def config(self) -> Config:
        """The settings in `config.yml`, as they are now."""
        return self._replica.config()

    @property
    def store(self) -> Store:
        """The typed key-value store. Keys beginning with `local_` stay here, others go with the next push."""
        return self._replica.store

    @property
    def files(self) -> Documents:
        """The documents, as of the last `update`."""
        from mmmeta_core.files.publish import Publisher
        from mmmeta_core.process import Documents

        state, config = self.state, self.config
        if self._files is None:
            self._files = Documents(
                state, config, Publisher(config, self._edit), self._sources, self._files_as_of
            )
        elif self._configured != config:
            self._files.configure(config, Publisher(config, self._edit))
        self._configured = config
        return self._files

    @property
    def state(self) -> State:
        """The state db."""
        if self._state is None:
            self._old.refuse_catalog()
            return self._open_state(self._old.refuse_state)
        return self._state_now()

    def _state_now(self) -> State:
        """Return the state, which is of today, keyed as the settings are now."""
        unique = self.config.unique
        if self._state is None or self._state.unique != unique:
            self.close()
            self._state = open_state(self._place, unique)
        return self._state

    def _open_state(self, if_old: Callable[[], None]) -> State:
        """Return the state, after `if_old` where no file of today's is.

        To look at a file in WAL mode and close it takes as long as all else of an update with nothing new, so the file is
        opened to stay, which only one of today's can be.
        """
        if self._state_file is not None and self._state_file.exists():
            state = self._state_now()
            try:
                _ = state.connection
            except UnknownFormatError:
                self.close()
            else:
                return state
        if_old()
        return self._state_now()

    def _merging(self, catalog: Catalog) -> State:
        """Return the state that the catalog is to be merged into, converted if an older version wrote it."""
        return self._state_now() if self._state else self._open_state(lambda: self._old.state(catalog))

    @property
    def _state_file(self) -> Path | None:
        """The file of the state db, if it is one."""
        return self._place if isinstance(self._place, Path) else None

    @property
    def _own_state_file(self) -> Path:
        """The file of the state db, or where it would be if the state did not lie on a server."""
        return self._state_file or self.paths.state

    @property
    def _has_state(self) -> bool:
        """Whether there is a state db of today; on a server there always is, as soon as it is looked at."""
        return self._state_file is None or self._old.has_state

    def _is_state(self, path: Path) -> bool:
        return self._state_file is not None and path.resolve() == self._state_file.resolve()

    @property
    def state_name(self) -> str:
        """Where the state db is, for people: its file, or server and schema."""
        return str(self._place)

    @property
    def converted(self) -> tuple[Converted, ...]:
        """What of an older version's metadir this object's verbs have converted; see docs/upgrade.md."""
        return tuple(self._old.done)

    @property
    def revision(self) -> int:
        """The revision that the local catalog has; 0 before the first."""
        self._old.refuse()
        if not self.paths.meta.exists():
            return 0
        with self._replica.catalog() as catalog:
            return catalog.position.revision

    @property
    def state_revision(self) -> int:
        """The revision that `files` shows; 0 before the first."""
        return self.state.revision

    def __len__(self) -> int:
        return len(self.files)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        remote = f" remote={self.remote.url}" if self.remote else ""
        return f"<Metadir {self.path}{remote}>"

    def _repr_html_(self) -> str:
        from mmmeta_core.notebook import pairs

        shown: dict[str, Any] = {"path": str(self.path), "remote": self.remote and self.remote.url}
        try:
            if self.paths.meta.exists():
                return self.inspect()._repr_html_()
        except MmmetaError as error:  # what is shown must not fail
            shown["problem"] = str(error)
        return pairs("Metadir", shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the databases; the next use opens them again."""
        if self._files is not None:
            self._files.close()
        if self._pasts is not None:
            self._pasts.close()
        if self._state is not None:
            self._state.close()
        self._files = self._state = None

    # --- verbs

    def propose(self) -> Proposal:
        """Look at some of the metadata files below `files_root`: what could be the key column, and what the file name's."""
        from mmmeta_core.init import propose

        if not self.files_root.is_dir():
            raise ConfigError(
                f"{self.files_root} is not a folder: give the one that holds the metadata files"
            )
        return propose(self.files_root.resolve())

    def init(
        self,
        proposal: Proposal | None = None,
        *,
        unique: str | None = None,
        file_name: str | None = None,
        urls: Mapping[str, str] | None = None,
        dry_run: bool = False,
    ) -> InitResult:
        """Write the archive's first `config.yml`, commented, from what is given and else `proposal`; see `init.init`."""
        from mmmeta_core.init import Proposal, init

        self._old.refuse()
        there = proposal or (self.propose() if self.files_root.is_dir() else Proposal())
        options: dict[str, Any] = {"unique": unique, "file_name": file_name, "urls": urls, "dry_run": dry_run}
        with explained(self.paths.root):
            return init(self._replica, self.remote, there, **options)

    def generate(
        self,
        *,
        ensure: bool = False,
        ensure_files: bool = False,
        no_meta: bool = False,
        replace: bool = False,
        force: bool = False,
        progress: Progress | None = None,
    ) -> GenerateResult:
        """Take new and changed metadata files below `files_root` into the catalog; see `generate.generate`.

        The next `push` publishes them, the next `update` shows them in `files`.
        """
        from mmmeta_core.database.scan import open_scan
        from mmmeta_core.generate import GenerateOptions, generate

        options = GenerateOptions(ensure, ensure_files, no_meta, replace, force)
        if not self.files_root.is_dir():
            raise ConfigError(
                f"{self.files_root} is not a folder: give the one that holds the metadata files"
            )
        with (
            self._locked(publishes=True),
            self._replica.catalog() as catalog,
            open_scan(self.paths.scan) as scan,
        ):
            return generate(catalog, scan, self.files_root.resolve(), self.config, options, progress)

    def poll(self, key: str = "remote_last_updated") -> Poll:
        """Compare a store value at the remote with the one that the last `update` merged here.

        One request for one small object; nothing is changed here. Raises `RemoteError` when the remote does not answer,
        `StoreError` for a key or value that can't be one.
        """
        from mmmeta_core.standing import Poll
        from mmmeta_core.store import MAX_TEXT_BYTES, check_key

        remote = self._need_remote()
        check_key(key)
        try:
            blob = remote.read(store_name(key), limit=MAX_TEXT_BYTES)
        except RemoteNotFoundError:
            remote.check()
            blob = None
        there = blob.data.decode(errors="replace") if blob else None
        here = self.state.merged_store().get(key) if self._has_state else None
        return Poll(key, _decoded(there), _decoded(here), changed=there != here)

    def remote_head(self) -> Head | None:
        """Return the remote's newest revision and the store values as of it; None before the first.

        One request for one small object, `head.json`, which lags for a moment after a publish.
        """
        from mmmeta_core.head import read_head

        head, _, _ = read_head(self._need_remote())
        return head

    def polls(self, keys: Sequence[str]) -> list[Poll]:
        """Do what `poll` does for several keys, in one request for `head.json`, which lags for a moment after a publish."""
        return self.polled(keys, self.remote_head())

    def polled(self, keys: Sequence[str], head: Head | None) -> list[Poll]:
        """Do what `polls` does with a head that was read already, as for another client of the same archive."""
        from mmmeta_core.standing import Poll
        from mmmeta_core.store import check_key

        for key in keys:
            check_key(key)
        there = head.store if head is not None else {}
        here = self.state.merged_store() if self._has_state else {}
        return [
            Poll(
                key,
                _decoded(there.get(key)),
                _decoded(here.get(key)),
                changed=there.get(key) != here.get(key),
            )
            for key in keys
        ]

    def pull(self, *, probe: bool = False, progress: Progress | None = None) -> PullResult:
        """Bring the local catalog, store and settings to the remote's newest revision; see `sync.pull`.

        An unchanged `head.json` ends it after one request, unless `probe` asks to look for the next segment all the
        same: `head.json` lags for a moment after a publish.
        """
        from mmmeta_core.sync.pull import pull

        remote = self._need_remote()
        if not self.paths.root.is_dir():
            remote.check()
        with self._locked(converts=False):
            self._old.before_pull(remote)
            result = pull(self._replica, remote, probe=probe, progress=progress)
            self._old.after_pull(remote, result.revision, publishes=self._generates)
            return result

    def pull_settings(self) -> int:
        """Bring the archive's settings without its catalog, for a worker on a shared state db; see `sync.settings`.

        Where there is a catalog it does nothing but return the remote's revision. `files`, `process` and `download` work
        without a catalog on what the state db has; `update` is then for whoever keeps one.
        """
        from mmmeta_core.sync.settings import pull_settings

        remote = self._need_remote()
        if not self.paths.root.is_dir():
            remote.check()
        with self._locked(converts=False):
            return pull_settings(self._replica, remote)

    def push(self, *, files: bool = False, progress: Progress | None = None) -> PushResult:
        """Publish what waits here as a new revision; see `sync.push`.

        With `files`, documents and metadata files below `files_root` that the archive lacks are uploaded before the
        catalog that names them is published; see `upload.upload`.

        Without a remote the archive is published where it lies: the log is kept in this metadir, and clients may use
        this folder as their remote.
        """
        from mmmeta_core.sync.push import push

        remote = self.remote or _remote(self.path)
        remote.check_writable()
        with self._locked(publishes=True):
            self._old.before_push(remote)
            uploaded = self._upload(remote, progress) if files else None
            return replace(push(self._replica, remote), files=uploaded)

    def update(self) -> UpdateResult:
        """Merge what is new in the catalog into `files`; see `update.update`.

        Where machines share a state, and it has merged another history of the archive than this catalog's, the remote is
        asked once more which of the two it has, by a pull; see `State.merge`.
        """
        try:
            return self._update()
        except HistoryError as error:
            if self.remote is not None:
                self.pull()
            return self._update(confirmed=error.merged)

    def _update(self, *, confirmed: str = "") -> UpdateResult:
        from mmmeta_core.update import update

        if not self.paths.root.is_dir():
            if self.remote is None:
                raise CatalogError(f"{self.path} has no {NAME}: generate, pull, or copy one there first")
            self.remote.check()
        with self._locked(), self._replica.catalog() as catalog:
            state = self._merging(catalog)
            trust = self._replica.check_verified(catalog)
            result = update(catalog, state, self.store, self.paths.root, trust, confirmed=confirmed)
            if indexes := self.config.indexes:
                state.index_columns(indexes)
            self._scrub(catalog)
            return result

    def move_state(self, to: str | os.PathLike[str]) -> MoveResult:
        """Copy this client's own columns and notes to a state elsewhere, a file or a server's schema; see `moving.move`.

        The catalog is merged there first. This object, and whoever does not name the new place, goes on with the old one.
        Raises `ConfigError`, `RefusedError` for a place that has a state, and what `update` does.
        """
        from mmmeta_core.moving import move
        from mmmeta_core.update import update

        where = place(to)
        if where == self._place or (isinstance(where, Path) and self._is_state(where)):
            raise RefusedError(f"the state is at {where} already: name another place")
        with self._locked(), self._replica.catalog() as catalog:
            state = self._merging(catalog)
            trust = self._replica.check_verified(catalog)
            with closing(open_state(where, self.config.unique)) as new:
                if not new.revision:
                    update(catalog, new, self.store, self.paths.root, trust)
                return move(state, new)

    def sync(self) -> SyncResult:
        """Do what the role needs: pull, generate if there is a `files_root`, push if documents wait, update."""
        from mmmeta_core.standing import SyncResult

        if self._generates and self.remote is not None:
            self.remote.check_writable()
        pulled = self.pull() if self.remote is not None else None
        generated = self.generate() if self._generates else None
        pushed = None
        if generated is not None or self._has_pending():
            if self.remote is None or self.remote.can_write:
                pushed = self.push()
            else:
                log.warning("documents wait here to be published, but %s is read only", self.remote.url)
        return SyncResult(pulled, generated, pushed, self.update())

    def watch(
        self,
        handler: Handler | None = None,
        *,
        mark: str = "imported",
        interval: float = 60.0,
        max_polls: int | None = None,
        stop: threading.Event | None = None,
        filters: Callable[[], Mapping[str, Any]] = dict,
        on_deleted: Handler | None = None,
        **options: Any,
    ) -> Iterator[Turn]:
        """Keep this client up to date: poll; pull, update and process where there is something to do; see `watch.watch`.

        Yields what each poll led to, every `interval` seconds or so. `handler`, `mark` and `options` are those of
        `files.process`, whose filters `filters` gives, anew each time: "the last week" moves on. `run_command("import.sh
        {path}")` makes a handler of a program. Several may watch one metadir: each document is claimed by one of them.
        `on_deleted` is a handler for documents that were done and that the publisher has deleted since, whatever the
        filters; success takes the mark away.
        """
        from mmmeta_core.watch import Steps, Work, removal, watch

        steps = Steps(
            poll=self.poll,
            pull=self.pull,
            update=self.update,
            revision=lambda: self.state_revision if self._old.has_state else 0,
            work=Work(self, handler, mark, filters, options),
            remove=removal(self, on_deleted, mark, options),
        )
        return watch(steps, interval=interval, max_polls=max_polls, stop=stop)

    def download(
        self,
        dest: str | os.PathLike[str],
        *,
        mark: str = "downloaded",
        source: str | None = None,
        workers: int = 8,
        max_attempts: int = 5,
        limit: int | None = None,
        on_change: OnChange = "content",
        progress: Progress | None = None,
        **filters: Any,
    ) -> DownloadResult:
        """Fetch the matching documents that were not downloaded yet into the folder `dest`.

        Each one whole, verified when its key is a digest of it, and under its file name, made safe; see
        `File.download`. From where the publisher's templates or the document's `public_url` say, else from the archive;
        `source` names one of them. Sets the client's columns `<mark>` and `<mark>_path`. Failures are noted and tried
        again as in `files.process`, whose options these are. Raises `RefusedError` for a folder inside a metadir.
        """
        from mmmeta_core.download import download
        from mmmeta_core.files import Folder

        with explained(Path(dest)):
            return download(
                self.files,
                Folder(Path(dest), self.state, self._sources, self.config),
                mark=mark,
                source=source,
                workers=workers,
                max_attempts=max_attempts,
                limit=limit,
                on_change=on_change,
                progress=progress,
                filters=filters,
            )

    def export(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        format: Format | None = None,  # noqa: A002 - what users call it
        *,
        columns: Sequence[str] | None = None,
        deleted: bool | None = False,
        spreadsheet: bool = False,
        progress: Progress | None = None,
        **filters: Any,
    ) -> ExportResult:
        """Write the matching documents into a file as `csv`, `jsonl`, `parquet` or `sqlite`; see `export.export`."""
        from mmmeta_core.export import export

        where = Path(target) if isinstance(target, str | os.PathLike) else target
        if isinstance(where, Path) and self._is_state(where):
            raise RefusedError(
                f"{where} is the state db, which holds this client's own columns: choose another name"
            )
        with explained(where) if isinstance(where, Path) else nullcontext():
            return export(
                self.files,
                where,
                format,
                columns=columns,
                deleted=deleted,
                spreadsheet=spreadsheet,
                progress=progress,
                filters=filters,
            )

    def status(self) -> Status:
        """Return where everything stands, at the remote too, and how far each pipeline is.

        One request. A remote that does not answer, or has a damaged `head.json`, is said in the result, not raised.
        """
        from mmmeta_core.standing import Status

        insight = self.inspect()
        there, reason = None, None
        if self.remote is not None:
            try:
                head = self.remote_head()
                there = head.revision if head is not None else 0
            except (RemoteError, LogError) as error:
                reason = str(error)
        return Status(insight, there, reason, tuple(self._pipelines()))

    def doctor(self, *, write: bool = False, seen: Callable[[Check], None] | None = None) -> DoctorResult:
        """Look whether the set-up is right: machine, folders, settings, keys, databases, remote; see `doctor.examine`.

        What is wrong is in the result, not raised. Nothing stays behind; a small object is written to the remote, and
        removed, only with a `files_root` or with `write`. A publisher is known by its `files_root`, one that an earlier
        `generate` had, or by changes that wait to be published. `seen` is told each check as soon as it is known.
        """
        from mmmeta_core.doctor import Site, examine, role_of

        role = role_of(self.paths, self.files_root if self._generates else None)
        places = (self.paths, self._place, role.files_root, self.remote)
        return examine(Site(*places, publishes=role.publishes, writes=self._generates or write), seen)

    def verify(
        self,
        *,
        documents: int | None = 100,
        downloads: int | None = 100,
        remote: bool = True,
        hashes: bool = False,
        deep: bool = False,
        repair: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> VerifyResult:
        """Look whether all is whole, and change nothing: databases, settings, store, log, documents, downloads.

        So many `documents` are looked for in the archive and so many `downloads` here, picked at random; None is all of
        them; with `hashes` their content is read, too. `deep` reads the whole log, and compares catalog, snapshot and
        `head.json` with it. With `remote` False only what lies here is looked at. Without a remote the log of this metadir
        is, if it has one. What is wrong is in the result, not raised; a remote or server that does not answer is.

        With `repair` what can be proven is mended, see `repair.repair`, and `dry_run` only says what would be.
        """
        from mmmeta_core.verify import Depth, verify

        if not self.paths.root.is_dir():
            raise CatalogError(f"{self.path} has no {NAME}: generate, pull, or copy one there first")
        self._old.refuse()
        there = self.remote if remote else None
        if remote and self.remote is None and (self.paths.root / "log").is_dir():
            there, documents = _remote(self.path), 0
        depth = Depth(documents, downloads, hashes, deep)
        if not repair:
            return verify(self.paths, self._place, there, depth, progress)
        from mmmeta_core.repair import Site
        from mmmeta_core.repair import repair as mend

        self.close()
        site = Site(self.paths, self._place, there, self._sources)
        if dry_run:
            return mend(site, depth, dry_run=True, progress=progress)
        with self._locked():
            return mend(site, depth, progress=progress)

    @overload
    def log(self, *, limit: int | None = None) -> Iterator[Revision]: ...
    @overload
    def log(self, *, key: Key | Collection[Key], limit: int | None = None) -> Iterator[Touch]: ...
    def log(
        self, *, key: Key | Collection[Key] | None = None, limit: int | None = None
    ) -> Iterator[Revision] | Iterator[Touch]:
        """Yield what was published, the newest first, as a stream; with `key` what was done to that document.

        From the remote's log, or from this metadir's own where there is no remote; see `history.revisions` and
        `history.touches`. Several keys are ways to write one.
        """
        from mmmeta_core import history
        from mmmeta_core.signing import load_trust

        trust = load_trust(self.paths.trusted_keys)
        if key is None:
            return history.revisions(self._archive(), limit=limit, trust=trust)
        keys = {key} if isinstance(key, str | int) else set(key)
        return history.touches(self._archive(), keys, limit=limit, trust=trust)

    def prune(
        self, *, keep_days: float, dry_run: bool = False, progress: Progress | None = None
    ) -> PruneResult:
        """Remove from the remote's log what is older than `keep_days`; see `prune.prune`.

        Documents stay, and so does what `files` shows; `files.as_of`, `diff` and `log` reach back less far.
        """
        from mmmeta_core.prune import prune

        remote = self._archive()
        with self._locked():
            return prune(self._replica, remote, keep_days=keep_days, dry_run=dry_run, progress=progress)

    def purge(
        self,
        keys: Iterable[Key | Collection[Key]],
        *,
        reason: str,
        files: bool = False,
        dry_run: bool = False,
    ) -> PurgeResult:
        """Remove documents, and all that was published of them, from catalog, log and snapshot; see `purge.purge`."""
        from mmmeta_core.purge import purge

        remote = self._archive()
        with self._locked():
            root, options = self.files_root, {"files": files, "dry_run": dry_run}
            result = purge(self._replica, remote, keys, reason=reason, root=root, **options)
        if not dry_run:
            self.update()
        return result

    def diff(self, a: int, b: int | None = None) -> Diff:
        """Compare the documents of two revisions, `b` being the newest unless given; see `history.diff`.

        Costs what `files.as_of` does for each of them.
        """
        from mmmeta_core import history
        from mmmeta_core.head import read_head

        if b is None:
            head, _, _ = read_head(self._archive())
            b = max(head.revision if head is not None else 0, self.revision)
        return history.diff(a, b, self._past().at)

    def failures(self, mark: str = "imported") -> Iterator[Failure]:
        """Yield the documents that a pipeline failed at, the latest first."""
        return self._work(mark).failures()

    def due_again(self, mark: str = "imported") -> int:
        """Return how many documents that a pipeline failed at may be tried again by now."""
        return self._work(mark).due_again() if self._has_state else 0

    def retry_failed(self, mark: str = "imported") -> int:
        """Make a pipeline's failed documents due at once; return how many."""
        return self._work(mark).retry()

    def touch(self, key: str) -> datetime:
        """Store the current time under `key`, and return it."""
        return self.store.touch(key)

    def invalid(self) -> list[tuple[str, str]]:
        """Return path and reason of each metadata file that the last `generate` could not take."""
        from mmmeta_core.database.scan import open_scan

        if not self.paths.scan.exists():
            return []
        with open_scan(self.paths.scan) as scan:
            return list(scan.problems())

    def inspect(self) -> Insight:
        """Return where this metadir stands."""
        from mmmeta_core.standing import Insight

        if not self.paths.root.is_dir():
            raise CatalogError(f"{self.path} has no {NAME}: generate, pull, or copy one there first")
        self._old.refuse()
        with self._replica.catalog() as catalog:
            position, kinds = catalog.position, catalog.kinds()
            counts = catalog.count(), catalog.count(deleted=True), catalog.pending_count()
        store = self.store
        return Insight(
            path=str(self.path),
            remote=self.remote.url if self.remote else None,
            unique=self.config.unique,
            files=counts[0],
            deleted=counts[1],
            invalid=len(self.invalid()),
            pending=counts[2],
            revision=position.revision,
            state_revision=self.state_revision,
            remote_last_updated=_time(store.get("remote_last_updated")),
            local_last_updated=_time(store.get("local_last_updated")),
            columns=dict(sorted(kinds.items())),
        )

    # --- composing

    @cached_property
    def _sources(self) -> Sources:
        from mmmeta_core.sources import Sources

        return Sources(self.remote)

    def _work(self, mark: str) -> Work:
        from mmmeta_core.database.work import Work

        return Work(self.state, mark)

    def _archive(self) -> Remote:
        """Return the remote, or this very folder where the archive is published where it lies."""
        self._old.refuse()
        if self.remote is None and (self.paths.root / "log").is_dir():
            return _remote(self.path)
        return self._need_remote()

    def _scrub(self, catalog: Catalog) -> None:
        """Leave no byte of documents that were purged in this metadir's databases and copies."""
        if catalog.must_scrub:
            self._past().forget()
            from mmmeta_core.sync.hints import is_here
            from mmmeta_core.sync.retire import forget_copies

            if self.remote is not None and not is_here(self._replica, self.remote):
                forget_copies(self.paths, catalog.position.revision)
            catalog.scrub()
        self.state.scrub()

    def _past(self) -> Pasts:
        from mmmeta_core.past import Pasts

        if self._pasts is None:
            self._pasts = Pasts(self.paths, lambda: self.config, self._archive, self._sources)
        return self._pasts

    def _files_as_of(self, revision: int) -> Files:
        return self._past().files(revision)

    def _pipelines(self) -> Iterator[Pipeline]:
        from mmmeta_core.database.work import tallies
        from mmmeta_core.process import due_count
        from mmmeta_core.standing import Pipeline

        if not self._has_state:
            return
        for tally in tallies(self.state):
            due = due_count(self.state, self.files, tally.mark, tally.settings)
            yield Pipeline(tally.mark, due, tally.done, tally.failed, tally.set_aside, tally.last_run)

    def _need_remote(self) -> Remote:
        if self.remote is None:
            raise ConfigError(
                "there is no remote: give remote=…, --remote or MMMETA_REMOTE "
                "(a folder, s3://bucket/prefix or https://host/path)"
            )
        return self.remote

    def _upload(self, remote: Remote, progress: Progress | None) -> UploadResult:
        from mmmeta_core.database.scan import open_scan
        from mmmeta_core.sync.push import keeps_conditions
        from mmmeta_core.upload import upload

        with self._replica.catalog() as catalog, open_scan(self.paths.scan) as scan:
            root, creates = self.files_root.resolve(), keeps_conditions(remote, catalog)
            return upload(catalog, scan, root, remote, self.config, creates=creates, progress=progress)

    def _has_pending(self) -> bool:
        if self._old.has_old_catalog:  # a client's, which update converts
            return False
        with self._replica.catalog() as catalog:
            return catalog.pending_count() > 0

    @contextmanager
    def _locked(self, *, converts: bool = True, publishes: bool = False) -> Iterator[None]:
        """Be the metadir's one writer, clear away what a killed one left, convert what an older version left."""
        with explained(self.paths.root), lock.exclusive(self.paths.lock):
            for folder in (self.paths.root, self.paths.store, self.paths.past):
                sweep(folder)
            if converts:
                self._old.begin(publishes=publishes)
            yield
            if self._state is None or self._state_file is None:
                self._old.finish()

    @contextmanager
    def _edit(self) -> Iterator[Catalog]:
        is_merged = True
        with self._locked(publishes=True), self._replica.catalog() as catalog:
            state = self._merging(catalog)
            trust = self._replica.check_verified(catalog)
            yield catalog
            try:
                state.merge(catalog.path, verified=trust is not None)
            except HistoryError:
                is_merged = False
        if not is_merged:
            self.update()


def _remote(where: str | os.PathLike[str] | Remote) -> Remote:
    from mmmeta_core.remotes import open_remote

    return open_remote(where)


def _decoded(text: str | None) -> Any:
    from mmmeta_core.store import decode_value

    return None if text is None else decode_value(text)


def _time(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None
