"""The whole log, read from its oldest segment to its newest: each one follows the one before, and what they say."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from mmmeta_core.changelog import Header, digest_of, open_segment, replay_segment, segment_name
from mmmeta_core.database.catalog import Catalog, Position, open_catalog
from mmmeta_core.database.sqlite import chunks, connect, get_value
from mmmeta_core.errors import LogError, MmmetaError, RemoteNotFoundError
from mmmeta_core.head import Head
from mmmeta_core.limits import cap
from mmmeta_core.paths import HEAD, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.types import Progress
from mmmeta_core.verify.findings import Code, Report
from mmmeta_core.verify.log import (
    MEND_HEAD,
    MEND_HISTORY,
    MEND_LOG,
    Log,
    has_segment,
    look_for_gaps,
    segment_url,
)

_AT_ONCE: Final = 8
NOWHERE: Final = Position(None, 0, "", 0)
MAX_COLUMNS: Final = 100_000
"""A limit for publishers, who have kept theirs; a replay takes what is there."""


@dataclass(frozen=True)
class Published:
    """What the log says as of a revision.

    `config` are the settings, None when there are none or the log that is left does not say them, which `knows_config`
    tells apart.
    """

    position: Position
    unique: str
    store: Mapping[str, str]
    config: str | None
    knows_config: bool


@dataclass(frozen=True)
class Truth:
    """The newest revision of a log that is whole: what everything else has to agree with.

    `path` is the catalog that was rebuilt from it, a closed database that lives as long as the run.
    """

    path: Path
    published: Published


@dataclass(frozen=True)
class History:
    """What the log says, if it is whole as far as it is needed, and which of its segments are bad."""

    truth: Truth | None
    bad: frozenset[int]


Watch: TypeAlias = Callable[[Catalog, Published], None]
"""Called with the rebuilt catalog as of a revision."""


@dataclass(frozen=True)
class Sources:
    """Where a history is read from; `snapshot` is the remote's, and as `head.json` says; files are made in `folder`."""

    remote: Remote
    log: Log
    snapshot: Path | None
    folder: Path

    @property
    def begun(self) -> int:
        """The snapshot's revision; 0 without one."""
        head = self.log.head
        return head.snapshot.revision if self.snapshot is not None and head and head.snapshot else 0


@dataclass(frozen=True)
class _Link:
    revision: int
    digest: str
    header: Header | None
    flaw: str = ""


@dataclass
class _Replay:
    """Segments that follow each other, applied to a catalog of its own, up to the first that can't be."""

    path: Path
    watches: Mapping[int, Watch]
    from_snapshot: bool = False
    catalog: Catalog | None = None
    position: Position = NOWHERE
    config: str | None = None
    last: Published | None = None
    broken: int = 0
    applied: int = 0
    stack: ExitStack = field(default_factory=ExitStack)

    def open(self, unique: str) -> Catalog:
        catalog = self.stack.enter_context(open_catalog(self.path, unique, max_columns=MAX_COLUMNS))
        # A file that nobody needs after a crash.
        catalog.connection.execute("PRAGMA synchronous = OFF")
        catalog.connection.execute("PRAGMA journal_mode = MEMORY")
        self.catalog = catalog
        self._look(catalog)
        return catalog

    def take(self, link: _Link, path: Path) -> str:
        """Apply a segment if it is the next one; return what is wrong with it, if that shows only now."""
        here, header = self.position, link.header
        if self.broken or link.revision <= here.revision:
            return ""
        if header is None or not _follows(header, link, here):
            self.broken = link.revision
            return ""
        try:
            catalog = self.catalog or self.open(header.unique)
            replay_segment(catalog, path, path.name)
        except (MmmetaError, sqlite3.Error) as error:
            self.broken = link.revision
            return f"can't be applied ({error.__cause__ or error})"
        self.applied += 1
        self.config = header.config if header.config is not None else self.config
        self._look(catalog)
        return ""

    def _look(self, catalog: Catalog) -> None:
        self.position = catalog.position
        knows = not self.from_snapshot or self.config is not None
        self.last = Published(self.position, catalog.unique, catalog.store(), self.config, knows)
        watch = self.watches.get(self.position.revision)
        if watch is not None:
            watch(catalog, self.last)


def read_history(
    sources: Sources,
    position: Position,
    watches: Mapping[int, Watch],
    report: Report,
    progress: Progress | None,
) -> History:
    """Read all segments, note what is wrong with them, and return what the log says.

    Where what is before the snapshot is not whole, the log after that is enough. `position` is the catalog's; one with
    `archive` None has no say in which segment is the right one.
    """
    remote, log = sources.remote, sources.log
    wanted = sorted(log.revisions) if remote.can_list else _probed(sources)
    replay = _Replay(sources.folder / "log.db", watches)
    if 1 not in wanted and sources.snapshot is not None:
        replay = _from_snapshot(sources, watches)
    links = _read(sources, wanted, replay, progress)
    if sources.snapshot is not None and 0 < replay.broken <= sources.begun:
        replay = _from_snapshot(sources, watches)
        _read(sources, [revision for revision in links if revision > sources.begun], replay, None)
    if not remote.can_list:
        log = replace(log, revisions=frozenset(links))
        look_for_gaps(remote, log, report)
    report.counts["segments"], report.counts["replayed"] = len(links), replay.applied
    bad = _judge(remote, log.head, links, position, report)
    start = sources.begun if replay.from_snapshot else 0
    newest = max(links, default=start)
    needed = range(start + 1, newest + 1)
    is_whole = newest > 0 and all(revision in links and revision not in bad for revision in needed)
    if not is_whole or replay.broken or replay.last is None or replay.position.revision != newest:
        return History(None, frozenset(bad))
    return History(Truth(replay.path, replay.last), frozenset(bad))


def _from_snapshot(sources: Sources, watches: Mapping[int, Watch]) -> _Replay:
    assert sources.snapshot is not None  # noqa: S101 - the caller has seen it
    path = sources.folder / "later.db"
    shutil.copyfile(sources.snapshot, path)
    with closing(connect(path, pragmas={})) as connection:
        unique = str(get_value(connection, "mmmeta_info", "unique"))
    replay = _Replay(path, watches, from_snapshot=True)
    replay.open(unique)
    return replay


def _follows(header: Header, link: _Link, here: Position) -> bool:
    is_next = header.revision == link.revision == here.revision + 1 and header.previous == here.digest
    return is_next and here.archive in (None, header.archive)


def _probed(sources: Sources) -> list[int]:
    """Return the revisions to ask for where they can't be listed: those that a reader may need."""
    newest = sources.log.newest
    while has_segment(sources.remote, newest + 1):
        newest += 1
    first = 1 if not sources.begun or has_segment(sources.remote, 1) else sources.begun + 1
    return list(range(first, newest + 1))


def _read(
    sources: Sources, revisions: Sequence[int], replay: _Replay, progress: Progress | None
) -> dict[int, _Link]:
    """Fetch segments in order, a few at once, look into each one, and hand them to the replay."""
    links: dict[int, _Link] = {}
    with replay.stack, ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mmmeta-verify") as pool:
        for some in chunks(revisions, _AT_ONCE):
            for revision, path in zip(some, pool.map(lambda n: _fetch(sources, n), some), strict=True):
                if path is None:
                    replay.broken = replay.broken or revision * (revision > replay.position.revision)
                    continue
                link = _examine(path, revision)
                flaw = replay.take(link, path)
                links[revision] = replace(link, flaw=link.flaw or flaw)
                path.unlink()
            if progress is not None:
                progress(len(links), len(revisions))
    return links


def _fetch(sources: Sources, revision: int) -> Path | None:
    path = sources.folder / f"{revision}.segment"
    try:
        sources.remote.fetch(remote_name(segment_name(revision)), path, limit=cap("MMMETA_MAX_SEGMENT_BYTES"))
    except RemoteNotFoundError:
        return None
    return path


def _examine(path: Path, revision: int) -> _Link:
    digest = digest_of(path)
    try:
        with open_segment(path, path.name) as (header, records):
            for _ in records:
                pass
    except LogError as error:
        return _Link(revision, digest, None, f"is damaged ({error.__cause__ or error})")
    if header.revision != revision:
        return _Link(revision, digest, header, f"says that it is revision {header.revision}")
    return _Link(revision, digest, header)


def _judge(
    remote: Remote, head: Head | None, links: Mapping[int, _Link], position: Position, report: Report
) -> set[int]:
    """Note what is wrong with which segments, from the newest to the oldest: each one names the hash of the one before.

    Returns the revisions of the bad ones.
    """
    bad: set[int] = set()
    expected: dict[int, str] = {}
    archives = Counter(link.header.archive for link in links.values() if link.header is not None)
    archive = archives.most_common(1)[0][0] if archives else None
    for revision in sorted(links, reverse=True):
        link = links[revision]
        code, what, mend = _flaw(link, expected.get(revision), archive, head, position)
        if what:
            bad.add(revision)
            report.find(code, segment_url(remote, revision), what, mend)
            continue
        if link.header is not None:
            expected[revision - 1] = link.header.previous
        if head is not None and head.revision == revision and head.digest != link.digest:
            what = f"names another hash for segment {revision} than it has"
            report.find("head-wrong", f"{remote.url}/{remote_name(HEAD)}", what, MEND_HEAD)
    return bad


def _flaw(
    link: _Link, expected: str | None, archive: str | None, head: Head | None, position: Position
) -> tuple[Code, str, str]:
    """Return what is wrong with a segment; `expected` is its hash as the next one says, if that is to be trusted."""
    header = link.header
    if link.flaw or header is None:
        return "segment-damaged", link.flaw, MEND_LOG
    if archive is not None and header.archive != archive:
        return "segment-replaced", "belongs to another archive", MEND_LOG
    if expected is not None:
        wrong = expected != link.digest
        who = f"segment {link.revision + 1} names: it has another hash"
        return "segment-replaced", f"is not the one that {who}" * wrong, MEND_LOG
    by_head = head.digest if head is not None and head.revision == link.revision else None
    mine = position.archive is not None and position.revision == link.revision
    by_catalog = position.digest if mine else None
    if link.digest in (by_head, by_catalog) or (by_head is None and by_catalog is None):
        return "segment-replaced", "", MEND_LOG
    who, mend = (f"{HEAD} names", MEND_LOG) if by_head is not None else ("this catalog has", MEND_HISTORY)
    return "segment-replaced", f"is not the one that {who}: it has another hash", mend
