"""Values and kinds of columns: what is kept comes back as it was, what has no place is a `Misfit`."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmeta_core.types import (
    KINDS,
    Kind,
    Misfit,
    coerce,
    decode,
    encode,
    format_time,
    from_json,
    is_key,
    kind_of,
    never,
    parse_time,
    to_json,
    to_utc,
)

text = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
times = st.datetimes(timezones=st.just(UTC))
scalars = st.none() | st.booleans() | integers | floats | text
lists = st.lists(
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=200)
@given(st.booleans() | integers | floats | text | times | lists | st.just({}))
def test_every_value_comes_back_from_sqlite_and_from_the_log_as_it_was(value: Any) -> None:
    kind = kind_of(value)
    connection = sqlite3.connect(":memory:")
    try:
        (raw,) = connection.execute("SELECT ?", (encode(value, kind),)).fetchone()
    finally:
        connection.close()
    for back in (decode(raw, kind), decode(from_json(to_json(raw, kind), kind), kind)):
        assert back == value
        assert type(back) is type(value)


@given(times, times)
def test_the_text_of_times_sorts_as_they_do(one: datetime, other: datetime) -> None:
    assert (format_time(one) < format_time(other)) == (one < other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nothing", [None, pd.NaT])
def test_nothing_is_null_in_a_column_of_any_kind(kind: Kind, nothing: Any) -> None:
    assert encode(nothing, kind) is None
    assert decode(None, kind) is to_json(None, kind) is from_json(None, kind) is None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("true", "boolean"),
        (1, "boolean"),
        (True, "integer"),
        (True, "text"),
        ("2024-05-01T00:00:00", "datetime"),
        (datetime(2024, 5, 1, tzinfo=UTC), "text"),
        ([1], "text"),
        ("[1]", "json"),
        (2**63, "integer"),
        (float("inf"), "float"),
        ("\ud800", "text"),
        ([2**70], "json"),
        ([{1: 2}], "json"),
        (b"bytes", "text"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))), "datetime"),
    ],
)
def test_a_value_that_its_column_would_change_is_a_misfit(value: Any, kind: Kind) -> None:
    with pytest.raises(Misfit):
        encode(value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "raw"),
    [
        ("007", "integer", "007"),
        (7, "text", 7),
        (1.0, "integer", 1.0),
        (float("nan"), "float", None),
        (date(2024, 5, 1), "text", "2024-05-01"),
        ((1, 2), "json", "[1,2]"),
        (datetime(2024, 5, 1), "datetime", "2024-05-01T00:00:00.000000+00:00"),  # noqa: DTZ001
    ],
)
def test_numbers_and_text_mix_and_python_types_become_their_nearest(value: Any, kind: Kind, raw: Any) -> None:
    kept = encode(value, kind)
    assert kept == raw
    assert type(kept) is type(raw)


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("17", "integer", 17),
        (17.0, "integer", 17),
        ("1.5", "float", 1.5),
        (3, "float", 3.0),
        (7, "text", "7"),
        (True, "text", "true"),
        (" Yes ", "boolean", True),
        ("no", "boolean", False),
        (0, "boolean", False),
        ("2024-05-01", "datetime", datetime(2024, 5, 1, tzinfo=UTC)),
        ("2024-05-01T12:00+02:00", "datetime", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        (None, "integer", None),
        ("x", "integer", Misfit),
        (1.5, "integer", Misfit),
        ("maybe", "boolean", Misfit),
        (2, "boolean", Misfit),
        ("soon", "datetime", Misfit),
        (17, "datetime", Misfit),
        ("0001-01-01T00:00+02:00", "datetime", Misfit),
        ([1], "text", Misfit),
    ],
)
def test_the_kind_asked_for_in_the_settings_reads_text(value: Any, kind: Kind, read: Any) -> None:
    if read is Misfit:
        with pytest.raises(Misfit):
            coerce(value, kind)
    else:
        assert coerce(value, kind) == read
        assert type(coerce(value, kind)) is type(read)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(17, "datetime"), ("soon", "datetime"), ("0001-01-01T00:00:00+23:00", "datetime"), ("x", "boolean")],
)
def test_what_no_well_made_log_holds_is_a_misfit(value: Any, kind: Kind) -> None:
    with pytest.raises(Misfit):
        from_json(value, kind)


@pytest.mark.parametrize(
    ("value", "possible"),
    [(key, True) for key in ("a", 0, -(2**63))]
    + [(key, False) for key in (2**63, True, "", " ", None, 1.5, "a\0", "\ud800", ["a"])],
)
def test_a_key_is_text_or_an_integer(value: object, possible: bool) -> None:
    assert is_key(value) is possible


def test_naive_times_are_utc_and_never_is_before_all() -> None:
    naive = datetime(2024, 5, 1, 12)  # noqa: DTZ001
    assert to_utc(naive) == parse_time("2024-05-01T14:00+02:00") == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert never < to_utc(naive)
    assert format_time(never) < format_time(naive)
