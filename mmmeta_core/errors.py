"""Everything that `mmmeta_core` raises on purpose.

    MmmetaError
    ├── ConfigError            (ValueError)          a setting: constructor, environment, config.yml, command line
    ├── StoreError             (ValueError)          a key or value that the store does not take
    │   └── StoreKeyError      (KeyError)            no such key in the store
    ├── DocumentError          (ValueError)          one document's metadata can't be taken
    ├── ColumnError            (ValueError)          a column name or value that can't be written
    │   └── ReadOnlyColumnError(PermissionError)     a client sets a column that the publisher owns
    ├── CatalogError           (RuntimeError)        a database of the metadir is not what it should be
    │   └── HistoryError       (RuntimeError)        the catalog has another history than what a shared state has merged
    ├── LogError               (RuntimeError)        a segment is missing, damaged or of another archive
    │   └── SignatureError     (RuntimeError)        what is published is not signed by a key that is trusted here
    ├── RefusedError           (RuntimeError)        would delete too much; needs a word of the user's
    ├── FileError              (OSError)             a file or folder on this machine can't be read or written
    ├── UnavailableError       (ConnectionError)     what a handler needs for any document is not there now
    ├── ConflictError          (RuntimeError)        other publishers kept winning the race for a revision
    └── RemoteError            (OSError)             the remote did not do what it was asked
        ├── RemoteNotFoundError(FileNotFoundError)   no such object, folder or bucket
        ├── RemoteDeniedError  (PermissionError)     not allowed, or read only
        └── RemoteUnreachableError (ConnectionError) no answer

Each message names the file, key, column or URL, and says what to do. None holds a credential.
"""

from __future__ import annotations


class MmmetaError(Exception):
    """Base of all errors that are raised on purpose."""

    def __str__(self) -> str:
        # KeyError and OSError format their arguments in ways of their own; a message is a sentence here.
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigError(MmmetaError, ValueError):
    """A setting is wrong: constructor argument, environment variable, `config.yml` or command line."""


class StoreError(MmmetaError, ValueError):
    """A store key or value that can't be kept."""


class StoreKeyError(StoreError, KeyError):
    """The store has no such key."""


class DocumentError(MmmetaError, ValueError):
    """The metadata of one document can't be taken into the catalog."""


class ColumnError(MmmetaError, ValueError):
    """A column name or value that can't be written."""


class ReadOnlyColumnError(ColumnError, PermissionError):
    """A client tried to set a column that belongs to the publisher."""


class CatalogError(MmmetaError, RuntimeError):
    """A database of the metadir is damaged, of another format, or of another archive."""


class HistoryError(CatalogError, RuntimeError):
    """A shared state has merged another history of the archive than this catalog has; `merged` is what it has."""

    def __init__(self, *arguments: object, merged: str = "") -> None:
        super().__init__(*arguments)
        self.merged = merged


class LogError(MmmetaError, RuntimeError):
    """A segment of the change log is missing, damaged, or does not follow the one before it."""


class SignatureError(LogError, RuntimeError):
    """What is published is not signed by a key that is trusted here. `forged`: it claims to be."""

    def __init__(self, *arguments: object, forged: bool = False) -> None:
        super().__init__(*arguments)
        self.forged = forged


class RefusedError(MmmetaError, RuntimeError):
    """The request would delete more than is safe to do unasked."""


class FileError(MmmetaError, OSError):
    """A file or folder on this machine can't be read or written: no room, no permission, a broken disk."""


class ConflictError(MmmetaError, RuntimeError):
    """Other publishers won the race for the next revision too many times in a row."""


class RemoteError(MmmetaError, OSError):
    """The remote did not do what it was asked."""


class RemoteNotFoundError(RemoteError, FileNotFoundError):
    """The remote has no such object, folder or bucket."""


class RemoteDeniedError(RemoteError, PermissionError):
    """The remote refused: no permission, or it is read only."""


class RemoteUnreachableError(RemoteError, ConnectionError):
    """The remote did not answer."""


class UnavailableError(MmmetaError, ConnectionError):
    """What a handler needs for any document is not there now: `process` stops, and no document is to blame."""
