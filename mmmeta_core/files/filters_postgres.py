"""Filters in PostgreSQL's words, with the answers that SQLite gives.

Its columns have types, so a value of another kind is not compared with the column but with what is known of it: any
number is less than any text. What found no place in a column of its type is in the JSON of its writer, and is compared
there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any, Final

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Numeric,
    Text,
    and_,
    case,
    cast,
    collate,
    false,
    func,
    literal_column,
    or_,
)
from sqlalchemy.dialects.postgresql import JSONB

from mmmeta_core.database.columns import RESCUED, STATE_RESCUED
from mmmeta_core.database.postgres.state import Mixed
from mmmeta_core.files.filters import TIME_FUNCTION, Terms, operand, time_text
from mmmeta_core.types import Kind

_NUMBERS: Final = ("integer", "float", "boolean")
_UP: Final = (">", ">=")
_TIME_FORM: Final = 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'


class PostgresTerms(Terms):
    """See the module."""

    def __init__(self, table: FromClause, unique: str, mixed: Mixed) -> None:
        self._table = table
        self._unique = unique
        self._mixed = mixed

    def clause(
        self, column: ColumnElement[Any] | None, kind: Kind, operator: str, value: Any
    ) -> ColumnElement[bool]:
        """See `Terms.clause`."""
        if column is not None and column.key == self._unique:
            kind = self._mixed.key
        return super().clause(column, kind, operator, value)

    def null(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        """See `Terms.null`."""
        rescued = self._rescued(column)
        empty: ColumnElement[bool] = column.is_(None)
        return empty if rescued is None else and_(empty, rescued.is_(None))

    def equal(
        self, column: ColumnElement[Any], kind: Kind, values: Iterable[Any]
    ) -> list[ColumnElement[bool]]:
        """See `Terms.equal`."""
        asked = [
            value for value in values if value is not None and not (isinstance(value, str) and "\0" in value)
        ]
        times = [operand(value, kind) for value in asked if isinstance(value, date)]
        plain = [operand(value, kind) for value in asked if not isinstance(value, date)]
        found: list[ColumnElement[bool]] = [
            subject.in_(operands)
            for subject, operands in self._subjects(column, kind, plain, times)
            if operands
        ]
        rescued = self._rescued(column)
        if rescued is None:
            return found
        within = [rescued == cast(orjson.dumps(value).decode(), JSONB) for value in plain]
        if times:
            within.append(_time(_said(rescued)).in_(times))
        return [func.coalesce(or_(false(), *found, *within), false())] if found or within else []

    def _subjects(
        self, column: ColumnElement[Any], kind: Kind, plain: list[Any], times: list[Any]
    ) -> Iterable[tuple[ColumnElement[Any], list[Any]]]:
        """Yield what may be equal to which of the values."""
        numbers = [value for value in plain if not isinstance(value, str)]
        texts = [value for value in plain if isinstance(value, str)]
        if kind == "text":
            yield column, texts
            yield _time(column), times
        elif kind == "boolean":
            yield column, [bool(value) for value in numbers if value in (0, 1)]
        elif kind == "datetime":
            yield column, [*times, *filter(None, map(time_text, texts))]
        elif kind == "json":
            yield column, [cast(text, JSONB) for text in texts if _is_json(text)]
        else:
            yield column, numbers

    def ordered(
        self, column: ColumnElement[Any], kind: Kind, operator: str, value: Any
    ) -> ColumnElement[bool]:
        """See `Terms.ordered`."""
        asked = operand(value, kind)
        if isinstance(asked, str) and "\0" in asked:
            # No column has one: what comes after such a text is what comes after its part before the NUL.
            asked, operator = asked.partition("\0")[0], ">" if operator in _UP else "<="
            value = asked
        if isinstance(value, date):
            subject = column if kind == "datetime" else _time(column) if kind == "text" else None
            found = false() if subject is None else _is(subject, operator, asked)
        elif isinstance(asked, str):
            found = self._above_text(column, kind, operator, asked)
        elif kind in _NUMBERS:
            found = _is(cast(column, Integer) if kind == "boolean" else column, operator, asked)
        else:
            found = column.is_not(None) if operator in _UP else false()
        rescued = self._rescued(column)
        return found if rescued is None else or_(found, _rescued_is(rescued, operator, value, asked))

    def _above_text(
        self, column: ColumnElement[Any], kind: Kind, operator: str, asked: str
    ) -> ColumnElement[bool]:
        if kind in _NUMBERS:
            return false() if operator in _UP else column.is_not(None)
        if kind == "datetime" and time_text(asked):
            return _is(column, operator, time_text(asked))
        return _is(_text(column, kind), operator, asked)

    def text(self, column: ColumnElement[Any], kind: Kind, operator: str, value: str) -> ColumnElement[bool]:
        """See `Terms.text`. As in SQLite, A to Z are a to z in all of these, and no character escapes another."""
        if "\0" in value:  # no column has one
            return column.is_not(None) if operator.startswith("not") else false()
        subject: ColumnElement[Any] = _text(column, kind)
        rescued = self._rescued(column)
        if rescued is not None:
            subject = func.coalesce(subject, collate(_said(rescued), "C"))
        if operator in ("startswith", "endswith"):
            pattern = value.replace("/", "//").replace("%", "/%").replace("_", "/_")
            pattern = f"{pattern}%" if operator == "startswith" else f"%{pattern}"
            return subject.ilike(pattern, escape="/")
        like = subject.ilike(value, escape="")
        return ~like if operator.startswith("not") else like

    def ordering(self, column: ColumnElement[Any], *, descending: bool) -> list[ColumnElement[Any]]:
        """Return what to sort by: NULL first, then numbers, then text."""
        if column.key == self._unique:
            # Never NULL; its index is in an order that knows of no NULL first, so the server would sort all that match.
            return [column.desc() if descending else column.asc()]
        rescued = self._rescued(column)
        parts: list[ColumnElement[Any]] = [column]
        if rescued is not None:
            kind = func.jsonb_typeof(rescued)
            is_number = isinstance(column.type, BigInteger | Numeric)
            rank = case(
                (column.is_not(None), 1 if is_number else 2), (kind == "number", 1), (rescued.is_not(None), 2)
            )
            number = case((kind == "number", cast(_said(rescued), Numeric)))
            said = collate(_said(rescued), "C")
            parts = [
                rank,
                func.coalesce(cast(column, Numeric), number) if is_number else number,
                said if is_number else func.coalesce(collate(cast(column, Text), "C"), said),
            ]
        return [part.desc().nulls_last() if descending else part.asc().nulls_first() for part in parts]

    def _rescued(self, column: ColumnElement[Any]) -> ColumnElement[Any] | None:
        """Return the JSON of a value that found no place in its column; None for a column that all have found one in."""
        name = column.key or ""
        if name in self._mixed.publisher:
            kept = RESCUED
        elif name in self._mixed.client:
            kept = STATE_RESCUED
        else:
            return None
        # jsonb takes no NUL; what it is replaced by leaves every text that JSON can have one of JSON.
        nul: ColumnElement[str] = literal_column(r"'\u0000'")
        instead: ColumnElement[str] = literal_column(r"'\ufffd'")
        said = func.replace(cast(self._table.c[kept], Text), nul, instead)
        return cast(said, JSONB)[name]


def _rescued_is(rescued: ColumnElement[Any], operator: str, value: Any, asked: Any) -> ColumnElement[bool]:
    kind, said = func.jsonb_typeof(rescued), collate(_said(rescued), "C")
    if isinstance(value, date):
        return func.coalesce(_is(_time(_said(rescued)), operator, asked), false())
    if isinstance(asked, str):
        return case(
            (kind == "number", operator not in _UP),
            (kind == "string", _is(said, operator, asked)),
            else_=false(),
        )
    return case(
        (kind == "number", _is(cast(_said(rescued), Numeric), operator, asked)),
        (kind == "string", operator in _UP),
        else_=false(),
    )


def _is(subject: ColumnElement[Any], operator: str, asked: Any) -> ColumnElement[bool]:
    clause: ColumnElement[bool] = subject.op(operator, is_comparison=True)(asked)
    return clause


def _said(rescued: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a JSON value as text, without quotes."""
    return rescued.op("#>>", return_type=Text())(literal_column("'{}'"))


def _time(subject: ColumnElement[Any]) -> ColumnElement[Any]:
    moment: ColumnElement[Any] = getattr(func, TIME_FUNCTION)(cast(subject, Text))
    return moment


def _text(column: ColumnElement[Any], kind: Kind) -> ColumnElement[Any]:
    """Return the column as the text that SQLite has there."""
    if kind == "text":
        return column
    if kind == "datetime":
        form: ColumnElement[str] = literal_column(f"'{_TIME_FORM}'")
        return collate(func.to_char(func.timezone(literal_column("'UTC'"), column), form), "C")
    return collate(cast(cast(column, Integer) if kind == "boolean" else column, Text), "C")


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return "\\u0000" not in text
