"""Init itself: what is to be written is found out first, then the file appears, whole, where there was none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from mmmeta_core import lock
from mmmeta_core.atomic import write_atomic
from mmmeta_core.config import Config, columns_of
from mmmeta_core.errors import ConfigError, RefusedError
from mmmeta_core.head import read_head
from mmmeta_core.init.proposal import Proposal
from mmmeta_core.init.settings import settings_text
from mmmeta_core.notebook import Shown
from mmmeta_core.paths import CONFIG, META_DB, NAME, Paths, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.sync import Replica
from mmmeta_core.sync.hints import is_here


@dataclass(frozen=True)
class InitResult(Shown):
    """What `init` wrote, or would write. `archive` is the remote of which this is a client: then nothing is written.

    `text` is the file's, empty for a client. `unknown` columns, of these settings, none of the metadata files that were
    looked at has; it is empty when there are none.
    """

    config: str
    written: bool
    unique: str
    file_name: str
    archive: str | None
    text: str
    unknown: tuple[str, ...] = ()


def check_new(base: Path) -> None:
    """Raise `RefusedError` where a metadir in the folder `base` has settings already."""
    path = Paths(base / NAME).config
    if path.exists() or path.is_symlink():
        raise RefusedError(
            f"{path} is there already and is left as it is: edit it, or move it away and run init again"
        )


def published_settings(replica: Replica, remote: Remote | None) -> Config | None:
    """Return the settings of the archive at the remote, None when one can be begun there.

    Raises `RefusedError` where something lies that can be neither joined nor begun.
    """
    if remote is None:
        return None
    head = read_head(remote)[0]
    if head is not None:
        config = Config.parse(head.config, f"{remote.url}/{NAME}/{CONFIG}") if head.config else Config()
        return replace(config, unique=head.unique)
    remote.check_writable()
    if not is_here(replica, remote) and any(remote.stat(remote_name(name)) for name in (META_DB, CONFIG)):
        raise RefusedError(
            f"{remote.url} has a {NAME} of which nothing is published yet: whoever works there has to push first; for a "
            "new archive choose another place"
        )
    return None


def init(
    replica: Replica,
    remote: Remote | None,
    proposal: Proposal,
    *,
    unique: str | None = None,
    file_name: str | None = None,
    urls: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> InitResult:
    """Write `config.yml`, from what is given and else proposed; the metadir is made for it.

    Of any number of callers one writes. Raises `RefusedError` where there is one already, or a catalog that is keyed
    otherwise, `ConfigError` for settings that can't be, or that are not those of the archive at the remote.
    """
    check_new(replica.paths.root.parent)
    published = published_settings(replica, remote)
    path = str(replica.paths.config)
    if published is not None and remote is not None:
        _check_agrees(remote.url, published, unique, file_name)
        return InitResult(path, False, published.unique, published.file_name, remote.url, "")
    default = Config()
    key = unique or next(iter(proposal.keys), default.unique)
    name = file_name or proposal.file_name or default.file_name
    text = settings_text(key, name, urls or {}, proposal.times)
    _check_catalog(replica, key)
    if not dry_run:
        with lock.exclusive(replica.paths.lock):
            check_new(replica.paths.root.parent)
            write_atomic(replica.paths.config, text.encode())
    return InitResult(path, not dry_run, key, name, None, text, _unknown(text, path, proposal))


def _unknown(text: str, path: str, proposal: Proposal) -> tuple[str, ...]:
    if not proposal.looked:
        return ()
    config = Config.parse(text, path)
    named = [config.unique, config.file_name, *chain.from_iterable(map(columns_of, config.remote.values()))]
    return tuple(name for name in dict.fromkeys(named) if name not in proposal.lacking)


def _check_agrees(url: str, published: Config, unique: str | None, file_name: str | None) -> None:
    for setting, wanted in (("unique", unique), ("file_name", file_name)):
        there = getattr(published, setting)
        if wanted is not None and wanted != there:
            raise ConfigError(
                f"{url} is an archive already, whose metadata.{setting} is {there!r}, not {wanted!r}: leave it out, or "
                "choose another place for a new archive"
            )


def _check_catalog(replica: Replica, unique: str) -> None:
    """Raise `RefusedError` where documents are that have another key. Without settings it is the default one."""
    if not replica.paths.meta.exists() or unique == Config().unique:
        return
    with replica.catalog() as catalog:
        if catalog.position.revision or catalog.count() or catalog.count(deleted=True):
            raise RefusedError(
                f"{catalog.path} has documents by {catalog.unique!r}: take that as the key, or use another path for a new "
                f"archive by {unique!r}"
            )
