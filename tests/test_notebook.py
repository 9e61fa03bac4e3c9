"""What a notebook shows: tables, in which nothing that others wrote is anything but text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmmeta_core.export import ExportResult
from mmmeta_core.metadir import Metadir
from mmmeta_core.notebook import LONGEST, Shown, pairs, table
from mmmeta_core.sync.pull import PullResult
from mmmeta_core.update import UpdateResult
from mmmeta_core.verify import Finding, VerifyResult

EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>&lt;\x1b[2J\u202e</td>"


class Page(HTMLParser):
    """Whatever is in it; raises for what no table of ours is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.open: list[str] = []
        self.rows = 0
        self.feed(html)
        self.close()
        assert self.open == [], "each tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"b", "p", "table", "thead", "tbody", "tr", "th", "td"}
        assert [name for name, _ in attrs] == ["style"] * (tag in {"th", "td"})
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def shown(thing: Shown | object) -> Page:
    html: str = thing._repr_html_()  # type: ignore[attr-defined]
    return Page(html)


@pytest.fixture
def m(tmp_path: Path) -> Iterator[Metadir]:
    (tmp_path / "archive").mkdir()
    with Metadir(tmp_path / "<b>client", remote=tmp_path / "archive") as metadir:
        yield metadir


@given(st.text() | st.binary().map(repr), st.text())
def test_text_is_text_whatever_it_is(text: str, name: str) -> None:
    for page in (Page(pairs(text, {name: text, "list": [text]})), Page(table(text, [name], [[text]], text))):
        assert "\x1b" not in "".join(page.text)
    whole = "".join(Page(table("", ["name"], [["a <b> & 'c' \"d\" ü"]])).text)
    assert "a <b> & 'c' \"d\" ü" in whole


def test_documents_are_a_table_of_the_first_ones(m: Metadir) -> None:
    m.files.insert_many(
        {"content_hash": f"k{number:02}", **{f"c{n:02}": n for n in range(20)}} for number in range(30)
    )
    file = m.files.get("k00")
    assert file is not None
    file["imported"] = True
    file.save()
    page = shown(m.files)
    assert page.text[:3] == ["30 documents, the first 20", "content_hash", "c00"]
    assert (page.rows, page.text.count("content_hash")) == (21, 1)
    assert page.text[-1].startswith("further columns: c11, c12")
    assert "imported" in page.text[-1]
    assert len(m.files._repr_html_()) < 60_000


def test_a_document_is_all_that_is_known_of_it(m: Metadir) -> None:
    m.files.insert(content_hash="k", title="Lease", file_name="a.pdf", signed=True, tags=["x"], note=None)
    page = shown(m.files.find_one())
    assert page.text[:7] == ["a.pdf", "content_hash", "k", "file_name", "a.pdf", "signed", "true"]
    assert "note" not in page.text


def test_hostile_documents_and_columns_are_text(m: Metadir) -> None:
    m.files.insert(
        **{"content_hash": f"k{EVIL}", "title": EVIL, EVIL[:30]: [EVIL], "file_name": EVIL, "x": {EVIL: EVIL}}
    )
    for thing in (m, m.files, m.files.find_one(), m.inspect(), m.status()):
        text = "".join(shown(thing).text)
        assert not re.search("[\x1b\u202e]", text)
        assert "<script>" in text, "column names are there, as text"


def test_results_are_tables_too(m: Metadir) -> None:
    m.files.insert(content_hash="k", title="Lease")
    pushed = m.push()
    assert shown(pushed).text[:3] == ["PushResult", "revision", "1"]
    synced = shown(m.sync())
    assert {"SyncResult", "PullResult", "UpdateResult"} <= set(synced.text)
    assert shown(m.doctor()).text.count("ok") > 10
    assert "healthy" not in "".join(shown(m.poll()).text)
    for result in (PullResult, UpdateResult, VerifyResult, ExportResult):
        assert issubclass(result, Shown)
    findings = tuple(Finding(EVIL, EVIL, EVIL, "settings", EVIL) for _ in range(50))
    page = shown(VerifyResult(0, None, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, findings, 0.25))
    assert "and 30 more" in page.text
    assert "0.25" in page.text


def test_long_values_and_lists_are_cut() -> None:
    @dataclass(frozen=True)
    class Long(Shown):
        text: str
        many: tuple[str, ...]
        named: dict[str, int]

    page = shown(Long("x" * 9_999, ("y",) * 999, {f"n{number}": number for number in range(99)}))
    assert max(map(len, page.text)) <= LONGEST + 200
    assert page.text[2] == "x" * (LONGEST - 1) + "…"
    assert page.text[4].endswith(" and 979 more")
    assert page.text[6].endswith("n19: 19 and 79 more")


def test_what_is_not_there_or_damaged_is_said_and_not_raised(m: Metadir) -> None:
    assert shown(m).text[:3] == ["Metadir", "path", str(m.path)]
    assert not m.path.exists(), "looking makes nothing"
    m.files.insert(content_hash="k")
    m.close()
    m.paths.meta.write_bytes(b"no database " * 999)
    page = shown(m)
    assert "problem" in page.text
    assert "meta.db can't be used" in "".join(page.text)
