"""Segments of the change log: what is written comes back, and whatever is damaged is named and changes nothing."""

from __future__ import annotations

import gzip
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmeta_core import LogError
from mmmeta_core.changelog import (
    Header,
    open_segment,
    replay_folder,
    replay_segment,
    segment_name,
    segment_revision,
    write_segment,
)
from mmmeta_core.database.catalog import Catalog, Change, Position, open_catalog
from mmmeta_core.database.columns import fold
from mmmeta_core.types import Key, Kind

UNIQUE = "content_hash"
TIME = "2026-01-02T03:04:05.000006+00:00"
COLUMNS: dict[str, Kind] = {
    "title": "text",
    "seen": "boolean",
    "at": "datetime",
    "tags": "json",
    "size": "integer",
}
FIRST = Header(
    archive="archive",
    revision=1,
    commit="commit",
    previous="",
    at=TIME,
    unique=UNIQUE,
    log_bytes=0,
    columns=COLUMNS,
    store={"new_files": "17", "gone": None},
)
DOCUMENTS: list[tuple[Key, dict[str, Any]]] = [
    ("a", {"title": "Ä", "seen": True, "at": TIME, "tags": ["x", {"y": None}], "size": 3}),
    (7, {"title": "007", "seen": False, "size": 2.5}),
    ("empty", {}),
]

Lines = list[bytes]


def lines_of(header: Mapping[str, Any], documents: Sequence[Any] = DOCUMENTS) -> Lines:
    records = [{"key": key, "set": values} for key, values in documents]
    return [orjson.dumps(one) for one in (header, *records, {"end": len(documents)})]


def written(header: Header = FIRST) -> dict[str, Any]:
    line: dict[str, Any] = orjson.loads(header.to_json())
    return line


def pack(path: Path, lines: Lines) -> Path:
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    return path


def dump(catalog: Catalog) -> list[str]:
    return list(catalog.connection.iterdump())


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with open_catalog(tmp_path / "meta.db", UNIQUE) as opened:
        yield opened


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    return write_segment(tmp_path / "segment", FIRST, DOCUMENTS).path


def second(segment: Path, **changes: Any) -> Header:
    with open_segment(segment, "first") as (header, _):
        after = write_segment(segment.with_name("again"), header, DOCUMENTS).position
    values: dict[str, Any] = {"revision": 2, "previous": after.digest, "log_bytes": after.log_bytes}
    return replace(FIRST, **(values | {"columns": {}, "store": {}} | changes))


# --- what is written comes back


def test_a_segment_is_gzipped_lines_with_header_and_end(segment: Path) -> None:
    header, *documents, end = map(orjson.loads, gzip.decompress(segment.read_bytes()).splitlines())
    assert header == written()
    assert header["format"] == 1
    assert "config" not in header
    assert documents == [{"key": key, "set": values} for key, values in DOCUMENTS]
    assert end == {"end": 3}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_segment(tmp_path / name, FIRST, iter(DOCUMENTS)) for name in ("one", "other"))
    assert one.path.read_bytes() == other.path.read_bytes()
    assert (one.digest, one.size, one.documents) == (other.digest, other.size, 3)


def test_a_segment_never_replaces_a_file(segment: Path) -> None:
    before = segment.read_bytes()
    with pytest.raises(FileExistsError):
        write_segment(segment, FIRST, [])
    assert segment.read_bytes() == before


def test_replay_sets_documents_columns_store_and_position(catalog: Catalog, tmp_path: Path) -> None:
    made = write_segment(tmp_path / "one", FIRST, DOCUMENTS)
    assert replay_segment(catalog, made.path, "one") == 3
    assert catalog.position == made.position == Position("archive", 1, made.digest, made.size)
    assert (catalog.kinds(), catalog.store()) == (COLUMNS, {"new_files": "17"})
    rows = catalog.rows(["a", 7, "empty"])
    assert (rows["a"]["seen"], rows["a"]["tags"], rows[7]["title"]) == (1, '["x",{"y":null}]', "007")
    assert [rows[key]["size"] for key in ("a", 7, "empty")] == [3, 2.5, None]


def test_null_empties_a_column_and_removes_a_store_value(catalog: Catalog, segment: Path) -> None:
    replay_segment(catalog, segment, "one")
    made = write_segment(
        segment.with_name("two"), second(segment, store={"new_files": None}), [("a", {"title": None})]
    )
    replay_segment(catalog, made.path, "two")
    row = catalog.rows(["a"])["a"]
    assert (row["title"], row["size"], row["__revision"], catalog.store()) == (None, 3, 2, {})


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)
keys = st.integers(-(2**63), 2**63 - 1) | st.text(min_size=1).filter(
    lambda t: bool(t.strip()) and "\0" not in t
)
headers = st.builds(
    Header,
    archive=st.text(min_size=1),
    revision=st.integers(1, 2**63 - 1),
    commit=st.text(),
    previous=st.text(),
    at=st.text(),
    unique=st.text(min_size=1).filter(lambda name: fold(name) not in map(fold, COLUMNS)),
    log_bytes=st.integers(0, 2**63 - 1),
    columns=st.just({}) | st.just(COLUMNS),
    store=st.dictionaries(st.text(), st.none() | st.text()),
    config=st.none() | st.text(),
    by=st.text(),
)


@settings(deadline=None, max_examples=60)
@given(headers, st.lists(st.tuples(keys, st.dictionaries(st.text(), values)), max_size=5))
def test_any_header_and_documents_come_back(
    header: Header, documents: list[tuple[Key, dict[str, Any]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = write_segment(Path(folder) / "one", header, documents)
        with open_segment(made.path, "one") as (again, records):
            assert (again, list(records)) == (header, documents)


cells = {
    "title": st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    "seen": st.booleans(),
    "at": st.datetimes().map(lambda t: f"{t.isoformat(timespec='microseconds')}+00:00"),
    "tags": st.lists(scalars, max_size=3),
}
rows = st.dictionaries(
    keys,
    st.fixed_dictionaries({}, optional={n: st.none() | cell for n, cell in cells.items()}),
    max_size=6,
)


@settings(deadline=None, max_examples=40)
@given(rows)
def test_what_a_catalog_replays_is_what_another_would_publish(documents: dict[Key, dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, open_catalog(Path(folder) / "meta.db", UNIQUE) as one:
        replay_segment(one, write_segment(Path(folder) / "segment", FIRST, documents.items()).path, "segment")
        raw = one.rows(documents)
        with open_catalog(Path(folder) / "other.db", UNIQUE) as other:
            columns = other.columns()
            for name, kind in COLUMNS.items():
                columns.add(name, kind)
                columns.added[name] = kind
            other.stage([Change(k, {n: raw[k][n] for n in cells}) for k in documents], columns)
            delta = {key: {n: v for n, v in values.items() if n in cells} for key, values in other.deltas()}
    filled = {key: {n: v for n, v in values.items() if v is not None} for key, values in documents.items()}
    assert delta == filled
    assert [[type(v) for v in d.values()] for d in delta.values()] == [
        [type(filled[k][n]) for n in delta[k]] for k in delta
    ]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**20 - 1), st.integers(1, 10**20 - 1))
def test_names_sort_as_revisions_do(one: int, other: int) -> None:
    assert segment_revision(segment_name(one)) == one
    assert (segment_name(one) < segment_name(other)) == (one < other)


@pytest.mark.parametrize(
    "name",
    [
        "1.jsonl.gz",
        "log/00000000000000000001.jsonl",
        "log/0000000000000000000x.jsonl.gz",
        "head.json",
        ".tmp-1",
    ],
)
def test_other_files_are_no_segments(name: str) -> None:
    assert segment_revision(name) is None


# --- damage


def header_with(**changes: Any) -> Lines:
    return lines_of(written() | changes)


def without(name: str) -> Lines:
    return lines_of({k: v for k, v in written().items() if k != name})


def document(record: Any) -> Lines:
    """A segment of which only the last document is wrong: what comes before it must not stay."""
    good = lines_of(written(), DOCUMENTS[:1])
    return [*good[:-1], record if isinstance(record, bytes) else orjson.dumps(record), b'{"end":2}']


BAD_KEYS: list[Any] = [None, "", " ", 1.5, True, [], 2**63]
DAMAGED: dict[str, Lines] = {
    "empty": [],
    "not JSON": [b"hello", b'{"end":0}'],
    "not an object": [b"[1]", b'{"end":0}'],
    "not UTF-8": [b'{"format":1,"archive":"\xff"}', b'{"end":0}'],
    **{
        f"without {name}": without(name)
        for name in ("format", "archive", "revision", "previous", "log_bytes")
    },
    "format as text": header_with(format="1"),
    "format 0": header_with(format=0),
    "revision as text": header_with(revision="1"),
    "revision true": header_with(revision=True),
    "negative log_bytes": header_with(log_bytes=-1),
    "archive null": header_with(archive=None),
    "archive empty": header_with(archive=""),
    "columns as list": header_with(columns=["title"]),
    "unknown kind": header_with(columns=COLUMNS | {"title": "picture"}),
    "kind as list": header_with(columns=COLUMNS | {"title": ["text"]}),
    "reserved column": header_with(columns=COLUMNS | {"__revision": "integer"}),
    "impossible column": header_with(columns=COLUMNS | {"a.b": "text"}),
    "key as column": header_with(columns=COLUMNS | {UNIQUE: "text"}),
    "columns of one name": header_with(columns=COLUMNS | {"TITLE": "text"}),
    "store as list": header_with(store=[]),
    "store number": header_with(store={"new_files": 17}),
    "config as number": header_with(config=1),
    "no end": lines_of(written())[:-1],
    "end too small": [*lines_of(written())[:-1], b'{"end":2}'],
    "end too large": [*lines_of(written())[:-1], b'{"end":4}'],
    "end as text": [*lines_of(written())[:-1], b'{"end":"3"}'],
    "end twice": [*lines_of(written()), b'{"end":3}'],
    "more after the end": [*lines_of(written()), b"x"],
    "a document lost": [*lines_of(written())[:2], *lines_of(written())[3:]],
    "a document that is cut": document(b'{"key":"b","set":{"title":'),
    "a document as list": document(["key"]),
    "a document as number": document(1),
    "a document as text": document("end"),
    "an empty line": document(b""),
    "no key": document({"set": {}}),
    "no set": document({"key": "b"}),
    "set as list": document({"key": "b", "set": []}),
    **{f"key {key!r}": document({"key": key, "set": {}}) for key in BAD_KEYS},
    "undeclared column": document({"key": "b", "set": {"other": 1}}),
    "its own revision": document({"key": "b", "set": {"__revision": 9}}),
    "a boolean as number": document({"key": "b", "set": {"seen": 1}}),
    "text as list": document({"key": "b", "set": {"title": []}}),
    "no time": document({"key": "b", "set": {"at": "yesterday"}}),
    "a time as number": document({"key": "b", "set": {"at": 1}}),
    "a huge integer": document({"key": "b", "set": {"size": 2**64 - 1}}),
}


def refuses(catalog: Catalog, path: Path) -> str:
    """Replay must raise an error that names the segment, and change nothing; returns the message."""
    before = dump(catalog)
    with pytest.raises(LogError, match=r"log/7\.gz") as caught:
        replay_segment(catalog, path, "log/7.gz")
    assert dump(catalog) == before
    return str(caught.value)


@pytest.mark.parametrize("lines", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_named_and_changes_nothing(catalog: Catalog, tmp_path: Path, lines: Lines) -> None:
    assert "nothing was changed" in refuses(catalog, pack(tmp_path / "segment", lines))
    good = pack(tmp_path / "good", lines_of(written()))
    assert replay_segment(catalog, good, "good") == 3


def test_a_segment_cut_anywhere_is_damaged(catalog: Catalog, segment: Path) -> None:
    whole = segment.read_bytes()
    for length in range(len(whole)):
        segment.write_bytes(whole[:length])
        refuses(catalog, segment)


def test_a_flipped_byte_is_damage_or_leaves_the_content(catalog: Catalog, segment: Path) -> None:
    whole = segment.read_bytes()
    with open_segment(segment, "whole") as (header, records):
        content = header, list(records)
    undamaged = []
    for at in range(len(whole)):
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            with open_segment(segment, "log/7.gz") as (header, records):
                assert (header, list(records)) == content
                undamaged.append(at)
        except LogError:
            refuses(catalog, segment)
    assert max(undamaged, default=0) < 10, "only the gzip header has bytes that mean nothing"


@pytest.mark.parametrize("data", [b"hello", b"\x1f\x8b", b"PK\x03\x04", bytes(100)])
def test_what_is_not_gzip_is_damaged(catalog: Catalog, segment: Path, data: bytes) -> None:
    segment.write_bytes(data)
    refuses(catalog, segment)
    segment.write_bytes(gzip.compress(b"") + data)
    refuses(catalog, segment)


def test_a_newer_format_is_refused_with_a_sentence(catalog: Catalog, tmp_path: Path) -> None:
    newer = pack(tmp_path / "newer", [b'{"format":2,"rows":"in another way"}', b"anything"])
    assert "has format 2, this mmmeta reads up to 1: install a newer mmmeta; nothing was changed" in refuses(
        catalog, newer
    )


def test_fields_that_a_later_version_of_this_format_adds_are_ignored(
    catalog: Catalog, tmp_path: Path
) -> None:
    more = pack(tmp_path / "more", header_with(colour="blue"))
    assert replay_segment(catalog, more, "more") == 3


# --- the wrong segment


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"archive": "other"}, "belongs to another archive"),
        ({"revision": 1}, "says revision 1, expected 2"),
        ({"revision": 3}, "says revision 3, expected 2"),
        ({"previous": "0" * 64}, "an earlier segment was replaced"),
        ({"unique": "id"}, "keyed by 'id', this catalog by 'content_hash'"),
    ],
)
def test_a_segment_of_another_history_is_refused(
    catalog: Catalog, segment: Path, changes: dict[str, Any], words: str
) -> None:
    replay_segment(catalog, segment, "one")
    wrong = write_segment(segment.with_name("wrong"), second(segment, **changes), [("b", {"title": "x"})])
    assert words in refuses(catalog, wrong.path)


# --- a folder of segments


def fill(metadir: Path, revisions: int) -> list[Path]:
    (metadir / "log").mkdir()
    position = Position(None, 0, "", 0)
    paths = []
    for n in range(1, revisions + 1):
        header = replace(
            FIRST,
            revision=n,
            previous=position.digest,
            log_bytes=position.log_bytes,
            columns={"title": "text"},
        )
        made = write_segment(metadir / segment_name(n), header, [(f"k{n}", {"title": str(n)})])
        position = made.position
        paths.append(made.path)
    return paths


def test_a_folder_is_replayed_from_where_the_catalog_is(catalog: Catalog, tmp_path: Path) -> None:
    paths = fill(tmp_path, 3)
    (tmp_path / "log" / "notes.txt").write_text("not a segment")
    replay_segment(catalog, paths[0], "first")
    assert [replay_folder(catalog, tmp_path) for _ in range(2)] == [2, 0]
    assert (catalog.position.revision, catalog.count()) == (3, 3)
    assert catalog.position.log_bytes == sum(path.stat().st_size for path in paths)


def test_no_folder_is_nothing_to_replay(catalog: Catalog, tmp_path: Path) -> None:
    assert replay_folder(catalog, tmp_path) == 0


@pytest.mark.parametrize("how", ["missing", "cut", "that of another revision"])
def test_a_bad_segment_in_a_folder_stops_there_and_a_good_copy_goes_on(
    catalog: Catalog, tmp_path: Path, how: str
) -> None:
    paths = fill(tmp_path, 4)
    whole = paths[2].read_bytes()
    if how == "missing":
        paths[2].unlink()
    else:
        paths[2].write_bytes(whole[:-9] if how == "cut" else paths[1].read_bytes())
    for _ in range(2):
        with pytest.raises(LogError, match=re.escape(str(paths[2]))):
            replay_folder(catalog, tmp_path)
        assert (catalog.position.revision, catalog.count()) == (2, 2)
    paths[2].write_bytes(whole)
    assert (replay_folder(catalog, tmp_path), catalog.count()) == (2, 4)


def test_many_documents_stream_through(catalog: Catalog, tmp_path: Path) -> None:
    documents = ((n, {"size": math.sqrt(n)}) for n in range(1201))
    made = write_segment(tmp_path / "many", FIRST, documents)
    assert (made.documents, replay_segment(catalog, made.path, "many"), catalog.count()) == (1201, 1201, 1201)
