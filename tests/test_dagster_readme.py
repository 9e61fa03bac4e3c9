"""The README's Dagster section, run as it stands."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_definitions_of_the_readme_publish_and_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "archive"
    archive.mkdir()
    for name, days in (("new", 1), ("old", 30)):
        retrieved = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        text = f'{{"content_hash": "{name}", "retrieved_at": "{retrieved}"}}'
        (archive / f"{name}.json").write_text(text)
    imported: list[object] = []
    section = README.split("## Dagster\n", 1)[1].split("\n## ", 1)[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {
        "import_document": lambda file: imported.append(file.key),
        "datetime": datetime,
        "UTC": UTC,
        "timedelta": timedelta,
    }
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - it is ours
    defs = names["defs"]
    assert isinstance(defs, dg.Definitions)
    with dg.DagsterInstance.ephemeral() as instance:
        publisher = [asset for asset in defs.assets or [] if "publisher" in str(getattr(asset, "key", ""))]
        assert dg.materialize(publisher, instance=instance, resources=defs.resources).success
        tick = defs.resolve_sensor_def("archive_sensor").evaluate_tick(
            dg.build_sensor_context(instance, resources=defs.resources)
        )
        (request,) = tick.run_requests or []
        job = defs.resolve_job_def("import_job")
        assert job.execute_in_process(instance=instance, tags=dict(request.tags)).success
    assert imported == ["new"]
