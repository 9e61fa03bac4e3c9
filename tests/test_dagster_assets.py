"""The assets of both roles, materialized for real: folders, SQLite, a bucket on loopback."""

from __future__ import annotations

import base64
import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import Scrape

from mmmeta_core import mmmeta
from mmmeta_core.files import File
from mmmeta_dagster import (
    Downloads,
    MetadirResource,
    Pipeline,
    S3Settings,
    WorkConfig,
    client_assets,
    publisher_assets,
)

ARCHIVE = dg.AssetKey(["archive", "remote"])


def metadata_of(result: dg.ExecuteInProcessResult, *key: str) -> dict[str, Any]:
    events = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(key)]
    assert len(events) == 1
    return {name: value.value for name, value in events[0].materialization.metadata.items()}


def rows_of(table: Any) -> list[Any]:
    return [record.data for record in getattr(table, "records", table)]


def publish(tmp_path: Path, remote: str, **flags: bool) -> dg.ExecuteInProcessResult:
    resource = MetadirResource(
        path=str(tmp_path / "publisher"), files_root=str(tmp_path / "documents"), remote=remote
    )
    return dg.materialize(
        publisher_assets("archive", key_prefix="archive", **flags), resources={"archive": resource}
    )


def test_a_publisher_and_a_client(tmp_path: Path, remote_url: str, scrape: Scrape) -> None:
    scrape("a", title="A", document_type="contract")
    scrape("b", title="B", document_type="letter")
    imported: list[str] = []

    published = metadata_of(publish(tmp_path, remote_url), "archive", "remote")
    assert (published["mmmeta/documents"], published["mmmeta/revision"], published["dagster/row_count"]) == (
        2,
        1,
        2,
    )

    def note(file: File) -> None:
        imported.append(file["title"])

    assets = client_assets(
        "client",
        archive=ARCHIVE,
        key_prefix="client",
        process={"imported": Pipeline(note, {"document_type": "contract"})},
    )
    resources = {"client": MetadirResource(path=str(tmp_path / "client"), remote=remote_url)}
    first = dg.materialize(assets, resources=resources)
    assert metadata_of(first, "client", "sync")["mmmeta/segments"] == 1
    assert metadata_of(first, "client", "update")["mmmeta/added"] == 2
    done = metadata_of(first, "client", "imports")
    assert (done["mmmeta/processed"], done["dagster/row_count"]) == (1, 1)

    again = dg.materialize(assets, resources=resources)
    assert metadata_of(again, "client", "sync")["mmmeta/segments"] == 0
    assert metadata_of(again, "client", "imports")["mmmeta/processed"] == 0
    assert imported == ["A"]


def test_what_a_materialization_tells_is_stored_once(tmp_path: Path, scrape: Scrape) -> None:
    (tmp_path / "remote").mkdir()
    scrape("a")
    result = publish(tmp_path, str(tmp_path / "remote"))
    outputs = [event.step_output_data for event in result.all_events if event.is_successful_output]
    assert [output.metadata for output in outputs] == [{}, {}, {}]
    assert metadata_of(result, "archive", "remote")["mmmeta/documents"] == 1


def test_downloads(tmp_path: Path, scrape: Scrape) -> None:
    remote_url = str(tmp_path / "remote")
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "x.pdf").write_bytes(b"%PDF")
    scrape("a", file_name="x.pdf", document_type="contract")
    scrape("b", file_name="gone.pdf", document_type="contract")
    publish(tmp_path, remote_url)
    assets = client_assets(
        "client", downloads=Downloads(str(tmp_path / "contracts"), {"document_type": "contract"})
    )
    resources = {"client": MetadirResource(path=str(tmp_path / "client"), remote=remote_url)}
    result = dg.materialize(assets, resources=resources)
    metadata = metadata_of(result, "downloads")
    assert (metadata["mmmeta/downloaded"], metadata["mmmeta/failed"]) == (1, 1)
    assert (tmp_path / "contracts" / "x.pdf").read_bytes() == b"%PDF"
    (failure,) = rows_of(metadata["mmmeta/failures"])
    assert "gone.pdf" in str(failure["error"])


def test_lineage_runs_from_the_remote_to_every_client() -> None:
    publisher = publisher_assets("p", key_prefix=["city", "p"], group_name="city")
    clients = [
        *client_assets("one", archive=["city", "p", "remote"], key_prefix="one"),
        *client_assets("two", archive=["city", "p", "remote"], key_prefix="two"),
    ]
    graph = dg.Definitions(
        assets=[*publisher, *clients],
        resources={name: MetadirResource(path=name) for name in ("p", "one", "two")},
    ).resolve_asset_graph()
    remote = dg.AssetKey(["city", "p", "remote"])
    assert graph.get(remote).child_keys == {dg.AssetKey(["one", "sync"]), dg.AssetKey(["two", "sync"])}
    assert graph.get(remote).group_name == "city"
    assert graph.get(remote).parent_keys == {dg.AssetKey(["city", "p", "generate"])}


def test_invalid_documents_are_named_in_the_run(tmp_path: Path, scrape: Scrape) -> None:
    (tmp_path / "remote").mkdir()
    scrape("good")
    scrape("sub/bad").write_text("{")
    result = publish(tmp_path, str(tmp_path / "remote"))
    metadata = metadata_of(result, "archive", "generate")
    assert (metadata["mmmeta/added"], metadata["mmmeta/invalid"]) == (1, 1)
    assert [row["path"] for row in rows_of(metadata["mmmeta/invalid_documents"])] == ["sub/bad.json"]


def test_the_log_of_the_run_has_what_the_core_says(
    tmp_path: Path, scrape: Scrape, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "remote").mkdir()
    scrape("good")
    scrape("bad").write_text("[]")
    publish(tmp_path, str(tmp_path / "remote"))
    log = capfd.readouterr().err
    assert "invalid: bad.json" in log
    assert "published revision 1: 1 documents" in log


def test_a_document_that_fails_does_not_fail_the_run(tmp_path: Path, scrape: Scrape) -> None:
    (tmp_path / "remote").mkdir()
    for name in "abc":
        scrape(name)
    publish(tmp_path, str(tmp_path / "remote"))

    def handler(file: File) -> None:
        if file.key == "b":
            raise ValueError("no such table")

    assets = client_assets("client", process={"imported": handler})
    resources = {"client": MetadirResource(path=str(tmp_path / "client"), remote=str(tmp_path / "remote"))}
    result = dg.materialize(assets, resources=resources)
    assert result.success
    metadata = metadata_of(result, "imports")
    assert (metadata["mmmeta/processed"], metadata["mmmeta/failed"], metadata["mmmeta/left"]) == (2, 1, 1)
    (failure,) = rows_of(metadata["mmmeta/failures"])
    assert (failure["document"], failure["error"]) == ("b", "ValueError: no such table")
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == (
        "no_failed_documents",
        False,
        dg.AssetCheckSeverity.WARN,
    )
    assert check.description == "1 to be tried again, 0 set aside"


def test_deletions_reach_the_handler_and_a_check_passes(tmp_path: Path, scrape: Scrape) -> None:
    (tmp_path / "remote").mkdir()
    gone = scrape("a")
    scrape("b")
    scrape("c")
    publish(tmp_path, str(tmp_path / "remote"))
    seen: list[tuple[object, bool]] = []

    def handler(file: File) -> None:
        seen.append((file.key, file["__deleted_at"] is not None))

    assets = client_assets("client", process={"imported": Pipeline(handler, deletions=True)})
    resources = {"client": MetadirResource(path=str(tmp_path / "client"), remote=str(tmp_path / "remote"))}
    first = dg.materialize(assets, resources=resources)
    assert [check.passed for check in first.get_asset_check_evaluations()] == [True]
    gone.unlink()
    publish(tmp_path, str(tmp_path / "remote"), ensure=True)
    second = metadata_of(dg.materialize(assets, resources=resources), "imports")
    assert (second["mmmeta/processed"], second["mmmeta/deletions_handled"]) == (0, 1)
    assert seen == [("a", False), ("b", False), ("c", False), ("a", True)]


def test_filters_may_be_made_when_the_run_comes_to_them(tmp_path: Path, scrape: Scrape) -> None:
    (tmp_path / "remote").mkdir()
    scrape("a", number=1)
    scrape("b", number=2)
    publish(tmp_path, str(tmp_path / "remote"))
    wanted = {"number": 1}
    seen: list[object] = []

    def handler(file: File) -> None:
        seen.append(file.key)

    assets = client_assets("client", process={"seen": Pipeline(handler, lambda: wanted)})
    resources = {"client": MetadirResource(path=str(tmp_path / "client"), remote=str(tmp_path / "remote"))}
    wanted["number"] = 2
    dg.materialize(assets, resources=resources)
    assert seen == ["b"]


def test_a_publisher_without_metadata_files(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    where = {"path": str(tmp_path / "publisher"), "remote": str(tmp_path / "remote")}
    with mmmeta(**where) as m:
        m.files.insert(content_hash="a", title="A")
    assets = publisher_assets("archive")
    result = dg.materialize(assets, resources={"archive": MetadirResource(**where)})
    assert metadata_of(result, "remote")["mmmeta/documents"] == 1


def test_a_missing_remote_fails_the_run_with_one_sentence(tmp_path: Path) -> None:
    resources = {"client": MetadirResource(path=str(tmp_path / "client"), remote=str(tmp_path / "nowhere"))}
    result = dg.materialize(client_assets("client"), resources=resources, raise_on_error=False)
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.user_failure_data
    assert error is not None
    assert "nowhere" in str(error.description)
    assert "create it, mount it, or correct the path" in str(error.description)


def test_a_resource_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="'client' is a str, not a MetadirResource"):
        dg.materialize(client_assets("client"), resources={"client": "text"})


def test_environment_variables_are_read_when_the_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "remote").mkdir()
    resource = MetadirResource(path=dg.EnvVar("ARCHIVE_PATH"), remote=dg.EnvVar("ARCHIVE_REMOTE"))
    monkeypatch.setenv("ARCHIVE_PATH", str(tmp_path / "client"))
    monkeypatch.setenv("ARCHIVE_REMOTE", str(tmp_path / "remote"))
    result = dg.materialize(client_assets("client"), resources={"client": resource})
    assert metadata_of(result, "sync")["dagster/uri"] == (tmp_path / "remote").as_uri()


def test_settings_of_a_bucket_and_no_secret_anywhere(
    tmp_path: Path,
    bucket: str,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    scrape: Scrape,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("ARCHIVE_SECRET", "very-secret")
    scrape("a")
    resource = MetadirResource(
        path=str(tmp_path / "publisher"),
        files_root=str(tmp_path / "documents"),
        remote=f"s3://{bucket}/archive",
        s3=S3Settings(
            endpoint_url=s3_endpoint,
            region="us-east-1",
            access_key_id="someone",
            secret_access_key=dg.EnvVar("ARCHIVE_SECRET"),
        ),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            publisher_assets("archive"), resources={"archive": resource}, instance=instance
        )
        metadata = metadata_of(result, "remote")
        assert metadata["dagster/uri"] == f"s3://{bucket}/archive"
        logs = "".join(str(record) for record in instance.all_logs(result.run_id))
    assert "very-secret" not in logs + capfd.readouterr().err + str(metadata)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"very-secret" in p.read_bytes()]


def test_definitions_load_without_touching_disk_or_network(tmp_path: Path) -> None:
    """In a process of its own: the example's definitions, with an audit hook on files that are written and on sockets."""
    code = """
import sys
events = []
def hook(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        events.append((event, args[0]))
    if event in ("os.mkdir", "socket.connect", "sqlite3.connect"):
        events.append((event, args))
import dagster
sys.addaudithook(hook)
import mmmeta_dagster.definitions
from dagster import Definitions
Definitions.validate_loadable(mmmeta_dagster.definitions.defs)
print([e for e in events if "__pycache__" not in str(e)])
"""
    environment = {**os.environ, "MMMETA_EXAMPLE": str(tmp_path / "example"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "example").exists()


CANCELLED = """
import sys
from pathlib import Path
import dagster as dg
from mmmeta_dagster import MetadirResource, Pipeline, client_assets

base = Path(sys.argv[1])

def handler(file):
    with (base / "handled").open("a") as out:
        out.write(file.key + "\\n")
    if file.key == "d50":
        print("half way", flush=True)
        import time
        time.sleep(60)

dg.materialize(
    client_assets("client", process={"imported": Pipeline(handler, chunk=500)}),
    resources={"client": MetadirResource(path=str(base / "client"), remote=str(base / "remote"))},
)
"""


def test_cancelling_a_run_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    with mmmeta(tmp_path / "publisher", remote=tmp_path / "remote") as publisher:
        publisher.files.insert_many({"content_hash": f"d{n}"} for n in range(10, 99))
        publisher.push()
    run = subprocess.Popen(
        [sys.executable, "-c", CANCELLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "half way\n"
    run.send_signal(signal.SIGINT)
    assert run.wait(60) != 0
    run.stdout.close()
    handled = (tmp_path / "handled").read_text(encoding="ascii").split()
    with mmmeta(tmp_path / "client") as client:
        done = {file.key for file in client.files(imported=True)}
        assert done == set(handled) - {"d50"}
        assert client.files.process(lambda _: None).processed == 89 - len(done), "nothing is claimed any more"


def test_a_pipeline_and_downloads_can_not_have_one_mark() -> None:
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="give the pipeline another one"):
        client_assets("client", downloads=Downloads("x"), process={"downloaded": lambda _: None})


def test_a_pipeline_shows_its_backlog_run_by_run(tmp_path: Path, scrape: Scrape) -> None:
    for number in range(3):
        scrape(f"d{number}")
    (tmp_path / "remote").mkdir()
    publish(tmp_path, str(tmp_path / "remote"))
    assets = client_assets("client", process={"imported": lambda file: None})
    resources = {"client": MetadirResource(path=str(tmp_path / "client"), remote=str(tmp_path / "remote"))}
    charts = []
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(3):
            config = dg.RunConfig(ops={"imports": WorkConfig(limit=1)})
            result = dg.materialize(assets, instance=instance, resources=resources, run_config=config)
            charts.append(picture(metadata_of(result, "imports").get("mmmeta/backlog")))
    assert [values(chart) for chart in charts] == [["2"], ["2", "1"], ["2", "1", "0"]]


def test_a_pipeline_without_a_backlog_has_no_chart_of_it(tmp_path: Path, scrape: Scrape) -> None:
    scrape("a")
    (tmp_path / "remote").mkdir()
    publish(tmp_path, str(tmp_path / "remote"))
    resources = {"client": MetadirResource(path=str(tmp_path / "client"), remote=str(tmp_path / "remote"))}
    result = dg.materialize(
        client_assets("client", process={"imported": lambda file: None}), resources=resources
    )
    assert "mmmeta/backlog" not in metadata_of(result, "imports")


def picture(markdown: str | None) -> str:
    """Return the SVG that is in a chart's Markdown."""
    assert markdown is not None
    return base64.b64decode(markdown.rsplit("base64,", 1)[1].removesuffix(")")).decode()


def values(svg: str) -> list[str]:
    """Return what is written above the bars."""
    return [text for text in re.findall(r">([^<]+)</text>", svg) if text.isdigit()]


class Importer:
    def __call__(self, file: File, title: str = "") -> None: ...

    def method(self, file: File) -> None: ...


def plain(file: File) -> None: ...


@functools.wraps(plain)
def wrapped(file: File) -> None:
    plain(file)


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (plain, "plain"),
        (wrapped, "plain"),
        (Importer().method, "Importer.method"),
        (Importer(), "Importer.__call__"),
        (functools.partial(Importer(), title="x"), "Importer.__call__"),
    ],
)
def test_an_asset_links_to_the_code_of_its_handler(handler: Any, name: str) -> None:
    (spec,) = [s for s in specs_of(handler) if s.key.path == ["imports"]]
    (reference,) = spec.metadata["dagster/code_references"].code_references
    assert (reference.file_path, reference.label) == (__file__, name)
    line = Path(__file__).read_text(encoding="utf-8").splitlines()[reference.line_number - 1]
    assert f"def {name.rsplit('.')[-1]}(" in line


def test_a_handler_that_is_not_written_in_python_has_no_code_to_link_to() -> None:
    (spec,) = [s for s in specs_of(print) if s.key.path == ["imports"]]
    assert "dagster/code_references" not in spec.metadata


def specs_of(handler: Any) -> list[dg.AssetSpec]:
    assets = client_assets("client", process={"imported": handler})
    return [spec for asset in assets for spec in asset.specs]
