"""Run configuration as the Launchpad shows it: typed, described, checked.

Belongs here: Dagster's view of `definition.models.RunConfig`.
Does not: defaults (`stages/config.py`).
"""

from typing import Literal

import dagster as dg
from pydantic import Field

from backfill_pipeline.definition.models import RunConfig


class BackfillRunConfig(dg.Config):
    """The strategy's batch configuration (§3.1). Empty: what the source file says, else the product's default."""

    batch_size: int | None = Field(default=None, ge=1, le=1_000_000, description="Entries per transaction.")
    checkpoint_interval: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Check balances and report progress every so many batches.",
    )
    max_retries: int | None = Field(
        default=None, ge=0, le=20, description="Further tries of a batch after a transient error."
    )
    retry_delay: int | None = Field(
        default=None,
        ge=0,
        le=60_000,
        description="Milliseconds before the first retry; doubles each time, with jitter.",
    )
    parallel_workers: int | None = Field(
        default=None, ge=1, le=16, description="Partitions posted at the same time."
    )
    skip_duplicates: bool | None = Field(
        default=None,
        description="True: repeated entries are counted as duplicates. False: they are rejected.",
    )
    validate_balances: bool | None = Field(
        default=None, description="Check balances every checkpoint_interval batches."
    )
    online: bool | None = Field(
        default=None, description="Live postings go on meanwhile: small batches, one worker."
    )

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


class ManifestConfig(dg.Config):
    """How a source is registered."""

    accept_changed: bool = Field(
        default=False,
        description="Register a changed source as a new revision although the current one is unfinished.",
    )
    files: list[str] = Field(
        default_factory=list,
        description="Only these of the source's several files, by name. Empty: all that match.",
    )


class PlanConfig(dg.Config):
    """How a source is planned."""

    accept_changed: bool = Field(
        default=False,
        description="As of the manifest: plan a changed source although its current revision is unfinished.",
    )
