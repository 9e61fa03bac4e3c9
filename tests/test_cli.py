"""The commands as a shell sees them: real processes, what they print, and where."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shell import DOCUMENTS, MMMETA, Result, done, environment, key, mmmeta, reported, write_documents

import mmmeta_core


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
        [*MMMETA, *arguments],
        cwd=story.client,
        env=environment(NO_COLOR="1"),
        stdout=process,
        stderr=process,
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


def test_process_export_and_status(story: Story, tmp_path: Path) -> None:
    mine = {"MMMETA": str(story.client), "MMMETA_STATE_DB": str(tmp_path / "state.db")}
    done("update", cwd=tmp_path, **mine)
    arguments = ("process", "document_type=contract", "--columns", "title", "--limit", "1")
    first = reported(*arguments, cwd=tmp_path, **mine, MMMETA_INTO="sqlite:///mine.db")
    assert (first["processed"], first["failed"]) == (1, 0)
    with contextlib.closing(sqlite3.connect(tmp_path / "mine.db")) as database:
        ((title,),) = database.execute("SELECT title FROM documents").fetchall()
    (imported,) = done("find", "imported=true", "--columns", "title", cwd=tmp_path, **mine).splitlines()
    assert imported == title
    (pipeline,) = reported("status", cwd=tmp_path, **mine)["pipelines"]
    assert (pipeline["mark"], pipeline["done"], pipeline["failed"]) == ("imported", 1, 0)
    said = done("export", "imported=false", "--columns", "file_name", cwd=tmp_path, **mine)
    assert len(said.splitlines()) == 3
    written = reported("export", "-o", "all.jsonl", cwd=tmp_path, **mine)
    assert (written["documents"], len((tmp_path / "all.jsonl").read_text().splitlines())) == (3, 3)


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
    assert "--force" in refused.stderr
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


def test_a_terminal_that_lacks_a_character_is_shown_its_code(tmp_path: Path) -> None:
    done("store", "set", "key", "Ü ≤ 漢", cwd=tmp_path)
    result = subprocess.run(
        [*MMMETA, "store", "get", "key"],
        cwd=tmp_path,
        env=environment(PYTHONIOENCODING="latin-1"),
        capture_output=True,
    )
    assert result.stdout.decode("latin-1") == "Ü \\u2264 \\u6f22\n"


# --- the help and the version, which are said without loading the program


@pytest.mark.parametrize("columns", [None, "60", "80", "200"])
def test_the_help_that_is_kept_is_the_one_that_click_prints(tmp_path: Path, columns: str | None) -> None:
    env = {name: value for name, value in environment().items() if name != "COLUMNS"}
    env |= {} if columns is None else {"COLUMNS": columns}
    said = [
        subprocess.run([*MMMETA, *arguments], cwd=tmp_path, env=env, capture_output=True)
        for arguments in (["--help"], ["-h"], ["-q", "--help"])
    ]
    how = "COLUMNS=80 .venv/bin/mmmeta -q --help > mmmeta_core/cli/help.txt"
    assert said[0].stdout == said[1].stdout == said[2].stdout, f"after a change to the commands: {how}"
    assert [one.returncode for one in said] == [0, 0, 0]
    assert not any(one.stderr for one in said)


def test_the_version_is_the_one_that_click_prints(tmp_path: Path) -> None:
    assert done("--version", cwd=tmp_path) == done("-q", "--version", cwd=tmp_path)
    assert done("--version", cwd=tmp_path) == f"mmmeta, version {mmmeta_core.__version__}\n"


@pytest.mark.parametrize(
    ("shell", "code", "sentence"),
    [
        ("{} --help > /dev/full", 1, "mmmeta: the output can't be written (No space left on device)"),
        ("{} --help >&-", 0, ""),
        ("(sleep 0.1; {} --help) | true; exit ${{PIPESTATUS[0]}}", 0, ""),
        ("_MMMETA_COMPLETE=bash_source {} --help > completion", 0, ""),
    ],
)
def test_the_help_ends_as_every_command_does(tmp_path: Path, shell: str, code: int, sentence: str) -> None:
    words = shell.format("exec " * ("PIPE" not in shell and "_COMPLETE" not in shell) + " ".join(MMMETA))
    env = environment()
    del env["COLUMNS"]
    result = subprocess.run(["bash", "-c", words], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (result.returncode, result.stderr.startswith(sentence)) == (code, True), result.stderr
    assert bool(result.stderr) == bool(sentence)
    if "completion" in shell:
        assert "COMP_WORDS" in (tmp_path / "completion").read_text()
