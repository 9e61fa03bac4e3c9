"""What was found: what is wrong and how to mend it, and how much was looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mmmeta_core.notebook import Shown

Code: TypeAlias = Literal[
    "settings",
    "store",
    "key",
    "newer",
    "catalog-missing",
    "catalog-damaged",
    "catalog-differs",
    "state-damaged",
    "state-differs",
    "state-columns",
    "state-values",
    "state-work",
    "segment-missing",
    "segment-damaged",
    "segment-replaced",
    "set-back",
    "other-archive",
    "head-missing",
    "head-damaged",
    "head-wrong",
    "signature",
    "snapshot",
    "hints",
    "document-missing",
    "document-size",
    "document-content",
    "document-unreadable",
    "document-name",
    "download-missing",
    "download-content",
    "download-unreadable",
]
"""What kind of finding it is; docs/operations.md says what each one means."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. `subject` is the file, object or setting; what is wrong with it, and how to mend it.

    `why` says, after a repair that was asked for, why this could not be repaired.
    """

    subject: str
    what: str
    mend: str
    code: Code
    why: str = ""

    def __str__(self) -> str:
        kept = f" (not repaired: {self.why})" if self.why else ""
        return f"{self.subject} {self.what}: {self.mend}{kept}"


@dataclass(frozen=True)
class Repair:
    """What was wrong with `subject`, and what was done about it; or, in a dry run, what would be."""

    subject: str
    what: str
    done: str

    def __str__(self) -> str:
        return f"{self.subject} {self.what}: {self.done}"


@dataclass(frozen=True)
class VerifyResult(Shown):
    """What was looked at, and what is wrong.

    `revision` is the catalog's, `remote_revision` the newest in the log, None when there was no log to look at. Of
    `segments`, `replayed` were read and applied one after the other; `compared` counts the rows of catalog and state that
    were compared with what they come from. Of the documents in the catalog `documents` were looked for in the archive, and
    of these `hashed` were read and have the right content. `elsewhere` are not there, but the publisher names another
    place for them; `unnamed` documents have no file name and can't be looked for. `downloads` are files on this machine.
    `repaired` is what a repair did, or in a dry run would do; what is left is in `findings`.
    """

    revision: int
    remote_revision: int | None
    databases: int
    store_values: int
    segments: int
    replayed: int
    compared: int
    documents: int
    hashed: int
    elsewhere: int
    unnamed: int
    downloads: int
    findings: tuple[Finding, ...]
    seconds: float = field(compare=False)
    repaired: tuple[Repair, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


_COUNTS = (
    "databases",
    "store_values",
    "segments",
    "replayed",
    "compared",
    "documents",
    "hashed",
    "elsewhere",
    "unnamed",
    "downloads",
)


class Report:
    """What a run has found so far, and how much it has looked at."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)

    def find(self, code: Code, subject: object, what: str, mend: str) -> None:
        """Note what is wrong."""
        self.findings.append(Finding(str(subject), what, mend, code))

    def drop(self, code: Code) -> None:
        """Take back what turned out to have another reason."""
        self.findings = [finding for finding in self.findings if finding.code != code]

    def has(self, subject: str) -> bool:
        """Whether something is known to be wrong with it."""
        return any(finding.subject == subject for finding in self.findings)

    def has_code(self, *codes: Code) -> bool:
        """Whether something of this kind is known to be wrong."""
        return any(finding.code in codes for finding in self.findings)
