"""What a metadir tells of itself: where it stands, what a sync did, what a poll saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mmmeta_core.notebook import Shown
from mmmeta_core.types import Kind

if TYPE_CHECKING:
    from mmmeta_core.generate import GenerateResult
    from mmmeta_core.sync.pull import PullResult
    from mmmeta_core.sync.push import PushResult
    from mmmeta_core.update import UpdateResult


@dataclass(frozen=True)
class SyncResult(Shown):
    """What `sync` did; `generated` and `pushed` are None where the role did not need them."""

    pulled: PullResult | None
    generated: GenerateResult | None
    pushed: PushResult | None
    updated: UpdateResult


@dataclass(frozen=True)
class Poll(Shown):
    """A store value at the remote, and the one of the last update here; None where there is none.

    `changed` is whether the two differ: values are compared by difference, never by which one is later.
    """

    key: str
    remote: Any
    handled: Any
    changed: bool


@dataclass(frozen=True)
class Insight(Shown):
    """Where a metadir stands. Revisions are 0 before the first; times are None until something happened."""

    path: str
    remote: str | None
    unique: str
    files: int
    deleted: int
    invalid: int
    pending: int
    revision: int
    state_revision: int
    remote_last_updated: datetime | None
    local_last_updated: datetime | None
    columns: Mapping[str, Kind]


@dataclass(frozen=True)
class Pipeline:
    """Where a pipeline stands: `due` can be done now, with the filters of its last run; `failed` wait to be tried again."""

    mark: str
    due: int
    done: int
    failed: int
    set_aside: int
    last_run: datetime | None


@dataclass(frozen=True)
class Status(Shown):
    """Where everything stands. `remote_revision` is None without a remote, and when `remote_error` says why."""

    metadir: Insight
    remote_revision: int | None
    remote_error: str | None
    pipelines: tuple[Pipeline, ...]
