"""A full disk, a broken one, or no permission: one sentence that names the file, and the next run carries on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crash.runner import FAULTS, TROUBLES
from crash.scenarios import CLIENTS, PUBLISHERS

# A scenario's own are one after the other, for they share what was prepared.
TROUBLE = [
    pytest.param(scenario.name, how, id=f"{how} - {scenario.name}")
    for scenario in (*PUBLISHERS, *CLIENTS)
    for how in (*FAULTS, *TROUBLES)
]


@pytest.mark.parametrize(("scenario", "how"), TROUBLE)
def test_what_the_system_refuses_is_said_in_one_sentence(
    stop: Callable[..., None], scenario: str, how: str
) -> None:
    stop(scenario, how=how, points=how in TROUBLES, at_random=how in FAULTS, most=False)
