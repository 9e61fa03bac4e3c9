"""The rows of the table of `make bench`: which job each is, of what state of the archive, and what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A line of the table. `limit` is how many times the floor is still good."""

    shown: str
    limit: float | None = None
    what: str = "seconds"
    wanted: str = ""
    floor_of: str = ""
    """The row whose floor counts here, where this one has none of its own."""

    @property
    def aim(self) -> str:
        return self.wanted or (f"≤ {self.limit:g}" if self.limit is not None else "")


@dataclass(frozen=True)
class Step(Row):
    """A job of each contestant, in the order in which they do them."""

    job: str = ""
    change: int = 0
    """The archive was changed so many times before it."""
    reads_files: bool = False
    instead: str = ""
    """The job that does this for a catalog without files, where it is not measured."""


STEPS = (
    Step("generate, cold", 1.6, job="generate_cold", reads_files=True, instead="build"),
    Step("generate, nothing changed", 1.5, job="generate_again", reads_files=True),
    Step("push, cold", job="push"),
    Step("pull, cold", job="pull"),
    Step("update, cold", 2, job="update_cold"),
    Step("update, nothing new", 3, job="update_nothing"),
    Step(
        "generate, 10 changed + 10 new",
        1.7,
        job="generate_again",
        change=1,
        reads_files=True,
        instead="generate_again",
    ),
    Step("push, 20 new revisions of documents", job="push", change=1),
    Step("pull, 20 new revisions of documents", job="pull", change=1),
    Step("update, 20 new revisions of documents", 3, job="update_again", change=1),
    Step("1,000 saves", 3, job="save", change=1),
    Step("iterate all", 1.5, job="iterate", change=1),
    Step("find, two conditions", 3, job="find", change=1),
    Step("process, empty handler", job="process", change=1),
    Step("export", job="export", change=1),
    Step("pull, nothing new", job="pull", change=1),
)

COMMANDS = (
    Row("mmmeta generate, nothing changed", 2.5, floor_of="generate, nothing changed"),
    Row("mmmeta --help", 4),
    Row("mmmeta --version", 4),
)

TRAFFIC = (
    Row("pull of 20 new revisions: bytes / those rows, gzip -6", 1.3, "bytes"),
    Row("pull of 20 new revisions: requests / new segments + 2", 1, "requests", "≤ segments + 2"),
    Row("pull, nothing new: requests", 1, "requests", "1"),
    Row("pull, nothing new: bytes of body", 1, "bytes", "0"),
)

ROWS = {row.shown: row for row in (*STEPS, *COMMANDS, *TRAFFIC)}
