"""Settings and stored values of this metadir, from the log."""

from __future__ import annotations

from pathlib import Path

from mmmeta_core.atomic import write_atomic
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import open_catalog
from mmmeta_core.errors import CatalogError
from mmmeta_core.paths import Paths
from mmmeta_core.repair.aside import keep_aside
from mmmeta_core.store import Store
from mmmeta_core.sync.replica import digest
from mmmeta_core.verify import Finding
from mmmeta_core.verify.history import Truth


def mend_settings(paths: Paths, truth: Truth) -> str:
    """Put the published settings in the place of those that can't be used."""
    text = truth.published.config
    if text is None:
        raise CatalogError("no settings were published")
    config = Config.parse(text, "the published config.yml")
    aside = keep_aside(paths.config)
    write_atomic(paths.config, text.encode())
    if paths.meta.exists():
        with open_catalog(paths.meta, config.unique, max_columns=config.max_columns) as catalog:
            catalog.set_local(config=digest(text))
    return f"took the published settings; the old ones are {_named(aside)}"


def mend_value(paths: Paths, finding: Finding, truth: Truth) -> str:
    """Write a stored value as it was published last."""
    path = Path(finding.subject)
    text = truth.published.store.get(path.name)
    if text is None:
        raise CatalogError("it is no published value")
    aside = keep_aside(path, paths.root)
    Store(paths.store).set_text(path.name, text)
    return f"wrote the published value{f'; the old one is {_named(aside)}' if aside else ''}"


def _named(aside: Path | None) -> str:
    return str(aside) if aside is not None else "gone"
