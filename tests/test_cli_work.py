"""Clients' work on the command line: failures shown and tried again, documents uploaded, progress on a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from shell import MMMETA, done, environment, key, mmmeta, reported, write_documents


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """The folder of a client that has synced an archive whose documents were uploaded by the push."""
    write_documents(tmp_path / "documents")
    (tmp_path / "remote").mkdir()
    publisher = {"MMMETA": "publisher", "MMMETA_FILES_ROOT": "documents", "MMMETA_REMOTE": "remote"}
    done("generate", cwd=tmp_path, **publisher)
    pushed = reported("push", "--files", cwd=tmp_path, **publisher)
    assert pushed["files"] == {
        "uploaded": 6,
        "present": 0,
        "missing": 2,
        "failed": 0,
        "bytes": pushed["files"]["bytes"],
    }
    client = tmp_path / "client"
    client.mkdir()
    done("sync", cwd=client, MMMETA_REMOTE="../remote")
    return client


def test_failures_are_listed_and_tried_again(client: Path) -> None:
    with closing(sqlite3.connect(client / "x.db")) as database, database:
        database.execute(
            "CREATE TABLE documents (content_hash TEXT PRIMARY KEY, title TEXT CHECK (title NOT LIKE 'Tax%'))"
        )
    into = ("process", "--into", "sqlite:///x.db", "--columns", "title", "document_type=contract")
    failed = mmmeta(*into, "--json", cwd=client)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["processed"] == 2
    assert failed.stderr.splitlines()[-1] == (
        "mmmeta: documents that failed: 1; mmmeta status --failures lists them"
    )
    (listed,) = done("status", "--failures", cwd=client).splitlines()
    assert listed.startswith(f"imported\t{key('a')}\t1\tfalse\t")
    assert "CHECK constraint failed" in listed
    assert "imported: 0 due, 2 done, 1 failed, 0 set aside; " in done("status", cwd=client)
    assert reported(*into, cwd=client)["processed"] == 0, "it waits for its time"

    with closing(sqlite3.connect(client / "x.db")) as database, database:
        database.execute("DROP TABLE documents")
    retried = mmmeta(*into, "--retry-failed", "--json", cwd=client)
    assert retried.returncode == 0, retried.stderr
    assert json.loads(retried.stdout)["processed"] == 1
    with closing(sqlite3.connect(client / "x.db")) as database:
        assert database.execute("SELECT * FROM documents").fetchall() == [(key("a"), "Tax plan")]
    assert done("status", "--failures", cwd=client) == ""


def test_process_says_what_it_needs(client: Path) -> None:
    nothing = mmmeta("process", cwd=client)
    assert nothing.returncode == 2
    assert "say what to do: --into sqlite:///file.db, or --retry-failed" in nothing.stderr
    wrong = mmmeta("process", "--into", "nosuch://x:secret@h/db", cwd=client)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "nosuch" in wrong.stderr
    assert "secret" not in wrong.stderr
    assert mmmeta("process", "--retry-failed", cwd=client).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        (["generate"], "files read"),
        (["pull"], "revisions"),
        (["push", "--files"], "files"),
        (["download", "out"], "documents"),
        (["process", "--into", "sqlite:///y.db"], "imported"),
        (["export", "--output", "all.csv"], "export"),
    ],
)
def test_a_bar_is_on_the_terminal_only(client: Path, arguments: list[str], label: str) -> None:
    options = ["--files-root", "../documents", "--remote", "../remote", *arguments]
    shown = on_terminal(options, client)
    assert label in shown
    assert "\x1b[" in shown
    assert label not in on_terminal(["--quiet", *options], client)
    assert "\x1b[" not in mmmeta(*options, cwd=client).stderr


def on_terminal(arguments: list[str], cwd: Path) -> str:
    """Return what a command writes to stderr when that is a terminal."""
    terminal, process = os.openpty()
    with subprocess.Popen(
        [*MMMETA, *arguments],
        cwd=cwd,
        env=environment(TERM="xterm"),
        stdout=subprocess.DEVNULL,
        stderr=process,
    ) as running:
        os.close(process)
        read = b""
        with contextlib.suppress(OSError):  # what Linux ends a terminal with
            while part := os.read(terminal, 65536):
                read += part
        os.close(terminal)
    assert running.returncode in (0, 1)
    return read.decode()
