from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    from spread import servers

    with servers.postgres() as url:
        yield url


@pytest.fixture
def database(postgres_url: str) -> str:
    """The URL of an empty database, as libpq takes it."""
    import psycopg2

    name = f"d{uuid.uuid4().hex[:12]}"
    with closing(psycopg2.connect(f"{postgres_url}/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
    return f"{postgres_url}/{name}"
