from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from metadirs import made

from mmmeta_core import Metadir, mmmeta


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive in a folder and a client of it; closed."""
    base = tmp_path_factory.mktemp("built")
    (base / "remote").mkdir()
    made(base, str(base / "remote"))
    return base


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Iterator[Metadir]:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    with mmmeta(tmp_path / "client", remote=tmp_path / "remote") as m:
        m.download(tmp_path / "downloads", file_name="1.pdf")
        m.close()
        yield m


@pytest.fixture
def anywhere(tmp_path: Path, remote_url: str) -> Iterator[Metadir]:
    """The same in a folder and in a bucket."""
    with made(tmp_path, remote_url) as m:
        m.download(tmp_path / "downloads", file_name="1.pdf")
        m.close()
        yield m
