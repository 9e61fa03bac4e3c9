"""Large objects in parts: put together from them if a condition holds then, and fetched some at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from mmmeta_core.errors import RemoteError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef
    from s3transfer.futures import TransferFuture

    from mmmeta_core.remotes.base import Stat

MOST_AT_ONCE: Final = 5 * 1024**3
"""Bytes that S3 takes in one request."""

PART: Final = 128 * 1024**2
"""Bytes of a part; of these there may be ten thousand."""

LARGE: Final = 32 * 1024**2
"""Bytes from which an object is fetched in parts, each by a connection of its own: a store limits what one gets."""

FETCHED: Final = 16 * 1024**2
AT_ONCE: Final = 4
_QUEUED: Final = 64
"""Pieces of 256 KB that may wait to be written."""


def put_in_parts(
    client: S3Client, bucket: str, key: str, path: Path, metadata: dict[str, str], condition: dict[str, Any]
) -> str:
    """Upload a file in parts; return the object's etag.

    The object appears, or is replaced, when all parts are there and `condition` holds. An upload that does not come to
    that is aborted, so that its parts are not kept and paid for. Raises botocore's errors.
    """
    where: Any = {"Bucket": bucket, "Key": key}
    upload = client.create_multipart_upload(**where, Metadata=metadata)["UploadId"]
    try:
        parts: list[CompletedPartTypeDef] = []
        with path.open("rb") as file:
            while body := file.read(PART):
                number = len(parts) + 1
                answer = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body)
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        return client.complete_multipart_upload(
            **where, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
        )["ETag"]
    except BaseException:
        with suppress(Exception):  # what went wrong first is what is to be said
            client.abort_multipart_upload(**where, UploadId=upload)
        raise


def fetch_in_parts(client: S3Client, bucket: str, key: str, found: Stat, file: BinaryIO) -> None:
    """Download an object of this size and etag into an open file, with boto3's transfer manager.

    Parts that break off are asked for again. Raises botocore's errors, and `RemoteError` if the object was replaced
    meanwhile or the store does not know parts.
    """
    from botocore.exceptions import ResponseStreamingError
    from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError
    from s3transfer.manager import TransferConfig, TransferManager
    from s3transfer.subscribers import BaseSubscriber

    class Known(BaseSubscriber):
        def on_queued(self, future: TransferFuture, **_: Any) -> None:
            future.meta.provide_transfer_size(found.size)
            future.meta.provide_object_etag(found.etag)  # each part is to be of this object

    config = TransferConfig(
        multipart_threshold=FETCHED,
        multipart_chunksize=FETCHED,
        max_request_concurrency=AT_ONCE,
        max_io_queue_size=_QUEUED,
    )
    try:
        with TransferManager(client, config) as manager:
            manager.download(bucket, key, file, subscribers=[Known()]).result()
    except RetriesExceededError as error:
        raise ResponseStreamingError(error=error.last_exception) from None
    except S3DownloadFailedError:
        raise RemoteError(f"s3://{bucket}/{key} was replaced while it was read: try again.") from None
    file.flush()
    if (size := os.fstat(file.fileno()).st_size) != found.size:
        raise RemoteError(f"s3://{bucket}/{key} came with {size:,} of {found.size:,} bytes: try again.")
