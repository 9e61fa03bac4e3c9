from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import boto3
import pytest
from postgres import ON_POSTGRES, Postgres, running

HERE = Path(__file__).parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job, whose children would not hear Ctrl-C either; tests send it to theirs.
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("test_dagster_example.py", "test_dagster_components.py", "test_concurrency.py", "test_s3.py")
"""Files that take longest; begun first, so that no process still works on one when the others have nothing to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what stays to the end: thousands of tests, and Dagster."""
    gc.collect()
    gc.freeze()


S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test-access",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

Scrape: TypeAlias = Callable[..., Path]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither this machine's settings of mmmeta nor its AWS account are seen by a test."""
    for name in list(os.environ):
        if name.startswith(("MMMETA", "AWS_")):
            monkeypatch.delenv(name)
    # The tests' web servers are on loopback, where no publisher leads a client unless that allows it.
    monkeypatch.setenv("MMMETA_ALLOW_HOSTS", "127.0.0.0/8,::1,localhost")
    nowhere = tmp_path_factory.getbasetemp() / "no-aws"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere))
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server on loopback."""
    with running() as server:
        yield server


if ON_POSTGRES:
    sys.path.insert(0, str(HERE / "on_postgres"))
    import sitecustomize

    importlib.reload(sitecustomize)

    @pytest.fixture(scope="session", autouse=True)
    def _all_states_on_postgres(postgres: Postgres) -> Iterator[None]:
        os.environ["TEST_POSTGRES"] = postgres.url().partition("?")[0]
        os.environ["PYTHONPATH"] = str(HERE / "on_postgres")
        yield
        del os.environ["TEST_POSTGRES"], os.environ["PYTHONPATH"]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server on loopback."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | S3_ENVIRONMENT
    server = subprocess.Popen(
        [sys.executable, str(HERE / "s3server.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


@pytest.fixture(scope="session")
def s3_client(s3_endpoint: str) -> Iterator[Any]:
    """boto3's own client for the server, to look behind the scenes with: made once, since that takes long."""
    session = boto3.session.Session(
        S3_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        S3_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        region_name=S3_ENVIRONMENT["AWS_DEFAULT_REGION"],
    )
    client = session.client("s3", endpoint_url=s3_endpoint)
    yield client
    client.close()


@pytest.fixture
def bucket(s3_client: Any) -> str:
    """The name of a new empty bucket."""
    name = f"archive-{uuid.uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["folder", "s3"])
def remote_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty remote: once a folder, once a prefix in a bucket."""
    if request.param == "folder":
        folder = tmp_path / "remote"
        folder.mkdir()
        return str(folder)
    name, endpoint = request.getfixturevalue("bucket"), request.getfixturevalue("s3_endpoint")
    return f"s3://{name}/some/archive?endpoint={endpoint}"


@pytest.fixture
def scrape(tmp_path: Path) -> Scrape:
    """Write a metadata file below `tmp_path/documents`, as a scraper does: scrape("a/1", title="x")."""

    def write(name: str, /, **values: Any) -> Path:
        path = tmp_path / "documents" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        values.setdefault("content_hash", name)
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    return write
