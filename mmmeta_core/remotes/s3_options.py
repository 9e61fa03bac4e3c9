"""How to reach a bucket, from a URL and from settings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from mmmeta_core.errors import ConfigError

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_SHAPE: Final = "s3://bucket/prefix?endpoint=…&region=…&profile=…&anonymous=true"
_SECRETS: Final = (
    "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role"
)


@dataclass(frozen=True, slots=True)
class S3Options:
    """What goes before the AWS environment (variables, profile, role), which fills the rest."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ConfigError("S3 takes access_key_id and secret_access_key together: give both or neither.")
        if self.session_token and not self.access_key_id:
            raise ConfigError("S3 takes a session_token only with an access_key_id and a secret_access_key.")
        if self.anonymous and (self.access_key_id or self.profile):
            raise ConfigError(
                "anonymous S3 access uses no credentials: leave out either it or the credentials."
            )
        if self.endpoint_url is not None:
            _check_endpoint(self.endpoint_url)


def parse_s3_url(url: str, options: S3Options) -> tuple[str, str, S3Options]:
    """Return bucket, prefix (no slash around it) and `options` with what the URL's query sets.

    The prefix is taken as written, as other S3 tools do: nothing in it is percent-decoded. Messages never
    repeat the URL, which may hold what should not be in it.
    """
    location, _, query = url.removeprefix("s3://").partition("?")
    bucket, _, prefix = location.partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError(f"An S3 URL takes no user, password or port ({_SHAPE}): {_SECRETS}.")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"The S3 URL does not name a valid bucket: write {_SHAPE}.")
    prefix = prefix.strip("/")
    if prefix and {"", ".", ".."} & set(prefix.split("/")):
        raise ConfigError(
            f"The prefix in s3://{bucket}/… has a part that is empty, '.' or '..': write {_SHAPE}."
        )
    return bucket, prefix, _with_query(query, options)


def _with_query(query: str, options: S3Options) -> S3Options:
    for key, value in parse_qsl(query, keep_blank_values=True):
        if not value:
            raise ConfigError(f"A setting in the S3 URL has no value: write {_SHAPE}.")
        match key:
            case "endpoint":
                options = replace(options, endpoint_url=value)
            case "region":
                options = replace(options, region=value)
            case "profile":
                options = replace(options, profile=value)
            case "anonymous":
                options = replace(options, anonymous=_boolean(value))
            case _:
                raise ConfigError(f"The S3 URL has an unknown setting: write {_SHAPE}; {_SECRETS}.")
    return options


def _boolean(value: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
    except KeyError:
        raise ConfigError("anonymous in an S3 URL is true or false.") from None


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in endpoint or parts.query or parts.fragment:
        raise ConfigError(f"An S3 endpoint is written https://host or http://host:port; {_SECRETS}.")
