"""Update: catalog → state. What the publisher says is merged into the client's database, the client's own stays."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mmmeta_core.changelog import replay_folder
from mmmeta_core.database.catalog import Catalog
from mmmeta_core.database.state import State
from mmmeta_core.events import event
from mmmeta_core.notebook import Shown
from mmmeta_core.signing import Trust
from mmmeta_core.store import Store

log = logging.getLogger(__name__)

HANDLED: Final = "local_last_updated"
"""The client's store key that holds the `remote_last_updated` which the last update merged."""
_PUBLISHED: Final = "remote_last_updated"


@dataclass(frozen=True)
class UpdateResult(Shown):
    """What an update changed. `clashes` are the client's own columns that the publisher now publishes too."""

    added: int
    updated: int
    unchanged: int
    deleted: int
    restored: int
    revision: int
    clashes: tuple[str, ...]
    seconds: float = field(compare=False)


def update(
    catalog: Catalog,
    state: State,
    store: Store,
    metadir: Path,
    trust: Trust | None = None,
    *,
    everything: bool = False,
    confirmed: str = "",
) -> UpdateResult:
    """Merge what is new in the catalog into the state db, in one transaction. Idempotent.

    Segments that another tool copied into `metadir/log` are replayed first, if `trust` lets them. Afterwards the store's
    `local_last_updated` is the `remote_last_updated` of what was merged, so the two differ exactly when there is more
    to merge, whatever any clock says. With `everything` all rows are compared, as for another archive; what is
    `confirmed` is said at `State.merge`. The caller holds the metadir's lock. Raises `LogError`, `CatalogError`.
    """
    started = time.monotonic()
    replay_folder(catalog, metadir, trust)
    verified = trust is not None
    merged = None if everything else state.already_merged(catalog.connection, verified=verified)
    if merged is None:
        merged = state.merge(catalog.path, everything=everything, verified=verified, confirmed=confirmed)
    handled = catalog.store().get(_PUBLISHED)
    if handled is not None and (HANDLED not in store or store.text(HANDLED) != handled):
        store.set_text(HANDLED, handled)
    for name in merged.new_clashes:
        log.warning(
            "the publisher now publishes a column %r, which is your own here: yours stays, theirs is not shown",
            name,
            extra=event("clash", column=name),
        )
    for path in merged.purged_downloads:
        fields = event("purged download", path=path)
        log.warning("%s is here of a document that the publisher purged: remove it", path, extra=fields)
    log.info(
        "state: %d added, %d updated, %d deleted, %d restored; at revision %d",
        *(merged.added, merged.updated, merged.deleted, merged.restored, merged.revision),
        extra=event(
            "updated",
            revision=merged.revision,
            added=merged.added,
            updated=merged.updated,
            deleted=merged.deleted,
            restored=merged.restored,
        ),
    )
    return UpdateResult(
        added=merged.added,
        updated=merged.updated,
        unchanged=merged.unchanged,
        deleted=merged.deleted,
        restored=merged.restored,
        revision=merged.revision,
        clashes=merged.clashes,
        seconds=time.monotonic() - started,
    )
