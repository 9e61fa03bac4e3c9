"""What is logged, for programs: the fields of an event, beside the sentence for people.

    log.info("published revision %d: %d documents", 7, 3, extra=event("published", revision=7, documents=3))

The record has them in its attribute `mmmeta`; docs/logging.md lists them. None of them holds a credential.
"""

from __future__ import annotations

from typing import Any


def event(name: str, /, **fields: Any) -> dict[str, dict[str, Any]]:
    """Return what goes to a log's `extra`."""
    return {"mmmeta": {"event": name, **fields}}
