"""What is special about folders: links, permissions, other programs' files, and processes that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmmeta_core.errors import ConfigError, RemoteDeniedError, RemoteError, RemoteNotFoundError
from mmmeta_core.remotes import LocalRemote, open_remote

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "remote"
    folder.mkdir()
    return folder


@pytest.fixture
def remote(root: Path) -> LocalRemote:
    return LocalRemote(root)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user of this machine can reach, which a tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="mmmeta-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def as_a_mere_user() -> Iterator[None]:
    """For root nothing is forbidden: be someone else for the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestOpening:
    def test_a_path_an_url_and_a_remote(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        LocalRemote(root).create("a", b"x")
        monkeypatch.chdir(root.parent)
        for given in (root, str(root), "remote", f"{root}/", root.as_uri(), f"file://localhost{root}"):
            opened = open_remote(given)
            assert isinstance(opened, LocalRemote)
            assert opened.root == root
            assert list(opened.names("")) == ["a"]
            assert open_remote(opened) is opened

    def test_a_relative_path_stays_where_it_was(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root.parent)
        remote = open_remote("remote")
        monkeypatch.chdir("/")
        remote.create("a", b"x")
        assert files_in(root) == {"a"}

    def test_a_path_with_odd_letters(self, tmp_path: Path) -> None:
        folder = tmp_path / "ä b%20+c"
        folder.mkdir()
        for given in (str(folder), folder.as_uri()):
            open_remote(given).create(str(given)[:1].replace("/", "x"), b"x")
        assert files_in(tmp_path) == {"ä b%20+c/x", "ä b%20+c/f"}
        assert open_remote(folder).url.endswith("/%C3%A4%20b%2520%2Bc")

    def test_the_home_folder(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(root.parent))
        open_remote("~/remote").create("a", b"x")
        assert files_in(root) == {"a"}

    @pytest.mark.parametrize(
        "wrong",
        [
            "",
            "  ",
            "a\0b",
            "file:relative",
            "file://host/folder",
            "file:///folder?a=b",
            "file:///folder#a",
            "file://[",
            "~nobody-of-this-name/folder",
            "ftp://host/folder",
            "gopher://host/folder",
            "S3://bucket/a",
            "s3:/bucket/a",
            Path("s3://bucket/a"),
            Path("file:///folder"),
            b"/folder",
            None,
            17,
        ],
        ids=ascii,
    )
    def test_anything_else_is_refused_with_a_sentence(self, wrong: object) -> None:
        with pytest.raises(ConfigError, match=r"^[A-Z].*\.$"):
            open_remote(wrong)  # type: ignore[arg-type]

    def test_no_message_repeats_a_password(self) -> None:
        for wrong in ("https://me:pa55word@host/x", "ftp://me:pa55word@host/x", "file://me:pa55word@host/x"):
            with pytest.raises(ConfigError) as caught:
                open_remote(wrong)
            assert "pa55word" not in str(caught.value)

    def test_opening_does_no_io(self, root: Path) -> None:
        open_remote(root / "nowhere")
        assert list(root.iterdir()) == []


class TestTheBaseItself:
    def test_a_file_is_no_base(self, root: Path) -> None:
        (root / "file").write_bytes(b"x")
        remote = LocalRemote(root / "file")
        uses: list[Callable[[], object]] = [
            remote.check,
            lambda: remote.read("a"),
            lambda: remote.create("a", b"x"),
            lambda: remote.write("a", b"x"),
            lambda: remote.stat("a"),
            lambda: remote.remove("a"),
            lambda: list(remote.names("")),
        ]
        for use in uses:
            with pytest.raises(
                RemoteNotFoundError, match=r"There is no folder .*/file': create it, mount it"
            ):
                use()

    def test_it_may_be_a_link(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(root)
        remote = LocalRemote(tmp_path / "link")
        remote.check()
        assert remote.create("a/b", b"x")
        assert list(remote.names("a/")) == ["a/b"]
        assert files_in(root) == {"a/b"}

    def test_its_name_may_have_dots(self, root: Path, tmp_path: Path) -> None:
        remote = LocalRemote(root / ".." / "remote")
        assert remote.create("a/b", b"x")
        assert list(remote.names("")) == ["a/b"]
        assert files_in(tmp_path) == {"remote/a/b"}


class TestLinks:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        folder = tmp_path / "outside"
        folder.mkdir()
        (folder / "secret").write_bytes(b"secret")
        return folder

    @pytest.mark.parametrize("relative", [False, True])
    @pytest.mark.parametrize("to_folder", [False, True])
    def test_nothing_goes_through_a_link_that_leads_out(
        self, remote: LocalRemote, root: Path, outside: Path, tmp_path: Path, relative: bool, to_folder: bool
    ) -> None:
        remote.create("a", b"x")
        target = Path("../outside") if relative else outside
        (root / "link").symlink_to(target if to_folder else target / "secret")
        name = "link/secret" if to_folder else "link"
        uses: list[Callable[[], object]] = [
            lambda: remote.read(name),
            lambda: remote.fetch(name, tmp_path / "draft"),
            lambda: remote.stat(name),
            lambda: remote.create(name, b"mine"),
            lambda: remote.write(name, b"mine"),
            lambda: remote.remove(name),
        ]
        for use in uses:
            with pytest.raises(
                RemoteError, match=r"'link.*' leads out of .* by a symbolic link: remove the link"
            ):
                use()
        assert list(remote.names("")) == ["a"]
        assert not (tmp_path / "draft").exists()
        assert files_in(outside) == {"secret"}
        assert (outside / "secret").read_bytes() == b"secret"

    def test_nothing_is_made_behind_a_link_that_leads_out(
        self, remote: LocalRemote, root: Path, outside: Path
    ) -> None:
        (root / "link").symlink_to(outside)
        for name in ("link/new", "link/new/deep"):
            with pytest.raises(RemoteError, match="leads out"):
                remote.create(name, b"x")
        with pytest.raises(RemoteError, match="leads out"):
            list(remote.names("link/"))
        assert [path.name for path in outside.iterdir()] == ["secret"]

    def test_a_neighbour_with_a_longer_name_is_outside(
        self, remote: LocalRemote, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "remote2").mkdir()
        (tmp_path / "remote2" / "a").write_bytes(b"x")
        (root / "link").symlink_to(tmp_path / "remote2")
        with pytest.raises(RemoteError, match="leads out"):
            remote.read("link/a")

    def test_the_lock_is_not_taken_through_a_link(
        self, remote: LocalRemote, root: Path, outside: Path
    ) -> None:
        (root / "_mmmeta").mkdir()
        (root / "_mmmeta" / ".write.lock").symlink_to(outside / "lock")
        with pytest.raises(RemoteError):
            remote.write("a", b"x")
        assert files_in(outside) == {"secret"}
        assert remote.stat("a") is None

    def test_a_link_inside_is_followed(self, remote: LocalRemote, root: Path) -> None:
        remote.create("a/b", b"x")
        (root / "file").symlink_to("a/b")
        (root / "folder").symlink_to("a")
        for name in ("file", "folder/b"):
            found = remote.read(name)
            assert found is not None
            assert found.data == b"x"
        assert list(remote.names("")) == ["a/b", "file"]
        assert list(remote.names("folder/")) == []

    def test_writing_and_removing_leaves_what_a_link_inside_leads_to(
        self, remote: LocalRemote, root: Path
    ) -> None:
        remote.create("a", b"x")
        (root / "link").symlink_to("a")
        remote.write("link", b"y")
        assert (root / "a").read_bytes() == b"x"
        (root / "link2").symlink_to("a")
        remote.remove("link2")
        assert sorted(remote.names("")) == ["a", "link"]

    @pytest.mark.parametrize("target", ["nothing", "circle", "."])
    def test_a_link_to_nothing_or_in_a_circle_does_not_stop_the_others(
        self, remote: LocalRemote, root: Path, target: str
    ) -> None:
        remote.create("a", b"x")
        remote.create("z", b"x")
        (root / "circle").symlink_to(target)
        assert list(remote.names("")) == ["a", "z"]
        assert remote.create("b", b"x")


class TestWhatIsNoObject:
    def test_a_pipe_a_socket_and_a_folder(self, remote: LocalRemote, root: Path, tmp_path: Path) -> None:
        (root / "folder").mkdir()
        os.mkfifo(root / "pipe")
        listener = socket.socket(socket.AF_UNIX)
        here = Path.cwd()
        os.chdir(root)  # names of sockets have to be short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        try:
            for name in ("folder", "pipe"):
                with pytest.raises(RemoteNotFoundError):
                    remote.read(name)
                with pytest.raises(RemoteNotFoundError):
                    remote.fetch(name, tmp_path / "draft")
            for name in ("folder", "pipe", "socket"):
                assert remote.stat(name) is None
            assert list(remote.names("")) == []
        finally:
            listener.close()

    def test_reading_a_folder_leaks_no_descriptor(self, remote: LocalRemote, root: Path) -> None:
        (root / "folder").mkdir()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(20):
            with pytest.raises(RemoteNotFoundError):
                remote.read("folder")
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    @pytest.mark.parametrize("method", ["create", "write"])
    def test_a_folder_of_the_name_is_in_the_way(self, remote: LocalRemote, method: str) -> None:
        remote.create("a/b", b"x")
        with pytest.raises(RemoteError, match=r"'a'|/a'"):
            getattr(remote, method)("a", b"x")
        assert list(remote.names("")) == ["a/b"]

    @pytest.mark.parametrize("method", ["create", "write"])
    def test_an_object_in_place_of_the_folder_is_in_the_way(self, remote: LocalRemote, method: str) -> None:
        remote.create("a", b"x")
        with pytest.raises(RemoteError, match="'a/b'"):
            getattr(remote, method)("a/b", b"x")
        assert list(remote.names("")) == ["a"]

    @pytest.mark.parametrize("method", ["create", "write"])
    def test_a_name_that_does_not_fit(self, remote: LocalRemote, root: Path, method: str) -> None:
        with pytest.raises(RemoteError, match="File name too long"):
            getattr(remote, method)("n" * 300, b"x")
        assert files_in(root) <= {"_mmmeta/.write.lock"}

    def test_files_with_names_that_are_not_unicode_are_left_out(
        self, remote: LocalRemote, root: Path
    ) -> None:
        (root / os.fsdecode(b"\xff.json")).write_bytes(b"x")
        folder = root / os.fsdecode(b"\xfe")
        folder.mkdir()
        (folder / "a").write_bytes(b"x")
        remote.create("a", b"x")
        assert list(remote.names("")) == ["a"]


class TestOtherPrograms:
    def test_a_file_that_changes_while_it_is_read(self, tmp_path: Path) -> None:
        """What the kernel shows as a file of no bytes has some when it is read."""
        remote = LocalRemote("/proc/self")
        with pytest.raises(RemoteError, match="'status' in '/proc/self' was written to while it was read"):
            remote.read("status")
        with pytest.raises(RemoteError, match="'status' in '/proc/self' was written to while it was read"):
            remote.fetch("status", tmp_path / "draft")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_from_the_future_does_not_bring_back_an_old_etag(
        self, remote: LocalRemote, root: Path
    ) -> None:
        remote.create("a", b"one")
        future = (root / "a").stat().st_mtime_ns + 86_400 * 10**9
        os.utime(root / "a", ns=(future, future))
        times = [future]
        for data in (b"two", b"thr"):
            assert remote.write("a", data) is not None
            times.append((root / "a").stat().st_mtime_ns)
        assert times[0] < times[1] < times[2]


class TestPermissions:
    def test_a_read_only_folder(self, open_to_all: Path, tmp_path: Path) -> None:
        remote = LocalRemote(open_to_all)
        remote.create("log/1", b"x")
        known = remote.write("head.json", b"old")
        (open_to_all / "log").chmod(0o555)
        open_to_all.chmod(0o555)
        uses: list[Callable[[], object]] = [
            lambda: remote.create("log/2", b"x"),
            lambda: remote.create("new/2", b"x"),
            lambda: remote.write("head.json", b"new"),
            lambda: remote.write("head.json", b"new", if_match=known),
            lambda: remote.remove("log/1"),
        ]
        with as_a_mere_user():
            remote.check()
            assert list(remote.names("")) == ["head.json", "log/1"]
            found = remote.read("head.json")
            assert found is not None
            assert found.data == b"old"
            assert found.etag == known
            assert remote.create("log/1", b"x") is False
            for use in uses:
                with pytest.raises(
                    RemoteDeniedError, match=r"Not allowed to (write|remove) .*check the permissions"
                ):
                    use()
        open_to_all.chmod(0o755)
        (open_to_all / "log").chmod(0o755)
        assert files_in(open_to_all) == {"head.json", "log/1", "_mmmeta/.write.lock"}

    def test_what_may_not_be_read(self, open_to_all: Path) -> None:
        remote = LocalRemote(open_to_all)
        remote.create("a", b"x")
        remote.create("private/b", b"x")
        (open_to_all / "a").chmod(0)
        (open_to_all / "private").chmod(0)
        with as_a_mere_user():
            with pytest.raises(RemoteDeniedError, match=r"Not allowed to read 'a' in .*Permission denied"):
                remote.read("a")
            with pytest.raises(RemoteDeniedError, match="Not allowed to read 'private/b'"):
                remote.read("private/b")
            with pytest.raises(RemoteDeniedError, match="Not allowed to look at 'private/b'"):
                remote.stat("private/b")
            with pytest.raises(RemoteDeniedError, match="Not allowed to list"):
                list(remote.names(""))
        (open_to_all / "private").chmod(0o755)

    def test_a_base_that_may_not_be_listed(self, open_to_all: Path) -> None:
        folder = open_to_all / "archive"
        folder.mkdir(mode=0o700)
        inner = folder / "inner"
        inner.mkdir()
        folder.chmod(0)
        with as_a_mere_user():
            for base in (folder, inner):
                with pytest.raises(RemoteDeniedError, match=r"Not allowed to list .*check the permissions"):
                    LocalRemote(base).check()
                with pytest.raises(RemoteDeniedError):
                    LocalRemote(base).read("a")
        folder.chmod(0o755)

    def test_a_lock_of_another_user_still_locks(self, open_to_all: Path) -> None:
        remote = LocalRemote(open_to_all)
        remote.write("a", b"one")
        for folder in (open_to_all, open_to_all / "_mmmeta"):
            folder.chmod(0o777)
        (open_to_all / "_mmmeta" / ".write.lock").chmod(0o444)
        with as_a_mere_user():
            assert remote.write("a", b"two") is not None
        assert (open_to_all / "a").read_bytes() == b"two"

    def test_new_objects_can_be_read_as_the_umask_says(self, remote: LocalRemote, root: Path) -> None:
        before = os.umask(0o022)
        try:
            remote.create("folder/a", b"x")
            remote.write("folder/b", b"x")
        finally:
            os.umask(before)
        assert {stat.S_IMODE((root / "folder" / name).stat().st_mode) for name in "ab"} == {0o644}
        assert stat.S_IMODE((root / "folder").stat().st_mode) == 0o755


class TestUnfinishedFiles:
    @pytest.mark.parametrize("method", ["create", "write"])
    def test_none_is_left(self, remote: LocalRemote, root: Path, method: str) -> None:
        for _ in range(2):
            getattr(remote, method)("a/b", b"x")
        assert files_in(root) - {"_mmmeta/.write.lock"} == {"a/b"}

    def test_none_is_left_when_the_condition_does_not_hold(self, remote: LocalRemote, root: Path) -> None:
        remote.write("a", b"x")
        assert remote.write("a", b"y", if_match="another") is None
        assert files_in(root) == {"a", "_mmmeta/.write.lock"}

    def test_the_disk_is_full(self, remote: LocalRemote, root: Path, tmp_path: Path) -> None:
        """A file beyond the process's limit is refused by the kernel half way, as on a full disk."""
        script = f"""
import resource, signal
from mmmeta_core.errors import RemoteError
from mmmeta_core.remotes import LocalRemote
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
remote = LocalRemote({str(root)!r})
for use in (remote.create, remote.write):
    try:
        use("a", b"x" * 1_000_000)
    except RemoteError as error:
        print(error)
"""
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert (
            ran.stdout.splitlines()
            == [
                f"Can't write 'a' in {str(root)!r}: File too large; raise the limit on file sizes and run it again."
            ]
            * 2
        )
        assert files_in(root) == set()

    def test_readers_see_whole_objects_only(self, remote: LocalRemote, root: Path) -> None:
        """While another process replaces the object all the time."""
        size = 300_000
        remote.write("a", b"0" * size)
        with writing(root, "write") as process:
            seen: set[str] = set()
            while len(seen) < 5:
                found = remote.read("a")
                assert found is not None
                assert len(found.data) == size
                assert len(set(found.data)) == 1
                seen.add(found.etag)
                assert set(remote.names("")) == {"a"}
                assert process.poll() is None


@contextmanager
def writing(root: Path, method: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that writes objects of one repeated byte for ever; yield it when the first is there."""
    script = f"""
import itertools
from mmmeta_core.remotes import LocalRemote
remote = LocalRemote({str(root)!r})
for n in itertools.count():
    data = b"%d" % (n % 10) * 300_000
    if {method!r} == "write":
        remote.write("a", data)
    else:
        assert remote.create(f"log/{{n:08}}", data)
    if n < 2:
        print(n, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "0\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class TestKilled:
    def test_a_replaced_object_is_the_old_or_the_new_one(self, remote: LocalRemote, root: Path) -> None:
        for _ in range(8):
            with writing(root, "write") as process:
                process.send_signal(signal.SIGKILL)
                process.wait()
            found = remote.read("a")
            assert found is not None
            assert len(found.data) == 300_000
            assert len(set(found.data)) == 1
            assert list(remote.names("")) == ["a"]
            assert remote.write("a", b"next", if_match=found.etag) is not None

    def test_created_objects_are_whole_and_have_no_gap(self, root: Path) -> None:
        for run in range(8):
            folder = root / str(run)
            folder.mkdir()
            with writing(folder, "create") as process:
                process.send_signal(signal.SIGKILL)
                process.wait()
            remote = LocalRemote(folder)
            names = list(remote.names(""))
            assert names == [f"log/{n:08}" for n in range(len(names))]
            assert names
            for n, name in enumerate(names):
                found = remote.read(name)
                assert found is not None
                assert found.data == b"%d" % (n % 10) * 300_000
            assert remote.create(f"log/{len(names):08}", b"next")

    @pytest.mark.parametrize(
        ("method", "call", "after", "expected"),
        [
            ("create", "fsync", False, None),
            ("create", "fsync", True, None),
            ("create", "link", False, None),
            ("create", "link", True, b"new"),
            ("create", "unlink", False, b"new"),
            ("create", "unlink", True, b"new"),
            ("write", "fsync", False, b"old"),
            ("write", "fsync", True, b"old"),
            ("write", "replace", False, b"old"),
            ("write", "replace", True, b"new"),
        ],
    )
    def test_before_and_after_each_system_call(
        self, remote: LocalRemote, root: Path, method: str, call: str, after: bool, expected: bytes | None
    ) -> None:
        if method == "write":
            remote.create("a", b"old")
        kill_at(root, method, call, after)
        assert list(remote.names("")) == ([] if expected is None else ["a"])
        if expected is None:
            assert remote.create("a", b"next")
        else:
            found = remote.read("a")
            assert found is not None
            assert found.data == expected
            assert remote.create("a", b"next") is False
            assert remote.write("a", b"next", if_match=found.etag) is not None
        assert len([path for path in root.iterdir() if path.name.startswith(".tmp-")]) <= 1


def kill_at(root: Path, method: str, call: str, after: bool) -> None:
    """Run a process that writes object "a" and kills itself before or after its first such call of `os`."""
    script = f"""
import os, signal
from mmmeta_core.remotes import LocalRemote
real = os.{call}
def die(*args, **kwargs):
    if {after}:
        real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
os.{call} = die
LocalRemote({str(root)!r}).{method}("a", b"new")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
