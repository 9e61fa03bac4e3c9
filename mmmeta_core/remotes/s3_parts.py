"""An object that is too large for one request, put together from parts if a condition holds then."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MOST_AT_ONCE: Final = 5 * 1024**3
"""Bytes that S3 takes in one request."""

PART: Final = 128 * 1024**2
"""Bytes of a part; of these there may be ten thousand."""


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
