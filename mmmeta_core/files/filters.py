"""dataset's filters, with what documents need on top.

A column that does not exist is NULL everywhere. `x=False` matches False and never set. A time or date is compared as
a time, also with columns that hold ISO 8601 text. Everything else means what it means in dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, date, datetime, time
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, false, func, not_, or_, true

from mmmeta_core.errors import ConfigError
from mmmeta_core.types import Kind, Misfit, format_time, parse_time

EQUAL: Final = frozenset({"=", "==", "is"})
UNEQUAL: Final = frozenset({"!=", "<>", "not"})
ORDERED: Final[Mapping[str, str]] = {
    ">": ">", "gt": ">", "<": "<", "lt": "<", ">=": ">=", "gte": ">=", "<=": "<=", "lte": "<=",
}  # fmt: skip
BETWEEN: Final = frozenset({"between", ".."})
LISTS: Final = frozenset({"in", "notin"})
TEXTS: Final = frozenset({"like", "ilike", "notlike", "notilike", "startswith", "endswith"})
OPERATORS: Final = EQUAL | UNEQUAL | ORDERED.keys() | BETWEEN | LISTS | TEXTS

TIME_FUNCTION: Final = "mmmeta_time"
"""The name under which a connection has `time_text` as an SQL function."""


def time_text(raw: object) -> str | None:
    """Return ISO 8601 text in the one form that sorts as time, None for what is no time."""
    try:
        return format_time(parse_time(raw)) if isinstance(raw, str) else None
    except ValueError:
        return None


def translate(
    filters: Mapping[str, Any],
    column: Callable[[str], ColumnElement[Any] | None],
    kinds: Mapping[str, Kind],
    terms: Terms | None = None,
) -> list[ColumnElement[bool]]:
    """Turn keyword filters into clauses. `column` gives the table's column, or None when there is none.

    Raises `ConfigError` for an operator that does not exist, or for a value that it can't take.
    """
    terms, clauses = terms or Terms(), []
    for name, condition in filters.items():
        operations = condition if isinstance(condition, Mapping) else {"=": condition}
        found = column(name)
        kind = "text" if found is None else kinds.get(found.key or name, "text")
        for operator, value in operations.items():
            try:
                clauses.append(terms.clause(found, kind, *_checked(str(operator).lower(), value)))
            except Misfit as misfit:
                raise ConfigError(f"the filter on {name!r} can't be: {misfit}") from None
    return clauses


def _checked(operator: str, value: Any) -> tuple[str, Any]:
    """Return operator and value of a filter that can be asked, a list meaning any of its values. Raises `Misfit`."""
    if operator not in OPERATORS:
        raise Misfit(f"there is no operator {operator!r}; there are: {', '.join(sorted(OPERATORS))}")
    if isinstance(value, list | tuple | set | frozenset) and operator in EQUAL | UNEQUAL:
        operator = "in" if operator in EQUAL else "notin"
    if operator in LISTS | BETWEEN:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise Misfit(f"{operator!r} takes a list, not {type(value).__name__}")
        value = list(value)
        if operator in BETWEEN and (len(value) != 2 or None in value):
            raise Misfit(f"{operator!r} takes the first and the last value, not {value!r:.80}")
    elif operator in TEXTS and not isinstance(value, str):
        raise Misfit(f"{operator!r} takes text, not {type(value).__name__}")
    elif operator in ORDERED and value is None:
        raise Misfit(f"nothing is {operator} None")
    for one in value if operator in LISTS | BETWEEN else [value]:
        _check_value(one)
    return operator, value


def _check_value(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Misfit(f"{value!r:.80} is not valid Unicode") from None
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise Misfit("no column has an integer beyond 64 bits")
    elif value is not None and not isinstance(value, float | date):
        raise Misfit(f"a column can't be compared with a {type(value).__name__}")


class Terms:
    """How SQLite says what filters ask: any column may hold values of any kind, NULL < numbers < text."""

    def clause(
        self, column: ColumnElement[Any] | None, kind: Kind, operator: str, value: Any
    ) -> ColumnElement[bool]:
        """Return the condition that a column, None for one that is not there, satisfies the operator."""
        if operator in TEXTS:
            return false() if column is None else self.text(column, kind, operator, value)
        if operator in EQUAL:
            return self.any_of(column, kind, [value])
        if operator == "in":
            return self.any_of(column, kind, value)
        if operator in UNEQUAL:
            return self.none_of(column, kind, [value])
        if operator == "notin":
            return self.none_of(column, kind, value)
        if column is None:
            return false()
        if operator in BETWEEN:
            start, end = value
            return and_(self.ordered(column, kind, ">=", start), self.ordered(column, kind, "<=", end))
        return self.ordered(column, kind, ORDERED[operator], value)

    def any_of(
        self, column: ColumnElement[Any] | None, kind: Kind, values: Collection[Any]
    ) -> ColumnElement[bool]:
        """Return the condition that the column has one of the values; False is also what was never set."""
        null = any(one is None or one is False for one in values)
        if column is None:
            return true() if null else false()
        alternatives: list[ColumnElement[bool]] = [self.null(column)] if null else []
        return or_(false(), *alternatives, *self.equal(column, kind, values))

    def none_of(
        self, column: ColumnElement[Any] | None, kind: Kind, values: Collection[Any]
    ) -> ColumnElement[bool]:
        """NULL is neither equal nor unequal to a value, as in SQL; but never set is not True."""
        is_false = any(one is None or one is False for one in values)
        null = not values or (any(one is True for one in values) and not is_false)
        if column is None:
            return true() if null else false()
        there: list[ColumnElement[bool]] = [] if null else [not_(self.null(column))]
        others = [or_(equal.is_(None), not_(equal)) for equal in self.equal(column, kind, values)]
        return and_(true(), *there, *others)

    def null(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return the condition that a document has no value there."""
        return column.is_(None)

    def equal(
        self, column: ColumnElement[Any], kind: Kind, values: Iterable[Any]
    ) -> list[ColumnElement[bool]]:
        """Return conditions of which one holds when the column has one of the values, None among them left out."""
        return [subject.in_(operands) for subject, operands in _by_subject(column, kind, values)]

    def ordered(
        self, column: ColumnElement[Any], kind: Kind, operator: str, value: Any
    ) -> ColumnElement[bool]:
        """Return the condition that a column is on this side of the value."""
        ((subject, (operand,)),) = _by_subject(column, kind, [value])
        clause: ColumnElement[bool] = subject.op(operator, is_comparison=True)(operand)
        return clause

    def text(
        self,
        column: ColumnElement[Any],
        kind: Kind,  # noqa: ARG002 - others read each kind in its own way
        operator: str,
        value: str,
    ) -> ColumnElement[bool]:
        """Return the condition that a column is like a text."""
        if operator == "startswith":
            return column.startswith(value, autoescape=True)
        if operator == "endswith":
            return column.endswith(value, autoescape=True)
        clause: ColumnElement[bool] = getattr(column, operator)(value)
        return clause


def _by_subject(
    column: ColumnElement[Any], kind: Kind, values: Iterable[Any]
) -> list[tuple[ColumnElement[Any], list[Any]]]:
    """Return what is to be compared with which of the values: the column as it is, and the time that it holds."""
    plain, times = [], []
    for value in values:
        if kind != "datetime" and isinstance(value, date):
            times.append(operand(value, kind))
        elif value is not None:
            plain.append(operand(value, kind))
    subjects = [(column, plain), (getattr(func, TIME_FUNCTION)(column), times)]
    return [(subject, operands) for subject, operands in subjects if operands]


def operand(value: Any, kind: Kind) -> Any:
    """Return the value as the column has it."""
    if isinstance(value, date):
        return format_time(value if isinstance(value, datetime) else datetime.combine(value, time(), UTC))
    if kind == "datetime" and isinstance(value, str):
        return time_text(value) or value
    return int(value) if isinstance(value, bool) else value
