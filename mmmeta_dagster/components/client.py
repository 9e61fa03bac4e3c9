"""A client as one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Self, TypeAlias

import dagster as dg
from pydantic import ConfigDict, Field, model_validator

from mmmeta_core.database.work import OnChange
from mmmeta_core.into import into_database
from mmmeta_core.process import Handler
from mmmeta_dagster import work as functions
from mmmeta_dagster.assets import client_assets
from mmmeta_dagster.components.filters import at_run_time
from mmmeta_dagster.components.handler import find_handler
from mmmeta_dagster.components.role import Role
from mmmeta_dagster.components.scaffold import ClientScaffolder
from mmmeta_dagster.components.settings import STATUS, Status, about, described, given
from mmmeta_dagster.resource import MetadirResource
from mmmeta_dagster.sensors import build_store_sensor


def _filters(context: dg.ResolutionContext, filters: Mapping[str, Any]) -> functions.Filters:
    return at_run_time(context.resolve_value(dict(filters)))


_FILTERS: Final = (
    "Which documents, by column: {document_type: contract}, {size: {'>=': 100}}, "
    "and ages that are counted from each run: {retrieved_at: {since: 7 days}}, or before: 7 days."
)
Filters: TypeAlias = Annotated[
    functions.Filters, dg.Resolver(_filters, model_field_type=dict[str, Any], description=_FILTERS)
]


class Into(dg.Resolvable, dg.Model):
    """A table in a database that documents are upserted into, by their key."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: Annotated[
        str,
        Field(repr=False),
        given(
            "Of any database that SQLAlchemy knows: sqlite:///file.db, postgresql+psycopg://user@host/name."
        ),
    ]
    table: Annotated[str, about("Name of the table; made when needed.")] = "documents"
    columns: Annotated[
        list[str] | dict[str, str] | None,
        about(
            "Columns to take, or a mapping from them to the table's names; left out, all that is published."
        ),
    ] = None

    def handler(self) -> Handler:
        """Return what writes documents."""
        return into_database(self.url, self.table, self.columns)


class Spread(dg.Resolvable, dg.Model):
    """Have the documents done by many steps at once, by the executor that the deployment has."""

    documents: Annotated[int, Field(ge=1), about("Documents that one step takes at most.")] = (
        functions.Spread.documents
    )
    steps: Annotated[
        int, Field(ge=1), about("Steps of one run at most; more documents are the next run's.")
    ] = functions.Spread.steps
    retries: Annotated[
        int, Field(ge=0), about("How often a step is begun again whose process was killed.")
    ] = functions.Spread.retries

    def spread(self) -> functions.Spread:
        """Return it as a pipeline takes it."""
        return functions.Spread(**self.model_dump())


def _handler(context: dg.ResolutionContext, name: str) -> Handler:
    return find_handler(context.resolve_value(name, as_type=str))


class Work(dg.Resolvable, dg.Model):
    """What is done once with each matching document: a function, or a table in a database."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a database's URL may hold a password

    handler: Annotated[
        Annotated[Handler, dg.Resolver(_handler, model_field_type=str)] | None,
        about("Function that is called with each document: package.module:function."),
    ] = None
    into: Annotated[Into | None, about("Instead of a handler: a table in a database.")] = None
    filters: Filters = Field(default={})
    workers: Annotated[int, Field(ge=1), about("Threads that work at once.")] = functions.Pipeline.workers
    chunk: Annotated[int, Field(ge=1), about("Documents that are noted as done together.")] = (
        functions.Pipeline.chunk
    )
    max_attempts: Annotated[
        int, Field(ge=1), about("Attempts before a document that fails is set aside.")
    ] = functions.Pipeline.max_attempts
    timeout: Annotated[float | None, Field(gt=0), about("Seconds that one document may take.")] = (
        functions.Pipeline.timeout
    )
    on_change: Annotated[
        OnChange,
        about(
            "When a document is done again: its content changed, again (anything of it changed), or ignore: never."
        ),
    ] = functions.Pipeline.on_change
    deletions: Annotated[
        bool, about("Call it also for documents that it has done and that the publisher has deleted since.")
    ] = functions.Pipeline.deletions
    pool: Annotated[str | None, about("Dagster's pool that limits how many run at once.")] = None
    lease: Annotated[
        float, Field(gt=0), about("Seconds until others get the documents of a worker that was killed.")
    ] = functions.Pipeline.lease
    spread: Annotated[Spread | None, about("Have many steps do it, in processes or on machines.")] = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.handler is None) == (self.into is None):
            raise ValueError("a pipeline has either a handler or into, and not both")
        return self

    def pipeline(self) -> functions.Pipeline:
        """Return it as `client_assets` takes it."""
        given = {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in ("handler", "into", "spread")
        }
        given["spread"] = None if self.spread is None else self.spread.spread()
        handler = self.handler if self.into is None else self.into.handler()
        assert handler is not None  # noqa: S101 - see _has_one
        return functions.Pipeline(handler, **given)


class Downloads(dg.Resolvable, dg.Model):
    """Matching documents that are fetched into a folder, each one once."""

    dest: Annotated[str, given("Folder for the documents; made when needed.")]
    filters: Filters = Field(default={})
    workers: Annotated[int, Field(ge=1), about("Documents fetched at once.")] = functions.Downloads.workers
    max_attempts: Annotated[
        int, Field(ge=1), about("Attempts before a document that fails is set aside.")
    ] = functions.Downloads.max_attempts
    source: Annotated[
        str | None, about("Name of the only source to fetch from; left out, any that has the document.")
    ] = None
    pool: Annotated[str | None, about("Dagster's pool that limits how many run at once.")] = None

    def downloads(self) -> functions.Downloads:
        """Return it as `client_assets` takes it."""
        return functions.Downloads(**{name: getattr(self, name) for name in type(self).model_fields})


class Trigger(dg.Resolvable, dg.Model):
    """A sensor that runs the job when the archive's store says that there is something new."""

    keys: Annotated[
        list[str], Field(min_length=1), about("Store keys; a change of any of them starts a run.")
    ] = Field(default=["remote_last_updated"])
    max_attempts: Annotated[int, Field(ge=1), about("Runs that are asked for while they fail.")] = 3
    minimum_interval_seconds: Annotated[int, Field(ge=1), about("Seconds from one look to the next.")] = 30
    default_status: Annotated[Status, STATUS] = "stopped"


@dg.scaffold_with(ClientScaffolder)
class Client(Role):
    """A client of an archive: its assets sync → update → downloads and pipelines, a job of them, and its sensor."""

    archive: Annotated[
        dg.ResolvedAssetKey | None, about("Key of the publisher's asset remote, such as publisher/remote.")
    ] = None
    state_db: Annotated[str | None, about(described(MetadirResource, "state_db"))] = None
    downloads: Annotated[Downloads | None, about("Documents to fetch into a folder.")] = None
    pipelines: Annotated[
        dict[str, Work],
        about("Work on documents, by mark: the client's column that says done, such as imported."),
    ] = Field(default={})
    trigger: Annotated[Trigger | None, about("Run the job when something new was published.")] = None

    @property
    def publishes(self) -> bool:
        """Whether the assets are a publisher's."""
        return False

    def resource(self) -> MetadirResource:
        """Return the client's metadir."""
        return MetadirResource(state_db=self.state_db, **self.reached())

    def assets(self) -> Sequence[dg.AssetsDefinition]:
        """Return sync, update, downloads and an asset a pipeline."""
        return client_assets(
            self.name,
            archive=self.archive,
            downloads=None if self.downloads is None else self.downloads.downloads(),
            process={mark: work.pipeline() for mark, work in self.pipelines.items()},
            **self.placed(),
        )

    def sensors(self, job: dg.UnresolvedAssetJobDefinition) -> Sequence[dg.SensorDefinition]:
        """Return the sensor on the archive's store."""
        if self.trigger is None:
            return []
        marks = [*self.pipelines, *([] if self.downloads is None else ["downloaded"])]
        return [
            build_store_sensor(
                f"{self.name}_sensor",
                self.name,
                job,
                key=self.trigger.keys,
                retry_marks=marks,
                max_attempts=self.trigger.max_attempts,
                minimum_interval_seconds=self.trigger.minimum_interval_seconds,
                default_status=dg.DefaultSensorStatus[self.trigger.default_status.upper()],
            )
        ]
