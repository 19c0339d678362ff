"""Names of the assets.

Belongs here: asset keys, and the tags that launch a range.
Does not: anything else.
"""

import dagster as dg

CONSTRAINTS_KEY = dg.AssetKey("balance_constraints")

# Tags of a run over a range of partitions, or over one, as Dagster's documentation and UI write them.
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"


def asset_key(source_id: str, name: str) -> dg.AssetKey:
    """Key of a source's asset: plan, manifest, extracted, transformed, validated, posted or reconciliation."""
    return dg.AssetKey([source_id, name])
