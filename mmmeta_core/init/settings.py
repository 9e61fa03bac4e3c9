"""The text of a `config.yml` with every setting in it: those that are chosen, and the others as comments."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import yaml

from mmmeta_core.config import Config

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEMPLATE: Final = """\
# The settings of this archive. They are published with the catalog, and each
# client gets them with its next pull. Every one may be left out. Columns have
# the names that they have after flattening: publisher:name.

metadata:
  # The key column: text or a whole number, another one for each document. It
  # stays for as long as the archive does.
  unique: {unique}

  # The column with the document's path in the archive.
  file_name: {file_name}

  # Publish these columns only; key and file name always are.
  # include: [title, "publisher:name"]

  # A metadata file that lacks one of these is reported, and the rest goes on.
  # required: [title]

  # Kinds of columns: text, integer, float, boolean, datetime, json. Else the
  # first value of a column decides.
  # types: {types}

  # Columns that clients filter by: each client makes an index of them.
  # indexes: [document_type]

  # What the key is of the document's content: md5, sha1, sha256, or none. Else
  # its length decides.
  # digest: sha1

  # Columns at most; what is one too many is kept in the column __rescued.
  # max_columns: {max_columns}

  # Metadata files that are larger are reported, and the rest goes on.
  # max_metadata_bytes: {max_metadata_bytes}

# Where documents can be had: file.remote.url, and what clients download from.
# Columns go between braces.
"""
_EXAMPLE: Final = "https://archive.example.org/{file_name}"


def settings_text(unique: str, file_name: str, urls: Mapping[str, str], times: Sequence[str] = ()) -> str:
    """Return the file's text. Raises `ConfigError` for settings that can't be."""
    kinds = ", ".join(f"{_scalar(name)}: datetime" for name in times[:5]) or "retrieved_at: datetime"
    default = Config()
    text = _TEMPLATE.format(
        unique=_scalar(unique),
        file_name=_scalar(file_name),
        types=f"{{{kinds}}}",
        max_columns=default.max_columns,
        max_metadata_bytes=default.max_metadata_bytes,
    )
    if urls:
        lines = ["remote:", *(f"  {_scalar(name)}: {_scalar(url)}" for name, url in urls.items())]
    else:
        lines = ["# remote:", f"#   url: {_EXAMPLE}"]
    text += "\n".join(lines) + "\n"
    Config.parse(text, "the settings")
    return text


def _scalar(text: str) -> str:
    """Return text as YAML has it on one line, in quotes where it would be read as something else."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    written: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return written.rstrip("\n")
