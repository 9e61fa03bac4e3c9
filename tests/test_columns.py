"""Cutting documents to a table: which columns come into being, and what finds none."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmeta_core.database.columns import Columns, column_name, fold
from mmmeta_core.errors import DocumentError
from mmmeta_core.types import Kind


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("title", "title"),
        (" title ", "title"),
        ("dc.title", "dc_title"),
        ("x-mailer", "x_mailer"),
        ("publisher:name", "publisher:name"),
        ("größe", "größe"),
        ('a"; DROP TABLE files; ', 'a"; DROP TABLE files;'),
        ("a" * 63, "a" * 63),
        ("a" * 64, None),
        ("ä" * 32, None),
        ("", None),
        ("   ", None),
        ("__deleted_at", None),
        ("--x", None),
        ("a\nb", None),
        ("a\0b", None),
        ("\ud800", None),
    ],
)
def test_a_key_has_the_column_of_its_name_or_none(key: str, name: str | None) -> None:
    assert column_name(key) == name


def test_the_first_value_decides_the_kind_and_null_decides_nothing() -> None:
    columns = Columns({})
    assert columns.fit({"a": None}).row == {}
    assert columns.added == {}
    assert columns.fit({"a": True, "b": "x", "c": [1]}).row == {"a": 1, "b": "x", "c": "[1]"}
    assert columns.added == {"a": "boolean", "b": "text", "c": "json"}
    assert columns.fit({"a": None}).row == {"a": None}


def test_the_settings_decide_the_kind_of_new_columns_only() -> None:
    types: dict[str, Kind] = {"n": "integer", "old": "integer", "t": "datetime"}
    columns = Columns({"old": "boolean"})
    fitted = columns.fit({"n": "17", "old": "17", "t": "never"}, types)
    assert (fitted.row, fitted.rescued) == ({"n": 17}, {"old": "17", "t": "never"})
    assert columns.added == {"n": "integer", "t": "datetime"}


@pytest.mark.parametrize(
    ("document", "rescued"),
    [
        ({"flag": "yes"}, {"flag": "yes"}),
        ({"__deleted_at": "x"}, {"__deleted_at": "x"}),
        ({"y" * 64: 1}, {"y" * 64: 1}),
        ({"FLAG": True}, {"FLAG": True}),
        ({"content-hash": "x"}, {"content-hash": "x"}),
        ({"one": 1, "too many": 2}, {"too many": 2}),
        ({"flag": 2**70}, {"flag": str(2**70)}),
    ],
)
def test_what_finds_no_column_is_rescued_under_its_own_name(
    document: dict[str, Any], rescued: dict[str, Any]
) -> None:
    fitted = Columns({"flag": "boolean"}, taken=["content_hash"], limit=2).fit(document)
    assert fitted.rescued == rescued
    assert json.loads(fitted.rescued_json() or "") == rescued
    assert not fitted.row.keys() & rescued.keys()


def test_which_of_two_keys_gets_a_column_does_not_depend_on_their_order() -> None:
    for keys in permutations(["a-b", "a_b", "c"]):
        fitted = Columns({}).fit({key: key for key in keys})
        assert fitted.row == {"a_b": "a_b", "c": "c"}
        assert fitted.rescued == {"a-b": "a-b"}
    fitted = Columns({"a_b": "boolean"}).fit({"a-b": True, "a_b": "no boolean"})
    assert (fitted.row, fitted.rescued) == ({}, {"a-b": True, "a_b": "no boolean"})


@pytest.mark.parametrize("value", [b"bytes", float("inf"), "\ud800", object()])
def test_a_value_that_json_can_not_keep_refuses_the_document(value: Any) -> None:
    with pytest.raises(DocumentError, match="'a'"):
        Columns({}).fit({"a": value})


values = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2) | st.lists(st.booleans())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.dictionaries(st.text("aAbB.-_ ", max_size=3), values, max_size=5), max_size=5))
def test_no_value_is_ever_dropped(documents: list[dict[str, Any]]) -> None:
    columns = Columns({}, limit=3)
    for document in documents:
        fitted = columns.fit(document)
        for key, value in document.items():
            assert value is None or key in fitted.rescued or (column_name(key) or "") in fitted.row
        assert len(fitted.row.keys() | fitted.rescued.keys()) >= sum(v is not None for v in document.values())
    assert len({fold(name) for name in columns.kinds}) == len(columns.kinds) <= 3
