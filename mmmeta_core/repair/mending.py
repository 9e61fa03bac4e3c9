"""Mend stage after stage, and look again until nothing more can be mended."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mmmeta_core.database.place import Place
from mmmeta_core.errors import CatalogError, MmmetaError
from mmmeta_core.paths import Paths
from mmmeta_core.remotes import Remote
from mmmeta_core.repair import catalog, downloads, files, hints, salvage, state
from mmmeta_core.repair.plan import Facts, Plan, Stage, plan
from mmmeta_core.sources import Sources
from mmmeta_core.types import Progress
from mmmeta_core.verify import Code, Depth, Finding, Repair, VerifyResult, look
from mmmeta_core.verify.history import Truth

_ROUNDS: Final = 5


@dataclass(frozen=True)
class Site:
    """What a repair works on. Nobody else writes to the metadir meanwhile, and this process has no database of it open."""

    paths: Paths
    state: Place
    remote: Remote | None
    sources: Sources

    @property
    def state_db(self) -> Path:
        """The file of the state, or where it would be if it did not lie on a server."""
        return self.state if isinstance(self.state, Path) else self.paths.state


def repair(
    site: Site, depth: Depth, *, dry_run: bool = False, progress: Progress | None = None
) -> VerifyResult:
    """Look at everything, mend what can be proven, and look again; with `dry_run` only say what would be done.

    Each repair is atomic, and one that is killed leaves what was there. `findings` of the result are what is left, each
    with the reason; `repaired` is what was done.
    """
    depth = replace(depth, deep=True)
    done: list[Repair] = []
    failed: dict[tuple[str, Code], str] = {}
    for number in range(_ROUNDS):
        with tempfile.TemporaryDirectory(prefix="mmmeta-") as folder:
            looked = look(site.paths, site.state, site.remote, depth, Path(folder), progress)
            result = looked.result
            planned = plan(result.findings, _facts(site, looked.truth), failed)
            if dry_run:
                would = [
                    Repair(one.subject, one.what, planned.would(stage))
                    for stage, some in planned.steps.items()
                    for one in some
                ]
                return _concluded(result, planned, would)
            before = len(done)
            if number < _ROUNDS - 1:
                for outcome in _apply(site, looked.truth, planned):
                    if isinstance(outcome, Repair):
                        done.append(outcome)
                    else:
                        failed[outcome.subject, outcome.code] = outcome.why
        if len(done) == before:
            return _concluded(result, plan(result.findings, _facts(site, looked.truth), failed), done)
    raise AssertionError  # pragma: no cover - the last round repairs nothing


def _facts(site: Site, truth: Truth | None) -> Facts:
    return Facts(
        has_log=truth is not None,
        knows_settings=truth is not None and truth.published.config is not None,
        can_write=site.remote is not None and site.remote.can_write,
    )


def _concluded(result: VerifyResult, planned: Plan, done: Sequence[Repair]) -> VerifyResult:
    left = tuple(replace(finding, why=planned.refused.get(finding, "")) for finding in result.findings)
    return replace(result, findings=left, repaired=tuple(done))


def _apply(site: Site, truth: Truth | None, planned: Plan) -> Iterator[Repair | Finding]:
    """Do what is planned; yield what was done, and the findings that it failed at with the reason."""
    for stage, findings in planned.steps.items():
        if stage == "downloads":
            yield from _fetch(site, findings)
            return
        for some in _together(stage, findings):
            try:
                said = _mend(site, truth, stage, some)
            except (MmmetaError, OSError, sqlite3.Error) as error:
                yield from (replace(finding, why=str(error)) for finding in some)
                if stage in ("settings", "catalog"):
                    return  # what comes later relies on it
            else:
                yield from (Repair(finding.subject, finding.what, said) for finding in some)
        if stage == "settings":
            return  # everything is to be read anew with these


def _fetch(site: Site, findings: Sequence[Finding]) -> Iterator[Repair | Finding]:
    """Fetch downloads again, each on its own."""
    with closing(downloads.Again(site.paths, site.state_db, site.sources)) as again:
        for finding in findings:
            try:
                yield Repair(finding.subject, finding.what, again.fetch(finding))
            except (MmmetaError, OSError, sqlite3.Error) as error:
                yield replace(finding, why=str(error))


def _together(stage: Stage, findings: Sequence[Finding]) -> list[Sequence[Finding]]:
    """Return which findings one repair mends: files each on their own, a database or the hints as a whole."""
    return [[one] for one in findings] if stage in ("settings", "store") else [findings]


def _mend(site: Site, truth: Truth | None, stage: Stage, findings: Sequence[Finding]) -> str:
    with_log: Mapping[Stage, Callable[[Truth], str]] = {
        "settings": lambda log: files.mend_settings(site.paths, log),
        "store": lambda log: files.mend_value(site.paths, findings[0], log),
        "catalog": lambda log: catalog.rebuild(site.paths, site.state_db, log),
        "hints": lambda log: hints.rewrite(_remote(site), site.paths, findings, log),
    }
    if stage in with_log:
        if truth is None:
            raise CatalogError("the log is not whole")
        return with_log[stage](truth)
    if stage == "salvage":
        return salvage.salvage(site.paths, site.state_db)
    if not isinstance(site.state, Path):
        return state.merge_anew(site.paths, site.state)
    return state.mend(site.paths, site.state)


def _remote(site: Site) -> Remote:
    if site.remote is None:
        raise CatalogError("there is no remote")
    return site.remote
