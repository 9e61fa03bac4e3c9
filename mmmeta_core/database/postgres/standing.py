"""Where a state on a server stands, told without making anything there."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Final

from mmmeta_core.database.place import Server
from mmmeta_core.database.postgres.schema import FORMAT
from mmmeta_core.database.postgres.session import Session

_LOOK: Final = """
SELECT current_setting('server_version'), to_regclass('mmmeta_info') IS NOT NULL, to_regclass('files') IS NOT NULL,
  coalesce(
    (SELECT has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE')
     FROM pg_namespace n WHERE n.nspname = ?),
    has_database_privilege(current_database(), 'CREATE'))
"""
_MAY_WRITE: Final = """
SELECT bool_and(has_table_privilege(name, may))
FROM (VALUES ('files'), ('mmmeta_work'), ('mmmeta_info')) AS tables (name), (VALUES ('INSERT'), ('UPDATE')) AS rights (may)
"""


@dataclass(frozen=True)
class Standing:
    """The server's version; format and revision of the state, None where there is none yet; what may be done there."""

    version: str
    format: int | None
    revision: int | None
    may_make: bool
    may_write: bool
    theirs: bool
    """Whether the schema has a table `files` of another program."""

    @property
    def is_readable(self) -> bool:
        """Whether this package knows the format."""
        return self.format is None or self.format <= FORMAT


def standing(server: Server) -> Standing:
    """Look at the server. Raises `UnavailableError` and `CatalogError` as every use of it does."""
    with closing(Session(server, lambda _: None)) as session:
        ((version, made, files, may_make),) = session.execute(_LOOK, (server.schema,)).fetchall()
        if not made:
            return Standing(version, None, None, bool(may_make), bool(may_make), bool(files))
        notes = dict(session.execute("SELECT key, value FROM mmmeta_info").fetchall())
        ((may_write,),) = session.execute(_MAY_WRITE).fetchall()
        form, revision = int(notes.get("format") or 0), int(notes.get("revision") or 0)
        return Standing(version, form, revision, bool(may_make), bool(may_write), False)
