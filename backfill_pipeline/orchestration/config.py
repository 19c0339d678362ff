"""Run configuration as the Launchpad shows it: typed, described, checked.

Belongs here: Dagster's view of `definition.models.RunConfig`.
Does not: defaults (`stages/config.py`).
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from backfill_pipeline.definition.models import RunConfig
from backfill_pipeline.orchestration.launchpad import LaunchpadConfig
from backfill_pipeline.stages.config import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_CHECKPOINT_INTERVAL,
    DEFAULT_MAX_RETRIES,
    DEFAULT_PARALLEL_WORKERS,
    DEFAULT_RETRY_DELAY_MS,
    ONLINE_BATCH_SIZE,
    ONLINE_CHECKPOINT_INTERVAL,
    ONLINE_PARALLEL_WORKERS,
)


class BackfillRunConfig(LaunchpadConfig):
    """The strategy's batch configuration (§3.1). Empty: what the source file says, else the product's default."""

    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=f"Entries per transaction. By default {DEFAULT_BATCH_SIZE:,}; online {ONLINE_BATCH_SIZE:,}.",
    )
    checkpoint_interval: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=f"Check balances and report progress every so many batches. By default"
        f" {DEFAULT_CHECKPOINT_INTERVAL}; online {ONLINE_CHECKPOINT_INTERVAL:,}.",
    )
    max_retries: int | None = Field(
        default=None,
        ge=0,
        le=20,
        description=f"Further tries of a batch after a transient error. By default {DEFAULT_MAX_RETRIES}.",
    )
    retry_delay: int | None = Field(
        default=None,
        ge=0,
        le=60_000,
        description="Milliseconds before the first retry; doubles each time, with jitter. By default"
        f" {DEFAULT_RETRY_DELAY_MS:,}.",
    )
    parallel_workers: int | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Partitions posted at the same time. By default"
        f" {DEFAULT_PARALLEL_WORKERS}; online {ONLINE_PARALLEL_WORKERS}.",
    )
    skip_duplicates: bool | None = Field(
        default=None,
        description="True, the default: repeated entries are counted as duplicates. False: they are rejected.",
    )
    validate_balances: bool | None = Field(
        default=None, description="Check balances every checkpoint_interval batches. By default true."
    )
    online: bool | None = Field(
        default=None,
        description="Live postings go on meanwhile: small batches, one worker. By default what the source file says,"
        " else false.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_retries == 0 and self.retry_delay is not None:
            raise ValueError("retry_delay is given, but max_retries is 0: remove one of them")
        return self

    def to_core(self) -> RunConfig:
        """The same as the core's model."""
        return RunConfig(**self.model_dump(include=set(RunConfig.model_fields)))


class SyncRunConfig(BackfillRunConfig):
    """The same for days of a bank, and when a day that is complete is fetched again."""

    refetch: Literal["changed", "always"] = Field(
        default="changed",
        description="changed: a day that is complete is left alone while the bank still states the same control totals."
        " always: it is fetched and compared again.",
    )


class ManifestConfig(LaunchpadConfig):
    """How a source is registered."""

    accept_changed: bool = Field(
        default=False,
        description="Register a changed source as a new revision although the current one is unfinished.",
    )
    files: list[str] = Field(
        default_factory=list,
        description="Only these of the source's several files, by name. Empty: all that match.",
    )


class PlanConfig(LaunchpadConfig):
    """How a source is planned."""

    accept_changed: bool = Field(
        default=False,
        description="As of the manifest: plan a changed source although its current revision is unfinished.",
    )
