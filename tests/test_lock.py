"""One writer at a time, across threads and processes, and never a lock that needs a person."""

from __future__ import annotations

import fcntl
import logging
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmmeta_core.lock import exclusive

HOLDER = """
import sys
from pathlib import Path
from mmmeta_core.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

ADDER = """
import sys
from pathlib import Path
from mmmeta_core.lock import exclusive
counter = Path(sys.argv[1]).with_name("counter")
for _ in range(100):
    with exclusive(Path(sys.argv[1])):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


class Waiting(logging.Handler):
    """Sets an event when somebody says that it waits."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seen = threading.Event()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.seen.set()


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    handler = Waiting()
    logger = logging.getLogger("mmmeta_core.lock")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(before)
    logger.removeHandler(handler)


def start(script: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_it_makes_its_folder_and_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / ".lock"
    for _ in range(3):
        with exclusive(path):
            assert path.is_file()


def test_it_is_released_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path / ".lock"):
        raise KeyError
    with exclusive(tmp_path / ".lock"):
        pass


def test_what_the_file_holds_stays(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(b"x")
    with exclusive(tmp_path / ".lock"):
        pass
    assert (tmp_path / ".lock").read_bytes() == b"x"


def test_locks_of_different_folders_are_independent(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a" / ".lock"), exclusive(tmp_path / "b" / ".lock"):
        pass


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    inside: list[int] = []
    crowds: list[list[int]] = []

    def work(me: int) -> None:
        for _ in range(20):
            with exclusive(tmp_path / ".lock"):
                inside.append(me)
                crowds.append(list(inside))
                inside.remove(me)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(crowds) == 160
    assert all(len(crowd) == 1 for crowd in crowds)


def test_processes_wait_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    processes = [start(ADDER, tmp_path / ".lock") for _ in range(4)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "counter").read_text() == "400"


@pytest.mark.parametrize("how", ["leaves", "is killed"])
def test_the_next_goes_on_when_the_holder(tmp_path: Path, waiting: Waiting, how: str) -> None:
    got = threading.Event()

    def take() -> None:
        with exclusive(tmp_path / ".lock"):
            got.set()

    with start(HOLDER, tmp_path / ".lock") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        thread = threading.Thread(target=take)
        thread.start()
        assert waiting.seen.wait(60)
        assert not got.is_set()
        if how == "leaves":
            holder.communicate("go\n", timeout=60)
        else:
            holder.send_signal(signal.SIGKILL)
        thread.join(60)
        assert got.is_set()
    assert waiting.messages == [f"waiting for another process that works on {tmp_path}"]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from mmmeta_core.lock import exclusive
with exclusive(Path(sys.argv[1])):
    child = os.fork()
    if not child:
        sys.stdin.readline()
        os._exit(0)
print("left", flush=True)
sys.stdin.readline()
os.waitpid(child, 0)
"""
    with start(script, tmp_path / ".lock") as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "left\n"
        with (tmp_path / ".lock").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        parent.communicate("go\ngo\n", timeout=60)
        assert parent.returncode == 0


def test_a_lock_file_that_was_removed_keeps_nobody_out_and_lets_nobody_in(
    tmp_path: Path, waiting: Waiting
) -> None:
    """Who waited for the old file takes the one that is there now, as everybody does who comes later."""
    went_on = threading.Event()

    def wait_and_take() -> None:
        with exclusive(tmp_path / ".lock"):
            with (tmp_path / ".lock").open("r+b") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            went_on.set()

    thread = threading.Thread(target=wait_and_take)
    with exclusive(tmp_path / ".lock"):
        thread.start()
        assert waiting.seen.wait(60)
        (tmp_path / ".lock").unlink()
    assert went_on.wait(60), "the lock that is held is that of the file which is there"
    thread.join(60)
    assert (tmp_path / ".lock").is_file()


def test_a_lock_file_that_was_copied_while_it_was_held_holds_nothing(tmp_path: Path) -> None:
    with start(HOLDER, tmp_path / "here" / ".lock") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        shutil.copytree(tmp_path / "here", tmp_path / "copy")
        with exclusive(tmp_path / "copy" / ".lock"):
            pass
        holder.send_signal(signal.SIGKILL)
    with exclusive(tmp_path / "here" / ".lock"):
        pass
