"""`head.json`: what is written comes back, and what is not a head is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmeta_core import LogError
from mmmeta_core.head import Head, Snapshot, parse_head

SOURCE = "/srv/archive/_mmmeta/head.json"
HEAD = Head(
    archive="archive",
    revision=7,
    unique="content_hash",
    digest="d" * 64,
    log_bytes=1234,
    snapshot=Snapshot(revision=5, size=4096, sha256="5" * 64, log_bytes=1000, etag="e"),
    store={"new_files": "17"},
    config="metadata: {}\n",
)

numbers = st.integers(0, 2**63 - 1)
snapshots = st.builds(
    Snapshot, revision=numbers, size=numbers, sha256=st.text(), log_bytes=numbers, etag=st.text()
)
heads = st.builds(
    Head,
    archive=st.text(),
    revision=st.integers(1, 2**63 - 1),
    unique=st.text(),
    digest=st.text(),
    log_bytes=numbers,
    snapshot=st.none() | snapshots,
    store=st.dictionaries(st.text(), st.text()),
    config=st.none() | st.text(),
)


@settings(deadline=None, max_examples=60)
@given(heads)
def test_any_head_comes_back_and_the_same_head_is_the_same_bytes(head: Head) -> None:
    assert parse_head(head.to_json(), SOURCE) == head
    assert parse_head(head.to_json(), SOURCE).to_json() == head.to_json()


def test_it_is_json_that_people_can_read() -> None:
    text = HEAD.to_json().decode()
    assert text.startswith('{\n  "format": 1,\n')
    assert text.endswith("}\n")


def values(**changes: Any) -> bytes:
    return orjson.dumps(orjson.loads(HEAD.to_json()) | changes)


def without(name: str) -> bytes:
    return orjson.dumps({k: v for k, v in orjson.loads(HEAD.to_json()).items() if k != name})


DAMAGED = {
    "empty": b"",
    "cut": HEAD.to_json()[:-9],
    "not UTF-8": b"\xff" + HEAD.to_json(),
    "a list": b"[1]",
    "a number": b"1",
    "null": b"null",
    "text": b'"head"',
    **{
        f"without {n}": without(n) for n in ("format", "archive", "revision", "unique", "digest", "log_bytes")
    },
    "format as text": values(format="1"),
    "format null": values(format=None),
    "revision 0": values(revision=0),
    "revision as text": values(revision="7"),
    "revision as fraction": values(revision=7.5),
    "archive as number": values(archive=1),
    "digest null": values(digest=None),
    "log_bytes null": values(log_bytes=None),
    "store as list": values(store=["new_files"]),
    "store null": values(store=None),
    "a number in the store": values(store={"new_files": 17}),
    "config as object": values(config={}),
    "snapshot as text": values(snapshot="meta.db"),
    "snapshot as list": values(snapshot=[]),
    "half a snapshot": values(snapshot={"revision": 5}),
    "a snapshot of no size": values(snapshot={"revision": 5, "size": None, "sha256": "5", "log_bytes": 1}),
    "a snapshot of no hash": values(snapshot={"revision": 5, "size": 1, "sha256": None, "log_bytes": 1}),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_named(data: bytes) -> None:
    with pytest.raises(LogError, match=SOURCE) as caught:
        parse_head(data, SOURCE)
    assert "is damaged" in str(caught.value)


def test_a_newer_format_is_refused_with_a_sentence() -> None:
    with pytest.raises(LogError) as caught:
        parse_head(b'{"format": 2, "newest": [1]}', SOURCE)
    assert str(caught.value) == (f"{SOURCE} has format 2, this mmmeta reads up to 1: install a newer mmmeta")


def test_fields_that_a_later_version_of_this_format_adds_are_ignored() -> None:
    snapshot = orjson.loads(HEAD.to_json())["snapshot"] | {"pages": 3}
    assert parse_head(values(colour="blue", snapshot=snapshot), SOURCE) == HEAD


def test_snapshot_store_and_config_may_be_left_out() -> None:
    data = orjson.dumps(
        {k: v for k, v in orjson.loads(HEAD.to_json()).items() if k not in ("snapshot", "store", "config")}
    )
    assert parse_head(data, SOURCE) == replace(HEAD, snapshot=None, store={}, config=None)
