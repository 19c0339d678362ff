"""Names of the assets.

Belongs here: asset keys, names of the jobs and ops of banks, and the tags that launch a range.
Does not: anything else.
"""

from typing import Final

import dagster as dg

CONSTRAINTS_KEY = dg.AssetKey("balance_constraints")
AUDIT_KEY: Final = dg.AssetKey("audit")
CORRECTIONS_KEY: Final = dg.AssetKey("corrections")
SEALS_KEY: Final = dg.AssetKey("seals")

# Tags of a run over a range of partitions, or over one, as Dagster's documentation and UI write them.
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"

# What a day of a bank goes through, in this order.
DAY_ASSETS: Final = (
    "manifest",
    "extracted",
    "transformed",
    "validated",
    "posted",
    "acknowledged",
    "reconciliation",
)
# Runs of one bank, of which one at a time is started (dagster.yaml).
BANK_TAG: Final = "backfill/bank"


def sync_status_key(source_id: str) -> dg.AssetKey:
    """Key of the asset that says how far a bank is; it names the bank, for those of all banks are in one group."""
    return dg.AssetKey(f"sync_status_{source_id}")


def sync_job_name(source_id: str) -> str:
    """The job that takes days of a bank through everything."""
    return f"sync_{source_id}"


def days_op_name(source_id: str) -> str:
    """The op of a bank's assets, by which run config reaches it."""
    return f"{source_id}_days"


def asset_key(source_id: str, name: str) -> dg.AssetKey:
    """Key of a source's asset: plan, manifest, extracted, transformed, validated, posted or reconciliation; of a bank
    also acknowledged.
    """
    return dg.AssetKey([source_id, name])
