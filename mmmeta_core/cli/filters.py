"""Filters as the command line writes them: `document_type=contract`, `'retrieved_at>=2021-05-01'`, `'title~%tax%'`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import click

from mmmeta_core.types import Kind, Misfit, coerce

_FILTER = re.compile(r"(?P<column>[^=<>!~]+?)(?P<operator><=|>=|!=|=|<|>|~)(?P<value>.*)", re.DOTALL)
_WORDS = {"true": True, "false": False, "null": None, "none": None}


def parse_filters(arguments: Iterable[str], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return keyword filters for `files.find`.

    `true`, `false` and `null` mean what they say; `a,b` after `=` means either, `~` is SQL's LIKE. A value is read as the
    column's kind asks; where it does not fit, or there is no such column, it is text. Raises `click.UsageError`.
    """
    filters: dict[str, Any] = {}
    for argument in arguments:
        match = _FILTER.fullmatch(argument)
        if match is None:
            raise click.UsageError(
                f"{argument!r} is no filter: write column=value, or one of != < <= > >= ~ for the ="
            )
        column, operator = match["column"].strip(), match["operator"]
        kind = kinds.get(column, "text")
        value: Any = _value(match["value"], kind)
        if operator == "=" and isinstance(value, str) and "," in value:
            value = [_value(part, kind) for part in match["value"].split(",")]
        operation = {"~": "like", "=": "in" if isinstance(value, list) else "="}.get(operator, operator)
        filters.setdefault(column, {})[operation] = value
    return filters


def _value(text: str, kind: Kind) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return coerce(text, kind) if kind != "json" else text
    except Misfit:
        return text
