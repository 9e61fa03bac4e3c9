"""Documents on disk: the walk, reading one metadata file, cutting it flat."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmmeta_core.documents import Entry, flatten, read_document, sha1, walk
from mmmeta_core.errors import ConfigError, DocumentError

MIB = 1024 * 1024


def write(path: Path, data: str | bytes = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def listed(root: Path, suffix: str | None = ".json") -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Return the file names by folder, and what could not be seen."""
    problems: list[tuple[str, str]] = []
    found = {
        folder: [entry.name for entry in entries]
        for folder, entries in walk(root, suffix=suffix, on_error=lambda *what: problems.append(what))
    }
    return found, problems


# --- walk


def test_walk_gives_every_folder_and_the_files_of_the_suffix(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "a.pdf", "json", "deep/er/c.json", "deep/d.JSON", "empty/x.txt"):
        write(tmp_path / name)
    assert listed(tmp_path) == (
        {"": ["a.json", "b.json"], "deep": [], "deep/er": ["c.json"], "empty": []},
        [],
    )


def test_walk_without_suffix_gives_all_files_hidden_ones_too(tmp_path: Path) -> None:
    for name in ("a.pdf", ".hidden", "no-suffix"):
        write(tmp_path / name)
    assert listed(tmp_path, None) == ({"": [".hidden", "a.pdf", "no-suffix"]}, [])


def test_walk_leaves_out_metadirs_and_unfinished_files(tmp_path: Path) -> None:
    for name in (
        "_mmmeta/a.json",
        "deep/_mmmeta/log/b.json",
        ".tmp-1-ab.json",
        "_mmmeta.json",
        "x_mmmeta/c.json",
    ):
        write(tmp_path / name)
    assert listed(tmp_path) == ({"": ["_mmmeta.json"], "deep": [], "x_mmmeta": ["c.json"]}, [])


def test_walk_leaves_out_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.json"))
        assert listed(tmp_path) == ({"": []}, [])


def test_walk_gives_folders_and_files_in_the_order_of_their_paths_as_text(tmp_path: Path) -> None:
    for folder in ("a/b", "a-b", "a", "ä", "Z", "a/b/c"):
        write(tmp_path / folder / "1.json")
    found, _ = listed(tmp_path)
    assert list(found) == ["", "Z", "a", "a-b", "a/b", "a/b/c", "ä"]
    assert list(found) == sorted(found, key=str.encode)


def test_walk_gives_size_time_and_inode(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "x.json", '{"a": 1}')
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    (_, root), (_, below) = walk(tmp_path, suffix=".json", on_error=pytest.fail)
    assert root == []
    assert below == [Entry("a", "x.json", 8, 1_700_000_000_123_456_789, path.stat().st_ino)]


def test_times_beyond_64_bits_of_nanoseconds_are_cut_to_them(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json")
    os.utime(path, (0, 10_000_000_000))  # the year 2286
    assert path.stat().st_mtime_ns > 2**63
    ((_, [entry]),) = walk(tmp_path, suffix=".json", on_error=pytest.fail)
    assert entry.mtime_ns == 2**63 - 1


def test_walk_takes_links_to_files_in_the_tree_and_no_linked_folder_twice(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.json")
    (tmp_path / "again.json").symlink_to("real/a.json")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "real" / "up").symlink_to("..")
    assert listed(tmp_path) == ({"": ["again.json"], "real": ["a.json"]}, [])


@pytest.mark.parametrize("name", ["out", "out.json"])
@pytest.mark.parametrize("target", ["outside", "outside/secret.json"])
def test_walk_follows_no_link_out_of_the_tree(tmp_path: Path, name: str, target: str) -> None:
    write(tmp_path / "outside" / "secret.json")
    root = tmp_path / "root"
    write(root / "a.json")
    (root / name).symlink_to(tmp_path / target)
    found, problems = listed(root)
    assert found == {"": ["a.json"]}
    concerns_us = target == "outside" or name.endswith(".json")
    reason = "is a link that leads out of the folder of documents; put the file itself there"
    assert problems == ([(name, reason)] if concerns_us else [])


def test_a_neighbour_whose_path_begins_like_the_root_is_outside(tmp_path: Path) -> None:
    write(tmp_path / "root-2" / "x.json")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "x.json").symlink_to("../root-2/x.json")
    found, problems = listed(tmp_path / "root")
    assert found == {"": []}
    assert [path for path, _ in problems] == ["x.json"]


def test_walk_takes_no_link_into_a_metadir(tmp_path: Path) -> None:
    write(tmp_path / "_mmmeta" / "head.json")
    (tmp_path / "head.json").symlink_to("_mmmeta/head.json")
    found, problems = listed(tmp_path)
    assert found == {"": []}
    assert [path for path, _ in problems] == ["head.json"]


def test_walk_names_links_to_nowhere_and_in_circles(tmp_path: Path) -> None:
    (tmp_path / "gone.json").symlink_to("nothing.json")
    (tmp_path / "circle.json").symlink_to("circle.json")
    (tmp_path / "irrelevant").symlink_to("nothing")
    found, problems = listed(tmp_path)
    assert found == {"": []}
    assert sorted(path for path, _ in problems) == ["circle.json", "gone.json"]
    assert ("gone.json", "is a link to a file that is not there") in problems


def test_a_root_that_is_a_link_is_the_folder_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.json")
    (tmp_path / "link").symlink_to("real")
    assert listed(tmp_path / "link") == ({"": ["a.json"]}, [])


def test_walk_names_what_is_not_utf8_and_goes_on(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    Path(os.fsdecode(root + b"/f\xff.json")).write_text("{}")
    Path(os.fsdecode(root + b"/d\xff")).mkdir()
    write(tmp_path / "ünï.json")
    found, problems = listed(tmp_path)
    assert found == {"": ["ünï.json"]}
    reason = "has a name that is not UTF-8; rename it"
    assert sorted(problems) == [("d\\xff", reason), ("f\\xff.json", reason)]


def test_walk_names_a_folder_whose_path_is_too_long_and_goes_on(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=here)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    write(tmp_path / "y.json")
    found, problems = listed(tmp_path)
    assert found[""] == ["y.json"]
    assert [reason for _, reason in problems] == ["can't be read: File name too long"]


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_a_root_that_is_no_folder_is_an_error_at_once(tmp_path: Path, name: str) -> None:
    write(tmp_path / "file")
    with pytest.raises(ConfigError, match=f"{name} is not a folder that can be read"):
        walk(tmp_path / name, suffix=None, on_error=pytest.fail)


# --- read_document


def read(tmp_path: Path, data: str | bytes, limit: int = MIB) -> dict[str, Any]:
    return read_document(write(tmp_path / "x.json", data), limit=limit)


def test_a_document_is_read_as_it_is(tmp_path: Path) -> None:
    document = {"a": "007", "b": [0, False, None, 1.0], "c": {"d": {}}, "ü": "\u0000☃\U0001f600"}
    assert repr(read(tmp_path, json.dumps(document))) == repr(document)
    assert repr(read(tmp_path, json.dumps(document, ensure_ascii=False))) == repr(document)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40])
def test_integers_of_any_size_are_exact(tmp_path: Path, number: int) -> None:
    assert read(tmp_path, f'{{"a": {number}, "b": [{number}]}}') == {"a": number, "b": [number]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON: the file is empty"),
        (b" \n", "not valid JSON: the file is empty"),
        (b'{"a": 1', "not valid JSON: "),
        (b'{"a": 1} {}', "not valid JSON: unexpected content after document (line 1, column 10)"),
        (b'{\n"a": NaN}', "not valid JSON: unexpected character"),
        (b'{"a": 1e999}', "not valid JSON: number is infinity"),
        (b'{"a": "\\ud800"}', "not valid JSON: "),
        (b"<html>", "not valid JSON: "),
        (b'{"a": "\xe4"}', "not UTF-8 text (byte 7)"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text (byte 0)"),
        (b"[]", "must hold a JSON object at the top, not an array"),
        (b"17", "must hold a JSON object at the top, not a number"),
        (b"1.5", "must hold a JSON object at the top, not a number"),
        (b'"x"', "must hold a JSON object at the top, not text"),
        (b"true", "must hold a JSON object at the top, not true or false"),
        (b"null", "must hold a JSON object at the top, not null"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nested deeper than 32 levels"),
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "nested deeper than 32 levels"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 32 levels"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not valid JSON: number is infinity"),
    ],
)
def test_what_is_no_document_says_why_in_words_that_follow_its_path(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        read(tmp_path, data)
    assert str(caught.value).startswith(reason)
    assert str(tmp_path) not in str(caught.value)


def test_32_levels_are_read_and_flattened(tmp_path: Path) -> None:
    document = read(tmp_path, b'{"a":' * 32 + b"1" + b"}" * 32)
    assert flatten(document) == {":".join("a" * 32): 1}


def test_a_file_is_as_large_as_the_limit_or_not_read(tmp_path: Path) -> None:
    data = '{"a": "' + "x" * 991 + '"}'
    assert len(data) == 1_000
    assert read(tmp_path, data, limit=1_000) == {"a": "x" * 991}
    reason = r"has 1,000 bytes, more than the 999 of metadata\.max_metadata_bytes"
    with pytest.raises(DocumentError, match=f"^{reason}$"):
        read(tmp_path, data, limit=999)


def test_a_file_that_is_gone_or_a_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"^can't be read: No such file or directory$"):
        read_document(tmp_path / "gone.json", limit=MIB)
    with pytest.raises(DocumentError, match=r"^can't be read: Is a directory$"):
        read_document(tmp_path, limit=MIB)


# --- flatten


@pytest.mark.parametrize(
    ("document", "flat"),
    [
        ({}, {}),
        ({"publisher": {"name": 1, "at": {"x": None}}}, {"publisher:name": 1, "publisher:at:x": None}),
        ({"a": {}, "b": {"c": {}}}, {"a": {}, "b:c": {}}),
        ({"a": [{"b": {"c": 1}}, []]}, {"a": [{"b": {"c": 1}}, []]}),
        ({"": {"": 1}}, {":": 1}),
        ({"a": 0, "b": False, "c": "", "d": None}, {"a": 0, "b": False, "c": "", "d": None}),
    ],
)
def test_flatten(document: dict[str, Any], flat: dict[str, Any]) -> None:
    assert repr(flatten(document)) == repr(flat)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"a": {"b": 1}, "a:b": 2}, "two values have the name 'a:b' once flattened"),
        ({"a": {1: 2}}, "the name 1 below 'a:' is not text"),
    ],
)
def test_flatten_refuses_names_that_say_too_little(document: dict[Any, Any], reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        flatten(document)


def test_flatten_stops_in_what_never_ends() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(DocumentError, match="is nested too deep"):
        flatten(endless)


NAMES = st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"]), max_size=3)
NESTED = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda below: st.dictionaries(NAMES, below, max_size=4),
    max_leaves=12,
)


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, last = name.split(":")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return nested


@given(st.dictionaries(NAMES, NESTED, max_size=5))
def test_flattening_loses_nothing(document: dict[str, Any]) -> None:
    flat = flatten(document)
    assert all(value == {} or not isinstance(value, dict) for value in flat.values())
    assert unflatten(flat) == document


def test_sha1_is_of_the_bytes(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB)
    assert sha1(write(tmp_path / "x.pdf", data)) == hashlib.sha1(data).hexdigest()  # noqa: S324
