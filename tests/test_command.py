"""`run_command`: each document is handed to a program, its values as they are, one argument each."""

from __future__ import annotations

import fcntl
import json
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmmeta_core import run_command
from mmmeta_core.errors import ConfigError, UnavailableError
from mmmeta_core.metadir import Metadir

RECORD = """\
import json, sys
out, *rest = sys.argv[1:]
with open(out, "a") as file:
    file.write(json.dumps(rest) + "\\n")
"""
HOLD = """\
import fcntl, signal, subprocess, sys
if len(sys.argv) == 2:
    subprocess.run([sys.executable, __file__, sys.argv[1], "child"])
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
signal.pause()
"""


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Metadir]:
    """A metadir to fill, whose documents lie in its archive."""
    (tmp_path / "archive").mkdir()
    with Metadir(tmp_path / "client", remote=tmp_path / "archive") as metadir:
        yield metadir


def program(tmp_path: Path, text: str, *arguments: object) -> str:
    """Write a program; return the command that runs it."""
    path = tmp_path / "program.py"
    path.write_text(text)
    return shlex.join([sys.executable, str(path), *map(str, arguments)])


def recorded(tmp_path: Path) -> list[list[str]]:
    return [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]


def run(m: Metadir, command: str, **options: Any) -> Any:
    return m.files.process(run_command(command), **options)


def error_of(m: Metadir) -> str:
    (failure,) = m.failures()
    return failure.error


def test_values_are_single_arguments_whatever_is_in_them(m: Metadir, tmp_path: Path) -> None:
    hostile = "a b'\"; $(touch x) `id` * \\ \n --x {key}"
    m.files.insert(
        content_hash="k1", title=hostile, file_name="a/ü b.pdf", tags=["x", 1], signed=True, pages=-3
    )
    command = program(tmp_path, RECORD, tmp_path / "out")
    words = "{title} --t={title} {key}/{name} {tags} {signed} {pages} {{{key}}} {publisher:name} --end"
    assert run(m, f"{command} {words}").processed == 1
    assert recorded(tmp_path) == [
        [hostile, f"--t={hostile}", "k1/a/ü b.pdf", '["x",1]', "true", "-3", "{k1}", "", "--end"]
    ]


def test_a_path_is_the_document_itself_and_gone_afterwards(m: Metadir, tmp_path: Path) -> None:
    (tmp_path / "archive" / "a").mkdir()
    (tmp_path / "archive" / "a" / "b: c.pdf").write_text("the document")
    m.files.insert(content_hash="k", file_name="a/b: c.pdf")
    reads = RECORD.replace("json.dumps(rest)", "json.dumps([*rest, open(rest[0]).read()])")
    assert run(m, program(tmp_path, reads, tmp_path / "out", "{path}")).processed == 1
    ((path, text),) = recorded(tmp_path)
    assert (Path(path).name, text) == ("b_ c.pdf", "the document")
    assert not Path(path).parent.exists()


def test_a_document_is_fetched_only_for_a_command_that_takes_it(m: Metadir, tmp_path: Path) -> None:
    m.files.insert(content_hash="k", file_name="gone.pdf")
    assert run(m, program(tmp_path, RECORD, tmp_path / "out", "{path}")).failed == 1
    assert "gone.pdf" in error_of(m)
    assert not (tmp_path / "out").exists()
    assert run(m, program(tmp_path, RECORD, tmp_path / "out", "{name}"), mark="other").processed == 1


def test_a_value_is_never_an_option(m: Metadir, tmp_path: Path) -> None:
    m.files.insert(content_hash="k", title="-rf")
    command = program(tmp_path, RECORD, tmp_path / "out")
    assert run(m, f"{command} {{title}}").failed == 1
    assert error_of(m) == (
        "DocumentError: '{title}' is '-rf' here, which a program takes for an option: put -- before it in the command"
    )
    assert run(m, f"{command} -- {{title}}", mark="again").processed == 1
    assert recorded(tmp_path) == [["--", "-rf"]]


def test_what_no_argument_can_be_fails_for_that_document_only(m: Metadir, tmp_path: Path) -> None:
    m.files.insert_many(
        {"content_hash": key, "title": title}
        for key, title in {"a": "x\0y", "b": "x" * 500_000, "c": "x"}.items()
    )
    result = run(m, program(tmp_path, RECORD, tmp_path / "out", "{title}"))
    assert (result.processed, result.failed) == (1, 2)
    errors = {failure.key: failure.error for failure in m.failures()}
    assert "NUL" in errors["a"]
    assert "can't be run for it" in errors["b"]


@pytest.mark.parametrize(
    ("ends", "error"),
    [
        ("sys.exit(3)", "CommandError: exit status 3"),
        ("sys.stderr.write('x' * 9_000 + ' ünd why'); sys.exit(1)", "ünd why"),
        ("os.kill(os.getpid(), 9)", "CommandError: ended by signal 9"),
    ],
    ids=["status", "what it said", "signal"],
)
def test_a_program_that_fails_is_a_failure_of_the_document(
    m: Metadir, tmp_path: Path, ends: str, error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    m.files.insert(content_hash="k")
    result = run(m, program(tmp_path, f"import os, sys\nprint('to stdout')\nsys.stdout.flush()\n{ends}"))
    assert (result.failed, error_of(m).endswith(error)) == (1, True)
    assert len(error_of(m)) < 2_000
    said = capfd.readouterr()
    assert said.out == ""
    assert "to stdout" in said.err
    if "why" in ends:
        assert "ünd why" in said.err


def test_status_75_stops_the_run_and_blames_no_document(m: Metadir, tmp_path: Path) -> None:
    m.files.insert_many([{"content_hash": "a"}, {"content_hash": "b"}])
    with pytest.raises(UnavailableError, match=r"can't work now \(status 75\): database is away"):
        run(m, program(tmp_path, "import sys; sys.stderr.write('database is away'); sys.exit(75)"))
    assert list(m.failures()) == []
    assert run(m, program(tmp_path, "")).processed == 2


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "is empty"),
        ("sh 'x", "can't be split"),
        ("sh {path", "a brace that names nothing"),
        ("sh }", "a brace that names nothing"),
        ("{path} x", "the program can't come from a document"),
        ("no-such-program {path}", "there is no program 'no-such-program'"),
        ("/etc/passwd {path}", "there is no program '/etc/passwd'"),
    ],
)
def test_a_command_that_can_not_be_is_refused_at_once(command: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        run_command(command)


def test_a_program_that_is_gone_stops_the_run(m: Metadir, tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    handler = run_command(f"{path} {{key}}")
    path.unlink()
    m.files.insert(content_hash="k")
    with pytest.raises(ConfigError, match="can't be run"):
        m.files.process(handler)
    assert list(m.failures()) == []


def test_what_takes_too_long_is_ended_with_all_that_it_started(m: Metadir, tmp_path: Path) -> None:
    m.files.insert(content_hash="k")
    lock = tmp_path / "lock"
    handler = run_command(program(tmp_path, HOLD, lock), timeout=0.4)
    assert m.files.process(handler).failed == 1
    assert error_of(m) == "TimeoutError: it took longer than 0.4 s and was ended"
    with lock.open() as file:  # who held it is gone, its child too
        fcntl.flock(file, fcntl.LOCK_EX)


def test_what_a_program_leaves_running_is_not_waited_for(m: Metadir, tmp_path: Path) -> None:
    m.files.insert(content_hash="k")
    fifo = tmp_path / "fifo"
    fifo.mkdir()
    starts = "import subprocess, sys; subprocess.Popen(['sh', '-c', f'while [ -d {sys.argv[1]} ]; do sleep 0.05; done'])"
    command = program(tmp_path, starts, fifo)
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(run(m, command)))
    started = time.monotonic()
    thread.start()
    thread.join(20)
    fifo.rmdir()
    assert done[0].processed == 1
    assert time.monotonic() - started < 15


def test_a_program_that_closes_its_stderr_is_waited_for(m: Metadir, tmp_path: Path) -> None:
    m.files.insert(content_hash="k")
    ends = "import os, sys, time; os.close(2); time.sleep(0.1); os._exit(4)"
    assert run(m, program(tmp_path, ends)).failed == 1
    assert error_of(m) == "CommandError: exit status 4"


def test_a_handler_shows_its_command() -> None:
    assert repr(run_command("sh -c 'a b'")) == "<CommandHandler sh -c 'a b'>"
