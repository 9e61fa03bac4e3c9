"""What botocore's errors mean for whoever uses a bucket as a remote.

No message repeats an endpoint or proxy as it was configured: either may hold a password.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mmmeta_core.errors import (
    ConfigError,
    MmmetaError,
    RemoteDeniedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.exceptions import BotoCoreError, ClientError

_DENIED: Final = frozenset(
    {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)
_ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"}
)


def status(error: ClientError) -> int:
    """Return the HTTP status of the answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code(error: ClientError) -> str:
    """Return S3's word for the error; the status as text where the answer had no body (HEAD)."""
    return str(error.response.get("Error", {}).get("Code", ""))


def retries(error: ClientError) -> int:
    """Return how often botocore had sent the request again before this answer."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


@contextmanager
def explained(bucket: str, what: str) -> Iterator[None]:
    """Turn the errors of one request for `what` (an object's URL, or the remote's) into ours."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as NotConnectedError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except MmmetaError:
        raise
    except ClientError as error:
        raise _answered(error, bucket, what) from error
    except (NotConnectedError, HTTPClientError, IncompleteReadError, HTTPError) as error:
        # Without its cause, the text of which can hold an endpoint or proxy with a password.
        raise RemoteUnreachableError(
            f"No complete answer about {what} ({type(error).__name__}): check the endpoint and the network."
        ) from None
    except BotoCoreError as error:
        raise _unasked(error, what) from None


def _answered(error: ClientError, bucket: str, what: str) -> RemoteError:
    answer, word = status(error), code(error)
    detail = f"{word}: {error.response.get('Error', {}).get('Message', '')}"[:300].rstrip(": ")
    if word == "NoSuchBucket":
        return RemoteNotFoundError(f"There is no bucket {bucket!r}: create it, or correct the URL.")
    if answer == 404:
        return RemoteNotFoundError(f"There is no object {what}.")
    if answer in (401, 403) or word in _DENIED:
        return RemoteDeniedError(
            f"Access to {what} was refused ({detail}): check the credentials and their policy. "
            "S3 answers so for missing objects, too, where s3:ListBucket is not granted."
        )
    if word in _ELSEWHERE or answer in (301, 307):
        return RemoteError(f"The bucket {bucket!r} is elsewhere ({detail}): set its region or endpoint.")
    if answer == 501:
        return RemoteError(
            f"The store of {what} can't do this request ({detail}); conditional writes are needed."
        )
    if answer >= 500 or answer == 429:
        return RemoteUnreachableError(f"The store of {what} could not answer ({detail}): try again later.")
    return RemoteError(f"S3 refused the request about {what} ({detail}).")


def _unasked(error: BotoCoreError, what: str) -> MmmetaError:
    """Return the error for a request that was never sent."""
    from botocore import exceptions as botocore

    name = type(error).__name__
    if isinstance(error, botocore.NoCredentialsError):
        return RemoteDeniedError(
            f"There are no credentials for {what}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or a profile, or add anonymous=true for a public bucket."
        )
    if isinstance(error, botocore.ProfileNotFound):
        return ConfigError(f"The AWS profile for {what} is not in the AWS configuration: correct its name.")
    if "Credential" in name or "Token" in name or "SSO" in name:
        return RemoteDeniedError(f"The credentials for {what} can't be used ({name}): renew or correct them.")
    return RemoteError(
        f"The request about {what} could not be made ({name}): check the URL and the AWS settings."
    )
