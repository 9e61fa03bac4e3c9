"""Update: what the publisher says reaches the client, and the client's own stays the client's."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import ON_POSTGRES

from mmmeta_core import mmmeta
from mmmeta_core.errors import CatalogError, LogError, ReadOnlyColumnError, RemoteNotFoundError
from mmmeta_core.files import File
from mmmeta_core.metadir import Metadir


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    (tmp_path / "remote").mkdir()
    return tmp_path / "remote"


@pytest.fixture
def publisher(tmp_path: Path, remote: Path) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "publisher", remote=remote) as metadir:
        metadir.files.insert_many({"content_hash": key, "title": key.upper()} for key in "abc")
        metadir.push()
        yield metadir


@pytest.fixture
def client(tmp_path: Path, remote: Path, publisher: Metadir) -> Iterator[Metadir]:
    with mmmeta(tmp_path / "client", remote=remote) as metadir:
        metadir.sync()
        yield metadir


def own(m: Metadir, key: str, **values: Any) -> File:
    file = m.files.get(key)
    assert file is not None
    file.update(values)
    file.save()
    return file


def row(m: Metadir, key: str) -> dict[str, Any]:
    file = m.files.get(key)
    assert file is not None
    return dict(file)


def counts(m: Metadir) -> tuple[int, ...]:
    m.pull()
    result = m.update()
    return result.added, result.updated, result.unchanged, result.deleted, result.restored, result.revision


def test_each_change_reaches_the_client_once(publisher: Metadir, client: Metadir) -> None:
    publisher.files.insert(content_hash="d")
    publisher.files.upsert({"content_hash": "a", "title": "new"})
    publisher.files.delete(content_hash="b")
    publisher.push()
    assert counts(client) == (1, 1, 0, 1, 0, 2)
    assert counts(client) == (0, 0, 0, 0, 0, 2)
    assert row(client, "a")["title"] == "new"
    assert [file.key for file in client.files(order_by="content_hash")] == ["a", "c", "d"]
    publisher.files.upsert({"content_hash": "b", "title": "back"})
    publisher.push()
    assert counts(client) == (0, 0, 0, 0, 1, 3)
    assert row(client, "b")["title"] == "back"


def test_own_columns_outlive_whatever_the_publisher_does(publisher: Metadir, client: Metadir) -> None:
    own(client, "a", imported=True, note="mine")
    own(client, "b", imported=True)
    before = row(client, "c")
    publisher.files.upsert({"content_hash": "a", "title": None})
    publisher.files.delete(content_hash="b")
    publisher.push()
    client.sync()
    publisher.files.insert(content_hash="b", title="again")
    publisher.push()
    client.sync()
    after = row(client, "a")
    assert (after["title"], after["imported"], after["note"]) == (None, True, "mine")
    assert (row(client, "b")["title"], row(client, "b")["imported"]) == ("again", True)
    assert row(client, "c") == before


@pytest.mark.parametrize("spelling", ["imported", "Imported"])
def test_a_column_that_both_want_stays_the_clients_and_is_reported(
    publisher: Metadir, client: Metadir, caplog: pytest.LogCaptureFixture, spelling: str
) -> None:
    own(client, "a", imported=True)
    publisher.files.upsert_many(
        {"content_hash": key, spelling: "by the publisher", "title": "t"} for key in "ab"
    )
    publisher.push()
    client.pull()
    with caplog.at_level(logging.WARNING):
        result = client.update()
    assert result.clashes == (spelling,)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [repr(spelling) in message for message in warned] == [True]
    assert (row(client, "a")["imported"], row(client, "b")["imported"]) == (True, None)
    assert row(client, "b")["title"] == "t"
    own(client, "b", imported=False)
    assert row(client, "b")["imported"] is False


def test_a_column_becomes_read_only_when_it_is_published_first(publisher: Metadir, client: Metadir) -> None:
    publisher.files.upsert({"content_hash": "a", "imported": 5})
    publisher.push()
    client.sync()
    with pytest.raises(ReadOnlyColumnError, match="imported"):
        own(client, "b", imported=True)
    assert (row(client, "a")["imported"], row(client, "b")["imported"]) == (5, None)


def test_an_update_that_repeats_changes_nothing(publisher: Metadir, client: Metadir) -> None:
    def content() -> list[dict[str, Any]]:
        return [dict(file) for file in client.files.find(deleted=None, order_by="content_hash")]

    before = content()
    client.update()
    with mmmeta(client.path) as again:
        again.update()
    assert content() == before


def test_the_store_tells_what_was_merged(publisher: Metadir, client: Metadir) -> None:
    assert client.store["local_last_updated"] == client.store["remote_last_updated"]
    publisher.files.upsert({"content_hash": "a", "title": "new"})
    publisher.push()
    client.pull()
    handled = client.store["local_last_updated"]
    assert client.store["remote_last_updated"] != handled
    assert client.poll().changed
    client.update()
    assert client.store["local_last_updated"] == client.store["remote_last_updated"] != handled
    assert not client.poll().changed


def test_the_store_may_tell_of_a_clock_that_went_back(publisher: Metadir, client: Metadir) -> None:
    publisher.store["remote_last_updated"] = "not even a time"
    publisher.files.upsert({"content_hash": "a", "title": "new"})
    publisher.push()
    client.sync()
    assert client.store["local_last_updated"] == client.store["remote_last_updated"]


def test_a_metadir_that_any_tool_copied_is_updated_from_its_log(
    publisher: Metadir, remote: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(remote / "_mmmeta", copy / "_mmmeta")
    with mmmeta(copy) as m:
        assert m.update().added == 3
        own(m, "a", imported=True)
        publisher.files.upsert({"content_hash": "a", "title": "new"})
        publisher.push()
        segment = "log/00000000000000000002.jsonl.gz"
        shutil.copy(remote / "_mmmeta" / segment, copy / "_mmmeta" / segment)
        assert m.update().updated == 1
        assert (row(m, "a")["title"], row(m, "a")["imported"]) == ("new", True)


def test_the_archives_settings_name_columns_that_clients_get_an_index_of(
    publisher: Metadir, client: Metadir
) -> None:
    publisher.paths.config.write_text("metadata: {indexes: [title, nowhere]}")
    publisher.files.upsert({"content_hash": "a", "title": "new"})
    publisher.push()
    client.sync()
    if ON_POSTGRES:
        made = "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() AND indexname LIKE 'mmmeta_by_%'"
        ((sql,),) = client.state.connection.execute(made).fetchall()
        assert sql.endswith("USING hash (title)")
    else:
        assert "USING INDEX mmmeta_by_" in client.files.explain(title="new")[0]
    client.sync()


@pytest.mark.parametrize("columns", [94, 95, 96, 97])
def test_a_document_may_have_any_number_of_columns(client: Metadir, publisher: Metadir, columns: int) -> None:
    """Values are looked at a hundred columns at a time, bookkeeping among them."""
    publisher.files.insert({"content_hash": "wide", **{f"n{at}": at for at in range(columns)}})
    publisher.push()
    assert client.sync().updated.added == 1


@pytest.mark.parametrize("names", [["_rowid_"], ["_rowid_", "RowID", "oid"]])
def test_columns_may_be_called_as_sqlite_calls_the_number_of_a_row(
    publisher: Metadir, client: Metadir, names: list[str]
) -> None:
    publisher.files.upsert_many({"content_hash": key, **dict.fromkeys(names, 7)} for key in "abcd")
    publisher.push()
    assert counts(client) == (1, 3, 0, 0, 0, 2)
    publisher.files.upsert({"content_hash": "b", names[-1]: 8})
    publisher.files.delete(content_hash="c")
    publisher.push()
    assert counts(client) == (0, 1, 0, 1, 0, 3)
    assert {file.key: file[names[-1]] for file in client.files} == {"a": 7, "b": 8, "d": 7}


def test_a_damaged_segment_is_named_and_changes_nothing(
    publisher: Metadir, client: Metadir, remote: Path
) -> None:
    publisher.files.upsert({"content_hash": "a", "title": "new"})
    publisher.push()
    name = "00000000000000000002.jsonl.gz"
    folder = client.path / "_mmmeta" / "log"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes((remote / "_mmmeta" / "log" / name).read_bytes()[:-9])
    before = row(client, "a"), client.store["local_last_updated"]
    with pytest.raises(LogError, match=name):
        client.update()
    assert (row(client, "a"), client.store["local_last_updated"]) == before
    (folder / name).unlink()
    client.sync()
    assert row(client, "a")["title"] == "new"


def test_the_state_may_lie_elsewhere_and_outlives_the_catalog(
    publisher: Metadir, remote: Path, tmp_path: Path
) -> None:
    state = tmp_path / "elsewhere" / "mine.db"
    with mmmeta(tmp_path / "one", remote=remote, state_db=state) as m:
        m.sync()
        own(m, "a", imported=True)
    shutil.rmtree(tmp_path / "one")
    with mmmeta(tmp_path / "two", remote=remote, state_db=state) as m:
        assert m.sync().updated.added == 0
        assert row(m, "a")["imported"] is True
    assert not list(remote.rglob("*mine*"))


def test_the_state_of_another_archive_keeps_what_is_ones_own(
    publisher: Metadir, client: Metadir, tmp_path: Path
) -> None:
    own(client, "a", imported=True)
    state = f"{client.state.url}?schema={client.state.server.schema}" if ON_POSTGRES else client.state.path
    (tmp_path / "other").mkdir()
    with mmmeta(tmp_path / "b", remote=tmp_path / "other") as other:
        other.files.insert_many({"content_hash": key, "title": "other"} for key in "ad")
        other.push()
    with mmmeta(tmp_path / "c", remote=tmp_path / "other", state_db=state) as m:
        updated = m.sync().updated
        assert (updated.added, updated.updated, updated.deleted) == (1, 1, 2)
        assert (row(m, "a")["title"], row(m, "a")["imported"]) == ("other", True)
        assert len(m.files) == 2


def test_a_machine_that_has_not_pulled_yet_deletes_nothing_of_a_state_that_it_shares(
    publisher: Metadir, client: Metadir, tmp_path: Path, remote: Path
) -> None:
    own(client, "a", imported=True)
    state = f"{client.state.url}?schema={client.state.server.schema}" if ON_POSTGRES else client.state.path
    with mmmeta(tmp_path / "fresh", remote=remote, state_db=state) as fresh:
        fresh.pull_settings()
        updated = fresh.update()
        assert (updated.deleted, updated.revision, len(fresh.files)) == (0, 1, 3)
        assert not client.poll().changed
        assert not fresh.poll().changed
        publisher.files.delete(content_hash="b")
        publisher.push()
        assert fresh.sync().updated.deleted == 1
        assert row(fresh, "a")["imported"] is True


@pytest.mark.parametrize("revisions", [1, 2, 3])
def test_an_archive_that_was_put_back_is_merged_as_it_is_now(
    publisher: Metadir, client: Metadir, tmp_path: Path, remote: Path, revisions: int
) -> None:
    """It went on otherwise: with fewer revisions than were merged here, with as many, and with more."""
    own(client, "a", imported=True)
    shutil.copytree(remote, tmp_path / "backup")
    publisher.files.upsert({"content_hash": "a", "title": "lost", "language": "de"})
    publisher.files.delete(content_hash="b")
    publisher.push()
    publisher.files.insert(content_hash="lost")
    publisher.push()
    client.sync()
    shutil.rmtree(remote)
    (tmp_path / "backup").rename(remote)
    with mmmeta(tmp_path / "anew", remote=remote) as anew:
        for number in range(revisions):
            anew.pull()
            anew.files.insert(content_hash=f"new {number}")
            anew.push()
    with pytest.raises(LogError, match="pull again"):
        client.sync()
    assert row(client, "a")["title"] == "lost"
    client.close()
    client.paths.meta.unlink()
    merged = client.sync().updated
    assert (merged.added, merged.updated, merged.deleted, merged.restored) == (revisions, 1, 1, 1)
    assert {"title": "A", "language": None, "imported": True}.items() <= row(client, "a").items()
    assert {file.key for file in client.files} == {*"abc", *(f"new {number}" for number in range(revisions))}
    with mmmeta(tmp_path / "anew", remote=remote) as anew:
        anew.files.upsert({"content_hash": "b", "title": "new"})
        anew.push()
    assert counts(client) == (0, 1, 0, 0, 0, revisions + 2)
    assert counts(client) == (0, 0, 0, 0, 0, revisions + 2)


def test_a_catalog_that_is_on_its_way_again_takes_nothing_back(
    publisher: Metadir, client: Metadir, tmp_path: Path, remote: Path
) -> None:
    """It was moved away, and the pull that brings it anew broke off."""
    publisher.files.insert(content_hash="d")
    publisher.push()
    client.sync()
    newest = remote / "_mmmeta" / "log" / "00000000000000000002.jsonl.gz"
    newest.rename(tmp_path / "newest")
    client.close()
    client.paths.meta.unlink()
    with pytest.raises(LogError):
        client.pull()
    merged = client.update()
    assert (merged.deleted, merged.revision, len(client.files)) == (0, 2, 4)
    (tmp_path / "newest").rename(newest)
    assert counts(client) == (0, 0, 0, 0, 0, 2)


def test_an_archive_that_begins_where_a_local_one_was_is_compared_as_a_whole(tmp_path: Path) -> None:
    """The state has documents of a catalog that was never published, and that is gone."""
    (tmp_path / "remote").mkdir()
    with mmmeta(tmp_path / "other", remote=tmp_path / "remote") as other:
        other.files.insert(content_hash="theirs")
        other.push()
    with mmmeta(tmp_path / "m", remote=tmp_path / "remote") as m:
        m.files.insert(content_hash="local")
        own(m, "local", imported=True)
        m.close()
        m.paths.meta.unlink()
        result = m.sync().updated
        assert (result.added, result.deleted) == (1, 1)
        assert row(m, "local")["imported"] is True


@pytest.mark.parametrize(("remote", "error"), [(None, CatalogError), ("nowhere", RemoteNotFoundError)])
def test_updating_what_is_not_there_says_so(
    tmp_path: Path, remote: str | None, error: type[Exception]
) -> None:
    where = tmp_path / remote if remote else None
    with (
        mmmeta(tmp_path / "new", remote=where) as m,
        pytest.raises(error, match=remote or "new"),
    ):
        m.update()
    assert not (tmp_path / "new").exists()
