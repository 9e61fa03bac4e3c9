"""Checks of what lies on this machine: folders, room, locks, settings, keys, databases."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from mmmeta_core.atomic import fsync_folder, temporary
from mmmeta_core.config import Config
from mmmeta_core.database import catalog as catalogs
from mmmeta_core.database import sqlite_state as states
from mmmeta_core.database.place import Server
from mmmeta_core.database.sqlite import check_version, connect, get_value
from mmmeta_core.doctor.checkup import Examination, Found, Site
from mmmeta_core.doctor.mounts import is_network, mount_of
from mmmeta_core.errors import CatalogError, ConfigError, UnavailableError
from mmmeta_core.legacy.layout import old_catalog, old_state, state_version
from mmmeta_core.paths import NAME
from mmmeta_core.signing import load_signer, load_trust

_GIB: Final = 1024**3
_LEAST_BYTES: Final = 64 * 1024 * 1024
_TIMES: Final = 3
"""How often databases must fit once more: a snapshot, a copy that is mended, and SQLite's own."""


def _metadir(site: Site) -> Iterator[Found]:
    """Really write, flush, rename and remove a file, and hold a lock on it."""
    root = site.paths.root.absolute()
    folder = _nearest(root)
    if not folder.is_dir():
        yield "problem", f"{folder} is a file", f"move it away: {root} has to be a folder"
        return
    try:
        with temporary(folder) as draft:
            draft.write_bytes(b"mmmeta doctor")
            locks = _locks_hold(draft)
            renamed = draft.replace(draft.with_name(f"{draft.name}-2"))
            renamed.unlink()
        fsync_folder(folder)
    except OSError as error:
        yield (
            "problem",
            f"{folder} can't be written to ({error.strerror})",
            "correct its permissions, or give another --metadir",
        )
        return
    if not locks:
        yield (
            "problem",
            f"the file system of {folder} has no locks, so two processes would write at once",
            "use a local disk",
        )
    if is_network(mount_of(folder)):
        yield (
            "warning",
            f"{folder} is on a network file system ({mount_of(folder)})",
            "keep the metadir on a local disk, SQLite is not safe there; the remote may be such a folder",
        )
    if folder == root and root.stat().st_mode & stat.S_IWOTH:
        yield (
            "warning",
            f"everybody on this machine may write to {root}",
            f"chmod o-w {root}",
        )
    yield (
        "ok",
        f"{root} can be written to" if folder == root else f"{root} is not there yet and can be made",
        "",
    )
    if folder != root:
        yield (
            "warning",
            f"{site.base} has no {NAME}",
            "mmmeta init for a new archive, mmmeta sync for a client",
        )


def _locks_hold(path: Path) -> bool:
    first, second = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        return True
    except OSError:  # there are none at all
        return False
    finally:
        os.close(first)
        os.close(second)


def _files_root(site: Site) -> Iterator[Found]:
    root = site.files_root
    if root is None:
        yield "ok", f"none: {'documents come from Python' if site.publishes else 'this is a client'}", ""
        return
    try:
        with os.scandir(root) as entries:
            next(entries, None)
    except OSError as error:
        yield "problem", f"{root} can't be read ({error.strerror})", "correct --files-root or the permissions"
        return
    try:
        with temporary(root) as draft:
            draft.write_bytes(b"mmmeta doctor")
    except OSError:
        yield "ok", f"{root} can be read, not written to, which mmmeta does not need", ""
    else:
        yield "ok", f"{root} can be read and written to", ""


def _room(site: Site) -> Iterator[Found]:
    """Compare what is free with what the databases may need once more, and with what is little for any archive."""
    databases = (site.paths.meta, site.paths.scan, *([site.state_db] if site.state_db else []))
    needed = max(_LEAST_BYTES, sum(path.stat().st_size for path in databases if path.is_file()))
    folders = (site.paths.root, *([site.state_db.parent] if site.state_db else []))
    for folder in dict.fromkeys(map(_nearest, folders)):
        free = shutil.disk_usage(folder).free
        names = os.statvfs(folder)
        what = f"{free / _GIB:,.1f} GiB are free in {folder}"
        if free < needed:
            yield "problem", what, f"free some space, {needed / _GIB:,.1f} GiB at least"
        elif free < max(_GIB, _TIMES * needed):
            yield "warning", what, "free some space before there is none"
        elif names.f_files and not names.f_favail:
            yield "problem", f"{folder} can take no more files, though {what}", "remove some files"
        else:
            yield "ok", what, ""


def _locks(site: Site) -> Iterator[Found]:
    path = site.paths.lock
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield "ok", "nobody works here", ""
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(os.fstat(descriptor))
        yield (
            "warning",
            f"{holder} works here now",
            "it is released when that process ends, in whatever way; others wait for it",
        )
    else:
        yield "ok", "nobody works here", ""
    finally:
        os.close(descriptor)


def _holder(status: os.stat_result) -> str:
    """Return which process holds the lock, as Linux tells."""
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if "->" not in words and name in words and words[4].isdecimal():
                return f"process {words[4]}"
    return "another process"


def _settings(site: Site) -> Iterator[Found]:
    path = site.paths.config
    if old_catalog(site.paths) is not None:
        yield "ok", f"{path} is still to be converted", ""
        return
    config = Config.load(path)
    if path.exists():
        yield "ok", f"{path}: key {config.unique!r}, file name {config.file_name!r}", ""
    elif site.publishes and not site.paths.meta.exists():
        yield "warning", "there is no config.yml", "mmmeta init writes one"
    else:
        yield "ok", "no config.yml: the defaults", ""


def _keys(site: Site) -> Iterator[Found]:
    try:
        signer = load_signer()
        trust = load_trust(site.paths.trusted_keys)
    except ConfigError as error:
        yield "problem", str(error), ""
        return
    signs = f"publishes are signed with the key {signer.key}" if signer else "publishes are not signed"
    if trust is None:
        yield "ok", f"{signs}; {'its own' if signer else 'every'} publisher is trusted", ""
    else:
        yield "ok", f"{signs}; {len(trust.keys)} trusted in {trust.source}", ""


def _old(site: Site) -> Iterator[Found]:
    """Look for what an older version left that is still to be converted."""
    state_db = site.state_db or site.paths.state
    catalog, state = old_catalog(site.paths), old_state(site.paths, state_db)
    if catalog is not None:
        verb = "mmmeta generate" if site.publishes else "mmmeta update"
        yield (
            "warning",
            f"the catalog is of mmmeta {catalog}",
            f"{verb} converts it, and keeps the old one aside",
        )
    if state is not None:
        what = f"{state} is of mmmeta {state_version(state)}"
        yield "warning", what, "mmmeta update converts it, and keeps the old one aside"
    if catalog is None and state is None:
        yield "ok", "nothing of an older version is to be converted", ""


def _catalog(site: Site) -> Iterator[Found]:
    if old_catalog(site.paths) is not None:
        yield "ok", "is still to be converted", ""
        return
    yield from _database(site.paths.meta, catalogs.VERSION)


def _state(site: Site) -> Iterator[Found]:
    if isinstance(site.state, Server):
        yield from _state_server(site.state)
    elif old_state(site.paths, site.state) is not None:
        yield "ok", "is still to be converted", ""
    else:
        yield from _database(site.state, states.VERSION)


def _state_server(server: Server) -> Iterator[Found]:
    how = "docs/postgresql.md says what is needed"
    try:
        from mmmeta_core.database.postgres.standing import standing

        found = standing(server)
    except ImportError as error:
        yield "problem", f"{server} needs psycopg ({error})", "pip install 'mmmeta[postgres]'"
        return
    except (CatalogError, UnavailableError) as error:
        yield "problem", str(error), how
        return
    if found.theirs:
        yield (
            "problem",
            f"{server} has a table files of another program",
            "name another schema, as ?schema=name",
        )
    elif not found.is_readable:
        yield (
            "problem",
            f"{server} has format {found.format}, which this mmmeta does not know",
            "install a newer mmmeta",
        )
    elif found.format is None and not found.may_make:
        yield (
            "problem",
            f"{server} is not there yet, and this user may not make it",
            "GRANT CREATE to the user",
        )
    elif not found.may_write:
        yield "problem", f"{server} can't be written to by this user", "GRANT the user all on its tables"
    elif found.format is None:
        yield "ok", f"{server} is not there yet; the server has version {found.version}", ""
    else:
        yield "ok", f"{server} is at revision {found.revision}; the server has version {found.version}", ""


def _database(path: Path, newest: int) -> Iterator[Found]:
    try:
        there = path.stat().st_size > 0
    except FileNotFoundError:
        there = False
    if not there:
        yield "ok", f"{path} is not there yet", ""
        return
    try:
        with closing(connect(path, pragmas={})) as connection:
            version = check_version(connection, path, newest)
            revision = get_value(connection, "mmmeta_info", "revision") or 0
    except CatalogError as error:
        yield "problem", str(error), "mmmeta verify says more, and verify --repair mends what can be proven"
        return
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        yield "problem", f"{path} can't be written to", "correct the permissions of the file and its folder"
        return
    yield "ok", f"{path} has format {version} and is at revision {revision}", ""


def _nearest(path: Path) -> Path:
    """Return the path, or the first above it that is there."""
    absolute = path.absolute()
    return next((one for one in (absolute, *absolute.parents) if one.exists()), Path(absolute.anchor))


CHECKS: Final[Mapping[str, Examination]] = {
    "metadir": _metadir,
    "files root": _files_root,
    "disk space": _room,
    "locks": _locks,
    "settings": _settings,
    "keys": _keys,
    "older versions": _old,
    "catalog": _catalog,
    "state db": _state,
}
