"""The state on a server: what it has merged, as the catalog has it. The server itself looks after its tables."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

from mmmeta_core.config import Config
from mmmeta_core.database.place import Server
from mmmeta_core.verify.findings import Report

_MEND: Final = "repair: it is taken from the catalog again, and your own columns stay"


def look_at_server(server: Server, config: Config, catalog: Path, report: Report) -> None:
    """Compare all published columns with `catalog`, the file of one that is whole; makes nothing where there is no state.

    Raises `UnavailableError` and `CatalogError` as every use of the server does.
    """
    from mmmeta_core.database.postgres.standing import standing
    from mmmeta_core.database.postgres.state import PostgresState

    there = standing(server)
    if there.format is None:
        return
    report.counts["databases"] += 1
    with closing(PostgresState(server, config.unique)) as state:
        found = state.compare(catalog)
    report.counts["compared"] += found.documents
    if found.differences:
        what = f"is not what the catalog says ({'; '.join(found.differences)})"
        report.find("state-differs", server.name, what, _MEND)
