"""Columns of any name through SQLAlchemy, which finds places for values in a statement by looking for `%(…)s` and the like.

Names are spelled in a way that has none of these marks until a statement goes to the database.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.sql.compiler import IdentifierPreparer

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine import Dialect

_SPELLED: Final = {"%": "\ue000p", "[": "\ue000b", "\ue000": "\ue000e"}
_PLAIN: Final = {spelled: char for char, spelled in _SPELLED.items()}
_MARK: Final = re.compile("[%[\ue000]")
_SPELLING: Final = re.compile("\ue000[pbe]")


def spelled(sql: str) -> str:
    """Return names, or SQL that has names in it, without what SQLAlchemy would take for places of values."""
    return _MARK.sub(lambda found: _SPELLED[found[0]], sql)


def plain(statement: str) -> str:
    """Return a statement with the names as they are."""
    return _SPELLING.sub(lambda found: _PLAIN[found[0]], statement)


def take_any_name(dialect: Dialect) -> None:
    """Let a dialect spell names so; its statements have to go through `plain`."""
    own = type(dialect.identifier_preparer)
    dialect.preparer = type(own.__name__, (_Spelling, own), {})  # some make another one when they connect
    dialect.identifier_preparer = dialect.preparer(dialect)


def connect_any_name(engine: Engine) -> None:
    """Let an engine take columns of any name."""
    take_any_name(engine.dialect)
    event.listen(engine, "before_cursor_execute", _as_they_are, retval=True)


class _Spelling(IdentifierPreparer):
    """Spells names after its sibling has quoted them."""

    def quote_identifier(self, value: str) -> str:
        """Quote a name."""
        return spelled(super().quote_identifier(value))


def _as_they_are(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> tuple[str, Any]:
    return plain(statement), parameters
