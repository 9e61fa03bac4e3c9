"""What a publisher and a client have in common in YAML."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias

import dagster as dg
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import Field

from mmmeta_dagster.checks import metadir_checks
from mmmeta_dagster.components.settings import S3, Checks, Schedule, about, described, given
from mmmeta_dagster.resource import MetadirResource, S3Settings

_Translation: TypeAlias = Annotated[
    TranslationFn[str],
    TranslationFnResolver[str](template_vars_for_translation_fn=lambda name: {"name": name}),
]
_TRANSLATION: Final = (
    "Attributes of the assets that differ: owners, tags, automation_condition … "
    "In templates, spec is the asset's specification and name its own name: sync, update …"
)


class Role(dg.Component, dg.Resolvable, dg.Model):
    """A metadir as a Dagster deployment: its resource, assets, a job of them all, and what starts it."""

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
        about("Key of the metadir's resource and name of the job; sensor and schedule are named after it."),
    ]
    path: Annotated[str, given(described(MetadirResource, "path"))]
    remote: Annotated[str, given(described(MetadirResource, "remote"))]
    s3: Annotated[S3 | None, about("How to reach the bucket; left out, as AWS tools do.")] = None
    key_prefix: Annotated[str | list[str] | None, about("Prefix of the asset keys; left out, the name.")] = (
        None
    )
    group_name: Annotated[str | None, about("Group of the assets in Dagster; left out, the name.")] = None
    schedule: Annotated[Schedule | None, about("Run the job by the clock.")] = None
    checks: Annotated[Checks | None, about("Check the metadir and its documents after each run.")] = None
    translation: Annotated[_Translation | None, about(_TRANSLATION)] = None

    @property
    @abstractmethod
    def publishes(self) -> bool:
        """Whether the assets are a publisher's."""

    @abstractmethod
    def resource(self) -> MetadirResource:
        """Return the metadir."""

    @abstractmethod
    def assets(self) -> Sequence[dg.AssetsDefinition]:
        """Return the assets as the functions of this package build them."""

    def sensors(self, job: dg.UnresolvedAssetJobDefinition) -> Sequence[dg.SensorDefinition]:  # noqa: ARG002
        """Return what else starts the job."""
        return []

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - its signature is Dagster's
        """Return resource, assets, job, schedule and sensor."""
        assets = [asset.map_asset_specs(self._translated) for asset in self.assets()]
        done = (
            "Publishes what is new of the archive's documents."
            if self.publishes
            else ("Fetches what is new of the archive, and does the client's work on it.")
        )
        job = dg.define_asset_job(self.name, selection=dg.AssetSelection.assets(*assets), description=done)
        return dg.Definitions(
            assets=assets,
            asset_checks=self._checked(),
            jobs=[job],
            schedules=[] if self.schedule is None else [self._by_the_clock(self.schedule, job)],
            sensors=self.sensors(job),
            resources={self.name: self.resource()},
        )

    def placed(self) -> dict[str, Any]:
        """Return where the assets are in Dagster, as their functions take it."""
        prefix = self.name if self.key_prefix is None else self.key_prefix
        return {"key_prefix": prefix, "group_name": self.group_name or self.name}

    def reached(self) -> Mapping[str, Any]:
        """Return what publishers' and clients' resources have in common."""
        return {"path": self.path, "remote": self.remote, "s3": self.s3 or S3Settings()}

    def _checked(self) -> Sequence[dg.AssetChecksDefinition]:
        if self.checks is None:
            return []
        return metadir_checks(
            self.name,
            key_prefix=self.placed()["key_prefix"],
            publisher=self.publishes,
            required_columns=self.checks.required_columns,
            min_ratio=self.checks.min_ratio,
            documents=self.checks.documents,
        )

    def _translated(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        if self.translation is None:
            return spec
        translated = self.translation(spec, spec.key.path[-1])
        if translated.key != spec.key:
            raise dg.DagsterInvalidDefinitionError(
                f"the translation of {self.name!r} can't change the key {spec.key.to_user_string()}: "
                "keys come from the component's key_prefix"
            )
        return translated

    def _by_the_clock(
        self, schedule: Schedule, job: dg.UnresolvedAssetJobDefinition
    ) -> dg.ScheduleDefinition:
        return dg.ScheduleDefinition(
            name=f"{self.name}_schedule",
            job=job,
            cron_schedule=schedule.cron,
            execution_timezone=schedule.timezone,
            default_status=dg.DefaultScheduleStatus[schedule.default_status.upper()],
            description=f"Runs the job {self.name} by the clock.",
        )
