"""docs/scaling.md: its archive in several metadirs, run as it stands; and what its other blocks name is there."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import mmmeta_dagster

TEXT = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_an_archive_in_several_metadirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "scaling"}
    for block in BLOCKS[2:4]:
        exec(compile(block, "scaling.md", "exec", dont_inherit=True), names)  # noqa: S102 - it is ours
    defs: dg.Definitions = names["defs"]
    for year in ("2023", "2024"):
        (tmp_path / "archive" / year).mkdir(parents=True)
    publishing = names["Letters"](path="publisher", remote="archive")
    names["publish"](
        publishing,
        [
            {"content_hash": f"{n}", "sent_at": f"{2023 + n % 2}-05-0{n}", "title": f"t{n}"}
            for n in range(1, 6)
        ],
    )
    sensor, job = defs.resolve_sensor_def("new_letters"), defs.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:

        def tick() -> list[dg.RunRequest]:
            reading = names["Letters"](path="client", remote="archive")
            context = dg.build_sensor_context(
                instance, repository_def=defs.get_repository_def(), resources={"letters": reading}
            )
            return list(sensor.evaluate_tick(context).run_requests or [])

        requests = tick()
        assert [request.partition_key for request in requests] == ["2023", "2024"]
        for request in requests:
            assert job.execute_in_process(instance=instance, partition_key=request.partition_key).success
        assert tick() == []
        names["publish"](publishing, [{"content_hash": "9", "sent_at": "2024-01-01", "title": "t9"}])
        assert [request.partition_key for request in tick()] == ["2024"]
    with closing(sqlite3.connect("letters.db")) as letters:
        found = letters.execute("SELECT title FROM letters ORDER BY title").fetchall()
    assert found == [(f"t{n}",) for n in range(1, 6)]


def test_the_other_blocks_are_of_what_is_there() -> None:
    assert len(BLOCKS) == 4, "a new block needs a place in this test"
    names: dict[str, Any] = {name: getattr(mmmeta_dagster, name) for name in mmmeta_dagster.__all__}
    names["handler"] = lambda file: None
    exec(compile(f"pipeline = {BLOCKS[0]}", "scaling.md", "exec", dont_inherit=True), names)  # noqa: S102 - it is ours
    assert names["pipeline"].spread.steps == 100
    jobs = {f"{name}_job": dg.define_asset_job(name, "*") for name in ("berlin", "paris")}
    exec(compile(f"sensor = {BLOCKS[1]}", "scaling.md", "exec", dont_inherit=True), names | jobs)  # noqa: S102 - it is ours
