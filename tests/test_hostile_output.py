"""What a publisher wrote, on a terminal and in files for other programs; columns that are called as they please."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmeta_core import Metadir, into_database, mmmeta
from mmmeta_core.cli.printing import _json, text
from mmmeta_core.cli.session import printable
from mmmeta_core.errors import ConfigError

EVIL = "a\x1b]0;owned\x07\x1b[2Jb\rc\x9bd\x7fe\u202ef\u2066g\u200bh\u2028i"


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Metadir]:
    with mmmeta(tmp_path) as made:
        yield made


RUN = """
import json, sys
from mmmeta_core.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit:
        pass
"""


def on_terminal(folder: Path, *commands: str) -> str:
    """Run commands with a terminal as their stdout and stderr; return all that reached it."""
    ours, theirs = pty.openpty()
    arguments = json.dumps([["--metadir", str(folder), *command.split()] for command in commands])
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while some := os.read(ours, 65536):
            said += some
    process.wait()
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def test_a_terminal_obeys_no_document(m: Metadir, tmp_path: Path) -> None:
    m.files.insert(content_hash=f"key {EVIL}", title=EVIL, tags=[EVIL, {EVIL: 1}])
    m.store["evil"] = EVIL

    def fail(file: Any) -> None:
        raise ValueError(EVIL)

    m.files.process(fail)
    said = on_terminal(
        tmp_path,
        *(
            "find",
            "find --csv",
            "find --json",
            "inspect",
            "store list",
            "store get evil",
            "store list --json",
        ),
        *("status --failures", "status --failures --json", "find no-filter", "store get no-key"),
    )
    assert said.count("owned") > 10
    assert harmless(said)


def harmless(said: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in said)


def test_errors_and_the_log_are_for_a_terminal_too(m: Metadir, tmp_path: Path) -> None:
    m.files.insert(content_hash="k")
    m.push()
    for words in ('"\\e[2J\\u202e": 1', 'remote: {url: "{\\e[2J"}', 'metadata: {types: {"\\e[2J": x}}'):
        (tmp_path / "_mmmeta" / "config.yml").write_text(words)
        said = on_terminal(tmp_path, "inspect")
        assert "mmmeta: " in said
        assert harmless(said)
    assert printable(EVIL) == text(EVIL)


@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(max_examples=30, deadline=None)
def test_json_says_the_same_with_nothing_that_a_terminal_obeys(value: Any) -> None:
    line = _json(value)
    assert json.loads(line) == value
    assert line.isprintable()


FORMULAS = ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "\uff1d1"]


def test_values_survive_in_csv_and_are_harmless_for_spreadsheets_when_asked(
    m: Metadir, tmp_path: Path
) -> None:
    for number, formula in enumerate(FORMULAS):
        m.files.insert({"content_hash": f"k{number}", "title": formula, "=x": -5, "ok": "a=b"})
    plain, safe = io.BytesIO(), io.BytesIO()
    m.export(plain, "csv", columns=["title"], order_by="content_hash")
    m.export(safe, "csv", columns=["title", "=x", "ok"], order_by="content_hash", spreadsheet=True)
    assert [row[0] for row in rows(plain)[1:]] == FORMULAS
    assert rows(safe)[0] == ["title", "'=x", "ok"]
    assert [row[0] for row in rows(safe)[1:]] == [f"'{formula}" for formula in FORMULAS]
    assert {row[1] for row in rows(safe)[1:]} == {"-5"}
    assert {row[2] for row in rows(safe)[1:]} == {"a=b"}
    with pytest.raises(ConfigError, match="only CSV"):
        m.export(tmp_path / "x.jsonl", spreadsheet=True)
    assert on_terminal(tmp_path, f"export --spreadsheet -o {tmp_path}/x.csv")
    assert "'=1+1" in (tmp_path / "x.csv").read_text()


def rows(target: io.BytesIO) -> list[list[str]]:
    return list(csv.reader(io.StringIO(target.getvalue().decode(), newline="")))


# --- columns


ODD = ["deleted", "order_by", "_limit", "_offset", "_step", "_streamed", "where", "self", "__class__", "__deleted_at",
    "select", 'a"b', "a'); DROP TABLE files; --", "../../etc/passwd", "%s", "%(x)s", ":x", "rowid", "oid", "_rowid_", "id",
    "mark", "source", "limit", "columns", "format", "key", "unique", "name", "get", "items", "x" * 63, "ß", "[a]",
    "?", "a__[POSTCOMPILE_x]", "%(content_hash_1)s"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_columns_of_any_name_are_read_and_filtered_and_those_that_can_not_be_are_kept(
    m: Metadir, name: str
) -> None:
    m.files.insert_many([{"content_hash": "k1", name: "yes"}, {"content_hash": "k2", name: "no"}])
    file = m.files.get("k1")
    assert file is not None
    column = name.replace("-", "_").replace(".", "_")
    if column.startswith(
        "__"
    ):  # reserved: what a publisher says there is kept, and never taken for bookkeeping
        assert file[name] == (None if name == "__deleted_at" else "yes")
        assert len(m.files) == 2
        return
    name = column
    assert file[name] == "yes"
    assert [found.key for found in m.files.find({name: "yes"})] == ["k1"]
    assert [found.key for found in m.files.find(where={name: "yes"})] == ["k1"]
    assert m.files.count({name: ["yes", "no"]}) == 2
    assert [row[name] for row in m.files.distinct(name, {name: {"!=": "no"}})] == ["yes"]
    found = m.files.find_one({name: "no"}, order_by=name)
    assert found is not None
    assert found.key == "k2"
    done: list[Any] = []
    m.files.process(lambda each: done.append(each.key), where={name: "yes"})
    assert done == ["k1"]
    target = io.BytesIO()
    assert m.export(target, "csv", columns=[name], where={name: "no"}).documents == 1
    assert rows(target)[1] == ["no"]


def test_the_command_line_filters_on_columns_that_are_called_as_an_option_is(
    m: Metadir, tmp_path: Path
) -> None:
    names = ["deleted", "order_by", "_limit", "where", "limit"]
    m.files.insert_many([{"content_hash": "k1", **dict.fromkeys(names, "yes")}, {"content_hash": "k2"}])
    said = on_terminal(tmp_path, *(f"{verb} {name}=yes" for verb in ("find", "export") for name in names))
    assert said.count("k1") == 10
    assert "k2" not in said


def test_columns_of_any_name_go_into_another_database(m: Metadir, tmp_path: Path) -> None:
    names = [name for name in ODD if not name.startswith(("__", ".."))]
    m.files.insert({"content_hash": "k1", "title": "x", **{name: f"yes {name}" for name in names}})
    into = into_database(f"sqlite:///{tmp_path}/other.db")
    for _ in range(2):
        assert m.files.process(into).failed == 0
        m.files.upsert({"content_hash": "k1", "title": "y"})
        file = m.files.get("k1")
        assert file is not None
        file["imported"] = False
        file.save()
    into.close()
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute("SELECT * FROM documents").fetchall()
        assert row["title"] == "y"
        for name in names:
            assert row[name.replace("-", "_").replace(".", "_")] == f"yes {name}"


# --- values


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (2**70, str(2**70)),
        (-(2**64), str(-(2**64))),
        ([1, 2**70], [1, str(2**70)]),
        ([{"a": {"b": [2**64 + 1]}}], [{"a": {"b": [str(2**64 + 1)]}}]),
        (2**63 - 1, 2**63 - 1),
        ("nul\0nul", "nul\0nul"),
        ("\u202e\x1b", "\u202e\x1b"),
        (1e308, 1e308),
        (5e-324, 5e-324),
        (-0.0, 0.0),
    ],
)
def test_values_at_the_edge_of_what_can_be(m: Metadir, tmp_path: Path, written: Any, kept: Any) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.json").write_text(json.dumps({"content_hash": "k", "value": written}))
    with mmmeta(tmp_path / "publisher", files_root=documents, remote=tmp_path) as publisher:
        assert publisher.generate().invalid == 0
        publisher.push()
    with mmmeta(tmp_path / "client", remote=tmp_path) as client:
        client.sync()
        (file,) = client.files
        assert file["value"] == kept


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"content_hash": "k", "a": NaN}', "not valid JSON"),
        ('{"content_hash": "k", "a": Infinity}', "not valid JSON"),
        ('{"content_hash": "k", "a": 1e999}', "infinity"),
        ('{"content_hash": "k", "a": 1' + "0" * 5000 + "}", "infinity"),
        ('{"content_hash": "k", "a": "\\ud800"}', "surrogate"),
        ('{"content_hash": "k\\u0000"}', "key"),
        ('{"content_hash": "k", "a": ' + "[" * 100 + "]" * 100 + "}", "nested deeper"),
        ('{"content_hash": "k", "a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper"),
        (json.dumps({"content_hash": "k", "n" * 9_000: dict.fromkeys(map(str, range(2_000)))}), "names have more"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_metadata_files_that_are_refused_alone(m: Metadir, tmp_path: Path, text: str, reason: str) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "bad.json").write_text(text)
    (documents / "good.json").write_text('{"content_hash": "good", "content_hash": "better", "a": 1}')
    with mmmeta(tmp_path / "publisher", files_root=documents) as publisher:
        result = publisher.generate()
        assert (result.added, result.invalid) == (1, 1)
        assert reason in publisher.invalid()[0][1]
        publisher.push()
        publisher.update()
        assert [file.key for file in publisher.files] == ["better"]  # of two values of a name the last counts


def test_a_time_can_not_be_naive(m: Metadir) -> None:
    m.files.insert(content_hash="k", at=datetime(2024, 1, 1, tzinfo=UTC))
    file = m.files.get("k")
    assert file is not None
    assert file["at"].tzinfo is not None
