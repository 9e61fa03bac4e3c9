"""Metadirs that mmmeta 0.1.1 and 0.4.4 wrote: `tests/golden/old/make.py` says how."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import mmmeta
from mmmeta_core.errors import CatalogError
from mmmeta_core.legacy import CatalogConversion, StateConversion

OLD = Path(__file__).parent / "golden" / "old"
VERSIONS = ["0.1", "0.4", "0.4-plain"]
MARKED = {
    "imported": True,
    "note": "für mich",
    "score": 0.25,
    "tries": 2,
    "seen_at": datetime(2021, 5, 1, 10, tzinfo=UTC),
}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def copy(tmp_path: Path, version: str, role: str) -> Path:
    shutil.copytree(OLD / version / role, tmp_path / role)
    return tmp_path / role


def documents() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (OLD / "documents").iterdir()}


def publish(tmp_path: Path, version: str, *, generate: bool = True) -> Path:
    """Convert the publisher and publish to a remote; return that."""
    base, remote = copy(tmp_path, version, "publisher"), tmp_path / "remote"
    remote.mkdir()
    with mmmeta(base, files_root=OLD / "documents", remote=remote) as m:
        m.pull()
        if generate:
            m.generate()
        assert m.push().revision == 1
    return remote


def test_a_publisher_goes_on_where_the_old_one_was(tmp_path: Path, version: str) -> None:
    remote = publish(tmp_path, version)
    with mmmeta(tmp_path / "reader", remote=remote) as reader:
        reader.sync()
        found = {file.key: file for file in reader.files.find()}
        assert found.keys() >= documents().keys()
        if version != "0.4-plain":
            for key, document in documents().items():
                values = {name: value for name, value in document.items() if name != "publisher"}
                assert {name: found[key].get(name) for name in values} == values, "as the metadata files say"
        assert reader.store["new_files"] == 17
        assert "meta_last_updated" not in reader.store


def test_the_old_times_and_deletions_stay(tmp_path: Path) -> None:
    remote = publish(tmp_path, "0.4")
    with mmmeta(tmp_path / "reader", remote=remote) as reader:
        reader.sync()
        (gone,) = reader.files.find(deleted=True)
        assert (gone.key, gone["title"], gone["__deleted_reason"]) == (
            "dead",
            "Will be gone",
            "metadata file is gone",
        )
        report = json.loads((tmp_path / "publisher/_mmmeta/old-0.4/report.json").read_text())
        assert report["documents"] == 8
        unchanged = reader.files.find_one(content_hash="0099")
        assert unchanged is not None
        assert (
            unchanged["__meta_added"] < unchanged["__meta_last_updated"] < reader.store["remote_last_updated"]
        )


@pytest.mark.parametrize(("version", "imported"), [("0.1", {"b2e1", "0042", "dead"}), ("0.4", {"0042"})])
def test_what_a_client_has_imported_stays_imported(tmp_path: Path, version: str, imported: set[str]) -> None:
    remote = publish(tmp_path, version)
    with mmmeta(copy(tmp_path, version, "client"), remote=remote) as client:
        assert client.poll().changed
        client.pull()
        client.update()
        (converted,) = client.converted
        assert isinstance(converted, StateConversion)
        assert converted.columns == tuple(MARKED)
        everything = {file.key for file in client.files.find()}
        assert {file.key for file in client.files.find(imported=True)} == imported
        assert {file.key for file in client.files.find(imported=False)} == everything - imported
        for key in imported:
            file = client.files.find_one(content_hash=key)
            assert file is not None
            assert {name: file[name] for name in MARKED} == MARKED
            file["imported"] = False
            file.save()
        assert not list(client.files.find(imported=True))
        assert client.store["local_note"] == "mine"


def test_reading_an_old_metadir_says_what_to_do(tmp_path: Path, version: str) -> None:
    for role in ("publisher", "client"):
        base = copy(tmp_path, version, role)
        before = sorted(path.name for path in base.rglob("*") if not path.name.endswith(("-wal", "-shm")))
        with mmmeta(base) as m:
            for read in (m.inspect, m.status, m.verify, lambda: m.revision, lambda: list(m.files.find())):
                with pytest.raises(
                    CatalogError, match=r"written by mmmeta 0\.[14]: run `mmmeta update` once"
                ):
                    read()
        after = sorted(path.name for path in base.rglob("*") if not path.name.endswith(("-wal", "-shm")))
        assert before == after


def test_damage_is_counted_by_column(tmp_path: Path) -> None:
    with mmmeta(copy(tmp_path, "0.4", "publisher")) as m:
        m.update()
        (converted,) = m.converted
        assert isinstance(converted, CatalogConversion)
        assert (converted.version, converted.documents, converted.deleted) == ("0.4", 8, 1)
        damage = {name: str(found) for name, found in converted.damage.items() if str(found)}
        assert damage == {
            "case_number": "1 number or text",
            "public": "3 True or text",
            "ratio": "2 number or text",
            "size": "5 number or text",
            "tags": "3 list or text",
            "title": "1 True or text",
        }
        file = m.files.find_one(content_hash="a1f0")
        assert file is not None
        assert (file["size"], file["public"], file["case_number"]) == ("1200", "True", "007")
