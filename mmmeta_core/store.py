"""The store: typed key-value pairs, each one a small text file that people can read and write by hand.

Keys beginning with `local_` are this machine's own and never published; see `Store.texts`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mmmeta_core.atomic import fsync_folder, write_atomic
from mmmeta_core.errors import StoreError, StoreKeyError
from mmmeta_core.trouble import explained
from mmmeta_core.types import format_time, parse_time, to_utc, utcnow

LOCAL: Final = "local_"
MAX_KEY_BYTES: Final = 200
MAX_TEXT_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 100

_TAKEN: Final = "text, a number, a boolean, None, one time, or lists and dicts of all these but times"

# Narrower than `datetime.fromisoformat`, whose notion of ISO 8601 changes between versions of Python.
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?", re.ASCII
)


class Store(MutableMapping[str, Any]):
    """A mapping that is the folder itself: nothing is cached, every value is written atomically and durably.

    Values are None, str, bool, int, float, datetime, and lists and dicts of all these but datetime. What is
    read has the type and value of what was written; times come back in UTC.

        store["new_files"] = 17
        store.touch("my_ts_key")

    Raises `StoreError` for a key or value that can't be kept, and `StoreKeyError`, a KeyError, for a key that
    is not there.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder, which the first write creates."""
        self.folder: Path = Path(folder)

    def __getitem__(self, key: str) -> Any:
        text = self.text(key)
        try:
            return decode_value(text)
        except StoreError as error:
            raise StoreError(f"{self.folder / key} holds no store value: {error}") from None

    def __setitem__(self, key: str, value: Any) -> None:
        check_key(key)
        try:
            text = encode_value(value)
        except StoreError as error:
            raise StoreError(f"the store can't keep this as {key!r}: {error}") from None
        self.set_text(key, text)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise self._missing(key)
        self.set_text(key, None)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and _problem(key) is None and _is_file(self.folder / key)

    def __iter__(self) -> Iterator[str]:
        try:
            with os.scandir(self.folder) as entries:
                found = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return iter(())
        return iter(sorted(name for name in found if _problem(name) is None))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r})"

    def touch(self, key: str) -> datetime:
        """Set `key` to the current time, and return that."""
        now = utcnow()
        self[key] = now
        return now

    def text(self, key: str) -> str:
        """Return the file's text as it is."""
        check_key(key)
        path = self.folder / key
        if not _is_file(path):
            raise self._missing(key)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_TEXT_BYTES + 1)
        except FileNotFoundError:
            raise self._missing(key) from None
        if len(data) > MAX_TEXT_BYTES:
            raise StoreError(
                f"{path} is larger than 1 MiB, too large for a store value; delete or shorten it"
            )
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise StoreError(f"{path} is not UTF-8 text; delete it or save it as UTF-8") from None

    def texts(self) -> dict[str, str]:
        """Return the texts of the keys that may leave this machine: all but the `local_` ones."""
        texts = {}
        for key in self:
            if is_local(key):
                continue
            try:
                texts[key] = self.text(key)
            except StoreKeyError:  # deleted by another process meanwhile
                continue
        return texts

    def set_text(self, key: str, text: str | None) -> None:
        """Write the file's text as it is; None removes the file, if there is one."""
        check_key(key)
        path = self.folder / key
        if text is None:
            if _is_file(path):
                with explained(path):
                    path.unlink(missing_ok=True)
                    fsync_folder(self.folder)
            return
        try:
            data = _utf8(text)
        except StoreError as error:
            raise StoreError(f"the store can't keep the text for {key!r}: {error}") from None
        if self.folder.is_symlink():
            raise StoreError(
                f"{self.folder} is a symbolic link, which values are not written through: remove it"
            )
        with explained(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)

    def _missing(self, key: str) -> StoreKeyError:
        import difflib

        near = difflib.get_close_matches(key, list(self), 1) if isinstance(key, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return StoreKeyError(f"the store {self.folder} has no key {key!r}{hint}")


def check_key(key: str) -> None:
    """Raise `StoreError` unless `key` can be the name of a file everywhere."""
    problem = _problem(key)
    if problem:
        raise StoreError(f"{key!r:.300} can't be a store key: {problem}")


def is_local(key: str) -> bool:
    """Whether `key` is this machine's own and must never be published."""
    return key.startswith(LOCAL)


def encode_value(value: Any) -> str:
    """Return the text that `decode_value` reads back as the same type and value. Raises `StoreError`.

    A naive datetime is taken as UTC, and any datetime comes back in UTC: the same moment.
    """
    try:
        expected = to_utc(value) if isinstance(value, datetime) else value
        text = _text(expected)
        change = _change(expected, decode_value(text))
    except TypeError as error:
        # json's sentence names the type, never the value.
        raise StoreError(f"{error}; store {_TAKEN}") from None
    except RecursionError:
        raise StoreError("it is nested too deep") from None
    except (ValueError, OverflowError) as error:
        raise StoreError(str(error)) from None
    if change:
        raise StoreError(f"it would not come back as it is: {change}; convert it first")
    _utf8(text)
    return text


def decode_value(text: str) -> Any:
    """Return the value of a store file, also one written by hand: `17`, `2024-05-01 12:00`, plain words."""
    text = text.removeprefix("\ufeff").strip()
    if _TIME.fullmatch(text):
        try:
            return parse_time(text)
        except (ValueError, OverflowError):  # 2024-02-31T12:00
            return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
    except (ValueError, RecursionError):
        raise StoreError("a number with too many digits, or nested too deep") from None


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, str) and _reads_as_itself(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _reads_as_itself(text: str) -> bool:
    try:
        return bool(decode_value(text) == text)
    except StoreError:
        return False


def _change(value: Any, back: Any, depth: int = 0) -> str | None:
    """Return what differs between a value and what was read back, as words; None if nothing does."""
    if type(value) is not type(back):
        return f"{type(value).__name__} becomes {type(back).__name__}"
    if depth > MAX_DEPTH:
        return f"it is nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, dict):
        if list(value) != list(back) or any(type(key) is not str for key in value):
            return "keys of a dict that are not text become text"
        value, back = list(value.values()), list(back.values())
    if isinstance(value, list):
        changes = (_change(one, other, depth + 1) for one, other in zip(value, back, strict=True))
        return next((change for change in changes if change), None)
    # repr tells 0.0 from -0.0 and takes one NaN for another.
    same = repr(value) == repr(back) if isinstance(value, float) else value == back
    return None if same else f"another {type(value).__name__} comes back"


def _utf8(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise StoreError("it has characters that are not valid Unicode (lone surrogates)") from None
    if len(data) > MAX_TEXT_BYTES:
        raise StoreError("it is larger than 1 MiB; keep it in a file, and its path in the store")
    return data


def _problem(key: object) -> str | None:
    if not isinstance(key, str):
        return "it is not text"
    if not key or key.startswith("."):
        return "it is empty or begins with a dot"
    if "/" in key or "\\" in key:
        return "it has a path separator"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in key):
        return "it has control characters or invalid Unicode"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES} bytes"
    return None


def _is_file(path: Path) -> bool:
    # A link is not followed: what it points to is not the store's, and would be published.
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
