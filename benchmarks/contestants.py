"""Who does the jobs, in which environment, and up to how many documents."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import originals
from benchmarks.tools import program


@dataclass(frozen=True)
class Contestant:
    """One whose jobs are the functions of a module beside this one; it takes no part in those that it has not."""

    name: str
    module: str
    python: Path
    largest: int | None = None
    """It takes many minutes for more documents, or needs them as files."""
    rounds: int | None = None
    may_fail: bool = False

    def does(self, size: int, turn: int) -> bool:
        """Whether it takes part in this round."""
        return (self.largest is None or size <= self.largest) and (self.rounds is None or turn < self.rounds)


FLOOR = Contestant("floor", "floor", Path(sys.executable))
OURS = Contestant("ours", "ours", Path(sys.executable))


def others() -> Sequence[Contestant]:
    """Return those from the package registry that can be had."""
    found = []
    if command := program("sqlite-utils"):
        python = command.with_name("python")
        found.append(Contestant("sqlite-utils", "with_sqlite_utils", python, largest=100_000))
    for version, python in originals.environments().items():
        largest = originals.LARGEST[version]
        found.append(Contestant(version, "original", python, largest=largest, rounds=1, may_fail=True))
    return found
