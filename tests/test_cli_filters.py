"""Filters as they are typed, `column=value`: what `files.find` gets of them, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from inspect import signature
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmeta_core.cli.filters import parse_filters
from mmmeta_core.files import Files
from mmmeta_core.types import Kind

KINDS: dict[str, Kind] = {
    "title": "text",
    "pages": "integer",
    "score": "float",
    "signed": "boolean",
    "at": "datetime",
    "tags": "json",
    "publisher:name": "text",
}
MAY = datetime(2021, 5, 1, tzinfo=UTC)

CASES: list[tuple[str, dict[str, Any]]] = [
    # Operators.
    ("title=a", {"title": {"=": "a"}}),
    ("title!=a", {"title": {"!=": "a"}}),
    ("pages<3", {"pages": {"<": 3}}),
    ("pages<=3", {"pages": {"<=": 3}}),
    ("pages>3", {"pages": {">": 3}}),
    ("pages>=3", {"pages": {">=": 3}}),
    ("title~%tax_", {"title": {"like": "%tax_"}}),
    ("title=a=b<c", {"title": {"=": "a=b<c"}}),
    (" title =a", {"title": {"=": "a"}}),
    ("title=", {"title": {"=": ""}}),
    ("title=two\nlines", {"title": {"=": "two\nlines"}}),
    ("publisher:name=City", {"publisher:name": {"=": "City"}}),
    # A value is read as the column's kind asks.
    ("title=007", {"title": {"=": "007"}}),
    ("pages=007", {"pages": {"=": 7}}),
    ("pages=many", {"pages": {"=": "many"}}),
    ("score>=0.5", {"score": {">=": 0.5}}),
    ("at>=2021-05-01", {"at": {">=": MAY}}),
    ("at=2021-05-01T02:00+02:00", {"at": {"=": MAY}}),
    ('tags=["a","b"]', {"tags": {"=": '["a","b"]'}}),
    # true, false and null.
    ("signed=true", {"signed": {"=": True}}),
    ("signed!=False", {"signed": {"!=": False}}),
    ("signed=yes", {"signed": {"=": True}}),
    ("imported=false", {"imported": {"=": False}}),
    ("pages=false", {"pages": {"=": False}}),
    ("title=false", {"title": {"=": "false"}}),
    ("title=null", {"title": {"=": None}}),
    ("pages!= NULL", {"pages": {"!=": None}}),
    # Quotes.
    ('title="null"', {"title": {"=": "null"}}),
    ('title="a,b"', {"title": {"=": "a,b"}}),
    ('title=""', {"title": {"=": ""}}),
    ('title="', {"title": {"=": '"'}}),
    ('imported="false"', {"imported": {"=": "false"}}),
    ('title~"%"', {"title": {"like": "%"}}),
    # Either.
    ("title=a,b", {"title": {"in": ["a", "b"]}}),
    ("pages=1,2,null", {"pages": {"in": [1, 2, None]}}),
    ("title!=a,b", {"title": {"notin": ["a", "b"]}}),
    ("title!=a,null", {"title": {"notin": ["a"], "!=": None}}),
    ("title>a,b", {"title": {">": "a,b"}}),
    # The key, and a column that is not there yet, are text or an integer.
    ("id=abc", {"id": {"=": "abc"}}),
    ("id=17", {"id": {"in": ["17", 17]}}),
    ("id!=17", {"id": {"notin": ["17", 17]}}),
    ("id=017", {"id": {"=": "017"}}),
    ("id>17", {"id": {">": 17}}),
    ("id=a,17", {"id": {"in": ["a", "17", 17]}}),
    (f"id={2**63}", {"id": {"=": str(2**63)}}),
]

REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("contract",), "is no filter: write column=value, or one of"),
    (("",), "is no filter"),
    (("=x",), "is no filter"),
    (("pages>null",), "null goes with = and != only"),
    (("signed=maybe",), "the column holds true or false"),
    (("signed=true,maybe",), "the column holds true or false"),
    (("at>yesterday",), "the column holds a time, such as 2021-05-01"),
    ((f"pages={2**63}",), "more than 64 bits"),
    (("title=\udcff",), "is not valid Unicode text"),
    (("title=a", "title=b"), "give title= once; for any of several values write title=a,b"),
    *(((f"{name}=1",), "can't be filtered on here") for name in ("self", "deleted", "order_by", "_limit")),
]


@pytest.mark.parametrize(("argument", "expected"), CASES, ids=[argument for argument, _ in CASES])
def test_a_filter_means(argument: str, expected: dict[str, Any]) -> None:
    found = parse_filters([argument], KINDS)
    assert found == expected
    # 1 == True, and 1 == 1.0: the type decides what the database compares with.
    assert repr(found) == repr(expected)


def test_what_find_takes_for_arguments_of_its_own_is_refused() -> None:
    own = [
        p.name
        for p in signature(Files.find).parameters.values()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    for name in own:
        with pytest.raises(click.UsageError):
            parse_filters([f"{name}=1"], KINDS)
    with pytest.raises(click.UsageError):
        parse_filters(["source=x"], KINDS, taken=["source"])
    assert parse_filters(["source=x"], {"source": "text"}) == {"source": {"=": "x"}}


def test_several_conditions_on_a_column_all_hold() -> None:
    assert parse_filters(["pages>1", "title=a", "pages<=9", "pages!=5"], KINDS) == {
        "pages": {">": 1, "<=": 9, "!=": 5},
        "title": {"=": "a"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"), REFUSED, ids=[ascii(arguments) for arguments, _ in REFUSED]
)
def test_a_filter_that_can_match_nothing_is_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse_filters(arguments, KINDS)
    assert message in caught.value.message


@settings(deadline=None, max_examples=100)
@given(st.text().filter(lambda text: "\0" not in text), st.sampled_from(["=", "!=", ">", "<="]))
def test_text_in_quotes_is_itself(text: str, operator: str) -> None:
    assert parse_filters([f'title{operator}"{text}"'], KINDS) == {"title": {operator: text}}


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(), max_size=3))
def test_whatever_is_typed_is_a_filter_or_wrong_usage(arguments: list[str]) -> None:
    try:
        found = parse_filters(arguments, KINDS)
    except click.UsageError as error:
        assert "\n" not in error.message  # noqa: PT017 - either outcome is fine
    else:
        assert all(isinstance(condition, dict) for condition in found.values())
