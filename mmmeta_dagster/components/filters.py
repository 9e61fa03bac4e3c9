"""Filters as YAML has them: those of `files.find`, and times that are relative to the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mmmeta_core import ConfigError

RELATIVE: Final[Mapping[str, str]] = {"since": ">=", "before": "<"}
"""Operators that take an age, and what each one is when the age is a time."""

_AGE: Final = re.compile(r"(\d{1,6}) *(second|minute|hour|day|week)s?", re.ASCII)


def at_run_time(filters: Mapping[str, Any]) -> Callable[[], Mapping[str, Any]]:
    """Return the filters as a function that counts ages from when it is called.

    Raises `ConfigError` now for an operator that does not exist, or a value that it can't take.
    """
    # Imported here: SQLAlchemy is slow to load, and most deployments load no YAML.
    from mmmeta_core.files.filters import translate

    translate(absolute(filters, datetime.now(UTC)), _no_column, {})
    return lambda: absolute(filters, datetime.now(UTC))


def absolute(filters: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the filters with each age as the time that it was at. Raises `ConfigError` for what is no age."""
    return {
        name: _operations(name, condition, now) if isinstance(condition, Mapping) else condition
        for name, condition in filters.items()
    }


def _no_column(name: str) -> None:  # noqa: ARG001 - the table is not there yet
    return None


def _operations(name: str, condition: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    operations: dict[str, Any] = {}
    for operator, value in condition.items():
        there = RELATIVE.get(operator, operator)
        if there in operations:
            raise ConfigError(f"the filter on {name!r} says {there!r} twice")
        operations[there] = now - _age(name, operator, value) if operator in RELATIVE else value
    return operations


def _age(name: str, operator: str, value: object) -> timedelta:
    found = _AGE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ConfigError(
            f"the filter on {name!r} can't be: {operator!r} takes an age such as '7 days', not {value!r:.80} "
            f"(units are seconds to weeks; a date goes with {RELATIVE[operator]!r})"
        )
    return timedelta(**{f"{found[2]}s": int(found[1])})
