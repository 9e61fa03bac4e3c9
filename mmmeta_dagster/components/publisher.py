"""A publisher as one YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import dagster as dg
from pydantic import Field

from mmmeta_dagster.assets import publisher_assets
from mmmeta_dagster.checks import with_freshness
from mmmeta_dagster.components.role import Role
from mmmeta_dagster.components.scaffold import PublisherScaffolder
from mmmeta_dagster.components.settings import Freshness, about, described
from mmmeta_dagster.resource import MetadirResource


@dg.scaffold_with(PublisherScaffolder)
class Publisher(Role):
    """A publisher of documents: its assets sync → generate → remote, a job of them, and its schedule."""

    files_root: Annotated[str | None, about(described(MetadirResource, "files_root"))] = None
    deps: Annotated[
        list[dg.ResolvedAssetKey], about("Keys of the assets that make documents, such as scraper/documents.")
    ] = Field(default=[])
    ensure: Annotated[bool, about("Soft-delete documents whose metadata file is gone.")] = False
    ensure_files: Annotated[
        bool, about("Soft-delete documents whose own file is gone; restore those back.")
    ] = False
    no_meta: Annotated[bool, about("There are no metadata files: catalog the files themselves.")] = False
    upload_files: Annotated[
        bool, about("Upload documents that the archive lacks before the catalog is published.")
    ] = False

    freshness: Annotated[
        Freshness | None, about("Let Dagster say when nothing was published for so long.")
    ] = None

    @property
    def publishes(self) -> bool:
        """Whether the assets are a publisher's."""
        return True

    def resource(self) -> MetadirResource:
        """Return the publisher's metadir."""
        return MetadirResource(files_root=self.files_root, **self.reached())

    def assets(self) -> Sequence[dg.AssetsDefinition]:
        """Return sync, generate and remote."""
        assets = publisher_assets(
            self.name,
            deps=self.deps,
            ensure=self.ensure,
            ensure_files=self.ensure_files,
            no_meta=self.no_meta,
            upload_files=self.upload_files,
            **self.placed(),
        )
        if self.freshness is None:
            return assets
        return with_freshness(assets, assets[-1].key, self.freshness.policy())
