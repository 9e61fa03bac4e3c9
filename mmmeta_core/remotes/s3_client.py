"""boto3 clients, one for all remotes of this process that are reached in the same way."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mmmeta_core.errors import ConfigError, RemoteDeniedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boto3.session import Session
    from mypy_boto3_s3.client import S3Client

    from mmmeta_core.remotes.s3_options import S3Options

ATTEMPTS: Final = 5
"""How often a request is sent that fails on the way, the first time included."""

CONNECTIONS: Final = 32
"""Connections kept open, so that as many threads can download at once."""

_MOST_SHARED: Final = 16

CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60

_AMAZON: Final = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


_shared: dict[object, S3Client] = {}
_sharing = threading.Lock()


def shared_client(options: S3Options) -> S3Client:
    """Return the client for these options and the AWS environment as it is now; many threads may use it.

    Making one takes a hundred times as long as a request, and each has a pool of connections of its own. Raises as
    `make_client`.
    """
    key = (os.getpid(), options, *_environment())
    with _sharing:
        if key not in _shared:
            while len(_shared) >= _MOST_SHARED:
                _shared.pop(next(iter(_shared)))
            _shared[key] = make_client(options)
        return _shared[key]


def _environment() -> Iterator[object]:
    """Yield what a client is made from besides its options: variables, and which version of which files."""
    for name in sorted(os.environ):
        if name.startswith("AWS_") or name.upper().endswith("_PROXY"):
            yield name, os.environ[name]
    for name, default in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        path = Path(os.environ.get(name) or f"~/.aws/{default}").expanduser()
        with suppress(OSError):
            status = path.stat()
            yield str(path), status.st_mtime_ns, status.st_size


def make_client(options: S3Options) -> S3Client:
    """Return a client of its own session. Raises botocore's errors; `ConfigError` for the endpoint."""
    session = _session(options)
    client = _client(session, options)
    if _wants_path_style(client):
        client = _client(session, options, s3={"addressing_style": "path"})
    return client


def _session(options: S3Options) -> Session:
    from boto3.session import Session
    from botocore.session import Session as Core

    core = Core()
    # Nobody here reads the times in answers, and to parse one takes a tenth of what a request does.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    return Session(
        botocore_session=core,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        aws_session_token=options.session_token,
        region_name=options.region,
        profile_name=options.profile,
    )


def access(options: S3Options, what: str) -> str:
    """Return where the credentials come from. Raises `RemoteDeniedError` when there are none."""
    from botocore.exceptions import BotoCoreError

    if options.anonymous:
        return "anonymous"
    if options.access_key_id:
        return "given in the settings"
    try:
        found = _session(options).get_credentials()
    except BotoCoreError as error:
        raise RemoteDeniedError(
            f"The credentials for {what} can't be used ({type(error).__name__}): renew or correct them."
        ) from None
    if found is None:
        raise RemoteDeniedError(
            f"There are no credentials for {what}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, or add "
            "anonymous=true for a public bucket."
        )
    profile = f", profile {options.profile!r}" if options.profile else ""
    return f"by botocore's {found.method}{profile}"


def _client(session: Any, options: S3Options, **settings: Any) -> S3Client:
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    if options.anonymous:
        settings["signature_version"] = UNSIGNED
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        # Stores that are not Amazon's often refuse the checksums that newer versions of boto3 add unasked.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="mmmeta",
        parameter_validation=False,
        **settings,
    )
    try:
        client: S3Client = session.client("s3", endpoint_url=options.endpoint_url, config=config)
    except BotoCoreError:
        raise
    except ValueError:  # without its text, which repeats the endpoint
        raise ConfigError(
            "The S3 endpoint of the AWS environment is not a URL: write https://host."
        ) from None
    return client


def _wants_path_style(client: S3Client) -> bool:
    """Whether the endpoint, wherever it was configured, is not Amazon's, and no other style was asked for."""
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    chosen = (client.meta.config.s3 or {}).get("addressing_style", "auto")  # type: ignore[attr-defined]
    return not host.endswith(_AMAZON) and chosen == "auto"
