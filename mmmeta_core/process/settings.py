"""How documents are processed, and who handles them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias, get_args, runtime_checkable

import orjson

from mmmeta_core.database.sqlite import CHUNK
from mmmeta_core.database.work import LEASE_SECONDS, On, OnChange
from mmmeta_core.errors import ConfigError
from mmmeta_core.files import File
from mmmeta_core.types import parse_time

Handler: TypeAlias = Callable[[File], Mapping[str, Any] | None]
"""Takes a document; may return columns to save with the mark. Raising is a failure of this document only."""


@runtime_checkable
class ChunkHandler(Protocol):
    """A handler that is quicker with many documents at once.

    When `chunk` raises it must have done nothing: then the documents are handed to the handler one by one.
    """

    def __call__(self, file: File, /) -> Mapping[str, Any] | None:
        """Handle one document."""

    def chunk(self, files: Sequence[File], /) -> None:
        """Handle all of these documents, or raise."""


@dataclass(frozen=True)
class ProcessOptions:
    """How documents are processed; see `Documents.process`."""

    mark: str = "imported"
    on: On = "due"
    on_change: OnChange = "content"
    workers: int = 1
    chunk: int = 100
    max_attempts: int = 5
    timeout: float | None = None
    limit: int | None = None
    lease: float = LEASE_SECONDS

    def __post_init__(self) -> None:
        """Raise `ConfigError` for what can't be."""
        for name, choices in (("on", get_args(On)), ("on_change", get_args(OnChange))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("workers", "chunk", "max_attempts", "timeout", "limit", "lease"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}={value!r} must be more than 0")
        if self.chunk > CHUNK:
            raise ConfigError(
                f"chunk={self.chunk} is more than {CHUNK} documents, which are claimed together"
            )


def settings_text(options: ProcessOptions, filters: Mapping[str, Any]) -> str | None:
    """Return the settings that decide what is due, as JSON; None for filters that JSON can't hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, set | frozenset):
            return list(value)
        if isinstance(value, datetime):
            return {"__time__": value.isoformat()}
        raise TypeError

    try:
        text = orjson.dumps(
            {"on_change": options.on_change, "filters": dict(filters)},
            default=plain,
            option=orjson.OPT_PASSTHROUGH_DATETIME,
        )
    except TypeError:
        return None
    return text.decode()


def settings_of(text: str | None) -> tuple[OnChange, dict[str, Any]]:
    """Return what `settings_text` wrote: when a document that changes is due again, and the filters."""
    kept = orjson.loads(text) if text else {}
    filters = {name: _revived(value) for name, value in kept.get("filters", {}).items()}
    return kept.get("on_change", "content"), filters


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__time__"}:
            return parse_time(value["__time__"])
        return {name: _revived(one) for name, one in value.items()}
    return [_revived(one) for one in value] if isinstance(value, list) else value
