"""Across deployments: the archive as an external asset, its sensor, and documents as DataFrames; what runs can be told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas
import pytest
from conftest import Scrape
from dagster_aws.s3 import S3Resource

from mmmeta_core import Metadir, mmmeta
from mmmeta_core.files import File
from mmmeta_dagster import (
    DocumentsIOManager,
    MetadirResource,
    Pipeline,
    S3Settings,
    archive_asset,
    build_archive_sensor,
    build_store_sensor,
    client_assets,
    publisher_assets,
)

ARCHIVE = dg.AssetKey(["city", "remote"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture
def publisher(tmp_path: Path, remote_url: str) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "publisher", remote=remote_url) as m:
        yield m


@pytest.fixture
def client(tmp_path: Path, remote_url: str) -> MetadirResource:
    return MetadirResource(path=str(tmp_path / "client"), remote=remote_url)


def publish(publisher: Metadir, *keys: str, **values: Any) -> None:
    publisher.files.upsert_many([{"content_hash": key, **values} for key in keys])
    publisher.push()


def tick(instance: dg.DagsterInstance, sensor: dg.SensorDefinition, client: MetadirResource) -> Any:
    return sensor.evaluate_tick(dg.build_sensor_context(instance, resources={"client": client}))


def test_each_revision_is_reported_once(
    instance: dg.DagsterInstance, publisher: Metadir, client: MetadirResource
) -> None:
    sensor = build_archive_sensor("seen", "client", ARCHIVE)
    assert "has no revision yet" in tick(instance, sensor, client).skip_message
    for revision in (1, 2):
        publish(publisher, f"d{revision}")
        (event,) = tick(instance, sensor, client).asset_events
        assert event.asset_key == ARCHIVE
        assert event.tags == {"dagster/data_version": str(revision)}
        assert event.metadata["mmmeta/revision"].value == revision
        assert event.metadata["mmmeta/remote_last_updated"].value == pytest.approx(
            publisher.store["remote_last_updated"].timestamp()
        )
        instance.report_runless_asset_event(event)
        assert f"revision {revision} of" in tick(instance, sensor, client).skip_message


def test_what_the_publisher_reported_here_is_not_reported_again(
    instance: dg.DagsterInstance, tmp_path: Path, client: MetadirResource, remote_url: str, scrape: Scrape
) -> None:
    scrape("a")
    resource = MetadirResource(
        path=str(tmp_path / "p"), files_root=str(tmp_path / "documents"), remote=remote_url
    )
    assets = publisher_assets("publisher", key_prefix="city")
    assert dg.materialize(assets, instance=instance, resources={"publisher": resource}).success
    assert "is known" in tick(instance, build_archive_sensor("seen", "client", ARCHIVE), client).skip_message


@pytest.mark.filterwarnings("ignore:Parameter `include_sources`")  # Dagster's own, on the way through it
def test_eager_clients_run_when_the_sensor_has_seen_a_revision(
    instance: dg.DagsterInstance, publisher: Metadir, client: MetadirResource
) -> None:
    condition = dg.AutomationCondition.eager()
    assets = [
        asset.map_asset_specs(lambda spec: spec.replace_attributes(automation_condition=condition))
        for asset in client_assets("client", archive=ARCHIVE, key_prefix="client")
    ]
    sensor = build_archive_sensor("seen", "client", ARCHIVE)
    defs = dg.Definitions(
        assets=[archive_asset(ARCHIVE), *assets], sensors=[sensor], resources={"client": client}
    )
    first = dg.evaluate_automation_conditions(defs, instance)
    publish(publisher, "a")
    (event,) = tick(instance, sensor, client).asset_events
    instance.report_runless_asset_event(event)
    seen = dg.evaluate_automation_conditions(defs, instance, cursor=first.cursor)
    assert seen.get_num_requested(dg.AssetKey(["client", "sync"])) == 1
    again = dg.evaluate_automation_conditions(defs, instance, cursor=seen.cursor)
    assert again.get_num_requested(dg.AssetKey(["client", "sync"])) == 0


def test_lineage_joins_what_two_code_locations_say() -> None:
    there = dg.Definitions(
        assets=publisher_assets("p", key_prefix="city"), resources={"p": MetadirResource(path="p")}
    )
    here = dg.Definitions(
        assets=[archive_asset(ARCHIVE), *client_assets("c", archive=ARCHIVE)],
        resources={"c": MetadirResource(path="c")},
    )
    assert there.resolve_asset_graph().get(ARCHIVE).is_materializable
    assert not here.resolve_asset_graph().get(ARCHIVE).is_materializable
    assert dg.AssetKey("sync") in here.resolve_asset_graph().get(ARCHIVE).child_keys


def test_a_sensor_on_several_keys_starts_for_any_of_them(
    instance: dg.DagsterInstance, publisher: Metadir, client: MetadirResource
) -> None:
    assets = client_assets("client")
    job = dg.define_asset_job("update_job", assets)
    sensor = build_store_sensor("watch", "client", job, key=["contracts_at", "letters_at"])
    defs = dg.Definitions(assets=assets, jobs=[job], sensors=[sensor], resources={"client": client})
    publish(publisher, "a")
    assert "no contracts_at, letters_at yet" in tick(instance, sensor, client).skip_message
    for key in ("letters_at", "contracts_at", "letters_at"):
        publisher.touch(key)
        publisher.push()
        (request,) = tick(instance, sensor, client).run_requests
        done = defs.resolve_job_def("update_job").execute_in_process(
            instance=instance, tags=dict(request.tags)
        )
        assert done.success
        assert "nothing new" in tick(instance, sensor, client).skip_message


def imports(client: MetadirResource, handler: Any, **config: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        client_assets("client", process={"imported": Pipeline(handler)}),
        resources={"client": client},
        run_config={"ops": {"imports": {"config": config}}},
        raise_on_error=False,
    )


def metadata_of(result: dg.ExecuteInProcessResult, *key: str) -> dict[str, Any]:
    events = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(key)]
    return {name: value.value for name, value in events[0].materialization.metadata.items()}


def test_the_launchpad_limits_filters_retries_and_asks(publisher: Metadir, client: MetadirResource) -> None:
    publish(publisher, "a", "b", "c", kind="x")
    publish(publisher, "d", kind="y")
    seen: list[object] = []

    def handler(file: File) -> None:
        seen.append(file.key)
        if file.key == "b" and len(seen) < 4:
            raise ValueError("not yet")

    dry = metadata_of(imports(client, handler, dry_run=True), "imports")
    assert (dry["mmmeta/left"], dry["mmmeta/dry_run"], seen) == (4, True, [])
    assert metadata_of(imports(client, handler, limit=1), "imports")["mmmeta/processed"] == 1
    some = metadata_of(imports(client, handler, filters={"kind": "x"}), "imports")
    assert (some["mmmeta/processed"], some["mmmeta/failed"]) == (1, 1)
    assert metadata_of(imports(client, handler, filters={"kind": "x"}), "imports")["mmmeta/processed"] == 0
    retried = metadata_of(imports(client, handler, retry_failed=True), "imports")
    assert retried["mmmeta/processed"] == 2
    assert seen == ["a", "b", "c", "b", "d"]


def test_what_an_update_shows(publisher: Metadir, client: MetadirResource) -> None:
    publish(publisher, *"abcdefg", title="x" * 100, pages=3, tags=["a"])
    done = metadata_of(imports(client, lambda file: None), "update")
    assert done["dagster/row_count"] == 7
    assert done["dagster/table_name"] == "files"
    schema = {column.name: column.type for column in done["dagster/column_schema"].columns}
    assert schema == {"content_hash": "string", "pages": "int", "tags": "json", "title": "string"}
    newest = [record.data for record in getattr(done["mmmeta/newest"], "records", done["mmmeta/newest"])]
    assert len(newest) == 5
    assert newest[0]["pages"] == 3
    assert len(newest[0]["title"]) == 60
    assert done["mmmeta/added_by_day"].startswith("![documents added, by day](data:image/svg+xml;base64,")


def test_a_remote_that_does_not_answer_is_tried_again_by_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("mmmeta_dagster.common._RETRY_SECONDS", 0)
    client = MetadirResource(
        path=str(tmp_path / "client"), remote="s3://bucket/x?endpoint=http://127.0.0.1:9"
    )
    result = dg.materialize(client_assets("client"), resources={"client": client}, raise_on_error=False)
    assert not result.success
    kinds = [event.event_type_value for event in result.all_events if event.step_key == "sync"]
    assert kinds.count("STEP_UP_FOR_RETRY") == 2


@pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run")  # Dagster's own, for nested resources
def test_an_asset_takes_documents_as_a_data_frame(publisher: Metadir, client: MetadirResource) -> None:
    publish(publisher, "a", "b", document_type="contract", pages=2)
    publish(publisher, "c", document_type="letter", pages=3)
    came: list[pandas.DataFrame] = []

    @dg.asset(
        ins={
            "contracts": dg.AssetIn(
                ["client", "update"],
                input_manager_key="documents",
                metadata={"filters": {"document_type": "contract"}, "columns": ["content_hash", "pages"]},
            )
        }
    )
    def pages(contracts: pandas.DataFrame) -> int:
        came.append(contracts)
        return int(contracts["pages"].sum())

    result = dg.materialize(
        [*client_assets("client", key_prefix="client"), pages],
        resources={"client": client, "documents": DocumentsIOManager(metadir=client)},
    )
    assert result.output_for_node("pages") == 4
    assert list(came[0].columns) == ["content_hash", "pages"]
    assert str(came[0]["pages"].dtype) == "Int64"
    loaded = [event for event in result.all_events if event.event_type_value == "LOADED_INPUT"]
    assert json.dumps(loaded[0].event_specific_data.metadata["dagster/row_count"].value) == "2"


def test_a_backfill_goes_by_month(publisher: Metadir, client: MetadirResource) -> None:
    for month, key in (("2026-01", "a"), ("2026-02", "b")):
        publish(publisher, key, retrieved_at=f"{month}-15T00:00:00Z")
    seen: list[object] = []

    def within(month: str) -> dict[str, Any]:
        return {"retrieved_at": {"startswith": month[:7]}}

    months = dg.MonthlyPartitionsDefinition(start_date="2026-01-01")
    assets = client_assets(
        "client",
        process={"imported": Pipeline(lambda file: seen.append(file.key), within, partitions_def=months)},
    )
    for month in ("2026-02-01", "2026-01-01"):
        result = dg.materialize(assets, resources={"client": client}, partition_key=month)
        assert metadata_of(result, "imports")["mmmeta/processed"] == 1
    assert seen == ["b", "a"]


def test_settings_of_a_bucket_come_from_the_resource_that_a_deployment_has(
    publisher: Metadir, s3_endpoint: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE_SECRET", "not-shown")
    theirs = S3Resource(
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key=dg.EnvVar("ARCHIVE_SECRET"),
    )
    resource = MetadirResource(
        path=str(tmp_path / "one"), remote=f"s3://{bucket}/x", s3=S3Settings.from_resource(theirs)
    )
    assert "not-shown" not in repr(resource)
    result = dg.materialize(client_assets("client"), resources={"client": resource})
    assert metadata_of(result, "sync")["mmmeta/segments"] == 0
