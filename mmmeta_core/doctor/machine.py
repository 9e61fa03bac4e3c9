"""Checks of the machine: versions, environment."""

from __future__ import annotations

import difflib
import os
import platform
import re
import sqlite3
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Final

from mmmeta_core import limits
from mmmeta_core.doctor.checkup import Examination, Found, Site
from mmmeta_core.errors import ConfigError
from mmmeta_core.writer import __version__

OLDEST_SQLITE: Final = (3, 35, 0)
"""The first one that can drop a column."""

_NEEDED: Final = ("click", "dataset", "orjson", "pyyaml", "rich", "sqlalchemy", "urllib3")
_FOR_SOME: Final = ("boto3", "cryptography", "dagster", "pandas", "psycopg", "pyarrow")
_AT_LEAST: Final = re.compile(r"^([A-Za-z0-9_.-]+)[^>;]*>=\s*([0-9.]+)")
_VARIABLES: Final = (
    "MMMETA",
    "MMMETA_ALLOW_FILE_URLS",
    "MMMETA_ALLOW_HOSTS",
    "MMMETA_EXAMPLE",
    "MMMETA_FILES_ROOT",
    "MMMETA_INTO",
    "MMMETA_REMOTE",
    "MMMETA_SIGNING_KEY",
    "MMMETA_SINGLE_PUBLISHER",
    "MMMETA_STATE_DB",
    "MMMETA_TRUSTED_KEYS",
    *limits.DEFAULTS,
)


def _python(_: Site) -> Iterator[Found]:
    yield "ok", f"{platform.python_version()} ({platform.python_implementation()})", ""


def _packages(site: Site) -> Iterator[Found]:
    oldest, found = _oldest(), {"mmmeta": __version__}
    for name in (*_NEEDED, *_FOR_SOME):
        version = _version(name)
        if version is not None:
            found[name] = version
            if _numbers(version) < _numbers(oldest.get(name, "0")):
                mend = f"pip install --upgrade '{name}>={oldest[name]}'"
                yield "problem", f"{name} {version} is older than {oldest[name]}", mend
        elif name in _NEEDED or (name == "boto3" and site.remote and site.remote.url.startswith("s3:")):
            yield "problem", f"{name} is not installed", f"pip install {name}"
    yield "ok", ", ".join(f"{name} {version}" for name, version in found.items()), ""


def _sqlite(_: Site) -> Iterator[Found]:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        yield (
            "problem",
            f"the library has version {sqlite3.sqlite_version}",
            f"use a Python with SQLite {needed} or newer",
        )
    elif sqlite3.threadsafety < 3:
        yield (
            "warning",
            f"{sqlite3.sqlite_version}, but built for one thread at a time",
            "use another Python where several threads are to work on one metadir",
        )
    else:
        yield "ok", sqlite3.sqlite_version, ""


def _environment(_: Site) -> Iterator[Found]:
    """Look for variables that are misspelt, and for caps that are no numbers. No value is shown."""
    named = sorted(name for name in os.environ if name == "MMMETA" or name.startswith("MMMETA_"))
    for name in named:
        if name not in _VARIABLES:
            near = difflib.get_close_matches(name, _VARIABLES, 1)
            yield (
                "warning",
                f"{name} is set, which nothing reads",
                f"did you mean {near[0]}?" if near else "unset it",
            )
    for setting in limits.DEFAULTS:
        try:
            limits.cap(setting)
        except ConfigError as error:
            yield "problem", str(error), "correct it or unset it"
    yield "ok", f"set: {', '.join(named) or 'nothing'}", ""


def _oldest() -> Mapping[str, str]:
    """Return the oldest version of each package that this mmmeta asks for; empty where that is not known."""
    try:
        asked = metadata.requires("mmmeta") or []
    except metadata.PackageNotFoundError:  # it runs from a folder
        return {}
    return {match[1].lower(): match[2] for one in asked if (match := _AT_LEAST.match(one))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:4])


CHECKS: Final[Mapping[str, Examination]] = {
    "Python": _python,
    "packages": _packages,
    "SQLite": _sqlite,
    "environment": _environment,
}
