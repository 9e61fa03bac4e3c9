"""Asset checks, run with the assets for real: folders, a bucket on loopback, an instance that keeps its event log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import Scrape

from mmmeta_core import mmmeta
from mmmeta_dagster import MetadirResource, client_assets, publisher_assets
from mmmeta_dagster.checks import freshness, metadir_checks, with_freshness

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    (tmp_path / "remote").mkdir()
    return tmp_path / "remote"


class Run:
    """A run of a role's assets and checks, and what the checks said."""

    def __init__(
        self, tmp_path: Path, instance: dg.DagsterInstance, remote: object, role: str, **options: Any
    ) -> None:
        publisher = role == "publisher"
        make = publisher_assets if publisher else client_assets
        flags = options.pop("flags", {})
        self.result = dg.materialize(
            [*make("m", key_prefix=role, **flags), *metadir_checks("m", key_prefix=role, publisher=publisher, **options)],
            instance=instance,
            resources={"m": MetadirResource(path=str(tmp_path / role), remote=str(remote),
                files_root=str(tmp_path / "documents") if publisher else None)},
            raise_on_error=False,
        )  # fmt: skip
        self.checks = {one.check_name: one for one in self.result.get_asset_check_evaluations()}
        self.assets = {
            e.asset_key.path[-1] for e in self.result.get_asset_materialization_events() if e.asset_key
        }

    def failed(self) -> dict[str, tuple[dg.AssetCheckSeverity, str | None]]:
        return {name: (one.severity, one.description) for name, one in self.checks.items() if not one.passed}


def value(check: dg.AssetCheckEvaluation, name: str) -> Any:
    return check.metadata[name].value


def test_all_checks_of_both_roles_pass_when_all_is_well(
    tmp_path: Path, instance: dg.DagsterInstance, remote_url: str, scrape: Scrape
) -> None:
    scrape("a", title="A")
    publisher = Run(tmp_path, instance, remote_url, "publisher", required_columns=["title"])
    assert publisher.result.success
    assert publisher.failed() == {}
    assert {(name, one.asset_key.path[-1]) for name, one in publisher.checks.items()} == {
        ("metadir_is_whole", "sync"),
        ("required_columns", "generate"),
        ("documents_did_not_vanish", "generate"),
        ("no_invalid_documents", "generate"),
        ("archive_matches_catalog", "remote"),
    }
    client = Run(tmp_path, instance, remote_url, "client", required_columns={"title": 1.0})
    assert client.failed() == {}
    assert {one.asset_key.path[-1] for one in client.checks.values()} == {"sync"}
    assert set(client.checks) == set(publisher.checks) - {"no_invalid_documents"}
    assert value(client.checks["archive_matches_catalog"], "segments") == 1


def test_a_metadir_that_is_not_whole_stops_what_depends_on_it(
    tmp_path: Path, instance: dg.DagsterInstance, remote: Path
) -> None:
    with mmmeta(tmp_path / "client", remote=remote) as m:
        m.sync()
    (tmp_path / "client" / "_mmmeta" / "_store").mkdir(exist_ok=True)
    (tmp_path / "client" / "_mmmeta" / "_store" / "note").write_bytes(b"\xff")
    run = Run(tmp_path, instance, remote, "client")
    assert (run.result.success, run.assets) == (False, {"sync"})
    severity, description = run.failed()["metadir_is_whole"]
    assert severity is ERROR
    assert "_store/note can't be read" in str(description)
    assert "remove it" in str(description)


def test_documents_that_are_not_in_the_archive_are_named(
    tmp_path: Path, instance: dg.DagsterInstance, remote: Path, scrape: Scrape
) -> None:
    for name in "abc":
        scrape(name, file_name=f"{name}.pdf")
    (remote / "b.pdf").touch()
    for role, options in (("publisher", {"documents": None}), ("client", {})):
        run = Run(tmp_path, instance, remote, role, **options)
        assert run.result.success, "it does not stop the run"
        assert list(run.failed()) == ["archive_matches_catalog"]
        table = value(run.checks["archive_matches_catalog"], "findings")
        rows = [record.data for record in getattr(table, "records", table)]
        assert sorted(Path(str(row["what"]).split()[0]).name for row in rows) == ["a.pdf", "c.pdf"]
        assert "and 1 more" in str(run.failed()["archive_matches_catalog"][1])


@pytest.mark.parametrize(
    ("required", "problem"),
    [
        (["title", "content_hash"], None),
        ({"title": 0.5}, None),
        ({"title": 0.51}, "1 of 2 documents have title, 51% are required"),
        (["title", "nothing"], "there is no column nothing"),
    ],
)
def test_columns_that_are_required(
    tmp_path: Path, instance: dg.DagsterInstance, remote: Path, required: Any, problem: str | None
) -> None:
    with mmmeta(tmp_path / "publisher", remote=remote) as m:
        m.files.insert_many([{"content_hash": "a", "title": "A"}, {"content_hash": "b"}])
        m.push()
    run = Run(tmp_path, instance, remote, "client", required_columns=required)
    assert run.failed().get("required_columns") == (None if problem is None else (ERROR, problem))


def test_an_archive_without_documents_passes(
    tmp_path: Path, instance: dg.DagsterInstance, remote: Path
) -> None:
    run = Run(tmp_path, instance, remote, "client", required_columns=["title"])
    assert run.result.success
    assert run.failed() == {}


def test_documents_that_vanish_are_noticed_once(
    tmp_path: Path, instance: dg.DagsterInstance, remote: Path
) -> None:
    with mmmeta(tmp_path / "publisher", remote=remote) as publisher:
        publisher.files.insert_many({"content_hash": f"k{n}"} for n in range(10))

        def run_without(*gone: int) -> dg.AssetCheckEvaluation:
            for n in gone:
                publisher.files.delete(content_hash=f"k{n}")
            publisher.push()
            run = Run(tmp_path, instance, remote, "client", min_ratio=0.6)
            assert set(run.failed()) <= {"documents_did_not_vanish"}
            return run.checks["documents_did_not_vanish"]

        found = [run_without(), run_without(0, 1, 2, 3), run_without(4, 5, 6), run_without()]
    assert [(one.passed, one.description) for one in found] == [
        (True, "nothing to compare with yet"),
        (True, "6 documents, 10 the last time"),
        (False, "3 documents, 6 the last time"),
        (True, "3 documents, 3 the last time"),
    ]
    assert found[2].severity is ERROR


def test_invalid_documents_are_a_warning(
    tmp_path: Path, instance: dg.DagsterInstance, remote: Path, scrape: Scrape
) -> None:
    scrape("good")
    scrape("bad").write_text("{")
    run = Run(tmp_path, instance, remote, "publisher")
    assert run.result.success
    assert run.failed() == {"no_invalid_documents": (WARN, "1 metadata files could not be taken")}
    assert run.assets == {"sync", "generate", "remote"}


def test_a_check_on_its_own_says_what_stops_it_in_one_sentence(
    tmp_path: Path, instance: dg.DagsterInstance, remote: Path
) -> None:
    defs = dg.Definitions(
        assets=client_assets("m"),
        asset_checks=metadir_checks("m"),
        jobs=[dg.define_asset_job("checks", dg.AssetSelection.all_asset_checks())],
        resources={"m": MetadirResource(path=str(tmp_path / "client"), remote=str(remote))},
    )
    result = defs.resolve_job_def("checks").execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    errors = [e.step_failure_data.user_failure_data for e in result.all_events if e.is_step_failure]
    assert errors
    assert all("pull, or copy one there first" in str(error.description) for error in errors if error)


def test_every_check_is_described(tmp_path: Path) -> None:
    checks = metadir_checks("m", publisher=True, required_columns={"title": 0.9})
    specs = {spec.name: spec for check in checks for spec in check.check_specs}
    assert len(specs) == 5
    assert all((spec.description or "").endswith(".") for spec in specs.values())
    assert [name for name, spec in specs.items() if spec.blocking] == ["metadir_is_whole"]
    assert "title (90% of the documents)" in str(specs["required_columns"].description)


@pytest.mark.parametrize(
    "wrong", [{"required_columns": "title"}, {"required_columns": {"title": 95}}, {"min_ratio": -1}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(dg.DagsterInvalidDefinitionError):
        metadir_checks("m", **wrong)


def test_a_silent_publisher() -> None:
    policy = freshness(24, warn_hours=12)
    assets = with_freshness(
        [*publisher_assets("m", key_prefix="p"), dg.AssetSpec("other")], ["p", "remote"], policy
    )
    graph = dg.Definitions(assets=assets, resources={"m": MetadirResource(path="p")}).resolve_asset_graph()
    policies = {key: graph.get(key).freshness_policy for key in graph.get_all_asset_keys()}
    assert policies.pop(dg.AssetKey(["p", "remote"])) == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=24), warn_window=timedelta(hours=12)
    )
    assert set(policies.values()) == {None}
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="no asset nowhere among"):
        with_freshness(publisher_assets("m"), "nowhere", policy)
