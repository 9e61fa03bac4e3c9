"""A publisher and a client as YAML: built in this process and materialized, and with the real `dg` command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from conftest import Scrape

from mmmeta_core.files import File
from mmmeta_dagster import Archive, Client, MetadirResource, Publisher, S3Settings, freshness
from mmmeta_dagster.components.settings import S3

ROOT = Path(__file__).parent.parent
SEEN: list[str] = []


def see(file: File) -> None:
    SEEN.append(str(file.key))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in YAML are relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    SEEN.clear()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as one:
        yield one


def load(component: type[dg.Component], text: str) -> dg.Definitions:
    loaded = component.from_attributes_dict(attributes=yaml.safe_load(text))
    return dg.build_defs_for_component(loaded)


def run(instance: dg.DagsterInstance, defs: dg.Definitions, job: str, **options: Any) -> None:
    assert defs.resolve_job_def(job).execute_in_process(instance=instance, **options).success


PUBLISHER = "{name: publisher, path: publisher, files_root: documents, remote: archive}"
CLIENT = "{name: client, path: client, remote: archive, %s}"


def publish(instance: dg.DagsterInstance, scrape: Scrape) -> None:
    """Publish a contract of today and a letter of last month."""
    for name, kind, days in (("new", "contract", 0), ("old", "letter", 30)):
        at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        scrape(name, title=name, document_type=kind, retrieved_at=at)
    Path("archive").mkdir(exist_ok=True)
    run(instance, load(Publisher, PUBLISHER), "publisher")


@pytest.mark.parametrize(
    ("filters", "seen"),
    [
        ("{}", ["new", "old"]),
        ("{document_type: contract}", ["new"]),
        ("{document_type: {in: [letter]}}", ["old"]),
        ("{retrieved_at: {since: 7 days}}", ["new"]),
        ("{retrieved_at: {before: 1 week}}", ["old"]),
        ("{retrieved_at: {since: 40 days, before: 168 hours}, title: {startswith: o}}", ["old"]),
    ],
)
def test_a_pipeline_sees_the_documents_of_its_filters(
    instance: dg.DagsterInstance, scrape: Scrape, filters: str, seen: list[str]
) -> None:
    publish(instance, scrape)
    pipelines = f"pipelines: {{seen: {{handler: '{__name__}:see', filters: {filters}}}}}"
    run(instance, load(Client, CLIENT % pipelines), "client")
    assert sorted(SEEN) == seen


def test_ages_are_counted_from_each_run_and_not_from_when_definitions_load() -> None:
    client = Client.from_attributes_dict(
        attributes=yaml.safe_load(CLIENT % "downloads: {dest: d, filters: {at: {since: 1 day}}}")
    )
    assert client.downloads is not None
    assert callable(client.downloads.filters)
    before = datetime.now(UTC)
    asked = client.downloads.filters()["at"][">="] + timedelta(days=1)
    assert before <= asked <= datetime.now(UTC)


def test_a_pipeline_is_spread_over_steps(instance: dg.DagsterInstance, scrape: Scrape) -> None:
    publish(instance, scrape)
    pipeline = f"handler: '{__name__}:see', spread: {{documents: 1, steps: 2}}, lease: 5"
    parts = f"translation: {{owners: ['team:x']}}, pipelines: {{imported: {{{pipeline}}}}}"
    defs = load(Client, CLIENT % parts)
    run(instance, defs, "client")
    assert sorted(SEEN) == ["new", "old"]
    imports = defs.resolve_asset_graph().get(dg.AssetKey(["client", "imports"]))
    assert imports.owners == ["team:x"]
    (latest,) = instance.get_run_records(limit=1)
    steps = {stats.step_key for stats in instance.get_run_step_stats(latest.dagster_run.run_id)}
    assert sum("work[" in step for step in steps) == 2


def test_documents_go_into_a_database(instance: dg.DagsterInstance, scrape: Scrape) -> None:
    publish(instance, scrape)
    into = "into: {url: 'sqlite:///imports.db', table: letters, columns: {title: name}}"
    run(instance, load(Client, CLIENT % f"pipelines: {{imported: {{{into}}}}}"), "client")
    with closing(sqlite3.connect("imports.db")) as connection:
        assert connection.execute("SELECT name FROM letters ORDER BY name").fetchall() == [("new",), ("old",)]


def test_the_trigger_runs_the_job_once_for_what_was_published(
    instance: dg.DagsterInstance, scrape: Scrape
) -> None:
    publish(instance, scrape)
    trigger = "trigger: {minimum_interval_seconds: 5, default_status: running}"
    defs = load(Client, CLIENT % f"{trigger}, pipelines: {{seen: {{handler: '{__name__}:see'}}}}")
    sensor = defs.resolve_sensor_def("client_sensor")
    assert sensor.minimum_interval_seconds == 5
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    context = dg.build_sensor_context(instance, resources=defs.resources)
    (request,) = sensor.evaluate_tick(context).run_requests or []
    run(instance, defs, "client", tags=dict(request.tags))
    assert sorted(SEEN) == ["new", "old"]
    assert "nothing new" in (sensor.evaluate_tick(context).skip_message or "")


def test_assets_are_where_the_yaml_says() -> None:
    text = """
        name: client
        path: client
        remote: archive
        archive: city/remote
        key_prefix: [eu, client]
        group_name: readers
        downloads: {dest: d}
        schedule: {cron: "0 6 * * *", timezone: Europe/Berlin, default_status: running}
        translation:
          owners: ["team:archive"]
          tags: {kept: "{{ name }}"}
          automation_condition: "{{ dg.AutomationCondition.eager() }}"
    """
    defs = load(Client, text)
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    sync = specs["eu/client/sync"]
    assert set(specs) - {"city/remote"} == {f"eu/client/{name}" for name in ("sync", "update", "downloads")}
    assert [dep.asset_key for dep in sync.deps] == [dg.AssetKey(["city", "remote"])]
    assert (sync.group_name, list(sync.owners), sync.tags["kept"]) == ("readers", ["team:archive"], "sync")
    assert sync.automation_condition == dg.AutomationCondition.eager()
    schedule = defs.resolve_schedule_def("client_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 6 * * *", "Europe/Berlin")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_a_publisher_passes_its_flags_on(instance: dg.DagsterInstance, scrape: Scrape) -> None:
    scrape("a").with_suffix(".txt").write_text("no metadata")
    Path("archive").mkdir()
    defs = load(Publisher, PUBLISHER[:-1] + ", no_meta: true, deps: [scraper/documents]}")
    run(instance, defs, "publisher")
    (spec,) = [s for s in defs.resolve_all_asset_specs() if s.key.path[-1] == "sync"]
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey(["scraper", "documents"])]
    with MetadirResource(path="publisher", remote="archive").open() as metadir:
        metadir.update()
        assert sorted(file["file_name"] for file in metadir.files.find()) == ["a.json", "a.txt"]


def test_a_secret_is_read_when_it_is_needed_and_in_no_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = """s3: {region: "{{ env.REGION }}", access_key_id: "{{ env.KEY }}", secret_access_key: "{{ env.SECRET }}"}"""
    for name, value in (("REGION", "eu-1"), ("KEY", "the-key"), ("SECRET", "the-secret")):
        monkeypatch.setenv(name, value)
    resources = load(Client, CLIENT % s3).resources or {}
    assert "the-secret" not in repr(resources)
    with dg.build_resources(resources) as built:
        found: S3Settings = built.client.s3
        assert (found.region, found.access_key_id, found.secret_access_key) == (
            "eu-1",
            "the-key",
            "the-secret",
        )


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ("pipelines: {x: {handler: nothing}}", "not of the form package.module:function"),
        ("pipelines: {x: {handler: 'no_such.module:f'}}", "there is no module 'no_such'"),
        ("pipelines: {x: {handler: 'os.path:jion'}}", "os.path has no 'jion', but 'join'"),
        ("pipelines: {x: {handler: 'os.path:sep'}}", "is a str, not a function"),
        ("pipelines: {x: {}}", "either a handler or into"),
        ("pipelines: {x: {into: {url: 'what://ever'}}}", "not one that SQLAlchemy knows"),
        ("downloads: {dest: d, filters: {a: {since: soon}}}", "'since' takes an age such as '7 days', not 'soon'"),
        ("downloads: {dest: d, filters: {a: {sinse: 1 day}}}", "there is no operator 'sinse'"),
        ("downloads: {dest: d, filters: {a: {since: 1 day, '>=': x}}}", "says '>=' twice"),
        ("downloads: {dest: '{{ env.NO_SUCH }}'}", "is the environment variable set"),
        ("translation: {key: other}", "can't change the key"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_said_when_definitions_load(attributes: str, said: str) -> None:
    with pytest.raises(Exception, match=re.escape(said)):
        load(Client, CLIENT % attributes)


def test_errors_do_not_show_a_password() -> None:
    text = "pipelines: {x: {handler: 'os.path:join', into: {url: 'postgresql://u:hidden@h/d'}}}"
    with pytest.raises(Exception, match="not both") as raised:
        load(Client, CLIENT % text)
    assert "hidden" not in str(raised.value)


ROLES = (Archive, Client, Publisher)
Role = type[Archive | Client | Publisher]
PARTS: dict[Role, list[str]] = {
    Archive: ["S3", "Freshness", "Watch"],
    Client: ["S3", "Schedule", "Checks", "Work", "Into", "Spread", "Downloads", "Trigger"],
    Publisher: ["S3", "Schedule", "Checks", "Freshness"],
}


@pytest.mark.parametrize("component", ROLES)
def test_every_field_has_a_description_and_is_in_what_is_scaffolded(component: Role, tmp_path: Path) -> None:
    schema = component.model().model_json_schema()
    ours = {name: schema["$defs"][f"{name}Model"] for name in PARTS[component]}
    assert set(ours["S3"]["properties"]) == set(S3Settings.model_fields) == set(S3.model_fields)
    text = everything(scaffolded(component, tmp_path))
    for part in (schema, *ours.values()):
        for name, field in part["properties"].items():
            assert field.get("description"), name
            assert re.search(rf"\b{name}\b", text), f"{name} is not in the scaffolded file"


def scaffolded(component: Role, folder: Path) -> str:
    request = dg.ScaffoldRequest(
        type_name=f"mmmeta_dagster.{component.__name__}",
        target_path=folder / "my-archive",
        scaffold_format="yaml",
        project_root=None,
        params=None,
    )
    request.target_path.mkdir()
    scaffolder: Any = component
    scaffolder.__scaffolder_cls__().scaffold(request)
    return (request.target_path / "defs.yaml").read_text()


def everything(text: str) -> str:
    """Return a scaffolded file with nothing commented out."""
    return re.sub(r"^( +)# ", r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("component", ROLES)
@pytest.mark.parametrize("whole", [False, True])
def test_what_is_scaffolded_loads_also_with_all_that_is_commented_out(
    component: Role, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = scaffolded(component, tmp_path)
    attributes = yaml.safe_load(everything(text) if whole else text)["attributes"]
    assert attributes["name"] == "my_archive"
    dg.Definitions.validate_loadable(load(component, yaml.safe_dump(attributes)))


def test_what_the_docs_show_runs(
    instance: dg.DagsterInstance, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(instance, scrape)
    monkeypatch.setenv("ARCHIVE", "archive")
    monkeypatch.syspath_prepend(ROOT / "examples" / "yaml" / "src")
    docs = (ROOT / "docs" / "dagster-yaml.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", docs, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        told = yaml.safe_load(block)
        component = {role.__name__: role for role in ROLES}[told["type"].removeprefix("mmmeta_dagster.")]
        defs = load(component, yaml.safe_dump(told["attributes"]))
        dg.Definitions.validate_loadable(defs)
        if component is not Archive and "s3" not in told["attributes"]:
            run(instance, defs, told["attributes"]["name"])


def test_an_archive_is_an_asset_that_is_new_when_it_was_published(
    instance: dg.DagsterInstance, scrape: Scrape
) -> None:
    text = """{name: city, remote: archive, description: Letters., owners: ["team:archive"],
        watch: {default_status: running}, freshness: {hours: 48, warn_hours: 24}}"""
    defs = load(Archive, text)
    (spec,) = defs.resolve_all_asset_specs()
    assert (spec.key.to_user_string(), spec.group_name, spec.description) == (
        "city/remote",
        "city",
        "Letters.",
    )
    assert (list(spec.owners), spec.freshness_policy) == (["team:archive"], freshness(48, warn_hours=24))
    publish(instance, scrape)
    sensor = defs.resolve_sensor_def("city_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    context = dg.build_sensor_context(instance, resources=defs.resources)
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    (event,) = sensor.evaluate_tick(context).asset_events
    assert event.asset_key == spec.key
    assert event.metadata["mmmeta/revision"].value == 1
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_a_publishers_silence_is_watched(instance: dg.DagsterInstance) -> None:
    defs = load(Publisher, PUBLISHER[:-1] + ", freshness: {hours: 2}}")
    policies = {spec.key.path[-1]: spec.freshness_policy for spec in defs.resolve_all_asset_specs()}
    assert policies == {"sync": None, "generate": None, "remote": freshness(2)}


# --- the command line


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the example project."""
    ignored = shutil.ignore_patterns("__pycache__", "data")
    return Path(shutil.copytree(ROOT / "examples" / "yaml", tmp_path / "project", ignore=ignored))


def command(project: Path, *arguments: str, status: int = 0) -> str:
    program = Path(sys.executable).with_name("dg")
    home = project / ".dagster_home"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}")  # its notice would be in the output
    done = subprocess.run(
        [program, *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": "src", "DAGSTER_HOME": str(home), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def replace(project: Path, old: str, new: str) -> int:
    """Change the client's YAML; return the number of the line that has it."""
    path = project / "src/archive_example/defs/client/defs.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def test_dg_lists_both_components(project: Path) -> None:
    keys = [item["key"] for item in json.loads(command(project, "list", "components", "--json"))["items"]]
    assert {f"mmmeta_dagster.{role.__name__}" for role in ROLES} <= set(keys)


def test_dg_shows_the_line_of_a_typo(project: Path) -> None:
    line = replace(project, "  archive: publisher", "  archiv: publisher")
    said = command(project, "check", "yaml", status=1)
    assert f"client/defs.yaml:{line} " in said
    assert "'archiv' was unexpected" in said


def test_dg_shows_the_line_of_a_handler_that_is_not_there(project: Path) -> None:
    line = replace(project, "letters:summarize", "letters:sumarize")
    said = command(project, "check", "defs", status=1)
    assert f"client/defs.yaml:{line} " in said
    assert "archive_example.letters has no 'sumarize', but 'summarize'" in said


def test_dg_scaffolds_what_it_then_finds_in_order(project: Path) -> None:
    for role in ("Publisher", "Client"):
        command(project, "scaffold", "defs", f"mmmeta_dagster.{role}", f"other_{role.lower()}")
        assert (project / f"src/archive_example/defs/other_{role.lower()}/defs.yaml").is_file()
    assert "All definitions loaded successfully" in command(project, "check", "defs")
