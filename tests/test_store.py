"""The store: what is written comes back, as the same type, from a file that a person can read."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmmeta_core.atomic import temporary, write_atomic
from mmmeta_core.errors import MmmetaError, StoreError, StoreKeyError
from mmmeta_core.store import Store, check_key, decode_value, encode_value, is_local
from mmmeta_core.types import never, utcnow

if TYPE_CHECKING:
    from pathlib import Path

BERLIN_WINTER = timezone(timedelta(hours=1))

text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
nested = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4)
)
times = st.datetimes(timezones=st.just(UTC))
# Words that mean something else to a careless reader.
lookalikes = st.sampled_from(
    [
        "17",
        "1.5",
        "1e5",
        "true",
        "null",
        "NaN",
        "-Infinity",
        "[]",
        "{}",
        '"quoted"',
        '"',
        "",
        " x ",
        "x\n",
        "\ufeffx",
        "2024-05-01T12:00:00+00:00",
        "2024-05-01 12:00",
        "2024-05-01",
        "2024-02-31T12:00",
        "9" * 5000,
        "[" * 5000,
    ]
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        if math.isnan(one):  # there is one NaN, whatever its sign
            return math.isnan(other)
        return math.copysign(1, one) == math.copysign(1, other) and one == other
    return bool(one == other)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "_mmmeta" / "_store")


@given(nested | times | lookalikes)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    assert same(value, decode_value(encode_value(value)))


@given(text)
def test_encoded_text_survives_an_editor_that_ends_the_file_with_a_newline(value: str) -> None:
    assert decode_value(encode_value(value) + "\n") == value


@given(st.text())
def test_any_text_can_be_read(hand_written: str) -> None:
    try:
        value = decode_value(hand_written)
    except StoreError:
        return
    assert isinstance(value, str | int | float | list | dict | datetime | None)


@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.timezones()))  # noqa: DTZ001
def test_times_come_back_as_the_same_moment_in_utc(value: datetime) -> None:
    back = decode_value(encode_value(value))
    assert back == value.astimezone(UTC)
    assert back.tzinfo is UTC


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (17, "17"),
        ("17", '"17"'),
        ("hello world", "hello world"),
        ("Käse", "Käse"),
        (True, "true"),
        (None, "null"),
        (1.0, "1.0"),
        (float("inf"), "Infinity"),
        (["ä", 1], '["ä", 1]'),
        (datetime(2024, 5, 1, 12), "2024-05-01T12:00:00.000000+00:00"),  # noqa: DTZ001 - naive is UTC
        (datetime(2024, 5, 1, 12, tzinfo=BERLIN_WINTER), "2024-05-01T11:00:00.000000+00:00"),
        ("2024-05-01T12:00", '"2024-05-01T12:00"'),
        (never, "0001-01-01T00:00:00.000000+00:00"),
    ],
)
def test_files_are_what_a_person_would_write(value: Any, expected: str) -> None:
    assert encode_value(value) == expected


@pytest.mark.parametrize(
    ("hand_written", "value"),
    [
        ("17\n", 17),
        (" 1.5\r\n", 1.5),
        ("\ufeff17", 17),
        ("", ""),
        ("yes", "yes"),
        ("True", "True"),
        ("two words\n", "two words"),
        ("{broken", "{broken"),
        ("2024-05-01", "2024-05-01"),
        ("2024-05-01x12:00", "2024-05-01x12:00"),
        ("2024-05-01 12:00", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("2024-05-01T12:00:00.123456", datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2024-05-01T12:00:00Z", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("2024-05-01T12:00:00+02:00", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("0001-01-01T00:00+05:00", "0001-01-01T00:00+05:00"),
    ],
)
def test_files_written_by_hand_are_typed(store: Store, hand_written: str, value: Any) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / "key").write_bytes(hand_written.encode())
    assert same(store["key"], value)


class Number(int):
    pass


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((1, 2), "tuple becomes list"),
        ([(1, 2)], "tuple becomes list"),
        ({1: 2}, "keys of a dict"),
        ({"a": [{None: 1}]}, "keys of a dict"),
        ({(1,): 2}, "keys must be"),
        ([datetime(2024, 1, 1, tzinfo=UTC)], "datetime"),
        (b"bytes", "bytes"),
        ({1, 2}, "set"),
        (Number(3), "Number becomes int"),
        (10**5000, "digits"),
        ("\ud800", "lone surrogates"),
        (["\ud800"], "lone surrogates"),
        ("\ud83d\ude00", "lone surrogates"),
        ("x" * (1024 * 1024 + 1), "1 MiB"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), "out of range"),
        (circular(), "Circular"),
        (deep(101), "deeper than 100"),
        (deep(100_000), "nested too deep"),
    ],
    ids=lambda value: (
        type(value).__name__ if not isinstance(value, str) else value[:20].encode("ascii", "replace")
    ),
)
def test_what_would_not_come_back_is_refused(store: Store, value: Any, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        store["a_key"] = value
    assert "'a_key'" in str(caught.value)
    assert not store.folder.exists()


def test_a_value_never_stands_in_a_message(store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        store["token"] = {"token": ("hunter2",), "more": b"hunter2"}
    assert "hunter2" not in str(caught.value)
    store["token"] = "hunter2"  # noqa: S105
    assert "hunter2" not in repr(store)


def test_it_is_a_mapping(store: Store) -> None:
    assert (len(store), list(store), "x" in store, store.get("x", 5)) == (0, [], False, 5)
    assert not store.folder.exists(), "reading must not create anything"
    store["b"] = 1
    store.update(a=[1, {"x": None}], c="three")
    assert list(store.items()) == [("a", [1, {"x": None}]), ("b", 1), ("c", "three")]
    assert store == {"a": [1, {"x": None}], "b": 1, "c": "three"}
    del store["b"]
    assert store.pop("c") == "three"
    assert store.setdefault("a", 0) == [1, {"x": None}]
    assert dict(store) == dict(Store(store.folder)) == {"a": [1, {"x": None}]}
    assert repr(store) == f"Store({str(store.folder)!r})"


def test_a_missing_key_is_named_with_the_nearest(store: Store) -> None:
    store["remote_last_updated"] = 1
    with pytest.raises(
        StoreKeyError, match="'remote_last_update'; did you mean 'remote_last_updated'"
    ) as caught:
        store["remote_last_update"]
    assert isinstance(caught.value, KeyError | StoreError | MmmetaError)
    with pytest.raises(KeyError, match=r"'gone'$"):
        del store["gone"]


BAD_KEYS = [
    "",
    ".",
    "..",
    ".hidden",
    ".tmp-1",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "a\0b",
    "a\nb",
    "\x7f",
    "\ud800",
    "ä" * 101,
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_bad_keys_are_refused(store: Store, key: str) -> None:
    for use in (
        lambda: check_key(key),
        lambda: store[key],
        lambda: store.get(key),
        lambda: store.text(key),
        lambda: store.set_text(key, "x"),
        lambda: store.set_text(key, None),
        lambda: store.touch(key),
    ):
        with pytest.raises(StoreError, match="can't be a store key") as caught:
            use()
        assert not isinstance(caught.value, KeyError), "get() would take it for a missing key"
    assert key not in store
    assert 17 not in store  # type: ignore[comparison-overlap]
    with pytest.raises(StoreError):
        check_key(17)  # type: ignore[arg-type]


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=50)
)
def test_other_keys_are_names_of_files(key: str) -> None:
    if not key.startswith("."):
        check_key(key)


def test_what_is_not_a_value_is_not_listed(store: Store, tmp_path: Path) -> None:
    store["real"] = 1
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (store.folder / ".tmp-123").write_text("left over")
    (store.folder / ".DS_Store").write_text("x")
    (store.folder / "folder").mkdir()
    (store.folder / "link").symlink_to(secret)
    os.mkfifo(store.folder / "fifo")
    (store.folder / "back\\slash").write_text("x")
    write_bad_name = os.fsencode(store.folder) + b"/bad\xff"
    os.close(os.open(write_bad_name, os.O_CREAT | os.O_WRONLY))
    assert list(store) == ["real"]
    assert store.texts() == {"real": "1"}
    for key in ("folder", "link", "fifo"):
        assert key not in store
        with pytest.raises(StoreKeyError):
            store[key]
    store.set_text("link", None)
    store["link"] = 2
    assert (store["link"], secret.read_text()) == (2, "secret")


def test_a_folder_that_is_none_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = Store(tmp_path / "file")
    assert (list(store), "x" in store, store.get("x")) == ([], False, None)
    with pytest.raises(OSError, match="file"):
        store["x"] = 1


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"\xff\xfe1", "UTF-8"), (b"x" * 1_048_577, "1 MiB"), (b"1" * 5000, "too many digits")],
)
def test_unreadable_files_are_named(store: Store, data: bytes, words: str) -> None:
    store["good"] = 1
    (store.folder / "bad").write_bytes(data)
    with pytest.raises(StoreError, match=words) as caught:
        store["bad"]
    assert str(store.folder / "bad") in str(caught.value)
    assert store["good"] == 1


def test_texts_are_what_may_be_published(store: Store) -> None:
    store["a"] = 17
    store["local_cursor"] = "mine"
    (store.folder / "by_hand").write_text("18\n")
    assert store.texts() == {"a": "17", "by_hand": "18\n"}
    assert is_local("local_cursor")
    assert not is_local("my_local_key")
    assert "local_cursor" in store


def test_set_text_writes_and_removes(store: Store) -> None:
    store.set_text("key", None)
    assert not store.folder.exists()
    store.set_text("key", " 17\n")
    assert (store.text("key"), store["key"]) == (" 17\n", 17)
    store.set_text("key", None)
    assert "key" not in store
    with pytest.raises(StoreError, match="'key'"):
        store.set_text("key", "\ud800")
    with pytest.raises(StoreError, match="1 MiB"):
        store.set_text("key", "ä" * 600_000)


def test_touch_returns_what_it_writes(store: Store) -> None:
    before = utcnow()
    touched = store.touch("remote_last_updated")
    assert before <= touched == store["remote_last_updated"] <= utcnow()
    assert store["remote_last_updated"] > store.get("local_last_updated", never)


def test_a_failed_write_leaves_the_old_value_and_nothing_else(store: Store) -> None:
    store["key"] = "old"
    (store.folder / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        store["taken"] = 1
    assert sorted(path.name for path in store.folder.iterdir()) == ["key", "taken"]


def test_temporary_files_are_removed_on_failure_and_keep_their_place_on_success(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), temporary(tmp_path) as draft:  # noqa: PT012
        draft.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with temporary(tmp_path) as draft:
        assert draft.parent == tmp_path
        assert draft.name.startswith(".tmp-")
        draft.write_text("whole")
        draft.replace(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


WRITER = """
import sys
from pathlib import Path
from mmmeta_core.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for size in (1, 100_000):
        store["key"] = "x" * size
"""


def test_a_reader_never_sees_half_a_value_and_a_killed_writer_leaves_a_whole_one(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.folder)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seen = set()
        for _ in range(2_000):
            seen.add(len(store.get("key", "")))
            if len(seen) > 2:
                break
        writer.kill()
    assert seen <= {0, 1, 100_000}
    assert len(store.get("key", "")) in (0, 1, 100_000)
    assert set(store) <= {"key"}
