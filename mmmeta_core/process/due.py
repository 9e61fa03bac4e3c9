"""What is due of a pipeline: the query that a run works through, and what only counts or divides it."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from itertools import islice
from typing import Any

from mmmeta_core.database.state import State
from mmmeta_core.database.work import On, Work
from mmmeta_core.errors import ConfigError
from mmmeta_core.files import Files
from mmmeta_core.process.results import Left, Share
from mmmeta_core.process.settings import ProcessOptions, settings_of


class Due:
    """The documents that a pipeline with these options and filters has to do, as they are now."""

    def __init__(
        self, state: State, files: Files, options: ProcessOptions, filters: Mapping[str, Any]
    ) -> None:
        self.state = state
        self.files = files
        self.filters = dict(filters)
        self.limit = self.filters.pop("_limit", None) or options.limit
        worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.work = Work(state, options.mark, worker=worker, on=options.on, on_change=options.on_change)

    def count(self, *, free: bool = True) -> int:
        """Return how many documents there are to do; with `free` only those that can be done now."""
        return self.files.count(self.condition(free=free), deleted=None, **self.filters)

    def condition(self, *, free: bool = True, few: bool = False) -> Any:
        """Return the condition of `Work` as SQLAlchemy takes it."""
        return self.bound(self.work.condition(free=free, few=few))

    def bound(self, condition: str) -> Any:
        """Return a condition of `Work`'s as SQLAlchemy takes it, with its parameters."""
        from sqlalchemy import text

        from mmmeta_core.database.identifiers import spelled

        parameters = self.work.parameters()
        escaped = spelled(condition).replace(":", "\\:")
        for name in parameters:
            escaped = escaped.replace(f"\\:{name}", f":{name}")
        used = {name: value for name, value in parameters.items() if f":{name}" in escaped}
        return text(escaped).bindparams(**used)


def due_count(state: State, files: Files, mark: str, settings: str | None, on: On = "due") -> int:
    """Return how many documents a pipeline with these settings (`settings_text`) can do now."""
    on_change, filters = settings_of(settings)
    options = ProcessOptions(mark=mark, on=on, on_change=on_change)
    return Due(state, files, options, filters).count()


def shares(
    state: State, files: Files, options: ProcessOptions, filters: Mapping[str, Any], size: int, most: int
) -> list[Share]:
    """Do what `Documents.shares` says."""
    if size <= 0 or most <= 0:
        raise ConfigError(f"size={size!r} and most={most!r} must be more than 0")
    state.add_mark(options.mark)
    due = Due(state, files, options, filters)
    wanted = size * most if options.limit is None else min(size * most, options.limit)
    found = files.distinct(state.unique, due.condition(), deleted=None, _limit=wanted, **due.filters)
    keys = (row[state.unique] for row in found)
    parts = iter(lambda: list(islice(keys, size)), [])
    return [Share(part[0], part[-1], len(part)) for part in parts]


def left(state: State, files: Files, options: ProcessOptions, filters: Mapping[str, Any]) -> Left:
    """Do what `Documents.left` says."""
    state.add_mark(options.mark)
    due = Due(state, files, options, filters)
    claimed = files.count(due.bound(due.work.claimed()), deleted=None, **due.filters)
    return Left(due.count(free=False), claimed)
