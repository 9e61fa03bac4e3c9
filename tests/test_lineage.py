"""Which history a catalog is of: told from the digests that it has and those that a state has merged."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import orjson
import pytest

from mmmeta_core.database import lineage
from mmmeta_core.database.catalog import Catalog, Position, apply, open_catalog
from mmmeta_core.database.lineage import Relation, catalog_digests, merged_position, past_after, relation


def history(name: str, shared: int, revision: int) -> dict[int, str]:
    return {at: f"both {at}" if at <= shared else f"{name} {at}" for at in range(1, revision + 1)}


def expected(shared: int, merged: int, revision: int, begin: int) -> Relation:
    if revision < merged:
        return "behind" if revision <= shared else "other"
    if merged < begin:
        return "unproven"
    return "onward" if merged <= shared or merged == 0 else "other"


@pytest.mark.parametrize("shared", range(4))
def test_histories_are_told_apart_where_they_part(shared: int) -> None:
    """Of all that a state has merged, a catalog may have come to, and may have begun with."""
    for merged, revision in product(range(1, 5), repeat=2):
        known = {
            "revision": str(merged),
            "past": past_after({}, history("mine", shared, merged), "onward"),
        }
        for begin in range(1, revision + 1):
            theirs = {at: digest for at, digest in history("theirs", shared, revision).items() if at >= begin}
            told = relation(known, theirs, revision)
            assert told == expected(shared, merged, revision, begin), (merged, revision, begin)


def test_what_was_not_noted_is_told_by_numbers() -> None:
    theirs = history("theirs", 0, 3)
    for known in (
        {"revision": "2"},
        {"revision": "2", "past": '{"1": "mine 1"}'},
    ):  # an older version went on
        assert relation(known, theirs, 3) == "onward"
    assert relation({"revision": "5"}, theirs, 3) == "behind"
    assert relation({}, theirs, 3) == "onward"
    assert relation({}, {}, 0) == "onward"


def digests_of(catalog: Catalog) -> dict[int, str]:
    info = dict(catalog.connection.execute("SELECT key, value FROM mmmeta_info"))
    return catalog_digests(catalog.connection, info)


def test_a_catalog_notes_what_it_has_come_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MOST", 3)
    with open_catalog(tmp_path / "meta.db", "key") as catalog:
        assert digests_of(catalog) == {}
        for revision in range(1, 8):
            apply(catalog, Position("a", revision, f"{revision}" * 64, 0), {}, [], {})
        digests = digests_of(catalog)
        assert digests == {at: f"{at}" * 16 for at in (4, 5, 6, 7)}
        catalog.forget_private()
        assert digests_of(catalog) == {7: "7" * 16}
    known = {"archive": "a", "revision": 5, "past": past_after({}, {3: "c", 4: "d", 5: "e"}, "onward")}
    assert merged_position(known) == "a 5 e"
    assert orjson.loads(past_after(known, {5: "e", 6: "f"}, "onward")) == {"4": "d", "5": "e", "6": "f"}
    assert orjson.loads(past_after(known, {5: "x", 6: "y"}, "other")) == {"5": "x", "6": "y"}
