"""Generate: what is on disk comes into the catalog, once, and one bad file never stops the others."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Scrape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmmeta_core import ConfigError, Metadir, RefusedError, mmmeta
from mmmeta_core.database.columns import PUBLISHED_BOOKKEEPING, STATE_BOOKKEEPING
from mmmeta_core.generate import GenerateResult


@pytest.fixture
def publisher(tmp_path: Path) -> Metadir:
    (tmp_path / "documents").mkdir()
    return mmmeta(tmp_path / "publisher", files_root=tmp_path / "documents")


def configure(publisher: Metadir, text: str) -> None:
    publisher.paths.root.mkdir(parents=True, exist_ok=True)
    publisher.paths.config.write_text(text, encoding="utf-8")


def settle(folder: Path) -> None:
    """Make all files old enough for their times to be trusted."""
    for path in folder.rglob("*"):
        os.utime(path, ns=(time.time_ns() - 3_600_000_000_000,) * 2, follow_symlinks=False)


def rows(publisher: Metadir, *, deleted: bool | None = False) -> dict[Any, dict[str, Any]]:
    """Return the documents by key, without bookkeeping and what was never set."""
    publisher.update()
    return {
        file.key: {n: v for n, v in file.items() if not n.startswith("__") and v is not None}
        for file in publisher.files.find(deleted=deleted)
    }


def counts(result: GenerateResult) -> dict[str, int]:
    return {
        name: value for name, value in vars(result).items() if value and name not in ("seconds", "pending")
    }


def test_documents_are_added_then_changed_then_left_alone(publisher: Metadir, scrape: Scrape) -> None:
    for name in ("a", "deep/er/b", "c"):
        scrape(name, title=name)
    assert counts(publisher.generate()) == {"added": 3, "read": 3}
    settle(publisher.files_root)
    assert counts(publisher.generate()) == {"unchanged": 3, "read": 3}
    assert counts(publisher.generate()) == {"unchanged": 3}
    scrape("a", title="other")
    scrape("d", title="d")
    assert counts(publisher.generate()) == {"added": 1, "updated": 1, "unchanged": 2, "read": 2}
    assert rows(publisher)["a"] == {"content_hash": "a", "title": "other"}
    assert len(publisher.files) == 4


def test_a_file_changed_within_the_clocks_tick_is_seen(publisher: Metadir, scrape: Scrape) -> None:
    path = scrape("a", title="one")
    publisher.generate()
    status = path.stat()
    with path.open("r+", encoding="utf-8") as file:  # same size, inode and time
        file.write(json.dumps({"title": "two", "content_hash": "a"}))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_ino == status.st_ino
    assert publisher.generate().updated == 1
    assert rows(publisher)["a"]["title"] == "two"


def test_a_key_that_left_the_file_is_emptied(publisher: Metadir, scrape: Scrape) -> None:
    scrape("a", title="x", pages=3)
    publisher.generate()
    scrape("a", title="x")
    assert publisher.generate().updated == 1
    assert rows(publisher)["a"] == {"content_hash": "a", "title": "x"}


def test_what_python_published_beside_the_file_stays(publisher: Metadir, scrape: Scrape) -> None:
    scrape("a", title="x")
    publisher.generate()
    publisher.update()
    publisher.files.upsert({"content_hash": "a", "language": "de"})
    scrape("a", title="y")
    publisher.generate()
    assert rows(publisher)["a"] == {"content_hash": "a", "title": "y", "language": "de"}


def test_a_renamed_file_stays_the_same_document(publisher: Metadir, scrape: Scrape) -> None:
    path = scrape("a", title="x")
    publisher.generate()
    path.rename(path.with_name("b.json"))
    result = publisher.generate(ensure=True)
    assert (result.added, result.updated, result.deleted) == (0, 0, 0)
    assert rows(publisher) == {"a": {"content_hash": "a", "title": "x"}}


def test_the_first_path_is_the_documents_and_the_next_takes_over(publisher: Metadir, scrape: Scrape) -> None:
    first = scrape("1", content_hash="same", title="first")
    scrape("2", content_hash="same", title="second")
    assert publisher.generate().duplicates == 1
    assert rows(publisher) == {"same": {"content_hash": "same", "title": "first"}}
    first.unlink()
    publisher.generate(ensure=True)
    assert rows(publisher) == {"same": {"content_hash": "same", "title": "second"}}


def test_a_file_that_changes_its_key_is_another_document(publisher: Metadir, scrape: Scrape) -> None:
    scrape("1", content_hash="old")
    scrape("2", content_hash="stays")
    publisher.generate()
    scrape("1", content_hash="new")
    assert publisher.generate(ensure=True).deleted == 1
    assert rows(publisher).keys() == {"new", "stays"}


INVALID: Mapping[str, tuple[bytes, str]] = {
    "cut": (b'{"content_hash": "x"', "not valid JSON"),
    "latin": ('{"content_hash": "é"}'.encode("latin-1"), "not UTF-8"),
    "list": (b'[{"content_hash": "x"}]', "JSON object at the top"),
    "keyless": (b'{"title": "x"}', "key 'content_hash' is missing"),
    "null": (b'{"content_hash": null}', "key 'content_hash' is null"),
    "array": (b'{"content_hash": ["x"]}', "not text or an integer"),
    "object": (b'{"content_hash": {"a": 1}}', "key 'content_hash' is missing"),
    "truth": (b'{"content_hash": true}', "not text or an integer"),
    "float": (b'{"content_hash": 1.5}', "not text or an integer"),
    "empty": (b'{"content_hash": ""}', "not text or an integer"),
    "deep": (b'{"content_hash": "x", "a":' * 40 + b"1" + b"}" * 40, "nested deeper"),
}


def test_invalid_files_are_named_with_the_reason_and_the_rest_goes_on(
    publisher: Metadir, scrape: Scrape, caplog: pytest.LogCaptureFixture
) -> None:
    for name, (data, _) in INVALID.items():
        (publisher.files_root / f"{name}.json").write_bytes(data)
    scrape("good")
    with caplog.at_level(logging.WARNING, "mmmeta_core"):
        result = publisher.generate()
    assert (result.added, result.invalid) == (1, len(INVALID))
    reported = dict(publisher.invalid())
    assert reported.keys() == {f"{name}.json" for name in INVALID}
    for name, (_, reason) in INVALID.items():
        assert reason in reported[f"{name}.json"]
        assert f"invalid: {name}.json: {reported[f'{name}.json']}" in caplog.text
    assert publisher.generate().invalid == len(INVALID)
    assert publisher.inspect().invalid == len(INVALID)
    (publisher.files_root / "cut.json").write_bytes(b'{"content_hash": "mended"}')
    (publisher.files_root / "list.json").unlink()
    result = publisher.generate()
    assert (result.added, result.invalid) == (1, len(INVALID) - 2)


def test_a_document_whose_file_became_invalid_stays(publisher: Metadir, scrape: Scrape) -> None:
    path = scrape("a", title="x")
    scrape("b")
    publisher.generate()
    path.write_text("{", encoding="utf-8")
    result = publisher.generate(ensure=True)
    assert (result.invalid, result.deleted) == (1, 0)
    assert rows(publisher)["a"]["title"] == "x"
    path.unlink()
    assert publisher.generate(ensure=True).deleted == 1


def test_links_out_of_the_tree_and_the_metadir_itself_are_not_read(tmp_path: Path, scrape: Scrape) -> None:
    scrape("in")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text('{"content_hash": "secret"}', encoding="utf-8")
    root = tmp_path / "documents"
    (root / "file.json").symlink_to(outside / "secret.json")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    publisher = mmmeta(root, files_root=root)
    publisher.generate()
    publisher.push()
    (root / "_mmmeta" / "planted.json").write_text('{"content_hash": "planted"}', encoding="utf-8")
    publisher.generate()
    assert rows(publisher).keys() == {"in"}


def test_ensure_deletes_softly_and_restores(publisher: Metadir, scrape: Scrape) -> None:
    paths = {name: scrape(name, title=name) for name in "abc"}
    publisher.generate()
    paths["a"].unlink()
    assert publisher.generate().deleted == 0
    assert counts(publisher.generate(ensure=True))["deleted"] == 1
    assert publisher.generate(ensure=True).deleted == 0
    assert rows(publisher).keys() == {"b", "c"}
    gone = publisher.files.find_one(deleted=True)
    assert gone is not None
    assert gone["__deleted_reason"] == "metadata file is gone"
    scrape("a", title="a")
    assert counts(publisher.generate())["restored"] == 1
    assert rows(publisher).keys() == {"a", "b", "c"}


def test_ensure_files_follows_the_documents(publisher: Metadir, scrape: Scrape) -> None:
    for name in "abc":
        scrape(f"sub/{name}", file_name=f"{name}.pdf")
        (publisher.files_root / "sub" / f"{name}.pdf").write_bytes(b"pdf")
    scrape("nameless")
    publisher.generate()
    document = publisher.files_root / "sub" / "a.pdf"
    document.rename(document.with_suffix(".away"))
    assert publisher.generate(ensure_files=True).deleted == 1
    assert rows(publisher).keys() == {"sub/b", "sub/c", "nameless"}
    document.with_suffix(".away").rename(document)
    assert publisher.generate(ensure_files=True).restored == 1
    assert len(rows(publisher)) == 4


@pytest.mark.parametrize(("option", "suffix"), [("ensure", "json"), ("ensure_files", "pdf")])
def test_more_than_half_is_not_deleted_without_force(
    publisher: Metadir, scrape: Scrape, option: str, suffix: str
) -> None:
    for name in "abc":
        scrape(name, file_name=f"{name}.pdf")
        (publisher.files_root / f"{name}.pdf").write_bytes(b"pdf")
    publisher.generate()
    for name in "ab":
        (publisher.files_root / f"{name}.{suffix}").unlink()
    scrape("c", file_name="c.pdf", title="taken in all the same")
    with pytest.raises(RefusedError, match=r"2 of 3 documents would be deleted .*--force"):
        publisher.generate(**{option: True})
    found = rows(publisher)
    assert found.keys() == {"a", "b", "c"}
    assert found["c"]["title"] == "taken in all the same"
    assert publisher.generate(**{option: True}, force=True).deleted == 2
    assert rows(publisher).keys() == {"c"}


def test_only_the_newest_files_are_here_and_what_is_published_stays(
    publisher: Metadir, scrape: Scrape
) -> None:
    scrape("old", title="published long ago")
    publisher.generate()
    publisher.push()
    shutil.rmtree(publisher.files_root)
    scrape("new")
    assert counts(publisher.generate()) == {"added": 1, "read": 1}
    publisher.push()
    assert rows(publisher).keys() == {"old", "new"}


def test_without_metadata_the_files_themselves_are_cataloged(publisher: Metadir) -> None:
    (publisher.files_root / "sub").mkdir()
    for name in ("a.pdf", "sub/ü.pdf"):
        (publisher.files_root / name).write_bytes(name.encode())
    assert publisher.generate(no_meta=True).added == 2
    settle(publisher.files_root)
    publisher.generate(no_meta=True)
    assert publisher.generate(no_meta=True).read == 0
    found = rows(publisher)[hashlib.sha1("sub/ü.pdf".encode(), usedforsecurity=False).hexdigest()]
    modified = found.pop("modified_at")
    assert modified.tzinfo is not None
    assert found == {
        "content_hash": hashlib.sha1("sub/ü.pdf".encode(), usedforsecurity=False).hexdigest(),
        "name": "ü.pdf",
        "path": "sub/ü.pdf",
        "file_name": "sub/ü.pdf",
        "size": len("sub/ü.pdf".encode()),
    }


def test_replace_starts_over_and_the_clients_state_stays(publisher: Metadir, scrape: Scrape) -> None:
    gone = scrape("gone")
    scrape("kept", title="x", old=1)
    scrape("more")
    publisher.generate()
    publisher.update()
    kept = publisher.files.find_one(content_hash="kept")
    assert kept is not None
    kept["imported"] = True
    kept.save()
    publisher.files.upsert({"content_hash": "kept", "by_hand": 1})
    gone.unlink()
    scrape("kept", title="x")
    result = publisher.generate(replace=True)
    assert (result.deleted, result.updated) == (1, 1)
    assert rows(publisher) == {
        "kept": {"content_hash": "kept", "title": "x", "imported": True},
        "more": {"content_hash": "more"},
    }


def test_settings_decide_what_is_taken(publisher: Metadir, scrape: Scrape) -> None:
    configure(
        publisher,
        "metadata:\n  unique: id\n  include: [title, 'publisher:name', pages, at]\n  required: [title]\n"
        "  types: {pages: integer, at: datetime}\n",
    )
    scrape("a", id="1", title="x", secret=1, publisher={"name": "n", "tax": 1}, pages="7", at="2026-01-02")
    scrape("b", id="2")
    result = publisher.generate()
    assert (result.added, result.invalid) == (1, 1)
    assert dict(publisher.invalid()) == {"b.json": "required key is missing: title"}
    (found,) = rows(publisher).values()
    assert found.pop("at").isoformat() == "2026-01-02T00:00:00+00:00"
    assert found == {"id": "1", "title": "x", "publisher:name": "n", "pages": 7}
    configure(publisher, "metadata: {unique: id}\n")
    assert publisher.generate().invalid == 0, "other settings: every file is read again"
    assert rows(publisher)["1"]["secret"] == 1


def test_a_root_that_is_no_folder_is_one_clear_error(tmp_path: Path) -> None:
    publisher = mmmeta(tmp_path / "publisher", files_root=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"nowhere is not a folder: give the one that holds"):
        publisher.generate()
    assert not publisher.paths.root.exists()


def test_a_column_too_many_and_a_value_of_another_kind_are_kept(publisher: Metadir, scrape: Scrape) -> None:
    configure(publisher, "metadata: {max_columns: 3}\n")
    scrape("a", flag=True, **{f"c{n}": n for n in range(5)})
    scrape("b", flag="perhaps")
    result = publisher.generate()
    assert (result.added, result.invalid) == (2, 0)
    assert result.rescued == 4
    assert rows(publisher) == {
        "a": {"content_hash": "a", "flag": True, **{f"c{n}": n for n in range(5)}},
        "b": {"content_hash": "b", "flag": "perhaps"},
    }


# --- values: file → catalog → log → another machine's catalog → state

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=":"), max_size=12)
DOCUMENTS = st.lists(st.dictionaries(NAMES, VALUES, max_size=5), min_size=1, max_size=4)


@given(documents=DOCUMENTS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_json_says_comes_out_at_the_client(
    tmp_path_factory: pytest.TempPathFactory, documents: list[dict[str, Any]]
) -> None:
    base = tmp_path_factory.mktemp("values")
    (base / "remote").mkdir()
    for number, document in enumerate(documents):
        text = json.dumps({**document, "content_hash": f"key-{number}"}, ensure_ascii=False)
        (base / f"{number}.json").write_text(text, encoding="utf-8")
    with mmmeta(base / "publisher", files_root=base, remote=base / "remote") as publisher:
        publisher.generate()
        assert publisher.invalid() == []
        publisher.push()
    with mmmeta(base / "client", remote=base / "remote") as client:
        client.sync()
        for number, document in enumerate(documents):
            found = client.files.get(f"key-{number}")
            assert found is not None
            ours = {name: value for name, value in flat(document).items() if not bookkeeping(name)}
            theirs = {name: value for name, value in found.items() if not bookkeeping(name)}
            assert exact(named(ours)) == exact({n: v for n, v in theirs.items() if v is not None})


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{key}:")
        else:
            result[prefix + key] = value
    return result


def bookkeeping(name: str) -> bool:
    return name in {"content_hash", *PUBLISHED_BOOKKEEPING, *STATE_BOOKKEEPING}


def named(document: Mapping[str, Any]) -> list[Any]:
    return [value for value in document.values() if value is not None]


def exact(values: Any) -> Any:
    """Return values so that 1, 1.0 and True differ, in whatever order and under whatever name they are kept."""
    found = values.values() if isinstance(values, dict) else values
    return sorted(json.dumps(value, sort_keys=True) for value in found)
