"""Catalog a growing archive of documents, sync the catalog, and keep each client's own state beside it.

from mmmeta_core import mmmeta

m = mmmeta("./client", remote="s3://bucket/archive")
m.pull()
m.update()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmmeta_core.writer import __version__ as __version__

if TYPE_CHECKING:
    from mmmeta_core.command import run_command
    from mmmeta_core.errors import (
        CatalogError,
        ColumnError,
        ConfigError,
        ConflictError,
        DocumentError,
        FileError,
        HistoryError,
        LogError,
        MmmetaError,
        ReadOnlyColumnError,
        RefusedError,
        RemoteDeniedError,
        RemoteError,
        RemoteNotFoundError,
        RemoteUnreachableError,
        SignatureError,
        StoreError,
        StoreKeyError,
        UnavailableError,
    )
    from mmmeta_core.into import into_database
    from mmmeta_core.metadir import Metadir
    from mmmeta_core.metadir import Metadir as mmmeta  # noqa: N813 - the name that scripts have always used
    from mmmeta_core.standing import Insight, Poll, Status, SyncResult
    from mmmeta_core.types import never

__all__ = [
    "CatalogError",
    "ColumnError",
    "ConfigError",
    "ConflictError",
    "DocumentError",
    "FileError",
    "HistoryError",
    "Insight",
    "LogError",
    "Metadir",
    "MmmetaError",
    "Poll",
    "ReadOnlyColumnError",
    "RefusedError",
    "RemoteDeniedError",
    "RemoteError",
    "RemoteNotFoundError",
    "RemoteUnreachableError",
    "SignatureError",
    "Status",
    "StoreError",
    "StoreKeyError",
    "SyncResult",
    "UnavailableError",
    "into_database",
    "mmmeta",
    "never",
    "run_command",
]

_HOMES = {
    **dict.fromkeys(("Metadir", "mmmeta"), "metadir"),
    **dict.fromkeys(("Insight", "Poll", "Status", "SyncResult"), "standing"),
    "into_database": "into",
    "never": "types",
    "run_command": "command",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that the command line can print its help without loading YAML and SQL.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"mmmeta_core.{_HOMES.get(name, 'errors')}")
    return getattr(home, "Metadir" if name == "mmmeta" else name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
