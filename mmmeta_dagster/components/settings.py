"""Parts of YAML that several components have: how a field is described and read, a bucket, a schedule, checks."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

import dagster as dg
from pydantic import BaseModel, Field

from mmmeta_core import ConfigError
from mmmeta_dagster.checks import freshness
from mmmeta_dagster.resource import S3Settings

Status: TypeAlias = Literal["running", "stopped"]


def about(description: str) -> dg.Resolver:
    """Return what gives a field of YAML its description; one that is only pydantic's is lost beside a default."""
    resolver: dg.Resolver = dg.Resolver.default(description=description)
    return resolver


def described(model: type[BaseModel], field: str) -> str:
    """Return the description that a field has in `model`."""
    return model.model_fields[field].description or ""


def _given(context: dg.ResolutionContext, value: Any) -> str:
    resolved = context.resolve_value(value)
    if not isinstance(resolved, str) or not resolved:
        raise ConfigError(f"{value} is empty: is the environment variable set that it comes from?")
    return resolved


def given(description: str) -> dg.Resolver:
    """Return what makes text be there in the end: {{ env.NAME }} is nothing when the variable is not set."""
    return dg.Resolver(_given, model_field_type=str, inject_before_resolve=False, description=description)


_ENV: Final = re.compile(r"\{\{ *env\.(\w+) *\}\}")


def _secret(context: dg.ResolutionContext, value: Any) -> Any:
    """Return a reference to the variable, not its value: what resources are configured with is shown to users."""
    found = _ENV.fullmatch(value) if isinstance(value, str) else None
    return dg.EnvVar(found[1]) if found else context.resolve_value(value)


def _kept(description: str) -> dg.Resolver:
    return dg.Resolver(
        _secret,
        model_field_type=str | None,
        inject_before_resolve=False,
        description=f"{description}: {{{{ env.NAME }}}}, which is read when it is needed and never shown.",
    )


class S3(S3Settings, dg.Resolvable):
    """How to reach a bucket. What is left out comes from the usual AWS environment."""

    endpoint_url: Annotated[str | None, about(described(S3Settings, "endpoint_url"))] = None
    region: Annotated[str | None, about(described(S3Settings, "region"))] = None
    profile: Annotated[str | None, about(described(S3Settings, "profile"))] = None
    anonymous: Annotated[bool, about(described(S3Settings, "anonymous"))] = False
    access_key_id: Annotated[str | None, _kept("Access key")] = None
    secret_access_key: Annotated[str | None, _kept("Secret of the access key")] = None
    session_token: Annotated[str | None, _kept("Token of temporary credentials")] = None


STATUS: Final = about("Whether it is on before anybody switches it in Dagster.")


class Schedule(dg.Resolvable, dg.Model):
    """When the job runs by the clock."""

    cron: Annotated[str, about("Cron expression, such as '0 * * * *': each hour.")]
    timezone: Annotated[str, about("Time zone of the expression, such as Europe/Berlin.")] = "UTC"
    default_status: Annotated[Status, STATUS] = "stopped"


class Checks(dg.Resolvable, dg.Model):
    """What is checked after each run."""

    required_columns: Annotated[
        list[str] | dict[str, float],
        about("Columns that have to be published, or these with the share of documents that have a value."),
    ] = Field(default=[])
    min_ratio: Annotated[
        float,
        Field(ge=0, le=1),
        about("Share of the documents of the run before that have to be there still."),
    ] = 0.5
    documents: Annotated[
        int, Field(ge=0), about("Documents, picked at random, that have to be in the archive.")
    ] = 100


class Freshness(dg.Resolvable, dg.Model):
    """How long the publisher may be silent."""

    hours: Annotated[float, Field(gt=0), about("Hours without a new revision after which it fails.")]
    warn_hours: Annotated[
        float | None,
        Field(gt=0),
        about("Hours without a new revision after which it warns; fewer than hours."),
    ] = None

    def policy(self) -> dg.FreshnessPolicy:
        """Return it as Dagster has it."""
        return freshness(self.hours, warn_hours=self.warn_hours)
