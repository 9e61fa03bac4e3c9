"""Which columns a table has, of which kind, and how a document's values go into them.

Everything here is computed without touching a database: a caller reads the known columns, fits documents into
them, and then adds the new ones in the transaction that writes the rows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from mmmeta_core.errors import DocumentError
from mmmeta_core.types import MAX_NAME_BYTES, PLAIN_KINDS, Kind, Misfit, Sql, coerce, encode, is_utf8, kind_of

PURGED: Final = "purged"
"""The `__deleted_reason` of a document of which nothing but the key may be left, and which never comes back."""

RESCUED: Final = "__rescued"
STATE_RESCUED: Final = "__state_rescued"

PUBLISHED_BOOKKEEPING: Final[Mapping[str, Kind]] = {
    "__meta_added": "datetime",
    "__meta_last_updated": "datetime",
    "__deleted_at": "datetime",
    "__deleted_reason": "text",
    RESCUED: "json",
}
STATE_BOOKKEEPING: Final[Mapping[str, Kind]] = {
    "__state_added": "datetime",
    "__state_last_updated": "datetime",
    STATE_RESCUED: "json",
}


def column_name(key: str) -> str | None:
    """Return the column for a document's key, or None when no column can have that name.

    `-` and `.`, which dataset does not allow in names, become `_`. Names that begin with two underscores are
    reserved for bookkeeping.
    """
    name = key.strip().replace("-", "_").replace(".", "_")
    if not name or name.startswith("__") or not name.isprintable():
        return None
    return name if len(name.encode(errors="replace")) <= MAX_NAME_BYTES else None


def fold(name: str) -> str:
    """Return what two names share when a database or dataset would take them for the same column."""
    return name.upper().replace(" ", "")


_INT64: Final = 2**63
_MOST: Final = sys.float_info.max
_NO_TYPES: Final[Mapping[str, Kind]] = {}


@dataclass
class Fitted:
    """A document cut to the table: raw values per column, and what found no place."""

    row: dict[str, Sql] = field(default_factory=dict)
    rescued: dict[str, Any] = field(default_factory=dict)

    def rescued_json(self) -> str | None:
        """Return the value of the `__rescued` column."""
        return orjson.dumps(self.rescued, option=orjson.OPT_SORT_KEYS).decode() if self.rescued else None


class _Settled(NamedTuple):
    """Which columns take values as they come: text and numbers, booleans, lists."""

    plain: frozenset[str]
    flags: frozenset[str]
    lists: frozenset[str]


class Columns:
    """The columns of a table, by name, and the ones that fitting documents has asked for (`added`)."""

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        *,
        taken: Iterable[str] = (),
        limit: int = 500,
        undecided: Iterable[str] = (),
    ) -> None:
        """Take the known `kinds`; `taken` are further names that no document may use as a column of its own.

        The kind of an `undecided` column is not certain: the next value that comes for it decides anew.
        """
        self.kinds: dict[str, Kind] = dict(kinds)
        self.added: dict[str, Kind] = {}
        self.undecided: set[str] = set(undecided)
        self._limit = limit
        self._settled: _Settled | None = None
        self._types: Mapping[str, Kind] = _NO_TYPES
        self._folded = {fold(name): name for name in self.kinds}
        self._taken = {fold(name) for name in taken}

    def find(self, name: str) -> str | None:
        """Return the existing column that `name` would collide with, itself included."""
        return self._folded.get(fold(name))

    def add(self, name: str, kind: Kind) -> None:
        """Make a column known."""
        self.kinds[name] = kind
        self._settled = None
        self._folded[fold(name)] = name

    def fit(self, document: Mapping[str, Any], types: Mapping[str, Kind] | None = None) -> Fitted:
        """Cut a flat document to the table, adding columns as it needs them.

        A value goes to `rescued` under its own key when its column is of another kind, when a column of its
        name can't be (reserved, too long, one too many), or when two keys ask for the same column. Raises
        `DocumentError` for a value that not even JSON can keep.
        """
        types = types or _NO_TYPES
        fitted = Fitted()
        rest = self._fit_known(fitted.row, document, types)
        # Keys that are spelled as their column come first: which of two gets it must not depend on their order.
        rest.sort(key=lambda key: key not in self.kinds and column_name(key) != key)
        for key in rest:
            try:
                self._place(fitted, key, document[key], types)
            except Misfit as misfit:
                fitted.rescued[key] = _rescuable(key, document[key], misfit)
        return fitted

    def _fit_known(
        self, row: dict[str, Sql], document: Mapping[str, Any], types: Mapping[str, Kind]
    ) -> list[str]:
        """Put into `row` what needs no thought: values of the kind of a column that is there. Returns the other keys.

        Nearly all values are of these, and most of them text.
        """
        if self._settled is None or self._types is not types:
            self._settled, self._types = self._settle(types), types
        settled, rest = self._settled, []
        plain = settled.plain
        for key, value in document.items():
            its_type = type(value)
            if key in plain:
                if (
                    (its_type is str and (value.isascii() or is_utf8(value)))
                    or value is None
                    or (its_type is int and -_INT64 <= value < _INT64)
                    or (its_type is float and -_MOST <= value <= _MOST)
                ):
                    row[key] = value
                else:
                    rest.append(key)
            elif its_type is bool and key in settled.flags:
                row[key] = int(value)
            elif its_type is list and key in settled.lists:
                try:
                    row[key] = orjson.dumps(value).decode()
                except TypeError:
                    rest.append(key)
            else:
                rest.append(key)
        return rest

    def _settle(self, types: Mapping[str, Kind]) -> _Settled:
        settled = self.kinds.keys() - self.undecided - types.keys()
        return _Settled(
            frozenset(name for name in settled if self.kinds[name] in PLAIN_KINDS),
            frozenset(name for name in settled if self.kinds[name] == "boolean"),
            frozenset(name for name in settled if self.kinds[name] == "json"),
        )

    def _place(self, fitted: Fitted, key: str, value: Any, types: Mapping[str, Kind]) -> None:
        kind = self.kinds.get(key)
        column = key
        if kind is None:
            if value is None:
                return
            column = _possible(key)
            kind = self.kinds.get(column) or self._new(column, types.get(column) or kind_of(value))
        if column in self.undecided and value is not None:
            kind = self._decide(column, types.get(column) or kind_of(value))
        if column in fitted.row or column in fitted.rescued:
            raise Misfit("another key has this column")
        # A column keeps the kind that it has; `types` asked for later can't change what is already there.
        fitted.row[column] = encode(coerce(value, kind) if types.get(column) == kind else value, kind)

    def _decide(self, column: str, kind: Kind) -> Kind:
        self.undecided.discard(column)
        self._settled = None
        if kind != self.kinds[column]:
            self.kinds[column] = self.added[column] = kind
        return kind

    def _new(self, column: str, kind: Kind) -> Kind:
        if fold(column) in self._folded or fold(column) in self._taken:
            raise Misfit("a column of another spelling has this name")
        if len(self.kinds) >= self._limit:
            raise Misfit("one column too many")
        self.add(column, kind)
        self.added[column] = kind
        return kind


def _possible(key: str) -> str:
    column = column_name(key)
    if column is None:
        raise Misfit("no column can have this name")
    return column


def _bounded(value: Any) -> Any:
    """Return the value with integers beyond 64 bits as text, wherever they are."""
    if isinstance(value, dict):
        return {name: _bounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(one) for one in value]
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


def _rescuable(key: str, value: Any, misfit: Misfit) -> Any:
    """Return the value if JSON keeps it as it is, integers beyond 64 bits as text, or raise."""
    try:
        value = _bounded(value)
        kept = orjson.loads(orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATACLASS))
    except RecursionError:
        raise DocumentError(f"the value of {key!r:.200} can't be kept: it is nested too deep") from None
    except (TypeError, ValueError):
        raise DocumentError(f"the value of {key!r} can't be kept: {misfit}") from None
    if kept is None and value is not None:  # JSON has no infinities
        raise DocumentError(f"the value of {key!r} can't be kept: {misfit}")
    return kept
