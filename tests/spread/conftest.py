from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from postgres import Postgres

HERE = Path(__file__).parent

if find_spec("dagster_celery") is None:
    # `make test-spread` installs it; elsewhere these tests are not even read.
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.spread)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    from spread import servers

    with servers.redis() as url:
        yield url


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of an empty database, as libpq takes it."""
    import psycopg2

    name = f"d{uuid.uuid4().hex[:12]}"
    server = f"postgresql://mmmeta@127.0.0.1:{postgres.port}"
    with closing(psycopg2.connect(f"{server}/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"
