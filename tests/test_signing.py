"""Signatures: what trusted keys have not signed is refused, whatever was done to it, and nothing is changed by it."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from remotes.static import serving
from test_sync import Tapped

from mmmeta_core import (
    CatalogError,
    ConfigError,
    LogError,
    RefusedError,
    RemoteUnreachableError,
    SignatureError,
    mmmeta,
)
from mmmeta_core.head import parse_head
from mmmeta_core.paths import remote_name
from mmmeta_core.remotes import Remote, open_remote
from mmmeta_core.signing import (
    HEAD,
    SEGMENT,
    Signer,
    Trust,
    head_digest,
    keygen,
    load_signer,
    load_trust,
    segment_flaw,
)

on_folder = pytest.mark.parametrize("remote_url", ["folder"], indirect=True)
HEAD_NAME = "_mmmeta/head.json"


@dataclass(frozen=True)
class Key:
    path: Path
    line: str

    @property
    def signer(self) -> Signer:
        with environment(signs=self):
            signer = load_signer()
        assert signer is not None
        return signer


@contextmanager
def environment(*, signs: Key | None = None, trusts: str | None = None) -> Iterator[None]:
    """Be somebody with these settings for the block."""
    names = {
        "MMMETA_SIGNING_KEY": str(signs.path) if signs else None,
        "MMMETA_TRUSTED_KEYS": trusts,
    }
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update({name: value for name, value in names.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def make_key(folder: Path, name: str) -> Key:
    return Key(folder / name, keygen(folder / name))


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path, "key")


@pytest.fixture
def other(tmp_path: Path) -> Key:
    return make_key(tmp_path, "other")


@dataclass
class Place:
    """An archive, and the metadirs of those who write and read it."""

    base: Path
    url: str

    @property
    def remote(self) -> Remote:
        return open_remote(self.url)

    def publish(
        self, signs: Key | None, *keys: str, name: str = "publisher", trusts: str | None = None, **values: Any
    ) -> int:
        """Publish documents; return the revision. A new publisher without trust takes what is there, whoever signed it."""
        if trusts is None and name != "publisher" and not (self.base / name).exists():
            self.follow(None, name)
        with environment(signs=signs, trusts=trusts), mmmeta(self.base / name, remote=self.url) as m:
            m.pull()
            m.files.upsert_many([{"content_hash": one, **values} for one in keys], ["content_hash"])
            return m.push().revision

    def follow(self, trusts: str | None, name: str = "client") -> dict[str, Any]:
        """Pull and update; return the titles."""
        with environment(trusts=trusts), mmmeta(self.base / name, remote=self.url) as m:
            m.sync()
            return {file["content_hash"]: file.get("title") for file in m.files.find()}

    def refuses(self, trusts: str, name: str = "client", kind: type[LogError] = SignatureError) -> str:
        """Return why a client refuses, and see that nothing of it has changed."""
        before = shown(self.base / name)
        with environment(trusts=trusts), mmmeta(self.base / name, remote=self.url) as m:
            with pytest.raises(LogError) as caught:
                m.sync()
            assert caught.type is kind
        assert shown(self.base / name) == before
        return str(caught.value)

    def read(self, name: str) -> bytes:
        blob = self.remote.read(name)
        assert blob is not None
        return blob.data

    def lines(self, revision: int) -> list[bytes]:
        return gzip.decompress(self.read(segment(revision))).splitlines(keepends=True)

    def write(self, revision: int, lines: list[bytes]) -> None:
        self.remote.write(segment(revision), gzip.compress(b"".join(lines)))

    def head(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.read(HEAD_NAME))
        return found


def segment(revision: int) -> str:
    return f"_mmmeta/log/{revision:020d}.jsonl.gz"


def shown(metadir: Path) -> dict[str, Any]:
    """What a metadir shows: the text of its databases and of its other files."""
    found: dict[str, Any] = {}
    for path in sorted((metadir / "_mmmeta").rglob("*")):
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as connection:
                found[path.name] = list(connection.iterdump())
        elif path.is_file() and path.name not in (".lock", "state.db-wal", "state.db-shm"):
            found[path.name] = path.read_bytes()
    return found


@pytest.fixture
def place(tmp_path: Path, remote_url: str) -> Place:
    return Place(tmp_path, remote_url)


# --- what is signed


def test_what_is_signed_arrives_at_those_who_trust_it_and_at_all_others(place: Place, key: Key) -> None:
    for number, name in enumerate("abc", 1):
        assert place.publish(key, name, title=name.upper()) == number
    assert place.follow(key.line) == {"a": "A", "b": "B", "c": "C"}
    assert place.follow(None, "careless") == {"a": "A", "b": "B", "c": "C"}
    place.publish(key, "a", title="AA")
    assert place.follow(key.line)["a"] == "AA"
    assert place.follow(None, "careless")["a"] == "AA"
    assert place.follow(key.line, "careless")["a"] == "AA", "there is nothing new, but all is to be verified"


def test_nothing_of_a_publisher_without_a_key_is_taken(place: Place, key: Key) -> None:
    place.publish(key, "a")
    place.follow(key.line)
    place.publish(None, "b", name="stranger")
    said = place.refuses(key.line)
    assert "head.json is not signed, but MMMETA_TRUSTED_KEYS says whom to trust; nothing was changed" in said
    place.remote.remove(HEAD_NAME)
    said = place.refuses(key.line)
    assert f"{segment(2)} is not signed" in said
    with environment(trusts=key.line), mmmeta(place.base / "new", remote=place.url) as m:
        with pytest.raises(SignatureError, match=r"000000002\.jsonl\.gz is not signed"):
            m.pull()
        assert m.revision == 1


def test_an_archive_over_https_is_checked_too(tmp_path: Path, key: Key, other: Key) -> None:
    (tmp_path / "remote").mkdir()
    folder = Place(tmp_path, str(tmp_path / "remote"))
    folder.publish(key, "a", title="A")
    with serving(tmp_path / "remote") as site:
        web = Place(tmp_path, site.url)
        assert web.follow(key.line) == {"a": "A"}
        folder.publish(other, "b", name="stranger")
        assert f"is signed with the key {other.signer.key}, which" in web.refuses(key.line)


values = st.dictionaries(
    st.text(), st.integers(-(2**53), 2**53) | st.text() | st.none() | st.dictionaries(st.text(), st.text())
)


@settings(deadline=None, max_examples=60)
@given(values)
def test_the_canonical_form_is_what_the_format_says(content: dict[str, Any]) -> None:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert head_digest(content) == hashlib.sha256(text.encode()).digest()


# --- tampering


@on_folder
def test_a_line_of_a_segment_that_was_changed_is_noticed(place: Place, key: Key) -> None:
    place.publish(key, "a", title="A")
    place.follow(key.line)
    place.publish(key, "b", "c", title="B")
    lines = place.lines(2)
    assert len(lines) == 5
    changed: dict[str, list[bytes]] = {"twice": [*lines, lines[-1]], "reversed": [*reversed(lines)]}
    for number in range(5):
        rest = lines[:number], lines[number + 1 :]
        changed[f"without {number}"] = [*rest[0], *rest[1]]
        changed[f"{number} twice"] = [*rest[0], lines[number], lines[number], *rest[1]]
        changed[f"a space in {number}"] = [*rest[0], lines[number].replace(b":", b": ", 1), *rest[1]]
        changed[f"another letter in {number}"] = [*rest[0], other_letter(lines[number]), *rest[1]]
    harmless = {"a space in 4"}  # the signature says the same as before
    for what, those in changed.items():
        place.write(2, those)
        if what in harmless:
            continue
        with_head(place)
        assert segment(2) in place.refuses(key.line), what
    place.write(2, lines)
    place.remote.remove(HEAD_NAME)
    assert set(place.follow(key.line)) == {"a", "b", "c"}


def other_letter(line: bytes) -> bytes:
    at = line.index(b'":"') + 3 if b'":"' in line else line.index(b":") + 1
    return line[:at] + (b"7" if line[at : at + 1] != b"7" else b"8") + line[at + 1 :]


def with_head(place: Place) -> None:
    """Nobody's head tells what the segment is to be: only its signature is left."""
    place.remote.remove(HEAD_NAME)


@on_folder
def test_who_trusts_all_refuses_what_comes_after_the_end_and_is_no_signature(place: Place, key: Key) -> None:
    place.publish(key, "a")
    lines = place.lines(1)
    with_head(place)
    for after in (
        [lines[-1], lines[-1]],
        [lines[-1], b"\n"],
        [b"{}\n"],
        [b"1\n"],
        [lines[0]],
        [lines[-1][:-1]],
    ):
        place.write(1, [*lines[:-1], *after])
        with mmmeta(place.base / "careless", remote=place.url) as m:
            with pytest.raises(LogError, match=r"000001\.jsonl\.gz can't be read"):
                m.pull()
            assert m.revision == 0
    place.write(1, lines[:-1])
    assert set(place.follow(None, "careless")) == {"a"}


@on_folder
def test_no_byte_of_a_segment_can_be_changed(place: Place, key: Key, tmp_path: Path) -> None:
    place.publish(key, "a", title="A")
    content, path = gzip.decompress(place.read(segment(1))), tmp_path / "changed"
    trust = Trust(load(key.line).keys, "the test")
    (tmp_path / "whole").write_bytes(gzip.compress(content))
    trust.check_segment(tmp_path / "whole", "it")
    end = content.rindex(b"\n", 0, -1) + 1
    for at in range(end):
        path.write_bytes(gzip.compress(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], 1))
        with pytest.raises(SignatureError):
            trust.check_segment(path, "it")


def load(line: str) -> Trust:
    with environment(trusts=line):
        trust = load_trust(Path("nowhere"))
    assert trust is not None
    return trust


def test_a_stripped_signature_is_noticed(place: Place, key: Key) -> None:
    place.publish(key, "a")
    place.follow(key.line)
    place.publish(key, "b")
    place.write(2, place.lines(2)[:-1])
    assert f"{segment(2)} is not signed" in place.refuses(key.line)
    head = place.head()
    del head["signature"]
    place.remote.write(HEAD_NAME, orjson.dumps(head))
    assert "head.json is not signed" in place.refuses(key.line)


def test_another_key_is_named(place: Place, key: Key, other: Key) -> None:
    place.publish(key, "a")
    place.follow(key.line)
    place.publish(other, "b", name="stranger")
    assert (
        f"head.json is signed with the key {other.signer.key}, which MMMETA_TRUSTED_KEYS does not trust"
        in (place.refuses(key.line))
    )
    with_head(place)
    said = place.refuses(key.line)
    assert (
        f"{segment(2)} is signed with the key {other.signer.key}, which MMMETA_TRUSTED_KEYS does not trust"
        in said
    )
    lines = place.lines(2)
    claim = orjson.loads(lines[-1]) | {"key": key.signer.key}
    place.write(2, [*lines[:-1], orjson.dumps(claim) + b"\n"])
    said = place.refuses(key.line)
    assert f"{segment(2)} has a signature that is not of the key {key.signer.key} that it names" in said
    with environment(trusts=key.line), mmmeta(place.base / "client", remote=place.url) as m:
        with pytest.raises(SignatureError) as caught:
            m.pull()
        assert caught.value.forged


@on_folder
def test_segments_can_not_change_places_or_archives(place: Place, key: Key, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Place(tmp_path, str(tmp_path / "elsewhere"))
    for name in "abc":
        place.publish(key, name)
        elsewhere.publish(key, name, name="elsewhere-publisher", title="other")
    with environment(trusts=key.line), mmmeta(tmp_path / "client", remote=place.url) as m:
        second, third = place.read(segment(2)), place.read(segment(3))
        place.remote.remove(segment(2))
        place.remote.remove(segment(3))
        with_head(place)
        m.sync()
        assert m.revision == 1
    for wrong, said in (
        (third, "says revision 3, expected 2"),
        (elsewhere.read(segment(2)), "belongs to another archive"),
        (place.read(segment(1)), "says revision 1, expected 2"),
    ):
        place.remote.write(segment(2), wrong)
        assert said in place.refuses(key.line, kind=LogError)
    mixed = [*gzip.decompress(second).splitlines(keepends=True)[:-1], place.lines(1)[-1]]
    place.write(2, mixed)
    assert "has a signature that is not of the key" in place.refuses(key.line)
    mixed = gzip.decompress(second).splitlines(keepends=True)
    first = gzip.decompress(elsewhere.read(segment(2))).splitlines(keepends=True)[0]
    place.write(2, [first, *mixed[1:]])
    assert "has a signature that is not of the key" in place.refuses(key.line)


@on_folder
def test_each_field_of_a_head_is_signed(place: Place, key: Key) -> None:
    place.publish(key, "a", title="A")
    head = place.head()
    evil: dict[str, Any] = {
        "archive": "f" * 32,
        "revision": 7,
        "unique": "other",
        "digest": "0" * 64,
        "log_bytes": 10**9,
        "store": {"evil": "1"},
        "config": "remote: {url: 'https://evil.example/{file_name}'}\n",
        "writer": "7.3.0",
        "more": 1,
    }
    evil |= {"snapshot": head["snapshot"] | {"sha256": "0" * 64}}
    for name, value in evil.items():
        place.remote.write(HEAD_NAME, orjson.dumps(head | {name: value}))
        assert f"head.json has a signature that is not of the key {key.signer.key}" in place.refuses(
            key.line
        ), name
        assert not (place.base / "client" / "_mmmeta" / "config.yml").exists()
    for name in head.keys() - {"format", "signature", "archive", "revision", "unique", "digest", "log_bytes"}:
        place.remote.write(HEAD_NAME, orjson.dumps({k: v for k, v in head.items() if k != name}))
        assert "head.json has a signature that is not" in place.refuses(key.line), name
    for signature in (
        1,
        "x",
        {},
        {"signature": "x", "key": "y"},
        head["signature"] | {"signature": "QQ=="},
        [None],
    ):
        place.remote.write(HEAD_NAME, orjson.dumps(head | {"signature": signature}))
        assert "head.json has no signature that could be" in place.refuses(key.line)
    place.remote.write(HEAD_NAME, orjson.dumps(head))
    assert place.follow(key.line) == {"a": "A"}


@on_folder
def test_a_signature_of_a_segment_is_none_of_a_head(place: Place, key: Key) -> None:
    place.publish(key, "a")
    head = {k: v for k, v in place.head().items() if k != "signature"}
    wrong = key.signer.sign(SEGMENT, head_digest(head)).to_json()
    place.remote.write(HEAD_NAME, orjson.dumps(head | {"signature": wrong}))
    assert "has a signature that is not of the key" in place.refuses(key.line)
    right = key.signer.sign(HEAD, head_digest(head)).to_json()
    place.remote.write(HEAD_NAME, orjson.dumps(head | {"signature": right}))
    assert set(place.follow(key.line)) == {"a"}


def test_an_old_head_holds_back_but_changes_nothing(place: Place, key: Key) -> None:
    place.publish(key, "a", title="A")
    old = place.read(HEAD_NAME)
    place.publish(key, "a", title="AA")
    assert place.follow(key.line) == {"a": "AA"}
    place.remote.write(HEAD_NAME, old)
    assert place.follow(key.line) == {"a": "AA"}, "nobody goes back"
    assert place.follow(key.line, "new") == {"a": "AA"}, "the log is looked at past the head"
    third = place.publish(key, "b")
    assert (third, place.head()["revision"]) == (3, 3)
    assert set(place.follow(key.line)) == {"a", "b"}


@on_folder
def test_a_snapshot_that_was_replaced_is_not_taken(place: Place, key: Key, tmp_path: Path) -> None:
    place.publish(key, "a", title="A" * 60000)
    for _ in range(3):
        place.publish(key, "a", title=os.urandom(20000).hex())
    snapshot = tmp_path / "remote" / "_mmmeta" / "meta.db"
    with closing(sqlite3.connect(snapshot)) as connection:
        connection.execute("UPDATE files SET title = 'evil'")
        connection.commit()
    with environment(trusts=key.line), mmmeta(tmp_path / "client", remote=place.url) as m:
        result = m.pull()
        assert (result.snapshot, result.segments) == (False, 4), "the log is read instead"
        m.update()
        assert m.files.find_one(title="evil") is None
    head = place.head()
    data = snapshot.read_bytes()
    head["snapshot"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    place.remote.write(HEAD_NAME, orjson.dumps(head))
    assert "has a signature that is not of the key" in place.refuses(key.line, "new")


@on_folder
def test_a_segment_that_was_forged_is_not_passed_over_for_a_snapshot(place: Place, key: Key) -> None:
    place.publish(key, "a")
    place.follow(key.line)
    place.publish(key, "b", title=os.urandom(20000).hex())
    assert place.head()["snapshot"]["revision"] == 2
    place.write(2, [line.replace(b'"b"', b'"x"') for line in place.lines(2)])
    assert f"{segment(2)} has a signature that is not of the key" in place.refuses(key.line)


@on_folder
def test_a_head_that_is_read_again_is_checked_again(place: Place, key: Key) -> None:
    for _ in range(5):
        place.publish(key, "a", title=os.urandom(20000).hex())
    place.publish(None, "a", name="stranger", title="evil")
    evil = place.read("_mmmeta/meta.db")
    snapshot = {
        "revision": 5,
        "size": len(evil) + 1,
        "sha256": hashlib.sha256(evil + b"\0").hexdigest(),
        "log_bytes": 1,
    }
    head = {k: v for k, v in place.head().items() if k != "signature"} | {"snapshot": snapshot}
    good = head | {"snapshot": snapshot | {"sha256": "0" * 64}, "log_bytes": 10**9}
    good["snapshot"]["log_bytes"] = 10**9
    signature = key.signer.sign(HEAD, head_digest(good)).to_json()
    place.remote.write(HEAD_NAME, orjson.dumps(good | {"signature": signature}))

    remote = Tapped(place.remote)

    def swap(request: tuple[str, str]) -> None:
        if request == ("stat", "_mmmeta/meta.db"):
            place.remote.write(HEAD_NAME, orjson.dumps(head))

    remote.before = swap
    with environment(trusts=key.line), mmmeta(place.base / "client", remote=remote) as m:
        with pytest.raises(SignatureError, match=r"head\.json is not signed"):
            m.pull()
        assert m.revision == 0


# --- before and after


def test_an_archive_that_was_not_signed_is_from_now_on(place: Place, key: Key) -> None:
    place.publish(None, "a", title="A")
    place.publish(None, "b", title="B")
    assert place.follow(None, "early") == {"a": "A", "b": "B"}
    assert "head.json is not signed" in place.refuses(key.line)
    with environment(signs=key), mmmeta(place.base / "publisher", remote=place.url) as m:
        assert not m.push().published, "what is there is signed: the head, and a snapshot that it names"
    assert place.head()["signature"]["key"] == key.signer.key
    assert place.follow(key.line) == {"a": "A", "b": "B"}
    place.publish(key, "c", title="C")
    for name in ("client", "new", "early"):
        assert place.follow(key.line, name) == {"a": "A", "b": "B", "c": "C"}


@on_folder
def test_a_first_signed_push_that_is_cut_off_before_the_head_goes_on(place: Place, key: Key) -> None:
    place.publish(None, "a", title="A")
    broken = Tapped(place.remote, breaks=lambda request: request == ("write", HEAD_NAME))
    with environment(signs=key), mmmeta(place.base / "publisher", remote=broken) as m:
        m.files.insert(content_hash="b", title="B")
        with pytest.raises(RemoteUnreachableError):
            m.push()
    assert "signature" not in place.head()
    with environment(signs=key), mmmeta(place.base / "publisher", remote=place.url) as m:
        assert (m.push().published, m.revision) == (False, 2)
    assert place.follow(key.line) == {"a": "A", "b": "B"}


@on_folder
def test_what_a_client_took_before_it_trusted_keys_is_taken_anew(place: Place, key: Key) -> None:
    place.publish(None, "a", title="A")
    shutil.copytree(place.base / "remote", place.base / "kept")
    place.write(1, [line.replace(b'"A"', b'"evil"') for line in place.lines(1)])
    with_head(place)
    with mmmeta(place.base / "client", remote=place.url) as m:
        m.sync()
        (file,) = m.files.find(title="evil")
        file["imported"] = True
        file.save()
    shutil.rmtree(place.base / "remote")
    shutil.move(place.base / "kept", place.base / "remote")
    place.publish(key, "b", title="B")
    with environment(trusts=key.line), mmmeta(place.base / "client", remote=place.url) as m:
        with pytest.raises(SignatureError, match="pull first"):
            m.update()
        with pytest.raises(SignatureError, match="pull first"):
            m.files.insert(content_hash="c")
        assert m.pull().snapshot
        m.update()
        assert {f["content_hash"]: (f["title"], f.get("imported")) for f in m.files.find()} == {
            "a": ("A", True),
            "b": ("B", None),
        }


@on_folder
def test_a_snapshot_without_signature_has_no_say_in_what_is_trusted(place: Place) -> None:
    place.publish(None, "a", title="A")
    for _ in range(3):
        place.publish(None, "a", title=os.urandom(20000).hex())
    snapshot, head = place.base / "remote" / "_mmmeta" / "meta.db", place.head()
    revision = head["snapshot"]["revision"]
    with closing(sqlite3.connect(snapshot)) as connection:
        ((digest,),) = connection.execute("SELECT value FROM mmmeta_info WHERE key = 'digest'").fetchall()
        connection.execute("CREATE TABLE mmmeta_local (key TEXT PRIMARY KEY, value) WITHOUT ROWID")
        connection.execute("CREATE TABLE mmmeta_pending (key PRIMARY KEY, base TEXT)")
        connection.execute("INSERT INTO mmmeta_local VALUES ('verified', ?), ('signs', '1')", (digest,))
        connection.execute("INSERT INTO mmmeta_pending VALUES ('a', NULL)")
        connection.commit()
    data = snapshot.read_bytes()
    head["snapshot"] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    head["log_bytes"] = head["snapshot"]["log_bytes"] = 10**9
    head["revision"] = revision
    place.remote.write(HEAD_NAME, orjson.dumps(head))
    for number in range(revision + 1, 5):
        place.remote.remove(segment(number))
    with mmmeta(place.base / "client", remote=place.url) as m:
        with pytest.raises(CatalogError, match="has a table 'mmmeta_"):
            m.pull()
        assert not m.paths.meta.exists()


@on_folder
def test_several_publishers_sign_with_keys_of_their_own(place: Place, key: Key, other: Key) -> None:
    both = f"{key.line}, {other.line}"
    place.publish(key, "a", trusts=both)
    place.publish(other, "b", trusts=both, name="second")
    place.publish(key, "c", trusts=both)
    assert set(place.follow(both)) == {"a", "b", "c"}
    with environment(trusts=key.line), mmmeta(place.base / "half", remote=place.url) as m:
        with pytest.raises(SignatureError, match=f"is signed with the key {other.signer.key}, which"):
            m.pull()
        assert m.revision == 1
    with (
        environment(signs=key),
        mmmeta(place.base / "alone", remote=place.url) as m,
        pytest.raises(
            SignatureError, match=f"signed with the key {other.signer.key}, which MMMETA_SIGNING_KEY"
        ),
    ):
        m.pull()
    with environment(signs=key), mmmeta(place.base / "publisher", remote=place.url) as m:
        place.publish(other, "d", trusts=both, name="second")
        with pytest.raises(
            SignatureError, match=f"signed with the key {other.signer.key}, which MMMETA_SIGNING_KEY"
        ):
            m.push()


@on_folder
def test_a_key_that_is_replaced_is_trusted_up_to_a_revision(place: Place, key: Key, other: Key) -> None:
    both = f"{key.line} until=2\n{other.line}\n"
    file = place.base / "keys"
    file.write_text(f"# the old one\n\n{both} # the new one\n")
    place.publish(key, "a")
    place.publish(key, "b")
    place.publish(other, "c", name="second", trusts=str(file))
    assert set(place.follow(str(file))) == {"a", "b", "c"}
    place.publish(key, "d", name="thief")
    said = place.refuses(str(file))
    assert (
        f"signed with the key {key.signer.key}, which {file} does not trust for revision 4 of archive" in said
    )
    with_head(place)
    assert segment(4) in place.refuses(str(file))


@on_folder
def test_a_key_may_be_for_one_archive(place: Place, key: Key) -> None:
    place.publish(key, "a")
    archive = place.head()["archive"]
    assert set(place.follow(f"{key.line} archive={archive}")) == {"a"}
    assert "does not trust for revision 1 of archive" in place.refuses(f"{key.line} archive=f00", "new")


@on_folder
def test_a_new_client_without_the_old_key_bridges_by_the_signed_snapshot(
    place: Place, key: Key, other: Key
) -> None:
    both = f"{key.line},{other.line}"
    place.publish(key, "a")
    for number in range(3):
        place.publish(other, "b", name="second", trusts=both, title=os.urandom(20000).hex() + str(number))
    assert place.head()["snapshot"]["revision"] > 1
    assert set(place.follow(other.line)) == {"a", "b"}


# --- publishers


@on_folder
def test_a_publisher_who_signed_publishes_nothing_unsigned(place: Place, key: Key) -> None:
    place.publish(key, "a")
    for trusts, name in ((None, "publisher"), (key.line, "new")):
        with environment(trusts=trusts), mmmeta(place.base / name, remote=place.url) as m:
            m.pull()
            assert not m.push().published
            m.files.insert(content_hash="b")
            with pytest.raises(ConfigError, match=r"nothing was published: .* Set MMMETA_SIGNING_KEY"):
                m.push()
    assert (place.head()["revision"], "signature" in place.head()) == (1, True)
    place.remote.remove(HEAD_NAME)
    with environment(trusts=key.line), mmmeta(place.base / "newer", remote=place.url) as m:
        assert not m.push().published
    assert HEAD_NAME not in place.remote.names(""), (
        "hints that are missing are not written without a signature"
    )
    assert place.publish(key) == 2
    assert "signature" in place.head()


@on_folder
def test_a_publisher_whose_metadir_is_new_signs_nothing_that_was_not(place: Place, key: Key) -> None:
    place.publish(key, "a", title="A")
    place.publish(key, "b", title="B", name="second")
    with environment(signs=key), mmmeta(place.base / "third", remote=place.url) as m:
        m.files.insert(content_hash="c")
        assert m.push().revision == 3
    place.publish(None, "evil", name="stranger")
    for name in ("third", "fourth"):
        signing, refused = (
            environment(signs=key),
            pytest.raises(SignatureError, match="json is not signed, but MMMETA_S"),
        )
        with signing, mmmeta(place.base / name, remote=place.url) as m, refused:
            m.push()
    with_head(place)
    with environment(signs=key), mmmeta(place.base / "fifth", remote=place.url) as m:
        m.files.insert(content_hash="d")
        with pytest.raises(SignatureError, match=r"000004\.jsonl\.gz is not signed, but MMMETA_SIGNING_KEY"):
            m.push()
        assert m.revision == 3


@on_folder
def test_a_publisher_who_signed_stays_careful_also_after_a_snapshot(place: Place, key: Key) -> None:
    place.publish(key, "a")
    for _ in range(5):
        place.publish(key, "b", name="second", title=os.urandom(20000).hex())
    with environment(signs=key), mmmeta(place.base / "publisher", remote=place.url) as m:
        assert m.pull().snapshot
    place.publish(None, "c", name="stranger")
    careful = environment(signs=key)
    with (
        careful,
        mmmeta(place.base / "publisher", remote=place.url) as m,
        pytest.raises(SignatureError) as caught,
    ):
        m.pull()
    assert "MMMETA_SIGNING_KEY says whom to trust" in str(caught.value)


@on_folder
def test_who_signs_repeats_nothing_of_an_unsigned_head(place: Place, key: Key) -> None:
    place.publish(None, "a", title="A")
    head = place.head()
    evil = {"sha256": "0" * 64, "size": 1, "revision": 1, "log_bytes": 1, "etag": "e"}
    for changes in ({"snapshot": evil}, {"snapshot": head["snapshot"] | {"sha256": "0" * 64}}):
        place.remote.write(HEAD_NAME, orjson.dumps(head | changes))
        place.publish(key, "b", title=f"{changes}", name=f"publisher-{len(str(changes))}")
        snapshot = place.head()["snapshot"]
        assert snapshot["sha256"] == hashlib.sha256(place.read("_mmmeta/meta.db")).hexdigest()
        head = {k: v for k, v in place.head().items() if k != "signature"}


def test_an_archive_that_is_published_where_it_lies_is_signed_from_its_first_revision_on(
    tmp_path: Path, key: Key
) -> None:
    place = Place(tmp_path, str(tmp_path / "archive"))
    for name in "ab":
        with environment(signs=key, trusts=key.line), mmmeta(tmp_path / "archive") as m:
            m.files.insert(content_hash=name)
            m.push()
            m.update()
    assert set(place.follow(key.line)) == {"a", "b"}


# --- keys


def test_keygen_makes_a_pair_that_is_never_overwritten(tmp_path: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mmmeta_core", "keygen", str(tmp_path / "key")]
        return subprocess.run(command, capture_output=True, text=True)

    made = run()
    assert made.returncode == 0, made.stderr
    private, public = tmp_path / "key", tmp_path / "key.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert made.stdout == public.read_text()
    assert made.stdout.startswith("ed25519 ")
    before = private.read_bytes()
    assert "PRIVATE" in before.decode()
    again = run()
    assert (again.returncode, private.read_bytes()) == (1, before)
    assert "is there already: choose another name" in again.stderr
    public.unlink()
    assert run().returncode == 1
    assert not public.exists()
    assert Key(private, made.stdout.strip()).signer.public == load(made.stdout.strip()).keys[0].public


def test_a_private_key_is_nowhere_shown(tmp_path: Path, key: Key, caplog: pytest.LogCaptureFixture) -> None:
    pem = key.path.read_text()
    secret = "".join(pem.splitlines()[1:-1])
    caplog.set_level(logging.DEBUG)
    assert repr(key.signer) == f"<Signer {key.signer.key}>"
    place = Place(tmp_path, str(tmp_path / "remote"))
    (tmp_path / "remote").mkdir()
    for value in (pem, pem.replace("\n", "\\n")):
        os.environ["MMMETA_SIGNING_KEY"] = value
        try:
            with mmmeta(tmp_path / "publisher", remote=place.url) as m:
                m.files.upsert({"content_hash": "a", "title": f"{value == pem}"}, ["content_hash"])
                m.push()
                assert secret not in f"{m!r}{m.__dict__}"
            assert load_signer() is not None
        finally:
            del os.environ["MMMETA_SIGNING_KEY"]
    assert secret not in caplog.text
    assert not [
        path
        for path in (tmp_path / "remote").rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


WRONG: dict[str, Callable[[Path, str], str]] = {
    "the key as base64": lambda folder, pem: "".join(pem.splitlines()[1:-1]),
    "a path that is not there": lambda folder, pem: "/nowhere/SECRET",
    "a folder": lambda folder, pem: str(folder),
    "a cut PEM": lambda folder, pem: pem[:60] + "\n-----END PRIVATE KEY-----",
    "no PEM": lambda folder, pem: "-----BEGIN SECRET-----",
    "a NUL": lambda folder, pem: "SECRET",
    "a public key": lambda folder, pem: str(folder / "key.pub"),
    "another kind of key": lambda folder, pem: other_kind(),
    "a password": lambda folder, pem: locked(),
}


def other_kind() -> str:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return (
        X25519PrivateKey.generate()
        .private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        .decode()
    )


def locked() -> str:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    encryption = s.BestAvailableEncryption(b"word")
    return (
        Ed25519PrivateKey.generate().private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encryption).decode()
    )


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_a_key_that_can_not_be_used_is_refused_without_showing_it(
    make: Callable[[Path, str], str], key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = make(tmp_path, key.path.read_text())
    (tmp_path / "key.pub").chmod(0o600)
    monkeypatch.setenv("MMMETA_SIGNING_KEY", given)
    with pytest.raises(ConfigError, match="MMMETA_SIGNING_KEY") as caught:
        load_signer()
    assert not [word for word in given.split() if len(word) > 12 and word in str(caught.value)]
    assert caught.value.__cause__ is None


def test_a_key_that_others_may_read_is_refused(key: Key) -> None:
    for mode in (0o640, 0o604, 0o660):
        key.path.chmod(mode)
        with pytest.raises(ConfigError, match=r"others may read the private key .* chmod 600"):
            _ = key.signer
    key.path.chmod(0o400)
    assert key.signer.key


BAD_LINES = {
    "empty": "",
    "comments only": "# nobody\n",
    "another kind": "rsa QUJD",
    "no key": "ed25519",
    "not base64": "ed25519 ***",
    "too short": "ed25519 QUJD",
    "an unknown option": "{line} from=3",
    "a bad number": "{line} until=x",
    "a number of other digits": "{line} until=\u0663",
    "an empty archive": "{line} archive=",
}


@pytest.mark.parametrize("text", BAD_LINES.values(), ids=BAD_LINES)
def test_trusted_keys_that_can_not_be_read_trust_nobody(text: str, key: Key, tmp_path: Path) -> None:
    file = tmp_path / "trusted"
    file.write_text(text.format(line=key.line))
    with environment(trusts=str(file)), pytest.raises(ConfigError, match=str(file)):
        load_trust(tmp_path / "unused")
    with (
        environment(trusts=str(tmp_path / "missing")),
        pytest.raises(ConfigError, match="is not there: give"),
    ):
        load_trust(file)
    with environment(trusts=""):
        assert load_trust(tmp_path / "unused") is None


def test_a_private_key_in_the_wrong_place_is_not_shown(key: Key, tmp_path: Path) -> None:
    pem = key.path.read_text()
    secret = "".join(pem.splitlines()[1:-1])
    for wrong in (pem, secret, pem.replace("\n", "\\n"), secret * 9, str(key.path)):
        with environment(trusts=wrong), pytest.raises(ConfigError) as caught:
            load_trust(tmp_path / "unused")
        assert secret[:20] not in str(caught.value)
    (tmp_path / "trusted_keys").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="trusted_keys can't be read"):
        load_trust(tmp_path / "trusted_keys")


# --- the file trusted_keys is private


@on_folder
def test_the_file_of_trusted_keys_never_leaves_and_never_comes(place: Place, key: Key, other: Key) -> None:
    (place.base / "publisher" / "_mmmeta").mkdir(parents=True)
    (place.base / "publisher" / "_mmmeta" / "trusted_keys").write_text(key.line)
    (place.base / "publisher" / "a.json").write_text(
        '{"content_hash": "a", "file_name": "_mmmeta/trusted_keys"}'
    )
    with (
        environment(signs=key),
        mmmeta(place.base / "publisher", files_root=place.base / "publisher", remote=place.url) as m,
    ):
        m.pull()
        m.generate()
        m.push(files=True)
        m.update()
    assert not [name for name in place.remote.names("") if "trusted" in name]
    place.remote.write("_mmmeta/trusted_keys", other.line.encode())
    client = place.base / "client" / "_mmmeta"
    client.mkdir(parents=True)
    (client / "trusted_keys").write_text(key.line)
    assert set(place.follow(None)) == {"a"}
    assert (client / "trusted_keys").read_text() == key.line
    place.publish(other, "b", name="stranger")
    with (
        mmmeta(client.parent, remote=place.url) as m,
        pytest.raises(SignatureError, match="trusted_keys does not trust"),
    ):
        m.pull()
    assert set(place.follow(None, "new")) == {"a", "b"}
    assert not (place.base / "new" / "_mmmeta" / "trusted_keys").exists()


@pytest.mark.parametrize(
    "name", ["trusted_keys", "Trusted_Keys", "state.db", "state.db-wal", "cache.db", ".lock"]
)
def test_private_files_have_no_name_at_a_remote(name: str) -> None:
    with pytest.raises(RefusedError, match="is private to this machine"):
        remote_name(name)


# --- copies, and verify


@on_folder
def test_segments_that_another_tool_copied_are_checked(place: Place, key: Key, tmp_path: Path) -> None:
    place.publish(key, "a", title="A")
    assert place.follow(key.line) == {"a": "A"}
    place.publish(key, "b", title="B")
    log = tmp_path / "client" / "_mmmeta" / "log"
    shutil.copytree(tmp_path / "remote" / "_mmmeta" / "log", log)
    good = (log / Path(segment(2)).name).read_bytes()
    lines = place.lines(2)
    with environment(trusts=key.line), mmmeta(tmp_path / "client") as m:
        (log / Path(segment(2)).name).write_bytes(gzip.compress(b"".join(lines[:-1])))
        with pytest.raises(SignatureError, match="is not signed"):
            m.update()
        assert m.revision == 1
        (log / Path(segment(2)).name).write_bytes(good)
        assert m.update().revision == 2
        assert m.update().revision == 2, "what was replayed counts as verified"
    shutil.copytree(tmp_path / "remote", tmp_path / "copy")
    with (
        environment(trusts=key.line),
        mmmeta(tmp_path / "copy") as m,
        pytest.raises(SignatureError, match="as the remote"),
    ):
        m.update()
    assert Place(tmp_path, str(tmp_path / "copy")).follow(key.line, "of-the-copy") == {"a": "A", "b": "B"}


@on_folder
def test_verify_can_ask_what_is_wrong_with_a_segment(
    place: Place, key: Key, other: Key, tmp_path: Path
) -> None:
    place.publish(key, "a")
    path, keys = tmp_path / "remote" / segment(1), tmp_path / "trusted_keys"
    assert segment_flaw(path, "it", keys) is None, "nobody is trusted in particular"
    keys.write_text(key.line)
    assert segment_flaw(path, "it", keys) is None
    keys.write_text(other.line)
    assert f"segment it is signed with the key {key.signer.key}, which" in (
        segment_flaw(path, "it", keys) or ""
    )
    path.write_bytes(b"\x1f\x8b")
    assert "segment it can't be read" in (segment_flaw(path, "it", keys) or "")


def test_a_head_that_was_signed_is_read_by_who_knows_no_signatures(tmp_path: Path, key: Key) -> None:
    (tmp_path / "remote").mkdir()
    place = Place(tmp_path, str(tmp_path / "remote"))
    place.publish(key, "a")
    head = parse_head(place.read(HEAD_NAME), "head")
    assert head.revision == 1


def test_without_cryptography_a_sentence_says_what_to_install(tmp_path: Path, key: Key) -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from mmmeta_core.signing import load_signer\nfrom mmmeta_core import ConfigError\n"
        "try: load_signer()\nexcept ConfigError as error: print(error)"
    )
    environ = {**os.environ, "MMMETA_SIGNING_KEY": str(key.path)}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ)
    assert result.stdout == "signatures need the package cryptography: pip install 'mmmeta[sign]'\n", (
        result.stderr
    )
