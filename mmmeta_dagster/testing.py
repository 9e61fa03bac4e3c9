"""For the tests of projects that use this package: an archive to throw away, a client of it, and ticks of its sensors.

def test_my_handler(tmp_path):
with ThrowawayArchive(tmp_path) as archive:
archive.publish({"content_hash": "a", "title": "A"})
result = archive.materialize(client_assets("client", process={"imported": my_handler}))
assert result.success
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dagster as dg

from mmmeta_core import Metadir
from mmmeta_dagster.resource import MetadirResource


class ThrowawayArchive:
    """An archive in a folder, its publisher, and one client, which is the resource `client`.

    Everything lies below `folder`. Documents with `content`, bytes, have a file too. What Dagster remembers is in an
    instance of its own, which ends with the block.
    """

    def __init__(self, folder: Path, *, resource: str = "client") -> None:
        self.folder = folder
        self.remote = folder / "archive"
        self.remote.mkdir(parents=True, exist_ok=True)
        self.publisher = Metadir(folder / "publisher", remote=self.remote)
        self.client = MetadirResource(path=str(folder / resource), remote=str(self.remote))
        self.resources: dict[str, Any] = {resource: self.client}
        self.instance = dg.DagsterInstance.ephemeral()

    def publish(self, *documents: Mapping[str, Any], store: Mapping[str, Any] | None = None) -> int:
        """Publish documents, new or changed ones, and store values as one revision; return its number.

        A document's `content` is put into the archive under its `file_name`, and not published.
        """
        rows = []
        for document in documents:
            row = {name: value for name, value in document.items() if name != "content"}
            if "content" in document:
                row.setdefault("file_name", f"{row['content_hash']}.bin")
                path = self.remote / str(row["file_name"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(document["content"])
            rows.append(row)
        self.publisher.pull()
        if rows:
            self.publisher.files.upsert_many(rows)
        for key, value in (store or {}).items():
            self.publisher.store[key] = value
        return self.publisher.push().revision

    def delete(self, *keys: str | int) -> int:
        """Publish that documents are deleted; return the revision."""
        self.publisher.pull()
        self.publisher.files.delete(**{self.publisher.config.unique: list(keys)})
        return self.publisher.push().revision

    def tick(self, sensor: dg.SensorDefinition) -> list[dg.RunRequest] | str:
        """Evaluate a sensor once; return what it asks for, or why it asks for nothing.

        Materializations that it reports are recorded.
        """
        context = dg.build_sensor_context(self.instance, resources=self.resources)
        found = sensor.evaluate_tick(context)
        for event in found.asset_events:
            self.instance.report_runless_asset_event(event)
        if found.run_requests or found.asset_events:
            return list(found.run_requests or ())
        return found.skip_message or ""

    def run(
        self, defs: dg.Definitions, job: str, request: dg.RunRequest | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run a job in this process, for a request of a sensor's or by hand; a failure is in the result."""
        tags = dict(request.tags) if request is not None else {}
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, tags=tags, resources=self.resources, raise_on_error=False
        )

    def materialize(
        self, assets: Iterable[dg.AssetsDefinition], *, run_config: Mapping[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Materialize assets in this process; a failure is in the result."""
        chosen: Sequence[dg.AssetsDefinition] = list(assets)
        return dg.materialize(
            chosen,
            instance=self.instance,
            resources=self.resources,
            run_config=dict(run_config or {}),
            raise_on_error=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.publisher.close()
        self.instance.dispose()
