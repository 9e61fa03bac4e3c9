"""A metadir as a Dagster resource."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from mmmeta_core import Metadir
from mmmeta_core.remotes import Remote, S3Options, open_remote


class S3Settings(dg.Config):
    """How to reach a bucket. What is left out comes from the usual AWS environment."""

    endpoint_url: str | None = Field(
        default=None, description="Of a store that is not Amazon's: https://host."
    )
    region: str | None = Field(default=None, description="Region of the bucket.")
    profile: str | None = Field(default=None, description="Profile in the AWS configuration.")
    anonymous: bool = Field(
        default=False, description="Send requests without a signature, to a public bucket."
    )
    access_key_id: str | None = Field(default=None, description="Access key; give an EnvVar.")
    secret_access_key: str | None = Field(
        default=None, description="Secret of the access key; give an EnvVar."
    )
    session_token: str | None = Field(
        default=None, description="Token of temporary credentials; give an EnvVar."
    )

    @classmethod
    def from_resource(cls, resource: Any) -> S3Settings:
        """Return the settings of an `S3Resource` of dagster-aws; what is an EnvVar there stays one."""
        return cls(
            endpoint_url=resource.endpoint_url,
            region=resource.region_name,
            profile=resource.profile_name,
            anonymous=resource.use_unsigned_session,
            access_key_id=resource.aws_access_key_id,
            secret_access_key=resource.aws_secret_access_key,
            session_token=resource.aws_session_token,
        )

    def options(self) -> S3Options:
        """Return what the core takes. Raises `ConfigError` for settings that contradict each other."""
        return S3Options(
            endpoint_url=self.endpoint_url or None,
            region=self.region or None,
            profile=self.profile or None,
            anonymous=self.anonymous,
            access_key_id=self.access_key_id or None,
            secret_access_key=self.secret_access_key or None,
            session_token=self.session_token or None,
        )


class MetadirResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # its parameter is internal to Dagster
    """One metadir: the catalog of an archive's documents on this machine, and a client's state. No I/O before `open`.

    resources={"client": MetadirResource(path="./client", remote=EnvVar("ARCHIVE"))}
    """

    path: str = Field(description="Folder that holds the metadir _mmmeta; made when needed.")
    files_root: str | None = Field(
        default=None, description="Publishers: folder of the metadata files. Left out, nothing is generated."
    )
    remote: str | None = Field(
        default=None, description="The archive: a folder, s3://bucket/prefix or https://host/path."
    )
    state_db: str | None = Field(
        default=None,
        description="Where the client's state is: an SQLite file, or postgresql+psycopg://user@host/database?schema=name, "
        "which workers on several machines share. Left out, _mmmeta/state.db below the path.",
    )
    s3: S3Settings = Field(default=S3Settings(), description="How to reach the remote's bucket.")
    _pulled_by: str | None = PrivateAttr(default=None)

    def open(self) -> Metadir:
        """Return the metadir; use it in a `with` block, which closes its databases."""
        return Metadir(
            self.path, files_root=self.files_root or None, remote=self._remote(), state_db=self.state_db
        )

    def note_pulled(self, run_id: str) -> None:
        """Remember that this run has pulled in this process, all steps of which have the same resource."""
        self._pulled_by = run_id

    def has_pulled(self, run_id: str) -> bool:
        """Whether this run has pulled in this process."""
        return self._pulled_by == run_id

    def _remote(self) -> Remote | None:
        return open_remote(self.remote, s3=self.s3.options()) if self.remote else None


def find_resource(resources: Any, key: str) -> MetadirResource:
    """Return the metadir with this key among a run's or a tick's resources."""
    found = getattr(resources, key)
    if not isinstance(found, MetadirResource):
        raise dg.DagsterInvalidDefinitionError(
            f"resource {key!r} is a {type(found).__name__}, not a MetadirResource"
        )
    return found
