"""A client's selection of documents as a pandas DataFrame that an asset takes as its input."""

from __future__ import annotations

from typing import Any

import dagster as dg

from mmmeta_dagster import metadata
from mmmeta_dagster.resource import MetadirResource


class DocumentsIOManager(dg.ConfigurableIOManager):
    """Loads the documents of a client's `update` asset; filters and columns are the input's metadata.

    resources={"documents": DocumentsIOManager(metadir=MetadirResource(path="./client"))}

    @dg.asset(ins={"contracts": dg.AssetIn(
        ["client", "update"], input_manager_key="documents", metadata={"filters": {"document_type": "contract"}})})
    def by_city(contracts: pandas.DataFrame) -> …
    """

    metadir: MetadirResource

    def load_input(self, context: dg.InputContext) -> Any:
        """Return the matching documents as `Files.to_pandas` gives them; their schema is noted with the input."""
        asked = context.definition_metadata
        filters: dict[str, Any] = dict(asked.get("filters") or {})
        with self.metadir.open() as metadir:
            frame = metadir.files.to_pandas(**filters)
            kinds = metadir.files.kinds(list(frame.columns))
            unique = metadir.files.unique
        if columns := asked.get("columns"):
            frame = frame[list(columns)]
        shown = {name: kind for name, kind in kinds.items() if name in frame and name != unique}
        context.add_input_metadata(
            {"dagster/row_count": len(frame), **metadata.of_columns(unique, shown, "files")}
        )
        return frame

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:  # noqa: ARG002 - its signature is Dagster's
        """Refuse: documents are published by a publisher, and a client's own columns are set by its pipelines."""
        raise dg.DagsterInvariantViolationError(
            f"{type(self).__name__} only loads documents; give {context.asset_key.to_user_string()} another IO manager"
        )
