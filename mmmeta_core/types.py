"""The values that documents and the store are made of, and how they are kept.

A column has a *kind*, decided by the first value that it gets or by `metadata.types` in `config.yml`.
Text, integers and floats are kept as they come, in columns without type affinity, so a column may mix them.
Booleans, times and JSON (lists, empty objects) need their kind to come back as what they were; a value that
does not fit its column's kind is a `Misfit`, and its writer keeps it in the `__rescued` column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import orjson

Kind: TypeAlias = Literal["text", "integer", "float", "boolean", "datetime", "json"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
PLAIN_KINDS: Final[frozenset[Kind]] = frozenset({"text", "integer", "float"})

Key: TypeAlias = str | int
"""The value of a document's key column."""

Sql: TypeAlias = str | int | float | None
"""What a column holds in SQLite."""

Row: TypeAlias = dict[str, Any]
"""One row, column name to value."""

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called from time to time with how much is done, and of how much in all (None: not known)."""

never: Final = datetime.min.replace(tzinfo=UTC)
"""Earlier than any time: a default for `store.get()` of a timestamp that may not be there yet."""

MAX_NAME_BYTES: Final = 63
"""Bytes of a column's name: what dataset and PostgreSQL allow."""

_INT64: Final = 2**63


class Misfit(ValueError):  # noqa: N818 - not an error: a value that is kept elsewhere
    """The value does not fit the column's kind."""


def utcnow() -> datetime:
    """Return the current time, timezone-aware, UTC."""
    return datetime.now(UTC)


def to_utc(value: datetime) -> datetime:
    """Return `value` in UTC; a naive one is read as UTC. Raises `Misfit` for one outside of the years 1 to 9999."""
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise Misfit(f"{value} is out of range: in UTC, a time has a year from 1 to 9999") from None


def format_time(value: datetime) -> str:
    """Return ISO 8601 in UTC of fixed width, microseconds included, so that text order is time order."""
    return to_utc(value).isoformat(timespec="microseconds")


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time as timezone-aware UTC. Raises ValueError."""
    return to_utc(datetime.fromisoformat(text))


def kind_of(value: object) -> Kind:
    """Return the kind of column that `value` (not None) asks for. Raises `Misfit` for what has no column."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "float"
        case str() | date() if not isinstance(value, datetime):
            return "text"
        case datetime():
            return "datetime"
        case list() | tuple() | Mapping():
            return "json"
        case _:
            raise Misfit(f"a value of type {type(value).__name__} has no column type")


def encode(value: Any, kind: Kind) -> Sql:
    """Return `value` as SQLite keeps it in a column of `kind`. Raises `Misfit`.

    NaN and NaT are NULL (what pandas means by them); an infinity, an integer beyond 64 bits, and text that is not
    UTF-8 are misfits.
    """
    if value is None or (isinstance(value, float | datetime) and value != value):  # NaT is a datetime
        return None
    own = kind_of(value)
    if own in PLAIN_KINDS and kind in PLAIN_KINDS:
        return _plain(value)
    if own != kind:
        raise Misfit(f"{own} in a column of {kind}")
    if own == "boolean":
        return int(value)
    if own == "datetime":
        return format_time(value)
    return _json(value)


def decode(raw: Any, kind: Kind) -> Any:
    """Return the Python value of what `encode` wrote."""
    if raw is None or kind in PLAIN_KINDS:
        return raw
    if kind == "boolean":
        return bool(raw)
    if kind == "datetime":
        return parse_time(raw)
    return orjson.loads(raw)


def to_json(raw: Any, kind: Kind) -> Any:
    """Return a column's raw value as the change log has it: true and false, arrays, times as ISO text."""
    if raw is None or kind in PLAIN_KINDS or kind == "datetime":
        return raw
    return decode(raw, kind)


def from_json(value: Any, kind: Kind) -> Sql:
    """Return the raw value of what `to_json` gave. Raises `Misfit` for what a well-made log never holds."""
    if value is None:
        return None
    if kind == "datetime":
        if not isinstance(value, str):
            raise Misfit(f"{type(value).__name__} in a column of times")
        try:
            return format_time(parse_time(value))
        except ValueError:
            raise Misfit("text that is not a time in a column of times") from None
    if kind == "json":
        return _json(value)
    return encode(value, kind)


def coerce(value: Any, kind: Kind) -> Any:
    """Read `value` as `config.yml`'s `metadata.types` asks: "17" as 17, an ISO text as a time. Raises `Misfit`."""
    if value is None:
        return None
    try:
        own = kind_of(value)
        if own == kind or kind == "json":
            return value
        return _COERCIONS[kind](value, own)
    except (ValueError, OverflowError, KeyError):
        raise Misfit(f"{value!r:.80} does not read as {kind}") from None


def is_key(value: object) -> bool:
    """Whether `value` can be a document's key: text that is not empty, or an integer of 64 bits."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return -_INT64 <= value < _INT64
    return isinstance(value, str) and bool(value.strip()) and is_utf8(value) and "\0" not in value


def is_key_column(name: object) -> bool:
    """Whether documents can be keyed by a column of this name."""
    if not isinstance(name, str) or not name.strip() or name.startswith("__") or not name.isprintable():
        return False
    return is_utf8(name) and len(name.encode()) <= MAX_NAME_BYTES


def is_deeper(value: Any, levels: int) -> bool:
    """Whether a value of JSON is nested deeper than so many levels. Does not recurse."""
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return bool(level)


def is_utf8(text: str) -> bool:
    """Whether the text has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _plain(value: str | int | float | date) -> Sql:
    if isinstance(value, float):
        if math.isinf(value):
            raise Misfit("an infinite number")
        return value
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise Misfit("an integer beyond 64 bits")
        return value
    text = value.isoformat() if isinstance(value, date) else value
    if not is_utf8(text):
        raise Misfit("text that is not valid Unicode")
    return text


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise Misfit(str(error)) from None


def _as_text(value: Any, own: Kind) -> str:
    if own == "datetime":
        return format_time(value)
    if own in PLAIN_KINDS:
        return value.isoformat() if isinstance(value, date) else str(value)
    if own == "boolean":
        return "true" if value else "false"
    raise ValueError


def _as_integer(value: Any, own: Kind) -> int:
    if own == "text":
        return int(cast("str", value))
    if own == "float" and float(value).is_integer():
        return int(value)
    raise ValueError


def _as_float(value: Any, own: Kind) -> float:
    if own in ("text", "integer"):
        return float(value)
    raise ValueError


def _as_boolean(value: Any, own: Kind) -> bool:
    if own == "text":
        return {"true": True, "false": False, "yes": True, "no": False}[value.strip().lower()]
    if own == "integer":
        return {0: False, 1: True}[value]
    raise ValueError


def _as_datetime(value: Any, own: Kind) -> datetime:
    if own == "text":
        return parse_time(value.isoformat() if isinstance(value, date) else value.strip())
    raise ValueError


_COERCIONS: Final = {
    "text": _as_text,
    "integer": _as_integer,
    "float": _as_float,
    "boolean": _as_boolean,
    "datetime": _as_datetime,
}
