"""Which mmmeta wrote something, and which one to install for what this one can't read.

What is written names its writer, so that an older mmmeta can say more than "a newer one". The name is a hint from a
file that anybody may have written: it is shown only when it is a version, and only when it is not older than this one.
"""

from __future__ import annotations

import re
from typing import Final

__version__ = "0.5.0"

WRITER: Final = __version__
"""What segments, `head.json` and databases say of who wrote them."""

_VERSION: Final = re.compile(r"(\d{1,5}(?:\.\d{1,5}){1,3})(?:(?:a|b|rc|\.post|\.dev)\d{1,5})?", re.ASCII)


def version_of(value: object) -> str | None:
    """Return a writer's version as it was found; None for what is no version."""
    return value if isinstance(value, str) and _VERSION.fullmatch(value) else None


def newer_format(written: int, newest: int, writer: object) -> str:
    """Return the half sentence, after a file's name, that refuses a format above `newest`; `writer` as it was found."""
    version = version_of(writer)
    if version is None or _release(version) < _release(WRITER):
        return f"has format {written}, this mmmeta reads up to {newest}: install a newer mmmeta"
    return (
        f"has format {written} and was written by mmmeta {version}, this mmmeta reads up to format {newest}: "
        f"install mmmeta>={version}"
    )


def _release(version: str) -> tuple[int, ...]:
    found = _VERSION.fullmatch(version)
    return tuple(map(int, found[1].split("."))) if found else ()
