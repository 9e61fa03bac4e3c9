"""Segments and heads of a publisher who means harm: too much is refused with its setting named, in bounded memory."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from mmmeta_core import mmmeta
from mmmeta_core.changelog import Header, digest_of, replay_segment, segment_name
from mmmeta_core.database.catalog import Catalog, open_catalog
from mmmeta_core.errors import ConfigError, LogError, RemoteError
from mmmeta_core.limits import DEFAULTS
from mmmeta_core.limits import cap as cap_of

MIB = 1024 * 1024


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with open_catalog(tmp_path / "meta.db", "content_hash") as opened:
        yield opened


def header(revision: int = 1, previous: str = "", log_bytes: int = 0, **more: Any) -> bytes:
    made = Header("a1", revision, "c", previous, "", "content_hash", log_bytes).to_json()
    return orjson.dumps({**orjson.loads(made), **more})


def write(path: Path, *lines: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines), 9))
    return path


def document(key: str = "k", **values: Any) -> bytes:
    return orjson.dumps({"key": key, "set": values})


def end(count: int) -> bytes:
    return orjson.dumps({"end": count})


def held(catalog: Catalog) -> list[Any]:
    tables = ("sqlite_master", "files", "mmmeta_info", "mmmeta_columns", "mmmeta_store")
    return [catalog.connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]


def refused(catalog: Catalog, path: Path) -> str:
    before = held(catalog)
    with pytest.raises(LogError, match="nothing was changed") as caught:
        replay_segment(catalog, path, path.name)
    assert held(catalog) == before
    return str(caught.value)


TEXT = header(columns={"title": "text", "tags": "json"})


@pytest.mark.parametrize(
    ("setting", "value", "lines"),
    [
        ("MMMETA_MAX_SEGMENT_BYTES", 100, [TEXT, document(title="x"), end(1)]),
        ("MMMETA_MAX_UNPACKED_BYTES", 5000, [TEXT, document(title="x" * 9000), end(1)]),
        ("MMMETA_MAX_LINE_BYTES", 5000, [TEXT, document(title="x" * 9000), end(1)]),
        ("MMMETA_MAX_LINE_BYTES", 5000, [header(by="x" * 9000), end(0)]),
        ("MMMETA_MAX_DOCUMENTS", 2, [TEXT, *(document(str(n)) for n in range(3)), end(3)]),
        ("MMMETA_MAX_DEPTH", 5, [TEXT, document(tags=[[[[[1]]]]]), end(1)]),
        ("MMMETA_MAX_COLUMNS", 3, [header(columns=dict.fromkeys("abcd", "text")), end(0)]),
        ("MMMETA_MAX_STORE_KEYS", 2, [header(store={"a": "1", "b": "1", "c": "1"}), end(0)]),
    ],
)
def test_what_is_beyond_a_cap_is_refused_with_its_setting_and_taken_when_that_is_raised(
    catalog: Catalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    value: int,
    lines: list[bytes],
) -> None:
    path = write(tmp_path / "segment", *lines)
    monkeypatch.setenv(setting, str(value))
    assert f"set {setting}" in refused(catalog, path)
    monkeypatch.setenv(setting, str(value * 100))
    replay_segment(catalog, path, "segment")


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e9", "²", "9" * 30])
def test_a_cap_is_a_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MMMETA_MAX_DEPTH", text)
    with pytest.raises(ConfigError, match="MMMETA_MAX_DEPTH"):
        cap_of("MMMETA_MAX_DEPTH")
    monkeypatch.setenv("MMMETA_MAX_DEPTH", "")
    assert cap_of("MMMETA_MAX_DEPTH") == DEFAULTS["MMMETA_MAX_DEPTH"]


def test_the_documentation_lists_each_setting_and_its_default() -> None:
    text = (Path(__file__).parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(MMMETA_MAX_\w+)` \| (\d+) \|", text, re.MULTILINE)
    assert {name: int(number) for name, number in listed} == DEFAULTS


def test_a_publishers_settings_do_not_raise_a_cap(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = "metadata: {max_columns: 1500, max_metadata_bytes: 1000000000}\n"
    path = write(tmp_path / "segment", header(config=config, columns=dict.fromkeys("abcd", "text")), end(0))
    monkeypatch.setenv("MMMETA_MAX_COLUMNS", "3")
    assert "MMMETA_MAX_COLUMNS" in refused(catalog, path)


def test_many_columns_at_once_and_little_by_little(catalog: Catalog, tmp_path: Path) -> None:
    path = write(tmp_path / "many", header(columns={f"c{n}": "text" for n in range(100_000)}), end(0))
    assert "more than 1,500 columns" in refused(catalog, path)
    for revision in (1, 2, 3):
        columns = {f"r{revision}c{n}": "text" for n in range(500)}
        position = catalog.position
        line = header(revision, position.digest, position.log_bytes, columns=columns)
        path = write(tmp_path / str(revision), line, document(**{f"r{revision}c0": "x"}), end(1))
        replay_segment(catalog, path, "segment")
    position = catalog.position
    line = header(4, position.digest, position.log_bytes, columns={"one_more": "text"})
    assert "columns in all" in refused(catalog, write(tmp_path / "4", line, end(0)))


def test_more_columns_than_an_expression_of_sqlite_is_deep_reach_the_state_and_are_found(
    tmp_path: Path,
) -> None:
    log = tmp_path / "_mmmeta" / segment_name(1)
    columns = {f"c{n:04}": "text" for n in range(1_050)}
    write(log, header(columns=columns), document("k", **dict.fromkeys(columns, "x")), end(1))
    with mmmeta(tmp_path) as m:
        assert m.update().added == 1
        (file,) = m.files.find(c1049="x", order_by="-c0000")
        assert len([name for name in file if file[name] == "x"]) == 1_050


@pytest.mark.parametrize(
    "values",
    [
        {"__rescued": [1]},
        {"__rescued": "text"},
        {"__revision": 7},
        {"content_hash": "other"},
        {"__state_added": "2024-01-01T00:00:00+00:00"},
        {"__deleted_at": "no time"},
        {"title": 2**63},
        {"title": True},
        {"rowid": 5},
        {"tags": 1e400},
    ],
    ids=str,
)
def test_values_that_no_publisher_writes(catalog: Catalog, tmp_path: Path, values: dict[str, Any]) -> None:
    line = json.dumps({"key": "k", "set": values}).encode()
    refused(catalog, write(tmp_path / "segment", TEXT, line, end(1)))


@pytest.mark.parametrize(
    "line",
    [
        b'{"key":"k","set":{"title":"\\ud800"}}',
        b'{"key":"k\\u0000","set":{}}',
        b'{"key":1.5,"set":{}}',
        b'{"key":99999999999999999999,"set":{}}',
        b'{"key":"k","set":{"title":NaN}}',
        b'{"key":"k","set":{"title":1e999}}',
        b'{"key":"k","set":{"tags":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b'{"key":"k","set":{"tags":' + b"[" * 300 + b"]" * 300 + b"}}",
        b'"end"',
        b"[]",
        b"\xff",
    ],
    ids=lambda line: line[:40].decode(errors="replace"),
)
def test_lines_that_no_publisher_writes(catalog: Catalog, tmp_path: Path, line: bytes) -> None:
    refused(catalog, write(tmp_path / "segment", TEXT, line, end(1)))


@pytest.mark.parametrize(
    "change",
    [
        {"format": None},
        {"format": "2"},
        {"format": {}},
        {"revision": 10**30},
        {"columns": {"__deleted_at": "text"}},
        {"columns": {'a"b\x1b': "text"}},
        {"columns": {"a": "text", "A": "text"}},
        {"columns": {"Content_Hash": "text"}},
        {"columns": {"a": ["text"]}},
        {"store": {"a": 1}},
        {"store": {"a": "x" * (MIB + 1)}},
        {"config": "x" * (MIB + 1)},
    ],
    ids=lambda change: str(change)[:40],
)
def test_headers_that_no_publisher_writes(catalog: Catalog, tmp_path: Path, change: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(TEXT), **change}).encode()
    refused(catalog, write(tmp_path / "segment", text, end(0)))


def test_what_is_hidden_under_another_name_does_not_pass_for_a_column(tmp_path: Path) -> None:
    log = tmp_path / "_mmmeta" / segment_name(1)
    hidden = {"imported": True, "content_hash": "other", "title": "other", "extra": 1, "__deleted_at": "x"}
    write(log, TEXT, document("one", title="own"), document("two", title="own", __rescued=hidden), end(2))
    with mmmeta(tmp_path) as m:
        m.update()
        one = m.files.get("one")
        assert one is not None
        one["imported"] = False
        one.save()
        two = m.files.get("two")
        assert two is not None
        assert (two.key, two["title"], two["imported"], two["extra"]) == ("two", "own", None, 1)
        assert not two.get("__deleted_at")


# --- memory and disk

PULL = """
import resource, sys
from mmmeta_core import mmmeta
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with mmmeta(sys.argv[1], remote=sys.argv[2]) as m:
        m.pull()
except Exception as error:
    print(type(error).__name__, error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


def pulled(tmp_path: Path, remote: str) -> tuple[str, int]:
    """Pull in a process of its own; return what it said, and by how many bytes its memory grew at the most."""
    done = subprocess.run(
        [sys.executable, "-c", PULL, str(tmp_path / "client"), remote],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *said, grown = done.stdout.splitlines()
    return "\n".join(said), int(grown) * 1024


def packed_bomb(path: Path, first: bytes, piece: bytes, times: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb", 1) as file:
        file.write(first)
        for _ in range(times):
            file.write(piece)
    return path


def test_a_segment_that_unpacks_to_one_endless_line(tmp_path: Path) -> None:
    path = tmp_path / "archive" / "_mmmeta" / segment_name(1)
    packed_bomb(path, b'{"format":1,"by":"', b"x" * MIB, 200)
    said, grown = pulled(tmp_path, str(tmp_path / "archive"))
    assert "MMMETA_MAX_LINE_BYTES" in said
    assert grown < 110 * MIB
    assert (
        sum(f.stat().st_size for f in (tmp_path / "client").rglob("*") if f.is_file())
        < 2 * path.stat().st_size
    )


def test_a_segment_of_many_equal_lines_is_stopped_by_its_ratio(tmp_path: Path) -> None:
    path = tmp_path / "archive" / "_mmmeta" / segment_name(1)
    packed_bomb(path, TEXT + b"\n", b'{"key":"k","set":{"title":"' + b"x" * 65_000 + b'"}}\n', 3000)
    said, grown = pulled(tmp_path, str(tmp_path / "archive"))
    assert "MMMETA_MAX_RATIO" in said
    assert grown < 200 * MIB
    assert sum(f.stat().st_size for f in (tmp_path / "client").rglob("*") if f.is_file()) < 5 * MIB


def test_many_large_documents_are_not_held_at_once(tmp_path: Path) -> None:
    path = tmp_path / "archive" / "_mmmeta" / segment_name(1)
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wb", 1) as file:
        file.write(TEXT + b"\n")
        for number in range(60):
            file.write(document(str(number), title=f"{number:07}" * (MIB // 2)) + b"\n")
        file.write(end(60) + b"\n")
    said, grown = pulled(tmp_path, str(tmp_path / "archive"))
    assert "MMMETA_MAX_RATIO" in said  # it unpacks to 220 MB
    assert grown < 170 * MIB


def test_a_head_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "archive" / "_mmmeta" / "head.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b" " * 5000)
    monkeypatch.setenv("MMMETA_MAX_HEAD_BYTES", "4000")
    with mmmeta(tmp_path / "client", remote=tmp_path / "archive") as m:
        with pytest.raises(RemoteError, match="set MMMETA_MAX_HEAD_BYTES"):
            m.pull()
        with pytest.raises(RemoteError, match="set MMMETA_MAX_HEAD_BYTES"):
            m.verify()
    assert not (tmp_path / "client" / "_mmmeta" / "meta.db").exists()


def test_digests_are_of_the_packed_bytes(tmp_path: Path) -> None:
    """The helper writes what a reader takes, so that the refusals above are for what they say."""
    with open_catalog(tmp_path / "meta.db", "content_hash") as catalog:
        path = write(tmp_path / "segment", TEXT, document(title="x", tags=[1]), end(1))
        assert replay_segment(catalog, path, "segment") == 1
        assert catalog.position.digest == digest_of(path)
