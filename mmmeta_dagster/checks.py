"""Checks after the assets of a metadir: it is whole, did not lose documents, and the archive has them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import dagster as dg

from mmmeta_core import Metadir, MmmetaError
from mmmeta_dagster.resource import find_resource

if TYPE_CHECKING:
    from mmmeta_core.verify import Fill, VerifyResult

AssetKeyLike: TypeAlias = dg.AssetKey | str | Sequence[str]
AssetT = TypeVar("AssetT", bound=dg.AssetsDefinition | dg.AssetSpec)
Look: TypeAlias = Callable[[dg.AssetCheckExecutionContext, Metadir], dg.AssetCheckResult]

_ROWS: Final = "dagster/row_count"
_SHOWN_ROWS: Final = 20
_LOOKED_AT: Final = 25


def metadir_checks(
    resource: str,
    *,
    key_prefix: str | Sequence[str] = (),
    publisher: bool = False,
    required_columns: Sequence[str] | Mapping[str, float] = (),
    min_ratio: float = 0.5,
    documents: int | None = 100,
) -> list[dg.AssetChecksDefinition]:
    """Return checks for the assets of `client_assets`, or of `publisher_assets` with `publisher`.

    `resource` and `key_prefix` are those of the assets. What is checked:

    - `metadir_is_whole`, after `sync`: nothing that depends on it runs before it has passed.
    - `required_columns`, when there are some: the columns are published, with a value in the share of the documents that
      is given, `{"title": 0.95}`; of a mere list, in any number of them.
    - `documents_did_not_vanish`: at least `min_ratio` of the documents of the materialization before are there.
    - `no_invalid_documents`, publishers only: `generate` could take all metadata files. A warning.
    - `archive_matches_catalog`: the log, and so many `documents` that are picked at random (None: all) are in the archive.

    For a client all are on `sync`. For a publisher columns and documents, also invalid ones, are on `generate`, and what is
    in the archive on `remote`.
    """
    if isinstance(required_columns, str):
        raise dg.DagsterInvalidDefinitionError(f"required_columns is a list: [{required_columns!r}]")
    shares = (
        dict(required_columns)
        if isinstance(required_columns, Mapping)
        else dict.fromkeys(required_columns, 0.0)
    )
    if not all(0 <= share <= 1 for share in (min_ratio, *shares.values())):
        raise dg.DagsterInvalidDefinitionError("min_ratio and the shares of columns are from 0 to 1")
    of = _Checks(resource, key_prefix)
    counted = "generate" if publisher else "sync"
    checks = [_whole(of), _rows(of, counted, min_ratio), _archive(of, publisher, documents)]
    if shares:
        checks.insert(1, _columns(of, counted, shares))
    if publisher:
        checks.append(_invalid(of))
    return checks


def freshness(hours: float, *, warn_hours: float | None = None) -> dg.FreshnessPolicy:
    """Return the policy "the publisher has been silent for so many hours", for the archive's asset.

    Dagster's daemon compares it with the last materialization. That is the last new revision for an `archive_asset`
    that a sensor reports, and the last run for a publisher's own `remote`. `with_freshness` puts it on assets that are made.
    """
    warn = None if warn_hours is None else timedelta(hours=warn_hours)
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours), warn_window=warn)


def with_freshness(assets: Iterable[AssetT], key: AssetKeyLike, policy: dg.FreshnessPolicy) -> list[AssetT]:
    """Return the assets, the one of this key with the policy: `with_freshness(assets, "remote", freshness(24))`.

    Raises `DagsterInvalidDefinitionError` when none of them has this key.
    """
    wanted, found = dg.AssetKey.from_coercible(key), set()

    def apply(spec: dg.AssetSpec) -> dg.AssetSpec:
        found.add(spec.key)
        return spec.replace_attributes(freshness_policy=policy) if spec.key == wanted else spec

    mapped = [cast("AssetT", one) for one in dg.map_asset_specs(apply, assets)]
    if wanted not in found:
        known = ", ".join(sorted(one.to_user_string() for one in found))
        raise dg.DagsterInvalidDefinitionError(f"no asset {wanted.to_user_string()} among {known}")
    return mapped


@dataclass(frozen=True)
class _Checks:
    """What the checks of one metadir have in common."""

    resource: str
    key_prefix: str | Sequence[str]

    def key(self, name: str) -> dg.AssetKey:
        prefix = [self.key_prefix] if isinstance(self.key_prefix, str) else list(self.key_prefix)
        return dg.AssetKey([*prefix, name])

    def check(
        self, asset: str, name: str, description: str, *, blocking: bool = False
    ) -> Callable[[Look], dg.AssetChecksDefinition]:
        """Return what makes a check of a function."""

        def define(look: Look) -> dg.AssetChecksDefinition:
            @dg.asset_check(
                asset=self.key(asset),
                name=name,
                description=description,
                blocking=blocking,
                required_resource_keys={self.resource},
            )
            def run(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
                try:
                    with find_resource(context.resources, self.resource).open() as metadir:
                        return look(context, metadir)
                except MmmetaError as error:
                    # Its sentence says what to do; the traceback stays below it.
                    raise dg.Failure(str(error)) from error

            return run

        return define


def _whole(of: _Checks) -> dg.AssetChecksDefinition:
    @of.check(
        "sync",
        "metadir_is_whole",
        "The databases, settings and stored values on this machine can be read, are not damaged, and have a format that "
        "this version knows. If not, nothing that depends on them is run.",
        blocking=True,
    )
    def check(_: dg.AssetCheckExecutionContext, metadir: Metadir) -> dg.AssetCheckResult:
        return _verified(metadir.verify(documents=0, downloads=0, remote=False))

    return check


def _archive(of: _Checks, publisher: bool, documents: int | None) -> dg.AssetChecksDefinition:
    looked_for = "All documents" if documents is None else f"{documents} documents, picked at random,"

    @of.check(
        "remote" if publisher else "sync",
        "archive_matches_catalog",
        f"{looked_for} are in the archive under the name that the catalog says. The archive's log of changes has no gap and "
        "is the one that this catalog was made from.",
    )
    def check(_: dg.AssetCheckExecutionContext, metadir: Metadir) -> dg.AssetCheckResult:
        return _verified(metadir.verify(documents=documents, downloads=0))

    return check


def _columns(of: _Checks, asset: str, shares: Mapping[str, float]) -> dg.AssetChecksDefinition:
    wanted = ", ".join(
        f"{name} ({share:.0%} of the documents)" if share else name for name, share in shares.items()
    )

    @of.check(asset, "required_columns", f"The catalog has these columns, and values in them: {wanted}.")
    def check(_: dg.AssetCheckExecutionContext, metadir: Metadir) -> dg.AssetCheckResult:
        from mmmeta_core.database.catalog import open_catalog
        from mmmeta_core.verify import fill

        config = metadir.config
        with open_catalog(metadir.paths.meta, config.unique, max_columns=config.max_columns) as catalog:
            filled = fill(catalog, shares)
        problems = [problem for name in shares if (problem := _problem(name, filled, shares[name]))]
        rows = [
            {"column": name, "documents_with_a_value": count or 0} for name, count in filled.values.items()
        ]
        return dg.AssetCheckResult(
            passed=not problems,
            description="; ".join(problems) or None,
            metadata={"documents": filled.documents, "columns": _table(rows)},
        )

    return check


def _problem(name: str, filled: "Fill", share: float) -> str | None:
    """Return what is wrong with a column; an archive without documents can't have any."""
    count = filled.values[name]
    if not filled.documents:
        return None
    if count is None:
        return f"there is no column {name}"
    if count < filled.documents * share:
        return f"{count} of {filled.documents} documents have {name}, {share:.0%} are required"
    return None


def _rows(of: _Checks, asset: str, min_ratio: float) -> dg.AssetChecksDefinition:
    @of.check(
        asset,
        "documents_did_not_vanish",
        f"The catalog has at least {min_ratio:.0%} of the documents that it had the last time. A publisher that lost its "
        "source, or deleted by mistake, shows here.",
    )
    def check(context: dg.AssetCheckExecutionContext, metadir: Metadir) -> dg.AssetCheckResult:
        now = metadir.inspect().files
        before = _rows_before(context, of.key(asset))
        if before is None:
            return dg.AssetCheckResult(
                passed=True, metadata={"documents": now}, description="nothing to compare with yet"
            )
        return dg.AssetCheckResult(
            passed=now >= before * min_ratio,
            metadata={"documents": now, "documents_before": before},
            description=f"{now} documents, {before} the last time",
        )

    return check


def _rows_before(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> int | None:
    """Return the row count of the last materialization that is not of this very run; None before there is one."""
    for record in context.instance.fetch_materializations(key, limit=_LOOKED_AT).records:
        shown = record.asset_materialization
        if record.run_id != context.run.run_id and shown is not None and _ROWS in shown.metadata:
            value: Any = shown.metadata[_ROWS].value
            return int(value)
    return None


def _invalid(of: _Checks) -> dg.AssetChecksDefinition:
    @of.check(
        "generate",
        "no_invalid_documents",
        "All metadata files could be taken into the catalog. Those that could not are named with the reason; the other "
        "documents are published all the same.",
    )
    def check(_: dg.AssetCheckExecutionContext, metadir: Metadir) -> dg.AssetCheckResult:
        invalid = [{"path": path, "reason": reason} for path, reason in metadir.invalid()]
        return dg.AssetCheckResult(
            passed=not invalid,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"invalid": len(invalid), **({"invalid_documents": _table(invalid)} if invalid else {})},
            description=f"{len(invalid)} metadata files could not be taken" if invalid else None,
        )

    return check


def _verified(result: "VerifyResult") -> dg.AssetCheckResult:
    counts = {
        name: value
        for name, value in vars(result).items()
        if name not in ("findings", "repaired", "seconds") and value is not None
    }
    rows = [{"what": f"{one.subject} {one.what}", "how_to_mend": one.mend} for one in result.findings]
    more = len(rows) - 1
    return dg.AssetCheckResult(
        passed=result.whole,
        metadata={**counts, **({"findings": _table(rows)} if rows else {})},
        description=f"{result.findings[0]}{f'; and {more} more' if more else ''}" if rows else None,
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows[:_SHOWN_ROWS]])
