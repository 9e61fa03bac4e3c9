"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmmeta_core.atomic import TEMPORARY, fsync_file, fsync_folder, sweep, temporary, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data in (b"", b"one", b"x" * 3_000_000, b"two"):
        write_atomic(path, data)
        assert path.read_bytes() == data
        assert names(tmp_path) == ["a"]


def test_an_open_reader_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with path.open("rb") as file:
        write_atomic(path, b"new")
        assert file.read() == b"old"
    assert path.read_bytes() == b"new"


def test_a_folder_in_the_way_stays_and_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        write_atomic(tmp_path / "a", b"x")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").is_dir()


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "a", b"x")
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    script = f"""
import resource, signal
from pathlib import Path
from mmmeta_core.atomic import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path({str(tmp_path / "a")!r}), b"x" * 5000)
except OSError as error:
    print(error.strerror)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "File too large\n"
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("call", "after", "expected"),
    [
        ("fsync", False, b"old"),
        ("fsync", True, b"old"),
        ("replace", False, b"old"),
        ("replace", True, b"new"),
    ],
)
def test_killed_before_and_after_each_system_call(
    tmp_path: Path, call: str, after: bool, expected: bytes
) -> None:
    write_atomic(tmp_path / "a", b"old")
    script = f"""
import os, signal
from pathlib import Path
from mmmeta_core.atomic import write_atomic
real = os.{call}
def die(*args):
    if {after}:
        real(*args)
    os.kill(os.getpid(), signal.SIGKILL)
os.{call} = die
write_atomic(Path({str(tmp_path / "a")!r}), b"new")
"""
    ran = subprocess.run([sys.executable, "-c", script])
    assert ran.returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_bytes() == expected
    assert all(name.startswith(TEMPORARY) for name in names(tmp_path) if name != "a")
    write_atomic(tmp_path / "a", b"next")
    assert (tmp_path / "a").read_bytes() == b"next"


def test_a_temporary_file_is_in_the_folder_and_goes_with_the_block(tmp_path: Path) -> None:
    with temporary(tmp_path) as one, temporary(tmp_path) as two:
        assert one != two
        assert one.parent == two.parent == tmp_path
        assert one.name.startswith(TEMPORARY)
        assert not one.exists()
        one.write_bytes(b"x")
    assert names(tmp_path) == []


def test_a_temporary_file_goes_when_the_block_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with temporary(tmp_path) as draft:
            draft.write_bytes(b"x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_a_renamed_temporary_file_stays(tmp_path: Path) -> None:
    with temporary(tmp_path) as draft:
        draft.write_bytes(b"x")
        draft.replace(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_flushing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    fsync_file(tmp_path / "a")
    fsync_folder(tmp_path)
    for flush in (fsync_file, fsync_folder):
        with pytest.raises(FileNotFoundError):
            flush(tmp_path / "nope")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_unfinished_files_are_swept_when_nobody_wrote_to_them_for_an_hour(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".tmp-1-aa", ".tmp-1-bb-journal", "kept.json"))
    for path in (old, young, other):
        path.write_bytes(b"x")
    for path in (old, other):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3_700))
    assert sweep(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, other.name]
    assert sweep(tmp_path / "nowhere") == 0
