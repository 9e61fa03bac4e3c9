"""Ctrl-C and SIGTERM at any step of a command: one sentence, an exit code of its own, and the next run carries on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crash.scenarios import CLIENTS, PUBLISHERS

COMMANDS = [scenario.name for scenario in (*PUBLISHERS, *CLIENTS) if scenario.command]


@pytest.mark.parametrize("scenario", COMMANDS)
def test_a_command_that_is_interrupted_says_so_and_leaves_nothing_half_done(
    stop: Callable[..., None], scenario: str
) -> None:
    stop(scenario, how="SIGINT", points=2, at_random=0)
    stop(scenario, how="SIGTERM", points=0, at_random=1)
