"""`config.yml`: what a publisher says about the archive's metadata, published with it.

    metadata:
      unique: content_hash
      file_name: _file_name
      include: [title, "publisher:name"]
      required: [published_at]
      types: {case_number: text}
      indexes: [document_type]
    remote:
      url: https://archive.example.org/{_file_name}

Every setting may be left out. Column names are those after flattening: `publisher:name`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from mmmeta_core.errors import ConfigError
from mmmeta_core.trouble import WAYS_OUT
from mmmeta_core.types import KINDS, Kind, Misfit, coerce, is_key_column

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MAX_BYTES: Final = 1024 * 1024
MAX_COLUMNS: Final = 1500
"""PostgreSQL takes 1,600, SQLite 2,000; the rest is for bookkeeping and a client's own."""

MAX_INDEXES: Final = 20

DIGESTS: Final = ("md5", "sha1", "sha256", "none")
"""What the key may be of a document's content."""

_RACY_NS: Final = 2_000_000_000
_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")
_USERINFO: Final = re.compile(r"(?<=//)[^/@]*@")


@dataclass(frozen=True)
class Config:
    """The settings. `types` gives columns their kind, `remote` holds URL templates for `expand`.

    `indexes` are columns that clients often filter by. `digest` is what the key is of the document's content: None leaves
    that to its length.
    """

    unique: str = "content_hash"
    file_name: str = "file_name"
    include: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    types: Mapping[str, Kind] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()
    remote: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    max_columns: int = 500
    max_metadata_bytes: int = 16 * 1024 * 1024

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read the file; a missing one gives the defaults. Raises `ConfigError`."""
        try:
            status = path.stat()
        except OSError:
            return _read(path)
        if time.time_ns() - status.st_mtime_ns < _RACY_NS:  # it may change again and look the same
            return _read(path)
        return _loaded(path, status.st_mtime_ns, status.st_size, status.st_ino)

    @classmethod
    def parse(cls, text: str, source: str) -> Config:
        """Read YAML text; `source` is what messages call it. Raises `ConfigError`."""
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{source} is larger than 1 MiB; that is no list of settings")
        from mmmeta_core.plain_yaml import plain_yaml

        try:
            return cls(**_settings(plain_yaml(text)))
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def keeps(self, column: str) -> bool:
        """Whether the catalog takes this column of a document: all of them when `include` is empty."""
        return not self.include or column in self._kept or column.replace("-", "_") in self._kept

    @cached_property
    def _kept(self) -> frozenset[str]:
        return frozenset((*self.include, *self.required, self.unique, self.file_name))


@lru_cache(maxsize=32)
def _loaded(path: Path, *_: int) -> Config:
    """Read the file, once as long as it has this time, size and inode."""
    return _read(path)


def _read(path: Path) -> Config:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        way_out = WAYS_OUT.get(error.errno or 0, "check the disk and run it again")
        raise ConfigError(f"{path} can't be read: {error.strerror}; {way_out}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than 1 MiB; that is no list of settings")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return Config.parse(text, str(path))


def expand(template: str, row: Mapping[str, Any]) -> str:
    """Put a document's values into a template: `https://host/{_file_name}`, `{publisher:name}`.

    What stands between braces is the name of a column and nothing else; `{{` and `}}` are braces. Values are
    percent-quoted, slashes excepted, where the template is an http(s) or file URL, and else inserted as they are.
    Raises `ConfigError` for a column that the row lacks or that is NULL there.
    """
    is_url = template.lower().startswith(("http://", "https://", "file://"))

    def fill(match: re.Match[str]) -> str:
        column = _column(match, template)
        if column is None:
            return match[0][0]
        text = _value(row.get(column), column, template)
        return quote(text, safe="/") if is_url else text

    return _PLACEHOLDER.sub(fill, template)


def columns_of(template: str) -> list[str]:
    """Return the columns that a template names. Raises `ConfigError` for a brace that names none."""
    found = (_column(match, template) for match in _PLACEHOLDER.finditer(template))
    return [name for name in found if name is not None]


def _column(match: re.Match[str], template: str) -> str | None:
    """Return the column that a placeholder names, None for an escaped brace."""
    if len(match[0]) == 1:
        raise ConfigError(
            f"the template {_shown(template)!r} has a brace that names no column; for a brace as such write two"
        )
    name: str | None = match[1]
    return name


def _value(value: Any, column: str, template: str) -> str:
    if value is None:
        raise ConfigError(
            f"the template {_shown(template)!r} needs {column!r}, which this document does not have"
        )
    try:
        return str(coerce(value, "text"))
    except Misfit:
        raise ConfigError(
            f"the template {_shown(template)!r} can't take {column!r}, which is a {type(value).__name__} here"
        ) from None


def _shown(template: str) -> str:
    return _USERINFO.sub("…@", template).partition("?")[0]


def _settings(content: Any) -> dict[str, Any]:
    """Return the arguments for `Config`. A setting without a value counts as not given."""
    settings: dict[str, Any] = {}
    for section, value in _mapping(content, "the file").items():
        if section == "remote":
            settings["remote"] = _remote(value, section)
        elif section == "metadata":
            for key, setting in _mapping(value, section).items():
                where = f"metadata.{key}"
                if key not in _READERS:
                    raise _unknown(where)
                if setting is not None:
                    settings[key] = _READERS[key](setting, where)
        else:
            raise _unknown(section)
    return settings


def _unknown(where: str) -> ConfigError:
    known = {key: f"metadata.{key}" for key in _READERS} | {"metadata": "metadata", "remote": "remote"}
    import difflib

    near = difflib.get_close_matches(where.rpartition(".")[2], known, 1)
    hint = f"did you mean {known[near[0]]!r}?" if near else f"known are {', '.join(known.values())}"
    return ConfigError(f"{where!r} is not a setting; {hint}")


def _wrong(where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"{where!r} must be {expected}, not {type(value).__name__}")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(where, "a mapping (name: value)", value)
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"the name {key!r:.80} in {where!r} must be text; put it in quotes")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "text (put it in quotes)", value)
    if not value.strip():
        raise ConfigError(f"{where!r} is empty; give the name of a column or leave the line out")
    return value


def _key_column(value: Any, where: str) -> str:
    name = _text(value, where)
    if not is_key_column(name):
        raise ConfigError(
            f"{where!r} can't be {name!r:.80}: a column's name has 1 to 63 bytes, and no '__' first"
        )
    return name


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong(where, "a list of column names", value)
    return tuple(_text(item, f"{where}[{index}]") for index, item in enumerate(value))


def _few_texts(value: Any, where: str) -> tuple[str, ...]:
    names = _texts(value, where)
    if len(names) > MAX_INDEXES:
        raise ConfigError(
            f"{where!r} has more than {MAX_INDEXES} columns; each one makes every update slower"
        )
    return names


def _kinds(value: Any, where: str) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for column, kind in _mapping(value, where).items():
        if kind not in KINDS:
            import difflib

            near = difflib.get_close_matches(str(kind), KINDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(KINDS)}"
            raise ConfigError(f"'{where}.{column}' is no kind of column; {hint}")
        kinds[column] = kind
    return kinds


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(where, "a whole number", value)
    if value < 1:
        raise ConfigError(f"{where!r} must be at least 1")
    return value


def _columns(value: Any, where: str) -> int:
    if _count(value, where) > MAX_COLUMNS:
        raise ConfigError(f"{where!r} must be at most {MAX_COLUMNS}, what a table can have")
    return int(value)


def _digest(value: Any, where: str) -> str:
    if value not in DIGESTS:
        raise ConfigError(f"{where!r} must be one of {', '.join(DIGESTS)}")
    return str(value)


def _remote(value: Any, where: str) -> dict[str, str]:
    templates = {}
    for name, template in _mapping(value, where).items():
        if not name.isidentifier() or name.startswith("_"):
            raise ConfigError(f"'{where}.{name}' can't be read as file.remote.{name}; use letters and digits")
        templates[name] = _text(template, f"{where}.{name}")
        try:
            columns_of(template)
        except ConfigError as error:
            raise ConfigError(f"'{where}.{name}': {error}") from None
    return templates


_READERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "unique": _key_column,
    "file_name": _text,
    "include": _texts,
    "required": _texts,
    "types": _kinds,
    "indexes": _few_texts,
    "digest": _digest,
    "max_columns": _columns,
    "max_metadata_bytes": _count,
}
