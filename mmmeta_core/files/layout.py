"""How rows of the state db are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, RESCUED, STATE_BOOKKEEPING, STATE_RESCUED
from mmmeta_core.types import PLAIN_KINDS, Kind, Row, parse_time

_RESCUED: Final = (RESCUED, STATE_RESCUED)
_BOOKKEEPING: Final = PUBLISHED_BOOKKEEPING.keys() | STATE_BOOKKEEPING.keys()
_DECODERS: Final[Mapping[Kind, Callable[[Any], Any] | None]] = {
    **dict.fromkeys(PLAIN_KINDS),
    "boolean": bool,
    "datetime": parse_time,
    "json": orjson.loads,
}


class Layout:
    """The columns of one query's rows, made once for all of them. Rows are raw, their values in the order of `names`."""

    __slots__ = ("_decoders", "_plain", "_rescued", "kinds", "names")

    def __init__(self, names: Sequence[str], kinds: Mapping[str, Kind]) -> None:
        self.names: tuple[str, ...] = tuple(names)
        self.kinds: Mapping[str, Kind] = kinds
        self._decoders = [_DECODERS[kinds.get(name, "text")] for name in self.names]
        self._rescued = [at for at, name in enumerate(self.names) if name in _RESCUED]
        self._plain = {
            name: at
            for at, (name, decoder) in enumerate(zip(self.names, self._decoders, strict=True))
            if decoder is None and at not in self._rescued
        }

    def is_rescued(self, row: Sequence[Any]) -> bool:
        """Whether the row has values that found no column."""
        return any(row[at] for at in self._rescued)

    def plain(self, row: Sequence[Any], column: str) -> int | None:
        """Return where a value is that is to be read as it is; None where it takes `decode` to know it."""
        return None if self.is_rescued(row) else self._plain.get(column)

    def decode(self, row: Sequence[Any], own: Iterable[str] = ()) -> Row:
        """Return a row's values as they were written: by kind, with the rescued ones in their places.

        What a publisher says under the name of our bookkeeping, of a column that has a value, or of one of the client's
        `own` is not shown.
        """
        values = {
            name: raw if raw is None or decoder is None else decoder(raw)
            for name, decoder, raw in zip(self.names, self._decoders, row, strict=True)
        }
        for at in self._rescued:
            del values[self.names[at]]
        for at in self._rescued:
            if row[at]:
                taken = {*_BOOKKEEPING, *own} if self.names[at] == RESCUED else _BOOKKEEPING
                values |= {
                    name: value
                    for name, value in orjson.loads(row[at]).items()
                    if name not in taken and values.get(name) is None
                }
        return values


def decode_row(row: Row, kinds: Mapping[str, Kind]) -> Row:
    """Decode one row that is not of a query."""
    return Layout(tuple(row), kinds).decode(tuple(row.values()))
