"""Run configuration: the strategy's §3.1 with the product's defaults.

Belongs here: defaults and why they are so, and how Launchpad, source file and defaults combine.
Does not: the ranges that are allowed (`definition/models.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from backfill_pipeline.definition.models import RunConfig

# Measured (docs/decisions/batch-size.md): 0.68 of the rate of a plain COPY, against 0.62 with half the size. Accounts
# are locked at the end of a batch only, so live postings to them wait for tenths of a second.
DEFAULT_BATCH_SIZE = 100_000
# Measured (docs/decisions/batch-size.md): one live posting in a hundred waits three to six times as long as on an idle
# ledger; with 1,000 up to ten times. An account is locked from the trigger of a batch to its commit.
ONLINE_BATCH_SIZE = 500
DEFAULT_CHECKPOINT_INTERVAL = 10
# The same million entries between two checks of the balances: a check reads every account, however small the batch.
ONLINE_CHECKPOINT_INTERVAL = DEFAULT_CHECKPOINT_INTERVAL * DEFAULT_BATCH_SIZE // ONLINE_BATCH_SIZE
DEFAULT_MAX_RETRIES = 3
DEFAULT_RETRY_DELAY_MS = 1_000
# While one batch is in its trigger, the next one is copied: 0.88 of the rate of a plain COPY, against 0.7 with one.
# More than two would wait for each other's accounts.
DEFAULT_PARALLEL_WORKERS = 2
# A second batch under way would keep as many accounts again from live postings.
ONLINE_PARALLEL_WORKERS = 1
# Big enough to keep the events of a run few, small enough for about 250 MiB of frames in flight.
DEFAULT_PARTITION_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class BackfillConfig:
    """The strategy's BackfillConfig (§3.1), complete. The defaults here are those of a source that is not online.

    Attributes:
        batch_size: entries per transaction.
        checkpoint_interval: batches between two checks of the balances and two progress messages. The checkpoint itself
            is written with every batch, in its transaction.
        max_retries: further tries of a batch after a transient error.
        retry_delay_ms: wait before the first retry; it doubles each time, with jitter.
        parallel_workers: partitions that are posted at the same time, each over its own connection.
        skip_duplicates: True counts repeated entries as duplicates, False as rejects.
        validate_balances: whether balances are checked every `checkpoint_interval` batches.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    checkpoint_interval: int = DEFAULT_CHECKPOINT_INTERVAL
    max_retries: int = DEFAULT_MAX_RETRIES
    retry_delay_ms: int = DEFAULT_RETRY_DELAY_MS
    parallel_workers: int = DEFAULT_PARALLEL_WORKERS
    skip_duplicates: bool = True
    validate_balances: bool = True


_ONLINE = BackfillConfig(
    batch_size=ONLINE_BATCH_SIZE,
    checkpoint_interval=ONLINE_CHECKPOINT_INTERVAL,
    parallel_workers=ONLINE_PARALLEL_WORKERS,
)


def effective_config(source: RunConfig, run: RunConfig | None = None) -> BackfillConfig:
    """Combines defaults, what the source file sets, and what a run sets; the latter wins.

    `online` only chooses the defaults (batch size, checkpoint interval, workers): what is set explicitly stays.
    """

    def pick(name: str, default: int) -> int:
        for config in (run, source):
            if config is not None and (value := getattr(config, name)) is not None:
                return int(value)
        return default

    default = _ONLINE if pick("online", False) else BackfillConfig()
    return BackfillConfig(
        batch_size=pick("batch_size", default.batch_size),
        checkpoint_interval=pick("checkpoint_interval", default.checkpoint_interval),
        max_retries=pick("max_retries", default.max_retries),
        retry_delay_ms=pick("retry_delay", default.retry_delay_ms),
        parallel_workers=pick("parallel_workers", default.parallel_workers),
        skip_duplicates=bool(pick("skip_duplicates", default.skip_duplicates)),
        validate_balances=bool(pick("validate_balances", default.validate_balances)),
    )
