"""What came of it, and what there is to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmmeta_core.notebook import Shown
from mmmeta_core.types import Key


@dataclass(frozen=True)
class ProcessResult(Shown):
    """What came of it. `left` matching documents are not done: due later, set aside, or someone else is at them.

    `set_aside` were given up by this run, they are among the `failed`.
    """

    processed: int
    failed: int
    set_aside: int
    left: int
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class Share:
    """A part of the documents that are due, for one worker: a range of keys, both ends included, and how many there are."""

    first: Key
    last: Key
    documents: int

    def within(self, filters: Mapping[str, Any], unique: str) -> dict[str, Any]:
        """Return the filters narrowed down to this range; `unique` is the key column."""
        own = filters.get(unique, {})
        narrowed = dict(own) if isinstance(own, Mapping) else {"=": own}
        return {**filters, unique: {**narrowed, ">=": self.first, "<=": self.last}}


@dataclass(frozen=True)
class Left:
    """Documents that are not done. Of those that are `claimed` somebody is at work on them, or was killed at it."""

    documents: int
    claimed: int
