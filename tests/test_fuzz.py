"""The fuzz targets, shortly: what was found before, and what Hypothesis thinks of. `make fuzz` searches with coverage."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent / "fuzz"
KEPT = sorted(path for folder in ("seeds", "cases") for path in (HERE / folder).glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}"[:60])
def test_what_was_found_before(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str) -> None:
    words = [
        line.partition('"')[2].rpartition('"')[0] for line in (HERE / "words.txt").read_text().splitlines()
    ]
    pieces = [word.encode().decode("unicode_escape").encode("latin-1", "replace") for word in words]
    pieces += [path.read_bytes() for path in (HERE / "seeds" / name).iterdir()]

    @given(
        st.lists(
            st.sampled_from(pieces) | st.binary(max_size=30) | st.text(max_size=20).map(str.encode),
            max_size=6,
        )
    )
    @settings(max_examples=50, deadline=None)
    def search(parts: list[bytes]) -> None:
        TARGETS[name](b"".join(parts))

    search()
