"""Export: documents → CSV, JSON lines, Parquet, SQLite and pandas, read back with what others read them with."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mmmeta_core import ConfigError, FileError, Metadir, RefusedError, mmmeta
from mmmeta_core.export import FORMATS

NOON = datetime(2024, 5, 1, 12, 0, 0, 250, tzinfo=UTC)
AT = "2024-05-01T12:00:00.000250+00:00"
WORST = " ü,;\"'\n\r\n\r\t日本\U0001f600\\ =1+1 "
FULL: dict[str, Any] = {
    "content_hash": "full", "title": WORST, "pages": 2**62, "ratio": 0.1, "public": True, "retrieved_at": NOON,
    "tags": ["ü", 1, [None]], "nothing_in_it": {}, "publisher:name": "Office", "zip": "007",
}  # fmt: skip
MIXED: dict[str, Any] = {
    "content_hash": "mixed", "title": 12, "pages": "twelve", "ratio": 3, "public": "maybe", "retrieved_at": "soon",
    "tags": "none", "zip": 1.5,
}  # fmt: skip


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Metadir]:
    """Values of every kind, none, and of other kinds than their column; a client's own column; a deleted document."""
    with mmmeta(tmp_path / "metadir") as metadir:
        metadir.files.insert_many(
            [FULL, MIXED, {"content_hash": "empty", "title": ""}, {"content_hash": "gone"}]
        )
        metadir.files.delete(content_hash="gone")
        full = metadir.files.get("full")
        assert full is not None
        full["imported"] = True
        full.save()
        yield metadir


NAMES = {*FULL, "imported"}
NONE = dict.fromkeys(sorted(NAMES))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def read_sqlite(path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM files")]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


READ = {"csv": read_csv, "jsonl": read_jsonl, "sqlite": read_sqlite, "parquet": read_parquet}


def by_key(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["content_hash"]: row for row in rows}


def test_csv_has_every_value_as_text(m: Metadir, tmp_path: Path) -> None:
    result = m.export(tmp_path / "x.csv")
    rows = by_key(read_csv(tmp_path / "x.csv"))
    assert (result.documents, result.bytes) == (3, (tmp_path / "x.csv").stat().st_size)
    assert {**rows["full"], "rescued": ""} == {
        **FULL, "pages": str(2**62), "ratio": "0.1", "public": "true", "retrieved_at": AT, "tags": '["ü",1,[null]]',
        "nothing_in_it": "{}", "imported": "true", "rescued": "",
    }  # fmt: skip
    assert {name: value for name, value in rows["mixed"].items() if value} == {
        name: str(value) for name, value in MIXED.items()
    }
    assert {value for name, value in rows["empty"].items() if name != "content_hash"} == {""}


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "\r", "a\r\n", '"', ",", "=1", " a ", "\0", "NULL"])
def test_csv_is_read_back_whatever_ends_a_line(m: Metadir, tmp_path: Path, text: str) -> None:
    m.files.upsert({"content_hash": "full", "title": text})
    m.export(tmp_path / "x.csv", columns=["title"], content_hash="full")
    assert read_csv(tmp_path / "x.csv") == [{"title": text}]
    assert (tmp_path / "x.csv").read_bytes().endswith(b"\n")


def test_json_lines_have_every_value_as_it_is(m: Metadir, tmp_path: Path) -> None:
    m.export(tmp_path / "x.jsonl")
    assert by_key(read_jsonl(tmp_path / "x.jsonl")) == {
        "full": {**FULL, "retrieved_at": AT, "imported": True},
        "mixed": {**NONE, **MIXED},
        "empty": {**NONE, "content_hash": "empty", "title": ""},
    }


def test_sqlite_has_every_value_as_it_is(m: Metadir, tmp_path: Path) -> None:
    m.export(tmp_path / "x.db")
    rows = by_key(read_sqlite(tmp_path / "x.db"))
    assert {**rows["full"], "rescued": None} == {
        **FULL, "public": 1, "imported": 1, "retrieved_at": AT, "tags": '["ü",1,[null]]', "nothing_in_it": "{}",
        "rescued": None,
    }  # fmt: skip
    assert {**rows["mixed"], "rescued": None} == {**NONE, **MIXED, "rescued": None}
    assert {name: value for name, value in rows["empty"].items() if value is not None} == {
        "content_hash": "empty",
        "title": "",
    }


def test_parquet_has_typed_columns_and_the_rest_under_rescued(m: Metadir, tmp_path: Path) -> None:
    m.export(tmp_path / "x.parquet")
    rows = by_key(read_parquet(tmp_path / "x.parquet"))
    rescued = json.loads(rows["mixed"].pop("rescued"))
    assert rows["full"] == {
        **FULL, "imported": True, "tags": '["ü",1,[null]]', "nothing_in_it": "{}", "rescued": None
    }  # fmt: skip
    typed = {"content_hash": "mixed", "title": "12", "ratio": 3.0, "zip": "1.5"}
    assert rows["mixed"] == {**NONE, **typed, "tags": rows["mixed"]["tags"]}
    assert rescued | {"tags": "none"} == {
        name: MIXED[name] for name in ("pages", "public", "retrieved_at", "tags")
    }
    kinds = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "x.parquet")}
    assert kinds == {
        "content_hash": "string", "title": "string", "pages": "int64", "ratio": "double", "public": "bool",
        "retrieved_at": "timestamp[us, tz=UTC]", "tags": "string", "nothing_in_it": "string", "publisher:name": "string",
        "zip": "string", "imported": "bool", "rescued": "string",
    }  # fmt: skip


def test_pandas_has_the_types_that_the_columns_have(m: Metadir) -> None:
    frame = m.files.to_pandas(content_hash=["full", "empty"]).set_index("content_hash")
    assert {name: str(frame[name].dtype) for name in ("pages", "ratio", "public", "imported")} == {
        "pages": "Int64", "ratio": "Float64", "public": "boolean", "imported": "boolean"
    }  # fmt: skip
    assert frame["pages"]["full"] == 2**62
    assert frame["title"].to_dict() == {"full": WORST, "empty": ""}
    assert frame["retrieved_at"]["full"] == pandas.Timestamp(NOON)
    assert str(frame["retrieved_at"].dt.tz) == "UTC"
    assert frame["tags"]["full"] == FULL["tags"]
    assert frame.loc["empty"].drop("title").drop(labels=[n for n in frame if n.startswith("__")]).isna().all()


def test_pandas_keeps_values_of_other_kinds_and_says_the_columns_of_nothing(m: Metadir) -> None:
    mixed = m.files.to_pandas().set_index("content_hash").loc["mixed"]
    assert {name: mixed[name] for name in MIXED if name != "content_hash"} == {
        name: value for name, value in MIXED.items() if name != "content_hash"
    }
    none = m.files.to_pandas(content_hash="nobody")
    assert (len(none), set(none.columns) >= NAMES) == (0, True)


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8)
VALUES = LEAVES | st.floats(allow_nan=False, allow_infinity=False) | st.lists(LEAVES, max_size=3)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.fixed_dictionaries({"a": VALUES, "b": VALUES}), max_size=5))
def test_what_is_published_comes_out_of_each_format(
    tmp_path_factory: Any, documents: list[dict[str, Any]]
) -> None:
    base = tmp_path_factory.mktemp("round")
    with mmmeta(base / "m") as m:
        m.files.insert_many({"content_hash": str(number), **one} for number, one in enumerate(documents))
        expected = {file.key: {name: file.get(name) for name in "ab"} for file in m.files}
        kinds = m.files.kinds()
        for form in FORMATS:
            assert m.export(base / form, form).documents == len(documents)
    there = {form: by_key(READ[form](base / form)) for form in FORMATS}
    for key, values in expected.items():
        for name, value in values.items():
            kind, json_text = kinds.get(name), orjson.dumps(value).decode()
            text = json_text if isinstance(value, list | bool) else str(value)
            assert there["jsonl"][key].get(name) == value
            assert there["csv"][key].get(name, "") == ("" if value is None else text)
            as_text = isinstance(value, list) or (isinstance(value, bool) and kind != "boolean")
            assert there["sqlite"][key].get(name) == (text if as_text else value)
            row = there["parquet"][key]
            typed = json.loads(row.get("rescued") or "{}").get(name, row.get(name))
            if kind == "json":
                assert typed == (None if value is None else json_text)
            elif kind == "text" and type(value) in (int, float):
                assert typed == str(value)
            else:
                assert typed == value


def test_what_has_no_column_is_in_one_named_rescued(m: Metadir, tmp_path: Path) -> None:
    long = "x" * 70
    m.files.upsert({"content_hash": "full", long: ["kept"], "__deleted": 1})
    for name in ("x.csv", "x.db", "x.parquet"):
        m.export(tmp_path / name)
    expected = {long: ["kept"], "__deleted": 1}
    assert {k: v for k, v in expected.items() if not k.startswith("__")} == {long: ["kept"]}
    assert json.loads(by_key(read_csv(tmp_path / "x.csv"))["full"]["rescued"])[long] == ["kept"]
    assert json.loads(by_key(read_sqlite(tmp_path / "x.db"))["full"]["rescued"])[long] == ["kept"]
    assert json.loads(by_key(read_parquet(tmp_path / "x.parquet"))["full"]["rescued"])[long] == ["kept"]
    m.export(tmp_path / "x.jsonl")
    assert by_key(read_jsonl(tmp_path / "x.jsonl"))["full"][long] == ["kept"]


def test_a_published_column_named_rescued_is_what_it_is(m: Metadir, tmp_path: Path) -> None:
    m.files.upsert({"content_hash": "full", "Rescued": "from the sea", "x" * 70: 1, "pages": "many"})
    for name in ("x.csv", "x.db", "x.parquet"):
        m.export(tmp_path / name)
        row = by_key(READ[{"db": "sqlite"}.get(name[2:], name[2:])](tmp_path / name))["full"]
        assert row["Rescued"] == "from the sea"
        assert json.loads(row["rescued_"])["x" * 70] == 1


@pytest.mark.parametrize("form", FORMATS)
def test_columns_are_those_asked_for_in_their_order(m: Metadir, tmp_path: Path, form: Any) -> None:
    m.export(tmp_path / "x", form, columns=["zip", "__deleted_at", "content_hash", "ZIP"], deleted=None)
    rows = READ[form](tmp_path / "x")
    assert [name for name in rows[0] if name != "rescued"] == ["zip", "__deleted_at", "content_hash"]
    gone = by_key(rows)["gone"]["__deleted_at"]
    assert datetime.fromisoformat(str(gone)).utcoffset() is not None
    assert not any(row["__deleted_at"] for row in rows if row["content_hash"] != "gone")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"full", "mixed", "empty"}),
        ({"deleted": None}, {"full", "mixed", "empty", "gone"}),
        ({"deleted": True}, {"gone"}),
        ({"imported": True}, {"full"}),
        ({"imported": False}, {"mixed", "empty"}),
        ({"retrieved_at": {">=": NOON}}, {"full"}),
        ({"order_by": "content_hash", "_limit": 2}, {"empty", "full"}),
        ({"order_by": "content_hash", "_limit": 2, "_offset": 2}, {"mixed"}),
        ({"title": "nobody"}, set()),
    ],
)
def test_filters_are_those_of_find(
    m: Metadir, tmp_path: Path, form: Any, options: Any, expected: set[str]
) -> None:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "x"
    result = m.export(path, form, progress=lambda done, total: seen.append((done, total)), **options)
    rows = READ[form](path)
    assert (result.documents, {row["content_hash"] for row in rows}) == (len(expected), expected)
    assert seen[-1] == (len(expected), len(expected))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("x.csv", "csv"), ("X.CSV", "csv"), ("x.jsonl", "jsonl"), ("x.ndjson", "jsonl"), ("x.parquet", "parquet"),
        ("x.db", "sqlite"), ("a.b.sqlite", "sqlite"),
    ],
)  # fmt: skip
def test_the_suffix_decides(m: Metadir, tmp_path: Path, name: str, form: str) -> None:
    m.export(str(tmp_path / name))
    assert len(READ[form](tmp_path / name)) == 3
    m.export(tmp_path / name, "jsonl")
    assert len(read_jsonl(tmp_path / name)) == 3


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_open_file_is_written_to(m: Metadir, tmp_path: Path, form: Any) -> None:
    target = io.BytesIO(b"before\n")
    target.seek(0, os.SEEK_END)
    result = m.export(target, form)
    m.export(tmp_path / "x", form)
    assert target.getvalue() == b"before\n" + (tmp_path / "x").read_bytes()
    assert result.bytes == (tmp_path / "x").stat().st_size


@pytest.mark.parametrize(
    ("target", "form", "options", "expected"),
    [
        ("x.xlsx", None, {}, "can't be told from the name '.xlsx'"),
        ("x", None, {}, "name it, or use one of .csv"),
        ("x.csv", "excel", {}, "no format 'excel'; there are: csv, jsonl, parquet, sqlite"),
        (io.BytesIO(), None, {}, "can't be told"),
        (io.BytesIO(), "parquet", {}, "give a path"),
        (io.BytesIO(), "sqlite", {}, "give a path"),
        ("x.csv", None, {"columns": []}, "at least one name"),
        ("x.csv", None, {"columns": "title"}, "at least one name"),
        ("x.csv", None, {"title": {"~": 1}}, "no operator '~'"),
        (".", "csv", {}, "is not a file"),
    ],
)
def test_what_can_not_be_is_one_clear_error(
    m: Metadir, tmp_path: Path, target: Any, form: Any, options: Any, expected: str
) -> None:
    where = tmp_path / target if isinstance(target, str) else target
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=expected):
        m.export(where, form, **options)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_folder_is_said(m: Metadir, tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match=r"nowhere.* can't be used \(No such file or directory\): correct the path"
    ):
        m.export(tmp_path / "nowhere" / "x.csv")


@pytest.mark.parametrize("name", ["meta.db", "state.db", "new.csv", "_store/x.csv"])
def test_a_metadir_is_never_written_into(m: Metadir, tmp_path: Path, name: str) -> None:
    path = m.paths.root / name
    before = path.read_bytes() if path.exists() else None
    (tmp_path / "link").symlink_to(m.paths.root)
    for target in (path, tmp_path / "link" / name):
        with pytest.raises(RefusedError):
            m.export(target)
    assert (path.read_bytes() if path.exists() else None) == before


def test_the_state_db_is_never_replaced(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "m", state_db=tmp_path / "mine.db") as m:
        m.files.insert(content_hash="k")
        with pytest.raises(RefusedError):
            m.export(tmp_path / "mine.db")
        assert len(m.files) == 1


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(m: Metadir, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "latest.csv").symlink_to(tmp_path / "real" / "may.csv")
    for _ in range(2):
        m.export(tmp_path / "latest.csv")
    assert (tmp_path / "latest.csv").is_symlink()
    assert len(read_csv(tmp_path / "real" / "may.csv")) == 3


def test_a_device_is_not_replaced_by_a_file(m: Metadir) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        m.export("/dev/null", "csv")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("form", FORMATS)
def test_an_error_half_way_leaves_the_old_file_alone(m: Metadir, tmp_path: Path, form: Any) -> None:
    m.files.insert_many({"content_hash": f"{n:04}"} for n in range(150))
    (tmp_path / "x").write_text("old")

    def stop(done: int, total: int | None) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        m.export(tmp_path / "x", form, progress=stop)
    assert (tmp_path / "x").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadir", "x"]
    assert m.export(tmp_path / "x", form).documents == 153


KILLED = """
import os, signal, sys
from mmmeta_core import mmmeta
def die(done, total):
    os.kill(os.getpid(), signal.SIGKILL)
with mmmeta(sys.argv[1]) as m:
    m.export(sys.argv[2], sys.argv[3], progress=die)
"""


@pytest.mark.parametrize("form", FORMATS)
def test_a_kill_half_way_leaves_the_old_file_alone(m: Metadir, tmp_path: Path, form: str) -> None:
    m.files.insert_many({"content_hash": f"{n:04}"} for n in range(150))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("old")
    arguments = [str(m.path), str(tmp_path / "out" / "x"), form]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "out" / "x").read_text() == "old"
    assert all(path.name.startswith(".tmp-") for path in (tmp_path / "out").iterdir() if path.name != "x")


def test_without_pyarrow_parquet_is_one_clear_error(m: Metadir, tmp_path: Path) -> None:
    program = """
import sys
sys.modules["pyarrow"] = None
from mmmeta_core import ConfigError, mmmeta
with mmmeta(sys.argv[1]) as m:
    try:
        m.export(sys.argv[2])
    except ConfigError as error:
        print(error, error.__suppress_context__)
"""
    target = tmp_path / "x.parquet"
    done = subprocess.run(
        [sys.executable, "-c", program, str(m.path), str(target)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (
        "parquet needs the package pyarrow: pip install 'mmmeta[parquet]' True\n",
        "",
    )
    assert not target.exists()


def test_memory_does_not_grow_with_the_documents(tmp_path: Path) -> None:
    with mmmeta(tmp_path / "m") as m:
        m.files.insert_many({"content_hash": f"{n:05}", "n": n, "text": "x" * 1_000} for n in range(20_000))
    program = """
import resource, sys
from mmmeta_core import mmmeta
with mmmeta(sys.argv[1]) as m:
    assert m.export(sys.argv[2], sys.argv[3], n={"<": int(sys.argv[4])}).documents == int(sys.argv[4])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    processes = {
        (form, count): subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "m"), str(tmp_path / f"{form}{count}"), form, str(count)],
            stdout=subprocess.PIPE, text=True,
        )
        for form in FORMATS
        for count in (2_000, 20_000)
    }  # fmt: skip
    peaks = {name: int(process.communicate(timeout=120)[0]) // 1024 for name, process in processes.items()}
    for form in FORMATS:
        assert peaks[form, 20_000] - peaks[form, 2_000] < 14, f"megabytes: {peaks}"
