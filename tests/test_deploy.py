"""The examples in deploy/: settings that Dagster takes, files that refer to what is there, definitions that run."""

from __future__ import annotations

import re
import runpy
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config_schema

from mmmeta_dagster.testing import ThrowawayArchive

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def test_dagster_takes_its_settings() -> None:
    settings = read("dagster.yaml")
    schema = dg.Shape({name: dg.Field(one, is_required=False) for name, one in _fields().items()})
    assert validate_config(schema, settings).success
    settings["concurrency"]["pools"]["limit"] = 3
    assert not validate_config(schema, settings).success


def _fields() -> dict[str, Any]:
    return {name: field.config_type for name, field in dagster_instance_config_schema().items()}


def test_the_definitions_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThrowawayArchive(tmp_path) as archive:
        archive.publish({"content_hash": "a", "title": "A"}, {"content_hash": "b", "title": "B"})
        for name, value in {
            "ARCHIVE": archive.remote,
            "MMMETA": tmp_path / "machine",
            "MMMETA_STATE_DB": tmp_path / "state.db",
            "IMPORT_INTO": f"sqlite:///{tmp_path}/imports.db",
            "EXECUTOR": "in_process",
        }.items():
            monkeypatch.setenv(name, str(value))
        defs = runpy.run_path(str(DEPLOY / "definitions.py"))["defs"]
        dg.Definitions.validate_loadable(defs)
        assert defs.resolve_job_def("client").execute_in_process(instance=archive.instance).success
    with closing(sqlite3.connect(tmp_path / "imports.db")) as imports:
        assert imports.execute("SELECT title FROM documents ORDER BY title").fetchall() == [("A",), ("B",)]


def test_what_the_image_is_made_of_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    sources = [one for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for one in line.split()]
    assert len(sources) > 8
    assert [one for one in sources if not (ROOT / one).exists()] == []
    let_in = re.findall(
        r"^!(.*)$", (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {one.split("/")[0] for one in sources} == set(let_in)


def test_services_have_what_the_files_name() -> None:
    compose = read("compose.yaml")
    services = compose["services"]
    named = set(re.findall(r'(?:env: |environ(?:\.get)?[\[(]"|EnvVar\(")(\w+)', _all_text()))
    for name in ("code", "worker", "daemon", "webserver"):
        service = services[name]
        assert set(service["depends_on"]) <= set(services)
        # MMMETA is in the image.
        assert named - set(service["environment"]) == {"MMMETA"}, name
    (server,) = read("workspace.yaml")["load_from"]
    assert server["grpc_server"]["host"] in services
    assert re.search(rf'"-p", "{server["grpc_server"]["port"]}"', (DEPLOY / "Dockerfile").read_text())
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix in (".py", ".yaml", "")]
    assert [path for path in files if f"`{path.relative_to(DEPLOY)}`" not in readme] == []


def _all_text() -> str:
    return "".join(
        (DEPLOY / name).read_text() for name in ("definitions.py", "dagster.yaml", "celery/celery.yaml")
    )
