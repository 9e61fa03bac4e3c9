"""`head.json`: a hint of what the newest revision is, so that nobody has to list the log.

It is written after the segment that it names, and may lag behind the log, never run ahead of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from mmmeta_core.errors import LogError, RemoteNotFoundError
from mmmeta_core.limits import cap
from mmmeta_core.paths import HEAD, META_DB, SNAPSHOT_DB, remote_name
from mmmeta_core.remotes import Remote
from mmmeta_core.signing import HEAD as HEAD_DOMAIN
from mmmeta_core.signing import Signer, Trust, head_digest
from mmmeta_core.writer import newer_format, version_of

FORMAT: Final = 1


@dataclass(frozen=True)
class Snapshot:
    """Which snapshot lies at the remote: its revision, size in bytes, SHA-256, and the log's bytes up to there.

    `name` is the file's in the metadir; where `meta.db` is a catalog that is worked in, it is another one.
    """

    revision: int
    size: int
    sha256: str
    log_bytes: int
    etag: str = ""
    name: str = META_DB


@dataclass(frozen=True)
class Head:
    """The newest revision that was known when this was written; `store` and `config` are as of that revision.

    `writer` is the mmmeta that wrote it, None where it does not say so.
    """

    archive: str
    revision: int
    unique: str
    digest: str
    log_bytes: int
    snapshot: Snapshot | None = None
    store: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    writer: str | None = None

    def to_json(self, signer: Signer | None = None) -> bytes:
        """Return the file's bytes, signed if there is a key."""
        values: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        if self.writer is None:
            del values["writer"]
        if self.snapshot is not None and self.snapshot.name == META_DB:
            del values["snapshot"]["name"]
        if signer is not None:
            values["signature"] = signer.sign(HEAD_DOMAIN, head_digest(values)).to_json()
        return orjson.dumps(values, option=orjson.OPT_INDENT_2) + b"\n"


def read_head(
    remote: Remote, *, etag: str | None = None, trust: Trust | None = None
) -> tuple[Head | None, str, bool]:
    """Return the remote's head (None: it has none), its etag, and whether it is unchanged since `etag`.

    Raises `LogError` for one that is damaged, `SignatureError` for one that none of the keys in `trust` has signed.
    """
    name = remote_name(HEAD)
    try:
        blob = remote.read(name, etag=etag, limit=cap("MMMETA_MAX_HEAD_BYTES"))
    except RemoteNotFoundError:
        remote.check()
        return None, "", False
    if blob is None:
        return None, etag or "", True
    source = f"{remote.url}/{name}"
    try:
        head = parse_head(blob.data, source)
    except LogError:
        blob = (
            remote.read(name, limit=cap("MMMETA_MAX_HEAD_BYTES")) or blob
        )  # it may have come in part, from a store that calls that whole
        head = parse_head(blob.data, source)
    if trust is not None:
        trust.check_head(blob.data, source)
    return head, blob.etag, False


def parse_head(data: bytes, source: str) -> Head:
    """Read the file's bytes. Raises `LogError` naming `source`."""
    try:
        values: dict[str, Any] = orjson.loads(data)
        written = values.pop("format")
        if not isinstance(written, int) or isinstance(written, bool) or written < 1:
            raise ValueError("no format")
        if written > FORMAT:
            raise LogError(f"{source} {newer_format(written, FORMAT, values.get('writer'))}")
        known = {name: values[name] for name in Head.__dataclass_fields__ if name in values}
        known["writer"] = version_of(values.get("writer"))
        snapshot = known.get("snapshot")
        if snapshot is not None:
            known["snapshot"] = Snapshot(
                **{n: snapshot[n] for n in Snapshot.__dataclass_fields__ if n in snapshot}
            )
        head = Head(**known)
        _check(head)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LogError(
            f"{source} is damaged ({error}); a publisher's next push writes it anew if it is removed"
        ) from error
    return head


def _check(head: Head) -> None:
    if not isinstance(head.revision, int) or not isinstance(head.log_bytes, int) or head.revision < 1:
        raise ValueError("no revision")
    if not all(
        isinstance(value, str) for value in (head.archive, head.unique, head.digest, *head.store.values())
    ):
        raise ValueError("text expected")
    if head.config is not None and not isinstance(head.config, str):
        raise ValueError("config is not text")
    snapshot = head.snapshot
    if snapshot and not all(
        isinstance(n, int) for n in (snapshot.revision, snapshot.size, snapshot.log_bytes)
    ):
        raise ValueError("snapshot without numbers")
    if snapshot and not (isinstance(snapshot.sha256, str) and isinstance(snapshot.etag, str)):
        raise ValueError("snapshot without hash")
    if snapshot and snapshot.name not in (META_DB, SNAPSHOT_DB):
        raise ValueError("snapshot of an unknown name")
