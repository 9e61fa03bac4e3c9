"""Filters as the command line writes them: `document_type=contract`, `'retrieved_at>=2021-05-01'`, `'title~%tax%'`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import click

from mmmeta_core.types import Key, Kind, Misfit, coerce, is_key

_FILTER: Final = re.compile(r"(?P<column>[^=<>!~]+?)(?P<operator><=|>=|!=|=|<|>|~)(?P<value>.*)", re.DOTALL)
_BOOLEANS: Final = {"true": True, "false": False}
_RESERVED: Final = frozenset(
    {"self", "where", "deleted", "order_by", "_limit", "_offset", "_streamed", "_step"}
)
"""Names that `files.find` takes for arguments of its own: filters on columns that are called so go under `where`."""
_SHAPES: Final[Mapping[Kind, str]] = {
    "boolean": "true or false",
    "datetime": "a time, such as 2021-05-01 or 2021-05-01T12:00",
}


def parse_filters(
    arguments: Iterable[str], kinds: Mapping[str, Kind], *, taken: Collection[str] = ()
) -> dict[str, Any]:
    """Return keyword filters for `files.find`, or for another method, the own arguments of which are `taken`.

    `null` is what is not set; `true` and `false` mean what they say except in a column of text. `a,b` after `=` or `!=`
    means either; `~` is SQL's LIKE; `"…"` is text as it is. A value is read as the column's kind asks; a number is text
    where it does not read as one. `kinds` has no entry for the key, which is text or an integer. Raises
    `click.UsageError` for what can match nothing.
    """
    filters: dict[str, dict[str, Any]] = {}
    for argument in arguments:
        if argument.strip() and not is_key(argument):
            raise click.UsageError(f"{argument!r} is not valid Unicode text")
        match = _FILTER.fullmatch(argument)
        if match is None:
            raise click.UsageError(
                f"{argument!r} is no filter: write column=value, or one of != < <= > >= ~ for the ="
            )
        column = match["column"].strip()
        if (column in _RESERVED or column in taken) and column not in kinds:
            raise click.UsageError(f"{argument!r}: a column of this name can't be filtered on here")
        try:
            conditions = _conditions(match["operator"], match["value"], kinds.get(column))
        except ValueError as error:
            raise click.UsageError(f"{argument!r}: {error}") from None
        if filters.setdefault(column, {}).keys() & conditions.keys():
            raise click.UsageError(
                f"{argument!r}: give {column}{match['operator']} once; for any of several values write "
                f"{column}=a,b"
            )
        filters[column] |= conditions
    reserved = {column for column in filters if column in _RESERVED or column in taken}
    plain: dict[str, Any] = {column: value for column, value in filters.items() if column not in reserved}
    return plain | ({"where": {column: filters[column] for column in reserved}} if reserved else {})


def _conditions(operator: str, text: str, kind: Kind | None) -> dict[str, Any]:
    """Return values by operator. Raises ValueError."""
    if operator == "~":
        return {"like": _unquoted(text)}
    either = operator in ("=", "!=") and kind != "json" and not _is_quoted(text)
    parts = text.split(",") if either else [text]
    values = [value for part in parts for value in _values(part, operator, kind)]
    if len(values) == 1:
        return {operator: values[0]}
    if operator == "=":
        return {"in": values}
    set_values = [value for value in values if value is not None]
    return {"notin": set_values} | ({"!=": None} if None in values else {})


def _values(text: str, operator: str, kind: Kind | None) -> list[Any]:
    """Return what one word means: one value, or two where it may be text or a number."""
    word = text.strip().lower()
    equality = operator in ("=", "!=")
    if _is_quoted(text):
        return [_unquoted(text)]
    if word == "null":
        if not equality:
            raise ValueError("null goes with = and != only")
        return [None]
    if equality and kind != "text" and word in _BOOLEANS:
        return [_BOOLEANS[word]]
    if kind is None:
        return _key_values(text, both=equality)
    return [_read(text, kind)]


def _key_values(text: str, *, both: bool) -> list[Any]:
    try:
        number = int(text)
    except ValueError:
        return [text]
    if str(number) != text or not is_key(number):
        return [text]
    return [text, number] if both else [number]


def _read(text: str, kind: Kind) -> Any:
    if kind == "json":
        return text
    try:
        value = coerce(text, kind)
    except Misfit:
        if kind in _SHAPES:
            raise ValueError(f"the column holds {_SHAPES[kind]}") from None
        return text
    if isinstance(value, int) and not is_key(int(value)):
        raise ValueError("the number has more than 64 bits")
    return value


def key_values(text: str) -> list[Key]:
    """Return the keys that a word on the command line may mean: text, and an integer where it reads as one."""
    return _key_values(_unquoted(text), both=not _is_quoted(text))


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == '"'


def _unquoted(text: str) -> str:
    return text[1:-1] if _is_quoted(text) else text
