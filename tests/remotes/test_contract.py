"""What a remote promises, asked of a folder and of a bucket alike."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmmeta_core.errors import RemoteError, RemoteNotFoundError
from mmmeta_core.remotes import ABSENT, Blob, LocalRemote, Remote, S3Remote, Stat, open_remote
from mmmeta_core.remotes.base import CHUNK

Plant: TypeAlias = Callable[[str, bytes], None]
Use: TypeAlias = Callable[[Remote, str, Path], object]

# Every method that takes a name, and is run as far as its first request.
USES: dict[str, Use] = {
    "read": lambda remote, name, path: remote.read(name),
    "fetch": lambda remote, name, path: remote.fetch(name, path),
    "create": lambda remote, name, path: remote.create(name, b"x"),
    "write": lambda remote, name, path: remote.write(name, b"x"),
    "write_absent": lambda remote, name, path: remote.write(name, b"x", if_match=ABSENT),
    "write_if_match": lambda remote, name, path: remote.write(name, b"x", if_match="an etag"),
    "stat": lambda remote, name, path: remote.stat(name),
    "remove": lambda remote, name, path: remote.remove(name),
}
use = pytest.mark.parametrize("use", USES.values(), ids=USES)

ODD_NAMES = [
    "ü/ß.pdf",
    "cafe\u0301.pdf",
    "caf\u00e9.pdf",
    "日本/契約.json",
    "\U0001f600.json",
    "a b/ c .json",
    " leading",
    "trailing ",
    "a+b",
    "100%",
    "%41",
    "a%2Fb",
    "a?b=c&d#e",
    "x:y",
    "~",
    "'\"`$(x)",
    "-rf",
    "*",
    "[a]",
    "<&>",
    "two\nlines",
    "tab\t",
    "...",
    "a/...",
    ".hidden",
    "x.tmp-",
    "_mmmeta/.write.lock2",
    "documents/.write.lock",
    "n" * 200,
    "deep/" * 40 + "x",
]

BAD_NAMES = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "./a",
    "../a",
    "a/..",
    "a/../b",
    "a/./b",
    "a\0b",
    "a\\b",
    "\ud800",
    ".tmp-1",
    "a/.tmp-1",
    ".tmp-1/a",
    "_mmmeta/.write.lock",
]


@pytest.fixture
def remote(remote_url: str) -> Remote:
    return open_remote(remote_url)


@pytest.fixture(params=["folder", "s3"])
def missing(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    """A remote whose base does not exist."""
    if request.param == "folder":
        return open_remote(tmp_path / "nowhere")
    endpoint = request.getfixturevalue("s3_endpoint")
    return open_remote(f"s3://nowhere-{uuid.uuid4().hex}/some/archive?endpoint={endpoint}")


@pytest.fixture
def plant(remote: Remote, request: pytest.FixtureRequest) -> Plant:
    """Put bytes below the base, under any name, with other means than the remote's."""
    if isinstance(remote, LocalRemote):
        root = remote.root

        def write_file(name: str, data: bytes) -> None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)

        return write_file
    client = request.getfixturevalue("s3_client")
    base = urlsplit(remote.url)

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket=base.netloc, Key=f"{base.path[1:]}/{name}", Body=data)

    return put


def blob(remote: Remote, name: str) -> Blob:
    found = remote.read(name)
    assert found is not None
    return found


def etag(remote: Remote, name: str) -> str:
    found = remote.stat(name)
    assert found is not None
    return found.etag


class TestCheck:
    def test_an_empty_base_is_fine(self, remote: Remote) -> None:
        remote.check()
        assert list(remote.names("")) == []

    def test_a_base_with_objects_is_fine(self, remote: Remote) -> None:
        remote.write("a/b", b"x")
        remote.check()

    def test_a_missing_base_is_named(self, missing: Remote) -> None:
        with pytest.raises(RemoteNotFoundError, match="nowhere"):
            missing.check()


class TestMissingBase:
    @use
    def test_every_method_says_so(self, missing: Remote, use: Use, tmp_path: Path) -> None:
        with pytest.raises(RemoteNotFoundError, match=r"There is no (folder|bucket) '.*nowhere"):
            use(missing, "a/b", tmp_path / "draft")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("prefix", ["", "a", "a/b/"])
    def test_names_says_so(self, missing: Remote, prefix: str) -> None:
        with pytest.raises(RemoteNotFoundError, match=r"There is no (folder|bucket) '.*nowhere"):
            list(missing.names(prefix))

    def test_it_is_not_made(self, missing: Remote) -> None:
        for attempt in (lambda: missing.create("a", b"x"), lambda: missing.write("a", b"x")):
            with pytest.raises(RemoteNotFoundError):
                attempt()
        with pytest.raises(RemoteNotFoundError):
            missing.check()

    def test_it_is_noticed_after_it_was_there(self, remote: Remote, request: pytest.FixtureRequest) -> None:
        remote.check()
        remote.write("a", b"x")
        remote.remove("a")
        if isinstance(remote, LocalRemote):
            remote.root.rename(remote.root.with_name("elsewhere"))
        else:
            client = request.getfixturevalue("s3_client")
            client.delete_bucket(Bucket=urlsplit(remote.url).netloc)
        with pytest.raises(RemoteNotFoundError, match=r"There is no (folder|bucket)"):
            remote.read("a")
        with pytest.raises(RemoteNotFoundError, match=r"There is no (folder|bucket)"):
            remote.create("a", b"x")


class TestRead:
    def test_what_was_written_comes_back(self, remote: Remote) -> None:
        data = bytes(range(256)) * 3
        remote.create("a/b.bin", data)
        assert blob(remote, "a/b.bin").data == data

    def test_what_others_wrote_is_read(self, remote: Remote, plant: Plant) -> None:
        plant("documents/a.pdf", b"%PDF")
        assert blob(remote, "documents/a.pdf").data == b"%PDF"

    def test_more_than_one_chunk(self, remote: Remote) -> None:
        data = os.urandom(2 * CHUNK + 17)
        remote.create("large", data)
        assert blob(remote, "large").data == data

    def test_an_absent_object_is_named(self, remote: Remote) -> None:
        with pytest.raises(RemoteNotFoundError, match=r"There is no object .*a/b\.json"):
            remote.read("a/b.json")

    @pytest.mark.parametrize("name", ["a", "a/b"])
    def test_what_only_begins_names_is_no_object(self, remote: Remote, name: str) -> None:
        remote.create("a/b/c", b"x")
        with pytest.raises(RemoteNotFoundError, match="There is no object"):
            remote.read(name)

    def test_no_object_is_below_an_object(self, remote: Remote) -> None:
        remote.create("a", b"x")
        with pytest.raises(RemoteNotFoundError, match="There is no object"):
            remote.read("a/b")
        assert remote.stat("a/b") is None
        remote.remove("a/b")
        assert list(remote.names("a/")) == []

    def test_the_etag_of_last_time_says_that_nothing_changed(self, remote: Remote) -> None:
        remote.create("head.json", b"one")
        first = blob(remote, "head.json").etag
        assert remote.read("head.json", etag=first) is None
        remote.write("head.json", b"two")
        second = remote.read("head.json", etag=first)
        assert second is not None
        assert second.data == b"two"
        assert remote.read("head.json", etag=second.etag) is None

    @pytest.mark.parametrize("unknown", ["", "never seen", '"0123"'])
    def test_an_unknown_etag_gets_the_content(self, remote: Remote, unknown: str) -> None:
        remote.create("a", b"x")
        found = remote.read("a", etag=unknown)
        assert found is not None
        assert found.data == b"x"

    def test_an_etag_does_not_hide_that_the_object_is_gone(self, remote: Remote) -> None:
        remote.create("a", b"x")
        known = etag(remote, "a")
        remote.remove("a")
        with pytest.raises(RemoteNotFoundError):
            remote.read("a", etag=known)

    def test_the_limit_is_inclusive(self, remote: Remote) -> None:
        remote.create("a", b"12345")
        found = remote.read("a", limit=5)
        assert found is not None
        assert found.data == b"12345"
        with pytest.raises(RemoteError, match=r"'a' in .* has 5 bytes, more than the 4") as caught:
            remote.read("a", limit=4)
        assert not isinstance(caught.value, RemoteNotFoundError)

    def test_an_unchanged_object_is_not_measured(self, remote: Remote) -> None:
        remote.create("a", b"12345")
        assert remote.read("a", etag=etag(remote, "a"), limit=4) is None


class TestFetch:
    @pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 1])
    def test_the_file_is_the_object(self, remote: Remote, tmp_path: Path, size: int) -> None:
        data, path = os.urandom(size), tmp_path / "draft"
        remote.create("a/b", data)
        assert remote.fetch("a/b", path) == size
        assert path.read_bytes() == data

    def test_what_the_file_held_is_gone(self, remote: Remote, tmp_path: Path) -> None:
        path = tmp_path / "draft"
        path.write_bytes(b"much longer than the object")
        remote.create("a", b"short")
        assert remote.fetch("a", path) == 5
        assert path.read_bytes() == b"short"

    @pytest.mark.parametrize("held", [None, b"old"])
    def test_an_absent_object_leaves_no_file(
        self, remote: Remote, tmp_path: Path, held: bytes | None
    ) -> None:
        path = tmp_path / "draft"
        if held is not None:
            path.write_bytes(held)
        with pytest.raises(RemoteNotFoundError, match=r"There is no object .*gone"):
            remote.fetch("gone", path)
        assert not path.exists()

    @pytest.mark.parametrize("held", [None, b"old"])
    def test_an_object_beyond_the_limit_leaves_no_file(
        self, remote: Remote, tmp_path: Path, held: bytes | None
    ) -> None:
        path = tmp_path / "draft"
        if held is not None:
            path.write_bytes(held)
        remote.create("a", b"12345")
        with pytest.raises(RemoteError, match="has 5 bytes, more than the 4"):
            remote.fetch("a", path, limit=4)
        assert not path.exists()
        assert remote.fetch("a", path, limit=5) == 5

    def test_a_local_file_that_cannot_be_written_is_not_the_remotes_doing(
        self, remote: Remote, tmp_path: Path
    ) -> None:
        remote.create("a", b"x")
        with pytest.raises(FileNotFoundError) as caught:
            remote.fetch("a", tmp_path / "no folder" / "draft")
        assert not isinstance(caught.value, RemoteError)


class TestCreate:
    def test_the_first_wins_and_the_object_stays(self, remote: Remote) -> None:
        assert remote.create("log/1", b"first") is True
        assert remote.create("log/1", b"second") is False
        assert blob(remote, "log/1").data == b"first"

    def test_what_others_wrote_counts(self, remote: Remote, plant: Plant) -> None:
        plant("log/1", b"first")
        assert remote.create("log/1", b"second") is False
        assert blob(remote, "log/1").data == b"first"

    def test_a_removed_object_can_be_created_again(self, remote: Remote) -> None:
        assert remote.create("a", b"one")
        remote.remove("a")
        assert remote.create("a", b"two")
        assert blob(remote, "a").data == b"two"

    def test_the_same_content_again_is_not_created(self, remote: Remote) -> None:
        assert remote.create("a", b"same")
        assert not remote.create("a", b"same")

    def test_from_a_file(self, remote: Remote, tmp_path: Path) -> None:
        data = os.urandom(2 * CHUNK + 1)
        (tmp_path / "draft").write_bytes(data)
        assert remote.create("a", tmp_path / "draft")
        assert blob(remote, "a").data == data
        assert (tmp_path / "draft").read_bytes() == data
        assert not remote.create("a", tmp_path / "draft")

    @pytest.mark.parametrize("method", ["create", "write"])
    @pytest.mark.parametrize(
        ("source", "expected"), [("missing", FileNotFoundError), ("folder", IsADirectoryError)]
    )
    def test_a_local_file_that_cannot_be_read_is_not_the_remotes_doing(
        self, remote: Remote, tmp_path: Path, method: str, source: str, expected: type[OSError]
    ) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(expected) as caught:
            getattr(remote, method)("a", tmp_path / source)
        assert not isinstance(caught.value, RemoteError)
        assert list(remote.names("")) == []


class TestWrite:
    def test_without_a_condition_it_creates_and_replaces(self, remote: Remote) -> None:
        first = remote.write("a", b"one")
        assert first == etag(remote, "a") == blob(remote, "a").etag
        second = remote.write("a", b"two, longer")
        assert second == etag(remote, "a") == blob(remote, "a").etag
        assert first != second
        assert blob(remote, "a").data == b"two, longer"

    def test_absent_only_creates(self, remote: Remote) -> None:
        first = remote.write("a", b"one", if_match=ABSENT)
        assert first == etag(remote, "a")
        assert remote.write("a", b"two", if_match=ABSENT) is None
        assert blob(remote, "a") == Blob(b"one", etag(remote, "a"))

    def test_with_the_etag_it_replaces_once(self, remote: Remote) -> None:
        first = remote.write("a", b"one")
        second = remote.write("a", b"two", if_match=first)
        assert second == etag(remote, "a")
        assert remote.write("a", b"three", if_match=first) is None
        assert blob(remote, "a").data == b"two"
        assert remote.write("a", b"three", if_match=second) == etag(remote, "a")

    def test_the_etags_of_read_and_stat_are_conditions_too(self, remote: Remote, plant: Plant) -> None:
        plant("a", b"one")
        assert remote.write("a", b"two", if_match=blob(remote, "a").etag) is not None
        assert remote.write("a", b"three", if_match=etag(remote, "a")) is not None
        assert blob(remote, "a").data == b"three"

    @pytest.mark.parametrize("unknown", ["an etag", '"d41d8cd98f00b204e9800998ecf8427e"'])
    def test_with_an_etag_it_never_creates(self, remote: Remote, unknown: str) -> None:
        assert remote.write("a", b"x", if_match=unknown) is None
        assert remote.stat("a") is None

    def test_the_etag_of_a_removed_object_fits_nothing(self, remote: Remote) -> None:
        gone = remote.write("a", b"x")
        remote.remove("a")
        assert remote.write("a", b"y", if_match=gone) is None
        assert list(remote.names("")) == []

    @pytest.mark.parametrize("condition", [None, ABSENT, "etag"])
    def test_from_a_file(self, remote: Remote, tmp_path: Path, condition: str | None) -> None:
        data = os.urandom(CHUNK + 1)
        (tmp_path / "draft").write_bytes(data)
        if condition == "etag":
            condition = remote.write("a", b"old")
        assert remote.write("a", tmp_path / "draft", if_match=condition) == etag(remote, "a")
        assert blob(remote, "a").data == data

    def test_each_of_many_quick_changes_has_another_etag(self, remote: Remote) -> None:
        etags = [remote.write("a", f"{n:04}".encode()) for n in range(50)]
        assert None not in etags
        assert len(set(etags)) == 50

    def test_so_has_each_object_that_is_created_in_place_of_a_removed_one(self, remote: Remote) -> None:
        etags = set()
        for n in range(50):
            assert remote.create("a", f"{n:04}".encode())
            etags.add(etag(remote, "a"))
            remote.remove("a")
        assert len(etags) == 50

    def test_a_chain_of_conditions(self, remote: Remote) -> None:
        last = remote.write("counter", b"0", if_match=ABSENT)
        for n in range(1, 20):
            last = remote.write("counter", b"%d" % n, if_match=last)
            assert last is not None
        assert blob(remote, "counter").data == b"19"


class TestStat:
    def test_size_and_etag(self, remote: Remote) -> None:
        written = remote.write("a/b", b"12345")
        assert written is not None
        assert remote.stat("a/b") == Stat(5, written)

    @pytest.mark.parametrize("name", ["a", "a/b/c", "nope", "nope/nope"])
    def test_none_for_what_is_no_object(self, remote: Remote, name: str) -> None:
        remote.create("a/b", b"x")
        assert remote.stat(name) is None

    def test_it_stays_as_it_is(self, remote: Remote) -> None:
        remote.create("a", b"x")
        found: Any = remote.stat("a")
        with pytest.raises(FrozenInstanceError):
            found.size = 2


class TestRemove:
    def test_it_is_gone(self, remote: Remote) -> None:
        remote.create("a/b", b"x")
        remote.create("a/c", b"y")
        remote.remove("a/b")
        assert remote.stat("a/b") is None
        assert list(remote.names("")) == ["a/c"]
        with pytest.raises(RemoteNotFoundError):
            remote.read("a/b")

    @pytest.mark.parametrize("name", ["nope", "nope/nope", "a", "a/b/c"])
    def test_it_is_fine_if_there_is_none(self, remote: Remote, name: str) -> None:
        remote.create("a/b", b"x")
        remote.remove(name)
        assert list(remote.names("")) == ["a/b"]

    def test_twice_is_fine(self, remote: Remote) -> None:
        remote.create("a", b"x")
        remote.remove("a")
        remote.remove("a")
        assert remote.stat("a") is None


class TestEmptyObjects:
    @pytest.mark.parametrize("method", ["create", "write"])
    @pytest.mark.parametrize("from_file", [False, True])
    def test_they_are_objects(self, remote: Remote, tmp_path: Path, method: str, from_file: bool) -> None:
        (tmp_path / "empty").write_bytes(b"")
        assert getattr(remote, method)("a/empty", tmp_path / "empty" if from_file else b"")
        assert blob(remote, "a/empty").data == b""
        found = remote.stat("a/empty")
        assert found is not None
        assert found.size == 0
        assert list(remote.names("")) == ["a/empty"]
        assert remote.create("a/empty", b"x") is False
        assert remote.read("a/empty", etag=found.etag) is None
        assert remote.read("a/empty", limit=0) == Blob(b"", found.etag)
        assert remote.write("a/empty", b"x", if_match=found.etag) is not None


class TestNames:
    def test_the_order_is_that_of_the_bytes(self, remote: Remote) -> None:
        names = [
            "a/b",
            "a-/x",
            "a.txt",
            "a/b.c",
            "a0",
            "A",
            "_",
            "é",
            "z",
            "\ufb01",
            "\U0001d11e",
            "a/é",
            "a/z",
        ]
        for name in names:
            remote.create(name, b"x")
        assert list(remote.names("")) == sorted(names, key=str.encode)

    def test_a_prefix_is_text(self, remote: Remote) -> None:
        for name in ("a/b/c", "a/b/d/e", "a/b.c", "ab", "a.txt", "b/a"):
            remote.create(name, b"x")
        expected = {
            "": ["a.txt", "a/b.c", "a/b/c", "a/b/d/e", "ab", "b/a"],
            "a": ["a.txt", "a/b.c", "a/b/c", "a/b/d/e", "ab"],
            "a/": ["a/b.c", "a/b/c", "a/b/d/e"],
            "a/b": ["a/b.c", "a/b/c", "a/b/d/e"],
            "a/b/": ["a/b/c", "a/b/d/e"],
            "a/b/c": ["a/b/c"],
            "a/b/c/": [],
            "a/b/d": ["a/b/d/e"],
            "a.": ["a.txt"],
            "A": [],
            "nope": [],
            "nope/nope/": [],
            ".": [],
            "..": [],
            "a/..": [],
        }
        assert {prefix: list(remote.names(prefix)) for prefix in expected} == expected

    def test_more_than_a_page(self, remote: Remote, plant: Plant) -> None:
        names = [f"log/{n:05}" for n in range(1, 1102)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: plant(name, b""), ["a", *names, "z"]))
        assert list(remote.names("log/")) == names
        assert list(remote.names("")) == ["a", *names, "z"]
        assert list(remote.names("log/0100")) == [f"log/{n:05}" for n in range(1000, 1010)]

    @pytest.mark.parametrize("plain", ["a", "documents/a"])
    def test_unfinished_files_and_what_has_no_name_are_left_out(
        self, remote: Remote, plant: Plant, plain: str
    ) -> None:
        plant(plain, b"x")
        folder = plain.rpartition("a")[0]
        for name in (".tmp-1", "b/.tmp-1", ".tmp-2/b", "_mmmeta/.write.lock", "back\\slash"):
            plant(name if name.startswith("_mmmeta") else folder + name, b"x")
        if not isinstance(remote, LocalRemote):
            for name in ("c/", "c//d", "./e", "../f"):
                plant(folder + name, b"x")
        assert list(remote.names("")) == [plain]
        assert list(remote.names(folder)) == [plain]

    def test_no_name_begins_so(self, remote: Remote) -> None:
        for prefix in ("/", "/a", "a//", "../", "a/../", "./a", "a\0", "a\\", "\ud800", ".tmp-1/"):
            with pytest.raises(RemoteError, match="can't be the beginning") as caught:
                list(remote.names(prefix))
            assert type(caught.value) is RemoteError, prefix

    def test_a_neighbour_of_the_base_is_not_below_it(self, remote: Remote, plant: Plant) -> None:
        remote.create("a", b"x")
        neighbour = open_remote_beside(remote)
        assert list(neighbour.names("")) == []
        neighbour.create("b", b"y")
        assert list(remote.names("")) == ["a"]
        assert list(neighbour.names("")) == ["b"]


class TestNaming:
    def test_odd_names(self, remote: Remote, tmp_path: Path) -> None:
        # The server of the tests finds no way to a name with a line break, with any client.
        names = [name for name in ODD_NAMES if "\n" not in name or isinstance(remote, LocalRemote)]
        assert [name for name in names if not remote.create(name, ascii(name).encode())] == []
        assert list(remote.names("")) == sorted(names, key=str.encode)
        for name in names:
            data = ascii(name).encode()
            assert remote.create(name, b"two") is False
            assert name in list(remote.names(name[:-1]))
            assert blob(remote, name) == Blob(data, etag(remote, name))
            assert remote.fetch(name, tmp_path / "draft") == len(data)
            assert remote.write(name, b"three", if_match=etag(remote, name)) is not None
            remote.remove(name)
            assert remote.stat(name) is None
        assert list(remote.names("")) == []

    def test_names_that_look_the_same_are_different(self, remote: Remote) -> None:
        assert remote.create("caf\u00e9", b"composed")
        assert remote.create("cafe\u0301", b"decomposed")
        assert blob(remote, "caf\u00e9").data == b"composed"
        assert list(remote.names("")) == ["cafe\u0301", "caf\u00e9"]

    @use
    def test_bad_names_are_refused(self, remote: Remote, use: Use, tmp_path: Path) -> None:
        for name in BAD_NAMES:
            with pytest.raises(RemoteError, match="can't be the name of an object: it ") as caught:
                use(remote, name, tmp_path / "draft")
            assert type(caught.value) is RemoteError, name
            assert not (tmp_path / "draft").exists(), name
        assert list(remote.names("")) == []


class TestRemote:
    def test_the_url_and_the_repr_name_the_base(self, remote: Remote) -> None:
        assert remote.url.startswith(("file:///", "s3://archive-"))
        assert repr(remote) == f"<{type(remote).__name__} {remote.url}>"

    def test_an_instance_may_be_used_by_many_threads(self, remote: Remote, tmp_path: Path) -> None:
        def work(n: int) -> bytes:
            remote.create(f"a/{n}", b"%d" % n)
            remote.write(f"a/{n}", b"%d again" % n)
            remote.fetch(f"a/{n}", tmp_path / f"draft-{n}")
            return blob(remote, f"a/{n}").data + (tmp_path / f"draft-{n}").read_bytes()

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(work, range(48))) == [b"%d again%d again" % (n, n) for n in range(48)]

    def test_two_remotes_at_one_base_see_the_same(self, remote_url: str) -> None:
        one, two = open_remote(remote_url), open_remote(remote_url)
        first = one.write("a", b"x")
        assert two.read("a", etag=first) is None
        assert two.create("a", b"y") is False
        assert two.write("a", b"y", if_match=first) == etag(one, "a")


def open_remote_beside(remote: Remote) -> Remote:
    """Return the remote whose base has the same name with one letter more."""
    if isinstance(remote, LocalRemote):
        beside = remote.root.with_name(remote.root.name + "2")
        beside.mkdir()
        return open_remote(beside)
    assert isinstance(remote, S3Remote)
    return S3Remote(remote.url + "2", remote.options)


STEPS = st.tuples(
    st.sampled_from(["create", "write", "absent", "current", "stale", "remove", "stat"]),
    st.sampled_from(["a", "b/c", "b/d", "b.e"]),
    st.binary(max_size=3),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=20))
def test_a_remote_is_a_dictionary_with_conditions(
    remote: Remote, steps: list[tuple[str, str, bytes]]
) -> None:
    for name in list(remote.names("")):
        remote.remove(name)
    model: dict[str, bytes] = {}
    for verb, name, data in steps:
        there = name in model
        match verb:
            case "create":
                assert remote.create(name, data) is not there
                model.setdefault(name, data)
            case "write":
                assert remote.write(name, data) is not None
                model[name] = data
            case "absent":
                assert (remote.write(name, data, if_match=ABSENT) is None) is there
                model.setdefault(name, data)
            case "current" if there:
                assert remote.write(name, data, if_match=etag(remote, name)) is not None
                model[name] = data
            case "stale" | "current":
                assert remote.write(name, data, if_match="no etag") is None
            case "remove":
                remote.remove(name)
                model.pop(name, None)
            case _:
                found = remote.stat(name)
                assert (found.size if found else None) == (len(model[name]) if there else None)
        assert list(remote.names("")) == sorted(model, key=str.encode)
    assert {name: blob(remote, name).data for name in model} == model
