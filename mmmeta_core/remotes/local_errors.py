"""What an OSError below a folder means for whoever uses the folder as a remote."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from mmmeta_core.errors import RemoteDeniedError, RemoteError, RemoteNotFoundError, RemoteUnreachableError
from mmmeta_core.trouble import WAYS_OUT

if TYPE_CHECKING:
    from pathlib import Path

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_UNREACHABLE: Final = frozenset(
    {errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNREFUSED}
)


def explain(error: OSError, root: Path, verb: str, name: str) -> RemoteError:
    """Return the error for what could not be done to an object, or to the folder if `name` is empty."""
    reason = error.strerror or str(error)
    what = f"{name!r} in {str(root)!r}" if name else f"{str(root)!r}"
    if error.errno in _ABSENT and not root.is_dir():
        return RemoteNotFoundError(
            f"There is no folder {str(root)!r}: create it, mount it, or correct the path."
        )
    if error.errno in _ABSENT and verb == "read":
        return RemoteNotFoundError(f"There is no object {what}.")
    if error.errno in _DENIED:
        return RemoteDeniedError(f"Not allowed to {verb} {what} ({reason}): check the permissions.")
    if error.errno in _UNREACHABLE:
        return RemoteUnreachableError(f"{str(root)!r} does not answer ({reason}): check that it is mounted.")
    way_out = WAYS_OUT.get(error.errno or 0, "try again")
    return RemoteError(f"Can't {verb} {what}: {reason}; {way_out}.")
