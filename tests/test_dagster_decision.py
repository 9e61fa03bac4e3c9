"""What a store sensor asks for, as a pure function of what it sees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from mmmeta_core import Poll
from mmmeta_dagster.decision import PastRun, Request, decide, value_tag

NOW = datetime(2030, 1, 1, tzinfo=UTC)
STATUS = dg.DagsterRunStatus


def poll(remote: object, handled: object) -> Poll:
    return Poll("remote_last_updated", remote, handled, changed=remote != handled)


def past(status: STATUS, value: object, run_id: str = "r1", ago: timedelta = timedelta(days=1)) -> PastRun:
    return PastRun(run_id, status, value_tag(value), NOW - ago)


def ask(seen: Poll, *history: PastRun, due: int = 0, max_attempts: int = 3) -> Request | str:
    return decide(seen, history, due, max_attempts, NOW)


def test_a_value_that_was_never_handled_is_asked_for() -> None:
    assert ask(poll(2, None)) == Request("2", 1, "first")


def test_an_already_current_client_is_left_alone_and_both_values_are_said() -> None:
    seen = poll(NOW, NOW)
    reason = ask(seen)
    assert reason == (
        "nothing new: remote_last_updated at the remote is 2030-01-01T00:00:00+00:00, "
        "handled is 2030-01-01T00:00:00+00:00"
    )


def test_an_archive_without_the_key_is_waited_for() -> None:
    assert "has no remote_last_updated yet" in str(ask(poll(None, None)))


def test_an_earlier_value_is_as_new_as_a_later_one() -> None:
    assert ask(poll(NOW - timedelta(days=3), NOW)) == Request("2029-12-29T00:00:00+00:00", 1, "first")


def test_a_value_that_came_back_is_asked_for_again_with_another_run_key() -> None:
    first = past(STATUS.SUCCESS, "a", "run-a")
    second = past(STATUS.SUCCESS, "b", "run-b")
    assert ask(poll("a", "b"), second, first) == Request("a", 1, "run-b")


@pytest.mark.parametrize(
    "status", [STATUS.QUEUED, STATUS.NOT_STARTED, STATUS.STARTING, STATUS.STARTED, STATUS.CANCELING]
)
def test_one_run_is_in_flight(status: STATUS) -> None:
    reason = ask(poll(2, 1), past(status, 1, "busy"))
    assert "run busy is in flight" in str(reason)
    assert "is 2, handled is 1" in str(reason)


def test_what_changed_during_a_run_is_asked_for_after_it() -> None:
    assert ask(poll(2, 1), past(STATUS.SUCCESS, 1, "done")) == Request("2", 1, "done")


@pytest.mark.parametrize("status", [STATUS.FAILURE, STATUS.CANCELED])
def test_a_failed_run_is_asked_for_again_after_a_delay_that_grows(status: STATUS) -> None:
    seen = poll(2, 1)
    assert "attempt 2 comes after 2030-01-01T00:00:30" in str(
        ask(seen, past(status, 2, ago=timedelta(seconds=30)))
    )
    assert ask(seen, past(status, 2, ago=timedelta(seconds=61))) == Request("2", 2, "r1")
    twice = [past(status, 2, "r2", timedelta(minutes=3)), past(status, 2, "r1", timedelta(minutes=9))]
    assert "attempt 3 comes after 2030-01-01T00:01:00" in str(ask(seen, *twice))


def test_attempts_are_bounded_until_the_value_changes() -> None:
    failed = [past(STATUS.FAILURE, 2, f"r{n}") for n in (3, 2, 1)]
    assert "gave up after 3 attempts, the last one was run r3" in str(ask(poll(2, 1), *failed))
    assert ask(poll(3, 1), *failed) == Request("3", 1, "r3")


def test_a_run_that_failed_after_its_update_is_asked_for_again() -> None:
    assert ask(poll(2, 2), past(STATUS.FAILURE, 2)) == Request("2", 2, "r1")


def test_so_is_one_that_had_updated_to_a_later_value_before_it_failed() -> None:
    assert ask(poll(3, 3), past(STATUS.FAILURE, 2)) == Request("2", 2, "r1")


def test_a_success_that_handled_nothing_is_not_repeated_for_ever() -> None:
    useless = [past(STATUS.SUCCESS, 2, f"r{n}") for n in (3, 2, 1)]
    assert ask(poll(2, 1), useless[-1]) == Request("2", 2, "r1")
    assert "gave up after 3 attempts" in str(ask(poll(2, 1), *useless))


def test_failed_documents_that_are_due_again_are_a_reason_to_run() -> None:
    done = past(STATUS.SUCCESS, 2, "done")
    assert ask(poll(2, 2), done, due=4) == Request("due again", 1, "done")
    assert "comes after" in str(
        ask(poll(2, 2), past(STATUS.SUCCESS, "due again", "again", timedelta(seconds=5)), done, due=4)
    )


def test_a_long_value_is_told_from_another_one() -> None:
    assert value_tag("x" * 100) != value_tag("x" * 101)
    assert len(value_tag("x" * 100)) == 32
