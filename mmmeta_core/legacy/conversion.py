"""When what is converted: what each of a metadir's verbs asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mmmeta_core.database.catalog import Catalog
from mmmeta_core.legacy import layout
from mmmeta_core.sync import Replica

if TYPE_CHECKING:
    from mmmeta_core.legacy.catalog import CatalogConversion
    from mmmeta_core.legacy.state import StateConversion
    from mmmeta_core.remotes import Remote

    Converted: TypeAlias = CatalogConversion | StateConversion


@dataclass
class Conversion:
    """The conversion of one metadir; `done` is what this object has converted.

    All needs the metadir's lock but what refuses.
    """

    replica: Replica
    state_db: Path
    done: list[Converted] = field(default_factory=list)

    def refuse(self) -> None:
        """Raise `CatalogError` while there is something to convert; for what only reads."""
        self.refuse_catalog()
        self.refuse_state()

    def refuse_catalog(self) -> None:
        """Raise `CatalogError` while the catalog is still to be converted."""
        layout.refuse_catalog(self.replica.paths)

    def refuse_state(self) -> None:
        """Raise `CatalogError` while the state is still to be converted."""
        layout.refuse_state(self.replica.paths, self.state_db)

    @property
    def has_state(self) -> bool:
        """Whether there is a state db of today."""
        return self.state_db.exists() and layout.old_state(self.replica.paths, self.state_db) is None

    @property
    def has_old_catalog(self) -> bool:
        """Whether the catalog is still to be converted."""
        return layout.old_catalog(self.replica.paths) is not None

    def begin(self, *, publishes: bool = False) -> None:
        """Convert the catalog, before a verb works on it; with `publishes`, its documents wait for the next push."""
        if layout.has_old_files(self.replica.paths):
            from mmmeta_core.legacy.catalog import convert_catalog

            converted = convert_catalog(self.replica.paths)
            if converted is not None:
                self.done.append(converted)
        if publishes and self.replica.paths.meta.exists():
            with self.replica.catalog() as catalog:
                catalog.publish_inherited()

    def finish(self) -> None:
        """Convert the client's state, if it still is to be, on the catalog that a verb has brought."""
        if (
            layout.old_state(self.replica.paths, self.state_db) is not None
            and self.replica.paths.meta.exists()
        ):
            with self.replica.catalog() as catalog:
                self.state(catalog, needed=False)

    def state(self, catalog: Catalog, *, needed: bool = True) -> None:
        """Convert the client's state, on the catalog that is to be merged into it."""
        if layout.old_state(self.replica.paths, self.state_db) is None:
            return
        from mmmeta_core.legacy.state import convert_state

        converted = convert_state(self.replica.paths, self.state_db, catalog, needed=needed)
        if converted is not None:
            self.done.append(converted)

    def before_pull(self, remote: Remote) -> None:
        """Convert the catalog, unless the remote's is converted already: then the one here gives way to it."""
        waits = self.has_old_catalog or self._is_inherited()
        if waits and not self._is_at(remote) and self._is_published(remote):
            from mmmeta_core.legacy.catalog import give_way, set_aside

            if not set_aside(self.replica.paths):
                give_way(self.replica.paths, remote.url)
        else:
            self.begin()

    def after_pull(self, remote: Remote, revision: int, *, publishes: bool) -> None:
        """Raise `CatalogError` for a client whose remote is still to be converted by its publisher."""
        if not revision and not publishes and not self._is_at(remote):
            from mmmeta_core.legacy.archive import check_pulled

            check_pulled(remote)

    def before_push(self, remote: Remote) -> None:
        """Raise `RefusedError` if a first push would lose what an old version left at the remote."""
        with self.replica.catalog() as catalog:
            first, inherited = not catalog.position.revision, catalog.is_inherited
        if first and not self._is_at(remote):
            from mmmeta_core.legacy.archive import check_first_push

            check_first_push(self.replica.paths, remote, inherited=inherited)

    def _is_inherited(self) -> bool:
        if not self.replica.paths.meta.exists():
            return False
        with self.replica.catalog() as catalog:
            return catalog.is_inherited

    def _is_published(self, remote: Remote) -> bool:
        """Whether the remote has a revision of today's."""
        from mmmeta_core.head import read_head

        return read_head(remote)[0] is not None

    def _is_at(self, remote: Remote) -> bool:
        """Whether the remote's metadir is this one."""
        from mmmeta_core.remotes import LocalRemote

        here = self.replica.paths.root.parent.resolve()
        return isinstance(remote, LocalRemote) and remote.root.resolve() == here
