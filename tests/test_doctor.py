"""`mmmeta doctor`: each check says what is so and how to mend it, none stops another, and nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from metadirs import overwrite
from remotes.proxy import Fault, Refuse, Request, running
from shell import here, mmmeta
from website import Answer, website

from mmmeta_core.doctor import Check, DoctorResult, Level, Site, examine
from mmmeta_core.doctor.mounts import is_network, mount_of
from mmmeta_core.metadir import Metadir
from mmmeta_core.paths import Paths
from mmmeta_core.remotes import LocalRemote
from mmmeta_core.signing import keygen
from mmmeta_core.types import utcnow

NAMES = [
    *("Python", "packages", "SQLite", "environment"),
    *(
        "metadir",
        "files root",
        "disk space",
        "locks",
        "settings",
        "keys",
        "older versions",
        "catalog",
        "state db",
    ),
    *("credentials", "remote", "writes", "clock"),
]
OLD = Path(__file__).parent / "golden" / "old"


def bad(result: DoctorResult) -> dict[str, str]:
    """What is not well, by check, with how bad it is."""
    return {check.name: str(check) for check in result.checks if check.level != "ok"}


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "archive").mkdir()
    (folder / "archive" / "a.json").write_text('{"content_hash": "a"}')
    with Metadir(folder / "publisher", folder / "archive", folder / "archive") as publisher:
        publisher.init()
        publisher.sync()
    with Metadir(folder / "client", remote=folder / "archive") as client:
        client.sync()
    return folder


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    """A publisher, its archive, and a client, all well."""
    return Path(shutil.copytree(made, tmp_path / "here"))


def test_a_sound_set_up_has_no_problem_and_nothing_changes(archive: Path) -> None:
    before = everything(archive)
    with Metadir(archive / "publisher", archive / "archive", archive / "archive") as publisher:
        result = publisher.doctor()
    assert (bad(result), result.healthy) == ({}, True)
    assert list(dict.fromkeys(check.name for check in result.checks)) == NAMES
    said = {check.name: check.what for check in result.checks}
    assert "at revision 1" in said["catalog"]
    assert "at revision 1" in said["state db"]
    assert said["remote"].endswith("is at revision 1")
    assert said["writes"].startswith("objects can be written")
    with Metadir(archive / "client", remote=archive / "archive") as client:
        seen: list[Check] = []
        result = client.doctor(seen=seen.append)
        assert (bad(result), tuple(seen)) == ({}, result.checks)
        assert (
            "this is a client; --write tries" in {check.name: check.what for check in result.checks}["writes"]
        )
        assert not bad(client.doctor(write=True))
    assert everything(archive) == before


def test_where_nothing_is_yet_nothing_comes_to_be(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    with Metadir(tmp_path / "new" / "client", remote=tmp_path / "archive") as m:
        found = bad(m.doctor(write=True))
    assert set(found) == {"metadir", "remote"}
    assert "mmmeta init for a new archive, mmmeta sync for a client" in found["metadir"]
    assert "nothing is published there: its publisher has to push first" in found["remote"]
    assert everything(tmp_path) == {"archive": None}


# --- the machine


def test_an_old_package_and_a_missing_one_are_problems(tmp_path: Path) -> None:
    old = tmp_path / "packages" / "click-7.0.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: click\nVersion: 7.0\n")
    said = mmmeta("doctor", "--json", cwd=tmp_path, PYTHONPATH=str(old.parent))
    checks = [check for check in json.loads(said.stdout)["checks"] if check["name"] == "packages"]
    assert [check["level"] for check in checks] == ["problem", "ok"]
    assert (checks[0]["what"], checks[0]["mend"]) == (
        "click 7.0 is older than 8.2",
        "pip install --upgrade 'click>=8.2'",
    )
    assert {"mmmeta", "sqlalchemy", "dataset", "boto3", "dagster"} <= set(
        checks[1]["what"].replace(",", "").split()
    )


def test_a_misspelt_variable_and_a_cap_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMMETA_REMOT", "secret place")
    monkeypatch.setenv("MMMETA_MAX_RATIO", "many")
    with Metadir(tmp_path) as m:
        checks = [str(check) for check in m.doctor().checks if check.name == "environment"]
    assert (
        checks[0]
        == "warning: environment: MMMETA_REMOT is set, which nothing reads: did you mean MMMETA_REMOTE?"
    )
    assert checks[1].startswith("problem: environment: MMMETA_MAX_RATIO must be a whole number above 0")
    assert "secret" not in "".join(checks)


def test_which_file_system_a_folder_is_on(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    rows = [f"/dev/a / ext4 rw\nhost:/x {tmp_path} nfs4 rw", f"x {tmp_path}/a\\040b fuse.sshfs rw", "broken"]
    table.write_text("\n".join(rows))
    (tmp_path / "a b" / "c").mkdir(parents=True)
    found = [mount_of(place, str(table)) for place in (Path("/"), tmp_path, tmp_path / "a b" / "c")]
    assert found == ["ext4", "nfs4", "fuse.sshfs"]
    assert list(map(is_network, found)) == [False, True, True]
    assert mount_of(tmp_path, str(tmp_path / "none")) is None
    assert not is_network(None)


# --- here


def test_a_folder_that_can_not_be_written_to_is_a_problem() -> None:
    with Metadir("/proc", "/proc/nowhere") as m:
        found = bad(m.doctor())
    assert found["metadir"].startswith("problem: metadir: /proc can't be written to (")
    assert found["files root"].startswith("problem: files root: /proc/nowhere can't be read (No such file")


def test_a_metadir_that_everybody_may_write_to_is_a_warning(archive: Path) -> None:
    (archive / "client" / "_mmmeta").chmod(0o777)
    with Metadir(archive / "client", remote=archive / "archive") as m:
        assert "chmod o-w" in bad(m.doctor())["metadir"]


def test_a_file_in_the_place_of_the_metadir_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "_mmmeta").write_text("")
    with Metadir(tmp_path) as m:
        assert "move it away" in bad(m.doctor())["metadir"]


def test_databases_that_would_not_fit_once_more_are_a_problem(tmp_path: Path) -> None:
    with Metadir(tmp_path) as m:
        m.paths.root.mkdir()
        m.paths.scan.touch()
        os.truncate(m.paths.scan, shutil.disk_usage(tmp_path).free * 2 // 3)  # a file with a hole
        assert "free some space before" in bad(m.doctor())["disk space"]
        os.truncate(m.paths.scan, shutil.disk_usage(tmp_path).free * 2)
        assert bad(m.doctor())["disk space"].startswith("problem: disk space: ")


def test_who_holds_the_lock_is_named(archive: Path) -> None:
    holds = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
    )
    lock = archive / "client" / "_mmmeta" / ".lock"
    with (
        subprocess.Popen(
            [sys.executable, "-c", holds, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other,
        Metadir(archive / "client", remote=archive / "archive") as m,
    ):
        assert other.stdout is not None
        other.stdout.readline()
        result = m.doctor()
        assert result.healthy
        assert f"process {other.pid} works here now" in bad(result)["locks"]
        other.communicate()
        assert not bad(m.doctor())


def test_settings_and_keys_that_can_not_be(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (archive / "client" / "_mmmeta" / "config.yml").write_text("metadata: {uniqe: x}\n")
    key = archive / "key"
    keygen(key)
    with Metadir(archive / "client", remote=archive / "archive") as m:
        monkeypatch.setenv("MMMETA_SIGNING_KEY", key.read_text())
        result = m.doctor()
        assert "did you mean 'metadata.unique'?" in bad(result)["settings"]
        assert "publishes are signed with the key" in str(result)
        assert "PRIVATE" not in str(result)
        monkeypatch.setenv("MMMETA_SIGNING_KEY", str(key))
        key.chmod(0o644)
        assert "chmod 600" in bad(m.doctor())["keys"]
        monkeypatch.delenv("MMMETA_SIGNING_KEY")
        m.paths.trusted_keys.write_text("nothing\n")
        assert "trusted_keys, line 1" in bad(m.doctor())["keys"]


def test_a_publisher_without_settings_is_told_of_init(tmp_path: Path) -> None:
    with Metadir(tmp_path, tmp_path) as m:
        assert bad(m.doctor())["settings"].endswith("there is no config.yml: mmmeta init writes one")


@pytest.mark.parametrize("version", ["0.1", "0.4"])
def test_what_is_still_to_be_converted_is_a_warning(tmp_path: Path, version: str) -> None:
    shutil.copytree(OLD / version / "publisher", tmp_path / "old", copy_function=shutil.copy)
    with Metadir(tmp_path / "old") as m:
        before = everything(m.paths.root)
        found = bad(m.doctor())
        assert f"the catalog is of mmmeta {version}: mmmeta update converts it" in found["older versions"]
        assert set(found) <= {"older versions", "remote"}
        # What lay in the log beside a database SQLite puts into it, whoever reads that.
        assert {name for name in everything(m.paths.root) if "-" not in name} == {
            name for name in before if "-" not in name
        }


@pytest.mark.parametrize("database", ["meta.db", "state.db"])
def test_a_database_that_can_not_be_used_is_a_problem(archive: Path, database: str) -> None:
    name = {"meta.db": "catalog", "state.db": "state db"}[database]
    path = archive / "client" / "_mmmeta" / database
    with Metadir(archive / "client", remote=archive / "archive") as m:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        assert "this mmmeta reads up to format 1: install" in bad(m.doctor())[name]
        overwrite(path, 0)
        found = bad(m.doctor())
        assert set(found) == {name}
        assert found[name].startswith(f"problem: {name}: {path} can't be used")
        path.unlink()
        path.mkdir()
        assert name in bad(m.doctor())


# --- the remote


def test_a_bucket_is_tried_out_and_left_as_it_was(tmp_path: Path, s3_endpoint: str, bucket: str) -> None:
    with running(s3_endpoint) as proxy:
        url = f"s3://{bucket}/some/archive?endpoint={proxy.url}"
        with Metadir(tmp_path / "client", remote=url) as m:
            client = m.doctor()
            assert "PUT" not in proxy.methods()
            assert "DELETE" not in proxy.methods()
        with Metadir(tmp_path / "publisher", tmp_path, url) as m:
            result = m.doctor()
            assert m.remote is not None
            assert list(m.remote.names("")) == []
    assert proxy.methods().count("PUT") == 2
    assert set(bad(client)) == {"metadir", "remote"}
    said = {check.name: check.what for check in result.checks}
    assert said["credentials"] == "by botocore's env"
    assert said["writes"].startswith("objects can be written")
    assert said["clock"].startswith("this machine's is ")
    assert "test-access" not in f"{result}{client}"
    assert "test-secret" not in f"{result}{client}"


LIES = {
    "ignores": ("does not keep conditional writes", "problem"),
    "refuses": ("does not keep conditional writes", "problem"),
    "keeps": ("can't be removed, so _mmmeta/.probe-", "warning"),
    "denies": ("was refused", "problem"),
}


@pytest.mark.parametrize("store", LIES)
def test_a_bucket_that_does_not_do_what_is_needed(
    tmp_path: Path, s3_endpoint: str, bucket: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(request: Request) -> Fault:
        if store == "ignores":
            del request.headers["If-None-Match"]
        elif store == "refuses" and request.method == "PUT":
            return Refuse(412, "PreconditionFailed")
        elif (store, request.method) in (("keeps", "DELETE"), ("denies", "PUT")):
            return Refuse(403, "AccessDenied")
        return None

    what, level = LIES[store]
    with running(s3_endpoint) as proxy:
        proxy.before = lie
        with Metadir(tmp_path, tmp_path, f"s3://{bucket}?endpoint={proxy.url}") as m:
            result = m.doctor()
            assert what in bad(result)["writes"]
            assert bad(result)["writes"].startswith(f"{level}: ")
            assert result.healthy is (level != "problem")
            if store == "ignores":
                monkeypatch.setenv("MMMETA_SINGLE_PUBLISHER", "1")
                assert "there must only ever be this one publisher" in bad(m.doctor())["writes"]


def test_a_remote_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    with Metadir(tmp_path, tmp_path, f"http://127.0.0.1:{port}/archive") as m:
        result = m.doctor()
    assert bad(result)["remote"].startswith("problem: remote: ")
    last = {check.name: check.what for check in result.checks}
    assert last["writes"] == last["clock"] == "not looked at, since the remote does not answer"


def test_a_publisher_can_not_write_over_the_web(archive: Path) -> None:
    head = (archive / "archive" / "_mmmeta" / "head.json").read_bytes()
    with website() as site:
        site.put("/archive/_mmmeta/head.json", head)
        with Metadir(archive / "publisher", archive, f"{site.url}/archive") as m:
            assert "is read only" in bad(m.doctor())["writes"]
        with Metadir(archive / "client", remote=f"{site.url}/archive") as m:
            assert not bad(m.doctor(write=True))


def said(result: DoctorResult, name: str) -> str:
    return next(check.what for check in result.checks if check.name == name)


def test_a_publisher_that_writes_from_python_needs_no_files_root(archive: Path) -> None:
    with Metadir(archive / "other", remote=archive / "archive") as m:
        m.pull()
        m.files.upsert(content_hash="new")
        found = m.doctor()
        assert said(found, "files root") == "none: documents come from Python"
        assert said(found, "writes") == "not tried out, no --files-root was given; --write tries"
        before = everything(archive / "archive")
        assert said(m.doctor(write=True), "writes").startswith("objects can be written")
        assert everything(archive / "archive") == before
    head = (archive / "archive" / "_mmmeta" / "head.json").read_bytes()
    with website() as site:
        site.put("/_mmmeta/head.json", head)
        with Metadir(archive / "other", remote=site.url) as m:
            assert "is read only" in bad(m.doctor(write=True))["writes"]


def test_the_folder_of_the_last_generate_is_looked_at(archive: Path) -> None:
    documents = archive / "documents"
    documents.mkdir()
    with Metadir(archive / "generates", documents) as m:
        m.generate()
    with Metadir(archive / "generates", remote=archive / "archive") as m:
        assert said(m.doctor(write=True), "files root") == f"{documents} can be read and written to"
        documents.rmdir()
        found = m.doctor(write=True)
    assert "can't be read" in bad(found)["files root"]
    assert said(found, "writes").startswith("objects can be written")


def test_a_scan_cache_that_can_not_be_read_stops_no_check(archive: Path) -> None:
    with Metadir(archive / "client", remote=archive / "archive") as m:
        m.paths.scan.write_bytes(b"no database" * 1000)
        assert said(m.doctor(), "files root") == "none: this is a client"


@pytest.mark.parametrize(
    ("ahead", "age", "level"), [(0, 0, "ok"), (-300, 300, "ok"), (300, 0, "warning"), (-3600, 0, "problem")]
)
def test_clocks_that_differ(archive: Path, ahead: int, age: int, level: Level) -> None:
    head = (archive / "archive" / "_mmmeta" / "head.json").read_bytes()
    date = format_datetime(utcnow() + timedelta(seconds=ahead), usegmt=True)
    with website() as site:
        site.dated = False
        site.put("/_mmmeta/head.json", Answer(head, headers={"Date": date, "Age": str(age)}))
        with Metadir(archive / "client", remote=site.url) as m:
            (check,) = (check for check in m.doctor().checks if check.name == "clock")
    assert check.level == level
    if level != "ok":
        assert f"s {'behind' if ahead > 0 else 'ahead of'} the remote's" in check.what


def test_a_head_that_is_damaged_or_not_signed_is_a_problem(archive: Path) -> None:
    with Metadir(archive / "client", remote=archive / "archive") as m:
        m.paths.trusted_keys.write_text(keygen(archive / "key"))
        assert "is not signed" in bad(m.doctor())["remote"]
        m.paths.trusted_keys.unlink()
        (archive / "archive" / "_mmmeta" / "head.json").write_text("{")
        assert "is damaged" in bad(m.doctor())["remote"]


# --- all together


class Broken(LocalRemote):
    """A remote that fails in ways that nobody thought of, and talks of secrets."""

    def access(self) -> str | None:
        raise RuntimeError("secret")

    def check(self) -> None:
        raise RecursionError("secret")

    def clock(self) -> Any:
        raise OSError(5, "Input/output error", "secret")

    def keeps_conditions(self) -> bool:
        return True


def test_a_check_that_fails_stops_no_other_and_tells_no_secret(archive: Path) -> None:
    client = Paths(archive / "client" / "_mmmeta")
    result = examine(Site(client, client.state, archive, Broken(archive / "archive"), True, True))
    found = bad(result)
    assert {name: text.split(": ")[2] for name, text in found.items()} == {
        "credentials": "can't be looked at (RuntimeError)",
        "remote": "can't be looked at (RecursionError)",
        "clock": "can't be looked at (Input/output error)",
    }
    assert list(dict.fromkeys(check.name for check in result.checks)) == NAMES
    assert "secret" not in str(result)
    assert {check.level for check in result.checks} <= set(get_args(Level))


def test_the_command_says_it_in_lines_and_by_its_exit_code(archive: Path) -> None:
    where = ("--metadir", "client", "--remote", "archive")
    well = here(*where, "doctor", cwd=archive)
    assert (well.returncode, well.stderr) == (0, "")
    assert [line.split("\t")[0] for line in well.stdout.splitlines()] == ["ok"] * len(NAMES)
    (archive / "client" / "_mmmeta" / "config.yml").write_text("metadata: 1\n")
    ill = here(*where, "doctor", cwd=archive)
    assert (ill.returncode, ill.stderr) == (1, "mmmeta: problems: 1; the output says how to mend each\n")
    (line,) = (line for line in ill.stdout.splitlines() if not line.startswith("ok"))
    assert line.split("\t")[:2] == ["problem", "settings"]
    said = here(*where, "doctor", "--json", cwd=archive)
    assert (said.returncode, json.loads(said.stdout)["healthy"]) == (1, False)
