"""A remote in a bucket of S3, or of one of the stores that speak its protocol.

boto3 is imported with the first request, so that opening a remote costs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from mmmeta_core.errors import RemoteDeniedError, RemoteError
from mmmeta_core.remotes import base, s3_parts
from mmmeta_core.remotes.base import ABSENT, CHUNK, READ_LIMIT, Blob, Remote, Source, Stat, Trial
from mmmeta_core.remotes.s3_client import access, shared_client
from mmmeta_core.remotes.s3_errors import code, explained, retries, status
from mmmeta_core.remotes.s3_options import S3Options, parse_s3_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from typing import BinaryIO

    from botocore.exceptions import ClientError
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, HeadObjectOutputTypeDef

CONFLICTS: Final = 8
"""How often a conditional write is sent again that S3 could not decide (409)."""

MULTIPART: Final = 100 * 1024 * 1024
"""Bytes from which an unconditional upload goes in parts."""

_SMALL: Final = 1024 * 1024
"""Bytes up to which a file is sent as it was read at once."""

_WRITER: Final = "mmmeta-write"
_PROBE: Final = "_mmmeta/.probe"
_NO_OPTIONS: Final = S3Options()


class S3Remote(Remote):
    """The objects below a prefix of a bucket, `s3://bucket/prefix?endpoint=…&region=…&profile=…&anonymous=true`.

    What the URL says goes before `options`, and both before the AWS environment.
    """

    bucket: str
    prefix: str
    options: S3Options

    def __init__(self, url: str, options: S3Options = _NO_OPTIONS) -> None:
        self.bucket, self.prefix, self.options = parse_s3_url(url, options)
        self._base = f"{self.prefix}/" if self.prefix else ""
        self.url: str = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._made: S3Client | None = None
        self._making = threading.Lock()
        self._bucket_seen = False

    @property
    def identity(self) -> str:
        """See `Remote.identity`: a bucket of one name is another one at another endpoint."""
        endpoint = (
            self.options.endpoint_url
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
        )
        return f"{self.url} {endpoint}" if endpoint else self.url

    def check(self) -> None:
        """Raise if the bucket does not exist, may not be listed, or does not answer."""
        # Not HEAD, whose answers have no body to tell a wrong key from a missing permission.
        with self._asking() as client:
            client.list_objects_v2(Bucket=self.bucket, Prefix=self._base, MaxKeys=1)
        self._bucket_seen = True

    def read(self, name: str, *, etag: str | None = None, limit: int = READ_LIMIT) -> Blob | None:
        """See `Remote.read`."""
        from botocore.exceptions import ClientError

        condition: dict[str, Any] = {"IfNoneMatch": etag} if etag else {}
        with self._asking(name) as client:
            try:
                answer = client.get_object(Bucket=self.bucket, Key=self._key(name), **condition)
            except ClientError as error:
                if status(error) == 304:
                    return None
                raise
        with closing(answer["Body"]):
            return Blob(b"".join(self._body(answer, name, limit)), answer["ETag"])

    def fetch(self, name: str, path: Path, *, limit: int | None = None) -> int:
        """See `Remote.fetch`."""
        with base.drafted(path) as file:
            with self._asking(name) as client:
                answer = client.get_object(Bucket=self.bucket, Key=self._key(name))
            with closing(answer["Body"]):
                size = self._size(answer, name, limit)
                if size <= s3_parts.LARGE:
                    return sum(map(file.write, self._body(answer, name, limit)))
            found = Stat(size, answer["ETag"])
            with self._asking(name) as client:
                s3_parts.fetch_in_parts(client, self.bucket, self._key(name), found, file)
        return size

    def create(self, name: str, source: Source) -> bool:
        """See `Remote.create`."""
        return self._put_if(name, source, {"IfNoneMatch": "*"}) is not None

    def keeps_conditions(self) -> bool:
        """See `Remote.keeps_conditions`: some stores take the condition and ignore it, some refuse what is not there."""
        # Of one name, so that publishers who were killed leave one of these at most. One that is refused because it is
        # there, whoever made it, shows as much, and only who made it removes it.
        for _ in range(CONFLICTS):
            if self.create(_PROBE, b"one"):
                break
            if self.stat(_PROBE) is not None:
                return True
        else:
            return False
        try:
            return not self.create(_PROBE, b"another")
        finally:
            with suppress(RemoteError):
                self.remove(_PROBE)

    def try_out(self) -> Trial:
        """See `Remote.try_out`. In a bucket that keeps versions the two of this object stay, below a mark of deletion."""
        name = f"{_PROBE}-{uuid4().hex}"
        holds = self.create(name, b"one")
        try:
            holds = holds and not self.create(name, b"another")
        finally:
            left = name
            with suppress(RemoteDeniedError):
                self.remove(name)
                left = ""
        return Trial(holds, left or None)

    def clock(self) -> datetime | None:
        """See `Remote.clock`. What is refused is answered, too, and refused is what comes from a clock that is far off."""
        from botocore.exceptions import ClientError

        answer: Any
        with self._asking() as client:
            try:
                answer = client.list_objects_v2(Bucket=self.bucket, Prefix=self._base, MaxKeys=1)
            except ClientError as error:
                answer = error.response
        return base.time_of(answer["ResponseMetadata"].get("HTTPHeaders", {}))

    def access(self) -> str | None:
        """See `Remote.access`."""
        return access(self.options, self.url)

    def write(self, name: str, source: Source, *, if_match: str | None = None) -> str | None:
        """See `Remote.write`."""
        if if_match == ABSENT:
            return self._put_if(name, source, {"IfNoneMatch": "*"})
        if if_match is not None:
            return self._put_if(name, source, {"IfMatch": if_match})
        if isinstance(source, Path) and source.stat().st_size > MULTIPART:
            return self._upload(name, source)
        with _body_of(source) as body, self._asking(name) as client:
            return client.put_object(
                Bucket=self.bucket, Key=self._key(name), Body=body, ContentMD5=_md5(body)
            )["ETag"]

    def names(self, prefix: str) -> Iterator[str]:
        """See `Remote.names`."""
        full = self._base + base.check_prefix(prefix)
        with self._asking() as client:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=full):
                names = (found["Key"].removeprefix(self._base) for found in page.get("Contents", ()))
                yield from filter(base.is_name, names)

    def stat(self, name: str) -> Stat | None:
        """See `Remote.stat`."""
        found = self._head(name)
        return None if found is None else Stat(found["ContentLength"], found["ETag"])

    def remove(self, name: str) -> None:
        """See `Remote.remove`."""
        with self._asking(name) as client:
            client.delete_object(Bucket=self.bucket, Key=self._key(name))

    def _upload(self, name: str, path: Path) -> str:
        # An interrupted upload is aborted, and the object appears when the last part is there.
        with path.open("rb") as file, self._asking(name) as client:
            client.upload_fileobj(file, self.bucket, self._key(name))
            return client.head_object(Bucket=self.bucket, Key=self._key(name))["ETag"]

    def _put_if(self, name: str, source: Source, condition: dict[str, Any]) -> str | None:
        """Write if the condition holds; return the etag, or None.

        A first try may have succeeded although its answer was lost; then the next one meets our own object
        and is told that the condition does not hold. The object's `mmmeta-write` metadata says whose it is.
        """
        writer = uuid4().hex
        for attempt in range(CONFLICTS):
            answer = self._try_put(name, source, condition, writer)
            if isinstance(answer, str):
                return answer
            if status(answer) != 409:
                tried_before = attempt > 0 or retries(answer) > 0
                return self._own_etag(name, writer) if tried_before else None
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))  # noqa: S311 - jitter
        raise RemoteError(
            f"S3 did not decide who writes {self._what(name)} in {CONFLICTS} tries: try again later."
        )

    def _try_put(
        self, name: str, source: Source, condition: dict[str, Any], writer: str
    ) -> str | ClientError:
        """Return the new etag, or the answer that it was not written: 409, 412, 404 where nothing matches."""
        from botocore.exceptions import ClientError

        key, metadata = self._key(name), {_WRITER: writer}
        with self._asking(name) as client:
            try:
                if isinstance(source, Path) and source.stat().st_size > s3_parts.MOST_AT_ONCE:
                    return s3_parts.put_in_parts(client, self.bucket, key, source, metadata, condition)
                with _body_of(source) as body:
                    return client.put_object(
                        Bucket=self.bucket,
                        Key=key,
                        Body=body,
                        ContentMD5=_md5(body),
                        Metadata=metadata,
                        **condition,
                    )["ETag"]
            except ClientError as error:
                if status(error) in (409, 412) or code(error) == "NoSuchKey":
                    return error
                raise

    def _own_etag(self, name: str, writer: str) -> str | None:
        found = self._head(name)
        return found["ETag"] if found is not None and found["Metadata"].get(_WRITER) == writer else None

    def _head(self, name: str) -> HeadObjectOutputTypeDef | None:
        from botocore.exceptions import ClientError

        with self._asking(name) as client:
            try:
                return client.head_object(Bucket=self.bucket, Key=self._key(name))
            except ClientError as error:
                if status(error) != 404:
                    raise
        if not self._bucket_seen:
            self.check()  # answers to HEAD have no body that says whether bucket or object is missing
        return None

    def _body(self, answer: GetObjectOutputTypeDef, name: str, limit: int | None) -> Iterator[bytes]:
        self._size(answer, name, limit)
        while True:
            with explained(self.bucket, self._what(name)):
                chunk = answer["Body"].read(CHUNK)  # botocore raises if it ends too early
            if not chunk:
                break
            yield chunk

    def _size(self, answer: GetObjectOutputTypeDef, name: str, limit: int | None) -> int:
        size = answer["ContentLength"]
        if limit is not None and size > limit:
            raise base.too_large(self.url, name, size, limit)
        return size

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[S3Client]:
        with explained(self.bucket, self._what(name)):
            yield self._client()

    def _key(self, name: str) -> str:
        return self._base + base.check_name(name)

    def _what(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _client(self) -> S3Client:
        with self._making:
            if self._made is None:
                self._made = shared_client(self.options)
            return self._made


@contextmanager
def _body_of(source: Source) -> Iterator[bytes | BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file.read() if os.fstat(file.fileno()).st_size <= _SMALL else file
    else:
        yield source


def _md5(body: bytes | BinaryIO) -> str:
    """Return what the store compares with what reached it, so that nothing has to be asked afterwards."""
    if isinstance(body, bytes):
        digest = hashlib.md5(body, usedforsecurity=False)
    else:
        digest = hashlib.file_digest(body, lambda: hashlib.md5(usedforsecurity=False))  # type: ignore[arg-type]
        body.seek(0)
    return base64.b64encode(digest.digest()).decode()
