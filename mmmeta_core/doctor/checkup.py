"""The checks, one after the other, and what becomes of one that fails in a way that nobody thought of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from mmmeta_core.database.place import Place
from mmmeta_core.errors import MmmetaError, RemoteUnreachableError
from mmmeta_core.notebook import Shown
from mmmeta_core.paths import Paths

if TYPE_CHECKING:
    from mmmeta_core.remotes import Remote

Level: TypeAlias = Literal["ok", "warning", "problem"]
Found: TypeAlias = tuple[Level, str, str]
"""What a check says: how bad it is, what is so, and how to mend it."""

Examination: TypeAlias = "Callable[[Site], Iterator[Found]]"


@dataclass(frozen=True)
class Check:
    """What one check found: `what` is so, `mend` is what to do about it, empty where all is well."""

    name: str
    level: Level
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.name}: {self.what}" + (f": {self.mend}" if self.mend else "")


@dataclass(frozen=True)
class DoctorResult(Shown):
    """What all checks found."""

    checks: tuple[Check, ...]
    seconds: float = field(compare=False)

    @property
    def healthy(self) -> bool:
        """Whether there is no problem; warnings there may be."""
        return all(check.level != "problem" for check in self.checks)


@dataclass(frozen=True)
class Site:
    """What is looked at. `state` is a file or on a server; `writes` is whether the remote may be written to.

    There is no `files_root` at a client, nor at a publisher whose documents come from Python.
    """

    paths: Paths
    state: Place
    files_root: Path | None
    remote: Remote | None
    publishes: bool
    writes: bool

    @property
    def state_db(self) -> Path | None:
        """The file of the state db, None where it is on a server."""
        return self.state if isinstance(self.state, Path) else None

    @property
    def base(self) -> Path:
        """The folder that holds, or is to hold, the metadir."""
        return self.paths.root.parent


def examine(site: Site, seen: Callable[[Check], None] | None = None) -> DoctorResult:
    """Do all checks; each is told to `seen` as soon as it is known."""
    from mmmeta_core.doctor import archive, here, machine

    started = time.monotonic()
    run = _Run(site)
    checks = []
    for name, examination in {**machine.CHECKS, **here.CHECKS, **archive.CHECKS}.items():
        for check in run.look(name, examination, asks=name in archive.CHECKS):
            checks.append(check)
            if seen is not None:
                seen(check)
    return DoctorResult(tuple(checks), time.monotonic() - started)


class _Run:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.away = False

    def look(self, name: str, examination: Examination, *, asks: bool) -> Iterator[Check]:
        if asks and self.away:
            yield Check(name, "ok", "not looked at, since the remote does not answer")
            return
        try:
            for level, what, mend in examination(self.site):
                yield Check(name, level, what, mend)
        except MmmetaError as error:
            self.away = self.away or isinstance(error, RemoteUnreachableError)
            yield Check(name, "problem", str(error))
        except OSError as error:
            yield Check(
                name, "problem", f"can't be looked at ({error.strerror or type(error).__name__})", _LOOK
            )
        except Exception as error:  # noqa: BLE001 - it is said, and the other checks go on
            # Without its text, which may hold what is nobody's to see.
            yield Check(name, "problem", f"can't be looked at ({type(error).__name__})", _LOOK)


_LOOK: Final = "look into it by hand, and report it if it is a defect of mmmeta"
