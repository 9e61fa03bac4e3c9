"""A publisher that is killed at any moment loses nothing, publishes nothing twice, and the next run carries on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crash.scenarios import PUBLISHERS


@pytest.mark.parametrize("scenario", [scenario.name for scenario in PUBLISHERS])
def test_killing_a_publisher_loses_nothing(stop: Callable[..., None], scenario: str) -> None:
    stop(scenario)


def test_killing_a_publisher_between_two_transactions_publishes_nothing_twice(
    stop: Callable[..., None],
) -> None:
    stop("push", points=0, at_random=0, commits=True)


@pytest.mark.parametrize("scenario", [scenario.name for scenario in PUBLISHERS if scenario.s3])
def test_killing_a_publisher_to_a_bucket_loses_nothing(
    stop: Callable[..., None], scenario: str, s3_endpoint: str
) -> None:
    stop(scenario, endpoint=s3_endpoint, points=3, at_random=1)
