"""What the client does with each letter."""

from typing import Any

from mmmeta_core.files import File


def summarize(letter: File) -> dict[str, Any]:
    """Return a column of the client's: how long the title is."""
    return {"words": len(str(letter["title"]).split())}
