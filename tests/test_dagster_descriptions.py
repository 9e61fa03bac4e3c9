"""What Dagster's pages show of the example and of the components says what it is, for whoever never read the README."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from mmmeta_dagster import definitions
from mmmeta_dagster.components import Archive, Client, Publisher


def described(defs: dg.Definitions) -> dict[str, str | None]:
    """Return the description of everything that has one in Dagster's pages."""
    repository = defs.get_repository_def()
    graph = repository.asset_graph
    return {
        **{f"asset {key.to_user_string()}": graph.get(key).description for key in graph.get_all_asset_keys()},
        **{
            f"check {key.to_user_string()}": graph.get_check_spec(key).description
            for key in graph.asset_check_keys
        },
        **{
            f"job {job.name}": job.description
            for job in repository.get_all_jobs()
            if job.name != "__ASSET_JOB"
        },
        **{f"schedule {one.name}": one.description for one in repository.schedule_defs},
        **{f"sensor {one.name}": one.description for one in repository.sensor_defs},
        **{f"resource {name}": one.description for name, one in repository.get_top_level_resources().items()},
    }


def test_all_of_the_example_is_described() -> None:
    found = described(definitions.defs)
    assert {name.split()[0] for name in found} == {"asset", "check", "job", "schedule", "sensor", "resource"}
    assert [name for name, text in found.items() if not (text or "").strip()] == []


@pytest.mark.parametrize(
    ("component", "text"),
    [
        (Publisher, "{files_root: documents, schedule: {cron: 0 * * * *}}"),
        (
            Client,
            "{trigger: {}, schedule: {cron: 0 * * * *}, downloads: {dest: files}, "
            "pipelines: {imported: {into: {url: 'sqlite:///documents.db'}}}}",
        ),
        (Archive, "{watch: {}}"),
    ],
)
def test_all_that_a_component_makes_is_described(
    component: type[dg.Component], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attributes = {"name": "city", "remote": "archive", **yaml.safe_load(text)}
    if component is not Archive:
        attributes |= {"path": "here", "checks": {}}
    found = described(dg.build_defs_for_component(component.from_attributes_dict(attributes=attributes)))
    assert len(found) > 2
    assert [name for name, said in found.items() if not (said or "").strip()] == []
