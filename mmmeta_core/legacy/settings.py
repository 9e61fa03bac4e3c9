"""`config.yml` of mmmeta 0.4 → today's, meaning the same. What has no counterpart is left out and said."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from mmmeta_core.atomic import write_atomic
from mmmeta_core.config import MAX_BYTES, Config
from mmmeta_core.errors import ConfigError
from mmmeta_core.legacy.layout import keep

_UNIQUE: Final = "content_hash"
_KEPT: Final = ("types", "digest", "max_columns", "max_metadata_bytes")
"""Today's settings, which 0.4 passed over: they may have been written beforehand."""


@dataclass(frozen=True)
class Mapped:
    """Today's text, and what of the old one is not in it, as sentences."""

    text: str
    left_out: tuple[str, ...]


def convert_settings(path: Path, folder: Path) -> tuple[str, ...]:
    """Write today's settings in the place of 0.4's, which are kept in `folder`; return what is left out.

    Idempotent: settings that were mapped before, by a run that was killed later, stay. Raises `ConfigError`.
    """
    kept = folder / path.name
    if kept.exists() and path.exists() and _text(kept) != _text(path):
        Config.load(path)
        return map_settings(_text(kept), str(kept)).left_out
    source = kept if kept.exists() else path
    mapped = map_settings(_text(source), str(source))
    folder.mkdir(parents=True, exist_ok=True)
    if path.exists():
        keep(path, folder)
    write_atomic(path, mapped.text.encode())
    return mapped.left_out


def is_mapped(path: Path, folder: Path) -> bool:
    """Whether the settings are what `convert_settings` wrote, and nobody has changed them since."""
    kept = folder / path.name
    return path.exists() and kept.exists() and _text(path) == map_settings(_text(kept), str(kept)).text


def map_settings(text: str, source: str) -> Mapped:
    """Map the text of 0.4's `config.yml`. Raises `ConfigError` when it is not YAML, or its key is no column name."""
    content = _load(text, source)
    left_out: list[str] = []
    metadata = _section(content, "metadata", left_out)
    remote = _section(content, "remote", left_out)
    left_out += [f"{name}: not a setting" for name in content]
    settings: dict[str, Any] = {"metadata": _metadata(metadata, left_out)}
    templates = _templates(remote, left_out)
    if templates:
        settings["remote"] = templates
    mapped = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    Config.parse(mapped, source)
    return Mapped(mapped, tuple(left_out))


def _metadata(old: dict[Any, Any], left_out: list[str]) -> dict[str, Any]:
    """Without `include` 0.4 kept the key, the file name and what was required, and nothing else."""
    unique = _name(old.pop("unique", None)) or _UNIQUE
    file_name = _name(old.pop("file_name", None)) or unique
    required = _names(old.pop("required", None), "required", left_out)
    include = _names(old.pop("include", None), "include", left_out)
    new: dict[str, Any] = {"unique": unique, "file_name": file_name}
    # A document without its file name was invalid.
    new["required"] = list(dict.fromkeys([*([] if file_name == unique else [file_name]), *required]))
    new["include"] = list(dict.fromkeys(include)) or [unique]
    for name in _KEPT:
        if name in old and _is_setting(name, value := old.pop(name)):
            new[name] = value
    left_out += [f"metadata.{name}: not a setting" for name in old]
    return {name: value for name, value in new.items() if value != []}


def _templates(old: dict[Any, Any], left_out: list[str]) -> dict[str, str]:
    new = {}
    for name, template in old.items():
        reason = _flaw(name, template)
        if reason is None:
            new[name] = template
        else:
            left_out.append(f"remote.{name}: {reason}")
    return new


def _flaw(name: Any, template: Any) -> str | None:
    """Return why a template means nothing today, or something else."""
    if not isinstance(template, str):
        return "not text"
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        return str(error)
    for _, column, layout, conversion in fields:
        if column is None:
            continue
        if layout or conversion:
            return "a placeholder with a format; today it names a column and nothing else"
        if not column or "." in column or "[" in column or column.isdecimal():
            return "a placeholder that is not the name of a column"
    try:
        Config.parse(yaml.safe_dump({"remote": {name: template}}), "remote")
    except ConfigError as error:
        return str(error)
    return None


def _is_setting(name: str, value: Any) -> bool:
    Config.parse(yaml.safe_dump({"metadata": {name: value}}), "config.yml")
    return True


def _section(content: dict[Any, Any], name: str, left_out: list[str]) -> dict[Any, Any]:
    value = content.pop(name, None)
    if value is not None and not isinstance(value, dict):
        left_out.append(f"{name}: not a mapping")
    return dict(value) if isinstance(value, dict) else {}


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _names(value: Any, setting: str, left_out: list[str]) -> list[str]:
    """Return a list of names, which 0.4 also took as one name; flattened names had `_` for `-`."""
    names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    if value is not None and not isinstance(value, str | list):
        left_out.append(f"metadata.{setting}: not a list")
    good = [name for one in names if (name := _name(one)) is not None]
    left_out += [f"metadata.{setting}: {one!r} is not a name" for one in names if _name(one) is None]
    return good


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return ""
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than 1 MiB; that is no list of settings")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _load(text: str, source: str) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{source}: not valid YAML: {reason}") from None
    return dict(content) if isinstance(content, dict) else {}
