"""Metadirs that mmmeta 0.1.1 and 0.4.4 wrote: `tests/golden/old/make.py` says how."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import mmmeta
from mmmeta_core.config import Config
from mmmeta_core.database.catalog import open_catalog
from mmmeta_core.errors import CatalogError, RefusedError
from mmmeta_core.legacy.catalog import CatalogConversion
from mmmeta_core.legacy.layout import old_catalog, old_state
from mmmeta_core.legacy.settings import map_settings
from mmmeta_core.legacy.state import StateConversion
from mmmeta_core.paths import Paths
from mmmeta_core.remotes import open_remote

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
        assert client.inspect().state_revision == 1, "who pulls and looks finds no old state in the way"
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


# --- settings


def test_settings_mean_what_they_meant(tmp_path: Path) -> None:
    base = copy(tmp_path, "0.4", "publisher")
    before = (base / "_mmmeta/config.yml").read_text()
    with mmmeta(base) as m:
        m.update()
        config = m.config
        (converted,) = m.converted
    assert isinstance(converted, CatalogConversion)
    assert (config.unique, config.file_name) == ("content_hash", "_file_name")
    assert config.required == ("_file_name", "document_type")
    assert config.include[:2] == ("title", "size")
    assert set(config.remote) == {"url", "uri"}
    assert [sentence.partition(":")[0] for sentence in converted.settings] == [
        "contact",
        "remote.padded",
        "remote.2nd",
    ]
    assert (base / "_mmmeta/old-0.4/config.yml").read_text() == before


def test_what_0_4_kept_private_stays_private(tmp_path: Path) -> None:
    """Without `include` it published keys and file names only, which today means all columns."""
    publish(tmp_path, "0.4-plain")
    with mmmeta(tmp_path / "publisher") as m:
        assert m.inspect().columns == {}
        assert m.config.include == ("content_hash",)


@pytest.mark.parametrize(
    ("text", "include", "left_out"),
    [
        ("", ("content_hash",), 0),
        ("metadata: {include: title}", ("title",), 0),
        ("metadata: {include: [title, 7], unique: id, types: {size: integer}}", ("title",), 1),
        ("metadata: [title]\nremote: x\n", ("content_hash",), 2),
        ("remote: {a: '{x.y}', b: '{x[0]}', c: '{0}', d: '{x!r}', e: '{', f: 7, g: 'a{{b}}{x}'}", ("content_hash",), 6),
        ("metadata: &a {include: [title]}\nother: *a\n", ("title",), 1),
    ],
)  # fmt: skip
def test_odd_settings_are_mapped(text: str, include: tuple[str, ...], left_out: int) -> None:
    mapped = map_settings(text, "config.yml")
    config = Config.parse(mapped.text, "config.yml")
    assert (config.include, len(mapped.left_out)) == (include, left_out)
    again = map_settings(mapped.text, "config.yml")
    assert (again.text, again.left_out) == (mapped.text, ())
    if "types" in text:
        assert (config.unique, config.file_name, config.types) == ("id", "id", {"size": "integer"})


def test_types_that_are_set_beforehand_tell_what_values_were(tmp_path: Path) -> None:
    base = copy(tmp_path, "0.4", "publisher")
    path = base / "_mmmeta/config.yml"
    text = path.read_text().replace(
        "metadata:\n", "metadata:\n  types: {public: boolean, size: integer, tags: json}\n"
    )
    path.write_text(text)
    with mmmeta(base) as m:
        m.update()
        file = m.files.find_one(content_hash="a1f0")
        assert file is not None
        assert (file["public"], file["size"], file["tags"]) == (True, 1200, ["x", "y, z", 'say "hi"'])


# --- where publisher, remote and client stand


def test_a_publisher_without_its_metadata_files_publishes_all(tmp_path: Path, version: str) -> None:
    remote = publish(tmp_path, version, generate=False)
    with mmmeta(tmp_path / "reader", remote=remote) as reader:
        reader.sync()
        assert reader.files.count(deleted=None) == (7 if version == "0.1" else 8)


def test_an_archive_is_converted_where_it_lies(tmp_path: Path, version: str) -> None:
    base = copy(tmp_path, version, "publisher")
    shutil.copytree(OLD / "documents", base, dirs_exist_ok=True)
    with mmmeta(base, files_root=base, remote=base) as m:
        result = m.sync()
        assert result.pushed is not None
        assert result.pushed.revision == 1
        assert m.verify(documents=0).findings == ()
        waiting = result.pushed.documents
    assert waiting == 8
    with mmmeta(tmp_path / "reader", remote=base) as reader:
        assert len(reader.sync().updated.clashes) == 0
        assert reader.files.count() == (8 if version == "0.1" else 7)
    assert not (base / "_mmmeta/meta.db-wal").exists()


def test_update_first_and_publishing_later_loses_nothing(tmp_path: Path, version: str) -> None:
    base, remote = copy(tmp_path, version, "publisher"), tmp_path / "remote"
    remote.mkdir()
    with mmmeta(base, remote=remote) as m:
        m.update()
        there = m.files.count(deleted=None)
        assert m.inspect().pending == 0
    with mmmeta(base, files_root=OLD / "documents", remote=remote) as m:
        m.generate()
        assert m.push().documents == (8 if version == "0.1" else there)


def test_documents_may_be_added_after_an_update(tmp_path: Path, version: str) -> None:
    base = copy(tmp_path, version, "client")
    with mmmeta(base) as m:
        m.update()
        assert len(m.converted) == 2
        m.files.insert(content_hash="new", title="New")
        assert m.files.find_one(content_hash="new") is not None
        assert m.inspect().pending == m.files.count(deleted=None)


def test_a_client_works_on_its_copy_without_a_remote(tmp_path: Path) -> None:
    with mmmeta(copy(tmp_path, "0.4", "client")) as m:
        result = m.sync()
        assert result.updated.added == 0
        assert [file.key for file in m.files.find(imported=True)] == ["0042"]
        assert [type(one) for one in m.converted] == [CatalogConversion, StateConversion]
        assert m.inspect().pending == 0


def lay_out_old(remote_url: str, metadir: Path) -> None:
    """Bring an old metadir to a remote, as `aws s3 sync` would."""
    remote = open_remote(remote_url)
    for path in metadir.rglob("*"):
        if path.is_file():
            remote.write(f"_mmmeta/{path.relative_to(metadir).as_posix()}", path)


@pytest.mark.parametrize("version", ["0.1", "0.4"], indirect=True)
def test_a_client_of_an_old_archive_is_told(tmp_path: Path, version: str, remote_url: str) -> None:
    lay_out_old(remote_url, OLD / version / "publisher/_mmmeta")
    for base in (copy(tmp_path, version, "client"), tmp_path / "newcomer"):
        with mmmeta(base, remote=remote_url) as client:
            number = version.partition("-")[0]
            with pytest.raises(
                CatalogError, match=f"still in the format of mmmeta {number}: its publisher has to run"
            ):
                client.pull()
    with mmmeta(copy(tmp_path, version, "publisher"), files_root=OLD / "documents", remote=remote_url) as m:
        m.sync()
    for base in (tmp_path / "client", tmp_path / "newcomer"):
        with mmmeta(base, remote=remote_url) as client:
            client.sync()
            assert client.files.count(deleted=None) == 8
            assert client.revision == 1
            marked = {"0.1": 3, "0.4": 1}[version] if base.name == "client" else 0
            assert len(list(client.files.find(imported=True))) == marked


def test_nothing_old_is_uploaded_and_no_log_stays_beside_the_snapshot(
    tmp_path: Path, version: str, remote_url: str
) -> None:
    metadir = OLD / version / "publisher/_mmmeta"
    lay_out_old(remote_url, metadir)
    remote = open_remote(remote_url)
    before = set(remote.names(""))
    base = copy(tmp_path, version, "publisher")
    shutil.copytree(OLD / "documents", base, dirs_exist_ok=True)
    with mmmeta(base, files_root=base, remote=remote_url) as m:
        m.generate()
        m.push(files=True)
    after = set(remote.names(""))
    assert {name for name in after - before if not name.endswith(".json")} == {
        *({"_mmmeta/meta.db"} if version != "0.1" else set()),
        *({"_mmmeta/config.yml"} if version == "0.4-plain" else set()),
        "_mmmeta/log/00000000000000000001.jsonl.gz",
        "_mmmeta/_store/remote_last_updated",
    }
    assert before - after == ({"_mmmeta/meta.db-wal"} if version == "0.1" else set())


@pytest.mark.parametrize("version", ["0.1", "0.4"], indirect=True)
def test_a_push_never_loses_what_an_old_version_left_at_the_remote(
    tmp_path: Path, version: str, remote_url: str
) -> None:
    lay_out_old(remote_url, OLD / version / "publisher/_mmmeta")
    with mmmeta(tmp_path / "elsewhere", files_root=OLD / "documents", remote=remote_url) as other:
        other.pull()
        other.generate()
        with pytest.raises(RefusedError, match="would lose documents"):
            other.push()
    behind = copy(tmp_path, version, "publisher")
    (behind / "_mmmeta/_store/meta_last_updated").write_text("2021-01-01T00:00:00")
    with mmmeta(behind, remote=remote_url) as m, pytest.raises(RefusedError, match="would lose documents"):
        m.push()


def test_a_second_publisher_takes_what_the_first_has_converted(tmp_path: Path, version: str) -> None:
    remote = publish(tmp_path, version)
    for verbs in (["pull"], ["update", "pull"]):
        base = tmp_path / "-".join(verbs)
        shutil.copytree(OLD / version / "publisher", base)
        with mmmeta(base, files_root=OLD / "documents", remote=remote) as second:
            for verb in verbs:
                getattr(second, verb)()
            second.generate()
            assert not second.push().published
            assert second.revision == 1
            assert second.update().revision == 1
    shutil.copytree(OLD / version / "publisher", tmp_path / "third")
    with mmmeta(tmp_path / "third", files_root=OLD / "documents", remote=remote) as third:
        third.generate()
        with pytest.raises(CatalogError, match="by another publisher"):
            third.pull()


def test_what_is_new_is_never_taken_for_old(tmp_path: Path, version: str) -> None:
    """Old files that a copy brings back beside a converted catalog change nothing."""
    publish(tmp_path, version)
    base = tmp_path / "publisher"
    with mmmeta(base) as m:
        m.update()
        before = (m.revision, m.files.count(deleted=None), dict(m.store))
    if version != "0.1":
        shutil.copytree(OLD / version / "publisher/_mmmeta/db", base / "_mmmeta/db")
    with mmmeta(base, files_root=OLD / "documents") as m:
        m.generate()
        m.update()
        assert m.converted == ()
        assert (m.revision, m.files.count(deleted=None), dict(m.store)) == before
        assert m.inspect().pending == 0


def test_a_metadir_of_today_is_not_old(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "golden/metadir", tmp_path / "today")
    paths = Paths(tmp_path / "today/_mmmeta")
    assert old_catalog(paths) is None
    assert old_state(paths, paths.state) is None
    with mmmeta(tmp_path / "today") as m:
        m.update()
        assert (m.converted, old_state(paths, paths.state)) == ((), None)
    for foreign in ("CREATE TABLE x (y)", "CREATE TABLE files (content_hash TEXT)", ""):
        paths = Paths(tmp_path / f"foreign{len(foreign)}")
        paths.root.mkdir()
        with closing(sqlite3.connect(paths.meta)) as connection:
            connection.execute(foreign)
        paths.state.write_bytes(b"no database at all, but long enough to be one")
        assert (old_catalog(paths), old_state(paths, paths.state)) == (None, None)


def test_an_empty_catalog_of_today_hides_nothing(tmp_path: Path) -> None:
    base = copy(tmp_path, "0.4", "publisher")
    with open_catalog(base / "_mmmeta/meta.db", "content_hash"):
        pass
    with mmmeta(base) as m:
        m.update()
        assert m.files.count(deleted=None) == 8


def test_who_has_the_old_database_open_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmmeta_core.legacy.layout._WAIT_SECONDS", 0.1)
    base = copy(tmp_path, "0.1", "publisher")
    with closing(sqlite3.connect(base / "_mmmeta/meta.db")) as old:
        old.execute("BEGIN")
        old.execute("SELECT * FROM files").fetchone()
        with mmmeta(base) as m, pytest.raises(CatalogError, match="stop the programs that use it"):
            m.generate()
    with mmmeta(base, files_root=OLD / "documents") as m:
        assert m.generate().pending == 8


def test_settings_that_were_mapped_here_give_way_to_the_archives(tmp_path: Path) -> None:
    base, remote = copy(tmp_path, "0.4", "publisher"), tmp_path / "remote"
    remote.mkdir()
    with mmmeta(base, remote=remote) as m:
        m.update()
        config = base / "_mmmeta/config.yml"
        config.write_text(config.read_text().replace("metadata:\n", "metadata:\n  digest: none\n", 1))
        assert m.push().revision == 1
    with mmmeta(copy(tmp_path, "0.4", "client"), remote=remote) as client:
        client.update()
        assert client.config.digest is None
        client.pull()
        assert client.config.digest == "none"
        assert client.inspect().pending == 0
