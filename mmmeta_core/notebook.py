"""How things look in a notebook: tables of HTML in which whatever others wrote is text, and there is only so much of it.

A class shows itself by `Shown`, which its `_repr_html_` is of; nothing else of the package makes HTML.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

LONGEST: Final = 120
"""Characters of a value that are shown."""
MOST_ROWS: Final = 20
MOST_COLUMNS: Final = 12
_NAME: Final = 'style="text-align:left;vertical-align:top;white-space:nowrap"'
_CELL: Final = 'style="text-align:left;vertical-align:top;max-width:40em;overflow-wrap:break-word"'


class Shown:
    """A frozen result that a notebook shows as a table."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return pairs(type(self).__name__, _fields(self))


def pairs(title: str, values: Mapping[str, Any]) -> str:
    """Return names and what they are, a row each; results and lists of them within are tables of their own."""
    rows = "".join(
        f"<tr><th {_NAME}>{escaped(name)}</th><td {_CELL}>{_inner(v)}</td></tr>" for name, v in values.items()
    )
    return f"{_head(title)}<table>{rows}</table>"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> str:
    """Return rows below the names of their columns."""
    head = "".join(f"<th {_NAME}>{escaped(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td {_CELL}>{cell(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    end = f"<p>{escaped(note)}</p>" if note else ""
    return f"{_head(title)}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{end}"


def cell(value: Any) -> str:
    """Return a value as HTML: text, be it of whatever sort, and nothing for NULL."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return escaped(value.isoformat(sep=" ", timespec="seconds"))
    if isinstance(value, list | tuple):
        return escaped(", ".join(map(str, value[:MOST_ROWS])))
    if isinstance(value, float):
        return escaped(f"{value:.6g}")
    return escaped(value)


def escaped(value: Any) -> str:
    """Return text that is text in HTML, too: cut, without what turns or hides it."""
    from html import escape

    text = str(value)
    cut = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return escape("".join(char if char.isprintable() else " " for char in cut))


def _head(title: str) -> str:
    return f"<b>{escaped(title)}</b>"


def _inner(value: Any) -> str:
    if isinstance(value, Shown):
        return value._repr_html_()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return pairs(type(value).__name__, _fields(value))
    if isinstance(value, Mapping):
        return _limited([f"{name}: {one}" for name, one in value.items()])
    if isinstance(value, tuple | list):
        return _rows(value)
    return cell(value)


def _rows(values: Sequence[Any]) -> str:
    if not values or not dataclasses.is_dataclass(values[0]):
        return _limited(values)
    names = [field.name for field in dataclasses.fields(values[0])]
    shown = [[_fields(one).get(name) for name in names] for one in values[:MOST_ROWS]]
    left = len(values) - len(shown)
    return table(type(values[0]).__name__, names, shown, f"and {left} more" if left else "")


def _limited(values: Sequence[Any]) -> str:
    left = len(values) - MOST_ROWS
    shown = ", ".join(map(cell, values[:MOST_ROWS]))
    return f"{shown} and {left} more" if left > 0 else shown


def _fields(value: Any) -> dict[str, Any]:
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if field.repr and getattr(value, field.name) is not None
    }
