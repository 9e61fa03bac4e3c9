"""dataset's filters, with what documents need on top.

A column that does not exist is NULL everywhere. `x=False` matches False and never set. A time is compared as a
time, also with columns that hold ISO 8601 text. Everything else goes to dataset as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, false, func, literal, not_, or_

from mmmeta_core.errors import ConfigError
from mmmeta_core.types import Kind, format_time, parse_time, to_utc

EQUAL: Final = frozenset({"=", "==", "is"})
UNEQUAL: Final = frozenset({"!=", "<>", "not"})
ORDERED: Final[Mapping[str, str]] = {
    ">": ">", "gt": ">", "<": "<", "lt": "<", ">=": ">=", "gte": ">=", "<=": "<=", "lte": "<=",
}  # fmt: skip
OTHERS: Final = frozenset(
    {"in", "notin", "between", "..", "like", "ilike", "notlike", "notilike", "startswith", "endswith"}
)
_SQLITE_TIME: Final = "%Y-%m-%dT%H:%M:%f"


@dataclass
class Filters:
    """What to hand to dataset: clauses of ours, and filters of its own."""

    clauses: list[ColumnElement[bool]] = field(default_factory=list)
    plain: dict[str, Any] = field(default_factory=dict)


def translate(
    filters: Mapping[str, Any],
    column: Callable[[str], ColumnElement[Any] | None],
    kinds: Mapping[str, Kind],
) -> Filters:
    """Turn keyword filters into clauses. `column` gives the table's column, or None when there is none.

    Raises `ConfigError` for an operator that does not exist.
    """
    result = Filters()
    for name, condition in filters.items():
        operations = condition if isinstance(condition, Mapping) else {"=": condition}
        for operator, value in operations.items():
            if isinstance(value, list | tuple | set) and operator in EQUAL:
                operator = "in"
            clause = _clause(column(name), str(operator).lower(), value, kinds.get(name, "text"))
            if clause is not None:
                result.clauses.append(clause)
            else:
                result.plain.setdefault(name, {})[operator] = _operand(value, kinds.get(name, "text"))
    return result


def _clause(
    column: ColumnElement[Any] | None, operator: str, value: Any, kind: Kind
) -> ColumnElement[bool] | None:
    """Return the clause for what dataset gets wrong, None for what it gets right."""
    if operator not in EQUAL | UNEQUAL | ORDERED.keys() | OTHERS:
        known = ", ".join(sorted(EQUAL | UNEQUAL | ORDERED.keys() | OTHERS))
        raise ConfigError(f"there is no filter operator {operator!r}; there are: {known}")
    if column is None:
        return and_(True) if _matches_null(operator, value) else false()
    if isinstance(value, bool) and operator in EQUAL | UNEQUAL:
        wants = value if operator in EQUAL else not value
        return column == 1 if wants else or_(column == 0, column.is_(None))
    if operator == "in" and any(one is None or one is False for one in value):
        return or_(column.in_([_operand(one, kind) for one in value if one is not None]), column.is_(None))
    if kind != "datetime":
        return _time_clause(column, operator, value)
    return None


def _matches_null(operator: str, value: Any) -> bool:
    if operator in EQUAL:
        return value is None or value is False
    if operator in UNEQUAL:
        return value is True
    return operator == "in" and any(one is None or one is False for one in value)


def _time_clause(column: ColumnElement[Any], operator: str, value: Any) -> ColumnElement[bool] | None:
    """Compare a column of ISO 8601 text with a time."""

    def moment(time: datetime) -> ColumnElement[str]:
        return literal(
            to_utc(time).strftime("%Y-%m-%dT%H:%M:%S.") + f"{to_utc(time).microsecond // 1000:03d}"
        )

    as_time = func.strftime(_SQLITE_TIME, column)
    if isinstance(value, datetime):
        if operator in EQUAL:
            return as_time == moment(value)
        if operator in UNEQUAL:
            return not_(as_time == moment(value))
        if operator in ORDERED:
            clause: ColumnElement[bool] = as_time.op(ORDERED[operator], is_comparison=True)(moment(value))
            return clause
    if operator in ("between", "..") and all(isinstance(one, datetime) for one in value):
        start, end = value
        return as_time.between(moment(start), moment(end))
    return None


def _operand(value: Any, kind: Kind) -> Any:
    """Return the value as the column has it."""
    if isinstance(value, list | tuple | set):
        return [_operand(one, kind) for one in value]
    if isinstance(value, datetime):
        return format_time(value)
    if kind == "datetime" and isinstance(value, str | date):
        try:
            return format_time(parse_time(str(value)))
        except ValueError:
            return value
    if isinstance(value, bool):
        return int(value)
    return value.isoformat() if isinstance(value, date) else value
