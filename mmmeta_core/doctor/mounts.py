"""On what kind of file system a folder is, as Linux tells; others don't, and then it is not known."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "davfs"}
)


def mount_of(folder: Path, table: str = "/proc/self/mounts") -> str | None:
    """Return the name of the file system that `folder` is on."""
    with suppress(OSError):
        here = os.path.realpath(folder)
        found: tuple[str, str | None] = ("", None)
        for line in Path(table).read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split(" ")
            if len(words) > 2:
                place, kind = words[1].replace("\\040", " "), words[2]
                if f"{here}/".startswith(f"{place.rstrip('/')}/") and len(place) >= len(found[0]):
                    found = (place, kind)
        return found[1]
    return None


def is_network(kind: str | None) -> bool:
    """Whether SQLite's locks can't be relied on there."""
    return kind is not None and (kind in _NETWORK or kind.startswith("fuse."))
