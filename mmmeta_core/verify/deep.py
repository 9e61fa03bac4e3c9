"""Everything that repeats what the log says, compared with that: catalog, snapshot, and the remote's hints."""

from __future__ import annotations

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
from mmmeta_core.verify.hints import MEND_SNAPSHOT, fetch_snapshot, look_at_hints
from mmmeta_core.verify.history import Published, Sources, Truth, Watch, read_history
from mmmeta_core.verify.log import MEND_HISTORY, Log, segment_url

_NOWHERE = Position(None, 0, "", 0)


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
    contradicts: bool = False

    def read(self, progress: Progress | None) -> Truth | None:
        """Return what the log says, if it is whole."""
        head, snapshot = self.log.head, self.folder / "snapshot.db"
        watches: dict[int, list[Watch]] = defaultdict(list)
        if head is not None:
            watches[head.revision].append(self._note_head)
        if self.catalog is not None and self.position.revision:
            watches[self.position.revision].append(partial(self._compare, self.catalog))
            watches[self.log.newest].append(partial(self._compare_with_newest, self.catalog))
        has_snapshot = fetch_snapshot(self.remote, self.log, snapshot, self.report)
        if has_snapshot and head is not None and head.snapshot is not None:
            watches[head.snapshot.revision].append(partial(self._compare_snapshot, snapshot))
        truth = read_history(
            Sources(self.remote, self.log, snapshot if has_snapshot else None, self.folder),
            self._claimed,
            {revision: partial(_all, some) for revision, some in watches.items()},
            self.report,
            progress,
        )
        if truth is not None:
            look_at_hints(self.remote, head, self.at_head, truth.published, self.report)
        return truth

    def _claimed(self) -> Position:
        """Return where the catalog is by its own account, if that has a say in which segment is the right one."""
        head = self.log.head
        is_other = head is not None and self.position.archive != head.archive
        return _NOWHERE if is_other or self.report.has_code("catalog-differs") else self.position

    def _note_head(self, _: Catalog, published: Published) -> None:
        self.at_head = published

    def _compare(self, catalog: Catalog, rebuilt: Catalog, published: Published) -> None:
        """Compare the catalog with what the log says as of its revision."""
        differences = self._differences(catalog, rebuilt)
        if differences is None:
            return
        is_there = published.position == self.position
        if is_there and differences:
            self._differs("; ".join(differences))
        elif not is_there and not differences:
            self.report.drop("other-archive")
            self._differs("its place in the log is another")
        elif not is_there:
            self.contradicts = self.position.archive == published.position.archive

    def _compare_with_newest(self, catalog: Catalog, rebuilt: Catalog, _: Published) -> None:
        """Tell a wrong revision from another history, for a catalog that contradicts the log."""
        if not self.contradicts and self.position.revision <= self.log.newest:
            return
        if self._differences(catalog, rebuilt) == []:
            self.report.drop("set-back")
            self._differs("its revision is another")
        elif self.contradicts:
            subject = segment_url(self.remote, self.position.revision)
            what = "is not the one that this catalog was made from: the remote was set back, and published to since"
            self.report.find("set-back", subject, what, MEND_HISTORY)

    def _compare_snapshot(self, path: Path, rebuilt: Catalog, published: Published) -> None:
        with closing(connect(path, pragmas={})) as connection:
            copy = Catalog(connection, path, published.unique, 0)
            same = copy.position == published.position
            differences = list(catalog_differences(connection, rebuilt.path, published.unique))
        self.report.counts["compared"] += rebuilt.count(deleted=None)
        if differences or not same:
            what = "; ".join(differences) or "its place in the log is another"
            subject = f"{self.remote.url}/{remote_name(META_DB)}"
            self.report.find("snapshot", subject, f"is not what the log says ({what})", MEND_SNAPSHOT)

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
