"""Process: exactly what is due, each document once, and what came of it remembered."""

from __future__ import annotations

import _thread
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from postgres import ON_POSTGRES

from mmmeta_core import ColumnError, ConfigError, Metadir, ReadOnlyColumnError, mmmeta
from mmmeta_core.database.work import Work
from mmmeta_core.files import File

DOCUMENTS = int(os.environ.get("PROCESS_DOCUMENTS", "300"))
"""How many documents the processes that are killed have to work through."""


@pytest.fixture
def m(tmp_path: Path) -> Metadir:
    metadir = mmmeta(tmp_path / "metadir")
    metadir.files.insert_many(
        {"content_hash": f"d{n}", "document_type": "contract" if n % 2 else "letter", "pages": n}
        for n in range(10)
    )
    return metadir


def make_due(metadir: Metadir) -> None:
    """Let the time go by that a failed document has to wait."""
    passed = "UPDATE mmmeta_work SET not_before = '2000-01-01T00:00:00.000000+00:00'"
    metadir.state.run(lambda database: database.execute(passed))


class Keeper:
    """A handler that notes what it was called for, and fails where it is told to."""

    def __init__(self, *bad: str, error: BaseException | None = None) -> None:
        self.seen: list[Any] = []
        self.bad = set(bad)
        self.error = error or ValueError("bad document")

    def __call__(self, file: File) -> Mapping[str, Any] | None:
        self.seen.append(file.key)
        if file.key in self.bad:
            raise self.error
        return None


@pytest.mark.parametrize(
    "options", [{}, {"workers": 4}, {"chunk": 1}, {"timeout": 60}, {"workers": 3, "chunk": 2}]
)
def test_each_matching_document_is_handled_once(m: Metadir, options: dict[str, Any]) -> None:
    keeper = Keeper()
    result = m.files.process(keeper, document_type="contract", **options)
    assert (result.processed, result.failed, result.left) == (5, 0, 0)
    assert sorted(keeper.seen) == ["d1", "d3", "d5", "d7", "d9"]
    assert m.files.process(keeper, document_type="contract", **options).processed == 0
    assert {file.key for file in m.files(imported=True)} == set(keeper.seen)
    assert m.files.process(keeper, **options).processed == 5


def test_the_first_run_says_nothing_of_a_column_that_is_not_there(
    m: Metadir, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mmmeta_core"):
        m.files.process(Keeper())
    assert caplog.text == ""


def test_pipelines_do_not_know_each_other(m: Metadir) -> None:
    m.files.process(Keeper("d1"), mark="imported")
    result = m.files.process(Keeper("d2"), mark="ocr_v2")
    assert (result.processed, result.failed) == (9, 1)
    assert [failure.key for failure in m.failures("imported")] == ["d1"]
    assert [failure.key for failure in m.failures("ocr_v2")] == ["d2"]


def test_what_a_handler_returns_is_kept_with_the_mark(m: Metadir) -> None:
    now = datetime.now(UTC)
    m.files.process(lambda file: {"text_length": file["pages"] * 10, "seen": now, "tags": ["a"]})
    file = m.files.get("d3")
    assert file is not None
    assert (file["text_length"], file["seen"], file["tags"], file["imported"]) == (30, now, ["a"], True)
    result = m.files.process(lambda file: {"document_type": "mine"}, mark="other", _limit=1)
    assert (result.processed, result.failed) == (0, 1)
    (failure,) = m.failures("other")
    assert failure.error.startswith("ReadOnlyColumnError: column 'document_type' belongs to the publisher")


@pytest.mark.parametrize("value", [float("inf"), object(), [object()]])
def test_a_result_that_can_not_be_kept_is_that_documents_alone(m: Metadir, value: object) -> None:
    result = m.files.process(lambda file: {"score": value if file.key == "d4" else file["pages"]})
    assert (result.processed, result.failed) == (9, 1)
    assert [failure.key for failure in m.failures()] == ["d4"]
    scores = {file.key: file["score"] for file in m.files(imported=True)}
    assert scores == {f"d{n}": n for n in range(10) if n != 4}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), MemoryError(), RecursionError("deep")])
def test_a_failure_is_that_documents_alone(m: Metadir, workers: int, error: BaseException) -> None:
    result = m.files.process(Keeper("d4", error=error), workers=workers)
    assert (result.processed, result.failed, result.set_aside, result.left) == (9, 1, 0, 1)
    (failure,) = m.failures()
    assert (failure.key, failure.attempts, failure.set_aside) == ("d4", 1, False)
    assert failure.error.startswith(type(error).__name__)
    assert datetime.now(UTC) - failure.failed_at < timedelta(minutes=5)


def test_failures_wait_longer_each_time_and_are_then_set_aside(m: Metadir) -> None:
    keeper = Keeper("d4")
    delays = []
    for attempt in range(1, 4):
        result = m.files.process(keeper, max_attempts=3)
        assert (result.failed, result.set_aside, result.left) == (1, int(attempt == 3), 1)
        asked = m.state.connection.execute("SELECT not_before FROM mmmeta_work WHERE error IS NOT NULL")
        (until,) = asked.fetchone()
        delays.append(datetime.fromisoformat(until) - datetime.now(UTC))
        assert m.files.process(keeper, max_attempts=3).failed == 0, "not before its time"
        make_due(m)
    assert delays[0] * 2 < delays[1]
    assert delays[1] * 2 < delays[2]
    assert m.files.process(keeper, max_attempts=3).failed == 0, "set aside"
    (failure,) = m.failures()
    assert (failure.attempts, failure.set_aside) == (3, True)
    assert m.due_again() == 0
    assert m.retry_failed() == 1
    assert m.due_again() == 1
    keeper.bad.clear()
    assert m.files.process(keeper).processed == 1
    assert list(m.failures()) == []
    assert keeper.seen.count("d4") == 4


def test_a_document_that_was_set_aside_is_due_when_the_publisher_changes_it(m: Metadir) -> None:
    m.files.process(Keeper("d4"), max_attempts=1)
    m.files.upsert({"content_hash": "d4", "pages": 40})
    assert m.due_again() == 1
    assert m.files.process(Keeper("d4"), max_attempts=2).failed == 1
    (failure,) = m.failures()
    assert (failure.attempts, failure.set_aside) == (1, False), "counted anew"


@pytest.mark.parametrize(
    ("on_change", "after_title", "after_content"), [("content", 0, 1), ("again", 1, 1), ("ignore", 0, 0)]
)
def test_what_was_done_is_due_again_when_it_changed_as_asked(
    tmp_path: Path, on_change: Any, after_title: int, after_content: int
) -> None:
    m = mmmeta(tmp_path)
    m.paths.root.mkdir()
    m.paths.config.write_text("metadata: {unique: id}\n", encoding="utf-8")
    m.files.insert({"id": 1, "content_hash": "a", "title": "x"})
    keeper = Keeper()
    m.files.process(keeper, on_change=on_change)
    m.files.upsert({"id": 1, "title": "y"})
    result = m.files.process(keeper, on_change=on_change)
    assert (result.processed, result.left) == (after_title, 0)
    m.files.upsert({"id": 1, "content_hash": "b"})
    assert m.files.process(keeper, on_change=on_change).processed == after_content
    assert m.files.process(keeper, on_change=on_change).processed == 0
    m.files.upsert({"id": 1, "content_hash": "c"})
    failing = Keeper(1)  # type: ignore[arg-type]
    assert m.files.process(failing, on_change=on_change).failed == after_content


def test_the_log_tells_deletions_from_what_was_due(m: Metadir, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mmmeta_core.process")
    m.files.process(Keeper(), document_type="contract")
    m.files.delete(content_hash=["d1"])
    m.files.process(Keeper(), on="deleted")
    assert [record.getMessage().split(":")[0] for record in caplog.records if record.levelname == "INFO"] == [
        "imported",
        "imported, deletions",
    ]


def test_deletions_reach_the_handler_and_a_restored_document_is_due(m: Metadir) -> None:
    m.files.process(Keeper(), document_type="contract")
    m.files.delete(content_hash=["d1", "d2", "d3"])
    cleaner = Keeper("d3")
    result = m.files.process(cleaner, on="deleted")
    assert (result.processed, result.failed, result.left) == (1, 1, 1)
    assert cleaner.seen == ["d1", "d3"], "d2 was never processed"
    m.retry_failed()
    cleaner.bad.clear()
    assert m.files.process(cleaner, on="deleted").processed == 1
    assert m.files.process(cleaner, on="deleted").processed == 0
    assert m.files.process(Keeper(), document_type="contract").processed == 0
    m.files.upsert({"content_hash": "d1"})
    keeper = Keeper()
    assert m.files.process(keeper, document_type="contract").processed == 1
    assert keeper.seen == ["d1"]


def test_a_handler_that_hangs_is_left_behind(m: Metadir) -> None:
    release = threading.Event()

    def handler(file: File) -> None:
        if file.key == "d5":
            release.wait(60)

    result = m.files.process(handler, timeout=0.2, workers=2)
    release.set()
    assert (result.processed, result.failed) == (9, 1)
    (failure,) = m.failures()
    assert failure.error == "TimeoutError: the handler took longer than 0.2 s and was left behind"


def test_an_interrupt_notes_what_is_done_and_gives_the_rest_back(m: Metadir) -> None:
    with pytest.raises(KeyboardInterrupt):
        m.files.process(Keeper("d4", error=KeyboardInterrupt()))
    assert {file.key for file in m.files(imported=True)} == {"d0", "d1", "d2", "d3"}
    keeper = Keeper()
    assert m.files.process(keeper).processed == 6, "nothing is claimed any more"
    assert "d4" in keeper.seen


def test_an_interrupt_waits_for_what_threads_have_begun(m: Metadir) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handler(file: File) -> None:
        if file.key == "d1":
            begun.wait(30)
            _thread.interrupt_main()
            go_on.set()
        elif file.key == "d0":
            begun.set()
            go_on.wait(30)

    with pytest.raises(KeyboardInterrupt):
        m.files.process(handler, workers=2)
    done = {file.key for file in m.files(imported=True)}
    assert done >= {"d0", "d1"}
    assert m.files.process(Keeper()).processed == 10 - len(done)


class Importer(Keeper):
    """A handler that takes chunks, and refuses those with a bad document in them."""

    def __init__(self, *bad: str) -> None:
        super().__init__(*bad)
        self.chunks: list[int] = []

    def chunk(self, files: list[File]) -> None:
        self.chunks.append(len(files))
        if self.bad & {file.key for file in files}:
            raise ValueError("one of them is bad")


def test_a_chunk_that_fails_is_handled_one_by_one(m: Metadir) -> None:
    importer = Importer("d7")
    result = m.files.process(importer, chunk=5)
    assert (result.processed, result.failed) == (9, 1)
    assert importer.chunks == [5, 5]
    assert importer.seen == ["d5", "d6", "d7", "d8", "d9"]


def test_limit_progress_and_filters_on_the_key(m: Metadir) -> None:
    steps: list[tuple[int, int | None]] = []
    result = m.files.process(
        Keeper(), limit=3, chunk=2, progress=lambda done, total: steps.append((done, total))
    )
    assert (result.processed, result.left) == (3, 7)
    assert steps == [(2, 10), (3, 10)]
    keeper = Keeper()
    m.files.process(keeper, content_hash={">=": "d5"}, pages={"<": 9}, chunk=2)
    assert keeper.seen == ["d5", "d6", "d7", "d8"]


@pytest.mark.skipif(ON_POSTGRES, reason="of SQLite's words; see test_postgres.py")
def test_what_is_due_is_found_by_an_index_however_much_is_done(tmp_path: Path) -> None:
    with mmmeta(tmp_path) as m:
        m.files.insert_many({"content_hash": f"{at:04d}"} for at in range(50))
        m.files.process(lambda _: None)
        work = Work(m.state, "imported")
        conditions = work.condition(free=False), work.condition().replace(":mmmeta_mark", "'imported'")
        for condition in conditions:
            plan = m.state.connection.execute(
                f"EXPLAIN QUERY PLAN SELECT * FROM files WHERE {condition} ORDER BY content_hash LIMIT 10",
                {name: value for name, value in work.parameters().items() if f":{name}" in condition},
            ).fetchall()
            assert any("USING INDEX mmmeta_due_" in row[-1] for row in plan), plan
            assert not any("TEMP B-TREE" in row[-1] for row in plan), plan


@pytest.mark.skipif(ON_POSTGRES, reason="a column there has one type; see test_postgres.py")
def test_keys_may_be_numbers_and_text_at_once(tmp_path: Path) -> None:
    m = mmmeta(tmp_path)
    m.files.insert_many({"content_hash": key} for key in [3, "3", 10, "10", -1, "a", "ä"])
    keeper = Keeper()
    assert m.files.process(keeper, chunk=2).processed == 7
    assert len(keeper.seen) == len(set(keeper.seen)) == 7


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mark": "pages"}, ReadOnlyColumnError, "belongs to the publisher"),
        ({"mark": "__mine"}, ColumnError, "no column can be named"),
        ({"workers": 0}, ConfigError, "workers=0 must be more than 0"),
        ({"chunk": 501}, ConfigError, "more than 500"),
        ({"timeout": -1}, ConfigError, "timeout=-1"),
        ({"on": "change"}, ConfigError, "on='change' is not one of due, deleted"),
        ({"on_change": "never"}, ConfigError, "not one of content, again, ignore"),
        ({"order_by": "pages"}, ConfigError, "order_by can't be used here"),
    ],
)
def test_wrong_use_is_one_clear_error_and_nothing_happens(
    m: Metadir, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    keeper = Keeper()
    with pytest.raises(error, match=message):
        m.files.process(keeper, **arguments)
    assert keeper.seen == []


def test_threads_of_one_process_share_the_work(m: Metadir) -> None:
    keeper = Keeper()
    threads = [threading.Thread(target=m.files.process, args=[keeper], kwargs={"chunk": 1}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keeper.seen) == sorted(f"d{n}" for n in range(10))


WORKER = """
import os, sys, time
from mmmeta_core import mmmeta

out = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def handler(file):
    os.write(out, f"{file.key}\\n".encode())
    time.sleep(0.002)  # work
    if file["pages"] % 7 == 0:
        raise ValueError("every seventh")
    return {"result": file["pages"] * 2}

files = mmmeta(sys.argv[1]).files
files.find_one()
print("ready", flush=True)
result = files.process(handler, chunk=20, lease=2, max_attempts=3)
sys.exit(3 if result.left else 0)
"""


def test_processes_that_are_killed_miss_nothing_and_claim_nothing_twice(tmp_path: Path) -> None:
    m = mmmeta(tmp_path / "metadir")
    m.files.insert_many({"content_hash": f"d{n:06}", "pages": n} for n in range(DOCUMENTS))
    out, dice, kills = tmp_path / "handled.txt", random.Random(1), 0  # noqa: S311 - it decides who is killed
    command = [sys.executable, "-c", WORKER, str(m.path), str(out)]

    def hire() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    workers = [hire() for _ in range(4)]
    done = -1
    try:
        while done < DOCUMENTS - len(range(0, DOCUMENTS, 7)):
            victim = dice.randrange(4)
            out_of_it = workers[victim].stdout
            assert out_of_it is not None
            with out_of_it:
                out_of_it.readline()  # it has begun; the time that it takes to start is the machine's
            try:
                workers[victim].wait(timeout=1 if DOCUMENTS > 1000 else 0.2)
            except subprocess.TimeoutExpired:
                workers[victim].send_signal(signal.SIGKILL)
                kills += workers[victim].wait() == -signal.SIGKILL
            workers[victim] = hire()
            done = m.files.count(imported=True)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert kills > 0
    wanted = {f"d{n:06}" for n in range(DOCUMENTS)}
    results = {file.key: file["result"] for file in m.files(imported=True)}
    assert results == {f"d{n:06}": n * 2 for n in range(DOCUMENTS) if n % 7}, "no result is lost"
    failed = {failure.key for failure in m.failures()}
    assert failed <= wanted - results.keys()
    calls = Counter(out.read_text(encoding="ascii").split())
    assert calls.keys() >= results.keys()
    repeated = sum(count - 1 for key, count in calls.items() if key in results)
    assert repeated <= (kills + 4) * 20, "only what was in hand at a kill is handled again"
