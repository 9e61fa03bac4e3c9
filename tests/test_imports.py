"""What is loaded when, and what the packages offer."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PUBLIC = {
    "mmmeta_core": [
        "CatalogError",
        "ColumnError",
        "ConfigError",
        "ConflictError",
        "DocumentError",
        "FileError",
        "HistoryError",
        "Insight",
        "LogError",
        "Metadir",
        "MmmetaError",
        "Poll",
        "ReadOnlyColumnError",
        "RefusedError",
        "RemoteDeniedError",
        "RemoteError",
        "RemoteNotFoundError",
        "RemoteUnreachableError",
        "SignatureError",
        "Status",
        "StoreError",
        "StoreKeyError",
        "SyncResult",
        "UnavailableError",
        "into_database",
        "mmmeta",
        "never",
        "run_command",
    ],
    "mmmeta_dagster": [
        "Archive",
        "Client",
        "DocumentsIOManager",
        "Downloads",
        "MetadirResource",
        "Pipeline",
        "Publisher",
        "S3Settings",
        "Spread",
        "WorkConfig",
        "archive_asset",
        "build_archive_sensor",
        "build_clients_sensor",
        "build_store_sensor",
        "client_assets",
        "freshness",
        "metadir_checks",
        "publisher_assets",
        "with_freshness",
    ],
}
HEAVY = {"cryptography", "dagster", "pandas", "boto3", "botocore", "dataset", "sqlalchemy"}

VERBS = """
from mmmeta_core import mmmeta
publisher = mmmeta("publisher", files_root="archive", remote="archive")
publisher.pull(); publisher.generate(); publisher.push()
client = mmmeta("client", remote="archive")
client.store["key"] = 1
client.pull(); client.update()
assert (client.poll().changed, client.inspect().files, client.state_revision) == (False, 1, 1)
"""
COMMAND = """
import sys
from mmmeta_core.cli import main
sys.argv[1:] = {arguments!r}
try:
    main()
except SystemExit as end:
    assert not end.code
"""
HELP = COMMAND.format(arguments=["-q", "--help"])
QUICK = {"click", "dataclasses", "logging", "orjson", "pathlib", "shutil", "sqlite3", "mmmeta_core.errors"}
REMOTES = {f"mmmeta_core.remotes.{name}" for name in ("http", "local", "s3", "web")}
VERBS_OWN = {
    *(
        f"mmmeta_core.{name}"
        for name in ("changelog", "head", "plain_yaml", "remotes", "signing", "sources", "store")
    ),
    *(
        f"mmmeta_core.{name}"
        for name in ("database.state", "database.work", "standing", "sync.pull", "update")
    ),
    *(f"mmmeta_core.{name}" for name in ("cli.work", "legacy.catalog", "legacy.state")),
}
"""Of ours what `generate` has no use for, and what no use of one remote has for another."""
STANDARD = {"csv", "difflib", "email", "gzip", "hashlib", "secrets", "shutil", "socket", "tempfile"}
"""Modules of Python that take a millisecond or more to load."""


def loaded(code: str, folder: Path) -> set[str]:
    """Run code in a process of its own; return the names of the modules that are loaded at its end."""
    report = "import sys; names = sorted(sys.modules); import json; print(); print(json.dumps(names))"
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-c", f"{code}\n{report}"]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import mmmeta_core", HEAVY | {"yaml", "orjson", "click", "sqlite3"}),
        ("from mmmeta_core import mmmeta, MmmetaError", HEAVY | {"click"}),
        (VERBS, HEAVY | {"click"}),
        (VERBS, REMOTES - {"mmmeta_core.remotes.local"} | {"yaml", "mmmeta_core.legacy.catalog"}),
        (HELP, HEAVY | {"yaml", "mmmeta_core.metadir"}),
        (COMMAND.format(arguments=["--help"]), HEAVY | QUICK),
        (COMMAND.format(arguments=["--version"]), HEAVY | QUICK),
        (COMMAND.format(arguments=["--files-root", "archive", "generate"]), HEAVY | STANDARD | VERBS_OWN),
        (
            COMMAND.format(arguments=["--remote", "archive", "pull"]),
            HEAVY | REMOTES - {"mmmeta_core.remotes.local"},
        ),
    ],
    ids=[
        "the package",
        "its class",
        "the verbs with a folder as remote",
        "the verbs with a folder as remote, of ours",
        "the help as click prints it",
        "the help",
        "the version",
        "the command generate",
        "the command pull",
    ],
)
def test_nothing_is_loaded_that_is_not_needed(tmp_path: Path, code: str, unwanted: set[str]) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.json").write_text('{"content_hash": "a"}')
    assert sorted(loaded(code, tmp_path) & unwanted) == []


def test_the_core_never_loads_dagster_also_where_it_loads_all_the_rest(tmp_path: Path) -> None:
    code = 'from mmmeta_core import mmmeta\nm = mmmeta(".")\nm.store["key"] = 1\nassert list(m.files) == []'
    names = loaded(code, tmp_path)
    assert {"dataset", "sqlalchemy"} <= names
    assert not names & {"dagster", "pandas", "boto3", "mmmeta_dagster"}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_offers_exactly_these_names(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == PUBLIC[package]
    assert set(PUBLIC[package]) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in PUBLIC[package])


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    import mmmeta_core

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mmmeta_core.nothing  # noqa: B018 - the access is the test
    assert mmmeta_core.mmmeta is mmmeta_core.Metadir
