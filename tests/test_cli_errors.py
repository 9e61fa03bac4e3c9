"""What the command line says when something is wrong: one sentence and an exit code, never a traceback."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import S3_ENVIRONMENT
from shell import MMMETA, Result, done, environment, mmmeta, write_documents

from mmmeta_core import Metadir


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client, up to date, beside an archive of two revisions."""
    folder = tmp_path_factory.mktemp("archive")
    write_documents(folder / "archive")
    settings = folder / "publisher" / "_mmmeta" / "config.yml"
    settings.parent.mkdir(parents=True)
    settings.write_text("metadata: {types: {retrieved_at: datetime}}\n")
    with Metadir(folder / "publisher", folder / "archive", folder / "archive") as publisher:
        publisher.sync()
        publisher.store["new_files"] = 17
        publisher.push()
    with Metadir(folder / "client", remote=folder / "archive") as metadir:
        metadir.sync()
    return folder / "client"


@pytest.fixture(scope="module")
def wreck(client: Path, tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> dict[str, str]:
    """Places where nothing can work, by name."""
    folder = tmp_path_factory.mktemp("wreck")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    garbage = b"no database " * 1000
    for name, path, data in (
        ("no_catalog", "_mmmeta/meta.db", garbage),
        ("no_state", "_mmmeta/state.db", garbage),
        ("bad_config", "_mmmeta/config.yml", b"metadata: {uniqe: id}\n"),
        ("bad_value", "_mmmeta/_store/key", b"\xff\xfe"),
    ):
        shutil.copytree(client, folder / name)
        (folder / name / path).write_bytes(data)
    shutil.copytree(client, folder / "cut")
    with (folder / "cut" / "_mmmeta" / "meta.db").open("r+b") as file:
        file.truncate(6000)
    shutil.copytree(client.parent / "archive", folder / "bad_log")
    segment = folder / "bad_log" / "_mmmeta" / "log" / f"{2:020}.jsonl.gz"
    segment.write_bytes(segment.read_bytes()[:-20])
    (folder / "bad_log" / "_mmmeta" / "meta.db").unlink(missing_ok=True)
    (folder / "no_room").mkdir()
    (folder / "no_room" / "_mmmeta").write_text("a file is where a folder has to be")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    places = {path.name: str(path) for path in folder.iterdir()}
    return places | {
        "archive": str(client.parent / "archive"),
        "client": str(client),
        "no_bucket": f"s3://no-such-bucket/x?endpoint={s3_endpoint}",
        "closed": f"s3://bucket/x?endpoint=http://127.0.0.1:{port}",
    }


WRONG: list[tuple[str, str]] = [
    ("--metadir {file} update", "file is a file; give the folder that holds, or is to hold, _mmmeta"),
    ("--metadir {file}/below --remote {archive} pull", "a part of the path is a file; correct the path"),
    (
        "--metadir {no_room} --files-root {archive} generate",
        "a file is where a folder has to be; move it away",
    ),
    ("--metadir {nowhere} inspect", "nowhere has no _mmmeta: generate, pull, or copy one there first"),
    ("--metadir {nowhere} find", "nowhere has no _mmmeta"),
    ("--metadir {nowhere} --remote {nowhere} pull", "There is no folder"),
    (
        "--metadir {client} --files-root {nowhere} generate",
        "is not a folder: give the one that holds the metadata",
    ),
    ("--metadir {client} pull", "there is no remote: give remote=…, --remote or MMMETA_REMOTE"),
    ("--metadir {client} --remote {archive} download {client}/_mmmeta/x", "choose another folder"),
    ("--metadir {client} --remote {archive} download {file}/out", "a part of the path is a file"),
    ("--metadir {client} --remote ftp://example.org/a pull", "Remotes of ftp are not known"),
    ("--metadir {client} --remote s3://Not_A_Bucket pull", "Not_A_Bucket"),
    ("--metadir {nowhere} --remote {no_bucket} pull", "There is no bucket 'no-such-bucket'"),
    ("--metadir {nowhere} --remote {closed} pull", "No complete answer about s3://bucket/x"),
    ("--metadir {empty} --remote {bad_log} pull", f"log/{2:020}.jsonl.gz"),
    ("--metadir {no_catalog} update", "no_catalog/_mmmeta/meta.db"),
    ("--metadir {cut} --remote {archive} pull", "cut/_mmmeta/meta.db"),
    ("--metadir {no_state} update", "no_state/_mmmeta/state.db"),
    ("--metadir {bad_config} update", "'metadata.uniqe' is not a setting; did you mean 'metadata.unique'?"),
    ("--metadir {bad_value} store list", "_store/key is not UTF-8 text"),
    ("--metadir {client} store get new_file", "no key 'new_file'; did you mean 'new_files'?"),
    ("--metadir {client} store get a/../../secret", "can't be a store key: it has a path separator"),
    ("--metadir {nowhere} store set a/b 1", "'a/b' can't be a store key: it has a path separator"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[arguments for arguments, _ in WRONG])
def test_what_is_wrong_is_said_in_one_sentence(
    wreck: dict[str, str], tmp_path: Path, arguments: str, sentence: str
) -> None:
    places = wreck | {"nowhere": str(tmp_path / "nowhere")}
    result = mmmeta("-q", *(part.format(**places) for part in arguments.split(" ")), cwd=tmp_path)
    assert_one_sentence(result, sentence)
    assert not list(tmp_path.iterdir())


def assert_one_sentence(result: Result, part: str) -> None:
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("mmmeta: ")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


def test_no_credentials_and_a_state_db_that_is_not_sqlite_are_said_so(client: Path, tmp_path: Path) -> None:
    values = {name: "" for name in S3_ENVIRONMENT if "ACCESS" in name}
    result = mmmeta("-q", "--remote", "s3://bucket/x", "pull", cwd=tmp_path, **values)
    assert_one_sentence(result, "There are no credentials for s3://bucket/x")
    url = "mysql://user:secret@host/x"
    result = mmmeta("-q", "update", cwd=client, MMMETA_STATE_DB=url)
    assert_one_sentence(result, "the state db can be an SQLite file")
    assert "secret" not in result.stderr


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that not even root may write to")
def test_a_publisher_learns_that_the_remote_is_read_only(tmp_path: Path) -> None:
    done("store", "set", "key", "1", cwd=tmp_path)
    result = mmmeta("-q", "--remote", "/sys", "push", cwd=tmp_path)
    assert_one_sentence(result, "Not allowed to write")
    assert done("store", "get", "key", cwd=tmp_path) == "1\n"


USAGE: list[tuple[str, str]] = [
    ("nonsense", "there is no command 'nonsense'"),
    ("stauts", "there is no command 'stauts'; did you mean 'status'?"),
    ("store gett", "there is no command 'gett'; did you mean 'get'?"),
    ("update --nonsense", "No such option"),
    ("--log-level loud update", "'loud' is not one of debug, info, warning, error"),
    ("store get", "Missing argument 'KEY'"),
    ("find --limit -1", "-1 is not in the range x>=0"),
    ("find contract", "'contract' is no filter: write column=value"),
    ("find retrieved_at>=yesterday", "the column holds a time, such as 2021-05-01"),
    ("--remote x download {file}", "is a file"),
    ("--remote x download out limit=3", "'limit=3': a column of this name can't be filtered on here"),
    ("process --into sqlite:///x.db workers=2", "a column of this name can't be filtered on here"),
    ("process title=x", "say what to do: --into sqlite:///file.db, or --retry-failed"),
    ("export columns=2", "a column of this name can't be filtered on here"),
    ("export --format xlsx", "'xlsx' is not one of csv, jsonl, parquet, sqlite"),
    ("process --on-change agian", "did you mean 'again'?"),
    ("--remote x download out --workers 0", "0 is not in the range 1<=x<=64"),
]


@pytest.mark.parametrize(("arguments", "error"), USAGE, ids=[arguments for arguments, _ in USAGE])
def test_wrong_usage_is_exit_code_2_and_says_how_to_learn_more(
    client: Path, wreck: dict[str, str], arguments: str, error: str
) -> None:
    result = mmmeta(*(part.format(**wreck) for part in arguments.split(" ")), cwd=client)
    assert (result.returncode, result.stdout) == (2, "")
    usage, hint, _, *message = result.stderr.splitlines()
    assert usage.startswith("Usage: mmmeta")
    assert hint.endswith("--help' for help.")
    assert message[0].startswith("Error: ")
    assert error in message[0]


def test_an_argument_that_is_no_text_is_wrong_usage(client: Path) -> None:
    result = mmmeta("find", b"title=\xff", cwd=client)
    assert (result.returncode, "is not valid Unicode text" in result.stderr) == (2, True)


# --- ends that are nobody's fault


@pytest.mark.parametrize("arguments", ["--help", "inspect"])
def test_a_reader_that_has_gone_is_no_error(client: Path, arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [*MMMETA, "-q", *arguments.split(" ")],
        cwd=client,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


def test_head_may_take_the_first_line_of_much_output(tmp_path: Path) -> None:
    with Metadir(tmp_path) as metadir:
        metadir.store["much"] = "a line\n" * 100_000 + "the end"
    command = f"{sys.executable} -m mmmeta_core store get much | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "a line\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize("arguments", ["--help", "inspect"])
def test_output_that_finds_no_room_is_said_in_one_sentence(client: Path, arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*MMMETA, *arguments.split(" ")],
            cwd=client,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (result.returncode, result.stderr) == (
        1,
        "mmmeta: the output can't be written (No space left on device): free some space and run it again\n",
    )


@pytest.fixture
def held_lock(tmp_path: Path) -> Iterator[Path]:
    """A metadir at which another process is at work."""
    lock = tmp_path / "_mmmeta" / ".lock"
    lock.parent.mkdir()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield tmp_path


def test_ctrl_c_ends_with_130_and_one_sentence(held_lock: Path) -> None:
    with subprocess.Popen(
        [*MMMETA, "generate"], cwd=held_lock, env=environment(), stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("INFO waiting for another process")
        waiting.send_signal(signal.SIGINT)
        rest = waiting.stderr.read()
    assert (waiting.returncode, rest) == (130, "mmmeta: interrupted; run it again to go on\n")
