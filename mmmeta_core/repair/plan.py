"""Which repair mends which finding, and why the others are not mended. Computed without touching anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mmmeta_core.verify import Code, Finding

Stage: TypeAlias = Literal["settings", "store", "catalog", "hints", "salvage", "state", "downloads"]

STAGES: Final[Mapping[Stage, tuple[Code, ...]]] = {
    "settings": ("settings",),
    "store": ("store",),
    "catalog": ("catalog-missing", "catalog-damaged", "catalog-differs"),
    "hints": ("head-missing", "head-damaged", "head-wrong", "hints", "snapshot"),
    "salvage": ("state-damaged",),
    "state": ("state-differs", "state-columns", "state-work"),
    "downloads": ("download-missing", "download-content"),
}
"""What can be mended, in this order: what comes later relies on what comes before."""

_WOULD: Final[Mapping[Stage, str]] = {
    "settings": "would take the published settings, and keep these aside",
    "store": "would write the published value, and keep this one aside",
    "catalog": "would be rebuilt from the log, with what waits to be published; the old file is kept aside",
    "hints": "would be written anew from the log",
    "salvage": "would be made anew from the catalog, with what can be read of your own; the old file is kept aside",
    "state": "would be mended in its place; your own columns stay",
    "downloads": "would be fetched again",
}
NEVER: Final[Mapping[Code, str]] = {
    "key": "which of the two keys is meant is not known here",
    "newer": "a newer mmmeta has to do it",
    "segment-missing": "a segment is never made up",
    "segment-damaged": "a segment is never made up",
    "segment-replaced": "a segment is never made up",
    "set-back": "which of the two histories is to go on is yours to say",
    "other-archive": "which of the two archives is meant is yours to say",
    "signature": "whom to trust is yours to say",
    "state-values": "what the values were is not known",
    "document-missing": "documents in the archive are the publisher's",
    "document-size": "documents in the archive are the publisher's",
    "document-content": "documents in the archive are the publisher's",
    "document-unreadable": "documents in the archive are the publisher's",
    "document-name": "documents in the archive are the publisher's",
    "download-unreadable": "the file can't be read, which a repair can't change",
}
"""What is never mended, and why."""
_HISTORY: Final[frozenset[Code]] = frozenset({"key", "newer", "set-back", "other-archive", "signature"})


@dataclass(frozen=True)
class Facts:
    """What a repair can rely on: a log that is whole, settings that the log says, and a remote that takes writes."""

    has_log: bool
    knows_settings: bool
    can_write: bool


@dataclass(frozen=True)
class Plan:
    """What is to be done, stage by stage, and why the rest is not."""

    steps: Mapping[Stage, tuple[Finding, ...]]
    refused: Mapping[Finding, str]

    def would(self, stage: Stage) -> str:
        """Return what the stage would do."""
        return _WOULD[stage]


def plan(findings: Sequence[Finding], facts: Facts, failed: Mapping[tuple[str, Code], str]) -> Plan:
    """Return what to do about the findings; `failed` are those that were tried in vain, with the reason."""
    codes = {finding.code for finding in findings}
    steps: dict[Stage, tuple[Finding, ...]] = {}
    refused: dict[Finding, str] = {}
    for finding in findings:
        stage = next((stage for stage, mended in STAGES.items() if finding.code in mended), None)
        why = failed.get((finding.subject, finding.code)) or (
            NEVER[finding.code] if stage is None else _obstacle(stage, facts, codes)
        )
        if why or stage is None:
            refused[finding] = why
        else:
            steps[stage] = (*steps.get(stage, ()), finding)
    return Plan({stage: steps[stage] for stage in STAGES if stage in steps}, refused)


def _obstacle(stage: Stage, facts: Facts, codes: Collection[Code]) -> str:
    """Return why a stage can't be done now."""
    if stage in ("settings", "store", "catalog", "hints") and not facts.has_log:
        return "the log has to be there and whole for that"
    if stage in ("catalog", "hints", "salvage", "state") and _HISTORY & set(codes):
        return "it is not certain which archive and history this is about"
    if stage == "settings" and not facts.knows_settings:
        return "no settings were published, or what is left of the log does not say them"
    if stage == "hints" and not facts.can_write:
        return "this remote can only be read; its publisher has to do it"
    if stage in ("salvage", "state") and not facts.has_log and set(STAGES["catalog"]) & set(codes):
        return "the catalog has to be whole for that"
    return ""
