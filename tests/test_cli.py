"""The command line as a shell sees it: real processes, what they print, where, and their exit codes."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from conftest import S3_ENVIRONMENT

import mmmeta_core

Result: TypeAlias = subprocess.CompletedProcess[str]

MMMETA = [sys.executable, "-m", "mmmeta_core"]
NO_AWS = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_MAX_ATTEMPTS": "1"}


def environment(**values: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MMMETA", "AWS_"))}
    return {**inherited, **S3_ENVIRONMENT, **NO_AWS, "COLUMNS": "80", **values}


def mmmeta(*arguments: str | bytes, cwd: Path, **values: str) -> Result:
    return subprocess.run(
        [*MMMETA, *arguments], cwd=cwd, env=environment(**values), capture_output=True, text=True, timeout=60
    )


def done(*arguments: str, cwd: Path, **values: str) -> str:
    """Run a command that has to succeed; return what it printed."""
    result = mmmeta(*arguments, cwd=cwd, **values)
    assert result.returncode == 0, result.stderr
    return result.stdout


def reported(*arguments: str, cwd: Path, **values: str) -> Any:
    return json.loads(done(*arguments, "--json", cwd=cwd, **values))


def key(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - what the archive is keyed by


DOCUMENTS: dict[str, dict[str, Any]] = {
    "a": {
        "title": "Tax plan",
        "document_type": "contract",
        "pages": 3,
        "signed": True,
        "retrieved_at": "2021-05-01T12:00:00Z",
        "case": "007",
        "tags": ["x", "y"],
    },
    "b": {
        "title": 'Said "no",\nthen left',
        "document_type": "report",
        "pages": 12,
        "signed": False,
        "retrieved_at": "2021-06-01T00:00:00Z",
    },
    "c": {"title": "Ünïcode", "document_type": "contract", "publisher": {"name": "City"}},
    "d": {"title": "Withdrawn", "document_type": "contract"},
}


def write_documents(folder: Path) -> None:
    """Metadata files of four documents; `a` and `b` have their file, too. And one that is broken."""
    folder.mkdir()
    for name, values in DOCUMENTS.items():
        document = {"content_hash": key(name), "file_name": f"{name}.txt", **values}
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    for name in "ab":
        (folder / f"{name}.txt").write_text(name)
    (folder / "broken.json").write_text('{"title": ')


@dataclass(frozen=True)
class Story:
    """A publisher and a client, and what each command said."""

    folder: Path
    said: dict[str, Result]

    @property
    def client(self) -> Path:
        return self.folder / "client"

    def json(self, step: str) -> Any:
        return json.loads(self.said[step].stdout)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    write_documents(folder / "archive")
    for name in ("publisher", "client"):
        (folder / name).mkdir()
    settings = folder / "publisher" / "_mmmeta" / "config.yml"
    settings.parent.mkdir()
    settings.write_text("metadata: {types: {retrieved_at: datetime}}\n")
    publisher = {"MMMETA": "publisher", "MMMETA_FILES_ROOT": "archive", "MMMETA_REMOTE": "archive"}
    client = {"MMMETA": "client", "MMMETA_REMOTE": "archive"}
    said: dict[str, Result] = {}

    def step(name: str, *arguments: str, **values: str) -> None:
        said[name] = mmmeta(*arguments, cwd=folder, **values)
        assert said[name].returncode == 0, said[name].stderr

    step("generate", "generate", **publisher)
    step("set", "store", "set", "new_files", "17", **publisher)
    step("push", "push", "--json", **publisher)
    (folder / "archive" / "d.json").unlink()
    step("generate again", "generate", "--ensure", "--json", **publisher)
    step("push again", "-q", "push", **publisher)
    step("pull", "pull", "--json", **client)
    step("find too early", "find", **client)
    step("update", "update", "--json", **client)
    step("inspect", "inspect", "--json", **client)
    step("sync of the publisher", "sync", "--json", **publisher)
    step("sync of the client", "sync", "--json", **client)
    return Story(folder, said)


# --- what the verbs say


def test_generate_prints_its_counts_and_logs_what_is_invalid_to_stderr(story: Story) -> None:
    said = story.said["generate"]
    assert said.stdout.startswith("added 4, updated 0, unchanged 0, deleted 0, restored 0, invalid 1, ")
    assert said.stdout.count("\n") == 1
    assert "INFO " in said.stderr
    assert "WARNING invalid: broken.json: not valid JSON" in said.stderr
    assert "mmmeta inspect --invalid lists them" in said.stderr


def test_with_json_the_verbs_print_one_object_with_named_counts(story: Story) -> None:
    push, pull, update = story.json("push"), story.json("pull"), story.json("update")
    assert (push["revision"], push["documents"], push["store_keys"]) == (1, 4, 1)
    assert (pull["revision"], update["revision"]) == (2, 2)
    again = story.json("generate again")
    assert (again["deleted"], again["invalid"], again["pending"]) == (1, 1, 1)
    assert all(one["seconds"] >= 0 for one in (push, pull, update, again))


def test_quiet_logs_nothing_that_is_not_an_error(story: Story) -> None:
    assert story.said["push again"].stderr == ""
    assert story.said["push again"].stdout.startswith("revision 2, documents 1, ")


def test_sync_leaves_out_what_the_role_does_not_need(story: Story) -> None:
    assert set(story.json("sync of the publisher")) == {"pulled", "generated", "pushed", "updated"}
    assert set(story.json("sync of the client")) == {"pulled", "updated"}


def test_find_before_update_says_what_is_missing(story: Story) -> None:
    assert story.said["find too early"].stdout == ""
    assert "mmmeta update" in story.said["find too early"].stderr


def test_inspect_tells_where_the_metadir_stands(story: Story) -> None:
    insight = story.json("inspect")
    expected = {"path": "client", "files": 3, "deleted": 1, "pending": 0, "revision": 2, "state_revision": 2}
    assert {name: insight[name] for name in expected} == expected
    assert insight["columns"]["retrieved_at"] == "datetime"
    assert insight["store"]["new_files"] == 17
    assert insight["remote"] == (story.folder / "archive").as_uri()
    lines = done("--metadir", "client", "inspect", cwd=story.folder).splitlines()
    assert {"path: client", "files: 3", "remote: ", "store new_files: 17"} <= set(lines)
    assert any(line.startswith("columns: case (text), document_type (text)") for line in lines)


def test_inspect_invalid_lists_path_and_reason(story: Story) -> None:
    (line,) = done("--metadir", "publisher", "inspect", "--invalid", cwd=story.folder).splitlines()
    path, reason = line.split("\t")
    assert (path, reason.partition(":")[0]) == ("broken.json", "not valid JSON")
    assert reported("--metadir", "publisher", "inspect", "--invalid", cwd=story.folder) == {
        "path": path,
        "reason": reason,
    }
    assert done("inspect", "--invalid", cwd=story.client) == ""


# --- find

FIND: list[tuple[str, list[str]]] = [
    ("--columns title --order-by title", ['Said "no", then left', "Tax plan", "Ünïcode"]),
    ("--columns title,pages --order-by -pages --limit 1", ['Said "no", then left\t12']),
    ("--columns title imported=false document_type=contract --order-by pages", ["Ünïcode", "Tax plan"]),
    (
        "--columns case,signed,tags,retrieved_at title~%plan signed=true retrieved_at<2021-06-01",
        ['007\ttrue\t["x","y"]\t2021-05-01T12:00:00+00:00'],
    ),
    ("--json --columns title,,pages publisher:name=City signed=null", ['{"title":"Ünïcode","pages":null}']),
    ("--columns title --deleted", ["Withdrawn"]),
]


@pytest.mark.parametrize(("arguments", "lines"), FIND, ids=[arguments for arguments, _ in FIND])
def test_find_prints_tab_separated_lines_into_a_pipe(story: Story, arguments: str, lines: list[str]) -> None:
    assert done("find", *arguments.split(" "), cwd=story.client).splitlines() == lines


def test_find_prints_json_lines_with_all_that_is_published(story: Story) -> None:
    lines = done("find", "--json", "document_type=contract", cwd=story.client).splitlines()
    found = {row["file_name"]: row for row in map(json.loads, lines)}
    assert set(found) == {"a.txt", "c.txt"}
    row = found["a.txt"]
    assert not any(name.startswith("__") for name in row)
    assert (row["case"], row["pages"], row["signed"], row["tags"]) == ("007", 3, True, ["x", "y"])
    assert datetime.fromisoformat(row["retrieved_at"]) == datetime(2021, 5, 1, 12, tzinfo=UTC)
    assert (row["content_hash"], row["publisher:name"]) == (key("a"), None)


def test_find_prints_csv_that_keeps_every_character(story: Story) -> None:
    rows = list(
        csv.DictReader(io.StringIO(done("find", "--csv", "--order-by", "file_name", cwd=story.client)))
    )
    assert [row["title"] for row in rows] == [DOCUMENTS[name]["title"] for name in "abc"]
    assert (rows[0]["signed"], rows[0]["tags"], rows[2]["signed"]) == ("true", '["x","y"]', "")


def test_find_prints_an_aligned_table_on_a_terminal(story: Story) -> None:
    terminal, process = os.openpty()
    arguments = ["find", "--table", "--columns", "file_name,title,pages", "--order-by", "file_name"]
    with subprocess.Popen(
        [*MMMETA, *arguments], cwd=story.client, env=environment(), stdout=process, stderr=process
    ) as running:
        os.close(process)
        lines = read_all(terminal).decode().splitlines()
    assert running.returncode == 0
    assert [line.rstrip() for line in lines] == [
        "file_name  title                 pages",
        "a.txt      Tax plan              3",
        'b.txt      Said "no", then left  12',
        "c.txt      Ünïcode",
    ]


def read_all(terminal: int) -> bytes:
    """Read what a process writes to its terminal; Linux ends it with an error, others with nothing."""
    read = b""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65536):
            read += part
    os.close(terminal)
    return read


def test_find_warns_of_a_column_that_is_not_there(story: Story) -> None:
    result = mmmeta("find", "titel=x", "--columns", "title,", cwd=story.client)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.count("\n") == 1
    assert "did you mean 'title'?" in result.stderr


# --- download and the store


def test_download_fetches_once_and_fails_by_exit_code(story: Story, tmp_path: Path) -> None:
    where = ("--metadir", str(story.client), "--remote", str(story.folder / "archive"))
    mine = {"MMMETA_STATE_DB": str(tmp_path / "state.db")}
    done(*where, "update", cwd=tmp_path, **mine)
    first = reported(*where, "download", "out", "pages!=null", "--workers", "2", cwd=tmp_path, **mine)
    assert (first["downloaded"], first["failed"], first["bytes"]) == (2, 0, 2)
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "a.txt": "a",
        "b.txt": "b",
    }
    result = mmmeta(*where, "--log-level", "error", "download", "out", cwd=tmp_path, **mine)
    assert (result.returncode, result.stdout[:22]) == (1, "downloaded 0, present ")
    assert result.stderr == ("mmmeta: documents that could not be fetched: 1; a later run tries them again\n")
    found = done(*where, "find", "downloaded=true", "--columns", "downloaded_path", cwd=tmp_path, **mine)
    assert sorted(found.splitlines()) == ["a.txt", "b.txt"]


def test_the_store_takes_and_gives_typed_values(tmp_path: Path) -> None:
    (folder := tmp_path / "_mmmeta" / "_store").mkdir(parents=True)
    given: list[tuple[str, Any, str]] = [
        ("17", 17, "17"),
        ('"17"', "17", "17"),
        ("null", None, ""),
        ("two words\nü", "two words\nü", "two words ü"),
        ('{"a": [1, true]}', {"a": [1, True]}, '{"a":[1,true]}'),
        ("2024-05-01 12:00", "2024-05-01T12:00:00+00:00", "2024-05-01T12:00:00+00:00"),
    ]
    for number, (text, _, _) in enumerate(given):
        assert done("store", "set", f"key{number}", text, cwd=tmp_path) == ""
    (folder / "local_hand").write_text("written by hand\n")
    values = reported("store", "list", cwd=tmp_path)
    assert values == {f"key{n}": value for n, (_, value, _) in enumerate(given)} | {
        "local_hand": "written by hand"
    }
    lines = [f"key{n}\t{shown}" for n, (_, _, shown) in enumerate(given)]
    assert done("store", "list", cwd=tmp_path).splitlines() == [*lines, "local_hand\twritten by hand"]
    assert done("store", "get", "key1", cwd=tmp_path) == '"17"\n'
    assert reported("store", "get", "key1", cwd=tmp_path) == "17"


def test_store_touch_prints_the_time_that_it_set(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    time = datetime.fromisoformat(done("store", "touch", "seen", cwd=tmp_path).strip())
    assert before <= time <= datetime.now(UTC)
    assert datetime.fromisoformat(done("store", "get", "seen", cwd=tmp_path).strip()) == time


# --- options and environment


def test_each_switch_of_generate_is_heard(tmp_path: Path) -> None:
    def generate(*switches: str) -> Any:
        return reported("--metadir", "m", "--files-root", "archive", "generate", *switches, cwd=tmp_path)

    write_documents(tmp_path / "archive")
    assert generate()["added"] == 4
    assert generate("--ensure-files")["deleted"] == 2
    shutil.copy(tmp_path / "archive" / "a.txt", tmp_path / "archive" / "c.txt")
    assert generate("--ensure-files")["restored"] == 1
    for name in "abc":
        (tmp_path / "archive" / f"{name}.json").unlink()
    refused = mmmeta("-q", "--metadir", "m", "--files-root", "archive", "generate", "--ensure", cwd=tmp_path)
    assert (refused.returncode, refused.stderr[:8]) == (1, "mmmeta: ")
    assert "--force" in refused.stderr or "force" in refused.stderr
    assert generate("--ensure", "--force")["deleted"] == 3
    replaced = generate("--replace", "--force")
    assert (replaced["read"], replaced["unchanged"]) == (2, 1)
    files = sum(1 for _ in (tmp_path / "archive").iterdir())
    plain = reported("--metadir", "n", "--files-root", "archive", "generate", "--no-meta", cwd=tmp_path)
    assert plain["added"] + plain["duplicates"] == files


def test_the_environment_says_what_the_options_do_not(tmp_path: Path) -> None:
    write_documents(tmp_path / "archive")
    named = {
        "MMMETA": "named",
        "MMMETA_FILES_ROOT": "archive",
        "MMMETA_REMOTE": "archive",
        "MMMETA_STATE_DB": "elsewhere/state.db",
    }
    (tmp_path / "elsewhere").mkdir()
    synced = reported("sync", cwd=tmp_path, **named)
    assert (synced["generated"]["added"], synced["pushed"]["revision"], synced["updated"]["added"]) == (
        4,
        1,
        4,
    )
    assert (tmp_path / "elsewhere" / "state.db").exists()
    assert not (tmp_path / "named" / "_mmmeta" / "state.db").exists()
    assert (tmp_path / "archive" / "_mmmeta" / "head.json").exists()
    options = ("--metadir", "given", "--files-root", "void", "--remote", "other")
    for name in ("void", "other"):
        (tmp_path / name).mkdir()
    generated = reported(*options, "sync", cwd=tmp_path, **(named | {"MMMETA_STATE_DB": "given.db"}))
    assert (generated["generated"]["added"], generated["pulled"]["revision"]) == (0, 0)
    assert (tmp_path / "given" / "_mmmeta").is_dir()


def test_the_installed_program_and_the_module_are_the_same() -> None:
    program = Path(sys.executable).with_name("mmmeta")
    for command in ([str(program)], MMMETA):
        result = subprocess.run([*command, "--version"], capture_output=True, text=True, env=environment())
        assert (result.returncode, result.stdout) == (0, f"mmmeta, version {mmmeta_core.__version__}\n")


def test_help_lists_every_command(tmp_path: Path) -> None:
    help_text = done("--help", cwd=tmp_path)
    commands = [line.split()[0] for line in help_text.split("Commands:\n")[1].split("\n\n")[0].splitlines()]
    assert commands == ["download", "find", "generate", "inspect", "pull", "push", "store", "sync", "update"]
    assert done("store", "set", "-h", cwd=tmp_path).startswith("Usage: mmmeta store set [OPTIONS] KEY VALUE")


# --- what goes wrong


@pytest.fixture(scope="module")
def wreck(story: Story, tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> dict[str, str]:
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
        shutil.copytree(story.client, folder / name)
        (folder / name / path).write_bytes(data)
    shutil.copytree(story.client, folder / "cut")
    with (folder / "cut" / "_mmmeta" / "meta.db").open("r+b") as file:
        file.truncate(6000)
    shutil.copytree(story.folder / "archive", folder / "bad_log")
    segment = folder / "bad_log" / "_mmmeta" / "log" / f"{2:020}.jsonl.gz"
    segment.write_bytes(segment.read_bytes()[:-20])
    (folder / "bad_log" / "_mmmeta" / "meta.db").unlink(missing_ok=True)
    (folder / "no_room").mkdir()
    (folder / "no_room" / "_mmmeta").write_text("a file is where a folder has to be")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    places = {path.name: str(path) for path in folder.iterdir()}
    return places | {
        "archive": str(story.folder / "archive"),
        "client": str(story.client),
        "publisher": str(story.folder / "publisher"),
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


def assert_one_sentence(result: Result, part: str, code: int = 1) -> None:
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("mmmeta: ")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    assert part in result.stderr


def test_no_credentials_and_a_state_db_that_is_not_sqlite_are_said_so(story: Story, tmp_path: Path) -> None:
    values = {name: "" for name in S3_ENVIRONMENT if "ACCESS" in name}
    result = mmmeta("-q", "--remote", "s3://bucket/x", "pull", cwd=tmp_path, **values)
    assert_one_sentence(result, "There are no credentials for s3://bucket/x")
    url = "postgresql://user:secret@host/x"
    result = mmmeta("-q", "update", cwd=story.client, MMMETA_STATE_DB=url)
    assert_one_sentence(result, "the state db can be an SQLite file")
    assert "secret" not in result.stderr


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that not even root may write to")
def test_a_publisher_learns_that_the_remote_is_read_only(tmp_path: Path) -> None:
    done("store", "set", "key", "1", cwd=tmp_path)
    result = mmmeta("-q", "--remote", "/sys", "push", cwd=tmp_path)
    assert_one_sentence(result, "Not allowed to write")
    assert done("store", "get", "key", cwd=tmp_path) == "1\n"


USAGE: list[tuple[str, str]] = [
    ("nonsense", "No such command 'nonsense'"),
    ("update --nonsense", "No such option"),
    ("--log-level loud update", "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
    ("store get", "Missing argument 'KEY'"),
    ("find --limit -1", "-1 is not in the range x>=0"),
    ("find contract", "'contract' is no filter: write column=value"),
    ("find retrieved_at>=yesterday", "the column holds a time, such as 2021-05-01"),
    ("--remote x download {file}", "is a file"),
    ("--remote x download out limit=3", "'limit=3': a column of this name can't be filtered on here"),
    ("--remote x download out --workers 0", "0 is not in the range 1<=x<=64"),
]


@pytest.mark.parametrize(("arguments", "error"), USAGE, ids=[arguments for arguments, _ in USAGE])
def test_wrong_usage_is_exit_code_2_and_says_how_to_learn_more(
    story: Story, wreck: dict[str, str], arguments: str, error: str
) -> None:
    result = mmmeta(*(part.format(**wreck) for part in arguments.split(" ")), cwd=story.client)
    assert (result.returncode, result.stdout) == (2, "")
    usage, hint, _, *message = result.stderr.splitlines()
    assert usage.startswith("Usage: mmmeta")
    assert hint.endswith("--help' for help.")
    assert message[0].startswith("Error: ")
    assert error in message[0]


def test_an_argument_that_is_no_text_is_wrong_usage(story: Story) -> None:
    result = mmmeta("find", b"title=\xff", cwd=story.client)
    assert (result.returncode, "is not valid Unicode text" in result.stderr) == (2, True)


# --- ends that are nobody's fault


@pytest.mark.parametrize("arguments", ["--help", "inspect"])
def test_a_reader_that_has_gone_is_no_error(story: Story, arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [*MMMETA, "-q", *arguments.split(" ")],
        cwd=story.client,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


def test_head_may_take_the_first_line_of_much_output(story: Story) -> None:
    command = f"{sys.executable} -m mmmeta_core find --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=story.client, env=environment(), capture_output=True, text=True
    )
    assert (result.returncode, result.stderr, len(result.stdout.splitlines())) == (0, "", 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize("arguments", ["--help", "inspect"])
def test_output_that_finds_no_room_is_said_in_one_sentence(story: Story, arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*MMMETA, *arguments.split(" ")],
            cwd=story.client,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (result.returncode, result.stderr) == (
        1,
        "mmmeta: the output can't be written (No space left on device): free some space and run it again\n",
    )


def test_a_terminal_that_lacks_a_character_is_shown_its_code(tmp_path: Path) -> None:
    done("store", "set", "key", "Ü ≤ 漢", cwd=tmp_path)
    result = subprocess.run(
        [*MMMETA, "store", "get", "key"],
        cwd=tmp_path,
        env=environment(PYTHONIOENCODING="latin-1"),
        capture_output=True,
    )
    assert result.stdout.decode("latin-1") == "Ü \\u2264 \\u6f22\n"


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
