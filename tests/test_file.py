"""`File`, one document: reading it, setting and saving own columns, where it can be had."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import ON_POSTGRES

from mmmeta_core import mmmeta
from mmmeta_core.errors import ColumnError, ConfigError, DocumentError, ReadOnlyColumnError
from mmmeta_core.files import File
from mmmeta_core.metadir import Metadir

CONFIG = """
metadata:
  file_name: path
remote:
  url: "https://archive.example.org/{path}?by={publisher:name}"
  local: "/srv/{path}"
  braces: "{{{n}}}"
  tricky: "{path.__class__}/{path[0]}"
"""


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Metadir]:
    (tmp_path / "_mmmeta").mkdir()
    (tmp_path / "_mmmeta" / "config.yml").write_text(CONFIG)
    with mmmeta(tmp_path) as metadir:
        metadir.files.insert_many(
            [
                {
                    "content_hash": "a",
                    "path": "d e/ü?.pdf",
                    "publisher": {"name": "A&B"},
                    "n": 1,
                    "flag": True,
                },
                {"content_hash": "b", "n": "007", "flag": "perhaps", "__deleted_at": "said by the document"},
            ]
        )
        yield metadir


def get(m: Metadir, key: str | int = "a") -> File:
    file = m.files.get(key)
    assert file is not None
    return file


def test_a_file_is_a_mapping_of_its_columns(m: Metadir, caplog: pytest.LogCaptureFixture) -> None:
    file = get(m)
    assert isinstance(file, Mapping)
    assert file["publisher:name"] == "A&B"
    assert len(file) == len(dict(file)) == len(list(file.items()))
    assert "n" in file
    assert "nn" not in file
    assert (file.get("n"), file.get("nn"), file.get("nn", 5)) == (1, None, 5)
    assert not [name for name in file if name.endswith("rescued")]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert file["nn"] is file["nn"] is None
    assert [record.getMessage().count("'n'") for record in caplog.records] == [1]


def test_a_column_that_is_null_has_the_default(m: Metadir) -> None:
    assert get(m, "b").get("path", "x") == "x"
    assert dict(get(m, "b"))["path"] is None


def test_a_file_has_the_name_that_the_settings_say_or_its_key(m: Metadir) -> None:
    assert [(file.key, file.name) for file in m.files(order_by="content_hash")] == [
        ("a", "d e/ü?.pdf"),
        ("b", "b"),
    ]
    assert repr(get(m)) == "<File 'd e/ü?.pdf' content_hash='a'>"


def test_templates_take_named_columns_and_nothing_else(m: Metadir) -> None:
    remote = get(m).remote
    assert remote.url == "https://archive.example.org/d%20e/%C3%BC%3F.pdf?by=A%26B"
    assert remote.local == "/srv/d e/ü?.pdf"
    assert remote.braces == "{1}"
    assert dir(remote) == ["braces", "local", "tricky", "url"]
    with pytest.raises(ConfigError, match=r"path\.__class__"):
        remote.tricky  # noqa: B018
    with pytest.raises(ConfigError, match="'path'"):
        get(m, "b").remote.url  # noqa: B018
    with pytest.raises(AttributeError, match="there are: braces, local, tricky, url"):
        remote.nope  # noqa: B018


def test_values_of_another_kind_and_under_reserved_names_are_there_too(m: Metadir) -> None:
    assert (get(m, "b")["n"], get(m, "b")["flag"]) == ("007", "perhaps")
    assert get(m, "b")["__deleted_at"] is None
    assert "b" in m.files


def test_own_columns_are_set_at_once_and_kept_by_save(m: Metadir) -> None:
    file = get(m)
    file["imported"] = True
    file.update({"note": "x"}, tries=3)
    assert (file["imported"], file["note"], file["tries"]) == (True, "x", 3)
    assert get(m)["imported"] is None
    file.save()
    saved = get(m)
    assert (saved["imported"], saved["note"], saved["tries"]) == (True, "x", 3)
    assert saved["__state_last_updated"] > saved["__state_added"]
    file["note"] = None
    file.save()
    assert get(m)["note"] is None
    assert get(m)["tries"] == 3


def test_saving_nothing_writes_nothing_and_two_files_keep_each_others_columns(m: Metadir) -> None:
    one, other = get(m), get(m)
    one["a"] = 1
    other["b"] = 2
    one.save()
    other.save()
    before = dict(get(m))
    one.save()
    assert dict(get(m)) == before
    assert (before["a"], before["b"]) == (1, 2)


@pytest.mark.parametrize(
    ("column", "error"),
    [
        ("n", ReadOnlyColumnError),
        ("content_hash", ReadOnlyColumnError),
        ("publisher:name", ReadOnlyColumnError),
        ("__deleted_at", ReadOnlyColumnError),
        ("__state_added", ReadOnlyColumnError),
        ("__rescued", ReadOnlyColumnError),
        ("N", ColumnError),
        ("Content_Hash", ColumnError),
        ("__mine", ColumnError),
        ("a-b", ColumnError),
        ("a.b", ColumnError),
        ("", ColumnError),
        (" a", ColumnError),
        ("a" * 64, ColumnError),
        ("a\0", ColumnError),
    ],
)
def test_what_is_not_ones_own_can_not_be_set(m: Metadir, column: str, error: type[Exception]) -> None:
    file = get(m)
    before = dict(file)
    with pytest.raises(error):
        file[column] = 1
    with pytest.raises(error):
        file.update({"fine": 1, column: 1})
    file.save()
    assert dict(file) == dict(get(m)) == before


def test_a_value_that_can_not_be_kept_leaves_all_as_it_was(m: Metadir) -> None:
    file = get(m)
    file.update(fine=1, bad=b"bytes")
    with pytest.raises(DocumentError, match="'bad'"):
        file.save()
    assert get(m).get("fine") is None
    assert "fine" not in m.files.columns


text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text
scalars |= st.floats(allow_nan=False, allow_infinity=False)
own_values = (
    scalars | st.datetimes(timezones=st.just(UTC)) | st.lists(scalars | st.lists(scalars), max_size=3)
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metadir]:
    with mmmeta(tmp_path_factory.mktemp("shared")) as metadir:
        metadir.files.insert(content_hash="a")
        yield metadir


@settings(deadline=None, max_examples=50)
@given(st.lists(st.dictionaries(st.sampled_from("wxyz"), own_values), min_size=1, max_size=3))
def test_own_values_of_every_type_survive_in_any_order(shared: Metadir, saves: list[dict[str, Any]]) -> None:
    expected = {name: get(shared).get(name) for name in "wxyz"}
    for values in saves:
        file = get(shared)
        file.update(copy.deepcopy(values))
        file.save()
        # A time keeps its type in a column of times, and is ISO text in one of another kind.
        expected |= values
        found = {name: get(shared).get(name) for name in "wxyz"}
        for name, value in expected.items():
            back = found[name]
            if isinstance(value, datetime) and isinstance(back, str):
                back = datetime.fromisoformat(back)
            assert back == value
            assert type(back) is type(value) or (ON_POSTGRES and {type(back), type(value)} == {int, float})
        expected = found


def test_values_that_are_equal_but_not_the_same_replace_each_other(m: Metadir) -> None:
    for value in (datetime.now(UTC), False, 0, 0.0, True, 1):
        file = get(m)
        file["own"] = value
        file.save()
        assert (get(m)["own"], type(get(m)["own"])) == (value, type(value))


def test_a_date_becomes_text_and_an_object_stays_an_object(m: Metadir) -> None:
    file = get(m)
    file.update(day=date(2024, 5, 1), answer={"a": {"b": [1]}}, pair=(1, 2))
    file.save()
    assert (get(m)["day"], get(m)["answer"], get(m)["pair"]) == ("2024-05-01", {"a": {"b": [1]}}, [1, 2])
