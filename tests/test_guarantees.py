"""docs/guarantees.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.findall(
    r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
)


def test_each_promise_names_a_test() -> None:
    rows = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8").splitlines()
    promises = [row for row in rows if row.startswith("| ") and not row.startswith("| promise")]
    assert len(promises) > 15
    assert all(re.search(r"`tests/[\w/]+\.py::\w+`", row) for row in promises)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_it_is_there(file: str, name: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^ *(def|class) {name}\b|^{name}\b", text, re.MULTILINE)
