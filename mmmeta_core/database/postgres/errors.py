"""What the server, or the way to it, says, as one sentence that names the place and says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import psycopg

from mmmeta_core.errors import CatalogError, MmmetaError, UnavailableError

_WAYS_OUT: Final[Mapping[str, str]] = {
    "28": "check user and password",
    "3D000": "create the database, or correct its name in the URL",
    "3F000": "create the schema, or correct its name in the URL",
    "42501": "let the user create in this database and schema (GRANT CREATE), or name a schema of its own",
    "25006": "the server takes no writes; use the primary one",
    "53100": "free some space on the server and run it again",
    "53300": "raise max_connections, or use fewer workers",
    "53": "see to the server's resources and run it again",
    "55P03": "another process has held it for more than a minute; run it again when that is done",
    "57014": "the statement took longer than the server allows; raise statement_timeout",
    "XX": "the server's data may be damaged; restore it from a backup",
}
"""By SQLSTATE, or its class."""

_SAID: Final[Mapping[str, str]] = {
    "password": "check user and password, here or in ~/.pgpass",
    "authentication": "check user and password, and pg_hba.conf",
    "pg_hba": "check pg_hba.conf",
    "role ": "check the user",
    "database ": "create the database, or correct its name in the URL",
    "SSL": "check sslmode and the certificates",
    "invalid": "correct the URL",
}
"""By a word of a message of a connection that failed, which has no SQLSTATE."""

_AWAY: Final = "see whether the server runs and can be reached, and run it again"


def first_line(error: BaseException) -> str:
    """Return the first line of what the server, or the driver, says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def explanation(error: psycopg.Error, name: str) -> MmmetaError:
    """Return the error to raise: `UnavailableError` for a server that is not there, else `CatalogError`."""
    state, said = error.sqlstate, first_line(error)
    if state is None and isinstance(error, psycopg.OperationalError):
        for word, way_out in _SAID.items():
            if word in said:
                return CatalogError(f"{name} can't be used ({said}): {way_out}")
        return UnavailableError(f"{name} does not answer ({said}): {_AWAY}")
    if state is None:
        return CatalogError(f"{name} can't be used ({said}): correct the URL")
    if state.startswith(("08", "57P")):
        return UnavailableError(f"{name} does not answer ({said}): {_AWAY}")
    way_out = _WAYS_OUT.get(state) or _WAYS_OUT.get(state[:2]) or "see what the server's log says"
    return CatalogError(f"{name} can't be used ({said}): {way_out}")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn the errors of a block into those."""
    try:
        yield
    except psycopg.Error as error:
        raise explanation(error, name) from error
