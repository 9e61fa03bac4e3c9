"""What is fuzzed: one function for each reader of what others wrote, which takes any bytes.

Each lets pass the errors that are meant for people, and raises for whatever else: an error of another kind, a result that
does not hold what it promises, a refusal that changed something.
"""

from __future__ import annotations

import contextlib
import gzip
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from mmmeta_core.changelog import replay_segment
from mmmeta_core.config import Config, expand
from mmmeta_core.database.catalog import Catalog, open_catalog
from mmmeta_core.database.columns import Columns
from mmmeta_core.database.foreign import check_documents
from mmmeta_core.database.sqlite import atomic
from mmmeta_core.documents import flatten, read_document
from mmmeta_core.errors import ConfigError, DocumentError, LogError, MmmetaError, StoreError
from mmmeta_core.files.placing import safe_parts
from mmmeta_core.head import parse_head
from mmmeta_core.remotes import open_remote
from mmmeta_core.remotes.web import _check, _redirected, shown
from mmmeta_core.sources import _file_of
from mmmeta_core.store import check_key, decode_value, encode_value
from mmmeta_core.types import decode, to_json

_open = contextlib.ExitStack()
_kept: dict[str, Any] = {}


class _Undo(Exception):  # noqa: N818 - it ends a transaction
    pass


def folder() -> Path:
    """Return a folder of this process."""
    if "folder" not in _kept:
        _kept["folder"] = Path(_open.enter_context(tempfile.TemporaryDirectory(prefix="mmmeta-fuzz-")))
    made: Path = _kept["folder"]
    return made


def _catalog() -> Catalog:
    if "catalog" not in _kept:
        _kept["catalog"] = _open.enter_context(open_catalog(folder() / "meta.db", "content_hash"))
    made: Catalog = _kept["catalog"]
    return made


def _text(data: bytes) -> str:
    """Return the bytes as text, which may have lone surrogates."""
    return (
        data[1:].decode("utf-16-le", "surrogatepass" if len(data) % 2 else "replace")
        if data[:1] == b"\xff"
        else data.decode(errors="replace")
    )


def segment(data: bytes) -> None:
    """Replay the bytes as a segment: packed as they are, or else to be packed."""
    path = folder() / "segment"
    path.write_bytes(data if data[:2] == b"\x1f\x8b" else gzip.compress(data, 1))
    catalog = _catalog()
    before = catalog.position
    try:
        with atomic(catalog.connection):
            replay_segment(catalog, path, "fuzzed")
            check_documents(catalog.connection, path, "content_hash", catalog.kinds(), "main.files AS m")
            for row in catalog.connection.execute("SELECT __rescued FROM files").fetchall():
                assert isinstance(orjson.loads(row[0] or "{}"), dict)
            raise _Undo
    except (LogError, _Undo):
        pass
    assert catalog.position == before
    assert catalog.connection.execute("SELECT count(*) FROM files").fetchone() == (0,)


def document(data: bytes) -> None:
    """Read the bytes as a metadata file, and fit it into columns."""
    path = folder() / "document"
    path.write_bytes(data)
    try:
        flat = flatten(read_document(path, limit=1_000_000))
        columns = Columns({"title": "text", "tags": "json"}, taken=["content_hash"], limit=20)
        fitted = columns.fit(flat)
    except DocumentError:
        return
    assert len(columns.kinds) <= 20
    for name, raw in fitted.row.items():
        assert to_json(raw, columns.kinds[name]) is not None or raw is None
        decode(raw, columns.kinds[name])
    assert isinstance(orjson.loads(fitted.rescued_json() or "{}"), dict)


def store(data: bytes) -> None:
    """Read the bytes as a store value, and as a key."""
    text = _text(data)
    with contextlib.suppress(StoreError):
        check_key(text)
        assert "/" not in text
    try:
        value = decode_value(text)
        again = encode_value(value)
    except StoreError:
        return
    assert repr(decode_value(again)) == repr(value)


def config(data: bytes) -> None:
    """Read the bytes as `config.yml`, and fill in its templates."""
    text = data.decode(errors="replace")
    try:
        settings = Config.parse(text, "fuzzed")
    except ConfigError:
        return
    row = {"content_hash": "k", "file_name": "a b/\r\n?.pdf", "n": 5, "list": [1]}
    for template in settings.remote.values():
        with contextlib.suppress(ConfigError):
            expand(template, row)
    assert settings.keeps(settings.unique)


def head(data: bytes) -> None:
    """Read the bytes as `head.json`."""
    try:
        found = parse_head(data, "fuzzed")
    except LogError:
        return
    again = parse_head(found.to_json(), "fuzzed")
    assert again == found


def url(data: bytes) -> None:
    """Take the bytes as a template, an URL in a document, a redirect, and a remote."""
    text = data.decode(errors="replace")
    row = {"title": text, "file_name": "a\r\nb/../c?d#e@f"}
    with contextlib.suppress(ConfigError):
        filled = expand(text, row)
        assert text.isprintable() is False or not filled.startswith("http") or filled.isprintable()
    filled = expand("https://host/{title}", row)
    assert filled.isascii()
    assert filled.isprintable()
    said = shown(text)
    assert said.isprintable()
    for use in (_check, _file_of, open_remote, lambda target: _redirected("https://host/path", target)):
        with contextlib.suppress(MmmetaError):
            use(text)
    with contextlib.suppress(MmmetaError):
        assert _redirected("https://host/path", text).lower().startswith("https:")


def names(data: bytes) -> None:
    """Take the bytes as a document's file name."""
    text = _text(data)
    parts = safe_parts(text)
    assert parts
    assert safe_parts("/".join(parts)) == parts
    for part in parts:
        assert part not in ("", ".", "..", "_mmmeta")
        assert len(part.encode()) <= 255
        assert part == part.strip(" .")
        assert not {"/", "\\", "\0", ":"} & set(part)
        assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs") for char in part)
    assert not Path(*parts).is_absolute()


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "segment": segment,
    "document": document,
    "store": store,
    "config": config,
    "head": head,
    "url": url,
    "names": names,
}
