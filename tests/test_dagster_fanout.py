"""A pipeline whose documents are done by many steps: in this process, and in several that are killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from fanned import job

from mmmeta_core.files import File
from mmmeta_dagster import MetadirResource, Pipeline, Spread, client_assets
from mmmeta_dagster.testing import ThrowawayArchive


@pytest.fixture
def archive(tmp_path: Path) -> Any:
    with ThrowawayArchive(tmp_path) as archive:
        yield archive


def rows(count: int) -> list[dict[str, Any]]:
    return [{"content_hash": f"{number:03}", "even": number % 2 == 0} for number in range(count)]


def of_asset(result: dg.ExecuteInProcessResult | dg.JobExecutionResult, name: str) -> dict[str, Any]:
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey([name])]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def steps_of(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> list[str]:
    return sorted(e.step_key for e in result.all_events if e.is_step_success and e.step_key)


def test_shares_are_done_by_steps(archive: ThrowawayArchive) -> None:
    done: list[str] = []

    def note(file: File) -> None:
        done.append(file["content_hash"])

    assets = client_assets(
        "client", process={"imported": Pipeline(note, spread=Spread(documents=3, steps=2))}
    )
    archive.publish(*rows(8))
    first = archive.materialize(assets)
    assert first.success
    assert steps_of(first) == [
        "imports.imports__finish",
        "imports.imports__plan",
        "imports.imports__work[0000]",
        "imports.imports__work[0001]",
        "sync",
        "update",
    ]
    told = of_asset(first, "imports")
    assert (told["mmmeta/processed"], told["mmmeta/failed"], told["mmmeta/left"]) == (6, 0, 2)
    second = archive.materialize(assets)
    assert of_asset(second, "imports")["mmmeta/processed"] == 2
    third = archive.materialize(assets)
    assert len(steps_of(third)) == 4
    assert of_asset(third, "imports")["dagster/row_count"] == 8
    assert done == [row["content_hash"] for row in rows(8)]


def test_the_launchpad_takes_what_it_takes_for_any_pipeline(archive: ThrowawayArchive) -> None:
    calls: list[str] = []

    def fail_at_odd(file: File) -> None:
        calls.append(file["content_hash"])
        if not file["even"]:
            raise ValueError("odd")

    assets = client_assets("client", process={"imported": Pipeline(fail_at_odd, spread=Spread(documents=2))})
    archive.publish(*rows(6))

    def run(**config: Any) -> dict[str, Any]:
        result = archive.materialize(assets, run_config={"ops": {"imports": {"config": config}}})
        (check,) = result.get_asset_check_evaluations()
        told = of_asset(result, "imports")
        return {**told, "check": check.passed, "calls": len(calls)}

    dry = run(dry_run=True)
    assert (dry["mmmeta/left"], dry["check"], dry["calls"]) == (6, True, 0)
    limited = run(limit=1)
    assert (limited["mmmeta/processed"], limited["mmmeta/left"], limited["calls"]) == (1, 5, 1)
    filtered = run(filters={"even": False})
    assert (filtered["mmmeta/failed"], filtered["mmmeta/left"], filtered["check"]) == (3, 3, False)
    rest = run()
    assert (rest["mmmeta/processed"], rest["mmmeta/left"], rest["calls"]) == (2, 3, 6)
    again = run(retry_failed=True)
    assert (again["mmmeta/failed"], again["calls"]) == (3, 9)


FORKED = {"forkserver": {"preload_modules": ["fanned"]}}
EXECUTORS: dict[str, Any] = {
    "multiprocess": {"max_concurrent": 2, "start_method": FORKED},
    "in_process": {},
}


@pytest.fixture
def run(archive: ThrowawayArchive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Run the job of fanned.py, whose client has 12 documents to do, with an instance that processes can share."""
    archive.publish(*rows(12))
    with archive.client.open() as metadir:
        metadir.sync()
    # What does the work is another machine: it has an empty folder, and the state db.
    folder = archive.folder
    places = {"FOLDER": folder, "METADIR": folder / "machine", "REMOTE": archive.remote}
    for name, path in {**places, "STATE": metadir.paths.state}.items():
        monkeypatch.setenv(f"FANNED_{name}", str(path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with dg.instance_for_test(temp_dir=str(folder)) as instance:

        def run(executor: str, after: str | None = None) -> tuple[dg.JobExecutionResult, dict[str, Any]]:
            options = dg.ReexecutionOptions.from_failure(after, instance) if after else None
            config = {"execution": {"config": {executor: EXECUTORS[executor]}}}
            with dg.execute_job(
                dg.reconstructable(job), instance, run_config=config, reexecution_options=options
            ) as result:
                return result, of_asset(result, "imports") if result.success else {}

        yield run


def handled(archive: ThrowawayArchive) -> Counter[str]:
    return Counter((archive.folder / "handled").read_text().split())


def test_processes_are_killed_and_every_document_is_done(archive: ThrowawayArchive, run: Any) -> None:
    for key in ("001", "007"):
        (archive.folder / f"dies-at-{key}").touch()
    result, told = run("multiprocess")
    assert result.success
    assert (told["mmmeta/processed"], told["mmmeta/left"]) == (12, 0)
    assert sum(event.is_step_restarted for event in result.all_events) == 2
    counts = handled(archive)
    assert sorted(counts) == [row["content_hash"] for row in rows(12)]
    # What a killed process had in hand is a chunk of two, of which it had noted all up to where it died.
    assert {key for key, count in counts.items() if count > 1} == {"000", "001", "007"}
    assert not (archive.folder / "machine" / "_mmmeta" / "meta.db").exists()


def test_a_run_that_retries_another_does_the_rest(archive: ThrowawayArchive, run: Any) -> None:
    (archive.folder / "stops-at-006").touch()
    first, _ = run("in_process")
    assert not first.success
    second, told = run("in_process", after=first.run_id)
    assert second.success
    assert steps_of(second) == ["imports.imports__finish", "imports.imports__work[0001]"]
    assert (told["mmmeta/processed"], told["mmmeta/left"]) == (12, 0)
    assert {key for key, count in handled(archive).items() if count > 1} == {"006"}


def test_an_update_follows_a_sync_on_another_machine(archive: ThrowawayArchive) -> None:
    archive.publish(*rows(3))
    assets = client_assets("client")
    other = MetadirResource(
        path=str(archive.folder / "other"),
        remote=str(archive.remote),
        state_db=str(archive.folder / "state.db"),
    )
    for resource, asset in ((archive.client, "sync"), (other, "update")):
        result = dg.materialize(
            assets, instance=archive.instance, resources={"client": resource}, selection=[asset]
        )
    assert of_asset(result, "update")["mmmeta/added"] == 3
