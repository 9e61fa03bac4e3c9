"""The tables of a state on PostgreSQL: how they are made, and which format they have."""

from __future__ import annotations

from typing import Final

from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, RESCUED, STATE_BOOKKEEPING, STATE_RESCUED
from mmmeta_core.database.postgres.session import Session
from mmmeta_core.database.postgres.values import TYPES
from mmmeta_core.database.sqlite import quote, set_values
from mmmeta_core.database.state import TABLES
from mmmeta_core.errors import CatalogError
from mmmeta_core.writer import WRITER, newer_format

FORMAT: Final = 1
"""What `mmmeta_info` says under `format`."""

_KEY: Final = TYPES["text"]
_BOOKKEEPING: Final = ", ".join(
    # What found no column is JSON as it was: jsonb can't hold each text.
    f"{name} {'json' if name in (RESCUED, STATE_RESCUED) else TYPES[kind]}"
    for name, kind in {**PUBLISHED_BOOKKEEPING, **STATE_BOOKKEEPING}.items()
)
_DAY: Final = r"\d{4}(-\d\d-\d\d|\d{4}|-?W\d\d(-?\d)?)"
_CLOCK: Final = r"\d\d(:?\d\d(:?\d\d([.,]\d+)?)?)?"
_TIME: Final = rf"^{_DAY}([T ]{_CLOCK}(Z|[+-]\d\d(:?\d\d)?)?)?$"
_STATEMENTS: Final = (
    f"CREATE TABLE files ({{key}} {_KEY} PRIMARY KEY, {_BOOKKEEPING})",
    "CREATE INDEX mmmeta_files_deleted ON files ({key}) WHERE __deleted_at IS NOT NULL",
    "CREATE TABLE mmmeta_info (key text PRIMARY KEY, value text)",
    "CREATE TABLE mmmeta_columns (name text PRIMARY KEY, kind text NOT NULL, owner text NOT NULL, "
    "mixed boolean NOT NULL DEFAULT FALSE)",
    f"CREATE TABLE mmmeta_work (mark text NOT NULL, key {_KEY} NOT NULL, worker text, lease_until timestamptz, "
    "attempts integer NOT NULL DEFAULT 0, error text, failed_at timestamptz, failed_version timestamptz, "
    "not_before timestamptz, set_aside boolean NOT NULL DEFAULT FALSE, done_at timestamptz, done_version timestamptz, "
    "done_content text, PRIMARY KEY (mark, key))",
    "CREATE INDEX mmmeta_work_worker ON mmmeta_work (worker) WHERE worker IS NOT NULL",
    "CREATE INDEX mmmeta_work_failed ON mmmeta_work (mark) WHERE error IS NOT NULL",
    "CREATE TABLE mmmeta_pipelines (mark text PRIMARY KEY, settings text, last_run timestamptz)",
    f"CREATE TABLE mmmeta_downloads (folder text NOT NULL, folded text NOT NULL, name text NOT NULL, key {_KEY} NOT NULL, "
    "PRIMARY KEY (folder, folded))",
    # The server reads more as a time than this package does, such as 'now'.
    f"""CREATE OR REPLACE FUNCTION mmmeta_time(said text) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF said !~ '{_TIME}' THEN
    RETURN NULL;
  END IF;
  RETURN said::timestamptz;
EXCEPTION WHEN data_exception THEN
  RETURN NULL;
END $$""",
)


def bring_up_to_date(session: Session, unique: str) -> None:
    """Make schema and tables where they are missing. Several processes may do this at once.

    Raises `CatalogError` for a newer format, for tables of another program, and for a key that is another one's.
    """
    if _format(session) is None:
        with session.transaction():
            locked(session)
            if _format(session) is None:
                _create(session, unique)
    kept = _said(session, "unique")
    if kept != unique:
        _key_anew(session, unique)


def locked(session: Session) -> None:
    """Wait until no other process merges into this schema or makes its tables, and keep it so for this transaction."""
    # However long that takes: who holds it works, or is gone and with it the lock.
    session.execute("SELECT set_config('lock_timeout', '0', true)")
    session.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (f"mmmeta:{session.server.schema}",)
    )


def _said(session: Session, key: str) -> str | None:
    row = session.execute("SELECT value FROM mmmeta_info WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def _format(session: Session) -> int | None:
    """Return the format of the tables; None when there are none."""
    here = session.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ? AND c.relname IN ('files', 'mmmeta_info')",
        (session.server.schema,),
    ).fetchall()
    there = {name for (name,) in here}
    if not there:
        return None
    if "mmmeta_info" not in there:
        raise CatalogError(
            f"{session.server.name} has a table files that mmmeta did not make: name another schema, as ?schema=name"
        )
    found = int(_said(session, "format") or 0)
    if found > FORMAT:
        raise CatalogError(f"{session.server.name} {newer_format(found, FORMAT, _said(session, 'writer'))}")
    return found


def _create(session: Session, unique: str) -> None:
    schema = session.server.schema
    there = session.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (schema,)).fetchone()
    if there is None:
        session.execute(f"CREATE SCHEMA {quote(schema)}")
    for statement in _STATEMENTS:
        session.execute_native(statement.replace("{key}", quote(unique)))
    set_values(
        session, "mmmeta_info", {"unique": unique, "revision": "0", "format": str(FORMAT), "writer": WRITER}
    )


def _key_anew(session: Session, unique: str) -> None:
    """Key tables by another column, if they have no documents yet. Raises `CatalogError` for those that have."""
    with session.transaction():
        locked(session)
        kept = _said(session, "unique")
        if kept == unique:
            return
        if session.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None:
            raise CatalogError(
                f"{session.server.name} is keyed by {kept!r}, but the configured key is {unique!r}: "
                f"set metadata.unique to {kept!r}, or name another schema, as ?schema=name"
            )
        for table in TABLES:
            session.execute(f"DROP TABLE {table}")
        _create(session, unique)
