"""How much is taken of what others wrote.

Only the environment of this machine sets these caps, read when they are used: a publisher's settings never do. What is
beyond one is refused with a message that names it, and nothing is changed.
"""

from __future__ import annotations

import os
from typing import Final, Self

from mmmeta_core.errors import ConfigError

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_GIB: Final = 1024 * _MIB

DEFAULTS: Final[dict[str, int]] = {
    "MMMETA_MAX_HEAD_BYTES": 16 * _MIB,
    "MMMETA_MAX_SEGMENT_BYTES": 4 * _GIB,
    "MMMETA_MAX_UNPACKED_BYTES": 32 * _GIB,
    "MMMETA_MAX_RATIO": 100,
    "MMMETA_MAX_LINE_BYTES": 32 * _MIB,
    "MMMETA_MAX_DOCUMENTS": 20_000_000,
    "MMMETA_MAX_DEPTH": 64,
    "MMMETA_MAX_COLUMNS": 1_500,
    "MMMETA_MAX_STORE_KEYS": 10_000,
    "MMMETA_MAX_SNAPSHOT_BYTES": 16 * _GIB,
    "MMMETA_MAX_DOCUMENT_BYTES": 16 * _GIB,
}
"""The settings, and what holds where they are not set; see docs/security.md."""

RATIO_FROM: Final = 64 * _MIB
"""Unpacked bytes from which on the ratio counts: what is small may repeat itself."""


class Beyond(ValueError):  # noqa: N818 - the reason of an error that its catcher raises
    """More than a cap; the text names its setting."""


class Cap(int):
    """A number that is not exceeded, and the environment variable that sets it."""

    setting: str

    def __new__(cls, number: int, setting: str) -> Self:
        """Make it."""
        made = super().__new__(cls, number)
        made.setting = setting
        return made


def cap(setting: str) -> Cap:
    """Return the cap as it is set now. Raises `ConfigError` for one that is no whole number above 0."""
    text = os.environ.get(setting)
    if not text:
        return Cap(DEFAULTS[setting], setting)
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text) > 0):
        raise ConfigError(f"{setting} must be a whole number above 0, not {text!r:.80}")
    return Cap(int(text), setting)


def check(found: int, most: Cap, what: str) -> None:
    """Raise `Beyond` when there is more of `what` than is taken."""
    if found > most:
        raise Beyond(f"it has more than {most:,} {what}{way_out(most)}")


def way_out(most: int) -> str:
    """Return the end of a sentence that says how to take more, if there is a setting for it."""
    return f" (to take more, set {most.setting})" if isinstance(most, Cap) else ""
