"""The catalog: `meta.db`, one row a document, published metadata and what is still to be published.

Only publishers' verbs and `pull` write here, one process at a time (see `lock`). The file is never in WAL mode,
so that between transactions it is one closed file that may be copied, and a copy put in its place is never
mixed with a leftover log. `synchronous` stays FULL: a published revision depends on it.

A row that was changed here and is not published yet has an entry in `mmmeta_pending` with the row as it was
published (NULL: never). The difference of the two is what the next push publishes, so changes by other
publishers to other columns of the same document survive.
"""

from mmmeta_core.database.catalog.apply import apply, carry_over
from mmmeta_core.database.catalog.catalog import INHERITED, Catalog, Change, Position, Staged
from mmmeta_core.database.catalog.file import (
    STEPS,
    VERSION,
    check_catalog,
    check_whole,
    open_catalog,
    replace_catalog,
)

__all__ = [
    "INHERITED",
    "STEPS",
    "VERSION",
    "Catalog",
    "Change",
    "Position",
    "Staged",
    "apply",
    "carry_over",
    "check_catalog",
    "check_whole",
    "open_catalog",
    "replace_catalog",
]
