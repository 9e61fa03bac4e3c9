"""Everything that repeats what the log says, compared with that: catalog, snapshot, and the remote's hints."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmmeta_core.database.catalog import Catalog, Position
from mmmeta_core.database.sqlite import connect
from mmmeta_core.paths import META_DB, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.types import Progress
from mmmeta_core.verify.compare import catalog_differences
from mmmeta_core.verify.databases import MEND_META, readable
from mmmeta_core.verify.findings import Report
from mmmeta_core.verify.hints import MEND_SNAPSHOT, Fetched, fetch_snapshot, look_at_hints
from mmmeta_core.verify.history import NOWHERE, History, Published, Sources, Truth, Watch, read_history
from mmmeta_core.verify.log import MEND_HISTORY, Log, segment_url


@dataclass(frozen=True)
class _Compared:
    """Whether the place in the log is the same, and what else is not."""

    is_there: bool
    differences: list[str]


@dataclass
class Deep:
    """One look at the whole log. `catalog` is one that is whole, at `position`; None where there is none."""

    remote: Remote
    log: Log
    catalog: Catalog | None
    position: Position
    folder: Path
    report: Report
    at_head: Published | None = None
    here: _Compared | None = None
    at_newest: _Compared | None = None
    at_snapshot: _Compared | None = None

    def read(self, progress: Progress | None) -> Truth | None:
        """Return what the log says, if it is whole."""
        head = self.log.head
        fetched = fetch_snapshot(self.remote, self.log, self.folder / "snapshot.db")
        is_other = head is not None and self.position.archive != head.archive
        history = read_history(
            Sources(
                self.remote, self.log, fetched.path if fetched and not fetched.flaw else None, self.folder
            ),
            NOWHERE if is_other else self.position,
            self._watches(fetched),
            self.report,
            progress,
        )
        self._judge_catalog(history)
        self._judge_snapshot(history, fetched)
        if history.truth is not None:
            if history.truth.published.position.archive == self.position.archive:
                self.report.drop("other-archive")  # head.json is what is wrong then
            look_at_hints(self.remote, head, self.at_head, history.truth.published, self.report)
        return history.truth

    def _watches(self, snapshot: Fetched | None) -> dict[int, Watch]:
        head, watches = self.log.head, defaultdict[int, list[Watch]](list)
        if head is not None:
            watches[head.revision].append(self._note_head)
        if self.catalog is not None and self.position.revision:
            watches[self.position.revision].append(partial(self._compare, self.catalog, "here"))
            watches[self.log.newest].append(partial(self._compare, self.catalog, "at_newest"))
        if snapshot is not None and snapshot.revision:
            watches[snapshot.revision].append(partial(self._compare_snapshot, snapshot.path))
        return {revision: partial(_all, some) for revision, some in watches.items()}

    def _note_head(self, _: Catalog, published: Published) -> None:
        self.at_head = published

    def _compare(self, catalog: Catalog, name: str, rebuilt: Catalog, published: Published) -> None:
        """Compare the catalog with what the log says as of a revision."""
        differences = self._differences(catalog, rebuilt)
        if differences is not None:
            setattr(self, name, _Compared(published.position == self.position, differences))

    def _compare_snapshot(self, path: Path, rebuilt: Catalog, published: Published) -> None:
        try:
            with closing(connect(path, pragmas={})) as connection:
                copy = Catalog(connection, path, published.unique, 0)
                same = copy.position == published.position
                differences = list(catalog_differences(connection, rebuilt.path, published.unique))
        except sqlite3.DatabaseError as error:
            same, differences = True, [f"it can't be read: {error}"]
        self.report.counts["compared"] += rebuilt.count(deleted=None)
        self.at_snapshot = _Compared(same, differences)

    def _judge_catalog(self, history: History) -> None:
        here, newest = self.here, self.at_newest
        if here is not None and here.is_there:
            # The hash that the catalog has is that of the whole history up to there.
            if here.differences:
                self._differs("; ".join(here.differences))
        elif self.position.revision in history.bad or history.truth is None:
            return
        elif here is not None and not here.differences:
            self.report.drop("other-archive")
            self._differs("its place in the log is another")
        elif newest is not None and not newest.differences:
            self.report.drop("set-back")
            self._differs("its revision is another")
        elif here is not None and not self.report.has_code("other-archive"):
            subject = segment_url(self.remote, self.position.revision)
            what = "is not the one that this catalog was made from: the remote was set back, and published to since"
            self.report.find("set-back", subject, what, MEND_HISTORY)

    def _judge_snapshot(self, history: History, fetched: Fetched | None) -> None:
        found, what = self.at_snapshot, fetched.flaw if fetched is not None else ""
        is_same = found is not None and found.is_there and not found.differences
        if not what and found is not None and not is_same and (found.is_there or not history.bad):
            differences = "; ".join(found.differences) or "its place in the log is another"
            what = f"is not what the log says ({differences})"
        if what and not (is_same and fetched is not None and fetched.newer):
            self.report.find("snapshot", f"{self.remote.url}/{remote_name(META_DB)}", what, MEND_SNAPSHOT)

    def _differences(self, catalog: Catalog, rebuilt: Catalog) -> list[str] | None:
        """Return how the catalog differs; None when somebody has changed it meanwhile, or it can't be read."""
        differences = None
        with readable(catalog.path, "catalog-damaged", MEND_META, self.report):
            if catalog.position == self.position:
                differences = list(catalog_differences(catalog.connection, rebuilt.path, rebuilt.unique))
                self.report.counts["compared"] += rebuilt.count(deleted=None)
            if catalog.position != self.position:
                return None
        return differences

    def _differs(self, what: str) -> None:
        path = self.catalog.path if self.catalog is not None else Path()
        self.report.find("catalog-differs", path, f"is not what the log says ({what})", MEND_META)


def _all(watches: Sequence[Watch], rebuilt: Catalog, published: Published) -> None:
    for watch in watches:
        watch(rebuilt, published)
