"""Where a client's state lies: a file, or a schema on a PostgreSQL server. Nothing is opened here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from mmmeta_core.errors import ConfigError
from mmmeta_core.types import MAX_NAME_BYTES

if TYPE_CHECKING:
    from mmmeta_core.database.state import State

_SCHEMES: Final = ("postgresql", "postgresql+psycopg")
_HOW: Final = "write postgresql+psycopg://user:password@host/database?schema=name"


@dataclass(frozen=True)
class Server:
    """A schema of a database on a PostgreSQL server. Neither `str` nor `repr` shows the password."""

    uri: str = field(repr=False)
    """What libpq takes, without the schema."""
    schema: str
    name: str = field(compare=False)

    def __str__(self) -> str:
        return self.name

    @property
    def url(self) -> str:
        """The URL as SQLAlchemy takes it, schema left out."""
        return self.uri.replace("postgresql://", "postgresql+psycopg://", 1)


Place: TypeAlias = Path | Server


def place(value: str | os.PathLike[str]) -> Place:
    """Return the place that a setting names: a path, `sqlite:///path` or `postgresql+psycopg://…?schema=…`.

    Raises `ConfigError`, which never shows more of a URL than its scheme.
    """
    text = os.fspath(value)
    if text.startswith("sqlite:///"):
        return Path(text.removeprefix("sqlite:///"))
    scheme, separator, _ = text.partition("://")
    if not separator:
        if re.match(r"postgres(ql)?(\+\w+)?:", text):
            raise ConfigError(f"the URL of the state db has no '//' after '{scheme.split(':')[0]}:': {_HOW}")
        return Path(text)
    if scheme not in _SCHEMES:
        driver = "; of PostgreSQL's drivers only psycopg is used" if scheme.startswith("postgres") else ""
        raise ConfigError(
            f"the state db can be an SQLite file (a path or sqlite:///path) or on PostgreSQL, "
            f"not {scheme:.40}{driver}: {_HOW}"
        )
    return _server(text)


def _server(text: str) -> Server:
    from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

    try:
        parts = urlsplit(text)
        port = parts.port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        # urllib's own words may hold a part of the URL, such as a password with a slash.
        raise ConfigError(
            f"the URL of the state db can't be read: {_HOW}, with %-escapes for what is special in a password"
        ) from None
    if any(ord(letter) < 32 for letter in unquote(text)):
        raise ConfigError(f"the URL of the state db has a control character: {_HOW}")
    schemas = [value for name, value in query if name == "schema"] or ["public"]
    schema = schemas[-1]
    if not schema.strip() or len(schema.encode()) > MAX_NAME_BYTES or schema.startswith("pg_"):
        raise ConfigError(
            f"no schema can be named {schema!r:.80}: 1 to {MAX_NAME_BYTES} bytes, not pg_… first"
        )
    rest = [(name, value) for name, value in query if name != "schema"]
    uri = f"postgresql://{parts.netloc}{parts.path}" + (f"?{urlencode(rest)}" if rest else "")
    host = parts.hostname or dict(rest).get("host") or "localhost"
    where = f"{host}:{port}" if port else host
    user = f"{unquote(parts.username)}@" if parts.username else ""
    name = f"PostgreSQL {user}{where}{unquote(parts.path) or '/'}, schema {schema}"
    return Server(uri, schema, name)


def open_state(where: Place, unique: str) -> State:
    """Return the state at this place, keyed by the column `unique`; connected to when it is first used.

    Raises `ConfigError` when the driver is not installed.
    """
    if isinstance(where, Path):
        from mmmeta_core.database.sqlite_state import SqliteState

        return SqliteState(where, unique)
    try:
        from mmmeta_core.database.postgres.state import PostgresState
    except ImportError as error:
        raise ConfigError(
            f"a state db on PostgreSQL needs psycopg ({error}): pip install 'mmmeta[postgres]'"
        ) from error
    return PostgresState(where, unique)
