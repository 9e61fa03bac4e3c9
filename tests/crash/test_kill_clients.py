"""A client that is killed at any moment keeps its state, does nothing twice, and the next run carries on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crash.scenarios import CLIENTS


@pytest.mark.parametrize("scenario", [scenario.name for scenario in CLIENTS])
def test_killing_a_client_loses_nothing(stop: Callable[..., None], scenario: str) -> None:
    stop(scenario)


@pytest.mark.parametrize("scenario", [scenario.name for scenario in CLIENTS if scenario.s3])
def test_killing_a_client_of_a_bucket_loses_nothing(
    stop: Callable[..., None], scenario: str, s3_endpoint: str
) -> None:
    stop(scenario, endpoint=s3_endpoint, points=3, at_random=1)
