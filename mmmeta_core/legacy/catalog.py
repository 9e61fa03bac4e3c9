"""An old catalog → today's `meta.db`: build it beside, keep the old one aside, put it in place with one rename."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from mmmeta_core.atomic import fsync_file, fsync_folder, temporary
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import Catalog, open_catalog
from mmmeta_core.database.columns import RESCUED, Columns
from mmmeta_core.errors import CatalogError, DocumentError
from mmmeta_core.events import event
from mmmeta_core.generate import DOCUMENT_GONE, METADATA_GONE
from mmmeta_core.legacy.layout import (
    PARTS,
    Version,
    aside,
    held,
    keep,
    old_catalog,
    parts,
    set_store_keys_aside,
)
from mmmeta_core.legacy.read import (
    ROW_NUMBER,
    Damage,
    Old,
    Report,
    declared,
    list_of,
    part_columns,
    parts_read,
    read_table,
    time_of,
)
from mmmeta_core.legacy.settings import convert_settings, is_mapped
from mmmeta_core.paths import Paths
from mmmeta_core.types import Row, format_time, utcnow

log = logging.getLogger(__name__)

REPORT: Final = "report.json"
_REASONS: Final = {"meta-missing": METADATA_GONE, "original-missing": DOCUMENT_GONE}


@dataclass(frozen=True)
class CatalogConversion:
    """What became of an old catalog. `documents` counts all of them, `deleted` those that are soft-deleted.

    `damage` says by column how many values may have been something else, `settings` what of `config.yml` has no
    counterpart. `invalid` rows had no usable key or were cut off; of `duplicates`, rows of one key, the last was taken.
    """

    version: Version
    kept: Path
    documents: int
    deleted: int
    invalid: int
    duplicates: int
    damage: Mapping[str, Damage]
    settings: tuple[str, ...]


def convert_catalog(paths: Paths) -> CatalogConversion | None:
    """Convert the metadir's catalog, store and settings if an old version wrote them; else return None.

    The documents are then neither published nor waiting to be: see `Catalog.publish_inherited`. A run that is killed
    leaves the old catalog as it was, or the new one; the next run finishes. The caller holds the metadir's lock. Raises
    `CatalogError`, `ConfigError`.
    """
    version = old_catalog(paths)
    if version is None:
        _tidy(paths)
        return None
    folder = aside(paths, version)
    log.info("converting the catalog of mmmeta %s in %s", version, paths.root)
    left_out = convert_settings(paths.config, folder) if version == "0.4" else ()
    config = Config.load(paths.config)
    report = Report()
    with temporary(paths.root) as draft, ExitStack() as stack:
        old = stack.enter_context(held(paths.meta)) if paths.meta.exists() else None
        if version == "0.1" and old is not None:
            _check_key(declared(old), config.unique, paths.meta)
            documents = read_table(old, config.unique, report)
        else:
            documents = stack.enter_context(parts_read(paths.root / PARTS, config.unique, report))
        counts = _build(draft, config, documents)
        result = CatalogConversion(
            version, folder, *counts, report.invalid, report.duplicates, report.columns(), left_out
        )
        _keep(paths, folder, result)
        draft.replace(paths.meta)
    fsync_folder(paths.root)
    _tidy(paths)
    _say(result)
    return result


def set_aside(paths: Paths) -> bool:
    """Keep an old catalog, its store keys and settings aside unconverted: the remote has a newer one. Idempotent.

    `config.yml` goes too, since the remote's is to come. Returns whether there was one.
    """
    version = old_catalog(paths)
    if version is None:
        return False
    folder = aside(paths, version)
    folder.mkdir(exist_ok=True)
    set_store_keys_aside(paths, folder)
    if version == "0.4" and paths.config.exists():
        keep(paths.config, folder)
        paths.config.unlink()
    if paths.meta.exists():
        with held(paths.meta):
            keep(paths.meta, folder)
            paths.meta.unlink()
    _move_parts(paths, folder)
    fsync_folder(paths.root)
    log.info("the archive was converted elsewhere: the old catalog is kept in %s", folder)
    return True


def give_way(paths: Paths, url: str) -> None:
    """Remove a catalog that was converted here and never published: the remote has another one. Old files stay aside.

    Raises `CatalogError` when a publisher has begun to work on it.
    """
    if not paths.meta.exists():
        return
    config = Config.load(paths.config)
    with open_catalog(paths.meta, config.unique, max_columns=config.max_columns) as catalog:
        if not catalog.is_inherited:
            return
        if catalog.pending_count():
            raise CatalogError(
                f"the old catalog was converted here and for {url} by another publisher: move {paths.meta} and "
                f"{paths.scan} away, pull, and generate again"
            )
    if is_mapped(paths.config, aside(paths, "0.4")):
        paths.config.unlink()
    paths.meta.unlink()
    fsync_folder(paths.root)


def published_columns(paths: Paths) -> set[str] | None:
    """Return the columns of the old catalog, here or kept aside; None when there is none."""
    for folder in (paths.root / PARTS, paths.root / "old-0.4" / PARTS):
        if parts(folder):
            return part_columns(folder)
    for path in (paths.meta, paths.root / "old-0.1" / paths.meta.name):
        if path.exists() and (path != paths.meta or old_catalog(paths) == "0.1"):
            with held(path) as old:
                return set(declared(old)) - {ROW_NUMBER}
    return None


def reason_of(times: Mapping[str, object]) -> str:
    """Return today's words for why a document was marked as deleted."""
    reason = times.get("__deleted_reason")
    return _REASONS.get(reason, reason) if isinstance(reason, str) and reason else "deleted"


def _check_key(columns: Mapping[str, str], unique: str, path: Path) -> None:
    if unique not in columns:
        raise CatalogError(f"{path} has no column {unique!r}: set metadata.unique to the key of this archive")


def _build(draft: Path, config: Config, documents: Iterator[Old]) -> tuple[int, int]:
    """Write today's catalog into `draft`; return how many documents it has, and how many of them are deleted."""
    with open_catalog(draft, config.unique, max_columns=config.max_columns) as catalog:
        columns = catalog.columns()
        catalog.inherit((_row(catalog, config, old, columns) for old in documents), columns)
        return catalog.count(deleted=None), catalog.count(deleted=True)


def _row(catalog: Catalog, config: Config, old: Old, columns: Columns) -> Row:
    values = {
        name: _asked(value, config.types.get(name)) for name, value in old.values.items() if value is not None
    }
    try:
        fitted = columns.fit(values, config.types)
    except DocumentError as error:
        raise CatalogError(f"document {old.key!r}: {error}") from error
    updated = time_of(old.times.get("__meta_last_updated"))
    row: Row = {
        catalog.unique: old.key,
        **fitted.row,
        RESCUED: fitted.rescued_json(),
        "__meta_added": time_of(old.times.get("__meta_added")),
        "__meta_last_updated": updated,
    }
    if old.deleted:
        row["__deleted_at"] = time_of(old.times.get("__deleted_at")) or updated or format_time(utcnow())
        row["__deleted_reason"] = reason_of(old.times)
    return row


def _asked(value: object, kind: str | None) -> object:
    """Return the list that a text was, where the settings say that the column holds lists."""
    if kind == "json" and isinstance(value, str):
        found = list_of(value)
        return value if found is None else found
    return value


def _keep(paths: Paths, folder: Path, result: CatalogConversion) -> None:
    folder.mkdir(exist_ok=True)
    if paths.meta.exists():
        keep(paths.meta, folder)
    set_store_keys_aside(paths, folder)
    with temporary(paths.root) as draft:  # not in the folder, where nobody would clear it away
        draft.write_bytes(orjson.dumps(asdict(result), default=str, option=orjson.OPT_INDENT_2) + b"\n")
        fsync_file(draft)
        draft.replace(folder / REPORT)
    fsync_folder(folder)


def _tidy(paths: Paths) -> None:
    """Move the parts of 0.4 to what is kept, after their catalog is in place."""
    folder = aside(paths, "0.4")
    if (folder / REPORT).exists():
        _move_parts(paths, folder)


def _move_parts(paths: Paths, folder: Path) -> None:
    if (paths.root / PARTS).is_dir() and not (folder / PARTS).exists():
        (paths.root / PARTS).replace(folder / PARTS)
        fsync_folder(folder)
        fsync_folder(paths.root)


def _say(result: CatalogConversion) -> None:
    log.info(
        "converted: %d documents, %d of them deleted; the old files are kept in %s",
        *(result.documents, result.deleted, result.kept),
        extra=event(
            "catalog converted",
            version=result.version,
            documents=result.documents,
            deleted=result.deleted,
            kept=str(result.kept),
        ),
    )
    if result.invalid or result.duplicates:
        log.warning(
            "%d rows of the old catalog have no key or are cut off and were left out; %d documents came twice",
            *(result.invalid, result.duplicates),
        )
    said = [f"{name}: {damage}" for name, damage in result.damage.items() if str(damage)]
    if said:
        log.warning(
            "mmmeta %s did not keep what these values were, and they stay as it wrote them: %s. generate corrects those "
            "that have a metadata file",
            *(result.version, "; ".join(said)),
        )
    emptied = sum(1 for damage in result.damage.values() if damage.empty)
    if emptied:
        log.warning(
            "mmmeta %s made nothing of 0, false, empty text and empty lists: values of %d columns may be missing",
            *(result.version, emptied),
        )
    for sentence in result.settings:
        log.warning("left out of config.yml, which keeps no such setting today: %s", sentence)
