"""What was found: what is wrong and how to mend it, and how much was looked at."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. `subject` is the file, object or setting; what is wrong with it, and how to mend it."""

    subject: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.subject} {self.what}: {self.mend}"


@dataclass(frozen=True)
class VerifyResult:
    """What was looked at, and what is wrong.

    `revision` is the catalog's, `remote_revision` the newest in the log, None when there was no log to look at. Of the
    documents in the catalog `documents` were looked for in the archive. `elsewhere` of these are not there, but the
    publisher names another place for them; `unnamed` documents have no file name and can't be looked for.
    `downloads` are files on this machine.
    """

    revision: int
    remote_revision: int | None
    databases: int
    store_values: int
    segments: int
    documents: int
    elsewhere: int
    unnamed: int
    downloads: int
    findings: tuple[Finding, ...]
    seconds: float = field(compare=False)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class Report:
    """What a run has found so far, and how much it has looked at."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts = dict.fromkeys(
            ("databases", "store_values", "segments", "documents", "elsewhere", "unnamed", "downloads"), 0
        )

    def find(self, subject: object, what: str, mend: str) -> None:
        """Note what is wrong."""
        self.findings.append(Finding(str(subject), what, mend))
