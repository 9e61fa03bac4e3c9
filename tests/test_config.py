"""`config.yml`: read safely, and wrong settings named with the way out."""

from __future__ import annotations

import os
import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmmeta_core.config import Config, expand
from mmmeta_core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

FULL = """
# as in the manual
metadata:
  file_name: _file_name
  include:
  - reference
  - publisher:name
  required: [published_at]
  unique: foreign_id
  types:
    case_number: text
    published_at: datetime
  indexes: [reference]
  max_columns: 100
  max_metadata_bytes: 1048576
remote:
  url: https://my_bucket.s3.eu-central-1.amazonaws.com/foo/bar/{_file_name}
  uri: s3://my_bucket/foo/bar/{_file_name}
"""


def test_all_settings(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_bytes(b"\xef\xbb\xbf" + FULL.encode())
    config = Config.load(path)
    assert config == Config(
        unique="foreign_id",
        file_name="_file_name",
        include=("reference", "publisher:name"),
        required=("published_at",),
        types={"case_number": "text", "published_at": "datetime"},
        remote={
            "url": "https://my_bucket.s3.eu-central-1.amazonaws.com/foo/bar/{_file_name}",
            "uri": "s3://my_bucket/foo/bar/{_file_name}",
        },
        indexes=("reference",),
        max_columns=100,
        max_metadata_bytes=1048576,
    )
    assert config == Config.parse(FULL, "x")
    assert config.keeps("reference")
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 - a step in another process gets it so


@pytest.mark.parametrize(
    "text", ["", "# nothing", "---", "null", "metadata:", "metadata:\n  include:\n  unique:\nremote:", "{}"]
)
def test_what_is_left_out_has_its_default(text: str) -> None:
    config = Config.parse(text, "config.yml")
    assert config == Config()
    assert (config.unique, config.file_name, config.max_columns) == ("content_hash", "file_name", 500)


def test_a_missing_file_gives_the_defaults(tmp_path: Path) -> None:
    assert Config.load(tmp_path / "config.yml") == Config()


def test_keeps() -> None:
    assert Config().keeps("anything")
    config = Config(include=("title",), required=("date",), unique="id", file_name="name")
    assert [column for column in ("title", "date", "id", "name", "other") if config.keeps(column)] == [
        "title",
        "date",
        "id",
        "name",
    ]
    assert Config(required=("date",)).keeps("other"), "required alone does not restrict"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metadata: {uniqe: x}", "'metadata.uniqe' is not a setting; did you mean 'metadata.unique'"),
        ("unique: x", "did you mean 'metadata.unique'"),
        ("metdata: {}", "did you mean 'metadata'"),
        ("zzz: 1", "known are metadata.unique, .*remote$"),
        ("- a", "'the file' must be a mapping .*not list"),
        ("just words", "'the file' must be a mapping"),
        ("metadata: [a]", "'metadata' must be a mapping"),
        ("metadata: {1: x}", "name 1 in 'metadata' must be text"),
        ("metadata: {unique: 5}", "'metadata.unique' must be text .*not int"),
        ("metadata: {unique: no}", "'metadata.unique' must be text .*not bool"),
        ("metadata: {unique: 2024-01-01}", "'metadata.unique' must be text .*not date"),
        ("metadata: {unique: ' '}", "'metadata.unique' is empty"),
        ("metadata: {unique: [a]}", "'metadata.unique' must be text"),
        ("metadata: {include: title}", "'metadata.include' must be a list"),
        ("metadata: {include: [a, no]}", r"'metadata.include\[1\]' must be text"),
        ("metadata: {required: {a: b}}", "'metadata.required' must be a list"),
        ("metadata: {types: [a]}", "'metadata.types' must be a mapping"),
        ("metadata: {types: {a: int}}", "'metadata.types.a' is no kind of column; did you mean 'integer'"),
        ("metadata: {types: {a: zzz}}", "must be one of text, integer, float, boolean, datetime, json"),
        ("metadata: {types: {a: [text]}}", "'metadata.types.a'"),
        ("metadata: {max_columns: many}", "'metadata.max_columns' must be a whole number, not str"),
        ("metadata: {max_columns: true}", "'metadata.max_columns' must be a whole number, not bool"),
        (f"metadata: {{indexes: {list('abcdefghijklmnopqrstu')}}}", "more than 20 columns"),
        ("metadata: {max_columns: 0}", "'metadata.max_columns' must be at least 1"),
        ("metadata: {max_columns: 1501}", "'metadata.max_columns' must be at most 1500"),
        ("metadata: {max_metadata_bytes: 1.5}", "whole number, not float"),
        ("remote: https://x", "'remote' must be a mapping"),
        ("remote: {url: 5}", "'remote.url' must be text"),
        ("remote: {__class__: x}", "'remote.__class__'"),
        ("remote: {my url: x}", "'remote.my url'"),
        ("remote: {url: 'https://x/{'}", "'remote.url': .*brace"),
        ("remote: {url: 'https://x/{}'}", "'remote.url': .*brace"),
        ("metadata: {unique: a, unique: b}", "line 1, column 23: a name is given twice"),
        ("a: &x 1\nb: *x", "line 1, column 4: anchors and aliases"),
        ("metadata: *x", "anchors and aliases"),
        ("metadata: {<<: {unique: x}}\n", "metadata"),
        ("a: 1\n b: 2", "not valid YAML: line 2"),
        ("a: [", "not valid YAML: line 1"),
        ("a: \t- x", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
        ("--- 1\n--- 2", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML: .*os.system"),
        ("? [a, b]\n: 1", "must be text|not valid"),
        ("[" * 20_000, "nested too deep"),
        ("metadata: {max_columns: " + "9" * 5000 + "}", "not valid YAML: .*too long"),
        ("#" * (1024 * 1024 + 1), "larger than 1 MiB"),
    ],
    ids=lambda value: value[:40].encode("ascii", "replace"),
)
def test_wrong_settings_are_named(text: str, words: str) -> None:
    if "<<" in text:
        assert Config.parse(text, "x").unique == "x"
        return
    with pytest.raises(ConfigError, match=words) as caught:
        Config.parse(text, "/some/config.yml")
    assert str(caught.value).startswith("/some/config.yml")


def test_files_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.mkdir()
    with pytest.raises(ConfigError, match=r"config\.yml can't be read: Is a directory"):
        Config.load(path)
    path.rmdir()
    path.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match=r"config\.yml is not UTF-8 text \(byte 3\)"):
        Config.load(path)
    os.truncate(path, 1024 * 1024 + 1)
    with pytest.raises(ConfigError, match=r"config\.yml is larger than 1 MiB"):
        Config.load(path)


@given(st.text(max_size=200) | st.lists(st.sampled_from(list(":-[]{}&*!|>'\"%@#\n\t ,?ab1~"))).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(Config.parse(text, "x"), Config)
    except ConfigError as error:
        assert str(error).startswith("x")  # noqa: PT017


ROW: dict[str, Any] = {
    "_file_name": "a b/c&d?.pdf",
    "publisher:name": "Käse",
    "a.b": "dotted",
    "a[0]": "indexed",
    "a!r": "converted",
    "n": 17,
    "yes": True,
    "at": datetime(2024, 5, 1, tzinfo=UTC),
    "null": None,
    "list": [1],
    "object": object,
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("https://host/{_file_name}", "https://host/a%20b/c%26d%3F.pdf"),
        ("HTTP://host/{publisher:name}?n={n}", "HTTP://host/K%C3%A4se?n=17"),
        ("s3://bucket/{_file_name}", "s3://bucket/a b/c&d?.pdf"),
        ("{_file_name}", "a b/c&d?.pdf"),
        ("{a.b} {a[0]} {a!r}", "dotted indexed converted"),
        ("{yes} {at}", "true 2024-05-01T00:00:00.000000+00:00"),
        ("{{{n}}} {{n}}", "{17} {n}"),
        ("no columns", "no columns"),
    ],
)
def test_expand(template: str, expected: str) -> None:
    assert expand(template, ROW) == expected


@pytest.mark.parametrize(
    ("template", "column"),
    [
        ("https://x/{missing}", "missing"),
        ("https://x/{null}", "null"),
        ("https://x/{list}", "list"),
        ("{object.__init__.__globals__}", "object.__init__.__globals__"),
        ("{_file_name[0]}", "_file_name[0]"),
        ("{_file_name!s}", "_file_name!s"),
        ("{n:>1000000000}", "n:>1000000000"),
        ("{0}", "0"),
    ],
)
def test_expand_takes_columns_and_nothing_else(template: str, column: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(template, ROW)
    assert repr(template) in str(caught.value)
    assert repr(column) in str(caught.value)


@pytest.mark.parametrize("template", ["{", "}", "{}", "a{b", "{a{b}}", "{n}}"])
def test_expand_refuses_single_braces(template: str) -> None:
    with pytest.raises(ConfigError, match="brace"):
        expand(template, ROW)


def test_a_password_in_a_template_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        expand("https://me:hunter2@host/{missing}", ROW)
    assert "hunter2" not in str(caught.value)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["{v}", "s3://x/{v}", "/a/{v}/b"]))
def test_values_are_inserted_as_they_are(value: str, template: str) -> None:
    assert expand(template, {"v": value}) == template.replace("{v}", value)
